"""Putting an engine together: defaults for what was not given, errors for what contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms.llm import LLM
from llama_index.core.vector_stores import MetadataFilters
from pydantic import ValidationError

from reges_index.catalog import CatalogRetriever, ItemCatalog, LiveCatalog
from reges_index.catalog.encoder import identity_name
from reges_index.catalog.encoder_names import DEFAULT_ENCODER
from reges_index.engines.plan import chosen_retriever, reads_query
from reges_index.errors import ConfigError, EncoderMismatchError, meant
from reges_index.fusion.model import FusionModel
from reges_index.fusion.retriever import FusionRetriever
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.models.backend import AUTO, wrap_llm
from reges_index.models.named import open_llm
from reges_index.settings import GIVEN, NONE, SHIPPED, PipelineSettings

if TYPE_CHECKING:
    from reges_index.item_expert.rerank import ReGeSRerank
    from reges_index.models.local_lm import LocalLM
    from reges_index.query_expert.transform import ReGeSQueryTransform

_PROMPTS = "the experts' prompts are read by get_prompts() and set by update_prompts() of the query engine"
_ANSWER = "the answer is worded by response_synthesizer=ReGeSSynthesizer(...)"
_INSTEAD = {
    **dict.fromkeys(
        ("system_prompt", "context_prompt", "context_refine_prompt", "condense_prompt", "prefix_messages"),
        _PROMPTS,
    ),
    **dict.fromkeys(
        ("response_mode", "text_qa_template", "refine_template", "summary_template", "output_cls"), _ANSWER
    ),
    "skip_condense": "the query expert writes the query: query_transform=ReGeSQueryTransform(...)",
    "node_postprocessors": "rerank=ReGeSRerank(...) is the postprocessor here, and filters= restricts "
    "what is retrieved; for more of them use ReGeSRetriever and ReGeSRerank in a RetrieverQueryEngine",
    "manifest": "name the adapter that the server runs by its folder: item_adapter=... or query_adapter=...",
    **dict.fromkeys(
        ("title_key", "field_names"), "give it to the item expert: rerank=ReGeSRerank(llm, title_key=...)"
    ),
    "memory": "a query engine has none: use ReGeSChatEngine",
    "chat_history": "a query engine has none: use ReGeSChatEngine, or give the whole dialogue to query",
    "streaming": "an answer is short and comes at once; word by word it comes from stream_chat() of "
    "ReGeSChatEngine.from_defaults(query_engine=engine)",
    "fusion": 'the fusion is a retriever: retriever="fusion", "vectors", or a FusionModel of yours',
}
"""Options that a user may come with, of LlamaIndex's own engines for example, and what there is instead."""

# Said to all parts at once, so they may be there without the item expert or the query.
_OF_ALL_PARTS = {"on_error", "verbose", "domain"}


# -- what was given ----------------------------------------------------------------------------------------


def check_source(
    catalog: ItemCatalog | LiveCatalog | BaseRetriever | None, retriever: Any
) -> tuple[ItemCatalog | LiveCatalog | None, BaseRetriever | FusionModel | str]:
    """Return catalog and retriever, of which the latter may have come as the first argument.

    Raises
    ------
    ConfigError
        If there is neither, if two retrievers are given, or something that is neither.
    """
    if isinstance(catalog, BaseRetriever):
        if retriever not in (None, "auto"):
            raise ConfigError(
                "two retrievers are given", hint="give one, as the first argument or as retriever="
            )
        catalog, retriever = None, catalog
    retriever = "auto" if retriever is None else retriever
    for given, known, name in (
        (catalog, (ItemCatalog, LiveCatalog, type(None)), "a catalog"),
        (retriever, (BaseRetriever, FusionModel, str), "a retriever"),
    ):
        if not isinstance(given, known):
            raise ConfigError(
                f"a {type(given).__name__} is not {name}",
                hint="give an ItemCatalog, a LiveCatalog, or a retriever such as index.as_retriever()",
            )
    if catalog is None and not isinstance(retriever, BaseRetriever):
        raise ConfigError(
            "an engine needs a catalog or a retriever",
            hint="give an ItemCatalog, or a retriever such as index.as_retriever()",
        )
    return catalog, retriever


def settings_with(
    settings: PipelineSettings | None, options: Mapping[str, Any], **models: LLM | LocalLM | str | None
) -> PipelineSettings:
    """Return settings with options, and with the models that are given by name; objects are "given".

    Raises
    ------
    ConfigError
        If there is no such option; it says what there is in place of LlamaIndex's own.
    """
    base = settings if settings is not None else PipelineSettings()
    unknown = [name for name in options if name not in (*base.options(), *base.SECTIONS)]
    if unknown:
        named = list(dict.fromkeys(_INSTEAD[name] for name in unknown if name in _INSTEAD))
        raise ConfigError(
            f"there is no option {', '.join(unknown)}",
            hint="; ".join(named) or meant(unknown, base.options()),
        )
    base = base.with_options(**{name: getattr(value, "template", value) for name, value in options.items()})
    for field, model in models.items():
        if isinstance(model, str):
            base = base.override(**{field: model})
        elif model is not None:
            base = base.override(**{field: GIVEN, f"{field}_options": {}})
    return base


def retriever_of(
    base: PipelineSettings,
    catalog: ItemCatalog | LiveCatalog | None,
    retriever: BaseRetriever | FusionModel | str,
) -> BaseRetriever:
    """Return the retriever: the one that is given, or the one over the catalog that settings name."""
    if isinstance(retriever, BaseRetriever):
        if base.retrieval.filters is not None:
            raise ConfigError(
                "filters are given beside a retriever, which has its own",
                hint="set them on the retriever, or pass the catalog instead of it",
            )
        return retriever
    assert catalog is not None  # check_source has seen to that
    filters, top_k = _filters(base), base.retrieval.similarity_top_k
    if not isinstance(retriever, FusionModel):
        fits = base.retrieval.retriever == "auto" and FusionModel.default_for(catalog) is not None
        name = chosen_retriever(base, fits=fits)
        if name == "vectors":
            return catalog.as_retriever(top_k, filters)
        retriever = _fusion(name)
    return FusionRetriever(catalog, retriever, top_k, filters)


def _fusion(name: str) -> FusionModel:
    if name == GIVEN:
        raise ConfigError(
            "this pipeline's retriever is an object that has no name", hint="pass it: retriever=..."
        )
    if name == "fusion":
        return FusionModel.default()
    if not Path(name).expanduser().is_dir():
        raise ConfigError(
            f"retriever={name!r} is unknown",
            hint="use fusion, vectors, the folder of a fusion model, or pass a LlamaIndex retriever",
        )
    return FusionModel.load(Path(name).expanduser())


def _filters(settings: PipelineSettings) -> MetadataFilters | None:
    if settings.retrieval.filters is None:
        return None
    try:
        return MetadataFilters.model_validate(settings.retrieval.filters)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"filters: {place}: {first['msg']}",
            hint="as LlamaIndex's MetadataFilters, such as "
            "{filters: [{key: year, operator: '>=', value: 1990}]}",
        ) from error


# -- what contradicts --------------------------------------------------------------------------------------


def check_encoder(settings: PipelineSettings, catalog: ItemCatalog | LiveCatalog) -> None:
    """Refuse a catalog that was made with another encoder than the settings name."""
    wanted = identity_name(settings.encoder)
    # A catalog by the default's base, from before or from elsewhere, goes on working.
    by_base = settings.encoder == "embedded" and catalog.encoder.name == DEFAULT_ENCODER
    if settings.encoder != GIVEN and catalog.encoder.name != wanted and not by_base:
        raise EncoderMismatchError(
            f"pipeline {settings.name!r} searches with {wanted!r}; catalog {catalog.name!r} was made with "
            f"{catalog.encoder.name!r}",
            hint=f"index the items with this encoder (reges index --encoder {settings.encoder}), or override "
            "the pipeline's: encoder=...",
        )


def check_given(options: Mapping[str, Any], base: PipelineSettings, **parts: object) -> None:
    """Refuse options of a part that is given, which has its own."""
    sections = {"query_transform": "query", "rerank": "rerank", "response_synthesizer": "answer"}
    places = base.options()
    for name, part in parts.items():
        section = sections[name]
        of_part = [
            option
            for option in options
            if option == section or (option in places and places[option][0] == section and option != "top_n")
        ]
        if options.get("on_error") == "raise":  # what is so anyway
            of_part = [option for option in of_part if option != "on_error"]
        if part is not None and of_part:
            raise ConfigError(
                f"{', '.join(of_part)} cannot be set on the {name} that was given",
                hint=f"give them to {type(part).__name__}",
            )


def check_parts(
    base: PipelineSettings, retriever: BaseRetriever, *, unwritten: str | None, ranks: bool, own_query: bool
) -> None:
    """Refuse settings of a part that is not there, and of two that contradict each other.

    Parameters
    ----------
    unwritten
        Why no query is written; None where one is.
    """
    if base.write_query == "never" and (own_query or base.query_llm is not None):
        raise ConfigError(
            "write_query='never', and there is an LLM or a part to write it",
            hint="leave out query_llm and query_transform, or write_query",
        )
    may_be_shown = reads_query(retriever) or isinstance(retriever, FusionRetriever)
    if base.write_query == "always" and not may_be_shown:
        raise ConfigError(
            f"write_query='always', and {type(retriever).__name__} does not read what is written",
            hint="leave write_query out; a ReGeSRetriever writes a query of its own",
        )
    stray = [name for name in base.query.changed if name not in _OF_ALL_PARTS]
    stray += ["query_adapter"] if base.query_adapter not in (SHIPPED, NONE) else []
    if unwritten is not None and stray:
        raise ConfigError(
            f"{', '.join(stray)} of the query expert is set, and no query is written: {unwritten}",
            hint="use write_query='always' to see one, or retriever='vectors', which reads it; or leave it "
            "out",
        )
    stray = [name for name in base.rerank.changed if name not in _OF_ALL_PARTS]
    stray += ["item_adapter"] if base.item_adapter not in (SHIPPED, NONE) else []
    stray += ["rerank_top_k"] if base.retrieval.rerank_top_k is not None else []
    if not ranks and stray:
        raise ConfigError(
            f"{', '.join(stray)} of the item expert is set, and there is none",
            hint="give it an LLM: llm=..., for example llm='embedded'; or leave it out",
        )
    if base.rerank.prior is True and isinstance(retriever, CatalogRetriever):
        raise ConfigError(
            "prior=True needs a retriever whose scores are probabilities, and those of vectors are not",
            hint="use retriever='fusion', or leave prior out",
        )


# -- the experts -------------------------------------------------------------------------------------------


def models_of(
    base: PipelineSettings,
    llm: LLM | LocalLM | str | None,
    query_llm: LLM | LocalLM | str | None,
    *,
    for_item: bool,
    for_query: bool,
) -> tuple[LLM | LocalLM | None, LLM | LocalLM | None]:
    """Return the models of the item expert and the query expert, with the adapters that settings name.

    Parameters
    ----------
    for_item, for_query
        Whether the item expert and the query expert are to be made; parts that are given have their models.
    """
    from reges_index.item_expert.rerank import role_of
    from reges_index.query_expert.transform import ROLE as QUERY_ROLE

    item_adapter = {role_of(base.rerank.mode): base.item_adapter} if for_item else {}
    query_adapter = {QUERY_ROLE: base.query_adapter} if for_query else {}
    apart = base.query_llm is not None
    item_model = query_model = None
    if base.llm is not None:
        wanted = item_adapter if apart else {**item_adapter, **query_adapter}
        item_model = query_model = _model("llm", base.llm, base.llm_options, llm, wanted)
    if for_query and (apart or item_model is None):
        name, options = base.query_llm or "embedded", base.query_llm_options
        query_model = _model("query_llm", name, options, query_llm, query_adapter)
    return item_model, query_model


def _model(
    field: str, name: str, options: Any, given: LLM | LocalLM | str | None, adapters: Mapping[str, str]
) -> LLM | LocalLM:
    """Return a model that holds the adapters named by folder, each under its role."""
    folders = {role: place for role, place in adapters.items() if place not in (NONE, SHIPPED)}
    if given is None or isinstance(given, str):
        if name == GIVEN:
            raise ConfigError(
                f"this pipeline's {field} is an object that has no name",
                hint=f"pass it: {field}=... of from_defaults or load_pipeline",
            )
        if name == "embedded" and (folders or options):
            from reges_index.models.local_lm import LocalLM

            # A copy of its own, so that the one that all share keeps its adapters.
            chosen: dict[str, Any] = {key: str(value) for key, value in options.items()}
            given = LocalLM.from_pretrained("embedded", **chosen)
            shipped = LocalLM.shipped_adapters()
            folders |= {role: str(shipped[role]) for role in shipped if adapters.get(role) == SHIPPED}
        else:
            given = open_llm(name, options)
    local: Any = wrap_llm(given)
    for role, place in folders.items() if local is not None else ():
        loaded = local.adapter_paths.get(role)
        if loaded is None or loaded.resolve() != Path(place).expanduser().resolve():
            local.load_adapter(role, place, role=role)
    return given


def query_expert(base: PipelineSettings, model: LLM | LocalLM | None) -> ReGeSQueryTransform:
    """Return the query expert that settings describe."""
    from reges_index.query_expert.transform import ReGeSQueryTransform

    settings = base.query.override(domain=base.query.domain or base.domain)
    return ReGeSQueryTransform(model, **_adapter(model, base.query_adapter), settings=settings)


def item_expert(
    base: PipelineSettings, model: LLM | LocalLM | None, options: Mapping[str, Any]
) -> ReGeSRerank:
    """Return the item expert that settings describe."""
    from reges_index.item_expert.rerank import ReGeSRerank

    return ReGeSRerank(
        model,
        top_n=base.answer.top_n or base.retrieval.rerank_top_k or base.retrieval.similarity_top_k,
        **_adapter(model, base.item_adapter),
        domain=base.domain,
        settings=base.rerank,
        **_given_prompts(options, "select_prompt", "rank_prompt"),
    )


def synthesizer(
    base: PipelineSettings, model: LLM | LocalLM | None, options: Mapping[str, Any]
) -> ReGeSSynthesizer:
    """Return what words the answer as settings describe."""
    words = base.answer.model_dump(exclude={"top_n"}, exclude_none=True)
    return ReGeSSynthesizer(model, **{**words, **_given_prompts(options, "sentence_prompt")})


def _adapter(model: LLM | LocalLM | None, place: str) -> dict[str, Any]:
    """Return the adapter of an expert; the folder of one that a server runs says how it was trained."""
    served = place not in (NONE, SHIPPED) and model is not None and wrap_llm(model) is None
    return {"manifest": place} if served else {"adapter": None if place == NONE else AUTO}


def _given_prompts(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return prompts as they were given: a template may have more to it than its text."""
    return {name: options[name] for name in names if options.get(name) is not None}

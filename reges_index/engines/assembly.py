"""Putting an engine together: defaults for what was not given, errors for what contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.llm import LLM
from llama_index.core.vector_stores import MetadataFilters
from pydantic import ValidationError

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.catalog.encoder import DEFAULT_ENCODER, identity_name
from reges_index.engines.plan import chosen_retriever, writes_query
from reges_index.engines.retrieval import CatalogSource, RetrieverSource, reads_query
from reges_index.errors import ConfigError, EncoderMismatchError
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.models.backend import AUTO, wrap_llm
from reges_index.models.named import open_llm
from reges_index.settings import GIVEN, NONE, SHIPPED, PipelineSettings

if TYPE_CHECKING:
    from reges_index.engines.query_engine import ReGeSQueryEngine
    from reges_index.fusion.model import FusionModel
    from reges_index.item_expert.rerank import ReGeSRerank
    from reges_index.models.local_lm import LocalLM
    from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["assembled", "check_source"]

Engine = TypeVar("Engine", bound="ReGeSQueryEngine")

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
    "memory": "a query engine has none: use ReGeSChatEngine",
    "chat_history": "a query engine has none: use ReGeSChatEngine, or give the whole dialogue to query",
    "fusion": 'the fusion is a retriever: retriever="fusion", "vectors", or a FusionModel of yours',
}
"""Options that a user may come with, of LlamaIndex's own engines for example, and what there is instead."""

# Said to all parts at once, so they may be there without the item expert or the query.
_OF_ALL_PARTS = {"on_error", "verbose", "domain", "keep_retrieval_score"}


def assembled(
    kind: type[Engine],
    catalog: ItemCatalog | LiveCatalog | BaseRetriever | None,
    *,
    retriever: BaseRetriever | FusionModel | str,
    llm: LLM | LocalLM | str | None,
    query_llm: LLM | LocalLM | str | None,
    query_transform: ReGeSQueryTransform | None,
    rerank: ReGeSRerank | None,
    response_synthesizer: ReGeSSynthesizer | None,
    settings: PipelineSettings | None,
    callback_manager: CallbackManager | None,
    options: Mapping[str, Any],
) -> Engine:
    """Return an engine; arguments and errors are those of `ReGeSQueryEngine.from_defaults`."""
    catalog, retriever = check_source(catalog, retriever)
    base = settings if settings is not None else PipelineSettings()
    if catalog is not None and settings is not None and base.encoder != GIVEN:
        _check_encoder(base, catalog)
    base = _with_options(base, options)
    base, llm = _named(base, "llm", llm)
    base, query_llm = _named(base, "query_llm", query_llm)
    parts = [part for part in (rerank, query_transform) if part is not None]
    if parts and settings is None and "domain" not in options:
        base = base.override(domain=parts[0].domain)  # the parts that are made speak of items as those given
    if isinstance(retriever, str) and retriever != "auto":
        base = base.with_options(retriever=retriever)
    source = _source(base, catalog, retriever)
    _check_given(options, base, query_transform, rerank, response_synthesizer)

    own_query = query_transform is not None or query_llm is not None
    reads = reads_query(source)
    writes = writes_query(base, reads=reads, own=own_query)
    ranks = rerank is not None or base.llm is not None
    _check_parts(
        base, source, writes=writes.who is not None, why=writes.why, ranks=ranks, own_query=own_query
    )

    transform_needed = writes.who is not None and query_transform is None
    item_model, query_model = _models(
        base, llm, query_llm, item=base.llm is not None, query=transform_needed, takes_item=rerank is None
    )
    if transform_needed:
        query_transform = _transform(base, query_model)
    if rerank is None and ranks:
        rerank = _rerank(base, item_model, options)
    if response_synthesizer is None:
        words = base.answer.model_dump(exclude={"top_n"}, exclude_none=True)
        response_synthesizer = ReGeSSynthesizer(
            item_model, **{**words, **_given_prompt(options, "sentence_prompt")}
        )
    engine = kind(
        source,
        query_transform,
        rerank,
        response_synthesizer,
        similarity_top_k=base.retrieval.similarity_top_k,
        rerank_top_k=base.retrieval.rerank_top_k,
        top_n=base.answer.top_n,
        exclude_mentioned=base.retrieval.exclude_mentioned,
        domain=base.domain if "domain" in options or settings is not None else None,
        callback_manager=callback_manager,
    )
    engine._made_by = base
    return engine


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
    from reges_index.fusion.model import FusionModel

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


def _with_options(base: PipelineSettings, options: Mapping[str, Any]) -> PipelineSettings:
    unknown = [name for name in options if name not in (*base.options(), *base.SECTIONS)]
    if unknown:
        named = list(dict.fromkeys(_INSTEAD[name] for name in unknown if name in _INSTEAD))
        raise ConfigError(
            f"there is no option {', '.join(unknown)}",
            hint="; ".join(named) or f"options: {', '.join(base.options())}",
        )
    plain = {name: getattr(value, "template", value) for name, value in options.items()}
    return base.with_options(**plain)


def _named(
    base: PipelineSettings, field: str, model: LLM | LocalLM | str | None
) -> tuple[PipelineSettings, LLM | LocalLM | None]:
    """Return the settings with a model's name, and the model where it is an object."""
    if model is None or isinstance(model, str):
        return (base if model is None else base.override(**{field: model})), None
    return base.override(**{field: GIVEN, f"{field}_options": {}}), model


def _check_encoder(settings: PipelineSettings, catalog: ItemCatalog | LiveCatalog) -> None:
    wanted = identity_name(settings.encoder)
    # A catalog by the default's base, from before or from elsewhere, goes on working.
    by_base = settings.encoder == "embedded" and catalog.encoder.name == DEFAULT_ENCODER
    if catalog.encoder.name != wanted and not by_base:
        raise EncoderMismatchError(
            f"pipeline {settings.name!r} searches with {wanted!r}; catalog {catalog.name!r} was made with "
            f"{catalog.encoder.name!r}",
            hint=f"index the items with this encoder (reges index --encoder {settings.encoder}), or override "
            "the pipeline's: encoder=...",
        )


def _source(
    base: PipelineSettings,
    catalog: ItemCatalog | LiveCatalog | None,
    retriever: BaseRetriever | FusionModel | str,
) -> RetrieverSource:
    if isinstance(retriever, BaseRetriever):
        if base.retrieval.filters is not None:
            raise ConfigError(
                "filters are given beside a retriever, which has its own",
                hint="set them on the retriever, or pass the catalog instead of it",
            )
        return retriever
    assert catalog is not None  # check_source has seen to that
    from reges_index.fusion.model import FusionModel

    if isinstance(retriever, FusionModel):
        return CatalogSource(catalog, _filters(base), retriever)
    fits = base.retrieval.retriever == "auto" and FusionModel.default_for(catalog) is not None
    name = chosen_retriever(base, fits=fits)
    return CatalogSource(catalog, _filters(base), _fusion(name), name=name)


def _fusion(name: str) -> FusionModel | None:
    from reges_index.fusion.model import FusionModel

    if name == GIVEN:
        raise ConfigError(
            "this pipeline's retriever is an object that has no name", hint="pass it: retriever=..."
        )
    if name in ("vectors", "fusion"):
        return None if name == "vectors" else FusionModel.default()
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


def _check_given(
    options: Mapping[str, Any],
    base: PipelineSettings,
    query_transform: object,
    rerank: object,
    synthesizer: object,
) -> None:
    """Refuse options of a part that is given, which has its own."""
    places = base.options()
    for part, section, argument, kind in (
        (query_transform, "query", "query_transform", "ReGeSQueryTransform"),
        (rerank, "rerank", "rerank", "ReGeSRerank"),
        (synthesizer, "answer", "response_synthesizer", "ReGeSSynthesizer"),
    ):
        if part is None:
            continue
        set_here = [
            name
            for name in options
            if name == section or (name in places and places[name][0] == section and name != "top_n")
        ]
        if section == "rerank" and options.get("on_error") == "raise":
            set_here.remove("on_error")
        if set_here:
            raise ConfigError(
                f"{', '.join(set_here)} cannot be set on the {argument} that was given",
                hint=f"give them to {kind}",
            )


def _check_parts(
    base: PipelineSettings, source: RetrieverSource, *, writes: bool, why: str, ranks: bool, own_query: bool
) -> None:
    """Refuse settings of a part that is not there, and of two that contradict each other."""
    if base.write_query == "never" and (own_query or base.query_llm is not None):
        raise ConfigError(
            "write_query='never', and there is an LLM or a part to write it",
            hint="leave out query_llm and query_transform, or write_query",
        )
    if base.write_query == "always" and isinstance(source, BaseRetriever) and not reads_query(source):
        from reges_index.fusion.retriever import FusionRetriever

        if not isinstance(source, FusionRetriever):
            raise ConfigError(
                f"write_query='always', and {type(source).__name__} does not read what is written",
                hint="leave write_query out; a ReGeSRetriever writes a query of its own",
            )
    stray = [name for name in base.query.changed if name not in _OF_ALL_PARTS]
    stray += ["query_adapter"] if base.query_adapter not in (SHIPPED, NONE) else []
    if not writes and stray:
        raise ConfigError(
            f"{', '.join(stray)} of the query expert is set, and no query is written: {why}",
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
    if base.rerank.prior is True and isinstance(source, CatalogSource) and source.fusion is None:
        raise ConfigError(
            "prior=True needs a retriever whose scores are probabilities, and those of vectors are not",
            hint="use retriever='fusion', or leave prior out",
        )


# -- the experts -------------------------------------------------------------------------------------------


def _models(
    base: PipelineSettings,
    llm: LLM | LocalLM | None,
    query_llm: LLM | LocalLM | None,
    *,
    item: bool,
    query: bool,
    takes_item: bool,
) -> tuple[LLM | LocalLM | None, LLM | LocalLM | None]:
    """Return the models of the item expert and the query expert, with the adapters that settings name."""
    from reges_index.item_expert.rerank import role_of
    from reges_index.query_expert.transform import ROLE as QUERY_ROLE

    item_role = role_of(base.rerank.mode)
    for_item = {item_role: base.item_adapter} if takes_item else {}
    for_query = {QUERY_ROLE: base.query_adapter} if query else {}
    apart = base.query_llm is not None
    item_model = query_model = None
    if item and base.llm is not None:
        wanted = for_item if apart else {**for_item, **for_query}
        item_model = query_model = _model("llm", base.llm, base.llm_options, llm, wanted)
    if query and (apart or item_model is None):
        name, options = base.query_llm or "embedded", base.query_llm_options
        query_model = _model("query_llm", name, options, query_llm, for_query)
    return item_model, query_model


def _model(
    field: str, name: str, options: Any, given: LLM | LocalLM | None, adapters: dict[str, str]
) -> LLM | LocalLM:
    """Return a model that holds the adapters named by folder, each under its role."""
    folders = {role: place for role, place in adapters.items() if place not in (NONE, SHIPPED)}
    if given is None:
        if name == GIVEN:
            raise ConfigError(
                f"this pipeline's {field} is an object that has no name",
                hint=f"pass it: {field}=... of build_engine or load_pipeline",
            )
        if name == "embedded" and (folders or options):
            # A copy of its own, so that the one that all share keeps its adapters.
            given = _apart(options, folders, adapters)
        else:
            given = open_llm(name, options)
    local: Any = wrap_llm(given)
    if folders and local is None:
        raise ConfigError(
            f"{field} {name!r} is behind an API, which loads no adapter folder of ours",
            hint="serve the adapter there and name it as the model; then leave the adapter out",
        )
    for role, place in folders.items():
        loaded = local.adapter_paths.get(role)
        if loaded is None or loaded.resolve() != Path(place).expanduser().resolve():
            local.load_adapter(role, place, role=role)
    return given


def _apart(options: Any, folders: dict[str, str], adapters: dict[str, str]) -> LocalLM:
    from reges_index.models.local_lm import LocalLM

    chosen: dict[str, Any] = {key: str(value) for key, value in options.items()}
    lm = LocalLM.from_pretrained("embedded", **chosen)
    shipped = LocalLM.shipped_adapters()
    for role, place in adapters.items():
        if place == SHIPPED and role in shipped:
            folders[role] = str(shipped[role])
    return lm


def _given_prompt(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a prompt as it was given: a template may have more to it than its text."""
    return {name: options[name]} if options.get(name) is not None else {}


def _transform(base: PipelineSettings, model: LLM | LocalLM | None) -> ReGeSQueryTransform:
    from reges_index.query_expert.transform import ReGeSQueryTransform

    settings = base.query.override(domain=base.query.domain or base.domain)
    adapter = None if base.query_adapter == NONE else AUTO
    return ReGeSQueryTransform(model, adapter=adapter, settings=settings)


def _rerank(base: PipelineSettings, model: LLM | LocalLM | None, options: Mapping[str, Any]) -> ReGeSRerank:
    from reges_index.item_expert.rerank import ReGeSRerank

    top_n = base.answer.top_n or base.retrieval.rerank_top_k or base.retrieval.similarity_top_k
    prompts = {**_given_prompt(options, "select_prompt"), **_given_prompt(options, "rank_prompt")}
    return ReGeSRerank(
        model,
        top_n=top_n,
        adapter=None if base.item_adapter == NONE else AUTO,
        domain=base.domain,
        settings=base.rerank,
        **prompts,
    )

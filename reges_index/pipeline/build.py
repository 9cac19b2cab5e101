"""From settings to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.vector_stores import MetadataFilters
from pydantic import ValidationError

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.catalog.encoder import identity_name
from reges_index.dialogue.wording import Domain
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.errors import ConfigError, EncoderMismatchError
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.reasoning import ReasoningDecoding
from reges_index.item_expert.rerank import REASONING_ROLE, ReGeSRerank
from reges_index.item_expert.rerank import ROLE as ITEM_ROLE
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.models.backend import AUTO as AUTO_ADAPTER
from reges_index.models.llm import wrap_llm
from reges_index.models.local_lm import LocalLM
from reges_index.pipeline.fusing import fusion_of
from reges_index.pipeline.llm import open_llm
from reges_index.pipeline.settings import GIVEN, NONE, SHIPPED, PipelineSettings
from reges_index.query_expert.transform import ROLE as QUERY_ROLE
from reges_index.query_expert.transform import QueryDecoding, ReGeSQueryTransform

__all__ = ["build_engine"]


def build_engine(
    settings: PipelineSettings,
    catalog: ItemCatalog | LiveCatalog | None = None,
    *,
    retriever: BaseRetriever | None = None,
    llm: LLM | LocalLM | None = None,
    query_llm: LLM | LocalLM | None = None,
    fusion: FusionModel | None = None,
    callback_manager: CallbackManager | None = None,
) -> ReGeSQueryEngine:
    """Build the engine that settings describe.

    Parameters
    ----------
    settings
        From a preset, a file, or made by hand.
    catalog, retriever
        Exactly one of them. The catalog must be made with the settings' encoder.
    llm, query_llm, fusion
        Objects in place of what the settings name; needed where they say "given". A model that is passed
        here is the query expert's too, unless the settings or `query_llm` name another.
    callback_manager
        As everywhere in LlamaIndex.

    Returns
    -------
    ReGeSQueryEngine
        Its models are loaded; a second engine over the embedded model shares it.

    Raises
    ------
    ConfigError
        If an object is "given" and was not passed, a key is missing from the environment, or settings
        contradict each other.
    EncoderMismatchError
        If the catalog was made with another encoder than the settings name.
    ModelNotFoundError
        If a model is nowhere to be found; with ``HF_HUB_OFFLINE`` set, nobody is asked for it.
    AdapterError
        If an adapter is missing, damaged, or belongs to another base, role or prompt.
    """
    if catalog is not None and settings.encoder != GIVEN:
        _check_encoder(settings, catalog)
    filters = _filters(settings)
    fused = fusion_of(settings, catalog, fusion)
    item_role = REASONING_ROLE if settings.mode == "reason" else ITEM_ROLE
    wanted = {QUERY_ROLE: settings.query_adapter, item_role: settings.item_adapter}
    apart = query_llm is not None or settings.query_llm is not None
    item_model = _model(
        "llm", settings.llm, settings.llm_options, llm,
        {item_role: settings.item_adapter} if apart else wanted,
    )  # fmt: skip
    query_model = item_model
    if apart:
        query_model = _model(
            "query_llm", settings.query_llm or GIVEN, settings.query_llm_options, query_llm,
            {QUERY_ROLE: settings.query_adapter},
        )  # fmt: skip
    domain = Domain(settings.item_noun, settings.item_plural)
    query_domain = Domain(
        settings.query_item_noun or domain.noun, settings.query_item_plural or domain.plural
    )
    return ReGeSQueryEngine.from_defaults(
        catalog,
        retriever=retriever,
        fusion=fused,
        filters=filters,
        query_transform=ReGeSQueryTransform(
            query_model,
            adapter=None if settings.query_adapter == NONE else AUTO_ADAPTER,
            query_prompt=settings.query_prompt,
            domain=query_domain,
            max_history_tokens=settings.query_history_tokens,
            decoding=QueryDecoding(**settings.decoding.model_dump()) if settings.decoding else None,
            on_error=settings.query_on_error,
            verbose=settings.verbose if settings.query_verbose is None else settings.query_verbose,
        ),
        rerank=ReGeSRerank(
            item_model,
            adapter=None if settings.item_adapter == NONE else AUTO_ADAPTER,
            select_prompt=settings.select_prompt,
            domain=domain,
            top_n=settings.top_n or settings.rerank_top_k or settings.similarity_top_k,
            mode=settings.mode,
            max_input_tokens=settings.max_input_tokens,
            max_history_tokens=settings.max_history_tokens,
            max_candidate_tokens=settings.max_candidate_tokens,
            length_penalty=settings.length_penalty,
            reasoning=ReasoningDecoding(**settings.reasoning.model_dump()) if settings.reasoning else None,
            keep_retrieval_score=settings.keep_retrieval_score,
            on_error=settings.on_error,
            seed=settings.seed,
            verbose=settings.verbose,
        ),
        response_synthesizer=_synthesizer(settings, item_model),
        similarity_top_k=settings.similarity_top_k,
        rerank_top_k=settings.rerank_top_k,
        exclude_mentioned=settings.exclude_mentioned,
        hide_ruled_out=settings.hide_ruled_out,
        callback_manager=callback_manager,
    )


def _check_encoder(settings: PipelineSettings, catalog: ItemCatalog | LiveCatalog) -> None:
    wanted = identity_name(settings.encoder)
    if catalog.encoder.name != wanted:
        raise EncoderMismatchError(
            f"pipeline {settings.name!r} searches with {wanted!r}; catalog {catalog.name!r} was made with "
            f"{catalog.encoder.name!r}",
            hint=f"index the items with this encoder (reges index --encoder {settings.encoder}), or override "
            "the pipeline's: encoder=...",
        )


def _filters(settings: PipelineSettings) -> MetadataFilters | None:
    if settings.filters is None:
        return None
    try:
        return MetadataFilters.model_validate(settings.filters)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"filters: {place}: {first['msg']}", hint="as LlamaIndex's MetadataFilters, such as "
            "{filters: [{key: year, operator: '>=', value: 1990}]}",
        ) from error  # fmt: skip


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
        if name == "embedded" and not folders and not options:
            return LocalLM.default()
        given = open_llm(name, options)
        if name == "embedded" and isinstance(given, LocalLM):
            shipped = LocalLM.shipped_adapters()
            folders |= {
                r: str(shipped[r]) for r, place in adapters.items() if place == SHIPPED and r in shipped
            }
    local = given if isinstance(given, LocalLM) else wrap_llm(given)
    if folders and local is None:
        raise ConfigError(
            f"{field} {name!r} is behind an API, which loads no adapter folder of ours",
            hint="serve the adapter there and name it as the model; then use query_adapter: none, "
            "item_adapter: none",
        )
    for role, place in folders.items():
        assert local is not None
        loaded = local.adapter_paths.get(role)
        if loaded is None or loaded.resolve() != Path(place).expanduser().resolve():
            local.load_adapter(role, place, role=role)
    return given


def _synthesizer(settings: PipelineSettings, model: LLM | LocalLM) -> ReGeSSynthesizer:
    options: dict[str, Any] = {
        "style": settings.style,
        "streaming": settings.streaming,
        "on_error": settings.sentence_on_error,
    }
    if settings.sentence_prompt is not None:
        options["sentence_prompt"] = PromptTemplate(settings.sentence_prompt)
    if settings.empty_response is not None:
        options["empty_response"] = settings.empty_response
    return ReGeSSynthesizer(model, **options)

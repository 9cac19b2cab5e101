"""From an engine back to settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from llama_index.core.prompts import BasePromptTemplate, PromptTemplate

from reges_index.catalog.encoder import encoder_spec, identity_name
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.retrieval import CatalogSource
from reges_index.errors import ConfigError
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.models.backend import Backend, LocalBackend
from reges_index.models.embedded import EMBEDDED_BASE
from reges_index.models.local_lm import LocalLM
from reges_index.pipeline.fusing import LOADED_FROM
from reges_index.pipeline.llm import model_of, spec_of
from reges_index.pipeline.settings import GIVEN, NONE, SHIPPED, PipelineSettings
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["describe_engine"]


def describe_engine(engine: ReGeSQueryEngine, *, name: str = "custom") -> PipelineSettings:
    """Return the settings that build this engine again, as it is now: changed prompts and options included.

    What has no name (an LLM or embedding of another library, one with options that a name does not say) is
    "given", for `build_engine` to be passed again.

    Parameters
    ----------
    name
        What to call the pipeline.

    Raises
    ------
    ConfigError
        If a part is a function of your own, which plain values cannot say: a final choice, or a prompt with
        an output parser or with variables of its own. Also if an LLM of its own writes the sentences.
    """
    transform, rerank, words = engine.query_transform, engine.rerank, engine.response_synthesizer
    source = engine.retrieve_with
    fusion = source.fusion if isinstance(source, CatalogSource) else None
    choice = fusion.choose if fusion is not None else None
    alone = fusion.rank_alone if fusion is not None and fusion.decides_alone else None
    if (engine.choice, engine.rank_alone) != (choice, alone):
        raise ConfigError("the engine's final choice is a function, which a file cannot hold")
    if words.backend is not None and model_of(words.backend) is not model_of(rerank.backend):
        raise ConfigError(
            "the sentence is written by another LLM than the item expert's, which a file cannot say",
            hint="give ReGeSSynthesizer the item expert's LLM",
        )
    filters = source.filters if isinstance(source, CatalogSource) else None
    return PipelineSettings.parse(
        {
            "name": name,
            "encoder": _encoder(engine),
            **_models(transform.backend, rerank.backend),
            "query_adapter": _adapter(transform.backend),
            "item_adapter": _adapter(rerank.backend),
            "similarity_top_k": engine.similarity_top_k,
            "rerank_top_k": engine.rerank_top_k,
            "top_n": rerank.top_n,
            "fusion": _fusion(fusion),
            "filters": filters.model_dump(mode="json") if filters is not None else None,
            "exclude_mentioned": engine.exclude_mentioned,
            "hide_ruled_out": source.hide_ruled_out if isinstance(source, CatalogSource) else False,
            "mode": rerank.mode,
            "reasoning": asdict(rerank.reasoning) if rerank.reasoning is not None else None,
            "max_input_tokens": rerank.budget.total,
            "max_history_tokens": rerank.budget.history,
            "max_candidate_tokens": rerank.budget.details,
            "length_penalty": rerank.asking["length_penalty"],
            "on_error": rerank.on_error,
            "keep_retrieval_score": rerank.keep_retrieval_score,
            "seed": rerank.asking["seed"],
            "query_on_error": transform.on_error,
            "query_history_tokens": transform.history_limit,
            "decoding": asdict(transform.decoding),
            "query_prompt": _text(transform.get_prompts()["query_prompt"], "query_prompt"),
            "select_prompt": _text(rerank.get_prompts()["select_prompt"], "select_prompt"),
            "sentence_prompt": _text(words.get_prompts()["sentence_prompt"], "sentence_prompt"),
            "style": words.style,
            "streaming": words.streaming,
            "empty_response": words.empty_response,
            "sentence_on_error": words.on_error,
            **_wording(transform, rerank),
            "verbose": rerank.verbose,
            "query_verbose": transform.verbose if transform.verbose != rerank.verbose else None,
        },
        where="the engine",
    )


def _wording(transform: ReGeSQueryTransform, rerank: ReGeSRerank) -> dict[str, str]:
    item, query = rerank.domain, transform.domain
    fields = {"item_noun": item.noun, "item_plural": item.plural}
    if query != item:
        fields |= {"query_item_noun": query.noun, "query_item_plural": query.plural}
    return fields


def _encoder(engine: ReGeSQueryEngine) -> str:
    if engine.catalog is None:
        return GIVEN
    recorded = engine.catalog.encoder.name
    if recorded == identity_name(None):
        return "embedded"  # known without loading it
    named = encoder_spec(engine.catalog.embed_model)
    # A name that would be another encoder is no name: an embedding that only calls itself so.
    return named if named is not None and identity_name(named) == recorded else GIVEN


def _models(query: Backend, item: Backend) -> dict[str, Any]:
    name, options = spec_of(item) or (GIVEN, {})
    fields: dict[str, Any] = {"llm": name, "llm_options": options}
    if model_of(query) is not model_of(item):
        name, options = spec_of(query) or (GIVEN, {})
        fields |= {"query_llm": name, "query_llm_options": options}
    return fields


def _adapter(backend: Backend) -> str:
    if not isinstance(backend, LocalBackend) or backend.adapter is None:
        return NONE
    folder = backend.lm.adapter_paths[backend.adapter].expanduser().resolve()
    shipped = {place.resolve() for place in LocalLM.shipped_adapters().values()}
    return SHIPPED if backend.lm.name == EMBEDDED_BASE and folder in shipped else str(folder)


def _fusion(model: FusionModel | None) -> str:
    if model is None:
        return NONE
    if folder := model.manifest.get(LOADED_FROM):
        return str(folder)
    shipped = FusionModel.default()
    same = model.manifest == shipped.manifest and model.choice == shipped.choice
    return SHIPPED if same else GIVEN


def _text(prompt: BasePromptTemplate, name: str) -> str:
    assert isinstance(prompt, PromptTemplate)  # the components take no other
    own = (prompt.kwargs, prompt.function_mappings, prompt.template_var_mappings, prompt.output_parser)
    if any(own):
        raise ConfigError(
            f"{name} has variables, functions or an output parser of its own, which a file cannot hold",
            hint="write its text out whole",
        )
    return str(prompt.template)

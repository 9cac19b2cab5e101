"""The one rule for what runs in an engine, and an engine's settings as they are now.

* A retriever is chosen: the fusion where the catalog's encoder fits it, else vectors, unless one is asked
  for.
* A query is written if the retriever reads it, or if the user asks for one: by ``write_query="always"``, or
  with an LLM or a part for it. A part that nothing reads does not run.
* An LLM for the item expert always ranks. Without one the retriever's order is the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever

from reges_index.fusion.retriever import FusionRetriever
from reges_index.settings import GIVEN, PipelineSettings

if TYPE_CHECKING:
    from reges_index.engines.query_engine import ReGeSQueryEngine


@dataclass(frozen=True)
class Part:
    """Who does a thing, None for nobody, and why."""

    who: str | None
    why: str


@dataclass(frozen=True)
class Plan:
    """Who does what in an engine; printed, a line for each."""

    query: Part
    retriever: Part
    rerank: Part
    answer: Part

    def __str__(self) -> str:
        rows = (
            ("writes the query", self.query),
            ("retrieves", self.retriever),
            ("ranks", self.rerank),
            ("words the answer", self.answer),
        )
        return "\n".join(f"{what}: {part.who or 'nobody'} ({part.why})" for what, part in rows)


def chosen_retriever(settings: PipelineSettings, *, fits: bool) -> str:
    """Return the retriever's name, with "auto" decided.

    Parameters
    ----------
    fits
        Whether the shipped fusion was trained with the catalog's encoder.
    """
    asked = settings.retrieval.retriever
    return asked if asked != "auto" else "fusion" if fits else "vectors"


def reads_query(retriever: BaseRetriever) -> bool:
    """Say whether a written query decides on what a retriever gives; others say so by ``reads_query``."""
    return bool(getattr(retriever, "reads_query", True))


def writes_query(settings: PipelineSettings, *, reads: bool, own: bool = False) -> Part:
    """Say who writes the query.

    Parameters
    ----------
    reads
        Whether the retriever reads it.
    own
        Whether the user has passed a part or an LLM for it.
    """
    if settings.write_query == "never":
        return Part(None, "write_query is never")
    writer = settings.query_llm or settings.llm or "embedded"
    if settings.write_query == "always":
        return Part(writer, "write_query is always")
    if reads:
        return Part(writer, "the retriever reads it")
    if own or settings.query_llm is not None:
        return Part(writer, "an LLM is given for it; the retriever reads none")
    return Part(None, "the retriever reads none")


def what_runs(settings: PipelineSettings, *, fits: bool = True, reads_query: bool | None = None) -> Plan:
    """Return what runs with these settings.

    Parameters
    ----------
    fits
        As in `chosen_retriever`.
    reads_query
        Whether the retriever reads a written query, where it is an object that knows; else it is known by
        name.
    """
    retriever = chosen_retriever(settings, fits=fits)
    if retriever == "vectors":
        why = "asked for" if fits or settings.retrieval.retriever != "auto" else "no fusion for this encoder"
    else:
        why = "it fits the catalog's encoder" if settings.retrieval.retriever == "auto" else "asked for"
    reads = retriever in ("vectors", GIVEN) if reads_query is None else reads_query
    if settings.llm is None:
        rerank = Part(None, "no LLM is given: the retriever's order is the ranking")
    else:
        rerank = Part(f"{settings.llm}, mode {settings.rerank.mode}", "an LLM that is given always ranks")
    if settings.answer.style == "sentence":
        answer = Part(settings.llm or "embedded", "style is sentence")
    else:
        answer = Part("the catalog", "style is title")
    return Plan(writes_query(settings, reads=reads), Part(retriever, why), rerank, answer)


def plan_of(engine: ReGeSQueryEngine, made_by: PipelineSettings) -> Plan:
    """Return what runs in an engine; what settings call "given" has the name of its model or class here.

    Parameters
    ----------
    made_by
        What the engine was made from: whether its retriever was asked for.
    """
    settings, source = engine.settings, engine.retriever
    asked = settings.with_options(retriever=made_by.retrieval.retriever)
    fits = settings.retrieval.retriever == "fusion"
    plan = what_runs(asked, fits=fits, reads_query=reads_query(source))
    models = {
        "query": engine.query_transform and engine.query_transform.backend.name,
        "rerank": engine.rerank and engine.rerank.backend.name,
        "answer": engine.response_synthesizer.backend and engine.response_synthesizer.backend.name,
        "retriever": type(source).__name__,
    }
    changes = {}
    for part, name in models.items():
        own: Part = getattr(plan, part)
        if name and (own.who or "").startswith(GIVEN):
            changes[part] = Part(f"{name}{(own.who or '').removeprefix(GIVEN)}", own.why)
    return replace(plan, **changes)


def settings_of(engine: ReGeSQueryEngine, made_by: PipelineSettings) -> PipelineSettings:
    """Return the settings that build an engine again, as it is now: changed prompts and options included.

    What has no name (an LLM or embedding of another library, one with options that a name does not say) is
    "given", for whoever builds it again to pass.

    Parameters
    ----------
    made_by
        What the engine was made from, for what its parts do not say.
    """
    from reges_index.models.named import adapter_place, model_of, spec_of

    transform, rerank, words = engine.query_transform, engine.rerank, engine.response_synthesizer
    source, domain = engine.retriever, engine.domain
    fields: dict[str, Any] = {"name": made_by.name, "encoder": _encoder(engine), "domain": domain}
    if rerank is not None:
        fields["llm"], fields["llm_options"] = spec_of(rerank.backend) or (GIVEN, {})
        fields["item_adapter"] = adapter_place(rerank.backend)
        fields["rerank"] = rerank.settings
    if transform is not None:
        shared = rerank is not None and model_of(transform.backend) is model_of(rerank.backend)
        name, options = spec_of(transform.backend) or (GIVEN, {})
        if not shared and (rerank is not None or (name, options) != ("embedded", {})):
            fields["query_llm"], fields["query_llm_options"] = name, options
        fields["query_adapter"] = adapter_place(transform.backend)
        own = transform.settings
        fields["query"] = own.override(domain=None if own.domain == domain else own.domain)
    top_k = getattr(source, "similarity_top_k", made_by.retrieval.similarity_top_k)
    retriever, fuses = made_by.retrieval.retriever, isinstance(source, FusionRetriever)
    fields["retrieval"] = {
        "retriever": ("fusion" if fuses else "vectors") if retriever == "auto" else retriever,
        "similarity_top_k": top_k,
        "rerank_top_k": engine.rerank_top_k,
        "filters": engine.filters,
        "exclude_mentioned": engine.exclude_mentioned,
    }
    seen = engine.rerank_top_k or top_k
    shown = engine.nodes_shown
    fields["answer"] = words.settings.override(top_n=None if shown == seen else shown)
    settings = PipelineSettings(**fields, write_query=made_by.write_query)
    runs = writes_query(settings, reads=reads_query(source)).who is not None
    if runs == (transform is not None):
        return settings
    return settings.override(write_query="never" if transform is None else "always")


def _encoder(engine: ReGeSQueryEngine) -> str:
    from reges_index.catalog.encoder import encoder_spec, identity_name

    if engine.catalog is None:
        return GIVEN
    recorded = engine.catalog.encoder.name
    if recorded == identity_name(None):
        return "embedded"  # known without loading it
    named = encoder_spec(engine.catalog.embed_model)
    # A name that would be another encoder is no name: an embedding that only calls itself so.
    return named if named is not None and identity_name(named) == recorded else GIVEN

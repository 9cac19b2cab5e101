"""The product's first table: shops of other kinds, by what stock retrievers, the experts and engines find."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llama_index.core import VectorStoreIndex

from reges_index.catalog import ItemCatalog, ReGeSEmbedding
from reges_index.catalog.encoder import resolve_encoder
from reges_index.engines.batch import predict_turns
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.errors import ConfigError
from reges_index.evaluation.domains import (
    MEAN,
    DomainSet,
    DomainTable,
    Rankings,
    encoder_rankings,
    rank_by_vectors,
    read_domains,
    read_topic_changes,
    score_domains,
    topic_shares,
)
from reges_index.evaluation.experiments.described import described
from reges_index.evaluation.experiments.systems import embed_texts, run_system, texts_of, writing
from reges_index.evaluation.predictions import read_predictions
from reges_index.evaluation.result import Result, Row, write_result
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import ClusterBootstrap
from reges_index.files import RunLog, hash_of
from reges_index.item_expert.prompt import selection_prompt_hash
from reges_index.models import LocalLM
from reges_index.models.named import open_llm
from reges_index.pipeline import adapter_hash, engine_inputs
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

logger = logging.getLogger(__name__)

_SHOWN = {
    "recall@1": "Recall@1",
    "suitable@1": "suitable@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "mrr": "MRR",
}
_TOPIC = ("fits the new wish", "fits the old wish")
EMBEDDED = "embedded default"
DROP_IN = "drop-in of the guide"
_DROP_IN_DEPTH = 20
ByDomain: TypeAlias = "dict[str, Rankings]"


@dataclass
class DomainLab:
    """What the table is made with.

    Attributes
    ----------
    name
        Of the table, which the files of its runs begin with.
    domains
        From `reges_index.evaluation.domains.read_domains`.
    settings
        Runs of LLMs are kept in ``out/runs``: one that was killed goes on where it was.
    llm
        An LLM of the user's own; None leaves its rows out.
    """

    name: str
    domains: Sequence[DomainSet]
    settings: EvaluationSettings
    llm: LLM | LocalLM | None = None

    @property
    def encoders(self) -> dict[str, str]:
        """Encoders of the stock retrievers, by name in the table."""
        more = {encoder: encoder for encoder in self.settings.more_encoders}
        return {"stock retriever": self.settings.encoder or "minilm", **more}

    def run_file(self, what: str, own: DomainSet) -> Path:
        """Return the file that keeps a run of one domain."""
        return Path(str(self.settings.out)) / "runs" / f"{self.name}-{what}-{own.name}.jsonl"

    def about(self) -> dict[str, Any]:
        """Describe data, encoders and model for the report."""
        files = {f"{own.name} {what}": file for own in self.domains for what, file in own.data.files.items()}
        return {
            "data": {
                "hash": hash_of([own.data.hash for own in self.domains]),
                "files": files,
                "turns": sum(len(own.data.turns) for own in self.domains),
            },
            "encoder": ", ".join(self.encoders),
            "model": self.settings.model or "embedded",
            "prompts": {"query expert": query_prompt_hash(), "item expert": selection_prompt_hash()},
            "settings": self.statistics(),
        }

    def statistics(self) -> dict[str, Any]:
        """Return what intervals and tests take."""
        return self.settings.model_dump(include={"resamples", "seed", "level"})


# -- rows --------------------------------------------------------------------------------------------


def _stock(lab: DomainLab) -> Iterator[tuple[str, ByDomain]]:
    for name, encoder in lab.encoders.items():
        for kind, rankings in encoder_rankings(lab.domains, encoder).items():
            yield f"{name}, {kind}", dict(rankings)


def _query_expert(lab: DomainLab) -> Iterator[tuple[str, ByDomain]]:
    """LLM_QR's query, searched with alone and beside the newest messages, as the adapter advises."""
    alone: ByDomain = {}
    beside: ByDomain = {}
    lm, model = LocalLM.default(), resolve_encoder("minilm")
    for own in lab.domains:
        transform = ReGeSQueryTransform(lm, domain=own.domain)
        adapter = lm.adapter_paths.get("query-expert")
        settings = {
            "data": own.data.hash, "noun": own.domain.noun, "model": lm.fingerprint,
            "adapter": adapter_hash(adapter) if adapter is not None else None,
        }  # fmt: skip
        written = run_system(
            writing(transform), own.data.turns, lab.run_file("queries", own), settings,
            batch_size=lab.settings.batch_size,
        )  # fmt: skip
        texts = texts_of(written)
        items = model.get_text_embedding_batch([item.text() for item in own.data.items])
        for by_domain, count in ((alone, 1), (beside, None)):
            vectors = embed_texts([said[:count] for said in texts.values()], model).tolist()
            by_domain[own.name] = rank_by_vectors(own, dict(zip(texts, vectors, strict=True)), items)
    yield "LLM_QR's query alone", alone
    yield "LLM_QR's query beside the last messages", beside


def _engines(lab: DomainLab, name: str, run: str, build: Callable[[DomainSet], ReGeSQueryEngine]) -> ByDomain:
    """Let an engine predict every turn of every domain, as `reges predict` does."""
    found: ByDomain = {}
    for own in lab.domains:
        engine, path = build(own), lab.run_file(run, own)
        with RunLog(path, {"data": own.data.hash, "engine": name}) as log:
            log.require_inputs(engine_inputs(engine))
            predict_turns(engine, own.data.turns, log, batch_size=lab.settings.batch_size)
        wanted = {turn.id for turn in own.data.turns}
        found[own.name] = {p.id: p.ranking for p in read_predictions(path) if p.id in wanted}
    return found


def _drop_in(lab: DomainLab) -> Iterator[tuple[str, ByDomain]]:
    """Do as the app of docs/guides/drop-in.md behind its diff: its own plain vectors, our query side."""

    def build(own: DomainSet, llm: LLM | LocalLM | None) -> ReGeSQueryEngine:
        nodes = [item.to_node() for item in own.data.items]
        index = VectorStoreIndex(nodes, embed_model=resolve_encoder("minilm"))
        retriever = index.as_retriever(
            similarity_top_k=_DROP_IN_DEPTH, embed_model=ReGeSEmbedding(items="frozen")
        )
        return ReGeSQueryEngine.from_defaults(retriever, llm=llm, write_query="never", domain=own.domain)

    alone = f"{DROP_IN}, no LLM"
    yield alone, _engines(lab, alone, "drop-in", lambda own: build(own, None))
    if lab.llm is not None:
        ranked = f"{DROP_IN}, {lab.settings.model}"
        yield ranked, _engines(lab, ranked, "drop-in-llm", lambda own: build(own, lab.llm))


def _default(lab: DomainLab, llm: LLM | LocalLM | None) -> Callable[[DomainSet], ReGeSQueryEngine]:
    def build(own: DomainSet) -> ReGeSQueryEngine:
        catalog = ItemCatalog.from_items(own.data.items, name=f"{lab.name}-{own.name}".replace("_", "-"))
        return ReGeSQueryEngine.from_defaults(catalog, llm=llm, domain=own.domain)

    return build


def _embedded(lab: DomainLab) -> Iterator[tuple[str, ByDomain]]:
    yield EMBEDDED, _engines(lab, EMBEDDED, "embedded", _default(lab, None))


def _own_llm(lab: DomainLab) -> Iterator[tuple[str, ByDomain]]:
    if lab.llm is not None:
        name = str(lab.settings.model)
        yield name, _engines(lab, name, "own-llm", _default(lab, lab.llm))


ROW_GROUPS: dict[str, Callable[[DomainLab], Iterator[tuple[str, ByDomain]]]] = {
    "stock": _stock,
    "query-expert": _query_expert,
    "drop-in": _drop_in,
    "embedded": _embedded,
    "own-llm": _own_llm,
}
"""Groups of rows, in the order in which they run."""


def _systems(lab: DomainLab) -> dict[str, ByDomain]:
    groups = lab.settings.rows
    unknown = [group for group in groups if group not in ROW_GROUPS]
    if unknown:
        raise ConfigError(f"unknown rows {unknown[0]!r}", hint=f"rows are {', '.join(ROW_GROUPS)}")
    systems: dict[str, ByDomain] = {}
    for group, make in ROW_GROUPS.items():
        if not groups or group in groups:
            logger.info("%s: %s", lab.name, group)
            systems |= make(lab)
    return systems


# -- tables ------------------------------------------------------------------------------------------


def domains_table(lab: DomainLab) -> Result:
    """Measure stock retrievers, the query expert, the drop-in and the engines on shops of many kinds."""
    table = score_domains(lab.domains, _systems(lab), **lab.statistics())
    names = [own.name for own in lab.domains]
    settings = {MEAN: f"mean of {len(names)} domains", **{name: name for name in names}}
    rows = [
        Row(system, shown, "new", _SHOWN[metric], e.value, table.turns[place], e.low, e.high)
        for place, shown in settings.items()
        for system, by_domain in table.values.items()
        for metric, e in by_domain[place].items()
    ]
    counted = "; ".join(f"{n}: {table.turns[n]} turns of {table.dialogues[n]} dialogues" for n in names)
    return described(
        "domains", rows, comparisons=_comparisons(lab, table, settings[MEAN]), left_out=_left_out(lab),
        counted=counted, depth=_DROP_IN_DEPTH,
    )  # fmt: skip


def topic_change(lab: DomainLab) -> Result:
    """Say how often the first item fits the last message's wish, where that is another than before."""
    turns = [turn for own in lab.domains for turn in own.data.turns]
    bootstrap = ClusterBootstrap(np.arange(len(turns)), **lab.statistics())
    rows = [
        Row(system, "", "", metric, e.value, len(turns), e.low, e.high)
        for system, rankings in _systems(lab).items()
        for metric, e in zip(_TOPIC, bootstrap.estimate(topic_shares(lab.domains, rankings)), strict=True)
    ]
    counts = ", ".join(f"{len(own.data.turns)} over {own.name}" for own in lab.domains)
    return described("topic_change", rows, left_out=_left_out(lab), turns=len(turns), counted=counts)


def _left_out(lab: DomainLab) -> dict[str, str]:
    return {} if lab.llm is not None else {"an LLM of your own": "no --model was given"}


def _comparisons(lab: DomainLab, table: DomainTable, setting: str) -> list[Any]:
    ours = [n for n in table.values if n in (EMBEDDED, lab.settings.model) or n.startswith(DROP_IN)]
    others = [name for name in table.values if name.startswith("stock retriever") and "oracle" not in name]
    pairs = [(first, second) for first in ours for second in others]
    metrics = {metric: _SHOWN[metric] for metric in ("recall@1", "recall@5")}
    return table.compare(pairs, metrics, setting, **lab.statistics())


def run_domains(name: str, settings: EvaluationSettings) -> dict[str, Any]:
    """Run ``--experiment domains`` or ``topic_change``, write its files and return what the JSON holds.

    Raises
    ------
    ConfigError
        If the folder of domains or of results is missing, or a group of rows is unknown.
    """
    for key in ("domains", "out") if name == "domains" else ("out",):
        if not getattr(settings, key):
            raise ConfigError(f"{key} is missing", hint=f"give --{key}")
    llm = open_llm(settings.model) if settings.model else None
    if name == "domains":
        lab = DomainLab(name, read_domains(str(settings.domains), limit=settings.limit), settings, llm)
        result = domains_table(lab)
    else:
        lab = DomainLab(name, read_topic_changes(), settings, llm)
        result = topic_change(lab)
    return write_result(result, str(settings.out), lab.about())

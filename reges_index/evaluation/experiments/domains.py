"""The product's first table: shops of other kinds, by what stock retrievers, the experts and engines find."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.query_engine import RetrieverQueryEngine

from reges_index.catalog import ItemCatalog
from reges_index.catalog.encoder import resolve_encoder
from reges_index.dialogue import DialogueQueryBundle, Turn
from reges_index.engines.batch import predict_turns
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.errors import ConfigError
from reges_index.evaluation.domains import (
    DOMAIN_METRICS,
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
from reges_index.evaluation.experiments.result import ComparisonRow, ExperimentResult, Row
from reges_index.evaluation.experiments.systems import embed_texts, run_system, written_queries
from reges_index.evaluation.predictions import Prediction, read_predictions
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import ClusterBootstrap
from reges_index.files import RunLog
from reges_index.item_expert import ReGeSRerank, ReGeSSynthesizer
from reges_index.item_expert.prompt import selection_prompt_hash
from reges_index.models.named import open_llm
from reges_index.pipeline import engine_inputs
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.retriever import ReGeSRetriever
from reges_index.query_expert.transform import ReGeSQueryTransform

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms.llm import LLM

    from reges_index.models import LocalLM

__all__ = ["ROW_GROUPS", "DomainLab", "build_domain_lab", "domains_table", "topic_change"]

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
DROP_IN = "drop-in of the guide, embedded LLM"
STOCK = "stock retriever, last message"
ByDomain: TypeAlias = "dict[str, Rankings]"


@dataclass
class DomainLab:
    """What the table is made with.

    Attributes
    ----------
    domains
        From `reges_index.evaluation.domains.read_domains`.
    folder
        Runs of LLMs are kept in ``folder/runs``: one that was killed goes on where it was.
    encoders
        Encoders of the stock retrievers, by name in the table.
    lm
        The embedded LLM with its adapters; None takes it when it is needed.
    llm, llm_name
        An LLM of the user's own and what the table calls it; None leaves its row out.
    batch_size, resamples, seed, level
        Turns at once; of intervals and tests.
    prefix
        What the files of its runs begin with.
    """

    domains: Sequence[DomainSet]
    folder: Path
    encoders: dict[str, BaseEmbedding | str | None] = field(
        default_factory=lambda: {"stock retriever": "minilm"}
    )
    lm: LocalLM | None = None
    llm: LLM | LocalLM | None = None
    llm_name: str = "LLM"
    batch_size: int = 8
    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95
    prefix: str = "domains"

    def run_file(self, what: str, own: DomainSet) -> Path:
        """Return the file that keeps a run of one domain."""
        return self.folder / "runs" / f"{self.prefix}-{what}-{own.name}.jsonl"

    def about(self) -> dict[str, Any]:
        """Describe data, encoders and model for the report."""
        digest = hashlib.sha256("".join(own.data.hash for own in self.domains).encode()).hexdigest()
        files = {f"{own.name} {what}": file for own in self.domains for what, file in own.data.files.items()}
        return {
            "data": {"hash": digest, "files": files, "turns": sum(len(d.data.turns) for d in self.domains)},
            "encoder": ", ".join(self.encoders),
            "model": repr(self.lm) if self.lm else "none",
            "adapters": ", ".join(self.lm.adapters) if self.lm else "",
            "prompts": {"query expert": query_prompt_hash(), "item expert": selection_prompt_hash()},
            "settings": {"resamples": self.resamples, "seed": self.seed, "level": self.level},
        }

    def embedded(self) -> LocalLM:
        """Return the embedded LLM, loaded when it is first needed."""
        if self.lm is None:
            from reges_index.models import LocalLM

            self.lm = LocalLM.default()
        return self.lm


def _stock(lab: DomainLab) -> dict[str, ByDomain]:
    found: dict[str, ByDomain] = {}
    for name, encoder in lab.encoders.items():
        for kind, rankings in encoder_rankings(lab.domains, encoder).items():
            found[f"{name}, {kind}"] = dict(rankings)
    return found


def _query_expert(lab: DomainLab) -> dict[str, ByDomain]:
    """LLM_QR's query, searched with alone and beside the newest messages, as the adapter advises."""
    alone: ByDomain = {}
    beside: ByDomain = {}
    model = resolve_encoder("minilm")
    for own in lab.domains:
        transform = ReGeSQueryTransform(lab.embedded(), domain=own.domain)
        settings = {"data": own.data.hash, "model": lab.embedded().fingerprint, "noun": own.domain.noun}
        adapter = transform.backend.adapter
        if adapter is not None:
            from reges_index.pipeline import adapter_hash

            settings["adapter"] = adapter_hash(lab.embedded().adapter_paths[adapter])
        texts = written_queries(
            own.data.turns, transform, lab.run_file("queries", own), settings, batch_size=lab.batch_size
        )
        items = model.get_text_embedding_batch([item.text() for item in own.data.items])
        for by_domain, chosen in (
            (alone, {turn: said[:1] for turn, said in texts.items()}),
            (beside, texts),
        ):
            vectors = dict(zip(chosen, embed_texts(list(chosen.values()), model).tolist(), strict=True))
            by_domain[own.name] = rank_by_vectors(own, vectors, items)
    return {"LLM_QR's query alone": alone, "LLM_QR's query beside the last messages": beside}


@dataclass(frozen=True)
class _DropIn:
    """The app of docs/guides/drop-in.md behind its diff: LlamaIndex's engine with this package's parts."""

    name: str
    engine: RetrieverQueryEngine

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        for turn in turns:
            nodes = self.engine.retrieve(DialogueQueryBundle.from_dialogue(turn))
            yield Prediction(id=turn.id, ranking=tuple(node.node.node_id for node in nodes))


def _drop_in(lab: DomainLab) -> dict[str, ByDomain]:
    found: ByDomain = {}
    llm = lab.embedded()
    for own in lab.domains:
        index = VectorStoreIndex(
            [item.to_node() for item in own.data.items], embed_model=resolve_encoder("minilm")
        )
        engine = RetrieverQueryEngine(
            ReGeSRetriever(index.as_retriever(similarity_top_k=6), ReGeSQueryTransform(llm)),
            response_synthesizer=ReGeSSynthesizer(),
            node_postprocessors=[ReGeSRerank(llm)],
        )
        settings = {"data": own.data.hash, "model": llm.fingerprint}
        made = run_system(
            _DropIn(DROP_IN, engine), own.data.turns, lab.run_file("drop-in", own), settings,
            batch_size=lab.batch_size,
        )  # fmt: skip
        found[own.name] = {p.id: p.ranking for p in made}
    return {DROP_IN: found}


def _engine(lab: DomainLab, name: str, run: str, **options: Any) -> dict[str, ByDomain]:
    found: ByDomain = {}
    for own in lab.domains:
        catalog = ItemCatalog.from_items(own.data.items, name=f"{lab.prefix}-{own.name}".replace("_", "-"))
        engine = ReGeSQueryEngine.from_defaults(catalog, domain=own.domain, exclude_mentioned=True, **options)
        path = lab.run_file(run, own)
        with RunLog(path, {"data": own.data.hash, "engine": name}) as log:
            log.require_inputs(engine_inputs(engine))
            predict_turns(engine, own.data.turns, log, batch_size=lab.batch_size)
        wanted = {turn.id for turn in own.data.turns}
        found[own.name] = {p.id: p.ranking for p in read_predictions(path) if p.id in wanted}
    return {name: found}


def _own_llm(lab: DomainLab) -> dict[str, ByDomain]:
    return _engine(lab, lab.llm_name, "own-llm", llm=lab.llm) if lab.llm is not None else {}


ROW_GROUPS: dict[str, Callable[[DomainLab], dict[str, ByDomain]]] = {
    "stock": _stock,
    "query-expert": _query_expert,
    "drop-in": _drop_in,
    "embedded": lambda lab: _engine(lab, EMBEDDED, "embedded"),
    "own-llm": _own_llm,
}
"""Groups of rows, from the quickest to the slowest."""


def _systems(lab: DomainLab, groups: Sequence[str] | None) -> dict[str, ByDomain]:
    unknown = [group for group in groups or () if group not in ROW_GROUPS]
    if unknown:
        raise ConfigError(f"unknown rows {unknown[0]!r}", hint=f"rows are {', '.join(ROW_GROUPS)}")
    systems: dict[str, ByDomain] = {}
    for group, make in ROW_GROUPS.items():
        if groups is None or group in groups:
            logger.info("%s: %s", lab.prefix, group)
            systems |= make(lab)
    return systems


def _left_out(lab: DomainLab) -> dict[str, str]:
    return {} if lab.llm is not None else {"an LLM of your own": "no --model was given"}


def domains_table(
    lab: DomainLab, groups: Sequence[str] | None = None
) -> tuple[ExperimentResult, DomainTable]:
    """Measure stock retrievers, the query expert, the drop-in and the engines on shops of many kinds.

    Parameters
    ----------
    groups
        Names of `ROW_GROUPS`; None takes all.

    Raises
    ------
    ConfigError
        For an unknown group.
    """
    table = score_domains(
        lab.domains, _systems(lab, groups), resamples=lab.resamples, seed=lab.seed, level=lab.level
    )
    names = [own.name for own in lab.domains]
    settings = {MEAN: f"mean of {len(names)} domains", **{name: name for name in names}}
    rows = [
        Row(system, shown, "new", _SHOWN[metric], e.value, table.turns[place], e.low, e.high)
        for place, shown in settings.items()
        for system, by_domain in table.values.items()
        for metric, e in by_domain[place].items()
    ]
    return (
        ExperimentResult(
            name="domains",
            title="Domains: catalogs of other kinds",
            source="not in the paper",
            reading="The share of turns at which the item an expert chose is first (Recall@1), any suitable "
            "item is first, or the chosen one is among five or ten. The stock retriever is what an "
            "app has without this package; the pseudo-query is what a perfect query would reach.",
            rows=rows,
            comparisons=_comparisons(lab, table, settings[MEAN]),
            notes=[
                "Items that the dialogue has named are left out of every ranking, whatever the system does "
                "itself, and do not count as targets.",
                "suitable@1: the first item is one that an expert would accept (`suitable` of the turn).",
                "The mean gives every domain the same weight; intervals draw dialogues within each domain. "
                + "; ".join(f"{n}: {table.turns[n]} turns of {table.dialogues[n]} dialogues" for n in names)
                + ".",
                "The pseudo-query was written in sight of the target, so its row is a ceiling and no system.",
                "The drop-in retrieves six items, as the guide does; nothing below them is ranked.",
            ],
            left_out=_left_out(lab),
        ),
        table,
    )


def topic_change(
    lab: DomainLab, old: Mapping[str, frozenset[str]], groups: Sequence[str] | None = None
) -> ExperimentResult:
    """Say how often the first item fits the last message's wish, where that is another than before.

    Parameters
    ----------
    old
        From `read_topic_changes`, as the domains of ``lab``.
    groups
        As for `domains_table`.
    """
    turns = [turn for own in lab.domains for turn in own.data.turns]
    bootstrap = ClusterBootstrap(
        np.arange(len(turns), dtype=np.int64), resamples=lab.resamples, seed=lab.seed, level=lab.level
    )
    rows = []
    for system, rankings in _systems(lab, groups).items():
        shares = topic_shares(lab.domains, old, rankings)
        for metric, e in zip(_TOPIC, bootstrap.estimate(shares), strict=True):
            rows.append(Row(system, "", "", metric, e.value, len(turns), e.low, e.high))
    counts = ", ".join(f"{len(own.data.turns)} over {own.name}" for own in lab.domains)
    return ExperimentResult(
        name="topic_change",
        title="A change of topic: does the first item fit the new wish",
        source="not in the paper",
        reading="How often the first item fits what was asked for last, and how often what was asked for "
        "before; the rest fits neither. A system that listens has much of the first and little of "
        "the second.",
        rows=rows,
        notes=[
            f"{len(turns)} dialogues ({counts}), written for this; the last message asks for something else.",
            "Which items fit which wish is listed by hand; none fits both. Named items leave the rankings.",
        ],
        left_out=_left_out(lab),
    )


def _comparisons(lab: DomainLab, table: DomainTable, setting: str) -> list[ComparisonRow]:
    ours = [name for name in (EMBEDDED, lab.llm_name, DROP_IN) if name in table.values]
    others = [name for name in table.values if name.startswith("stock retriever") and "oracle" not in name]
    pairs = [(first, second) for first in ours for second in others]
    found = []
    for metric in ("recall@1", "recall@5") if pairs else ():
        tests = table.compare(pairs, metric, resamples=lab.resamples, seed=lab.seed)
        for (first, second), (d, adjusted) in zip(pairs, tests, strict=True):
            base = table.mean(second, metric)
            found.append(
                ComparisonRow(
                    first, second, setting, "new", _SHOWN[metric], d.value, d.low, d.high, d.p, adjusted,
                    d.value / base if base else None,
                )
            )  # fmt: skip
    return found


assert tuple(_SHOWN) == DOMAIN_METRICS


def build_domain_lab(
    name: str, settings: EvaluationSettings
) -> tuple[DomainLab, dict[str, frozenset[str]] | None]:
    """Put together what ``--experiment domains`` or ``topic_change`` runs on.

    Returns
    -------
    The lab, and for a change of topic what fits the old wishes.

    Raises
    ------
    ConfigError
        If the folder of domains or of results is missing.
    """
    needed = ("domains", "out") if name == "domains" else ("out",)
    for key in needed:
        if not getattr(settings, key):
            raise ConfigError(f"{key} is missing", hint=f"give --{key}")
    old = None
    if name == "domains":
        domains = read_domains(str(settings.domains), limit=settings.limit)
    else:
        domains, old = read_topic_changes()
    encoders: dict[str, BaseEmbedding | str | None] = {"stock retriever": settings.encoder or "minilm"}
    lab = DomainLab(
        domains=domains,
        folder=Path(str(settings.out)),
        encoders=encoders | {encoder: encoder for encoder in settings.more_encoders},
        llm=open_llm(settings.model) if settings.model else None,
        llm_name=settings.model or "LLM",
        batch_size=settings.batch_size,
        resamples=settings.resamples,
        seed=settings.seed,
        level=settings.level,
        prefix=name,
    )
    return lab, old

"""The fusion of many sources as a system, and what each source is worth: beyond the paper."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage

from reges_index.dialogue import DialogueQueryBundle, Turn
from reges_index.evaluation.experiments.lab import Lab
from reges_index.evaluation.experiments.result import ExperimentResult, compared, draw_rows, rows_of
from reges_index.evaluation.experiments.systems import Ranked
from reges_index.evaluation.predictions import Prediction
from reges_index.fusion.features import SOURCES, QueryVectors, check_sources
from reges_index.fusion.retriever import FusionRetriever

__all__ = ["FUSION", "Fused", "ablation", "fused"]

FUSION = "fusion"
_METRICS = {"recall@1": "Recall@1", "recall@10": "Recall@10", "recall@50": "Recall@50"}


@dataclass(frozen=True)
class Fused:
    """A fusion retriever's own ranking, without query expert and item expert."""

    name: str
    retriever: FusionRetriever

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield the items by probability."""
        for turn in turns:
            start = time.perf_counter()
            nodes = self.retriever.retrieve(DialogueQueryBundle.from_dialogue(turn))
            yield Prediction(
                id=turn.id,
                ranking=tuple(node.node.node_id for node in nodes),
                probabilities=tuple(float(node.score or 0.0) for node in nodes),
                timings={"retrieve": time.perf_counter() - start},
            )


class _OnceEmbedded(FusionRetriever):
    """Embeds each dialogue once for itself and all its variants; that is most of the time of a turn."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab.catalog, lab.fusion_model(), similarity_top_k=lab.settings.depth)
        self._known: dict[str, QueryVectors] = {}

    def variant(self, without: Sequence[str]) -> _OnceEmbedded:
        other = copy.copy(self)
        other.without = check_sources(without)
        return other

    def _embed(self, messages: Sequence[ChatMessage]) -> QueryVectors:
        said = json.dumps([message.content for message in messages])
        if said not in self._known:
            self._known[said] = super()._embed(messages)
        return self._known[said]


def fused(lab: Lab, name: str) -> list[Prediction]:
    """Run the fusion; raise `NotRunnable` where there is none."""
    return _run(lab, name, _OnceEmbedded(lab))


def _run(lab: Lab, name: str, own: _OnceEmbedded, without: Sequence[str] = ()) -> list[Prediction]:
    retriever = own.variant(without)
    settings: dict[str, Any] = {
        "retriever": retriever.model.fingerprint,
        "without": sorted(without),
        "depth": lab.settings.depth,
    }
    return lab.run(Fused(name, retriever), {}, settings, run="-".join(("fusion", *sorted(without))))


def ablation(lab: Lab) -> ExperimentResult:
    """Recall of the fusion, and without each of its sources; weights as they are."""
    plain = lab.catalog.encoder.name.split("/")[-1]
    own = _OnceEmbedded(lab)
    predictions: dict[str, Sequence[Prediction]] = {FUSION: _run(lab, FUSION, own)}
    for source in SOURCES:
        name = f"without {source}"
        predictions[name] = _run(lab, name, own, [source])
    shown = lab.shown(lab.settings.depth, "original")
    predictions[plain] = list(Ranked(plain, shown).predict(lab.data.turns))
    evaluation = lab.measured(predictions)
    rows = rows_of(evaluation, _METRICS, "")
    return ExperimentResult(
        name="ablation",
        title="Ablation: one source of the fusion off",
        source="not in the paper",
        reading="The embedded engine's ranking, and what it loses without each of its sources, nothing "
        "fitted again. A source that costs nothing when it is off has earned nothing.",
        rows=rows,
        comparisons=compared(
            evaluation, [(FUSION, other) for other in predictions if other != FUSION], _METRICS, ""
        ),
        notes=[
            "A source is switched off by setting its features to 0; nothing is fitted again.",
            f"{plain} is the plain retriever with the whole dialogue as its query.",
            "No LLM takes part in these rankings.",
        ],
        draw=lambda: draw_rows([row for row in rows if row.metric == "Recall@10"], "Recall@10"),
    )

"""The fusion of many sources as a system, and what each source is worth: beyond the paper."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reges_index.dialogue import DialogueQueryBundle, Turn
from reges_index.evaluation.experiments.drawing import draw_rows
from reges_index.evaluation.experiments.lab import Lab
from reges_index.evaluation.experiments.measure import compared, measured, rows_of
from reges_index.evaluation.experiments.result import ExperimentResult
from reges_index.evaluation.experiments.systems import Ranked
from reges_index.evaluation.predictions import Prediction
from reges_index.fusion.retriever import FusionRetriever
from reges_index.fusion.scoring import SOURCES

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


def fused(lab: Lab, name: str, *, without: Sequence[str] = ()) -> list[Prediction]:
    """Run the fusion, perhaps with sources switched off; raise `NotRunnable` where there is none."""
    retriever = FusionRetriever(
        lab.catalog, lab.fusion_model(), similarity_top_k=lab.settings.depth, without=tuple(without)
    )
    settings = {
        "retriever": retriever.model.fingerprint,
        "without": sorted(without),
        "depth": lab.settings.depth,
    }
    run = "-".join(("fusion", *sorted(without)))
    return lab.run(Fused(name, retriever), {}, settings, run=run)


def ablation(lab: Lab) -> ExperimentResult:
    """Recall of the fusion, and of the fusion without each of its sources, weights as they are."""
    plain = lab.catalog.encoder.name.split("/")[-1]
    predictions: dict[str, Sequence[Prediction]] = {FUSION: fused(lab, FUSION)}
    used = lab.fusion_model()
    for source in SOURCES:
        if not any(its.uses(feature) for its in (used.known, used.unknown) for feature in SOURCES[source]):
            continue  # it has no weight, so there is nothing to switch off
        name = f"without {source}"
        predictions[name] = fused(lab, name, without=[source])
    shown = lab.shown(lab.settings.depth, "original")
    predictions[plain] = list(Ranked(plain, shown).predict(lab.data.turns))
    evaluation = measured(lab, predictions)
    rows = rows_of(evaluation, _METRICS, "")
    return ExperimentResult(
        name="ablation",
        title="Ablation: one source of the fusion off",
        source="not in the paper",
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

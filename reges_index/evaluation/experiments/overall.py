"""Table 1: all systems that can run, on the same turns."""

from __future__ import annotations

from collections.abc import Sequence

from reges_index.dialogue import render_history
from reges_index.evaluation.experiments.answers import chain_of_thought, free_llm
from reges_index.evaluation.experiments.drawing import draw_rows
from reges_index.evaluation.experiments.fused import FUSION, fused
from reges_index.evaluation.experiments.lab import COT_ADAPTER, ITEM_ADAPTER, Lab
from reges_index.evaluation.experiments.measure import compared, measured, rows_of
from reges_index.evaluation.experiments.paper import TABLE1
from reges_index.evaluation.experiments.paper_rows import PaperRow, paper_row
from reges_index.evaluation.experiments.result import ExperimentResult, Row
from reges_index.evaluation.experiments.selection import SUCCESS
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.summary import spread

__all__ = ["table1"]


def _ramo_queries(lab: Lab) -> dict[str, list[str]]:
    # Each document is a text of its own (their vectors are averaged): encoders cut long texts at the end.
    return {
        turn.id: [
            render_history(turn.chat).text,
            *(lab.data.by_id[item].text() for item in turn.mentioned or () if item in lab.data.by_id),
        ]
        for turn in lab.data.turns
    }


def table1(lab: Lab) -> ExperimentResult:
    """Rec Success Rate of all systems of Table 1 that can run here, and of the baselines (section 3.4)."""
    top_k = lab.settings.candidates
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    ours = f"ReGeS ({lab.catalog.encoder.name.split('/')[-1]}, {lab.model().name.split('/')[-1]})"
    raw = lab.shown(top_k, "original")
    with_documents = lab.retrieved(_ramo_queries(lab), "RAMO", "retrieved-ramo")
    documents = {p.id: list(p.ranking[:top_k]) for p in with_documents}
    predictions: dict[str, Sequence[Prediction]] = {ours: lab.end_to_end(ours, top_k, adapter)}
    encoder = lab.catalog.encoder.name
    beside = {ours: paper_row(lab.model().model, encoder)}
    missing = {
        name: "its models are not here; run with --model, --encoder and adapters of that size"
        for name in ("ReGeS Small (DPR, 2B)", "ReGeS Middle (BGE, 8B)", "ReGeS Large (OpenAI, 27B)")
        if beside[ours] != PaperRow(name, exact=True)
    }
    missing |= dict.fromkeys(
        ("KBRD", "KGSF", "UniCRS", "GPT-3.5", "GPT-4", "Vicuna-13B"),
        "made elsewhere; score its output with reges evaluate --predictions",
    )
    if lab.adapter_or_none(COT_ADAPTER):
        name, found = chain_of_thought(lab, top_k)
        predictions[name] = found
        beside[name] = paper_row(lab.model().model, encoder, chain_of_thought=True)
    else:
        missing["ReGeS Best (CoT, OpenAI, 8B)"] = "no adapter item-expert-cot is loaded"
    if adapter is None:
        missing["trained item expert"] = f"no adapter {ITEM_ADAPTER} is loaded; the bare model chose"
    predictions["RARS"] = lab.select("RARS", raw, adapter=None, run=f"rars-{top_k}")
    predictions["RAMO"] = lab.select("RAMO", documents, adapter=None, run=f"ramo-{top_k}")
    free, predictions_of_free = free_llm(lab)
    predictions[free] = predictions_of_free
    if lab.fusion is None:
        missing[FUSION] = "no fusion was trained with this encoder"
    else:
        predictions[FUSION] = fused(lab, FUSION)
    for number, system in enumerate(lab.systems):
        predictions[system.name] = lab.run(system, {}, {"own": system.name}, run=f"own-{number}")
    evaluation = measured(lab, predictions, baselines=True)
    missing |= {f"baseline {name}": reason for name, reason in evaluation.missing_baselines.items()}
    beside |= {
        free: PaperRow("GPT-4", exact=False),
        "RARS": PaperRow("RARS", exact=True),
        "RAMO": PaperRow("RAMO", exact=True),
    }

    def paper(system: str, _metric: str) -> tuple[float | None, str]:
        dataset = lab.settings.dataset
        row = beside.get(system)
        return (TABLE1[row.name][dataset], row.shown) if row and dataset else (None, "")

    rows = rows_of(evaluation, SUCCESS, "", paper=paper)
    dataset = lab.settings.dataset
    shown = {row.paper_setting for row in rows}
    rows += [
        Row(name, "", "all", "Rec Success Rate", None, 0,
            paper=values[dataset] if dataset else None, paper_setting=name)
        for name, values in TABLE1.items() if name not in shown
    ]  # fmt: skip
    seconds = {name: spread([p.timings for p in made]) for name, made in predictions.items()}
    spent = ", ".join(
        f"{name} {sum(stage['mean'] for stage in stages.values()):.2f}"
        for name, stages in seconds.items()
        if stages
    )
    others = [system.name for system in evaluation.systems if system.name != ours]
    ran = [row for row in rows if row.value is not None]
    return ExperimentResult(
        name="table1",
        title="Table 1: recommendation success",
        source="Table 1, section 3.4",
        rows=rows,
        comparisons=compared(evaluation, [(ours, other) for other in others], SUCCESS, ""),
        notes=[
            f"ReGeS, RARS and RAMO choose from {top_k} candidates.",
            "RARS is the raw dialogue as the query and the bare model as the item expert; RAMO adds the "
            "documents of the mentioned items to what is searched with. Both are re-implemented, as in the "
            "paper.",
            f"Seconds a turn for choosing or writing, without query and retrieval: {spent}.",
            f"{FUSION} is beyond the paper: many sources with learnt weights, no LLM (finetune/FUSION.md).",
            '"nearest" marks a value of the paper\'s that is of other models than ours: of the system whose '
            "size is nearest.",
            "The last rows repeat the paper's values of systems that did not run here.",
        ],
        left_out=missing,
        extra={
            "seconds": seconds,
            "tokens": {name: spread([p.tokens for p in made]) for name, made in predictions.items()},
        },
        draw=lambda: draw_rows(ran, "Recommendation success"),
    )

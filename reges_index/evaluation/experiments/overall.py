"""Table 1: all systems that can run, on the same turns, with any LLM that chooses and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reges_index.evaluation.experiments.fused import FUSION, fused
from reges_index.evaluation.experiments.lab import COT_ADAPTER, ITEM_ADAPTER, Lab, NotRunnable
from reges_index.evaluation.experiments.paper import TABLE1
from reges_index.evaluation.experiments.result import ExperimentResult, Row, compared, draw_rows, rows_of
from reges_index.evaluation.experiments.selection import SUCCESS, chain_of_thought, free_llm
from reges_index.evaluation.experiments.systems import QUERY_NAMES, QueryKind
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.summary import spread

__all__ = ["table1"]

_ELSEWHERE = ("KBRD", "KGSF", "UniCRS", "GPT-3.5", "GPT-4", "Vicuna-13B")
_BY = {"augmented": "LLM_QR's query", "direct": "Direct Prompt's query", "original": "raw dialogue"}


def _with_documents(lab: Lab, queries: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return RAMO's texts: the query, and the documents of the items that the dialogue has named.

    Each document is a text of its own (their vectors are averaged): encoders cut long texts at the end.
    """
    return {
        turn.id: [
            *queries[turn.id],
            *(lab.data.by_id[item].text() for item in turn.mentioned or () if item in lab.data.by_id),
        ]
        for turn in lab.data.turns
    }


def table1(lab: Lab) -> ExperimentResult:
    """Rec Success Rate of all systems of Table 1 that can run here, and of the baselines (section 3.4)."""
    top_k = lab.settings.candidates
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    encoder = lab.catalog.encoder.name.split("/")[-1]
    ours = f"ReGeS ({encoder}, {lab.chooser_name})"
    missing = dict.fromkeys(
        _ELSEWHERE, "made elsewhere; score its output with reges evaluate --predictions (docs/evaluation.md)"
    )
    predictions: dict[str, Sequence[Prediction]] = {ours: lab.end_to_end(ours, top_k, adapter, own=True)}
    if adapter is None and lab.llm is None:
        missing["trained item expert"] = f"no adapter {ITEM_ADAPTER} is loaded; the bare model chose"
    if lab.llm is not None:
        missing["chain of thought"] = "the trained one is the embedded model's; run without --model"
    elif lab.adapter_or_none(COT_ADAPTER):
        predictions["ReGeS, chain of thought"] = chain_of_thought(lab, top_k, free=False)
    else:
        missing["ReGeS, chain of thought"] = "no adapter item-expert-cot is loaded"
    # RARS assumes a query of quality; whose query it is decides what it is worth, so there is a row for each.
    kinds: tuple[QueryKind, ...] = ("augmented", "direct", "original")
    for kind in kinds:
        name = f"RARS ({_BY[kind]})"
        try:
            found = lab.retrieved(lab.queries(kind), QUERY_NAMES[kind], f"retrieved-rars-{kind}")
        except NotRunnable as error:
            missing[name] = error.message
            continue
        shown = {p.id: list(p.ranking[:top_k]) for p in found}
        predictions[name] = lab.select(name, shown, adapter=None, own=True, run=f"rars-{kind}-{top_k}")
    best = lab.best_kind()
    ramo = f"RAMO ({_BY[best]} and documents of named items)"
    found = lab.retrieved(_with_documents(lab, lab.queries(best)), ramo, f"retrieved-ramo-{best}")
    documents = {p.id: list(p.ranking[:top_k]) for p in found}
    predictions[ramo] = lab.select(ramo, documents, adapter=None, own=True, run=f"ramo-{best}-{top_k}")
    free, predictions_of_free = free_llm(lab)
    predictions[free] = predictions_of_free
    if lab.fusion is None:
        missing[FUSION] = "no fusion was trained with this encoder"
    else:
        predictions[FUSION] = fused(lab, FUSION)
    for number, system in enumerate(lab.systems):
        predictions[system.name] = lab.run(system, {}, {"own": system.name}, run=f"own-{number}")
    evaluation = lab.measured(predictions, baselines=True)
    missing |= {f"baseline {name}": reason for name, reason in evaluation.missing_baselines.items()}
    dataset = lab.settings.paper_dataset()
    rows = rows_of(evaluation, SUCCESS, "")
    ran = list(rows)
    if dataset is not None:
        rows += [
            Row("", "the paper's own", "all", "Rec Success Rate", None, 0, paper=values[dataset],
                paper_setting=name)
            for name, values in TABLE1.items()
        ]  # fmt: skip
    seconds = {name: spread([p.timings for p in made]) for name, made in predictions.items()}
    spent = ", ".join(
        f"{name} {sum(stage['mean'] for stage in stages.values()):.2f}"
        for name, stages in seconds.items()
        if stages
    )
    others = [system.name for system in evaluation.systems if system.name != ours]
    return ExperimentResult(
        name="table1",
        title="Table 1: recommendation success",
        source="Table 1, section 3.4",
        reading="The share of turns at which the recommended item is a true one: all targets, or only "
        "those that the dialogue has not named. Systems of the same LLM compare; the paper's "
        "values are of other models and the test split.",
        rows=rows,
        comparisons=compared(evaluation, [(ours, other) for other in others], SUCCESS, ""),
        notes=[
            f"ReGeS, RARS and RAMO choose from {top_k} candidates.",
            f"{lab.chooser_name} chooses and writes in ReGeS, RARS, RAMO and the zero-shot row; in RARS and "
            "RAMO untrained. RARS searches with a query and lets the LLM choose; RAMO searches with the "
            "documents of the named items too. Both are re-implemented, as in the paper.",
            f"Seconds a turn for choosing or writing, without query and retrieval: {spent}.",
            f"{FUSION} is beyond the paper: many sources with learnt weights, no LLM (finetune/FUSION.md).",
            "The last rows are the paper's values, of other models and the test split.",
        ],
        left_out=missing,
        extra={
            "seconds": seconds,
            "tokens": {name: spread([p.tokens for p in made]) for name, made in predictions.items()},
        },
        draw=lambda: draw_rows(ran, "Recommendation success"),
    )

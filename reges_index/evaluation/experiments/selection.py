"""Choosing among candidates: Table 3, Table 4, Figure 6 and Figure 9."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from reges_index.dialogue import Turn
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.lab import (
    COT_ADAPTER,
    ITEM_ADAPTER,
    RANDOM_ADAPTER,
    Lab,
    NotRunnable,
)
from reges_index.evaluation.experiments.paper import FIGURE6_GAINS, FIGURE9_BEST, TABLE3, TABLE4, TABLE4_NOTE
from reges_index.evaluation.experiments.result import (
    ComparisonRow,
    ExperimentResult,
    PaperValue,
    Row,
    compared,
    draw_rows,
    rows_of,
)
from reges_index.evaluation.experiments.systems import FreeLLM, FreeReasoning
from reges_index.evaluation.predictions import Prediction
from reges_index.models.backend import resolve_backend

__all__ = [
    "SUCCESS",
    "chain_of_thought",
    "figure6",
    "figure9",
    "forced_candidates",
    "forced_data",
    "free_llm",
    "table3",
    "table4",
]

_HARD, _RANDOM = "R-augmented G (hard negatives)", "fine-tune (random negatives)"
_BY_KIND = {"hard": _HARD, "random": _RANDOM, "mixed": "fine-tune (mixed negatives)"}
SUCCESS = {"rec_success_rate": "Rec Success Rate"}
_FORCED = {"rec_success_rate": "Item Generation Success"}
_FORCED_NOTE = (
    "Forced: a target that was not retrieved takes the last candidate's seat and then a random place "
    "(seeded), so that its place gives nothing away; one that was retrieved stays where it is."
)


def forced_data(data: EvaluationData) -> tuple[EvaluationData, int]:
    """Return the data with a turn of its own for each target in the catalog, and how many targets are not."""
    turns: list[Turn] = []
    outside = 0
    for turn in data.turns:
        for target in dict.fromkeys(turn.targets):
            if target in data.by_id:
                changes = {"id": f"{turn.id}#{target}", "targets": (target,)}
                turns.append(turn.model_copy(update={"dialog_id": turn.dialog_id or turn.id, **changes}))
            else:
                outside += 1
    return data.subset(turns), outside


def forced_candidates(
    data: EvaluationData, candidates: Mapping[str, Sequence[str]], top_k: int, seed: int
) -> dict[str, list[str]]:
    """Return the first ``top_k`` candidates with the true item among them, for the turns of `forced_data`."""
    found = {}
    for turn in data.turns:
        target = turn.targets[0]
        listed = list(candidates[turn.id.removesuffix(f"#{target}")][:top_k])
        if target not in listed:
            place = random.Random(f"{seed} {turn.id}").randrange(top_k)
            listed = listed[: top_k - 1]
            listed.insert(place, target)
        found[turn.id] = listed
    return found


def _forced(
    lab: Lab, name: str, adapter: str | None, top_k: int
) -> tuple[EvaluationData, list[Prediction], int]:
    data, outside = forced_data(lab.data)
    shown = forced_candidates(data, lab.shown(lab.settings.depth), top_k, lab.settings.seed)
    run = f"forced-{top_k}-{lab.best_kind()}-{adapter or 'bare'}"
    return data, lab.select(name, shown, adapter=adapter, turns=data.turns, run=run), outside


def table4(lab: Lab) -> ExperimentResult:
    """Success with 10 and 50 candidates, the true item forced into the list and end to end."""
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    name = "ReGeS" if adapter else "untrained item expert"
    rows: list[Row] = []
    outside = 0
    missing: dict[str, str] = {}
    for top_k in sorted(set(lab.settings.candidate_counts)):
        setting = f"{top_k} candidates"
        if top_k > len(lab.data.items):
            missing[setting] = f"the catalog has {len(lab.data.items)} items"
            continue
        chosen = lab.end_to_end(name, top_k, adapter)
        end = lab.measured({name: chosen})
        data, forced, outside = _forced(lab, name, adapter, top_k)
        inside = lab.measured({name: forced}, data=data)
        for place, (evaluation, metric) in enumerate(((end, SUCCESS), (inside, _FORCED))):
            rows += rows_of(evaluation, metric, setting, paper=_table4_paper(lab, top_k, place))
    if not rows:
        raise NotRunnable(f"{next(iter(missing))} are too many: {next(iter(missing.values()))}")
    return ExperimentResult(
        name="table4",
        title="Table 4: number of candidates",
        source="Table 4, section 3.7.1",
        reading="End to end is what a user gets; forced in, the true item is always among the candidates, "
        "and one in k is chance. The first is bounded by what the retriever finds.",
        rows=rows,
        notes=[_FORCED_NOTE, f"{outside} targets are not in the catalog and cannot be forced.", TABLE4_NOTE],
        left_out=missing,
        draw=lambda: draw_rows(rows, "Success by number of candidates"),
    )


def _table4_paper(lab: Lab, top_k: int, place: int) -> PaperValue:
    def value(_system: str, _metric: str) -> tuple[float | None, str]:
        dataset = lab.settings.paper_dataset()
        if dataset is None or (top_k, "2B, DPR") not in TABLE4:
            return None, ""
        small = TABLE4[top_k, "2B, DPR"][dataset][place]
        middle = TABLE4[top_k, "8B, BGE"][dataset][place]
        return small, f"2B, DPR ({dataset}); 8B, BGE has {middle:.4f}"

    return value


def _item_experts(lab: Lab) -> tuple[dict[str | None, str], dict[str, str]]:
    """Name the item experts by the negatives that their manifests state; say what is missing."""
    names: dict[str | None, str] = {}
    for adapter, usual in ((ITEM_ADAPTER, _HARD), (RANDOM_ADAPTER, _RANDOM)):
        if not lab.adapter_or_none(adapter):
            continue
        manifest = lab.model().manifest(adapter)
        kind = ((manifest and manifest.negatives) or {}).get("kind")
        name = usual if kind is None else _BY_KIND.get(kind, f"fine-tune ({kind} negatives)")
        if name in names.values():
            raise NotRunnable(f"both item experts were trained with {kind} negatives, so they do not compare")
        names[adapter] = name
    if not names:
        raise NotRunnable("it needs item experts trained with hard and with random negatives to compare")
    # Hard first, whichever option named it: the others are compared with it.
    names = dict(sorted(names.items(), key=lambda pair: pair[1] != _HARD))
    missing = {n: "no such item expert is loaded" for n in (_HARD, _RANDOM) if n not in names.values()}
    return {**names, None: "untrained"}, missing


def figure6(lab: Lab) -> ExperimentResult:
    """Item experts trained with hard and with random negatives, and untrained (section 3.5)."""
    names, missing = _item_experts(lab)
    rows: list[Row] = []
    comparisons: list[ComparisonRow] = []
    dataset = lab.settings.paper_dataset()

    def gain(other: str, _metric: str) -> float | None:
        known = other == _RANDOM and _HARD in names.values()
        return FIGURE6_GAINS[dataset] if known and dataset else None

    for top_k in sorted({10, lab.settings.candidates}):
        chosen: dict[str, Sequence[Prediction]] = {}
        forced: dict[str, Sequence[Prediction]] = {}
        data = lab.data
        for adapter, name in names.items():
            chosen[name] = lab.end_to_end(name, top_k, adapter)
            data, forced[name], _ = _forced(lab, name, adapter, top_k)
        first = next(iter(names.values()))
        pairs = [(first, other) for other in list(names.values())[1:]]
        for evaluation, metric in (
            (lab.measured(chosen), SUCCESS),
            (lab.measured(forced, data=data), _FORCED),
        ):
            setting = f"{top_k} candidates"
            rows += rows_of(evaluation, metric, setting)
            comparisons += compared(evaluation, pairs, metric, setting, paper_gain=gain)
    return ExperimentResult(
        name="figure6",
        title="Figure 6: hard against random negatives",
        source="Section 3.5, Retrieval-Augmented Generation",
        reading="The same model trained with near misses or with random items beside the true one, and "
        "untrained. Item Generation Success has the true item forced in, Rec Success Rate is end "
        "to end.",
        rows=rows,
        comparisons=comparisons,
        notes=[_FORCED_NOTE, "The paper's gain is the average over its models and retrievers, end to end."],
        left_out=missing,
        draw=lambda: draw_rows(rows, "Hard against random negatives"),
    )


def chain_of_thought(lab: Lab, top_k: int, *, free: bool) -> list[Prediction]:
    """Run the chain-of-thought item expert, trained where there is an adapter.

    Parameters
    ----------
    free
        The paper's free decoding, instead of the product's ``mode="reason"``.
    """
    adapter = lab.adapter_or_none(COT_ADAPTER)
    shown = lab.shown(top_k)
    run = f"{'cot' if free else 'reason'}-{top_k}-{lab.best_kind()}-{adapter or 'bare'}"
    if not free:
        return lab.select("", shown, adapter=adapter, mode="reason", run=run)
    rerank = lab.rerank(adapter, mode="reason")
    system = FreeReasoning("", rerank, shown, lab.data.by_id, lab.matcher)
    settings = {**lab.selection_settings(rerank), "tokens": system.max_new_tokens}
    return lab.run(system, shown, settings, run=run)


def figure9(lab: Lab) -> ExperimentResult:
    """Chain of thought against none, by the product's scoring and by the paper's decoding (section 3.7.2)."""
    top_k = lab.settings.candidates
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    trained = "" if lab.adapter_or_none(COT_ADAPTER) else ", untrained"
    names = {
        "score": "candidates scored, no chain of thought",
        "reason": f"candidates scored behind a chain of thought{trained}",
        "generate": "written freely at temperature 0.1, no chain of thought",
        "free": f"written freely behind a chain of thought{trained}",
    }
    predictions: dict[str, Sequence[Prediction]] = {
        names["score"]: lab.end_to_end(names["score"], top_k, adapter),
        names["reason"]: chain_of_thought(lab, top_k, free=False),
        names["generate"]: lab.end_to_end(names["generate"], top_k, adapter, mode="generate"),
        names["free"]: chain_of_thought(lab, top_k, free=True),
    }
    evaluation = lab.measured(predictions)
    dataset = lab.settings.paper_dataset()

    def paper(system: str, _metric: str) -> tuple[float | None, str]:
        known = dataset is not None and system == names["free"]
        return (FIGURE9_BEST[dataset], "OpenAI, 8B, CoT") if known and dataset else (None, "")

    setting = f"{top_k} candidates"
    rows = rows_of(evaluation, SUCCESS, setting, paper=paper)
    pairs = [(names["reason"], names["score"]), (names["free"], names["generate"])]
    return ExperimentResult(
        name="figure9",
        title="Figure 9: chain of thought",
        source="Section 3.7.2",
        reading="Each arm with a chain of thought has its own arm without it beside it, decoded in the "
        "same way. Compare within a pair; the two pairs differ in whether an answer can be no "
        "candidate at all.",
        rows=rows,
        comparisons=compared(evaluation, pairs, SUCCESS, setting),
        notes=[
            'Scored behind a chain of thought is the product\'s mode="reason", whose choice is a candidate.',
            "Written freely, the last line of the answer is matched to the candidates; no match is a miss.",
        ],
        left_out={} if not trained else {"trained chain of thought": "no adapter item-expert-cot"},
        draw=lambda: draw_rows(rows, "Chain of thought against none"),
    )


def free_llm(lab: Lab) -> tuple[str, list[Prediction]]:
    """Run the bare LLM as a recommender without a catalog; return its name too."""
    system = FreeLLM(
        "LLM-CRS (zero-shot LLM)", resolve_backend(lab.chooser, role=ITEM_ADAPTER, adapter=None), lab.matcher
    )
    return system.name, lab.run(system, {}, system.settings(), run="free")


def table3(lab: Lab) -> ExperimentResult:
    """Share of answers that are no catalog item (section 3.6.2)."""
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    ours = "ReGeS" if adapter else "untrained item expert"
    top_k = lab.settings.candidates
    free, made = free_llm(lab)
    written, scored = f"{ours}, free text (the paper's decoding)", f"{ours}, scored (the default)"
    predictions = {
        written: lab.end_to_end(written, top_k, adapter, mode="generate"),
        scored: lab.end_to_end(scored, top_k, adapter),
        free: made,
    }
    evaluation = lab.measured(predictions)
    theirs = {written: "ReGeS Middle (8B)", free: "LLM-CRS (GPT-4)"}
    rows = []
    examples = {}
    for system in evaluation.systems:
        judged = [h for h in system.hallucinated if h is not None]
        of = theirs.get(system.name, "")
        ratio = sum(judged) / len(judged) if judged else None
        paper = TABLE3[of] if of else None
        rows.append(
            Row(system.name, "", "", "hallucination ratio", ratio, len(judged), paper=paper, paper_setting=of)
        )
        answers = zip(system.predictions, system.hallucinated, strict=True)
        examples[system.name] = [p.answer for p, wrong in answers if p and wrong and p.answer][:10]
    # What a miss in free text costs: the paper's decoding has a success rate too.
    rows += rows_of(evaluation, SUCCESS, f"{top_k} candidates")
    return ExperimentResult(
        name="table3",
        title="Table 3: hallucination ratio, and success of the same answers",
        source="Table 3, section 3.6.2",
        reading="A hallucination names no item of the catalog at all; scored candidates cannot. The "
        "success rates are of the same answers, so that a system which never hallucinates and "
        "never hits is seen for what it is.",
        rows=rows,
        notes=[
            "An answer counts as a hallucination if it names no item of the catalog (its first line, "
            "matched as titles are in predictions).",
            f"The item expert chose from {top_k} candidates.",
            f"GPT-3.5 has {TABLE3['LLM-CRS (GPT-3.5)']:.4f} in the paper.",
        ],
        extra={"examples": examples},
        draw=lambda: draw_rows(rows[: len(evaluation.systems)], "Answers that are no catalog item"),
    )

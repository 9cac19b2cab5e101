"""How the item expert answers: Table 3 (hallucinations) and Figure 9 (chain of thought)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from reges_index.evaluation.experiments.drawing import draw_rows
from reges_index.evaluation.experiments.lab import COT_ADAPTER, ITEM_ADAPTER, Lab
from reges_index.evaluation.experiments.measure import compared, measured, rows_of
from reges_index.evaluation.experiments.paper import FIGURE9_BEST, TABLE3
from reges_index.evaluation.experiments.result import ExperimentResult, Row
from reges_index.evaluation.experiments.selection import SUCCESS
from reges_index.evaluation.experiments.systems import FREE_PROMPT, ChainOfThought, FreeLLM
from reges_index.evaluation.predictions import Prediction
from reges_index.item_expert.prompt import COT_SELECT_TMPL

__all__ = ["chain_of_thought", "figure9", "free_llm", "table3"]


_COT_TOKENS = 160
_FRAME_TOKENS = 96  # chat template around the prompt


def _cot_budget(lab: Lab, adapter: str | None) -> int:
    """Return the prompt's budget: what the adapter advises, but with room left for the reasoning."""
    manifest = lab.model().manifest(adapter) if adapter else None
    advised = int(manifest.inference.get("max_input_tokens", 4096)) if manifest else 4096
    return min(advised, lab.model().context_window - _COT_TOKENS - _FRAME_TOKENS)


def chain_of_thought(lab: Lab, top_k: int) -> tuple[str, list[Prediction]]:
    """Run the chain-of-thought item expert, trained where there is an adapter; return its name too."""
    adapter = lab.adapter_or_none(COT_ADAPTER)
    name = "ReGeS, chain of thought" if adapter else "chain of thought, untrained"
    shown = lab.shown(top_k)
    rerank = lab.rerank(adapter, select_prompt=COT_SELECT_TMPL, max_input_tokens=_cot_budget(lab, adapter))
    system = ChainOfThought(
        name, rerank, lab.model(), adapter, shown, lab.data.by_id, lab.matcher, _COT_TOKENS
    )
    return name, lab.run(
        system,
        shown,
        {**lab.selection_settings(rerank, adapter, COT_SELECT_TMPL), "tokens": system.max_new_tokens},
        run=f"cot-{top_k}-{lab.best_kind()}-{adapter or 'bare'}",
    )


def figure9(lab: Lab) -> ExperimentResult:
    """Chain of thought against none (section 3.7.2)."""
    top_k = lab.settings.candidates
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    plain = "ReGeS, no chain of thought" if adapter else "no chain of thought, untrained"
    predictions: dict[str, Sequence[Prediction]] = {plain: lab.end_to_end(plain, top_k, adapter)}
    name, predictions[name] = chain_of_thought(lab, top_k)
    evaluation = measured(lab, predictions)
    dataset = lab.settings.dataset

    def paper(system: str, _metric: str) -> tuple[float | None, str]:
        known = dataset is not None and system == name
        return (FIGURE9_BEST[dataset], "OpenAI, 8B, CoT") if known and dataset else (None, "")

    setting = f"{top_k} candidates"
    rows = rows_of(evaluation, SUCCESS, setting, paper=paper)
    return ExperimentResult(
        name="figure9",
        title="Figure 9: chain of thought",
        source="Section 3.7.2",
        rows=rows,
        comparisons=compared(evaluation, [(name, plain)], SUCCESS, setting),
        notes=[
            "With chain of thought the last line of the answer is matched to the candidates; "
            "no match is a miss."
        ],
        left_out={}
        if lab.adapter_or_none(COT_ADAPTER)
        else {"trained chain of thought": "no adapter item-expert-cot"},
        draw=lambda: draw_rows(rows, "Chain of thought against none"),
    )


def free_llm(lab: Lab) -> tuple[str, list[Prediction]]:
    """Run the bare model as a recommender without a catalog; return its name too."""
    system = FreeLLM("LLM-CRS (zero-shot LLM)", lab.model(), lab.matcher)
    prompt = hashlib.sha256(FREE_PROMPT.encode()).hexdigest()[:16]
    settings = {"titles": system.count, "history": system.max_history_tokens, "prompt": prompt}
    return system.name, lab.run(system, {}, settings, run="free")


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
    evaluation = measured(lab, predictions)
    theirs = {written: "ReGeS Middle (8B)", free: "LLM-CRS (GPT-4)"}
    rows = []
    for system in evaluation.systems:
        judged = [h for h in system.hallucinated if h is not None]
        ratio = sum(judged) / len(judged) if judged else None
        of = theirs.get(system.name, "")
        paper = TABLE3[of] if of else None
        rows.append(
            Row(
                system.name,
                "",
                "",
                "hallucination ratio",
                ratio,
                len(judged),
                paper=paper,
                paper_setting=of,
            )
        )
    examples = {
        system.name: [
            prediction.answer
            for prediction, wrong in zip(system.predictions, system.hallucinated, strict=True)
            if prediction and wrong and prediction.answer
        ][:10]
        for system in evaluation.systems
    }
    return ExperimentResult(
        name="table3",
        title="Table 3: hallucination ratio",
        source="Table 3, section 3.6.2",
        rows=rows,
        notes=[
            "An answer counts as a hallucination if it names no item of the catalog (its first line, "
            "matched as titles are in predictions).",
            f"The item expert chose from {top_k} candidates.",
            f"GPT-3.5 has {TABLE3['LLM-CRS (GPT-3.5)']:.4f} in the paper.",
        ],
        extra={"examples": examples},
        draw=lambda: draw_rows(rows, "Answers that are no catalog item"),
    )

"""Choosing among candidates: Tables 1, 3 and 4, Figures 6 and 9, and what the fusion's sources are worth."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from llama_index.core.base.llms.types import ChatMessage

from reges_index.dialogue import DialogueQueryBundle, Turn
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.described import PAPER, described
from reges_index.evaluation.experiments.lab import (
    COT_ADAPTER,
    DEPTH,
    ITEM_ADAPTER,
    RANDOM_ADAPTER,
    Lab,
    NotRunnable,
)
from reges_index.evaluation.experiments.systems import FREE_PROMPT, QueryKind, each, recommended_freely
from reges_index.evaluation.plots import draw_rows
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.report import spread
from reges_index.evaluation.result import PaperValue, Result, Row
from reges_index.evaluation.stats import Comparison
from reges_index.files import hash_of
from reges_index.fusion.features import SOURCES, QueryVectors, check_sources
from reges_index.fusion.retriever import FusionRetriever
from reges_index.models.backend import resolve_backend

_SUCCESS = {"rec_success_rate": "Rec Success Rate"}


# -- Table 1 -----------------------------------------------------------------------------------------

_FREE = "LLM-CRS (zero-shot LLM)"
_FUSION = "fusion"
_BY: dict[QueryKind, str] = {
    "augmented": "LLM_QR's query",
    "direct": "Direct Prompt's query",
    "original": "raw dialogue",
}


def table1(lab: Lab) -> Result:
    """Rec Success Rate of all systems of Table 1 that can run here, and of the baselines (section 3.4)."""
    top_k = lab.settings.candidates
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    ours = f"ReGeS ({lab.catalog.encoder.name.split('/')[-1]}, {lab.chooser_name})"
    missing = dict.fromkeys(
        ("KBRD", "KGSF", "UniCRS", "GPT-3.5", "GPT-4", "Vicuna-13B"),
        "made elsewhere; score its output with reges evaluate --predictions (docs/evaluation.md)",
    )
    predictions: dict[str, Sequence[Prediction]] = {ours: lab.end_to_end(top_k, adapter, own=True)}
    if adapter is None and lab.llm is None:
        missing["trained item expert"] = f"no adapter {ITEM_ADAPTER} is loaded; the bare model chose"
    if lab.llm is not None:
        missing["chain of thought"] = "the trained one is the embedded model's; run without --model"
    elif lab.adapter_or_none(COT_ADAPTER):
        predictions["ReGeS, chain of thought"] = lab.end_to_end(top_k, COT_ADAPTER, mode="reason")
    else:
        missing["ReGeS, chain of thought"] = "no adapter item-expert-cot is loaded"

    def chosen(run: str, texts: Mapping[str, Sequence[str]]) -> list[Prediction]:
        """Search with the texts, and let the LLM choose untrained."""
        found = {p.id: p.ranking[:top_k] for p in lab.retrieved(texts, f"retrieved-{run}")}
        return lab.select(found, f"{run}-{top_k}", adapter=None, own=True)

    # RARS assumes a query of quality; whose query it is decides what it is worth, so there is a row for each.
    for kind, words in _BY.items():
        try:
            predictions[f"RARS ({words})"] = chosen(f"rars-{kind}", lab.queries(kind))
        except NotRunnable as error:
            missing[f"RARS ({words})"] = error.message
    best = lab.best_kind()
    texts = lab.queries(best)
    # Each document is a text of its own (their vectors are averaged): encoders cut long texts at the end.
    documents = {
        turn.id: [
            *texts[turn.id],
            *(lab.data.by_id[item].text() for item in turn.mentioned or () if item in lab.data.by_id),
        ]
        for turn in lab.data.turns
    }
    predictions[f"RAMO ({_BY[best]} and documents of named items)"] = chosen(f"ramo-{best}", documents)
    predictions[_FREE] = _free_llm(lab)
    if lab.fusion is None:
        missing[_FUSION] = "no fusion was trained with this encoder"
    else:
        predictions[_FUSION] = _fused(lab, _OnceEmbedded(lab))
    for number, system in enumerate(lab.systems):
        predictions[system.name] = lab.run(system.predict, f"own-{number}", own=system.name)
    evaluation = lab.measured(predictions, baselines=True)
    missing |= {f"baseline {name}": reason for name, reason in evaluation.missing_baselines.items()}
    rows = evaluation.rows(_SUCCESS)
    dataset = lab.settings.paper_dataset()
    theirs = [
        Row(
            "the paper's own", "", "all", "Rec Success Rate", None, 0, paper=values[dataset],
            paper_setting=name,
        )
        for name, values in PAPER["table1"].items()
        if dataset is not None
    ]  # fmt: skip
    seconds = {name: spread([p.timings for p in made]).get("seconds") for name, made in predictions.items()}
    spent = ", ".join(f"{name} {found['mean']:.2f}" for name, found in seconds.items() if found)
    others = [system.name for system in evaluation.systems if system.name != ours]
    return described(
        "table1",
        [*rows, *theirs],
        comparisons=evaluation.compare([(ours, other) for other in others], _SUCCESS),
        left_out=missing,
        extra={
            "seconds": seconds,
            "tokens": {name: spread([p.tokens for p in made]) for name, made in predictions.items()},
        },
        draw=lambda: draw_rows(rows, "Recommendation success"),
        top_k=top_k,
        chooser=lab.chooser_name,
        seconds=spent,
    )


def _free_llm(lab: Lab) -> list[Prediction]:
    """Run the bare LLM as a recommender without a catalog."""
    backend = resolve_backend(lab.chooser, role=ITEM_ADAPTER, adapter=None)
    predict = each(lambda turn: recommended_freely(backend, turn, lab.matcher))
    return lab.run(predict, "free", prompt=hash_of(FREE_PROMPT, digits=16))


# -- the fusion, which is beyond the paper -----------------------------------------------------------


class _OnceEmbedded(FusionRetriever):
    """Embeds each dialogue once, whichever sources are on; that is most of the time of a turn."""

    def __init__(self, lab: Lab) -> None:
        if lab.fusion is None:
            raise NotRunnable("it needs a fusion that was trained with this encoder")
        super().__init__(lab.catalog, lab.fusion, similarity_top_k=DEPTH)
        self._known: dict[str, QueryVectors] = {}

    def _embed(self, messages: Sequence[ChatMessage]) -> QueryVectors:
        said = json.dumps([message.content for message in messages])
        if said not in self._known:
            self._known[said] = super()._embed(messages)
        return self._known[said]


def _fused(lab: Lab, retriever: _OnceEmbedded, *without: str) -> list[Prediction]:
    """Run a fusion retriever's own ranking, without query expert and item expert."""
    retriever.without = check_sources(without)

    def answer(turn: Turn) -> Prediction:
        nodes = retriever.retrieve(DialogueQueryBundle.from_dialogue(turn))
        ranking = tuple(node.node.node_id for node in nodes)
        return Prediction(
            id=turn.id, ranking=ranking, probabilities=tuple(float(node.score or 0.0) for node in nodes)
        )

    run, fingerprint = "-".join(("fusion", *without)), retriever.model.fingerprint
    return lab.run(each(answer), run, retriever=fingerprint, without=list(without), depth=DEPTH)


def ablation(lab: Lab) -> Result:
    """Recall of the fusion, and without each of its sources; weights as they are."""
    plain = lab.catalog.encoder.name.split("/")[-1]
    own = _OnceEmbedded(lab)
    predictions: dict[str, Sequence[Prediction]] = {_FUSION: _fused(lab, own)}
    predictions |= {f"without {source}": _fused(lab, own, source) for source in SOURCES}
    shown = lab.shown(DEPTH, "original")
    predictions[plain] = [Prediction(id=turn, ranking=tuple(found)) for turn, found in shown.items()]
    evaluation = lab.measured(predictions)
    metrics = {f"recall@{k}": f"Recall@{k}" for k in (1, 10, 50)}
    rows = evaluation.rows(metrics)
    drawn = [row for row in rows if row.metric == "Recall@10"]
    return described(
        "ablation", rows, draw=lambda: draw_rows(drawn, "One source of the fusion off"), encoder=plain,
        comparisons=evaluation.compare([(_FUSION, o) for o in predictions if o != _FUSION], metrics),
    )  # fmt: skip


# -- the true item among the candidates: Table 4 and Figure 6 ----------------------------------------

_HARD, _RANDOM = "R-augmented G (hard negatives)", "fine-tune (random negatives)"
_BY_KIND = {"hard": _HARD, "random": _RANDOM, "mixed": "fine-tune (mixed negatives)"}
_COUNTS = (10, 50)
"""Candidates that the item expert chooses from in Table 4."""
_FORCED = {"rec_success_rate": "Item Generation Success"}


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


def _forced(lab: Lab, adapter: str | None, top_k: int) -> tuple[EvaluationData, list[Prediction], int]:
    data, outside = forced_data(lab.data)
    shown = forced_candidates(data, lab.shown(DEPTH), top_k, lab.settings.seed)
    run = f"forced-{top_k}-{lab.best_kind()}-{adapter or 'bare'}"
    return data, lab.select(shown, run, adapter=adapter, turns=data.turns), outside


def table4(lab: Lab) -> Result:
    """Success with 10 and 50 candidates, the true item forced into the list and end to end."""
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    name = "ReGeS" if adapter else "untrained item expert"
    rows: list[Row] = []
    outside = 0
    missing: dict[str, str] = {}
    for top_k in _COUNTS:
        setting = f"{top_k} candidates"
        if top_k > len(lab.data.items):
            missing[setting] = f"the catalog has {len(lab.data.items)} items"
            continue
        end = lab.measured({name: lab.end_to_end(top_k, adapter)})
        data, forced, outside = _forced(lab, adapter, top_k)
        inside = lab.measured({name: forced}, data=data)
        for place, (evaluation, metric) in enumerate(((end, _SUCCESS), (inside, _FORCED))):
            rows += evaluation.rows(metric, setting, paper=_table4_paper(lab, top_k, place))
    if not rows:
        raise NotRunnable(f"{next(iter(missing))} are too many: {next(iter(missing.values()))}")
    return described(
        "table4", rows, left_out=missing, outside=outside,
        draw=lambda: draw_rows(rows, "Success by number of candidates"),
    )  # fmt: skip


def _table4_paper(lab: Lab, top_k: int, place: int) -> PaperValue:
    def value(_system: str, _metric: str) -> tuple[float | None, str]:
        dataset = lab.settings.paper_dataset()
        if dataset is None:
            return None, ""
        theirs = {models: values[dataset][place] for models, values in PAPER["table4"][top_k].items()}
        return theirs["2B, DPR"], f"8B, BGE {theirs['8B, BGE']:.4f}; 2B, DPR"

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


def figure6(lab: Lab) -> Result:
    """Item experts trained with hard and with random negatives, and untrained (section 3.5)."""
    names, missing = _item_experts(lab)
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    dataset = lab.settings.paper_dataset()

    def gain(other: str, _metric: str) -> float | None:
        known = other == _RANDOM and _HARD in names.values()
        return PAPER["figure6_gains"][dataset] if known and dataset else None

    for top_k in sorted({10, lab.settings.candidates}):
        chosen = {name: lab.end_to_end(top_k, adapter) for adapter, name in names.items()}
        forced = {name: _forced(lab, adapter, top_k)[1] for adapter, name in names.items()}
        data, _ = forced_data(lab.data)
        first, *others = names.values()
        pairs = [(first, other) for other in others]
        for evaluation, metric in (
            (lab.measured(chosen), _SUCCESS),
            (lab.measured(forced, data=data), _FORCED),
        ):
            rows += evaluation.rows(metric, f"{top_k} candidates")
            comparisons += evaluation.compare(pairs, metric, f"{top_k} candidates", paper_gain=gain)
    return described(
        "figure6", rows, comparisons=comparisons, left_out=missing,
        draw=lambda: draw_rows(rows, "Hard against random negatives"),
    )  # fmt: skip


# -- ways to decode: Figure 9 and Table 3 ------------------------------------------------------------


def figure9(lab: Lab) -> Result:
    """Chain of thought against none, by the product's scoring and by the paper's decoding (section 3.7.2)."""
    top_k = lab.settings.candidates
    adapter, cot = lab.adapter_or_none(ITEM_ADAPTER), lab.adapter_or_none(COT_ADAPTER)
    trained = "" if cot else ", untrained"
    score, reason = (
        "candidates scored, no chain of thought",
        f"candidates scored behind a chain of thought{trained}",
    )
    generate = "written freely at temperature 0.1, no chain of thought"
    free = f"written freely behind a chain of thought{trained}"
    evaluation = lab.measured(
        {
            score: lab.end_to_end(top_k, adapter),
            reason: lab.end_to_end(top_k, cot, mode="reason"),
            generate: lab.end_to_end(top_k, adapter, mode="generate"),
            free: lab.end_to_end(top_k, cot, mode="reason", freely=True),
        }
    )
    dataset = lab.settings.paper_dataset()

    def paper(system: str, _metric: str) -> tuple[float | None, str]:
        known = dataset is not None and system == free
        return (PAPER["figure9_best"][dataset], "OpenAI, 8B, CoT") if known and dataset else (None, "")

    rows = evaluation.rows(_SUCCESS, f"{top_k} candidates", paper=paper)
    return described(
        "figure9",
        rows,
        comparisons=evaluation.compare([(reason, score), (free, generate)], _SUCCESS, f"{top_k} candidates"),
        left_out={} if cot else {"trained chain of thought": "no adapter item-expert-cot"},
        draw=lambda: draw_rows(rows, "Chain of thought against none"),
    )


def table3(lab: Lab) -> Result:
    """Share of answers that are no catalog item (section 3.6.2)."""
    adapter = lab.adapter_or_none(ITEM_ADAPTER)
    ours = "ReGeS" if adapter else "untrained item expert"
    top_k = lab.settings.candidates
    written, scored = f"{ours}, free text (the paper's decoding)", f"{ours}, scored (the default)"
    evaluation = lab.measured(
        {
            written: lab.end_to_end(top_k, adapter, mode="generate"),
            scored: lab.end_to_end(top_k, adapter),
            _FREE: _free_llm(lab),
        }
    )
    theirs = {written: "ReGeS Middle (8B)", _FREE: "LLM-CRS (GPT-4)"}
    rows = []
    examples = {}
    for system in evaluation.systems:
        judged = [h for h in system.hallucinated if h is not None]
        of = theirs.get(system.name, "")
        ratio = sum(judged) / len(judged) if judged else None
        rows.append(
            Row(
                system.name, "", "", "hallucination ratio", ratio, len(judged),
                paper=PAPER["table3"].get(of), paper_setting=of,
            )
        )  # fmt: skip
        answers = zip(system.predictions, system.hallucinated, strict=True)
        examples[system.name] = [p.answer for p, wrong in answers if p and wrong and p.answer][:10]
    ratios = rows.copy()
    # What a miss in free text costs: the paper's decoding has a success rate too.
    rows += evaluation.rows(_SUCCESS)
    return described(
        "table3", rows, extra={"examples": examples}, top_k=top_k,
        draw=lambda: draw_rows(ratios, "Answers that are no catalog item"),
    )  # fmt: skip

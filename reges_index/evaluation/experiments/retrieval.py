"""Generation-augmented retrieval: Figure 5, Figure 7 and Table 2, every arm with the same context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from scipy.stats import gaussian_kde

from reges_index.catalog.catalog import ItemCatalog
from reges_index.dialogue import Turn
from reges_index.evaluation.baselines import bm25_queries
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.paper import FIGURE5_GAINS, FIGURE5_RECALL
from reges_index.evaluation.experiments.result import (
    ComparisonRow,
    ExperimentResult,
    Row,
    compared,
    draw_rows,
    rows_of,
)
from reges_index.evaluation.experiments.systems import QUERY_NAMES, Ranked, embed_texts
from reges_index.evaluation.plots import COLOURS, bar_chart, legend_below, new_figure
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.stats import ClusterBootstrap, holm

__all__ = ["Arm", "figure5", "figure7", "query_arms", "table2", "text_scores"]

_CUTS = {f"recall@{k}": f"Recall@{k}" for k in (5, 10, 20, 50)}
_ORACLE = "pseudo-query (oracle)"
_CONTEXT = 4
"""Newest messages beside a query where the query expert advises none; four was chosen on dev."""
_FAIR = (
    "Arms of the same context stand side by side: each query alone, and each beside a vector of the newest "
    "messages. What the messages find without any model has a row of its own, so that it is no query's merit."
)


@dataclass(frozen=True)
class Arm:
    """One way to search.

    Attributes
    ----------
    key
        ``original``, ``direct``, ``augmented``, ``oracle`` or ``context``, with ``+`` where the newest
        messages stand beside it. Files of runs are named by it.
    name
        In the tables.
    texts
        Turn id to the texts whose mean vector is searched with; not for every turn, of the oracle.
    """

    key: str
    name: str
    texts: Mapping[str, Sequence[str]]


def query_arms(lab: Lab) -> tuple[dict[str, Arm], dict[str, str]]:
    """Return the arms that can run, by key, and the reasons for those that cannot.

    The oracle searches with the queries of ``--references``, which were written in sight of the target.
    """
    alone: dict[str, tuple[str, Mapping[str, Sequence[str]]]] = {}
    missing: dict[str, str] = {}
    for kind, name in QUERY_NAMES.items():
        try:
            alone[kind] = name, lab.queries(kind)
        except NotRunnable as error:
            missing[name] = error.message
    known = {t.id: [lab.references[t.id]] for t in lab.data.turns if lab.references.get(t.id, "").strip()}
    if known:
        alone["oracle"] = _ORACLE, known
    else:
        missing[_ORACLE] = "no reference queries were given (--references)"
    count = lab.advised_context or _CONTEXT
    spoken = lab.spoken(lab.data.turns, count)
    arms = {
        "context": Arm("context", f"last {count} messages, no model", {t: [s] for t, s in spoken.items()})
    }
    for key, (name, texts) in alone.items():
        arms[key] = Arm(key, name, texts)
        beside = {turn: [*own, spoken[turn]] for turn, own in texts.items()}
        arms[f"{key}+"] = Arm(f"{key}+", f"{name} + last {count} messages", beside)
    return arms, missing


def _pairs(arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """Return the comparisons of equal context: LLM_QR's query with every other one, alone and beside."""
    wanted = [
        *(("augmented", other) for other in ("original", "direct", "context", "oracle")),
        *(("augmented+", other) for other in ("original+", "direct+", "context", "oracle+")),
    ]
    return [(first, second) for first, second in wanted if first in arms and second in arms]


def _turns_of(lab: Lab, arm: Arm) -> Sequence[Turn]:
    return [turn for turn in lab.data.turns if turn.id in arm.texts]


def _predictions(lab: Lab, arm: Arm, number: int, catalog: ItemCatalog | None) -> list[Prediction]:
    turns = _turns_of(lab, arm)
    if catalog is not None:
        return lab.retrieved(arm.texts, arm.name, f"retrieved-{number}-{arm.key}", catalog, turns=turns)
    ranked = bm25_queries([" ".join(texts) for texts in arm.texts.values()], lab.data.items)
    rankings = dict(zip(arm.texts, ranked, strict=True))
    system = Ranked(arm.name, rankings, {turn: texts[0] for turn, texts in arm.texts.items()})
    return lab.run(system, rankings, {"retriever": "BM25"}, turns=turns, run=f"retrieved-bm25-{arm.key}")


def figure5(lab: Lab) -> ExperimentResult:
    """Recall of each kind of query over retrievers and cut-offs, alone and beside the newest messages."""
    arms, missing = query_arms(lab)
    retrievers: dict[str, ItemCatalog | None] = {
        lab.catalog.encoder.name: lab.catalog,
        **lab.retrievers,
        "BM25": None,
    }
    rows: list[Row] = []
    comparisons: list[ComparisonRow] = []
    cuts = {cut: _CUTS[cut] for cut in ("recall@5", "recall@20", "recall@50")}
    key_of = {arm.name: key for key, arm in arms.items()}

    def paper(system: str, metric: str) -> tuple[float | None, str]:
        known = (
            FIGURE5_RECALL.get((key_of[system], metric))
            if lab.settings.paper_dataset() == "inspired"
            else None
        )
        return known, "INSPIRED, DPR" if known is not None else ""

    for number, (retriever, catalog) in enumerate(retrievers.items()):
        made = {key: _predictions(lab, arm, number, catalog) for key, arm in arms.items()}
        # The oracle knows the queries of some turns only, so it is compared on those.
        for oracle in (False, True):
            keys = [key for key in arms if key.startswith("oracle") == oracle]
            pairs = [p for p in _pairs(arms) if any(key.startswith("oracle") for key in p) == oracle]
            if not keys:
                continue
            of = {*keys, *(key for pair in pairs for key in pair)}
            data = lab.data.subset(_turns_of(lab, arms["oracle"])) if oracle else None
            evaluation = lab.measured({arms[key].name: made[key] for key in arms if key in of}, data=data)
            wanted = {arms[key].name for key in keys}
            rows += [r for r in rows_of(evaluation, _CUTS, retriever, paper=paper) if r.system in wanted]
            comparisons += compared(
                evaluation, [(arms[a].name, arms[b].name) for a, b in pairs], cuts, retriever,
                paper_gain=lambda other, metric: FIGURE5_GAINS.get((key_of[other], metric)),
            )  # fmt: skip
    shown = [row for row in rows if row.metric == "Recall@20" and row.protocol == "all"]
    return ExperimentResult(
        name="figure5",
        title="Figure 5: retrieval by kind of query",
        source="Section 3.5, Generation-Augmented Retrieval",
        reading="The share of true items among the first k that each kind of query finds; compare arms of "
        "the same context only. What LLM_QR adds is its gain over the last messages without any "
        "model.",
        rows=rows,
        comparisons=comparisons,
        notes=[
            _FAIR,
            "The paper's gains are averages over its three retrievers and two data sets.",
            "The oracle's queries were written in sight of the target: a ceiling, on turns that have one.",
            "BM25 searches the same item texts with the same queries.",
            "Original is the whole dialogue as text; dense encoders cut it at their own limit (256 tokens "
            "for all-MiniLM-L6-v2), which is a part of why it does badly.",
        ],
        left_out=missing,
        draw=lambda: draw_rows(shown, "Retrieval by kind of query"),
    )


def figure7(lab: Lab) -> ExperimentResult:
    """Cosine of query and true item, by kind of query and encoder (section 3.6.1)."""
    arms, missing = query_arms(lab)
    pairs = [
        (turn, lab.data.by_id[target])
        for turn in lab.data.turns
        for target in dict.fromkeys(turn.targets)
        if target in lab.data.by_id
    ]
    if not pairs:
        raise NotRunnable("no target is in the catalog")
    numbers = {name: n for n, name in enumerate(dict.fromkeys(t.dialog_id or t.id for t, _ in pairs))}
    clusters = np.array([numbers[turn.dialog_id or turn.id] for turn, _ in pairs], dtype=np.int64)
    s = lab.settings
    rows: list[Row] = []
    comparisons: list[ComparisonRow] = []
    drawn: dict[str, dict[str, Any]] = {}
    for encoder, catalog in {lab.catalog.encoder.name: lab.catalog, **lab.retrievers}.items():
        truth = np.asarray(catalog.embed_model.get_text_embedding_batch([item.text() for _, item in pairs]))
        cosines: dict[str, Any] = {}
        held: dict[str, Any] = {}
        for key, arm in arms.items():
            held[key] = np.array([turn.id in arm.texts for turn, _ in pairs])
            own = [turn for turn, _ in pairs if turn.id in arm.texts]
            asked = embed_texts([arm.texts[turn.id] for turn in own], catalog.embed_model)
            true = truth[held[key]]
            lengths = np.linalg.norm(asked, axis=1) * np.linalg.norm(true, axis=1)
            cosines[key] = np.full(len(pairs), np.nan)
            cosines[key][held[key]] = np.einsum("nd,nd->n", asked, true) / lengths
            values = cosines[key][held[key]]
            mean = _bootstrap(clusters[held[key]], s).estimate(values[:, None])[0]
            rows.append(
                Row(arm.name, encoder, "all", "mean cosine", mean.value, len(values), mean.low, mean.high)
            )
            for share in (0.25, 0.5, 0.75):
                at = float(np.quantile(values, share))
                rows.append(Row(arm.name, encoder, "all", f"{share:.0%} quantile", at, len(values)))
        found = []
        for first, second in _pairs(arms):
            both = held[first] & held[second]
            one, other = cosines[first][both], cosines[second][both]
            test = _bootstrap(clusters[both], s).compare(one[:, None], other[:, None])[0]
            found.append((first, second, float(other.mean()), test))
        adjusted = holm([test.p for *_, test in found])
        for (first, second, base, d), p in zip(found, adjusted, strict=True):
            comparisons.append(
                ComparisonRow(
                    arms[first].name, arms[second].name, encoder, "all", "mean cosine",
                    d.value, d.low, d.high, d.p, p, d.value / base if base else None,
                )
            )  # fmt: skip
        drawn[encoder] = {
            arm.name: cosines[key][held[key]] for key, arm in arms.items() if not key.endswith("+")
        }
    return ExperimentResult(
        name="figure7",
        title="Figure 7: cosine of query and true item",
        source="Section 3.6.1, Latent Space Alignment",
        reading="How near a query's vector lies to that of the true item; nearer is better, for one "
        "encoder only. A vector mixed with the last messages is compared with others that are "
        "mixed in the same way.",
        rows=rows,
        comparisons=comparisons,
        notes=[_FAIR, "The paper prints the distributions only, no numbers."],
        left_out=missing,
        draw=lambda: _draw_figure7(drawn),
    )


def _bootstrap(clusters: Any, settings: Any) -> ClusterBootstrap:
    _, numbers = np.unique(clusters, return_inverse=True)
    return ClusterBootstrap(numbers, resamples=settings.resamples, seed=settings.seed, level=settings.level)


def _draw_figure7(drawn: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = new_figure(4.8 * max(2, len(drawn)), 4.0)
    for axes, (encoder, series) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        low = min(float(values.min()) for values in series.values()) - 0.05
        high = max(float(values.max()) for values in series.values()) + 0.05
        grid = np.linspace(low, high, 300)
        for number, (name, values) in enumerate(series.items()):
            colour = COLOURS[number]
            if len(values) > 2 and float(np.ptp(values)) > 0:  # a density needs some spread
                density = gaussian_kde(values)(grid)
                axes.plot(grid, density, color=colour, label=f"{name}, mean {values.mean():.3f}")
                axes.fill_between(grid, density, color=colour, alpha=0.15)
            axes.axvline(float(values.mean()), color=colour, linestyle="--", linewidth=1)
        axes.set_title(encoder.split("/")[-1])
        axes.set_xlabel("cosine of query and true item")
        axes.set_ylabel("density")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    return figure


def table2(lab: Lab) -> ExperimentResult:
    """BLEU-1..3 and ROUGE-1/2/L of queries against reference queries (section 3.6.1)."""
    known = [turn.id for turn in lab.data.turns if lab.references.get(turn.id, "").strip()]
    if not known:
        raise NotRunnable("it needs reference queries for these turns (--references)")
    arms, missing = query_arms(lab)
    references = [lab.references[turn] for turn in known]
    # Texts are compared, not vectors: the query itself, or the messages themselves.
    compared_arms = [arms[key] for key in ("context", "original", "direct", "augmented") if key in arms]
    scores = {arm.name: text_scores([arm.texts[t][0] for t in known], references) for arm in compared_arms}
    rows = [
        Row(name, "", "", metric, value, len(known))
        for name, own in scores.items()
        for metric, value in own.items()
    ]
    metrics = list(next(iter(scores.values())))

    def draw() -> Figure:
        figure = new_figure(9.0, 4.0)
        axes = figure.subplots()
        bar_chart(axes, metrics, {name: list(own.values()) for name, own in scores.items()}, labels=True)
        axes.set_title(f"Queries against {len(known)} reference queries by an LLM")
        # Below the axes: the last bars are as high as the first.
        legend_below(figure, axes, 2)
        return figure

    return ExperimentResult(
        name="table2",
        title="Table 2: BLEU and ROUGE against references that an LLM wrote as the training's pseudo-queries",
        source="Section 3.6.1, there against queries of a linguist",
        reading="How many words and word pairs a query shares with one that an LLM wrote in sight of the "
        "target. It measures style; whether a query finds more is Figure 5's matter.",
        rows=rows,
        notes=[
            "The references were written by an LLM in the same way as the pseudo-queries that LLM_QR is "
            "trained on, so its row says how well it has learnt their style. The paper's figures are against "
            "a person's queries and do not compare; they are not shown.",
            "Corpus BLEU-n by sacrebleu (uniform weights up to n, brevity penalty, lower case, unsmoothed), "
            "mean F1 of ROUGE by rouge-score with stemming. The paper does not name its implementation.",
            f"{len(lab.data.turns) - len(known)} turns have no reference and are left out.",
        ],
        left_out={name: why for name, why in missing.items() if name != _ORACLE},
        draw=draw,
    )


def text_scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU-1..3 and ROUGE-1/2/L of texts against one reference each, all in [0, 1]."""
    scores = {
        f"BLEU-{n}": BLEU(max_ngram_order=n, lowercase=True, smooth_method="none")
        .corpus_score(list(texts), [list(references)])
        .score
        / 100
        for n in (1, 2, 3)
    }
    kinds = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    scorer = RougeScorer(list(kinds), use_stemmer=True)
    found = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return scores | {
        name: float(np.mean([score[kind].fmeasure for score in found])) for kind, name in kinds.items()
    }

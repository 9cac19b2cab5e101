"""Generation-augmented retrieval: Figure 5, Figure 7 and Table 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from scipy.stats import gaussian_kde

from reges_index.catalog.catalog import ItemCatalog
from reges_index.evaluation.baselines import bm25_queries
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.measure import compared, measured, rows_of
from reges_index.evaluation.experiments.paper import FIGURE5_GAINS, FIGURE5_RECALL, TABLE2
from reges_index.evaluation.experiments.queries import QUERY_NAMES, QueryKind, embed_texts
from reges_index.evaluation.experiments.result import ComparisonRow, ExperimentResult, Row
from reges_index.evaluation.experiments.systems import Ranked
from reges_index.evaluation.plots import COLOURS, bar_chart, legend_below, new_figure
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.stats import ClusterBootstrap, holm

__all__ = ["figure5", "figure7", "query_kinds", "table2"]

_CUTS = {f"recall@{k}": f"Recall@{k}" for k in (5, 10, 20, 50)}
_KIND_OF = {name: kind for kind, name in QUERY_NAMES.items()}


def query_kinds(lab: Lab) -> tuple[dict[QueryKind, dict[str, list[str]]], dict[str, str]]:
    """Return the queries of each kind that can run, and the reasons for those that cannot."""
    made: dict[QueryKind, dict[str, list[str]]] = {}
    missing: dict[str, str] = {}
    for kind, name in QUERY_NAMES.items():
        try:
            made[kind] = lab.queries(kind)
        except NotRunnable as error:
            missing[name] = error.message
    return made, missing


def _predictions(
    lab: Lab, kind: QueryKind, queries: dict[str, list[str]], number: int, catalog: ItemCatalog | None
) -> list[Prediction]:
    name = QUERY_NAMES[kind]
    if catalog is not None:
        return lab.retrieved(queries, name, f"retrieved-{number}-{kind}", catalog)
    ranked = bm25_queries([" ".join(texts) for texts in queries.values()], lab.data.items)
    system = Ranked(
        name,
        dict(zip(queries, ranked, strict=True)),
        {turn: texts[0] for turn, texts in queries.items()},
    )
    return lab.run(system, system.rankings, {"retriever": "BM25"}, run=f"retrieved-bm25-{kind}")


def figure5(lab: Lab) -> ExperimentResult:
    """Recall of Original, Direct Prompt and G-augmented R over retrievers and cut-offs (section 3.5)."""
    kinds, missing = query_kinds(lab)
    retrievers: dict[str, ItemCatalog | None] = {
        lab.catalog.encoder.name: lab.catalog,
        **lab.retrievers,
        "BM25": None,
    }
    rows: list[Row] = []
    comparisons: list[ComparisonRow] = []
    drawn: dict[str, list[Row]] = {}
    for number, (retriever, catalog) in enumerate(retrievers.items()):
        predictions = {}
        for kind, queries in kinds.items():
            predictions[QUERY_NAMES[kind]] = _predictions(lab, kind, queries, number, catalog)
        evaluation = measured(lab, predictions)
        found = rows_of(evaluation, _CUTS, retriever, paper=_figure5_paper(lab))
        rows += found
        drawn[retriever] = found
        names = list(predictions)
        ours = QUERY_NAMES["augmented"]
        pairs = [(ours, other) for other in names if other != ours] if ours in names else []
        comparisons += compared(
            evaluation, pairs, {c: _CUTS[c] for c in ("recall@5", "recall@20", "recall@50")}, retriever,
            paper_gain=lambda other, metric: FIGURE5_GAINS.get((_KIND_OF[other], metric)),
        )  # fmt: skip
    return ExperimentResult(
        name="figure5",
        title="Figure 5: retrieval by kind of query",
        source="Section 3.5, Generation-Augmented Retrieval",
        rows=rows,
        comparisons=comparisons,
        notes=[
            "The paper's gains are averages over its three retrievers and two data sets.",
            "BM25 searches the same item texts with the same queries.",
            "Original is the whole dialogue as text; dense encoders cut it at their own limit (256 tokens "
            "for all-MiniLM-L6-v2), which is a part of why it does badly.",
        ],
        left_out=missing,
        draw=lambda: _draw_figure5(drawn),
    )


def _figure5_paper(lab: Lab) -> Any:
    def value(system: str, metric: str) -> tuple[float | None, str]:
        known = FIGURE5_RECALL.get((_KIND_OF[system], metric)) if lab.settings.dataset == "inspired" else None
        return known, "INSPIRED, DPR" if known is not None else ""

    return value


def _draw_figure5(drawn: Mapping[str, Sequence[Row]]) -> Figure:
    figure = new_figure(9.5, 3.3 * len(drawn))
    grid = figure.subplots(len(drawn), 2, squeeze=False)
    for line, (retriever, rows) in zip(grid, drawn.items(), strict=True):
        for axes, protocol in zip(line, ("all", "new"), strict=True):
            own = [row for row in rows if row.protocol == protocol]
            systems = list(dict.fromkeys(row.system for row in own))
            bar_chart(
                axes,
                list(_CUTS.values()),
                {s: [r.value for r in own if r.system == s] for s in systems},
                errors={s: [(r.low or 0.0, r.high or 0.0) for r in own if r.system == s] for s in systems},
            )
            axes.set_title(f"{retriever.split('/')[-1]}, {protocol} targets", fontsize=10)
    legend_below(figure, grid[0][0], 3)
    return figure


def figure7(lab: Lab) -> ExperimentResult:
    """Cosine of query and true item, by kind of query and encoder (section 3.6.1)."""
    kinds, missing = query_kinds(lab)
    pairs = [
        (turn, lab.data.by_id[target])
        for turn in lab.data.turns
        for target in dict.fromkeys(turn.targets)
        if target in lab.data.by_id
    ]
    if not pairs:
        raise NotRunnable("no target is in the catalog")
    dialogues = {turn.dialog_id or turn.id: None for turn, _ in pairs}
    numbers = {name: number for number, name in enumerate(dialogues)}
    clusters = np.array([numbers[turn.dialog_id or turn.id] for turn, _ in pairs], dtype=np.int64)
    s = lab.settings
    bootstrap = ClusterBootstrap(clusters, resamples=s.resamples, seed=s.seed, level=s.level)
    rows: list[Row] = []
    comparisons: list[ComparisonRow] = []
    drawn: dict[str, dict[str, Any]] = {}
    for encoder, catalog in {lab.catalog.encoder.name: lab.catalog, **lab.retrievers}.items():
        truth = np.asarray(catalog.embed_model.get_text_embedding_batch([item.text() for _, item in pairs]))
        cosines: dict[QueryKind, np.ndarray[Any, np.dtype[np.float64]]] = {}
        for kind, queries in kinds.items():
            asked = embed_texts([queries[turn.id] for turn, _ in pairs], catalog.embed_model)
            lengths = np.linalg.norm(asked, axis=1) * np.linalg.norm(truth, axis=1)
            cosines[kind] = np.einsum("nd,nd->n", asked, truth) / lengths
        for kind, values in cosines.items():
            mean = bootstrap.estimate(values[:, None])[0]
            name = QUERY_NAMES[kind]
            rows.append(
                Row(name, encoder, "all", "mean cosine", mean.value, len(values), mean.low, mean.high)
            )
            for share in (0.25, 0.5, 0.75):
                at = float(np.quantile(values, share))
                rows.append(Row(name, encoder, "all", f"{share:.0%} quantile", at, len(values)))
        others = [kind for kind in cosines if kind != "augmented"] if "augmented" in cosines else []
        tests = [
            bootstrap.compare(cosines["augmented"][:, None], cosines[other][:, None])[0] for other in others
        ]
        for other, d, adjusted in zip(others, tests, holm([test.p for test in tests]), strict=True):
            base = float(cosines[other].mean())
            comparisons.append(
                ComparisonRow(
                    QUERY_NAMES["augmented"], QUERY_NAMES[other], encoder, "all", "mean cosine",
                    d.value, d.low, d.high, d.p, adjusted, d.value / base if base else None,
                )
            )  # fmt: skip
        drawn[encoder] = {QUERY_NAMES[kind]: values for kind, values in cosines.items()}
    return ExperimentResult(
        name="figure7",
        title="Figure 7: cosine of query and true item",
        source="Section 3.6.1, Latent Space Alignment",
        rows=rows,
        comparisons=comparisons,
        notes=["The paper prints the distributions only, no numbers."],
        left_out=missing,
        extra={"cosines": {e: {k: v.tolist() for k, v in d.items()} for e, d in drawn.items()}},
        draw=lambda: _draw_figure7(drawn),
    )


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
    kinds, missing = query_kinds(lab)
    references = [lab.references[turn] for turn in known]
    rows: list[Row] = []
    drawn: dict[str, list[float | None]] = {}
    for kind, queries in kinds.items():
        texts = [queries[turn][0] for turn in known]
        scores = text_scores(texts, references)
        drawn[QUERY_NAMES[kind]] = list(scores.values())
        rows += [
            Row(QUERY_NAMES[kind], "", "", metric, value, len(known), paper=TABLE2[metric][kind],
                paper_setting="200 turns, human references")
            for metric, value in scores.items()
        ]  # fmt: skip

    def draw() -> Figure:
        figure = new_figure(9.0, 4.0)
        axes = figure.subplots()
        bar_chart(axes, list(TABLE2), drawn, labels=True)
        axes.set_title(f"Queries against {len(known)} reference queries")
        # Below the axes: the last bars are as high as the first.
        legend_below(figure, axes, 3)
        return figure

    return ExperimentResult(
        name="table2",
        title="Table 2: BLEU and ROUGE of queries",
        source="Section 3.6.1, Textual Similarity with Expert-Annotated Queries",
        rows=rows,
        notes=[
            "Corpus BLEU-n by sacrebleu (uniform weights up to n, brevity penalty, lower case, unsmoothed), "
            "mean F1 of ROUGE by rouge-score with stemming. The paper does not name its implementation.",
            f"{len(lab.data.turns) - len(known)} turns have no reference and are left out.",
        ],
        left_out=missing,
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

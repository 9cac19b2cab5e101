"""Generation-augmented retrieval: Figure 5, Figure 7 and Table 2, every arm with the same context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from scipy.stats import gaussian_kde

from reges_index.catalog.catalog import ItemCatalog
from reges_index.dialogue import Turn
from reges_index.evaluation.baselines import bm25_queries
from reges_index.evaluation.experiments.described import PAPER, described
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.systems import QUERY_NAMES, embed_texts
from reges_index.evaluation.metrics import make_pairs
from reges_index.evaluation.plots import COLOURS, draw_rows, new_figure
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.result import Result, Row
from reges_index.evaluation.stats import ClusterBootstrap, Comparison, compare_pairs

_CUTS = {f"recall@{k}": f"Recall@{k}" for k in (5, 10, 20, 50)}
_ORACLE = "pseudo-query (oracle)"
_CONTEXT = 4
"""Newest messages beside a query where the query expert advises none; four was chosen on dev."""


class Arm(NamedTuple):
    """One way to search: its name in the tables, and by turn id the texts whose mean vector is searched with.

    The oracle's are not for every turn.
    """

    name: str
    texts: Mapping[str, Sequence[str]]


def query_arms(lab: Lab) -> tuple[dict[str, Arm], dict[str, str]]:
    """Return the arms that can run, by key, and the reasons for those that cannot.

    Keys are ``original``, ``direct``, ``augmented``, ``oracle`` and ``context``, with ``+`` where the newest
    messages stand beside the query. The oracle searches with the queries of ``--references``, which were
    written in sight of the target.
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
    arms = {"context": Arm(f"last {count} messages, no model", {t: [s] for t, s in spoken.items()})}
    for key, (name, texts) in alone.items():
        arms[key] = Arm(name, texts)
        beside = {turn: [*own, spoken[turn]] for turn, own in texts.items()}
        arms[f"{key}+"] = Arm(f"{name} + last {count} messages", beside)
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


def _predictions(lab: Lab, arm: Arm, run: str, catalog: ItemCatalog | None) -> list[Prediction]:
    if catalog is not None:
        return lab.retrieved(arm.texts, run, catalog, turns=_turns_of(lab, arm))
    ranked = bm25_queries([" ".join(texts) for texts in arm.texts.values()], lab.data.items)
    return [Prediction(id=turn, ranking=own) for turn, own in zip(arm.texts, ranked, strict=True)]


def figure5(lab: Lab) -> Result:
    """Recall of each kind of query over retrievers and cut-offs, alone and beside the newest messages."""
    arms, missing = query_arms(lab)
    retrievers: dict[str, ItemCatalog | None] = {
        lab.catalog.encoder.name: lab.catalog,
        **lab.retrievers,
        "BM25": None,
    }
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    cuts = {cut: _CUTS[cut] for cut in ("recall@5", "recall@20", "recall@50")}
    key_of = {arm.name: key for key, arm in arms.items()}
    inspired = lab.settings.paper_dataset() == "inspired"

    def paper(system: str, metric: str) -> tuple[float | None, str]:
        known = PAPER["figure5_recall"].get(key_of[system], {}).get(metric) if inspired else None
        return known, "INSPIRED, DPR" if known is not None else ""

    for number, (retriever, catalog) in enumerate(retrievers.items()):
        made = {
            key: _predictions(lab, arm, f"retrieved-{number}-{key}", catalog) for key, arm in arms.items()
        }
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
            rows += [row for row in evaluation.rows(_CUTS, retriever, paper=paper) if row.system in wanted]
            comparisons += evaluation.compare(
                [(arms[a].name, arms[b].name) for a, b in pairs], cuts, retriever,
                paper_gain=lambda other, metric: PAPER["figure5_gains"].get(key_of[other], {}).get(metric),
            )  # fmt: skip
    shown = [row for row in rows if row.metric == "Recall@20" and row.protocol == "all"]
    return described(
        "figure5", rows, comparisons=comparisons, left_out=missing,
        draw=lambda: draw_rows(shown, "Retrieval by kind of query"),
    )  # fmt: skip


def figure7(lab: Lab) -> Result:
    """Cosine of query and true item, by kind of query and encoder (section 3.6.1)."""
    arms, missing = query_arms(lab)
    pairs = make_pairs(lab.data.turns, "all", lab.data.positions)
    inside = [n for n, target in enumerate(pairs.target) if target in lab.data.by_id]
    if not inside:
        raise NotRunnable("no target is in the catalog")
    turns = [lab.data.turns[number] for number in pairs.turn[inside]]
    items = [lab.data.by_id[pairs.target[n]] for n in inside]
    held = {key: np.array([turn.id in arm.texts for turn in turns]) for key, arm in arms.items()}

    def bootstrap(kept: NDArray[np.bool_]) -> ClusterBootstrap:
        _, clusters = np.unique(pairs.dialogue[inside][kept], return_inverse=True)
        s = lab.settings
        return ClusterBootstrap(clusters, resamples=s.resamples, seed=s.seed, level=s.level)

    rows: list[Row] = []
    comparisons: list[Comparison] = []
    drawn: dict[str, dict[str, Any]] = {}
    for encoder, catalog in {lab.catalog.encoder.name: lab.catalog, **lab.retrievers}.items():
        truth = _unit(catalog.embed_model.get_text_embedding_batch([item.text() for item in items]))
        cosines: dict[str, Any] = {}
        for key, arm in arms.items():
            own = [arm.texts[turn.id] for turn in turns if turn.id in arm.texts]
            values = np.full((len(turns), 1), np.nan)
            asked = _unit(embed_texts(own, catalog.embed_model))
            values[held[key], 0] = np.einsum("nd,nd->n", asked, truth[held[key]])
            cosines[key] = values
            found = values[held[key]]
            mean = bootstrap(held[key]).estimate(found)[0]
            rows.append(
                Row(arm.name, encoder, "all", "mean cosine", mean.value, len(found), mean.low, mean.high)
            )
            for share in (0.25, 0.5, 0.75):
                at = float(np.quantile(found, share))
                rows.append(Row(arm.name, encoder, "all", f"{share:.0%} quantile", at, len(found)))
        # The oracle knows the queries of some turns only, so it is compared on those.
        for oracle in (False, True):
            wanted = [p for p in _pairs(arms) if any(key.startswith("oracle") for key in p) == oracle]
            if not wanted:
                continue
            both = held["oracle"] if oracle else np.full(len(turns), True)
            comparisons += compare_pairs(
                bootstrap(both),
                {arms[key].name: values[both] for key, values in cosines.items()},
                [(arms[a].name, arms[b].name) for a, b in wanted],
                {"mean cosine": 0}, setting=encoder, protocol="all",
            )  # fmt: skip
        drawn[encoder] = {
            arm.name: cosines[key][held[key], 0] for key, arm in arms.items() if not key.endswith("+")
        }
    return described(
        "figure7", rows, comparisons=comparisons, left_out=missing, draw=lambda: _draw_figure7(drawn)
    )


def _unit(vectors: Any) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _draw_figure7(drawn: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = new_figure(4.8 * max(2, len(drawn)), 4.0)
    grid = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (encoder, series) in zip(grid, drawn.items(), strict=True):
        low = min(float(values.min()) for values in series.values()) - 0.05
        high = max(float(values.max()) for values in series.values()) + 0.05
        grid = np.linspace(low, high, 300)
        for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
            if len(values) > 2 and float(np.ptp(values)) > 0:  # a density needs some spread
                density = gaussian_kde(values)(grid)
                axes.plot(grid, density, color=colour, label=f"{name}, mean {values.mean():.3f}")
                axes.fill_between(grid, density, color=colour, alpha=0.15)
            axes.axvline(float(values.mean()), color=colour, linestyle="--", linewidth=1)
        axes.set(title=encoder.split("/")[-1], xlabel="cosine of query and true item", ylabel="density")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    return figure


def table2(lab: Lab) -> Result:
    """BLEU-1..3 and ROUGE-1/2/L of queries against reference queries (section 3.6.1)."""
    known = [turn.id for turn in lab.data.turns if lab.references.get(turn.id, "").strip()]
    if not known:
        raise NotRunnable("it needs reference queries for these turns (--references)")
    arms, missing = query_arms(lab)
    references = [lab.references[turn] for turn in known]
    # Texts are compared, not vectors: the query itself, or the messages themselves.
    compared = [arms[key] for key in ("context", "original", "direct", "augmented") if key in arms]
    rows = [
        Row(arm.name, "", "", metric, value, len(known))
        for arm in compared
        for metric, value in text_scores([arm.texts[t][0] for t in known], references).items()
    ]
    title = f"Queries against {len(known)} reference queries by an LLM"
    return described(
        "table2", rows, left_out={name: why for name, why in missing.items() if name != _ORACLE},
        draw=lambda: draw_rows(rows, title), without=len(lab.data.turns) - len(known),
    )  # fmt: skip


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

"""Figure 8: what the item expert is trained on against what it meets at inference (section 3.6.2)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from reges_index.dialogue import Turn, render_history
from reges_index.evaluation.experiments.described import described
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.systems import embed_texts
from reges_index.evaluation.plots import new_figure
from reges_index.evaluation.result import Result, Row

Vectors: TypeAlias = NDArray[np.float64]

_TRAIN_SAMPLE = 200
_SETS = {
    "random": "training, random negatives",
    "hard": "training, hard negatives",
    "inference": "inference",
}
_COLOURS = {"random": "#0072B2", "hard": "#E69F00", "inference": "#009E73"}


def figure8(lab: Lab) -> Result:
    """Distance of training inputs to inference inputs, with random and with hard negatives."""
    train = [t for t in lab.data.train if any(i in lab.data.by_id for i in t.targets)]
    if not train:
        raise NotRunnable("it needs train turns (--train)")
    s = lab.settings
    top_k = min(s.candidates, len(lab.data.items) - 1)
    sample = random.Random(s.seed).sample(train, min(_TRAIN_SAMPLE, len(train)))
    kind = lab.best_kind()
    retrieved = lab.retrieved(lab.searched(kind, train=sample), f"retrieved-train-{kind}", turns=sample)
    found = {made.id: made.ranking for made in retrieved}
    ids = [item.id for item in lab.data.items]
    sets: dict[str, tuple[Sequence[Turn], Mapping[str, Sequence[str]]]] = {
        "random": (sample, {t.id: _training_set(t, lab, None, ids, top_k) for t in sample}),
        "hard": (sample, {t.id: _training_set(t, lab, found[t.id], ids, top_k) for t in sample}),
        "inference": (lab.data.turns, lab.shown(top_k)),
    }
    vectors = {name: _input_vectors(lab, turns, shown) for name, (turns, shown) in sets.items()}
    rows = []
    for name in ("random", "hard"):
        count = len(vectors[name])
        auc = separability(vectors[name], vectors["inference"], seed=s.seed)
        rows.append(Row(_SETS[name], f"{top_k} candidates", "", "told apart (AUC)", auc, count))
    plane = PCA(n_components=2, random_state=s.seed).fit(np.concatenate(list(vectors.values())))
    points = {name: plane.transform(own) for name, own in vectors.items()}
    return described(
        "figure8", rows, extra={"points": {name: own.tolist() for name, own in points.items()}},
        draw=lambda: _draw(points, rows), sample=len(sample), seed=s.seed, kind=kind,
    )  # fmt: skip


def _training_set(
    turn: Turn, lab: Lab, retrieved: Sequence[str] | None, ids: Sequence[str], top_k: int
) -> list[str]:
    """Return the true item and top_k - 1 negatives, in random order (set S_i of section 2.4)."""
    draw = random.Random(f"{lab.settings.seed} {turn.id}")
    target = next(item for item in turn.targets if item in lab.data.by_id)
    pool = [item for item in (ids if retrieved is None else retrieved) if item not in turn.targets]
    others = draw.sample(pool, min(top_k - 1, len(pool))) if retrieved is None else pool[: top_k - 1]
    shown = [target, *others]
    draw.shuffle(shown)
    return shown


def _input_vectors(lab: Lab, turns: Sequence[Turn], shown: Mapping[str, Sequence[str]]) -> Vectors:
    needed = list(dict.fromkeys(item for turn in turns for item in shown[turn.id]))
    texts = [lab.data.by_id[item].text() for item in needed]
    encoded = np.asarray(lab.catalog.embed_model.get_text_embedding_batch(texts), dtype=np.float64)
    vector = dict(zip(needed, encoded, strict=True))
    said = embed_texts([[render_history(turn.chat).text] for turn in turns], lab.catalog.embed_model)
    listed = np.stack([np.mean([vector[item] for item in shown[turn.id]], axis=0) for turn in turns])
    mean: Vectors = (said + listed) / 2
    return mean


def separability(first: Vectors, second: Vectors, *, seed: int) -> float:
    """Return the cross-validated AUC of a linear classifier between two samples; 0.5 is chance."""
    both = np.concatenate([first, second])
    labels = np.repeat([0, 1], [len(first), len(second)])
    folds = min(5, len(first), len(second))
    if folds < 2:
        raise NotRunnable("it needs at least two turns on each side")
    order = np.random.default_rng(seed).permutation(len(both))
    scaled = (both - both.mean(0)) / (both.std(0) + 1e-9)
    chances: Any = cross_val_predict(
        LogisticRegression(C=0.1, max_iter=500),
        scaled[order],
        labels[order],
        cv=folds,
        method="predict_proba",
    )
    return float(roc_auc_score(labels[order], chances[:, 1]))


def _draw(points: Mapping[str, Vectors], rows: Sequence[Row]) -> Figure:
    figure = new_figure(9.5, 4.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, name in zip(panels, ("random", "hard"), strict=True):
        for part in ("inference", name):
            own = points[part]
            axes.scatter(own[:, 0], own[:, 1], s=9, alpha=0.55, color=_COLOURS[part], label=_SETS[part])
        said = ", ".join(f"{r.metric} {r.value:.3f}" for r in rows if r.system == _SETS[name])
        axes.set_title(f"{_SETS[name]}\n{said}", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        axes.set_xlabel("first principal component")
    panels[0].set_ylabel("second principal component")
    return figure

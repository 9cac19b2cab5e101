"""Shops of many kinds: what a way of finding items is worth where the catalog is swapped.

A folder holds one folder for each domain, with ``catalog.jsonl`` and ``turns.jsonl``; a turn may have
``suitable`` (items that an expert would accept, best first) and ``query`` (the pseudo-query of section 2.3)
beside the fields of every turn. From Python, an encoder is measured in seconds::

    from reges_index.evaluation.domains import measure_encoder, read_domains

    print(measure_encoder(read_domains("domains/dev"), "embedded").text())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity

from reges_index.catalog.demo import demo_catalog, demo_catalogs
from reges_index.catalog.encoder import embed_queries, resolve_encoder
from reges_index.catalog.readers import read_items
from reges_index.dialogue import Turn, render_history
from reges_index.dialogue.render import search_text
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.metrics import Pairs, make_pairs, score_pairs, visible
from reges_index.evaluation.stats import ClusterBootstrap, Comparison, Estimate, compare_pairs
from reges_index.files import json_lines, read_json

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

DOMAIN_METRICS = ("recall@1", "suitable@1", "recall@5", "recall@10", "mrr")
MEAN = "mean"
"""Stands for the average over domains, where a domain's name would stand."""

Rankings = Mapping[str, Sequence[str]]
"""Turn id to item ids, best first."""


@dataclass(frozen=True)
class DomainSet:
    """One domain: its items, its turns, and what stands beside the turns.

    Attributes
    ----------
    name
        Of the folder.
    domain
        What an item is called.
    data
        Turns and catalog.
    suitable
        Turn id to the items that an expert would accept; a turn without has its targets.
    queries
        Turn id to its pseudo-query, which was written in sight of the target; empty where there is none.
    old
        Turn id to the items that fit what was asked for before, where the last message changes the topic.
    """

    name: str
    domain: Domain
    data: EvaluationData
    suitable: Mapping[str, tuple[str, ...]]
    queries: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_domains(folder: str | Path, *, limit: int | None = None) -> list[DomainSet]:
    """Read the domains in a folder, or the one that the folder itself is, in the order of their names.

    Parameters
    ----------
    folder
        ``nouns.json`` in it, or beside it, says what an item is called in each domain ({NAME: NOUN}); else it
        is an "item".
    limit
        Most turns of each domain.

    Raises
    ------
    InputError
        If there is no domain in the folder, or a file is malformed.
    """
    folder = Path(folder)
    found = [path for path in (folder, *sorted(folder.glob("*"))) if (path / "turns.jsonl").is_file()]
    if not found:
        raise InputError(
            f"{folder}: no domain in it",
            hint="give a folder whose folders hold catalog.jsonl and turns.jsonl",
        )
    nouns: dict[str, Any] = {}
    for place in (folder.parent, folder):
        if (place / "nouns.json").is_file():
            nouns |= read_json(place / "nouns.json")
    return [_read_domain(path, nouns.get(path.name), limit) for path in found]


def _read_domain(path: Path, noun: str | None, limit: int | None) -> DomainSet:
    turns = path / "turns.jsonl"
    data = EvaluationData.read(turns, path / "catalog.jsonl")
    if limit is not None:
        data = data.subset(data.turns[:limit])
    rows = {str(row.get("id")): row for _, row in json_lines(turns)}
    return DomainSet(
        name=path.name,
        domain=Domain(noun, f"{noun}s") if noun else Domain("item", "items"),
        data=data,
        suitable={t.id: tuple(map(str, rows[t.id].get("suitable") or t.targets)) for t in data.turns},
        queries={t.id: rows[t.id]["query"] for t in data.turns if rows[t.id].get("query")},
    )


def read_topic_changes() -> list[DomainSet]:
    """Return the dialogues that come with the package, whose last message asks for something else.

    They are over films, books and cocktails, with the items that fit the last wish as targets.
    """
    folder = resources.files(__package__) / "topic_change"
    nouns = {"films": MOVIES, "books": Domain("book", "books"), "cocktails": Domain("cocktail", "cocktails")}
    with resources.as_file(folder) as place:
        items = {
            name: demo_catalog(name) if name in demo_catalogs() else read_items(place / f"{name}.jsonl")
            for name in nouns
        }
        rows = [row for _, row in json_lines(place / "dialogues.jsonl")]
    found = []
    for name, noun in nouns.items():
        own = {row["id"]: row for row in rows if row["domain"] == name}
        turns = tuple(
            Turn(id=id_, dialog_id=id_, messages=r["messages"], targets=r["new"], mentioned=r["mentioned"])
            for id_, r in own.items()
        )
        data = EvaluationData(turns, tuple(items[name]))
        suitable = {turn.id: turn.targets for turn in turns}
        old = {id_: tuple(row["old"]) for id_, row in own.items()}
        found.append(DomainSet(name, noun, data, suitable, old=old))
    return found


# -- scoring -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DomainTable:
    """Systems over domains: values with intervals, and paired tests on the mean.

    Attributes
    ----------
    values
        System, then domain or `MEAN`, then metric.
    turns, dialogues
        How many are counted, by domain and for `MEAN` in all.
    """

    values: dict[str, dict[str, dict[str, Estimate]]]
    turns: dict[str, int]
    dialogues: dict[str, int]
    _scores: dict[str, NDArray[np.float64]]
    _clusters: NDArray[np.int64]

    def text(self) -> str:
        """Return the means over the domains as text."""
        width = max(map(len, self.values))
        lines = [" " * width + "".join(f"{metric:>26}" for metric in DOMAIN_METRICS)]
        for system, by_domain in self.values.items():
            cells = (by_domain[MEAN][metric] for metric in DOMAIN_METRICS)
            shown = "".join(f"{f'{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]':>26}" for e in cells)
            lines.append(f"{system:<{width}}{shown}")
        return "\n".join(lines)

    def compare(
        self, pairs: Sequence[tuple[str, str]], metrics: Mapping[str, str], setting: str = "", **options: Any
    ) -> list[Comparison]:
        """Test systems against each other over all dialogues of all domains.

        Parameters
        ----------
        metrics
            Name in `DOMAIN_METRICS` to the name in the table.
        options
            Of `ClusterBootstrap`.
        """
        columns = {shown: DOMAIN_METRICS.index(metric) for metric, shown in metrics.items()}
        bootstrap = ClusterBootstrap(self._clusters, **options)
        return compare_pairs(bootstrap, self._scores, pairs, columns, setting=setting, protocol="new")


def topic_shares(domains: Sequence[DomainSet], rankings: Mapping[str, Rankings]) -> NDArray[np.float64]:
    """Return for each turn whether the first item fits the last wish, and whether it fits the one before.

    Items that the dialogue has named are left out of the rankings first. Shape (turns, 2), each 0 or 1.
    """
    rows = []
    for own in domains:
        for turn in own.data.turns:
            left = visible(rankings.get(own.name, {}).get(turn.id, ()), frozenset(turn.mentioned or ()))
            rows.append([bool(set(left[:1]) & set(fit)) for fit in (turn.targets, own.old[turn.id])])
    return np.asarray(rows, dtype=np.float64)


def score_domains(
    domains: Sequence[DomainSet],
    systems: Mapping[str, Mapping[str, Rankings]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> DomainTable:
    """Score rankings: Recall@1, @5 and @10, whether the first item is suitable, and the reciprocal rank.

    Only targets that the dialogue has not named count, and named items leave every ranking first (the
    protocol ``new``). The mean gives every domain the same weight; its interval draws dialogues within each.

    Parameters
    ----------
    systems
        System to domain to ranking of each turn; a turn without one is a miss.
    """
    pairs = {own.name: make_pairs(own.data.turns, "new", own.data.positions) for own in domains}
    tail = (1 - level) / 2
    scores: dict[str, NDArray[np.float64]] = {}
    values: dict[str, dict[str, dict[str, Estimate]]] = {}
    for system, rankings in systems.items():
        found = [_scores(own, pairs[own.name], rankings.get(own.name, {})) for own in domains]
        scores[system], values[system], drawn = np.concatenate(found), {}, []
        for number, (own, its) in enumerate(zip(domains, found, strict=True)):
            bootstrap = ClusterBootstrap(
                pairs[own.name].dialogue, resamples=resamples, seed=seed + number, level=level
            )
            values[system][own.name] = dict(zip(DOMAIN_METRICS, bootstrap.estimate(its), strict=True))
            drawn.append(bootstrap.distribution(its, "target"))
        mean = np.mean([its.mean(axis=0) for its in found], axis=0)
        ends = np.quantile(np.mean(drawn, axis=0), [tail, 1 - tail], axis=0)
        values[system][MEAN] = {
            metric: Estimate(*map(float, row))
            for metric, *row in zip(DOMAIN_METRICS, mean, *ends, strict=True)
        }
    counts = {name: own.counts for name, own in pairs.items()}
    turns = {name: own["turns_counted"] for name, own in counts.items()}
    dialogues = {name: own["dialogues_counted"] for name, own in counts.items()}
    before = np.cumsum([0, *dialogues.values()])
    clusters = [own.dialogue + offset for own, offset in zip(pairs.values(), before, strict=False)]
    turns[MEAN], dialogues[MEAN] = sum(turns.values()), sum(dialogues.values())
    return DomainTable(values, turns, dialogues, scores, np.concatenate(clusters))


def _scores(own: DomainSet, pairs: Pairs, rankings: Rankings) -> NDArray[np.float64]:
    ranked = [tuple(rankings.get(turn.id, ())) for turn in own.data.turns]
    rank = score_pairs(pairs, ranked, own.data.positions).rank
    firsts = [visible(ranked[t], pairs.excluded[t])[:1] for t in pairs.turn.tolist()]
    turns = [own.data.turns[t].id for t in pairs.turn.tolist()]
    suits = [bool(set(first) & set(own.suitable[t])) for first, t in zip(firsts, turns, strict=True)]
    hits = {k: (rank > 0) & (rank <= k) for k in (1, 5, 10)}
    return np.column_stack(
        [hits[1], suits, hits[5], hits[10], np.where(rank > 0, 1 / np.maximum(rank, 1), 0)]
    ).astype(np.float64)


# -- retrievers that are nothing but an encoder ---------------------------------------------------------


def _of_user(turn: Turn) -> list[str]:
    said = [message.content for message in turn.messages if message.role == "user"]
    return said or [turn.messages[-1].content]


QUERY_TEXTS: dict[str, Callable[[Turn], str]] = {
    "last message": lambda turn: _of_user(turn)[-1],
    "all user messages": lambda turn: "\n".join(_of_user(turn)),
    "whole dialogue": lambda turn: render_history(turn.chat).text,
    "whole dialogue, newest first": lambda turn: search_text(turn.chat),
}
"""What an app without an LLM would search with. Encoders cut long texts at the end, so the order counts."""

ORACLE = "pseudo-query (oracle)"
"""The query that was written in sight of the target: what a perfect query expert of its kind would reach."""


def rank_by_vectors(
    own: DomainSet, queries: Mapping[str, Sequence[float]], items: Sequence[Sequence[float]]
) -> dict[str, list[str]]:
    """Rank all items of a domain by their cosine with each query.

    Parameters
    ----------
    queries
        Turn id to vector.
    items
        A vector for each item of ``own.data.items``, in that order.
    """
    order = np.argsort(-cosine_similarity(list(queries.values()), items), axis=1, kind="stable")
    ids = [item.id for item in own.data.items]
    return {turn: [ids[place] for place in row] for turn, row in zip(queries, order.tolist(), strict=True)}


def encoder_rankings(
    domains: Sequence[DomainSet], embed_model: BaseEmbedding | str | None
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return what an encoder alone finds for each kind of `QUERY_TEXTS`, and for the pseudo-queries.

    Each text is embedded once, and the texts of a domain together.
    """
    model = resolve_encoder(embed_model)
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for own in domains:
        texts = {kind: {t.id: write(t) for t in own.data.turns} for kind, write in QUERY_TEXTS.items()}
        texts = {k: by_turn for k, by_turn in (texts | {ORACLE: dict(own.queries)}).items() if by_turn}
        different = list(dict.fromkeys(text for by_turn in texts.values() for text in by_turn.values()))
        vectors = dict(zip(different, embed_queries(model, different), strict=True))
        items = model.get_text_embedding_batch([item.text() for item in own.data.items])
        for kind, by_turn in texts.items():
            asked = {turn: vectors[text] for turn, text in by_turn.items()}
            found.setdefault(kind, {})[own.name] = rank_by_vectors(own, asked, items)
    return found


def measure_encoder(
    domains: Sequence[DomainSet] | str | Path,
    embed_model: BaseEmbedding | str | None = None,
    *,
    resamples: int = 1_000,
) -> DomainTable:
    """Measure an encoder as a stock retriever: by last message, all user messages, whole dialogue, oracle.

    Parameters
    ----------
    domains
        From `read_domains`, or the folder.
    embed_model
        An embedding, or a name as for `resolve_encoder`.
    """
    if isinstance(domains, (str, Path)):
        domains = read_domains(domains)
    return score_domains(domains, encoder_rankings(domains, embed_model), resamples=resamples)

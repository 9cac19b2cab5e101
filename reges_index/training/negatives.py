"""Hard negatives: what the retriever finds with LLM_QR's query, without the truth (section 2.4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import QueryBundle

from reges_index.catalog import Item, ItemCatalog
from reges_index.catalog.encoder import embed_queries
from reges_index.dialogue import DialogueQueryBundle, Turn, newest_text, one_line
from reges_index.dialogue.unchanged import turn_hash
from reges_index.errors import ConfigError, InputError
from reges_index.files import RunLog
from reges_index.models.backend import LocalBackend
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform
from reges_index.training.annotate import Progress

__all__ = ["NegativesReport", "mine_negatives"]

logger = logging.getLogger(__name__)


@dataclass
class NegativesReport:
    """What mining gave. Counts are of this run, except ``already``.

    Attributes
    ----------
    out
        The file.
    turns, written, already
        Turns given, rows written, and turns that the file held before.
    without_target, unknown_target, without_query
        Ids of turns without a target, without one in the catalog, or without a query in the file.
    targets_removed, lookalikes_removed
        Retrieved items left out because they are targets of the turn, or have title and year of one.
    turns_with_target_found
        Turns with a target among their first ``top_k`` hits: the hits that LLM_QR scores in training.
    short
        Ids of turns with fewer negatives than ``top_k``: the catalog holds no more.
    fallbacks
        Turns for which LLM_QR wrote no query and the last message was searched with.
    repaired_bytes
        Length of the half-written line that a killed run had left.
    seconds
        Wall clock.
    """

    out: str
    turns: int = 0
    written: int = 0
    already: int = 0
    without_target: list[str] = field(default_factory=list)
    unknown_target: list[str] = field(default_factory=list)
    without_query: list[str] = field(default_factory=list)
    targets_removed: int = 0
    lookalikes_removed: int = 0
    turns_with_target_found: int = 0
    short: list[str] = field(default_factory=list)
    fallbacks: int = 0
    repaired_bytes: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


class _Lookalikes:
    """Items that nobody can tell apart by title and year."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._key_of: dict[str, tuple[str, int | None]] = {}
        self._ids_of: dict[tuple[str, int | None], set[str]] = {}
        for item in items:
            key = (one_line(item.title).casefold(), item.year)
            self._key_of[item.id] = key
            self._ids_of.setdefault(key, set()).add(item.id)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._key_of

    def of(self, targets: Iterable[str]) -> set[str]:
        """Return the ids with title and year of one of the targets, the targets among them."""
        known = (self._key_of[target] for target in targets if target in self._key_of)
        return set().union(*(self._ids_of[key] for key in known))


def mine_negatives(
    turns: Sequence[Turn],
    queries: Mapping[str, str] | ReGeSQueryTransform,
    catalog: ItemCatalog,
    out: str | Path,
    *,
    top_k: int = 50,
    context_messages: int = 0,
    batch_size: int = 32,
    made_by: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> NegativesReport:
    """Retrieve each turn's nearest wrong items with LLM_QR's query.

    A turn with several targets has one list: none of its targets is in it, and the item expert makes one
    example of each target with the same negatives. Items with title and year of a target are false
    negatives (a catalog may hold a film twice) and kept out too.

    Parameters
    ----------
    turns
        Those with a target in the catalog are mined; the others are listed in the report.
    queries
        The trained query expert, or queries that are there already: id of the turn to query.
    catalog
        Where to look. Its retriever and its encoder's mean over several query texts are those of inference.
    out
        JSONL, ``{"id", "query", "negatives": [{"id", "rank", "score"}], "targets": [...]}`` a line: ranks
        from 1, the removed items counted; scores are cosines. ``targets`` are those of the turn that were
        retrieved before the last negative. ``made_from`` is a hash of the turn. A file that an earlier run
        began is continued, also with turns that are new.
    top_k
        Negatives a turn, 50 in the paper; fewer when the catalog holds no more.
    context_messages
        For queries that are there already: how many of the newest messages are searched with beside the
        query. A query expert has this in its decoding (`QueryDecoding`).
    batch_size
        Turns that are decoded and retrieved together.
    made_by
        What else the rows depend on, such as a hash of the adapter; a file is not continued when it differs.
    progress
        Called with the number of turns done and to do.

    Raises
    ------
    ConfigError
        If ``top_k`` or ``batch_size`` is below 1, ``context_messages`` below 0, or given together with a
        query expert.
    InputError
        If ``out`` was begun with another catalog, model or other settings, a turn in it has changed since,
        or no turn is left to mine.
    StorageError
        If the disk is full; what was written is kept.
    """
    if top_k < 1 or batch_size < 1:
        raise ConfigError(f"top_k={top_k}, batch_size={batch_size}: both have to be 1 or more")
    if context_messages < 0 or (context_messages and not isinstance(queries, Mapping)):
        raise ConfigError(
            f"context_messages={context_messages} is for queries from a file, and 0 or more",
            hint="a query expert takes it from its decoding",
        )
    out, started = Path(out), time.monotonic()
    report = NegativesReport(str(out), turns=len(turns))
    lookalikes = _Lookalikes(catalog.items())
    source = "file" if isinstance(queries, Mapping) else "query-expert"
    settings = {
        "task": "negatives", "queries": source, "top_k": top_k, "items": len(catalog),
        "catalog": catalog.fingerprint(), "context_messages": context_messages,
        "encoder": asdict(catalog.encoder), **_writer_of(queries), **(made_by or {}),
    }  # fmt: skip
    with RunLog(out, settings) as log:
        report.repaired_bytes = log.repaired
        log.require_unchanged({turn.id: _turn_hash(turn) for turn in turns}, what="messages or targets")
        waiting = _waiting(turns, queries, lookalikes, log.finished, report)
        if not waiting and not report.already:
            raise InputError(
                f"none of {len(turns)} turns can be mined: {len(report.without_target)} without target, "
                f"{len(report.unknown_target)} with targets that are not in the catalog, "
                f"{len(report.without_query)} without query",
                hint="check that turns, queries and catalog are of the same data set",
            )
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            rows = list(_mine(batch, queries, catalog, lookalikes, top_k, context_messages, report))
            log.write(rows)
            report.written += len(rows)
            if progress is not None:
                progress(start + len(batch), len(waiting))
    report.seconds = time.monotonic() - started
    return report


def _writer_of(queries: Mapping[str, str] | ReGeSQueryTransform) -> dict[str, Any]:
    """Return what a query expert's queries depend on, its adapter's weights apart."""
    if isinstance(queries, Mapping):
        return {}
    backend, template = queries.backend, queries.get_prompts()["query_prompt"]
    assert isinstance(template, PromptTemplate)  # the transform takes no other
    return {
        "model": backend.name,  # which a fingerprint, blind to the weights, does not tell apart
        "base": backend.lm.fingerprint if isinstance(backend, LocalBackend) else None,
        "prompt": query_prompt_hash(template),
        "item": [queries.domain.noun, queries.domain.plural],
        "query_decoding": queries.decoding.model_dump(),
        "max_history_tokens": queries.max_history_tokens,
    }


def _turn_hash(turn: Turn) -> str:
    return turn_hash(turn, turn.targets)


def _waiting(
    turns: Sequence[Turn],
    queries: Mapping[str, str] | ReGeSQueryTransform,
    known: _Lookalikes,
    done: Collection[str],
    report: NegativesReport,
) -> list[Turn]:
    waiting: list[Turn] = []
    for turn in turns:
        if turn.id in done:
            report.already += 1
        elif not turn.targets:
            report.without_target.append(turn.id)
        elif not any(target in known for target in turn.targets):
            report.unknown_target.append(turn.id)
        elif isinstance(queries, Mapping) and turn.id not in queries:
            report.without_query.append(turn.id)
        else:
            waiting.append(turn)
    return waiting


def _mine(
    turns: Sequence[Turn],
    queries: Mapping[str, str] | ReGeSQueryTransform,
    catalog: ItemCatalog,
    lookalikes: _Lookalikes,
    top_k: int,
    context_messages: int,
    report: NegativesReport,
) -> Iterable[dict[str, Any]]:
    bundles: list[QueryBundle]
    if isinstance(queries, Mapping):
        bundles = [_with_newest(queries[turn.id], turn, context_messages) for turn in turns]
    else:
        refined = queries.run_batch([DialogueQueryBundle.from_dialogue(turn) for turn in turns])
        report.fallbacks += sum(bool(bundle.report["query"]["fallback"]) for bundle in refined)
        bundles = list(refined)
    excluded = [lookalikes.of(turn.targets) for turn in turns]
    # However many of the excluded are found, top_k others are left.
    depth = top_k + max(len(ids) for ids in excluded)
    hits = catalog.retrieve_batch(_vectors(bundles, catalog), top_k=depth)
    for turn, bundle, out_of_it, found in zip(turns, bundles, excluded, hits, strict=True):
        others = [(rank, hit) for rank, hit in enumerate(found, 1) if hit[0] not in out_of_it][:top_k]
        looked_at = found[: others[-1][0]] if len(others) == top_k else found
        targets = [(rank, hit) for rank, hit in enumerate(looked_at, 1) if hit[0] in turn.targets]
        report.targets_removed += len(targets)
        report.lookalikes_removed += sum(item_id in out_of_it for item_id, _ in looked_at) - len(targets)
        report.turns_with_target_found += any(item_id in turn.targets for item_id, _ in found[:top_k])
        if len(others) < top_k:
            report.short.append(turn.id)
        yield {
            "id": turn.id,
            "query": bundle.query_str,
            "negatives": _entries(others),
            "targets": _entries(targets),
            RunLog.MADE_FROM: _turn_hash(turn),
        }


def _entries(ranked: Iterable[tuple[int, tuple[str, float]]]) -> list[dict[str, Any]]:
    return [{"id": item_id, "rank": rank, "score": round(score, 6)} for rank, (item_id, score) in ranked]


def _with_newest(query: str, turn: Turn, context_messages: int) -> QueryBundle:
    """Return what a query expert with ``context_messages`` in its decoding searches with."""
    newest = newest_text(turn.chat, context_messages)
    return QueryBundle(query, custom_embedding_strs=[query, newest] if newest else None)


def _vectors(bundles: Sequence[QueryBundle], catalog: ItemCatalog) -> list[list[float]]:
    """Return one vector a bundle: the mean over its texts, as the catalog's retriever makes it."""
    texts = [[text for text in bundle.embedding_strs if text.strip()] for bundle in bundles]
    embedded = iter(embed_queries(catalog.embed_model, [text for own in texts for text in own]))
    means = (np.mean([next(embedded) for _ in own], axis=0) for own in texts)
    return [[float(value) for value in mean] for mean in means]

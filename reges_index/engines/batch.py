"""Batch prediction over many turns, streamed to a file that a killed run goes on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reges_index.dialogue.messages import turn_hash
from reges_index.errors import ConfigError
from reges_index.files import RunLog

if TYPE_CHECKING:
    from reges_index.dialogue import Turn
    from reges_index.engines.query_engine import Recommendation, ReGeSQueryEngine


def prediction_row(turn: Turn, found: Recommendation) -> dict[str, Any]:
    """Return the line of one turn: id, query, ranking, probabilities, recommendation, and how it went.

    ``reasoning`` is there where the item expert wrote some, so that the file can be learnt from as it is.
    ``tokens`` are those that the stages count, by the measure of their model; a stage that did not ask one
    has none.
    """
    query, rerank = found.report.get("query", {}), found.report.get("rerank", {})
    tokens = {
        "query history": query.get("history_tokens"),
        "rerank candidates": rerank.get("candidate_tokens"),
        "rerank reasoning": rerank.get("reasoning_tokens"),
    }
    return {
        "id": turn.id,
        "query": found.query,
        "ranking": found.ranking,
        "probabilities": [c.probability for c in found.candidates],
        **_of_prior(found, rerank),
        "recommendation": found.item.id if found.item else None,
        **({"reasoning": rerank["reasoning"]} if rerank.get("reasoning") else {}),
        "hallucinated": rerank.get("outcome") == "hallucinated",
        "timings": found.timings,
        "tokens": {stage: count for stage, count in tokens.items() if count is not None},
        RunLog.MADE_FROM: _made_from(turn),
    }


def _of_prior(found: Recommendation, rerank: Mapping[str, Any]) -> dict[str, Any]:
    """Return the retriever's probabilities and what the item expert's word weighed beside them."""
    if not rerank.get("prior"):
        return {}
    prior = [c.retrieval_score for c in found.candidates]
    return {"prior": prior, "prior_weight": rerank["prior_weight"], "evidence": rerank["evidence"]}


def _made_from(turn: Turn) -> str:
    return turn_hash(turn, turn.mentioned)


def require_turns(log: RunLog, turns: Sequence[Turn]) -> None:
    """Refuse to go on where a finished turn is another one now: same id, other messages or mentions.

    Raises
    ------
    InputError
        Naming the turns.
    """
    log.require_unchanged({turn.id: _made_from(turn) for turn in turns}, what="messages or mentions")


def predict_turns(
    engine: ReGeSQueryEngine,
    turns: Sequence[Turn],
    log: RunLog,
    *,
    batch_size: int = 8,
    exclude_ids: Iterable[str] = (),
    show_progress: bool = False,
) -> Counter[str]:
    """Predict for every turn that the log has not yet, and write the rows, batches sorted by length.

    With the engine's ``exclude_mentioned`` the items labelled as ``mentioned`` in a turn are excluded
    beside those that are found by title, and ``exclude_ids`` in any case. The progress bar goes to standard
    error.

    Returns
    -------
    How often something was cut or went wrong, by name.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} cannot be used", hint="give at least 1")
    counts: Counter[str] = Counter()
    todo = [turn for turn in turns if turn.id not in log.finished]
    unwanted = list(exclude_ids)
    order = sorted(todo, key=lambda turn: sum(len(message.content) for message in turn.messages))
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(order), batch_size)
    for start in track(starts, "predicting", console=Console(stderr=True), disable=not show_progress):
        batch = order[start : start + batch_size]
        named = [turn.mentioned or () if engine.exclude_mentioned else () for turn in batch]
        results = engine.recommend_batch(batch, exclude_ids=[[*unwanted, *its] for its in named])
        log.write([prediction_row(t, found) for t, found in zip(batch, results, strict=True)])
        for found in results:
            counts.update(_notes(found))
    return counts


def _notes(found: Recommendation) -> Counter[str]:
    query, rerank = found.report.get("query", {}), found.report.get("rerank", {})
    notes = {
        "dialogues_cut": any(
            part.get(cut) for part in (query, rerank) for cut in ("messages_dropped", "message_shortened")
        ),
        "abstracts_shortened": bool(rerank.get("candidates_shortened")),
        "query_fallbacks": bool(query.get("fallback")),
        "hallucinations": rerank.get("outcome") == "hallucinated",
        "selection_fallbacks": bool(rerank.get("fallbacks")),
        "selection_failures": rerank.get("outcome") == "failed",
        "nothing_to_recommend": found.item is None,
    }
    return Counter({name: int(happened) for name, happened in notes.items()})

"""Hard negatives: what the retriever finds with LLM_QR's query, without the truth in sight (section 2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import QueryBundle

from reges_index.catalog import ItemCatalog
from reges_index.dialogue import DialogueQueryBundle, Turn, newest_text
from reges_index.dialogue.messages import turn_hash
from reges_index.errors import ConfigError, InputError
from reges_index.files import RunLog
from reges_index.models.backend import LocalBackend
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform
from reges_index.training.annotate import Progress, TurnReport, turn_file
from reges_index.training.pseudo_queries import target_missing


@dataclass
class NegativesReport(TurnReport):
    """What mining gave; see `TurnReport`.

    Attributes
    ----------
    turns_with_target_found
        Turns with a target among their first ``top_k`` hits: the hits that LLM_QR scores in training.
    fallbacks
        Turns for which LLM_QR wrote no query and the last message was searched with.
    """

    turns_with_target_found: int = 0
    fallbacks: int = 0


def mine_negatives(
    turns: Sequence[Turn],
    queries: Mapping[str, str] | ReGeSQueryTransform,
    catalog: ItemCatalog,
    out: str | Path,
    *,
    top_k: int = 50,
    context_messages: int = 0,
    batch_size: int = 16,
    made_by: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> NegativesReport:
    """Retrieve each turn's nearest items with LLM_QR's query.

    The turn's targets stay in the ranking, at their rank; training takes them, and what has title and year of
    one of them, out of the wrong candidates.

    Parameters
    ----------
    turns
        Those with a target in the catalog are mined; the others are listed in the report.
    queries
        The trained query expert, or queries that are there already: id of the turn to query.
    catalog
        Where to look. Its retriever and its encoder's mean over several query texts are those of inference.
    out
        JSONL, ``{"id", "query", "ranking": [item ids]}`` a line, the nearest first, as in a file of
        predictions. A file that an earlier run began is continued, also with turns that are new.
    top_k
        Negatives a turn, 50 in the paper, beside the targets; fewer when the catalog holds no more.
    context_messages
        For queries that are there already: how many of the newest messages are searched with beside the
        query. A query expert has this in its decoding (`QueryDecoding`).
    batch_size
        Turns that are decoded together.
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
        As `turn_file`; also if no turn is left to mine.
    StorageError
        If the disk is full; what was written is kept.
    """
    if top_k < 1 or batch_size < 1 or context_messages < 0:
        raise ConfigError(
            f"top_k={top_k}, batch_size={batch_size}, context_messages={context_messages}: too small",
            hint="the first two are 1 or more, the last is 0 or more",
        )
    if context_messages and not isinstance(queries, Mapping):
        raise ConfigError(
            f"context_messages={context_messages} is for queries from a file",
            hint="a query expert takes it from its decoding",
        )
    items = {item.id: item for item in catalog.items()}

    def why_not(turn: Turn) -> str | None:
        queryless = isinstance(queries, Mapping) and turn.id not in queries
        return target_missing(turn, items) or ("without query" if queryless else None)

    def searched(batch: Sequence[Turn]) -> Sequence[QueryBundle]:
        if isinstance(queries, Mapping):
            made = [(queries[turn.id], newest_text(turn.chat, context_messages)) for turn in batch]
            return [QueryBundle(own, custom_embedding_strs=[own, new] if new else None) for own, new in made]
        refined = queries.run_batch([DialogueQueryBundle.from_dialogue(turn) for turn in batch])
        report.fallbacks += sum(bool(bundle.report["query"]["fallback"]) for bundle in refined)
        return refined

    report = NegativesReport(str(out))
    settings = {
        "task": "negatives", "top_k": top_k, "catalog": catalog.fingerprint(),
        "context_messages": context_messages, "encoder": asdict(catalog.encoder), **_writer_of(queries),
        **(made_by or {}),
    }  # fmt: skip
    with turn_file(report, turns, settings) as (log, waiting):
        waiting = report.sift(waiting, why_not)
        if not waiting and not report.already:
            reasons = ", ".join(f"{len(ids)} {why}" for why, ids in report.left_out.items())
            raise InputError(
                f"none of {len(turns)} turns can be mined: {reasons}",
                hint="check that turns, queries and catalog are of the same data set",
            )
        # As many more as there may be true items among the first, and second entries of these.
        depth = top_k + 2 * max((len(turn.targets) for turn in waiting), default=0)
        retriever = catalog.as_retriever(similarity_top_k=min(depth, len(items)))
        for start in range(0, len(waiting), batch_size):
            batch, rows = waiting[start : start + batch_size], []
            for turn, bundle in zip(batch, searched(batch), strict=True):
                ranking = [hit.node.node_id for hit in retriever.retrieve(bundle)]
                report.turns_with_target_found += bool(set(turn.targets) & set(ranking[:top_k]))
                row = {"id": turn.id, "query": bundle.query_str, "ranking": ranking}
                rows.append({**row, RunLog.MADE_FROM: turn_hash(turn, None)})
            log.write(rows)
            report.written += len(rows)
            if progress is not None:
                progress(start + len(batch), len(waiting))
    return report


def _writer_of(queries: Mapping[str, str] | ReGeSQueryTransform) -> dict[str, Any]:
    """Return what the queries depend on, an adapter's weights apart."""
    if isinstance(queries, Mapping):
        return {"queries": "file"}
    backend, template = queries.backend, queries.get_prompts()["query_prompt"]
    assert isinstance(template, PromptTemplate)  # the transform takes no other
    return {
        "queries": "query-expert",
        "model": backend.name,  # which a fingerprint, blind to the weights, does not tell apart
        "base": backend.lm.fingerprint if isinstance(backend, LocalBackend) else None,
        "prompt": query_prompt_hash(template),
        "item": [queries.domain.noun, queries.domain.plural],
        "query_decoding": queries.decoding.model_dump(),
        "max_history_tokens": queries.max_history_tokens,
    }

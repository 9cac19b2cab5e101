"""LLM_QR from files to adapter (section 2.3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.dialogue.messages import Turn
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.query_expert.prompt import DEFAULT_QUERY_TMPL, query_prompt_hash
from reges_index.training.config import ExpertTraining
from reges_index.training.data import query_examples
from reges_index.training.sft import TrainResult, train_expert

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

__all__ = ["train_query_expert"]

logger = logging.getLogger(__name__)


def train_query_expert(
    turns: Sequence[Turn],
    queries: Mapping[str, str],
    lm: LocalLM,
    settings: ExpertTraining,
    out_dir: str | Path,
    *,
    domain: Domain | Mapping[str, Domain] = MOVIES,
    manifest_fields: Mapping[str, Any] | None = None,
    resume: bool = True,
    run_dir: str | Path | None = None,
) -> TrainResult:
    """Train LLM_QR on pseudo-queries.

    Parameters
    ----------
    turns
        Recommendation turns.
    queries
        Turn id -> pseudo-query.
    domain
        As in `query_examples`.
    lm, settings, out_dir, resume, run_dir
        As in `train_expert`.
    manifest_fields
        More fields of the manifest, such as ``data`` and ``name``.

    Raises
    ------
    InputError
        If the queries belong to none of the turns; else as `train_expert`.
    """
    examples, report = query_examples(turns, queries, lm, settings, domain=domain)
    logger.info("query expert: %s", report.counts)
    fields = dict(manifest_fields or {})
    inference = {**report.budgets, **fields.pop("inference", {})}
    return train_expert(
        examples,
        lm,
        settings,
        out_dir,
        role="query-expert",
        manifest_fields={
            "name": "query-expert",
            **fields,
            "prompt_hash": query_prompt_hash(),
            "prompt_template": DEFAULT_QUERY_TMPL.template,
            "inference": {k: v for k, v in inference.items() if v is not None},
            "training": {**fields.get("training", {}), "data": report.counts, "budgets": report.budgets},
        },
        resume=resume,
        run_dir=run_dir,
    )

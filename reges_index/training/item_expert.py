"""LLM_G from candidates to adapter (section 2.4), with the chain-of-thought variant (section 3.7.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.catalog.item import Item
from reges_index.dialogue.messages import Turn
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.item_expert.prompt import COT_SELECT_TMPL, DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.training.config import ExpertTraining
from reges_index.training.data import Example
from reges_index.training.selection_data import selection_examples
from reges_index.training.sft import TrainResult, train_expert

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

__all__ = ["train_item_expert"]

logger = logging.getLogger(__name__)


def train_item_expert(
    turns: Sequence[Turn],
    items: Mapping[str, Item],
    negatives: Mapping[str, Sequence[str]],
    lm: LocalLM,
    settings: ExpertTraining,
    out_dir: str | Path,
    *,
    reasoning: Mapping[str, str] | None = None,
    fitting: Mapping[str, Sequence[str]] | None = None,
    domain: Domain | Mapping[str, Domain] = MOVIES,
    manifest_fields: Mapping[str, Any] | None = None,
    resume: bool = True,
    run_dir: str | Path | None = None,
) -> TrainResult:
    """Train LLM_G to name the true item among candidates.

    Parameters
    ----------
    turns
        Recommendation turns with targets.
    items
        The catalog by id (several catalogs together, when their ids differ).
    negatives
        Turn id -> retrieved item ids, the nearest first, the turn's targets among them where they were
        found (`read_retrieved`); empty for random negatives.
    reasoning
        Turn id -> preferences in words; given, the chain-of-thought variant is trained.
    fitting, domain
        As in `selection_examples`.
    lm, settings, out_dir, resume, run_dir
        As in `train_expert`.
    manifest_fields
        More fields of the manifest, such as ``data`` and ``name``.

    Raises
    ------
    InputError, ConfigError
        From `selection_examples`; else as `train_expert`.
    """
    first, report = selection_examples(
        turns, items, negatives, lm, settings, reasoning=reasoning, fitting=fitting, domain=domain
    )
    logger.info("item expert: %s", report.counts)

    def of_epoch(epoch: int) -> Sequence[Example]:
        if epoch == 0:
            return first
        return selection_examples(
            turns, items, negatives, lm, settings, reasoning=reasoning, fitting=fitting, epoch=epoch,
            domain=domain,
        )[0]  # fmt: skip

    fields = dict(manifest_fields or {})
    template = DEFAULT_SELECT_TMPL if reasoning is None else COT_SELECT_TMPL
    budgets = dict(report.budgets)
    if settings.max_candidate_tokens is not None:
        budgets["max_candidate_tokens"] = settings.max_candidate_tokens
    inference = {**budgets, **fields.pop("inference", {})}
    return train_expert(
        of_epoch,
        lm,
        settings,
        out_dir,
        role="item-expert" if reasoning is None else "item-expert-cot",
        manifest_fields={
            "name": "item-expert" if reasoning is None else "item-expert-cot",
            "negatives": _negatives(settings),
            **fields,
            "prompt_hash": selection_prompt_hash(template),
            "prompt_template": template.template,
            "inference": {k: v for k, v in inference.items() if v is not None},
            "training": {**fields.get("training", {}), "data": report.counts, "budgets": budgets},
        },
        resume=resume,
        run_dir=run_dir,
    )


def _negatives(settings: ExpertTraining) -> dict[str, Any]:
    """Return what the manifest says of the lists: with ``k_from``, k was drawn anew for each, up to ``k``."""
    least = settings.num_candidates_from
    return {
        "kind": settings.negatives,
        "k": settings.num_candidates,
        **({"k_from": least} if least is not None else {}),
        **({"drawn_from_nearest": settings.hard_from} if settings.hard_from is not None else {}),
        **({"missed_share": settings.missed_share} if settings.missed_share < 1 else {}),
        "candidates_of": settings.candidates_of,
        **({"candidate_order": "retrieved"} if settings.candidate_order == "retrieved" else {}),
    }

"""LLM_QR (section 2.3) and LLM_G (section 2.4) from data to adapter: fine-tuning of a LoRA adapter."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reges_index.errors import ConfigError, TrainingError
from reges_index.files import whole_folder
from reges_index.item_expert.prompt import COT_SELECT_TMPL, DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.models.adapters import (
    AdapterManifest,
    AdapterRole,
    check_adapter,
    load_manifest,
    model_card,
    save_manifest,
)
from reges_index.query_expert.prompt import DEFAULT_QUERY_TMPL, query_prompt_hash
from reges_index.training.batches import plan_epoch
from reges_index.training.checkpoints import RunState
from reges_index.training.config import ExpertTraining
from reges_index.training.data import TrainingData
from reges_index.training.examples import DataReport, Example, query_examples, selection_examples
from reges_index.training.loop import join_team, train_loop
from reges_index.training.lora import fresh_lora, go_on_from, save_adapter
from reges_index.training.steps import content_hash

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

logger = logging.getLogger(__name__)

# A resumed run may be longer or shorter than it was to be, and compute the same in another way.
_NOT_HASHED = {"epochs", "max_steps", "save_every_minutes", "compile", "num_threads", "start_from"}
_ITEM_EXPERT_ONLY = {
    *("num_candidates", "negatives", "candidate_order"),
    *("max_candidate_tokens", "target_share", "named_negatives"),
}
_LOSS_WINDOW = 20
_PACKAGES = ("reges-index", "torch", "transformers", "peft")


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Attributes
    ----------
    steps
        Optimizer steps, those before a resumption included.
    losses
        Mean loss per answer token of each step.
    tokens_per_second
        Tokens through the model a second, over all steps.
    adapter_dir
        The adapter's folder.
    """

    steps: int
    losses: tuple[float, ...]
    tokens_per_second: float
    adapter_dir: Path

    def summary(self) -> dict[str, Any]:
        """Return it as plain data, of the losses the first and the last."""
        return {
            "adapter": str(self.adapter_dir),
            "steps": self.steps,
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            "tokens_per_second": round(self.tokens_per_second, 1),
        }


def train_query_expert(
    sets: Sequence[TrainingData],
    lm: LocalLM,
    settings: ExpertTraining,
    out_dir: str | Path,
    *,
    base_revision: str | None = None,
) -> TrainResult:
    """Train LLM_QR on pseudo-queries.

    Parameters
    ----------
    sets
        As in `query_examples`, whose errors are raised, too.
    lm, settings, out_dir
        As in `train_expert`.
    base_revision
        Of the base on the hub, for the manifest.
    """
    examples, report = query_examples(sets, lm, settings)
    about = {
        "prompt_hash": query_prompt_hash(),
        "prompt_template": DEFAULT_QUERY_TMPL.template,
        **_known(sets, report, report.budgets, base_revision),
    }
    return train_expert(lambda _: examples, lm, settings, out_dir, role="query-expert", about=about)


def train_item_expert(
    sets: Sequence[TrainingData],
    lm: LocalLM,
    settings: ExpertTraining,
    out_dir: str | Path,
    *,
    cot: bool = False,
    base_revision: str | None = None,
) -> TrainResult:
    """Train LLM_G to name the true item among candidates.

    Parameters
    ----------
    sets
        As in `selection_examples`, whose errors are raised, too.
    lm, settings, out_dir, base_revision
        As in `train_query_expert`.
    cot
        Train the variant that writes down preferences first (section 3.7.2).
    """
    first, report = selection_examples(sets, lm, settings, cot=cot)
    template = COT_SELECT_TMPL if cot else DEFAULT_SELECT_TMPL
    budgets = dict(report.budgets)
    if settings.max_candidate_tokens is not None:
        budgets["max_candidate_tokens"] = settings.max_candidate_tokens
    about = {
        "negatives": {
            "kind": settings.negatives,
            "k": settings.num_candidates,
            "candidate_order": settings.candidate_order,
        },
        "prompt_hash": selection_prompt_hash(template),
        "prompt_template": template.template,
        **_known(sets, report, budgets, base_revision),
    }
    return train_expert(
        lambda epoch: (
            first if epoch == 0 else selection_examples(sets, lm, settings, cot=cot, epoch=epoch)[0]
        ),
        lm,
        settings,
        out_dir,
        role="item-expert-cot" if cot else "item-expert",
        about=about,
    )


def _known(
    sets: Sequence[TrainingData], report: DataReport, budgets: Mapping[str, int], base_revision: str | None
) -> dict[str, Any]:
    """Return what the manifest says of data and budgets."""
    logger.info("data: %s", report.counts)
    return {
        "data": [file for data in sets for file in data.files],
        "base_revision": base_revision,
        "inference": budgets,
        "training": {"data": report.counts, "budgets": budgets},
    }


def train_expert(
    examples: Callable[[int], Sequence[Example]],
    lm: LocalLM,
    settings: ExpertTraining,
    out_dir: str | Path,
    *,
    role: AdapterRole,
    about: Mapping[str, Any],
) -> TrainResult:
    """Train an adapter and write its folder: PEFT safetensors, manifest, model card.

    Checkpoints are in ``<out_dir>.run``. A run goes on from the newest one of the same data and settings;
    those of others are moved to ``set-aside-N`` there.

    Parameters
    ----------
    examples
        What to learn, by the number of the epoch (from 0).
    lm
        The base, without adapters. It is left as it was.
    settings
        Hyper-parameters.
    out_dir
        The adapter's folder. Written at the end, whole or not at all.
    role
        What the adapter is for.
    about
        At least ``prompt_hash`` and ``prompt_template`` of `AdapterManifest`.

    Raises
    ------
    ConfigError
        If ``lm`` holds adapters, or the adapter to start from has another LoRA shape.
    AdapterError
        If the adapter to start from is damaged, or of another base, role or prompt.
    TrainingError
        If the loss or the gradient is no number, or the newest checkpoint is damaged. The last good one is
        kept.
    StorageError
        If a checkpoint or the adapter cannot be written.
    """
    out_dir = Path(out_dir)
    if lm.adapters:
        raise ConfigError(
            f"the base holds adapters already ({', '.join(lm.adapters)}); a new one would be trained on top",
            hint="load the base alone: LocalLM.from_pretrained(name)",
        )
    epochs = [examples(number) for number in range(settings.epochs)]
    if not all(epochs):
        raise TrainingError("there are no examples to train on", hint="look at the report of the data")
    logger.info("training %s on %s: %d examples, %d passes", role, lm.name, len(epochs[0]), len(epochs))
    plan = [
        step
        for epoch, own in enumerate(epochs)
        for step in plan_epoch(
            own,
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            share_prefixes=settings.share_prefixes,
            seed=settings.seed,
            epoch=epoch,
        )
    ][: settings.max_steps]
    start = settings.start_from
    if start is not None:
        _check_start(start, lm, role, about["prompt_hash"])
    team = join_team()
    lm.model.to(team.place(lm.model.device))
    with _threads(settings.num_threads), fresh_lora(lm, settings) as model:
        run_hash = _run_hash(epochs[0], lm.fingerprint, settings)
        if start is not None:
            go_on_from(model, start)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), weight_decay=0.0)
        state = RunState(trained, optimizer, out_dir.with_name(out_dir.name + ".run"), run_hash)
        if team.leads:
            state.resume()
        team.wait()  # the others read what the first one has not set aside
        if not team.leads:
            state.resume()
        team.wait()  # nobody writes a checkpoint while another process still reads
        pad_id = lm.tokenizer.pad_token_id or 0  # never seen by a real token, so any id will do
        train_loop(model, plan, settings, state, pad_id=pad_id, team=team)
        if team.leads:
            manifest = _manifest(lm, settings, role, about, state)
            with whole_folder(out_dir) as work:
                save_adapter(model, lm.name, work)
                save_manifest(manifest, work)
                (work / "README.md").write_text(model_card(manifest), encoding="utf-8")
        team.wait()
    return TrainResult(state.step, tuple(state.losses), state.speed, out_dir)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_hash(examples: Sequence[Example], fingerprint: str, settings: ExpertTraining) -> str:
    digest = hashlib.sha256(fingerprint.encode())
    fields = settings.model_dump(mode="json", exclude=_NOT_HASHED, exclude_defaults=True)
    digest.update(json.dumps(fields, sort_keys=True).encode())
    if settings.start_from is not None:
        digest.update(content_hash(settings.start_from).encode())
    for example in examples:
        digest.update(repr((example.id, example.prompt_ids, example.answer_ids, example.weight)).encode())
    return digest.hexdigest()


def _manifest(
    lm: LocalLM, settings: ExpertTraining, role: AdapterRole, about: Mapping[str, Any], state: RunState
) -> AdapterManifest:
    left_out = {"start_from", *(_ITEM_EXPERT_ONLY if role == "query-expert" else ())}
    first_stage: dict[str, Any] = {}
    if settings.start_from is not None:  # its weights are from there too
        begun = load_manifest(settings.start_from)
        # A folder's path means nothing elsewhere; what was in it does.
        first_stage = {
            "start_from": content_hash(settings.start_from),
            "first_stage": {} if begun is None else begun.training,
        }
    training: dict[str, Any] = {
        **settings.model_dump(mode="json", exclude=left_out),
        **first_stage,
        "steps": state.step,
        "first_loss": statistics.fmean(state.losses[:_LOSS_WINDOW]),
        "last_loss": statistics.fmean(state.losses[-_LOSS_WINDOW:]),
        "tokens": state.tokens,
        "seconds": round(state.seconds, 1),
        **about.get("training", {}),
    }
    fields = {
        "name": role,
        **about,
        "role": role,
        "base_model": lm.name,
        "base_fingerprint": lm.fingerprint,
        "training": training,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return AdapterManifest.model_validate(fields)


def _check_start(start: Path, lm: LocalLM, role: AdapterRole, prompt_hash: str) -> None:
    begun = load_manifest(start)
    if role == "item-expert-cot" and begun is not None and begun.role == "item-expert":
        # It has learnt to choose, which with a chain of thought is asked by another prompt.
        check_adapter(start, base=lm, role="item-expert")
    else:
        check_adapter(start, base=lm, role=role, prompt_hash=prompt_hash)

"""`train_expert`: supervised fine-tuning of one LoRA adapter."""

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
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from reges_index.errors import ConfigError, TrainingError
from reges_index.files import whole_folder
from reges_index.models.adapters import (
    AdapterManifest,
    check_adapter,
    load_manifest,
    model_card,
    save_manifest,
)
from reges_index.training.batches import PlannedStep, plan_epoch
from reges_index.training.checkpoints import set_checkpoints_aside
from reges_index.training.config import ExpertTraining
from reges_index.training.data import Example
from reges_index.training.loop import train_loop
from reges_index.training.lora import fresh_lora, go_on_from, save_adapter
from reges_index.training.parallel import join_team
from reges_index.training.run_state import Progress, RunState
from reges_index.training.steps import content_hash

if TYPE_CHECKING:
    from reges_index.models.adapters import AdapterRole
    from reges_index.models.local_lm import LocalLM

__all__ = ["Examples", "TrainResult", "train_expert"]

logger = logging.getLogger(__name__)

Examples: TypeAlias = Sequence[Example] | Callable[[int], Sequence[Example]]
"""The same examples for every epoch, or a function of the epoch's number (from 0)."""

# A resumed run may be longer or shorter than it was to be, and compute the same in another way.
_NOT_HASHED = {"epochs", "max_steps", "save_every_minutes", "compile", "num_threads", "start_from"}
_ITEM_EXPERT_ONLY = {
    *("num_candidates", "num_candidates_from", "negatives", "hard_from", "missed_share"),
    *("candidate_order", "candidates_of", "max_candidate_tokens", "target_share", "named_negatives"),
}
_LOSS_WINDOW = 20
_STAGE_KEYS = (
    "learning_rate",
    "steps",
    "seed",
    "first_loss",
    "last_loss",
    "tokens",
    "seconds",
    "first_stage",
)


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


def train_expert(
    examples: Examples,
    lm: LocalLM,
    settings: ExpertTraining,
    out_dir: str | Path,
    *,
    role: AdapterRole,
    manifest_fields: Mapping[str, Any],
    resume: bool = True,
    run_dir: str | Path | None = None,
) -> TrainResult:
    """Train an adapter and write its folder: PEFT safetensors, manifest, model card.

    Parameters
    ----------
    examples
        What to learn; see `query_examples` and `selection_examples`.
    lm
        The base, without adapters. It is left as it was.
    settings
        Hyper-parameters.
    out_dir
        The adapter's folder. Written at the end, whole or not at all.
    role
        What the adapter is for.
    manifest_fields
        At least ``name``, ``prompt_hash`` and ``prompt_template`` of `AdapterManifest`.
    resume
        Go on from the newest checkpoint of the same data and settings. Without it, checkpoints that are
        there already are moved to ``set-aside-N`` in their folder.
    run_dir
        Where checkpoints are; by default a folder beside ``out_dir``.

    Raises
    ------
    ConfigError
        If ``lm`` holds adapters, or the adapter to start from has another LoRA shape.
    AdapterError
        If the adapter to start from is damaged, or of another base, role or prompt.
    TrainingError
        If the loss or the gradient is no number, or the newest checkpoint is of another run. The last good
        one is kept.
    StorageError
        If a checkpoint or the adapter cannot be written.
    """
    out_dir = Path(out_dir)
    run_dir = Path(run_dir) if run_dir is not None else out_dir.with_name(out_dir.name + ".run")
    if lm.adapters:
        raise ConfigError(
            f"the base holds adapters already ({', '.join(lm.adapters)}); a new one would be trained on top",
            hint="load the base alone: LocalLM.from_pretrained(name)",
        )
    epochs = [examples(n) if callable(examples) else examples for n in range(settings.epochs)]
    if not all(epochs):
        raise TrainingError("there are no examples to train on", hint="look at the report of the data")
    logger.info("training %s on %s: %d examples, %d passes", role, lm.name, len(epochs[0]), len(epochs))
    plan = [step for number, own in enumerate(epochs) for step in _plan(own, settings, number)]
    plan = plan[: settings.max_steps]
    start = settings.start_from
    if start is not None:
        _check_start(start, lm, role, manifest_fields.get("prompt_hash"))
    team = join_team()
    lm.model.to(team.place(lm.model.device))
    with _threads(settings.num_threads), fresh_lora(lm, settings) as model:
        run_hash = _run_hash(epochs[0], lm.fingerprint, settings)
        if start is not None:
            go_on_from(model, start)
        state = RunState(model, settings, len(plan), run_dir, run_hash=run_hash)
        if resume:
            state.resume()
        elif team.leads:
            set_checkpoints_aside(run_dir)
        team.wait()  # nobody writes a checkpoint while another process still reads
        train_loop(model, plan, settings, state, pad_id=_pad_id(lm.tokenizer), team=team)
        progress = state.progress
        if team.leads:
            manifest = _manifest(lm, settings, role, manifest_fields, progress)
            with whole_folder(out_dir) as work:
                save_adapter(model, lm.name, work)
                save_manifest(manifest, work)
                (work / "README.md").write_text(model_card(manifest), encoding="utf-8")
        team.wait()
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return TrainResult(len(progress.losses), tuple(progress.losses), speed, out_dir)


def _plan(examples: Sequence[Example], settings: ExpertTraining, epoch: int) -> list[PlannedStep]:
    return plan_epoch(
        examples,
        batch_size=settings.batch_size,
        accumulation=settings.gradient_accumulation,
        share_prefixes=settings.share_prefixes,
        seed=settings.seed,
        epoch=epoch,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pad_id(tokenizer: Any) -> int:
    # Never seen by a real token, so any id will do.
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


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
    lm: LocalLM,
    settings: ExpertTraining,
    role: AdapterRole,
    fields: Mapping[str, Any],
    progress: Progress,
) -> AdapterManifest:
    training: dict[str, Any] = {
        **settings.model_dump(mode="json", exclude=_left_out(role)),
        # A folder's path means nothing elsewhere; what was in it does.
        **({"start_from": content_hash(settings.start_from)} if settings.start_from is not None else {}),
        **_first_stage(settings.start_from),
        "steps": len(progress.losses),
        "first_loss": statistics.fmean(progress.losses[:_LOSS_WINDOW]),
        "last_loss": statistics.fmean(progress.losses[-_LOSS_WINDOW:]),
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        **fields.get("training", {}),
    }
    packages = ("reges-index", "torch", "transformers", "peft")
    versions = {name: _version(name) for name in packages if _version(name)}
    return AdapterManifest.model_validate(
        {
            **fields,
            "role": role,
            "base_model": lm.name,
            "base_fingerprint": lm.fingerprint,
            "training": training,
            "versions": versions,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _check_start(start: Path, lm: LocalLM, role: AdapterRole, prompt_hash: str | None) -> None:
    begun = load_manifest(start)
    if role == "item-expert-cot" and begun is not None and begun.role == "item-expert":
        # It has learnt to choose, which with a chain of thought is asked by another prompt.
        check_adapter(start, base=lm, role="item-expert")
    else:
        check_adapter(start, base=lm, role=role, prompt_hash=prompt_hash)


def _first_stage(start: Path | None) -> dict[str, Any]:
    """Return how the adapter was trained that this one goes on from: its weights are from there too."""
    begun = load_manifest(start) if start is not None else None
    if begun is None:
        return {}
    told = {key: begun.training[key] for key in _STAGE_KEYS if key in begun.training}
    return {"first_stage": {**({"negatives": begun.negatives} if begun.negatives else {}), **told}}


def _left_out(role: AdapterRole) -> set[str]:
    return {"start_from", *(_ITEM_EXPERT_ONLY if role == "query-expert" else ())}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""

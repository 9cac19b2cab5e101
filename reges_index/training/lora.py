"""A fresh LoRA adapter on the base for as long as a run takes, and its weights from and to a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from reges_index.errors import ConfigError
from reges_index.models.adapters import WEIGHTS_FILE
from reges_index.models.scoring import why_no_tree
from reges_index.training.config import ExpertTraining

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM


@contextmanager
def fresh_lora(lm: LocalLM, settings: ExpertTraining) -> Iterator[Any]:
    """Give the base a fresh adapter to train, and take it away afterwards.

    Raises
    ------
    ConfigError
        If the base lacks modules that are to be adapted or cannot take trees, or there is no compiler.
    """
    base = lm.model
    attention = base.config._attn_implementation
    if settings.compile:
        _check_compiler(base)
    problem = why_no_tree(base) if settings.share_prefixes else ""
    if problem:
        raise ConfigError(
            f"{lm.name} cannot take examples as a tree: {problem}", hint="set share_prefixes to false"
        )
    trainable = [p.requires_grad for p in base.parameters()]
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.lora_targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=lm.name,
    )
    try:
        model = get_peft_model(base, config)
    except ValueError as error:  # PEFT: target modules not found
        raise ConfigError(f"lora_targets: {error}", hint="name modules that this base has") from error
    if settings.compile:
        # What attention written in plain operations loses to sdpa, and more, the compiler wins back: at 700
        # tokens on one core of an Intel with AMX 380 tokens/s, against 250 of either one as it is.
        base.set_attn_implementation("eager")
    elif settings.share_prefixes:
        # Both take the mask of a tree. On two cores eager was the faster one on AMD at 350 tokens (440 to 360
        # tokens/s), sdpa on Intel with AMX at 1,200 (360 to 270), and sdpa takes less memory.
        base.set_attn_implementation("sdpa")
    if settings.gradient_checkpointing:
        base.enable_input_require_grads()
        base.gradient_checkpointing_enable()
    layers = list(base.get_decoder().layers) if settings.compile else []
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    try:
        yield model
    finally:
        for layer in layers:
            del layer.forward  # the class's own is there again
        if settings.gradient_checkpointing:
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()
        model.unload()
        base.set_attn_implementation(attention)
        base.eval()
        for parameter, flag in zip(base.parameters(), trainable, strict=True):
            parameter.requires_grad_(flag)


def _check_compiler(base: Any) -> None:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if base.device.type == "cpu" and not any(name and shutil.which(name) for name in names):
        raise ConfigError(
            "compile: torch.compile needs a C++ compiler on a CPU, and none was found",
            hint="install g++ or clang++, name one in CXX, or leave compile at false",
        )


def go_on_from(model: Any, folder: Path) -> None:
    """Fill the fresh adapter with the weights of one that was trained before.

    Raises
    ------
    ConfigError
        If its LoRA layers are others.
    """
    weights = load_file(folder / WEIGHTS_FILE)
    shapes = {key: value.shape for key, value in get_peft_model_state_dict(model).items()}
    if shapes != {key: value.shape for key, value in weights.items()}:
        raise ConfigError(
            f"start_from: the adapter in {folder} has other LoRA layers than lora_r and lora_targets "
            "would give on this base",
            hint="use the LoRA settings that are in its adapter_config.json",
        )
    set_peft_model_state_dict(model, weights)


def save_adapter(model: Any, base_name: str, folder: Path) -> None:
    """Write PEFT's files, which name ``base_name`` as the base, into a folder."""
    model.peft_config["default"].base_model_name_or_path = base_name
    # Left at "auto", PEFT asks the hub whether the vocabulary of the base has changed.
    try:
        model.save_pretrained(folder, save_embedding_layers=False)
    except SafetensorError as error:  # what it says of a full disk
        raise OSError(str(error)) from error
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner only

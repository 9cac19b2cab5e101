"""Training the query tower together with the maps of the query adapter, in one softmax over the catalog."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding

from reges_index.errors import TrainingError
from reges_index.fusion.adapter import BLOCKS, TOWER, QueryAdapter
from reges_index.fusion.features import dialogue_texts
from reges_index.fusion.fit_adapter import AdapterTraining, Maps, TrainTensors, bias_levels, pace
from reges_index.fusion.fitting import TrainSet
from reges_index.fusion.tower import TowerAdapter, tower_base

__all__ = ["TowerTraining", "fit_tower"]

logger = logging.getLogger(__name__)

_LOG_SECONDS = 60.0


@dataclass(frozen=True)
class TowerTraining:
    """Settings of `fit_tower` (finetune/FUSION.md tells what was tried).

    Attributes
    ----------
    epochs, batch_size
        Passes over the turns, and turns of a step.
    learning_rate, weight_decay
        Of the LoRA weights, by AdamW.
    lora_r, lora_alpha, lora_targets
        Rank, scale, and the encoder's modules that get an adapter.
    max_tokens
        How much of a dialogue, newest message first, the tower reads. Time grows with it.
    map_rate, scale_rate, bias_rate, bias_decay
        Learning rates of the maps, of the scales of the cosines and of the items' biases, whose decay pulls
        them to 0. The maps' decay, dropout and sample are those of `AdapterTraining`.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    lora_r: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = ("query", "value", "dense")
    max_tokens: int = 128
    map_rate: float = 1e-3
    scale_rate: float = 1e-2
    bias_rate: float = 3e-2
    bias_decay: float = 0.05
    seed: int = 0


class _Tower(torch.nn.Module):
    """The encoder with a fresh adapter, and the map of its vectors."""

    def __init__(self, embed_model: BaseEmbedding, settings: TowerTraining, scale: float) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        base = tower_base(embed_model)
        encoder = base[0].auto_model
        for module in encoder.modules():  # its own dropout costs a third of the time and gains nothing here
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        self.lora = LoraConfig(
            r=settings.lora_r, lora_alpha=settings.lora_alpha, target_modules=list(settings.lora_targets)
        )
        with warnings.catch_warnings():
            # With transformers 5, of an attribute that PEFT itself reads.
            warnings.simplefilter("ignore", FutureWarning)
            self.model = get_peft_model(encoder, self.lora)
        self.tokenizer = base.tokenizer
        self.max_tokens = settings.max_tokens
        dimension = int(encoder.config.hidden_size)
        self.scale = torch.nn.Parameter(torch.tensor(float(scale)))
        self.change = torch.nn.Parameter(torch.zeros(dimension, dimension))

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        batch = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        mapped: torch.Tensor = vectors @ self.matrix()
        return mapped

    def matrix(self) -> torch.Tensor:
        return self.change + self.scale * torch.eye(self.change.shape[0])

    def adapter(self) -> TowerAdapter:
        from peft import get_peft_model_state_dict

        weights = {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in get_peft_model_state_dict(self.model).items()
        }
        config = {
            "peft_type": "LORA",
            "r": self.lora.r,
            "lora_alpha": self.lora.lora_alpha,
            "target_modules": sorted(self.lora.target_modules or ()),
        }
        return TowerAdapter(weights, config, self.max_tokens)


def fit_tower(
    sets: Sequence[TrainSet],
    rows: Sequence[npt.NDArray[np.int64]],
    settings: TowerTraining,
    maps: AdapterTraining,
    embed_model: BaseEmbedding,
) -> tuple[QueryAdapter, TowerAdapter]:
    """Train on the given rows of each set; softmax, hidden items and biases are those of `fit_adapter`.

    Parameters
    ----------
    rows
        For each set the numbers of the turns to train on.
    embed_model
        The catalog's encoder, a sentence-transformers model with mean pooling; it is left as it was.

    Raises
    ------
    ConfigError
        If the encoder cannot be trained here.
    TrainingError
        If the loss is no number.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    tensors = TrainTensors.of(sets)
    texts = [[dialogue_texts(turn.chat)[0] for turn in train.turns] for train in sets]
    head = Maps(tensors.items[0].shape[1], len(tensors.keys), maps)
    tower = _Tower(embed_model, settings, maps.scale)
    lora = [parameter for parameter in tower.model.parameters() if parameter.requires_grad]
    decay = maps.weight_decay / maps.learning_rate
    groups = [
        {"params": lora, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [tower.scale, head.own], "lr": settings.scale_rate, "weight_decay": 0.0},
        {"params": [tower.change, head.change], "lr": settings.map_rate, "weight_decay": decay},
        {"params": [head.bias], "lr": settings.bias_rate, "weight_decay": settings.bias_decay},
    ]
    optimizer = torch.optim.AdamW(groups)
    usable = [np.array([r for r in its if train.targets[r]]) for train, its in zip(sets, rows, strict=True)]
    # The number of batches does not depend on chance.
    dice = np.random.default_rng(settings.seed)
    counts = [len(_alike(its, [0] * len(its), settings.batch_size, dice)) for its in usable]
    steps = sum(counts) * settings.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, steps))
    tower.train()
    head.train()
    step, logged = 0, time.monotonic()
    for _ in range(settings.epochs):
        batches = [
            (which, part)
            for which, its in enumerate(usable)
            for part in _alike(its, [len(texts[which][row]) for row in its], settings.batch_size, rng)
        ]
        for number in rng.permutation(len(batches)):
            which, part = batches[number]
            query = tower([texts[which][row] for row in part]) + head(tensors.blocks[which][part])
            loss = tensors.loss(which, part, query, head.bias, maps.sample, rng)
            if not torch.isfinite(loss):
                raise TrainingError("the query tower's loss is no number", hint="lower its learning_rate")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(lora, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                logger.info("query tower: step %d of %d, loss %.3f", step, steps, float(loss.detach()))
    matrices = dict(zip(BLOCKS, head.matrices().detach().numpy().astype(np.float32), strict=True))
    matrices[TOWER] = tower.matrix().detach().numpy().astype(np.float32)
    return QueryAdapter(matrices, *bias_levels(head, tensors, usable)), tower.adapter()


def _alike(
    rows: npt.NDArray[np.int64], lengths: Sequence[int], size: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Split rows into batches of about one length each, differently in each epoch."""
    if not len(rows):
        return []
    order = rng.permutation(len(rows))
    batches: list[npt.NDArray[np.int64]] = []
    for window in np.array_split(order, max(1, len(rows) // (16 * size))):
        by_length = window[np.argsort(np.asarray(lengths)[window], kind="stable")]
        batches += [rows[part] for part in np.array_split(by_length, -(-len(by_length) // size))]
    return batches

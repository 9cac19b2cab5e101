"""Training R, an encoder whose vectors put the right item next to a dialogue, in any domain.

Dialogues, short queries and items go through the same weights, or with ``frozen_items`` the queries alone
through trained ones. One softmax a step over the items of one catalog: all of a small one, of a large one
those that the step's turns and their teacher name, and some random ones.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from safetensors.torch import save as to_bytes
from sentence_transformers import SentenceTransformer
from torch.nn.utils import parametrize

from reges_index.catalog import resolve_encoder
from reges_index.catalog.local_encoders import CONFIG, MANIFEST, WEIGHTS
from reges_index.errors import ConfigError
from reges_index.files import hash_of, write_files
from reges_index.fusion.features import dialogue_texts
from reges_index.training.checkpoints import RunState
from reges_index.training.encoder_data import (
    EncoderRecipe,
    EncoderTraining,
    Group,
    Sampler,
    TurnSet,
    read_domains,
)
from reges_index.training.loop import learning_rate, run_steps

logger = logging.getLogger(__name__)

_CHUNK_TOKENS = 3072
_LIMIT = 256
_SAVE_SECONDS = 240.0
FORMAT = "reges-encoder/1"


class _LowRank(torch.nn.Module):
    """A linear layer's weight plus a product of two thin matrices, as in LoRA (arXiv:2106.09685).

    The sum is made once a step, which on a CPU takes two thirds of the time of two more products per token.
    """

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.empty(rank, columns))
        self.b = torch.nn.Parameter(torch.zeros(rows, rank))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.b @ self.a


class _Encoder(torch.nn.Module):
    """A sentence encoder with mean pooling whose linear layers are trained."""

    def __init__(self, embed_model: BaseEmbedding, rank: int) -> None:
        super().__init__()
        base = _copy_of(embed_model)
        self.model = base[0].auto_model
        self.tokenizer = base.tokenizer
        self.rank = rank
        self.model.requires_grad_(False)
        self.model.set_attn_implementation("eager")  # on a CPU its backward pass is faster at these lengths
        for module in self.model.modules():  # dropout costs a third of the time and gains nothing here
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        linear = [
            (name, module)
            for name, module in self.model.encoder.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        self.changes: dict[str, _LowRank] = {}
        for name, module in linear:
            if not rank:
                module.requires_grad_(True)
                continue
            self.changes[name] = _LowRank(module.out_features, module.in_features, rank)
            parametrize.register_parametrization(module, "weight", self.changes[name])

    def forward(self, texts: Sequence[str], limits: Sequence[int]) -> torch.Tensor:
        """Return unit vectors, shape (n, d); texts of one length go together."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=_LIMIT)["input_ids"]
        ids = [
            row if len(row) <= limit else [*row[: limit - 1], row[-1]]
            for row, limit in zip(ids, limits, strict=True)
        ]
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
        found: list[torch.Tensor] = []
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(ids[order[end]]) <= _CHUNK_TOKENS:
                end += 1
            found.append(self._chunk([ids[n] for n in order[start:end]]))
            start = end
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(found)[back]

    def _chunk(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        batch = self.tokenizer.pad({"input_ids": [list(row) for row in ids]}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        unit: torch.Tensor = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        return unit

    def encode(self, texts: Sequence[str], limit: int = _LIMIT) -> torch.Tensor:
        with torch.no_grad(), parametrize.cached():
            vectors: torch.Tensor = self(texts, [limit] * len(texts))
        return vectors

    def files(self, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the low-rank changes as the files of a PEFT adapter's folder, in half precision."""
        weights = {}
        for name, change in self.changes.items():
            for side, tensor in (("A", change.a), ("B", change.b)):
                key = f"base_model.model.encoder.{name}.lora_{side}.weight"
                weights[key] = tensor.detach().to(torch.float16).contiguous()
        config = {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.rank,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.changes}),
        }
        stored = to_bytes(weights, metadata={"format": "pt"})
        whole = {**manifest, "format": FORMAT, "weights_sha256": sha256(stored).hexdigest()}
        found = {WEIGHTS: stored}
        for name, content in ((CONFIG, config), (MANIFEST, whole)):
            found[name] = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
        return found


def _copy_of(embed_model: BaseEmbedding) -> SentenceTransformer:
    """Return a copy, of its own, of the model in a local sentence encoder."""
    inner = getattr(embed_model, "_model", None)
    if not isinstance(inner, SentenceTransformer) or not hasattr(inner[0], "auto_model"):
        raise ConfigError(
            f"encoder {embed_model.model_name!r} is no sentence-transformers model that can be trained",
            hint="name a model of sentence-transformers with a transformer in it",
        )
    return copy.deepcopy(inner)


class _EncoderRun:
    """One training, which goes on where it was stopped; watched sets have their first places logged."""

    def __init__(
        self,
        sets: Sequence[TurnSet],
        settings: EncoderTraining,
        embed_model: BaseEmbedding,
        folder: Path,
        watch: Sequence[TurnSet] = (),
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.folder, self.watch = settings, folder, watch
        self._base = embed_model
        self.sampler = Sampler(sets, settings)
        self.encoder = _Encoder(embed_model, settings.rank)
        self.parameters = {n: p for n, p in self.encoder.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        names = [(its.name, len(its.items), [own.turn.id for own in its.turns]) for its in sets]
        self.state = RunState(self.parameters, optimizer, folder, hash_of([names, settings.model_dump()]))
        self._frozen: dict[str, torch.Tensor] = {}

    def train(self) -> None:
        """Do all steps that are left; errors as for `run_steps`."""
        self.state.resume()
        groups, its = self.sampler.groups(self.state.step), self.settings

        def rate(step: int) -> float:
            return learning_rate(
                its.learning_rate, step, self.sampler.steps, warmup=its.warm_up, scheduler="cosine"
            )

        def gradients(_step: int) -> tuple[float, int]:
            loss = self._loss(next(groups))
            loss.backward()
            return float(loss.detach()), 0

        run_steps(
            self.state, self.sampler.steps, rate, gradients, save_every_s=_SAVE_SECONDS, saved=self._watch
        )

    def _loss(self, group: Group) -> torch.Tensor:
        settings = self.settings
        examples = [example for example in group.examples if example.mass]
        texts, limits = [example.text for example in examples], [settings.query_tokens] * len(examples)
        with parametrize.cached():
            if settings.frozen_items:
                queries, items = self.encoder(texts, limits), self._base_items(group.source)
            else:
                limits += [_LIMIT if long else settings.item_tokens for long in group.long]
                vectors = self.encoder([*texts, *group.texts], limits)
                queries, items = vectors[: len(texts)], vectors[len(texts) :]
        logits = settings.scale * queries @ items.T
        column = {item: n for n, item in enumerate(group.items)}
        right = torch.zeros_like(logits)
        for row, example in enumerate(examples):
            for item, share in example.mass.items():
                right[row, column[item]] = share
            for item in example.hidden:
                if item in column and item not in example.mass:
                    logits[row, column[item]] = -1e4
        return -(right * torch.log_softmax(logits, dim=-1)).sum(-1).mean()

    def _base_items(self, its: TurnSet) -> torch.Tensor:
        """Return the base encoder's vectors of a catalog, computed once and kept in the run's folder."""
        if its.name not in self._frozen:
            texts = [item.text() for item in its.items]
            key = sha256(json.dumps(texts).encode()).hexdigest()[:16]
            file = self.folder / "vectors" / f"{key}.npy"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                base = _Encoder(self._base, 0)
                np.save(file, base.encode(texts).numpy())
            self._frozen[its.name] = torch.from_numpy(np.load(file))
        return self._frozen[its.name]

    def _watch(self) -> None:
        """Log first places and places among five, named items left out."""
        for its in self.watch:
            items = (
                self._base_items(its)
                if self.settings.frozen_items
                else self.encoder.encode([item.text() for item in its.items])
            )
            texts = [dialogue_texts(own.turn.chat)[0] for own in its.turns]
            scores = (self.encoder.encode(texts) @ items.T).numpy()
            ranks, fit = [], 0
            for own, row in zip(its.turns, scores, strict=True):
                true = own.targets[0]
                row[sorted(own.named - {true})] = -9
                ranks.append(int((row > row[true]).sum()))
                fit += int(row.argmax()) in own.suitable
            count = len(ranks)
            logger.info(
                "step %d, %s: first %.3f, among five %.3f, suitable first %.3f",
                self.state.step,
                its.name,
                sum(rank == 0 for rank in ranks) / count,
                sum(rank < 5 for rank in ranks) / count,
                fit / count,
            )


def train_encoder(recipe: EncoderRecipe, *, embed_model: BaseEmbedding | None = None) -> dict[str, Any]:
    """Train what a recipe describes; writes the adapter into ``out/adapter`` and returns a report.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, or the loss is no number.
    InputError
        If data cannot be read.
    """
    base = resolve_encoder(embed_model or recipe.encoder)
    settings = recipe.training
    sets = recipe.sets()
    run = _EncoderRun(sets, settings, base, recipe.out, read_domains(recipe.watch))
    run.train()
    state = run.state
    report = {"steps": state.step, "seconds": round(state.seconds), "loss": round(state.losses[-1], 4)}
    if settings.rank:
        manifest = {
            "base": base.model_name,
            "max_tokens": recipe.max_tokens,
            "frozen_items": settings.frozen_items,
            "settings": settings.model_dump(),
            "data": {its.name: len(its.turns) for its in sets},
            "kept_out": [*recipe.kept_out, f"the last {recipe.kept_out_share:.0%} of other sets' dialogues"],
            "run": report,
            "versions": {name: version(name) for name in ("reges-index", "torch", "transformers")},
        }
        folder = recipe.out / "adapter"
        write_files({folder / name: content for name, content in run.encoder.files(manifest).items()})
    return {"out": str(recipe.out), **report}

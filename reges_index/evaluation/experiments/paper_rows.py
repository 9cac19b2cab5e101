"""Which of the paper's systems one of ours stands beside: by its model's family and size and its encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["PaperRow", "paper_row"]


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table 1 (`paper.TABLE1`), and whether it is of the same models."""

    name: str
    exact: bool

    @property
    def shown(self) -> str:
        """What the table says that the paper's value is of."""
        return self.name if self.exact else f"nearest: {self.name}"


@dataclass(frozen=True)
class _Setup:
    name: str
    encoder: str  # part of its name
    family: str  # start of the configuration's model type
    parameters: float


# Section 3.3: DPR with Gemma-2B, BGE-large with Llama-3.1-8B, text-embedding-3-large with Gemma-27B.
_SETUPS = (
    _Setup("ReGeS Small (DPR, 2B)", "dpr", "gemma", 2.5e9),
    _Setup("ReGeS Middle (BGE, 8B)", "bge-large", "llama", 8.0e9),
    _Setup("ReGeS Large (OpenAI, 27B)", "text-embedding-3-large", "gemma", 27.2e9),
)
_BEST = _Setup("ReGeS Best (CoT, OpenAI, 8B)", "text-embedding-3-large", "llama", 8.0e9)
_SAME_SIZE = math.log(1.25)  # Gemma-2B is said of 2.5 and of 2.6 billion parameters


def paper_row(model: Any, encoder: str, *, chain_of_thought: bool = False) -> PaperRow:
    """Return the paper's system of the same models, or else the one of the nearest size, marked as such.

    Parameters
    ----------
    model
        A transformers model, such as `LocalLM.model`.
    encoder
        `EncoderIdentity.name`.
    chain_of_thought
        Whether ours reasons first; the paper has one such system.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = str(model.config.model_type)
    return _nearest(parameters, kind, encoder, (_BEST,) if chain_of_thought else _SETUPS)


def _nearest(parameters: int, kind: str, encoder: str, setups: tuple[_Setup, ...]) -> PaperRow:
    best = min(setups, key=lambda setup: abs(math.log(parameters / setup.parameters)))
    exact = (
        abs(math.log(parameters / best.parameters)) <= _SAME_SIZE
        and kind.startswith(best.family)
        and best.encoder in encoder.lower()
    )
    return PaperRow(best.name, exact)

"""`TopicChange` tells whether the newest message goes on with the dialogue or asks for something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

# Below the first probability the topic goes on, from the second on it is new; in between it is partly so.
# Chosen on the dev sets (finetune/FUSION.md).
_GOES_ON, _NEW = 0.5, 0.9
_TINY = 1e-9


def topic_features(dialogue: Floats, last: Floats, like_dialogue: Floats, like_last: Floats) -> Floats:
    """Return what a change of topic is told by, shape (d + 4,).

    These are the newest message's vector, which tells a wish that stands alone from a condition or an answer,
    and four numbers: how alike the two are in the catalog and as vectors, and how clearly the newest message
    tells items apart, beside the dialogue and alone.

    Parameters
    ----------
    dialogue, last
        Shape (d,): vectors of the whole dialogue and of the user's newest message, unit length.
    like_dialogue, like_last
        Shape (N,): likeness of each item of the catalog to the two.
    """
    spread, spread_last = (max(float(like.std()), _TINY) for like in (like_dialogue, like_last))
    together = (like_dialogue - like_dialogue.mean()) @ (like_last - like_last.mean()) / len(like_last)
    alike = float(together) / (spread * spread_last)
    return np.array([*last, alike, spread_last / spread, spread_last, float(dialogue @ last)])


@dataclass(frozen=True)
class TopicChange:
    """A logistic regression on `topic_features`.

    Attributes
    ----------
    weights
        Shape (d + 5,): of the features, and the intercept. Empty: the topic always goes on.
    """

    weights: Floats

    def share(self, dialogue: Floats, last: Floats, like_dialogue: Floats, like_last: Floats) -> float:
        """Return how far the topic is new, from 0 to 1; parameters as for `topic_features`."""
        if not len(self.weights):
            return 0.0
        row = topic_features(dialogue, last, like_dialogue, like_last)
        chance = 1 / (1 + np.exp(-float(row @ self.weights[:-1] + self.weights[-1])))
        return float(np.clip((chance - _GOES_ON) / (_NEW - _GOES_ON), 0.0, 1.0))


SAME_TOPIC = TopicChange(np.zeros(0, dtype=np.float32))
"""Finds no change of topic: what a fit without examples of it gives."""

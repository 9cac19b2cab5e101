"""Choosing with a model in this process: scores, constrained decoding, or free text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from reges_index.errors import ConfigError
from reges_index.item_expert.matching import match_answer
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import Selection, share_among_equals
from reges_index.models.backend import LocalBackend

__all__ = ["LocalSelector", "SelectionMode"]

SelectionMode: TypeAlias = Literal["score", "constrained", "generate", "reason"]

# Section 3.3: "we set the decoding temperature to 0.1".
PAPER_TEMPERATURE = 0.1


class LocalSelector:
    """LLM_G over a `LocalLM`.

    Parameters
    ----------
    mode
        "score": every candidate's probability, from one forward of the prompt and one of the trie of
        labels. "constrained": greedy decoding within the trie, one pick. "generate": the paper's decoding,
        free text at temperature 0.1 matched to the candidates. "reason": as "score", behind the reasoning
        that `ReasoningSelector` has put into the prompt.
    length_penalty
        Log-probabilities are divided by (tokens of the label) ** length_penalty before they are compared;
        0 is the model's own probability, 1 the mean over the tokens (arXiv 1609.08144, section 7).
    seed
        Of the sampling in "generate".
    """

    def __init__(
        self, backend: LocalBackend, mode: SelectionMode, *, length_penalty: float = 0.0, seed: int = 0
    ) -> None:
        if mode not in get_args(SelectionMode):
            raise ConfigError(f"mode={mode!r} is unknown", hint=f"use {' or '.join(get_args(SelectionMode))}")
        self._backend = backend
        self.mode: SelectionMode = mode
        self.length_penalty = length_penalty
        self.seed = seed

    async def aselect(self, prompt: SelectionPrompt) -> Selection:
        """Choose; the model runs in a thread."""
        return await asyncio.to_thread(self.select, prompt)

    def select(self, prompt: SelectionPrompt) -> Selection:
        """Choose among the prompt's candidates."""
        if self.mode in ("score", "reason"):
            return self._score(prompt)
        if self.mode == "constrained":
            labels = list(dict.fromkeys(prompt.labels))
            chosen = self._backend.lm.choose(prompt.messages, labels, adapter=self._backend.adapter)
            pick = prompt.labels.index(labels[chosen])
            return Selection.of_pick(pick, len(prompt.labels), "constrained", answer=labels[chosen])
        longest = max(self._backend.measure.count(label) for label in prompt.labels)
        answer = self._backend.generate(
            [prompt.messages],
            max_new_tokens=longest + 8,
            temperature=PAPER_TEMPERATURE,
            seed=self.seed,
        )[0][0]
        pick_or_none = match_answer(answer, prompt.labels)
        return Selection.of_pick(pick_or_none, len(prompt.labels), "matched", answer=answer)

    def _score(self, prompt: SelectionPrompt) -> Selection:
        labels = list(dict.fromkeys(prompt.labels))
        scores = self._backend.lm.score(
            prompt.messages, labels, adapter=self._backend.adapter, answer_start=prompt.answer_start
        )
        strength = [score.logprob / score.num_tokens**self.length_penalty for score in scores]
        by_label = dict(zip(labels, softmax(strength), strict=True))
        logprob = {label: score.logprob for label, score in zip(labels, scores, strict=True)}
        probabilities = share_among_equals(prompt.labels, [by_label[label] for label in prompt.labels])
        order = sorted(range(len(probabilities)), key=lambda index: (-probabilities[index], index))
        return Selection(
            order=tuple(order),
            outcome="scored",
            probabilities=tuple(probabilities),
            logprobs=tuple(logprob[label] for label in prompt.labels),
        )


def softmax(values: Sequence[float]) -> list[float]:
    """Return exp(v) / sum(exp(v)), computed from the largest value down so that nothing overflows."""
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]

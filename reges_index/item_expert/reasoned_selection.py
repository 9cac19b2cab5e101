"""Choosing behind a reasoning: any selector, asked once the seeker's preferences are in words."""

from __future__ import annotations

from dataclasses import replace

from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.reasoning import Reasoner, Reasoning
from reges_index.item_expert.selection import Selection, Selector

__all__ = ["ReasoningSelector"]


class ReasoningSelector:
    """LLM_G with chain of thought (section 3.7.2).

    The paper lets the model write the item behind its reasoning. Here the reasoning is written and the item
    then chosen as it is without one: the choice is always a candidate, and a local model gives every
    candidate's probability behind prompt and reasoning.

    Parameters
    ----------
    selector
        Chooses.
    reasoner
        Writes the reasoning.
    spoken
        See `SelectionPrompt.after`.
    """

    def __init__(self, selector: Selector, reasoner: Reasoner, *, spoken: bool) -> None:
        self._selector = selector
        self._reasoner = reasoner
        self._spoken = spoken

    def select(self, prompt: SelectionPrompt) -> Selection:
        """Reason, then choose."""
        reasoning = self._reasoner.write(prompt)
        return self._with(reasoning, self._selector.select(self._after(prompt, reasoning)))

    async def aselect(self, prompt: SelectionPrompt) -> Selection:
        """Reason off the event loop, then choose; a cancelled call ends the reasoning."""
        reasoning = await self._reasoner.awrite(prompt)
        return self._with(reasoning, await self._selector.aselect(self._after(prompt, reasoning)))

    def _after(self, prompt: SelectionPrompt, reasoning: Reasoning) -> SelectionPrompt:
        return prompt.after(reasoning.text, spoken=self._spoken)

    @staticmethod
    def _with(reasoning: Reasoning, selection: Selection) -> Selection:
        return replace(selection, reasoning=reasoning)

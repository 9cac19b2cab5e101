"""One choice that is asked for: its candidates, and the prompts that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from reges_index.catalog.item import Item
from reges_index.driver import Work, off_loop
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import Selection

__all__ = ["PromptKind", "Question", "Way"]

PromptKind: TypeAlias = Literal["select", "rank"]
"""One name is asked for, or a ranking."""


class Question:
    """Candidates for one dialogue, and the prompts about them, which are built when they are needed.

    Parameters
    ----------
    items
        The candidates, in the order in which the model sees them.
    build
        Makes the prompt of a kind for some candidates, and for so many of the best of them.
    best
        How many a ranking is to name.
    """

    def __init__(
        self,
        items: Sequence[Item],
        build: Callable[[Sequence[Item], PromptKind, int], SelectionPrompt],
        best: int = 1,
    ) -> None:
        self.items = items
        self.best = best
        self._build = build
        self._built: dict[PromptKind, SelectionPrompt] = {}
        self._whole: Question | None = None
        self._reasoned: tuple[str, bool] = ("", False)
        self.asked: SelectionPrompt | None = None
        """The prompt that was built last, here or for a part."""

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.items)

    def part(self, indices: Sequence[int], best: int | None = None) -> Question:
        """Return the question about some of the candidates, in this order."""
        part = Question([self.items[index] for index in indices], self._build, best or self.best)
        part._whole = self
        part._reasoned = self._reasoned
        return part

    def prompt(self, kind: PromptKind) -> Work[SelectionPrompt]:
        """Return the prompt, which is built off the event loop: fifty abstracts take a while to tokenize."""
        if kind not in self._built:
            built: SelectionPrompt = yield off_loop(self._build, self.items, kind, min(self.best, len(self)))
            text, spoken = self._reasoned
            self._built[kind] = built.after(text, spoken=spoken)
        prompt = self._built[kind]
        question: Question | None = self
        while question is not None:
            question.asked = prompt
            question = question._whole
        return prompt

    def after(self, reasoning: str, *, spoken: bool) -> None:
        """Ask from now on behind this reasoning; see `SelectionPrompt.after`."""
        self._reasoned = (reasoning, spoken)
        self._built.clear()


class Way(Protocol):
    """One way of asking a model for a choice.

    Attributes
    ----------
    name
        What reports call it.
    """

    name: str

    def fits(self, size: int) -> bool:
        """Say whether so many candidates can be asked about in this way."""
        ...

    def ask(self, question: Question) -> Work[Selection]:
        """Ask, and read the answer; `NoChoice` where it makes no choice and another way may make one."""
        ...

"""Systems that predict: anything with a name and `predict`; runs stream to disk and go on where they were."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle, Turn, render_history
from reges_index.dialogue.measure import HFMeasure
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.engines.batch import PredictionLog
from reges_index.evaluation.predictions import Prediction, read_predictions
from reges_index.evaluation.titles import TitleMatcher
from reges_index.item_expert.answers import match_answer
from reges_index.item_expert.prompt import COT_SELECT_TMPL
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.models.local_lm import LocalLM

__all__ = ["FREE_PROMPT", "ChainOfThought", "FreeLLM", "Ranked", "Selecting", "System", "run_system"]


@runtime_checkable
class System(Protocol):
    """What an experiment needs of a system; write one to put your own into the paper's tables."""

    @property
    def name(self) -> str:
        """Name in the tables."""
        ...

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield one prediction for each turn, in any order."""
        ...


def run_system(
    system: System, turns: Sequence[Turn], path: Path, settings: Mapping[str, Any], *, batch_size: int = 8
) -> list[Prediction]:
    """Run a system over turns, batches sorted by length, each batch on the disk before the next.

    Parameters
    ----------
    path
        JSONL of predictions; turns that it holds are not run again.
    settings
        All that the predictions depend on. A file made with others is refused.

    Returns
    -------
    The predictions of ``turns``.
    """
    with PredictionLog(path, settings) as log:
        todo = [turn for turn in turns if turn.id not in log.finished]
        todo.sort(key=lambda turn: sum(len(message.content) for message in turn.messages))
        for start in range(0, len(todo), batch_size):
            made = system.predict(todo[start : start + batch_size])
            log.write([p.model_dump(mode="json", exclude_unset=True) for p in made])
    wanted = {turn.id for turn in turns}
    return [p for p in read_predictions(path) if p.id in wanted]


@dataclass(frozen=True)
class Ranked:
    """A ranking that is known beforehand, such as a retriever's.

    Attributes
    ----------
    rankings, queries
        By turn id; ``queries`` may be empty.
    """

    name: str
    rankings: Mapping[str, Sequence[str]]
    queries: Mapping[str, str] = field(default_factory=dict)

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield the known rankings."""
        for turn in turns:
            yield Prediction(
                id=turn.id, ranking=tuple(self.rankings[turn.id]), query=self.queries.get(turn.id)
            )


@dataclass(frozen=True)
class Selecting:
    """The item expert over candidates that are known beforehand (section 2.4).

    Attributes
    ----------
    rerank
        The item expert.
    candidates
        Turn id to item ids in the retriever's order.
    items
        Item id to item.
    matcher
        Says whether free text that names no candidate names any item at all.
    """

    name: str
    rerank: ReGeSRerank
    candidates: Mapping[str, Sequence[str]]
    items: Mapping[str, Item]
    matcher: TitleMatcher

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield the candidates as the item expert ranks them; a pick that is no candidate is none."""
        for turn in turns:
            nodes = [
                NodeWithScore(node=self.items[i].to_node(), score=None) for i in self.candidates[turn.id]
            ]
            start = time.perf_counter()
            found = self.rerank.rank(nodes, DialogueQueryBundle.from_dialogue(turn))
            seconds = time.perf_counter() - start
            report = found.report["rerank"]
            chances = [c.probability for c in found.candidates]
            missed = report.get("outcome") == "hallucinated"
            values: dict[str, Any] = {
                "id": turn.id,
                "ranking": tuple(c.item.id for c in found.candidates),
                "candidates": len(nodes),
                "hallucinated": missed and _names_nothing(report.get("answer"), self.matcher),
                "timings": {"rerank": seconds},
                "tokens": {"candidates": float(report.get("candidate_tokens", 0))},
            }
            if chances and None not in chances:
                values["probabilities"] = tuple(chances)
            if report.get("answer") is not None:
                values["answer"] = report["answer"]
            if missed:
                values["recommendation"] = None
            yield Prediction(**values)


def _first_line(answer: str | None) -> str:
    return next((line.strip() for line in (answer or "").splitlines() if line.strip()), "")


def _names_nothing(answer: str | None, matcher: TitleMatcher) -> bool:
    return matcher.match(_first_line(answer).strip("\"'*. ")).item is None


@dataclass(frozen=True)
class ChainOfThought:
    """The item expert that writes the seeker's preferences first, then one name (section 3.7.2).

    Attributes
    ----------
    rerank
        Holds prompt budgets and template; build it with ``select_prompt=COT_SELECT_TMPL``.
    adapter
        Trained for it, or None for the bare model.
    max_new_tokens
        For reasoning and name.
    """

    name: str
    rerank: ReGeSRerank
    lm: LocalLM
    adapter: str | None
    candidates: Mapping[str, Sequence[str]]
    items: Mapping[str, Item]
    matcher: TitleMatcher
    max_new_tokens: int = 160

    template = COT_SELECT_TMPL

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield the pick first, then the retriever's order."""
        prompts = [
            self.rerank.build_prompt(
                [self.items[i] for i in self.candidates[turn.id]], DialogueQueryBundle.from_dialogue(turn)
            )
            for turn in turns
        ]
        start = time.perf_counter()
        answers = self.lm.generate(
            [prompt.messages for prompt in prompts],
            adapter=self.adapter,
            max_new_tokens=self.max_new_tokens,
            batch_size=max(1, len(prompts)),
        )
        seconds = (time.perf_counter() - start) / max(1, len(turns))
        for turn, prompt, (answer, *_) in zip(turns, prompts, answers, strict=True):
            written = [line for line in answer.text.splitlines() if line.strip()]
            named = written[-1] if written else ""
            pick = match_answer(named, prompt.labels)
            listed = list(self.candidates[turn.id])
            values: dict[str, Any] = {
                "id": turn.id,
                "ranking": tuple(listed),
                "candidates": len(listed),
                "answer": answer.text,
                "hallucinated": pick is None and _names_nothing(named, self.matcher),
                "recommendation": None,
                "timings": {"rerank": seconds},
                "tokens": {"prompt": answer.prompt_tokens, "answer": answer.new_tokens},
            }
            if pick is not None:
                chosen = listed[pick]
                values["ranking"] = (chosen, *(item for item in listed if item != chosen))
                values["recommendation"] = chosen
            yield Prediction(**values)


# The wording is ours; the form follows He et al. 2023 (arXiv 2308.10053), whom the paper takes this from.
FREE_PROMPT = (
    "Pretend that you are a {noun} recommender. Read the conversation and recommend {count} {nouns} that fit "
    "what the seeker wants, best first, one title a line, nothing else.\n\n{history}"
)


@dataclass(frozen=True)
class FreeLLM:
    """An LLM that recommends from what it remembers, without a catalog (the paper's LLM-CRS).

    Attributes
    ----------
    count
        Titles that it is asked for.
    max_history_tokens
        Budget of the dialogue, cut from its oldest end.
    """

    name: str
    lm: LocalLM
    matcher: TitleMatcher
    domain: Domain = MOVIES
    count: int = 10
    max_history_tokens: int = 1024

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield titles as they were written; which of them are catalog items is the evaluation's business."""
        measure = HFMeasure(self.lm.tokenizer)
        prompts = [
            [
                ChatMessage(
                    role=MessageRole.USER,
                    content=FREE_PROMPT.format(
                        noun=self.domain.noun,
                        nouns=self.domain.plural,
                        count=self.count,
                        history=render_history(
                            turn.chat, budget=self.max_history_tokens, measure=measure
                        ).text,
                    ),
                )
            ]
            for turn in turns
        ]
        start = time.perf_counter()
        answers = self.lm.generate(
            prompts, max_new_tokens=12 * self.count, no_repeat_ngram_size=6, batch_size=max(1, len(prompts))
        )
        seconds = (time.perf_counter() - start) / max(1, len(turns))
        for turn, (answer, *_) in zip(turns, answers, strict=True):
            titles = [title for line in answer.text.splitlines() if (title := clean_title(line))]
            # A title that the token limit cut off in the middle is not counted against the model.
            if answer.finish_reason == "length" and len(titles) > 1:
                titles.pop()
            values: dict[str, Any] = {
                "id": turn.id,
                "ranking": tuple(titles),
                "answer": titles[0] if titles else "",
                "hallucinated": not titles or self.matcher.match(titles[0]).item is None,
                "timings": {"generate": seconds},
                "tokens": {"prompt": answer.prompt_tokens, "answer": answer.new_tokens},
            }
            yield Prediction(**values)


def clean_title(line: str) -> str:
    """Return the title in a line of a list: without number, bullet, quotes or a long explanation."""
    text = line.strip().lstrip("-*•# ").strip()
    head, dot, rest = text.partition(" ")
    # Two digits at most: "2001: A Space Odyssey" is a title.
    if dot and re.fullmatch(r"\d{1,2}[.):]", head):
        text = rest.strip()
    for mark in (" - ", " – ", ": "):
        # "Title: what it is about" is an explanation, "Alien: Covenant" a title; only long tails are cut.
        start, found, tail = text.partition(mark)
        if found and len(tail.split()) > 5:
            text = start
    return text.strip("\"'*“”‘’. ")

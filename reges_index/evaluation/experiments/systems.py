"""Systems that predict, and the queries they search with; runs stream to disk and go on where they were."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import NodeWithScore

from reges_index.catalog.catalog import ItemCatalog
from reges_index.catalog.encoder import embed_queries
from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle, Turn, render_history
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.driver import run
from reges_index.evaluation.predictions import Prediction, TitleMatcher, read_predictions
from reges_index.files import RunLog, json_lines
from reges_index.item_expert.answers import match_answer
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.models.backend import Backend
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = [
    "FREE_PROMPT",
    "QUERY_NAMES",
    "FreeLLM",
    "FreeReasoning",
    "QueryKind",
    "Ranked",
    "Retrieving",
    "Selecting",
    "System",
    "clean_title",
    "embed_texts",
    "retrieve",
    "run_system",
    "written_queries",
]

QueryKind: TypeAlias = Literal["original", "direct", "augmented"]
"""What is searched with: the whole dialogue, or a query by the untrained LLM, or by LLM_QR (section 3.5)."""

QUERY_NAMES: dict[QueryKind, str] = {
    "original": "Original (raw dialogue)",
    "direct": "Direct Prompt (untrained LLM)",
    "augmented": "G-augmented R (LLM_QR)",
}


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
    with RunLog(path, settings) as log:
        todo = [turn for turn in turns if turn.id not in log.finished]
        todo.sort(key=lambda turn: sum(len(message.content) for message in turn.messages))
        for start in range(0, len(todo), batch_size):
            made = system.predict(todo[start : start + batch_size])
            log.write([p.model_dump(mode="json", exclude_unset=True) for p in made])
    wanted = {turn.id for turn in turns}
    return [p for p in read_predictions(path) if p.id in wanted]


def written_queries(
    turns: Sequence[Turn],
    transform: ReGeSQueryTransform,
    path: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int = 8,
) -> dict[str, list[str]]:
    """Let a query expert write the queries, batches sorted by length, each on the disk before the next.

    Parameters
    ----------
    path
        JSONL of ``{"id", "query", "texts", "fallback"}``; turns that it holds are not run again.
    settings
        All that the queries depend on. A file made with others is refused.

    Returns
    -------
    By turn id the texts whose mean vector is searched with; the first one is the query.
    """
    with RunLog(path, settings) as log:
        todo = [turn for turn in turns if turn.id not in log.finished]
        todo.sort(key=lambda turn: sum(len(message.content) for message in turn.messages))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            bundles = transform.run_batch([DialogueQueryBundle.from_dialogue(turn) for turn in batch])
            log.write(
                [
                    {
                        "id": turn.id,
                        "query": bundle.query_str,
                        "texts": list(bundle.embedding_strs),
                        "fallback": bool(bundle.report.get("query", {}).get("fallback")),
                    }
                    for turn, bundle in zip(batch, bundles, strict=True)
                ]
            )
    wanted = {turn.id for turn in turns}
    return {row["id"]: list(row["texts"]) for _, row in json_lines(path) if row["id"] in wanted}


def embed_texts(
    texts: Sequence[Sequence[str]], model: BaseEmbedding
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mean vector of each query's texts, as `CatalogRetriever` does; shape (n, dimension)."""
    flat = [text for own in texts for text in own]
    vectors = np.asarray(embed_queries(model, flat), dtype=np.float64)
    ends = np.cumsum([len(own) for own in texts])
    return np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])


@dataclass(frozen=True)
class Retrieving:
    """A retriever as a system: the ranking is its own order.

    Attributes
    ----------
    queries
        Turn id to the texts to search with.
    depth
        Items to list.
    """

    name: str
    queries: Mapping[str, Sequence[str]]
    catalog: ItemCatalog
    depth: int

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield what is retrieved for each turn."""
        own = {turn.id: self.queries[turn.id] for turn in turns}
        for turn, found in retrieve(own, self.catalog, self.depth).items():
            yield Prediction(id=turn, ranking=tuple(found), query=own[turn][0])


def retrieve(queries: Mapping[str, Sequence[str]], catalog: ItemCatalog, top_k: int) -> dict[str, list[str]]:
    """Return the item ids that a catalog retrieves for each turn, best first."""
    if not queries:
        return {}
    vectors = embed_texts(list(queries.values()), catalog.embed_model)
    found = catalog.retrieve_batch([vector.tolist() for vector in vectors], top_k)
    return {turn: [item for item, _ in hits] for turn, hits in zip(queries, found, strict=True)}


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
class FreeReasoning:
    """Chain of thought in the paper's own decoding: preferences and one name, written freely (section 3.7.2).

    The product's ``mode="reason"`` scores the candidates behind the reasoning instead.

    Attributes
    ----------
    rerank
        Makes the prompt; build it with ``mode="reason"``, so that its template, adapter and budgets are used.
    max_new_tokens
        For reasoning and name.
    """

    name: str
    rerank: ReGeSRerank
    candidates: Mapping[str, Sequence[str]]
    items: Mapping[str, Item]
    matcher: TitleMatcher
    max_new_tokens: int = 200

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield the pick first, then the retriever's order; an answer that names no candidate picks none."""
        for turn in turns:
            listed = list(self.candidates[turn.id])
            prompt = self.rerank.build_prompt(
                [self.items[item] for item in listed], DialogueQueryBundle.from_dialogue(turn)
            )
            start = time.perf_counter()
            ((answer, *_),) = run(
                self.rerank.backend.said([prompt.messages], max_new_tokens=self.max_new_tokens)
            )
            seconds = time.perf_counter() - start
            named = ([line for line in answer.splitlines() if line.strip()] or [""])[-1]
            pick = match_answer(named, prompt.labels)
            chosen = None if pick is None else listed[pick]
            yield Prediction(
                id=turn.id,
                ranking=(*((chosen,) if chosen else ()), *(item for item in listed if item != chosen)),
                candidates=len(listed),
                answer=answer,
                hallucinated=pick is None and _names_nothing(named, self.matcher),
                recommendation=chosen,
                timings={"rerank": seconds},
            )


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
    backend: Backend
    matcher: TitleMatcher
    domain: Domain = MOVIES
    count: int = 10
    max_history_tokens: int = 1024

    def settings(self) -> dict[str, Any]:
        """Return what a run depends on beside data and model."""
        prompt = hashlib.sha256(FREE_PROMPT.encode()).hexdigest()[:16]
        return {"titles": self.count, "history": self.max_history_tokens, "prompt": prompt}

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield titles as they were written; which of them are catalog items is the evaluation's business."""
        measure = self.backend.measure
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
        answers = run(self.backend.said(prompts, max_new_tokens=12 * self.count, no_repeat_ngram_size=6))
        seconds = (time.perf_counter() - start) / max(1, len(turns))
        for turn, (answer, *_) in zip(turns, answers, strict=True):
            titles = [title for line in answer.splitlines() if (title := clean_title(line))][: self.count]
            yield Prediction(
                id=turn.id,
                ranking=tuple(titles),
                answer=titles[0] if titles else "",
                hallucinated=not titles or self.matcher.match(titles[0]).item is None,
                timings={"generate": seconds},
                tokens={"answer": measure.count(answer)},
            )


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

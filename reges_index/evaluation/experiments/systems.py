"""Systems that predict, and the queries they search with; runs stream to disk and go on where they were."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import NodeWithScore

from reges_index.catalog.encoder import embed_queries
from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle, Turn, render_history
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.driver import run
from reges_index.evaluation.predictions import Prediction, TitleMatcher, read_predictions
from reges_index.files import RunLog
from reges_index.item_expert.answers import match_answer
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.models.backend import Backend
from reges_index.query_expert.transform import ReGeSQueryTransform

QueryKind: TypeAlias = Literal["original", "direct", "augmented"]
"""What is searched with: the whole dialogue, or a query by the untrained LLM, or by LLM_QR (section 3.5)."""

QUERY_NAMES: dict[QueryKind, str] = {
    "original": "Original (raw dialogue)",
    "direct": "Direct Prompt (untrained LLM)",
    "augmented": "G-augmented R (LLM_QR)",
}
_REASONING_TOKENS = 200
_FREE_TITLES, _FREE_HISTORY = 10, 1024


Predict: TypeAlias = Callable[[Sequence[Turn]], Iterable[Prediction]]
"""Gives one prediction for each turn, in any order."""


class System(Protocol):
    """What an experiment needs of a system; write one to put your own into the paper's tables."""

    name: str
    """In the tables."""

    def predict(self, turns: Sequence[Turn]) -> Iterable[Prediction]:
        """Give one prediction for each turn, in any order."""
        ...


def each(answer: Callable[[Turn], Prediction]) -> Predict:
    """Return what answers turn by turn, and notes the seconds that each answer took."""

    def predict(turns: Sequence[Turn]) -> Iterator[Prediction]:
        for turn in turns:
            start = time.perf_counter()
            made = answer(turn)
            yield made.model_copy(update={"timings": {"seconds": time.perf_counter() - start}})

    return predict


def run_system(
    predict: Predict, turns: Sequence[Turn], path: Path, settings: Mapping[str, Any], *, batch_size: int = 8
) -> list[Prediction]:
    """Run a system over turns, similar lengths together, each batch on the disk before the next.

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
            made = predict(todo[start : start + batch_size])
            log.write([p.model_dump(mode="json", exclude_unset=True) for p in made])
    wanted = {turn.id for turn in turns}
    return [p for p in read_predictions(path) if p.id in wanted]


def writing(transform: ReGeSQueryTransform) -> Predict:
    """Return what writes queries: predictions without a ranking, with the texts that are searched with."""

    def predict(turns: Sequence[Turn]) -> Iterator[Prediction]:
        bundles = transform.run_batch([DialogueQueryBundle.from_dialogue(turn) for turn in turns])
        for turn, bundle in zip(turns, bundles, strict=True):
            texts = {"query": bundle.query_str, "texts": list(bundle.embedding_strs)}
            yield Prediction.model_validate({"id": turn.id, "ranking": (), **texts})

    return predict


def texts_of(written: Iterable[Prediction]) -> dict[str, list[str]]:
    """Return by turn id the texts that `writing` wrote, the query first."""
    return {made.id: list((made.model_extra or {})["texts"]) for made in written}


def embed_texts(
    texts: Sequence[Sequence[str]], model: BaseEmbedding
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mean vector of each query's texts, as `CatalogRetriever` does; shape (n, dimension)."""
    flat = [text for own in texts for text in own]
    vectors = np.asarray(embed_queries(model, flat), dtype=np.float64)
    ends = np.cumsum([len(own) for own in texts])
    return np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])


def selected(
    rerank: ReGeSRerank, candidates: Sequence[Item], turn: Turn, matcher: TitleMatcher
) -> Prediction:
    """Let the item expert rank candidates that stand in the retriever's order (section 2.4).

    A pick in free text that is no candidate is none; ``matcher`` says whether it names any item at all.
    """
    nodes = [NodeWithScore(node=item.to_node(), score=None) for item in candidates]
    found = rerank.rank(nodes, DialogueQueryBundle.from_dialogue(turn))
    report = found.report["rerank"]
    answer, missed = report.get("answer"), report.get("outcome") == "hallucinated"
    chances = [c.probability for c in found.candidates]
    values: dict[str, Any] = {
        "id": turn.id,
        "ranking": tuple(c.item.id for c in found.candidates),
        "candidates": len(nodes),
        "hallucinated": missed and _names_nothing(answer, matcher),
        "tokens": {"candidates": float(report.get("candidate_tokens", 0))},
        **({"probabilities": tuple(chances)} if chances and None not in chances else {}),
        **({"answer": answer} if answer is not None else {}),
        **({"recommendation": None} if missed else {}),
    }
    return Prediction(**values)


def reasoned_freely(
    rerank: ReGeSRerank, candidates: Sequence[Item], turn: Turn, matcher: TitleMatcher
) -> Prediction:
    """Choose by the paper's own decoding: preferences and one name, written freely (section 3.7.2).

    The product's ``mode="reason"`` scores the candidates behind the reasoning instead. The pick stands first,
    then the retriever's order; an answer that names no candidate picks none.

    Parameters
    ----------
    rerank
        Of ``mode="reason"``: its template, adapter and budgets make the prompt.
    """
    listed = [item.id for item in candidates]
    prompt = rerank.build_prompt(candidates, DialogueQueryBundle.from_dialogue(turn))
    ((answer, *_),) = run(rerank.backend.said([prompt.messages], max_new_tokens=_REASONING_TOKENS))
    named = ([line for line in answer.splitlines() if line.strip()] or [""])[-1]
    pick = match_answer(named, prompt.labels)
    chosen = [] if pick is None else [listed[pick]]
    return Prediction(
        id=turn.id,
        ranking=(*chosen, *(item for item in listed if item not in chosen)),
        candidates=len(listed),
        answer=answer,
        hallucinated=pick is None and _names_nothing(named, matcher),
        recommendation=chosen[0] if chosen else None,
    )


def _names_nothing(answer: str | None, matcher: TitleMatcher) -> bool:
    first = next((line.strip() for line in (answer or "").splitlines() if line.strip()), "")
    return matcher.match(first.strip("\"'*. ")).item is None


# The wording is ours; the form follows He et al. 2023 (arXiv 2308.10053), whom the paper takes this from.
FREE_PROMPT = (
    "Pretend that you are a {noun} recommender. Read the conversation and recommend {count} {nouns} that fit "
    "what the seeker wants, best first, one title a line, nothing else.\n\n{history}"
)


def recommended_freely(
    backend: Backend, turn: Turn, matcher: TitleMatcher, domain: Domain = MOVIES
) -> Prediction:
    """Let an LLM recommend from what it remembers, without a catalog (the paper's LLM-CRS).

    Titles stay as they were written; which of them are catalog items is the evaluation's business.
    """
    history = render_history(turn.chat, budget=_FREE_HISTORY, measure=backend.measure).text
    asked = FREE_PROMPT.format(noun=domain.noun, nouns=domain.plural, count=_FREE_TITLES, history=history)
    prompts = [[ChatMessage(role=MessageRole.USER, content=asked)]]
    answers = backend.said(prompts, max_new_tokens=12 * _FREE_TITLES, no_repeat_ngram_size=6)
    ((answer, *_),) = run(answers)
    titles = [title for line in answer.splitlines() if (title := clean_title(line))][:_FREE_TITLES]
    return Prediction(
        id=turn.id,
        ranking=tuple(titles),
        answer=titles[0] if titles else "",
        hallucinated=not titles or matcher.match(titles[0]).item is None,
        tokens={"answer": backend.measure.count(answer)},
    )


def clean_title(line: str) -> str:
    """Return the title in a line of a list: without number, bullet, quotes or a long explanation."""
    text = line.strip().lstrip("-*•# ").strip()
    # Two digits at most: "2001: A Space Odyssey" is a title.
    text = re.sub(r"^\d{1,2}[.):] +", "", text)
    for mark in (" - ", " – ", ": "):
        # "Title: what it is about" is an explanation, "Alien: Covenant" a title; only long tails are cut.
        start, _, tail = text.partition(mark)
        if len(tail.split()) > 5:
            text = start
    return text.strip("\"'*“”‘’. ")

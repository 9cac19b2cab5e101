"""Which ways of asking belong to a mode, tried one after the other, and rankings of long lists."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

from reges_index.driver import Work, together
from reges_index.errors import LLMServerError
from reges_index.item_expert.prior import mean_evidence, rank_evidence
from reges_index.item_expert.question import Question, Way
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.item_expert.ways import (
    ConstrainedWay,
    LetterWay,
    ScoreWay,
    StructuredPickWay,
    StructuredRankWay,
    TextPickWay,
    TextRankWay,
    gives_structure,
)
from reges_index.models.api_answers import UnfitAnswer
from reges_index.models.api_clients import is_openai_kind
from reges_index.models.api_faults import is_mistake, is_refused
from reges_index.models.backend import ApiBackend, Backend, LocalBackend
from reges_index.models.offers import Offers, offers_of

__all__ = ["RankWay", "RerankMode", "try_ways", "ways_of"]

logger = logging.getLogger(__name__)

RerankMode: TypeAlias = Literal["auto", "rank", "score", "constrained", "generate", "reason"]

# What a way of asking raises where the server, the LLM's class or the model does not do what it takes; of the
# ValueErrors not those that `is_mistake` knows.
_FAILED = (NoChoice, LLMServerError, UnfitAnswer, ValueError)


def ways_of(
    mode: RerankMode,
    backend: Backend,
    *,
    length_penalty: float = 0.0,
    seed: int = 0,
    window: int,
    passes: int,
    min_mass: float,
) -> list[Way]:
    """Return the ways of asking that a mode takes, best first; the last one always gives a selection.

    "auto" with a model in this process is "score"; behind an API it is letters by logprobs, then "rank".
    "reason" asks like "auto", behind the reasoning. Behind an API "score" is letters, then a pick in
    structured output, then the paper's prompt as plain chat; "constrained" is the last two of these,
    "generate" the last.
    """
    text = TextPickWay(backend, seed)
    if isinstance(backend, LocalBackend):
        by_mode: Mapping[str, Way] = {
            "rank": RankWay([TextRankWay(backend)], None, window=window, passes=passes, seed=seed),
            "constrained": ConstrainedWay(backend),
            "generate": text,
        }
        return [by_mode.get(mode) or ScoreWay(backend, length_penalty)]
    assert isinstance(backend, ApiBackend)
    if mode in ("auto", "score") and backend.manifest is not None:
        return [text]  # what the server's adapter was trained to write
    structured = gives_structure(backend.llm)
    letters = [LetterWay(backend, min_mass)] if is_openai_kind(backend.llm) else []
    if mode in ("auto", "rank", "reason"):
        ranks: list[Way] = [StructuredRankWay(backend)] if structured else []
        ranks.append(TextRankWay(backend))
        rank = RankWay(ranks, offers_of(backend.llm), window=window, passes=passes, seed=seed)
        return [*letters, rank] if mode != "rank" else [rank]
    ways: list[Way] = [*letters] if mode == "score" else []
    if structured and mode != "generate":
        ways.append(StructuredPickWay(backend))
    return [*ways, text]


def try_ways(ways: Sequence[Way], question: Question, offers: Offers | None) -> Work[Selection]:
    """Ask in one way after the other until one gives a choice, and remember what the server does not offer.

    What fails twice in a row while another way works is not tried again with this LLM (`Offers`), but goes on
    being counted as a fall-back. Where no way works nothing is learned: the request may have been refused for
    what all of them have in common.

    Raises
    ------
    LLMServerError
        If the server gave no usable answer, after all retries.
    """
    reasons: dict[str, str] = {}
    turned_down: dict[str, bool] = {}
    still_open: list[Way] = []
    for way in ways:
        if offers is not None and not offers.has(way.name):
            reasons[way.name] = "given up"
        elif not way.fits(len(question)):
            reasons[way.name] = "does not fit the prompt"
        else:
            still_open.append(way)
    # The last way is what every server offers.
    for way in still_open or ways[-1:]:
        try:
            selection = yield from way.ask(question)
        except _FAILED as error:
            if is_mistake(error) or (isinstance(error, LLMServerError) and not is_refused(error)):
                raise
            if way is ways[-1]:
                raise
            turned_down[way.name] = isinstance(error, NoChoice) and error.lasting
            reasons[way.name] = _reason(error)
            logger.warning("%s gave no choice (%s); asking in another way", way.name, reasons[way.name])
            continue
        if offers is not None:
            for name, lasting in turned_down.items():
                offers.failed(name, lasting=lasting)
            offers.worked(way.name)
        given_up = [w.name for w in ways if offers is not None and not offers.has(w.name)]
        return selection.after_fallbacks(reasons, given_up)
    raise AssertionError("plain text always gives a selection or an error")


def _reason(error: Exception) -> str:
    if isinstance(error, LLMServerError):
        return error.kind
    # Of other errors the class only: what they say may hold a key.
    return str(error) if isinstance(error, (NoChoice, UnfitAnswer)) else type(error).__name__


class RankWay:
    """A ranking, also of lists that are too long for one request, and of several orders of one list.

    Parameters
    ----------
    ways
        How a ranking of one list is asked for, best first.
    offers
        What the server has turned out not to offer; None for a model in this process.
    window
        Longer lists are ranked in RankGPT's sliding windows (arXiv:2304.09542): from the end of the list
        to its beginning, each window reaching half into the one before it.
    passes
        How often the list is ranked, each time but the first in another random order; the rankings are
        merged, which takes out what a model gives for places in the list (permutation self-consistency,
        arXiv:2310.07712). On an event loop all passes are under way at once.
    seed
        Of the random orders.
    """

    name = "ranking"

    def __init__(
        self, ways: Sequence[Way], offers: Offers | None, *, window: int, passes: int, seed: int
    ) -> None:
        self._ways = ways
        self._offers = offers
        self._window = window
        self._passes = passes
        self._seed = seed

    def fits(self, size: int) -> bool:  # noqa: ARG002
        """Say that any number of candidates can be ranked."""
        return True

    def ask(self, question: Question) -> Work[Selection]:
        """Return the ranking, merged of all passes."""
        size = len(question)
        draw = random.Random(self._seed)
        orders = [list(range(size)), *(draw.sample(range(size), size) for _ in range(self._passes - 1))]
        found = yield from together([partial(self._one_pass, question, order) for order in orders])
        if len(found) == 1:
            return found[0]
        told = [selection for selection in found if selection.evidence is not None]
        details = {**_summed(found), "passes": len(found)}
        if not told:
            return replace(found[0], fallbacks=max(s.fallbacks for s in found), details=details)
        evidence = mean_evidence([selection.evidence for selection in told if selection.evidence])
        return replace(
            told[0],
            order=tuple(sorted(range(size), key=lambda index: (-evidence[index], index))),
            evidence=evidence,
            fallbacks=max(selection.fallbacks for selection in found),
            details=details,
        )

    def _one_pass(self, question: Question, order: Sequence[int]) -> Work[Selection]:
        """Rank the list in one order of it, and return the selection in terms of the question's own order."""
        size, now = len(order), list(order)
        found: list[Selection] = []
        ends = [size]
        while ends[-1] > self._window:
            ends.append(max(self._window, ends[-1] - max(1, self._window // 2)))
        # Half a window goes on to the next one, so at least so many have to be placed.
        best = max(question.best, self._window // 2) if len(ends) > 1 else question.best
        for end in ends:
            start = max(0, end - self._window)
            part = question.part(now[start:end], best)
            selection = yield from try_ways(self._ways, part, self._offers)
            now[start:end] = [now[start + index] for index in selection.order]
            found.append(selection)
        last = found[-1]
        if not any(selection.kind == "rank" for selection in found):
            return replace(last, order=tuple(range(size)), details=_summed(found))
        # What the last window, with the best of all others, has placed. The others follow in the retriever's
        # order, or as the windows behind it have left them.
        placed = now[: int(last.details.get("ranked", 0))]
        behind = now[len(placed) :] if len(found) > 1 else sorted(set(range(size)) - set(placed))
        return replace(
            last,
            order=(*placed, *behind),
            outcome="ranked",
            evidence=rank_evidence(placed, size),
            kind="rank",
            fallbacks=max(selection.fallbacks for selection in found),
            details={**_summed(found), **({"windows": len(found)} if len(found) > 1 else {})},
        )


def _summed(found: Sequence[Selection]) -> dict[str, Any]:
    """Return the details of several answers: counts added up, of others the last."""
    details: dict[str, Any] = {}
    for selection in found:
        for name, value in selection.details.items():
            known = details.get(name)
            counts = isinstance(value, int) and not isinstance(value, bool) and isinstance(known, int)
            details[name] = value + known if counts else value
    return details

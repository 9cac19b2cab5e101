"""Which ways of asking belong to a mode, tried one after the other, and rankings of long lists."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

from reges_index.driver import Work, together
from reges_index.errors import LLMServerError
from reges_index.item_expert.prior import rank_evidence
from reges_index.item_expert.selection import NoChoice, Selection, best_first
from reges_index.item_expert.ways import (
    LETTERS,
    Question,
    Way,
    constrained,
    for_one_letter,
    gives_structure,
    letters,
    scores,
    structured_pick,
    structured_ranking,
    text_pick,
    text_ranking,
)
from reges_index.models.api import Offers, UnfitAnswer, is_mistake, is_openai_kind, is_refused
from reges_index.models.backend import ApiBackend, Backend, LocalBackend

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
    text = Way("text", partial(text_pick, backend, seed))
    rankings = [Way("text", partial(text_ranking, backend))]
    if isinstance(backend, LocalBackend):
        if mode == "rank":
            return [Way("ranking", partial(rank_list, rankings, None, window, passes, seed))]
        if mode == "constrained":
            return [Way("constrained", partial(constrained, backend))]
        return [text if mode == "generate" else Way("scores", partial(scores, backend, length_penalty))]
    assert isinstance(backend, ApiBackend)
    if mode == "generate" or (mode in ("auto", "score") and backend.manifest is not None):
        return [text]  # with a manifest it is what the server's adapter was trained to write
    ways: list[Way] = []
    if is_openai_kind(backend.llm) and mode in ("auto", "reason", "score"):
        asked = for_one_letter(backend.llm)
        ways.append(Way("logprobs", partial(letters, backend, asked, min_mass), most=len(LETTERS)))
    structured = gives_structure(backend.llm)
    if mode in ("score", "constrained"):
        picks = [Way("structured", partial(structured_pick, backend))] if structured else []
        return [*ways, *picks, text]
    if structured:
        rankings.insert(0, Way("structured", partial(structured_ranking, backend)))
    return [*ways, Way("ranking", partial(rank_list, rankings, backend.offers, window, passes, seed))]


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
        elif way.most is not None and len(question) > way.most:
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
        if not reasons:
            return selection
        given_up = [w.name for w in ways if offers is not None and not offers.has(w.name)]
        details = {**selection.details, "fallback_reasons": reasons, "given_up": given_up}
        return replace(selection, fallbacks=selection.fallbacks + len(reasons), details=details)
    raise AssertionError("plain text always gives a selection or an error")


def _reason(error: Exception) -> str:
    if isinstance(error, LLMServerError):
        return error.kind
    # Of other errors the class only: what they say may hold a key.
    return str(error) if isinstance(error, (NoChoice, UnfitAnswer)) else type(error).__name__


def rank_list(
    ways: Sequence[Way], offers: Offers | None, window: int, passes: int, seed: int, question: Question
) -> Work[Selection]:
    """Return a ranking, also of lists that are too long for one request, and of several orders of one list.

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
    size, draw = len(question), random.Random(seed)
    orders = [list(range(size)), *(draw.sample(range(size), size) for _ in range(passes - 1))]
    found = yield from together([partial(_one_pass, ways, offers, window, question, o) for o in orders])
    if len(found) == 1:
        return found[0]
    details = {**_summed(found), "passes": len(found)}
    fallbacks = max(selection.fallbacks for selection in found)
    told = [selection for selection in found if selection.evidence is not None]
    if not told:
        return replace(found[0], fallbacks=fallbacks, details=details)
    said = zip(*(selection.evidence or () for selection in told), strict=True)
    evidence = tuple(math.fsum(of_one) / len(told) for of_one in said)
    return replace(
        told[0], order=best_first(evidence), evidence=evidence, fallbacks=fallbacks, details=details
    )


def _one_pass(
    ways: Sequence[Way], offers: Offers | None, window: int, question: Question, order: Sequence[int]
) -> Work[Selection]:
    """Rank the list in one order of it, and return the selection in terms of the question's own order."""
    size, now = len(order), list(order)
    found: list[Selection] = []
    ends = [size]
    while ends[-1] > window:
        ends.append(max(window, ends[-1] - max(1, window // 2)))
    # Half a window goes on to the next one, so at least so many have to be placed.
    best = max(question.best, window // 2) if len(ends) > 1 else question.best
    for end in ends:
        start = max(0, end - window)
        selection = yield from try_ways(ways, question.part(now[start:end], best), offers)
        now[start:end] = [now[start + index] for index in selection.order]
        found.append(selection)
    last = found[-1]
    if not any(selection.kind == "rank" for selection in found):
        return replace(last, order=tuple(range(size)), details=_summed(found))
    # What the last window, with the best of all others, has placed. The others follow in the retriever's
    # order, or as the windows behind it have left them.
    placed = now[: int(last.details.get("ranked", 0))]
    behind = now[len(placed) :] if len(found) > 1 else sorted(set(range(size)) - set(placed))
    windows = {"windows": len(found)} if len(found) > 1 else {}
    return replace(
        last,
        order=(*placed, *behind),
        outcome="ranked",
        evidence=rank_evidence(placed, size),
        kind="rank",
        fallbacks=max(selection.fallbacks for selection in found),
        details={**_summed(found), **windows},
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

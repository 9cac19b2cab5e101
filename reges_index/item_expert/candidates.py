"""Candidates as text: labels that tell them apart, and details cut evenly to a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import TextMeasure
from reges_index.dialogue.text import one_line

__all__ = ["CANDIDATE_FORMAT", "RenderedCandidates", "candidate_labels", "label_tokens", "render_candidates"]

# Part of every item-expert prompt hash: change it whenever labels or lines below change.
CANDIDATE_FORMAT = "candidates-v1"


@dataclass(frozen=True)
class RenderedCandidates:
    """The candidate list of a prompt.

    Attributes
    ----------
    text
        One line a candidate: label, then details.
    labels
        What the model has to say to choose a candidate, in the order of the candidates.
    tokens
        Tokens of ``text`` (summed over its lines).
    shortened
        How many candidates lost a part of their details.
    detail_tokens
        Most tokens that a candidate's details were allowed; None when nothing was cut.
    """

    text: str
    labels: tuple[str, ...]
    tokens: int
    shortened: int
    detail_tokens: int | None


def candidate_labels(items: Sequence[Item]) -> tuple[str, ...]:
    """Return the name of each candidate within this list.

    The title alone (the paper's "only output one movie name"), with the year behind it where two
    candidates share a title. Two items with equal title **and** year share a label: nothing that a
    reader of the prompt sees by name tells them apart. A title of control characters only, which would
    leave the model nothing to say, gives way to the id.
    """
    titles = [one_line(item.title) or one_line(item.id) or "untitled" for item in items]
    seen = Counter(title.casefold() for title in titles)
    return tuple(
        f"{title} ({item.year})" if seen[title.casefold()] > 1 and item.year is not None else title
        for title, item in zip(titles, items, strict=True)
    )


def label_tokens(items: Sequence[Item], measure: TextMeasure) -> int:
    """Return how many tokens a list of these candidates takes at least: their labels, a line each."""
    return sum(measure.count(label + "\n") for label in candidate_labels(items))


def _details(item: Item, label: str) -> str:
    # Facts first, abstract last: under a small budget the facts are what is left.
    year = f" ({item.year})" if item.year is not None and not label.endswith(f"({item.year})") else ""
    facts = [", ".join(item.genres[:4])]
    if item.creators:
        facts.append(f"by {', '.join(item.creators[:2])}")
    if item.cast:
        facts.append(f"with {', '.join(item.cast[:3])}")
    text = "; ".join(one_line(fact) for fact in facts if fact)
    body = " ".join(part for part in (text + "." if text else "", one_line(item.abstract)) if part)
    return f"{year}: {body}" if body else year


def render_candidates(
    items: Sequence[Item],
    *,
    measure: TextMeasure,
    budget: int | None = None,
    max_detail_tokens: int | None = None,
) -> RenderedCandidates:
    """Render the candidates, their details cut evenly when they do not fit.

    Labels are never cut. Details shorter than the even share keep their whole length and leave the rest
    to the longer ones.

    Parameters
    ----------
    items
        In the order in which the model shall see them.
    budget
        Most tokens of the whole list; None for no limit.
    max_detail_tokens
        Most tokens of one candidate's details, whatever the budget leaves.

    Raises
    ------
    ValueError
        If the labels alone are over the budget.
    """
    labels = candidate_labels(items)
    details = [_details(item, label) for item, label in zip(items, labels, strict=True)]
    least = label_tokens(items, measure)
    sizes = [measure.count(text) for text in details]
    cap = max_detail_tokens
    if budget is not None:
        room = budget - least
        if room < 0:
            raise ValueError(f"{len(items)} labels need {least} tokens, the budget is {budget}")
        if sum(min(size, cap) if cap is not None else size for size in sizes) > room:
            cap = _even_share(sizes, room)
    shortened = 0
    lines: list[str] = []
    tokens = least
    for label, text, size in zip(labels, details, sizes, strict=True):
        if cap is not None and size > cap:
            text, size = measure.head(text, cap).rstrip(), cap
            shortened += 1
        lines.append(label + text)
        tokens += size
    return RenderedCandidates("\n".join(lines), labels, tokens, shortened, cap if shortened else None)


def _even_share(sizes: Sequence[int], room: int) -> int:
    """Return the largest cap c with sum(min(size, c)) <= room."""
    left, remaining = room, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            return left // remaining
        left -= size
        remaining -= 1
    return max(sizes, default=0)

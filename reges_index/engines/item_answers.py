"""Answers of a chat to questions about an item, from the item's own entry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue import TitleIndex, one_line
from reges_index.dialogue.text import Text, phrase_words
from reges_index.engines.reasons import with_reason
from reges_index.item_expert.synthesizer import answer_title

__all__ = ["QUESTION_PROMPT", "answer_from_entry", "asks_about", "question_messages"]

Question: TypeAlias = Literal["makers", "cast", "year", "genres", "why", "about", "other"]

QUESTION_PROMPT = (
    "You are a friendly assistant. Answer the user's question about this item in one or two short "
    "sentences, from the entry below and nothing else. If the entry does not say it, say that you do not "
    "know. "
    "Name no other item.\n\nEntry:\n{entry}"
)

_IT = r"(?:it|that|this|that one|this one|the (?:last|first) one)"
_HOW = "long|much|many|big|heavy|scary|sad|violent|good|well|difficult|old|expensive"
_PATTERNS: dict[Question, str] = {
    "why": rf"^\W*(?:but )?why (?:{_IT}|did you|do you|would (?:i|you)|should i)\b|^\W*(?:but )?why\W*$",
    "makers": (
        r"\bwho(?:'s| is| was| has)? (?:the )?(?:direct|writ|wrote|made|make|author|design|creat|develop|"
        rf"produc|compos|illustrat|brew)\w*|\bwho(?:'s| is) {_IT} (?:by|from)\b|\bby whom\b"
    ),
    "cast": r"\bwho(?:'s| is| are|'re| else is)? (?:play|star|act|appear|in (?:it|that|this))\w*",
    "year": (
        rf"\b(?:when (?:was|did|is) {_IT}|(?:what|which) year|how old is {_IT}|is {_IT} (?:new|old|recent))\b"
    ),
    "genres": rf"\bwhat (?:kind|sort|genre|type)\b.*\b(?:is|of)\b.*{_IT}|\bwhat genre\b",
    "about": (
        rf"\bwhat(?:'s| is) {_IT} (?:about|like)\b|\btell me (?:more|about {_IT}|something about {_IT})|"
        rf"\bwhat happens in {_IT}|\b(?:more|details) (?:about|on) {_IT}|^\W*what(?:'s| is) {_IT}\W*$"
    ),
    "other": (
        r"^\W*(?:and |but |ok,? |so )*(?:is|are|was|does|did|has|can|could|would|will|"
        rf"how (?:{_HOW})(?: \w+)?(?: is| are| does| was)) {_IT}\b|^\W*how (?:{_HOW})(?: \w+){{0,2}}\W*$"
    ),
}
_QUESTIONS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
# Wishes in the form of a question: "is that all you have?", "does it come in another colour? else ...".
_WISH = re.compile(
    r"\b(?:another|something|anything|else|similar|instead|others?|more like|like (?:it|that|this)|recommend|"
    r"suggest|all you|i want|i would like|i'd like|looking for)\b",
    re.IGNORECASE,
)
_LONGEST_QUESTION = 40
_SHORTEST = 4  # letters of a word that a genre may share with a question
# What is asked for, and the measure by which an entry tells it.
_UNITS = [
    (re.compile(asks, re.IGNORECASE), re.compile(unit, re.IGNORECASE))
    for asks, unit in (
        (r"\bheavy|\bweigh", r"\d ?(?:k?g|kilos?|grams?|pounds?|lbs?|oz|ounces?)\b"),
        (r"\bhow long|\bhow many (?:min|hour)", r"\b(?:minutes?|hours?|pages|days?|weeks?|seasons?)\b"),
        (r"\bpages", r"\bpages\b"),
        (r"\bmuch\b|\bexpensive|\bcosts?\b|\bprice", r"[€$£]|\b(?:euros?|dollars?|pounds|free)\b"),
    )
]


def asks_about(message: str, item: Item) -> Question | None:
    """Return what a message asks about an item that was just recommended; None where it asks for another.

    A question is one by its form, and about the item by a word such as "it" or "that one", or by its title.
    """
    read = Text(message)
    text = read.plain
    if len(read.words) > _LONGEST_QUESTION:
        return None
    for mention in reversed(TitleIndex([item.title], [item.year]).find(message)):
        text = f"{text[: read.spans[mention.first][0]]}it{text[read.spans[mention.last][1] :]}"
    if _WISH.search(text):
        return None
    return next((kind for kind, pattern in _QUESTIONS.items() if pattern.search(text)), None)


def question_messages(dialogue: Sequence[ChatMessage], item: Item) -> list[ChatMessage]:
    """Return the messages that ask an LLM for the answer to the newest message."""
    entry = QUESTION_PROMPT.format(entry=item.text())
    return [
        ChatMessage(role=MessageRole.SYSTEM, content=entry),
        ChatMessage(role=MessageRole.USER, content=one_line(dialogue[-1].content or "")),
    ]


def answer_from_entry(question: Question, item: Item, dialogue: Sequence[ChatMessage]) -> str:
    """Answer a question about an item from its fields alone; where they do not say it, that is said."""
    title = one_line(item.title)
    makers = [f"{role}: {_listed(names)}" for role, names in item.makers.items()]
    facts = {
        "makers": f"{title}, {'; '.join(makers)}." if makers else "",
        "cast": f"{title}: with {_listed(item.cast)}." if item.cast else "",
        "year": f"{title} is from {item.year}." if item.year is not None else "",
        "genres": f"{title}: {_listed(item.genres)}." if item.genres else "",
        "about": f"{title}: {one_line(item.abstract)}" if item.abstract.strip() else "",
        "why": _why(item, dialogue[:-1]),
    }
    if facts.get(question):
        return facts[question]
    if told := _told(item, dialogue[-1].content or ""):
        return f"{title}: {told}"
    known = one_line(item.abstract) or "; ".join(
        filter(None, (facts["makers"], facts["genres"], facts["year"]))
    )
    return f"The entry of {title} does not say. It reads: {known or title}"


def _told(item: Item, asked: str) -> str:
    """Return the genre or the sentence of an entry that a question is about: "is it vegan?", "how heavy?"."""
    words = {word for word in phrase_words(asked) if len(word) >= _SHORTEST}
    genres = [genre for genre in item.genres if words & set(phrase_words(genre))]
    if genres:
        return f"{_listed(genres)}."
    unit = next((unit for asks, unit in _UNITS if asks.search(asked)), None)
    sentences = re.split(r"(?<=[.!?])\s+", one_line(item.abstract))
    return next((text for text in sentences if unit is not None and unit.search(text)), "")


def _why(item: Item, dialogue: Sequence[ChatMessage]) -> str:
    told, named = with_reason(item, dialogue), answer_title(item)
    return told if told != named or not item.genres else f"{named}: {_listed(item.genres[:3])}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(one_line(name) for name in names)

"""Answers of a chat from an item's own entry: why it was picked, and what somebody asks about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue import TitleIndex, normalise, one_line
from reges_index.dialogue.text import Text, phrase_words
from reges_index.item_expert.synthesizer import answer_title

__all__ = ["QUESTION_PROMPT", "answer_from_entry", "asks_about", "question_messages", "with_reason"]

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
        rf"how (?:{_HOW})(?: \w+)?(?: is| are| does| was)) {_IT}\b"
    ),
}
_QUESTIONS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
# Wishes in the form of a question: "is that all you have?", "does it come in another colour? else ...".
_WISH = re.compile(
    r"\b(?:another|something|anything|else|similar|instead|others?|more like|like (?:it|that|this)|recommend|"
    r"suggest|all you|i want|i would like|i'd like|looking for)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:no|not|without|never|less|n't|hate)\b[^.,;!?]*$", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LONGEST_QUESTION = 40
_STEM = 5


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
        "why": with_reason(item, dialogue[:-1]),
    }
    if facts.get(question):
        return facts[question]
    entry = one_line(item.text())
    return f"My entry does not say more than this: {entry}"


def with_reason(item: Item, dialogue: Sequence[ChatMessage]) -> str:
    """Return the item's title and year with one reason: what was asked for last and its fields share.

    Newer messages of the user come first. Nothing is said that the entry does not hold.
    """
    named = answer_title(item)
    for message in reversed([m for m in dialogue if m.role == MessageRole.USER]):
        if reason := _shared(item, one_line(message.content or "")):
            return f"{named}: {reason}"
    facts = _listed(item.genres[:3])
    return f"{named}: {facts}." if facts else named


def _shared(item: Item, said: str) -> str:
    for genre in item.genres:
        for word in phrase_words(genre):
            found = re.search(rf"\b{re.escape(word[:_STEM])}\w*", said, re.IGNORECASE) if word[2:] else None
            if found and not _NEGATED.search(said[: found.start()]):
                return f"{one_line(genre)}, as you asked."
    plain = f" {normalise(said)} "
    for name in (*item.creators, *item.cast):
        if f" {normalise(name)} " in plain:
            return f"{'by' if name in item.creators else 'with'} {one_line(name)}, as you asked."
    if item.year is not None and 999 < item.year < 10_000:
        century, decade = str(item.year)[:2], str(item.year)[2]
        if re.search(rf"\b(?:{item.year}|(?:{century})?{decade}0'?s)\b", said):
            return f"from {item.year}, as you asked."
    return _sentence_about(item, said)


def _sentence_about(item: Item, said: str) -> str:
    """Return the sentence of the abstract that shares the most words with what was said."""
    wanted = {word[:_STEM] for word in phrase_words(said) if len(word) >= _STEM - 1}
    best, count = "", 0
    for sentence in _SENTENCE.split(one_line(item.abstract)):
        shared = len(wanted & {word[:_STEM] for word in phrase_words(sentence)})
        if shared > count:
            best, count = sentence, shared
    return best


def _listed(names: Sequence[str]) -> str:
    return ", ".join(one_line(name) for name in names)

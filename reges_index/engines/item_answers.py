"""What a chat says of an item from the item's own entry: a reason for it, and answers to questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue import TitleIndex, one_line
from reges_index.dialogue.text import Text, phrase_words, stem, without_accents
from reges_index.item_expert.synthesizer import answer_title

# -- a reason, where no LLM writes one ----------------------------------------------------------------------

_NOT = (
    r"(?:no(?!,)|not|nor|never|without|nothing(?! but)|neither|cannot|except|avoid|hates?|hated|dislikes?|"
    r"less|too|instead of|rather than|other than|sick of|tired of|bored of|enough|"
    r"(?:do|does|did|is|are|was|were|have|"
    r"has|had|ca|wo|would|could|should)n['’]?t)"
)
# Where what was turned down ends: with the sentence, or where the next wish begins.
_UP_TO = (
    r"(?:(?!\bbut\b|,\s*(?:(?:so|and) )?(?:i|we|it|something|someone|just|only|maybe|rather|more|an?|the|"
    r"please)\b)[^.;:!?])*"
)
_TURNED_DOWN = re.compile(rf"\b{_NOT}\b{_UP_TO}", re.IGNORECASE)
# What is told of the past is no wish: "I loved that thriller", "had pasta on monday".
_PAST = re.compile(
    r"\b(?:loved|liked|enjoyed|watched|saw|seen|read|used to|had|was|were|been|played|tried|bought|own|loves|"
    r"likes|knows?|died|gave up|cancell?ed)\b",
    re.IGNORECASE,
)
_PART = re.compile(r"(?:(?!\bbut\b)[^.;:!?,])*(?:[.;:!?,]|\bbut\b|$)", re.IGNORECASE)
_SENTENCE_MARK = re.compile(r"[.;:!?]|\bbut\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NAMES = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z]\w+")
# "a really tense" before "thriller", and what may stand behind it: the words of the wish itself.
_OPENING = re.compile(r"\b(?:an?|some|another)\s+(?:[\w'’-]+,?\s+){0,3}$", re.IGNORECASE)
_NO_OPENING = re.compile(
    r"\b(?:who|that|which|for|of|with|like|likes|and|or|to|in|on|fan|friend|bit|lot|little)\b", re.IGNORECASE
)
_BEHIND = re.compile(
    r"(?P<kind>\s+(?:film|movie|book|novel|stor(?:y|ie)|series|show|comedy|drama|recipe|dishe?|soup|game|album|"
    r"song)s?\b)?(?=\s*(?:[^\w\s-]|$|(?:for|from|with|without|and|or|but|please|that|which|where|in|on|to|if|"
    r"by|about|set|is|would|tonight|today|now|maybe|something|of|like|when|as|at)\b))",
    re.IGNORECASE,
)
_DID = {
    **{"director": "directed it", "author": "wrote it", "writer": "wrote it", "composer": "composed it"},
    **{"developer": "developed it", "designer": "designed it", "illustrator": "illustrated it"},
}
_SHORTEST = 4
# Words that every wish is full of, and that tell nothing of an item.
_EMPTY = frozenset((resources.files("reges_index.engines") / "empty_words.txt").read_text("utf-8").split())


def with_reason(item: Item, dialogue: Sequence[ChatMessage]) -> str:
    """Return an item's title and year, and one reason: what was asked for last and the item's entry share.

    Newer messages of the user come first. Nothing is said that the user or the entry does not say; where the
    two share nothing, the title and year are all.
    """
    named = answer_title(item)
    refused: set[str] = set()
    for message in reversed([m for m in dialogue if m.role == MessageRole.USER]):
        said = Text(message.content or "")
        # What a newer message turned down is no reason, however much an older one wanted it.
        refused |= _stems(found[0] for found in _TURNED_DOWN.finditer(said.plain))
        if reason := _shared(item, said, refused):
            return f"{named}{'' if named[-1] in '.!?' else '.'} {reason}"
    return named


def _shared(item: Item, said: Text, refused: set[str]) -> str:
    """Return the sentence on what a message and an entry share; "" where it is nothing."""
    wishes = _TURNED_DOWN.sub(".", said.plain)
    wishes = "".join(part for part in _PART.findall(wishes) if not _PAST.search(part))
    # Names within a sentence are of other items and of people: no words of the wish.
    wanted = _stems([_NAMES.sub(" ", wishes)], _EMPTY) - refused
    entry = _best_sentence(item, wanted)
    asked = (
        _genre_asked(item, Text(wishes), refused) or _person_asked(item, wishes) or _year_asked(item, wishes)
    )
    if not asked:
        return entry
    entry = entry or next(iter(_sentences(item)), "")
    return f"{asked}: {entry}" if entry else f"{asked}."


def _genre_asked(item: Item, said: Text, refused: set[str]) -> str:
    told = [stem(word) for word in said.words]
    for genre in item.genres:
        stems = [stem(word) for word in phrase_words(genre)]
        if not stems or len(max(stems, key=len)) < _SHORTEST - 1 or refused.intersection(stems):
            continue
        for first in range(len(told) - len(stems) + 1):
            if told[first : first + len(stems)] == stems:
                start, end = said.spans[first][0], said.spans[first + len(stems) - 1][1]
                if said.plain[:start].endswith("-"):  # "non-fiction" is no fiction
                    continue
                before, after = said.plain[:start], said.plain[end:]
                return _asked_for(one_line(genre), before, said.plain[start:end], after, refused)
    return ""


def _asked_for(genre: str, before: str, written: str, after: str, refused: set[str]) -> str:
    """Word what was asked for as the user did, as far as that makes a phrase."""
    behind = _BEHIND.match(after)
    opening = _OPENING.search(_SENTENCE_MARK.split(before)[-1])  # "a slow, quiet"
    if behind is None or opening is None or _NO_OPENING.search(opening[0]) or _near(opening[0], refused):
        return f"You mentioned {genre}"  # "a horror fan", "for the whole family"
    return f"You asked for {opening[0].lower()}{written.lower()}{(behind['kind'] or '').lower()}"


def _near(text: str, refused: set[str]) -> bool:
    """Return whether a word is one that was turned down, in whatever form: "romance", "romantic"."""
    starts = tuple(one[:5] for one in refused)
    return any(word.startswith(starts) for word in phrase_words(text))


def _person_asked(item: Item, said: str) -> str:
    made = [(name, _DID.get(role, "made it")) for role, names in item.makers.items() for name in names]
    for name, did in [*made, *((name, "is in it") for name in item.cast)]:
        plain = one_line(without_accents(name))
        found = re.search(rf"\b{re.escape(plain)}\b", said, re.IGNORECASE)
        # Of one-word names the ordinary word is meant unless it has its capital: "queen", "Queen".
        if found is not None and (" " in plain or found[0] == plain):
            return f"You named {one_line(name)}, who {did}"
    return ""


def _year_asked(item: Item, said: str) -> str:
    if item.year is None or not 999 < item.year < 10_000:
        return ""
    century, decade = divmod(item.year // 10, 10)
    spelt = rf"(?:{item.year}|(?:{century})?{decade}0['’]?s)"
    found = re.search(rf"\b(?:from|of|in|the|early|late|mid)\W+({spelt})\b", said, re.IGNORECASE)
    if found is None:
        return ""
    when = found[1] if found[1].isdigit() else f"the {found[1]}"
    return f"You asked for something from {when}, and this is from {item.year}"


def _best_sentence(item: Item, wanted: set[str]) -> str:
    """Return the sentence of an entry that says most of what is wanted; "" where none says any."""
    best, count = "", 0
    for sentence in _sentences(item):
        shared = len(wanted & _stems([_TURNED_DOWN.sub(" ", sentence)]))  # "too stiff for valley walks"
        if shared > count:
            best, count = sentence, shared
    return best


def _sentences(item: Item) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(one_line(item.abstract)) if sentence]


def _stems(texts: Iterable[str], empty: frozenset[str] = frozenset()) -> set[str]:
    words = {word for text in texts for word in phrase_words(text)}
    return {stem(word) for word in words - empty if len(word) >= _SHORTEST}


# -- answers to questions ----------------------------------------------------------------------------------

Question: TypeAlias = Literal["makers", "cast", "year", "genres", "why", "about", "other"]

_QUESTION_PROMPT = (
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
_HARM = r"poison|toxic|harm(?:s|ful|less)?\b|dangerous|irritat"
# What is asked for, and the measure or words by which an entry tells it.
_UNITS = [
    (re.compile(asks, re.IGNORECASE), re.compile(unit, re.IGNORECASE))
    for asks, unit in (
        (r"\bheavy|\bweigh", r"\d ?(?:k?g|kilos?|grams?|pounds?|lbs?|oz|ounces?)\b"),
        (r"\bhow long|\bhow many (?:min|hour)", r"\b(?:minutes?|hours?|pages|days?|weeks?|seasons?)\b"),
        (r"\bpages", r"\bpages\b"),
        (rf"\b(?:{_HARM}|safe)", rf"\b(?:{_HARM}|unsafe|safe (?:for|with|around)|pet[- ](?:safe|friendly))"),
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
    entry = _QUESTION_PROMPT.format(entry=item.text())
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
    return next((text for text in _sentences(item) if unit is not None and unit.search(text)), "")


def _why(item: Item, dialogue: Sequence[ChatMessage]) -> str:
    told, named = with_reason(item, dialogue), answer_title(item)
    return told if told != named or not item.genres else f"{named}: {_listed(item.genres[:3])}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(one_line(name) for name in names)

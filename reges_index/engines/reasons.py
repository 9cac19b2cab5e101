"""One reason for a recommendation, from what was asked and the item's own entry, where no LLM writes one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue import one_line
from reges_index.dialogue.text import Text, phrase_words, stem, without_accents
from reges_index.item_expert.synthesizer import answer_title

__all__ = ["with_reason"]

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
_CLAUSE = re.compile(r"[.;:!?,]|\bbut\b", re.IGNORECASE)
_PART = re.compile(r"(?:(?!\bbut\b)[^.;:!?,])*(?:[.;:!?,]|\bbut\b|$)", re.IGNORECASE)
_SENTENCE_MARK = re.compile(r"[.;:!?]|\bbut\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NAMES = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z]\w+")
# "a really tense" before "thriller": the words of the wish itself.
_OPENING = re.compile(r"\b(?:an?|some|another)\s+(?:[\w'’-]+,?\s+){0,3}$", re.IGNORECASE)
_NO_OPENING = re.compile(
    r"\b(?:who|that|which|for|of|with|like|likes|and|or|to|in|on|fan|friend|bit|lot|little)\b", re.IGNORECASE
)
_KIND = re.compile(
    r"\s+(?:film|movie|book|novel|stor(?:y|ie)|series|show|comedy|drama|recipe|dishe?|soup|game|album|song)s?\b",
    re.IGNORECASE,
)
_NEXT_WORD = re.compile(r"\s*-?\s*(\w+)")
_GOES_ON = re.compile(
    r"(?:for|from|with|without|and|or|but|please|that|which|where|in|on|to|if|by|about|set|is|would|tonight|"
    r"today|now|maybe|something|of|like|when|as|at)\Z",
    re.IGNORECASE,
)
_BEFORE_IT = re.compile(
    r"\b(?:(?:against|in|into|about|on|at|of|to|with|from)\s+(?:(?:the|my|our|whole|all)\s+)*|"
    r"for\s+(?:(?:the|my|our|whole|all)\s+)+)$",
    re.IGNORECASE,
)
_LONGEST_QUOTE = 8  # words
_DID = {
    **{"director": "directed it", "author": "wrote it", "writer": "wrote it", "composer": "composed it"},
    **{"developer": "developed it", "designer": "designed it", "illustrator": "illustrated it"},
}
_SHORTEST = 4
# Words that every wish is full of, and that tell nothing of an item.
_EMPTY_WORDS = """
    about after again also another anything around away back because been before being best better bring
    came case cannot cant come could days does doing done dont down each easy eating else enough even
    ever every everybody everyone favourite favorite feel film find first five four from full gets give
    gives goes going good great have hear heard help here home hour hours into just keep kind knew know
    last left less like likes little long look looking looks lots love loved made make makes many maybe
    mean might mind minute minutes month more most movie much must need needs never next nice night
    nothing novel once only other over part people perfect person place please pretty quite rather read
    reader reading really right said same seen sense shall should show some somebody someone something
    sort start still story such suit suits suggest sure take takes tell than thank thanks that their
    them then there these they thing things think this those three time times today together tonight
    tried true turn turns under until used user using usual very want wanted wants watch watched week
    weeks well were what when where which while whole will with without word work works world would
    wrong year years your book recommend
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())


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
    """Word what was asked for as the user did, as far as that makes a phrase; else quote it."""
    clause = _CLAUSE.split(before)[-1]
    kind = _KIND.match(after)
    following = _NEXT_WORD.match(after)
    belongs = kind is None and following is not None and not _GOES_ON.match(following[1])
    if belongs or _BEFORE_IT.search(clause):  # "a horror fan", "against rain"
        whole = f"{clause}{written}{_CLAUSE.split(after)[0]}".strip()
        return f"You said “{whole}”" if len(whole.split()) <= _LONGEST_QUOTE else f"You mentioned {genre}"
    phrase = written.lower() + (kind[0].lower() if kind else "")
    opening = _OPENING.search(_SENTENCE_MARK.split(before)[-1])  # "a slow, quiet"
    if opening is not None and not _NO_OPENING.search(opening[0]) and not _near(opening[0], refused):
        return f"You asked for {opening[0].lower()}{phrase}"
    return f"You asked for {phrase if phrase.endswith('s') else genre}"


def _near(text: str, refused: set[str]) -> bool:
    """Return whether a word is one that was turned down, in whatever form: "romance", "romantic"."""
    starts = tuple(stem[:5] for stem in refused)
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

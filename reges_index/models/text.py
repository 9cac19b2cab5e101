"""The one place where a model's text is read: what it says, without what it thought and put around it.

Models that think first write their thoughts between marks (``<think>``, ``[THINK]``, the channels of
OpenAI's harmony format), others announce them, and chat models wrap answers in code fences, headings and
role words. Whoever reads a model's text reads `ModelText.text`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ModelText", "SpokenStream", "read_text", "spoken"]

_NAMES = (
    r"think|thinking|thought|thoughts|reason|reasoning|reasoning_content|reflection|analysis|scratchpad"
    r"|inner_monologue|seed:think|seed:cot_budget_reflect|\|begin_of_thought\|"
)
# An opening mark, whose name says which closing one belongs to it.
_OPEN = re.compile(
    rf"<(?P<tag>{_NAMES})(?:\s[^<>]*)?>|\[(?P<square>THINK)\]|◁(?P<kimi>think)▷|```(?P<fence>think(?:ing)?)\b",
    re.IGNORECASE,
)
_CLOSE_ANY = re.compile(rf"</(?:{_NAMES})\s*>|<\|end_of_thought\|>|\[/THINK\]|◁/think▷", re.IGNORECASE)
# OpenAI's harmony: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>", re.IGNORECASE)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>", re.IGNORECASE)
# The same where a tokenizer has left out the special tokens.
_BARE_CHANNEL = re.compile(r"\s*(?:assistant)?analysis(?=\S| \w)", re.IGNORECASE)
_BARE_FINAL = re.compile(r"assistant\s*final(?:\s*message)?", re.IGNORECASE)
# Marks of chat templates that a server has let through; what is after a start mark is a role word.
_MARK = re.compile(
    r"<\|(?:im_start|start|start_header_id)\|>\s*\w*(?:<\|end_header_id\|>)?|<\|[^|<>\s]{1,40}\|>"
)
_END_MARK = re.compile(
    r"</?s>|<end_of_turn>|<start_of_turn>(?:model)?|<eos>|<bos>|\[/?INST\]"
    r"|</?(?:answer|final|final_answer|response|output|result|ranking|title|(?:search_)?query)>",
    re.IGNORECASE,
)
# Other marks of the same, written as these: Cohere's, Gemma's, escaped ones, the <details> of chat pages.
_LIKE_THINK = re.compile(
    r"(?P<open><\|(?:START_THINKING|thinking|think)\|>|<unused94>(?:thought\b)?|\[BEGIN OF THOUGHT\]"
    rf"|&lt;(?:{_NAMES})&gt;|<details\b[^<>]*\btype=[\"']?reasoning[^<>]*>)"
    r"|(?P<close><\|(?:END_THINKING|/thinking|/think)\|>|<unused95>|\[END OF THOUGHT\]"
    rf"|&lt;/(?:{_NAMES})&gt;)|(?P<empty><(?:{_NAMES})\s*/>)",
    re.IGNORECASE,
)
_DETAILS_END = re.compile(r"</details\s*>", re.IGNORECASE)
_FENCE = re.compile(r"^\s*(?:```|~~~)[\w+-]*\s*$")
_HEADING = re.compile(r"^\s*#{1,6}\s+(.*?)\s*#*\s*$")
# Headings that only say what follows; another one ("# Alien") may be the answer itself.
_SAYS_WHAT_FOLLOWS = re.compile(
    r"^\W*(?:\w+ ){0,3}(?:quer(?:y|ies)|answer|response|recommendation|output|result|reply|title|choice"
    r"|ranking|explanation|sentence|reason|summary)s?\W*$",
    re.IGNORECASE,
)
_ROLES = r"assistant|ai|bot|chatbot|model|system|recommender"
_ROLE_LINE = re.compile(rf"^\W*(?:{_ROLES})\W*$", re.IGNORECASE)
_ROLE_PREFIX = re.compile(
    rf"^\s*(?:\*\*|<\|?)?(?:{_ROLES})(?:\|?>|\*\*)?\s*:\s*(?:\*\*\s*)?(?=\S)", re.IGNORECASE
)
# "Let me think step by step." and its like announce thoughts, and are none of the answer.
_ANNOUNCED = re.compile(
    r"^\s*(?:(?:ok(?:ay)?|alright|sure|hmm+|well|so|first)[,.!]?\s+)*"
    r"(?:let(?:['’]?s| me| us)|i(?:['’]ll| will| need to| should)|we (?:need to|should))\s+"
    r"(?:first\s+)?(?:think|reason|analy[sz]e|work|break|consider|go)\b[^.!?:\n]*(?:step[- ]by[- ]step|"
    r"through|about|this|carefully|out|down)?[^.!?:\n]*[.!?:…]*\s*",
    re.IGNORECASE,
)
# A stream is held back until it is clear that no thoughts come first; longer than this no opening mark is.
_LONGEST_OPENING = 40


@dataclass(frozen=True)
class ModelText:
    """What a model wrote, taken apart.

    Attributes
    ----------
    text
        What it says: without thoughts, template marks, code fences, headings and role words.
    thought
        What it thought, where that was marked.
    unclosed
        Whether the thoughts never end, so that an answer did not come (often too small a token limit).
    """

    text: str
    thought: str = ""
    unclosed: bool = False


def read_text(raw: str) -> ModelText:
    r"""Take a model's text apart.

    Examples
    --------
    >>> read_text("<think>\nThey want space.\n</think>\n\nslow films").text
    'slow films'
    >>> read_text("```\nslow films\n```").text
    'slow films'
    """
    said, thoughts, unclosed = _without_thoughts(_in_think(raw))
    return ModelText(_bare(said), "\n".join(thoughts), unclosed)


def spoken(raw: str) -> str:
    """Return what a model says, without its thoughts and what is put around; see `read_text`."""
    return read_text(raw).text


def _by_channel(raw: str) -> str:
    """Write harmony's channels as thoughts in ``<think>`` and the final text behind them."""
    if _CHANNEL.search(raw):
        thoughts: list[str] = []
        final: list[str] = []
        pieces = _CHANNEL.split(raw)
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            text = _CHANNEL_END.split(body)[0]
            (final if name.lower() == "final" else thoughts).append(text)
        closing = "</think>" if final else ""
        return f"<think>{' '.join(thoughts)}{closing}{''.join(final)}" if thoughts else "".join(final)
    if _BARE_CHANNEL.match(raw) and (end := _BARE_FINAL.search(raw)):
        return f"<think>{raw[: end.start()]}</think>{raw[end.end() :]}"
    return raw


def _in_think(raw: str) -> str:
    """Write thoughts as ``<think>``, whichever way a model marks them."""
    details = False

    def mark(found: re.Match[str]) -> str:
        nonlocal details
        details = details or found[0].lower().startswith("<details")
        return "" if found["empty"] else "</think>" if found["close"] else "<think>"

    text = _LIKE_THINK.sub(mark, raw)
    return _by_channel(_DETAILS_END.sub("</think>", text) if details else text)


def _without_thoughts(text: str) -> tuple[str, list[str], bool]:
    said: list[str] = []
    thoughts: list[str] = []
    rest = text
    while (opening := _OPEN.search(rest)) is not None:
        closing = _closing_of(rest, opening)
        said.append(rest[: opening.start()])
        if closing is None:
            thoughts.append(rest[opening.end() :])
            return "".join(said), thoughts, True
        thoughts.append(rest[opening.end() : closing[0]])
        rest = rest[closing[1] :]
    said.append(rest)
    whole = "".join(said)
    # Some templates open the thoughts in the prompt, so that the text holds their end only.
    ends = list(_CLOSE_ANY.finditer(whole))
    if ends:
        thoughts.insert(0, whole[: ends[-1].start()])
        whole = whole[ends[-1].end() :]
    return whole, thoughts, False


def _closing_of(text: str, opening: re.Match[str]) -> tuple[int, int] | None:
    """Return where the thoughts of an opening mark end: start and end of the closing one."""
    name = opening["tag"]
    if opening["fence"]:
        marks = re.compile(r"(?P<close>^\s*```\s*$)", re.MULTILINE)
    elif opening["square"]:
        marks = re.compile(r"(?P<close>\[/THINK\])|\[THINK\]", re.IGNORECASE)
    elif opening["kimi"]:
        marks = re.compile(r"(?P<close>◁/think▷)|◁think▷", re.IGNORECASE)
    elif name.startswith("|"):
        marks = re.compile(r"(?P<close><\|end_of_thought\|>)", re.IGNORECASE)
    else:
        marks = re.compile(
            rf"(?P<close></{re.escape(name)}\s*>)|<{re.escape(name)}(?:\s[^<>]*)?>", re.IGNORECASE
        )
    depth = 1
    for found in marks.finditer(text, opening.end()):
        depth += -1 if found["close"] else 1
        if depth == 0:
            return found.start(), found.end()
    # Thoughts may speak of an opening mark that they do not close: then the last closing one ends them.
    # Models also close one mark by another ("<think>...</thinking>").
    last = [found for found in marks.finditer(text, opening.end()) if found["close"]]
    last = last or list(_CLOSE_ANY.finditer(text, opening.end()))
    return (last[-1].start(), last[-1].end()) if last else None


def _bare(text: str) -> str:
    """Take off template marks, fences, announcements, headings and role words."""
    text = _END_MARK.sub("", _MARK.sub("", text))
    lines = [line for line in text.splitlines() if not _FENCE.match(line)]
    kept: list[str] = []
    for number, line in enumerate(lines):
        follows = any(other.strip() for other in lines[number + 1 :])
        if not any(part.strip() for part in kept):  # what is before the answer's first words
            if follows and _ROLE_LINE.match(line):
                continue
            line = _ROLE_PREFIX.sub("", line)
            rest = _ANNOUNCED.sub("", line)
            if rest != line and (rest.strip() or follows):
                line = rest
        heading = _HEADING.match(line)
        marked = heading is not None or line.strip().startswith("**")
        if marked and follows and _SAYS_WHAT_FOLLOWS.match(line):
            continue
        kept.append(heading[1] if heading is not None else line)
    said = "\n".join(kept).strip()
    return "" if _ROLE_LINE.match(said) else said


class SpokenStream:
    """What a model says, piece by piece: thoughts that come first are held back.

    Feed it what arrives; it gives back what may be shown.
    """

    def __init__(self) -> None:
        self._held = ""
        self._open = True  # until the answer has begun

    def feed(self, piece: str) -> str:
        """Take a piece and return what may be shown of all that is held."""
        if not self._open:
            return piece
        self._held += piece
        if not self._is_clear():
            return ""
        self._open = False
        shown, self._held = _without_thoughts(_in_think(self._held))[0].lstrip(), ""
        return shown

    def end(self) -> str:
        """Return what is still held back and is no thought."""
        shown = spoken(self._held) if self._open else ""
        self._held, self._open = "", False
        return shown

    def _is_clear(self) -> bool:
        """Say whether the answer has begun."""
        text = _in_think(self._held.lstrip())
        if text[:1] in ("<", "[", "◁", "`", "&"):
            said, thoughts, unclosed = _without_thoughts(text)
            if unclosed:
                return False
            if thoughts:
                return bool(said.strip())
            return len(text) > _LONGEST_OPENING and not text.startswith("<|channel|>")
        return bool(text)

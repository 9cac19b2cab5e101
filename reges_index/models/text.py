"""The one place where a model's text is read: what it says, without what it thought and put around it.

Models that think first write their thoughts between marks (``<think>``, ``[THINK]``, the channels of
OpenAI's harmony format), others announce them, and chat models wrap answers in code fences, headings and
role words. Whoever reads a model's text reads `ModelText.text`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = (
    r"think|thinking|thought|thoughts|reason|reasoning|reasoning_content|reflection|analysis|scratchpad"
    r"|inner_monologue|seed:think|seed:cot_budget_reflect"
)
# The marks around thoughts, as models, servers that escape them, and chat pages write them; here all are
# written as <think> and </think>.
_OPENS = re.compile(
    rf"<(?:{_NAMES})(?:\s[^<>]*)?>|&lt;(?:{_NAMES})&gt;|<\|(?:begin_of_thought|START_THINKING|thinking|think)\|>"
    r"|\[THINK\]|\[BEGIN OF THOUGHT\]|◁think▷|<unused94>(?:thought\b)?"
    r"|<details\b[^<>]*\btype=[\"']?reasoning[^<>]*>",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"</(?:{_NAMES})\s*>|&lt;/(?:{_NAMES})&gt;|<\|(?:end_of_thought|END_THINKING|/thinking|/think)\|>"
    r"|\[/THINK\]|\[END OF THOUGHT\]|◁/think▷|<unused95>",
    re.IGNORECASE,
)
_EMPTY = re.compile(rf"<(?:{_NAMES})\s*/>", re.IGNORECASE)
_DETAILS_OPEN = re.compile(r"<details\b[^<>]*\btype=[\"']?reasoning", re.IGNORECASE)
_DETAILS_END = re.compile(r"</details\s*>", re.IGNORECASE)
_FENCED = re.compile(r"```think(?:ing)?\b(.*?)(?:^\s*```\s*$|(\Z))", re.IGNORECASE | re.DOTALL | re.MULTILINE)
# OpenAI's harmony: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>", re.IGNORECASE)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>", re.IGNORECASE)
# The same where a tokenizer has left out the special tokens.
_BARE_CHANNEL = re.compile(r"\s*(?:assistant)?analysis(?=\S| \w)", re.IGNORECASE)
_BARE_MARKS = ("analysis", "assistantanalysis")
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
# Models that were trained on mathematics box their answer, or announce it behind the reasoning.
_BOX = re.compile(r"\$?\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}\$?")
_TEX = re.compile(r"\\(?:text|mathrm|mathbf|mbox)\w{0,2}\s*\{([^{}]*)\}")
_ANSWER = r"(?:answer|query|response|output|result|recommendation|ranking|choice|pick|title)s?"
_FINAL = re.compile(
    rf"(?:^|\n|(?<=[.!?])\s)[\s*_#>]*(?:(?:my|the)\s+)?final\s+(?:\w+\s+)?{_ANSWER}[\s*_]*"
    r"(?::|\bis\b:?|\n)[\s*_]*(?=\S)",
    re.IGNORECASE,
)
_REASONED = re.compile(
    r"[\s*_#>]*(?:my\s+)?(?:reasoning|reasons?|thoughts?|thinking|thought process|chain of thought|analysis"
    r"|rationale)[\s*_]*:",
    re.IGNORECASE,
)
_THEN_ANSWER = re.compile(
    rf"(?:\n|(?<=[.!?])\s)[\s*_#>]*(?:my\s+|the\s+)?{_ANSWER}[\s*_]*:[\s*_]*(?=\S)", re.IGNORECASE
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
    >>> read_text("Reasoning: they want space.\nFinal answer: slow films").text
    'slow films'
    """
    said, thoughts, unclosed = _without_thoughts(_in_think(raw))
    before, answer = _final_answer(said)
    return ModelText(_bare(answer), "\n".join([*thoughts, *([before] if before else [])]), unclosed)


def spoken(raw: str) -> str:
    """Return what a model says, without its thoughts and what is put around; see `read_text`."""
    return read_text(raw).text


def begins_in_thoughts(raw: str) -> bool:
    """Say whether a text begins with thoughts that no mark opens, since the prompt has opened them."""
    before, closed, _ = _in_think(raw).partition("</think>")
    return bool(closed) and "<think>" not in before


def _final_answer(said: str) -> tuple[str, str]:
    """Take apart what leads to an answer and the answer, where it is boxed or announced behind reasons."""
    boxes = list(_BOX.finditer(said))
    if len(boxes) == 1:
        return said[: boxes[0].start()].strip(), _TEX.sub(r"\1", boxes[0][1])
    if boxes:  # a list of them
        return "", _TEX.sub(r"\1", _BOX.sub(r"\1", said))
    announced = list(_FINAL.finditer(said))
    if not announced and _REASONED.match(said):
        announced = list(_THEN_ANSWER.finditer(said))
    if not announced:
        return "", said
    return said[: announced[-1].start()].strip(), said[announced[-1].end() :]


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
    text = _EMPTY.sub("", raw)
    if _DETAILS_OPEN.search(text):
        text = _DETAILS_END.sub("</think>", text)
    text = _FENCED.sub(lambda f: f"<think>{f[1]}{'' if f[2] is not None else '</think>'}", text)
    return _by_channel(_CLOSES.sub("</think>", _OPENS.sub("<think>", text)))


def _without_thoughts(text: str) -> tuple[str, list[str], bool]:
    """Take out thoughts written in ``<think>``; the last value says that they never end."""
    said: list[str] = []
    thoughts: list[str] = []
    before, opened, rest = text.partition("<think>")
    while opened:
        said.append(before)
        end = _end_of_thoughts(rest)
        if end < 0:
            return "".join(said), [*thoughts, rest], True
        thoughts.append(rest[:end])
        before, opened, rest = rest[end + len("</think>") :].partition("<think>")
    # Some templates open the thoughts in the prompt, so that the text holds their end only.
    unopened, closed, last = "".join([*said, before]).rpartition("</think>")
    return last, [*([unopened.replace("</think>", "")] if closed else []), *thoughts], False


def _end_of_thoughts(text: str) -> int:
    """Return where the mark is that closes thoughts which began before the text; -1 where none does."""
    depth, last = 1, -1
    for found in re.finditer("</?think>", text):
        depth += 1 if found[0] == "<think>" else -1
        last = found.start() if found[0] == "</think>" else last
        if depth == 0:
            break
    # Thoughts may speak of an opening mark that they do not close: then the last closing one ends them.
    return last


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

    Parameters
    ----------
    held
        Hold back everything until thoughts have ended, for a model that may begin with thoughts which no
        mark opens; where none end, all comes at the end.
    """

    def __init__(self, *, held: bool = False) -> None:
        self._held = ""
        self._open = True  # until the answer has begun
        self._until_closed = held

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
        shown = _bare(_without_thoughts(_in_think(self._held))[0]) if self._open else ""
        self._held, self._open = "", False
        return shown

    def _is_clear(self) -> bool:
        """Say whether the answer has begun."""
        text = _in_think(self._held.lstrip())
        if self._until_closed or begins_in_thoughts(text):
            return "</think>" in text and bool(_without_thoughts(text)[0].strip())
        if _BARE_CHANNEL.match(text) or any(mark.startswith(text.lower()) for mark in _BARE_MARKS):
            return False
        if text[:1] in ("<", "[", "◁", "`", "&"):
            said, thoughts, unclosed = _without_thoughts(text)
            if unclosed:
                return False
            if thoughts:
                return bool(said.strip())
            return len(text) > _LONGEST_OPENING and not text.startswith("<|channel|>")
        return bool(text)

"""What a server says when it refuses a request: that it lacks something, or that this prompt will not do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from reges_index.errors import LLMServerError

__all__ = ["RefusedRequestError", "refusal_text", "says_lacking", "says_too_many"]

# OpenAI: "Unrecognized request argument supplied: logprobs", "Unsupported parameter: 'logprobs' is not
# supported with this model", "You are not allowed to request logprobs from this model"; servers with FastAPI:
# "Extra inputs are not permitted"; Gemini: 'Unknown name "logprobs": Cannot find field'; Ollama: "does not
# support tools"; vLLM: '"auto" tool choice requires --enable-auto-tool-choice'.
_LACKING = re.compile(
    r"unsupported|(?:not|n't|no) (?:\w+ )?(?:support|permit|allow|available|enabled|implemented)"
    r"|unrecogni[sz]ed|unknown|unexpected|cannot find|extra_forbidden|requires --",
    re.IGNORECASE,
)
# "must be less than or equal to 5", "is greater than max allowed: 5", "must be between 0 and 5".
_LIMIT = re.compile(
    r"less_than|less than|at most|(?:no|not) more than|greater than|larger than|more than|above|below|between"
    r"|exceed|maximum|\bmax\b|too (?:many|large|high)|out of range|up to|<=",
    re.IGNORECASE,
)
# Where servers put what they say. Others of their fields ("input", "ctx") repeat the prompt.
_FIELDS = ("error", "detail", "details", "errors", "message", "msg", "code", "type", "param", "loc")
_LONGEST_PART, _DEEPEST = 400, 6


class RefusedRequestError(LLMServerError):
    """The server refused this very request (HTTP 4xx), while another one may fare better.

    Parameters
    ----------
    message, hint, kind, status, attempts
        As for every `LLMServerError`.
    said
        What the server gave as the reason, without the key.
    """

    def __init__(self, message: str, *, said: str, **told: Any) -> None:
        super().__init__(message, **told)
        self.said = said


def refusal_text(error: BaseException) -> str:
    """Return what a server gave as the reason, from the body that a client's error carries."""
    body = getattr(error, "body", None)
    return "; ".join(_parts(body)) if isinstance(body, (dict, list)) else str(error)[:_LONGEST_PART]


def says_lacking(said: str, names: Iterable[str]) -> bool:
    """Say whether a server calls one of these parameters or features unknown or unsupported.

    Nothing else is a reason not to ask for them again: too long a prompt, or one that a content filter
    stops, is refused with the same HTTP statuses.

    Parameters
    ----------
    said
        `RefusedRequestError.said`.
    names
        Such as "tools"; they are looked for as whole words.
    """
    return _names_one(said, names) and _LACKING.search(said) is not None


def says_too_many(said: str, names: Iterable[str]) -> bool:
    """Say whether a server has these parameters, and only their value is not to its liking.

    Parameters
    ----------
    said, names
        As in `says_lacking`.
    """
    names = tuple(names)
    return _names_one(said, names) and (_LIMIT.search(said) is not None or not says_lacking(said, names))


def _names_one(said: str, names: Iterable[str]) -> bool:
    return re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", said, re.IGNORECASE) is not None


def _parts(told: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(told, str):
        yield told[:_LONGEST_PART]
    elif depth < _DEEPEST:
        inner = told if isinstance(told, list) else []
        if isinstance(told, dict):
            inner = [told[field] for field in _FIELDS if field in told]
        for part in inner:
            yield from _parts(part, depth + 1)

"""What goes wrong between here and the server behind an LLM, told apart, and told without the key."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from llama_index.core.llms.llm import LLM
from pydantic import ValidationError

from reges_index.errors import LLMServerError
from reges_index.models.api_answers import UnreadableAnswer
from reges_index.models.api_refusals import RefusedRequestError, refusal_text

__all__ = [
    "explained",
    "fault_kind",
    "http_status",
    "is_mistake",
    "is_refused",
    "is_transient",
    "is_unreadable",
    "retry_after_s",
    "safe_cause",
    "server_address",
    "without_secrets",
]

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
# What a program raises that is wrong itself. Of LLMs of OpenAI's kind no server can cause it: answers are
# checked before they are read.
_MISTAKES = (AttributeError, TypeError, LookupError, NameError, AssertionError, ValidationError)
_KEY = re.compile(r"\b(?:sk|pk|rk|key|hf)[-_][\w*.-]{4,}|\b(?:Bearer|Basic)\s+[\w*.=+/~-]{4,}", re.IGNORECASE)
_SECRET_FIELD = re.compile(r"key|secret|password|token$")
# What is shorter is no secret, and taking it out would only garble the text.
_SHORTEST_SECRET = 3
_TEMPLATE_HINT = (
    "a model without chat template needs OpenAILike(is_chat_model=False), which sends plain text to "
    "/completions"
)


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that a client's error carries; None without one."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may be answered a moment later.

    Time-outs, broken connections, half an answer, and the HTTP statuses 408, 409, 425, 429 and 5xx. API
    clients wrap what happened in classes of their own, so causes are looked at too.
    """
    seen: BaseException | None = error
    while seen is not None:
        status = http_status(seen)
        if status is not None:
            return status in _TRANSIENT_STATUS or status >= 500
        if isinstance(seen, (TimeoutError, asyncio.TimeoutError, ConnectionError, httpx.TransportError)):
            return True
        seen = seen.__cause__
    return False


def is_refused(error: BaseException) -> bool:
    """Say whether the server refused this very request (HTTP 4xx), while another one may fare better.

    Not so for a wrong key (401), an unknown model or address (404), and what may pass (429). With 403
    OpenAI refuses logprobs of its reasoning models, so that counts.
    """
    status = error.status if isinstance(error, LLMServerError) else http_status(error)
    return status is not None and 400 <= status < 500 and status not in {401, 404, *_TRANSIENT_STATUS}


def is_unreadable(error: BaseException) -> bool:
    """Say whether the server answered something that is no chat completion (HTML, other JSON, half of it)."""
    status = http_status(error)
    return (status is not None and status < 400) or isinstance(error, UnreadableAnswer)


def is_mistake(error: BaseException) -> bool:
    """Say whether an error is by its class a program's: a wrong argument, an attribute that is not there.

    Asking again does not help, and hiding it behind an answer got in another way would not either.
    """
    return isinstance(error, _MISTAKES)


def retry_after_s(error: BaseException | None) -> float | None:
    """Return the seconds that ``Retry-After`` asks to wait, given as seconds or a date; None without it."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    asked = headers.get("retry-after") if headers is not None else None
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            moment = parsedate_to_datetime(asked)
        except ValueError:  # neither: the back-off does as well
            return None
        if moment.tzinfo is None:  # RFC 5322's "-0000"
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None  # NaN is no time


def fault_kind(error: BaseException | None) -> str:
    """Return the class of an error and its HTTP status, such as "RateLimitError (HTTP 429)"."""
    status = http_status(error) if error is not None else None
    return type(error).__name__ + (f" (HTTP {status})" if status is not None else "")


def server_address(llm: LLM) -> str:
    """Return where the requests go, without user, password or query; the class's name if it does not say."""
    address = getattr(llm, "api_base", None) or getattr(llm, "base_url", None)
    if not isinstance(address, str):
        return type(llm).__name__
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str, llm: LLM) -> str:
    """Return a text with the keys that an LLM was given, and whatever else looks like one, as ``***``."""
    headers = getattr(llm, "default_headers", None) or {}
    fields = [value for name, value in vars(llm).items() if _SECRET_FIELD.search(name)]
    given = [os.environ.get("OPENAI_API_KEY"), *fields, *headers.values()]
    given.append(urlsplit(str(getattr(llm, "api_base", None) or "")).password)
    # Some classes keep their key as pydantic's SecretStr.
    given = [getattr(value, "get_secret_value", lambda value=value: value)() for value in given]
    for secret in sorted((s for s in given if isinstance(s, str)), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _KEY.sub("***", text)


def explained(error: Exception, llm: LLM, attempts: int) -> LLMServerError:
    """Return the error that a user sees: what was asked, what came, and what to do.

    Parameters
    ----------
    error
        As the client raised it, the last of all attempts.
    llm
        The LLM that was asked.
    attempts
        How often.
    """
    status, where = http_status(error), server_address(llm)
    name = str(getattr(llm, "model", "") or type(llm).__name__)
    said = " ".join(without_secrets(str(error), llm).split())[:300]
    times = f" after {attempts} attempts" if attempts > 1 else ""
    message = f"{name} at {where} gave no answer{times}: {fault_kind(error)}: {said}"
    told: dict[str, Any] = {
        "hint": _hint(error, status, name, where),
        "kind": fault_kind(error),
        "status": status,
        "attempts": attempts,
    }
    if is_refused(error):
        return RefusedRequestError(message, said=without_secrets(refusal_text(error), llm), **told)
    return LLMServerError(message, **told)


def _hint(error: Exception, status: int | None, name: str, where: str) -> str:
    if status in (401, 403):
        return "check the key: api_key= of the LLM, or OPENAI_API_KEY in the environment"
    if status == 404:
        return f"does the server know a model {name!r}? its address usually ends in /v1: {where}"
    if status == 429:
        asked = retry_after_s(error)
        wait = f"; the server asks to wait {asked:.0f} s" if asked else ""
        return f"send less at once, or raise max_retries= of the LLM{wait}"
    if status is not None and status >= 500:
        return f"look into the server's log; {_TEMPLATE_HINT}"
    if is_refused(error):
        return f"the prompt may be longer than the model's context; {_TEMPLATE_HINT}"
    if is_unreadable(error):
        return f"does {where} speak OpenAI's protocol? the address usually ends in /v1"
    if any("timeout" in type(seen).__name__.lower() for seen in (error, error.__cause__)):
        return "raise timeout= of the LLM (seconds), or ask a faster server"
    return f"is the server running, and reachable at {where}?"


def safe_cause(error: Exception, llm: LLM) -> Exception | None:
    """Return the error as a cause to show in tracebacks, or None where it or its causes tell a secret."""
    seen: Any = error
    while seen is not None:
        if without_secrets(str(seen), llm) != str(seen):
            return None
        seen = seen.__cause__ or seen.__context__
    return error

"""What goes wrong between here and a server that is asked for something, told without the key."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

__all__ = [
    "TRANSIENT_STATUS",
    "fault_kind",
    "http_status",
    "is_transient",
    "retry_after_s",
    "safe_cause",
    "server_address",
    "without_secrets",
]

TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 with which a server asks for the same request again."""

_KEY = re.compile(r"\b(?:sk|pk|rk|key|hf)[-_][\w*.-]{4,}|\b(?:Bearer|Basic)\s+[\w*.=+/~-]{4,}", re.IGNORECASE)
# What clients raise without a status: a broken connection, whatever broke it, and an error event in a stream.
_CLIENT_ERRORS = {"APIConnectionError", "APITimeoutError", "APIError"}
_KEY_VARIABLES = ("OPENAI_API_KEY", "OPENAI_LIKE_API_KEY")
_SECRET_FIELD = re.compile(r"key|secret|password|token$")
# What is shorter is no secret, and taking it out would only garble the text.
_SHORTEST_SECRET = 3


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that a client's error carries; None without one."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may be answered a moment later.

    Time-outs, broken connections, half an answer, errors in the middle of a stream, and the HTTP statuses
    408, 409, 425, 429 and 5xx. API clients wrap what happened in classes of their own, so causes are looked
    at too.
    """
    seen: BaseException | None = error
    while seen is not None:
        status = http_status(seen)
        if status is not None:
            return status in TRANSIENT_STATUS or status >= 500
        if isinstance(seen, (TimeoutError, asyncio.TimeoutError, ConnectionError, httpx.TransportError)):
            return True
        if _CLIENT_ERRORS & {kind.__name__ for kind in type(seen).__mro__}:
            return True
        seen = seen.__cause__
    return False


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
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None  # NaN is no time


def fault_kind(error: BaseException | None) -> str:
    """Return the class of an error and its HTTP status, such as "RateLimitError (HTTP 429)"."""
    status = http_status(error) if error is not None else None
    return type(error).__name__ + (f" (HTTP {status})" if status is not None else "")


def server_address(client: Any) -> str:
    """Return where the requests go, without user, password or query; the class's name if it does not say."""
    address = getattr(client, "api_base", None) or getattr(client, "base_url", None)
    if not isinstance(address, str):
        return type(client).__name__
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str, client: Any) -> str:
    """Return a text with the keys that a client was given, and whatever else looks like one, as ``***``."""
    headers = getattr(client, "default_headers", None) or {}
    fields = [value for name, value in vars(client).items() if _SECRET_FIELD.search(name)]
    given = [*map(os.environ.get, _KEY_VARIABLES), *fields, *headers.values()]
    given.append(urlsplit(str(getattr(client, "api_base", None) or "")).password)
    # Some classes keep their key as pydantic's SecretStr.
    given = [getattr(value, "get_secret_value", lambda value=value: value)() for value in given]
    for secret in sorted((s for s in given if isinstance(s, str)), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _KEY.sub("***", text)


def safe_cause(error: Exception, client: Any) -> Exception | None:
    """Return the error as a cause to show in tracebacks, or None where it or its causes tell a secret."""
    seen: Any = error
    while seen is not None:
        if without_secrets(str(seen), client) != str(seen):
            return None
        seen = seen.__cause__ or seen.__context__
    return error

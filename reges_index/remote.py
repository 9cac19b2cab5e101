"""Servers that are asked for something: what goes wrong there, told without the key, and asking again."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from reges_index.driver import Do, Work
from reges_index.errors import ServerError

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=ServerError)

TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 with which a server asks for the same request again."""

_KEY = re.compile(r"\b(?:sk|pk|rk|key|hf)[-_][\w*.-]{4,}|\b(?:Bearer|Basic)\s+[\w*.=+/~-]{4,}", re.IGNORECASE)
# What clients raise without a status: a broken connection, whatever broke it, and an error event in a stream.
# By name, so that no client has to be loaded: the first is httpx's, the others are OpenAI's.
_CLIENT_ERRORS = {"TransportError", "APIConnectionError", "APITimeoutError", "APIError"}
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
        if isinstance(seen, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
            return True
        if _CLIENT_ERRORS & {kind.__name__ for kind in type(seen).__mro__}:
            return True
        seen = seen.__cause__
    return False


def retry_after_s(error: BaseException) -> float | None:
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


def fault_kind(error: BaseException) -> str:
    """Return the class of an error and its HTTP status, such as "RateLimitError (HTTP 429)"."""
    status = http_status(error)
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


def server_error(kind: type[E], error: Exception, client: Any, *, what: str, hint: str, attempts: int) -> E:
    """Return the error that a user sees: what was asked, what came, and what to do.

    Parameters
    ----------
    error
        As the client raised it, the last of all attempts.
    what
        Such as "m at http://host/v1 gave no answer".
    """
    said = " ".join(without_secrets(str(error), client).split())[:300]
    times = f" after {attempts} attempts" if attempts > 1 else ""
    told = kind(
        f"{what}{times}: {fault_kind(error)}: {said}",
        hint=hint, kind=fault_kind(error), status=http_status(error), attempts=attempts,
    )  # fmt: skip
    told.__cause__ = safe_cause(error, client)
    return told


# -- asking again --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is repeated.

    Attributes
    ----------
    max_retries
        Further attempts after the first.
    first_wait_s, longest_wait_s
        Back-off in seconds: doubled from the first, with up to ``first_wait_s`` of jitter, never above the
        longest. A server's ``Retry-After`` goes before it; one that asks for more than the longest is not
        asked again.
    patience_s
        For a run of hours, which asks again in any case: the longest wait that a server may ask for.
    """

    max_retries: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    patience_s: float | None = None

    def wait_s(self, error: BaseException, attempt: int) -> float | None:
        """Return how long to wait before the next attempt; None if there is to be none.

        Parameters
        ----------
        error
            What the last attempt has raised.
        attempt
            Its number, from 1.
        """
        if attempt > self.max_retries:
            return None
        asked = retry_after_s(error)
        if asked is not None and self.patience_s is not None:
            return min(asked, self.patience_s)
        if asked is not None:
            return asked if asked <= self.longest_wait_s else None
        jitter = random.uniform(0, self.first_wait_s)
        return float(min(self.longest_wait_s, self.first_wait_s * 2 ** (attempt - 1) + jitter))


@dataclass
class Attempts:
    """One request, and how often it is sent.

    Attributes
    ----------
    may_pass
        Says of an error whether the same request may fare better.
    address
        Of the server, for the log.
    made
        How often it was sent.
    """

    policy: RetryPolicy
    may_pass: Callable[[Exception], bool]
    address: str
    made: int = 0

    def plan(self, ask: Do) -> Work[Any]:
        """Ask, and again where that may help; the last attempt's error is raised as it is."""
        while True:
            self.made += 1
            try:
                return (yield ask)
            except Exception as error:  # whatever a client library raises
                wait = self.policy.wait_s(error, self.made) if self.may_pass(error) else None
                if wait is None:
                    raise
                logger.warning(
                    "%s: %s; attempt %d of %d follows",
                    self.address, fault_kind(error), self.made + 1, self.policy.max_retries + 1,
                )  # fmt: skip
            yield Do(partial(time.sleep, wait), partial(asyncio.sleep, wait))

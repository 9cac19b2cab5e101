"""How often a request is repeated, and after how long."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import BaseRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from reges_index.remote.faults import fault_kind, retry_after_s

__all__ = ["RetryPolicy", "attempts_of"]

logger = logging.getLogger(__name__)


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
    """

    max_retries: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

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
        if asked is not None:
            return asked if asked <= self.longest_wait_s else None
        jitter = random.uniform(0, self.first_wait_s)
        return float(min(self.longest_wait_s, self.first_wait_s * 2 ** (attempt - 1) + jitter))

    def note(self, error: BaseException, attempt: int, address: str) -> None:
        """Log that another attempt follows."""
        logger.warning(
            "%s: %s; attempt %d of %d follows", address, fault_kind(error), attempt + 1, self.max_retries + 1
        )

    def options(self, is_worth_it: Callable[[BaseException], bool], address: str) -> dict[str, Any]:
        """Return the arguments of tenacity's ``Retrying`` and ``AsyncRetrying`` that do so.

        Parameters
        ----------
        is_worth_it
            Says of an error whether the same request may fare better.
        address
            Of the server, for the log.
        """
        backoff = wait_exponential_jitter(self.first_wait_s, self.longest_wait_s, jitter=self.first_wait_s)

        def wait(state: RetryCallState) -> float:
            asked = retry_after_s(_error_of(state))
            return backoff(state) if asked is None else asked

        def note(state: RetryCallState) -> None:
            logger.warning(
                "%s: %s; attempt %d of %d follows",
                address,
                fault_kind(_error_of(state)),
                state.attempt_number + 1,
                self.max_retries + 1,
            )

        def again(error: BaseException) -> bool:
            patience = retry_after_s(error)
            return is_worth_it(error) and (patience is None or patience <= self.longest_wait_s)

        return {
            "stop": stop_after_attempt(self.max_retries + 1),
            "wait": wait,
            "retry": retry_if_exception(again),
            "before_sleep": note,
            "reraise": True,
        }


def attempts_of(retrying: BaseRetrying) -> int:
    """Return how often the request was sent."""
    return int(retrying.statistics.get("attempt_number", 1))


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None

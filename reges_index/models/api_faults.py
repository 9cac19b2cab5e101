"""What went wrong with the server behind an LLM: what it means, and the error that a user sees."""

from __future__ import annotations

from llama_index.core.llms.llm import LLM
from pydantic import ValidationError

from reges_index.errors import LLMServerError
from reges_index.models.api_answers import UnreadableAnswer
from reges_index.remote.faults import (
    TRANSIENT_STATUS,
    fault_kind,
    http_status,
    retry_after_s,
    server_address,
    without_secrets,
)
from reges_index.remote.retries import RetryPolicy

__all__ = ["explained", "is_mistake", "is_refused", "is_unreadable"]


# What a program raises that is wrong itself. Of LLMs of OpenAI's kind no server can cause it: answers are
# checked before they are read.
_MISTAKES = (AttributeError, TypeError, LookupError, NameError, AssertionError, ValidationError)
_TEMPLATE_HINT = (
    "a model without chat template needs OpenAILike(is_chat_model=False), which sends plain text to "
    "/completions"
)


def is_refused(error: BaseException) -> bool:
    """Say whether the server refused this very request (HTTP 4xx), while another one may fare better.

    Not so for a wrong key (401), an unknown model or address (404), and what may pass (429). With 403
    OpenAI refuses logprobs of its reasoning models, so that counts.
    """
    status = error.status if isinstance(error, LLMServerError) else http_status(error)
    return status is not None and 400 <= status < 500 and status not in {401, 404, *TRANSIENT_STATUS}


def is_unreadable(error: BaseException) -> bool:
    """Say whether the server answered something that is no chat completion (HTML, other JSON, half of it)."""
    status = http_status(error)
    return (status is not None and status < 400) or isinstance(error, UnreadableAnswer)


def is_mistake(error: BaseException) -> bool:
    """Say whether an error is by its class a program's: a wrong argument, an attribute that is not there.

    Asking again does not help, and hiding it behind an answer got in another way would not either.
    """
    return isinstance(error, _MISTAKES)


def explained(
    error: Exception, llm: LLM, attempts: int, longest_wait_s: float = RetryPolicy.longest_wait_s
) -> LLMServerError:
    """Return the error that a user sees: what was asked, what came, and what to do.

    Parameters
    ----------
    error
        As the client raised it, the last of all attempts.
    llm
        The LLM that was asked.
    attempts
        How often.
    longest_wait_s
        How long a wait that the server asks for is obeyed.
    """
    status, where = http_status(error), server_address(llm)
    name = str(getattr(llm, "model", "") or type(llm).__name__)
    said = " ".join(without_secrets(str(error), llm).split())[:300]
    times = f" after {attempts} attempts" if attempts > 1 else ""
    message = f"{name} at {where} gave no answer{times}: {fault_kind(error)}: {said}"
    return LLMServerError(
        message,
        hint=_hint(error, status, name, where, longest_wait_s),
        kind=fault_kind(error),
        status=status,
        attempts=attempts,
    )


def _hint(error: Exception, status: int | None, name: str, where: str, longest_wait_s: float) -> str:
    if status in (401, 403):
        return "check the key: api_key= of the LLM, or OPENAI_API_KEY in the environment"
    if status == 404:
        return f"does the server know a model {name!r}? its address usually ends in /v1: {where}"
    if status == 429:
        asked = retry_after_s(error)
        if asked is not None and asked > longest_wait_s:
            return (
                f"the server asks to wait {asked:.0f} s, and {longest_wait_s:.0f} s is the longest wait: "
                "ask again then, or send less at once"
            )
        return "send less at once, or raise max_retries= of the LLM"
    if status is not None and status >= 500:
        return f"look into the server's log; {_TEMPLATE_HINT}"
    if is_refused(error):
        return (
            "the server's own words are above: too long a prompt is shortened by max_input_tokens=, a "
            f"setting that the server does not know is one of the LLM's; {_TEMPLATE_HINT}"
        )
    if is_unreadable(error):
        return f"does {where} speak OpenAI's protocol? the address usually ends in /v1"
    if any("timeout" in type(seen).__name__.lower() for seen in (error, error.__cause__)):
        return "raise timeout= of the LLM (seconds), or ask a faster server"
    return f"is the server running, and reachable at {where}?"

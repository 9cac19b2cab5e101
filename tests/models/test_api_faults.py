from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from llama_index.llms.openai_like import OpenAILike
from openai import APIStatusError
from pydantic import SecretStr

from reges_index.errors import LLMServerError
from reges_index.models.api import is_refused
from reges_index.remote import (
    is_transient,
    retry_after_s,
    safe_cause,
    server_address,
    without_secrets,
)

REQUEST = httpx.Request("POST", "http://127.0.0.1/v1")


def told(status, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return APIStatusError("no", response=httpx.Response(status, headers=named, request=REQUEST), body=None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-3", 0), ("soon", None), ("nan", None), ("", None), ("inf", float("inf"))],
)
def test_retry_after(value, seconds):
    assert retry_after_s(told(429, retry_after=value)) == seconds


def test_retry_after_as_a_date():
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after_s(told(429, retry_after=format_datetime(later))) == pytest.approx(90, abs=5)
    zoneless = later.strftime("%a, %d %b %Y %H:%M:%S -0000")
    assert retry_after_s(told(503, retry_after=zoneless)) == pytest.approx(90, abs=5)
    past = format_datetime(later - timedelta(days=1))
    assert retry_after_s(told(429, retry_after=past)) == 0
    assert retry_after_s(told(429)) is None
    assert retry_after_s(ValueError("x")) is None


def test_what_a_status_says():
    """The same request may fare better, another one may, or none would."""
    for status in (408, 409, 425, 429, 500, 502, 503, 529):
        assert (is_transient(told(status)), is_refused(told(status))) == (True, False)
    for status in (400, 403, 413, 422):
        assert (is_transient(told(status)), is_refused(told(status))) == (False, True)
        assert is_refused(LLMServerError("x", status=status))
    for status in (401, 404):
        assert (is_transient(told(status)), is_refused(told(status))) == (False, False)


def test_causes_are_looked_at():
    error = RuntimeError("a client's own")
    error.__cause__ = httpx.ReadTimeout("slow")
    assert is_transient(error)
    assert not is_transient(RuntimeError("x"))


class Keeper(OpenAILike):
    """Keeps a key under a name of its own."""

    subscription_key: SecretStr = SecretStr("subscription-98765")
    auth_token: str = "token-54321"


def test_secrets_leave_texts():
    llm = Keeper(
        model="m",
        api_base="http://jo:pa55word@host:81/v1?code=1",
        api_key="plainkey",
        default_headers={"X-Auth": "header-42"},
    )
    secrets = ["subscription-98765", "token-54321", "plainkey", "header-42", "pa55word"]
    strange = ["sk-proj-abcdefgh", "Bearer abc.def", "hf_abcdefghij"]
    text = without_secrets(f"model m says {' '.join(secrets + strange)} is the wrong key provided", llm)
    assert text.startswith("model m says *** ")
    assert text.endswith("is the wrong key provided")
    assert not [secret for secret in [*secrets, *strange] if secret in text]
    assert server_address(llm) == "http://host:81/v1"


def test_a_cause_that_tells_a_key_is_left_out():
    llm = OpenAILike(model="m", api_base="http://host/v1", api_key="plainkey")
    harmless, telling = ValueError("no"), ValueError("not plainkey")
    assert safe_cause(harmless, llm) is harmless
    assert safe_cause(telling, llm) is None
    harmless.__context__ = telling
    assert safe_cause(harmless, llm) is None

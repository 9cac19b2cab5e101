"""LLMs behind an API by name: ``openai:MODEL`` and ``openai-like:MODEL@URL``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

__all__ = ["ApiKind", "api_kind", "open_api_llm"]

ApiKind = Literal["openai", "openai-like"]


def api_kind(name: str) -> ApiKind | None:
    """Return which API a name asks for; None for the name of a local model."""
    kind, colon, _ = name.partition(":")
    return cast(ApiKind, kind) if colon and kind in ("openai", "openai-like") else None


def open_api_llm(name: str, options: Mapping[str, Any], *, called: str, forms: str) -> LLM:
    """Open the client of an API's LLM.

    Keys come from the environment only, so that they stand in no file, history or process list:
    ``OPENAI_API_KEY`` for ``openai:``, ``OPENAI_LIKE_API_KEY`` for ``openai-like:``, if the server wants one.

    Parameters
    ----------
    name
        One that has an `api_kind`; URL with its /v1.
    options
        Fields of the client; ``is_chat_model`` of an ``openai-like`` one is true by default.
    called
        What errors call the model, such as "LLM".
    forms
        The hint on names that cannot be.

    Raises
    ------
    ConfigError
        If the name is malformed, a key is missing, or the client library is not installed.
    """
    kind, _, rest = name.partition(":")
    try:
        from llama_index.llms.openai import OpenAI
        from llama_index.llms.openai_like import OpenAILike
    except ImportError as error:
        raise ConfigError(
            f"the {called} {kind!r} needs LlamaIndex's OpenAI client", hint="pip install 'reges-index[llms]'"
        ) from error
    if kind == "openai":
        key = os.environ.get("OPENAI_API_KEY")
        if not rest or not key:
            missing = "the environment variable OPENAI_API_KEY" if rest else "a model's name"
            raise ConfigError(f"the {called} {name!r} needs {missing}", hint=forms)
        official: LLM = OpenAI(model=rest, api_key=key, **options)
        return official
    named = re.fullmatch(r"(.+?)@(https?://.+)", rest)
    parts = urlsplit(named[2]) if named else None
    if named is None or parts is None or not parts.hostname:
        # Not repeated here: what looks like a URL may hold a password.
        raise ConfigError(f"the {called} is not of the form openai-like:MODEL@URL", hint=forms)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"the {called}'s URL holds a user name, a password or a query",
            hint="set OPENAI_LIKE_API_KEY instead",
        )
    # Never OpenAI's own key: it is not this server's business.
    key = os.environ.get("OPENAI_LIKE_API_KEY") or "not-needed"
    client: LLM = OpenAILike(
        model=named[1], api_base=named[2], api_key=key, **{"is_chat_model": True, **options}
    )
    return client

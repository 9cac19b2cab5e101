"""Encoders behind OpenAI's protocol, with keys from the environment only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reges_index.catalog.encoder_names import EncoderName
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = ["api_encoder_name", "open_api_encoder"]

_OPENAI_URL = "https://api.openai.com/v1"


def open_api_encoder(model: str, url: str = "") -> BaseEmbedding:
    """Return a client; nothing is sent yet.

    Parameters
    ----------
    model
        Its name at the server.
    url
        Address of an OpenAI-compatible server with its ``/v1``, whose key, if it wants one, is
        ``OPENAI_LIKE_API_KEY``. Empty for OpenAI's own, whose key is ``OPENAI_API_KEY``.

    Raises
    ------
    ConfigError
        If the client library is not installed or OpenAI's key is missing.
    """
    try:
        from llama_index.embeddings.openai import OpenAIEmbedding
    except ImportError as error:
        raise ConfigError(
            f"encoder {model!r} needs LlamaIndex's OpenAI client", hint="pip install 'reges-index[llms]'"
        ) from error
    if url:
        # Never OpenAI's own key: it is not this server's business.
        key = os.environ.get("OPENAI_LIKE_API_KEY") or "not-needed"
        client: BaseEmbedding = OpenAIEmbedding(model_name=model, api_base=url, api_key=key)
        return client
    if not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError(
            f"encoder {model!r} needs OpenAI's key", hint="set the environment variable OPENAI_API_KEY"
        )
    official: BaseEmbedding = OpenAIEmbedding(model_name=model, api_key=os.environ["OPENAI_API_KEY"])
    return official


def api_encoder_name(model: BaseEmbedding) -> EncoderName | None:
    """Return the name of an ``OpenAIEmbedding``; None for others, and where a name would not say it all."""
    kind = type(model)
    if kind.__name__ != "OpenAIEmbedding" or not kind.__module__.startswith("llama_index.embeddings.openai"):
        return None
    more = ("additional_kwargs", "default_headers", "dimensions", "api_version")
    if any(getattr(model, field, None) for field in more):
        return None
    url = str(getattr(model, "api_base", None) or _OPENAI_URL).rstrip("/")
    return EncoderName("openai", model.model_name, url="" if url == _OPENAI_URL else url)

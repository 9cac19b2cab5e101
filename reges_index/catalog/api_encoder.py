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
# Further attempts after the first, as LLMs get them; LlamaIndex takes 10, each of which may send 11 requests.
_MAX_RETRIES = 3
# Where the classes that a name describes whole are made: LlamaIndex's and ours over it.
_KINDS = {"OpenAIEmbedding": "llama_index.embeddings.openai", "ApiEmbedding": "reges_index.catalog."}


def open_api_encoder(model: str, url: str = "") -> BaseEmbedding:
    """Return a client; nothing is sent yet. Faults of the server are `EncoderServerError`, without the key.

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
        import llama_index.embeddings.openai  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"encoder {model!r} needs LlamaIndex's OpenAI client", hint="pip install 'reges-index[llms]'"
        ) from error
    from reges_index.catalog.api_embedding import ApiEmbedding

    if url:
        # Never OpenAI's own key: it is not this server's business.
        key = os.environ.get("OPENAI_LIKE_API_KEY") or "not-needed"
        return ApiEmbedding(model_name=model, api_base=url, api_key=key, max_retries=_MAX_RETRIES)
    if not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError(
            f"encoder {model!r} needs OpenAI's key", hint="set the environment variable OPENAI_API_KEY"
        )
    return ApiEmbedding(model_name=model, api_key=os.environ["OPENAI_API_KEY"], max_retries=_MAX_RETRIES)


def api_encoder_name(model: BaseEmbedding) -> EncoderName | None:
    """Return the name of an ``OpenAIEmbedding``; None for others, and where a name would not say it all."""
    kind = type(model)
    home = _KINDS.get(kind.__name__)
    if home is None or not kind.__module__.startswith(home):
        return None
    more = ("additional_kwargs", "default_headers", "dimensions", "api_version")
    if any(getattr(model, field, None) for field in more):
        return None
    url = str(getattr(model, "api_base", None) or _OPENAI_URL).rstrip("/")
    return EncoderName("openai", model.model_name, url="" if url == _OPENAI_URL else url)

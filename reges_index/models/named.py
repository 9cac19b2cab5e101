"""Language models by name, and the names of language models."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from reges_index.errors import ConfigError, meant
from reges_index.models.backend import ApiBackend, Backend, LocalBackend
from reges_index.models.embedded import EMBEDDED_BASE
from reges_index.settings import NONE, SHIPPED

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from reges_index.models.local_lm import LocalLM

ApiKind = Literal["openai", "openai-like"]

_FORMS = "use embedded, a model's folder or hub name, openai:MODEL, or openai-like:MODEL@URL"
_OPENAI_URL = "https://api.openai.com/v1"
_LOCAL_OPTIONS = ("device", "dtype", "revision")
# What of a client decides on its answers or on how long they may take; nothing that can hold a secret.
_API_OPTIONS = ("max_retries", "max_tokens", "temperature", "timeout")
_LIKE_OPTIONS = (*_API_OPTIONS, "context_window", "is_chat_model", "is_function_calling_model")

# What a client has beside what decides on its answers: said otherwise, or by the environment.
_NOT_COMPARED = ("api_base", "api_key", "callback_manager")

Options = Mapping[str, bool | int | float | str]


def open_llm(name: str, options: Options | None = None) -> LLM | LocalLM:
    """Open the language model of that name.

    Keys come from the environment only: ``OPENAI_API_KEY`` for ``openai:``, ``OPENAI_LIKE_API_KEY`` for
    ``openai-like:``, if the server wants one.

    Parameters
    ----------
    name
        "embedded", a folder or hub name, ``openai:MODEL`` or ``openai-like:MODEL@URL``, URL with its /v1.
    options
        Of a local model ``device``, ``dtype`` and ``revision``; of an API's client ``max_retries``,
        ``max_tokens``, ``temperature`` and ``timeout`` (seconds), and for ``openai-like`` also
        ``context_window`` (tokens), ``is_chat_model`` (here true by default) and
        ``is_function_calling_model``.

    Returns
    -------
    LLM or LocalLM
        "embedded" without options is the one that all components share, with its shipped adapters; any other
        local model has none.

    Raises
    ------
    ConfigError
        If the name is malformed, an option is unknown, a key is missing, or the client library is not
        installed.
    ModelNotFoundError
        If a local model is nowhere to be found.
    """
    options = dict(options or {})
    kind = api_kind(name)
    if kind is None:
        _check_options(name, options, _LOCAL_OPTIONS)
        from reges_index.models.local_lm import LocalLM

        if name == "embedded" and not options:
            return LocalLM.default()
        chosen: dict[str, Any] = {key: str(value) for key, value in options.items()}
        return LocalLM.from_pretrained(name, **chosen)
    _check_options(kind, options, _API_OPTIONS if kind == "openai" else _LIKE_OPTIONS)
    return open_api_llm(name, options, called="LLM", forms=_FORMS)


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


def model_of(backend: Backend) -> LLM | LocalLM:
    """Return the model behind an expert, as it was given."""
    assert isinstance(backend, LocalBackend | ApiBackend)
    return backend.lm if isinstance(backend, LocalBackend) else backend.llm


def spec_of(backend: Backend) -> tuple[str, dict[str, Any]] | None:
    """Return name and options by which `open_llm` gives this model again; None where no name says it all."""
    if isinstance(backend, LocalBackend):
        return _local_spec(backend.lm)
    assert isinstance(backend, ApiBackend)
    llm = backend.llm
    kinds = {
        cls.__name__ for cls in type(llm).__mro__ if cls.__module__.startswith("llama_index.llms.openai")
    }
    exact = type(llm).__name__
    if exact not in ("OpenAI", "OpenAILike") or exact not in kinds:
        return None
    url = str(llm.api_base or _OPENAI_URL).rstrip("/")  # type: ignore[attr-defined]
    like = exact == "OpenAILike"
    if not like and url != _OPENAI_URL:
        return None
    options = {key: getattr(llm, key) for key in (_LIKE_OPTIONS if like else _API_OPTIONS)}
    model = llm.model  # type: ignore[attr-defined]
    name = f"openai-like:{model}@{url}" if like else f"openai:{model}"
    said = {key: value for key, value in options.items() if value is not None}
    kind: Any = type(llm)
    again = kind(model=model, api_key="not-needed", **said)
    others = [field for field in kind.model_fields if field not in _NOT_COMPARED]
    return (name, said) if all(getattr(llm, field) == getattr(again, field) for field in others) else None


def adapter_place(backend: Backend) -> str:
    """Return the folder of the adapter that a model uses, "shipped" for one of this package's, or "none"."""
    if isinstance(backend, ApiBackend) and backend.manifest_folder is not None:
        return str(Path(backend.manifest_folder).expanduser().resolve())
    if not isinstance(backend, LocalBackend) or backend.adapter is None:
        return NONE
    folder = backend.lm.adapter_paths[backend.adapter].expanduser().resolve()
    shipped = {place.resolve() for place in type(backend.lm).shipped_adapters().values()}
    return SHIPPED if backend.lm.name == EMBEDDED_BASE and folder in shipped else str(folder)


def _local_spec(lm: LocalLM) -> tuple[str, dict[str, Any]]:
    from reges_index.models.loading import pick_dtype

    name = lm.name
    if name == EMBEDDED_BASE:
        name = "embedded"
    elif Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser().resolve())
    dtype = lm.model.dtype
    usual = pick_dtype("auto", lm.model.device)
    return name, {} if dtype == usual else {"dtype": str(dtype).removeprefix("torch.")}


def _check_options(name: str, options: Options, known: tuple[str, ...]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"the LLM {name!r} has no option {', '.join(unknown)}",
            hint=f"{meant(unknown, known)}; keys come from the environment",
        )

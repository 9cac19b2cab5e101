"""Errors of the package: each names the input, what is wrong with it and what to do.

Every error has a ``hint`` (what to do next) and an ``exit_code`` (what ``reges`` ends with), so that
scripts can tell a bad input file from a missing model without reading English.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ReGeSError(Exception):
    """Base of all errors raised on purpose by this package.

    Parameters
    ----------
    message
        What is wrong, naming the input (file, line, id, name).
    hint
        What to do about it. Shown on its own line by ``str()``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def meant(wrong: Sequence[str], known: Iterable[str], what: str = "options") -> str:
    """Return a hint for names that there are not: the nearest of those that there are, else all of them."""
    listed = list(known)
    near = [find[0] for name in wrong if (find := get_close_matches(name, listed, n=1, cutoff=0.7))]
    return f"did you mean {', '.join(near)}?" if near else f"{what}: {', '.join(listed)}"


class InputError(ReGeSError, ValueError):
    """A file, dialogue or argument that cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """An option, preset or recipe that does not exist or contradicts another."""


class CatalogError(ReGeSError):
    """The item catalog cannot do what was asked."""

    exit_code = 3


class StoreNotFoundError(CatalogError):
    """No catalog of that name at that place."""


class EncoderMismatchError(CatalogError):
    """The collection was made with another encoder, dimension, text template or space."""


class ModelError(ReGeSError):
    """A language model or encoder cannot be loaded or run."""

    exit_code = 4


class ModelNotFoundError(ModelError):
    """The model is in no installed package, no local cache and on no reachable hub."""


class ServerError(ModelError):
    """The server behind a model gave no usable answer, after all retries.

    Parameters
    ----------
    message, hint
        As for every error; the key is in neither.
    kind
        What happened, in a word: the client library's error, with the HTTP status where there was one.
    status
        HTTP status of the last answer; None without one (time-out, broken connection).
    attempts
        How often the request was sent.
    """

    def __init__(
        self, message: str, *, hint: str = "", kind: str = "", status: int | None = None, attempts: int = 1
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.status = status
        self.attempts = attempts


class LLMServerError(ServerError):
    """The server behind an LLM gave no usable answer, after all retries.

    Attributes are those of `ServerError`: ``kind``, ``status`` and ``attempts``.
    """


class EncoderServerError(ServerError):
    """The server behind an encoder gave no usable vectors, after all retries.

    Attributes are those of `ServerError`: ``kind``, ``status`` and ``attempts``.
    """


class AdapterError(ModelError):
    """An adapter is missing, damaged, or belongs to another base, role or prompt."""


class StorageError(ReGeSError, OSError):
    """The disk is full, or a folder cannot be written."""

    exit_code = 5


class TrainingError(ReGeSError):
    """A training run stopped; the last good checkpoint is kept."""

    exit_code = 6

"""How queries are written: lengths, number, sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reges_index.errors import AdapterError, ConfigError

__all__ = ["QueryDecoding", "advised_decoding"]


@dataclass(frozen=True)
class QueryDecoding:
    """How queries are written.

    Attributes
    ----------
    max_new_tokens
        Most tokens of one query.
    num_queries
        Queries per dialogue: the first by greedy decoding, further ones sampled. The vector that is
        searched with is the mean of theirs.
    temperature
        Of the sampled ones.
    no_repeat_ngram_size, repetition_penalty
        Against loops, which small models fall into. Local models only.
    context_messages
        How many of the newest messages are embedded beside the query, as one more text.
    seed
        Of the sampling.
    """

    max_new_tokens: int = 64
    num_queries: int = 1
    temperature: float = 0.7
    no_repeat_ngram_size: int = 3
    repetition_penalty: float = 1.0
    context_messages: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_queries < 1 or self.max_new_tokens < 1 or self.context_messages < 0:
            raise ConfigError(
                f"num_queries={self.num_queries}, max_new_tokens={self.max_new_tokens}, "
                f"context_messages={self.context_messages}: a query needs at least one text of one token"
            )
        if self.num_queries > 1 and self.temperature <= 0:
            raise ConfigError(
                f"num_queries={self.num_queries} with temperature={self.temperature}: greedy has one result",
                hint="give a temperature above 0",
            )

    def passes(self) -> list[dict[str, Any]]:
        """Return the options of each call of the model: the greedy query, then all sampled ones."""
        common: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "repetition_penalty": self.repetition_penalty,
        }
        passes = [{**common, "temperature": 0.0}]
        if self.num_queries > 1:
            sampled = {"num_return_sequences": self.num_queries - 1, "seed": self.seed}
            passes.append({**common, **sampled, "temperature": self.temperature})
        return passes


def advised_decoding(options: Mapping[str, Any], adapter: str | None) -> QueryDecoding:
    """Return the decoding that an adapter recommends.

    Raises
    ------
    AdapterError
        If it recommends options that do not exist.
    """
    try:
        return QueryDecoding(**options)
    except TypeError as error:
        raise AdapterError(
            f"adapter {adapter!r} recommends decoding options that this version does not know: {error}",
            hint="pass decoding=QueryDecoding(...), or update reges-index",
        ) from error

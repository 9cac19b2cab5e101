"""Counting and cutting text in the tokens of the model that will read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

__all__ = ["HFMeasure", "TextMeasure", "TiktokenMeasure", "default_measure"]

# No tokenizer in use here makes tokens longer than this from one-line text; a text longer than
# budget * _MAX_TOKEN_CHARS characters is over the budget for certain and need not be tokenized whole.
_MAX_TOKEN_CHARS = 32


class TextMeasure(Protocol):
    """Counts tokens and cuts text at token borders."""

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``, special tokens not counted."""
        ...

    def head(self, text: str, tokens: int) -> str:
        """Return the longest beginning of ``text`` with at most ``tokens`` tokens."""
        ...

    def tail(self, text: str, tokens: int) -> str:
        """Return the longest end of ``text`` with at most ``tokens`` tokens."""
        ...


class HFMeasure:
    """Measure text with a Hugging Face tokenizer.

    Parameters
    ----------
    tokenizer
        A fast tokenizer (one that gives character offsets).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(int(a), int(b)) for a, b in encoded["offset_mapping"]]

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def head(self, text: str, tokens: int) -> str:
        """Return the beginning of ``text`` that fits into ``tokens`` tokens."""
        if tokens <= 0:
            return ""
        text = text[: tokens * _MAX_TOKEN_CHARS]
        offsets = self._offsets(text)
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]].rstrip("\ufffd")

    def tail(self, text: str, tokens: int) -> str:
        """Return the end of ``text`` that fits into ``tokens`` tokens."""
        if tokens <= 0:
            return ""
        text = text[-tokens * _MAX_TOKEN_CHARS :]
        offsets = self._offsets(text)
        return text if len(offsets) <= tokens else text[offsets[-tokens][0] :]


class TiktokenMeasure:
    """Measure text with LlamaIndex's global tokenizer, for models behind an API.

    Their own tokenizer is not to be had here, so budgets are approximate for them.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        self._encode = encode

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``."""
        return len(self._encode(text))

    def _longest(self, text: str, tokens: int, cut: Callable[[int], str]) -> str:
        low, high = 0, min(len(text), max(tokens, 0) * _MAX_TOKEN_CHARS)
        while low < high:  # token count grows with length, near enough for a budget
            middle = (low + high + 1) // 2
            if self.count(cut(middle)) <= tokens:
                low = middle
            else:
                high = middle - 1
        return cut(low)

    def head(self, text: str, tokens: int) -> str:
        """Return the beginning of ``text`` that fits into ``tokens`` tokens."""
        return self._longest(text, tokens, lambda n: text[:n])

    def tail(self, text: str, tokens: int) -> str:
        """Return the end of ``text`` that fits into ``tokens`` tokens."""
        return self._longest(text, tokens, lambda n: text[len(text) - n :])


@lru_cache(maxsize=1)
def default_measure() -> TextMeasure:
    """Return the measure for models whose tokenizer is unknown: LlamaIndex's bundled one, no network."""
    from llama_index.core.utils import get_tokenizer

    return TiktokenMeasure(get_tokenizer())


def surely_longer(text: str, tokens: int) -> bool:
    """Say whether ``text`` is over ``tokens`` tokens without tokenizing it."""
    return len(text) > tokens * _MAX_TOKEN_CHARS

"""Counting and cutting text in the tokens of the model that will read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

# The longest tokens in use are runs of 128 equal characters; a text longer than budget * _MAX_TOKEN_CHARS
# characters is over the budget for certain and need not be tokenized whole.
_MAX_TOKEN_CHARS = 128


class TextMeasure:
    """Counts tokens and cuts text at token borders.

    Parameters
    ----------
    encode
        From a text to its tokens, special ones left out. LlamaIndex's global tokenizer stands in for that of
        a model behind an API, which is not to be had here: its budgets are approximate.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        self._encode = encode

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``."""
        return len(self._encode(text))

    def head(self, text: str, tokens: int) -> str:
        """Return the longest beginning of ``text`` with at most ``tokens`` tokens."""
        return self._longest(text, tokens, lambda n: text[:n])

    def tail(self, text: str, tokens: int) -> str:
        """Return the longest end of ``text`` with at most ``tokens`` tokens."""
        return self._longest(text, tokens, lambda n: text[len(text) - n :])

    def _longest(self, text: str, tokens: int, cut: Callable[[int], str]) -> str:
        if tokens <= 0:
            return ""
        # A piece may have more tokens than the whole, which "👀0" has beside " 👀0".
        if not surely_longer(text, tokens) and self.count(text) <= tokens:
            return text
        low, high = 0, min(len(text), 4 * tokens)  # 4 characters a token are usual
        while high < len(text) and self.count(cut(high)) <= tokens:
            low, high = high, min(len(text), 2 * high)
        while low < high:  # token count grows with length, near enough for a budget
            middle = (low + high + 1) // 2
            if self.count(cut(middle)) <= tokens:
                low = middle
            else:
                high = middle - 1
        return cut(low)


class HFMeasure(TextMeasure):
    """Measure text with a Hugging Face tokenizer, exactly.

    Parameters
    ----------
    tokenizer
        A fast tokenizer (one that gives character offsets).
    prepare
        What happens to text before the model reads it, such as `ChatFrame.break_up`: counts are of the
        prepared text, and cuts give pieces of it. Prepared text has to be left as it is by it.
    """

    def __init__(self, tokenizer: Any, prepare: Callable[[str], str] | None = None) -> None:
        super().__init__(lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        self._tokenizer = tokenizer
        self._prepare = prepare or (lambda text: text)

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(int(a), int(b)) for a, b in encoded["offset_mapping"]]

    def count(self, text: str) -> int:
        """Return the number of tokens of the prepared text."""
        return super().count(self._prepare(text))

    def head(self, text: str, tokens: int) -> str:
        """Return the beginning of ``text`` that fits into ``tokens`` tokens."""
        if tokens <= 0:
            return ""
        text = self._prepare(text[: tokens * _MAX_TOKEN_CHARS])
        offsets = self._offsets(text)
        if len(offsets) <= tokens:
            return text
        # Bytes of one character may be several tokens, all with its offsets: such a one goes as a whole.
        whole = (offsets[n - 1][1] for n in range(tokens, 0, -1) if offsets[n][0] >= offsets[n - 1][1])
        return text[: next(whole, 0)]

    def tail(self, text: str, tokens: int) -> str:
        """Return the end of ``text`` that fits into ``tokens`` tokens."""
        if tokens <= 0:
            return ""
        text = self._prepare(text[-tokens * _MAX_TOKEN_CHARS :])
        offsets = self._offsets(text)
        if len(offsets) <= tokens:
            return text
        first = len(offsets) - tokens
        whole = (offsets[n][0] for n in range(first, len(offsets)) if offsets[n][0] >= offsets[n - 1][1])
        return text[next(whole, len(text)) :]


@lru_cache(maxsize=1)
def default_measure() -> TextMeasure:
    """Return the measure for models whose tokenizer is unknown: LlamaIndex's bundled one, no network."""
    from llama_index.core.utils import get_tokenizer

    return TextMeasure(get_tokenizer())


def surely_longer(text: str, tokens: int) -> bool:
    """Say whether ``text`` is over ``tokens`` tokens without tokenizing it."""
    return len(text) > tokens * _MAX_TOKEN_CHARS

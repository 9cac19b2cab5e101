"""What the server behind an LLM has turned out not to offer, remembered for as long as the LLM lives."""

from __future__ import annotations

import threading
import weakref
from typing import Any

__all__ = ["Offers", "offers_of"]

# So often in a row a way of asking has to fail, while another one works, before it is not tried any more.
# Once is no sign: too long a prompt and a content filter are refused with the same HTTP statuses as a
# parameter that the server does not know.
_ENOUGH = 2


class Offers:
    """Which ways of asking one LLM have failed, and which of them are not tried any more."""

    def __init__(self) -> None:
        self._failed: dict[str, int] = {}
        self._lock = threading.Lock()

    def has(self, way: str) -> bool:
        """Say whether a way of asking is still worth a request."""
        return self._failed.get(way, 0) < _ENOUGH

    def failed(self, way: str, *, lasting: bool = False) -> None:
        """Note that a way failed where another one then worked; a lasting failure is enough by itself."""
        with self._lock:
            self._failed[way] = _ENOUGH if lasting else self._failed.get(way, 0) + 1

    def worked(self, way: str) -> None:
        """Note that a way has worked: earlier failures were about their prompts."""
        with self._lock:
            self._failed.pop(way, None)


_known: dict[int, Offers] = {}
_lock = threading.Lock()


def offers_of(llm: Any) -> Offers:
    """Return what is remembered of an LLM; the same for all components that hold this object."""
    key = id(llm)
    with _lock:
        if key not in _known:
            # LLMs are pydantic models, which have no hash, so no dictionary of weak keys can hold them.
            weakref.finalize(llm, _known.pop, key, None)
            _known[key] = Offers()
        return _known[key]

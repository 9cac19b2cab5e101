"""Does a pseudo-query give the answer away? Titles of the truth that the dialogue does not hold.

LLM_QR never sees the truth. A pseudo-query that names it where nobody has named it teaches LLM_QR to invent
titles, so such queries are no training data (section 2.3 wants what *in the history* justifies the item).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from reges_index.catalog import Item
from reges_index.dialogue import TitleIndex, Turn

__all__ = ["TitleLeaks"]

_SUBTITLE = re.compile(r":\s|\s[-–—]\s")


class TitleLeaks:
    """Finds titles of a turn's targets in a text, unless the dialogue holds them.

    Titles are found as in messages (`TitleIndex`); the part before a colon counts as a title of its own,
    since it gives as much away ("Star Wars" for "Star Wars: A New Hope").

    Parameters
    ----------
    items
        The catalog.
    """

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items

    @cached_property
    def _index(self) -> TitleIndex:
        return TitleIndex.of(self._items.values())

    def find(self, text: str, turn: Turn) -> tuple[str, ...]:
        """Return the titles that ``text`` gives away, in the order of the targets.

        Parameters
        ----------
        text
            A pseudo-query or a piece of reasoning.
        turn
            The turn it was written for. Targets that are not in the catalog are passed over.
        """
        mentioned = turn.mentioned or ()
        targets = [target for target in turn.targets if target in self._items and target not in mentioned]
        # Seekers write titles in lower case. Where annotators said what was mentioned, a plain word is no
        # mention; where nobody did, it gets the benefit of the doubt.
        strict = turn.mentioned is not None
        leaked: dict[str, None] = {}
        for target in targets:
            title = self._items[target].title
            series = _SUBTITLE.split(title, maxsplit=1)[0]
            named = {self._index.ids[i] for mention in self._index.find(text) for i in mention.items}
            for form in dict.fromkeys((title, series)):
                # Alone, so that what is said of a series or a sequel counts as well.
                alone = TitleIndex([form])
                given = target in named if form == title else bool(alone.find(text))
                if given and not alone.link(turn.chat, strict=strict):
                    leaked[form] = None
        return tuple(leaked)

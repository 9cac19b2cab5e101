"""What a recommendation's report says was cut or went otherwise than asked, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["notes"]


def notes(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say in words what a recommendation's report says was cut or went otherwise than asked."""
    query, rerank = report.get("query", {}), report.get("rerank", {})
    found = [
        ("oldest messages cut for the query expert", query.get("messages_dropped")),
        ("oldest messages cut for the item expert", rerank.get("messages_dropped")),
        ("abstracts shortened to fit into the prompt", rerank.get("candidates_shortened")),
    ]
    said = [f"{what}: {count:,}" for what, count in found if count]
    if query.get("message_shortened") or rerank.get("message_shortened"):
        said.append("a message was too long and was shortened")
    if query.get("fallback"):
        said.append("the model wrote no query; the last message was searched for")
    if rerank.get("outcome") == "hallucinated":
        said.append("the model named no candidate; the nearest item stands in")
    return said

"""What a recommendation's report says was cut or went otherwise than asked, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHORTENED = {
    "details": "abstracts shortened to max_candidate_tokens, which may be the adapter's advice",
    None: "abstracts shortened to fit into the prompt",
}


def notes(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say in words what a recommendation's report says was cut or went otherwise than asked."""
    query, rerank, answer = (report.get(part, {}) for part in ("query", "rerank", "answer"))
    found = [
        ("messages of systems and tools left out", query.get("messages_of_others")),
        ("oldest messages cut for the query expert", query.get("messages_dropped")),
        ("oldest messages cut for the item expert", rerank.get("messages_dropped")),
        (_SHORTENED.get(rerank.get("shortened_by"), _SHORTENED[None]), rerank.get("candidates_shortened")),
    ]
    said = [f"{what}: {count:,}" for what, count in found if count]
    if query.get("message_shortened") or rerank.get("message_shortened"):
        said.append("a message was too long and was shortened")
    if error := query.get("error"):
        said.append(f"the LLM's server failed ({error}): the last message was searched for")
    elif query.get("fallback"):
        said.append("the model wrote no query; the last message was searched for")
    if rerank.get("outcome") == "failed":
        # An LLM class of one's own may raise anything, so this need not be the server's doing.
        said.append(f"the LLM or its server failed ({rerank.get('error')}): the retriever's order is shown")
    elif rerank.get("outcome") == "hallucinated":
        said.append("the model named no candidate; the nearest item stands in")
    said += _other_ways(rerank)
    if error := answer.get("error"):
        said.append(f"the LLM's server failed ({error}): the answer is the title alone")
    return said


def _other_ways(rerank: Mapping[str, Any]) -> list[str]:
    """Say how the LLM was asked for its choice in vain, before it was asked in another way."""
    given_up = rerank.get("given_up", ())
    reasons = {way: why for way, why in rerank.get("fallback_reasons", {}).items() if way not in given_up}
    said = [f"no choice by {way} ({why}); the LLM was asked in another way" for way, why in reasons.items()]
    return said + [
        f"the LLM's server offers no choice by {way}; it is not asked for any more" for way in given_up
    ]

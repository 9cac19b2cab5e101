"""Telling small talk, thanks and "seen it" from a wish, and what is said to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib import resources

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from numpy.typing import NDArray

from reges_index.catalog.encoder import resolve_encoder
from reges_index.dialogue import one_line

# Longer messages are never small talk, and it has to be this much closer (cosine) than the nearest request.
# "Breakfast" and "seasonal" are like neither: what is farther from all small talk than this is a wish.
_LONGEST, _MARGIN, _LEAST = 10, 0.1, 0.5

_THAT = r"(?:it|that|this|th[eo]se|them)(?: (?:one|film|movie|book|show|game))?"
_PRAISE = (
    r"(?:perfect|great|good|fine|lovely|wonderful|it|the one|(?:just )?what (?:i|we) (?:want|need)(?:ed)?)"
)
_ACCEPTED = re.compile(
    r"(?:(?:ok(?:ay)?|great|cool|perfect|nice|lovely|wonderful|brilliant|excellent|awesome|fantastic|alright|"
    r"good (?:idea|choice|one)|thank(?:s| you)(?: (?:so|very) much| a lot| again)?|thx|cheers|y(?:es|eah)|"
    r"then|that was helpful|(?:good)?bye|see you|good night|tonight|for (?:your|the) help|"
    rf"(?:(?:that|this|it)(?:['’]?s| is| sounds| looks)|sounds|looks) (?:just )?{_PRAISE}|"
    r"(?:i|we)(?:['’]?ll| will)(?: \w+)? (?:watch|take|try|read|get|buy|cook|make|go (?:for|with)|have|order|"
    rf"book|play) {_THAT}|have a (?:nice|good|great) (?:day|evening|one))[\s,.!:)]*)+",
    re.IGNORECASE,
)
_KNOWN = re.compile(
    r"(?:(?:no|nope|sorry|oh|well|yes|yeah|but|and|ok)\s+)*"
    r"(?:(?:i|we|they|he|she)(?:['’]?ve| have| has|['’]d)?\s+)?(?:(?:already|just)\s+)?"
    r"(?:not|seen|saw|read|watched|know|knew|tried|own|have|had|got|played|heard)\s+"
    rf"{_THAT}(?:\s+(?:already|before|once|twice|yesterday|last \w+|too|many times|please))*|sorry|no",
    re.IGNORECASE,
)
_READY = (
    (r"\b(?:good)?bye\b|\bsee you|\bgood night", "Goodbye!"),
    (
        r"\bwho are you|\byour name|\b(?:human|robot|bot)\b|\bwhat (?:are|can) you",
        "I recommend what fits your wish.",
    ),
    (r"\bhow are you|\bhow is it going|\bhow do you do", "I am fine, thank you."),
    (r"\b(?:hi|hey|hello|good (?:morning|afternoon|evening))\b", "Hello!"),
    (r"\bthank|\bthx\b|\bcheers\b", "You are welcome."),
)


def accepts(message: str) -> bool:
    """Say whether a message, the first behind a recommendation, takes it: "Thanks, that's perfect!"."""
    return bool(_ACCEPTED.fullmatch(one_line(message)))


def ready_reply(message: str, title: str = "") -> str:
    """Return what is said to small talk without an LLM; ``title`` is of the item recommended before it."""
    said = next((said for asked, said in _READY if re.search(asked, message, re.IGNORECASE)), "")
    if title and said not in ("Hello!", "I am fine, thank you."):
        return f"{said} I hope that {title} is the right one.".lstrip()
    return f"{said or 'I am listening.'} {'' if said == 'Goodbye!' else 'What are you looking for?'}".rstrip()


def is_known(message: str) -> bool:
    """Say whether a message only tells that the last item is known or not wanted: "Seen it." is no wish."""
    clauses = re.split(r"[.!?;,]+", one_line(message))
    return all(_KNOWN.fullmatch(clause.strip()) for clause in clauses if clause.strip())


class SmallTalkDetector:
    """Decide whether the newest message is small talk, by its nearest example sentences.

    The encoder of the catalog is used, but R's base in R's place: R is trained on wishes and tells less of
    other talk. It is loaded with the first short message. Only short messages are considered:
    small talk is short, and calling a wish small talk costs more than the other way round.

    Parameters
    ----------
    embed_model
        Any LlamaIndex embedding.
    """

    def __init__(self, embed_model: BaseEmbedding) -> None:
        self._embed_model = embed_model

    @cached_property
    def _encoder(self) -> BaseEmbedding:
        is_r = self._embed_model.class_name() == "ReGeSEmbedding"
        return resolve_encoder("minilm") if is_r else self._embed_model

    @cached_property
    def _examples(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vectors of the examples of small talk and of requests, (n, dimension) each."""
        listed = (resources.files("reges_index.engines") / "small_talk.txt").read_text("utf-8")
        talk, requests = (part.splitlines() for part in listed.split("\n\n"))
        unit = _unit(np.asarray(self._encoder.get_text_embedding_batch([*talk, *requests])))
        return unit[: len(talk)], unit[len(talk) :]

    def __call__(self, dialogue: Sequence[ChatMessage]) -> bool:
        """Say whether the newest message of the dialogue is small talk.

        Parameters
        ----------
        dialogue
            Oldest first; the newest message decides.
        """
        newest = one_line(dialogue[-1].content or "") if dialogue else ""
        if not newest or dialogue[-1].role != MessageRole.USER or len(newest.split()) > _LONGEST:
            return False
        if re.fullmatch(r"/\w+", newest):  # a command of some other chat, such as "/help"
            return True
        # A wish may follow the thanks, so the last clause has to be small talk by itself, too.
        texts = [*dict.fromkeys([newest, *re.findall(r"\w[^.!?;,]*[.!?;,]*", newest)[-1:]])]
        vectors = _unit(np.asarray(self._encoder.get_text_embedding_batch(texts)))
        talk, requests = self._examples
        least = np.maximum((vectors @ requests.T).max(1) + _MARGIN, _LEAST)
        return bool(np.all((vectors @ talk.T).max(1) >= least))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12))

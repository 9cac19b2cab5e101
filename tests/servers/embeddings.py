"""A server on this machine that speaks OpenAI's protocol for embeddings, with vectors that hash trigrams."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from tests.catalog.hashing import HashingEmbedding
from tests.servers.scripted import JsonServer


class EmbeddingsServer(JsonServer):
    """Who sends another key than ``key`` is told so, with the key he sent."""

    def __init__(self, key: str) -> None:
        self.key, self.encoder = key, HashingEmbedding()
        super().__init__()

    def replied(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
        if key != self.key:
            return 401, {"error": {"message": f"Incorrect API key provided: {key}."}}
        vectors: list[Any] = self.encoder.get_text_embedding_batch(body["input"])
        if body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(np.array(v, "<f4").tobytes()).decode() for v in vectors]
        rows = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
        return 200, {"object": "list", "model": body["model"], "data": rows[::-1]}

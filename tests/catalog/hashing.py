"""A real, small, deterministic embedding: hashed character trigrams. For tests where the encoder is not the point."""

from __future__ import annotations

import hashlib
import math

from llama_index.core.base.embeddings.base import BaseEmbedding

DIMENSION = 64


class HashingEmbedding(BaseEmbedding):
    """Counts of character trigrams, hashed to 64 signed buckets, normalized."""

    model_name: str = "test/hashing-trigrams"
    dimension: int = DIMENSION
    embedded: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        self.embedded += 1
        vector = [0.0] * self.dimension
        padded = f"  {text.lower()}  "
        for start in range(len(padded) - 2):
            digest = hashlib.blake2b(padded[start : start + 3].encode(), digest_size=8).digest()
            number = int.from_bytes(digest, "big")
            vector[(number >> 1) % self.dimension] += 1.0 if number & 1 else -1.0
        norm = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / norm for value in vector]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

"""A real, small, deterministic embedding, for tests where the encoder is not the point."""

from __future__ import annotations

import math
import zlib

from llama_index.core.base.embeddings.base import BaseEmbedding

DIMENSION = 64


class HashingEmbedding(BaseEmbedding):
    """Counts of character trigrams, hashed to 64 signed buckets, normalized.

    ``embedded`` counts the texts that were embedded in batches, as a sync does.
    """

    model_name: str = "test/hashing-trigrams"
    dimension: int = DIMENSION
    embedded: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension
        padded = f"  {text.lower()}  "
        for start in range(len(padded) - 2):
            number = zlib.crc32(padded[start : start + 3].encode())
            vector[(number >> 1) % self.dimension] += 1.0 if number & 1 else -1.0
        norm = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / norm for value in vector]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.embedded += len(texts)
        return [self._get_text_embedding(text) for text in texts]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

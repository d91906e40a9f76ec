"""A fake embedding model for tests: a bag of hashed words, the same on every machine."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ragline.models.embed import (
    Embedded,
    ModelFacts,
    Vector,
    checked_texts,
    checked_vectors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_SLOTS = 4
_WORD = re.compile(r"\w+")


class FakeEmbedder:
    """Texts that share words are near, texts that share none are nearly at right angles."""

    def __init__(self, dimension: int = 64, *, max_tokens: int = 256) -> None:
        self.facts = ModelFacts(
            model_id=f"fake-{dimension}",
            weights_hash=blake2b(f"fake-{dimension}-{max_tokens}".encode()).hexdigest()[:64],
            dimension=dimension,
            normalised=True,
            languages=(),
            max_tokens=max_tokens,
        )

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self.embed_documents([text])).vectors[0]
        return vector

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        words = [_WORD.findall(text.casefold()) or [text] for text in checked_texts(texts)]
        kept = [some[: self.facts.max_tokens] for some in words]
        vectors = np.array([self._vector(some) for some in kept], dtype=np.float32)
        vectors = vectors.reshape(len(texts), self.facts.dimension)
        return Embedded(
            vectors=checked_vectors(vectors, self.facts),
            truncated=sum(len(some) > self.facts.max_tokens for some in words),
            tokens=sum(len(some) for some in kept),
        )

    async def close(self) -> None:
        """Nothing is held."""

    def _vector(self, words: list[str]) -> Vector:
        vector = np.zeros(self.facts.dimension, dtype=np.float32)
        for word in words:
            self._add(vector, word)
        if not vector.any():  # the signs of the words cancelled out
            vector[0] = 1
        vector /= np.linalg.norm(vector)
        return vector

    def _add(self, vector: Vector, word: str) -> None:
        digest = blake2b(word.encode(), digest_size=4 * _SLOTS).digest()
        for slot in range(_SLOTS):
            number = int.from_bytes(digest[4 * slot : 4 * slot + 4], "little")
            vector[(number >> 1) % self.facts.dimension] += 1 if number & 1 else -1

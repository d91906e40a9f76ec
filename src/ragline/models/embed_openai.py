"""Embeddings from any OpenAI-compatible endpoint: OpenAI, Azure, Ollama, vLLM, TEI and others."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from ragline.core.remote import EmbeddingEndpoint
from ragline.models.calls import RequestFailed, invalid
from ragline.models.embed import Vector
from ragline.models.embed_remote import Reply, counted_tokens, stacked, vector_of
from ragline.models.wire import Wire

_MOST_TEXTS = 2048


class OpenAIEmbeddings:
    """`POST /embeddings`."""

    def __init__(self, settings: EmbeddingEndpoint) -> None:
        self._settings = settings
        self._wire = Wire(settings.endpoint)
        # A third of the bytes of decimal numbers, and exact.
        self._encoding = {"encoding_format": "base64"}

    @property
    def base_model(self) -> str:
        return self._settings.endpoint.model

    @property
    def most_texts(self) -> int:
        return _MOST_TEXTS

    @property
    def most_characters(self) -> int | None:
        return None

    async def ask(self, texts: Sequence[str], *, is_query: bool) -> Reply:
        body = self._body(texts)
        try:
            answer = await self._wire.post("/embeddings", body)
        except RequestFailed as failure:
            if failure.parameter == "encoding_format" and failure.parameter in body:
                self._encoding = {}
                failure.is_adapted = True
            raise
        return _reply(answer, len(texts))

    async def close(self) -> None:
        await self._wire.close()

    def _body(self, texts: Sequence[str]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.endpoint.model,
            "input": list(texts),
            **self._encoding,
        }
        if self._settings.dimension is not None:
            body["dimensions"] = self._settings.dimension
        return body


def _reply(answer: Any, count: int) -> Reply:
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise invalid("an answer without `data`")
    if len(data) != count:
        raise invalid(f"{len(data)} vectors for {count} texts")
    placed: dict[int, Vector] = {}
    for item in data:
        place = item.get("index") if isinstance(item, dict) else None
        if type(place) is not int or not 0 <= place < count or place in placed:
            raise invalid(f"a vector whose index is {place!r}, of {count} texts")
        placed[place] = _vector(item.get("embedding"))
    usage = answer.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Reply(
        vectors=stacked([placed[at] for at in range(count)]), tokens=counted_tokens(tokens)
    )


def _vector(embedding: object) -> Vector:
    if not isinstance(embedding, str):
        return vector_of(embedding)
    try:
        data = base64.b64decode(embedding, validate=True)
        return np.frombuffer(data, dtype="<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise invalid("an embedding that is not base64 of 32-bit numbers") from error

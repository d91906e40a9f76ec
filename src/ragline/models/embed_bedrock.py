"""Embeddings from Amazon Bedrock: the models of Amazon (Titan) and of Cohere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ragline.core.remote import EmbeddingEndpoint
from ragline.errors import ConfigError
from ragline.models.bedrock import Runtime, base_model, body_of
from ragline.models.calls import invalid
from ragline.models.embed_remote import Reply, counted_tokens, stacked, vector_of
from ragline.models.wire import parsed

_MOST_TEXTS_OF_COHERE = 96
_MOST_CHARACTERS_OF_COHERE_3 = 2048
_MOST_CHARACTERS_OF_TITAN = 50_000


class BedrockEmbeddings:
    """`InvokeModel`, with a body as each maker wants it."""

    def __init__(self, settings: EmbeddingEndpoint) -> None:
        self._settings = settings
        self._runtime = Runtime(settings.endpoint)
        name = self.base_model
        if not name.startswith(("amazon.titan-embed-text", "cohere.embed-")):
            raise ConfigError(
                f"{settings.endpoint.variables}_MODEL is {settings.endpoint.model!r}; of Bedrock's "
                "embedding models amazon.titan-embed-text-… and cohere.embed-… are known"
            )
        self._is_cohere = name.startswith("cohere.")

    @property
    def base_model(self) -> str:
        return base_model(self._settings.endpoint.model)

    @property
    def most_texts(self) -> int:
        return _MOST_TEXTS_OF_COHERE if self._is_cohere else 1

    @property
    def most_characters(self) -> int | None:
        if self.base_model.startswith("cohere.embed-v4"):
            return None
        return _MOST_CHARACTERS_OF_COHERE_3 if self._is_cohere else _MOST_CHARACTERS_OF_TITAN

    async def ask(self, texts: Sequence[str], *, is_query: bool) -> Reply:
        body = self._for_cohere(texts, is_query) if self._is_cohere else self._for_titan(texts)

        def invoke(client: Any) -> Reply:
            answer = client.invoke_model(
                modelId=self._settings.endpoint.model,
                body=json.dumps(body),
                contentType="application/json",
                accept="application/json",
            )
            headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
            return self._reply(parsed(body_of(answer)), headers)

        return await self._runtime.run(invoke)

    async def close(self) -> None:
        await self._runtime.close()

    def _for_titan(self, texts: Sequence[str]) -> dict[str, Any]:
        (text,) = texts
        body: dict[str, Any] = {"inputText": text}
        if not self.base_model.startswith("amazon.titan-embed-text-v1"):
            body["normalize"] = True
            if self._settings.dimension is not None:
                body["dimensions"] = self._settings.dimension
        return body

    def _for_cohere(self, texts: Sequence[str], is_query: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "texts": list(texts),
            "input_type": "search_query" if is_query else "search_document",
            "embedding_types": ["float"],
            # What is too long is refused: a text cut in secret would be a lie.
            "truncate": "NONE",
        }
        if self._settings.dimension is not None and self.base_model.startswith("cohere.embed-v4"):
            body["output_dimension"] = self._settings.dimension
        return body

    def _reply(self, answer: Any, headers: Mapping[str, str]) -> Reply:
        if not isinstance(answer, dict):
            raise invalid("an answer that is not an object")
        counted = answer.get("inputTextTokenCount")
        if counted is None:
            said = headers.get("x-amzn-bedrock-input-token-count", "")
            is_count = said.isdecimal() and said.isascii() and len(said) < 20
            counted = int(said) if is_count else None
        if not self._is_cohere:
            vector = vector_of(answer.get("embedding"))
            return Reply(vectors=stacked([vector]), tokens=counted_tokens(counted))
        found = answer.get("embeddings")
        vectors = found.get("float") if isinstance(found, dict) else found
        if not isinstance(vectors, list):
            raise invalid("an answer without `embeddings`")
        return Reply(
            vectors=stacked([vector_of(vector) for vector in vectors]),
            tokens=counted_tokens(counted),
        )

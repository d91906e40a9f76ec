"""A loopback server that speaks what ragline uses of Amazon Bedrock's runtime.

    with BedrockServer() as server:
        server.script(Fail(status=429, kind="ThrottlingException"), Answer())
        # RAGLINE_CHAT_URL=server.url, boto3's endpoint_url; any credentials will do

`invoke` answers in the shapes of Titan's and Cohere's embeddings (by the model's id), `converse` and
`converse-stream` as chat models do; streams carry AWS's binary event framing with both checksums.
The behaviours are those of `openai_server.py`; beside them `Interrupt(after=2, kind=
"modelStreamErrorException")` sends two pieces and then an exception inside the stream, and
`Corrupt(after=2)` a frame whose checksum is wrong. A token is a word.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from doubles.http_server import (
    Answer,
    Behaviour,
    Cut,
    Fail,
    LoopbackServer,
    Raw,
    Seen,
    Stall,
    Stream,
    Whole,
)
from ragline.models.embed_fake import FakeEmbedder

__all__ = [
    "Answer",
    "BedrockServer",
    "Behaviour",
    "Corrupt",
    "Cut",
    "Fail",
    "Interrupt",
    "Raw",
    "Seen",
    "Stall",
]

_JSON = (("content-type", "application/json"),)
_FRAMES = (("content-type", "application/vnd.amazon.eventstream"),)
_COHERE_CHARACTERS = 2048


@dataclass(frozen=True, kw_only=True)
class Interrupt(Answer):
    """Send some pieces of a stream, then an exception in it."""

    after: int
    kind: str = "modelStreamErrorException"


@dataclass(frozen=True, kw_only=True)
class Corrupt(Answer):
    """Send some pieces of a stream, then a frame whose checksum is wrong."""

    after: int


class BedrockServer(LoopbackServer):
    """See the module's docstring."""

    def __init__(self, *, dimension: int = 256) -> None:
        super().__init__()
        self.dimension = dimension
        self.say: Callable[[list[dict[str, Any]]], str] = _echo

    @property
    def url(self) -> str:
        """The endpoint, as boto3's `endpoint_url` wants it."""
        return f"http://127.0.0.1:{self.port}"

    def respond(self, seen: Seen, answer: Answer) -> Whole | Stream:
        _, _, model, operation = unquote(seen.path).split("/", 3)
        if operation == "converse":
            return self._whole_chat(seen.body, answer)
        if operation == "converse-stream":
            return self._streamed_chat(seen.body, answer)
        if "cohere" in model:
            return self._cohere(seen.body, answer)
        return self._titan(seen.body, answer)

    def failure(self, seen: Seen, fail: Fail) -> Whole:
        headers = [*_JSON, ("x-amzn-errortype", fail.kind), *fail.headers]
        body = json.dumps({"message": fail.message}).encode()
        return Whole(status=fail.status, headers=headers, body=body)

    def _vector(self, text: str, dimension: int) -> list[float]:
        vector: list[float] = FakeEmbedder(dimension)._vector(text.casefold().split()).tolist()
        return vector

    def _titan(self, body: dict[str, Any], answer: Answer) -> Whole:
        text = body["inputText"]
        vector = (
            list(answer.vectors[0])
            if answer.vectors is not None
            else self._vector(text, body.get("dimensions", self.dimension))
        )
        reply: dict[str, Any] = {"embedding": vector, "inputTextTokenCount": len(text.split())}
        if answer.usage is not None:
            del reply["inputTextTokenCount"]
            reply |= answer.usage
        return _whole(reply | dict(answer.patch))

    def _cohere(self, body: dict[str, Any], answer: Answer) -> Whole:
        texts = body["texts"]
        if too_long := [text for text in texts if len(text) > _COHERE_CHARACTERS]:
            said = f"expected maxLength: {_COHERE_CHARACTERS}, actual: {len(too_long[0])}"
            return Whole(
                status=400,
                headers=[*_JSON, ("x-amzn-errortype", "ValidationException")],
                body=json.dumps({"message": said}).encode(),
            )
        vectors = answer.vectors
        if vectors is None:
            size = body.get("output_dimension", self.dimension)
            vectors = [self._vector(text, size) for text in texts]
        wants_types = "embedding_types" in body
        reply = {
            "id": "double",
            "response_type": "embeddings_by_type" if wants_types else "embeddings_floats",
            "texts": texts,
            "embeddings": {"float": list(vectors)} if wants_types else list(vectors),
        }
        tokens = sum(len(text.split()) for text in texts)
        headers = [*_JSON]
        if answer.usage is None:
            headers.append(("x-amzn-bedrock-input-token-count", str(tokens)))
        return Whole(
            status=200, headers=headers, body=json.dumps(reply | dict(answer.patch)).encode()
        )

    def _whole_chat(self, body: dict[str, Any], answer: Answer) -> Whole:
        said, usage = self._said(body, answer)
        reply = {
            "output": {"message": {"role": "assistant", "content": [{"text": "".join(said)}]}},
            "stopReason": answer.finish_reason or "end_turn",
            **({"usage": usage} if usage else {}),
            "metrics": {"latencyMs": 1},
        }
        return _whole(reply | dict(answer.patch))

    def _streamed_chat(self, body: dict[str, Any], answer: Answer) -> Stream:
        said, usage = self._said(body, answer)
        frames = [
            frame("messageStart", {"role": "assistant"}),
            *(
                frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})
                for piece in said
            ),
            frame("contentBlockStop", {"contentBlockIndex": 0}),
            frame("messageStop", {"stopReason": answer.finish_reason or "end_turn"}),
            *(
                [frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}})]
                if usage is not None
                else []
            ),
        ]
        if isinstance(answer, Interrupt):
            frames = frames[: 1 + answer.after]
            frames.append(frame(answer.kind, {"message": "interrupted"}, is_exception=True))
        if isinstance(answer, Corrupt):
            bad = bytearray(frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {}}))
            bad[-1] ^= 0xFF
            frames = [*frames[: 1 + answer.after], bytes(bad)]
        return Stream(headers=_FRAMES, parts=frames, heads=1)

    def _said(
        self, body: dict[str, Any], answer: Answer
    ) -> tuple[Sequence[str], dict[str, int] | None]:
        said = answer.pieces
        if said is None:
            words = self.say(body["messages"]).split(" ")
            said = (*(f"{word} " for word in words[:-1]), *words[-1:])
        turns = [*body.get("system", []), *(c for m in body["messages"] for c in m["content"])]
        read = sum(len(turn["text"].split()) for turn in turns)
        wrote = len("".join(said).split())
        counted = {"inputTokens": read, "outputTokens": wrote, "totalTokens": read + wrote}
        if answer.usage is not None:
            return said, dict(answer.usage) or None
        return said, counted


def frame(kind: str, payload: Mapping[str, Any], *, is_exception: bool = False) -> bytes:
    """Return one message of `application/vnd.amazon.eventstream`.

    A length of the whole and one of the headers, their CRC-32, the headers, the payload, and the
    CRC-32 of everything before it; all numbers big-endian.
    """
    named = ":exception-type" if is_exception else ":event-type"
    headers = b"".join(
        _header(name, value)
        for name, value in (
            (":message-type", "exception" if is_exception else "event"),
            (named, kind),
            (":content-type", "application/json"),
        )
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def _header(name: str, value: str) -> bytes:
    is_text = 7
    said = value.encode()
    return (
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", is_text, len(said)) + said
    )


def _whole(reply: Mapping[str, Any]) -> Whole:
    return Whole(status=200, headers=_JSON, body=json.dumps(reply).encode())


def _echo(messages: list[dict[str, Any]]) -> str:
    return f"You said: {messages[-1]['content'][0]['text']}"

"""A loopback server that speaks the OpenAI protocol: embeddings and chat completions.

    with OpenAIServer() as server:
        server.say = lambda messages: "Four days [1]."      # what the chat model answers
        server.script(Fail(status=429, headers=(("retry-after", "1"),)), Answer())
        config = Config(..., chat=ChatSettings(url=server.url, ...))    # or RAGLINE_CHAT_URL
        ...
        assert server.requests[-1].body["messages"][0]["role"] == "system"

Each request takes the next behaviour of the script; after the last one it answers properly again.
The behaviours (from `doubles.http_server`, and importable from here):

- `Answer()`: properly. `Answer(pieces=("One ", "two."))` says these pieces of text, whatever was
  asked; `finish_reason="length"`; `usage={}` leaves the tokens uncounted; `vectors=[[…], …]`
  answers with these; `patch={"data": []}` replaces keys of the reply; `delay_s` waits first;
  `together=3` waits for two others, `held=event` until the test sets it.
- `Fail(status=500)`, `Fail(status=429, headers=(("retry-after", "2"),))`: an error of the protocol.
- `Raw(body=b"<html>")`: any bytes, with any status, content type and headers.
- `Stall()`: never answers. `Stall(after=2)`: two pieces of a stream, then silence.
- `Cut()`: closes the connection. `Cut(after=2)`: two pieces of a stream, then closes it;
  `Cut(after=2, is_polite=True)`: ends the response as if that were all.

Streamed or whole is what the request asks for. `server.requests` is the list of `Seen` requests,
`server.url` the base URL ("http://127.0.0.1:…/v1"), `KEY` a key (`server.key = KEY` demands it).
A chat model counts a token per word; an embedding is the bag of words of ragline's FakeEmbedder.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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

__all__ = ["KEY", "Answer", "Behaviour", "Cut", "Fail", "OpenAIServer", "Raw", "Seen", "Stall"]

KEY = "sk-double-0123456789abcdef"
_JSON = (("content-type", "application/json"),)
_EVENTS = (("content-type", "text/event-stream"),)


class OpenAIServer(LoopbackServer):
    """See the module's docstring."""

    def __init__(self, *, dimension: int = 64, key: str | None = None) -> None:
        super().__init__()
        self.dimension = dimension
        self.key = key
        self.say: Callable[[list[dict[str, str]]], str] = _echo

    @property
    def url(self) -> str:
        """The base URL, as a configuration names it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def respond(self, seen: Seen, answer: Answer) -> Whole | Stream:
        if self.key and not self._is_known(seen):
            return self.failure(seen, Fail(status=401, message="wrong key", kind="invalid_key"))
        path = seen.path.split("?")[0]
        if path.endswith("/embeddings"):
            return self._embeddings(seen.body, answer)
        if path.endswith("/chat/completions"):
            return self._chat(seen.body, answer)
        return self.failure(seen, Fail(status=404, message=f"no {seen.path} here"))

    def failure(self, seen: Seen, fail: Fail) -> Whole:
        body = {"error": {"message": fail.message, "type": fail.kind, "code": None}}
        return Whole(
            status=fail.status, headers=[*_JSON, *fail.headers], body=json.dumps(body).encode()
        )

    def _is_known(self, seen: Seen) -> bool:
        sent = seen.headers.get("authorization"), seen.headers.get("api-key")
        return sent[0] == f"Bearer {self.key}" or sent[1] == self.key

    def _embeddings(self, body: dict[str, Any], answer: Answer) -> Whole:
        texts = body["input"]
        vectors = answer.vectors
        if vectors is None:
            made = FakeEmbedder(body.get("dimensions", self.dimension))
            vectors = [made._vector(text.casefold().split() or [text]).tolist() for text in texts]
        as_text = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": at, "embedding": _encoded(v) if as_text else list(v)}
            for at, v in enumerate(vectors)
        ]
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        if answer.usage is not None:
            usage = dict(answer.usage)
        reply = {"object": "list", "data": data, "model": body["model"]}
        reply |= ({"usage": usage} if usage else {}) | dict(answer.patch)
        return Whole(status=200, headers=_JSON, body=json.dumps(reply).encode())

    def _chat(self, body: dict[str, Any], answer: Answer) -> Whole | Stream:
        said = answer.pieces if answer.pieces is not None else _pieces(self.say(body["messages"]))
        usage: Mapping[str, int] = {
            "prompt_tokens": sum(len(m["content"].split()) for m in body["messages"]),
            "completion_tokens": len("".join(said).split()),
        }
        if answer.usage is not None:
            usage = answer.usage
        reason = answer.finish_reason or "stop"
        facts = {"id": "chatcmpl-double", "created": 1, "model": body["model"]}
        if body.get("stream"):
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            chunks = _chunks(facts, said, reason, usage if wants_usage else {}, answer.patch)
            return Stream(headers=_EVENTS, parts=chunks, heads=1)
        message = {"role": "assistant", "content": "".join(said)}
        reply = {
            **facts,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            **({"usage": dict(usage)} if usage else {}),
            **answer.patch,
        }
        return Whole(status=200, headers=_JSON, body=json.dumps(reply).encode())


def _chunks(
    facts: Mapping[str, Any],
    said: Sequence[str],
    reason: str,
    usage: Mapping[str, int],
    patch: Mapping[str, Any],
) -> list[bytes]:
    """Return the events of a stream: a head, the pieces, the reason, the usage, the end."""

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**facts, "object": "chat.completion.chunk", "choices": choices, **more, **patch}
        return f"data: {json.dumps(chunk)}\n\n".encode()

    def delta(content: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": content, "finish_reason": finish}]

    return [
        event(delta({"role": "assistant", "content": ""})),
        *(event(delta({"content": piece})) for piece in said),
        event(delta({}, reason)),
        *([event([], usage=dict(usage))] if usage else []),
        b"data: [DONE]\n\n",
    ]


def _pieces(text: str) -> tuple[str, ...]:
    """Cut a text after its spaces, as models stream it.

    >>> _pieces("Four days [1].")
    ('Four ', 'days ', '[1].')
    """
    words = text.split(" ")
    return (*(f"{word} " for word in words[:-1]), *words[-1:])


def _echo(messages: list[dict[str, str]]) -> str:
    return f"You said: {messages[-1]['content']}"


def _encoded(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()

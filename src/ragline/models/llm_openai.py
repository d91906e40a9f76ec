"""Answers from any OpenAI-compatible endpoint: OpenAI, Azure, Ollama, vLLM, llama.cpp and others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

from ragline.core.remote import OPENAI_URL, Endpoint
from ragline.models.calls import Line, RequestFailed, quoted
from ragline.models.llm import Message
from ragline.models.llm_remote import RemoteChat, Said, count_of, stopped
from ragline.models.wire import Wire

# Newer models refuse some parameters, and older servers some names. A refusal says which one it
# was: it is sent under the other name, or no more.
_OTHER_NAMES = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": None,
    "stream_options": None,
}


class OpenAIChat(RemoteChat):
    """`POST /chat/completions`, streamed."""

    def __init__(self, endpoint: Endpoint, line: Line) -> None:
        super().__init__(endpoint, line)
        self._wire = Wire(endpoint)
        is_theirs = endpoint.url == OPENAI_URL or endpoint.is_azure
        self._names: dict[str, str | None] = {
            "max_tokens": "max_completion_tokens" if is_theirs else "max_tokens",
            "temperature": "temperature",
            "stream_options": "stream_options",
        }
        self._refused: set[str] = set()

    async def said(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        for _ in range(1 + len(_OTHER_NAMES)):
            body = self._body(messages, max_tokens, temperature)
            try:
                async with aclosing(self._read(body)) as parts:
                    async for part in parts:
                        yield part
            except RequestFailed as failure:
                if not self._learns_from(failure):
                    raise
            else:
                return
        raise RequestFailed("refused", "it takes none of the parameters that an answer needs")

    async def close(self) -> None:
        await self._wire.close()

    def _body(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> dict[str, Any]:
        wanted = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream_options": {"include_usage": True},
        }
        return {
            "model": self._endpoint.model,
            "messages": [asdict(message) for message in messages],
            "stream": True,
            **{name: wanted[what] for what, name in self._names.items() if name},
        }

    def _learns_from(self, failure: RequestFailed) -> bool:
        """Return whether another request may do, now that we know what this endpoint refuses."""
        for what, name in self._names.items():
            if failure.kind == "refused" and name is not None and failure.parameter == name:
                other = _OTHER_NAMES[name]
                self._refused.add(name)
                if other in self._refused:
                    return False
                self._names[what] = other
                return True
        return False

    async def _read(self, body: dict[str, Any]) -> AsyncGenerator[Said, None]:
        last = Said(is_last=True)
        is_over = False
        try:
            async with aclosing(self._wire.events("/chat/completions", body)) as events:
                async for event in events:
                    is_over = is_over or event is None or _finish_of(event) is not None
                    if event is not None:
                        last = _with_counts(last, event)
                        if text := _text_of(event):
                            yield Said(text=text)
        except RequestFailed:
            # Past its finish reason the answer is whole; only its tokens may then be unknown.
            if not is_over:
                raise
        if not is_over:
            raise stopped()
        yield last


def _with_counts(last: Said, event: Any) -> Said:
    if reason := _finish_of(event):
        last = replace(last, finish_reason=reason)
    usage = event.get("usage")
    if isinstance(usage, dict):
        last = replace(
            last,
            input_tokens=count_of(usage.get("prompt_tokens")),
            output_tokens=count_of(usage.get("completion_tokens")),
        )
    return last


def _choice(event: Any) -> dict[str, Any]:
    """Return the one choice of an event; an event may have none."""
    if not isinstance(event, dict):
        raise _invalid("an event that is not an object")
    if error := event.get("error"):
        said = error.get("message", "") if isinstance(error, dict) else str(error)
        raise RequestFailed(
            "failing", f"an error in the midst: {quoted(str(said))}", may_be_billed=True
        )
    choices = event.get("choices", [])
    if not isinstance(choices, list) or "choices" not in event:
        raise _invalid("an event without `choices`")
    if not choices:
        return {}
    if not isinstance(choices[0], dict):
        raise _invalid("a choice that is not an object")
    return choices[0]


def _finish_of(event: Any) -> str | None:
    reason = _choice(event).get("finish_reason")
    if not isinstance(reason, str | None):
        raise _invalid("a finish reason that is not a text")
    return reason or None


def _text_of(event: Any) -> str:
    """Return the text of an event; calls of tools and the like are nothing to us."""
    delta = _choice(event).get("delta") or {}
    text = delta.get("content") if isinstance(delta, dict) else delta
    if not isinstance(text, str | None):
        raise _invalid("content that is not a text")
    return text or ""


def _invalid(what: str) -> RequestFailed:
    return RequestFailed("invalid", what, may_be_billed=True)

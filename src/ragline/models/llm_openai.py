"""Answers from any OpenAI-compatible endpoint: OpenAI, Azure, Ollama, vLLM, llama.cpp and others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from ragline.core.remote import OPENAI_URL, Endpoint
from ragline.models.calls import Line, RequestFailed, invalid, quoted
from ragline.models.llm import Message
from ragline.models.llm_remote import RemoteChat, Said, counts_of
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

    def __init__(self, endpoint: Endpoint, line: Line, *, is_patient: bool = False) -> None:
        super().__init__(endpoint, line, is_patient=is_patient)
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
        body = self._body(messages, max_tokens, temperature)
        try:
            async with aclosing(self._wire.events("/chat/completions", body)) as events:
                async for event in events:
                    yield _said(event)
        except RequestFailed as failure:
            failure.is_adapted = self._learns_from(failure, body)
            raise

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

    def _learns_from(self, failure: RequestFailed, body: dict[str, Any]) -> bool:
        """Return whether another request may do, now that we know what this endpoint refuses."""
        refused = failure.parameter
        if failure.kind != "refused" or refused not in body:
            return False
        for what, name in self._names.items():
            if name == refused:
                other = _OTHER_NAMES[name]
                self._refused.add(name)
                if other in self._refused:
                    return False
                self._names[what] = other
                return True
        # Another request learnt it meanwhile.
        return refused in self._refused


def _said(event: Any) -> Said:
    choice = _choice(event)
    reason = choice.get("finish_reason")
    if not isinstance(reason, str | None):
        raise invalid("a finish reason that is not a text")
    usage = event.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    read, written = counts_of(counts.get("prompt_tokens"), counts.get("completion_tokens"))
    return Said(
        text=_text(choice), finish_reason=reason or None, input_tokens=read, output_tokens=written
    )


def _choice(event: Any) -> dict[str, Any]:
    """Return the first choice of an event; an event may have none."""
    if not isinstance(event, dict):
        raise invalid("an event that is not an object")
    if error := event.get("error"):
        said = error.get("message", "") if isinstance(error, dict) else str(error)
        raise RequestFailed(
            "failing", f"an error in the midst: {quoted(str(said))}", may_be_billed=True
        )
    if "choices" not in event or not isinstance(event["choices"], list | None):
        raise invalid("an event without `choices`")
    choices = event["choices"] or []
    if not all(isinstance(choice, dict) for choice in choices):
        raise invalid("a choice that is not an object")
    # One was asked for; the text of another would be mixed with it.
    return next((choice for choice in choices if choice.get("index", 0) == 0), {})


def _text(choice: dict[str, Any]) -> str:
    """Return the text of a choice; calls of tools and the like are nothing to us."""
    delta = choice.get("delta") or {}
    text = delta.get("content") if isinstance(delta, dict) else delta
    if not isinstance(text, str | None):
        raise invalid("content that is not a text")
    return text or ""

"""Answers from any chat model of Amazon Bedrock, through its Converse API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ragline.core.remote import Endpoint
from ragline.models.bedrock import Runtime
from ragline.models.calls import Line, RequestFailed
from ragline.models.llm import Message
from ragline.models.llm_remote import RemoteChat, Said, count_of, stopped

# The words of OpenAI's protocol, so that callers know one set.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "tool_use": "tool_calls",
}


class BedrockChat(RemoteChat):
    """`ConverseStream`."""

    def __init__(self, endpoint: Endpoint, line: Line) -> None:
        super().__init__(endpoint, line)
        self._runtime = Runtime(endpoint)

    async def said(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        request = _request(self._endpoint.model, messages, max_tokens, temperature)
        last = Said(is_last=True)
        is_over = False
        try:
            async with aclosing(
                self._runtime.events(lambda client: client.converse_stream(**request)["stream"])
            ) as events:
                async for event in events:
                    is_over = is_over or "messageStop" in event
                    last = _with_counts(last, event)
                    if text := _text_of(event):
                        yield Said(text=text)
        except RequestFailed:
            # Past its stop reason the answer is whole; only its tokens may then be unknown.
            if not is_over:
                raise
        if not is_over:
            raise stopped()
        yield last

    async def close(self) -> None:
        await self._runtime.close()


def _request(
    model: str, messages: Sequence[Message], max_tokens: int, temperature: float
) -> dict[str, Any]:
    system = [{"text": message.content} for message in messages if message.role == "system"]
    return {
        "modelId": model,
        "messages": [
            {"role": message.role, "content": [{"text": message.content}]}
            for message in messages
            if message.role != "system"
        ],
        "inferenceConfig": {"maxTokens": max_tokens, "temperature": temperature},
        **({"system": system} if system else {}),
    }


def _with_counts(last: Said, event: dict[str, Any]) -> Said:
    if stop := event.get("messageStop"):
        reason = stop.get("stopReason")
        last = replace(last, finish_reason=_REASONS.get(reason, reason))
    if usage := event.get("metadata", {}).get("usage"):
        last = replace(
            last,
            input_tokens=count_of(usage.get("inputTokens")),
            output_tokens=count_of(usage.get("outputTokens")),
        )
    return last


def _text_of(event: dict[str, Any]) -> str:
    """Return the text of an event; calls of tools and the like are nothing to us."""
    text = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
    return text if isinstance(text, str) else ""

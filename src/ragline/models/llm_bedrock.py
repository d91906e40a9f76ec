"""Answers from any chat model of Amazon Bedrock, through its Converse API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from ragline.core.remote import Endpoint
from ragline.models.bedrock import Runtime
from ragline.models.calls import Line
from ragline.models.llm import Message
from ragline.models.llm_remote import RemoteChat, Said, counts_of

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

    def __init__(self, endpoint: Endpoint, line: Line, *, is_patient: bool = False) -> None:
        super().__init__(endpoint, line, is_patient=is_patient)
        self._runtime = Runtime(endpoint)

    async def said(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        request = _request(self._endpoint.model, messages, max_tokens, temperature)
        async with aclosing(
            self._runtime.events(lambda client: client.converse_stream(**request)["stream"])
        ) as events:
            async for event in events:
                yield _said(event)

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


def _said(event: dict[str, Any]) -> Said:
    reason = event.get("messageStop", {}).get("stopReason")
    usage = event.get("metadata", {}).get("usage", {})
    read, written = counts_of(usage.get("inputTokens"), usage.get("outputTokens"))
    # Calls of tools and the like are nothing to us.
    text = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
    return Said(
        text=text if isinstance(text, str) else "",
        finish_reason=_REASONS.get(reason, reason),
        input_tokens=read,
        output_tokens=written,
    )

"""What a chat model is to ragline, and the one that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ragline.core.results import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ragline.config import Config
    from ragline.core.remote import Endpoint

__all__ = [
    "ChatFacts",
    "ChatModel",
    "Message",
    "Piece",
    "Usage",
    "open_chat_model",
    "open_model",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of what a model is told."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFacts:
    """Which model answers, and where it is; `base_url` None is the provider's own."""

    model_id: str
    provider: str
    base_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of an answer as it is written; the last one carries usage and finish reason.

    Only text is passed on: a model's calls of tools, images and the like are not.
    """

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


class ChatModel(Protocol):
    """A model that writes an answer piece by piece."""

    @property
    def facts(self) -> ChatFacts:
        """Which model this is."""

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[Piece]:
        """Return the pieces of one answer, at most `max_tokens` long.

        Raises ModelError where the model cannot be reached, refuses, stalls, sends what nobody can
        read, or stops before its last piece.
        """

    async def close(self) -> None:
        """Give back connections; the model cannot be used afterwards."""


def open_chat_model(config: Config) -> ChatModel | None:
    """Return the configured chat model; None when none is configured (answers are extractive)."""
    return None if config.chat is None else open_model(config.chat, config.prices)


def open_model(endpoint: Endpoint, prices: Path | None, *, is_patient: bool = False) -> ChatModel:
    """Return the chat model at an endpoint; nothing is sent before the first question.

    A patient one waits for its turn as long as that takes, behind those whom somebody waits for;
    its deadlines count from when a request is sent. Raises ConfigError where `prices` is unusable.
    """
    # Clients of providers take a while to import, and commands that never generate should not wait.
    if endpoint.provider == "bedrock":
        from ragline.models.llm_bedrock import BedrockChat

        return BedrockChat.open(endpoint, prices, is_patient=is_patient)
    from ragline.models.llm_openai import OpenAIChat

    return OpenAIChat.open(endpoint, prices, is_patient=is_patient)

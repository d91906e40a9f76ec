"""A chat model that answers over the network; what is the same whoever the provider is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from ragline.core.remote import Endpoint
from ragline.core.tokens import count_tokens
from ragline.errors import ConfigError
from ragline.models.accounting import Account, Spending, price_of, prices
from ragline.models.calls import Line, RequestFailed
from ragline.models.llm import ChatConfig, ChatFacts, Message, Piece, Usage

# What providers add to each message: its role and its bounds.
_MESSAGE_TOKENS = 4
# Nobody reads more; a model that never stops is stopped here, should it ignore `max_tokens`.
_MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A part of an answer as a provider sends it; the last one carries all but text."""

    text: str = ""
    is_last: bool = False
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class RemoteChat(ABC):
    """A ChatModel; each provider says how it is asked."""

    def __init__(self, endpoint: Endpoint, line: Line) -> None:
        self._endpoint = endpoint
        self._line = line

    @classmethod
    def open(cls, config: ChatConfig) -> Self:
        """Return the configured model; nothing is sent before the first question."""
        if config.chat is None:
            raise ConfigError("there is no chat model; set RAGLINE_CHAT_PROVIDER")
        account = Account(config.chat.model, price_of(config.chat, prices(config.prices)))
        return cls(config.chat, Line(config.chat, account))

    @property
    def facts(self) -> ChatFacts:
        endpoint = self._endpoint
        return ChatFacts(model_id=endpoint.model, provider=endpoint.provider, base_url=endpoint.url)

    @property
    def spent(self) -> Spending:
        """What the model has taken since it was opened."""
        return self._line.account.spending

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of one answer. Raises a RemoteModelError, also in the midst of it.

        A request is repeated as long as no piece of text came.
        """
        read = sum(count_tokens(message.content) + _MESSAGE_TOKENS for message in messages)
        estimated = read + max_tokens
        parts = self._line.stream(
            lambda: self._bounded(messages, max_tokens, temperature), tokens=estimated
        )
        last = Said(is_last=True)
        async with aclosing(parts):
            async for part in parts:
                if part.is_last:
                    last = part
                else:
                    yield Piece(text=part.text)
        # Only now: whoever stops listening after the last piece has heard everything.
        yield Piece(usage=self._usage(last, estimated), finish_reason=last.finish_reason)

    @abstractmethod
    def said(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        """Yield the texts of an answer that are not empty, then the last part.

        Raises RequestFailed, also when the answer stops before its end.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give back connections; the model cannot be used afterwards."""

    async def _bounded(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        characters = 0
        async with aclosing(self.said(messages, max_tokens, temperature)) as parts:
            async for part in parts:
                characters += len(part.text)
                if characters > _MOST_CHARACTERS:
                    raise RequestFailed(
                        "invalid", f"an answer past {_MOST_CHARACTERS:,} characters"
                    )
                yield part

    def _usage(self, last: Said, estimated: int) -> Usage:
        cost = self._line.account.answered(last.input_tokens, last.output_tokens)
        if last.input_tokens is not None and last.output_tokens is not None:
            self._line.counted(estimated, last.input_tokens + last.output_tokens)
        return Usage(
            input_tokens=last.input_tokens,
            output_tokens=last.output_tokens,
            cost_micro_usd=cost,
        )


def count_of(value: object) -> int | None:
    """Return a provider's count of tokens, 0 included; None for what is none."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def stopped() -> RequestFailed:
    """Return the failure of a stream that ended before its end."""
    return RequestFailed("unreachable", "the answer stopped before its end", may_be_billed=True)

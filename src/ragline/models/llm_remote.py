"""A chat model that answers over the network; what is the same whoever the provider is."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ragline.core.remote import Endpoint
from ragline.core.tokens import count_tokens
from ragline.models.accounting import Account, Spending, price_of, prices
from ragline.models.calls import Line, RequestFailed, scrubbed
from ragline.models.llm import ChatFacts, Message, Piece, Usage
from ragline.signals import spans

# What providers add to each message: its role and its bounds.
_MESSAGE_TOKENS = 4
# Nobody reads more; a model that never stops is stopped here, should it ignore `max_tokens`.
_MOST_CHARACTERS = 1_000_000
# How long to wait for the count of tokens behind a whole answer.
_COUNT_WAIT_S = 5.0
# No model reads or writes as much in one request.
_MOST_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one event of a provider says; much of it may be nothing."""

    text: str = ""
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    is_last: bool = False
    """Whether it is all that was said but the text, after the whole answer."""

    def after(self, before: Said) -> Said:
        """Return what is known of an answer behind this event, without its text."""
        has_counts = self.input_tokens is not None or self.output_tokens is not None
        counts = self if has_counts else before
        return Said(
            finish_reason=self.finish_reason or before.finish_reason,
            input_tokens=counts.input_tokens,
            output_tokens=counts.output_tokens,
            is_last=True,
        )


class RemoteChat(ABC):
    """A ChatModel; each provider says how it is asked."""

    def __init__(self, endpoint: Endpoint, line: Line, *, is_patient: bool = False) -> None:
        self._endpoint = endpoint
        self._line = line
        self._is_patient = is_patient
        self._lanes = asyncio.Semaphore(endpoint.limits.concurrency)

    @classmethod
    def open(cls, endpoint: Endpoint, own: Path | None, *, is_patient: bool = False) -> Self:
        """Return the model at an endpoint; `own` has prices of the user's."""
        account = Account(endpoint.model, price_of(endpoint, prices(own)))
        return cls(endpoint, Line(endpoint, account), is_patient=is_patient)

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
            lambda: self._bounded(messages, max_tokens, temperature),
            tokens=estimated,
            is_urgent=not self._is_patient,
        )
        last = Said(is_last=True)
        async with self._lane(), aclosing(parts):
            async for part in parts:
                if part.is_last:
                    last = part
                else:
                    yield Piece(text=part.text)
        # Only now: whoever stops listening after the last piece has heard everything.
        yield Piece(
            usage=self._usage(last, estimated), finish_reason=self._reason(last.finish_reason)
        )

    @abstractmethod
    def said(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        """Yield what each event says. Raises RequestFailed; an end is an end, whole or not."""

    @abstractmethod
    async def close(self) -> None:
        """Give back connections; the model cannot be used afterwards."""

    async def _bounded(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Said, None]:
        """Yield the texts of an answer, and at last the rest; raise where it has no end."""
        characters, known = 0, Said(is_last=True)
        async with aclosing(self.said(messages, max_tokens, temperature)) as parts:
            async for part in parts:
                known = part.after(known)
                characters += len(part.text)
                if characters > _MOST_CHARACTERS:
                    raise RequestFailed(
                        "invalid", f"an answer past {_MOST_CHARACTERS:,} characters"
                    )
                if part.text:
                    yield Said(text=_encodable(part.text))
                if known.finish_reason:
                    break
            else:
                raise RequestFailed(
                    "unreachable", "the answer stopped before its end", may_be_billed=True
                )
            yield await _counted(parts, known)

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[None]:
        """Be one of as many answers at once as the endpoint may give."""
        deadline = self._line.deadline
        try:
            async with asyncio.timeout(None if self._is_patient else deadline.seconds):
                with spans.span("limiter"):
                    await self._lanes.acquire()
        except TimeoutError:
            self._line.account.failed()
            most = self._endpoint.limits.concurrency
            setting = f"{self._endpoint.variables}_CONCURRENCY"
            what = f"{most} answers under way ({setting}) left no room before the deadline of "
            raise self._line.error(RequestFailed("crowded", f"{what}{deadline}"), 1, 0.0) from None
        try:
            yield
        finally:
            self._lanes.release()

    def _reason(self, said: str | None) -> str | None:
        """Return a finish reason as a provider says it, if it is a word: others read it, too."""
        key = self._endpoint.key
        is_word = said is not None and re.fullmatch(r"[A-Za-z_-]{1,40}", said)
        if not is_word or scrubbed(said or "", key.reveal() if key else None) != said:
            return "unknown" if said else None
        return said

    def _usage(self, last: Said, estimated: int) -> Usage:
        cost = self._line.account.answered(last.input_tokens, last.output_tokens)
        if last.input_tokens is not None and last.output_tokens is not None:
            self._line.counted(estimated, last.input_tokens + last.output_tokens)
        return Usage(
            input_tokens=last.input_tokens,
            output_tokens=last.output_tokens,
            cost_micro_usd=cost,
        )


def counts_of(read: object, written: object) -> tuple[int | None, int | None]:
    """Return a provider's counts of tokens; None for both where one is none, or cannot be.

    A question has tokens, so a provider that read none did not count.
    """
    if _is_count(read) and _is_count(written) and read:
        return read, written  # type: ignore[return-value]
    return None, None


def _encodable(text: str) -> str:
    """Return a text that can be stored and sent: JSON may name half a character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_TOKENS


async def _counted(parts: AsyncGenerator[Said, None], known: Said) -> Said:
    """Return what is known once the count of tokens came, if it comes.

    The answer is whole: what goes wrong from here on leaves its tokens unknown, and nothing else.
    """
    try:
        async with asyncio.timeout(_COUNT_WAIT_S):
            async for part in parts:
                known = part.after(known)
    except (RequestFailed, TimeoutError):
        pass
    return known

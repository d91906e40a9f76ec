"""A fake chat model for tests: what it writes is a function of what it was told."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ragline.errors import ModelError
from ragline.models.llm import ChatFacts, Message, Piece, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_FIRST_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


def passages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the passages that a model was shown, read back from the frame."""
    lines = [json.loads(line) for line in messages[-1].content.split("\n")]
    return [line for line in lines if "passage" in line]


def quoting(messages: Sequence[Message]) -> str:
    """Write the first sentence of the first passage, and cite it."""
    first = passages(messages)[0]
    found = _FIRST_SENTENCE.match(first["text"])
    return f"{found.group().strip()} [{first['passage']}]" if found else "NOT FOUND"


def obeying(messages: Sequence[Message]) -> str:
    """Write all that stands in the passages, as a model does that does what it reads."""
    return "\n".join(f"{part['text']} [{part['passage']}]" for part in passages(messages))


class FakeChat:
    """A model that writes what `write` makes of its messages, a few characters at a time.

    `breaks_after` pieces it fails with ModelError; without a `finish_reason` its stream just ends.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Message]], str] = quoting,
        *,
        piece: int = 7,
        usage: Usage | None = None,
        finish_reason: str | None = "stop",
        breaks_after: int | None = None,
    ) -> None:
        self.facts = ChatFacts(model_id="fake-chat", provider="fake", base_url=None)
        self.asked: list[tuple[Message, ...]] = []
        self.limits: list[int] = []
        self.is_closed = False
        self.open_streams = 0
        self._write = write
        self._piece = piece
        self._usage = usage
        self._finish_reason = finish_reason
        self._breaks_after = breaks_after

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
    ) -> AsyncIterator[Piece]:
        """Yield the pieces of what it writes; the last one says what it took."""
        self.asked.append(tuple(messages))
        self.limits.append(max_tokens)
        self.open_streams += 1
        try:
            text = self._write(messages)
            for count, at in enumerate(range(0, len(text), self._piece)):
                if count == self._breaks_after:
                    raise ModelError("model fake-chat broke off while it wrote")
                yield Piece(text=text[at : at + self._piece])
            yield Piece(usage=self._usage, finish_reason=self._finish_reason)
        finally:
            self.open_streams -= 1

    async def close(self) -> None:
        """Nothing is held, and it says so."""
        self.is_closed = True

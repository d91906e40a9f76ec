"""What models take for one piece of work, counted for whoever asks; free where nobody does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True)
class Usage:
    """Requests sent, tokens and micro-dollars. None as soon as a part is unknown, and from then on."""

    calls: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    exact_micro_usd: Decimal | None = Decimal(0)

    def add(self, other: Usage) -> None:
        """Count what another one counted."""
        self.calls += other.calls
        self.input_tokens = total((self.input_tokens, other.input_tokens))
        self.output_tokens = total((self.output_tokens, other.output_tokens))
        known, more = self.exact_micro_usd, other.exact_micro_usd
        self.exact_micro_usd = None if known is None or more is None else known + more

    @property
    def cost_micro_usd(self) -> int | None:
        """The cost, rounded up once."""
        return None if self.exact_micro_usd is None else math.ceil(self.exact_micro_usd)


_usage: ContextVar[Usage | None] = ContextVar("ragline.signals.usage", default=None)


@contextmanager
def counting() -> Iterator[Usage]:
    """Count what models take for what is done inside, also by the tasks that it starts.

    Whoever counts around it counts it too, once it is over, however it ends.
    """
    usage, around = Usage(), _usage.get()
    token = _usage.set(usage)
    try:
        yield usage
    finally:
        _usage.reset(token)
        if around is not None:
            around.add(usage)


def sent() -> None:
    """Count a request."""
    if usage := _usage.get():
        usage.calls += 1


def answered(input_tokens: int, output_tokens: int, micro_usd: Decimal | None) -> None:
    """Count the tokens of an answer and what they cost, None where there is no price."""
    if usage := _usage.get():
        usage.add(
            Usage(input_tokens=input_tokens, output_tokens=output_tokens, exact_micro_usd=micro_usd)
        )


def uncounted() -> None:
    """Say that something may be billed whose tokens nobody said."""
    if usage := _usage.get():
        usage.input_tokens = usage.output_tokens = usage.exact_micro_usd = None


def total(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None where a part is unknown."""
    found = 0
    for count in counts:
        if count is None:
            return None
        found += count
    return found

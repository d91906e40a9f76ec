"""Spans of time by phase, recorded for whoever asks; free where nobody does.

    with spans.recording() as record:
        with spans.span("judge"):
            ...
    core.phases.attributed(record.spans, record.start, record.end)

A task sees the recording, and the span, of the task that started it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """Seconds of a monotonic clock in which a phase was under way, within its parent."""

    id: int
    parent: int | None
    phase: str
    start: float
    end: float


@dataclass(slots=True)
class Record:
    """The spans of one piece of work, as they ended, and the time that it took."""

    start: float
    end: float = 0.0
    spans: list[Span] = field(default_factory=list)
    opened: int = 0


class _Place(NamedTuple):
    record: Record
    span: int | None
    phase: str | None


_place: ContextVar[_Place | None] = ContextVar("ragline.signals.spans", default=None)


@contextmanager
def recording() -> Iterator[Record]:
    """Record the spans of what is done inside; they are complete behind it."""
    record = Record(time.perf_counter())
    token = _place.set(_Place(record, None, None))
    try:
        yield record
    finally:
        _place.reset(token)
        record.end = time.perf_counter()


class _Open:
    __slots__ = ("_id", "_parent", "_phase", "_record", "_start", "_token")
    _token: Token[_Place | None]

    def __init__(self, place: _Place, phase: str) -> None:
        self._record = place.record
        self._parent = place.span
        self._phase = phase

    def __enter__(self) -> None:
        self._record.opened += 1
        self._id = self._record.opened
        self._token = _place.set(_Place(self._record, self._id, self._phase))
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        end = time.perf_counter()
        _place.reset(self._token)
        self._record.spans.append(Span(self._id, self._parent, self._phase, self._start, end))


_NOTHING = nullcontext()


def span(phase: str | None = None) -> _Open | nullcontext[None]:
    """Return a context whose time is recorded as `phase`'s; None is that of the span around it.

    Parts of one phase that run side by side want a span each: then one that waits for a limiter does
    not stand for the others, which do not.
    """
    place = _place.get()
    if place is None:
        return _NOTHING
    named = phase or place.phase
    return _NOTHING if named is None else _Open(place, named)

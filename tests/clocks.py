"""A clock that a test puts forward: what takes minutes is over at once, and no machine is too slow.

All that waits in the event loop goes by it, so that a deadline of a test's may be minutes away and
is reached when the test says so. Sockets that block in threads of their own keep to real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ragline.models import calls
from ragline.models.calls import Line
from ragline.models.limits import Limiter


class Clock:
    """The time of an event loop, which goes on by itself as well."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._real = loop.time
        self._ahead_s = 0.0

    def time(self) -> float:
        return self._real() + self._ahead_s

    def forward(self, seconds: float) -> None:
        """Let seconds pass at once; from any thread."""
        self._ahead_s += seconds
        self._loop.call_soon_threadsafe(_look)

    async def sleep(self, seconds: float) -> None:
        """Let seconds pass as `asyncio.sleep` does, but at once; what is due meanwhile happens."""
        self.forward(seconds)
        await asyncio.sleep(0.001)


def _look() -> None:
    """Wake the event loop, which then looks at its clock."""


@contextmanager
def put_forward() -> Iterator[Clock]:
    """Give such a clock to the running event loop, and to models that are opened from now on.

    Their pauses between attempts, and their waits for a limit of ours, are over at once.
    """
    loop = asyncio.get_running_loop()
    clock = Clock(loop)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "time", clock.time)
        patched.setattr(calls, "time", SimpleNamespace(monotonic=clock.time))
        patched.setitem(defaults(Line), "sleep", clock.sleep)
        patched.setitem(defaults(Limiter), "sleep", clock.sleep)
        patched.setitem(defaults(Limiter), "clock", clock.time)
        yield clock


def defaults(made: type[Line | Limiter]) -> dict[str, Any]:
    """Return what those are given of whom nobody says it."""
    found = made.__init__.__kwdefaults__
    assert found is not None
    return found


async def until(is_so: Callable[[], object], *, within_s: float = 60.0) -> None:
    """Wait for what nobody sets an event for, in real time."""
    turns = int(within_s / 0.01)
    for _ in range(turns):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited in vain for {within_s:g} s")

"""Results saved as they come, beside the work: a crash loses what came in the last moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from ragline.core.runs import CaseResult
from ragline.db import evals as rows
from ragline.db.pool import Pool
from ragline.errors import DatabaseUnreachable

# One statement for what comes within it: a round trip for each case would slow quick searches down.
_GATHERED_S = 0.2
_MOST_AT_ONCE = 100
_PAUSE_S = 0.1
# A third of how long the run is held for us.
_HEARTBEAT_S = rows.LEASE_S / 3


class Book:
    """The results of a run on their way into the database, written by whoever holds the run."""

    def __init__(self, pool: Pool, run_id: int, owner: str) -> None:
        self._pool = pool
        self._run_id = run_id
        self._owner = owner
        self._waiting: list[CaseResult] = []
        self._came = asyncio.Event()
        self._closed = asyncio.Event()

    def add(self, result: CaseResult) -> None:
        """Have a result saved soon."""
        self._waiting.append(result)
        self._came.set()

    def close(self) -> None:
        """Say that nothing more will come."""
        self._closed.set()
        self._came.set()

    async def keep(self) -> None:
        """Save results until the book is closed, and hold the run while none come.

        Raises Conflict where another process took the run over, and DatabaseUnreachable.
        """
        while not self._closed.is_set() or self._waiting:
            await self._next()
            await self.flush()

    async def flush(self) -> None:
        """Save what waits."""
        while self._waiting:
            some = self._waiting[:_MOST_AT_ONCE]
            await self._twice(partial(rows.save_cases, results=some))
            # Only now: interrupted, they are still to be saved.
            del self._waiting[: len(some)]

    async def _twice(self, write: Callable[..., Awaitable[None]]) -> None:
        """Write, and once more where a connection was cut: that alone is no reason to end a run.

        What was written already is written again, and is the same.
        """
        try:
            await self._once(write)
        except DatabaseUnreachable:
            # All connections may have been cut at once; the pool notices when it gets a moment.
            await asyncio.sleep(_PAUSE_S)
            await self._once(write)

    async def _once(self, write: Callable[..., Awaitable[None]]) -> None:
        async with self._pool.connection() as connection:
            await write(connection, self._run_id, owner=self._owner)

    async def _next(self) -> None:
        """Wait for a result, and a moment for more."""
        while not await _within(_HEARTBEAT_S, self._came):
            await self._twice(rows.renew_run)
        if not await _within(_GATHERED_S, self._closed):
            self._came.clear()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for an event for so long, and return whether it came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False

"""Watching how long production's searches take while something else goes on, and making way for them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ragline.core import stats
from ragline.errors import RaglineError
from ragline.models.embed import Vector
from ragline.rag.app import App
from ragline.rag.query import query
from ragline.rag.search import search_collections

# In quiet times as in others: a search after a pause takes several times as long as one after another.
_EVERY_S = 0.05
_WINDOW = 15
_RECENT = 20
_SLOWED = 1.2
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2
_CALM_WITHIN_S = 1.0
_REST_WITHIN_S = 10.0
_FEWEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How long production's searches took, 95 of 100 at most: by turns while the tuning was at work, and
    in `windows` quiet times in between in which it did nothing else. `n` are the searches of each.
    """

    quiet_p95_ms: float
    meanwhile_p95_ms: float
    ratio: float
    n_quiet: int
    n_meanwhile: int
    windows: int


@dataclass(slots=True)
class Watch:
    """Searches of production's own now and then, and a pause that grows while they are slow."""

    app: App
    collection: str
    k: int
    vectors: Sequence[Vector]
    quiet: list[float] = field(default_factory=list)
    meanwhile: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    windows: int = 0
    is_quiet: bool = True
    pause_s: float = 0.0
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def look(self) -> float:
        """Search once as production does; return the milliseconds."""
        vector = self.vectors[next(self._numbers) % len(self.vectors)]
        asked = query("", self.collection, k=self.k, method="vector", vector=vector)
        started = time.perf_counter()
        await search_collections(self.app, asked)
        return (time.perf_counter() - started) * 1000

    async def breathe(self) -> None:
        """Wait for as long as production needs it; not at all while it is as quick as before."""
        if self.pause_s:
            await asyncio.sleep(self.pause_s)

    async def rest(self) -> None:
        """Do nothing for so long that some searches are seen alone; what is seen is held against it.

        Between any two pieces of work, so that both are measured on the same machine, whatever else it
        does.
        """
        await self._calm()
        wanted = len(self.quiet) + _WINDOW
        until = time.monotonic() + _REST_WITHIN_S
        self.is_quiet = True
        try:
            while len(self.quiet) < wanted and time.monotonic() < until:  # noqa: ASYNC110 - it fills
                await asyncio.sleep(_EVERY_S / 2)
        finally:
            self.is_quiet = False
            self.windows += 1

    async def _calm(self) -> None:
        """Wait, for some seconds at most, until production is about as quick as when it is alone."""
        until = time.monotonic() + _CALM_WITHIN_S
        while self.is_slowed and time.monotonic() < until:  # noqa: ASYNC110 - it is the server's state
            await asyncio.sleep(_EVERY_S)

    @property
    def is_slowed(self) -> bool:
        """Whether its middle search of late took clearly longer than when it was alone."""
        if len(self.recent) < _RECENT or not self.quiet:
            return False
        return stats.quantile(list(self.recent), 0.5) > _SLOWED * stats.quantile(self.quiet, 0.5)

    def seen(self) -> Seen | None:
        """Return what was seen; None where too little was."""
        if len(self.quiet) < _FEWEST or len(self.meanwhile) < _FEWEST:
            return None
        quiet, now = (stats.quantile(one, 0.95) for one in (self.quiet, self.meanwhile))
        return Seen(
            quiet_p95_ms=quiet,
            meanwhile_p95_ms=now,
            ratio=now / quiet,
            n_quiet=len(self.quiet),
            n_meanwhile=len(self.meanwhile),
            windows=self.windows,
        )

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            was_quiet = self.is_quiet
            try:
                took = await self.look()
            except RaglineError:
                continue  # whoever searches in earnest hears of it
            if was_quiet != self.is_quiet:
                continue  # half of it was the one, half the other
            if was_quiet:
                self.quiet.append(took)
                continue
            self.meanwhile.append(took)
            self.recent.append(took)
            if self.is_slowed:
                self.pause_s = min(max(2 * self.pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            else:
                self.pause_s = self.pause_s / 2 if self.pause_s > _FIRST_PAUSE_S else 0.0


@asynccontextmanager
async def watched(
    app: App, collection: str, k: int, vectors: Sequence[Vector]
) -> AsyncIterator[Watch]:
    """Lend a watch over a collection's searches: how they are when nothing else is done, and else."""
    watch = Watch(app, collection, k, vectors)
    await watch.look()
    looking = asyncio.create_task(watch._go_on())  # noqa: SLF001 -- of the same module
    try:
        await watch.rest()
        yield watch
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

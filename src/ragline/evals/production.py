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

_FIRST = 50
# Before as well as meanwhile: a search after a pause takes several times as long as one after another.
_EVERY_S = 0.1
_RECENT = 20
_SLOWED = 1.2
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2
_CALM_WITHIN_S = 2.0
_FEWEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How long production's searches took before and meanwhile, 95 of 100 of them at most."""

    before_p95_ms: float
    meanwhile_p95_ms: float
    ratio: float
    n: int


@dataclass(slots=True)
class Watch:
    """Searches of production's own now and then, and a pause that grows while they are slow."""

    app: App
    collection: str
    k: int
    vectors: Sequence[Vector]
    before: list[float] = field(default_factory=list)
    meanwhile: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
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

    async def calm(self) -> None:
        """Wait, for some seconds at most, until production is about as quick as before."""
        until = time.monotonic() + _CALM_WITHIN_S
        while self.is_slowed and time.monotonic() < until:  # noqa: ASYNC110 - it is the server's state
            await asyncio.sleep(_EVERY_S)

    @property
    def is_slowed(self) -> bool:
        """Whether its middle search of late took clearly longer than before."""
        if len(self.recent) < _RECENT or not self.before:
            return False
        return stats.quantile(list(self.recent), 0.5) > _SLOWED * stats.quantile(self.before, 0.5)

    def seen(self) -> Seen | None:
        """Return what was seen; None where too little was."""
        if len(self.before) < _FEWEST or len(self.meanwhile) < _FEWEST:
            return None
        before, now = (stats.quantile(one, 0.95) for one in (self.before, self.meanwhile))
        return Seen(
            before_p95_ms=before, meanwhile_p95_ms=now, ratio=now / before, n=len(self.meanwhile)
        )

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                took = await self.look()
            except RaglineError:
                continue  # whoever searches in earnest hears of it
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
    """Lend a watch over a collection's searches: first how they are now, then how they become."""
    watch = Watch(app, collection, k, vectors)
    await watch.look()
    for _ in range(_FIRST):
        await asyncio.sleep(_EVERY_S)
        watch.before.append(await watch.look())
    looking = asyncio.create_task(watch._go_on())  # noqa: SLF001 -- of the same module
    try:
        yield watch
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

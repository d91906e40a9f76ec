"""Interleaved comparison: two ways of doing the same, block by block in random order."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Block = Callable[[Sequence[int]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How long one way takes as a multiple of the other: median over blocks, with an interval."""

    median: float
    low: float
    high: float
    blocks: int
    queries: int
    ours_ms: float
    theirs_ms: float

    def __str__(self) -> str:
        return (
            f"{self.median:5.2f} x  [{self.low:.2f}, {self.high:.2f}]  n = {self.queries} queries in "
            f"{self.blocks} blocks  ({self.ours_ms:.2f} against {self.theirs_ms:.2f} ms a query)"
        )


async def interleaved(
    ours: Block, theirs: Block, *, queries: int, block: int, blocks: int, seed: int
) -> Ratio:
    """Run both ways on the same distinct queries of each block, one after the other, order drawn.

    Each way goes through the block in an order of its own, so that neither finds the other's last
    query still warm in the processor's cache. Interval: 95 %, bootstrap over blocks.
    """
    random_ = random.Random(seed)
    pairs: list[tuple[float, float]] = []
    await ours(range(block))
    await theirs(range(block))
    for _ in range(blocks):
        numbers = random_.sample(range(queries), block)
        took: dict[str, float] = {}
        for name in random_.sample(["ours", "theirs"], 2):
            way = ours if name == "ours" else theirs
            order = random_.sample(numbers, block)
            started = time.perf_counter()
            await way(order)
            took[name] = time.perf_counter() - started
        pairs.append((took["ours"], took["theirs"]))
    ratios = [a / b for a, b in pairs]
    resampled = sorted(
        statistics.median(random_.choices(ratios, k=len(ratios))) for _ in range(2000)
    )
    return Ratio(
        median=statistics.median(ratios),
        low=resampled[50],
        high=resampled[1949],
        blocks=blocks,
        queries=block * blocks,
        ours_ms=statistics.median(a for a, _ in pairs) / block * 1000,
        theirs_ms=statistics.median(b for _, b in pairs) / block * 1000,
    )

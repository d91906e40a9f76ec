"""Interleaved comparison: ways of doing the same, block by block in random order; and verdicts."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Block = Callable[[Sequence[int]], Awaitable[None]]
Way = Callable[[int], Awaitable[object]]
"""One way of answering query number `n`."""

Client = Callable[[int, Sequence[int]], Coroutine[Any, Any, None]]
"""What client number `who` does with its share of the queries."""

RESAMPLES = 2000


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
    middle, low, high = median_of(ratios, seed=seed)
    return Ratio(
        median=middle,
        low=low,
        high=high,
        blocks=blocks,
        queries=block * blocks,
        ours_ms=statistics.median(a for a, _ in pairs) / block * 1000,
        theirs_ms=statistics.median(b for _, b in pairs) / block * 1000,
    )


def shared_out(client: Client, clients: int) -> Block:
    """Return a block whose queries so many clients share out among them, all at once."""

    async def block(numbers: Sequence[int]) -> None:
        async with asyncio.TaskGroup() as group:
            for who in range(clients):
                group.create_task(client(who, list(numbers)[who::clients]))

    return block


def median_of(values: Sequence[float], *, seed: int) -> tuple[float, float, float]:
    """Return the median with its 95 % interval, by bootstrap over the values."""
    random_ = random.Random(seed)
    resampled = sorted(
        statistics.median(random_.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    at = round(RESAMPLES * 0.025)
    return statistics.median(values), resampled[at], resampled[-1 - at]


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Milliseconds of single queries, shape (blocks, queries of a block), as `timed` took them."""

    ms: npt.NDArray[np.float64]

    @property
    def n(self) -> int:
        """How many queries were timed."""
        return int(self.ms.size)

    def quantile(self, share: float) -> float:
        """Return the time that `share` of the queries stay below."""
        return float(np.quantile(self.ms, share))


async def timed(
    ways: Mapping[str, Way], *, queries: int, block: int, blocks: int, seed: int
) -> dict[str, Times]:
    """Time every query in every way, one at a time; no query comes twice in one way.

    Block by block; in each, the ways take their turns in random order, and each goes through the
    block's queries in an order of its own.
    """
    if block * blocks > queries:
        raise ValueError(f"{blocks} blocks of {block} need more than {queries} distinct queries")
    random_ = random.Random(seed)
    drawn = random_.sample(range(queries), block * blocks)
    took: dict[str, list[list[float]]] = {name: [] for name in ways}
    for way in ways.values():
        for number in random_.sample(range(queries), min(block, 20)):
            await way(number)
    for at in range(0, len(drawn), block):
        for name in random_.sample(list(ways), len(ways)):
            row = []
            for number in random_.sample(drawn[at : at + block], block):
                started = time.perf_counter()
                await ways[name](number)
                row.append((time.perf_counter() - started) * 1000)
            took[name].append(row)
    return {name: Times(np.asarray(rows)) for name, rows in took.items()}


def quantile_of(times: Times, share: float, *, seed: int) -> tuple[float, float, float]:
    """Return a quantile in ms with its 95 % interval, by bootstrap over blocks."""
    return _bootstrap(lambda rows: float(np.quantile(times.ms[rows], share)), times, seed)


def ratio_of(
    ours: Times, theirs: Times, *, seed: int, share: float = 0.5
) -> tuple[float, float, float]:
    """Return a quantile of ours as a multiple of theirs; 95 % interval, bootstrap over blocks."""

    def one(rows: npt.NDArray[np.int64]) -> float:
        return float(np.quantile(ours.ms[rows], share) / np.quantile(theirs.ms[rows], share))

    return _bootstrap(one, ours, seed)


def _bootstrap(
    one: Callable[[npt.NDArray[np.int64]], float], times: Times, seed: int
) -> tuple[float, float, float]:
    generator = np.random.default_rng(seed)
    blocks = len(times.ms)
    resampled = [one(generator.integers(blocks, size=blocks)) for _ in range(RESAMPLES)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return one(np.arange(blocks)), float(low), float(high)


def mean_of(values: Sequence[float], *, seed: int) -> tuple[float, float, float]:
    """Return the mean with its 95 % interval, by bootstrap over the values."""
    generator = np.random.default_rng(seed)
    given = np.asarray(values, dtype=np.float64)
    resampled = [
        generator.choice(given, size=len(given)).mean() for _ in range(RESAMPLES)
    ]  # one at a time: all at once would take gigabytes
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(given.mean()), float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something measured, and the limit that it is judged by; without one it is for information."""

    what: str
    value: float
    n: int
    unit: str = ""
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether it has a limit."""
        return self.at_most is not None or self.at_least is not None

    @property
    def holds(self) -> bool:
        """Whether it keeps its limit; what could not be measured (NaN) does not."""
        if not self.is_judged:
            return True
        if math.isnan(self.value):
            return False
        above = self.at_most is not None and self.value > self.at_most
        below = self.at_least is not None and self.value < self.at_least
        return not above and not below

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else (
            f" [{_shown(self.low)}, {_shown(self.high)}]"
        )  # fmt: skip
        limit = "".join(
            f"  limit {sign} {bound:g}"
            for sign, bound in (("<=", self.at_most), (">=", self.at_least))
            if bound is not None
        )
        verdict = ("holds" if self.holds else "BROKEN") if self.is_judged else "for information"
        note = f"  ({self.note})" if self.note else ""
        return (
            f"  {self.what:<46} {_shown(self.value)}{self.unit and ' ' + self.unit}{interval}"
            f"  n = {self.n:,}{limit}: {verdict}{note}"
        )


def _shown(value: float) -> str:
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"
    )


def said(figures: Iterable[Figure]) -> list[Figure]:
    """Print figures as they come; return them."""
    kept = list(figures)
    for figure in kept:
        print(figure, flush=True)
    return kept


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--data", type=Path, help="a folder for the database, kept and used again; else a new one"
    )
    return parser


def verdict(figures: Sequence[Figure], where: Path | None) -> int:
    """Write the figures as JSON where that is asked for; return the exit code: 1 for a broken limit."""
    if where:
        rows = [asdict(one) | {"judged": one.is_judged, "holds": one.holds} for one in figures]
        where.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(one.holds for one in figures) else 1

"""Building one index after another on a copy of a collection's vectors, and searching each."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from asyncpg import Record
from asyncpg.prepared_stmt import PreparedStatement

from ragline.core import frontier, hnsw, index_sweep, stats
from ragline.core.frontier import Design, Point, Trial
from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.db import trial_tables
from ragline.db.trial_tables import Filtered, TrialTable
from ragline.errors import RaglineError
from ragline.evals.exact_truth import Floats, Truth
from ragline.evals.index_tuned import Progress, Wanted
from ragline.evals.production import Watch
from ragline.models.embed import Vector
from ragline.ops import machine
from ragline.rag.app import App
from ragline.rag.query import LARGEST_EF_SEARCH

_RESAMPLES = 2_000
_AT_ONCE = 40
# The first index stays, in the last slot: each search is timed beside one of its.
_REFERENCE_SLOT = frontier.FINALISTS
_REFERENCE_BREADTH = 60
_EXACT_TIMES = 10
_MIB = 2**20


@dataclass(slots=True, kw_only=True)
class Work:
    """A tuning under way: what it works on and with, and the trials so far.

    `pace_ms` is what a search of the first index took when it was first timed. Other indexes are timed
    minutes later, on a machine that does other things by then: beside searches of that first one, and
    their times are brought to its pace.
    """

    app: App
    facts: CollectionFacts
    space: SpaceFacts
    wanted: Wanted
    table: TrialTable
    folder: Path | None
    say: Callable[[str], None]
    show: Callable[[Progress], None]
    watch: Watch
    seen: Floats
    unseen: Floats
    truth_seen: Truth
    truth_unseen: Truth
    started: float
    filters: tuple[str, ...]
    trials: list[Trial]
    pace_ms: float | None = None


async def tried(work: Work, design: Design, upcoming: Sequence[Design]) -> Trial:
    """Build one index and search it as narrowly as the recall wanted allows."""
    slot = 1 if work.trials else _REFERENCE_SLOT
    seconds, size = await build(work, design, upcoming, slot=slot)
    points: list[Point] = []
    lowest, highest = _span(work, design)
    first = 5 if design.method == "ivfflat" else 40 if design.storage != "bit" else 160
    while (
        breadth := frontier.next_breadth(
            points, work.wanted.recall, lowest=lowest, highest=highest, first=first
        )
    ) is not None:
        points.append(await _paced(work, design, breadth, slot))
        points.sort(key=lambda one: one.breadth)
    return Trial(design=design, size_bytes=size, build_s=seconds, points=tuple(points))


async def _paced(work: Work, design: Design, breadth: int, slot: int) -> Point:
    """Search with every question once, and time it beside the first index."""
    first = work.trials[0].design if work.trials else design
    question = work.seen[0]
    ours = await Search.of(work, design, breadth, question, slot=slot)
    beside = await Search.of(work, first, _REFERENCE_BREADTH, question, slot=_REFERENCE_SLOT)
    await searched(work, [ours, beside], work.seen, work.truth_seen)
    pace = beside.point(work).p50_ms
    work.pace_ms = work.pace_ms or pace
    return ours.point(work, work.pace_ms / pace)


def _span(work: Work, design: Design) -> tuple[int, int]:
    """Return the least and the most breadth: an HNSW scan hands over no more than that at first."""
    if design.method == "ivfflat":
        return 1, design.lists or 1
    return min(work.wanted.k, LARGEST_EF_SEARCH), LARGEST_EF_SEARCH


async def build(
    work: Work, design: Design, upcoming: Sequence[Design] = (), *, slot: int = 1
) -> tuple[float, int]:
    """Build one index, saying now and then how far the whole is."""
    expected = index_sweep.expected_s(design, work.trials)
    after = [index_sweep.expected_s(one, work.trials) for one in upcoming[1:]]
    building = asyncio.ensure_future(
        trial_tables.build(work.table, design, memory=_memory(work, design), slot=slot)
    )
    began = time.monotonic()
    try:
        while not building.done():
            left = None
            if expected is not None:
                known = [one for one in after if one is not None]
                mean = statistics.fmean(known) if known else 0.0
                rest = sum(mean if one is None else one for one in after) + 2.0 * len(after)
                left = max(0.0, expected - (time.monotonic() - began)) + rest
            work.show(
                Progress(
                    what=f"building {design}", done_s=time.monotonic() - work.started, left_s=left
                )
            )
            await asyncio.wait({building}, timeout=0.5)
    finally:
        if not building.done():
            building.cancel()
            await asyncio.wait({building}, timeout=5.0)
    return building.result()


def _memory(work: Work, design: Design) -> int:
    needed = 64 * _MIB
    if design.method == "hnsw":
        graph = hnsw.Graph(
            slot=1,
            storage="vector" if design.storage == "vector" else "halfvec",
            m=design.m or 16,
            ef_construction=design.ef_construction or 64,
        )
        needed = hnsw.build_bytes(graph, work.space.dimension, work.facts.chunks)
    available = machine.available_bytes() if work.folder is not None else None
    return hnsw.build_memory(needed, work.table.build_memory, available)


async def measured(
    work: Work, design: Design, breadth: int, questions: Floats, truth: Truth, *, slot: int = 1
) -> Point:
    """Search with every question once, in an order of its own."""
    one = await Search.of(work, design, breadth, questions[0], slot=slot)
    return (await searched(work, [one], questions, truth))[0].point(work)


@dataclass(slots=True, kw_only=True)
class Search:
    """A search through one of the indexes that are there, and what came of it, question by question."""

    breadth: int
    bound: tuple[object, ...]
    statement: PreparedStatement[Record]
    recalls: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    rows: int = 0

    @classmethod
    async def of(
        cls, work: Work, design: Design, breadth: int, question: Vector,
        filtered: Filtered | None = None, *, slot: int = 1,
    ) -> Search:  # fmt: skip
        """Prepare it. Raises RaglineError where the server would not search through the index."""
        table = work.table
        sql = trial_tables.search_statement(
            table, design, work.wanted.k, breadth, filtered, slot=slot
        )
        bound = filtered.values if filtered else ()
        plan = await trial_tables.plan_of(table, sql, [*bound, question, str(breadth)])
        if not trial_tables.is_indexed(plan, table, slot):
            raise RaglineError(f"the server does not search through {design}, but so:\n{plan}")
        return cls(breadth=breadth, bound=bound, statement=await table.searcher.prepare(sql))

    async def ask(self, question: Vector, number: int, truth: Truth) -> None:
        """Search once, and note what was found of what there is."""
        started = time.perf_counter()
        found = await self.statement.fetch(*self.bound, question, str(self.breadth))
        self.times.append((time.perf_counter() - started) * 1000)
        self.recalls.append(truth.recall(number, [row[0] for row in found]))
        self.rows += min(len(found), truth.wanted[number])

    def forget(self) -> None:
        """Begin anew."""
        self.recalls, self.times, self.rows = [], [], 0

    def point(self, work: Work, faster: float = 1.0) -> Point:
        """Return what came of it, the times as they would be at another pace."""
        mean, low, high = interval(self.recalls, work.wanted.seed)
        return Point(
            breadth=self.breadth,
            recall=mean,
            low=low,
            high=high,
            p50_ms=stats.quantile(self.times, 0.5) * faster,
            p95_ms=stats.quantile(self.times, 0.95) * faster,
            n=len(self.recalls),
        )


async def searched(
    work: Work, searches: Sequence[Search], questions: Floats, truth: Truth
) -> Sequence[Search]:
    """Put every question to each of the searches, one after the other in an order drawn by lot."""
    lot = np.random.default_rng([one.breadth for one in searches])
    for place, number in enumerate(lot.permutation(len(questions)).tolist()):
        if place % _AT_ONCE == 0:
            # Between some, not between any two: after a pause a search takes several times as long.
            await work.watch.breathe()
        for turn in lot.permutation(len(searches)).tolist():
            await searches[turn].ask(questions[number], number, truth)
    return searches


async def exact_ms(work: Work) -> float:
    """Return the middle time of comparing every vector of the copy, at the pace of the indexes' times.

    Each time stands beside a search of the first index for the same question, and the middle of the
    proportions counts: what else the machine does is not taken for what the one or the other costs.
    """
    statement = await work.table.searcher.prepare(
        trial_tables.exact_statement(work.table, work.wanted.k)
    )
    beside = None
    if work.trials:
        first = work.trials[0].design
        beside = await Search.of(
            work, first, _REFERENCE_BREADTH, work.seen[0], slot=_REFERENCE_SLOT
        )
    times = []
    for number, vector in enumerate(work.seen[: _EXACT_TIMES + 1]):
        started = time.perf_counter()
        await statement.fetch(vector)
        times.append((time.perf_counter() - started) * 1000)
        if beside is not None:
            await beside.ask(vector, number, work.truth_seen)
    if beside is None or work.pace_ms is None:
        return stats.quantile(times[1:], 0.5)
    shares = [ours / theirs for ours, theirs in zip(times[1:], beside.times[1:], strict=True)]
    return work.pace_ms * stats.quantile(shares, 0.5)


def interval(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Return the mean with its 95 % interval."""
    found = stats.paired(values, seed=seed, resamples=_RESAMPLES)
    low = found.mean if found.low is None else max(0.0, found.low)
    high = found.mean if found.high is None else min(1.0, found.high)
    return found.mean, low, high


def line(trial: Trial, target: float) -> str:
    """Return what came of a trial in a line."""
    point = trial.needed(target)
    found = point or trial.best
    reached = "" if point else f", {target:g} not reached"
    return (
        f"{trial.design}: {trial.size_bytes / _MIB:,.1f} MB in {trial.build_s:.1f} s, "
        f"{trial.design.knob} {found.breadth}: {found.recall:.3f} [{found.low:.3f}, {found.high:.3f}], "
        f"{found.p50_ms:.2f} ms{reached}"
    )

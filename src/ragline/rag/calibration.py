"""Measuring, in a collection itself, how searches with a filter are quickest at the recall asked for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ragline.core import access
from ragline.core.access import Calibration, Level
from ragline.core.results import CollectionFacts
from ragline.db import collections, samples, search
from ragline.db.pool import Connection
from ragline.db.targets import Scope
from ragline.errors import NotFound, UsageError
from ragline.rag import catalog
from ragline.rag.app import App
from ragline.rag.search import target_of

K = 10
# Above what is promised: filters that go along with what a text says are harder than those drawn here.
RECALL = 0.99
# Below this every way is quick, and the index may not be there.
FEWEST_CHUNKS = 2000
_MOST_QUESTIONS, _FEWEST_QUESTIONS = 24, 10
# One chunk of every so many is kept, by a hash that knows nothing of what the chunk says; where this
# leaves fewer than so many chunks, all are compared in a moment.
_ONE_OF = (2, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_FEWEST_KEPT = 200
# None narrower: a filter drawn at random is content with less, one that goes along with the text is not.
_WAYS = ((400, 1), (400, 4), (800, 4), (800, 16))
# What a filter by an index costs besides the distances is in both: the same chunks are looked at.
_KEPT = "(pg_catalog.hashint8(c.id) & 2147483647) % {of:d} = 0"
# Measuring the next share is not begun after so long.
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of the shares are measured."""

    done: int
    total: int


async def calibrate_if_due(app: App, facts: CollectionFacts) -> Calibration | None:
    """Measure a collection that never was, or is twice or half as large as then; None if not due."""
    if facts.space is None or facts.attached is not None or facts.chunks < FEWEST_CHUNKS:
        return None
    known = facts.space.calibration
    if known is not None and known.chunks / 2 < facts.chunks < known.chunks * 2:
        return None
    return await calibrate(app, facts.name)


async def calibrate(
    app: App, name: str, *, on_progress: Callable[[Progress], None] | None = None
) -> Calibration:
    """Measure a collection, store what was found, and return it; takes some seconds.

    Raises NotFound, Conflict for an attached table, and UsageError where there is nothing to measure:
    no vectors, or fewer than 2,000 chunks. Questions are chunks of the collection itself, each found
    by its neighbours.
    """
    facts = await app.collection(name, fresh=True)
    catalog.refuse_attached(
        facts, "PostgreSQL plans its searches with filters: there is nothing to calibrate"
    )
    if facts.space is None or facts.chunks < FEWEST_CHUNKS:
        raise UsageError(
            f"collection {name!r} has {facts.chunks:,} chunks"
            f"{'' if facts.space else ' and no vectors'}: below {FEWEST_CHUNKS:,} all chunks that a "
            "filter allows are compared anyway, and there is nothing to calibrate"
        )
    levels: list[Level] = []
    async with app.connection(app.search_workload) as connection:
        if not await collections.index_state(connection, facts.space.id):
            raise UsageError(
                f"collection {name!r} has no valid vector index, so there is nothing to choose from; "
                "`ragline ingest` builds it"
            )
        target = target_of(facts)
        ids, vectors = await samples.vectors(
            connection, target, chunks=facts.chunks, size=_questions(facts.chunks)
        )
        if len(ids) < _FEWEST_QUESTIONS:
            raise UsageError(
                f"collection {name!r} has {len(ids)} vectors for {facts.chunks:,} chunks: too few to "
                "measure with; ingest again with a model"
            )
        bench = _Bench(connection, target, ids, vectors)
        shares = [of for of in _ONE_OF if facts.chunks / of >= _FEWEST_KEPT]
        until = time.monotonic() + _PATIENCE_S
        for number, of in enumerate(shares, start=1):
            if levels and time.monotonic() > until:
                break
            if (level := await bench.level(of)) is not None:
                levels.append(level)
            if on_progress:
                on_progress(Progress(number, len(shares)))
    if not levels:
        raise UsageError(f"collection {name!r} has too few vectors to measure with")
    calibration = Calibration(
        exact_chunks=access.crossover(levels, facts.chunks),
        levels=tuple(levels),
        chunks=facts.chunks,
    )
    return await _kept(app, name, facts, calibration)


def _questions(chunks: int) -> int:
    """Fewer in a large collection, where each true answer takes long."""
    return max(_FEWEST_QUESTIONS, min(_MOST_QUESTIONS, 4_000_000 // chunks))


async def _kept(
    app: App, name: str, facts: CollectionFacts, calibration: Calibration
) -> Calibration:
    """Store a calibration and return it as it is read back."""
    if facts.space is None:
        raise TypeError("only a space can be calibrated")
    async with app.connection("admin") as connection:
        await collections.keep_calibration(connection, facts.space.id, calibration)
        # Not the collection's own: a space may be measured before searches use it.
        fresh = await collections.space(connection, facts.space.id)
    app.known.pop(name, None)
    if fresh is None or fresh.calibration is None:
        raise NotFound(f"collection {name!r} was removed while it was calibrated")
    return fresh.calibration


@dataclass(frozen=True, slots=True)
class _Bench:
    """Questions to a collection, and ways of answering them within a filter."""

    connection: Connection
    target: search.Target
    ids: Sequence[int]
    vectors: Sequence[npt.NDArray[np.float32]]

    async def level(self, of: int) -> Level | None:
        """Measure a filter that keeps one chunk of `of`; None where it keeps no vector."""
        exact = Scope(condition=_KEPT.format(of=of), lookup=None, parameters=0, is_small=True)
        # The lookup stands for an index: the chunks allowed are named, not searched for.
        allowed = [
            row[0]
            for row in await self.connection.fetch(
                f"select c.id from chunk c where c.collection_id = $1 and {exact.condition}",  # noqa: S608
                self.target.collection_id,
            )
        ]
        named = Scope(
            condition=exact.condition,
            lookup="c.id = any ($1::bigint[])",
            parameters=1,
            is_small=True,
        )
        truth, exact_ms = await self._answers(
            search.Ask(k=K + 1, candidates=0, ef_search=1, scope=named, scope_values=(allowed,))
        )
        if not any(truth):
            return None
        best: Level | None = None
        for ef_search, factor in _WAYS:
            scope = replace(exact, is_small=False, rows=factor * (K + 1))
            found, index_ms = await self._answers(
                search.Ask(k=K + 1, candidates=0, ef_search=ef_search, scope=scope)
            )
            best = Level(
                share=1 / of,
                ef_search=ef_search,
                factor=factor,
                recall=round(self._recall(truth, found), 4),
                index_ms=round(index_ms, 3),
                exact_ms=round(exact_ms, 3),
            )
            if best.recall >= RECALL:
                break
        return best

    async def _answers(self, ask: search.Ask) -> tuple[list[list[int]], float]:
        """Return the chunks found for every question, and the median milliseconds of one."""
        found, times = [], []
        # Once before the clock runs: a plan to be made, pages to be read.
        await search.run(
            self.connection, self.target, "vector", replace(ask, vector=self.vectors[0])
        )
        for vector in self.vectors:
            started = time.perf_counter()
            result = await search.run(
                self.connection, self.target, "vector", replace(ask, vector=vector)
            )
            times.append((time.perf_counter() - started) * 1000)
            found.append([hit.chunk_id for hit in result.hits])
        return found, statistics.median(times)

    def _recall(self, truth: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> float:
        """Return the share of the true neighbours that were found, the question itself left out."""
        shares = []
        for own, true, ours in zip(self.ids, truth, found, strict=True):
            wanted = {id_ for id_ in true if id_ != own}
            if wanted:
                shares.append(len(wanted.intersection(ours)) / len(wanted))
        return statistics.fmean(shares) if shares else 0.0

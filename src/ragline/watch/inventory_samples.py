"""What a sample of queries says of each vector index, against an exact search."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from ragline.core import stats
from ragline.core.index_facts import IndexFacts, ServerFacts
from ragline.core.index_sample import Sample
from ragline.db import index_samples
from ragline.errors import RaglineError

if TYPE_CHECKING:
    from ragline.watch.inventory import Asked

FEWEST = 10
GB = 1024**3

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Measure: TypeAlias = Callable[[str], Awaitable[Sample]]
Advance: TypeAlias = Callable[[str, int, int], None]


async def samples(
    db: Db,
    indexes: Sequence[IndexFacts],
    server: ServerFacts,
    asked: Asked,
    measure: Measure,
    advance: Advance,
) -> dict[int, Sample]:
    """Return what a sample says of each vector index that can be asked."""
    if asked.sample is None or server.vector_schema is None:
        return {}
    vector = [index for index in indexes if index.is_vector and not index.is_partitioned]
    by_collection: dict[str, Sample] = {}
    found = {}
    is_prepared = False
    for index in vector:
        why_not = _why_not(index, asked)
        if why_not is not None:
            found[index.oid] = Sample(k=asked.k, why_not=why_not)
        elif index.collection is not None and index.metric in index.metrics:
            name = asked.collection or index.collection
            if name not in by_collection:
                by_collection[name] = await _by_searches(name, asked, measure)
            # `ef_search` is for HNSW alone; how many lists a search looks into is decided by its SQL.
            sample = by_collection[name]
            found[index.oid] = sample if index.method == "hnsw" else replace(sample, width=None)
        else:
            if not is_prepared:
                await index_samples.prepare(db, server.vector_schema)
                is_prepared = True
            found[index.oid] = await _directly(db, index, server.vector_schema, asked, advance)
    return found


def _why_not(index: IndexFacts, asked: Asked) -> str | None:
    if not index.serves:
        return "it is being built" if index.is_building else "it is INVALID"
    if index.is_searched is False or (index.is_ours and not index.is_searched):
        return "searches do not use it: it is kept, or on trial"
    if index.table_bytes > asked.largest_bytes:
        return (
            f"its table has {index.table_bytes / GB:.1f} GB, and an exact search reads all of it; "
            "--largest measures it all the same"
        )
    if index.runs_foreign_code:
        return "an index or statistics of its table run code of another user, not with your rights"
    if index.operator is None:
        return f"operator class {', '.join(index.operator_classes)} is not one of pgvector's"
    return None


async def _by_searches(name: str, asked: Asked, measure: Measure) -> Sample:
    try:
        return await measure(name)
    except RaglineError as error:
        return Sample(k=asked.k, why_not=str(error))


async def _directly(
    db: Db, index: IndexFacts, vector_schema: str, asked: Asked, advance: Advance
) -> Sample:
    try:
        return await _asked_directly(db, index, vector_schema, asked, advance)
    except asyncpg.PostgresError as error:
        if db.is_closed():
            raise
        return Sample(k=asked.k, why_not=str(error))


async def _asked_directly(
    db: Db, index: IndexFacts, vector_schema: str, asked: Asked, advance: Advance
) -> Sample:
    size = asked.sample or FEWEST
    what = index_samples.searched(index, vector_schema)
    queries, drawn = await index_samples.queries(
        db, what, rows=index.table_rows or 0, size=size, seed=asked.seed
    )
    if drawn < FEWEST:
        return Sample(k=asked.k, why_not=f"{drawn} rows with vectors are too few to measure with")
    alone, steered = await index_samples.path(db, what, queries[0], asked.k)
    if steered != index.name:
        taken = f"index {steered}" if steered else "no index"
        return Sample(
            k=asked.k,
            path=alone or "every row",
            why_not=f"the planner takes {taken} for what it answers",
        )
    total, done = len(queries), 0

    def one_more() -> None:
        nonlocal done
        done += 1
        advance(index.qualified, done, total)

    given = await index_samples.ask(db, what, queries, asked.k, one_more)
    best = await index_samples.exact(db, what, queries, asked.k)
    sample = _summed(index, asked, given, best, alone)
    if index.method != "ivfflat":
        return sample
    return replace(
        sample,
        one_probe=await index_samples.one_probe(db, what, queries, best, asked.k),
        fitted=await index_samples.fitted(
            db, what, queries,
            rows=best.rows, lists=index.lists, k=asked.k, seed=asked.seed,
        ),
    )  # fmt: skip


def _summed(
    index: IndexFacts,
    asked: Asked,
    given: index_samples.Asked,
    best: index_samples.Exact,
    alone: str | None,
) -> Sample:
    values = index_samples.recalls(given, best)
    interval = stats.paired(values, seed=asked.seed)
    return Sample(
        k=asked.k,
        n=len(values),
        mean=interval.mean,
        # Resampled means are spread a little wider than a share can be.
        low=None if interval.low is None else max(0.0, interval.low),
        high=None if interval.high is None else min(1.0, interval.high),
        worst=min(values),
        short=sum(
            len(near) < count for near, count in zip(given.distances, best.best, strict=True)
        ),
        median_ms=median(given.ms),
        exact_ms=best.ms,
        width=given.width,
        width_name="ef_search" if index.method == "hnsw" else "probes",
        path=None if alone == index.name else alone or "every row",
        rows=best.rows,
        null_rows=best.null_rows,
        zero_rows=best.zero_rows,
    )

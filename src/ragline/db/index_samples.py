"""Queries put to a vector index of any table, and what an exact search of the same rows finds.

Nothing is written. Statements are built of names and of the index's own expressions, as the catalog
writes them: never call this for an index of a table whose expressions run a stranger's functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core import list_fit
from ragline.core.index_facts import IndexFacts
from ragline.core.index_sample import MARK
from ragline.core.list_fit import ListFit
from ragline.db import vectors as vector_codec
from ragline.db.pool import quoted

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Floats: TypeAlias = npt.NDArray[np.float64]
Vector: TypeAlias = npt.NDArray[np.float32]
Query: TypeAlias = "Vector | str"

_IN_NUMPY = ("cosine", "l2", "inner_product")
_SPARE = 20
_AT_ONCE = 1000
# Distances are summed up in another order here than there.
_TOLERANCE = 1e-5
_SHORTEST = 1e-6
# What one probe finds differs from query to query, and each walks a whole list.
_PROBED = 20
# pgvector makes its lists of 50 rows for each; with fewer they part a little worse, and much sooner.
_ROWS_A_LIST = 20
_SMALLEST_FIT, _LARGEST_FIT = 5_000, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The pieces of a statement that an index answers. `type` is SQL, of what a query is."""

    table: str
    key: str
    condition: str
    operator: str
    type: str
    metric: str
    method: str
    is_numbers: bool
    is_half: bool

    @property
    def is_in_numpy(self) -> bool:
        """Whether many queries are compared with a row at once, here; else the server does each."""
        return self.is_numbers and self.metric in _IN_NUMPY


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the index gave for each query: distances, and the milliseconds it took."""

    distances: tuple[tuple[float, ...], ...]
    ms: tuple[float, ...]
    width: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """The distance within which the best `k` of each query lie, and what was seen on the way.

    `best` counts them: fewer than k where there are fewer rows.
    """

    within: tuple[float, ...]
    best: tuple[int, ...]
    rows: int
    null_rows: int
    zero_rows: int | None
    ms: float | None


def searched(index: IndexFacts, vector_schema: str) -> Searched:
    """Return how statements say what `index` is ordered by."""
    schema, kind = quoted(vector_schema), index.vector_type or ""
    return Searched(
        # Its children are in other indexes, and planning a search of them could run somebody's code.
        table=f"only {quoted(index.schema)}.{quoted(index.table)}",
        key=index.keys[0],
        condition=f"where {index.predicate}" if index.predicate else "",
        operator=f"operator({schema}.{index.operator})",
        type=f"pg_catalog.bit({index.dimension})" if kind == "bit" else f"{schema}.{quoted(kind)}",
        metric=index.metric or "",
        method=index.method,
        is_numbers=kind in ("vector", "halfvec"),
        is_half=kind == "halfvec",
    )


async def prepare(db: Db, vector_schema: str) -> None:
    """Have a session of ours send vectors as numbers, and hide no row without saying so."""
    await vector_codec.in_binary(db, vector_schema)
    # Planning a query runs a table's constraints, where they could tell that it has no rows.
    await db.execute("set row_security = off; set constraint_exclusion = off")
    # Where we may, so that our own searches do not count as those of an application.
    for name, value in (("track_counts", "off"), ("pg_stat_statements.track", "none")):
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await db.fetchval("select pg_catalog.set_config($1, $2, false)", name, value)
    # Settings of a library that is not loaded yet take any value. Whoever may not call it measures
    # nothing, which is said of each index.
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await db.fetchval(f"select '[1]'::{quoted(vector_schema)}.vector")


async def queries(
    db: Db, what: Searched, *, rows: int, size: int, seed: int
) -> tuple[list[Query], int]:
    """Return `size` values midway between two that are stored, and how many stored ones they are of.

    The same seed draws the same ones while the table stays as it is. What has no middle, bits and
    sparse vectors, is taken as it is stored.
    """
    values, drawn = await _stored(db, what, rows=rows, size=size, seed=seed)
    if not what.is_numbers:
        return values, drawn
    # The one before it, and before the first the last: they come in no order.
    middles = [_middle(values[at - 1], value) for at, value in enumerate(values)]
    if what.is_half:  # as the server will see it
        middles = [middle.astype(np.float16).astype(np.float32) for middle in middles]
    return list(middles), drawn


async def _stored(
    db: Db, what: Searched, *, rows: int, size: int, seed: int
) -> tuple[list[Any], int]:
    """Return up to `size` values that are stored, drawn at random, and how many these are."""
    percent = min(100.0, 100.0 * _SPARE * size / max(1, rows))
    value = what.key if what.is_numbers else f"({what.key})::text"
    joint = "and" if what.condition else "where"
    stored: Sequence[asyncpg.Record] = ()
    for drawn in (f"tablesample system ({percent:f}) repeatable ({seed:d})", ""):
        stored = await db.fetch(
            f"""
            select {value} as value from {what.table} {drawn} {what.condition}
            {joint} ({what.key}) is not null
            order by pg_catalog.md5(ctid::text || {seed:d}) limit $1
            """,  # noqa: S608 -- names, and what the catalog says
            size,
        )
        if len(stored) >= size:
            break
    return [row["value"] for row in stored], len(stored)


async def path(db: Db, what: Searched, query: Query, k: int) -> tuple[str | None, str | None]:
    """Return which index the planner takes, as "schema.name": left to itself, and kept from sorting."""
    async with db.transaction(readonly=True):
        alone = await _index_of(db, what, query, k)
        await _prefer_indexes(db)
        return alone, await _index_of(db, what, query, k)


async def ask(
    db: Db,
    what: Searched,
    asked: Sequence[Query],
    k: int,
    on_progress: Callable[[], None],
) -> Asked:
    """Return what the index finds for each query."""
    distances, times = [], []
    async with db.transaction(readonly=True):
        await _prefer_indexes(db)
        statement = await db.prepare(_nearest(what, k))
        await statement.fetch(asked[-1])  # plans, and brings the top of the graph in
        for query in asked:
            started = time.perf_counter()
            found = await statement.fetch(query)
            times.append((time.perf_counter() - started) * 1000)
            distances.append(tuple(row[MARK] for row in found))
            on_progress()
        name = "hnsw.ef_search" if what.method == "hnsw" else "ivfflat.probes"
        width = await db.fetchval("select pg_catalog.current_setting($1, true)", name)
    return Asked(
        distances=tuple(distances),
        ms=tuple(times),
        width=int(width) if width and width.isdigit() else None,
    )


async def exact(db: Db, what: Searched, asked: Sequence[Query], k: int) -> Exact:
    """Return how near the best `k` of each query are, every row compared."""
    async with db.transaction(readonly=True):
        if what.is_in_numpy:
            return await _compared_here(db, what, asked, k)
        return await _compared_there(db, what, asked, k)


async def one_probe(db: Db, what: Searched, asked: Sequence[Query], best: Exact, k: int) -> ListFit:
    """Return what one probe of an IVFFlat index finds, and how many of the rows it compares."""
    async with db.transaction(readonly=True):
        await _prefer_indexes(db)
        await db.execute("set local ivfflat.probes = 1")
        await db.execute(  # which an old pgvector has not
            "select pg_catalog.set_config(name, 'off', true) from pg_catalog.pg_settings "
            "where name = 'ivfflat.iterative_scan'"
        )
        statement = await db.prepare(_nearest(what, k))
        given = [tuple(row[MARK] for row in await statement.fetch(query)) for query in asked]
        counted = await db.prepare(_nearest(what, None, counted=True))
        compared = [await counted.fetchval(query) for query in asked[:_PROBED]]
    found = recalls(Asked(distances=tuple(given), ms=(), width=1), best)
    return ListFit(
        recall=float(np.mean(found)), share=float(np.median(compared)) / max(1, best.rows)
    )


async def fitted(
    db: Db, what: Searched, asked: Sequence[Query], *, rows: int, lists: int, k: int, seed: int
) -> ListFit | None:
    """Return what lists made of today's rows would find; None where that cannot be tried here."""
    if not what.is_in_numpy:
        return None
    size = min(_LARGEST_FIT, max(_SMALLEST_FIT, _ROWS_A_LIST * lists))
    vectors, drawn = await _stored(db, what, rows=rows, size=size, seed=seed)
    if drawn < 2 * lists:
        return None
    return await asyncio.to_thread(
        list_fit.fitted,
        np.stack(vectors), np.stack([np.asarray(query) for query in asked]),
        lists=lists, k=k, metric=what.metric, seed=seed,
    )  # fmt: skip


def recalls(given: Asked, best: Exact) -> tuple[float, ...]:
    """Return for each query which share of its best rows came; ties count."""
    shares = []
    for distances, within, count in zip(given.distances, best.within, best.best, strict=True):
        limit = within + _TOLERANCE * max(1.0, abs(within))
        hits = sum(distance <= limit for distance in distances)
        shares.append(min(hits, count) / count if count else 1.0)
    return tuple(shares)


async def _prefer_indexes(db: Db) -> None:
    await db.execute("set local enable_seqscan = off; set local enable_sort = off")


async def _index_of(db: Db, what: Searched, query: Query, k: int) -> str | None:
    plan = json.loads(
        await db.fetchval(f"explain (format json, verbose) {_nearest(what, k)}", query)
    )
    return next(_indexes_of(plan[0]["Plan"]), None)


def _indexes_of(node: dict[str, object]) -> Iterator[str]:
    if name := node.get("Index Name"):
        yield str(name)
    children = node.get("Plans")
    for child in children if isinstance(children, list) else ():
        yield from _indexes_of(child)


def _nearest(what: Searched, k: int | None, *, counted: bool = False) -> str:
    """Return the statement of a search: order by and limit on the bare operator, or no index is used."""
    typed = f"$1::{what.type}" if what.is_numbers else f"$1::text::{what.type}"
    distance = f"({what.key}) {what.operator} {typed}"
    limit = "" if k is None else f"limit {k:d}"
    sql = f"""
        select ({distance})::pg_catalog.float8 as {MARK} from {what.table} {what.condition}
        order by {distance} {limit}
    """  # noqa: S608 -- names, and what the catalog says
    return f"select count(*) from ({sql} offset 0) as near" if counted else sql  # noqa: S608


async def _compared_here(db: Db, what: Searched, asked: Sequence[Query], k: int) -> Exact:
    points = np.stack([np.asarray(query, dtype=np.float64) for query in asked])
    nearest = np.full((len(asked), k), np.inf)
    rows = nulls = zeros = 0
    sql = f"select {what.key} as value from {what.table} {what.condition}"  # noqa: S608 -- as above
    cursor = await db.cursor(sql)
    while block := await cursor.fetch(_AT_ONCE):
        held = [row["value"] for row in block if row["value"] is not None]
        nulls += len(block) - len(held)
        if not held:
            continue
        vectors = np.stack(held).astype(np.float64)
        is_zero = ~vectors.any(axis=1)
        zeros += int(is_zero.sum())
        if what.metric == "cosine":  # they have no direction, and no index holds them
            vectors = vectors[~is_zero]
        rows += len(vectors)
        distances = np.concatenate([nearest, _distances(points, vectors, what.metric)], axis=1)
        nearest = np.partition(distances, k - 1, axis=1)[:, :k]
    counts = np.isfinite(nearest).sum(axis=1)
    within = np.where(np.isfinite(nearest), nearest, -np.inf).max(axis=1)
    return Exact(
        within=tuple(map(float, within)),
        best=tuple(map(int, counts)),
        rows=rows,
        null_rows=nulls,
        zero_rows=zeros,
        ms=None,
    )


def _distances(points: Floats, vectors: Floats, metric: str) -> Floats:
    """Return shape (points, vectors): what pgvector's operator gives for each pair."""
    products: Floats = np.asarray(points @ vectors.T)
    if metric == "inner_product":
        return -products
    if metric == "cosine":
        lengths = np.linalg.norm(points, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)[None, :]
        cosines: Floats = products / np.maximum(lengths, np.finfo(np.float64).tiny)
        return 1 - cosines
    squares = (points**2).sum(axis=1)[:, None] + (vectors**2).sum(axis=1)[None, :]
    return np.asarray(np.sqrt(np.maximum(squares - 2 * products, 0)), dtype=np.float64)


async def _compared_there(db: Db, what: Searched, asked: Sequence[Query], k: int) -> Exact:
    within, best, times = [], [], []
    await db.execute("set local enable_indexscan = off; set local enable_indexonlyscan = off")
    statement = await db.prepare(_nearest(what, k))
    for query in asked:
        started = time.perf_counter()
        found = [row[MARK] for row in await statement.fetch(query)]
        times.append((time.perf_counter() - started) * 1000)
        known = [
            distance for distance in found if distance is not None and not math.isnan(distance)
        ]
        within.append(known[-1] if known else -np.inf)
        best.append(len(known))
    counted = await db.fetchrow(
        f"select count({what.key}) as rows, count(*) - count({what.key}) as nulls "  # noqa: S608
        f"from {what.table} {what.condition}"
    )
    return Exact(
        within=tuple(within),
        best=tuple(best),
        rows=counted["rows"] if counted else 0,
        null_rows=counted["nulls"] if counted else 0,
        zero_rows=None,
        ms=float(np.median(times)) if times else None,
    )


def _middle(one: Vector, other: Vector) -> Vector:
    middle: Vector = ((one + other) / 2).astype(np.float32)
    # Opposite ones have no direction between them.
    return one if float(np.linalg.norm(middle)) < _SHORTEST else middle

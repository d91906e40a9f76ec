"""Copies of a collection's vectors on which indexes are tried, so that no search meets any of them.

A copy is an unlogged table `ragline.trial_<n>`. Whoever made it holds an advisory lock of that number
for as long as its session lives: a table whose lock is free was left by a process that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core import hnsw
from ragline.core.dsn import Dsn
from ragline.core.frontier import Design
from ragline.db import attached_sql, locks, pool, queries, vectors
from ragline.db.pool import Db, quoted
from ragline.db.targets import FAR, OPERATORS, Target
from ragline.errors import Conflict, PreconditionFailed, RaglineError

Floats: TypeAlias = npt.NDArray[np.float32]

_LOCK = "trial"
_MOST = 100
_INDEX = "tried"
# No chunk has this number, or one of the next: a search says which of several indexes is its own.
_NOBODY = -9_223_372_036_854_775_800
_ROWS_AT_ONCE = 1_000
_DROPPED_WITHIN_S = 20.0


@dataclass(slots=True, kw_only=True)
class TrialTable:
    """A copy with the sessions that work on it: one builds, the other searches."""

    name: str
    target: Target
    vector_schema: str
    version: tuple[int, ...]
    build_memory: int
    builder: asyncpg.Connection[asyncpg.Record] = field(repr=False)
    searcher: asyncpg.Connection[asyncpg.Record] = field(repr=False)
    rows: int = 0

    @property
    def full_name(self) -> str:
        """Its name with its schema."""
        return f"ragline.{self.name}"


async def sweep(connection: Db) -> int:
    """Drop the tables whose makers are gone; return how many there were."""
    gone = 0
    for row in await connection.fetch(queries.block("trial_tables", "leftovers")):
        number = row["number"]
        async with locks.tried(connection, _LOCK, number) as is_free:
            if is_free:
                await connection.execute(f"drop table if exists ragline.trial_{number:d}")
                gone += 1
    return gone


@asynccontextmanager
async def copied(
    dsn: Dsn, target: Target, *, work_mem: str | None = None
) -> AsyncIterator[TrialTable]:
    """Lend a copy of a collection's vectors; it is dropped afterwards, whatever happens.

    `dsn` is that of a user who may make tables in schema ragline. `work_mem` is that of the sessions
    that search in earnest: it bounds how far a scan with a filter goes.
    """
    settings = {
        "statement_timeout": "0",
        "lock_timeout": "5s",
        # A build that nobody waits for any more ends soon, also after a kill -9 of this process.
        "plan_cache_mode": "force_generic_plan",
        "max_parallel_maintenance_workers": "0",
    }
    async with pool.session(dsn, "admin", settings=settings) as builder:
        await _end_with_us(builder)
        row = await builder.fetchrow(queries.block("trial_tables", "server"))
        if row is None or row["vector_schema"] is None:
            raise PreconditionFailed(
                "this database has no vector extension: run `ragline migrate apply`"
            )
        schema = row["vector_schema"]
        path = f"ragline, {quoted(schema)}, pg_temp"
        searching = {**settings, "search_path": path, "enable_seqscan": "off", "jit": "off"}
        if work_mem is not None:
            searching["work_mem"] = work_mem
        async with pool.session(dsn, "admin", settings=searching) as searcher:
            await _speak_vectors(searcher, schema)
            async with _numbered(builder) as number:
                table = TrialTable(
                    name=f"trial_{number:d}",
                    target=target,
                    vector_schema=schema,
                    version=tuple(int(part) for part in re.findall(r"\d+", row["version"])[:3]),
                    build_memory=row["build_memory"],
                    builder=builder,
                    searcher=searcher,
                )
                try:
                    await _fill(table)
                    yield table
                finally:
                    await asyncio.shield(_dropped(dsn, table))


@asynccontextmanager
async def _numbered(builder: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[int]:
    """Hold the first number that is free. What lay under it was left by somebody who is gone."""
    for number in range(1, _MOST + 1):
        async with locks.tried(builder, _LOCK, number) as is_ours:
            if is_ours:
                await builder.execute(f"drop table if exists ragline.trial_{number:d}")
                yield number
                return
    raise Conflict(f"{_MOST} trials are under way in this database: wait for one of them")


async def _end_with_us(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    with contextlib.suppress(asyncpg.PostgresError):  # not every system can
        await connection.execute(
            "select pg_catalog.set_config('client_connection_check_interval', '2s', false)"
        )


async def _speak_vectors(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    await vectors.in_binary(connection, schema)
    # Settings of a library that is not loaded yet take any value, and keep none.
    await connection.fetchval("select '[1]'::vector")


async def _dropped(dsn: Dsn, table: TrialTable) -> None:
    """Drop the copy in a session of its own: the others may be in the middle of something."""
    with contextlib.suppress(RaglineError, asyncpg.PostgresError, OSError, TimeoutError):
        # Killed, it could not be dropped either; the next command that looks for leftovers does it.
        async with asyncio.timeout(_DROPPED_WITHIN_S):
            for connection in (table.searcher, table.builder):
                if not connection.is_closed():
                    connection.terminate()
            async with pool.session(
                dsn, "admin", settings={"lock_timeout": "10s", "statement_timeout": "0"}
            ) as connection:
                # Held once more: by now the number may be somebody else's, with a table of theirs.
                number = int(table.name.removeprefix("trial_"))
                async with locks.tried(connection, _LOCK, number, patience_s=10.0) as is_ours:
                    if is_ours:
                        await connection.execute(f"drop table if exists {table.full_name}")


async def _fill(table: TrialTable) -> None:
    target = table.target
    kind = f"{quoted(table.vector_schema)}.{target.storage}({target.dimension:d})"
    await table.builder.execute(
        f"create unlogged table {table.full_name} (chunk_id bigint not null, embedding {kind} not null) "
        "with (autovacuum_enabled = off)"
    )
    source, column = _source(target), "embedding"
    if target.attached is not None:
        source, column = attached_sql.table(target.attached), target.attached.embedding
    kept = await table.builder.fetchval(queries.block("trial_tables", "kept_as"), source, column)
    if kept is not None:
        how = {"p": "plain", "e": "external", "m": "main", "x": "extended"}[kept]
        await table.builder.execute(
            f"alter table {table.full_name} alter column embedding set storage {how}"
        )
    try:
        await table.builder.execute(
            f"insert into {table.full_name} (chunk_id, embedding) {_stored(target, kind)}"
        )
    except asyncpg.DiskFullError as error:
        raise PreconditionFailed(
            f"the copy of the vectors did not fit the disk: {error}; nothing of it is left. Free space "
            "where the database lies"
        ) from error
    await table.builder.execute(f"analyze {table.full_name}")
    table.rows = await table.builder.fetchval(
        f"select pg_catalog.count(*) from {table.full_name}"  # noqa: S608 -- a name of our own
    )


def _source(target: Target) -> str:
    return f"ragline.embedding_{target.space_id:d}"


def _stored(target: Target, kind: str) -> str:
    if target.attached is None:
        return f"select chunk_id, embedding from {_source(target)}"  # noqa: S608 -- a number of ours
    one = target.attached
    vector = attached_sql.column(one.embedding)
    return (
        f"select {attached_sql.number(one)}, {vector}::{kind} "  # noqa: S608 -- quoted names
        f"from {attached_sql.table(one)} t where {vector} is not null and {attached_sql.belongs(one)}"
    )


async def relation_bytes(table: TrialTable, name: str | None = None) -> int:
    """Return the size of the copy, or of one of its indexes."""
    size: int = await table.builder.fetchval(
        queries.block("trial_tables", "relation_bytes"), f"ragline.{name or table.name}"
    )
    return size


async def drawn(table: TrialTable, size: int, seed: int) -> list[Floats]:
    """Return vectors of the copy in an order that the seed decides."""
    rows = await table.searcher.fetch(
        f"""
        select embedding from {table.full_name}
        order by pg_catalog.hashint8extended(chunk_id, $1), chunk_id limit $2
        """,  # noqa: S608 -- a name of our own
        seed,
        size,
    )
    return [row[0] for row in rows]


async def streamed(table: TrialTable) -> AsyncIterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Yield numbers and vectors, shapes (rows,) and (rows, dimension), some at a time."""
    connection = table.searcher
    async with connection.transaction(readonly=True):
        cursor = await connection.cursor(f"select chunk_id, embedding from {table.full_name}")  # noqa: S608 -- a name of our own
        while rows := await cursor.fetch(_ROWS_AT_ONCE):
            numbers = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
            yield numbers, np.stack([row[1] for row in rows])


async def build(
    table: TrialTable, design: Design, *, memory: int, slot: int = 1
) -> tuple[float, int]:
    """Build the index of a design, in the place of the slot's last; return the seconds and its size."""
    connection = table.builder
    await connection.execute(f"drop index if exists ragline.{_name(table, slot)}")
    await connection.execute(
        "select pg_catalog.set_config('maintenance_work_mem', $1, false)", f"{memory // 1024}kB"
    )
    started = time.perf_counter()
    try:
        await connection.execute(index_statement(table, design, slot), timeout=None)
    except asyncpg.DiskFullError as error:
        raise PreconditionFailed(
            f"the index to be tried ({design}) did not fit the disk: {error}; nothing of it is left. "
            "Free space where the database lies"
        ) from error
    took = time.perf_counter() - started
    return took, await relation_bytes(table, _name(table, slot))


def _name(table: TrialTable, slot: int) -> str:
    return f"{table.name}_{_INDEX}_{slot:d}"


def index_statement(table: TrialTable, design: Design, slot: int = 1) -> str:
    """Return the statement that builds the index of a design."""
    schema, target = quoted(table.vector_schema), table.target
    if design.storage == "bit":
        of = f"({schema}.binary_quantize(embedding)::bit({target.dimension:d})) {schema}.bit_hamming_ops"
    else:
        cast = f"((embedding::{schema}.{design.storage}({target.dimension:d})))"
        column = "embedding" if design.storage == target.storage else cast
        of = f"{column} {schema}.{hnsw.operator_class(design.storage, target.metric)}"
    options = (
        f"lists = {design.lists:d}"
        if design.method == "ivfflat"
        else f"m = {design.m:d}, ef_construction = {design.ef_construction:d}"
    )
    return (
        f"create index {_name(table, slot)} on {table.full_name} "
        f"using {design.method} ({of}) with ({options}) where chunk_id <> {_NOBODY - slot:d}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """A filter as searches say it: a condition on `d`, a row of document, and what it binds."""

    condition: str
    values: tuple[object, ...]
    rows: int
    mode: str = "relaxed_order"


def search_statement(
    table: TrialTable,
    design: Design,
    k: int,
    breadth: int,
    filtered: Filtered | None = None,
    *,
    slot: int = 1,
) -> str:
    """Return the search of `db.statements`, over the copy; numbers and nothing else come back.

    Bound are what the filter binds, the vector, and the breadth as text.
    """
    target = table.target
    at = 1 + (len(filtered.values) if filtered else 0)
    name = "hnsw.ef_search" if design.method == "hnsw" else "ivfflat.probes"
    settings = f"pg_catalog.set_config('{name}', ${at + 1:d}, true)"
    passes = ""
    if filtered:
        settings += (
            f"|| pg_catalog.set_config('hnsw.iterative_scan', '{filtered.mode}', true) {FAR}"
        )
        passes = f"""and (select {filtered.condition}
                from chunk c join document d on d.id = c.document_id where c.id = e.chunk_id)"""  # noqa: S608
    if design.storage == "bit":
        return _reranked(table, k, breadth, settings, slot)
    cast = f"(embedding::{design.storage}({target.dimension:d}))"
    column = "embedding" if design.storage == target.storage else cast
    distance = (
        f"{column} {OPERATORS[target.metric]} ${at:d}::{design.storage}({target.dimension:d})"
    )
    walked = f"""
        select e.chunk_id, {distance} as distance
        from {table.full_name} e
        where (select {settings}) is not null and e.chunk_id <> {_NOBODY - slot:d} {passes}
        order by {distance}
        limit {max(k, filtered.rows) if filtered else k:d}
    """  # noqa: S608 -- built from constants and integers only
    if filtered is None:
        return walked
    return f"select * from ({walked}) as walked order by distance, chunk_id limit {k:d}"  # noqa: S608


def _reranked(table: TrialTable, k: int, breadth: int, settings: str, slot: int) -> str:
    """One bit of each number finds the candidates, the vectors themselves sort them."""
    target = table.target
    bits = f"bit({target.dimension:d})"
    asked = f"$1::{target.storage}({target.dimension:d})"
    return f"""
        select chunk_id, embedding {OPERATORS[target.metric]} {asked} as distance
        from (
            select e.chunk_id, e.embedding
            from {table.full_name} e
            where (select {settings}) is not null and e.chunk_id <> {_NOBODY - slot:d}
            order by binary_quantize(e.embedding)::{bits} <~> binary_quantize({asked})::{bits}
            limit {breadth:d}
        ) as candidate
        order by distance
        limit {k:d}
    """  # noqa: S608 -- built from constants and integers only


def exact_statement(table: TrialTable, k: int) -> str:
    """Return the search that compares every vector."""
    target = table.target
    return f"""
        select chunk_id, distance from (
            select e.chunk_id, e.embedding {OPERATORS[target.metric]}
                   $1::{target.storage}({target.dimension:d}) as distance
            from {table.full_name} e offset 0
        ) as compared
        order by distance, chunk_id limit {k:d}
    """  # noqa: S608 -- built from constants and integers only


async def plan_of(table: TrialTable, sql: str, values: Sequence[object]) -> str:
    """Return how a search is done, as the server says it."""
    rows = await table.searcher.fetch(f"explain (costs off) {sql}", *values)
    return "\n".join(row[0] for row in rows)


def is_indexed(plan: str, table: TrialTable, slot: int = 1) -> bool:
    """Whether a plan walks the index that is tried."""
    return _name(table, slot) in plan


async def allowed(
    table: TrialTable, condition: str, values: Sequence[object]
) -> npt.NDArray[np.int64]:
    """Return the numbers of all chunks that a condition on their document `d` keeps, sorted."""
    rows = await table.searcher.fetch(
        f"""
        select c.id from document d join chunk c on c.document_id = d.id
        where d.collection_id = {table.target.collection_id:d} and ({condition})
        """,  # noqa: S608 -- composed by db.filters, values bound
        *values,
    )
    return np.sort(np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows)))


def storages(table: TrialTable) -> Mapping[str, bool]:
    """Return which storages an index of this collection can have on this server."""
    target, has_halves = table.target, table.version >= (0, 7)
    return {
        "vector": target.storage == "vector" and target.dimension <= hnsw.LARGEST["vector"],
        "halfvec": has_halves and target.dimension <= hnsw.LARGEST["halfvec"],
        "bit": has_halves and target.metric != "l2",
    }

"""Embedding spaces beside the one in use: made, filled, put in its place, dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.db import locks, queries
from ragline.db.documents import ChunkText
from ragline.db.pool import Connection
from ragline.errors import LockTimeout

_T = TypeVar("_T")

# A waiting lock on `chunk` holds up every search behind it: briefly, and again.
_SHORT_MS = 200
_SHORT_TRIES = 15
_PAUSE_S = 0.1
_PAGE, _USABLE = 8192, 8168
# An entry of the primary key, whose pages are filled to nine tenths.
_KEY = 20 / 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSpace:
    """What an embedding space is to be."""

    model_id: str
    weights_hash: str
    dimension: int
    metric: str
    storage: str
    normalised: bool
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """An embedding space of a collection, in use or not."""

    id: int
    collection_id: int
    is_active: bool
    facts: NewSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection with all its spaces, oldest first."""

    id: int
    name: str
    language: str
    spaces: tuple[Space, ...]

    @property
    def active(self) -> Space | None:
        """The space that searches use."""
        return next((space for space in self.spaces if space.is_active), None)

    def like(self, facts: NewSpace) -> Space | None:
        """Return the space that is just so; the one in use before others."""
        fitting = [space for space in self.spaces if space.facts == facts]
        return next((s for s in fitting if s.is_active), fitting[0] if fitting else None)


async def collection(connection: Connection, name: str) -> Collection | None:
    """Return a collection with its spaces, or None where there is none of that name."""
    row = await connection.fetchrow(queries.block("spaces", "collection_of"), name)
    if row is None:
        return None
    rows = await connection.fetch(queries.block("spaces", "spaces_of"), row["id"])
    return Collection(
        id=row["id"], name=name, language=row["language"], spaces=tuple(map(_space, rows))
    )


def _space(row: asyncpg.Record) -> Space:
    return Space(
        id=row["id"],
        collection_id=row["collection_id"],
        is_active=row["is_active"],
        facts=NewSpace(
            model_id=row["model_id"],
            weights_hash=row["weights_hash"],
            dimension=row["dimension"],
            metric=row["metric"],
            storage=row["storage"],
            normalised=row["normalised"],
            languages=tuple(row["languages"]),
        ),
    )


async def create_beside(
    connection: Connection, name: str, facts: NewSpace, *, lock_timeout_ms: int
) -> Space | None:
    """Return a collection's space that is just so, made if need be; None without the collection.

    Made again, it is the same one. Its index will be built as that of the space in use.
    """
    known = await collection(connection, name)
    if known is None:
        return None

    async def make() -> None:
        now = await collection(connection, name)
        if now is None or now.like(facts):
            return
        sql = queries.block("spaces", "make_space")
        id_ = await connection.fetchval(
            sql,
            now.id,
            facts.model_id,
            facts.weights_hash,
            facts.dimension,
            facts.metric,
            facts.storage,
            facts.normalised,
            list(facts.languages),
        )
        if now.active:
            graph = queries.block("spaces", "take_over_graph")
            await connection.execute(graph, id_, now.active.id)

    # Not by locking the collection's row: writers want it while they hold what we wait for.
    async with locks.held(connection, "spaces", known.id):
        await at_a_good_moment(connection, make, lock_timeout_ms=lock_timeout_ms)
    made = await collection(connection, name)
    return made.like(facts) if made else None


async def missing(connection: Connection, space: Space) -> int:
    """Return how many chunks of its collection a space lacks."""
    sql = f"""
        select pg_catalog.count(*) from ragline.chunk c
        where c.collection_id = $1
          and (select true from {_table(space)} e where e.chunk_id = c.id) is null
    """  # noqa: S608 -- an integer
    count: int = await connection.fetchval(sql, space.collection_id, timeout=None)
    return count


async def lock(connection: Connection, collection_id: int) -> bool:
    """Keep all writers of a collection out for this transaction; False where there is none.

    Who is writing a document is waited for; who comes later waits for us.
    """
    row = await connection.fetchrow(queries.block("spaces", "lock_collection"), collection_id)
    return row is not None


async def switch(connection: Connection, space: Space) -> None:
    """Let searches use another space from the commit on."""
    sql = queries.block("spaces", "switch_space")
    await connection.execute(sql, space.collection_id, space.id)


async def drop(connection: Connection, space: Space, *, lock_timeout_ms: int) -> bool:
    """Drop a space with its vectors; False when it is in use, or another process fills it just now.

    For a moment nobody reads or writes chunks: their table loses a foreign key.
    """
    async with locks.tried(connection, "space", space.id) as is_ours:
        if not is_ours:
            return False
        statement = queries.block("spaces", "drop_space")
        done = await at_a_good_moment(
            connection,
            lambda: connection.execute(statement, space.id),
            lock_timeout_ms=lock_timeout_ms,
        )
        return done == "DELETE 1"


async def sample(
    connection: Connection, space: Space, size: int
) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Return chunks with their vectors, the oldest and the newest ones."""
    half = size // 2
    sql = f"""
        (select chunk_id, embedding from {_table(space)} order by chunk_id limit {size - half:d})
        union all
        (select chunk_id, embedding from {_table(space)} order by chunk_id desc limit {half:d})
    """  # noqa: S608 -- integers
    return [(row[0], row[1]) for row in await connection.fetch(sql)]


async def tokens_and_chunks(connection: Connection, collection_id: int) -> tuple[int, int]:
    """Return how many tokens, by our own estimate, and chunks a collection has."""
    row = await connection.fetchrow(queries.block("spaces", "space_size"), collection_id)
    return (0, 0) if row is None else (row["tokens"], row["chunks"])


async def some_chunks(connection: Connection, collection_id: int, size: int) -> list[ChunkText]:
    """Return the first chunks of a collection."""
    sql = queries.block("spaces", "sample_chunks")
    rows = await connection.fetch(sql, collection_id, size)
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def table_bytes(facts: NewSpace, vectors: int) -> int:
    """Return about how much the table of a space takes, with its key."""
    datum = 8 + facts.dimension * (4 if facts.storage == "vector" else 2)
    row = -(-(32 + datum) // 8) * 8 + 4
    # What does not fit a page is cut into pieces of 2,000 bytes, out of line.
    each = _PAGE / (_USABLE // row) if row <= _USABLE else datum * 1.05 + 100
    return round(vectors * (each + _KEY))


async def settle(connection: Connection, space: Space) -> None:
    """Tell the planner what a fill brought, unless it was told before."""
    sql = "select reltuples < 0 from pg_catalog.pg_class where oid = $1::text::regclass"
    if await connection.fetchval(sql, _table(space)):
        await connection.execute(f"vacuum (analyze) {_table(space)}", timeout=None)


async def at_a_good_moment(
    connection: Connection, ask: Callable[[], Awaitable[_T]], *, lock_timeout_ms: int
) -> _T:
    """Return what `ask` does in a transaction, waiting for locks in many short pieces.

    The last try waits for all of `lock_timeout_ms`: long enough for a vacuum to give way.
    """
    tries = [min(_SHORT_MS, lock_timeout_ms)] * _SHORT_TRIES + [lock_timeout_ms]
    for timeout_ms in tries:
        try:
            async with connection.transaction():
                await set_lock_timeout(connection, timeout_ms)
                return await ask()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(_PAUSE_S)
    raise LockTimeout(
        f"a lock was not free in {len(tries)} tries, the last of {lock_timeout_ms} ms; nothing was "
        "changed: it is safe to repeat when less is written"
    )


async def set_lock_timeout(connection: Connection, timeout_ms: int) -> None:
    """Wait no longer than this for a lock in the transaction under way."""
    sql = "select pg_catalog.set_config('lock_timeout', $1, true)"
    await connection.execute(sql, f"{timeout_ms:d}ms")


def _table(space: Space) -> str:
    return f"ragline.embedding_{space.id:d}"

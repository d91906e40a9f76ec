"""Collections and their embedding spaces as rows."""

from __future__ import annotations

import json

import asyncpg

from ragline.core import access, attached
from ragline.core.access import Calibration
from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.core.search_policy import SearchPolicy
from ragline.db import attached_state, locks, queries
from ragline.db.pool import Connection, quoted
from ragline.db.texts import is_text


async def one(connection: Connection, name: str) -> CollectionFacts | None:
    """Return a collection, or None where there is none of that name."""
    if not is_text(name):
        return None
    row = await connection.fetchrow(queries.block("collections", "one_collection"), name)
    return None if row is None else await attached_state.counted(connection, _facts(row))


async def every(connection: Connection) -> list[CollectionFacts]:
    """Return all collections by name."""
    rows = await connection.fetch(queries.block("collections", "all_collections"))
    return [await attached_state.counted(connection, _facts(row)) for row in rows]


async def space(
    connection: Connection, space_id: int, *, slot: int | None = None
) -> SpaceFacts | None:
    """Return a space as it is searched through a slot, or its own; None where there is none such."""
    row = await connection.fetchrow(queries.block("collections", "one_space"), space_id, slot)
    return None if row is None else _space(row)


async def add(
    connection: Connection, name: str, *, language: str, chunk_size: int, chunk_overlap: int
) -> bool:
    """Make a collection; False when the name is taken."""
    sql = queries.block("collections", "add_collection")
    made = await connection.fetchval(sql, name, language, chunk_size, chunk_overlap)
    return made is not None


async def remove(connection: Connection, name: str) -> bool:
    """Remove a collection with everything in it; False when there is none of that name."""
    if not is_text(name):
        return False
    sql = queries.block("collections", "remove_collection")
    gone = await locks.again_after_a_deadlock(lambda: connection.fetchval(sql, name))
    return gone is not None


async def add_space(
    connection: Connection,
    collection_id: int,
    *,
    model_id: str,
    weights_hash: str,
    dimension: int,
    metric: str,
    storage: str,
    normalised: bool,
    languages: tuple[str, ...],
    indexed: bool,
) -> bool:
    """Make a collection's first space and its table; False when another process was faster."""
    async with connection.transaction():
        # One at a time: the loser finds the winner's space instead of leaving an orphan.
        await connection.execute(
            "select 1 from collection where id = $1 for no key update", collection_id
        )
        sql = "select active_space_id from collection where id = $1"
        if await connection.fetchval(sql, collection_id) is not None:
            return False
        space_id = await connection.fetchval(
            queries.block("collections", "add_space"),
            collection_id,
            model_id,
            weights_hash,
            dimension,
            metric,
            storage,
            normalised,
            list(languages),
            indexed,
        )
        await connection.fetchval(
            queries.block("collections", "activate_space"), collection_id, space_id
        )
    return True


async def index_state(
    connection: Connection, space_id: int, slot: int | None = None
) -> bool | None:
    """Return whether the HNSW index in a slot of a space is valid; None when there is none.

    Without a slot it is the one that searches use.
    """
    sql = queries.block("collections", "space_index")
    valid: bool | None = await connection.fetchval(sql, space_id, slot)
    return valid


async def build_index(connection: Connection, space_id: int, slot: int | None = None) -> bool:
    """Build the HNSW index in a slot of a space without stopping writers; False when none can hold it.

    What an interrupted build left behind is INVALID and would be skipped for ever: it goes first.
    """
    found = await connection.fetchrow(queries.block("collections", "space_index"), space_id, slot)
    if found is not None and found["valid"]:
        return True
    if found is not None:
        await connection.execute(
            f"drop index concurrently if exists ragline.{quoted(found['name'])}", timeout=None
        )
    sql = await connection.fetchval(
        queries.block("collections", "space_index_statement"), space_id, slot
    )
    if sql is None:
        return False
    await connection.execute(sql, timeout=None)
    return bool(await index_state(connection, space_id, slot))


async def keep_calibration(connection: Connection, space_id: int, calibration: Calibration) -> None:
    """Store what was measured of a space, in the place of what was before."""
    await connection.execute(
        queries.block("collections", "keep_calibration"),
        space_id,
        calibration.exact_chunks,
        json.dumps(access.to_json(calibration)),
        calibration.chunks,
    )


async def raise_epoch(connection: Connection, collection_id: int) -> None:
    """Say that searches of a collection may find other things now."""
    await connection.execute(queries.block("collections", "raise_epoch"), collection_id)


async def analyze(connection: Connection, space_id: int | None) -> None:
    """Tell the planner what a large ingest brought, instead of waiting for autovacuum."""
    await connection.execute(f"analyze {_written(space_id)}, term, collection_statistic")


async def tidy(connection: Connection, space_id: int | None) -> None:
    """Vacuum what an ingest wrote and a fold rewrote, now instead of when autovacuum comes by.

    Indexes alone answer only what is known to be visible to all.
    """
    await connection.execute(f"vacuum (analyze) {_written(space_id)}", timeout=None)


def _written(space_id: int | None) -> str:
    tables = "attribute, chunk, document, posting_block, fresh_chunk, dead_chunk, term_statistic"
    return tables if space_id is None else f"{tables}, embedding_{space_id:d}"


def _facts(row: asyncpg.Record) -> CollectionFacts:
    return CollectionFacts(
        id=row["id"],
        name=row["name"],
        language=row["language"],
        chunk_size=row["chunk_size"],
        chunk_overlap=row["chunk_overlap"],
        epoch=row["epoch"],
        created_at=row["created_at"],
        documents=row["documents"],
        chunks=row["chunks"],
        space=None if row["space_id"] is None else _space(row),
        search_version=row["search_version"],
        policy=_policy(row),
        attached=None
        if row["attached"] is None
        else attached.from_json(json.loads(row["attached"])),
    )


def _space(row: asyncpg.Record) -> SpaceFacts:
    return SpaceFacts(
        id=row["space_id"],
        model_id=row["model_id"],
        weights_hash=row["weights_hash"],
        dimension=row["dimension"],
        metric=row["metric"],
        storage=row["storage"],
        normalised=row["normalised"],
        languages=tuple(row["languages"]),
        calibration=_calibration(row),
        index_slot=row["index_slot"],
        index_storage=row["index_storage"],
        index_m=row["index_m"],
        index_ef_construction=row["index_ef_construction"],
    )


def _policy(row: asyncpg.Record) -> SearchPolicy:
    weight = row["vector_weight"]
    return SearchPolicy(
        k=row["k"],
        # Stored in 4 bytes, 0.7 comes back as 0.699999988.
        vector_weight=None if weight is None else round(weight, 6),
        ef_search=row["ef_search"],
        iterative=row["iterative"],
        early_exit=row["early_exit"],
    )


def _calibration(row: asyncpg.Record) -> Calibration | None:
    if row["exact_chunks"] is None:
        return None
    return Calibration(
        exact_chunks=row["exact_chunks"],
        levels=access.levels_from_json(json.loads(row["levels"])),
        chunks=row["calibrated_chunks"],
    )

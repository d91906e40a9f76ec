"""Indexes and tables as the catalog knows them. Nothing is written, and a replica answers too.

Connections come from `pool.session`, whose search path is the catalog alone: what definitions say
depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from ragline.core.index_facts import (
    VECTOR_METHODS,
    IndexFacts,
    LockedTable,
    ServerFacts,
    TableFacts,
    VectorColumn,
)
from ragline.db import queries
from ragline.db.attached_sql import ON_TRIAL, TRIAL_SLOT
from ragline.db.pool import Db, quoted
from ragline.errors import RaglineError

_SLOTS = {"_0": 0, "": 1, "_2": 2}


async def locked(db: Db) -> list[LockedTable]:
    """Return the tables about which one cannot ask without a wait."""
    return [LockedTable(**row) for row in await db.fetch(queries.block("inventory", "locked"))]


async def indexes(db: Db, *, without: Sequence[LockedTable] = ()) -> list[IndexFacts]:
    """Return every index outside the catalog, in the order of their names.

    It waits for tables that are locked, unless they are left out. `cached_share` is None: looking into
    the cache costs more than all the rest; see `cached_blocks`.
    """
    rows = await db.fetch(queries.block("inventory", "indexes"), [table.oid for table in without])
    used = await _collections(db)
    return [_index(row, used.get(row["table_oid"], ())) for row in rows if _is_there(row)]


async def tables(db: Db, *, without: Sequence[LockedTable] = ()) -> list[TableFacts]:
    """Return every table and materialized view outside the catalog, in the order of their names."""
    rows = await db.fetch(queries.block("inventory", "tables"), [table.oid for table in without])
    used = await _collections(db)
    return [_table(row, used.get(row["oid"], ())) for row in rows]


async def server(db: Db, *, memory_bytes: int | None = None) -> ServerFacts:
    """Return what the server says of itself as far as indexes depend on it.

    `memory_bytes` is that of its machine where the caller knows it.
    """
    row = await db.fetchrow(queries.block("inventory", "server"))
    if row is None:
        raise RaglineError("the server did not say what it is")
    facts = dict(row) | {name: _number(row[name]) for name in ("ef_search", "probes")}
    return ServerFacts(**facts, memory_bytes=memory_bytes)


async def cached_blocks(db: Db) -> tuple[Mapping[int, int], str | None]:
    """Return how many blocks of each index are in shared_buffers, or why nobody may tell."""
    schema = await db.fetchval(queries.block("inventory", "buffer_cache_schema"))
    if schema is None:
        return {}, "pg_buffercache is not installed: `create extension pg_buffercache`"
    view = f"{quoted(schema)}.pg_buffercache"
    try:
        rows = await db.fetch(
            f"""
            select c.oid, count(*) as blocks
            from {view} b
            join pg_catalog.pg_class c on pg_catalog.pg_relation_filenode(c.oid) = b.relfilenode
            where c.relkind = 'i' and b.relforknumber = 0
              and b.reldatabase = (
                  select oid from pg_catalog.pg_database
                  where datname = pg_catalog.current_database()
              )
            group by c.oid
            """  # noqa: S608 -- the name of an extension's schema
        )
    except asyncpg.InsufficientPrivilegeError as error:
        return {}, f"{error}: `grant pg_monitor` to this user"
    except asyncpg.QueryCanceledError as error:
        return {}, f"it took too long: {error}"
    return {row["oid"]: row["blocks"] for row in rows}, None


async def unread_collections(db: Db) -> str | None:
    """Return why collections are not read although ragline is here; None where they are, or it is not.

    Whoever may make a schema `ragline` could have us run what is in it, with a superuser's rights.
    """
    complaint = await db.fetchval(queries.block("catalog", "complaint"))
    if complaint is not None:
        return str(complaint)
    known = await db.fetchrow(queries.block("inventory", "knows_collections"))
    if known is None or not known["are_here"]:
        return None
    if not known["are_tables"]:
        return "ragline's tables are not those that it made, so they were not read"
    if not known["are_readable"]:
        return "this user may not read ragline's schema: see role.privileges of `ragline doctor`"
    return None


async def _collections(db: Db) -> Mapping[int, Sequence[asyncpg.Record]]:
    """Return which collections are searched in which table; none where that may not be read."""
    if await unread_collections(db) is not None:
        return {}
    known = await db.fetchrow(queries.block("inventory", "knows_collections"))
    if known is None or not known["are_here"]:
        return {}
    found: dict[int, list[asyncpg.Record]] = {}
    for row in await db.fetch(queries.block("inventory", "collections_of_tables")):
        found.setdefault(row["table_oid"], []).append(row)
    return found


def _is_there(row: asyncpg.Record) -> bool:
    """Whether it was not dropped while we asked: what it is made of is looked up as it is now."""
    parts = (row["definition"], *row["keys"], *row["included"])
    return all(part is not None for part in parts) and len(row["operator_classes"]) > 0


def _index(row: asyncpg.Record, used: Sequence[asyncpg.Record]) -> IndexFacts:
    is_vector = row["method"] in VECTOR_METHODS
    own = next((one for one in used if not one["is_attached"]), None)
    slot = _slot(row["table"], row["name"]) if own and is_vector else None
    is_searched = None if own is None or slot is None else _is_searched(own, slot)
    if used and own is None and ON_TRIAL.search(row["keys"][0]):
        slot, is_searched = TRIAL_SLOT, False
    facts = dict(row)
    kind, modifier = facts.pop("key_type"), facts.pop("key_modifier")
    for name in ("operator_classes", "keys", "key_rules", "included"):
        facts[name] = tuple(facts[name])
    facts["options"] = tuple(_pair(one) for one in facts["options"] or ())
    return IndexFacts(
        **facts,
        dimension=_dimension(modifier) if is_vector else None,
        vector_type=kind if is_vector else None,
        collections=tuple(one["collection"] for one in used),
        metrics=tuple(one["metric"] for one in used if one["metric"]),
        slot=slot,
        is_searched=is_searched,
    )


def _table(row: asyncpg.Record, used: Sequence[asyncpg.Record]) -> TableFacts:
    facts = dict(row)
    vectors = tuple(
        VectorColumn(name=name, type=kind, dimension=_dimension(int(modifier)))
        for name, kind, modifier in facts.pop("vectors")
    )
    return TableFacts(
        **facts,
        vectors=vectors,
        collections=tuple(one["collection"] for one in used),
        is_searched=facts["schema"] != "ragline" or any(one["is_active"] for one in used),
    )


def _is_searched(space: asyncpg.Record, slot: int) -> bool:
    return bool(space["is_active"]) and space["index_slot"] == slot


def _slot(table: str, name: str) -> int | None:
    return _SLOTS.get(name.removeprefix(f"{table}_hnsw")) if table in name else None


def _dimension(modifier: int) -> int | None:
    return modifier if modifier > 0 else None


def _pair(option: str) -> tuple[str, str]:
    name, _, value = option.partition("=")
    return name, value


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None

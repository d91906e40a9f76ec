"""Indexes as the catalog knows them: definitions, validity, sizes, slots, builds under way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import asyncpg

from ragline.core import hnsw
from ragline.core.hnsw import Built, Graph, Storage
from ragline.core.index_definition import IndexDefinition
from ragline.db import queries
from ragline.db.pool import Db, quoted
from ragline.errors import UsageError

OWN_SCHEMA = "ragline"
_SCHEMA = OWN_SCHEMA
_PROBE = "probe_of_an_index"
_PROBE_INDEX = "probed_index"
_PREDICATE = re.compile(r"\(chunk_id <> '?-(\d)'?(?:::\w+)?\)")
_DEFAULTS = {"m": 16, "ef_construction": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The space in which a collection is searched, as far as its indexes depend on it."""

    collection: str
    id: int
    dimension: int
    metric: str
    storage: Storage
    index_slot: int
    vectors: int
    vector_schema: str

    @property
    def table(self) -> str:
        """The table of its vectors, in schema ragline."""
        return f"embedding_{self.id:d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """A slot of a space. `described` is how its index is to be built; `graph` what is there.

    `graph` is None where nothing is there, or something that no search of this slot could use.
    """

    slot: int
    name: str
    described: Graph | None
    graph: Graph | None
    is_there: bool
    is_valid: bool
    size_bytes: int

    @property
    def serves(self) -> Graph | None:
        """What answers the searches of this slot; None where nothing does."""
        return self.graph if self.is_valid else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdinaryIndex:
    """An index of a table. `definition` is what `pg_get_indexdef` says."""

    name: str
    table: str
    is_valid: bool
    definition: str
    constraint: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build is. `phase` None: it waits for its first lock, or has just ended."""

    phase: str | None
    is_waiting: bool
    blockers: tuple[int, ...]
    blocks: tuple[int, int]
    tuples: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A backend that builds an index."""

    pid: int
    application: str
    user: str


async def space(db: Db, collection: str) -> Space | None:
    """Return the space of a collection; its id is 0 without one. None without the collection."""
    row = await db.fetchrow(queries.block("indexes", "searched_space"), collection)
    if row is None:
        return None
    return Space(
        collection=collection,
        id=row["space_id"] or 0,
        dimension=row["dimension"] or 0,
        metric=row["metric"] or "",
        storage=row["storage"] or "vector",
        index_slot=row["index_slot"] or 0,
        vectors=row["vectors"],
        vector_schema=row["vector_schema"] or "public",
    )


async def slots(db: Db, space: Space) -> tuple[VectorIndex, VectorIndex, VectorIndex]:
    """Return the slots 0, 1 and 2 of a space."""
    rows = await db.fetch(queries.block("indexes", "vector_indexes"), space.id)
    first, second, third = (_slot(space, row) for row in rows)
    return first, second, third


async def statement(db: Db, space: Space, slot: int) -> str | None:
    """Return the statement that builds the index of a slot as it is described."""
    sql: str | None = await db.fetchval(queries.block("indexes", "slot_statement"), space.id, slot)
    return sql


def composed(space: Space, graph: Graph) -> str:
    """Return the statement for a slot that is not described yet; `statement` would say the same."""
    plain = re.fullmatch("[a-z_][a-z0-9_]*", space.vector_schema)
    schema = space.vector_schema if plain else quoted(space.vector_schema)
    cast = f"(embedding::{schema}.halfvec({space.dimension:d}))"
    column = "embedding" if graph.storage == space.storage else cast
    return (
        f"create index concurrently {name_of(space, graph.slot)} on {_SCHEMA}.{space.table} "
        f"using hnsw ({column} "
        f"{schema}.{hnsw.operator_class(graph.storage, space.metric)}) "
        f"with (m = {graph.m:d}, ef_construction = {graph.ef_construction:d})"
        + ("" if graph.slot == 0 else f" where chunk_id <> -{graph.slot:d}")
    )


def name_of(space: Space, slot: int) -> str:
    """Return the name of the index in a slot."""
    return f"{space.table}_hnsw" + ("_0", "", "_2")[slot]


async def describe(db: Db, space_id: int, graph: Graph) -> None:
    """Write down how the index of a slot is to be built."""
    await db.execute(
        queries.block("indexes", "describe_slot"),
        space_id, graph.slot, graph.storage, graph.m, graph.ef_construction,
    )  # fmt: skip


async def forget(db: Db, space_id: int, slot: int) -> None:
    """Remove the description of a slot, unless searches use it."""
    await db.execute(queries.block("indexes", "forget_slot"), space_id, slot)


async def switch(db: Db, space: Space, slot: int) -> None:
    """Let searches use the index of a slot."""
    await db.execute(queries.block("indexes", "switch_slot"), space.id, slot)


async def ordinary(db: Db, name: str, schema: str = OWN_SCHEMA) -> OrdinaryIndex | None:
    """Return an index; None where there is none of that name.

    What its definition says depends on the search path: `db` has nothing but the catalog in it.
    """
    row = await db.fetchrow(queries.block("indexes", "ordinary_index"), name, schema)
    return None if row is None else OrdinaryIndex(**row)


async def names(db: Db, table: str, schema: str = OWN_SCHEMA) -> list[str]:
    """Return the names of a table's indexes."""
    rows = await db.fetch(queries.block("indexes", "indexes_of_table"), table, schema)
    return [row["name"] for row in rows]


async def written(db: Db, name: str) -> str:
    """Return a name as the server writes it in a definition."""
    sql: str = await db.fetchval("select pg_catalog.quote_ident($1)", name)
    return sql


async def may_index(db: Db, schema: str, table: str) -> asyncpg.Record | None:
    """Return what the user of a session may do about a table's indexes; None without the table."""
    return await db.fetchrow(queries.block("indexes", "may_index"), schema, table)


async def table_kind(db: Db, schema: str, table: str) -> str | None:
    """Return what a relation is: "table", "view", …; None where there is none."""
    kind: str | None = await db.fetchval(queries.block("indexes", "table_kind"), schema, table)
    return kind


async def table_bytes(db: Db, table: str) -> int | None:
    """Return the size of a table without its indexes; None without the table."""
    size: int | None = await db.fetchval(queries.block("indexes", "table_bytes"), table)
    return size


async def normalised(
    db: Db, wanted: IndexDefinition, schema: str = OWN_SCHEMA, *, path: str | None = None
) -> str:
    """Return a definition as the server would give it back, by making it on an empty copy.

    `path` is where its names are looked for, when that is not the catalog alone. Nothing stays: the
    copy is a temporary one, and rolled back. Raises UsageError with what the server says against it.
    """
    probe, real = quoted(_PROBE), f"{quoted(schema)}.{quoted(wanted.table)}"
    transaction = db.transaction()
    await transaction.start()
    try:
        await db.execute(f"create temp table {probe} (like {real})")
        # As one of one, so that nothing can follow it. Its own name may be an index that is there.
        if path is not None:
            await db.fetch("select pg_catalog.set_config('search_path', $1, true)", path)
        await db.fetch(replace(wanted, name=_PROBE_INDEX).on(f"pg_temp.{probe}"))
        if path is not None:
            await db.fetch("set local search_path = pg_catalog, pg_temp")
        row = await db.fetchrow(
            queries.block("indexes", "probed_index"),
            await db.fetchval("select $1::text::regclass::oid", f"pg_temp.{probe}"),
            _PROBE_INDEX,
        )
        names = await db.fetchrow(
            "select pg_catalog.quote_ident($1), pg_catalog.quote_ident($2), "
            "pg_catalog.quote_ident($3)",
            wanted.name, schema, wanted.table,
        )  # fmt: skip
    except asyncpg.PostgresError as error:
        raise UsageError(
            f"the server does not take the definition of index {wanted.name!r}: {error}. Names that "
            "are not PostgreSQL's own need their schema"
        ) from error
    finally:
        await transaction.rollback()
    if row is None or names is None or row["is_elsewhere"]:
        raise UsageError(
            f"the definition of index {wanted.name!r} names a tablespace; leave it out"
        )
    definition: str = row["definition"]
    name, in_schema, table = names
    # PostgreSQL before 15 calls the schema by its number: pg_temp_3.
    probed = rf"INDEX {_PROBE_INDEX} ON pg_temp(_[0-9]+)?\.{_PROBE} "
    return re.sub(probed, lambda _: f"INDEX {name} ON {in_schema}.{table} ", definition, count=1)


async def was_changed(db: Db, definition: str) -> bool:
    """Whether a change has made an index of this definition, or taken one away."""
    found: bool = await db.fetchval(queries.block("indexes", "definition_in_ledger"), definition)
    return found


async def rename(db: Db, pairs: Sequence[tuple[str, str]], schema: str = OWN_SCHEMA) -> None:
    """Give indexes other names, all or none."""
    async with db.transaction():
        for old, new in pairs:
            await db.execute(f"alter index {quoted(schema)}.{quoted(old)} rename to {quoted(new)}")


async def drop(db: Db, name: str, schema: str = OWN_SCHEMA) -> None:
    """Drop an index without stopping anybody; none is all right."""
    await db.execute(
        f"drop index concurrently if exists {quoted(schema)}.{quoted(name)}", timeout=None
    )


async def progress(db: Db, pid: int) -> Progress | None:
    """Return how far the build of a backend is; None when the backend is gone."""
    row = await db.fetchrow(queries.block("indexes", "build_progress"), pid)
    if row is None:
        return None
    blockers = [*row["blockers"], *([row["locker"]] if row["locker"] else [])]
    return Progress(
        phase=row["phase"],
        is_waiting=bool(row["is_waiting"]),
        blockers=tuple(dict.fromkeys(blockers)),
        blocks=(row["blocks_done"] or 0, row["blocks_total"] or 0),
        tuples=(row["tuples_done"] or 0, row["tuples_total"] or 0),
    )


async def writers(db: Db, table: str, schema: str = OWN_SCHEMA) -> frozenset[tuple[int, str]]:
    """Return the process and the name of every transaction that has written to a table."""
    return _transactions(await db.fetch(queries.block("indexes", "writers"), table, schema))


async def users(db: Db, name: str, schema: str = OWN_SCHEMA) -> frozenset[tuple[int, str]]:
    """Return the process and the name of every transaction that has used the table of an index."""
    return _transactions(await db.fetch(queries.block("indexes", "users"), name, schema))


async def in_flight(db: Db, name: str, schema: str = OWN_SCHEMA) -> list[Build]:
    """Return the backends that build an index of this name now."""
    rows = await db.fetch(queries.block("indexes", "builds_in_flight"), name, schema)
    return [
        Build(pid=row["pid"], application=row["application_name"] or "", user=row["usename"] or "")
        for row in rows
    ]


async def stop(db: Db, pid: int, *, within_ms: int) -> bool:
    """End a backend; return whether it is gone."""
    gone: bool = await db.fetchval(queries.block("indexes", "stop_backend"), pid, within_ms)
    return gone


async def build_memory(db: Db) -> int:
    """Return the server's maintenance_work_mem in bytes."""
    size: int = await db.fetchval(queries.block("indexes", "build_memory"))
    return size


async def last_build(db: Db, space: Space) -> Built | None:
    """Return what the latest build of a space's index took, if the ledger has one."""
    row = await db.fetchrow(queries.block("indexes", "last_build"), space.table)
    if row is None:
        return None
    return Built(seconds=row["seconds"], ef_construction=row["ef_construction"])


def _transactions(rows: Sequence[asyncpg.Record]) -> frozenset[tuple[int, str]]:
    return frozenset((row["pid"], row["transaction"]) for row in rows)


def _slot(space: Space, row: asyncpg.Record) -> VectorIndex:
    described = None
    if row["storage"] is not None:
        described = Graph(
            slot=row["slot"],
            storage=row["storage"],
            m=row["m"],
            ef_construction=row["ef_construction"],
        )
    return VectorIndex(
        slot=row["slot"],
        name=row["name"],
        described=described,
        graph=_graph(space, row) if row["is_there"] else None,
        is_there=row["is_there"],
        is_valid=row["is_valid"],
        size_bytes=row["size_bytes"] or 0,
    )


def _graph(space: Space, row: asyncpg.Record) -> Graph | None:
    storage = next(
        (
            one
            for one in hnsw.allowed_storages(space.storage, space.dimension)
            if hnsw.operator_class(one, space.metric) == row["operator_class"]
        ),
        None,
    )
    found = _PREDICATE.fullmatch(row["predicate"] or "")
    slot = int(found[1]) if found else 0 if row["predicate"] is None else None
    if row["method"] != "hnsw" or storage is None or slot is None or slot != row["slot"]:
        return None
    if row["is_cast"] != (storage != space.storage):
        return None
    return Graph(slot=slot, storage=storage, **built_with(row["options"]))


def built_with(options: Sequence[str] | None) -> dict[str, int]:
    """Return `m` and `ef_construction` of an HNSW index from its options."""
    said = dict(option.split("=", 1) for option in options or ())
    return {name: int(said.get(name, usual)) for name, usual in _DEFAULTS.items()}

"""The vector indexes of attached tables, as the catalog knows them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from ragline.core import attached as attachments
from ragline.core import hnsw
from ragline.core.attached import Attached
from ragline.core.hnsw import Graph, Storage
from ragline.db import queries
from ragline.db.attached_sql import TRIAL_SLOT
from ragline.db.indexes import built_with, describe
from ragline.db.pool import Db
from ragline.errors import NotFound

PRODUCTION_SLOT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedSpace:
    """An attached table's vectors, as far as their indexes depend on it.

    `held` is what the column is of. `described` says which index production's searches are written
    for; they take the cheapest that there is of its storage. `rows` is the server's estimate. `others`
    are collections of the same vectors with their spaces: an index of the table serves all of them.
    """

    collection: str
    collection_id: int
    id: int
    attached: Attached
    dimension: int
    metric: str
    held: Storage
    described: Graph
    vector_schema: str
    rows: int
    quoted: Mapping[str, str]
    others: tuple[tuple[str, int, int], ...] = ()

    @property
    def collections(self) -> tuple[str, ...]:
        """This collection, and those that share the table's indexes with it."""
        return self.collection, *(name for name, _, _ in self.others)

    @property
    def space_ids(self) -> tuple[int, ...]:
        """Their spaces."""
        return self.id, *(space_id for _, _, space_id in self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableIndex:
    """A vector index of the table. `graph` is None unless it is an HNSW index that searches can use.

    `slot` is the one whose searches can use it; None where none can.
    """

    name: str
    method: str
    definition: str
    is_valid: bool
    slot: int | None
    storage: Storage | None
    graph: Graph | None
    is_partial: bool = False


async def space(db: Db, collection: str) -> AttachedSpace | None:
    """Return an attached collection's space; None where the collection is no attached one.

    Raises NotFound where its table is gone, or another one by now.
    """
    row = await db.fetchrow(queries.block("indexes", "attached_space"), collection)
    if row is None:
        return None
    attached = attachments.from_json(json.loads(row["description"]))
    if not row["is_there"] and row["is_called"] is not None:
        raise NotFound(
            f"table {attached.schema}.{attached.table} of collection {collection!r} is called "
            f"{row['is_called']} now: name it back, or run `ragline detach {collection}` and attach "
            "it again"
        )
    if not row["is_there"]:
        raise NotFound(
            f"table {attached.schema}.{attached.table} of collection {collection!r} was dropped or made "
            f"anew: run `ragline detach {collection}`, and attach the new one"
        )
    if row["space_id"] is None or row["vector_schema"] is None:
        raise NotFound(f"collection {collection!r} has no vectors")
    names = [attached.schema, attached.table, attached.embedding, row["vector_schema"]]
    quoted = await db.fetch(queries.block("indexes", "quoted_names"), names)
    return AttachedSpace(
        collection=collection,
        collection_id=row["collection_id"],
        id=row["space_id"],
        attached=attached,
        dimension=row["dimension"],
        metric=row["metric"],
        held=row["held"],
        described=Graph(
            slot=PRODUCTION_SLOT,
            storage=row["index_storage"],
            m=row["m"],
            ef_construction=row["ef_construction"],
        ),
        vector_schema=row["vector_schema"],
        rows=row["rows"],
        quoted={name: one["quoted"] for name, one in zip(names, quoted, strict=True)},
        others=tuple(
            (one["name"], one["collection_id"], one["space_id"])
            for one in await db.fetch(queries.block("indexes", "sharing_a_table"), row["space_id"])
        ),
    )


async def rival(db: Db, space: AttachedSpace) -> int | None:
    """Return a change that is not over yet, about the index that another collection shares."""
    found: int | None = await db.fetchval(
        queries.block("indexes", "change_of_an_index"), [name for name, _, _ in space.others]
    )
    return found


async def indexes_of(db: Db, space: AttachedSpace) -> tuple[TableIndex, ...]:
    """Return the vector indexes of the table, by name."""
    rows = await db.fetch(
        queries.block("indexes", "vector_indexes_of_table"),
        space.attached.schema,
        space.attached.table,
    )
    return tuple(_index(space, row) for row in rows)


async def describe_production(db: Db, space: AttachedSpace, graph: Graph) -> None:
    """Let searches be written for an index of this storage from now on."""
    async with db.transaction():
        for space_id in space.space_ids:
            await describe(db, space_id, graph)
        for collection_id in (space.collection_id, *(one for _, one, _ in space.others)):
            await db.execute(queries.block("indexes", "raise_search_version"), collection_id)


def definition(space: AttachedSpace, name: str, graph: Graph) -> str:
    """Return what `pg_get_indexdef` says of an index once it is built. `name` is SQL already."""
    schema = space.quoted[space.vector_schema]
    table = ".".join(space.quoted[one] for one in (space.attached.schema, space.attached.table))
    found = _expression(space, graph.slot, graph.storage)
    column = found if found == space.quoted[space.attached.embedding] else f"({found})"
    operators = hnsw.operator_class(graph.storage, space.metric)
    return (
        f"CREATE INDEX {name} ON {table} USING hnsw ({column} {schema}.{operators}) "
        f"WITH (m='{graph.m:d}', ef_construction='{graph.ef_construction:d}')"
    )


def _expression(space: AttachedSpace, slot: int, storage: str) -> str:
    """Return the expression of a slot as the server writes it: `db.attached_sql.vector`."""
    column = space.quoted[space.attached.embedding]
    schema, dimension = space.quoted[space.vector_schema], space.dimension
    if slot == TRIAL_SLOT:
        inner = f"{schema}.{space.held}({column}, {dimension:d}, false)"
        return f"({inner})::{schema}.{storage}({dimension:d})"
    if space.attached.is_typed and storage == space.held:
        return column
    return f"({column})::{schema}.{storage}({dimension:d})"


def _index(space: AttachedSpace, row: asyncpg.Record) -> TableIndex:
    slot, storage = _serves(space, row)
    graph = None
    if row["method"] == "hnsw" and slot is not None and storage is not None:
        graph = Graph(slot=slot, storage=storage, **built_with(row["options"]))
    return TableIndex(
        name=row["name"],
        method=row["method"],
        definition=re.sub(r" TABLESPACE \S+$", "", row["definition"]),
        is_valid=row["is_valid"],
        slot=slot,
        storage=storage,
        graph=graph,
        is_partial=row["is_partial"],
    )


def _serves(space: AttachedSpace, row: asyncpg.Record) -> tuple[int | None, Storage | None]:
    if row["is_partial"]:
        return None, None
    for storage in hnsw.allowed_storages(space.held, space.dimension):
        for slot in (PRODUCTION_SLOT, TRIAL_SLOT):
            if (row["operator_class"], row["expression"]) == (
                hnsw.operator_class(storage, space.metric),
                _expression(space, slot, storage),
            ):
                return slot, storage
    return None, None

"""Every search can go through the index of its own slot, and no search through another one's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import numpy as np
import pytest

from ragline.db import search, statements
from ragline.db.pool import Connection
from ragline.db.search import Ask
from ragline.db.targets import Scope, Target
from ragline.rag.app import App

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
WALKED = Scope(
    condition="(d.metadata ->> 'part') = $1::text",
    lookup=None,
    parameters=1,
    is_small=False,
    rows=20,
)


@dataclass(frozen=True)
class Kind:
    """A space, and what the index in a slot of it holds."""

    metric: str
    storage: str
    dimension: int
    slot: int
    held: str


KINDS = [
    Kind("cosine", "vector", 8, 1, "vector"),
    Kind("cosine", "vector", 8, 2, "halfvec"),
    Kind("cosine", "vector", 8, 0, "vector"),
    Kind("l2", "vector", 8, 2, "vector"),
    Kind("l2", "halfvec", 8, 2, "halfvec"),
    Kind("inner_product", "vector", 8, 2, "halfvec"),
    Kind("inner_product", "halfvec", 8, 1, "halfvec"),
    Kind("cosine", "vector", 2001, 1, "halfvec"),
    Kind("l2", "vector", 4000, 2, "halfvec"),
]


async def made(db: Db, kind: Kind) -> Target:
    collection = await db.fetchval(
        "insert into collection (name, language, chunk_size, chunk_overlap) "
        "values ('kb', 'english', 100, 0) returning id"
    )
    space = await db.fetchval(
        "select create_space($1, 'm', 'w', $2, $3, $4, false, '{}', false)",
        collection,
        kind.dimension,
        kind.metric,
        kind.storage,
    )
    await db.execute(
        "insert into space_index (space_id, slot, storage) values ($1, $2, $3) "
        "on conflict (space_id, slot) do update set storage = excluded.storage",
        space,
        kind.slot,
        kind.held,
    )
    await db.execute(
        await db.fetchval("select space_index_statement($1, $2, false)", space, kind.slot)
    )
    return Target(
        collection="kb",
        collection_id=collection,
        space_id=space,
        dimension=kind.dimension,
        metric=kind.metric,
        storage=kind.storage,
        slot=kind.slot,
        index_storage=kind.held,
    )


async def access(
    connection: Connection, target: Target, method: Any, scope: Scope | None
) -> str | None:
    """How the vectors would be read by a plan for any values, if an index can be used at all."""
    ask = Ask(
        k=10,
        candidates=20,
        ef_search=40,
        terms=("word",),
        vector=np.ones(target.dimension, np.float32),
        scope=scope,
        scope_values=("7",) if scope else (),
    )
    sql = statements.statement(target, method, ask.k, ask.candidates, scope=scope)
    async with connection.transaction():
        for name, value in (("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")):
            await connection.execute("select set_config($1, $2, true)", name, value)
        plan = await connection.fetchval(
            f"explain (format json) {sql}", *search.values(method, ask)
        )
    return search.vector_access(json.loads(plan)[0])


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_each_method_uses_the_index_of_its_slot_and_no_other(
    app: App, db: Db, kind: Kind
) -> None:
    target = await made(db, kind)
    name = await db.fetchval("select space_index_name($1, $2)", target.space_id, kind.slot)
    elsewhere = Target(
        **{
            **{field: getattr(target, field) for field in Target.__slots__},
            "slot": 2 if kind.slot == 1 else 1,
        }
    )

    ways = (("vector", None), ("hybrid", None), ("vector", WALKED), ("hybrid", WALKED))
    async with (await app.pool("admin")).connection() as connection:
        for way in ways:
            assert await access(connection, target, *way) == f"Index Scan {name}", way
            found = await access(connection, elsewhere, *way)
            # An index from before there were slots has no predicate, and serves any search.
            assert (found == f"Index Scan {name}") is (kind.slot == 0), (way, found)

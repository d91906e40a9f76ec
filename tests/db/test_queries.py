"""Every statement that ragline sends is prepared against the schema, as the role that sends it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias, get_args

import asyncpg
import pytest

from conftest import connect
from ragline.core.budget import ROLES, WORKLOADS, Workload
from ragline.core.dsn import Dsn
from ragline.core.results import Method
from ragline.db import cluster, queries, statements
from ragline.db.search import Target
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_STORAGES = ("vector", "halfvec")
_METRICS = ("cosine", "l2", "inner_product")
_DIMENSIONS = (1, 384, 2000, 2001, 4000, 4001, 16000)
_SPACES = list(itertools.product(_STORAGES, _METRICS, _DIMENSIONS))
_NUMBERED = list(enumerate(_SPACES, start=1))


@pytest.fixture(scope="module")
async def database(template: Dsn) -> AsyncIterator[Dsn]:
    """A database with a space of every kind; their ids count in the order of _SPACES."""
    async with own_database(template) as dsn:
        db = await connect(dsn)
        await db.execute(
            "insert into collection (name, chunk_size, chunk_overlap) values ('kb', 256, 32)"
        )
        for number, (storage, metric, dimension) in enumerate(_SPACES, start=1):
            sql = "select create_space(1, 'm', 'w', $1, $2, $3, true, '{}', true)"
            assert await db.fetchval(sql, dimension, metric, storage) == number
        await db.close()
        yield dsn


@pytest.fixture(scope="module")
async def sessions(database: Dsn) -> AsyncIterator[dict[str, Db]]:
    opened: dict[str, Db] = {w: await connect(database.login(ROLES[w], None)) for w in WORKLOADS}
    opened["user"] = await connect(database)
    await opened["user"].execute(cluster._MAKE)
    yield opened
    for db in opened.values():
        await db.close()


_FILES = [path.stem for path in sorted((Path(queries.__file__).parent / "sql").glob("*.sql"))]
_BLOCKS = [(file, name) for file in _FILES for name in queries.blocks(file)]
# Indexes are built by ingest from the command line, which works as admin.
_ADMIN_ONLY = {
    "describe_slot", "drop_space", "forget_policy", "forget_slot", "keep_calibration", "keep_policy",
    "raise_epoch", "raise_search_version", "rebuild_postings", "slot_statement",
    "space_index_statement", "switch_slot", "take_over_graph", "vector_indexes",
}  # fmt: skip

# "user" is who the DSN names: settings and roles are beyond the roles of workloads.
_WHO = {
    "backups": ("admin",),
    "evals": ("eval", "admin"), "ledger": ("admin",), "cluster": ("user",), "server": ("user",),
    "evidence": ("user",), "doctor": ("user",),
    "snapshots": ("admin", "user"), "inventory": ("user",),
    "attachments": ("user",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("workload", "file", "name"),
    [
        (workload, file, name)
        for file, name in _BLOCKS
        for workload in _WHO.get(file, ("serve", "admin"))
        if workload != "serve" or name not in _ADMIN_ONLY
    ],
)
async def test_block_fits_the_schema(
    sessions: dict[str, Db], workload: str, file: str, name: str
) -> None:
    sql = queries.block(file, name)
    prepared = await sessions[workload].prepare(sql)
    # `explain` checks the role's rights, which preparing alone does not.
    nulls = ", ".join("null" for _ in prepared.get_parameters())
    await sessions[workload].execute(f"prepare fits as {sql}")
    try:
        await sessions[workload].execute(f"explain execute fits{f'({nulls})' if nulls else ''}")
    finally:
        await sessions[workload].execute("deallocate fits")


@pytest.mark.parametrize("workload", ["serve", "eval", "memory", "read", "admin"])
@pytest.mark.parametrize(("space", "kind"), _NUMBERED)
async def test_search_fits_the_schema_for_every_role_that_searches(
    sessions: dict[str, Db],
    workload: Workload,
    space: int,
    kind: tuple[str, str, int],
) -> None:
    storage, metric, dimension = kind
    target = Target(
        collection="kb",
        collection_id=1,
        space_id=space,
        dimension=dimension,
        metric=metric,
        storage=storage,
    )
    methods: tuple[Method, ...] = get_args(Method)
    for method, is_iterative in itertools.product(methods, (False, True)):
        sql = statements.statement(target, method, 10, 100, is_iterative=is_iterative)
        prepared = await sessions[workload].prepare(sql)
        assert len(prepared.get_parameters()) == {"vector": 2, "lexical": 1, "hybrid": 3}[method]


@pytest.mark.parametrize(("space", "kind"), _NUMBERED)
async def test_search_uses_the_index_of_its_space_where_there_is_one(
    sessions: dict[str, Db], space: int, kind: tuple[str, str, int]
) -> None:
    storage, metric, dimension = kind
    target = Target(
        collection="kb",
        collection_id=1,
        space_id=space,
        dimension=dimension,
        metric=metric,
        storage=storage,
    )
    db = sessions["serve"]
    sql = statements.statement(target, "vector", 10, 100, is_iterative=False)
    vector = "[" + ",".join(["1"] * dimension) + "]"
    sql = sql.replace("$1", f"'{vector}'::{storage}").replace("$2", "'100'")
    async with db.transaction():
        await db.execute("set local enable_seqscan = off; set local enable_sort = off")
        plan = "\n".join(row[0] for row in await db.fetch(f"explain (costs off) {sql}"))
    assert (f"embedding_{space}_hnsw" in plan) == (dimension <= 4000), plan[:2000]

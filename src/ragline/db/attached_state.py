"""Attached tables as searches and lists find them: whether they are still there, and how many rows."""

from __future__ import annotations

import json
from dataclasses import replace

import asyncpg

from ragline.core.results import CollectionFacts
from ragline.db import attached_sql, queries
from ragline.db.pool import Connection

# Up to so many rows are counted; beyond, the planner's estimate is close enough.
COUNTED_ROWS = 10_000
# Counted by the server, a moment later; after a crash it begins anew, which is a change like others.
_WRITES = """
    select pg_catalog.pg_stat_get_tuples_inserted(t.oid) + pg_catalog.pg_stat_get_tuples_updated(t.oid)
         + pg_catalog.pg_stat_get_tuples_deleted(t.oid)
    from (select $1::text::regclass::oid as oid) as t
"""
# The table was dropped or altered a moment ago, or its rights were taken.
_ALTERED = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError, asyncpg.DataError)


async def why_not(connection: Connection, facts: CollectionFacts) -> str | None:
    """Return why an attached table cannot be searched any more, and what to do; None when it can."""
    if facts.attached is None:
        return None
    row = await connection.fetchrow(queries.block("collections", "attached_state"), facts.id)
    name, where = facts.name, f"{facts.attached.schema}.{facts.attached.table}"
    again = f"run `ragline detach {name} --yes`, then attach it again"
    if row is None:
        return f"collection {name!r} was detached meanwhile"
    if not row["is_there"]:
        if row["is_another"]:
            return f"table {where} of collection {name!r} was dropped and made again: {again}"
        return (
            f"table {where} of collection {name!r} was dropped: run `ragline detach {name} --yes`"
        )
    if (row["schema"], row["table"]) != (facts.attached.schema, facts.attached.table):
        moved = f"{row['schema']}.{row['table']}"
        return f"table {where} of collection {name!r} is called {moved} now: {again}"
    if not row["may_read"]:
        return f"ragline's roles may no longer read table {where} of collection {name!r}: {again}"
    if row["has_row_security"]:
        return (
            f"row-level security was switched on for table {where} of collection {name!r}, and searches "
            "here are not those of a user of its application: switch it off, or run `ragline detach "
            f"{name} --yes`"
        )
    return None


async def counted(connection: Connection, facts: CollectionFacts) -> CollectionFacts:
    """Return an attached collection with its number of rows: exact up to 10,000, else estimated.

    Its epoch rises with every row that is written, as that of others does.
    """
    if facts.attached is None or await why_not(connection, facts) is not None:
        return facts
    from_ = attached_sql.table(facts.attached)
    source = f"from {from_} t where {attached_sql.belongs(facts.attached)}"
    sql = f"select count(*) from (select 1 {source} limit {COUNTED_ROWS + 1:d}) as s"  # noqa: S608
    try:
        count: int = await connection.fetchval(sql)
        if count > COUNTED_ROWS:
            count = max(count, await _estimate(connection, source))
        writes: int = await connection.fetchval(_WRITES, from_)
    except _ALTERED:
        return facts  # a search says it in full
    return replace(facts, documents=count, chunks=count, epoch=facts.epoch + writes)


async def _estimate(connection: Connection, source: str) -> int:
    plan = await connection.fetchval(f"explain (format json) select 1 {source}")
    return int(json.loads(plan)[0]["Plan"]["Plan Rows"])

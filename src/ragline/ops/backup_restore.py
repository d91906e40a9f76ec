"""Putting a backup back beside what is there: into a new schema, or a new database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import asyncpg

from ragline.core.dsn import Dsn
from ragline.db import backups, pool, queries
from ragline.db.backups import Backup
from ragline.db.pool import quoted
from ragline.errors import Conflict, PreconditionFailed, UsageError
from ragline.ops import backup as making
from ragline.ops import scratch

How = Literal["schema", "database", "in-place"]
Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_QUEUE = 16
_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a restore in place would do to one table."""

    table: str
    inserted: int
    updated: int
    newer: int
    """Rows that are there and not in the backup: they would be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did, or would do; `differences` only in place."""

    backup: Backup
    how: How
    target: str
    is_applied: bool
    rows: dict[str, int]
    differences: tuple[Difference, ...] = ()
    refused: str | None = None


async def into_schema(dsn: Dsn, backup: Backup, schema: str, *, is_applied: bool) -> Restored:
    """Make tables with a backup's rows in a new schema, in one transaction: types, not null and keys."""
    _check_name(schema, "schema")
    names = [table.split(".", 1)[1] for table in backup.tables]
    if len(set(names)) < len(names):
        raise UsageError(
            "two tables of this backup have one name in two schemas; restore into a database "
            "(--into-database)"
        )
    async with pool.session(dsn, "admin") as session:
        if await session.fetchval("select pg_catalog.to_regnamespace($1)", quoted(schema)):
            raise Conflict(f"there is a schema {schema!r} already; name one that is not there")
        if is_applied:
            await _fill_schema(session, dsn, backup, schema)
        else:
            await making.check_file(backup)
    return Restored(
        backup=backup, how="schema", target=schema, is_applied=is_applied, rows=rows_of(backup)
    )


def _check_name(name: str, what: str) -> None:
    if not name or len(name.encode()) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(
            f"{name[:80]!r} cannot name a {what}: 1 to {_LONGEST_NAME} bytes of printable characters"
        )
    if name.startswith(("pg_", scratch.PREFIX)):
        raise UsageError(
            f"{name!r} cannot name a {what}: what begins with 'pg_' is PostgreSQL's, and with "
            f"{scratch.PREFIX!r} it would be dropped by the next command; take another name"
        )


async def _fill_schema(session: Session, dsn: Dsn, backup: Backup, schema: str) -> None:
    async with making.restored(dsn, backup) as there, pool.session(there, "admin") as source:
        tables = backups.chosen(await backups.tables(source), backup.tables)
        async with plain_texts(session), plain_texts(source):
            await session.execute(f"create schema {quoted(schema)}")
            for table in tables:
                target = f"{quoted(schema)}.{quoted(table.name)}"
                columns = await source.fetch(queries.block("backups", "columns"), table.oid)
                said = ", ".join(
                    f"{quoted(c['name'])} {c['type']}{' not null' if c['is_required'] else ''}"
                    for c in columns
                )
                await session.execute(f"create table {target} ({said})")
                names = [column["name"] for column in columns]
                await copy_rows(source, session, table.rows, names, (schema, table.name))
                await _counted(session, target, backup, table.plain)


async def _counted(session: Session, target: str, backup: Backup, table: str) -> None:
    rows = await session.fetchval(f"select count(*) from {target}")  # noqa: S608 - quoted
    if rows != backup.contents[table]["rows"]:
        raise PreconditionFailed(
            f"{rows} rows of {table} arrived, and the backup has {backup.contents[table]['rows']}; "
            "nothing was kept"
        )


async def into_database(dsn: Dsn, backup: Backup, name: str, *, is_applied: bool) -> Restored:
    """Make a database with the whole schema and a backup's rows; named only when it is whole."""
    _check_name(name, "database")
    async with pool.session(dsn, "admin") as session:
        if await session.fetchval(
            "select exists (select from pg_catalog.pg_database where datname = $1)", name
        ):
            raise Conflict(f"there is a database {name!r} already; name one that is not there")
        await making.check_file(backup)
        if is_applied:
            async with making.beside(dsn, backup) as there:
                await _fill_database(there, backup)
                await session.execute(
                    f"alter database {quoted(there.database)} rename to {quoted(name)}"
                )
    return Restored(
        backup=backup, how="database", target=name, is_applied=is_applied, rows=rows_of(backup)
    )


async def _fill_database(there: Dsn, backup: Backup) -> None:
    await making.fill(there, backup, "--section=pre-data", "--section=data")
    async with pool.session(there, "admin") as session:
        seen = await backups.contents(session, backup.tables)
    if any(seen[table] != backup.contents[table] for table in backup.tables):
        raise PreconditionFailed(
            f"backup {backup.said} does not hold what it should; nothing was kept"
        )
    await making.fill(there, backup, "--section=post-data")


def rows_of(backup: Backup) -> dict[str, int]:
    """Return how many rows of each table a backup holds."""
    return {table: int(backup.contents[table]["rows"]) for table in backup.tables}


@asynccontextmanager
async def plain_texts(session: Session) -> AsyncIterator[None]:
    """Hold a transaction in which values have one spelling, so that texts mean the same elsewhere."""
    async with session.transaction():
        await spell_plainly(session)
        yield


async def spell_plainly(session: Session) -> None:
    """Have values one spelling until the transaction ends."""
    for name, value in backups.SPELLING:
        await session.fetchval("select pg_catalog.set_config($1, $2, true)", name, value)


async def copy_rows(
    source: Session,
    target: Session,
    table: str,
    columns: Sequence[str],
    into: tuple[str | None, str],
) -> None:
    """Copy the rows of a table from one database to another, without holding them in memory."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=_QUEUE)
    said = ", ".join(quoted(name) for name in columns)

    async def arriving() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    async def send() -> None:
        query = f"select {said} from {table}"  # noqa: S608 - identifiers are quoted
        await source.copy_from_query(query, output=pieces.put)
        await pieces.put(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(
            target.copy_to_table(
                into[1], schema_name=into[0], columns=list(columns), source=arriving()
            )
        )

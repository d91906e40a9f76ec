"""Backups as rows, and what tables hold: how many rows, and a hash of all of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from ragline.core.dsn import missing, nearest
from ragline.db import queries
from ragline.db.pool import Db, quoted
from ragline.errors import Conflict, NotFound, UsageError

LOCK_WAIT_MS = 10_000
_PIECE = 4 * 1024 * 1024
_SET_LOCAL = "select pg_catalog.set_config($1, $2, true)"
# What the text of a value depends on.
SPELLING = (
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("lc_monetary", "C"),
    ("search_path", "pg_catalog, pg_temp"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
)
_WHAT = {
    "f": "a foreign table: its rows are on another server, back them up there",
    "v": "a view: it holds no rows, name the tables that it reads",
    "m": "a materialized view: its rows are made of other tables, name those",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup: where its file is, and what each table held. Tables are "schema.table"."""

    id: int
    name: str | None
    tables: tuple[str, ...]
    path: str
    size_bytes: int
    sha256: str
    contents: Mapping[str, Mapping[str, Any]]
    server_version: str
    created_at: datetime
    by_user: str
    verified_at: datetime | None
    verification: Mapping[str, Any] | None

    @property
    def said(self) -> str:
        return self.name or str(self.id)

    def only(self, tables: Sequence[str]) -> Backup:
        """Return the backup as one of some of its tables."""
        for table in tables:
            if table not in self.tables:
                like = nearest(table, list(self.tables))
                raise NotFound(missing("table", table, [like] if like else self.tables))
        return replace(self, tables=tuple(one for one in self.tables if one in tables))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the database. `parts` are the oids of its partitions, at every depth."""

    oid: int
    schema: str
    name: str
    kind: str
    is_partition: bool
    bytes: int
    parts: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    """In the order of their names: after a restore an heir may have them in another."""

    @property
    def plain(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def rows(self) -> str:
        """Where its own rows are: those of tables that inherit from it are not its own."""
        return self.sql if self.kind == "p" else f"only {self.sql}"


async def tables(connection: Db) -> list[Table]:
    """Return the tables, views and foreign tables of all schemas but PostgreSQL's own."""
    async with connection.transaction():
        # The size of a table waits for whoever changes it.
        if await connection.fetchval("select current_setting('lock_timeout') = '0'"):
            await connection.fetchval(_SET_LOCAL, "lock_timeout", f"{LOCK_WAIT_MS}ms")
        rows = await connection.fetch(queries.block("backups", "relations"))
    children: dict[int, list[int]] = {}
    for row in rows:
        if row["parent"] is not None:
            children.setdefault(row["parent"], []).append(row["oid"])

    def below(oid: int) -> tuple[int, ...]:
        return tuple(part for child in children.get(oid, []) for part in (child, *below(child)))

    return [
        Table(
            oid=row["oid"],
            schema=row["schema"],
            name=row["name"],
            kind=row["kind"],
            is_partition=row["is_partition"],
            bytes=row["bytes"] or 0,
            parts=below(row["oid"]),
            columns=tuple(row["columns"] or ()),
        )
        for row in rows
    ]


def chosen(known: Sequence[Table], names: Sequence[str]) -> list[Table]:
    """Return the tables that are named, each once; a sentence for what is none, or has no rows."""
    found = {table.oid: table for name in names for table in [_named(known, name)]}
    inside = {part for table in found.values() for part in table.parts}
    return [table for oid, table in found.items() if oid not in inside]


def _named(known: Sequence[Table], name: str) -> Table:
    fitting = [one for one in known if name in (one.plain, one.name)]
    exact = [one for one in fitting if one.plain == name] or fitting
    if not exact:
        names = [one.plain for one in known if one.kind in ("r", "p")]
        like = nearest(name, names)
        raise NotFound(
            f"{missing('table', name, [like] if like else names)}; names are schema.table, in the "
            "letters that the database has"
        )
    if len(exact) > 1:
        raise UsageError(
            f"there are {len(exact)} tables {name!r}: {', '.join(one.plain for one in exact)}; name "
            "the schema too"
        )
    table = exact[0]
    if table.kind in _WHAT:
        raise UsageError(f"{table.plain} is {_WHAT[table.kind]}")
    if "." in table.schema or "." in table.name:
        raise UsageError(
            f"{table.schema!r}.{table.name!r} has a dot in its name, which backups cannot say apart; "
            "rename it, or back it up with pg_dump by hand"
        )
    return table


async def contents(
    connection: Db, names: Sequence[str], *, known: Sequence[Table] | None = None
) -> dict[str, dict[str, Any]]:
    """Return how many rows tables have, and a hash of them that does not depend on their order.

    Asks as the connection's user, who must be allowed to see every row.
    """
    known = await tables(connection) if known is None else known
    found: dict[str, dict[str, Any]] = {}
    async with connection.transaction():
        for name, value in SPELLING:
            await connection.fetchval(_SET_LOCAL, name, value)
        for table in chosen(known, names):
            row = await connection.fetchrow(_content_of(table))
            found[table.plain] = {"rows": row["rows"], "hash": row["hash"]} if row else {}
    return found


def _content_of(table: Table) -> str:
    # In 256 parts, so that no table's hashes have to fit into one value.
    row = ", ".join(f'"a row of it".{quoted(name)}' for name in table.columns)
    return f"""
        with hashed as (
            select pg_catalog.sha256(
                pg_catalog.convert_to(row({row})::pg_catalog.text, 'UTF8')
            ) as hash
            from {table.rows} as "a row of it"
        ), parted as (
            select pg_catalog.get_byte(hash, 0) as part, pg_catalog.count(*) as rows,
                   pg_catalog.sha256(
                       pg_catalog.string_agg(hash, ''::pg_catalog.bytea order by hash)
                   ) as hash
            from hashed group by 1
        )
        select coalesce(pg_catalog.sum(rows), 0)::pg_catalog.int8 as rows,
               pg_catalog.encode(pg_catalog.sha256(coalesce(
                   pg_catalog.string_agg(hash, ''::pg_catalog.bytea order by part),
                   ''::pg_catalog.bytea)), 'hex') as hash
        from parted
    """  # noqa: S608 - identifiers are quoted


# Rows of the table `backup`


async def add(
    connection: Db,
    *,
    name: str | None,
    path: Path,
    size_bytes: int,
    sha256: str,
    held: Mapping[str, Mapping[str, Any]],
    server_version: str,
) -> Backup:
    """Store a backup whose file is whole, and return it as it is stored."""
    try:
        id_ = await connection.fetchval(
            queries.block("backups", "add"),
            name,
            json.dumps(sorted(held)),
            str(path),
            size_bytes,
            sha256,
            json.dumps(held),
            server_version,
        )
    except asyncpg.UniqueViolationError:
        raise _taken(str(name)) from None
    return await one(connection, str(id_))


async def refuse_taken(connection: Db, name: str | None) -> None:
    """Refuse a name that another backup has."""
    if name is not None and await connection.fetchval(queries.block("backups", "name_taken"), name):
        raise _taken(name)


def _taken(name: str) -> Conflict:
    return Conflict(
        f"there is a backup {name!r} already; take another name, or `ragline backup remove {name}`"
    )


async def one(connection: Db, reference: str) -> Backup:
    """Return a backup by its number or name; NotFound says which there are."""
    row = await connection.fetchrow(queries.block("backups", "one"), reference)
    if row is None:
        known = [backup.said for backup in await every(connection, 50)]
        if not known:
            raise NotFound("there is no backup yet; `ragline backup create` makes one")
        raise NotFound(missing("backup", reference, known))
    return _backup(row)


async def every(connection: Db, limit: int | None = None) -> list[Backup]:
    """Return the backups, newest first."""
    rows = await connection.fetch(queries.block("backups", "every"), limit)
    return [_backup(row) for row in rows]


async def mark(connection: Db, backup: Backup, verification: Mapping[str, Any] | None) -> Backup:
    """Say that a backup was restored and compared, with what was seen; None takes that back."""
    said = None if verification is None else json.dumps(verification)
    await connection.execute(queries.block("backups", "verified"), backup.id, said)
    return await one(connection, str(backup.id))


async def relied_on_by(connection: Db, backup: Backup) -> list[int]:
    """Return the changes that were kept, or are open, whose undo takes rows from a backup."""
    rows = await connection.fetch(queries.block("backups", "relied_on_by"), backup.id)
    return [row["id"] for row in rows]


async def remove(connection: Db, backup: Backup) -> None:
    """Forget a backup; its file is another matter."""
    await connection.execute(queries.block("backups", "remove"), backup.id)


async def covering(
    connection: Db, tables: Sequence[str], *, before: datetime | None = None
) -> Backup | None:
    """Return the newest verified backup that holds all of some tables, or None.

    Its file has to be here, with the hash that it had.
    """
    for backup in await every(connection):
        is_early = before is None or backup.created_at < before
        if backup.verified_at is None or not is_early or not set(tables) <= set(backup.tables):
            continue
        if await asyncio.to_thread(what_is_wrong, backup) is None:
            return backup
    return None


def what_is_wrong(backup: Backup) -> str | None:
    """Return why the file of a backup is not what was written, or None."""
    path = Path(backup.path)
    try:
        size = path.stat().st_size
        if size == backup.size_bytes and _sha256(path) == backup.sha256:
            return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} is not the file that was written: its size or its hash is another"


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def _backup(row: asyncpg.Record) -> Backup:
    found = dict(row)
    for name in ("contents", "verification"):
        found[name] = None if found[name] is None else json.loads(found[name])
    found["tables"] = tuple(json.loads(found["tables"]))
    return Backup(**found)

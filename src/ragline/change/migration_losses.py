"""What a path of revisions may lose of what is in the database now, and what must be kept before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from ragline.change.kind import Site
from ragline.core import migration_locks
from ragline.core.dsn import Dsn
from ragline.core.migration_locks import Loss
from ragline.db import backups, ledger, pool, user_session
from ragline.db.backups import Backup
from ragline.errors import PreconditionFailed
from ragline.ops.alembic_scripts import Rendered

_Session = psycopg.Connection[Any]
FRESH_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """A loss of something that is really there. `table` is schema.table, without quotes."""

    loss: Loss
    table: str
    has_key: bool


def forward(path: Sequence[Rendered]) -> list[Loss]:
    """Return what revisions lose, but for what they made themselves."""
    made: set[str] = set()
    lost: list[Loss] = []
    for one in path:
        lost += [loss for loss in one.losses if not _is_of(loss, made)]
        made |= migration_locks.created(one.statements)
    return lost


def back(path: Sequence[Rendered], back: Sequence[Rendered]) -> list[Loss]:
    """Return what the way back would lose, but for what the way there makes."""
    made = {name for one in path for name in migration_locks.created(one.statements)}
    return [loss for one in back for loss in one.losses if not _is_of(loss, made)]


def _is_of(loss: Loss, made: set[str]) -> bool:
    if loss.table is None:
        return False
    table = migration_locks.plain(loss.table)
    columns = {f"{table}.{migration_locks.plain(one)}" for one in loss.columns}
    return table in made or bool(columns and columns <= made)


def real(dsn: Dsn, losses: Sequence[Loss]) -> list[Threat]:
    """Return the losses of what is there: an empty table, or a column of nulls, loses nothing."""
    with user_session.looking(dsn) as session:
        found: list[Threat] = []
        for loss in losses:
            found += _of_all(session) if loss.table is None else _of_one(session, loss)
        return list(dict.fromkeys(found))


def _of_all(session: _Session) -> list[Threat]:
    """What cannot be read may touch every table that is the user's own."""
    rows = session.execute(
        """
        select n.nspname::text, c.relname::text from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and not c.relispartition
          and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'ragline')
          and not exists (select from pg_catalog.pg_depend d
                          where d.objid = c.oid and d.deptype = 'e')
        """
    ).fetchall()
    found: list[Threat] = []
    for schema, name in rows:
        full = f"{pool.quoted(schema)}.{pool.quoted(name)}"
        if name != "alembic_version":
            found += _of_one(session, Loss(kind="unknown", table=full))
    return found


def _of_one(session: _Session, loss: Loss) -> list[Threat]:
    row = session.execute(
        """
        select c.oid, n.nspname::text, c.relname::text,
               exists (select from pg_catalog.pg_index where indrelid = c.oid and indisprimary)
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.oid = to_regclass(%s) and c.relkind in ('r', 'p')
        """,
        [loss.table],
    ).fetchone()
    if row is None:
        return []
    oid, schema, name, has_key = row
    if not _holds_something(session, loss, f"{pool.quoted(schema)}.{pool.quoted(name)}", oid):
        return []
    return [Threat(loss=loss, table=f"{schema}.{name}", has_key=has_key)]


def _holds_something(session: _Session, loss: Loss, full: str, oid: int) -> bool:
    if loss.kind in ("rows", "unknown"):
        return _exists(session, f"select exists (select from {full})")  # noqa: S608
    for said in loss.columns:
        row = session.execute(
            """
            select quote_ident(attname), format_type(atttypid, atttypmod)
            from pg_catalog.pg_attribute
            where attrelid = %s and attname = %s and attnum > 0 and not attisdropped
            """,
            [oid, migration_locks.plain(said)],
        ).fetchone()
        if row is None:
            continue
        if loss.kind == "type" and not migration_locks.narrows(row[1], loss.new_type):
            continue
        query = f"select exists (select from {full} where {row[0]} is not null)"  # noqa: S608
        if loss.kind == "values" or _exists(session, query):
            return _exists(session, f"select exists (select from {full})")  # noqa: S608
    return False


def _exists(session: _Session, query: str) -> bool:
    row = session.execute(query.encode()).fetchone()
    return bool(row and row[0])


async def refuse_unkept(
    site: Site, threats: Sequence[Threat], what: str
) -> tuple[list[str], dict[str, int]]:
    """Refuse to lose what no verified backup holds.

    Returns warnings that say what will be lost, and the number of the backup that holds each table.
    """
    if not threats:
        return [], {}
    named = "; ".join(dict.fromkeys(str(one.loss) for one in threats))
    if (bare := next((one for one in threats if not one.has_key), None)) is not None:
        raise PreconditionFailed(
            f"{what} may lose {bare.loss}, and {bare.table} has no primary key by which it could be "
            "put back: give it one first"
        )
    tables = sorted({one.table for one in threats})
    found = await covering(site, tables)
    if found is None:
        options = " ".join(f"--table {table}" for table in tables)
        raise PreconditionFailed(
            f"{what} may lose {named}, and no verified backup holds what is there now: run `ragline "
            f"backup create {options} --verify` first. Nothing was changed"
        )
    said = (
        f"{what} may lose {named}: backup {found.id} of {found.created_at:%Y-%m-%d %H:%M} holds it"
    )
    return [said], dict.fromkeys(tables, found.id)


async def covering(site: Site, tables: Sequence[str]) -> Backup | None:
    """Return the verified backup that counts: of the last hour, or with exactly what is there now."""
    admin = await site.app.pool("admin")
    async with admin.connection() as connection:
        found = await backups.covering(connection, tables)
    if found is None or datetime.now(UTC) - found.created_at <= FRESH_FOR:
        return found
    async with site.session() as session:
        there = await backups.contents(session, tables)
    is_same = all(there.get(table) == found.contents.get(table) for table in tables)
    return found if is_same else None


async def kept_before(
    site: Site, other_way: str, losses: Sequence[Loss]
) -> list[tuple[Backup, list[Loss]]]:
    """Return the backups made before the step that lost something, and what to put back from each.

    Nothing where nothing of this is being undone, or where nothing was there to be lost. Of code that
    could not be read, the rows come back. Raises PreconditionFailed where a backup is gone.
    """
    if not losses:
        return []
    admin = await site.app.pool("admin")
    async with admin.connection() as connection:
        before = await ledger.other_way(connection, other_way)
        if before is None or not before[1].get("backups"):
            return []
        began, relied_on = before[0], before[1]["backups"]
        named = await asyncio.to_thread(_named, site.dsn, losses)
        found: dict[int, tuple[Backup, list[Loss]]] = {}
        for table, loss in named:
            if table not in relied_on:
                continue
            kept = await backups.covering(connection, [table], before=began)
            if kept is None or kept.id < relied_on[table]:
                raise PreconditionFailed(
                    f"backup {relied_on[table]}, which holds what {table} lost, is gone or not what it "
                    "was: put its file back, then run `ragline change resume`"
                )
            found.setdefault(kept.id, (kept, []))[1].append(loss)
    return list(found.values())


def _named(dsn: Dsn, losses: Sequence[Loss]) -> list[tuple[str, Loss]]:
    """Return losses with their tables as a backup names them."""
    with user_session.looking(dsn) as session:
        row = session.execute("select current_schema()::text").fetchone()
        schema = str(row[0]) if row and row[0] else "public"
        found: list[tuple[str, Loss]] = []
        for loss in losses:
            if loss.table is not None:
                own, name = migration_locks.parted(loss.table)
                found.append((f"{own or schema}.{name}", loss))
            else:
                found += [
                    (one.table, Loss(kind="rows", table=one.loss.table)) for one in _of_all(session)
                ]
        return found


def plain_losses(losses: Sequence[Loss]) -> list[dict[str, Any]]:
    """Return losses as JSON knows them, for the arguments of a step."""
    return [
        {"kind": one.kind, "table": one.table, "columns": list(one.columns), "type": one.new_type}
        for one in losses
    ]


def from_plain(values: Sequence[dict[str, Any]]) -> list[Loss]:
    """Return what `plain_losses` wrote."""
    return [
        replace(
            Loss(kind=one["kind"], table=one["table"], columns=tuple(one["columns"])),
            new_type=one["type"],
        )
        for one in values
    ]

"""What a path of revisions may lose of what is in the database now, and what must be kept before it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from ragline.change import migration_reach
from ragline.change.kind import Site
from ragline.core import migration_sql, migration_statements, migration_types
from ragline.core.dsn import Dsn
from ragline.core.migration_statements import Loss, Statement
from ragline.db import backups, ledger, pool, user_session
from ragline.db.backups import Backup
from ragline.errors import PreconditionFailed
from ragline.ops.alembic_scripts import Rendered

_Session = psycopg.Connection[Any]
FRESH_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """A loss of something that is really there. `table` is schema.table, without quotes.

    `touches_key`: the key itself changes, by which rows would be put back.
    """

    loss: Loss
    table: str
    has_key: bool
    touches_key: bool = False


def forward(path: Sequence[Rendered]) -> list[Loss]:
    """Return what revisions lose, but for what they made themselves."""
    return [*_unread(path), *migration_statements.losses(_all(path))]


def back(path: Sequence[Rendered], back: Sequence[Rendered]) -> list[Loss]:
    """Return what the way back would lose, but for what the way there makes."""
    return migration_statements.losses(_all(back), _all(path))


def _all(path: Sequence[Rendered]) -> list[Statement]:
    return [statement for one in path for statement in one.statements]


def _unread(path: Sequence[Rendered]) -> list[Loss]:
    return [loss for one in path if one.why_not for loss in one.losses]


def real(dsn: Dsn, losses: Sequence[Loss], path: Sequence[Rendered] = ()) -> list[Threat]:
    """Return the losses of what is there: an empty table, or a column of nulls, loses nothing.

    What the statements of `path` do beyond their words is looked up: functions, triggers, foreign keys.
    """
    with user_session.looking(dsn) as session:
        # Rows that a policy hides are rows: this makes it an error to count without them.
        session.execute("set row_security = off")
        found: list[Threat] = []
        seen: set[Loss] = set()
        try:
            for loss in (*losses, *migration_reach.code(session, _all(path))):
                found += _of_one(session, loss, seen)
        except psycopg.errors.InsufficientPrivilege as error:
            raise PreconditionFailed(
                f"what is in the tables cannot be seen, and so not what would be lost: {error}. Use "
                "the user who owns them"
            ) from error
        return list(dict.fromkeys(found))


def _of_all(session: _Session, loss: Loss, seen: set[Loss]) -> list[Threat]:
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
            found += _of_one(session, Loss(kind="unknown", table=full, said=loss.said), seen)
    return found


def _of_one(session: _Session, loss: Loss, seen: set[Loss]) -> list[Threat]:
    if loss in seen:
        return []
    seen.add(loss)
    if loss.table is None:
        return _of_all(session, loss, seen)
    if loss.is_renamed:
        raise PreconditionFailed(
            f"{loss} would be lost after another name was given to it, and could not be put back under "
            "the old one: run the renaming as a change of its own first"
        )
    row = session.execute(_TABLE, [loss.table]).fetchone()
    if row is None:
        # What is not there cannot lose anything; or its name was not understood.
        unread = Loss(kind="unknown", table=None, said=f"something with {loss}")
        return [] if loss.is_lenient else _of_all(session, unread, seen)
    oid, schema, name, kind, key = row
    if kind == "v":
        return _of_all(session, Loss(kind="unknown", table=None, said=f"{loss}, a view"), seen)
    if kind == "f":
        raise PreconditionFailed(
            f"{schema}.{name} is a foreign table: its rows are on another server, where no backup of "
            "this one holds them. Change them there"
        )
    if kind not in ("r", "p"):
        return []
    found = []
    if _holds_something(session, loss, f"{pool.quoted(schema)}.{pool.quoted(name)}", oid):
        columns = {migration_sql.plain(one) for one in loss.columns}
        touches = loss.kind != "unknown" and bool(columns & set(key or ()))
        found.append(
            Threat(loss=loss, table=f"{schema}.{name}", has_key=bool(key), touches_key=touches)
        )
    for other in migration_reach.beside(session, oid, loss):
        found += _of_one(session, other, seen)
    return found


_TABLE = """
    select c.oid, n.nspname::text, c.relname::text, c.relkind::text,
           (select array_agg(a.attname::text) from pg_catalog.pg_index i
            join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
            where i.indrelid = c.oid and i.indisprimary)
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = to_regclass(%s)
"""


def _holds_something(session: _Session, loss: Loss, full: str, oid: int) -> bool:
    has_rows = _exists(session, f"select exists (select from {full})")  # noqa: S608
    if not has_rows or loss.kind in ("rows", "unknown") or not loss.columns:
        return has_rows
    for said in loss.columns:
        row = session.execute(
            """
            select quote_ident(attname), format_type(atttypid, atttypmod)
            from pg_catalog.pg_attribute
            where attrelid = %s and attname = %s and attnum > 0 and not attisdropped
            """,
            [oid, migration_sql.plain(said)],
        ).fetchone()
        if row is None:
            if loss.is_lenient:
                continue
            return True  # its name was not understood
        if loss.kind == "type" and not (
            loss.is_computed or migration_types.narrows(row[1], loss.new_type)
        ):
            continue
        query = f"select exists (select from {full} where {row[0]} is not null)"  # noqa: S608
        if loss.kind == "values" or _exists(session, query):
            return True
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
    if (bare := next((one for one in threats if one.touches_key), None)) is not None:
        raise PreconditionFailed(
            f"{what} may lose {bare.loss}, which are of the primary key of {bare.table}, by which rows "
            "are put back: it could not be taken back"
        )
    tables = sorted({one.table for one in threats})
    found = await covering(site, tables)
    if found is None:
        options = " ".join(f"--table {shlex.quote(table)}" for table in tables)
        raise PreconditionFailed(
            f"{what} may lose {named}, and no verified backup holds what is there now: run `ragline "
            f"backup create {options} --verify` first. Nothing was changed"
        )
    said = [
        f"{what} may lose {named}: backup {found.id} of {found.created_at:%Y-%m-%d %H:%M} holds it"
    ]
    async with site.session() as session:
        there = await backups.contents(session, tables)
    for table in tables:
        then, now = found.contents.get(table, {}), there.get(table, {})
        if then != now:
            written = (
                f"{table} was written to since backup {found.id} ({then.get('rows')} rows then, "
                f"{now.get('rows')} now): what was written since is in no backup"
            )
            said.append(written)
            site.say(written)  # an undo shows no plan
    return said, dict.fromkeys(tables, found.id)


async def covering(site: Site, tables: Sequence[str]) -> Backup | None:
    """Return the verified backup that counts: of the last hour, or with exactly what is there now."""
    async with site.admin() as connection:
        found = await backups.covering(connection, tables)
    if found is None or datetime.now(UTC) - found.created_at <= FRESH_FOR:
        return found
    async with site.session() as session:
        there = await backups.contents(session, tables)
    is_same = all(there.get(table) == found.contents.get(table) for table in tables)
    return found if is_same else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a step lost, and the backups that hold it. `window` is when it ran, in transactions."""

    backups: tuple[tuple[Backup, tuple[Loss, ...]], ...] = ()
    window: tuple[str, str] | None = None


async def kept_before(site: Site, other_way: str, losses: Sequence[Loss]) -> Kept:
    """Return the backups made before the step that lost something, and what to put back from each.

    Nothing where nothing of this is being undone, or where nothing was there to be lost. Of code that
    could not be read, rows and values come back. Raises PreconditionFailed where a backup is gone.
    """
    if not losses:
        return Kept()
    async with site.admin() as connection:
        before = await ledger.other_way(connection, other_way)
        if before is None or not before.arguments.get("backups"):
            return Kept()
        relied_on = before.arguments["backups"]
        found: dict[int, tuple[Backup, list[Loss]]] = {}
        for table, loss in await asyncio.to_thread(_named, site.dsn, losses, relied_on):
            kept = await backups.covering(connection, [table], before=before.began)
            if kept is None or kept.id < relied_on[table]:
                raise PreconditionFailed(
                    f"backup {relied_on[table]}, which holds what {table} lost, is gone or not what it "
                    "was: put its file back, then run `ragline change resume`"
                )
            found.setdefault(kept.id, (kept, []))[1].append(loss)
    window = (before.after, before.until) if before.after and before.until else None
    return Kept(
        backups=tuple((one, tuple(lost)) for one, lost in found.values()),
        window=window,
    )


def _named(dsn: Dsn, losses: Sequence[Loss], relied_on: Iterable[str]) -> list[tuple[str, Loss]]:
    """Return what to put back into each table that a backup was relied on for.

    A table that no statement names lost something all the same: by a foreign key, or by code.
    """
    with user_session.looking(dsn) as session:
        row = session.execute("select current_schema()::text").fetchone()
        schema = str(row[0]) if row and row[0] else "public"
        found: list[tuple[str, Loss]] = []
        for loss in losses:
            if loss.table is None:
                continue
            there = session.execute(_TABLE, [loss.table]).fetchone()
            own, name = migration_sql.parted(loss.table)
            full = f"{there[1]}.{there[2]}" if there else f"{own or schema}.{name}"
            if full in relied_on:
                found.append((full, loss))
    is_unread = any(loss.table is None for loss in losses)
    others = set(relied_on) - (set() if is_unread else {table for table, _ in found})
    for full in sorted(others):
        own, _, name = full.partition(".")
        table = f"{pool.quoted(own)}.{pool.quoted(name)}"
        found.append((full, Loss(kind="unknown", table=table)))
    return found


def plain_losses(losses: Sequence[Loss]) -> list[dict[str, Any]]:
    """Return losses as JSON knows them, for the arguments of a step."""
    return [
        {
            "kind": one.kind,
            "table": one.table,
            "columns": list(one.columns),
            "type": one.new_type,
            "is_computed": one.is_computed,
        }
        for one in losses
    ]


def from_plain(values: Sequence[dict[str, Any]]) -> list[Loss]:
    """Return what `plain_losses` wrote."""
    return [
        Loss(
            kind=one["kind"],
            table=one["table"],
            columns=tuple(one["columns"]),
            new_type=one["type"],
            is_computed=one.get("is_computed", False),
        )
        for one in values
    ]

"""Putting a backup back row by row into its own tables, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from ragline.core.dsn import Dsn
from ragline.db import backups, pool, queries
from ragline.db.backups import Backup, Table
from ragline.db.pool import quoted
from ragline.errors import PreconditionFailed
from ragline.ops import backup as making
from ragline.ops import scratch
from ragline.ops.backup_restore import (
    Difference,
    Restored,
    Session,
    copy_rows,
    plain_texts,
    rows_of,
    spell_plainly,
)

_PASSED_ON = ("c", "n", "d")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A table in place and the copy of the backup beside it, for the time of a transaction."""

    table: Table
    copy: str
    columns: tuple[str, ...]
    changeable: tuple[str, ...]
    key: tuple[str, ...]
    triggers: tuple[tuple[str, str, str], ...] = field(default=())
    """Table, name and state of each that is on."""

    @property
    def on_key(self) -> str:
        return " and ".join(f"t.{quoted(name)} = b.{quoted(name)}" for name in self.key)

    def row(self, of: str) -> str:
        # As text: not every type can be compared.
        return f"row({', '.join(f'{of}.{quoted(name)}' for name in self.columns)})::pg_catalog.text"


async def in_place(
    dsn: Dsn, backup: Backup, *, is_applied: bool, may_lose_newer: bool, lock_timeout_ms: int
) -> Restored:
    """Make the tables hold what the backup does, in one transaction, touching only rows that differ.

    Rows that are not in the backup are refused unless they may be lost. Foreign keys hold; the
    tables' own triggers do not run. Without `is_applied` it says what it would do.
    """
    async with (
        making.restored(dsn, backup) as there,
        pool.session(there, "admin") as source,
        pool.session(dsn, "admin") as session,
    ):
        merging = session.transaction()
        await merging.start()
        try:
            await spell_plainly(session)
            await session.execute(f"set local lock_timeout = {int(lock_timeout_ms)}")
            pairs = await _pairs(session, source, backup, is_locked=is_applied)
            found = [await _difference(session, pair) for pair in pairs]
            refused = await _refusal(session, pairs, found, may_lose_newer)
            if is_applied:
                if refused is not None:
                    raise PreconditionFailed(f"{refused}; nothing was changed")
                await _merge(session, pairs)
                await _read_back(session, pairs)
        except BaseException:
            if not session.is_closed():
                await merging.rollback()
            raise
        if is_applied:
            await merging.commit()
        else:
            await merging.rollback()
    return Restored(
        backup=backup,
        how="in-place",
        target=dsn.database,
        is_applied=is_applied,
        rows=rows_of(backup),
        differences=tuple(found),
        refused=refused,
    )


async def _pairs(
    session: Session, source: Session, backup: Backup, *, is_locked: bool
) -> list[_Pair]:
    """Load the backup beside its tables; parents stand before the tables that refer to them."""
    known = await backups.tables(session)
    tables = await _ordered(session, backups.chosen(known, backup.tables))
    theirs = {one.plain: one for one in await backups.tables(source)}
    if is_locked:
        said = ", ".join(table.sql for table in sorted(tables, key=lambda one: one.oid))
        await session.execute(f"lock table {said} in share row exclusive mode")
    pairs = []
    async with plain_texts(source):
        for number, table in enumerate(tables):
            pair = await _pair(session, source, table, theirs[table.plain], number)
            await copy_rows(
                source, session, theirs[table.plain].rows, pair.columns, (None, pair.copy)
            )
            pairs.append(pair)
    return pairs


async def _pair(
    session: Session, source: Session, table: Table, theirs: Table, number: int
) -> _Pair:
    block = queries.block("backups", "columns")
    ours = [dict(row) for row in await session.fetch(block, table.oid)]
    backed_up = [dict(row) for row in await source.fetch(block, theirs.oid)]
    kept, now = ({(c["name"], c["type"]) for c in some} for some in (backed_up, ours))
    if kept != now:
        differing = ", ".join(sorted({name for name, _ in kept ^ now}))
        raise PreconditionFailed(
            f"{table.plain} has other columns than the backup ({differing}), so its rows cannot go "
            "back in place: restore into a schema beside (--into-schema), and take from there"
        )
    key = await session.fetchval(queries.block("backups", "key"), table.oid)
    if not key:
        raise PreconditionFailed(
            f"{table.plain} has no primary key, so nobody knows which row of the backup is which: "
            "restore into a schema beside (--into-schema), or give it a key"
        )
    columns = tuple(c["name"] for c in ours if not c["is_generated"])
    copy = f"ragline_restore_{number}"
    said = ", ".join(quoted(name) for name in columns)
    empty = f"select {said} from {table.sql} with no data"  # noqa: S608 - identifiers are quoted
    await session.execute(f"create temporary table {quoted(copy)} on commit drop as {empty}")
    triggers = await session.fetch(queries.block("backups", "triggers"), [table.oid, *table.parts])
    return _Pair(
        table=table,
        copy=copy,
        columns=columns,
        changeable=tuple(
            c["name"]
            for c in ours
            if not c["is_generated"] and not c["is_identity"] and c["name"] not in key
        ),
        key=tuple(key),
        triggers=tuple(
            (f"{quoted(row['schema'])}.{quoted(row['table'])}", row["name"], row["state"])
            for row in triggers
        ),
    )


async def _ordered(session: Session, tables: Sequence[Table]) -> list[Table]:
    """Return tables so that what is referred to stands before what refers to it."""
    rows = await session.fetch(queries.block("backups", "references"))
    parents: dict[int, set[int]] = {table.oid: set() for table in tables}
    for row in rows:
        if row["child"] in parents and row["parent"] in parents:
            parents[row["child"]].add(row["parent"])
    found: list[Table] = []
    while len(found) < len(tables):
        done = {table.oid for table in found}
        ready = [one for one in tables if one.oid not in done and parents[one.oid] <= done]
        # A circle: its keys wait for the end of the transaction.
        found += ready or [one for one in tables if one.oid not in done][:1]
    return found


async def _difference(session: Session, pair: _Pair) -> Difference:
    copy, table = quoted(pair.copy), pair.table.rows
    row = await session.fetchrow(
        f"""
        select
            (select count(*) from {copy} b
             where not exists (select from {table} t where {pair.on_key})) as inserted,
            (select count(*) from {copy} b join {table} t on {pair.on_key}
             where {pair.row("b")} is distinct from {pair.row("t")}) as updated,
            (select count(*) from {table} t
             where not exists (select from {copy} b where {pair.on_key})) as newer
        """  # noqa: S608 - identifiers are quoted
    )
    counts: dict[str, Any] = {} if row is None else dict(row)
    return Difference(table=pair.table.plain, **counts)


async def _refusal(
    session: Session, pairs: Sequence[_Pair], found: Sequence[Difference], may_lose_newer: bool
) -> str | None:
    newer = {one.table: one.newer for one in found if one.newer}
    said = ", ".join(f"{count} in {table}" for table, count in newer.items())
    if newer and not may_lose_newer:
        return (
            f"rows that are not in the backup would be lost ({said}): add --lose-newer to lose them, "
            "or restore into a schema beside (--into-schema)"
        )
    inside = {pair.table.oid for pair in pairs}
    losing = {pair.table.oid for pair in pairs if pair.table.plain in newer}
    updated = {one.table for one in found if one.updated}
    changing = {pair.table.oid for pair in pairs if pair.table.plain in updated}
    for row in await session.fetch(queries.block("backups", "references")):
        if row["child"] in inside:
            continue
        if row["parent"] in losing and row["on_delete"] in _PASSED_ON:
            return (
                f"{row['child_name']} refers to rows that would be lost ({said}), is not in the "
                "backup, and its foreign key would delete or change rows of it"
            )
        # A key never changes here; another column that is referred to may.
        if row["parent"] in changing and row["on_update"] in _PASSED_ON and not row["is_of_key"]:
            return (
                f"{row['child_name']} refers to values that would change back, is not in the backup, "
                "and its foreign key would change rows of it: back up both, or restore into a schema "
                "beside (--into-schema)"
            )
    return None


async def _merge(session: Session, pairs: Sequence[_Pair]) -> None:
    circular = await _circular(session, pairs)
    for table, name in circular:
        await session.execute(
            f"alter table {table} alter constraint {quoted(name)} deferrable initially deferred"
        )
    await session.execute("set constraints all deferred")
    await _triggers(session, pairs, are_on=False)
    try:
        for pair in reversed(pairs):
            await session.execute(
                f"delete from {pair.table.rows} t where not exists "  # noqa: S608 - quoted
                f"(select from {quoted(pair.copy)} b where {pair.on_key})"
            )
        for pair in pairs:
            if pair.changeable:
                await session.execute(_update(pair))
            await session.execute(_insert(pair))
        await session.execute("set constraints all immediate")
    except asyncpg.IntegrityConstraintViolationError as error:
        raise PreconditionFailed(
            f"the rows of the backup do not fit what is there now: {error}; nothing was changed. Back "
            "up the tables that refer to each other together"
        ) from error
    for table, name in circular:
        await session.execute(f"alter table {table} alter constraint {quoted(name)} not deferrable")
    await _triggers(session, pairs, are_on=True)
    await _advance(session, pairs)


async def _circular(session: Session, pairs: Sequence[_Pair]) -> list[tuple[str, str]]:
    """Return the foreign keys that no order of the tables satisfies and that cannot wait."""
    place = {pair.table.oid: number for number, pair in enumerate(pairs)}
    return [
        (pairs[place[row["child"]]].table.sql, row["name"])
        for row in await session.fetch(queries.block("backups", "references"))
        if not row["may_wait"]
        and row["child"] in place
        and place.get(row["parent"], -1) > place[row["child"]]
    ]


async def _advance(session: Session, pairs: Sequence[_Pair]) -> None:
    """Have sequences go on after the rows that came back; none goes back."""
    for pair in pairs:
        for name in pair.columns:
            sequence = await session.fetchval(
                "select pg_catalog.pg_get_serial_sequence($1, $2)", pair.table.sql, name
            )
            if sequence is None:
                continue
            await session.execute(
                f"select pg_catalog.setval({scratch.literal(sequence)}, m) from "  # noqa: S608 - quoted
                f"(select max({quoted(name)})::bigint as m from {pair.table.rows}) t "
                f"where m > (select last_value from {sequence})"
            )


def _update(pair: _Pair) -> str:
    said = ", ".join(f"{quoted(name)} = b.{quoted(name)}" for name in pair.changeable)
    return (
        f"update {pair.table.rows} t set {said} from {quoted(pair.copy)} b "  # noqa: S608 - quoted
        f"where {pair.on_key} and {pair.row('b')} is distinct from {pair.row('t')}"
    )


def _insert(pair: _Pair) -> str:
    said = ", ".join(quoted(name) for name in pair.columns)
    return (
        f"insert into {pair.table.sql} ({said}) overriding system value "  # noqa: S608 - quoted
        f"select {said} from {quoted(pair.copy)} b "
        f"where not exists (select from {pair.table.rows} t where {pair.on_key})"
    )


async def _triggers(session: Session, pairs: Sequence[_Pair], *, are_on: bool) -> None:
    """Have the tables' own triggers rest, or be as they were: what they did is in the backup."""
    words = {"O": "enable", "R": "enable replica", "A": "enable always"}
    for pair in pairs:
        for table, name, state in pair.triggers:
            word = words[state] if are_on else "disable"
            await session.execute(f"alter table {table} {word} trigger {quoted(name)}")


async def _read_back(session: Session, pairs: Sequence[_Pair]) -> None:
    for pair in pairs:
        left = await _difference(session, pair)
        if left.inserted or left.updated or left.newer:
            raise PreconditionFailed(
                f"{left.table} does not hold what the backup does after all ({left.inserted} rows "
                f"missing, {left.updated} other, {left.newer} too many): something else writes it. "
                "Nothing was changed"
            )

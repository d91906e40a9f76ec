"""Putting back what a migration lost: from a backup, by primary key, beside what was written since.

It runs inside the transaction that takes the migration back, so that either all of it is there again
or nothing was taken back. Rows and values of the backup come back; rows that are there stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from ragline.core.dsn import Dsn
from ragline.core.migration_locks import Loss, parted, plain
from ragline.db import user_session
from ragline.db.pool import quoted
from ragline.errors import PreconditionFailed

_Session = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """How much of a table came back."""

    table: str
    rows: int = 0
    values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    full: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def same(self) -> str:
        return " and ".join(f"t.{one} = l.{one}" for one in self.key)


def version_writer(dsn: Dsn, version_table: str) -> str | None:
    """Return the transaction that noted the place: what the last revision wrote was written by it."""
    with user_session.looking(dsn) as session:
        try:
            query = f"select xmin::text from {version_table}"  # noqa: S608
            row = session.execute(query.encode()).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
    return None if row is None else str(row[0])


def put_back(
    session: _Session, old: Dsn, losses: Sequence[Loss], *, writer: str | None
) -> list[PutBack]:
    """Bring back what a revision lost, from the database `old` that holds the backup.

    Raises PreconditionFailed where not all of it came back: then nothing is taken back either.
    """
    found: dict[str, tuple[_Table, list[Loss]]] = {}
    for loss in losses:
        if loss.table is None:
            continue
        table = _table(session, loss.table)
        if table is not None:
            found.setdefault(table.full, (table, []))[1].append(loss)
    with user_session.looking(old) as source:
        left = list(found.values())
        done: list[PutBack] = []
        while left:
            later = []
            for table, lost in left:
                try:
                    with session.transaction():
                        done.append(_of_table(session, source, table, lost, writer))
                except psycopg.errors.ForeignKeyViolation:
                    # Its rows belong to rows of another table that come back as well.
                    later.append((table, lost))
            if len(later) == len(left):
                raise PreconditionFailed(
                    f"rows of {later[0][0].full} belong to rows that are gone and are not in the backup"
                )
            left = later
    return done


def _table(session: _Session, name: str) -> _Table | None:
    row = session.execute(
        """
        select c.oid::regclass::text, n.nspname::text, c.relname::text, c.oid
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.oid = to_regclass(%s)
        """,
        [name],
    ).fetchone()
    if row is None:
        return None
    key = session.execute(
        """
        select array_agg(quote_ident(a.attname) order by a.attnum)
        from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
        where i.indrelid = %s and i.indisprimary
        """,
        [row[3]],
    ).fetchone()
    columns = session.execute(
        """
        select quote_ident(attname) from pg_catalog.pg_attribute
        where attrelid = %s and attnum > 0 and not attisdropped and attgenerated = ''
        order by attnum
        """,
        [row[3]],
    ).fetchall()
    if key is None or not key[0]:
        raise PreconditionFailed(
            f"table {row[0]} has no primary key: rows cannot be put back into it"
        )
    return _Table(
        full=f"{quoted(row[1])}.{quoted(row[2])}",
        key=tuple(key[0]),
        columns=tuple(one[0] for one in columns),
    )


def _of_table(
    session: _Session, source: _Session, table: _Table, losses: Sequence[Loss], writer: str | None
) -> PutBack:
    shared = _copied(session, source, table)
    rows = values = 0
    if any(loss.kind == "rows" for loss in losses):
        rows = _rows(session, table, shared)
    for loss, column in _columns(losses, shared):
        values += _values(session, table, loss, column, shared, writer)
    session.execute(b"drop table ragline_lost")
    return PutBack(table=table.full, rows=rows, values=values)


def _columns(losses: Sequence[Loss], shared: Sequence[str]) -> Iterator[tuple[Loss, str]]:
    for loss in losses:
        for name in loss.columns:
            column = next((one for one in shared if plain(one) == plain(name)), None)
            if column is not None:
                yield loss, column


def _copied(session: _Session, source: _Session, table: _Table) -> tuple[str, ...]:
    """Bring the backup's rows beside the table; return the columns that both have."""
    there = source.execute(
        """
        select quote_ident(attname) from pg_catalog.pg_attribute
        where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped
        """,
        [table.full],
    ).fetchall()
    known = {row[0] for row in there}
    if not known:
        raise PreconditionFailed(f"the backup does not hold table {table.full}")
    shared = tuple(one for one in table.columns if one in known)
    named = ", ".join(shared)
    session.execute(
        f"create temporary table ragline_lost on commit drop as "  # noqa: S608
        f"select {named} from {table.full} with no data".encode()
    )
    out = f"copy (select {named} from {table.full}) to stdout".encode()  # noqa: S608
    into = f"copy pg_temp.ragline_lost ({named}) from stdin".encode()
    with source.cursor().copy(out) as reading, session.cursor().copy(into) as writing:
        for block in reading:
            writing.write(block)
    session.execute(b"analyze pg_temp.ragline_lost")
    return shared


def _rows(session: _Session, table: _Table, shared: Sequence[str]) -> int:
    named = ", ".join(shared)
    keys = ", ".join(f"l.{one}" for one in table.key)
    session.execute(
        f"create temporary table ragline_missing on commit drop as select {keys} "  # noqa: S608
        f"from pg_temp.ragline_lost l where not exists "
        f"(select from {table.full} t where {table.same})".encode()
    )
    session.execute(
        f"insert into {table.full} ({named}) overriding system value select {named} "  # noqa: S608
        f"from pg_temp.ragline_lost l where exists "
        f"(select from pg_temp.ragline_missing t where {table.same})".encode()
    )
    _advance(session, table)
    count = _equal(session, table, shared, "pg_temp.ragline_missing")
    session.execute(b"drop table ragline_missing")
    return count


def _values(
    session: _Session,
    table: _Table,
    loss: Loss,
    column: str,
    shared: Sequence[str],
    writer: str | None,
) -> int:
    """Put the values of a column back, in rows that nobody wrote since."""
    own = {
        "column": "true",
        "type": _as_it_was_made(session, table, loss, column),
        "values": _unwritten(session, table, column, shared, writer),
    }.get(loss.kind, "false")
    keys = ", ".join(f"t.{one}" for one in table.key)
    session.execute(
        f"create temporary table ragline_other on commit drop as select {keys} "  # noqa: S608
        f"from {table.full} t join pg_temp.ragline_lost l on {table.same} "
        f"where t.{column} is distinct from l.{column} and ({own})".encode()
    )
    session.execute(
        f"update {table.full} t set {column} = l.{column} "  # noqa: S608
        f"from pg_temp.ragline_lost l, pg_temp.ragline_other o where {table.same} and "
        f"{' and '.join(f't.{one} = o.{one}' for one in table.key)}".encode()
    )
    count = _equal(session, table, (*table.key, column), "pg_temp.ragline_other")
    session.execute(b"drop table ragline_other")
    return count


def _as_it_was_made(session: _Session, table: _Table, loss: Loss, column: str) -> str:
    """A value that is still what the narrower type made of the old one was not written since."""
    if not loss.new_type:
        return "true"
    row = session.execute(
        """
        select format_type(atttypid, atttypmod) from pg_catalog.pg_attribute
        where attrelid = to_regclass(%s) and quote_ident(attname) = %s
        """,
        [table.full, column],
    ).fetchone()
    if row is None:
        return "false"
    return f"t.{column} is not distinct from l.{column}::{loss.new_type}::{row[0]}"


def _unwritten(
    session: _Session, table: _Table, column: str, shared: Sequence[str], writer: str | None
) -> str:
    """A row that the migration's own transaction wrote last was not written by anybody since.

    Where another revision was noted meanwhile that transaction is not known: a row that is otherwise as
    in the backup is taken for one that nobody wrote.
    """
    if writer is not None and writer.isdigit():
        query = f"select exists (select from {table.full} where xmin::text = %s)"  # noqa: S608
        row = session.execute(query.encode(), [writer]).fetchone()
        if row is not None and row[0]:
            mine = "pg_catalog.pg_current_xact_id()::xid::text"
            return f"t.xmin::text in ('{writer}', {mine})"
    others = [f"t.{one} is not distinct from l.{one}" for one in shared if one != column]
    return " and ".join(others) or "true"


def _equal(session: _Session, table: _Table, columns: Sequence[str], which: str) -> int:
    """Count what came back, and compare its hash with that of the backup's."""

    def measured(source: str) -> tuple[int, object]:
        fields = ", ".join(f"x.{one}" for one in columns)
        same = " and ".join(f"x.{one} = w.{one}" for one in table.key)
        row = session.execute(
            f"select count(*), sum(hashtextextended(row({fields})::text, 0)::numeric) "  # noqa: S608
            f"from {source} x join {which} w on {same}".encode()
        ).fetchone()
        return (0, None) if row is None else (row[0], row[1])

    there, wanted = measured(table.full), measured("pg_temp.ragline_lost")
    if there != wanted:
        raise PreconditionFailed(
            f"what came back into {table.full} is not what the backup holds ({there[0]} of "
            f"{wanted[0]} rows, or other values): a trigger or a rule of the table may change it"
        )
    return there[0]


def _advance(session: _Session, table: _Table) -> None:
    """Have sequences go on after the rows that came back."""
    for column in table.columns:
        name = parted(column)[1]
        row = session.execute(
            "select pg_catalog.pg_get_serial_sequence(%s, %s)", [table.full, name]
        ).fetchone()
        if row is None or row[0] is None:
            continue
        session.execute(
            f"select pg_catalog.setval(%s, greatest(max({column}), (select last_value from {row[0]}))) "  # noqa: S608
            f"from {table.full} having max({column}) is not null".encode(),
            [row[0]],
        )

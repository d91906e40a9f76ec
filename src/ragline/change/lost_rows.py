"""Putting back what a migration lost: from a backup, by primary key, beside what was written since.

It runs inside the transaction that takes the migration back, so that either all of it is there again
or nothing was taken back. Rows and values of the backup come back; what was written since stays, which
is looked up before anything is taken back, since that may write every row anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from ragline.core.dsn import Dsn
from ragline.core.migration_sql import parted, plain
from ragline.core.migration_statements import Loss
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
class Writers:
    """Which transactions were the migration's own: one of them, or all between two.

    None of both: nobody knows any more.
    """

    noted: str | None = None
    window: tuple[str, str] | None = None

    @property
    def condition(self) -> str | None:
        """Whether a row t was written by the migration last."""
        if self.window is not None:
            after, until = (f"'{_number(one)}'::xid" for one in self.window)
            return f"age(t.xmin) < age({after}) and age(t.xmin) >= age({until})"
        return None if self.noted is None else f"t.xmin::text = '{_number(self.noted)}'"


def _number(transaction: str) -> str:
    return str(int(transaction))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    full: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    generated: tuple[str, ...]
    is_partitioned: bool = False

    @property
    def own(self) -> str:
        """The table's own rows: those of tables that inherit from it are theirs."""
        return self.full if self.is_partitioned else f"only {self.full}"

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


def look_before(session: _Session, losses: Sequence[Loss], writers: Writers) -> dict[str, str]:
    """Note the rows that the migration wrote last, before anything is taken back.

    Returns the temporary table that holds their keys, by table.
    """
    if writers.condition is None:
        return {}
    found: dict[str, str] = {}
    for loss in losses:
        if loss.table is None or loss.kind not in ("values", "type", "unknown"):
            continue
        table = _table(session, loss.table)
        if table is None or table.full in found:
            continue
        name = f"pg_temp.ragline_own_{len(found)}"
        keys = ", ".join(f"t.{one}" for one in table.key)
        session.execute(
            f"create temporary table {name.partition('.')[2]} on commit drop as "  # noqa: S608
            f"select {keys} from {table.own} t where {writers.condition}".encode()
        )
        found[table.full] = name
    return found


def put_back(
    session: _Session, old: Dsn, losses: Sequence[Loss], own: Mapping[str, str]
) -> list[PutBack]:
    """Bring back what a revision lost, from the database `old` that holds the backup.

    `own` is what `look_before` returned.
    Raises PreconditionFailed where not all of it came back: then nothing is taken back either.
    """
    found: dict[str, tuple[_Table, list[Loss]]] = {}
    for loss in losses:
        if loss.table is None:
            continue
        table = _table(session, loss.table)
        if table is not None:
            found.setdefault(table.full, (table, []))[1].append(loss)
        elif loss.kind != "unknown":
            raise PreconditionFailed(
                f"{loss.table}, of which something was lost, is not there after the way back: nothing "
                "can be put back into it"
            )
    with user_session.looking(old) as source:
        left = list(found.values())
        done: list[PutBack] = []
        while left:
            later = []
            for table, lost in left:
                try:
                    with session.transaction():
                        done.append(_of_table(session, source, table, lost, own.get(table.full)))
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
        select c.oid::regclass::text, n.nspname::text, c.relname::text, c.oid, c.relkind = 'p'
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
        select quote_ident(attname), attgenerated <> '' from pg_catalog.pg_attribute
        where attrelid = %s and attnum > 0 and not attisdropped
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
        columns=tuple(one for one, is_generated in columns if not is_generated),
        generated=tuple(one for one, is_generated in columns if is_generated),
        is_partitioned=row[4],
    )


def _of_table(
    session: _Session, source: _Session, table: _Table, losses: Sequence[Loss], own: str | None
) -> PutBack:
    shared = _copied(session, source, table)
    rows = values = 0
    if any(loss.kind in ("rows", "unknown") for loss in losses):
        rows = _rows(session, table, shared)
    for loss, column in _columns(table, losses, shared):
        values += _values(session, table, loss, column, shared, own)
    session.execute(b"drop table ragline_lost")
    return PutBack(table=table.full, rows=rows, values=values)


def _columns(
    table: _Table, losses: Sequence[Loss], shared: Sequence[str]
) -> Iterator[tuple[Loss, str]]:
    for loss in losses:
        if loss.kind in ("values", "unknown") and not loss.columns:
            yield from ((loss, one) for one in shared if one not in table.key)
        for name in loss.columns:
            column = next((one for one in shared if plain(one) == plain(name)), None)
            if column is not None:
                yield loss, column
            elif all(plain(one) != plain(name) for one in (*table.columns, *table.generated)):
                raise PreconditionFailed(
                    f"the way back does not bring {table.full}.{name} back: what was in it has no "
                    "place"
                )


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
    out = f"copy (select {named} from {table.own}) to stdout".encode()  # noqa: S608
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
        f"(select from {table.own} t where {table.same})".encode()
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
    own: str | None,
) -> int:
    """Put the values of a column back, in rows that nobody wrote since."""
    if loss.kind == "column":
        mine = "true"
    elif own is not None:
        keys = " and ".join(f"w.{one} = t.{one}" for one in table.key)
        mine = f"exists (select from {own} w where {keys})"
    elif loss.kind == "type" and not loss.is_computed:
        mine = _as_it_was_made(session, table, loss, column)
    else:
        # A row that is otherwise as in the backup is taken for one that nobody wrote.
        others = [f"t.{one} is not distinct from l.{one}" for one in shared if one != column]
        mine = " and ".join(others) or "true"
    keys = ", ".join(f"t.{one}" for one in table.key)
    session.execute(
        f"create temporary table ragline_other on commit drop as select {keys} "  # noqa: S608
        f"from {table.own} t join pg_temp.ragline_lost l on {table.same} "
        f"where t.{column} is distinct from l.{column} and ({mine})".encode()
    )
    session.execute(
        f"update {table.own} t set {column} = l.{column} "  # noqa: S608
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

    there, wanted = measured(table.own), measured("pg_temp.ragline_lost")
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

"""Migrations rehearsed: there, back and there again on a copy, and what each revision did on it.

The copy is made with pg_dump: a clone by template is refused while anybody is connected. The original
is only read, and the copy is dropped however it ends.
"""

from __future__ import annotations

import asyncio
import difflib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from ragline.core.dsn import Dsn
from ragline.db import user_session
from ragline.db.pool import quoted
from ragline.errors import PreconditionFailed, RaglineError
from ragline.ops import (
    alembic_scripts,
    programs,
    refused_revisions,
    revision_place,
    revisions,
    scratch,
)
from ragline.ops.alembic_scripts import Direction, Rendered, Scripts

_Session = psycopg.Connection[Any]
MAX_BYTES = 2_000_000_000
_GROWTH = 3  # the copy, a table written anew, and the log of it
_OURS = ("ragline", "ragline_cluster")
_SHOWN = 40
_STRENGTH = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """One revision on the copy. `locks` are what it held when it was about to commit."""

    revision: str
    title: str
    direction: Direction
    seconds: float
    locks: tuple[str, ...]
    rows: tuple[tuple[str, int, int], ...]
    rewritten: tuple[str, ...]
    slowest: str
    slowest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What was seen on the copy. `difference` is what the way back did not restore of the schema.

    `again` is why the second time there failed; "" is that it did not.
    """

    path: tuple[str, ...]
    steps: tuple[Rehearsed, ...]
    difference: tuple[str, ...]
    lost_rows: tuple[str, ...]
    again: str
    copied_bytes: int
    copied_tables: str
    copy_s: float

    @property
    def is_restored(self) -> bool:
        """Whether there and back again is where it was."""
        return not (self.difference or self.lost_rows or self.again)


async def rehearse(
    dsn: Dsn,
    target: str,
    to: str | None = "head",
    *,
    max_bytes: int = MAX_BYTES,
    say: Callable[[str], None] = lambda _line: None,
) -> Rehearsal:
    """Run the revisions between here and `to` on a copy: there, back, and there again.

    Raises PreconditionFailed where the tables are larger than `max_bytes`, where a revision fails,
    and for whatever `alembic_scripts.resolved` refuses.
    """
    scripts = await asyncio.to_thread(alembic_scripts.read, target)
    place = await asyncio.to_thread(revision_place.place, dsn, scripts)
    heads = alembic_scripts.resolved(scripts, to, place.heads)
    there = scripts.path(place.heads, heads)
    back = scripts.path(heads, place.heads)
    rendered = [alembic_scripts.rendered(scripts, *one) for one in there]
    for one in rendered:
        refused_revisions.refuse_mixed(one)
    size, without, said = await asyncio.to_thread(_to_copy, dsn, rendered, max_bytes)
    async with scratch.database(dsn, "a rehearsal", takes_bytes=_GROWTH * size) as copy:
        started = time.monotonic()
        say(f"copying {said}")
        await _copied(dsn, copy, without)
        copy_s = time.monotonic() - started
        before, rows = await _schema(copy, scripts), await asyncio.to_thread(_rows, copy)
        steps = await _all(copy, scripts, there, say)
        steps += await _all(copy, scripts, back, say)
        after, rows_after = await _schema(copy, scripts), await asyncio.to_thread(_rows, copy)
        again = ""
        try:
            steps += await _all(copy, scripts, there, say)
        except RaglineError as error:
            again = str(error)
    lost = tuple(
        f"{table}: {count} rows, {rows_after.get(table, 0)} afterwards"
        for table, count in rows.items()
        if rows_after.get(table, 0) < count
    )
    return Rehearsal(
        path=tuple(f"{direction} {revision}" for direction, revision in there),
        steps=tuple(steps),
        difference=_difference(before, after),
        lost_rows=lost,
        again=again,
        copied_bytes=size,
        copied_tables=said,
        copy_s=copy_s,
    )


async def _all(
    copy: Dsn,
    scripts: Scripts,
    path: Sequence[tuple[Direction, str]],
    say: Callable[[str], None],
) -> list[Rehearsed]:
    found = []
    for direction, revision in path:
        say(f"{direction} {revision}, on the copy")
        found.append(await asyncio.to_thread(_one, copy, scripts, direction, revision))
    return found


def _one(copy: Dsn, scripts: Scripts, direction: Direction, revision: str) -> Rehearsed:
    locks: list[str] = []
    rows, files = _rows(copy), _files(copy)
    started = time.monotonic()
    ran = revisions.run(
        copy,
        scripts,
        direction,
        revision,
        before_commit=lambda session: locks.extend(_locks(session, scripts)),
    )
    seconds = time.monotonic() - started
    rows_after, files_after = _rows(copy), _files(copy)
    slowest = max(ran.statements, key=lambda one: one[1], default=("", 0.0))
    return Rehearsed(
        revision=revision,
        title=scripts.title(revision),
        direction=direction,
        seconds=seconds,
        locks=tuple(locks),
        rows=tuple(
            (table, rows.get(table, 0), rows_after.get(table, 0))
            for table in sorted({*rows, *rows_after})
            if rows.get(table) != rows_after.get(table)
        ),
        rewritten=tuple(
            sorted(name for oid, (name, file) in files.items() if _is_other(files_after, oid, file))
        ),
        slowest=" ".join(slowest[0].split())[:120],
        slowest_s=slowest[1],
    )


def _is_other(files: dict[int, tuple[str, int]], oid: int, file: int) -> bool:
    return oid in files and files[oid][1] != file


def _locks(session: _Session, scripts: Scripts) -> list[str]:
    """Return the strongest lock on each of the user's own tables that this transaction holds."""
    rows = session.execute(
        """
        select c.oid::regclass::text, array_agg(l.mode)
        from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
        where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation'
          and c.relkind in ('r', 'p', 'm', 'v') and c.oid >= 16384 and c.relname <> %s
          and c.relnamespace <> 'pg_toast'::regnamespace
        group by 1 order by 1
        """,
        [scripts.version_table],
    ).fetchall()
    return [f"{max(modes, key=_STRENGTH.index)} on {name}" for name, modes in rows]


_TABLES = """
    select c.oid, n.nspname::text, c.relname::text, c.relfilenode, c.relkind::text,
           pg_catalog.pg_total_relation_size(c.oid)
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and n.nspname !~ '^pg_'
      and n.nspname not in ('information_schema', 'ragline', 'ragline_cluster')
      and not exists (select from pg_catalog.pg_depend d where d.objid = c.oid and d.deptype = 'e')
    order by 2, 3
"""


def _rows(dsn: Dsn) -> dict[str, int]:
    found = {}
    with user_session.looking(dsn) as session:
        for _, schema, name, *_rest in session.execute(_TABLES).fetchall():
            table = f"{quoted(schema)}.{quoted(name)}"
            row = session.execute(f"select count(*) from {table}".encode()).fetchone()  # noqa: S608
            found[f"{schema}.{name}"] = row[0] if row else 0
    return {name: count for name, count in found.items() if not name.endswith(".alembic_version")}


def _files(dsn: Dsn) -> dict[int, tuple[str, int]]:
    with user_session.looking(dsn) as session:
        return {
            oid: (f"{schema}.{name}", file)
            for oid, schema, name, file, *_rest in session.execute(_TABLES).fetchall()
        }


def _to_copy(dsn: Dsn, path: Sequence[Rendered], max_bytes: int) -> tuple[int, list[str], str]:
    """Return what the copy takes, which tables come without rows, and that in words."""
    with user_session.looking(dsn) as session:
        tables = session.execute(_TABLES).fetchall()
        sizes = {oid: int(row[-1]) for oid, *row in tables}
        if sum(sizes.values()) <= max_bytes:
            return sum(sizes.values()), [], f"all {len(sizes)} tables"
        touched = set()
        for one in path:
            for statement in one.statements:
                for name in statement.tables:
                    row = session.execute("select to_regclass(%s)::oid", [name]).fetchone()
                    touched.add(row[0] if row else None)
    size = sum(size for oid, size in sizes.items() if oid in touched)
    if size > max_bytes or any(one.why_not for one in path):
        raise PreconditionFailed(
            f"the tables that this would copy take {max(size, sum(sizes.values())) / 1e9:.1f} GB, and "
            f"the limit is {max_bytes / 1e9:.1f} GB: raise --max-size where the disk has room"
        )
    without = [f"{quoted(row[0])}.{quoted(row[1])}" for oid, *row in tables if oid not in touched]
    return (
        size,
        without,
        f"the rows of {len(touched & sizes.keys())} tables, of others the form only",
    )


async def _copied(dsn: Dsn, copy: Dsn, without: Sequence[str]) -> None:
    major = await asyncio.to_thread(_major, dsn)
    with tempfile.TemporaryDirectory(prefix="ragline-rehearsal-") as folder:
        file = Path(folder) / "copy"
        dump = [
            "--format=custom", "--no-owner", "--no-acl", "--no-publications", "--no-subscriptions",
            "--lock-wait-timeout=2000", f"--file={file}",
            *(f"--exclude-schema={name}" for name in _OURS),
            *(f"--exclude-table-data={name}" for name in without),
        ]  # fmt: skip
        await programs.run(programs.program("pg_dump", major), dump, dsn)
        said = ["--no-owner", "--no-acl", "--clean", "--if-exists"]
        await programs.restore(file, said, copy, major)
    await asyncio.to_thread(_same_path, dsn, copy)


def _same_path(dsn: Dsn, copy: Dsn) -> None:
    """Have names mean on the copy what they mean here: a dump leaves the database's settings out."""
    with user_session.looking(dsn) as session:
        row = session.execute("show search_path").fetchone()
    with user_session.looking(copy) as session:
        if row is not None and row[0]:
            name = quoted(copy.database)
            session.execute(f"alter database {name} set search_path = {row[0]}".encode())


async def _schema(copy: Dsn, scripts: Scripts) -> list[str]:
    """Return the copy's schema as text, but for the version table, which stays when all goes down."""
    schema = f"{scripts.version_schema}." if scripts.version_schema else "*."
    said = await programs.run(
        programs.program("pg_dump", await asyncio.to_thread(_major, copy)),
        [
            "--schema-only", "--no-owner", "--no-acl",
            f"--exclude-table={schema}{quoted(scripts.version_table)}",
        ],
        copy,
    )  # fmt: skip
    # A new key in each dump, so that nobody can put commands into it.
    return [
        line
        for line in said.splitlines()
        if line.strip() and not line.startswith(("--", "\\restrict", "\\unrestrict"))
    ]


def _difference(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    lines = [
        line
        for line in difflib.unified_diff(before, after, lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    return tuple(lines[:_SHOWN])


def _major(dsn: Dsn) -> int:
    with user_session.looking(dsn) as session:
        return session.info.server_version // 10000

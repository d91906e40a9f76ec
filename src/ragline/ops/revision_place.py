"""Where a database stands in the user's own migrations, and what a broken-off revision left there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from ragline.core import migration_sql
from ragline.core.dsn import Dsn
from ragline.core.migration_statements import OutsideIndex
from ragline.db import user_session
from ragline.db.pool import quoted
from ragline.errors import PreconditionFailed
from ragline.ops import alembic_scripts
from ragline.ops.alembic_scripts import Rendered, Scripts
from ragline.ops.revision_errors import explained

_Session = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a database stands: its revisions, and indexes that are not as those say.

    `begun` are indexes that a broken-off revision built or dropped outside of its transaction.
    """

    heads: tuple[str, ...]
    begun: tuple[str, ...] = ()


def place(dsn: Dsn, scripts: Scripts) -> Place:
    """Return where the database is; refuse one that is at a revision the folder does not have."""
    with explained(dsn, "reading the version table"), user_session.looking(dsn) as session:
        heads = _heads(session, scripts)
        strange = [one for one in heads if not scripts.knows(one)]
        if strange:
            raise PreconditionFailed(
                f"the database is at revision {', '.join(strange)}, which {scripts.target} does not "
                "have: use the folder that it was migrated with, or `alembic stamp` the right one"
            )
        return Place(heads=heads, begun=tuple(sorted(_deviating(session, scripts, heads))))


def _heads(session: _Session, scripts: Scripts) -> tuple[str, ...]:
    found = session.execute("select to_regclass(%s)::text", [scripts.version_name]).fetchone()
    if found is None or found[0] is None:
        return ()
    rows = session.execute(f"select version_num from {found[0]}".encode()).fetchall()  # noqa: S608
    return tuple(sorted(row[0] for row in rows))


def _deviating(session: _Session, scripts: Scripts, heads: Sequence[str]) -> dict[str, str | None]:
    """Return indexes that are not as the place says, each with the statement that builds it.

    None: it should not be there. Only what a revision does outside of its transaction can be so.
    """
    found: dict[str, str | None] = {}
    for one in scripts.children(heads):
        _compare(session, scripts, one, is_applied=False, found=found)
    for one in heads:
        _compare(session, scripts, one, is_applied=True, found=found)
    return found


def _compare(
    session: _Session,
    scripts: Scripts,
    revision: str,
    *,
    is_applied: bool,
    found: dict[str, str | None],
) -> None:
    up = alembic_scripts.rendered(scripts, "up", revision)
    down = alembic_scripts.rendered(scripts, "down", revision)
    # What leads to where it should be, and what leads away from there.
    there, away = (up, down) if is_applied else (down, up)
    building = {index.name: index for index in there.indexes if index.action == "create"}
    for index in [*there.indexes, *away.indexes]:
        state = index_state(session, index)
        leads_there = index in there.indexes
        should_be = (index.action == "create") == leads_there
        if should_be and state != "valid" and index.name in building:
            found[index.name] = there.statement_of(building[index.name])
        elif not should_be and (state == "invalid" or (state == "valid" and not index.is_lenient)):
            found[index.name] = None


def index_state(session: _Session, index: OutsideIndex) -> str:
    """Return whether an index is valid, invalid, building or missing."""
    row = session.execute(
        """
        select i.indisvalid and i.indisready, exists (
            select from pg_catalog.pg_stat_progress_create_index p
            where p.index_relid = i.indexrelid
        )
        from pg_catalog.pg_index i where i.indexrelid = to_regclass(%s)
        """,
        [index_name(session, index)],
    ).fetchone()
    if row is None:
        return "missing"
    if row[1]:
        return "building"
    return "valid" if row[0] else "invalid"


def index_name(session: _Session, index: OutsideIndex) -> str:
    """Return an index's whole name: it lies in its table's schema, wherever the search path leads."""
    schema, name = migration_sql.parted(index.name)
    if schema is None and index.table is not None:
        row = session.execute(
            "select relnamespace::regnamespace::text from pg_catalog.pg_class "
            "where oid = to_regclass(%s)",
            [index.table],
        ).fetchone()
        if row is not None:
            return f"{row[0]}.{quoted(name)}"
    return quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"


def clean(
    dsn: Dsn, scripts: Scripts, names: Sequence[str], lock_ms: int, reached: Callable[[str], None]
) -> None:
    """Put indexes right that a broken-off revision left half done; done before, it does nothing."""
    with explained(dsn, "cleaning up"), user_session.looking(dsn) as session:
        session.execute(f"set lock_timeout = {lock_ms}")
        wrong = _deviating(session, scripts, _heads(session, scripts))
        for name in names:
            if name not in wrong:
                continue
            reached("migration:cleaning")
            build = wrong[name]
            _drop(session, scripts, name)
            if build is not None:
                session.execute(build.encode())


def refuse_built(dsn: Dsn, scripts: Scripts, place: Place, first: Rendered) -> None:
    """Refuse a revision whose index is there already, whole: nobody knows whose it is."""
    with user_session.looking(dsn) as session:
        for index in first.indexes:
            if index.name not in place.begun or index.is_lenient:
                continue
            if index.action == "create" and index_state(session, index) == "valid":
                raise PreconditionFailed(
                    f"index {index.name}, which revision {first.revision} builds, is there already: "
                    f"drop it (`drop index concurrently {index.name}`), or `alembic stamp "
                    f"{first.revision}` where it is the one"
                )


def _drop(session: _Session, scripts: Scripts, name: str) -> None:
    for revision in scripts.before:
        for direction in ("up", "down"):
            one = alembic_scripts.rendered(scripts, direction, revision)
            for index in one.indexes:
                if index.name == name and index.table is not None:
                    full = index_name(session, index)
                    session.execute(f"drop index concurrently if exists {full}".encode())
                    return
    session.execute(f"drop index concurrently if exists {name}".encode())

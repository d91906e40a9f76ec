"""Transactions that have been at it for long, and hold what a migration has to lock."""

from __future__ import annotations

from typing import Any

import psycopg

from ragline.core.dsn import Dsn
from ragline.core.migration_statements import Statement
from ragline.db import user_session
from ragline.errors import PreconditionFailed
from ragline.ops.alembic_scripts import Rendered

_Session = psycopg.Connection[Any]


def refuse_old(dsn: Dsn, rendered: Rendered, old_s: float) -> None:
    """Refuse to start where an old transaction holds what the revision has to lock."""
    with user_session.looking(dsn) as session:
        for statement in rendered.statements:
            for table in statement.tables:
                if statement.lock != "none":
                    _refuse_old(session, table, statement, old_s)


_CONFLICTS = {
    "ACCESS EXCLUSIVE": (
        "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock",
        "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
    ),
    "SHARE ROW EXCLUSIVE": (
        "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
        "ExclusiveLock", "AccessExclusiveLock",
    ),
    "SHARE": (
        "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareRowExclusiveLock", "ExclusiveLock",
        "AccessExclusiveLock",
    ),
    "SHARE UPDATE EXCLUSIVE": (
        "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock",
        "AccessExclusiveLock",
    ),
    "ROW EXCLUSIVE": (
        "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
    ),
}  # fmt: skip


def _refuse_old(session: _Session, table: str, statement: Statement, old_s: float) -> None:
    row = session.execute(
        """
        select a.pid, a.usename::text, a.application_name,
               extract(epoch from clock_timestamp() - a.xact_start)::float8,
               to_char(a.query_start at time zone 'utc', 'HH24:MI:SS'), left(a.query, 80)
        from pg_catalog.pg_locks l
        join pg_catalog.pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'relation' and l.granted and l.relation = to_regclass(%s)
          and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
          and l.mode = any(%s) and a.pid <> pg_catalog.pg_backend_pid()
          and a.xact_start < clock_timestamp() - %s * interval '1 second'
          and a.backend_type = 'client backend'
        order by a.xact_start limit 1
        """,
        [_regclass(table), list(_CONFLICTS[statement.lock]), old_s],
    ).fetchone()
    if row is None:
        return
    pid, user, program, age_s, since, query = row
    raise PreconditionFailed(
        f"process {pid} of user {user} ({program or 'no application name'}) has held {table} for "
        f"{age_s:.0f} s: its last query began at {since} UTC and is `{query}`. Wait until it ends, or "
        f"end it with `select pg_terminate_backend({pid})`, and try again: nothing was changed"
    )


def _regclass(table: str) -> str:
    """Return a name that to_regclass takes; what is no table's name is not there."""
    return table.removeprefix("the table of ")

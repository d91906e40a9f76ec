"""Running one revision of the user's own migrations: whole or not at all, and never in anybody's way.

One transaction a revision. A lock that is not free within 150 ms is given up, so that no reader queues
behind it for longer, and tried again a little later. What runs outside of a transaction
(`autocommit_block`, for indexes built CONCURRENTLY) is found half done and cleaned away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy

from ragline.core import migration_locks, migration_sql, migration_statements
from ragline.core.dsn import Dsn
from ragline.core.migration_statements import Loss, OutsideIndex, Statement
from ragline.db import user_session
from ragline.errors import DatabaseUnreachable, LockTimeout, PreconditionFailed
from ragline.ops import alembic_scripts, old_transactions, refused_revisions
from ragline.ops.alembic_scripts import Direction, Rendered, Scripts
from ragline.ops.revision_errors import explained
from ragline.ops.revision_place import index_name, index_state

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_Session = psycopg.Connection[Any]
BeforeCommit = Callable[[_Session], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a statement waits for a lock, how long in all, and how long it runs.

    `later_lock_ms` is for a revision that holds a lock already: others wait for that one meanwhile.
    `outside_lock_ms` is for what is done CONCURRENTLY, which holds nobody up while it waits.
    """

    lock_ms: int = 150
    later_lock_ms: int = 50
    outside_lock_ms: int = 600_000
    patience_s: float = 30.0
    statement_ms: int = 1_800_000
    old_s: float = 5.0


@dataclass(slots=True)
class Ran:
    """What was seen while a revision ran."""

    statements: list[tuple[str, float]] = field(default_factory=list)
    attempts: int = 0
    waited_s: float = 0.0


def run(
    dsn: Dsn,
    scripts: Scripts,
    direction: Direction,
    revision: str,
    *,
    limits: Limits | None = None,
    reached: Callable[[str], None] = lambda _point: None,
    say: Callable[[str], None] = lambda _line: None,
    before_begin: BeforeCommit | None = None,
    before_commit: BeforeCommit | None = None,
) -> Ran:
    """Run one revision up or down; done before, it does nothing.

    `before_begin` and `before_commit` run inside its transaction, first and last.

    Raises LockTimeout where a lock was not free in all the time there was, PreconditionFailed for what
    PostgreSQL or the revision's own code refused: either way nothing of it stays.
    """
    limits = limits or Limits()
    rendered = alembic_scripts.rendered(scripts, direction, revision)
    refused_revisions.refuse_mixed(rendered)
    old_transactions.refuse_old(dsn, rendered, limits.old_s)
    inside = _Inside(
        rendered=rendered, reached=reached, before_begin=before_begin, before_commit=before_commit
    )
    until = time.monotonic() + limits.patience_s
    ran = Ran()
    while True:
        ran.attempts += 1
        ran.statements.clear()
        try:
            with explained(dsn, f"revision {revision}, {direction}"):
                _once(dsn, scripts, limits, inside, ran)
        except LockTimeout:
            # All at once again would meet all at once again.
            pause_s = min(0.1 * 1.6**ran.attempts, 3.0) * random.uniform(0.5, 1.0)  # noqa: S311
            if time.monotonic() + pause_s > until:
                old_transactions.refuse_old(dsn, rendered, 0.0)
                raise
            if ran.attempts == 3:
                say(f"revision {revision} waits for a lock; nobody waits for it meanwhile")
            ran.waited_s += pause_s
            time.sleep(pause_s)
        else:
            return ran


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inside:
    """What runs with a revision, in its transaction."""

    rendered: Rendered
    reached: Callable[[str], None]
    before_begin: BeforeCommit | None
    before_commit: BeforeCommit | None


def _once(dsn: Dsn, scripts: Scripts, limits: Limits, inside: _Inside, ran: Ran) -> None:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    step = scripts.step(inside.rendered.direction, inside.rendered.revision)
    migrate = step.migration_fn
    is_going = [False]

    @wraps(migrate)
    def begin(**more: Any) -> None:
        if inside.before_begin is not None:
            inside.before_begin(_driver(bind))
        is_going[0] = True
        migrate(**more)
        is_going[0] = False

    def refuse_commit(_bind: object) -> None:
        if is_going[0] and not any(one.is_outside for one in inside.rendered.statements):
            raise _halved(inside.rendered, "commits in the midst of it")

    def finish(ctx: MigrationContext, **_more: object) -> None:
        inside.reached("migration:before-commit")
        if inside.before_commit is not None:
            inside.before_commit(_driver(bind))

    settings = {
        "lock_timeout": f"{limits.lock_ms}ms",
        "statement_timeout": f"{limits.statement_ms}ms",
    }
    step.migration_fn = begin
    with (
        alembic_scripts.ONE_AT_A_TIME,
        scripts.imports(),
        user_session.bound(dsn, settings) as bind,
    ):
        context = MigrationContext.configure(
            connection=bind,
            opts={
                "fn": lambda heads, _context: [] if _is_done(scripts, step, heads) else [step],
                "script": scripts.directory,
                "transaction_per_migration": True,
                "version_table": scripts.version_table,
                "version_table_schema": scripts.version_schema,
                "on_version_apply": (finish,),
            },
        )
        _watch(dsn, scripts, bind, limits, inside, ran)
        sqlalchemy.event.listen(bind, "commit", refuse_commit)
        with Operations.context(context):
            context.run_migrations()
        bind.commit()
    inside.reached("migration:committed")


def _is_done(scripts: Scripts, step: Any, heads: Sequence[str]) -> bool:
    is_applied = step.revision.revision in scripts.below(heads)
    return bool(is_applied == step.is_upgrade)


def _driver(bind: sqlalchemy.Connection) -> _Session:
    connection: _Session | None = bind.connection.driver_connection
    if connection is None:
        raise DatabaseUnreachable("the connection was lost")
    return connection


def _watch(
    dsn: Dsn,
    scripts: Scripts,
    bind: sqlalchemy.Connection,
    limits: Limits,
    inside: _Inside,
    ran: Ran,
) -> None:
    """Look at each statement before and after it runs."""
    started = [0.0]
    sent: list[Statement] = []

    def before(
        _bind: object, _cursor: object, text: str, parameters: Any, *_more: object
    ) -> tuple[str, Any]:
        # A number for each, so that a test can be at every one of them.
        inside.reached(f"migration:statement:{len(ran.statements) + 1}")
        _refuse_unforeseen(scripts, inside.rendered, sent, text)
        found = migration_locks.read(text.strip().rstrip(";"))
        started[0] = time.monotonic()
        if found.index is None:
            return text, parameters
        _raise_patience(_driver(bind), limits.outside_lock_ms)
        return _unless_done(dsn, text, found.index, ran.attempts), parameters

    def after(_bind: object, _cursor: object, text: str, *_more: object) -> None:
        ran.statements.append((text.strip(), time.monotonic() - started[0]))
        found = migration_locks.read(text.strip().rstrip(";"))
        if found.index is not None:
            _raise_patience(_driver(bind), limits.lock_ms)
        elif found.lock not in ("none", "ROW EXCLUSIVE"):
            _shorten(_driver(bind), limits)

    sqlalchemy.event.listen(bind, "before_cursor_execute", before, retval=True)
    sqlalchemy.event.listen(bind, "after_cursor_execute", after)


def _refuse_unforeseen(
    scripts: Scripts, rendered: Rendered, sent: list[Statement], text: str
) -> None:
    """Refuse to run what may lose something and was not in the plan: no backup was asked for it.

    A revision may do other things with a connection than it writes out without one.
    """
    if migration_sql.last(scripts.version_table) in text and "version_num" in text:
        return
    if migration_locks.ends_transaction(text):
        raise _halved(rendered, f"runs `{text.strip()[:200]}`")
    sent += migration_locks.statements(text)
    if rendered.why_not:
        return
    foreseen = {_named(one) for one in rendered.losses}
    strange = [
        one
        for one in migration_statements.losses(sent)
        if not _named(one) <= set().union(*foreseen)
    ]
    if strange:
        raise PreconditionFailed(
            f"revision {rendered.revision} would lose {strange[0]} by `{text.strip()[:200]}`, which it "
            "does not do when it is written out as SQL: the plan could not know of it"
        )


def _halved(rendered: Rendered, why: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"revision {rendered.revision} {why}, so that a crash would leave half of it: leave the "
        "transaction to Alembic, and give what runs outside of one (autocommit_block) a revision of its "
        "own"
    )


def _named(loss: Loss) -> frozenset[tuple[str, ...]]:
    """Return what a loss is of, column by column."""
    table = migration_sql.plain(loss.table or "")
    return frozenset((loss.kind, table, migration_sql.plain(one)) for one in loss.columns or ("",))


def _raise_patience(session: _Session, lock_ms: int) -> None:
    session.execute("select pg_catalog.set_config('lock_timeout', %s, false)", [f"{lock_ms}ms"])


def _shorten(session: _Session, limits: Limits) -> None:
    """Once something is locked, others wait for us: a second lock is waited for less long."""
    session.execute(
        """
        select pg_catalog.set_config('lock_timeout', %s, true)
        from pg_catalog.pg_settings
        where name = 'lock_timeout' and setting::int = %s
        """,
        [f"{limits.later_lock_ms}ms", limits.lock_ms],
    )


def _unless_done(dsn: Dsn, text: str, index: OutsideIndex, attempt: int) -> str:
    """Return a statement, or one that does nothing where an earlier attempt did it already."""
    with user_session.looking(dsn) as session:
        state = index_state(session, index)
        if index.action == "create" and state == "invalid":
            session.execute(
                f"drop index concurrently if exists {index_name(session, index)}".encode()
            )
            return text
    is_done = state == ("valid" if index.action == "create" else "missing")
    return "select 1" if is_done and attempt > 1 else text

"""Running one revision of the user's own migrations: whole or not at all, and never in anybody's way.

One transaction a revision. A lock that is not free within 150 ms is given up, so that no reader queues
behind it for longer, and tried again a little later. What runs outside of a transaction
(`autocommit_block`, for indexes built CONCURRENTLY) is found half done and cleaned away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy
import sqlalchemy.exc

from ragline.core import migration_locks, migration_sql, migration_statements
from ragline.core.dsn import Dsn
from ragline.core.migration_statements import Loss, OutsideIndex, Statement
from ragline.db import user_session
from ragline.errors import DatabaseUnreachable, LockTimeout, PreconditionFailed, RaglineError
from ragline.ops import alembic_scripts, old_transactions, refused_revisions
from ragline.ops.alembic_scripts import Direction, Rendered, Scripts

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a database stands: its revisions, and indexes that are not as those say.

    `begun` are indexes that a broken-off revision built or dropped outside of its transaction.
    """

    heads: tuple[str, ...]
    begun: tuple[str, ...] = ()


@dataclass(slots=True)
class Ran:
    """What was seen while a revision ran."""

    statements: list[tuple[str, float]] = field(default_factory=list)
    attempts: int = 0
    waited_s: float = 0.0


# Where it stands.


def place(dsn: Dsn, scripts: Scripts) -> Place:
    """Return where the database is; refuse one that is at a revision the folder does not have."""
    with _explained(dsn, "reading the version table"), user_session.looking(dsn) as session:
        heads = _heads(session, scripts)
        strange = [one for one in heads if not scripts.knows(one)]
        if strange:
            raise PreconditionFailed(
                f"the database is at revision {', '.join(strange)}, which {scripts.target} does not "
                "have: use the folder that it was migrated with, or `alembic stamp` the right one"
            )
        return Place(heads=heads, begun=tuple(sorted(_deviating(session, scripts, heads))))


def _heads(session: _Session, scripts: Scripts) -> tuple[str, ...]:
    name = _version_name(session, scripts)
    if name is None:
        return ()
    rows = session.execute(f"select version_num from {name}".encode()).fetchall()  # noqa: S608
    return tuple(sorted(row[0] for row in rows))


def _version_name(session: _Session, scripts: Scripts) -> str | None:
    parts = [scripts.version_schema] if scripts.version_schema else []
    said = ".".join(_quoted(part) for part in (*parts, scripts.version_table))
    found = session.execute("select to_regclass(%s)::text", [said]).fetchone()
    return None if found is None else found[0]


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
        state = _index_state(session, index)
        leads_there = index in there.indexes
        should_be = (index.action == "create") == leads_there
        if should_be and state != "valid" and index.name in building:
            found[index.name] = there.statement_of(building[index.name])
        elif not should_be and (state == "invalid" or (state == "valid" and not index.is_lenient)):
            found[index.name] = None


def _index_state(session: _Session, index: OutsideIndex) -> str:
    row = session.execute(
        """
        select i.indisvalid and i.indisready, exists (
            select from pg_catalog.pg_stat_progress_create_index p
            where p.index_relid = i.indexrelid
        )
        from pg_catalog.pg_index i where i.indexrelid = to_regclass(%s)
        """,
        [_index_name(session, index)],
    ).fetchone()
    if row is None:
        return "missing"
    if row[1]:
        return "building"
    return "valid" if row[0] else "invalid"


def _index_name(session: _Session, index: OutsideIndex) -> str:
    """An index lies in the schema of its table, wherever the search path leads."""
    schema, name = migration_sql.parted(index.name)
    if schema is None and index.table is not None:
        row = session.execute(
            "select relnamespace::regnamespace::text from pg_catalog.pg_class "
            "where oid = to_regclass(%s)",
            [index.table],
        ).fetchone()
        if row is not None:
            return f"{row[0]}.{_quoted(name)}"
    return _quoted(name) if schema is None else f"{_quoted(schema)}.{_quoted(name)}"


def clean(
    dsn: Dsn, scripts: Scripts, names: Sequence[str], limits: Limits, reached: Callable[[str], None]
) -> None:
    """Put indexes right that a broken-off revision left half done; done before, it does nothing."""
    with _explained(dsn, "cleaning up"), user_session.looking(dsn) as session:
        session.execute(f"set lock_timeout = {limits.outside_lock_ms}")
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
            if index.action == "create" and _index_state(session, index) == "valid":
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
                    full = _index_name(session, index)
                    session.execute(f"drop index concurrently if exists {full}".encode())
                    return
    session.execute(f"drop index concurrently if exists {name}".encode())


# Running.


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
            with _explained(dsn, f"revision {revision}, {direction}"):
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
        state = _index_state(session, index)
        if index.action == "create" and state == "invalid":
            session.execute(
                f"drop index concurrently if exists {_index_name(session, index)}".encode()
            )
            return text
    is_done = state == ("valid" if index.action == "create" else "missing")
    return "select 1" if is_done and attempt > 1 else text


@contextmanager
def _explained(dsn: Dsn, what: str) -> Iterator[None]:
    """Turn what PostgreSQL, or the user's own code, refuses into our errors."""
    try:
        yield
    except RaglineError:
        raise
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as raised:
        error = raised.orig if isinstance(raised, sqlalchemy.exc.DBAPIError) else raised
        raise _ours(dsn, what, error) from raised
    except Exception as error:
        raise PreconditionFailed(
            f"{what}: {type(error).__name__}: {error}; nothing of it was changed"
        ) from error


def _ours(dsn: Dsn, what: str, error: BaseException | None) -> RaglineError:
    said = str(error).strip()
    if isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
        return LockTimeout(f"{what}: {said}; nothing of it was changed, it is safe to repeat")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return PreconditionFailed(
            f"{what}: {said}; nothing of it was changed. Where it has to take this long, let the "
            "revision say so: op.execute(\"set local statement_timeout = '2h'\")"
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return PreconditionFailed(
            f"{what}: user {dsn.user!r} may not do this: {said}; nothing of it was changed. Use the "
            "user who owns the tables"
        )
    if isinstance(error, psycopg.OperationalError) and getattr(error, "sqlstate", None) in (
        None,
        "57P01",
        "57P02",
        "57P03",
    ):
        return DatabaseUnreachable(f"the connection to {dsn.redacted()} was lost: {said}")
    return PreconditionFailed(f"{what}: {said}; nothing of it was changed")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

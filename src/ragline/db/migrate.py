"""The schema: what is applied, what is pending, and applying it.

Runs as the user of the DSN through psycopg, which accepts files of many statements.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragline.core.dsn import Dsn, Secret
from ragline.db import pool, queries
from ragline.db.roles import acts_as_owner, is_isolated, one, set_logins
from ragline.db.roles import role_password as role_password
from ragline.errors import DatabaseUnreachable, LockTimeout, PreconditionFailed, SchemaMismatch

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    from alembic.config import Config as AlembicConfig

OLDEST_SERVER = 14
OLDEST_PGVECTOR = (0, 8, 0)
_SQL = Path(__file__).parent / "sql"
_PATIENCE_MS = 2000
# What is asked beside the migration; the database's own limit may be one for quick queries of others.
_QUERY_TIMEOUT_MS = 60_000
# Roles belong to the whole cluster: the migration of another database may be making them now.
_TRIES = 5
# Alembic keeps the migration that runs in its module's own names.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One step of the schema's history."""

    id: str
    title: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """Where the schema stands. `applied` is None where there is no schema yet."""

    applied: str | None
    head: str
    pending: tuple[Revision, ...]
    isolated: bool
    server: str
    pgvector: str

    @property
    def is_current(self) -> bool:
        return self.applied == self.head


def status(dsn: Dsn) -> SchemaStatus:
    """Return where the schema of `dsn` stands; raise SchemaMismatch when it is newer than we are."""
    with _explained(dsn, _PATIENCE_MS), _connected(dsn, _PATIENCE_MS) as connection:
        server, pgvector = _check_server(connection)
        applied = _applied(connection)
        return SchemaStatus(
            applied=applied,
            head=_head(),
            pending=tuple(_pending(applied)),
            isolated=is_isolated(connection),
            server=server,
            pgvector=pgvector,
        )


def apply(dsn: Dsn, *, lock_timeout_ms: int, role_secret: Secret | None) -> SchemaStatus:
    """Bring the schema to this code's version in one transaction, and return what is read back."""
    with _explained(dsn, lock_timeout_ms), _connected(dsn, lock_timeout_ms) as connection:
        _check_server(connection)
        _pending(_applied(connection))
        _check_schema_is_ours(connection)
        _check_vector_schema_is_closed(connection)
    with _explained(dsn, lock_timeout_ms):
        _in_one_transaction(dsn, lambda bind: _upgrade(dsn, bind, lock_timeout_ms, role_secret))
    after = status(dsn)
    if not after.is_current:
        raise SchemaMismatch(
            f"the schema is at {after.applied} after applying up to {after.head}; run it again"
        )
    return after


def _upgrade(
    dsn: Dsn, bind: sqlalchemy.Connection, lock_timeout_ms: int, role_secret: Secret | None
) -> None:
    from alembic import command

    connection: psycopg.Connection[Any] | None = bind.connection.driver_connection
    if connection is None:
        raise DatabaseUnreachable(f"the connection to {dsn.redacted()} was lost")
    connection.execute(
        "select set_config('lock_timeout', %s, true), set_config('statement_timeout', '0', true)",
        [f"{lock_timeout_ms}ms"],
    )
    connection.execute(_sql("bootstrap.sql"))
    _check_nothing_runs_as_us(connection)
    _check_vector_schema_is_closed(connection)
    _act_as_owner(connection)
    alembic = _alembic()
    alembic.attributes["connection"] = bind
    with _ONE_AT_A_TIME:
        command.upgrade(alembic, "head")
    connection.execute("reset role")
    connection.execute("set local search_path = pg_catalog, pg_temp")
    if is_isolated(connection):
        connection.execute(_sql("grants.sql"))
        set_logins(dsn, connection, role_secret)


def _act_as_owner(connection: psycopg.Connection[Any]) -> None:
    """Create objects as the owner, in our schema, with no other schema in reach."""
    connection.execute("set local search_path = ragline, pg_temp")
    if acts_as_owner(connection):
        connection.execute("set local role ragline_owner")


def _check_nothing_runs_as_us(connection: psycopg.Connection[Any]) -> None:
    """Refuse a schema in which somebody else could have put what runs with our rights."""
    complaint = one(connection, queries.block("catalog", "complaint"))
    if complaint is not None:
        raise PreconditionFailed(complaint)


def _check_vector_schema_is_closed(connection: psycopg.Connection[Any]) -> None:
    """Refuse a schema of pgvector in which everybody may create: searches look for operators there."""
    # Without the extension yet: where it usually goes. Where it really went is looked at again.
    found = one(
        connection,
        """
        select n.nspname::text
        from pg_catalog.pg_namespace n
        left join pg_catalog.pg_extension e on e.extname = 'vector'
        cross join lateral pg_catalog.aclexplode(n.nspacl) a
        where n.oid = coalesce(e.extnamespace, (
            select oid from pg_catalog.pg_namespace where nspname = 'public'
        ))
          and a.grantee = 0::oid and a.privilege_type = 'CREATE'
        limit 1
        """,
    )
    if found is not None:
        raise PreconditionFailed(
            f"every user may create objects in schema {found!r}, where pgvector is: an operator put "
            f"there could run as ragline. Run `revoke create on schema {pool.quoted(found)} from "
            "public` as its owner or a superuser, or keep pgvector in a schema of its own (`create "
            "schema ext; create extension vector schema ext`); then run `ragline migrate apply` "
            "again. Nothing was changed"
        )


def _check_schema_is_ours(connection: psycopg.Connection[Any]) -> None:
    if one(
        connection,
        """
        select bool_or(true) and not bool_or(c.relname = 'alembic_version')
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'ragline'
        """,
    ):
        raise PreconditionFailed(
            "schema 'ragline' of this database holds tables of something else: rename it with "
            "`alter schema ragline rename to …`, or give ragline a database of its own"
        )


def _check_server(connection: psycopg.Connection[Any]) -> tuple[str, str]:
    """Return the versions of server and pgvector, or refuse with what to install."""
    version = connection.info.server_version
    major = version // 10000
    if major < OLDEST_SERVER:
        raise PreconditionFailed(
            f"this server is PostgreSQL {major}; ragline needs {OLDEST_SERVER} or newer"
        )
    if one(connection, "select pg_catalog.pg_is_in_recovery()"):
        raise PreconditionFailed(
            "this server is a read-only replica; point DATABASE_URL at the primary"
        )
    found = one(
        connection,
        """
        select coalesce(e.extversion, a.default_version)
        from pg_catalog.pg_available_extensions a
        left join pg_catalog.pg_extension e on e.extname = a.name
        where a.name = 'vector'
        """,
    )
    wanted = ".".join(map(str, OLDEST_PGVECTOR))
    if found is None:
        raise PreconditionFailed(
            f"PostgreSQL {major} at {dsn_place(connection)} has no pgvector; install pgvector "
            f"{wanted} or newer on the server (Debian and Ubuntu: package "
            f"postgresql-{major}-pgvector; others: https://github.com/pgvector/pgvector)"
        )
    if tuple(int(part) for part in str(found).split(".")[:3]) < OLDEST_PGVECTOR:
        raise PreconditionFailed(
            f"pgvector is {found}; ragline needs {wanted} or newer (iterative scans): install it on "
            "the server, then run `alter extension vector update`"
        )
    return connection.info.parameter_status("server_version") or str(major), str(found)


def dsn_place(connection: psycopg.Connection[Any]) -> str:
    """Return where a connection leads, for messages."""
    return f"{connection.info.host}:{connection.info.port}"


def _applied(connection: psycopg.Connection[Any]) -> str | None:
    _check_nothing_runs_as_us(connection)
    if one(connection, "select to_regclass('ragline.alembic_version')::text") is None:
        return None
    found = one(connection, "select version_num from ragline.alembic_version")
    return None if found is None else str(found)


def _pending(applied: str | None) -> Iterator[Revision]:
    """Yield the revisions to come, oldest first; refuse a schema that this code does not know."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_alembic())
    known = {item.revision for item in script.walk_revisions()}
    if applied is not None and applied not in known:
        raise SchemaMismatch(
            f"the schema is at version {applied}, which this ragline ({_head()}) does not know: it "
            "is newer than the code. Upgrade ragline"
        )
    ahead = list(script.iterate_revisions("head", applied or "base"))
    return (
        Revision(
            id=item.revision,
            title=(item.doc or "").strip(),
            sql=(Path(item.path).parent / f"{Path(item.path).stem[1:]}.sql").read_text("utf-8"),
        )
        for item in reversed(ahead)
    )


def _head() -> str:
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    if head is None:
        raise SchemaMismatch("this installation has no migrations; install ragline again")
    return head


def _alembic() -> AlembicConfig:
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig()
    config.set_main_option(
        "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
    )
    config.set_main_option("path_separator", "os")
    return config


def _in_one_transaction(dsn: Dsn, work: Callable[[sqlalchemy.Connection], None]) -> None:
    """Do all of `work` or nothing; again where another database's migration made the roles first."""
    import psycopg
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: _login(dsn, autocommit=False),
        poolclass=sqlalchemy.pool.NullPool,
    )
    for left in reversed(range(_TRIES)):
        try:
            with engine.begin() as bind:
                work(bind)
        except psycopg.Error as error:
            if not left or not _is_race_for_roles(error):
                raise
        else:
            return


def _is_race_for_roles(error: psycopg.Error) -> bool:
    message = error.diag.message_primary or ""
    return (
        error.sqlstate == "23505" and (error.diag.table_name or "").startswith("pg_")
    ) or message in ("tuple concurrently updated", "tuple concurrently deleted")


@contextmanager
def _explained(dsn: Dsn, lock_timeout_ms: int) -> Iterator[None]:
    """Turn what PostgreSQL refuses into our errors."""
    import psycopg
    import sqlalchemy.exc

    try:
        yield
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as raised:
        error = raised.orig if isinstance(raised, sqlalchemy.exc.DBAPIError) else raised
        if isinstance(error, psycopg.errors.LockNotAvailable):
            raise LockTimeout(
                f"a lock was not free within {lock_timeout_ms} ms ({error.diag.message_primary}); "
                "nothing was changed: run `ragline migrate apply` again"
            ) from raised
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            message = error.diag.message_primary or ""
            if 'create extension "vector"' in message:
                raise PreconditionFailed(
                    f"user {dsn.user!r} may not create the extension vector here. Ask a superuser "
                    f"to run `create extension vector` in database {dsn.database!r}, once; then run "
                    "`ragline migrate apply` again. Nothing was changed"
                ) from raised
            raise PreconditionFailed(
                f"user {dsn.user!r} may not do this: {message}. Nothing was "
                "changed. Run it as a user who may create the schema, or ask for what is missing"
            ) from raised
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            raise PreconditionFailed(
                f"{dsn.redacted()} is read-only for user {dsn.user!r} "
                "(default_transaction_read_only); run it where writing is allowed"
            ) from raised
        if isinstance(error, psycopg.OperationalError):
            raise DatabaseUnreachable(
                f"the connection to {dsn.redacted()} was lost: {error}; nothing was changed"
            ) from raised
        raise


def _login(dsn: Dsn, *, autocommit: bool) -> psycopg.Connection[Any]:
    """Connect, and look nowhere but in the catalog: we may be a superuser in a stranger's schema."""
    import psycopg

    connection = psycopg.connect(dsn.for_psycopg("admin"), autocommit=True)
    connection.execute("set search_path = pg_catalog, pg_temp")
    connection.autocommit = autocommit
    return connection


@contextmanager
def _connected(dsn: Dsn, lock_timeout_ms: int) -> Iterator[psycopg.Connection[Any]]:
    import psycopg

    try:
        connection = _login(dsn, autocommit=True)
    except psycopg.OperationalError as error:
        # Asked once more by the driver whose errors say what is wrong, not only that it is.
        asyncio.run(pool.ask_once(dsn, "admin", "select 1"))
        raise DatabaseUnreachable(f"{dsn.redacted()} cannot be reached: {error}") from error
    with connection:
        connection.execute(
            "select set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
            [f"{lock_timeout_ms}ms", f"{_QUERY_TIMEOUT_MS}ms"],
        )
        yield connection


def _sql(name: str) -> bytes:
    return (_SQL / name).read_bytes()

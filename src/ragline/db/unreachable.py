"""Why a connection failed, in words that help."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import asyncpg

from ragline.core.budget import Workload
from ragline.core.dsn import Dsn, missing
from ragline.errors import (
    ConfigError,
    DatabaseUnreachable,
    LockTimeout,
    PreconditionFailed,
    RaglineError,
)

Connect = Callable[[Dsn, Workload], Awaitable["asyncpg.Connection[asyncpg.Record]"]]


def lost(dsn: Dsn, error: Exception) -> RaglineError:
    """Return the error for a connection that broke while it was in use, may not write, or waited.

    A mistake in our SQL stays what it is.
    """
    if isinstance(error, asyncpg.LockNotAvailableError):
        return LockTimeout(f"{error}; nothing was changed, it is safe to repeat")
    if isinstance(error, asyncpg.QueryCanceledError):
        return DatabaseUnreachable(f"the query was cancelled: {error}; ask for less, or try again")
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return PreconditionFailed(
            f"{dsn.redacted()} lets nothing be written: {error}. It is a replica, or "
            "default_transaction_read_only is on for this user: set DATABASE_URL to the primary "
            "(target_session_attrs=read-write), or switch that off"
        )
    if isinstance(error, asyncpg.PostgresError) and not isinstance(
        error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    ):
        return RaglineError(f"PostgreSQL refused the statement: {error}")
    return DatabaseUnreachable(f"the connection to {dsn.redacted()} was lost: {error}")


async def explain(dsn: Dsn, error: Exception, connect: Connect) -> RaglineError:
    """Return an error that says what of the DSN is wrong, with the nearest name that exists."""
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        names = await _names(_elsewhere(dsn), "select datname from pg_database", connect)
        return ConfigError(missing("database", dsn.database, names))
    if isinstance(
        error, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError
    ):
        names = await _names(
            _others(dsn), "select rolname from pg_roles where rolcanlogin", connect
        )
        if names and dsn.user not in names:
            return ConfigError(missing("user", dsn.user, names))
        return ConfigError(
            f"the server at {dsn.redacted()} refuses user {dsn.user!r}: {error}. Check the user, its "
            "password and pg_hba.conf"
        )
    reason = str(error) or type(error).__name__
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ConfigError(
            f"user {dsn.user!r} may not use database {dsn.database!r}: {reason}. `grant connect on "
            "database` to the user, or use another one"
        )
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return DatabaseUnreachable(
            f"{dsn.redacted()} has no connection left: {reason}. Try again when other programs "
            "have closed theirs, or raise max_connections"
        )
    if isinstance(error, asyncpg.QueryCanceledError):
        # It answers, and too strictly: nobody has to wait until it is back.
        return PreconditionFailed(
            f"the server at {dsn.redacted()} ended the first question to it: {reason}. Allow more than "
            "that: statement_timeout of the server, the database or the role"
        )
    if isinstance(error, asyncpg.DiskFullError):
        return DatabaseUnreachable(
            f"the server at {dsn.redacted()} has no space left for a connection: {reason}. Free some "
            "space on its disk"
        )
    if "rejected SSL upgrade" in reason:
        return DatabaseUnreachable(
            f"the server at {dsn.redacted()} has no TLS, and sslmode={dsn.option('sslmode')} asks "
            "for it: switch TLS on there, or choose another sslmode"
        )
    return DatabaseUnreachable(
        f"no PostgreSQL answers at {dsn.redacted()}: {reason}. Is it running, and is the address "
        "right? `ragline dsn show` says where each part comes from"
    )


async def _names(candidates: Iterable[Dsn], query: str, connect: Connect) -> list[str]:
    """Return what `query` lists through the first candidate that lets us in; else nothing."""
    for candidate in candidates:
        with contextlib.suppress(
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError
        ):
            connection: Any = await connect(candidate, "admin")
            try:
                return [row[0] for row in await connection.fetch(query)]
            finally:
                await connection.close()
    return []


def _elsewhere(dsn: Dsn) -> Iterable[Dsn]:
    return (dsn.on(name) for name in ("postgres", "template1", dsn.user))


def _others(dsn: Dsn) -> Iterable[Dsn]:
    """Logins that often need no password: only to list names, and only after a refusal."""
    for user in dict.fromkeys((getpass.getuser(), "postgres")):
        if user != dsn.user:
            yield dsn.login(user, None).on("postgres")

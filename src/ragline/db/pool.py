"""The one way to get a connection: a pool per workload, logged in as that workload's role.

Nothing here is set for the session: what a query needs is set inside its own statement, so a
connection goes back as it came and needs no reset, which would cost as much as a small query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

import asyncpg

from ragline.core.budget import ROLES, Workload
from ragline.core.dsn import Dsn, Secret
from ragline.db import first_contact, unreachable, vectors
from ragline.db.first_contact import ServerFacts
from ragline.errors import (
    DatabaseUnreachable,
    PoolTimeout,
    PreconditionFailed,
)

# Quoted: asyncpg's classes take a parameter in their stubs only.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
# Lent by a pool, or opened for one purpose.
Db: TypeAlias = "Connection | asyncpg.Connection[asyncpg.Record]"

_Init: TypeAlias = "Callable[[asyncpg.Connection[asyncpg.Record]], Coroutine[Any, Any, None]]"

_log = logging.getLogger(__name__)
_CLOSING_S = 2.0

# The last: what asyncpg says on a connection that the server ended while nobody used it.
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_LOST = (*_BROKEN, OSError)
_REFUSED_LOGIN = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InsufficientPrivilegeError,
)


@dataclass(slots=True, kw_only=True)
class Pool:
    """The open connections of one workload. `why_not_isolated` is None when it logs in as its role.

    `revive` brings a server of our own back and says whether it did; a user's has none.
    """

    workload: Workload
    dsn: Dsn
    size: int
    timeout_s: float
    why_not_isolated: str | None
    revive: Callable[[], Awaitable[bool]] | None = field(default=None, repr=False)
    _pool: asyncpg.Pool[asyncpg.Record] = field(repr=False)

    def connection(self) -> Lease:
        """Lend a connection; what goes wrong on it comes out as one of our own errors."""
        return Lease(self)

    async def acquire(self) -> Connection:
        deadline = time.monotonic() + self.timeout_s
        pause_s = 0.01
        was_revived = False
        while True:
            # With one idle there is nothing to wait for, and a timer costs a twentieth of a search.
            left_s = None if self._pool.get_idle_size() else deadline - time.monotonic()
            try:
                return await self._pool.acquire(timeout=left_s)
            except TimeoutError as error:
                raise self._all_busy() from error
            except asyncpg.TooManyConnectionsError as error:
                # Other processes hold the role's share; theirs come back, so wait for one.
                if time.monotonic() + pause_s > deadline:
                    raise self._all_busy() from error
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.5)
            except _LOST as error:
                if self.revive and not was_revived:
                    was_revived = await self.revive()
                    if was_revived:
                        continue
                where = self.dsn.redacted()
                raise DatabaseUnreachable(f"no connection to {where}: {error}") from error

    def _all_busy(self) -> PoolTimeout:
        return PoolTimeout(
            f"no connection of workload {self.workload!r} became free within {self.timeout_s:g} s "
            f"(this process holds at most {self.size}); try again, or raise RAGLINE_POOL_TIMEOUT"
        )

    def open_and_idle(self) -> tuple[int, int]:
        """Return how many connections are open, and how many of those are not lent."""
        return self._pool.get_size(), self._pool.get_idle_size()

    async def release(self, connection: Connection) -> None:
        """Take a connection back. One that broke is thrown away; its error is already on its way."""
        with contextlib.suppress(*_LOST):
            await self._pool.release(connection)

    async def expire(self) -> None:
        """Have no connection lent again that is open now: settings and roles act on new ones only."""
        await self._pool.expire_connections()

    async def close(self) -> None:
        """Close every connection, waiting for those still lent."""
        await self._pool.close()


class Lease:
    """A connection lent for the time of an `async with`.

    A class, because a generator's context manager costs twice as much on every search.
    """

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.acquire()
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_lost = error is not None and _is_lost(self._connection)
        await self._pool.release(self._connection)
        # An OSError on a good connection is the caller's own: a file, a time limit.
        if isinstance(error, _BROKEN) or (is_lost and isinstance(error, OSError)):
            raise unreachable.lost(self._pool.dsn, error) from error


async def open_pool(
    dsn: Dsn,
    workload: Workload,
    *,
    password: Secret | None,
    size: Callable[[int], int],
    timeout_s: float,
    query_timeout_s: float | None,
    revive: Callable[[], Awaitable[bool]] | None = None,
) -> Pool:
    """Open a workload's pool as its role, or as the DSN's user where the server refuses the role.

    `size` turns the role's connection limit into this process's share of it.
    """
    as_role = dsn.login(ROLES[workload], password)
    why = None
    async with _explained(dsn):
        try:
            facts = await _first_contact(as_role, workload, timeout_s)
            if not facts.may_use_schema:
                why = f"role {ROLES[workload]} has no access to the schema of this database"
        except _REFUSED_LOGIN as error:
            why = f"role {ROLES[workload]} cannot log in: {error}"
        if why is not None:
            as_role = dsn
            facts = await _first_contact(dsn, workload, timeout_s)
    if why is not None and facts.has_roles:
        # Without roles that is how this server is; with them somebody should know.
        _log.warning("workload %s is not isolated: %s", workload, why)
    if facts.vector_schema is None:
        raise PreconditionFailed(
            "this database has no vector extension yet: run `ragline migrate apply`"
        )
    if why is not None and facts.budget < 1:
        raise PreconditionFailed(
            f"max_connections of {dsn.redacted()} leaves ragline no connection: raise it"
        )
    count = size(facts.connection_limit if why is None else facts.budget)
    login = as_role.for_asyncpg(workload)
    # Startup parameters, so that nothing is set on a session that others may get.
    login["server_settings"] = {
        # Our statements have their limits written out, and one plan for all values. Left to itself
        # PostgreSQL plans some of them anew each time, for half as long as they run.
        "plan_cache_mode": "force_generic_plan",
        **login["server_settings"],
        "search_path": f"ragline, {quoted(facts.vector_schema)}, pg_temp",
        **first_contact.statement_timeout(facts, query_timeout_s),
    }
    pool = await asyncpg.create_pool(
        **login,
        min_size=0,
        max_size=count,
        max_inactive_connection_lifetime=60,
        init=_prepared(facts, takes_a_slot=why is not None),
        reset=_keep_as_it_is,
    )
    return Pool(
        workload=workload,
        dsn=as_role,
        size=count,
        timeout_s=timeout_s,
        why_not_isolated=why,
        revive=revive,
        _pool=pool,
    )


async def _first_contact(dsn: Dsn, workload: Workload, timeout_s: float) -> ServerFacts:
    """Ask the server, waiting for a connection while others hold all of them."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.01
    while True:
        try:
            connection = await _connect(dsn, workload)
            try:
                return await first_contact.asked(connection)
            finally:
                await connection.close()
        except asyncpg.TooManyConnectionsError as error:
            if time.monotonic() + pause_s > deadline:
                raise PoolTimeout(
                    f"no connection of workload {workload!r} became free within {timeout_s:g} s "
                    f"({error}); try again, or raise RAGLINE_POOL_TIMEOUT"
                ) from error
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)


@asynccontextmanager
async def session(
    dsn: Dsn, workload: Workload, *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Lend a new connection of the DSN's own user, looking nowhere but in the catalog.

    What is asked here is asked of the server as it is now: settings and roles act on new connections
    only. `settings` go along with the login.
    """
    login = dsn.for_asyncpg(workload)
    login["server_settings"] = {
        **login["server_settings"],
        "search_path": "pg_catalog, pg_temp",
        **(settings or {}),
    }
    async with _explained(dsn):
        connection = await asyncpg.connect(**login)
    try:
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if _is_ours(error) or connection.is_closed():
            raise unreachable.lost(dsn, error) from error
        raise
    except OSError as error:
        if connection.is_closed():
            raise unreachable.lost(dsn, error) from error
        raise
    finally:
        # One that broke would wait for an answer that never comes.
        with contextlib.suppress(*_LOST, TimeoutError):
            await connection.close(timeout=_CLOSING_S)


async def ask_once(dsn: Dsn, workload: Workload, sql: str, *, unless: str | None = None) -> Any:
    """Return the one value of a question asked before there are pools; None without its table.

    `unless` is asked first; what it answers is the reason not to go on.
    """
    async with _explained(dsn):
        try:
            connection = await _connect(dsn, workload)
            try:
                complaint = None if unless is None else await connection.fetchval(unless)
                if complaint is not None:
                    raise PreconditionFailed(complaint)
                return await connection.fetchval(sql)
            finally:
                await connection.close()
        except asyncpg.UndefinedTableError:
            return None
        except asyncpg.InsufficientPrivilegeError as error:
            raise PreconditionFailed(
                f"user {dsn.user!r} may not read ragline's schema: {error}. Use the user who ran "
                "`ragline migrate apply`, or ask them for access"
            ) from error


async def look_up(dsn: Dsn) -> None:
    """Log in to a database that a text names and out again; raises our error where that fails.

    The passwords of our own environment are never sent there.
    """
    async with _explained(dsn, _connect_alone):
        connection = await _connect_alone(dsn, "read")
    await connection.close(timeout=_CLOSING_S)


async def _connect_alone(dsn: Dsn, workload: Workload) -> asyncpg.Connection[asyncpg.Record]:
    # Without one asyncpg takes PGPASSWORD, or the passfile's.
    return await asyncpg.connect(**{"password": "", **dsn.for_asyncpg(workload)})


async def _connect(dsn: Dsn, workload: Workload) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(**dsn.for_asyncpg(workload))


@asynccontextmanager
async def _explained(dsn: Dsn, connect: unreachable.Connect = _connect) -> AsyncIterator[None]:
    """Say what of the DSN is wrong where there is no connection to be had."""
    try:
        yield
    except _LOST as error:
        raise await unreachable.explain(dsn, error, connect) from error


def _prepared(facts: ServerFacts, *, takes_a_slot: bool) -> _Init:
    """Return what is done to each new connection."""

    async def init(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if takes_a_slot:
            await first_contact.take_slot(connection, facts.budget)
        await vectors.in_binary(connection, facts.vector_schema or "public")

    return init


def _is_ours(error: Exception) -> bool:
    """Whether it says something about locks, time or the server, and not about the statement."""
    return isinstance(
        error,
        asyncpg.LockNotAvailableError
        | asyncpg.QueryCanceledError
        | asyncpg.PostgresConnectionError
        | asyncpg.ReadOnlySQLTransactionError
        | asyncpg.AdminShutdownError
        | asyncpg.CrashShutdownError
        | asyncpg.CannotConnectNowError,
    )


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # closed, and taken from its proxy already
        return True


async def _keep_as_it_is(_connection: object) -> None:
    return


def quoted(identifier: str) -> str:
    """Return an identifier as SQL reads it, whatever it holds."""
    return '"' + identifier.replace('"', '""') + '"'

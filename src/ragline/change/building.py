"""Building and dropping indexes beside what is in use: watched, bounded, and nothing left half-done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from ragline.change.kind import Site
from ragline.core.dsn import application_name
from ragline.db import indexes, pool
from ragline.db.indexes import Progress
from ragline.db.pool import Db
from ragline.errors import (
    Conflict,
    DatabaseUnreachable,
    LockTimeout,
    PreconditionFailed,
    RaglineError,
    UsageError,
)

# A build that waits for its first lock, or for writers before it begins, has cost nothing yet.
_BEFORE_THE_WORK = (None, "initializing", "waiting for writers before build")
_TRIES = 3
_PAUSE_S = 0.2
_LOOK_S = (0.02, 1.0)
_SAY_S = 2.0
_STOPPED_WITHIN_MS = 10_000
_CLEANED_WITHIN_S = 20.0
BLOCKS = "DDL and vacuum of that table; no reader, no writer"
"""Whom building and dropping beside what is in use holds up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """An index to be built. `settings` are those of the session that builds it."""

    name: str
    table: str
    sql: str
    settings: Mapping[str, str]
    schema: str = indexes.OWN_SCHEMA


@asynccontextmanager
async def session(
    site: Site, schema: str = indexes.OWN_SCHEMA, **settings: str
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Lend a new connection that may do everything in schema ragline, and sees only the catalog.

    In another schema it may do what the user of the DSN may.
    """
    dsn = site.dsn if schema != indexes.OWN_SCHEMA else (await site.app.pool("admin")).dsn
    every = {
        "lock_timeout": f"{site.lock_timeout_ms}ms",
        "statement_timeout": "0",
        "client_min_messages": "notice",
        **settings,
    }
    async with pool.session(dsn, "admin", settings=every) as connection:
        yield connection


async def built(site: Site, building: Building) -> None:
    """Build an index that is not there; nothing of it is left when that fails.

    Raises LockTimeout when others stood in the way before the work began; PreconditionFailed or
    UsageError with what the server said.
    """
    for left in reversed(range(_TRIES)):
        try:
            await _built_once(site, building)
        except LockTimeout as error:
            if not left:
                raise
            site.say(f"{error}: trying again")
            await asyncio.sleep(_PAUSE_S)
            # Where a writer came between, what was begun could not be dropped at once.
            await dropped(site, building.name, building.schema)
        else:
            return


async def check_may_index(db: Db, schema: str, table: str) -> None:
    """Raise PreconditionFailed where the user of the DSN may not change a table's indexes."""
    row = await indexes.may_index(db, schema, table)
    if row is None:
        return
    if row["is_replica"]:
        raise PreconditionFailed(
            "this server is a read-only replica: change indexes on the primary, where DATABASE_URL "
            "should point"
        )
    if not row["is_owner"]:
        raise PreconditionFailed(
            f"user {row['user']} may not change the indexes of {schema}.{table}, which is owned by "
            f"{row['owner']}: connect as its owner, or `grant {row['owner']} to {row['user']}`"
        )
    if not row["may_create"]:
        raise PreconditionFailed(
            f"user {row['user']} may not make an index in schema {schema}: have its owner run `grant "
            f"create on schema {schema} to {row['user']}`"
        )


async def dropped(site: Site, name: str, schema: str = indexes.OWN_SCHEMA) -> None:
    """Drop an index without stopping anybody; none is all right.

    Raises LockTimeout where transactions that use its table do not end. It is as it was then.
    """
    for left in reversed(range(_TRIES)):
        try:
            await _dropped_once(site, name, schema)
        except LockTimeout as error:
            if not left:
                raise
            site.say(f"{error}: trying again")
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def removed(site: Site, name: str, schema: str = indexes.OWN_SCHEMA) -> None:
    """Drop an index, and end builds of it that were left behind."""
    await stopped(site, name, schema)
    await dropped(site, name, schema)


async def _dropped_once(site: Site, name: str, schema: str) -> None:
    async with session(site, schema) as connection:
        # The drop would wait for them, too, but by then the index serves nobody any more.
        left = await _ended(site, connection, indexes.users, name, schema)
        if left:
            raise LockTimeout(
                f"index {name} could not be dropped: process {_listed(left)} uses its table in a "
                "transaction that does not end; it is safe to repeat"
            )
        await indexes.drop(connection, name, schema)


async def stopped(site: Site, name: str, schema: str = indexes.OWN_SCHEMA) -> None:
    """End builds of this index that a killed process of ours left behind in the server.

    Raises Conflict where somebody else builds it.
    """
    # A role sees what it runs itself; the DSN's user is often one who sees everything.
    if schema == indexes.OWN_SCHEMA:
        async with session(site) as connection:
            await _stopped_through(site, connection, name, schema)
    async with site.session() as connection:
        await _stopped_through(site, connection, name, schema)


async def _stopped_through(site: Site, connection: Db, name: str, schema: str) -> None:
    for build in await indexes.in_flight(connection, name, schema):
        if not build.application.startswith(application_name("")):
            raise Conflict(
                f"{build.user} builds index {name} right now (process {build.pid}, "
                f"{build.application or 'no application name'}): wait for it, or end it"
            )
        site.say(f"stopping a build of {name} that was left behind (process {build.pid})")
        await _end(connection, name, build)


async def _end(connection: Db, name: str, build: indexes.Build) -> None:
    try:
        is_gone = await indexes.stop(connection, build.pid, within_ms=_STOPPED_WITHIN_MS)
    except asyncpg.InsufficientPrivilegeError as error:
        raise PreconditionFailed(
            f"a build of index {name} was left behind in process {build.pid} of {build.user}, which "
            f"we may not end: run `select pg_terminate_backend({build.pid})` as a superuser"
        ) from error
    if not is_gone:
        raise PreconditionFailed(
            f"a build of index {name} was left behind in process {build.pid} and does not end; try "
            "again in a while"
        )


async def _without_writers(site: Site, building: Building) -> None:
    """Wait for the transactions that have written to the table.

    The build would, too, but by then the index is there: INVALID, and not to be dropped before they end.
    """
    async with session(site, building.schema) as connection:
        left = await _ended(site, connection, indexes.writers, building.table, building.schema)
    if left:
        raise _in_the_way(building.name, left)


async def _ended(
    site: Site,
    connection: Db,
    asked: Callable[[Db, str, str], Awaitable[frozenset[tuple[int, str]]]],
    name: str,
    schema: str,
) -> list[int]:
    """Wait for the transactions that are there now; return the processes whose do not end."""
    deadline = time.monotonic() + site.lock_timeout_ms / 1000
    left = await asked(connection, name, schema)
    while left and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S[0])
        left &= await asked(connection, name, schema)
    return sorted(pid for pid, _ in left)


async def _built_once(site: Site, building: Building) -> None:
    await _without_writers(site, building)
    # Its own lock_timeout would end it in its last second as well, for a wait that harms nobody: it
    # holds a lock that no reader and no writer meets. So the watch below decides.
    async with session(site, building.schema, **building.settings, lock_timeout="0") as connection:
        connection.add_log_listener(lambda _, message: _noted(site, building.name, message))
        await _end_with_us(connection)
        running = asyncio.ensure_future(connection.execute(building.sql, timeout=None))
        try:
            await _watched(site, building, connection.get_server_pid(), running)
            await running
        except BaseException as error:
            running.cancel()
            with contextlib.suppress(BaseException):
                await running
            await _cleaned(site, building)
            if isinstance(error, asyncpg.PostgresError | OSError):
                raise _explained(building.name, error) from error
            raise


async def _end_with_us(connection: Db) -> None:
    """Let the server notice soon when we are gone. Not every system can: there it is found later."""
    with contextlib.suppress(asyncpg.PostgresError):
        await connection.execute(
            "select pg_catalog.set_config('client_connection_check_interval', '2s', false)"
        )


async def _watched(site: Site, building: Building, pid: int, running: asyncio.Future[str]) -> None:
    """Show how far a build is until it ends; end it when it cannot begin."""
    pause_s, longest_s = _LOOK_S
    began = said = time.monotonic()
    is_at_work = False
    async with _lookout(site, building.schema) as look:
        while not running.done():
            progress = await look(pid)
            now = time.monotonic()
            if progress is not None and not running.done():
                if progress.phase in _BEFORE_THE_WORK:
                    if progress.is_waiting and now - began > site.lock_timeout_ms / 1000:
                        raise _in_the_way(building.name, progress.blockers)
                elif not is_at_work:
                    is_at_work = True
                    site.reached("index:building")
                if now - said > _SAY_S:
                    said = now
                    site.say(f"{building.name}: {_said(progress)}")
            await asyncio.wait({running}, timeout=pause_s)
            pause_s = min(2 * pause_s, longest_s)
    if not is_at_work and running.exception() is None:
        site.reached("index:building")


@asynccontextmanager
async def _lookout(
    site: Site, schema: str
) -> AsyncIterator[Callable[[int], Awaitable[Progress | None]]]:
    """Lend what looks at a build: as the user who builds, since not everybody sees what others do."""
    if schema != indexes.OWN_SCHEMA:
        async with session(site, schema) as own:
            yield lambda pid: indexes.progress(own, pid)
        return
    # Small servers have no connection to spare for as long as a build takes.
    admin = await site.app.pool("admin")

    async def look(pid: int) -> Progress | None:
        async with admin.connection() as connection:
            return await indexes.progress(connection, pid)

    yield look


def _said(progress: Progress) -> str:
    phase = progress.phase or "waiting for its first lock"
    said = [phase]
    for (done, total), what in ((progress.blocks, "blocks"), (progress.tuples, "rows")):
        if total:
            said.append(f"{done:,} of {total:,} {what}")
        elif done:
            said.append(f"{done:,} {what}")
    if progress.blockers:
        said.append("behind process " + _listed(progress.blockers))
    return ", ".join(said)


def _in_the_way(name: str, processes: Sequence[int]) -> LockTimeout:
    return LockTimeout(
        f"index {name} could not be begun: it waits for the transaction of process "
        f"{_listed(processes)}; nothing in use was changed, it is safe to repeat"
    )


def _listed(processes: Sequence[int]) -> str:
    return ", ".join(map(str, processes)) or "unknown"


async def _cleaned(site: Site, building: Building) -> None:
    """Drop what a failed build left. Where even that fails, the next build begins with it."""
    with contextlib.suppress(RaglineError, asyncpg.PostgresError, OSError, TimeoutError):
        async with asyncio.timeout(_CLEANED_WITHIN_S):
            await removed(site, building.name, building.schema)


def _noted(site: Site, name: str, message: object) -> None:
    said = str(message)
    if "no longer fits" in said:
        site.say(
            f"warning: {name}: {said}; the rest of it takes several times as long. Free memory, or "
            "raise maintenance_work_mem"
        )


def _explained(name: str, error: Exception) -> RaglineError:
    """Return what a failed build means; nothing of it is left."""
    said = f"index {name} could not be built: {error}; nothing of it is left"
    if isinstance(error, asyncpg.DiskFullError) and "shared memory" in str(error):
        return PreconditionFailed(
            f"{said}. /dev/shm is too small: give the container more (--shm-size), or set "
            "max_parallel_maintenance_workers to 0"
        )
    if isinstance(error, asyncpg.DiskFullError):
        return PreconditionFailed(f"{said}. Free space where the database lies")
    if isinstance(error, asyncpg.UniqueViolationError):
        return UsageError(f"{said}. The rows there are not unique")
    if isinstance(error, asyncpg.QueryCanceledError):
        return PreconditionFailed(f"{said}. Somebody cancelled it, or a time limit did")
    if isinstance(error, asyncpg.AdminShutdownError | asyncpg.PostgresConnectionError | OSError):
        return DatabaseUnreachable(
            f"the connection that built index {name} was lost: {error}; what it left is removed by "
            "the next command"
        )
    return PreconditionFailed(said)

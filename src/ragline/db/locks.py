"""Locks that every ragline process on a database respects."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import asyncpg

from ragline.db.pool import Connection, Db

_PAUSE_S = 0.1
_TRIES = 5
_T = TypeVar("_T")


@asynccontextmanager
async def held(connection: Connection, what: str, number: int) -> AsyncIterator[None]:
    """Hold the lock of one thing, such as the index of space 3, waiting for it first.

    The server gives it back when the connection ends, whatever became of this process.
    """
    async with tried(connection, what, number, patience_s=math.inf):
        yield


@asynccontextmanager
async def tried(
    connection: Db, what: str, number: int, *, patience_s: float = 0.0
) -> AsyncIterator[bool]:
    """Hold the lock of one thing where it is free, or becomes free soon; say whether it is held."""
    name = f"ragline.{what}"
    sql = "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext($1), $2)"
    until = time.monotonic() + patience_s
    # Asked again and again: a statement that waits holds a snapshot, and an index that is built
    # concurrently waits for every snapshot, so the two would wait for each other.
    while not (is_held := bool(await connection.fetchval(sql, name, number))):
        if time.monotonic() >= until:
            break
        await asyncio.sleep(_PAUSE_S)
    try:
        yield is_held
    finally:
        # A connection that broke gave it back already, and its error is on its way.
        if is_held:
            sql = "select pg_catalog.pg_advisory_unlock(pg_catalog.hashtext($1), $2)"
            with suppress(asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError):
                await connection.execute(sql, name, number)


async def again_after_a_deadlock(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Return what one statement answers; a deadlock undid it whole, so it may be repeated.

    Removing a collection locks its table of vectors and what that refers to, which is what removed
    chunks of any collection are looked for in.
    """
    for _ in range(_TRIES - 1):
        try:
            return await ask()
        except asyncpg.DeadlockDetectedError:
            continue
    return await ask()

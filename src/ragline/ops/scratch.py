"""Databases for a while, on the same server: made, used, dropped, and swept up after a crash."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from ragline.core.dsn import Dsn
from ragline.db import pool, queries
from ragline.errors import PreconditionFailed, RaglineError
from ragline.ops import machine

PREFIX = "ragline_scratch"
_OF = "(pg_catalog.hashtext('ragline.scratch'), pg_catalog.hashtext($1))"
_HOLD = f"select pg_catalog.pg_try_advisory_lock{_OF}"
_GIVE = f"select pg_catalog.pg_advisory_unlock{_OF}"


@asynccontextmanager
async def database(dsn: Dsn, purpose: str, *, takes_bytes: int = 0) -> AsyncIterator[Dsn]:
    """Yield an empty database beside that of `dsn`, with its encoding; it is dropped afterwards.

    What it takes has to be free where the server's data lies, if that is on this machine. A session
    on `dsn` holds it: when our process is gone the next `sweep` may drop it.
    """
    async with pool.session(dsn, "admin") as session:
        here = await session.fetchrow(queries.block("backups", "this_database"))
        if here is None or not here["may_create"]:
            raise PreconditionFailed(
                f"{purpose} needs a database for a while, and user {dsn.user!r} may not create one: "
                f"`alter role {pool.quoted(dsn.user)} createdb`, or use another user"
            )
        if here["is_replica"]:
            raise PreconditionFailed(
                f"{purpose} needs a database for a while, and this server is a read-only replica; "
                "point DATABASE_URL at the primary"
            )
        await asyncio.to_thread(_check_disk, here, purpose, takes_bytes)
        name = f"{PREFIX}_{here['oid']}_{secrets.token_hex(5)}"
        # Held before it is there: nobody sweeps it away meanwhile.
        await session.fetchval(_HOLD, name)
        try:
            await session.execute(
                f"create database {pool.quoted(name)} template template0"
                f" encoding {literal(here['encoding'])} lc_collate {literal(here['collate'])}"
                f" lc_ctype {literal(here['ctype'])}"
            )
            # What is restored has not the privileges it had: nobody else comes in.
            await session.execute(f"revoke all on database {pool.quoted(name)} from public")
            yield dsn.on(name)
        finally:
            with suppress(asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError):
                await session.execute(f"drop database if exists {pool.quoted(name)} with (force)")


def _check_disk(here: asyncpg.Record, purpose: str, needed: int) -> None:
    """Refuse to fill the disk of a server that is here: without space for its log it stops."""
    if here["folder"] is None or not machine.is_data_directory(
        Path(here["folder"]), here["started"]
    ):
        return
    free = machine.free_disk_bytes(Path(here["folder"]))
    if free is not None and free < needed:
        raise PreconditionFailed(
            f"{purpose} may need {needed // 2**20} MiB where the database lies ({here['folder']}), and "
            f"{free // 2**20} are free: free some first"
        )


async def sweep(dsn: Dsn) -> list[str]:
    """Drop the databases that ended processes left, and return their names."""
    dropped = []
    async with pool.session(dsn, "admin") as session:
        here = await session.fetchrow(queries.block("backups", "this_database"))
        if here is None or here["is_replica"]:
            return []
        pattern = f"{PREFIX}_{here['oid']}_%".replace("_", "\\_")
        for row in await session.fetch(queries.block("backups", "scratch_databases"), pattern):
            name = row["name"]
            if not await session.fetchval(_HOLD, name):
                continue
            try:
                await session.execute(f"drop database if exists {pool.quoted(name)} with (force)")
                dropped.append(name)
            except (asyncpg.InsufficientPrivilegeError, RaglineError):
                pass  # another user's: theirs to sweep
            finally:
                await session.fetchval(_GIVE, name)
    return dropped


def literal(value: str) -> str:
    """Return a text as SQL reads it."""
    return "'" + value.replace("'", "''") + "'"

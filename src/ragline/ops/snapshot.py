"""Snapshots: the server, its machine and its content as they are now, read and never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import asyncpg

from ragline.core.dsn import Dsn
from ragline.core.snapshots import Contents, Fact, Group
from ragline.db import pool, server, snapshots
from ragline.db.server import FileSetting, Session
from ragline.errors import PreconditionFailed
from ragline.ops import machine, tuning

_LOCK_TIMEOUT_MS = 2000
_ELSEWHERE = "the server is on another machine, which cannot be asked"


async def now(dsn: Dsn, *, lock_timeout_ms: int = _LOCK_TIMEOUT_MS) -> Contents:
    """Return what is there now. A group that this user may not read is unknown, and says why."""
    async with pool.session(dsn, "admin") as session:
        # What knows pgvector's settings is in a session only once it was used there.
        await server.load_library_of(session, "hnsw.ef_search")
        lines, reason = await _lines(session)
        found = {
            "settings": await snapshots.settings(session, lines),
            "files": Group(unknown=reason) if lines is None else snapshots.files(lines),
        }
        # From here on the session may differ: its settings are not asked any more.
        await session.execute(f"set lock_timeout = {int(lock_timeout_ms)}")
        readers: dict[str, Callable[[Session], Awaitable[Group]]] = {
            "roles": snapshots.roles,
            "extensions": snapshots.extensions,
            "versions": _versions,
            "schema": snapshots.schema,
            "sizes": snapshots.sizes,
            "content": snapshots.content,
        }
        for name, read in readers.items():
            found[name] = await _tried(session, read)
        found |= await _of_the_machine(dsn, session)
    return found


async def _lines(session: Session) -> tuple[list[FileSetting] | None, str]:
    try:
        return await server.file_settings(session), ""
    except PreconditionFailed as error:
        return None, str(error)


async def _tried(session: Session, read: Callable[[Session], Awaitable[Group]]) -> Group:
    try:
        return await read(session)
    except asyncpg.UndefinedTableError as error:
        return Group(unknown=f"{error}: `ragline migrate apply` makes ragline's tables")
    except asyncpg.InsufficientPrivilegeError as error:
        return Group(unknown=f"{error}: use a user who may read it")
    except asyncpg.LockNotAvailableError as error:
        return Group(unknown=f"somebody has locked a table ({error}): try again when it is free")


async def _versions(session: Session) -> Group:
    ours: dict[str, Fact] = {"ragline": {"value": version("ragline")}}
    return Group(facts={**await snapshots.server_version(session), **ours})


async def _of_the_machine(dsn: Dsn, session: Session) -> dict[str, Group]:
    """Return the machine, and how much of its memory PostgreSQL has taken."""
    if not tuning.is_here(dsn):
        return {name: Group(unknown=_ELSEWHERE) for name in ("hardware", "memory")}
    folder = await snapshots.data_directory(session)
    return await asyncio.to_thread(
        _machine, None if folder is None else Path(folder), await snapshots.backend(session)
    )


def _machine(folder: Path | None, backend: int) -> dict[str, Group]:
    found = asdict(machine.this_machine(folder))
    del found["free_disk_bytes"]  # moves by itself
    hardware: dict[str, Fact] = {name: {"value": value} for name, value in found.items()}
    used = machine.postgres_bytes(backend)
    if used is None:
        reason = (
            "this user may not see what PostgreSQL's processes use (/proc/PID/smaps_rollup), or they "
            "are in another container"
        )
        return {"hardware": Group(facts=hardware), "memory": Group(unknown=reason)}
    share = round(used / found["memory_bytes"], 4)
    return {
        "hardware": Group(facts=hardware),
        "memory": Group(facts={"postgresql": {"bytes": used, "share_of_machine": share}}),
    }

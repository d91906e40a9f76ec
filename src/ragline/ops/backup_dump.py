"""pg_dump of some tables, written through us into a file, with what its snapshot held."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import asyncpg

from ragline.core.dsn import Dsn
from ragline.db import backups
from ragline.db.backups import Table
from ragline.errors import Conflict, LockTimeout, PreconditionFailed
from ragline.ops import programs

_PIECE = 1024 * 1024
_SAID = 1500

Advance = Callable[[str, int, int], None]
Reached = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is being written, and where it is until it is whole."""

    file: BinaryIO
    path: Path


@contextlib.contextmanager
def part_of(final: Path) -> Iterator[Part]:
    """Yield a new file beside the final one, which only we may read, locked while we live."""
    path = final.with_name(f".{final.name}.part")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise not_written(final, error) from error
    with os.fdopen(handle, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield Part(file, path)
        finally:
            path.unlink(missing_ok=True)


async def dumped(
    session: asyncpg.Connection[asyncpg.Record],
    dsn: Dsn,
    dump: Path,
    part: Part,
    wanted: Sequence[Table],
    advance: Advance,
    reached: Reached,
    *,
    is_all: bool,
) -> tuple[dict[str, dict[str, Any]], int, str]:
    """Write the dump, and return what its snapshot held, with the file's size and hash."""
    async with session.transaction(isolation="repeatable_read", readonly=True):
        # Locks first, then the snapshot: a table that is emptied or rewritten in between reads as
        # empty in a snapshot from before it. LOCK alone takes none.
        await session.execute(f"set local lock_timeout = {backups.LOCK_WAIT_MS}")
        await session.execute("set local statement_timeout = 0")
        await session.execute("set local idle_in_transaction_session_timeout = 0")
        said = ", ".join(table.rows for table in wanted)
        try:
            await session.execute(f"lock table {said} in access share mode")
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            raise Conflict(
                f"{error}: it was dropped or renamed meanwhile; nothing was written, try again"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise _not_readable(error) from error
        snapshot = await session.fetchval("select pg_catalog.pg_export_snapshot()")
        known = await backups.tables(session)
        names = [table.plain for table in wanted]
        wanted = backups.chosen(known, names)
        kept = {table.oid for table in wanted} | {part for table in wanted for part in table.parts}
        arguments = [
            *("--format=custom", "--no-password", f"--snapshot={snapshot}"),
            # Large objects belong to no table.
            "--blobs" if is_all else "--no-blobs",
            f"--lock-wait-timeout={backups.LOCK_WAIT_MS}",
            *(
                f"--exclude-table-data={table.sql}"
                for table in known
                if table.kind in ("r", "p") and table.oid not in kept
            ),
        ]
        expected = sum(table.bytes for table in known if table.oid in kept)
        try:
            async with asyncio.TaskGroup() as group:
                written = group.create_task(
                    _written(dsn, dump, arguments, part, expected, advance, reached)
                )
                counted = group.create_task(backups.contents(session, names, known=known))
        except BaseExceptionGroup as several:
            raise _first(several) from several
    size, sha256 = written.result()
    return counted.result(), size, sha256


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found = group.exceptions[0]
    return _not_readable(found) if isinstance(found, asyncpg.InsufficientPrivilegeError) else found


def _not_readable(error: asyncpg.PostgresError) -> PreconditionFailed:
    return PreconditionFailed(
        f"these tables cannot be read whole: {error}. Use their owner or a superuser: a backup "
        "without some of the rows would be none"
    )


async def _written(
    dsn: Dsn,
    dump: Path,
    arguments: Sequence[str],
    part: Part,
    expected: int,
    advance: Advance,
    reached: Reached,
) -> tuple[int, str]:
    """Have pg_dump write through us into the file: when we are killed it ends as well."""
    process = await asyncio.create_subprocess_exec(
        str(dump),
        *arguments,
        f"--dbname={programs.conninfo(dsn)}",
        env=dict(programs.environment(dsn)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_PIECE,
    )
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both were asked for")
    found, size = hashlib.sha256(), 0
    complaints = asyncio.create_task(process.stderr.read())
    try:
        while piece := await process.stdout.read(_PIECE):
            await asyncio.to_thread(part.file.write, piece)
            found.update(piece)
            size += len(piece)
            advance("backup", min(size, expected), expected)
            reached("backup:writing")
        await asyncio.to_thread(_synced, part)
        complaint = (await complaints).decode(errors="replace").strip()
        code = await process.wait()
    except OSError as error:
        raise not_written(part.path, error) from error
    finally:
        complaints.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code != 0:
        raise _refused(dsn, complaint)
    return size, found.hexdigest()


def _synced(part: Part) -> None:
    part.file.flush()
    os.fsync(part.file.fileno())


def _refused(dsn: Dsn, complaint: str) -> Exception:
    said = complaint[-_SAID:]
    # pg_dump asks for the time of a statement, and for locks alone.
    if any(one in said for one in ("lock timeout", "statement timeout", "could not obtain lock")):
        return LockTimeout(
            f"a table is being changed, and pg_dump waited {backups.LOCK_WAIT_MS // 1000} s for it "
            f"({said}); nothing was written, try again"
        )
    if any(one in said for one in ("permission denied", "row-level security", "may lack")):
        return PreconditionFailed(
            f"pg_dump may not read everything as user {dsn.user!r}: {said}. Use the owner of the "
            "tables or a superuser; nothing was written"
        )
    return PreconditionFailed(f"pg_dump of {dsn.redacted()} failed: {said}; nothing was written")


def not_written(path: Path, error: OSError) -> PreconditionFailed:
    """Return what a folder that takes no file means."""
    return PreconditionFailed(
        f"{path.parent} cannot hold the backup: {error.strerror}; nothing is kept of it. Free some "
        "space, or name another folder with --folder"
    )

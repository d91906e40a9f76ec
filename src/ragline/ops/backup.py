"""Backups of tables with pg_dump: made whole or not at all, restored to see, and put back.

A file holds the schema of the whole database and the rows of the chosen tables, all as one snapshot
saw them; the rows are counted and hashed in that same snapshot. A backup counts once it was restored
into an empty database and held exactly what was counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg

from ragline.core.dsn import Dsn
from ragline.db import backups, pool, queries
from ragline.db.backups import Backup, Table
from ragline.db.pool import Db
from ragline.errors import Conflict, PreconditionFailed, UsageError
from ragline.ops import backup_dump, programs, scratch
from ragline.ops.backup_dump import Advance, Reached

_SPARE_BYTES = 64 * 1024 * 1024
# A vector as text takes two to three times its bytes, and gzip takes half of that away again.
_GROWTH = 1.5
# The rows of a compressed file, their indexes, and the log of both.
_RESTORED = 5
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_LIKE_THE_SOURCE = (
    "--no-owner", "--no-privileges", "--no-comments", "--no-publications", "--no-subscriptions",
    "--no-security-labels", "--no-tablespaces",
)  # fmt: skip


def _silent(*_said: object) -> None:
    return


def check_name(name: str) -> None:
    """Refuse a name that is none: it would be taken for a number, or break a file name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a backup: at most 64 letters, digits, '_', '.', '-', and a letter "
            "or '_' first"
        )


async def create(
    dsn: Dsn,
    ledger: Db,
    tables: Sequence[str] | None,
    *,
    folder: Path,
    name: str | None = None,
    advance: Advance = _silent,
    reached: Reached = _silent,
) -> Backup:
    """Back up some tables, or all with None, into a file of a folder, and return what is stored.

    Interrupted at any point there is neither a backup nor a file of it, once the next command swept.
    `ledger` may write ragline's tables; the tables are read as the DSN's own user.
    """
    if name is not None:
        check_name(name)
    await backups.refuse_taken(ledger, name)
    await sweep(dsn, ledger, folder)
    async with pool.session(dsn, "admin") as session:
        here = await _here(session)
        dump = await asyncio.to_thread(programs.program, "pg_dump", here["major"])
        known = await backups.tables(session)
        wanted = _wanted(known, tables)
        _check_disk(folder, known, wanted)
        stem = f"{_plain(dsn.database)}-{name or 'backup'}-{_mark(here)}"
        final = folder / f"{stem}-{secrets.token_hex(4)}.dump"
        with backup_dump.part_of(final) as part:
            held, size, sha256 = await backup_dump.dumped(
                session, dsn, dump, part, wanted, advance, reached, is_all=tables is None
            )
            made = await backups.add(
                ledger,
                name=name,
                path=final,
                size_bytes=size,
                sha256=sha256,
                held=held,
                server_version=here["version"],
            )
            # Killed here, the next sweep finishes it: a row whose file has not its name yet.
            try:
                reached("backup:stored")
                part.path.rename(final)
            except Exception as error:
                await backups.remove(ledger, made)
                if isinstance(error, OSError):
                    raise backup_dump.not_written(final, error) from error
                raise
    return made


def _mark(here: asyncpg.Record) -> str:
    """Return what files of this database have in their names: others may use the folder too."""
    return hashlib.sha256(f"{here['cluster']}:{here['oid']}".encode()).hexdigest()[:10]


async def _here(session: asyncpg.Connection[asyncpg.Record]) -> asyncpg.Record:
    found = await session.fetchrow(queries.block("backups", "this_database"))
    if found is None:
        raise AssertionError("the database that we are in is in its own catalog")
    return found


def _wanted(known: Sequence[Table], names: Sequence[str] | None) -> list[Table]:
    if names is None:
        # Its own list of backups would differ as soon as this one is in it.
        names = [
            table.plain
            for table in known
            if table.kind in ("r", "p")
            and not table.is_partition
            and (table.schema, table.name) != ("ragline", "backup")
        ]
    if not names:
        raise UsageError("this database has no table to back up")
    return backups.chosen(known, names)


def _check_disk(folder: Path, known: Sequence[Table], wanted: Sequence[Table]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise PreconditionFailed(
            f"{folder} cannot hold a backup: {error.strerror}; name another with --folder"
        ) from error
    parts = {part for table in wanted for part in table.parts}
    bytes_ = sum(table.bytes for table in known if table.oid in parts or table in wanted)
    needed = int(bytes_ * _GROWTH) + _SPARE_BYTES
    if free < needed:
        raise PreconditionFailed(
            f"{folder} has {free // 2**20} MiB free, and a backup of these tables may need "
            f"{needed // 2**20}; free some, or name another with --folder"
        )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40]


# What a killed command left


async def sweep(dsn: Dsn, ledger: Db, folder: Path) -> None:
    """End what killed commands left: finish the file of a stored backup, remove all else of theirs."""
    await scratch.sweep(dsn)
    async with pool.session(dsn, "admin") as session:
        mark = _mark(await _here(session))
    every = await backups.every(ledger)
    folders = {folder, *(Path(backup.path).parent for backup in every)}
    await asyncio.to_thread(_sweep_files, folders, mark, {Path(backup.path) for backup in every})


def _sweep_files(folders: set[Path], mark: str, stored: set[Path]) -> None:
    for part in sorted(part for folder in folders for part in _parts(folder, mark)):
        final = part.with_name(part.name.removeprefix(".").removesuffix(".part"))
        with contextlib.suppress(OSError), part.open("rb") as file:
            # Whoever writes it holds the lock for as long as they live.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if final in stored and not final.exists():
                part.rename(final)
            else:
                part.unlink()


def _parts(folder: Path, mark: str) -> list[Path]:
    # With the mark of this database: another one may be about to finish a file of its own.
    try:
        return [
            path
            for path in folder.glob(f".*-{mark}-*.dump.part")
            if path.is_file() and not path.is_symlink()
        ]
    except OSError:
        return []


# Restoring


@asynccontextmanager
async def restored(dsn: Dsn, backup: Backup) -> AsyncIterator[Dsn]:
    """Yield a database beside that of `dsn` that holds what a backup does; dropped afterwards.

    It has the tables with their rows, without indexes, constraints and triggers.
    """
    await check_file(backup)
    async with beside(dsn, backup) as there:
        await fill(there, backup, "--section=pre-data", "--section=data")
        yield there


def beside(dsn: Dsn, backup: Backup) -> AbstractAsyncContextManager[Dsn]:
    """Return an empty database for a while that a backup has room in."""
    takes = backup.size_bytes * _RESTORED + _SPARE_BYTES
    return scratch.database(dsn, "restoring a backup", takes_bytes=takes)


async def check_file(backup: Backup) -> None:
    """Refuse a backup whose file is not what was written."""
    wrong = await asyncio.to_thread(backups.what_is_wrong, backup)
    if wrong is not None:
        raise PreconditionFailed(
            f"backup {backup.said} cannot be used: {wrong}. Put the file back, or make another backup"
        )


async def fill(there: Dsn, backup: Backup, *arguments: str) -> None:
    """Run pg_restore of a backup's file into a database; errors are raised."""
    async with pool.session(there, "admin") as session:
        here = await _here(session)
    said = [*_LIKE_THE_SOURCE, "--no-password", *arguments]
    await programs.restore(Path(backup.path), said, there, here["major"])


async def verify(dsn: Dsn, ledger: Db, reference: str) -> Backup:
    """Restore a backup into an empty database, compare every row, and mark it; else say what differs."""
    backup = await backups.one(ledger, reference)
    await sweep(dsn, ledger, Path(backup.path).parent)
    began = time.monotonic()
    try:
        await check_file(backup)
    except PreconditionFailed:
        await backups.mark(ledger, backup, None)
        raise
    # What fails here may be the machine's fault: it says nothing about the file.
    async with restored(dsn, backup) as there, pool.session(there, "admin") as session:
        seen = await backups.contents(session, backup.tables)
    differing = [table for table in backup.tables if seen[table] != backup.contents[table]]
    if differing:
        await backups.mark(ledger, backup, None)
        said = "; ".join(
            f"{table}: {seen[table]['rows']} rows restored, {backup.contents[table]['rows']} backed up"
            for table in differing[:5]
        )
        raise PreconditionFailed(
            f"backup {backup.said} does not hold what it should ({said}): do not rely on it, make "
            "another"
        )
    seconds = round(time.monotonic() - began, 2)
    return await backups.mark(ledger, backup, {"tables": seen, "seconds": seconds})


async def remove(ledger: Db, reference: str, *, is_needed_no_more: bool = False) -> Backup:
    """Forget a backup and delete its file; refused while the undo of a change needs its rows."""
    backup = await backups.one(ledger, reference)
    if not is_needed_no_more:
        await refuse_needed(ledger, backup)
    # First the file: a row without one is seen, a file without a row is not.
    try:
        await asyncio.to_thread(Path(backup.path).unlink, missing_ok=True)
    except OSError as error:
        raise PreconditionFailed(
            f"{backup.path} cannot be deleted: {error.strerror}; the backup is kept"
        ) from error
    await backups.remove(ledger, backup)
    return backup


async def refuse_needed(ledger: Db, backup: Backup) -> None:
    """Refuse to part with a backup while the undo of a change puts back rows of it."""
    needing = await backups.relied_on_by(ledger, backup)
    if needing:
        raise Conflict(
            f"the undo of change {', '.join(map(str, needing))} puts back rows of backup "
            f"{backup.said}: without it they are lost. Keep it, or add --needed-no-more"
        )

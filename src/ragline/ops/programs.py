"""PostgreSQL's own programs: where they are, and how they log in without showing a password."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from ragline.config import child_environment
from ragline.core.dsn import Dsn, Secret
from ragline.errors import EmbeddedServerError, PreconditionFailed
from ragline.ops.embedded import wheel

_DEBIAN = Path("/usr/lib/postgresql")
_SAID = 2000
_HAS_TRANSACTION_TIMEOUT = 17


def program(name: str, server_major: int) -> Path:
    """Return a program that is not older than the server: an older pg_dump refuses it.

    The nearest version is taken, since what a newer pg_dump writes an older server may not read.
    Raises PreconditionFailed, saying what to install.
    """
    found = {major: path for path in _candidates(name) if (major := _major(path)) is not None}
    fitting = sorted(major for major in found if major >= server_major)
    if fitting:
        return found[fitting[0]]
    seen = ", ".join(str(major) for major in sorted(found)) or "none"
    raise PreconditionFailed(
        f"{name} of PostgreSQL {server_major} or newer is needed, and is not here (found: {seen}). "
        f"Install it (Debian and Ubuntu: package postgresql-client-{server_major}), or "
        "`pip install 'ragline[embedded]'`"
    )


async def run(path: Path, arguments: Sequence[str], dsn: Dsn) -> str:
    """Run a program on a database and return what it printed; raise what it complained about."""
    process = await asyncio.create_subprocess_exec(
        str(path),
        *arguments,
        f"--dbname={conninfo(dsn)}",
        env=environment(dsn),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complaint = await process.communicate()
    finally:
        # Whoever gives up does not leave it behind, at work on the database.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        said = complaint.decode(errors="replace").strip()[-_SAID:]
        raise PreconditionFailed(f"{path.name} of {dsn.redacted()} failed: {said}")
    return printed.decode()


async def restore(file: Path, arguments: Sequence[str], dsn: Dsn, server_major: int) -> None:
    """Run pg_restore, and stop at the first error but one: a setting that older servers do not know.

    A pg_restore of 17 or newer begins with `set transaction_timeout`, whatever the server's version.
    """
    path = program("pg_restore", server_major)
    knows_it = server_major >= _HAS_TRANSACTION_TIMEOUT
    stop = ["--exit-on-error"] if knows_it else []
    try:
        await run(path, [*stop, *arguments, str(file)], dsn)
    except PreconditionFailed as error:
        said = str(error)
        is_that_alone = (
            'unrecognized configuration parameter "transaction_timeout"' in said
            and said.count("could not execute query") == 1
            and "errors ignored on restore: 1" in said
        )
        if knows_it or not is_that_alone:
            raise


def conninfo(dsn: Dsn) -> str:
    """Return what may stand on a command line, which everybody on the machine can read."""
    if any(isinstance(value, Secret) for _, value in dsn.options):
        names = ", ".join(name for name, value in dsn.options if isinstance(value, Secret))
        raise PreconditionFailed(
            f"the DSN has {names}, which cannot be handed to a program in secret; use a key without "
            "a password, or a passfile"
        )
    return replace(dsn, password=None).for_psycopg("backup")


def environment(dsn: Dsn) -> Mapping[str, str]:
    """Return the environment of such a program: the password is in it, and nothing else of ours."""
    password = {} if dsn.password is None else {"PGPASSWORD": dsn.password.reveal()}
    return {**child_environment(), "LC_ALL": "C.UTF-8", **password}


def _candidates(name: str) -> list[Path]:
    found = [path / "bin" / name for path in sorted(_DEBIAN.glob("[0-9]*"))]
    if (on_path := shutil.which(name)) is not None:
        found.append(Path(on_path))
    with contextlib.suppress(EmbeddedServerError):
        found.append(wheel.programs() / "bin" / name)
    return [path for path in found if path.is_file()]


@cache
def _major(path: Path) -> int | None:
    try:
        said = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\) (\d+)", said.stdout)
    return int(version.group(1)) if said.returncode == 0 and version else None

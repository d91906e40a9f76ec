"""Ways to restart a server: the embedded one, a command of the user's, or none."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import asyncpg

from ragline import config as configuration
from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.db import pool, server
from ragline.errors import DatabaseUnreachable, PreconditionFailed, RaglineError
from ragline.ops import embedded, machine

_COMMAND_TIMEOUT_S = 300.0
_READY_WAIT_S = 60.0
_PAUSE_S = 0.1
_SHOWN_LINES = 8


class Restart(Protocol):
    """How a server is restarted. `data_directory` is None where its files are not on this machine."""

    name: str
    data_directory: Path | None

    async def restart(self) -> None:
        """Stop and start the server, and return when it accepts connections.

        Raises PreconditionFailed with what the server said when it did not start.
        """

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        """Return why it could not start with these settings; None where it could, or nobody knows."""


class EmbeddedRestart:
    """The server of our own. A start that fails says what its log says."""

    name = "embedded"

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self._data_dir = data_dir
        self._port = port
        self.data_directory: Path | None = embedded.data_directory(data_dir)

    async def restart(self) -> None:
        """Stop the server, ending its connections, and start it again."""
        await asyncio.to_thread(embedded.stop, self._data_dir)
        await asyncio.to_thread(embedded.ensure, self._data_dir, port=self._port)

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        """Return what the server's own program says to these settings, and whether they fit here."""
        return await asyncio.to_thread(embedded.why_not, self._data_dir, settings)


@dataclass(slots=True, kw_only=True)
class CommandRestart:
    """A server of the user's, restarted by a command of the user's."""

    command: tuple[str, ...]
    dsn: Dsn
    data_directory: Path | None = None
    ready_wait_s: float = _READY_WAIT_S
    name: str = "command"

    async def restart(self) -> None:
        """Run the command, and wait for a server that started after it was run."""
        before = await _started_at(self.dsn)
        await self._run()
        until = time.monotonic() + self.ready_wait_s
        while True:
            now = await _started_at(self.dsn)
            if now is not None and now != before:
                return
            if time.monotonic() > until:
                raise self._not_restarted(is_up=now is not None)
            await asyncio.sleep(_PAUSE_S)

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        """Return None: its programs are not ours to run."""
        return None

    async def _run(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=configuration.child_environment(),
            )
        except OSError as error:
            raise PreconditionFailed(
                f"RAGLINE_RESTART_COMMAND {self.command[0]!r} cannot be run: {error.strerror}; write "
                "its whole path, or restart the server yourself"
            ) from error
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _COMMAND_TIMEOUT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise PreconditionFailed(
                f"RAGLINE_RESTART_COMMAND {self.command[0]!r} did not end within "
                f"{_COMMAND_TIMEOUT_S:.0f} s and was ended; it should return when the server runs"
            ) from None
        if process.returncode:
            raise PreconditionFailed(
                f"RAGLINE_RESTART_COMMAND {self.command[0]!r} ended with code {process.returncode} "
                f"and said:\n  {_last_lines(said)}"
            )

    def _not_restarted(self, *, is_up: bool) -> PreconditionFailed:
        where = self.dsn.redacted()
        if is_up:
            return PreconditionFailed(
                f"RAGLINE_RESTART_COMMAND {self.command[0]!r} ended well, but the server at {where} "
                "did not restart: it runs since before. Does the command restart this server?"
            )
        return PreconditionFailed(
            f"the server at {where} accepts no connections {self.ready_wait_s:.0f} s after "
            f"{self.command[0]!r} was run: look at the server's log for what it did not start with"
        )


async def find(config: Config, dsn: Dsn) -> Restart | None:
    """Return how this server can be restarted; None where only a person can do it."""
    if config.dsn is None:
        return EmbeddedRestart(config.data_dir, config.db_port)
    if not config.restart_command:
        return None
    return CommandRestart(
        command=config.restart_command, dsn=dsn, data_directory=await data_directory(dsn)
    )


async def data_directory(dsn: Dsn) -> Path | None:
    """Return where the server's files lie, if they lie on this machine and we may write them.

    A folder of that name may be here and be another server's: its pid file has to name this one's start.
    """
    try:
        async with pool.session(dsn, "admin") as session:
            folder = Path(await session.fetchval("show data_directory"))
            started = await server.started_at(session)
            return folder if await asyncio.to_thread(_is_here, folder, started) else None
    except (RaglineError, asyncpg.PostgresError):
        return None


async def _started_at(dsn: Dsn) -> datetime | None:
    try:
        async with pool.session(dsn, "admin") as session:
            return await server.started_at(session)
    except (DatabaseUnreachable, asyncpg.PostgresError, TimeoutError):
        return None


def _is_here(folder: Path, started: datetime) -> bool:
    try:
        with (folder / "postgresql.auto.conf").open("r+b"):
            return machine.is_data_directory(folder, started)
    except OSError:
        return False


def _last_lines(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    return "\n  ".join(lines) or "(nothing)"

"""Whose turn it is: one change at a time is in effect and not decided, and one process is at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypedDict, Unpack

import asyncpg

from ragline.change import journal, owner
from ragline.change.journal import Journal
from ragline.change.kind import Site
from ragline.core.change import Entry, State, Step, Value
from ragline.db import cluster, ledger, locks, server
from ragline.db.ledger import Hold
from ragline.errors import ConfigError, Conflict, PreconditionFailed, RaglineError

_Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_LOCK = "change"
_PREPARING = "change.prepare"
# A command of the user's may take 5 minutes and its server one more, and twice where it is repaired.
_RESTART_S = 800.0
_RELOAD_S = 10.0
_RENEWED_S = 2.0


class Noted(TypedDict, total=False):
    """What is written down with a state."""

    snapshot: Sequence[Value] | None
    before: Mapping[str, Any] | None
    verdict: Mapping[str, Any] | None
    waits_for: str | None
    undo_ms: float | None


@dataclass(slots=True)
class Turn:
    """The right to make a change, held by this process as long as its session lives."""

    site: Site
    _held: AsyncExitStack
    _session: _Session

    async def open(self, entry: Entry, snapshot: Sequence[Value]) -> Entry:
        """Take the one place, and commit the snapshot: after a crash it is all there is."""
        if entry.is_cluster_wide:
            await self._take_cluster(entry)
        try:
            opened = await self.move(entry, "snapshotted", "", snapshot=snapshot)
        except Conflict:
            if entry.is_cluster_wide:
                await self._give_back_cluster(entry)
            raise
        self.site.reached("snapshotted")
        return opened

    async def journal(self, entry: Entry) -> None:
        """Write the file beside the ledger for a change that can stop the server."""
        if entry.is_cluster_wide:
            await self._write_journal(entry)
            self.site.reached("journalled")

    async def move(self, entry: Entry, state: State, reason: str, **noted: Unpack[Noted]) -> Entry:
        """Bring a change to a state, as its owner."""
        await self._hold_on(entry)
        return await move(self.site, entry.id, state, reason, **noted)

    async def run(self, entry: Entry, step: Step, point: str, direction: str) -> None:
        """Do a step, with what all parts of a change share: one reload, one restart."""
        await self._hold_on(entry)
        await run(self.site, entry, step, point, direction)
        await self._hold_on(entry)

    async def wait_for_restart(self, entry: Entry, state: State, why: str = "") -> Entry:
        """Leave the change as it is until somebody has restarted the server."""
        return await self.move(
            entry,
            state,
            "waiting for a restart: restart the server, then run `ragline change resume`" + why,
            waits_for="restart",
        )

    async def close(
        self, entry: Entry, state: State, reason: str, *, undo_ms: float | None = None
    ) -> Entry:
        """End a change, and give its place back."""
        self.site.reached("closing")
        closed = await self.move(entry, state, reason, undo_ms=undo_ms)
        self.site.reached("closed")
        try:
            await self.release(entry)
        except (RaglineError, asyncpg.PostgresError, OSError) as error:
            # It is decided, and stays so; the next command gives back what is left.
            self.site.say(f"change {entry.id} is {state}, and still holds its place: {error}")
        return closed

    async def _hold_on(self, entry: Entry) -> None:
        """Take the right again where the server forgot it, as in a restart.

        Raises Conflict where another process has taken the change over meanwhile.
        """
        if not self._session.is_closed():
            return
        await self._held.aclose()
        session = await self._held.enter_async_context(_held(self.site, _LOCK, 0, _RENEWED_S))
        async with self.site.admin() as connection:
            is_ours = await ledger.owner(connection, entry.id) == owner.me()
        if session is None or not is_ours:
            raise Conflict(
                f"the connection that held change {entry.id} was lost, and another process has taken "
                f"it over: `ragline change show {entry.id}` says what became of it"
            )
        self._session = session

    async def release(self, entry: Entry) -> None:
        """Give back what an ended change still holds beside the ledger."""
        if not entry.is_cluster_wide:
            return
        await self._give_back_cluster(entry)
        server = await system_id(self.site)
        found = journal.read(self.site.data_dir, server)
        if found is not None and found.key == entry.key:
            journal.remove(self.site.data_dir, server)

    async def free_place(self) -> None:
        """Give back the server's place where its change is not open: killed just after taking it."""
        async with self.site.session(cluster.DATABASE) as session:
            held = await cluster.holder(session)
            if held is None or held.database != self.site.dsn.database:
                return
            async with self.site.admin() as connection:
                entry = await ledger.by_key(connection, held.key)
            if entry is not None and not entry.is_open:
                await cluster.give_back(session, held.key)

    async def has_place(self, entry: Entry) -> bool:
        """Return whether a change of this very database holds the server's place.

        One that is open took it before it was opened. Where it has it not, the ledger is a copy: a dump
        restored on another server, or a database made of another one as its template.
        """
        async with self.site.session(cluster.DATABASE) as session:
            held = await cluster.holder(session)
        return held is not None and (held.database, held.key) == (self.site.dsn.database, entry.key)

    async def _take_cluster(self, entry: Entry) -> None:
        try:
            async with self.site.session(cluster.DATABASE) as session:
                await self._take_place(session, entry)
        except ConfigError as error:
            raise PreconditionFailed(
                "settings and roles belong to all databases of a server, so a change of them keeps a "
                f"row in database {cluster.DATABASE!r}: {error}"
            ) from error
        self.site.reached("cluster-taken")

    async def _take_place(self, session: _Session, entry: Entry) -> None:
        database = self.site.dsn.database
        try:
            await cluster.take(session, database=database, change_id=entry.id, key=entry.key)
        except Conflict:
            held = await cluster.holder(session)
            if held is None or held.database != database or await self._is_open(held.key):
                raise
            # Killed between taking the place and opening, or between closing and giving it back.
            await cluster.give_back(session, held.key)
            await cluster.take(session, database=database, change_id=entry.id, key=entry.key)

    async def _is_open(self, key: str) -> bool:
        async with self.site.admin() as connection:
            entry = await ledger.by_key(connection, key)
        return entry is not None and entry.is_open

    async def _give_back_cluster(self, entry: Entry) -> None:
        async with self.site.session(cluster.DATABASE) as session:
            await cluster.give_back(session, entry.key)

    async def _write_journal(self, entry: Entry) -> None:
        restart = self.site.restart
        folder = None if restart is None else restart.data_directory
        settings: Mapping[str, str] = {}
        if folder is not None:
            async with self.site.session() as session:
                settings = await server.auto_settings(session)
        journal.write(
            self.site.data_dir,
            await system_id(self.site),
            Journal(
                key=entry.key,
                change_id=entry.id,
                database=self.site.dsn.database,
                title=entry.title,
                parts=entry.parts,
                snapshot=entry.snapshot or (),
                is_cluster_wide=entry.is_cluster_wide,
                opened_at=datetime.now(UTC).isoformat(),
                data_directory=None if folder is None else str(folder),
                settings=settings,
            ),
        )


@asynccontextmanager
async def taken(
    site: Site, *, patience_s: float = 0.0, session: _Session | None = None
) -> AsyncIterator[Turn]:
    """Hold the right to make changes in this database; raise Conflict where another process has it."""
    async with AsyncExitStack() as held:
        holder = await held.enter_async_context(_held(site, _LOCK, 0, patience_s, session))
        if holder is None:
            raise Conflict(
                "another process is at a change of this database: `ragline change watch` shows it; "
                "try again when it is done"
            )
        yield Turn(site, held, holder)


@asynccontextmanager
async def preparing(site: Site, id_: int) -> AsyncIterator[_Session]:
    """Hold the right to prepare one change; lends the session that holds it."""
    async with _held(site, _PREPARING, id_) as session:
        if session is None:
            raise Conflict(f"another process prepares change {id_}; `ragline change watch {id_}`")
        yield session


@asynccontextmanager
async def _held(
    site: Site,
    what: str,
    number: int,
    patience_s: float = 0.0,
    session: _Session | None = None,
) -> AsyncIterator[_Session | None]:
    """Lend the session that holds a lock, a new one unless it is given; None where another has it.

    It is no pooled connection: a small server's pool has a single one, and this one lies idle for long.
    """
    async with AsyncExitStack() as held:
        if session is None:
            session = await held.enter_async_context(
                site.session(settings={"idle_session_timeout": "0"})
            )
        lock = locks.tried(session, what, number, patience_s=patience_s)
        yield session if await held.enter_async_context(lock) else None


async def is_held(site: Site, hold: Hold) -> bool:
    """Return whether a process is still at a change."""
    entry = hold.entry
    what, number = (_PREPARING, entry.id) if entry.state == "preparing" else (_LOCK, 0)
    if owner.is_dead(hold.owner) and hold.owner is not None:
        # Its connection may live on for a moment, until the server notices.
        return False
    async with _held(site, what, number) as session:
        return session is None or hold.is_restarting


async def entry_of(site: Site, id_: int) -> Entry:
    """Return a change as the ledger has it now."""
    async with site.admin() as connection:
        return await ledger.one(connection, id_)


async def move(site: Site, id_: int, state: State, reason: str, **noted: Unpack[Noted]) -> Entry:
    """Bring a change to a state, as its owner."""
    async with site.admin() as connection:
        moved = await ledger.move(connection, id_, state, reason, owner=owner.me(), **noted)
    site.reached(f"state:{state}")
    return moved


async def run(site: Site, entry: Entry, step: Step, point: str, direction: str) -> None:
    """Do one step and write down that it began, and how it ended."""
    site.reached(f"{point}:before")
    async with site.admin() as connection:
        number = await ledger.begin_step(
            connection, entry.id, direction=direction, phase=step.phase, text=step.text
        )
    site.say(step.text)
    try:
        if step.action == "reload":
            await reload(site)
        elif step.action == "restart":
            await _restart(site, entry)
        else:
            await site.kinds[step.kind].run(site, step)
    except RaglineError as error:
        await _failed(site, entry, number, error)
        raise
    except asyncpg.PostgresError as error:
        refused = _refused(step, error)
        await _failed(site, entry, number, refused)
        raise refused from error
    async with site.admin() as connection:
        await ledger.end_step(connection, entry.id, number)
    site.reached(f"{point}:after")


async def _failed(site: Site, entry: Entry, number: int, error: RaglineError) -> None:
    try:
        async with site.admin() as connection:
            await ledger.end_step(connection, entry.id, number, str(error)[:2000])
    except RaglineError:
        return  # the server is gone, and the error that matters is on its way


def _refused(step: Step, error: asyncpg.PostgresError) -> RaglineError:
    said = str(error).strip()
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return PreconditionFailed(
            f"this user may not `{step.text}`: {said}. Use a user who may, or ask for the right"
        )
    if isinstance(error, asyncpg.DiskFullError):
        return PreconditionFailed(f"the disk is full: `{step.text}` said {said}. Free some space")
    return PreconditionFailed(f"`{step.text}` was refused: {said}")


async def reload(site: Site) -> None:
    """Have the server read its files again, and wait until new connections see it.

    Raises PreconditionFailed where a file holds what cannot be: then nothing is read at all.
    """
    async with site.session() as session:
        for name, error in await _faults(session):
            raise PreconditionFailed(
                f"the server would not take its files: {name or 'a line'}: {error}"
            )
        before = await session.fetchval("select pg_catalog.pg_conf_load_time()")
        await session.execute("select pg_catalog.pg_reload_conf()")
    until = time.monotonic() + _RELOAD_S
    while time.monotonic() < until:
        async with site.session() as session:
            if await session.fetchval("select pg_catalog.pg_conf_load_time()") > before:
                return
        await asyncio.sleep(0.01)
    raise PreconditionFailed(
        f"the server has not read its files again within {_RELOAD_S:g} s; look at its log"
    )


async def _faults(session: _Session) -> list[tuple[str | None, str]]:
    try:
        rows = await session.fetch(
            """
            select name, error from pg_catalog.pg_file_settings
            where error is not null and error <> 'setting could not be applied'
            """
        )
    except asyncpg.InsufficientPrivilegeError:
        return []  # whoever may reload need not be allowed to read this
    return [(row["name"], row["error"]) for row in rows]


async def _restart(site: Site, entry: Entry) -> None:
    if site.restart is None:
        raise PreconditionFailed("nobody but a person can restart this server")
    async with site.admin() as connection:
        await ledger.expect_restart(connection, entry.id, _RESTART_S)
    try:
        await site.restart.restart()
    except RaglineError as error:
        await _repaired(site, error)
        raise
    await site.app.forget_connections()


async def _repaired(site: Site, error: RaglineError) -> None:
    """Put a server right that did not start: its files as they were before, and once more."""
    found = None
    if site.restart is not None and site.restart.data_directory is not None:
        found = await asyncio.to_thread(
            journal.repair, site.data_dir, below=site.restart.data_directory
        )
    if found is None or site.restart is None:
        return
    site.say(f"the server did not start ({error}); its settings are put back on disk")
    await site.restart.restart()
    await site.app.forget_connections()


async def system_id(site: Site) -> str:
    """Return what tells this server from all others, and stays through backups and restarts."""
    async with site.session() as session:
        return str(
            await session.fetchval("select system_identifier from pg_catalog.pg_control_system()")
        )

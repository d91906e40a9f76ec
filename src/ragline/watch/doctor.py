"""The doctor: reads a database and what is around it. What that means is judged in `core/doctor`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from ragline.core import advisories
from ragline.core.checkup import Finding
from ragline.core.doctor import judging, words
from ragline.core.doctor.catalogue import IDS
from ragline.core.doctor.facts import Disk, Facts, Model, Unknown
from ragline.core.doctor.indexes import Inventory
from ragline.core.doctor.reaching import Refusal
from ragline.core.evidence import OperatorUse
from ragline.db import catalog, evidence, pool
from ragline.db import doctor as stored
from ragline.errors import DatabaseUnreachable, RaglineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ragline.core.dsn import Dsn

    Session = asyncpg.Connection[asyncpg.Record]

_PATIENCE_S = 10.0
_PAUSE_S = 0.25
_SAID_EVERY_S = 5.0
# Whatever is asked must not wait for what it asks about.
_LIMITS = {"statement_timeout": "5s", "lock_timeout": "500ms"}

ReadDisk = Callable[[Path, datetime], Disk | None]
ReadModels = Callable[[], Awaitable[Sequence[Model]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What is around the database and not in it. `today` and `is_local` are the caller's to know."""

    today: date
    is_local: bool
    memory_bytes: int | None
    disk: ReadDisk
    models: ReadModels


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found; `error` is why the database could not be asked."""

    findings: tuple[Finding, ...]
    error: RaglineError | None = None


async def examine(dsn: Dsn, around: Around, wanted: Sequence[str] = IDS) -> Examination:
    """Return what is found out about a database, through one connection of the DSN's user."""
    try:
        facts, inventory = await _facts(dsn, around, wanted)
    except RaglineError as error:
        return Examination(findings=judging.unreached(_refusal(error), wanted), error=error)
    return Examination(findings=judging.judge(facts, inventory, wanted))


def not_started(error: RaglineError, wanted: Sequence[str] = IDS) -> Examination:
    """Return what is found out where our own server could not be started."""
    broken = words.failed(
        "server.reachable", str(error), fix="`ragline db status` says where its log is"
    )
    return Examination(findings=judging.without_answer(broken, wanted), error=error)


async def wait(dsn: Dsn, seconds: float, say: Callable[[str], None]) -> None:
    """Wait until the server lets us in, at most so long. What waiting does not mend ends it."""
    started = time.monotonic()
    said_at = -_SAID_EVERY_S
    while True:
        try:
            async with _session(dsn):
                return
        except DatabaseUnreachable as error:
            waited = time.monotonic() - started
            if waited + _PAUSE_S > seconds:
                return
            if waited - said_at >= _SAID_EVERY_S:
                said_at = waited
                say(f"waiting ({waited:.0f} of {seconds:g} s): {error}")
        except RaglineError:
            return
        await asyncio.sleep(_PAUSE_S)


async def has_schema(dsn: Dsn) -> bool:
    """Return whether ragline was here, whatever its version. Nothing of it is read."""
    async with _session(dsn) as session:
        return bool(
            await session.fetchval("select pg_catalog.to_regnamespace('ragline') is not null")
        )


@asynccontextmanager
async def _session(dsn: Dsn) -> AsyncIterator[Session]:
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                session = await stack.enter_async_context(
                    pool.session(dsn, "admin", settings=_LIMITS)
                )
        except TimeoutError as error:
            raise DatabaseUnreachable(
                f"{dsn.redacted()} did not let us in within {_PATIENCE_S:g} s: see whether its address "
                "is right, and what keeps it busy"
            ) from error
        yield session


async def _facts(
    dsn: Dsn, around: Around, wanted: Sequence[str]
) -> tuple[Facts, Inventory | Unknown]:
    started = time.perf_counter()
    async with _session(dsn) as session:
        answered_ms = (time.perf_counter() - started) * 1000
        rows = await stored.rows(session)
        inventory = await _inventory(session, around, wanted)
    folder = rows.settings.get("data_directory")
    facts = Facts(
        today=around.today,
        is_local=around.is_local,
        where=dsn.redacted(),
        answered_ms=answered_ms,
        advisories=_advisories(),
        server=rows.server,
        settings=rows.settings,
        extensions=rows.extensions,
        ages=rows.ages,
        sessions=rows.sessions,
        prepared=rows.prepared,
        slots=rows.slots,
        standbys=rows.standbys,
        replica=rows.replica,
        neglected=rows.neglected,
        roles=rows.roles,
        hba=rows.hba,
        file_faults=rows.file_faults,
        wal=rows.wal,
        archiver=rows.archiver,
        disk=await _disk(around, None if folder is None else folder.setting, rows.started_at),
        schema=rows.schema,
        spaces=rows.spaces,
        models=await _models(around, rows, wanted),
    )
    return facts, inventory


async def _inventory(
    session: Session, around: Around, wanted: Sequence[str]
) -> Inventory | Unknown:
    if not any(id_.startswith("index.") for id_ in wanted):
        return Unknown(reason="it was not looked at")
    try:
        locked = await catalog.locked(session)
        return Inventory(
            indexes=await catalog.indexes(session, without=locked),
            tables=await catalog.tables(session, without=locked),
            locked=tuple(table.qualified for table in locked),
            server=await catalog.server(session, memory_bytes=around.memory_bytes),
            operators=await _operators(session),
        )
    except stored.REFUSED as error:
        return stored.refusal(error)


async def _operators(session: Session) -> Sequence[OperatorUse] | None:
    try:
        source = await evidence.source(session)
        return await evidence.operators_used(session) if source.is_usable else None
    except stored.REFUSED:
        return None


async def _disk(around: Around, folder: str | None, started_at: datetime) -> Disk | Unknown:
    if folder is None:
        return Unknown(
            reason="this user may not see where the server's data lies",
            fix="as a superuser `grant pg_read_all_settings to` this user",
        )
    found = await asyncio.to_thread(around.disk, Path(folder), started_at)
    return found or Unknown(
        reason=f"{folder} of the server is not on this machine, or not for this user of it to see",
        fix="look there with `df -h`, or run `ragline doctor` there as a user who may",
    )


async def _models(
    around: Around, rows: stored.Rows, wanted: Sequence[str]
) -> Sequence[Model] | Unknown:
    """Open the models only where something depends on them: that takes longer than all the rest."""
    if isinstance(rows.spaces, Unknown) or "model.spaces" not in wanted:
        return Unknown(reason="it was not looked at")
    if not any(space.is_active for space in rows.spaces):
        return ()
    try:
        return await around.models()
    except RaglineError as error:
        return Unknown(reason=str(error), fix="`ragline model check` says more")


def _advisories() -> advisories.Advisories:
    file = resources.files("ragline.core").joinpath("advisories.toml")
    return advisories.advisories(file.read_text(encoding="utf-8"))


def _refusal(error: RaglineError) -> Refusal:
    cause = error.__cause__
    return Refusal(
        sentence=str(error),
        sqlstate=getattr(cause, "sqlstate", None),
        said="" if cause is None else str(cause),
    )

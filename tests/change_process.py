"""A change made by a process of its own, which is killed, or stands still, at a point of the way.

It imports little that is not preloaded: a process then starts in a twentieth of a second.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from ragline import config as configuration
from ragline import wiring
from ragline.change import loop
from ragline.change.kind import Site
from ragline.config import Config
from ragline.core.change import Entry, Part
from ragline.core.gate import Asked
from ragline.evals.gate import Gate
from trials import Fixed

_WITHIN_S = 240.0
_PRELOADED = [
    "ragline.wiring",
    "alembic.operations",
    "alembic.script",
    "psycopg",
    "ragline.change.loop",
    "ragline.change.kinds.index",
    "ragline.change.kinds.migration",
    "ragline.change.kinds.role",
    "ragline.change.kinds.search",
    "ragline.change.kinds.setting",
    "ragline.change.kinds.space",
    "ragline.evals.gate",
    "ragline.models.embed_local",
    "ragline.ops.restart",
]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process is to do: make a change, or take back the one that `undoes` names.

    `is_blind`: nothing warns of settings with which the server cannot start.
    """

    parts: tuple[Part, ...] = ()
    status: str | None = "pass"
    asked: Asked | None = field(default_factory=Asked)
    undoes: int | None = None
    is_blind: bool = False


def start(environment: Mapping[str, str], job: Job, fail_point: str, log: Path) -> BaseProcess:
    """Start a process at a change that dies, or stops, at a point."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    told = {**environment, "RAGLINE_FAIL_POINT": fail_point}
    process = context.Process(target=_child, args=(told, job, log), daemon=True)
    process.start()
    return process


def _child(environment: dict[str, str], job: Job, log: Path) -> None:
    for name in [one for one in os.environ if one.startswith(("RAGLINE_", "PG"))]:
        del os.environ[name]
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    config = configuration.load(environ=environment)
    asyncio.run(_make(config, job))


async def _make(config: Config, job: Job) -> None:
    async with wiring.open_site(config) as site:
        if job.status is not None:
            site.measure = Fixed(job.status)
        await made(site, job)


async def made(site: Site, job: Job) -> Entry:
    """Make a change as a job says, and return how it ended."""
    if job.is_blind and site.restart is not None:
        site.restart.preflight = _nothing_said  # type: ignore[method-assign]
    if job.undoes is not None:
        return await loop.undo(site, job.undoes)
    planned = await loop.plan(site, job.parts, job.asked)
    assert planned is not None, "all is so already"
    return await loop.apply(site, planned.id)


async def _nothing_said(settings: Mapping[str, str]) -> str | None:
    return None


def recorded(site: Site) -> list[str]:
    """Return the list to which a site adds every point that it passes."""
    passed: list[str] = []
    site.reached = passed.append
    if isinstance(site.measure, Gate):
        site.measure._reached = passed.append  # it was given the site's own
    return passed


def died(process: BaseProcess) -> bool:
    """Return whether a process was killed at its point, rather than reaching its end."""
    process.join(_WITHIN_S)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("it neither died nor ended")
    return process.exitcode == -signal.SIGKILL


async def stopped(process: BaseProcess) -> bool:
    """Wait until a process stands still at its point; False where it ended before."""
    until = time.monotonic() + _WITHIN_S
    while time.monotonic() < until:
        if (state := _state(process.pid)) == "T":
            return True
        if state in (None, "Z"):
            return False
        await asyncio.sleep(0.005)
    process.kill()
    raise AssertionError("it never came to its point")


def _state(pid: int | None) -> str | None:
    try:
        said = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return said.rpartition(")")[2].split()[0]


def go_on(process: BaseProcess) -> int:
    """Let a process that stands still go on, and return how it ended by itself."""
    assert process.pid is not None
    until = time.monotonic() + _WITHIN_S
    while time.monotonic() < until:
        if _state(process.pid) == "T":  # on its way back it may pass the point again
            os.kill(process.pid, signal.SIGCONT)
        process.join(0.05)
        if process.exitcode is not None:
            return process.exitcode
    process.kill()
    raise AssertionError("it never ended")

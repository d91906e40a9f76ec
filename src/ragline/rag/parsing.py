"""Parsing in child processes: a file that crashes or hangs its parser harms nobody else."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Self

from ragline.config import child_environment
from ragline.rag.formats import PARSERS, Parsed, Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserLimits:
    """What one file may take. Time is both processor time and the clock's."""

    deadline_s: float = 60.0
    memory_bytes: int = 2 << 30
    size_bytes: int = 64 << 20


class ParserPool:
    """Child processes that parse, started on first use and replaced when they die.

        async with ParserPool() as pool:
            parsed = await pool.parse(path, "text/markdown")

    They end with the pool, and by themselves when this process is killed.
    """

    def __init__(
        self,
        workers: int = 2,
        limits: ParserLimits | None = None,
        parsers: Mapping[str, str] = PARSERS,
    ) -> None:
        self._limits = limits or ParserLimits()
        self._parsers = parsers
        self._idle: asyncio.LifoQueue[_Worker | None] = asyncio.LifoQueue()
        self._workers: set[_Worker] = set()
        for _ in range(workers):
            self._idle.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the child processes, at work or not."""
        for worker in tuple(self._workers):
            self._end(worker)

    async def parse(self, source: Path | bytes, media_type: str) -> Parsed:
        """Return the text and blocks of a file, or raise Rejected with a reason.

        TIMEOUT and CRASHED are such reasons too: the child process is replaced.
        """
        module = self._parsers.get(media_type)
        if module is None:
            raise Rejected("UNSUPPORTED", f"there is no parser for {media_type!r}")
        worker: _Worker | None = await self._idle.get()
        try:
            if worker is None or not worker.is_alive():
                worker = await self._replaced(worker)
            answer = await asyncio.to_thread(worker.ask, source, module, self._limits.deadline_s)
        except asyncio.CancelledError:
            # The thread waits for an answer; without its process it stops waiting.
            if worker:
                self._end(worker)
            raise
        finally:
            self._idle.put_nowait(worker)
        if isinstance(answer, Parsed):
            return answer
        raise Rejected(*answer)

    async def _replaced(self, worker: _Worker | None) -> _Worker:
        if worker:
            self._end(worker)
        started = await asyncio.to_thread(_start, self._limits)
        self._workers.add(started)
        return started

    def _end(self, worker: _Worker) -> None:
        worker.end()
        self._workers.discard(worker)


@dataclass(eq=False, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    requests: Connection

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, source: Path | bytes, module: str, seconds: float) -> Parsed | tuple[str, str]:
        """Return the child's answer, or the rejection that its silence or death amounts to."""
        try:
            self.requests.send((source, module, seconds))
            if self.requests.poll(seconds):
                answer: Parsed | tuple[str, str] = self.requests.recv()
                return answer
        except (EOFError, OSError):
            return self._epitaph(seconds)
        self.end()
        return _timeout(seconds)

    def _epitaph(self, seconds: float) -> tuple[str, str]:
        code = self.process.wait()
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            return _timeout(seconds)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return "CRASHED", f"the parser {how}"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _timeout(seconds: float) -> tuple[str, str]:
    return "TIMEOUT", f"parsing took longer than {seconds:g} s"


def _start(limits: ParserLimits) -> _Worker:
    ours, theirs = Pipe()
    # -P: a file of the user's in the current folder must not stand in for a module.
    command = [sys.executable, "-P", "-m", "ragline.rag.formats.worker"]
    arguments = (theirs.fileno(), limits.memory_bytes, limits.size_bytes)
    with theirs:
        process = subprocess.Popen(
            [*command, *(str(one) for one in arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=child_environment(),
        )
    return _Worker(process, ours)

"""Parsing in child processes: a file that crashes or hangs its parser harms nobody else."""

from __future__ import annotations

import asyncio
import io
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import Pipe
from types import NoneType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ragline.config import child_environment
from ragline.core.chunking import Block, Chunk
from ragline.rag.compose import Composed, Cut
from ragline.rag.formats import PARSERS, RECORDS, Parsed, Rejected, check_metadata
from ragline.rag.formats.rows import Batch, Fault, Fields, Place, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserLimits:
    """What one file may take. Time is both processor time and the clock's."""

    deadline_s: float = 60.0
    memory_bytes: int = 2 << 30
    size_bytes: int = 64 << 20
    text_characters: int = 64 << 20


Answer = Parsed | Composed | Batch
_T = TypeVar("_T", Parsed, Composed, Batch)
# All that an answer is made of, beside plain values.
_OURS = {
    (one.__module__, one.__name__): one
    for one in (Parsed, Block, Composed, Chunk, Batch, Row, Fault, Place, Fields)
}
_LONGEST_ANSWER_BYTES = 1 << 30
_LONGEST_MESSAGE = 1000
_SHORT_S = 5.0
_TEXT_OR_NONE = (str, NoneType)


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
        self.workers = workers
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
        return await self._ask(Parsed, source, _module(self._parsers, media_type), None)

    async def compose(self, source: Path | bytes, media_type: str, cut: Cut) -> Composed:
        """Return the text of a file in chunks with their terms, or raise Rejected as `parse` does."""
        return await self._ask(Composed, source, _module(self._parsers, media_type), cut)

    async def rows(self, path: Path, media_type: str, place: Place) -> Batch:
        """Return the rows of a file that follow `place`, or raise Rejected as `parse` does."""
        return await self._ask(Batch, path, _module(RECORDS, media_type), place)

    async def _ask(
        self, kind: type[_T], source: Path | bytes, module: str, wanted: Cut | Place | None
    ) -> _T:
        worker: _Worker | None = await self._idle.get()
        request = (source, module, self._limits.deadline_s, wanted)
        try:
            if worker is None or not worker.is_alive():
                worker = await self._replaced(worker)
            answer = await asyncio.to_thread(worker.ask, request, self._limits.deadline_s)
        except asyncio.CancelledError:
            # The thread waits for an answer; without its process it stops waiting.
            if worker:
                self._end(worker)
            raise
        finally:
            self._idle.put_nowait(worker)
        if isinstance(answer, tuple):
            raise Rejected(*answer)
        if not isinstance(answer, kind):
            raise Rejected("CRASHED", f"the parser answered with {type(answer).__name__}")
        return answer

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

    def ask(self, request: tuple[object, ...], seconds: float) -> Answer | tuple[str, str]:
        """Return the child's answer, or the rejection that its silence or death amounts to."""
        # Ended from beside: who sends half an answer, or reads half a request, holds up this thread.
        is_late = threading.Event()
        timer = threading.Timer(seconds, self._end_late, (is_late,))
        timer.daemon = True
        timer.start()
        try:
            self.requests.send(request)
            data = self.requests.recv_bytes(_LONGEST_ANSWER_BYTES)
        except (EOFError, OSError) as error:
            return _timeout(seconds) if is_late.is_set() else self._epitaph(seconds, error)
        finally:
            timer.cancel()
            timer.join()
            if is_late.is_set():
                self.end()
        try:
            return _answered(data)
        except Exception as error:  # noqa: BLE001 - whatever one can make of hostile bytes
            self.end()
            what = f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]
            return "CRASHED", f"the parser gave no answer that can be read: {what}"

    def _end_late(self, is_late: threading.Event) -> None:
        is_late.set()
        self.process.kill()

    def _epitaph(self, seconds: float, error: Exception) -> tuple[str, str]:
        try:
            code = self.process.wait(_SHORT_S)
        except subprocess.TimeoutExpired:  # it closed its end, or says more than anyone may
            self.end()
            return "CRASHED", f"the parser gave no answer that can be read: {error}"
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            return _timeout(seconds)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return "CRASHED", f"the parser {how}"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class _Answers(pickle.Unpickler):
    """Reads answers and nothing else: whoever takes over a parser must not get any further."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if found := _OURS.get((module_name, global_name)):
            return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of an answer")


def _answered(data: bytes) -> Answer | tuple[str, str]:
    answer = _Answers(io.BytesIO(data)).load()
    if isinstance(answer, Parsed):
        _check(answer, text=str, blocks=tuple, title=_TEXT_OR_NONE, metadata=dict)
        _check_each(answer.blocks, Block, start=int, end=int, level=int, title=_TEXT_OR_NONE)
        check_metadata(answer.metadata)
        return answer
    if isinstance(answer, Composed):
        _check(answer, text=str, title=_TEXT_OR_NONE, metadata=dict, chunks=tuple, digest=bytes)
        _check(answer, term_counts=tuple)
        _check_each(answer.chunks, Chunk, ordinal=int, start=int, end=int, body=str, headings=tuple)
        _check_each(tuple(one for chunk in answer.chunks for one in chunk.headings), str)
        _check_each(answer.term_counts, dict)
        for counts in answer.term_counts:
            _check_each(tuple(counts), str)
            _check_each(tuple(counts.values()), int)
        check_metadata(answer.metadata)
        if len(answer.chunks) != len(answer.term_counts):
            raise TypeError("it has not one count of terms for each chunk")
        return answer
    if isinstance(answer, Batch):
        _check(answer, rows=tuple, faults=tuple, place=(Place, NoneType))
        _check_each(answer.rows, Row, id=str, line=int, content=bytes, title=_TEXT_OR_NONE)
        _check_each(answer.rows, Row, media_type=str, metadata=dict)
        _check_each(answer.faults, Fault, id=_TEXT_OR_NONE, line=int, reason=str, message=str)
        for row in answer.rows:
            check_metadata(row.metadata)
        return answer
    reason, message = answer
    return str(reason), str(message)


def _check(answer: object, **kinds: type | tuple[type, ...]) -> None:
    for name, kind in kinds.items():
        found = getattr(answer, name)
        if not isinstance(found, kind):
            raise TypeError(f"{name} of {type(answer).__name__} is {type(found).__name__}")


def _check_each(several: Iterable[object], kind: type, **kinds: type | tuple[type, ...]) -> None:
    for one in several:
        if not isinstance(one, kind):
            raise TypeError(f"{type(one).__name__} stands where {kind.__name__} should")
        _check(one, **kinds)


def _module(parsers: Mapping[str, str], media_type: str) -> str:
    module = parsers.get(media_type)
    if module is None:
        raise Rejected("UNSUPPORTED", f"there is no parser for {media_type!r}")
    return module


def _timeout(seconds: float) -> tuple[str, str]:
    return "TIMEOUT", f"parsing took longer than {seconds:g} s"


def _start(limits: ParserLimits) -> _Worker:
    ours, theirs = Pipe()
    # -P: a file of the user's in the current folder must not stand in for a module.
    command = [sys.executable, "-P", "-m", "ragline.rag.formats.worker"]
    arguments = (
        theirs.fileno(),
        limits.memory_bytes,
        limits.size_bytes,
        limits.text_characters,
    )
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

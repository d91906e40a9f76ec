"""A loopback HTTP server in a thread of its own, which does one scripted thing for each request.

`openai_server.py` and `bedrock_server.py` say what the protocols are; here is what they share: the
behaviours, the record of requests, HTTP/1.1 itself. The thread makes it usable from a test of the
library, from a child process, and from boto3, which blocks.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

Headers = Sequence[tuple[str, str]]

_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request as it came in; header names are in lower case, `body` is the parsed JSON."""

    method: str
    path: str
    """With the query string."""
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The default: answer as the protocol says. What is None is what the server would say itself."""

    pieces: tuple[str, ...] | None = None
    """What a chat model says, as many pieces as it says it in."""
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    """The tokens counted; an empty mapping leaves the count out."""
    vectors: Sequence[Sequence[float]] | None = None
    patch: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the JSON reply that are replaced."""
    delay_s: float = 0.0
    together: int = 1
    """Wait until so many requests wait so, and answer them together: they were under way at once."""
    held: threading.Event | None = None
    """Wait until the test sets this."""


@dataclass(frozen=True, kw_only=True)
class Fail:
    """Answer with an error."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "the double was told to fail"
    kind: str = "scripted_error"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Answer with these bytes as they are."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stall:
    """Say nothing any more, and keep the connection open: before the headers, or in a stream."""

    after: int | None = None
    """How many pieces of a stream are sent first; None: not even the headers."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Lose the connection: before the headers, or in a stream."""

    after: int | None = None
    """How many pieces of a stream are sent first; None: not even the headers."""
    is_polite: bool = False
    """End the HTTP response properly, although what it carries is not complete."""


Behaviour = Answer | Fail | Raw | Stall | Cut


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A response with its length known before."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A response in parts, of which the first `heads` come before the first piece of text."""

    headers: Headers
    parts: Sequence[bytes]
    heads: int = 0


class LoopbackServer:
    """Serves until the `with` block ends; subclasses say what a protocol answers."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.faults: list[Exception] = []
        self.by_default: Callable[[], Behaviour] = Answer
        """What is done for a request when the script is over."""
        self.on_stall: Callable[[int], None] = _nothing
        """Called in the server's thread, again and again while it is silent and its client is there,
        with how often it fell silent so far."""
        self._stalls = 0
        self.most_at_once = 0
        """How many requests, at most, waited for their answers at the same time."""
        self._under_way = 0
        self._barriers: dict[int, asyncio.Barrier] = {}
        self._script: deque[Behaviour] = deque()
        self._ready = threading.Event()
        self._over: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_PATIENCE_S):
            raise RuntimeError("the double did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_PATIENCE_S)
        if self.faults and error is None:
            raise self.faults[0]

    def script(self, *behaviours: Behaviour) -> None:
        """Do these for the next requests, one each, in this order; afterwards answer again."""
        self._script.extend(behaviours)

    @property
    def is_script_over(self) -> bool:
        """True when every scripted behaviour was used.

        A request that its client gave up may be read a moment later: it is waited for.
        """
        until = time.monotonic() + 20
        while self._script and time.monotonic() < until:
            time.sleep(0.01)
        return not self._script

    def respond(self, seen: Seen, answer: Answer) -> Whole | Stream:
        """Return the answer of the protocol; subclasses say it."""
        raise NotImplementedError

    def failure(self, seen: Seen, fail: Fail) -> Whole:
        """Return an error in the protocol's own form; subclasses say it."""
        raise NotImplementedError

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (seen := await _request(reader)) is not None:
                self.requests.append(seen)
                behaviour = self._script.popleft() if self._script else self.by_default()
                if not await self._act(reader, writer, seen, behaviour):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # the client went away, as one does that timed out; or the test is over
        except Exception as error:  # noqa: BLE001 - said at the end, where a test can fail
            self.faults.append(error)
        finally:
            writer.close()

    async def _act(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: Seen,
        behaviour: Behaviour,
    ) -> bool:
        """Do one thing; return whether the connection goes on."""
        match behaviour:
            case Answer():
                await self._wait(behaviour)
                await _send(writer, self.respond(seen, behaviour))
            case Fail():
                await _send(writer, self.failure(seen, behaviour))
            case Raw():
                headers = [("content-type", behaviour.content_type), *behaviour.headers]
                whole = Whole(status=behaviour.status, headers=headers, body=behaviour.body)
                await _send(writer, whole)
            case Stall() | Cut():
                await self._break_off(reader, writer, seen, behaviour)
                return False
        return True

    async def _wait(self, answer: Answer) -> None:
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            if answer.together > 1:
                await self._barriers.setdefault(
                    answer.together, asyncio.Barrier(answer.together)
                ).wait()
            # It is set in another thread.
            while answer.held and not answer.held.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await asyncio.sleep(answer.delay_s)
        finally:
            self._under_way -= 1

    async def _break_off(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: Seen,
        behaviour: Stall | Cut,
    ) -> None:
        if behaviour.after is not None:
            whole = self.respond(seen, Answer())
            if isinstance(whole, Stream):
                parts = whole.parts[: whole.heads + behaviour.after]
                await _send(writer, Stream(headers=whole.headers, parts=parts), is_open=True)
            else:
                _head(writer, 200, [*whole.headers, ("content-length", str(len(whole.body)))])
                writer.write(whole.body[: len(whole.body) // 2])
                await writer.drain()
        if isinstance(behaviour, Stall):
            self._stalls += 1
            while not reader.at_eof():
                self.on_stall(self._stalls)
                await asyncio.sleep(0.1)
        elif behaviour.is_polite:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


def _nothing(_: int) -> None:
    """Nobody waits for a silence."""


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method=method, path=path, headers=headers, body=json.loads(body) if body else None)


async def _send(
    writer: asyncio.StreamWriter, response: Whole | Stream, *, is_open: bool = False
) -> None:
    if isinstance(response, Whole):
        length = ("content-length", str(len(response.body)))
        _head(writer, response.status, [*response.headers, length])
        writer.write(response.body)
        await writer.drain()
        return
    _head(writer, 200, [*response.headers, ("transfer-encoding", "chunked")])
    for part in response.parts:
        writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await writer.drain()
    if not is_open:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _head(writer: asyncio.StreamWriter, status: int, headers: Headers) -> None:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

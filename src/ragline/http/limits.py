"""What one request may take: so many bytes, so much time, and only while somebody waits."""

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragline.http import problems

# A client that hears "too large" only after it has sent everything: read on, up to here.
_MOST_DRAINED_BYTES = 64 * 1024 * 1024
_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How large a body a route takes, and what to do when it was too large or took too long."""

    body_bytes: int
    too_large: str
    too_late: str


# What is embedded within the deadline, and no more memory than a few of them at once may take.
DOCUMENTS = Allowance(
    body_bytes=2 * 1024 * 1024,
    too_large="send fewer documents at once, and bring in larger ones with `ragline ingest`",
    too_late=(
        "documents already written stay written, and sending the same again is safe and goes on "
        "from there; send fewer at once, use `ragline ingest`, or raise RAGLINE_QUERY_TIMEOUT"
    ),
)
# The longest question in all its escapes, for a hundred collections with the longest names.
OTHERS = Allowance(
    body_bytes=256 * 1024,
    too_large="nothing that this route takes is as long",
    too_late="ask for less, or raise RAGLINE_QUERY_TIMEOUT",
)

log = logging.getLogger("ragline.http")


class Edge:
    """The outermost edge: a request id, a line in the log, and a problem for the unforeseen."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = _CLIENT_GONE

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception:
            log.exception("request %s failed", request_id)
            if status != _CLIENT_GONE:
                raise
            await problems.unexpected(scope)(scope, receive, answer)
        finally:
            took_ms = (time.perf_counter() - started) * 1000
            # Percent-encoded as it came, so that nothing in it starts a line of its own.
            path = scope.get("raw_path", b"").decode("ascii", "replace")
            log.info("%s %s %d %.1f ms %s", scope["method"], path, status, took_ms, request_id)


class Limits:
    """Reads the body, then runs the request until it is done, too late, or nobody waits for it."""

    def __init__(self, app: ASGIApp, *, deadline_s: float) -> None:
        self.app = app
        self.deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        allowance = _allowance(scope)
        request = _Request(scope=scope, receive=receive, send=send)
        try:
            async with asyncio.timeout(self.deadline_s) as deadline:
                if await request.read(allowance):
                    await request.run(self.app, deadline)
        except TimeoutError:
            if request.is_gone:
                return
            if request.is_answered or not deadline.expired():
                raise
            late = self._too_slow(scope) if request.is_being_read else self._too_late(scope)
            await late(scope, receive, send)

    def _too_slow(self, scope: Scope) -> Response:
        detail = (
            f"the body did not come within {self.deadline_s:g} s, so nothing was done; send it "
            "faster, or send less"
        )
        # What still comes of the body is not the next request.
        return problems.response(scope, 408, detail, headers={"Connection": "close"})

    def _too_late(self, scope: Scope) -> Response:
        advice = _allowance(scope).too_late
        detail = f"not done within {self.deadline_s:g} s, so it was stopped; {advice}"
        return problems.response(scope, 504, detail)


def _allowance(scope: Scope) -> Allowance:
    is_documents = (scope["method"], scope["path"]) == ("POST", "/documents")
    return DOCUMENTS if is_documents else OTHERS


class _Request:
    """One request under way."""

    def __init__(self, *, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.is_gone = False
        self.is_being_read = False
        self.is_answered = False
        self._is_done = False
        self._left = asyncio.Event()
        self._receive = receive
        self._send = send
        self._body: bytes | None = None

    async def read(self, allowance: Allowance) -> bool:
        """Read the body; False when there is nothing left to do."""
        self.is_being_read = True
        is_read = await self._read(allowance)
        self.is_being_read = False
        return is_read

    async def _read(self, allowance: Allowance) -> bool:
        most = allowance.body_bytes
        headers = Headers(scope=self.scope)
        length = headers.get("content-length", "")
        waits_for_leave = headers.get("expect", "").lower() == "100-continue"
        if waits_for_leave and length.isdecimal() and int(length[:20]) > most:
            await self._refuse(allowance)
            return False
        parts: list[bytes] = []
        size, more = 0, True
        while more and size <= _MOST_DRAINED_BYTES:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                return False
            part = message.get("body", b"")
            size += len(part)
            more = message.get("more_body", False)
            if size <= most:
                parts.append(part)
        if size > most:
            await self._refuse(allowance)
            return False
        self._body = b"".join(parts)
        return True

    async def run(self, app: ASGIApp, deadline: asyncio.Timeout) -> None:
        """Run the request; cancelled, with the query it waits for, when the client goes away."""
        watcher = asyncio.create_task(self._watch(deadline))
        try:
            await app(self.scope, self._replay, self._answer)
        finally:
            watcher.cancel()

    async def _refuse(self, allowance: Allowance) -> None:
        detail = f"the body has more than {allowance.body_bytes:,} bytes; {allowance.too_large}"
        await problems.response(self.scope, 413, detail)(self.scope, self._receive, self._answer)

    async def _replay(self) -> Message:
        if self._body is None:
            # A streamed answer listens here for its client to go away.
            await self._left.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _answer(self, message: Message) -> None:
        # Before it is sent: a server says "disconnect" as soon as an answer is complete.
        self.is_answered = True
        self._is_done = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def _watch(self, deadline: asyncio.Timeout) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._left.set()
        if not self._is_done:
            self.is_gone = True
            deadline.reschedule(0)

"""What one request may take: so many bytes, so much time, and only while somebody waits."""

import asyncio
import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragline.http import problems

MOST_BODY_BYTES = 16 * 1024 * 1024
# A client that hears "too large" only after it has sent everything: read on, up to here.
_MOST_DRAINED_BYTES = 8 * MOST_BODY_BYTES
_CLIENT_GONE = 499

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

    def __init__(self, app: ASGIApp, *, deadline_s: float, body_bytes: int) -> None:
        self.app = app
        self.deadline_s = deadline_s
        self.body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(scope=scope, receive=receive, send=send)
        try:
            async with asyncio.timeout(self.deadline_s) as deadline:
                if await request.read(self.body_bytes):
                    await request.run(self.app, deadline)
        except TimeoutError:
            if request.is_gone:
                return
            if request.is_answered or not deadline.expired():
                raise
            detail = (
                f"not done within {self.deadline_s:g} s, so it was stopped; ask for less, or raise "
                "RAGLINE_QUERY_TIMEOUT"
            )
            await problems.response(scope, 504, detail)(scope, receive, send)


class _Request:
    """One request under way."""

    def __init__(self, *, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.is_gone = False
        self.is_answered = False
        self._receive = receive
        self._send = send
        self._body: bytes | None = None

    async def read(self, most: int) -> bool:
        """Read the body; False when there is nothing left to do."""
        headers = Headers(scope=self.scope)
        length = headers.get("content-length", "")
        waits_for_leave = headers.get("expect", "").lower() == "100-continue"
        if waits_for_leave and length.isdecimal() and int(length[:20]) > most:
            await self._refuse(most)
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
            await self._refuse(most)
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

    async def _refuse(self, most: int) -> None:
        detail = f"the body has more than {most:,} bytes; send fewer or smaller documents at once"
        await problems.response(self.scope, 413, detail)(self.scope, self._receive, self._answer)

    async def _replay(self) -> Message:
        if self._body is None:
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _answer(self, message: Message) -> None:
        # Before it is sent: a server says "disconnect" as soon as an answer is complete.
        self.is_answered = True
        await self._send(message)

    async def _watch(self, deadline: asyncio.Timeout) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if not self.is_answered:
            self.is_gone = True
            deadline.reschedule(0)

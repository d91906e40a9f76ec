"""One request for a page, to an address that was checked, with an answer that is bounded."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ragline.core.plaintext import visible
from ragline.rag.formats import Rejected

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PIECE_BYTES = 1 << 16
_AROUND_BYTES = 1 << 20  # header, and the sizes of chunks
_SHORT_S = 10.0  # to connect, and between two pieces of the answer
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked of which host."""

    is_tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The host as a request names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            host
            if self.port == PORTS["https" if self.is_tls else "http"]
            else f"{host}:{self.port}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server sent: where to ask instead, or a page."""

    location: str | None
    content_type: str
    charset: str
    data: bytes


async def exchange(target: Target, address: str, size_bytes: int) -> Answer:
    """Return what an address answers; raises Rejected for what is no page, or a larger one."""
    call = _Call(target, address, size_bytes)
    try:
        return await asyncio.to_thread(call.answer)
    except asyncio.CancelledError:
        call.abort()  # or the thread would wait for as long as the server likes
        raise


class _Bounded:
    """A socket whose answer ends with a rejection when it is longer than a page with its header.

    A chunk of the size -1 would have http.client read on for as long as the server likes.
    """

    def __init__(self, connected: socket.socket, size_bytes: int) -> None:
        self._socket = connected
        self._size_bytes = size_bytes

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        # A file keeps its socket open when the connection has closed it.
        return io.BufferedReader(
            _Counted(self._socket.makefile("rb", buffering=0), self._size_bytes)
        )


class _Counted(io.RawIOBase):
    def __init__(self, answer: socket.SocketIO, size_bytes: int) -> None:
        super().__init__()
        self._answer = answer
        self._size_bytes = size_bytes
        self._left = size_bytes + _AROUND_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._answer.readinto(buffer) or 0
        self._left -= count
        if self._left < 0:
            raise Rejected("TOO_LARGE", f"it has more than {self._size_bytes} bytes")
        return count

    def close(self) -> None:
        self._answer.close()
        super().close()


class _Call:
    """One request, in a thread; ended from outside when its time is over."""

    def __init__(self, target: Target, address: str, size_bytes: int) -> None:
        self._target = target
        self._address = address
        self._size_bytes = size_bytes
        self._socket: socket.socket | None = None
        self._is_over = False

    def abort(self) -> None:
        self._is_over = True
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def answer(self) -> Answer:
        target = self._target
        with socket.create_connection((self._address, target.port), timeout=_SHORT_S) as plain:
            self._socket = plain
            if self._is_over:
                raise TimeoutError("its time was over before there was a connection")
            if not target.is_tls:
                return self._asked(plain)
            context = ssl.create_default_context()
            with context.wrap_socket(plain, server_hostname=target.host) as secure:
                self._socket = secure
                return self._asked(secure)

    def _asked(self, connected: socket.socket) -> Answer:
        connection = http.client.HTTPConnection(self._target.host, self._target.port)
        connection.auto_open = 0  # only to the address that was checked
        # It asks of a socket what a bounded one has.
        connection.sock = cast("socket.socket", _Bounded(connected, self._size_bytes))
        connection.putrequest("GET", self._target.path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", self._target.authority)
        connection.putheader("User-Agent", "ragline")
        connection.putheader("Accept", "text/html, text/*;q=0.9, application/pdf;q=0.9, */*;q=0.1")
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        connection.endheaders()
        try:
            with connection.getresponse() as response:
                return self._read(response)
        except ValueError as error:  # sizes of chunks, charsets with a NUL
            raise Rejected("UNREACHABLE", f"the server does not speak HTTP: {error}") from error

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        location = response.getheader("Location")
        kind = response.headers.get_content_type() if response.getheader("Content-Type") else ""
        charset = str(response.headers.get_content_charset() or "")
        if response.status in _REDIRECTS and location:
            return Answer(location=location, content_type=kind, charset=charset, data=b"")
        if response.status != http.HTTPStatus.OK:
            raise Rejected(
                "HTTP_STATUS", f"the server answers {response.status} {visible(response.reason)}"
            )
        if (packed := response.getheader("Content-Encoding", "identity")).lower() != "identity":
            raise Rejected("UNSUPPORTED", f"the server sends it packed ({packed}), unasked")
        return Answer(location=None, content_type=kind, charset=charset, data=self._body(response))

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        pieces: list[bytes] = []
        left = self._size_bytes
        while piece := self._piece(response):
            left -= len(piece)
            if left < 0:
                raise Rejected("TOO_LARGE", f"it has more than {self._size_bytes} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def _piece(self, response: http.client.HTTPResponse) -> bytes:
        try:
            piece = response.read(_PIECE_BYTES)
        except http.client.IncompleteRead as error:
            raise Rejected("DAMAGED", "the answer ends too early") from error
        if not piece and response.length:
            raise Rejected("DAMAGED", f"the answer ends {response.length} bytes too early")
        return piece

"""Serving until told to stop."""

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import uvicorn

from ragline.config import Config
from ragline.errors import PreconditionFailed, UsageError
from ragline.http.app import create_app
from ragline.http.guard import is_loopback

_STOPPED_BY = (signal.SIGINT, signal.SIGTERM)


def run(config: Config, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve on `host` and `port` (0: any free one) until SIGTERM or SIGINT.

    Raises UsageError where others could come in without a key, PreconditionFailed where the port
    cannot be had, and what opening the database raises. `say` hears the URL once it answers.
    """
    address = _resolved(host, port)
    if config.api_key is None and not is_loopback(address.at[0]):
        raise UsageError(
            f"{host} can be reached by others: set RAGLINE_API_KEY to a long random text that "
            "callers must send, or use --host 127.0.0.1"
        )
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with _listening(address, host, port) as listener:
        asyncio.run(_serve(config, listener, say))


async def _serve(config: Config, listener: socket.socket, say: Callable[[str], None]) -> None:
    service = create_app(config)
    # Not left to uvicorn, which would print a traceback and forget which error it was.
    async with service.router.lifespan_context(service):
        settings = uvicorn.Config(
            service,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # No request lasts longer than its deadline.
            timeout_graceful_shutdown=math.ceil(config.query_timeout_s) + 1,
        )
        await _Server(settings, lambda: say(f"listening on {_url(listener)}")).serve([listener])


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and for which being told to stop is not an error."""

    def __init__(self, settings: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(settings)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _STOPPED_BY:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _STOPPED_BY:
                loop.remove_signal_handler(number)


class _Address(NamedTuple):
    family: int
    kind: int
    protocol: int
    name: str
    at: tuple[Any, ...]


def _resolved(host: str, port: int) -> _Address:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host!r} is no address of this machine: {error}") from None
    return _Address(*found[0])


def _listening(address: _Address, host: str, port: int) -> socket.socket:
    """Return a socket that listens, or say why there is none."""
    listener = socket.socket(address.family, address.kind, address.protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address.at)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PreconditionFailed(_why_not(host, port, error)) from None
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another ragline serve; stop that one, or "
            "choose another with --port (0 takes any free one)"
        )
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; choose one above 1023 with --port"
    return f"cannot listen on port {port} of {host}: {error.strerror}; see --host and --port"


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

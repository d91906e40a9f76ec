"""The child process that parses: one request at a time, under limits, until its parent is gone.

It imports nothing but the parser that a request names, and says nothing but its answer.
"""

from __future__ import annotations

import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ragline.rag.formats import Parsed, Rejected, parse

if TYPE_CHECKING:
    from pathlib import Path

_SECOND = 1.0


def main(descriptor: int, memory_bytes: int, size_bytes: int) -> None:
    """Answer requests on an inherited socket: (path or bytes, module, seconds)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":  # elsewhere the system's own libraries exceed it from the start
        _limit(resource.RLIMIT_AS, memory_bytes)
    with Connection(descriptor) as requests:
        while True:
            try:
                source, module, seconds = requests.recv()
            except (EOFError, ConnectionError):
                return
            _answer_within(seconds)
            answer = _answer(source, module, size_bytes)
            signal.setitimer(signal.ITIMER_REAL, 0)
            requests.send(answer)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, hard))


def _answer_within(seconds: float) -> None:
    """Have the system end this process when the parent cannot: processor time, then the clock."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime + seconds + _SECOND
    _limit(resource.RLIMIT_CPU, int(cpu_s) + 1)
    signal.setitimer(signal.ITIMER_REAL, seconds + 2 * _SECOND)


def _answer(source: Path | bytes, module: str, size_bytes: int) -> Parsed | tuple[str, str]:
    """Return what the parser makes of it, or the reason and message of a rejection."""
    try:
        return parse(_read(source, size_bytes), module)
    except Rejected as rejected:
        return rejected.reason, rejected.message
    except MemoryError:
        return "TOO_LARGE", "parsing it needs more memory than a parser is allowed"
    except Exception as error:  # noqa: BLE001 - the outermost edge: a parser's fault is the answer
        return "CRASHED", f"the parser failed: {type(error).__name__}: {error}"


def _read(source: Path | bytes, size_bytes: int) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            with source.open("rb") as file:
                data = file.read(size_bytes + 1)
        except OSError as error:
            raise Rejected("UNREADABLE", f"it cannot be read: {error.strerror}") from error
    if len(data) > size_bytes:
        raise Rejected("TOO_LARGE", f"it has more than {size_bytes} bytes")
    return data


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

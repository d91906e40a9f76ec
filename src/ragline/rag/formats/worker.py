"""The child process that parses: one request at a time, under limits, until its parent is gone.

It imports nothing but the parser that a request names, and says nothing but its answer.
"""

from __future__ import annotations

import hashlib
import pickle
import resource
import signal
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.rag.compose import Cut, compose
from ragline.rag.formats import Parsed, Rejected, open_regular, parse, rows

if TYPE_CHECKING:
    from ragline.rag.compose import Composed
    from ragline.rag.formats.rows import Batch, Place

_SECOND = 1.0
_LONGEST_MESSAGE = 1000  # some quote what they stumble over


def main(descriptor: int, memory_bytes: int, size_bytes: int, characters: int) -> None:
    """Answer requests on an inherited socket: (path or bytes, module, seconds, what is wanted).

    What is wanted is None for a Parsed, a Cut for a Composed, a Place for the next Batch of rows.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)  # parsers write no files
    if sys.platform == "linux":  # elsewhere the system's own libraries exceed it from the start
        _limit(resource.RLIMIT_AS, memory_bytes)
    with Connection(descriptor) as requests:
        while True:
            try:
                source, module, seconds, wanted = requests.recv()
            except (EOFError, ConnectionError):
                return
            _answer_within(seconds)
            answer = _pickled(_answer(source, module, wanted, size_bytes, characters))
            signal.setitimer(signal.ITIMER_REAL, 0)
            requests.send_bytes(answer)


def _pickled(answer: Parsed | Composed | Batch | tuple[str, str]) -> bytes:
    try:
        return pickle.dumps(answer)
    except MemoryError:
        return pickle.dumps(("TOO_LARGE", "its text needs more memory than a parser is allowed"))
    except RecursionError:
        return pickle.dumps(("TOO_DEEP", "its values are nested too deep to be taken in"))
    except Exception as error:  # noqa: BLE001 - as in _answer: whatever a parser made of it
        what = f"the parser's answer cannot be passed on: {type(error).__name__}: {error}"
        return pickle.dumps(("CRASHED", what[:_LONGEST_MESSAGE]))


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


def _answer(
    source: Path | bytes, module: str, wanted: Cut | Place | None, size_bytes: int, characters: int
) -> Parsed | Composed | Batch | tuple[str, str]:
    """Return what the parser makes of it, or the reason and message of a rejection."""
    try:
        if isinstance(wanted, rows.Place) and isinstance(source, Path):
            return _rows(source, module, wanted)
        data = _read(source, size_bytes)
        parsed = parse(data, module)
        if len(parsed.text) > characters:
            raise Rejected("TOO_LARGE", f"its text has more than {characters} characters")
        if not isinstance(wanted, Cut):
            return parsed
        return replace(compose(parsed, wanted), digest=hashlib.sha256(data).digest())
    except Rejected as rejected:
        return rejected.reason, rejected.message[:_LONGEST_MESSAGE]
    except MemoryError:
        return "TOO_LARGE", "parsing it needs more memory than a parser is allowed"
    except Exception as error:  # noqa: BLE001 - the outermost edge: a parser's fault is the answer
        what = f"the parser failed: {type(error).__name__}: {error}"
        return "CRASHED", what[:_LONGEST_MESSAGE]


def _rows(source: Path, module: str, place: Place) -> Batch:
    try:
        return rows.read(source, module, place)
    except OSError as error:
        raise _unreadable(error) from error


def _read(source: Path | bytes, size_bytes: int) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            with open_regular(source) as file:
                data = file.read(size_bytes + 1)
        except OSError as error:
            raise _unreadable(error) from error
    if len(data) > size_bytes:
        raise Rejected("TOO_LARGE", f"it has more than {size_bytes} bytes")
    return data


def _unreadable(error: OSError) -> Rejected:
    return Rejected("UNREADABLE", f"it cannot be read: {error.strerror or error}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

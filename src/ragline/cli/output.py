"""What commands print: data to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ragline.errors import RaglineError

if TYPE_CHECKING:
    from rich.progress import TaskID

_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}


# Whatever begins a new line, or steers a terminal.
_UNPRINTABLE = {
    c: repr(chr(c))[1:-1]
    for c in (
        *(*range(32), *range(127, 160), 0x2028, 0x2029),
        *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # what turns the direction of writing
    )
}


class StdoutFailed(RaglineError):
    """What was asked for could not be written to stdout: a full disk, a closed descriptor."""


class _Stdout(io.TextIOWrapper):
    """Says that it cannot be written in an error of its own, also to those who print help."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._failed(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error  # a reader that left, at which Typer ends quietly
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        return StdoutFailed(f"stdout cannot be written: {error.strerror}")


def emit(value: object, *, as_json: bool, text: str | None = None) -> None:
    """Print `value` as one JSON object, or `text` for people, on stdout."""
    if as_json or text is None:
        is_unicode = sys.stdout.encoding.lower().startswith("utf")
        print(json.dumps(plain(value), ensure_ascii=not is_unicode), flush=True)  # noqa: T201
    elif text:
        print(_harmless(text), flush=True)  # noqa: T201


def piece(text: str) -> None:
    """Print a part of what is still being written, at once and without ending the line."""
    print(_harmless(text), end="", flush=True)  # noqa: T201


def on_one_line(text: str) -> str:
    """Return `text` with escapes for its control characters: a name must not forge a line."""
    return text.translate(_UNPRINTABLE)


def note(message: str) -> None:
    """Say something to the person at the terminal, on stderr."""
    print(_harmless(message), file=sys.stderr)  # noqa: T201


def warn(warnings: Iterable[str], *, as_json: bool) -> None:
    """Say what to mind, unless the value that is printed as JSON says it."""
    if not as_json:
        for warning in warnings:
            note(f"warning: {warning}")


def only_said(value: object, *, as_json: bool, text: str, again: str) -> NoReturn:
    """Print what a command would do, and how to have it done, and end with exit code 2."""
    emit(value, as_json=as_json, text=text)
    note(f"nothing was changed; to do it: {again}")
    raise typer.Exit(2)


@contextmanager
def bar(what: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that moves a bar on stderr, where that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def bars(*, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (what, done, total) that moves a bar for each thing, as `bar` does."""
    if not shown or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield advance


def width() -> int:
    """Return how many columns stdout has; 100 where it is no terminal."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def prepare_stdout() -> None:
    """Have stdout write what its encoding lacks as escapes, as stderr does, and fail in a sentence."""
    if sys.stdout is None:
        raise StdoutFailed("stdout is closed, so there is no place for the result; leave it open")
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding, is_line_buffered = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = _Stdout(
            sys.stdout.detach(),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=is_line_buffered,
        )


def _harmless(text: str) -> str:
    """Return `text` without control characters: documents and file names must not steer a terminal."""
    return text.translate(_CONTROLS)


def plain(value: object) -> Any:
    """Return `value` as JSON knows it: dataclasses become objects, paths and dates strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")

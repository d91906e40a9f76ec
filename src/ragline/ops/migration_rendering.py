"""What revisions would send, found by running their Python in a process of its own.

That process knows no database: the environment has none, and who connects, looks up a name or starts
a program there is refused. It is no sandbox: lint only what you would run. A revision that ends the
process, or does not come back, costs itself alone.

    python -m ragline.ops.migration_rendering    FILES as JSON on stdin, a line of JSON for each
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from ragline.config import child_environment
from ragline.core.migration_lint import Statement

_TIMEOUT_S = 60.0
_SAID = 300
_REFUSED = {
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system",
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.kill",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a revision sends either way; None is a direction that cannot be told, and `why`."""

    upgrade: tuple[Statement, ...] | None = None
    downgrade: tuple[Statement, ...] | None = None
    why: str = ""


def rendered(files: Sequence[Path], imports: Sequence[Path]) -> dict[Path, Sent]:
    """Return what each revision sends, importing what is in some folders."""
    found: dict[Path, Sent] = {}
    left = list(files)
    while left:
        answers, ended = _child(left, imports)
        found.update(zip(left, answers, strict=False))
        left = left[len(answers) :]
        if left:
            found[left.pop(0)] = Sent(why=ended)
    return found


def _child(files: Sequence[Path], imports: Sequence[Path]) -> tuple[list[Sent], str]:
    """Return what a process answered for the first files, and how it ended at the next one."""
    asked = {"files": [str(file) for file in files], "imports": [str(one) for one in imports]}
    ended = "its Python ended the process"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(asked).encode(),
            capture_output=True,
            env={**child_environment(), "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=_TIMEOUT_S,
            check=False,
        )
        lines = done.stdout.splitlines()
    except subprocess.TimeoutExpired as late:
        lines = (late.stdout or b"").splitlines()
        ended = f"its Python took longer than {_TIMEOUT_S:g} s"
    return [one for line in lines if (one := _answer(line)) is not None][: len(files)], ended


def _answer(line: bytes) -> Sent | None:
    try:
        found = json.loads(line)
        return Sent(
            upgrade=_statements(found["upgrade"]),
            downgrade=_statements(found["downgrade"]),
            why=str(found["why"]),
        )
    except (ValueError, KeyError, TypeError):
        return None  # a line that broke off


def _statements(found: Sequence[Mapping[str, Any]] | None) -> tuple[Statement, ...] | None:
    return None if found is None else tuple(Statement(**one) for one in found)


# In that process


def _main() -> None:
    asked = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        # What revisions print is no answer.
        os.dup2(2, 1)
        sys.path[:0] = [str(Path(folder).absolute()) for folder in asked["imports"]]
        logging.getLogger("alembic.runtime.migration").disabled = True
        _refuse_to_connect()
        for file in asked["files"]:
            answers.write(json.dumps(_of_file(Path(file))) + "\n")
            answers.flush()


def _refuse_to_connect() -> None:
    import psycopg
    import sqlalchemy
    from alembic.runtime import migration  # noqa: F401 - before anything is refused

    def refuse(*_arguments: object, **_named: object) -> NoReturn:
        raise PermissionError("it connects to a database, and a lint has none")

    def watch(event: str, _arguments: object) -> None:
        if event in _REFUSED:
            raise PermissionError(f"it asks for {event}, and a lint neither connects nor starts")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "do_connect", refuse)
    # These connect in C, which nobody sees.
    for owner in (psycopg, psycopg.Connection, psycopg.AsyncConnection):
        setattr(owner, "connect", refuse)  # noqa: B010 - its type is another
    with contextlib.suppress(ImportError):
        setattr(importlib.import_module("psycopg2"), "connect", refuse)  # noqa: B010
    sys.addaudithook(watch)


def _of_file(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"upgrade": None, "downgrade": None, "why": ""}
    try:
        module = _loaded(file)
        for name in ("upgrade", "downgrade"):
            found[name] = _sent(module, file, name)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the user's code
        found["why"] = " ".join(f"{type(error).__name__}: {error}".split())[:_SAID]
    return found


def _loaded(file: Path) -> ModuleType:
    name = f"_ragline_revision_{secrets.token_hex(6)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sent(module: ModuleType, file: Path, name: str) -> list[dict[str, Any]]:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.dialects import postgresql

    function = getattr(module, name, None)
    if function is None:
        return []
    lines = _Lines(file)
    context = MigrationContext(
        postgresql.dialect(),  # type: ignore[no-untyped-call]
        None,
        {"as_sql": True, "output_buffer": lines},
    )
    try:
        with Operations.context(context):
            function()
    except NotImplementedError:
        if lines.sent:
            raise
        return []  # a way back that is refused
    return lines.sent


class _Lines(io.TextIOBase):
    """Keeps what Alembic writes, with the line of the revision that sent it."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._is_autocommit = False
        self.sent: list[dict[str, Any]] = []

    def write(self, text: str) -> int:
        said = text.strip().rstrip(";").upper()
        if said in ("COMMIT", "BEGIN"):
            self._is_autocommit = said == "COMMIT"
        elif text.strip():
            line = _line_in(self._file, sys._getframe())  # noqa: SLF001 - who called is the point
            one = {"line": line, "sql": text, "is_autocommit": self._is_autocommit}
            self.sent.append(one)
        return len(text)


def _line_in(file: str, frame: FrameType | None) -> int:
    """Return the line of a file that is being run, found from the innermost call outwards."""
    return next((one.f_lineno for one in _outwards(frame) if one.f_code.co_filename == file), 1)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


if __name__ == "__main__":
    _main()

"""Letting a process of the server come after all others, where the machine allows it."""

from __future__ import annotations

import os
from pathlib import Path

_LAST = 19


def come_last(pid: int, data_directory: Path, root: Path = Path("/")) -> str | None:
    """Have a backend run on what the others leave; return how, or None where that is not allowed.

    It ends with the process: nothing has to be put back. Asked for by people only, since a backend that
    hardly runs may hold what others wait for. Where sessions are grouped by themselves, and each backend
    is its own, a process's own niceness counts within its group alone: the group's has to be lowered. In
    containers it is the process's.
    """
    process = root / "proc" / str(pid)
    if not _is_of(process, data_directory):
        return None
    done = [name for name, way in (("group", _group), ("process", _process)) if way(pid, process)]
    return " and ".join(done) or None


def _is_of(process: Path, data_directory: Path) -> bool:
    """Whether it is a backend of that server: in a container's server numbers mean other processes."""
    try:
        is_postgres = b"postgres" in (process / "cmdline").read_bytes()
        # A server's processes live in its data directory.
        return is_postgres and (process / "cwd").resolve() == data_directory.resolve()
    except OSError:
        return False


def _group(_pid: int, process: Path) -> bool:
    try:
        (process / "autogroup").write_text(str(_LAST))
    except OSError:
        return False
    return True


def _process(pid: int, _process: Path) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, pid, _LAST)
    except (OSError, AttributeError):
        return False
    return True

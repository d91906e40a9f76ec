"""Who is at a change, and whether they still live."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from ragline.ops.embedded import postmaster

_PROC = Path("/proc")


def me() -> str:
    """Return what tells this process from every other, of this machine and of others."""
    return json.dumps({"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid())})


def is_dead(owner: str | None) -> bool:
    """Return whether a process surely ended: it was of this machine, and is no more."""
    if owner is None:
        return True
    said = json.loads(owner)
    if said["machine"] != _machine():
        return False
    return not postmaster.is_alive(said["pid"]) or _began(said["pid"]) != said["began"]


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    try:
        # Containers share the kernel, and count their processes apart.
        space = (_PROC / "self/ns/pid").readlink().name
    except OSError:
        space = ""
    return f"{socket.gethostname()} {boot} {space}"


def _began(pid: int) -> str:
    """Return when a process began: another one may have its number by now."""
    try:
        said = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return ""
    # The name stands in brackets and may hold anything; the start is the 20th field behind it.
    fields = said.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]

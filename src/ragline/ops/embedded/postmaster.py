"""The running server: what its pid file says, and whether that is true."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.ops.embedded.places import Home, write

if TYPE_CHECKING:
    from ragline.ops.embedded.owner import Owner

_PROC = Path("/proc")
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""Answered with one byte, before any login and without a line in the log."""
_NO_PID = 2_147_483_647
"""A process id that no system gives out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Facts of a running embedded server."""

    data_dir: Path
    socket_dir: Path
    port: int
    """The TCP port when `tcp`; else only a part of the socket's name."""
    tcp: bool
    pid: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFile:
    """The lines of `postmaster.pid`; the later ones are written as the server starts."""

    pid: int
    pgdata: Path | None
    port: int
    socket_dir: Path | None
    address: str
    status: str


def read_pid_file(home: Home) -> PidFile | None:
    """Return what `postmaster.pid` says; None when there is none or it says nothing yet."""
    try:
        text = os.fsdecode((home.pgdata / "postmaster.pid").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    lines = [line.strip() for line in text.split("\n")] + [""] * 8
    if not lines[0].lstrip("-").isdigit():
        return None
    return PidFile(
        pid=abs(int(lines[0])),  # a stand-alone backend writes its pid negated
        pgdata=Path(lines[1]) if lines[1] else None,
        port=int(lines[3]) if lines[3].isdigit() else 0,
        socket_dir=Path(lines[4]) if lines[4] else None,
        address=lines[5],
        status=lines[7],
    )


def running(home: Home, owner: Owner) -> Cluster | None:
    """Return the server of this data directory if it accepts connections now."""
    said = read_pid_file(home)
    if said is None or said.status != "ready" or said.pgdata != home.pgdata:
        return None
    if said.socket_dir is None or not _answers(said.socket_dir, said, owner):
        return None
    return Cluster(
        data_dir=home.root,
        socket_dir=said.socket_dir,
        port=said.port,
        tcp=bool(said.address),
        pid=said.pid,
        version=_version(home),
    )


def is_postmaster(pid: int, home: Home, owner: Owner) -> bool:
    """Whether the process lives and is the server of this data directory, and not just its pid."""
    if not is_alive(pid):
        return False
    if not _PROC.joinpath("self").exists():
        return _ps_says_postmaster(pid, home, owner)
    try:
        if (_PROC / str(pid)).stat().st_uid != owner.uid:
            return False
        command = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.fsencode(home.pgdata) in command or _folder_of(pid) == home.pgdata


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended: a zombie nobody waited for has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return not _PROC.joinpath("self").exists()
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def orphans(home: Home, owner: Owner) -> list[int]:
    """Return the server's processes that go on without it, holding its shared memory (Linux)."""
    found = []
    for entry in _PROC.glob("[0-9]*"):
        pid = int(entry.name)
        if _folder_of(pid) == home.pgdata and _program_of(pid) == "postgres":
            found.append(pid)
    return [pid for pid in found if _owner_of(pid) == owner.uid]


def retire_pid_files(home: Home, owner: Owner) -> None:
    """Make a gone server's pid files harmless, whose number may mean another process by now.

    PostgreSQL takes any living process of the same user for the old server and does not start. The
    file itself stays: its line about shared memory still keeps two servers out of one cluster.
    """
    said = read_pid_file(home)
    if said is None:
        return
    file = home.pgdata / "postmaster.pid"
    _, _, rest = os.fsdecode(file.read_bytes()).partition("\n")
    write(file, f"{_NO_PID}\n{rest}", owner)
    if said.socket_dir is not None:
        (said.socket_dir / f".s.PGSQL.{said.port}.lock").unlink(missing_ok=True)


def _answers(folder: Path, said: PidFile, owner: Owner) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fsencode(folder / f".s.PGSQL.{said.port}"))
            if not _is_peer(probe, said, owner):
                return False
            # A server that is being killed still has its queue: ask it for a word.
            probe.sendall(_SSL_REQUEST)
            return bool(probe.recv(1))
        except (BlockingIOError, TimeoutError):
            return True  # its queue is full, or it is slow: busy, and therefore there
        except OSError:
            return False


def _is_peer(probe: socket.socket, said: PidFile, owner: Owner) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder is private
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    # 0: the server lives in another pid namespace, where its number says nothing here.
    return uid == owner.uid and pid in (said.pid, 0)


def _version(home: Home) -> str:
    try:
        return home.version.read_text().strip()
    except FileNotFoundError:
        return home.pgdata.name


def _folder_of(pid: int) -> Path | None:
    try:
        return (_PROC / str(pid) / "cwd").readlink()
    except OSError:  # gone, or not ours to look at
        return None


def _program_of(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "exe").readlink().name.removesuffix(" (deleted)")
    except OSError:
        return ""


def _owner_of(pid: int) -> int | None:
    try:
        return (_PROC / str(pid)).stat().st_uid
    except OSError:
        return None


def _ps_says_postmaster(pid: int, home: Home, owner: Owner) -> bool:
    shown = subprocess.run(
        ["ps", "-ww", "-o", "uid=,stat=,command=", "-p", str(pid)], capture_output=True, text=True
    )
    uid, _, rest = shown.stdout.strip().partition(" ")
    state, _, command = rest.strip().partition(" ")
    return uid == str(owner.uid) and not state.startswith("Z") and str(home.pgdata) in command

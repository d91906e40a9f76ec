"""PostgreSQL servers of the tests' own, of several versions: on TCP with SCRAM passwords."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import TEMPLATE
from ragline.core.dsn import Dsn, Host, Secret

SUPERUSER = "postgres"
PASSWORD = "correct horse %20 'battery'"
_numbers = itertools.count(1)
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server in a folder of its own."""

    folder: Path
    programs: Path
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    def dsn(
        self, database: str = "postgres", user: str = SUPERUSER, password: str | None = PASSWORD
    ) -> Dsn:
        secret = None if password is None else Secret(password)
        host = Host("127.0.0.1", self.port)
        return Dsn(hosts=(host,), database=database, user=user, password=secret)

    def url(self, database: str = "postgres") -> str:
        """Return what DATABASE_URL says; it holds the password."""
        return self.dsn(database).for_sqlalchemy("test")

    def log(self) -> str:
        return (self.folder / "log").read_text()


def programs(package: str, install: str) -> Path:
    """Return the folder with bin/, lib/ and share/ of an installed wheel, or skip the test."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (Path(place) / install / "bin" / "postgres").is_file():
            return Path(place) / install
    pytest.skip(f"not run: the wheel {package} ({install}) is not installed")


def own_copy(install: Path, folder: Path) -> Path:
    """Return a copy of a wheel's programs that the server's user can read."""
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    # The programs find their libraries by a path relative to themselves.
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig", "doc")
    target = folder / package.name / install.name
    shutil.copytree(install, target, symlinks=True, ignore=unneeded)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return target


@contextmanager
def server_folder() -> Iterator[Path]:
    """Yield a folder that the server's user can reach; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ragline-server-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    binaries: Path,
    *,
    settings: Mapping[str, str] | None = None,
    hba: Sequence[str] = (),
) -> Iterator[Server]:
    """Yield a new server of the programs in `binaries`, on a free port of 127.0.0.1.

    `hba` are lines of pg_hba.conf that go before "everybody by SCRAM password".
    """
    with server_folder() as folder:
        data = _new_cluster(folder, binaries)
        lines = [*hba, "host all all 127.0.0.1/32 scram-sha-256"]
        (data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        with started(folder, data, binaries, settings or {}) as server:
            yield server


@contextmanager
def started(
    folder: Path, data: Path, binaries: Path, settings: Mapping[str, str]
) -> Iterator[Server]:
    """Start a server on a data directory that exists, and stop it afterwards."""
    port = free_port()
    chosen = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "shared_buffers": "16MB",
        **settings,
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-F"),
                *(f"--{name}={value}" for name, value in chosen.items()),
            ],
            stdout=log,
            stderr=log,
            **_as_server_user(folder),
        )
    server = Server(folder=folder, programs=binaries, port=port, process=process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


def run_program(server_programs: Path, folder: Path, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs as the server's user; its output is in the error."""
    done = subprocess.run(
        [str(server_programs / name), *arguments],
        capture_output=True,
        text=True,
        **_as_server_user(folder),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    """Return a port below those that the system gives to whoever connects somewhere meanwhile."""
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ask(dsn: Dsn, query: str) -> Any:
    """Run a statement of its own and return the first value, if any."""
    with psycopg.connect(dsn.for_psycopg("test"), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


@asynccontextmanager
async def own_database(server: Dsn, *, template: str = TEMPLATE) -> AsyncIterator[Dsn]:
    """Yield a new database of the tests' cluster, with the schema unless `template` has none."""
    name = f"ragline_own_{next(_numbers)}"
    await asyncio.to_thread(
        ask, server.on("postgres"), f"create database {name} template {template}"
    )
    try:
        yield server.on(name)
    finally:
        await asyncio.to_thread(ask, server.on("postgres"), f"drop database {name} with (force)")


def _new_cluster(folder: Path, binaries: Path) -> Path:
    # The server's user makes its cluster in a folder of its own.
    home = folder / "home"
    home.mkdir(mode=0o700)
    _give(home)
    secret = home / "password"
    secret.write_text(PASSWORD + "\n")
    _give(secret)
    data = home / "data"
    run_program(
        binaries,
        folder,
        "initdb",
        *("-D", str(data), "-U", SUPERUSER, f"--pwfile={secret}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
    )
    return data


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", "nogroup")


def _as_server_user(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    common: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C.UTF-8"}}
    if os.geteuid() == 0:
        common |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
    return common


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(server.dsn().for_psycopg("test")).close()
        except psycopg.OperationalError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{server.log()}") from None
            time.sleep(0.05)
        else:
            return

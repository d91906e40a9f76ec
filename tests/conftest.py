"""A PostgreSQL of the tests' own: one embedded cluster a run, one database a test."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.db import migrate
from ragline.models.embed import Embedder
from ragline.models.embed_fake import FakeEmbedder
from ragline.ops import embedded
from ragline.ops.embedded import Cluster
from ragline.rag.app import App
from ragline.wiring import open_app

TEMPLATE = "ragline_template"
_numbers = itertools.count(1)

# The same tree gets the same verdict: no time limit of an example, and the same examples each time.
# New ones are looked for with `pytest --hypothesis-profile explore`.
_NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", _NO_CLOCK, max_examples=1000)
settings.register_profile("repeatable", _NO_CLOCK, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running server in a folder of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ragline-tests-"))
    # As root the server runs as another user, who must be able to reach its data below.
    folder.chmod(0o755)
    data_dir = folder / "data"
    try:
        made = embedded.ensure(data_dir)
        # It would take locks and change plans at moments of its own.
        asyncio.run(_execute(embedded.dsn(made), "alter system set autovacuum_naptime = '1d'"))
        asyncio.run(_execute(embedded.dsn(made), "select pg_reload_conf()"))
        yield made
    finally:
        embedded.stop(data_dir)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> Dsn:
    """A database with the schema, to be cloned."""
    dsn = embedded.dsn(cluster)
    asyncio.run(_execute(dsn, f"create database {TEMPLATE}"))
    migrate.apply(dsn.on(TEMPLATE), lock_timeout_ms=2000, role_secret=None)
    return dsn


@pytest.fixture
async def own_dsn(template: Dsn) -> AsyncIterator[Dsn]:
    """A database with the schema, of this test alone."""
    name = f"ragline_test_{next(_numbers)}"
    await _execute(template, f"create database {name} template {TEMPLATE}")
    yield template.on(name)
    await _execute(template, f"drop database {name} with (force)")


@pytest.fixture
async def db(own_dsn: Dsn) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A superuser's connection to the test's database."""
    connection = await connect(own_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    """An open ragline on the test's database, with the fake model."""
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        yield app


@asynccontextmanager
async def opened(dsn: Dsn, data_dir: Path, embedder: Embedder | None) -> AsyncIterator[App]:
    """Open ragline on a database with a model of the test's choice, or none."""

    async def model() -> Embedder | None:
        return embedder

    async with open_app(Config(dsn=dsn, data_dir=data_dir)) as app:
        app.open_embedder = model
        yield app


async def connect(dsn: Dsn) -> asyncpg.Connection[asyncpg.Record]:
    """Return a connection of the DSN's user, with ragline's tables in reach."""
    login = dsn.for_asyncpg("admin")
    login["server_settings"] = {**login["server_settings"], "search_path": "ragline, public"}
    return await asyncpg.connect(**login)


async def _execute(dsn: Dsn, statement: str) -> None:
    connection = await asyncpg.connect(**dsn.on("postgres").for_asyncpg("admin"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()

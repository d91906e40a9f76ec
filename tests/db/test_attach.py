"""Tables of somebody else's become collections in place, and are given back as they were."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import foreign_tables
from conftest import connect, opened
from foreign_tables import TEXTS
from ragline.change.kind import Site
from ragline.change.kinds.space import Space
from ragline.core import attaching
from ragline.core.attaching import Request
from ragline.core.budget import ROLES, WORKLOADS
from ragline.core.dsn import Dsn
from ragline.db import attached_sql, attached_state, attachments
from ragline.errors import (
    Conflict,
    NotFound,
    PreconditionFailed,
    RaglineError,
    UsageError,
)
from ragline.library import Rag
from ragline.models.embed_fake import FakeEmbedder
from ragline.ops import programs
from ragline.rag import attach, calibration, catalog, detach, ingest
from ragline.rag.app import App
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Make: TypeAlias = "Callable[[Db], Awaitable[None]]"

_PLAIN = """
create table public.facts (
    id integer primary key, body text, vec vector(64), extra jsonb, lang text, kinds text[]
)
"""
_COLUMNS: dict[str, Any] = {"id": "id", "text": "body", "embedding": "vec"}


async def _schema(dsn: Dsn) -> str:
    """Return what pg_dump says of everything that is not ragline's."""
    dump = programs.program("pg_dump", 18)
    text = await programs.run(dump, ["--schema-only", "--exclude-schema=ragline"], dsn)
    # Their words are new in each dump.
    return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)


async def _ours(db: Db) -> dict[str, int]:
    """Return how many rows each table of ragline has."""
    tables = await db.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'ragline'::regnamespace"
    )
    return {
        row[0]: await db.fetchval(f'select count(*) from ragline."{row[0]}"')  # noqa: S608
        for row in tables
    }


async def _facts_table(db: Db, rows: int = 12, sql: str = _PLAIN) -> None:
    await db.execute(sql)
    found = await foreign_tables.vectors(TEXTS[:rows])
    await db.executemany(
        "insert into public.facts (id, body, vec) values ($1, $2, $3::text::vector)",
        [(n, *pair) for n, pair in enumerate(zip(TEXTS[:rows], found, strict=True))],
    )


# What is recognised.


@pytest.mark.parametrize(
    ("make", "table", "layout", "expected"),
    [
        (
            foreign_tables.llama_index,
            "data_notes",
            "LlamaIndex PGVectorStore",
            ("notes", "id", "text", "metadata_", "text_search_tsv", "cosine"),
        ),
        (
            foreign_tables.haystack,
            "haystack_documents",
            "Haystack PgvectorDocumentStore",
            (
                "haystack_documents", "id", "content", "meta",
                "to_tsvector('english'::regconfig, content)", "cosine",
            ),
        ),
        (
            foreign_tables.document_chunks,
            "document_chunks",
            "document_chunks",
            ("document_chunks", "id", "content", "metadata", None, "cosine"),
        ),
        (
            foreign_tables.conversation_messages,
            "conversation_messages",
            "conversation_messages",
            ("conversation_messages", "message_id", "content", "metadata", None, "l2"),
        ),
    ],
)  # fmt: skip
async def test_tables_of_known_programs_need_no_options(
    app: App, db: Db, make: Make, table: str, layout: str, expected: tuple[str | None, ...]
) -> None:
    await make(db)

    plan, facts = await attach.attach(app, Request(table=table))

    attached = plan.attached
    assert attached.layout == layout
    assert plan.why
    assert facts.attached == attached
    assert facts.space is not None
    found = (facts.name, attached.key, attached.text, attached.metadata, attached.words)
    assert (*found, facts.space.metric) == expected
    assert (facts.documents, facts.chunks) == (len(TEXTS), len(TEXTS))
    assert (facts.space.model_id, facts.space.dimension) == ("fake-64", 64)
    assert plan.similarity is not None
    assert plan.similarity > 0.999
    if attached.words:
        assert attached.words_config == "english"


async def test_an_index_that_is_there_says_how_the_collection_is_searched(app: App, db: Db) -> None:
    await foreign_tables.llama_index(db)

    _, facts = await attach.attach(app, Request(table="data_notes"))

    assert facts.space is not None
    assert (facts.space.index_m, facts.space.index_ef_construction) == (12, 48)
    assert (facts.space.index_slot, facts.space.index_storage) == (1, "vector")


async def test_what_is_said_goes_before_what_is_recognised(app: App, db: Db) -> None:
    await foreign_tables.document_chunks(db)

    plan = await attach.plan(
        app,
        Request(
            table="public.document_chunks",
            id='"id"',
            filters=("chunk_index",),
            only=(("document_id", "2"),),
            collection="second",
            metric="l2",
        ),
    )

    assert plan.attached.filters == (("chunk_index", "integer"),)
    assert plan.attached.only == (("document_id", "2"),)
    assert (plan.collection, plan.index.metric, plan.rows) == ("second", "l2", len(TEXTS) // 2)
    assert any("no vector index serves l2" in warning for warning in plan.warnings)


async def test_a_plan_changes_nothing(app: App, db: Db, own_dsn: Dsn) -> None:
    await foreign_tables.llama_index(db)
    before, rows = await _schema(own_dsn), await _ours(db)

    await attach.plan(app, Request(table="data_notes"))

    assert await _schema(own_dsn) == before
    assert await _ours(db) == rows


# There and back.


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (foreign_tables.llama_index, "data_notes"),
        (foreign_tables.haystack, "haystack_documents"),
        (foreign_tables.document_chunks, "document_chunks"),
    ],
)
async def test_detached_nothing_is_left(
    app: App, db: Db, own_dsn: Dsn, make: Make, table: str
) -> None:
    await make(db)
    before, rows = await _schema(own_dsn), await _ours(db)
    content = await db.fetch(f"select * from public.{table} order by 1")  # noqa: S608

    _, facts = await attach.attach(app, Request(table=table))
    assert await _schema(own_dsn) != before  # the rights, where roles need them
    done = await detach.detach(app, facts.name)

    assert await _schema(own_dsn) == before
    assert await _ours(db) == rows
    assert await db.fetch(f"select * from public.{table} order by 1") == content  # noqa: S608
    assert {grant.role for grant in done.taken_back} == set(ROLES.values())
    assert done.warnings == ()
    with pytest.raises(NotFound, match="does not exist"):
        await app.collection(facts.name)


async def test_every_workload_may_read_while_it_is_attached_and_none_after(
    app: App, db: Db, own_dsn: Dsn
) -> None:
    await db.execute("create schema theirs")
    await db.execute("create table theirs.facts (id int primary key, body text, vec vector(64))")
    request = Request(table="theirs.facts", **_COLUMNS, model="unknown")

    _, facts = await attach.attach(app, request)

    for workload in WORKLOADS:
        role = await connect(own_dsn.login(ROLES[workload], None))
        assert await role.fetch("select * from theirs.facts") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute("insert into theirs.facts values (1)")
        await role.close()
    await detach.detach(app, facts.name)
    role = await connect(own_dsn.login(ROLES["serve"], None))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await role.fetch("select * from theirs.facts")
    await role.close()


async def test_rights_that_were_there_before_stay(app: App, db: Db, own_dsn: Dsn) -> None:
    await foreign_tables.llama_index(db)
    await db.execute("grant select, update on public.data_notes to eval_app")
    before = await _schema(own_dsn)

    plan, facts = await attach.attach(app, Request(table="data_notes"))
    await detach.detach(app, facts.name)

    assert "eval_app" not in {grant.role for grant in plan.grants}
    assert await _schema(own_dsn) == before


@pytest.mark.parametrize("first", ["even", "odd"])
async def test_two_collections_of_a_table_share_its_rights_until_the_last_is_detached(
    app: App, db: Db, own_dsn: Dsn, first: str
) -> None:
    await foreign_tables.document_chunks(db)
    before = await _schema(own_dsn)
    for name, value in (("odd", "1"), ("even", "2")):
        request = Request(table="document_chunks", only=(("document_id", value),), collection=name)
        await attach.attach(app, request)
    second = "odd" if first == "even" else "even"

    await detach.detach(app, first)
    role = await connect(own_dsn.login(ROLES["serve"], None))
    assert await role.fetchval("select count(*) from public.document_chunks") == len(TEXTS)
    await role.close()
    assert (await app.collection(second, fresh=True)).chunks == len(TEXTS) // 2
    await detach.detach(app, second)

    assert await _schema(own_dsn) == before


_NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=12,
).filter(lambda name: len(name.encode()) <= 60)


@settings(
    max_examples=4,
    # Each example is a database: what fails is read as it is.
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(names=st.lists(_NAMES, min_size=5, max_size=5, unique=True))
def test_whatever_names_need_to_be_quoted_there_and_back_leaves_the_schema_equal(
    template: Dsn, tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    asyncio.run(_there_and_back(template, tmp_path_factory.mktemp("names"), names))


async def _there_and_back(template: Dsn, folder: Path, names: list[str]) -> None:
    schema, table, key, text, vector = ('"' + name.replace('"', '""') + '"' for name in names)
    async with own_database(template) as dsn, opened(dsn, folder, FakeEmbedder()) as app:
        db = await connect(dsn)
        if await db.fetchval("select to_regnamespace($1) is null", schema):
            try:
                await db.execute(f"create schema {schema}")
            except asyncpg.ReservedNameError:
                schema = "public"
        await db.execute(
            f"create table {schema}.{table} ({key} text primary key, {text} text, "
            f"{vector} vector(64))"
        )
        found = await foreign_tables.vectors(TEXTS[:3])
        await db.executemany(
            f"insert into {schema}.{table} values ($1, $2, $3::text::vector)",  # noqa: S608
            [(f"k{n}", *pair) for n, pair in enumerate(zip(TEXTS[:3], found, strict=True))],
        )
        await db.close()
        before = await _schema(dsn)
        request = Request(
            table=f"{schema}.{table}", id=key, text=text, embedding=vector, collection="named"
        )
        _, facts = await attach.attach(app, request)
        assert (facts.chunks, facts.space and facts.space.model_id) == (3, "fake-64")
        await detach.detach(app, "named")
        assert await _schema(dsn) == before


# What is refused, each with what to do, and nothing half-done.


_REFUSED: list[tuple[str, Request, type[RaglineError], str]] = [
    ("", Request(table="fcats"), NotFound, "did you mean public.facts"),
    ("", Request(table="nothing.like.it"), UsageError, "names no table"),
    ("", Request(table=""), UsageError, "names no table"),
    ("", Request(table="ragline.chunk"), PreconditionFailed, "ragline's own"),
    ("create view v as select * from facts", Request(table="v"), PreconditionFailed, "is a view"),
    (
        "create materialized view m as select * from facts",
        Request(table="m"), PreconditionFailed, "is a materialized view",
    ),
    (
        "create table p (id int primary key, body text, vec vector(64)) partition by hash (id)",
        Request(table="p"), PreconditionFailed, "attach its partitions",
    ),
    (
        ("create extension postgres_fdw; create server s foreign data wrapper postgres_fdw; "
        "create foreign table f (id int, body text, vec vector(64)) server s"),
        Request(table="f"), PreconditionFailed, "foreign table",
    ),
    (
        "create table child () inherits (facts)",
        Request(table="facts"), PreconditionFailed, "inherit",
    ),
    (
        "alter table facts enable row level security",
        Request(table="facts"), PreconditionFailed, "row-level security",
    ),
    ("", Request(table="facts"), UsageError, r"say --id COLUMN. Likely: --id id --text body"),
    (
        "alter table facts drop column vec", Request(table="facts"), UsageError,
        "no column of type vector or halfvec",
    ),
    ("", Request(table="facts", id="id"), UsageError, "say --text"),
    ("", Request(table="facts", id="id", text="body"), UsageError, "say --embedding"),
    ("", Request(table="facts", **{**_COLUMNS, "id": "idd"}), UsageError, "did you mean 'id'"),
    ("", Request(table="facts", **{**_COLUMNS, "id": "zzz"}), UsageError, r"--id\)\. Its columns"),
    ("", Request(table="facts", **{**_COLUMNS, "id": "body"}), UsageError, "can be: id"),
    ("", Request(table="facts", **{**_COLUMNS, "text": "extra"}), UsageError, "not text"),
    ("", Request(table="facts", **{**_COLUMNS, "embedding": "body"}), UsageError, "are: vec"),
    ("", Request(table="facts", **_COLUMNS, metadata="lang"), UsageError, "there are: extra"),
    ("", Request(table="facts", **_COLUMNS, filters=("kinds",)), UsageError, "cannot compare"),
    ("", Request(table="facts", **_COLUMNS, only=(("id", "x"),)), UsageError, "--only id=x"),
    ("", Request(table="facts", **_COLUMNS, metric="angle"), UsageError, "there are: cosine"),
    ("", Request(table="facts", **_COLUMNS, collection="a b"), UsageError, "cannot name"),
    ("", Request(table="facts", **_COLUMNS, model="gpt"), NotFound, "there are: fake-64"),
    (
        "alter table facts drop constraint facts_pkey",
        Request(table="facts", **_COLUMNS), PreconditionFailed, "has none: add a primary key",
    ),
    (
        "alter table facts drop constraint facts_pkey, add primary key (id, body)",
        Request(table="facts", **_COLUMNS), PreconditionFailed, r"only \(id, body\) together",
    ),
    (
        ("alter table facts drop constraint facts_pkey; create unique index on facts (id); "
        "alter table facts alter id drop not null"),
        Request(table="facts", **_COLUMNS), PreconditionFailed, "never null",
    ),
    (
        ("delete from facts where id > 0; "
            "alter table facts add column at timestamptz not null unique default now()"),
        Request(table="facts", **{**_COLUMNS, "id": "at"}), UsageError, "different ways",
    ),
    (
        "alter table facts alter vec type vector; delete from facts",
        Request(table="facts", **_COLUMNS), PreconditionFailed, "no row says one",
    ),
    (
        "alter table facts alter vec type vector; update facts set vec = '[1,2,3]' where id = 3",
        Request(table="facts", **_COLUMNS), PreconditionFailed, "of 3 to 64 dimensions",
    ),
    (
        ("create index on facts using hnsw (vec vector_l2_ops); "
        "create index on facts using hnsw (vec vector_ip_ops)"),
        Request(table="facts", **_COLUMNS), UsageError, "inner_product and l2",
    ),
    (
        "update facts set vec = array(select -x from unnest(vec::real[]) x)::vector(64)",
        Request(table="facts", **_COLUMNS, model="fake-64"), UsageError, "not of fake-64",
    ),
    (
        "create schema a; create schema b; create table a.t (id int); create table b.t (id int)",
        Request(table="t"), UsageError, "which of a.t, b.t",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
async def place(
    template: Dsn, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[App, Db]]:
    """A database in which only what is refused is tried, so that it stays as it is."""
    async with (
        own_database(template) as dsn,
        opened(dsn, tmp_path_factory.mktemp("refused"), FakeEmbedder()) as app,
    ):
        db = await connect(dsn)
        await db.execute("set search_path = public")
        yield app, db
        await db.close()


@pytest.mark.parametrize(
    ("sql", "request_", "kind", "sentence"),
    _REFUSED,
    ids=[f"{r[1].table}-{r[3]}" for r in _REFUSED],
)
async def test_what_cannot_be_attached_is_said_and_nothing_is_done(
    place: tuple[App, Db], sql: str, request_: Request, kind: Any, sentence: str
) -> None:
    app, db = place
    await db.execute(
        "drop table if exists facts, p cascade; drop schema if exists a, b cascade; "
        "drop extension if exists postgres_fdw cascade"
    )
    await _facts_table(db)
    if sql:
        await db.execute(sql)

    with pytest.raises(kind, match=sentence) as caught:
        await attach.attach(app, request_)

    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert {name for name, count in (await _ours(db)).items() if count} == {"alembic_version"}
    granted = "select count(*) from pg_class where relacl::text ~ 'eval_app' and relname = 'facts'"
    assert await db.fetchval(granted) == 0


async def test_a_temporary_table_is_refused(app: App, db: Db) -> None:
    await db.execute("create temp table mine (id int primary key, body text, vec vector(64))")
    schema = await db.fetchval("select pg_my_temp_schema()::regnamespace::text")

    with pytest.raises(PreconditionFailed, match="temporary"):
        await attach.attach(app, Request(table=f"{schema}.mine", **_COLUMNS))


async def test_a_user_without_rights_is_told_which(db: Db, own_dsn: Dsn, tmp_path: Path) -> None:
    await _facts_table(db)
    name = await db.fetchval("select 'plain_' || substr(md5(current_database()), 1, 8)")
    await db.execute(f"create role {name} login; grant ragline_owner to {name}")
    try:
        async with opened(own_dsn.login(name, None), tmp_path, FakeEmbedder()) as app:
            request = Request(table="facts", **_COLUMNS)
            with pytest.raises(PreconditionFailed, match=f"{name} may not read public.facts"):
                await attach.attach(app, request)
            await db.execute(f"grant select on public.facts to {name}")
            with pytest.raises(
                PreconditionFailed, match="grant usage on schema public to eval_app"
            ):
                await attach.attach(app, request)
            assert not await catalog.collections(app)
            await db.execute(f"grant select on public.facts to {name} with grant option")
            _, facts = await attach.attach(app, request)
            assert facts.chunks == 12
            done = await detach.detach(app, facts.name)
            assert done.warnings == ()
    finally:
        await db.execute(f"drop owned by {name}; drop role {name}")


async def test_attached_twice_or_under_a_name_that_is_taken_it_is_refused(app: App, db: Db) -> None:
    await foreign_tables.llama_index(db)
    await foreign_tables.haystack(db)
    await attach.attach(app, Request(table="data_notes"))

    with pytest.raises(Conflict, match="attached already, as collection 'notes'"):
        await attach.attach(app, Request(table="data_notes", collection="other"))
    with pytest.raises(Conflict, match="'notes' already: say another name"):
        await attach.attach(app, Request(table="haystack_documents", collection="notes"))


async def test_side_by_side_one_attaches_it(app: App, db: Db) -> None:
    await foreign_tables.llama_index(db)
    requests = [Request(table="data_notes", collection=f"n{n}") for n in range(4)]

    done = await asyncio.gather(
        *(attach.attach(app, request) for request in requests), return_exceptions=True
    )

    assert sum(isinstance(one, tuple) for one in done) == 1
    assert sum(isinstance(one, Conflict) for one in done) == 3
    assert await db.fetchval("select count(*) from attached_table") == 1


# What is warned of.


async def test_rows_without_vector_are_counted(app: App, db: Db) -> None:
    await _facts_table(db)
    await db.execute("update facts set vec = null where id < 5")

    plan, facts = await attach.attach(app, Request(table="facts", **_COLUMNS))

    assert facts.chunks == 12
    assert any("5 of 12 rows have no vector" in warning for warning in plan.warnings)


async def test_without_a_declared_dimension_the_rows_say_it(app: App, db: Db) -> None:
    await _facts_table(db, sql=_PLAIN.replace("vector(64)", "vector"))

    plan, facts = await attach.attach(app, Request(table="facts", **_COLUMNS))

    assert not plan.attached.is_typed
    assert facts.space is not None
    assert facts.space.dimension == 64
    assert any("declares no dimension" in warning for warning in plan.warnings)


async def test_of_an_unknown_model_the_vectors_stay_unknown(app: App, db: Db) -> None:
    await _facts_table(db)
    await db.execute("update facts set body = 'something else altogether'")

    plan, facts = await attach.attach(app, Request(table="facts", **_COLUMNS))

    assert facts.space is not None
    assert facts.space.model_id == "unknown"
    assert facts.space.weights_hash == "unknown:public.facts"
    assert await app.embedder_for(facts.space) is None
    assert any("none of the configured models" in warning for warning in plan.warnings)


async def test_an_empty_table_is_of_the_model_that_is_said(app: App, db: Db) -> None:
    await db.execute(_PLAIN)

    plan = await attach.plan(app, Request(table="facts", **_COLUMNS))
    said = await attach.plan(app, Request(table="facts", **_COLUMNS, model="fake-64"))

    assert plan.space.model_id == "unknown"
    assert any("--model fake-64" in warning for warning in plan.warnings)
    assert said.space.model_id == "fake-64"


# While it is attached.


async def test_a_replica_is_refused(app: App, db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    await _facts_table(db)
    real = attachments.server

    async def of_replica(session: attachments.Session) -> attachments.Server:
        return replace(await real(session), is_replica=True)

    monkeypatch.setattr(attachments, "server", of_replica)
    with pytest.raises(PreconditionFailed, match=r"read-only replica.*primary"):
        await attach.attach(app, Request(table="facts", **_COLUMNS))


async def test_writes_of_its_own_application_raise_the_epoch(app: App, db: Db) -> None:
    await _facts_table(db)
    _, facts = await attach.attach(app, Request(table="facts", **_COLUMNS))
    await db.execute("update facts set lang = 'en' where id < 3")
    # What a session wrote is told to the statistics a moment later, or when it ends.
    await db.execute("select pg_stat_force_next_flush()")
    await db.execute("select 1")

    assert (await app.collection("facts", fresh=True)).epoch >= facts.epoch + 3


async def test_its_space_is_not_changed(app: App, db: Db, own_dsn: Dsn, tmp_path: Path) -> None:
    await _facts_table(db)
    await attach.attach(app, Request(table="facts", **_COLUMNS))
    unused: Any = None
    site = Site(app=app, dsn=own_dsn, restart=None, measure=unused, kinds={}, data_dir=tmp_path)

    with pytest.raises(Conflict, match="no space to be filled"):
        await Space().wanted(site, "facts", {"storage": "halfvec"})


async def test_what_would_write_it_points_to_detaching(app: App, db: Db) -> None:
    await foreign_tables.llama_index(db)
    await attach.attach(app, Request(table="data_notes"))

    for refused in (
        ingest.ingest_texts(app, [ingest.Text(source="a", text="b")], "notes"),
        catalog.remove_collection(app, "notes"),
        catalog.documents(app, "notes"),
        calibration.calibrate(app, "notes"),
    ):
        with pytest.raises(Conflict, match=r"is the attached table public\.data_notes"):
            await refused
    assert await db.fetchval("select count(*) from public.data_notes") == len(TEXTS)
    # Whoever deletes behind our back does not take the rights' record along.
    sql = "delete from collection c where not exists (select from attached_table a)"
    assert await db.execute(sql) == "DELETE 0"


async def test_its_rows_are_counted_and_beyond_many_estimated(
    app: App, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _facts_table(db)
    await attach.attach(app, Request(table="facts", **_COLUMNS))
    monkeypatch.setattr(attached_state, "COUNTED_ROWS", 100)
    await db.execute("insert into facts (id) select generate_series(100, 187)")
    assert (await app.collection("facts", fresh=True)).chunks == 100
    await db.execute("insert into facts (id) select generate_series(1000, 4899)")
    await db.execute("analyze facts")

    assert (await app.collection("facts", fresh=True)).chunks == pytest.approx(4000, rel=0.05)


_GONE = {
    "drop table facts": "was dropped: run",
    "drop table facts; create table facts (id int)": "dropped and made again",
    "alter table facts rename to others": "is called public.others now",
    "revoke select on facts from ragline_serve": "may no longer read",
}


@pytest.mark.parametrize("sql", _GONE)
async def test_a_table_that_is_not_what_it_was_is_said_and_can_be_detached(
    app: App, db: Db, sql: str
) -> None:
    await _facts_table(db)
    _, facts = await attach.attach(app, Request(table="facts", **_COLUMNS))
    rows = await _ours(db)
    await db.execute("set search_path = public")
    await db.execute(sql)

    async with (await app.pool("serve")).connection() as connection:
        why = await attached_state.why_not(connection, facts)
    assert why is not None
    assert _GONE[sql] in why
    assert [one.name for one in await catalog.collections(app)] == ["facts"]
    await detach.detach(app, "facts")

    assert sum((await _ours(db)).values()) == sum(rows.values()) - 4


async def test_what_is_not_attached_is_not_detached(app: App) -> None:
    await ingest.ingest_texts(app, [ingest.Text(source="a", text="The pump is loud.")], "own")

    with pytest.raises(NotFound, match="ragline collection remove own"):
        await detach.detach(app, "own")
    with pytest.raises(NotFound, match="does not exist"):
        await detach.detach(app, "other")


@asynccontextmanager
async def _change(
    db: Db, state: str, *, keeps: bool = False, target: str = "facts"
) -> AsyncIterator[None]:
    on = "INDEX facts_vec_idx ON public.facts USING hnsw (vec public.vector_cosine_ops)"
    want = {"name": "facts_vec_idx", "definition": f"CREATE {on} WITH (m='8')"}
    parts = [{"kind": "index", "target": target, "want": want}]
    was = {"name": "facts_flat", "definition": f"CREATE {on.replace('vec_idx', 'flat')}"}
    await db.execute(
        """
        insert into change (title, parts, plan, plan_hash, is_cluster_wide, state, snapshot, verdict,
                            expires_at, opened_at, retire_at, closed_at)
        values ('tune facts', $1, '{}', 'h', false, $2, $4, '{}', now(), now(),
                case when $3 then now() + interval '7 days' end,
                case when $2 = 'kept' then now() end)
        """,
        json.dumps(parts),
        state,
        keeps,
        json.dumps([was]),
    )
    yield


@pytest.mark.parametrize("target", ["facts", '@public."facts".not_there_yet'])
async def test_while_a_change_is_open_it_stays_attached(app: App, db: Db, target: str) -> None:
    await _facts_table(db)
    await attach.attach(app, Request(table="facts", **_COLUMNS))
    async with _change(db, "measuring", target=target):
        with pytest.raises(Conflict, match="ragline change resume"):
            await detach.plan(app, "facts")
        with pytest.raises(Conflict, match="ragline change resume"):
            await detach.detach(app, "facts")

    assert (await app.collection("facts", fresh=True)).attached is not None


async def test_what_a_kept_change_replaced_is_ended_first_and_its_index_named(
    app: App, db: Db
) -> None:
    await _facts_table(db)
    await db.execute("create index facts_vec_idx on facts using hnsw (vec vector_cosine_ops)")
    await attach.attach(app, Request(table="facts", **_COLUMNS))
    settled: list[str] = []

    async def settle() -> None:
        settled.append("settled")
        await db.execute("update change set retire_at = null")

    async with _change(db, "kept", keeps=True):
        planned = await detach.plan(app, "facts")
        with pytest.raises(Conflict, match="is still kept"):
            await detach.detach(app, "facts")
        done = await detach.detach(app, "facts", settle=settle)

    assert settled == ["settled"]
    for one in (planned, done):
        assert one.kept_indexes == ("facts_vec_idx",)
        assert one.gone_indexes == ("facts_flat",)
        assert len(one.ended_changes) == 1


async def test_an_index_that_is_as_it_was_before_all_changes_is_not_called_kept(
    app: App, db: Db
) -> None:
    await _facts_table(db)
    await db.execute("create index facts_flat on facts using hnsw (vec vector_cosine_ops)")
    await attach.attach(app, Request(table="facts", **_COLUMNS))

    async with _change(db, "kept"):
        planned = await detach.plan(app, "facts")

    assert (planned.kept_indexes, planned.gone_indexes) == ((), ())


async def test_an_index_left_over_from_a_trial_is_dropped(app: App, db: Db) -> None:
    await _facts_table(db)
    plan, _ = await attach.attach(app, Request(table="facts", **_COLUMNS))
    for slot, storage in ((1, "halfvec"), (2, "halfvec"), (2, "vector")):
        expression = attached_sql.vector(
            plan.attached,
            held="vector",
            storage=storage,
            dimension=64,
            vector_schema="public",
            slot=slot,
            alias="",
        )
        await db.execute(
            f"create index facts_{slot}_{storage} on facts "
            f"using hnsw ({expression} {storage}_cosine_ops)"
        )

    planned = await detach.plan(app, "facts")
    done = await detach.detach(app, "facts")

    assert planned == done
    assert done.dropped_indexes == ('"public"."facts_2_halfvec"', '"public"."facts_2_vector"')
    left = "select indexrelid::regclass::text from pg_index where indrelid = 'facts'::regclass"
    assert sorted(row[0] for row in await db.fetch(left)) == ["facts_1_halfvec", "facts_pkey"]


async def test_vectors_of_texts_with_their_metadata_are_taken_on_somebodys_word(
    app: App, db: Db
) -> None:
    await foreign_tables.llama_index(db)
    # As LlamaIndex embeds a node: its metadata first.
    stored = await foreign_tables.vectors([f"number: 7\n\n{text}" for text in TEXTS])
    await db.executemany(
        "update data_notes set embedding = $2::text::vector where id = $1",
        list(enumerate(stored, 1)),
    )

    unsaid = await attach.plan(app, Request(table="data_notes"))
    said = await attach.plan(app, Request(table="data_notes", model="fake-64"))

    assert said.similarity is not None
    assert 0.5 < said.similarity < 0.98
    assert (unsaid.space.model_id, said.space.model_id) == ("unknown", "fake-64")
    assert any("say --model fake-64" in warning for warning in unsaid.warnings)
    assert any("on your word" in warning for warning in said.warnings)


async def test_the_library_attaches_and_detaches(app: App, db: Db) -> None:
    await foreign_tables.document_chunks(db)
    rag = Rag(app)

    plan, facts = await rag.attach("document_chunks", only={"document_id": "01"}, collection="one")
    done = await rag.detach("one")

    # As the column writes it.
    assert plan.attached.only == (("document_id", "1"),)
    assert (facts.name, facts.chunks) == ("one", len(TEXTS) // 2)
    assert (done.collection, done.is_there) == ("one", True)


@given(st.text(max_size=12), st.text(max_size=12))
def test_quoted_names_are_read_as_they_were_meant(schema: str, table: str) -> None:
    if "" in (schema, table) or "\0" in schema + table:
        return
    quoted = ['"' + name.replace('"', '""') + '"' for name in (schema, table)]

    assert attaching.table_name(".".join(quoted)) == (schema, table)
    assert attaching.table_name(quoted[1]) == (None, table)

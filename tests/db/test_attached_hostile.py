"""Attached tables whose owners are hostile or unlucky: numbers, operators, policies, words, changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import attached as tables
from attached import BIGINT, HALVES, SHARED, UUID, Row
from conftest import opened
from ragline.core.attaching import Request
from ragline.core.dsn import Dsn
from ragline.core.extraction import idf
from ragline.db import attached_sql, samples, search
from ragline.errors import Conflict, NotFound, PreconditionFailed, RaglineError
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import attach, catalog
from ragline.rag.answer import answer_question
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts
from ragline.rag.search import query, search_collections, target_of

Db = tables.Db
MODEL = FakeEmbedder(16)
OTHER = replace(BIGINT, table="others", words=None, words_config=None)
COLUMN = replace(BIGINT, words="words", words_config="english")


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> Any:
    async with opened(own_dsn, tmp_path, MODEL) as app:
        yield app


async def made(db: Db, attached: Any, some: list[Row], **options: Any) -> int:
    await tables.make(db, attached, 16)
    await tables.fill(db, attached, some, MODEL)
    return await tables.attach(db, attached, MODEL, **options)


def rows(count: int) -> list[Row]:
    return [Row(key=str(n), text=f"row {n} tells of ants") for n in range(1, count + 1)]


async def test_no_row_has_the_number_of_a_document_of_ours(db: Db, app: App) -> None:
    await ingest_texts(app, [Text(source="ours", text="one of ours")], "own")
    await made(db, BIGINT, [Row(key="0", text="a"), *rows(20)])
    result = await search_collections(app, query("ants", "kb", method="vector", k=21))
    numbers = {int(hit.source): hit.document_id for hit in result.hits}
    assert numbers == {n: -n for n in range(21)}
    for number in numbers.values():
        with pytest.raises(NotFound, match="row of an attached table"):
            await catalog.document(app, number)
        with pytest.raises(NotFound, match="row of an attached table"):
            await catalog.remove_document(app, number)


async def test_the_number_of_every_key_leads_back_to_it(db: Db, app: App) -> None:
    keys = [0, 1, -1, 5, -5, 2**62, -(2**62), 2**63 - 1, -(2**63)]
    await made(db, BIGINT, [Row(key=str(key), text="x") for key in keys])
    target = target_of(await app.collection("kb"))
    number = attached_sql.number(BIGINT)
    there = await db.fetch(f"select id, {number} as number from notes t")  # noqa: S608
    found: dict[int, int] = {row["id"]: row["number"] for row in there}
    assert max(found.values()) == 0
    for key in keys:
        assert key in attached_sql.keys([found[key]])
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        small = {found[key] for key in (0, 1, -1, 5, -5)}
        assert len(small) == 5
        assert set(await samples.vectors_of(connection, target, sorted(small))) == small


async def test_rows_of_two_tables_with_one_number_are_both_cited(db: Db, app: App) -> None:
    texts = ("The red pump starts with a key.", "The red pump stops with a key.")
    await made(db, BIGINT, [Row(key="1", text=texts[0])])
    await made(db, OTHER, [Row(key="1", text=texts[1] + " ")], name="others")
    asked = query("red pump key", ["kb", "others"], method="vector")
    answer = await answer_question(app, asked)
    assert {c.collection for c in answer.citations} == {"kb", "others"}


async def test_confidence_is_a_cosine_whatever_the_distance(db: Db, app: App) -> None:
    await made(db, BIGINT, [Row(key="1", text="The red pump starts with a key.")])
    by_metric = {}
    for metric in ("cosine", "l2", "inner_product"):
        await db.execute("update embedding_space set metric = $1", metric)
        await db.execute("update collection set search_version = search_version + 1")
        app.known.clear()
        answer = await answer_question(app, query("what of the pump", "kb", method="vector"))
        by_metric[metric] = answer.confidence
    assert by_metric["l2"] == pytest.approx(by_metric["cosine"], abs=1e-5)
    assert by_metric["inner_product"] == pytest.approx(by_metric["cosine"], abs=1e-5)


TYPES = ("character varying, character varying", "character varying, text")


async def test_an_operator_that_lies_in_wait_is_never_called(db: Db, app: App) -> None:
    shared = replace(SHARED, filters=(("lang", "character varying"),))
    await made(db, shared, [Row(key=f"k{n}", text="ant", lang="en") for n in range(30)])
    await tables.index(db, shared, 16)
    for number, types in enumerate(TYPES):
        one, other = types.split(", ")
        await db.execute(
            f"create function public.trap_{number}({types}) returns boolean language plpgsql as "
            "$$ begin raise exception 'trapped'; end $$"
        )
        await db.execute(
            f"create operator public.= (leftarg = {one}, rightarg = {other}, "
            f"function = public.trap_{number})"
        )
    for exact in (False, True):
        for condition in (None, {"key": "lang", "op": "eq", "value": "en"}):
            asked = query("ant", "kb", method="vector", exact=exact, filter=condition)
            assert len((await search_collections(app, asked)).hits) == 10


async def test_row_security_that_came_later_is_said(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(30))
    asked = query("ant", "kb", method="vector")
    assert (await search_collections(app, asked)).hits
    await db.execute(
        "alter table notes enable row level security;create policy theirs on notes using (id < 3)"
    )
    with pytest.raises(Conflict, match="row-level security was switched on"):
        await search_collections(app, asked)
    await db.execute("alter table notes disable row level security")
    assert (await search_collections(app, asked)).hits


async def test_rare_words_weigh_more_and_repeated_ones_less_and_less(db: Db, app: App) -> None:
    common = [Row(key=str(n), text=f"pump valve z{n}") for n in range(1, 41)]
    some = [
        *common,
        Row(key="100", text="pump pump pump pump pump"),
        Row(key="101", text="gasket w1"),
        Row(key="102", text="gasket gasket"),
    ]
    await made(db, BIGINT, some)
    await tables.index_words(db, BIGINT)
    for exact in (False, True):
        result = await search_collections(
            app, query("pump or gasket", "kb", method="lexical", k=43, exact=exact)
        )
        assert [hit.source for hit in result.hits[:3]] == ["102", "101", "100"]
        weight = idf({"gasket": 2}, 43)["gasket"]
        # The mean length is that of rows with a word.
        assert result.hits[1].lexical_score == pytest.approx(weight, rel=0.2)
        assert len(result.hits) == 43


@pytest.mark.parametrize("is_column", [True, False])
async def test_many_rows_with_a_word_are_not_all_weighed(
    db: Db, app: App, monkeypatch: pytest.MonkeyPatch, is_column: bool
) -> None:
    attached = COLUMN if is_column else BIGINT
    some = [Row(key=str(n), text=f"pump n{n}", lang="en") for n in range(1, 9001)]
    some[8500] = replace(some[8500], text="pump valve", lang="vi")
    await tables.make(db, attached, 16)
    if is_column:
        await db.execute("alter table notes add words tsvector")
    await tables.fill(db, attached, some, MODEL)
    if is_column:
        await db.execute("update notes set words = to_tsvector('english', content)")
    await tables.attach(db, attached, MODEL)
    await tables.index_words(db, attached)
    facts = await app.collection("kb")
    ask = search.Ask(k=5, candidates=20, ef_search=40, terms=("pump", "valve"))
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        plan = await search.explained(connection, target_of(facts), "lexical", ask)
        found = await search.run(connection, target_of(facts), "lexical", ask)
        hits = await search.run(
            connection, target_of(facts), "lexical", replace(ask, is_exact=True)
        )
    assert found.hits[0].source == hits.hits[0].source == "8501"
    read = max(n["Actual Rows"] for n in search._nodes(plan["Plan"]) if n.get("Alias") == "w")
    assert read <= 3_001
    held = [n["Actual Rows"] for n in search._nodes(plan["Plan"]) if n.get("CTE Name") == "held"]
    assert max(held) <= 250
    within = query(
        "pump", "kb", method="lexical", filter={"key": "lang", "op": "eq", "value": "vi"}
    )
    assert [hit.source for hit in (await search_collections(app, within)).hits] == ["8501"]


async def test_words_without_positions_and_with_labels(db: Db, app: App) -> None:
    await tables.make(db, COLUMN, 16)
    await db.execute("alter table notes add words tsvector")
    await tables.fill(db, COLUMN, rows(30), MODEL)
    await db.execute(
        "update notes set words = strip(to_tsvector('english', content)) where id < 10;"
        "update notes set words = setweight(to_tsvector('english', content), 'A') where id > 20"
    )
    await tables.attach(db, COLUMN, MODEL)
    await tables.index_words(db, COLUMN)
    result = await search_collections(app, query("ants", "kb", method="lexical", k=30))
    assert {int(hit.source) for hit in result.hits} == {*range(1, 10), *range(21, 31)}
    assert len({hit.lexical_score for hit in result.hits}) == 1
    assert all(hit.score > 0 for hit in result.hits)


async def test_words_of_a_function_that_may_not_be_called_are_said(db: Db, app: App) -> None:
    attached = replace(BIGINT, words="to_tsvector('english'::regconfig, theirs.plain(content))")
    await db.execute(
        "create schema theirs; create function theirs.plain(text) returns text language sql "
        "immutable as 'select $1'"
    )
    await made(db, attached, rows(30))
    await tables.index_words(db, attached)
    with pytest.raises(PreconditionFailed, match="theirs") as caught:
        await search_collections(app, query("ants", "kb", method="lexical"))
    assert "usage on" in str(caught.value)


@pytest.mark.parametrize(("owner", "is_used"), [(None, True), ("theirs_app", False)])
async def test_an_index_of_words_that_calls_strangers_is_not_used(
    db: Db, app: App, owner: str | None, is_used: bool
) -> None:
    await tables.make(db, BIGINT, 16)
    await tables.fill(db, BIGINT, rows(30), MODEL)
    await db.execute(
        "create function public.plain(text) returns text language sql immutable as 'select $1'; "
        "create index on notes using gin (to_tsvector('english', public.plain(content)))"
    )
    if owner is not None:
        await db.execute(f"create role {owner}; alter function public.plain owner to {owner}")
    try:
        request = Request(table="notes", id="id", text="content", embedding="embedding")
        planned = await attach.plan(app, request)
        assert (planned.attached.words is not None) == is_used
    finally:
        if owner is not None:
            await db.execute(f"drop owned by {owner} cascade; drop role {owner}")


async def test_what_is_set_for_a_search_is_gone_after_it(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(200))
    await tables.index(db, BIGINT, 16)
    names = ("hnsw.ef_search", "hnsw.iterative_scan", "ivfflat.probes", "hnsw.max_scan_tuples")
    facts = await app.collection("kb")
    vector = await MODEL.embed_query("ant")
    pool = await app.pool("serve")
    sql = "select array(select current_setting(name, true) from unnest($1::text[]) as name)"
    async with pool.connection() as connection:
        await connection.fetchval("select '[1]'::vector::text")
        before = await connection.fetchval(sql, names)
        for is_iterative in (False, True):
            ask = search.Ask(
                k=5, candidates=20, ef_search=7, vector=vector, is_iterative=is_iterative
            )
            await search.run(connection, target_of(facts), "vector", ask)
        assert await connection.fetchval(sql, names) == before


ALTERED = (
    "alter table notes alter id type integer",
    "alter table notes add extra text",
    "alter table notes alter metadata type json using metadata::json",
    "alter table notes alter content type character varying",
    "alter table notes drop column extra",
    "drop index by_vector; alter table notes alter embedding type halfvec(16)",
    "alter table notes alter lang type integer using 3",
    "alter table notes drop column lang",
    "drop table notes",
)


async def test_searches_while_the_table_is_altered_end_in_hits_or_a_sentence(
    db: Db, app: App
) -> None:
    await made(db, BIGINT, rows(100))
    await tables.index(db, BIGINT, 16)
    is_over = asyncio.Event()
    ends: Counter[str] = Counter()

    async def searching() -> None:
        for condition in cycle((None, {"key": "lang", "op": "eq", "value": None})):
            if is_over.is_set():
                return
            try:
                asked = query("ant", "kb", method="vector", k=5, filter=condition)
                await search_collections(app, asked)
                ends["hits"] += 1
            except RaglineError as error:
                ends[type(error).__name__] += 1

    async def some_more() -> None:
        before = ends.total()
        # Those under way, and some that began after.
        while ends.total() < before + 9:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(searching())
        for sql in ALTERED:
            await some_more()
            await db.execute(sql)
        await some_more()
        is_over.set()
    assert {"hits", "NotFound"} <= set(ends) <= {"hits", "NotFound", "Conflict"}


@pytest.mark.parametrize("attached", [UUID, HALVES])
async def test_more_hits_than_rows(db: Db, app: App, attached: Any) -> None:
    storage = "halfvec" if attached is HALVES else "vector"
    some = [
        Row(key=tables.uuid_key(n) if attached is UUID else str(n), text="all alike")
        for n in range(1, 4)
    ]
    await tables.make(db, attached, 16, storage=storage)
    await tables.fill(db, attached, some, MODEL, storage=storage)
    await tables.attach(db, attached, MODEL, storage=storage)
    result = await search_collections(app, query("alike", "kb", method="vector", k=100))
    assert [hit.source for hit in result.hits] == [row.key for row in some]
    assert result.warnings == ()


async def test_texts_and_metadata_of_any_size_and_shape(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(5))
    await db.execute("update notes set content = repeat('long words ', 500000) where id = 1")
    for number, value in enumerate(("[1]", '"text"', "null", "3"), 2):
        await db.execute("update notes set metadata = $1 where id = $2", value, number)
    asked = query("ants", "kb", method="vector", k=5)
    hits = {hit.source: hit for hit in (await search_collections(app, asked)).hits}
    assert len(hits["1"].body) == hits["1"].end == 5_500_000
    assert all(hit.metadata == {"lang": None, "year": None} for hit in hits.values())

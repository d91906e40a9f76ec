"""Postings in blocks: whatever is written, folded and removed, searches see what the chunks say."""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import contents
from conftest import connect
from lock_waits import waits
from ragline.core.dsn import Dsn
from ragline.db import documents
from ragline.rag import catalog, ingest
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def kb(db: Db) -> int:
    id_: int = await db.fetchval(
        "insert into collection (name, chunk_size, chunk_overlap) values ('kb', 200, 40) returning id"
    )
    return id_


async def _write(db: Db, kb: int, chunks: list[dict[int, int]], source: str = "s") -> list[int]:
    """Write a document of chunks, given as frequency by term; return the chunks' ids."""
    document = await db.fetchrow(
        """
        insert into document (collection_id, source, media_type, body, content_hash, recipe)
        values ($1, $2, 'text/plain', repeat('x', $3), sha256('x'), 'test')
        returning id, characters
        """,
        kb,
        source,
        max(1, len(chunks)),
    )
    assert document is not None
    rows = await db.fetch(
        """
        insert into chunk (collection_id, document_id, document_characters, ordinal, start_char,
                           end_char, body, tokens, term_ids, frequencies, length)
        select $1, $2, $3, c.ordinal - 1, c.ordinal - 1, c.ordinal, 'x', 1,
               array(select jsonb_array_elements_text(c.terms)::integer), decode(c.counts, 'hex'),
               c.length
        from unnest($4::jsonb[], $5::text[], $6::int[])
            with ordinality as c (terms, counts, length, ordinal)
        returning id
        """,
        kb,
        document["id"],
        document["characters"],
        [str(list(chunk)) for chunk in chunks],
        [bytes(chunk.values()).hex() for chunk in chunks],
        [sum(chunk.values()) for chunk in chunks],
    )
    return [row[0] for row in rows]


async def _fold(db: Db, kb: int, most: int = 10_000) -> int:
    moved: int = await db.fetchval("select fold_postings($1, $2)", kb, most)
    return moved


_CHUNK = st.dictionaries(st.integers(1, 5), st.integers(1, 9), min_size=0, max_size=5)
_STEP = st.one_of(
    st.tuples(st.just("write"), st.lists(_CHUNK, min_size=1, max_size=60)),
    st.tuples(st.just("delete"), st.integers(0, 10_000)),
    st.tuples(st.just("touch"), st.integers(0, 10_000)),
    st.tuples(st.just("change"), st.integers(0, 10_000)),
    st.tuples(st.just("fold"), st.integers(1, 80)),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(_STEP, min_size=1, max_size=14))
async def test_any_sequence_of_writes_and_folds_leaves_tables_that_agree(
    db: Db, kb: int, steps: list[tuple[str, Any]]
) -> None:
    transaction = db.transaction()
    await transaction.start()
    try:
        for number, (what, value) in enumerate(steps):
            if what == "write":
                await _write(db, kb, value, source=f"s{number}")
            elif what == "fold":
                await _fold(db, kb, value)
            else:
                ids = [row[0] for row in await db.fetch("select id from chunk order by id")]
                if ids:
                    await db.execute(_SQL[what], ids[value % len(ids)])
            await _check(db)
        while await _fold(db, kb, 50):
            await _check(db)
        assert await db.fetch("select from fresh_chunk union all select from dead_chunk") == []
    finally:
        await transaction.rollback()


_SQL = {
    "delete": "delete from chunk where id = $1",
    "touch": "update chunk set headings = '{a}' where id = $1",
    "change": "update chunk set term_ids = '{2,9}', frequencies = '\\x0301', length = 4 where id = $1",
}


async def _check(db: Db) -> None:
    """Assert that the lexical tables agree; documents without text and chunks are this test's own."""
    for what, sql in contents.CONTRADICTIONS.items():
        if "text" not in what and "documents" not in what:
            assert await db.fetch(sql) == [], what


async def test_a_common_term_fills_block_after_block(db: Db, kb: int) -> None:
    random_ = random.Random(3)
    for batch in range(6):
        chunks = [{1: random_.choice([1, 1, 2, 9]), 2: 1 + n % 3} for n in range(700)]
        await _write(db, kb, chunks, source=f"s{batch}")
        while await _fold(db, kb, 300):
            pass
    await _check(db)
    sizes = await db.fetch("select impact, cardinality(offsets) as size from posting_block")
    assert max(row["size"] for row in sizes) <= 480
    assert len({row["impact"] for row in sizes}) > 4
    assert len(sizes) < 2 * (2 * 4200 / 480 + 16)


async def test_a_chunk_committed_late_finds_its_block(own_dsn: Dsn, db: Db, kb: int) -> None:
    early = await connect(own_dsn)
    try:
        async with early.transaction():
            await _write(early, kb, [{1: 1, 2: 3}] * 100, source="late")
            await _write(db, kb, [{1: 1, 2: 3}] * 900, source="soon")
            assert await _fold(db, kb) == 900
        assert await _fold(db, kb) == 100
        await _check(db)
        await db.execute("delete from document where source = 'late'")
        assert await _fold(db, kb) == 100
        await _check(db)
    finally:
        await early.close()


async def test_a_chunk_committed_late_into_a_full_tail_can_be_cleared_again(
    own_dsn: Dsn, db: Db, kb: int
) -> None:
    late = await connect(own_dsn)
    try:
        await _write(db, kb, [{1: 1}] * 292, source="first")
        assert await _fold(db, kb) == 292
        async with late.transaction():
            await _write(late, kb, [{1: 1}] * 20, source="late")
            await _write(db, kb, [{1: 1}] * 380, source="soon")
            assert await _fold(db, kb) == 380
        assert await _fold(db, kb) == 20
    finally:
        await late.close()
    await _check(db)
    await db.execute("delete from document where source = 'soon'")
    assert await _fold(db, kb) == 380
    await _check(db)
    await db.execute("delete from document")
    await _fold(db, kb)
    assert await db.fetch("select * from posting_block") == []


async def test_chunks_that_come_again_do_not_scatter_over_blocks(db: Db, kb: int) -> None:
    await _write(db, kb, [{1: 1 + n % 3, 2: 1} for n in range(2500)])
    while await _fold(db, kb, 700):
        pass
    before = await db.fetchval("select count(*) from posting_block")
    await db.execute("update chunk set headings = '{a}'")
    while await _fold(db, kb, 700):
        pass
    await _check(db)
    assert await db.fetchval("select count(*) from posting_block") < 3 * before
    assert await db.fetchval("select max(cardinality(offsets)) from posting_block") <= 480


async def test_numbers_far_apart_still_fold(db: Db, kb: int) -> None:
    await _write(db, kb, [{1: 1, 3: 1}] * 300, source="low")
    await db.execute("select setval(pg_get_serial_sequence('chunk', 'id'), 9000000000)")
    await _write(db, kb, [{1: 1, 2: 4}] * 300, source="high")
    assert await _fold(db, kb) == 600
    await db.execute("select setval(pg_get_serial_sequence('chunk', 'id'), 3000000000)")
    await _write(db, kb, [{1: 1, 2: 4}] * 300, source="between")
    assert await _fold(db, kb) == 300
    await _check(db)
    await db.execute("delete from document")
    await _fold(db, kb)
    assert await db.fetch("select * from posting_block") == []


async def test_blocks_are_begun_anew_when_chunks_have_become_longer(db: Db, kb: int) -> None:
    await _write(db, kb, [{n % 5 + 1: 1} for n in range(300)])
    await _fold(db, kb)
    assert not await db.fetchval("select rebuild_postings($1)", kb)
    await _write(db, kb, [dict.fromkeys(range(1, 6), 9) for _ in range(300)], source="long")
    await db.execute("delete from chunk where id % 7 = 0")
    await _fold(db, kb)

    assert await db.fetchval("select rebuild_postings($1)", kb)

    await _check(db)
    assert await db.fetchval("select count(*) from posting_block") == 0
    await _fold(db, kb)
    await _check(db)
    assert await db.fetchval("select mean_length from impact_reference") > 10
    assert not await db.fetchval("select rebuild_postings($1)", kb)


async def test_beginning_anew_waits_for_who_deletes(own_dsn: Dsn, db: Db, kb: int) -> None:
    ids = await _write(db, kb, [{1: 1}] * 10)
    await _fold(db, kb)
    await _write(db, kb, [dict.fromkeys(range(1, 6), 9) for _ in range(30)], source="long")
    other = await connect(own_dsn)
    try:
        async with other.transaction():
            await other.execute("delete from chunk where id = $1", ids[3])
            anew = asyncio.create_task(db.fetchval("select rebuild_postings($1)", kb))
            assert await waits(anew, other)
        assert await anew
    finally:
        await other.close()
    await _check(db)
    await _fold(db, kb)
    await _check(db)


async def test_impact_classes_follow_the_length_at_the_first_fold(db: Db, kb: int) -> None:
    """Else a chunk would be looked for in another block than the one it was put into."""
    ids = await _write(db, kb, [{1: 2, n: 1} for n in range(2, 202)])
    await _fold(db, kb)
    assert await db.fetchval("select mean_length from impact_reference") == 3
    await _write(db, kb, [{1: 1, n: 200} for n in range(2, 202)], source="long")
    await _fold(db, kb)
    await db.execute("delete from chunk where id = any($1)", ids)
    await _fold(db, kb)
    await _check(db)
    assert await db.fetchval("select mean_length from impact_reference") == 3


async def test_only_one_fold_of_a_collection_at_a_time(own_dsn: Dsn, db: Db, kb: int) -> None:
    other = await connect(own_dsn)
    try:
        await _write(db, kb, [{1: 1}] * 10)
        async with other.transaction():
            assert await _fold(other, kb) == 10
            assert await _fold(db, kb) == 0
        assert await _fold(db, kb) == 0
        await _check(db)
    finally:
        await other.close()


async def test_a_chunk_deleted_while_it_is_folded_is_dead_afterwards(
    own_dsn: Dsn, db: Db, kb: int
) -> None:
    ids = await _write(db, kb, [{1: 1}] * 10)
    other = await connect(own_dsn)
    try:
        transaction = other.transaction()
        await transaction.start()
        assert await _fold(other, kb) == 10
        deleting = asyncio.create_task(db.execute("delete from chunk where id = $1", ids[3]))
        assert await waits(deleting, other)
        await transaction.commit()
        await deleting
    finally:
        await other.close()
    assert [row[0] for row in await db.fetch("select chunk_id from dead_chunk")] == [ids[3]]
    await _check(db)
    assert await _fold(db, kb) == 1
    await _check(db)


async def test_a_fold_passes_over_chunks_that_are_being_deleted(
    own_dsn: Dsn, db: Db, kb: int
) -> None:
    ids = await _write(db, kb, [{1: 1}] * 10)
    other = await connect(own_dsn)
    try:
        async with other.transaction():
            await other.execute("delete from chunk where id = $1", ids[3])
            assert await asyncio.wait_for(_fold(db, kb), timeout=60) == 9
    finally:
        await other.close()
    await _check(db)


WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")


def _text(n: int, turn: int) -> ingest.Text:
    chosen = random.Random(n * 100 + turn).choices(WORDS, range(8, 0, -1), k=9)
    return ingest.Text(source=f"t{n}", text=" ".join(chosen))


async def _rewrite(app: App, who: int) -> None:
    for turn in range(1, 5):
        await ingest.ingest_texts(app, [_text(n, turn) for n in range(who, 80, 4)], "kb")
        page = await catalog.documents(app, "kb", after=0, limit=200)
        mine = [facts.id for facts in page if facts.source == f"t{who}"]
        await catalog.remove_document(app, mine[0])


async def _fold_again_and_again(app: App, collection: int) -> None:
    pool = await app.pool("admin")
    for _ in range(30):
        async with pool.connection() as connection:
            await documents.fold_postings(connection, collection, most_left=0)


async def _read_again_and_again(app: App) -> None:
    for _ in range(20):
        found = await search_collections(app, query("hen gnu", "kb", k=5, method="lexical"))
        assert len(found.hits) == 5


async def test_writers_readers_and_folds_at_once_stay_exact_and_never_deadlock(
    app: App, db: Db
) -> None:
    await ingest.ingest_texts(app, [_text(n, 0) for n in range(80)], "kb")
    collection = await db.fetchval("select id from collection")
    async with asyncio.TaskGroup() as group:
        for who in range(4):
            group.create_task(_rewrite(app, who))
            group.create_task(_read_again_and_again(app))
        group.create_task(_fold_again_and_again(app, collection))
    await contents.check(db)
    sql = "select deadlocks from pg_stat_database where datname = current_database()"
    assert await db.fetchval(sql) == 0


async def test_writers_outlive_the_removal_of_another_collection(app: App) -> None:
    """Dropping a table of vectors locks what every removed chunk looks into."""
    await ingest.ingest_texts(app, [_text(n, 0) for n in range(20)], "kb")

    async def write(who: int) -> None:
        for turn in range(12):
            await ingest.ingest_texts(app, [_text(n, turn) for n in range(who, 20, 4)], "kb")

    async def remove() -> None:
        for turn in range(12):
            await ingest.ingest_texts(app, [_text(n, turn) for n in range(3)], "other")
            await catalog.remove_collection(app, "other")

    async with asyncio.TaskGroup() as group:
        for who in range(4):
            group.create_task(write(who))
        group.create_task(remove())
    assert (await app.collection("kb", fresh=True)).documents == 20

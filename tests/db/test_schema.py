"""What the schema promises, tried from SQL: constraints, postings, epochs, comments, privileges."""

# ruff: noqa: S608 -- the names and numbers in these statements are the tests' own

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from conftest import connect
from contents import POSTINGS
from lock_waits import waits
from ragline.core.dsn import Dsn
from ragline.rag import catalog, ingest
from ragline.rag.app import App
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
BODY = "ant bee cat"
HASH = b"h" * 32
Refused = asyncpg.CheckViolationError
SPACE: Mapping[str, object] = {
    "model": "m",
    "weights": "w",
    "dimension": 3,
    "metric": "cosine",
    "storage": "vector",
    "normalised": True,
    "languages": [],
    "indexed": False,
}


@pytest.fixture(scope="module")
async def shared(template: Dsn) -> AsyncIterator[Db]:
    """One database for all tests that need no commit."""
    async with own_database(template) as dsn:
        connection = await connect(dsn)
        yield connection
        await connection.close()


@pytest.fixture
async def db(shared: Db) -> AsyncIterator[Db]:
    """A superuser's connection in a transaction that is rolled back."""
    transaction = shared.transaction()
    await transaction.start()
    yield shared
    await transaction.rollback()


@pytest.fixture
async def kb(db: Db) -> int:
    return await collection(db, "kb")


@pytest.fixture
async def own(own_dsn: Dsn) -> AsyncIterator[Db]:
    """A superuser's connection to a database of the test alone, for tests that commit."""
    connection = await connect(own_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def own_kb(own: Db) -> int:
    return await collection(own, "kb")


@pytest.fixture
async def second(own_dsn: Dsn) -> AsyncIterator[Db]:
    connection = await connect(own_dsn)
    yield connection
    await connection.close()


async def collection(db: Db, name: str, *, size: int = 256, overlap: int = 32) -> int:
    sql = (
        "insert into collection (name, chunk_size, chunk_overlap) values ($1, $2, $3) returning id"
    )
    id_: int = await db.fetchval(sql, name, size, overlap)
    return id_


async def document(db: Db, collection_id: int, **given: object) -> int:
    columns: dict[str, object] = {
        "collection_id": collection_id,
        "source": "s",
        "media_type": "text/plain",
        "body": BODY,
        "content_hash": HASH,
        "recipe": "r",
    } | given
    return await _insert(db, "document", columns)


async def chunk(db: Db, document_id: int, **given: object) -> int:
    of = await db.fetchrow(
        "select collection_id, characters from document where id = $1", document_id
    )
    assert of is not None
    columns: dict[str, object] = {
        "collection_id": of["collection_id"],
        "document_id": document_id,
        "document_characters": of["characters"],
        "ordinal": 0,
        "start_char": 0,
        "end_char": 3,
        "body": "ant",
        "tokens": 1,
        "term_ids": [1, 2],
        "frequencies": bytes([1, 2]),
        "length": 3,
    } | given
    return await _insert(db, "chunk", columns)


async def space(db: Db, collection_id: int, **given: object) -> int:
    values = {"collection": collection_id, **SPACE, **given}
    names = ", ".join(f"{name} => ${n}" for n, name in enumerate(values, start=1))
    id_: int = await db.fetchval(f"select create_space({names})", *values.values())
    return id_


async def _insert(db: Db, table: str, columns: Mapping[str, object]) -> int:
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    sql = f"insert into {table} ({', '.join(columns)}) values ({places}) returning id"
    id_: int = await db.fetchval(sql, *columns.values())
    return id_


async def statistics(db: Db, collection_id: int) -> tuple[set[tuple[Any, ...]], Any, Any]:
    """Postings, documents per term and sizes, as searches see them."""
    postings = await db.fetch(
        f"select term_id, chunk_id from ({POSTINGS}) as posting where collection_id = $1",
        collection_id,
    )
    terms = await db.fetch(
        """
        select term_id, sum(n) from (
            select collection_id, term_id, chunks as n from term_statistic
            union all
            select collection_id, unnest(term_ids), 1 from fresh_chunk
            union all
            select collection_id, unnest(term_ids), -1 from dead_chunk
        ) as counted
        where collection_id = $1 group by 1 having sum(n) <> 0
        """,
        collection_id,
    )
    sizes = await db.fetchrow(
        "select coalesce(sum(chunks), 0), coalesce(sum(tokens), 0) from collection_statistic "
        "where collection_id = $1",
        collection_id,
    )
    assert sizes is not None
    return {tuple(row) for row in postings}, {row[0]: row[1] for row in terms}, tuple(sizes)


async def derived(db: Db, collection_id: int) -> tuple[set[tuple[Any, ...]], Any, Any]:
    """The same, counted afresh from the chunks."""
    rows = await db.fetch("select * from chunk where collection_id = $1", collection_id)
    postings = {(term, row["id"]) for row in rows for term in row["term_ids"]}
    terms: dict[int, int] = {}
    for term, *_ in postings:
        terms[term] = terms.get(term, 0) + 1
    return postings, terms, (len(rows), sum(row["length"] for row in rows))


async def assert_statistics_follow(db: Db, collection_id: int) -> None:
    assert await statistics(db, collection_id) == await derived(db, collection_id)


@pytest.mark.parametrize(
    "name", ["", "-x", "_x", "a b", "a/b", "x" * 101, "a\nb", "a\n", ".hidden"]
)
async def test_collection_name_is_plain(db: Db, name: str) -> None:
    with pytest.raises(Refused, match="collection_name_is_plain"):
        await collection(db, name)


@pytest.mark.parametrize("name", ["a", "1", "größe", "知识库", "a.b-c_d", "x" * 100])
async def test_collection_name_may_be_of_any_language(db: Db, name: str) -> None:
    assert await collection(db, name)


@pytest.mark.parametrize(
    ("size", "overlap", "constraint"),
    [
        (15, 0, "chunk_size_in_range"),
        (4097, 0, "chunk_size_in_range"),
        (64, 33, "chunk_overlap_in_range"),
        (64, -1, "chunk_overlap_in_range"),
    ],
)
async def test_chunk_size_and_overlap_stay_in_range(
    db: Db, size: int, overlap: int, constraint: str
) -> None:
    with pytest.raises(Refused, match=constraint):
        await collection(db, "kb", size=size, overlap=overlap)


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"source": ""}, "source_fits_its_index"),
        ({"source": "é" * 1001}, "source_fits_its_index"),
        ({"body": ""}, "body_is_not_empty"),
        ({"content_hash": b"h" * 31}, "hash_is_sha256"),
        ({"content_hash": b""}, "hash_is_sha256"),
        ({"metadata": "[]"}, "metadata_is_object"),
        ({"metadata": "null"}, "metadata_is_object"),
        ({"metadata": '"text"'}, "metadata_is_object"),
    ],
)
async def test_document_is_refused(
    db: Db, kb: int, given: dict[str, object], constraint: str
) -> None:
    with pytest.raises(Refused, match=constraint):
        await document(db, kb, **given)


async def test_longest_source_fits_its_index(db: Db, kb: int) -> None:
    random = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(666))
    assert await document(db, kb, source=random + "ab")


async def test_source_is_unique_in_its_collection_only(db: Db, kb: int) -> None:
    await document(db, kb)
    await document(db, await collection(db, "other"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await document(db, kb)


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"start_char": -1, "end_char": 2}, "offsets_lie_in_document"),
        ({"start_char": 9, "end_char": 12}, "offsets_lie_in_document"),
        ({"start_char": 3, "end_char": 3, "body": ""}, "offsets_lie_in_document"),
        ({"start_char": 3, "end_char": 0}, "offsets_lie_in_document|body_is_as_long"),
        ({"body": "anteater"}, "body_is_as_long_as_its_offsets"),
        ({"body": "añ"}, "body_is_as_long_as_its_offsets"),
        ({"ordinal": -1}, "ordinal_counts_from_zero"),
        ({"tokens": 0}, "tokens_are_positive"),
        ({"frequencies": b"\x01"}, "each_term_has_a_frequency"),
        ({"frequencies": b"\x01\x00"}, "each_term_has_a_frequency"),
        ({"frequencies": b"\x01\x02\x03"}, "each_term_has_a_frequency"),
        ({"length": 1}, "each_term_has_a_frequency"),
    ],
)
async def test_chunk_is_refused(db: Db, kb: int, given: dict[str, object], constraint: str) -> None:
    with pytest.raises(Refused, match=constraint):
        await chunk(db, await document(db, kb), **given)


async def test_chunk_cannot_lie_about_the_length_of_its_document(db: Db, kb: int) -> None:
    id_ = await document(db, kb)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await chunk(db, id_, document_characters=1000, start_char=900, end_char=903)


async def test_chunk_cannot_be_in_another_collection_than_its_document(db: Db, kb: int) -> None:
    id_ = await document(db, kb)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await chunk(db, id_, collection_id=await collection(db, "other"))


async def test_document_cannot_shrink_below_its_chunks(own: Db, own_kb: int) -> None:
    id_ = await document(own, own_kb)
    await chunk(own, id_)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await own.execute("update document set body = 'a' where id = $1", id_)
    with pytest.raises(Refused, match="offsets_lie_in_document"):
        await own.execute("update chunk set start_char = 10, end_char = 13")


async def test_a_term_cannot_stand_twice_in_a_chunk(db: Db, kb: int) -> None:
    with pytest.raises(Refused, match="each_term_stands_once"):
        await chunk(db, await document(db, kb), term_ids=[1, 1])


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ("[0,0,0]", Refused),
        ("[NaN,0,0]", asyncpg.DataError),
        ("[Infinity,0,0]", asyncpg.DataError),
        ("[1,0]", asyncpg.DataError),
        ("[1,0,0,0]", asyncpg.DataError),
    ],
)
async def test_vector_that_cannot_be_searched_is_refused(
    db: Db, kb: int, storage: str, metric: str, vector: str, error: type[Exception]
) -> None:
    id_ = await space(db, kb, storage=storage, metric=metric)
    chunk_id = await chunk(db, await document(db, kb))
    with pytest.raises(error):
        await db.execute(f"insert into embedding_{id_} values ({chunk_id}, '{vector}')")


@pytest.mark.parametrize("number", ["1e-30", "1e30"])
async def test_vector_whose_cosine_distance_is_not_a_number_is_refused(
    db: Db, kb: int, number: str
) -> None:
    id_ = await space(db, kb)
    chunk_id = await chunk(db, await document(db, kb))
    with pytest.raises(Refused, match="vector_has_a_direction"):
        await db.execute(f"insert into embedding_{id_} values ({chunk_id}, '[{number},0,0]')")


async def test_vector_needs_its_chunk(db: Db, kb: int) -> None:
    id_ = await space(db, kb)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await db.execute(f"insert into embedding_{id_} values (1, '[1,0,0]')")


@pytest.mark.parametrize(
    "given",
    [
        {"storage": "bit"},
        {"storage": "vector(3)); drop table chunk; --"},
        {"metric": "hamming"},
        {"metric": "cosine_ops"},
        {"dimension": 0},
        {"dimension": -1},
        {"dimension": 16001},
        {"dimension": 2_000_000_000},
        {"model": ""},
        {"weights": ""},
    ],
)
async def test_silly_space_is_refused_and_leaves_nothing(
    own: Db, own_kb: int, given: dict[str, object]
) -> None:
    with pytest.raises(Refused):
        await space(own, own_kb, **given)
    assert await own.fetchval("select count(*) from embedding_space") == 0
    assert await _space_tables(own) == []


@pytest.mark.parametrize("missing", [*SPACE, "collection"])
async def test_space_with_a_missing_value_is_refused(db: Db, kb: int, missing: str) -> None:
    if missing == "indexed":
        assert await space(db, kb, indexed=None)
        return
    with pytest.raises(asyncpg.NotNullViolationError):
        await space(db, kb, **{missing: None})


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
@pytest.mark.parametrize("dimension", [1, 2000, 2001, 4000, 4001, 16000])
async def test_space_of_any_dimension_takes_vectors_and_an_index_where_one_can_hold_it(
    db: Db, kb: int, storage: str, dimension: int
) -> None:
    id_ = await space(db, kb, storage=storage, dimension=dimension, indexed=True)
    chunk_id = await chunk(db, await document(db, kb))
    await db.execute(
        f"insert into embedding_{id_} select $1, array_agg(sqrt(n)::real)::{storage} "
        "from generate_series(1, $2::int) n",
        chunk_id,
        dimension,
    )
    index = await db.fetchval(f"select to_regclass('embedding_{id_}_hnsw')::text")
    assert (index is not None) == (dimension <= 4000)


async def test_active_space_is_one_of_the_collection(own: Db, own_kb: int) -> None:
    foreign = await space(own, await collection(own, "other"))
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await own.execute(
            "update collection set active_space_id = $1 where id = $2", foreign, own_kb
        )


async def test_space_in_use_cannot_be_removed(own: Db, own_kb: int) -> None:
    id_ = await space(own, own_kb)
    await own.execute("update collection set active_space_id = $1 where id = $2", id_, own_kb)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await own.execute("delete from embedding_space where id = $1", id_)
    assert await _space_tables(own) == [f"embedding_{id_}"]


async def test_postings_follow_every_kind_of_write(db: Db, kb: int) -> None:
    one = await document(db, kb, source="one")
    two = await document(db, kb, source="two")
    await chunk(db, one)
    await chunk(db, one, ordinal=1, term_ids=[2, 3], frequencies=b"\x07\x01", length=8)
    await chunk(db, two, term_ids=[], frequencies=b"", length=0)
    await assert_statistics_follow(db, kb)

    await db.execute("update chunk set term_ids = '{3,4}', frequencies = '\\x0101', length = 2")
    await assert_statistics_follow(db, kb)

    await db.execute("update chunk set id = default where ordinal = 1")
    await assert_statistics_follow(db, kb)

    await db.execute("update chunk set headings = '{a}'")
    await assert_statistics_follow(db, kb)

    await db.execute("delete from chunk where ordinal = 1")
    await assert_statistics_follow(db, kb)

    await db.execute("delete from document where id = $1", one)
    await assert_statistics_follow(db, kb)
    assert (await statistics(db, kb))[2] == (1, 2)


async def test_postings_follow_an_upsert(db: Db, kb: int) -> None:
    await chunk(db, await document(db, kb))
    await db.execute(
        """
        insert into chunk select (jsonb_populate_record(c, '{"length": 30}')).* from chunk c
        on conflict (id) do nothing
        """.replace("insert into chunk", "insert into chunk overriding system value")
    )
    await db.execute(
        """
        insert into chunk overriding system value select c.* from chunk c
        on conflict (document_id, ordinal) do update set length = 40
        """
    )
    await assert_statistics_follow(db, kb)
    assert (await statistics(db, kb))[2] == (1, 40)


async def test_rolled_back_writes_leave_no_postings(own: Db, own_kb: int) -> None:
    await chunk(own, await document(own, own_kb))
    before = await statistics(own, own_kb)
    transaction = own.transaction()
    await transaction.start()
    await chunk(own, await document(own, own_kb, source="more"))
    await own.execute("update chunk set length = 99")
    await own.execute("delete from document where source = 's'")
    await transaction.rollback()

    assert await statistics(own, own_kb) == before
    await assert_statistics_follow(own, own_kb)


async def test_folding_changes_no_sum(db: Db, kb: int) -> None:
    for n in range(12):
        await chunk(db, await document(db, kb, source=f"s{n}"))
    await db.execute("delete from document where source in ('s1', 's2')")
    before = await statistics(db, kb)

    assert await db.fetchval("select fold_postings($1, 100)", kb) == 10

    assert await statistics(db, kb) == before
    assert await db.fetchval("select count(*) from term_statistic") == 2
    assert await db.fetchval("select count(*) from collection_statistic") == 1
    assert await db.fetchval("select fold_postings($1, 100)", kb) == 0


async def test_two_folds_and_a_writer_at_once_lose_nothing(
    own: Db, second: Db, own_kb: int
) -> None:
    for n in range(5):
        await chunk(own, await document(own, own_kb, source=f"s{n}"))
    async with second.transaction():
        await second.fetchval("select fold_postings($1, 100)", own_kb)
        await chunk(own, await document(own, own_kb, source="meanwhile"))
    await own.fetchval("select fold_postings($1, 100)", own_kb)

    await assert_statistics_follow(own, own_kb)


async def test_removed_collection_leaves_no_row_and_no_table(
    app: App, own: Db, tmp_path: Path
) -> None:
    kept = [ingest.Text(source="k", text="kept words")]
    await ingest.ingest_texts(app, kept, "kept")
    before = await _rows_per_table(own)
    texts = [ingest.Text(source=f"s{n}", text=f"ant bee {n} cat. " * 40) for n in range(5)]
    await ingest.ingest_texts(app, texts, "gone")
    gone = await own.fetchval("select id from collection where name = 'gone'")
    await space(own, gone)
    assert len(await _space_tables(own)) == 3

    await catalog.remove_collection(app, "gone")

    after = await _rows_per_table(own)
    # The dictionary is shared by all collections, and unused entries do no harm.
    before.pop("term"), after.pop("term")
    assert after == before
    assert len(await _space_tables(own)) == 1


async def test_removing_one_collection_keeps_the_statistics_of_others(db: Db, kb: int) -> None:
    other = await collection(db, "other")
    await chunk(db, await document(db, kb))
    await chunk(db, await document(db, other))
    await db.execute("delete from collection where id = $1", kb)

    assert await statistics(db, kb) == (set(), {}, (0, 0))
    await assert_statistics_follow(db, other)
    assert (await statistics(db, other))[2] == (1, 3)


@pytest.mark.parametrize(
    "meanwhile",
    ["delete from chunk", "select fold_postings(1, 9)", "update chunk set length = 9"],
)
async def test_collection_removed_beside_a_writer_leaves_no_statistics(
    own: Db, second: Db, own_kb: int, meanwhile: str
) -> None:
    assert own_kb == 1
    await chunk(own, await document(own, own_kb))
    async with second.transaction():
        await second.execute(meanwhile)
        removal = asyncio.create_task(own.execute("delete from collection"))
        assert await waits(removal, second)
    await removal

    assert await statistics(own, own_kb) == (set(), {}, (0, 0))
    assert await own.fetchval("select count(*) from collection_statistic") == 0


async def test_epoch_is_raised_once_for_each_changed_document(own: Db, own_kb: int) -> None:
    async with own.transaction():
        await chunk(own, await document(own, own_kb, source="one"))
    assert await _epoch(own, own_kb) == 1
    async with own.transaction():
        await document(own, own_kb, source="two")
        await document(own, own_kb, source="three")
        assert await _epoch(own, own_kb) == 1
    assert await _epoch(own, own_kb) == 3

    await own.execute("update document set title = 't'")
    assert await _epoch(own, own_kb) == 6

    await own.execute("delete from document where source = 'one'")
    assert await _epoch(own, own_kb) == 7


@pytest.mark.parametrize(
    "change",
    [
        "update chunk set body = 'bee' where ordinal = 0",
        "update chunk set ordinal = ordinal + 5",
        "delete from chunk where ordinal = 1",
        """
        insert into chunk overriding system value
        select (jsonb_populate_record(c, '{"id": 99, "ordinal": 7}')).*
        from chunk c where ordinal = 1
        """,
    ],
)
async def test_chunks_changed_apart_from_their_document_raise_the_epoch(
    own: Db, own_kb: int, change: str
) -> None:
    id_ = await document(own, own_kb)
    await chunk(own, id_)
    await chunk(own, id_, ordinal=1)
    before = await _epoch(own, own_kb)
    await own.execute(change)
    assert await _epoch(own, own_kb) > before


async def test_epoch_says_in_its_comment_when_it_is_raised(db: Db) -> None:
    comment = await db.fetchval(
        "select col_description('collection'::regclass, attnum) from pg_attribute "
        "where attrelid = 'collection'::regclass and attname = 'epoch'"
    )
    assert comment == (
        "Raised in every transaction that changes the content, at least once for each changed "
        "document; never lowered."
    )


async def test_epoch_is_not_raised_by_a_rollback(own: Db, own_kb: int) -> None:
    transaction = own.transaction()
    await transaction.start()
    await document(own, own_kb)
    await transaction.rollback()
    assert await _epoch(own, own_kb) == 0


async def test_epoch_of_both_collections_is_raised_by_a_move(own: Db, own_kb: int) -> None:
    await document(own, own_kb)
    other = await collection(own, "other")
    await own.execute("update document set collection_id = $1", other)
    assert (await _epoch(own, own_kb), await _epoch(own, other)) == (2, 1)


async def test_two_writers_of_one_collection_do_not_wait_before_their_commit(
    own: Db, second: Db, own_kb: int
) -> None:
    await second.execute("set lock_timeout = '500ms'")
    async with own.transaction():
        await chunk(own, await document(own, own_kb, source="one"))
        async with second.transaction():
            await chunk(second, await document(second, own_kb, source="two"))
    assert await _epoch(own, own_kb) == 2
    await assert_statistics_follow(own, own_kb)


@pytest.mark.parametrize("table", ["chunk", "document", "collection"])
async def test_truncate_is_refused(own: Db, own_kb: int, table: str) -> None:
    await chunk(own, await document(own, own_kb))
    with pytest.raises(asyncpg.RaiseError, match="truncating"):
        await own.execute(f"truncate {table} cascade")
    await assert_statistics_follow(own, own_kb)


async def test_every_table_and_column_has_a_comment(db: Db, kb: int) -> None:
    await space(db, kb)
    await space(db, kb, storage="halfvec")
    bare = await db.fetch(
        """
        select c.relname, a.attname
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum >= 0 and not a.attisdropped
        where c.relnamespace = 'ragline'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
          and coalesce(col_description(c.oid, a.attnum), '') = ''
        union all
        select c.relname, null from pg_class c
        where c.relnamespace = 'ragline'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
          and coalesce(obj_description(c.oid, 'pg_class'), '') = ''
        """
    )
    assert [tuple(row) for row in bare] == []


async def test_no_function_may_be_called_by_everybody(db: Db) -> None:
    rows = await db.fetch(
        """
        select p.proname from pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
        where pronamespace = 'ragline'::regnamespace and a.grantee = 0
        """
    )
    assert [row[0] for row in rows] == []


async def test_functions_that_run_as_the_owner_pin_their_search_path(db: Db) -> None:
    rows = await db.fetch(
        """
        select proname, prosecdef, proconfig, proowner::regrole::text as owner from pg_proc
        where pronamespace = 'ragline'::regnamespace
        """
    )
    assert {row["proname"] for row in rows if row["prosecdef"]} >= {"create_space", "raise_epoch"}
    for row in rows:
        assert "search_path=pg_catalog, pg_temp" in row["proconfig"], row["proname"]
        assert row["owner"] == "ragline_owner"


async def test_everything_in_the_schema_belongs_to_the_owner(db: Db, kb: int) -> None:
    await space(db, kb)
    owners = await db.fetch(
        "select distinct relowner::regrole::text from pg_class "
        "where relnamespace = 'ragline'::regnamespace"
    )
    assert [row[0] for row in owners] == ["ragline_owner"]


async def _epoch(db: Db, collection_id: int) -> int:
    sql = "select epoch from collection where id = $1"
    epoch: int = await db.fetchval(sql, collection_id)
    return epoch


async def _space_tables(db: Db) -> list[str]:
    rows = await db.fetch(
        r"select tablename from pg_tables where schemaname = 'ragline' and tablename ~ '^embedding_\d'"
    )
    return sorted(row[0] for row in rows)


async def _rows_per_table(db: Db) -> dict[str, int]:
    rows = await db.fetch("select tablename from pg_tables where schemaname = 'ragline'")
    return {row[0]: await db.fetchval(f'select count(*) from "{row[0]}"') for row in rows}

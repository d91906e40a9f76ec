"""Search on a real database: BM25 against an independent implementation, fusion, settings."""

from __future__ import annotations

import random
from pathlib import Path

import asyncpg
import bm25s
import numpy as np
import pytest

from conftest import opened
from contents import POSTINGS
from ragline.core import lexical
from ragline.core.dsn import Dsn
from ragline.core.fusion import combined
from ragline.core.results import Method, SearchResult
from ragline.db import documents, own_words, search, statements, targets
from ragline.errors import ModelError, NotFound, UsageError
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import catalog, ingest
from ragline.rag.app import App
from ragline.rag.compose import passage
from ragline.rag.search import query, search_collections

WORDS = tuple(
    "ant bee cat dog eel fox gnu hen ibis jay kite lynx mole newt owl pig quail rat".split(" ")
)


def _texts(count: int, seed: int = 1) -> list[ingest.Text]:
    """Short texts whose words are Zipf-like: some common, some rare."""
    random_ = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(WORDS) + 1)]
    return [
        ingest.Text(source=f"t{n}", text=" ".join(random_.choices(WORDS, weights, k=6 + n % 9)))
        for n in range(count)
    ]


async def _bodies(db: asyncpg.Connection[asyncpg.Record]) -> dict[int, str]:
    rows = await db.fetch(
        "select c.id, d.title, c.headings, c.body from chunk c join document d on d.id = document_id"
    )
    return {row["id"]: passage(row["title"], row["headings"], row["body"]) for row in rows}


def _independent_scores(bodies: dict[int, str], question: str) -> dict[int, float]:
    """BM25 as the library bm25s computes it (Lucene's form), times k1 + 1 as Robertson has it."""
    ids = list(bodies)
    corpus = [lexical.terms(bodies[id_], "english") for id_ in ids]
    oracle = bm25s.BM25(k1=targets.BM25_K1, b=targets.BM25_B, method="lucene")
    oracle.index(corpus, show_progress=False)
    asked = [t for t in lexical.terms(question, "english") if t in oracle.vocab_dict]
    if not asked:
        return {}
    scores = oracle.get_scores(asked) * (targets.BM25_K1 + 1)
    return {id_: float(s) for id_, s in zip(ids, scores, strict=True) if s > 0}


async def _assert_exact(app: App, db: asyncpg.Connection[asyncpg.Record]) -> None:
    bodies = await _bodies(db)
    for question in ("ant", "quail rat", "bee bee owl", "cat fox gnu hen", "unheard-of"):
        result = await search_collections(app, query(question, "kb", k=1000, method="lexical"))
        found = {hit.chunk_id: hit.lexical_score for hit in result.hits}
        assert found == pytest.approx(_independent_scores(bodies, question), rel=1e-5)
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)


async def test_bm25_is_exact_after_every_insert_change_and_delete(
    app: App, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await ingest.ingest_texts(app, _texts(60), "kb")
    await _assert_exact(app, db)

    await ingest.ingest_texts(app, _texts(90, seed=2)[30:], "kb")
    await _assert_exact(app, db)

    for row in await db.fetch("select id from document order by id limit 40"):
        await catalog.remove_document(app, row["id"])
    await _assert_exact(app, db)

    await db.execute("update chunk set body = body where ordinal = 0")
    await _assert_exact(app, db)


async def test_folding_changes_no_score(app: App, db: asyncpg.Connection[asyncpg.Record]) -> None:
    for text in _texts(30):
        await ingest.ingest_texts(app, [text], "kb")
    collection = await db.fetchval("select id from collection")
    pool = await app.pool("admin")
    for folded in (30, 0):
        async with pool.connection() as connection:
            moved = await documents.fold_postings(connection, collection, most_left=0)
        assert moved == folded
        assert await db.fetchval("select count(*) from fresh_chunk") == 0
        assert await db.fetchval("select count(*) from collection_statistic") == 1
        await _assert_exact(app, db)

    await ingest.ingest_texts(app, _texts(20, seed=9), "kb")
    assert await db.fetchval("select count(*) from dead_chunk") == 20
    await _assert_exact(app, db)


async def test_beyond_its_budget_a_search_is_close_and_exact_on_request(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ingest.ingest_texts(app, _texts(600), "kb")
    whole = await search_collections(app, query("ant bee cat", "kb", method="lexical"))
    monkeypatch.setattr(own_words, "LEXICAL_BUDGET", 500)
    monkeypatch.setattr(own_words, "LEXICAL_WEIGHED", 20)
    statements.statement.cache_clear()
    try:
        ours = await search_collections(app, query("ant bee cat", "kb", method="lexical"))
        exact = await search_collections(
            app, query("ant bee cat", "kb", method="lexical", exact=True)
        )
    finally:
        statements.statement.cache_clear()
    assert [hit.score for hit in exact.hits] == [hit.score for hit in whole.hits]
    assert exact.used[0].is_exact
    assert not ours.used[0].is_exact
    assert len(ours.hits) == 10
    assert ours.hits[-1].score > 0.8 * exact.hits[-1].score


async def test_a_rolled_back_document_leaves_no_trace_in_postings_or_statistics(
    app: App, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await ingest.ingest_texts(app, _texts(10), "kb")
    before = await db.fetch(f"{POSTINGS} order by 1, 2, 3")
    counts = await db.fetchval("select sum(chunks) from collection_statistic")
    transaction = db.transaction()
    await transaction.start()
    await db.execute("delete from document")
    assert await db.fetch(POSTINGS) == []
    assert await db.fetchval("select sum(chunks) from collection_statistic") == 0
    await transaction.rollback()
    assert await db.fetch(f"{POSTINGS} order by 1, 2, 3") == before
    assert await db.fetchval("select sum(chunks) from collection_statistic") == counts


async def test_hybrid_scores_are_the_shares_of_both_halves_combined(app: App) -> None:
    await ingest.ingest_texts(app, _texts(80), "kb")
    for question in ("ant owl", "quail", "lynx mole newt"):
        halves: dict[Method, SearchResult] = {
            method: await search_collections(app, query(question, "kb", k=100, method=method))
            for method in ("vector", "lexical")
        }
        hybrid = await search_collections(app, query(question, "kb", k=20))
        vector = {hit.chunk_id: hit for hit in halves["vector"].hits}
        words = {hit.chunk_id: hit for hit in halves["lexical"].hits}
        nearest, best_bm25 = (halves[m].hits[0].score for m in ("vector", "lexical"))
        expected = {
            id_: combined(
                max(vector[id_].score, 0) / nearest if id_ in vector else None,
                words[id_].score / best_bm25 if id_ in words else None,
            )
            for id_ in vector | words
        }
        assert len(hybrid.hits) == 20
        for hit in hybrid.hits:
            near, worded = vector.get(hit.chunk_id), words.get(hit.chunk_id)
            assert hit.vector_rank == (near and near.vector_rank)
            assert hit.lexical_rank == (worded and worded.lexical_rank)
            assert hit.score == pytest.approx(expected[hit.chunk_id], rel=1e-5)
        best = sorted(expected.values(), reverse=True)[:20]
        assert [hit.score for hit in hybrid.hits] == pytest.approx(best, rel=1e-5)


async def test_hits_carry_the_text_that_stands_at_their_offsets(
    app: App, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await ingest.ingest_texts(app, _texts(20), "kb")
    for hit in (await search_collections(app, query("ant", "kb"))).hits:
        body = await db.fetchval("select body from document where id = $1", hit.document_id)
        assert body[hit.start : hit.end] == hit.body


async def _indexed(app: App, db: asyncpg.Connection[asyncpg.Record], count: int = 600) -> None:
    await ingest.ingest_texts(app, _texts(count), "kb")
    space = await db.fetchval("select active_space_id from collection")
    assert await db.fetchval(
        "select indisvalid from pg_index where indexrelid = $1::regclass",
        f"ragline.embedding_{space}_hnsw",
    )


async def test_ef_search_of_one_query_never_reaches_the_next(
    app: App, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await _indexed(app, db)
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        before = await connection.fetchval("show hnsw.ef_search")
    for ef_search in (7, 333, None):
        await search_collections(app, query("ant", "kb", k=3, ef_search=ef_search))
        async with pool.connection() as connection:
            assert await connection.fetchval("show hnsw.ef_search") == before
            assert await connection.fetchval("show hnsw.iterative_scan") == "off"


async def test_ef_search_has_its_effect_inside_the_statement(
    app: App, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await _indexed(app, db)
    facts = await app.collection("kb", fresh=True)
    assert facts.space
    target = search.Target(
        collection="kb",
        collection_id=facts.id,
        space_id=facts.space.id,
        dimension=facts.space.dimension,
    )
    vector = await FakeEmbedder().embed_query("ant owl rat")
    pool = await app.pool("serve")
    reads = []
    async with pool.connection() as connection:
        for ef_search in (1, 400):
            ask = search.Ask(k=1, candidates=1, ef_search=ef_search, vector=vector)
            async with connection.transaction():
                await connection.execute("set local enable_seqscan = off")
                sql = statements.statement(target, "vector", 1, 1, is_iterative=False)
                plan = await connection.fetchval(
                    f"explain (analyze, buffers, format json) {sql}", *search.values("vector", ask)
                )
            assert f"embedding_{facts.space.id}_hnsw" in plan
            reads.append(_buffers(plan))
    assert reads[1] > 2 * reads[0]


def _buffers(plan: str) -> int:
    import json

    return int(json.loads(plan)[0]["Plan"]["Shared Hit Blocks"])


async def test_deleted_rows_do_not_eat_up_the_candidates(
    app: App, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await _indexed(app, db)
    await db.execute("alter table embedding_1 set (autovacuum_enabled = off)")
    await db.execute(
        "delete from document where id in (select id from document order by id limit 500)"
    )
    found = await search_collections(app, query("ant", "kb", k=50, method="vector"))
    assert len(found.hits) == 50
    assert not found.warnings


async def test_fewer_hits_than_asked_for_while_more_match_is_a_warning_and_a_counter(
    app: App, db: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    await _indexed(app, db)
    monkeypatch.setattr(
        statements, "statement", lambda *a, **b: _original(*a, **b).replace("strict_order", "off")
    )
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        await connection.execute("set enable_seqscan = off")
    found = await search_collections(app, query("ant", "kb", k=50, method="vector", ef_search=5))
    assert len(found.hits) < 50
    assert any("more match" in warning for warning in found.warnings)
    assert app.counters["search_short_results"] == 1


_original = statements.statement


async def test_no_more_matching_is_not_a_warning(app: App) -> None:
    await ingest.ingest_texts(app, _texts(3), "kb")
    found = await search_collections(app, query("ant", "kb", k=10))
    assert len(found.hits) == 3
    assert not found.warnings


async def test_several_collections_are_fused_into_one_list(app: App) -> None:
    await ingest.ingest_texts(app, _texts(30, seed=3), "one")
    await ingest.ingest_texts(app, _texts(30, seed=4), "two")
    for method in ("hybrid", "vector", "lexical"):
        found = await search_collections(app, query("ant owl", ["one", "two"], method=method))
        assert len(found.hits) == 10
        assert {hit.collection for hit in found.hits} == {"one", "two"}
        alone = await search_collections(app, query("ant owl", "one", method=method))
        ours = [hit.chunk_id for hit in found.hits if hit.collection == "one"]
        assert ours == [hit.chunk_id for hit in alone.hits][: len(ours)]


async def test_without_a_model_hybrid_goes_by_words_and_says_so(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, None) as app:
        report = await ingest.ingest_texts(app, _texts(5), "kb")
        assert "no vectors" in report.warnings[0]
        found = await search_collections(app, query("ant", "kb"))
        assert found.hits
        assert "by words alone" in found.warnings[0]
        with pytest.raises(ModelError, match="vector search is not possible"):
            await search_collections(app, query("ant", "kb", method="vector"))


async def test_a_model_that_comes_later_fills_in_the_missing_vectors(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, None) as app:
        await ingest.ingest_texts(app, _texts(7), "kb")
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        report = await ingest.ingest_texts(app, _texts(7), "kb")
        assert (report.unchanged, report.embedded) == (7, 7)
        found = await search_collections(app, query("ant", "kb", method="vector"))
        assert len(found.hits) == 7


async def test_vectors_of_two_models_never_mix(own_dsn: Dsn, tmp_path: Path) -> None:
    async with opened(own_dsn, tmp_path, FakeEmbedder(64)) as app:
        await ingest.ingest_texts(app, _texts(5), "kb")
    async with opened(own_dsn, tmp_path, FakeEmbedder(65)) as app:
        with pytest.raises(ModelError, match=r"fake-64.*fake-65"):
            await search_collections(app, query("ant", "kb"))
        with pytest.raises(ModelError, match="never mix"):
            await ingest.ingest_texts(app, _texts(6), "kb")
        assert (await search_collections(app, query("ant", "kb", method="lexical"))).hits


@pytest.mark.parametrize(
    ("question", "changes", "says"),  # says: a regular expression
    [
        ("", {}, "empty"),
        (" \n", {}, "empty"),
        ("ant", {"k": 0}, "k is 0"),
        ("ant", {"k": 1001}, "k is 1001"),
        ("ant", {"ef_search": 0}, "ef_search is 0"),
        ("ant", {"ef_search": 1001}, "ef_search is 1001"),
        ("ant", {"method": "best"}, r"'best' is not one of"),
        ("ant\x00", {}, "NUL"),
        ("ant\ud800", {}, "surrogate"),
        ("x" * 10_001, {}, "10,001 characters"),
        ("ant", {"vector": [1.0, 2.0]}, "dimension 64"),
    ],
)
async def test_what_cannot_be_searched_is_refused_with_a_sentence(
    app: App, question: str, changes: dict[str, object], says: str
) -> None:
    await ingest.ingest_texts(app, _texts(1), "kb")
    with pytest.raises(UsageError, match=says):
        await search_collections(app, query(question, "kb", **changes))  # type: ignore[arg-type]


async def test_an_unknown_collection_names_those_that_exist(app: App) -> None:
    await ingest.ingest_texts(app, _texts(1), "kb")
    with pytest.raises(NotFound, match="'bk' does not exist; there are: kb"):
        await search_collections(app, query("ant", "bk"))


async def test_a_collection_made_anew_under_its_name_is_found_at_once(
    own_dsn: Dsn, tmp_path: Path, app: App
) -> None:
    await ingest.ingest_texts(app, _texts(5), "kb")
    assert (await search_collections(app, query("ant", "kb"))).hits
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as other:
        await catalog.remove_collection(other, "kb")
        await ingest.ingest_texts(other, _texts(4), "kb")
    found = await search_collections(app, query("ant", "kb"))
    assert len(found.hits) == 4


async def test_vectors_that_another_process_added_are_used_at_once(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, None) as other:
        await ingest.ingest_texts(other, _texts(5), "kb")
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        assert (await search_collections(app, query("ant", "kb"))).used[0].method == "lexical"
        async with opened(own_dsn, tmp_path, FakeEmbedder()) as other:
            await ingest.ingest_texts(other, _texts(5), "kb")
        for method in ("hybrid", "vector"):
            found = await search_collections(app, query("ant", "kb", method=method))
            assert found.used[0].method == method
            assert not found.warnings


async def test_a_collection_made_anew_with_our_model_is_searched_at_once(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with (
        opened(own_dsn, tmp_path, FakeEmbedder(64)) as app,
        opened(own_dsn, tmp_path, FakeEmbedder(65)) as other,
    ):
        await ingest.ingest_texts(other, _texts(5), "kb")
        with pytest.raises(ModelError):
            await search_collections(app, query("ant", "kb"))
        async with opened(own_dsn, tmp_path, FakeEmbedder(64)) as third:
            await catalog.remove_collection(third, "kb")
            await ingest.ingest_texts(third, _texts(5), "kb")
        assert (await search_collections(app, query("ant", "kb", method="vector"))).hits


@pytest.mark.parametrize("method", ["hybrid", "vector", "lexical"])
async def test_explain_shows_ranks_plan_and_milliseconds(app: App, method: Method) -> None:
    await ingest.ingest_texts(app, _texts(20), "kb")
    found = await search_collections(app, query("ant", "kb", method=method, explain=True))
    stages = found.timings_ms
    assert {"embed", "search", "fuse", "total", "kb.statement"} <= stages.keys()
    assert ("kb.vector" in stages) == (method != "lexical")
    assert ("kb.lexical" in stages) == (method != "vector")
    assert (found.used[0].vector_plan is None) == (method == "lexical")
    assert all(ms >= 0 for ms in stages.values())


@pytest.mark.parametrize(
    ("dimension", "storage"),
    [(3, "vector"), (1536, "vector"), (2500, "vector"), (4100, "vector"), (3000, "halfvec")],
)
async def test_any_dimension_can_be_stored_and_searched(
    app: App, db: asyncpg.Connection[asyncpg.Record], dimension: int, storage: str
) -> None:
    await ingest.ingest_texts(app, _texts(12), "kb")
    collection = await db.fetchval("select id from collection")
    space = await db.fetchval(
        "select create_space($1, 'm', 'h', $2, 'cosine', $3, true, '{}', true)",
        collection, dimension, storage,
    )  # fmt: skip
    rows = await db.fetch("select id from chunk order by id")
    generator = np.random.default_rng(7)
    vectors = generator.normal(size=(len(rows), dimension)).astype(np.float32)
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        await documents.add_vectors(connection, space, [r["id"] for r in rows], vectors)
    await db.execute("update collection set active_space_id = $1", space)
    for number in (0, 5, 11):
        found = await search_collections(
            app, query("", "kb", k=3, method="vector", vector=vectors[number])
        )
        assert found.hits[0].chunk_id == rows[number]["id"]
        assert found.hits[0].vector_distance == pytest.approx(0, abs=2e-3)

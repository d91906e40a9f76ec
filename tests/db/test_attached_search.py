"""Searches of attached tables: the application's rows as hits, found through its own indexes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attached as tables
import evaluated
from attached import BIGINT, HALVES, SHARED, UUID, Row, uuid_key
from conftest import opened
from ragline.core.attached import Attached
from ragline.core.cases import Case, Dataset, Relevant, content_hash
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked
from ragline.core.measuring import WAYS, named
from ragline.core.results import SearchResult
from ragline.core.runs import Settings
from ragline.db import datasets, relevance, samples, search, statements
from ragline.errors import (
    Conflict,
    ModelError,
    NotFound,
    PreconditionFailed,
    RaglineError,
    UsageError,
)
from ragline.evals import gate_questions
from ragline.evals.recall import recall
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag.answer import answer_question
from ragline.rag.app import App
from ragline.rag.search import plan_of, query, search_collections, target_of

Db = tables.Db
MODEL = FakeEmbedder(16)
MADE_AGAIN = """
    create table public.again (like notes); drop table notes;
    alter table public.again rename to notes; grant select on notes to ragline_serve
"""
WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx")


def rows(count: int, *, uuids: bool = False, seed: int = 5) -> list[Row]:
    generator = random.Random(seed)
    return [
        Row(
            key=uuid_key(n) if uuids else str(n),
            text=" ".join(generator.choices(WORDS, range(len(WORDS), 0, -1), k=6)) + f" n{n}",
            metadata={"number": n, "even": n % 2 == 0},
            lang=generator.choice(["en", "vi", None]),
            year=2000 + n % 25,
        )
        for n in range(1, count + 1)
    ]


async def made(
    db: Db, attached: Attached, some: list[Row], *, storage: str = "vector", **options: Any
) -> int:
    await tables.make(db, attached, MODEL.facts.dimension, storage=storage)
    await tables.fill(db, attached, some, MODEL, storage=storage)
    return await tables.attach(db, attached, MODEL, storage=storage, **options)


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> Any:
    async with opened(own_dsn, tmp_path, MODEL) as app:
        yield app


async def found(app: App, question: str = "ant fox", **options: Any) -> SearchResult:
    return await search_collections(app, query(question, "kb", **options))


async def nearest(question: str, some: list[Row], k: int) -> list[str]:
    """What a search by hand would find: keys by distance, ties by key."""
    asked = await MODEL.embed_query(question)
    vectors = (await MODEL.embed_documents([row.text or "" for row in some])).vectors
    distances = 1 - vectors @ asked
    order = sorted(range(len(some)), key=lambda n: (round(float(distances[n]), 5), n))
    return [some[n].key for n in order[:k]]


async def test_hits_are_the_rows_of_the_table(db: Db, app: App) -> None:
    some = rows(60)
    await made(db, BIGINT, some)
    result = await found(app, method="vector", k=5)
    assert [hit.source for hit in result.hits] == await nearest("ant fox", some, 5)
    hit = result.hits[0]
    row = some[int(hit.source) - 1]
    assert (hit.chunk_id, hit.document_id) == (-int(row.key), -int(row.key))
    assert (hit.body, hit.start, hit.end) == (row.text, 0, len(str(row.text)))
    assert (hit.title, hit.headings) == (None, ())
    assert hit.metadata == {**(row.metadata or {}), "lang": row.lang, "year": row.year}
    assert hit.score == pytest.approx(1 - (hit.vector_distance or 0))
    assert result.warnings == ()


@pytest.mark.parametrize(
    ("attached", "storage"),
    [(BIGINT, "vector"), (UUID, "vector"), (SHARED, "vector"), (HALVES, "halfvec")],
)
async def test_walking_the_index_finds_what_comparing_all_finds(
    db: Db, app: App, attached: Attached, storage: str
) -> None:
    # Of fewer halves the planner compares all: they lie in a few pages.
    some = rows(1500 if attached is HALVES else 400, uuids=attached is UUID)
    await made(db, attached, some, storage=storage)
    await tables.index(db, attached, 16, held=storage, storage=storage)
    walked = await found(app, method="vector", k=10, ef_search=400)
    exact = await found(app, method="vector", k=10, exact=True)
    distances = [[hit.vector_distance for hit in one.hits] for one in (walked, exact)]
    assert distances[0] == pytest.approx(distances[1], abs=1e-3)
    assert len({hit.chunk_id for hit in walked.hits}) == 10
    explained = await found(app, method="vector", k=10, explain=True)
    assert explained.used[0].vector_plan == "Index Scan by_vector"


async def test_a_search_reads_the_index_and_sorts_no_table(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(600))
    await tables.index(db, BIGINT, 16)
    facts = await app.collection("kb")
    target = target_of(facts)
    ask = search.Ask(k=10, candidates=40, ef_search=40, vector=await MODEL.embed_query("ant"))
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        plan = await search.explained(connection, target, "vector", ask)
    reads = [(n["Node Type"], n.get("Index Name")) for n in search._nodes(plan["Plan"])]
    assert ("Index Scan", "by_vector") in reads
    assert not any(
        n["Node Type"] == "Seq Scan" and n["Relation Name"] == "notes"
        for n in search._nodes(plan["Plan"])
    )
    sorted_rows = [
        n["Actual Rows"] for n in search._nodes(plan["Plan"]) if "Sort" in n["Node Type"]
    ]
    assert max(sorted_rows, default=0) <= 10


async def test_each_metric_is_searched_by_its_own_index(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(600))
    for metric, short in (("cosine", "cosine"), ("l2", "l2"), ("inner_product", "ip")):
        await db.execute("update embedding_space set metric = $1", metric)
        await db.execute("update collection set search_version = search_version + 1")
        await tables.index(db, BIGINT, 16, metric=short, name=f"by_{metric}")
        walked = await found(app, method="vector", ef_search=400, explain=True)
        exact = await found(app, method="vector", exact=True)
        assert walked.used[0].vector_plan == f"Index Scan by_{metric}"
        assert [hit.chunk_id for hit in walked.hits] == [hit.chunk_id for hit in exact.hits]


async def test_a_search_of_halves_walks_the_index_of_halves(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(300))
    await tables.index(db, BIGINT, 16, storage="halfvec")
    await db.execute("update space_index set storage = 'halfvec'")
    walked = await found(app, method="vector", explain=True)
    assert walked.used[0].vector_plan == "Index Scan by_vector"


async def test_an_index_on_trial_serves_trials_alone(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(600))
    await tables.index(db, BIGINT, 16, name="theirs")
    await tables.index(db, BIGINT, 16, slot=2, name="on_trial")
    facts = await app.collection("kb")
    vector = await MODEL.embed_query("ant")
    ask = search.Ask(k=5, candidates=20, ef_search=100, vector=vector)
    pool = await app.pool("serve")
    shapes = []
    async with pool.connection() as connection:
        for slot, name in ((1, "theirs"), (2, "on_trial")):
            target = replace(target_of(facts), slot=slot)
            plan = await search.explained(connection, target, "vector", ask)
            assert search.vector_access(plan) == f"Index Scan {name}"
            shapes.append(search.shape(plan))
    assert shapes[0] == shapes[1]


async def test_an_ivfflat_index_is_looked_into_far_enough(db: Db, app: App) -> None:
    some = rows(900)
    await made(db, BIGINT, some)
    await tables.index(db, BIGINT, 16, method="ivfflat", options="with (lists = 100)")
    walked = await found(app, method="vector", k=10, explain=True)
    assert walked.used[0].vector_plan == "Index Scan by_vector"
    assert len(walked.hits) == 10
    many = await found(app, method="vector", k=100)
    assert len(many.hits) == 100
    assert many.warnings == ()


async def test_rows_of_others_in_the_table_are_no_hits(db: Db, app: App) -> None:
    some = [replace(row, part="theirs" if n % 10 else "ours") for n, row in enumerate(rows(500))]
    await made(db, SHARED, some)
    await tables.index(db, SHARED, 16)
    ours = {row.key for row in some if row.part == "ours"}
    result = await found(app, method="vector", k=50)
    assert {hit.source for hit in result.hits} == ours
    assert result.warnings == ()
    few = await found(app, method="vector", k=10, ef_search=10)
    assert len(few.hits) == 10


async def test_rows_without_vector_or_text(db: Db, app: App) -> None:
    some = [
        replace(row, has_vector=n % 3 > 0, text=None if n % 4 == 0 else row.text)
        for n, row in enumerate(rows(30))
    ]
    await made(db, BIGINT, some)
    await db.execute("update notes set embedding = $1::text::vector where id = 2", str([0] * 16))
    for exact in (False, True):
        result = await found(app, method="vector", k=30, exact=exact)
        there = {r.key for r in some if r.has_vector} - {"2"}
        assert {hit.source for hit in result.hits} == there
        assert result.warnings == ()
        assert all(hit.body == "" for hit in result.hits if some[int(hit.source) - 1].text is None)


async def test_words_and_vectors_are_fused(db: Db, app: App) -> None:
    some = rows(300)
    await made(db, BIGINT, some)
    await tables.index(db, BIGINT, 16)
    await tables.index_words(db, BIGINT)
    by_words = await found(app, "where is the n77 lynx?", method="lexical", k=300)
    holding = {r.key for r in some if "lynx" in str(r.text) or str(r.text).endswith(" n77")}
    assert {hit.source for hit in by_words.hits} == holding
    assert [hit.lexical_rank for hit in by_words.hits] == list(range(1, len(holding) + 1))
    assert [hit.source for hit in (await found(app, "n77", method="lexical")).hits] == ["77"]
    both = await found(app, "where is n77?", method="hybrid", k=5, explain=True)
    (by_word,) = [hit for hit in both.hits if hit.lexical_rank]
    assert (by_word.source, by_word.lexical_rank) == ("77", 1)
    assert any(hit.vector_rank == 1 for hit in both.hits)
    assert both.warnings == ()
    assert {"kb.vector", "kb.lexical"} <= both.timings_ms.keys()
    assert (await found(app, "!! ??", method="lexical")).hits == ()


async def test_what_is_asked_is_never_syntax(db: Db, app: App) -> None:
    words = ["o'neil", "back\\slash", "a:*", "'", "!b & (c", "'; drop table notes; --", "x <-> y"]
    some = [Row(key=str(n), text=f"it says {word} z{n}") for n, word in enumerate(words)]
    await made(db, BIGINT, some)
    await tables.index_words(db, BIGINT)
    for n, word in enumerate(words):
        result = await found(app, f"{word} z{n}", method="lexical")
        assert str(n) in {hit.source for hit in result.hits}
        alone = await found(app, word, method="lexical")
        assert not alone.warnings


async def test_without_words_hybrid_goes_by_vectors_and_lexical_is_refused(
    db: Db, app: App
) -> None:
    await made(db, UUID, rows(30, uuids=True))
    result = await found(app, method="hybrid")
    assert result.used[0].method == "vector"
    (warning,) = result.warnings
    assert "by vectors alone" in warning
    assert "create index concurrently" in warning
    with pytest.raises(UsageError, match="cannot be searched by words"):
        await found(app, method="lexical")


async def test_an_unknown_model_takes_vectors_and_no_questions(db: Db, app: App) -> None:
    await made(db, BIGINT, rows(30), model="unknown")
    with pytest.raises(ModelError, match="which model its vectors are of is not known"):
        await found(app, method="vector")
    vector = await MODEL.embed_query("ant")
    assert len((await found(app, "", method="vector", vector=vector)).hits) == 10


async def test_few_rows_are_never_returned_in_silence(
    db: Db, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(db, BIGINT, rows(300))
    await tables.index(db, BIGINT, 16)
    original = statements.statement
    monkeypatch.setattr(
        statements, "statement", lambda *a, **b: original(*a, **b).replace("strict_order", "off")
    )
    result = await found(app, method="vector", k=50, ef_search=5)
    assert len(result.hits) == 50
    assert app.counters["search_widened"] == 2
    assert result.used[0].is_exact


DONE: tuple[tuple[str, type[RaglineError], str], ...] = (
    ("drop table notes", NotFound, "gone"),
    ("alter table notes rename to other", NotFound, "gone"),
    ("alter table notes drop column embedding", Conflict, "column"),
    ("alter table notes rename content to body", Conflict, "column"),
    ("alter table notes alter embedding type text", Conflict, "another type"),
    ("alter table notes alter embedding type vector(3) using '[1,2,3]'", Conflict, "notes"),
    ("revoke select on notes from ragline_serve", PreconditionFailed, "may not be read"),
    (MADE_AGAIN, Conflict, "made again"),
    ("delete from collection", NotFound, "removed while it was searched"),
)


async def test_what_was_done_to_the_table_is_said(db: Db, app: App) -> None:
    for done, error, said in DONE:
        await made(db, BIGINT, rows(30))
        assert (await found(app, method="vector")).hits
        await db.execute(done)
        with pytest.raises(error, match=said):
            await found(app, method="vector")
        await db.execute("delete from collection; drop table if exists notes, other")
        app.known.clear()


async def test_samples_are_of_our_rows_with_vectors_and_texts(db: Db, app: App) -> None:
    some = [replace(row, part="theirs" if n % 2 else "ours") for n, row in enumerate(rows(80))]
    some[0] = replace(some[0], has_vector=False)
    some[2] = replace(some[2], text=None)
    await made(db, SHARED, some)
    ours = [row for row in some if row.part == "ours"]
    facts = await app.collection("kb", fresh=True)
    target = target_of(facts)
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        ids, vectors = await samples.vectors(connection, target, chunks=facts.chunks, size=100)
        again = await samples.vectors_of(connection, target, ids)
        texts = await samples.passages(connection, target, chunks=facts.chunks, size=100)
        metadata = await samples.metadata(connection, target, chunks=facts.chunks, size=100)
    assert len(ids) == len(set(ids)) == len(ours) - 1
    assert all(np.array_equal(again[id_], one) for id_, one in zip(ids, vectors, strict=True))
    assert sorted(text for _, text in texts) == sorted(r.text for r in ours if r.text)
    assert sorted(one["number"] for one, _ in metadata) == [int(row.key) for row in ours]


@pytest.mark.parametrize("attached", [BIGINT, UUID, SHARED])
async def test_a_dataset_names_rows_by_their_keys(db: Db, app: App, attached: Attached) -> None:
    some = rows(20, uuids=attached is UUID)
    await made(db, attached, some)
    facts = await app.collection("kb")
    wanted = [some[3].key, some[7].key, "nowhere", "007", "-0", "9" * 30, "a\0b"]
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        there = await relevance.present(connection, [facts], wanted, "source")
        bodies = [one async for one in relevance.bodies(connection, [facts], wanted, "source")]
    assert there == {some[3].key: 1, some[7].key: 1}
    assert sorted(bodies) == sorted((some[n].key, some[n].text) for n in (3, 7))


async def test_keys_that_are_paths_are_named_in_every_way(db: Db, app: App) -> None:
    keys = ["docs/guide.md", "docs/a.b.txt", "rows.jsonl#7#x", ".hidden"]
    await made(db, SHARED, [Row(key=key, text="x") for key in keys])
    facts = await app.collection("kb")
    pool = await app.pool("serve")
    async with pool.connection() as connection:
        for way in WAYS:
            names = dict.fromkeys([named(key, way) for key in keys], 1)
            assert await relevance.present(connection, [facts], list(names), way) == names
            bodies = [one async for one in relevance.bodies(connection, [facts], list(names), way)]
            assert sorted(bodies) == sorted((name, "x") for name in names)


async def test_recall_and_answers(db: Db, app: App) -> None:
    some = rows(300)
    await made(db, BIGINT, some)
    await tables.index(db, BIGINT, 16)
    measured = await recall(app, "kb", n=20, k=5, ef_search=300)
    assert (measured.n, measured.short, measured.warnings) == (20, 0, ())
    assert measured.mean > 0.99
    answer = await answer_question(app, query(str(some[5].text), "kb", method="vector"))
    assert answer.found
    citation = answer.citations[0]
    assert citation.source == "6"
    assert citation.text == str(some[5].text)[citation.start : citation.end]


async def test_an_evaluation_by_keys(db: Db, own_dsn: Dsn, tmp_path: Path) -> None:
    some = rows(40, uuids=True)
    await made(db, UUID, some)
    cases = [
        Case(id=f"c{n}", question=str(some[n].text), relevant=(Relevant(document=some[n].key),))
        for n in range(5)
    ]
    async with evaluated.opened(own_dsn, tmp_path, embedder=MODEL) as app:
        settings = Settings(collections=("kb",), k=5, method="vector")
        dataset = Dataset(name="small", cases=tuple(cases), format="jsonl")
        pool = await app.pool("eval")
        async with pool.connection() as connection:
            await datasets.add(connection, dataset, content_hash(dataset))
        run = await evaluated.run(app, settings)
    assert run.state == "complete"
    assert run.metrics["hit@5"].value == 1.0
    assert run.provenance["match"] == "source"


@pytest.mark.parametrize("attached", [BIGINT, UUID])
async def test_what_a_change_is_measured_with(db: Db, app: App, attached: Attached) -> None:
    await made(db, attached, rows(120, uuids=attached is UUID))
    if attached is BIGINT:
        await tables.index_words(db, attached)
    drawn = await gate_questions.drawn(app, Asked(collections=("kb",), questions=20, seed=1))
    methods = {group.method for group in drawn.groups}
    assert methods == ({"vector", "hybrid", "lexical"} if attached is BIGINT else {"vector"})
    facts = await app.collection("kb")
    assert facts.attached is not None
    assert await plan_of(app, query("ant", "kb", method="vector"))

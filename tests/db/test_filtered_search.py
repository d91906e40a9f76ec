"""Searches within a filter: the allowed chunks and no others, whichever way they are reached."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

import asyncpg
import pytest

from conftest import opened
from ragline.core import access, filters
from ragline.core.access import Calibration, Level
from ragline.core.dsn import Dsn
from ragline.core.results import Method, SearchResult
from ragline.db import collections, statements
from ragline.errors import UsageError
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import calibration, ingest
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
METHODS: tuple[Method, ...] = get_args(Method)
WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx")
FILTERS = (
    'lang = "en"',
    'lang in ["en", "vi"] and year >= 2020',
    'not (lang = "vi") and tags contains "red"',
    "year < 2003 or year > 2022",
    "draft exists",
    'lang = "nowhere"',
)


def _texts(count: int) -> list[ingest.Text]:
    random_ = random.Random(5)
    weights = range(len(WORDS), 0, -1)
    return [
        ingest.Text(
            source=f"t{n}",
            text=" ".join(random_.choices(WORDS, weights, k=8)),
            metadata={
                "lang": random_.choice(["en", "vi", "ko", "ja"]),
                "year": 2000 + n % 25,
                "tags": random_.sample(["red", "green", "blue"], n % 4),
                **({"draft": True} if n % 40 == 0 else {}),
            },
        )
        for n in range(count)
    ]


async def _forced(app: App, kind: access.AccessKind) -> None:
    """Have every filter be taken for a small, or for a large one, whatever it keeps."""
    facts = await app.collection("kb", fresh=True)
    assert facts.space is not None
    measured = Calibration(
        exact_chunks=10**9 if kind == "exact" else -1,
        levels=(Level(share=0.5, ef_search=200, factor=4, recall=1, index_ms=1, exact_ms=1),),
        chunks=facts.chunks,
    )
    app.known["kb"] = replace(facts, space=replace(facts.space, calibration=measured))


def _matching(text: str, metadata: dict[str, Any]) -> bool:
    return filters.matches(filters.from_text(text), metadata)


@pytest.mark.parametrize("kind", ["exact", "index"])
@pytest.mark.parametrize("method", METHODS)
async def test_what_a_filter_allows_is_found_and_nothing_else(
    app: App, method: Method, kind: access.AccessKind
) -> None:
    texts = _texts(700)
    await ingest.ingest_texts(app, texts, "kb")
    await _forced(app, kind)
    for text in FILTERS:
        allowed = {t.source for t in texts if _matching(text, dict(t.metadata))}
        found = await search_collections(
            app, query("fox gnu", "kb", k=25, method=method, filter=text)
        )
        assert {hit.source for hit in found.hits} <= allowed
        assert all(_matching(text, dict(hit.metadata)) for hit in found.hits)
        if method == "lexical":
            worded = {t.source for t in texts if {"fox", "gnu"} & set(t.text.split())}
            assert len(found.hits) == min(25, len(allowed & worded))
        else:
            assert len(found.hits) == min(25, len(allowed))
        assert not found.warnings
        used = found.used[0]
        assert used.filter == filters.to_text(filters.from_text(text))
        assert used.access is not None


@pytest.mark.parametrize("method", METHODS)
async def test_both_ways_find_the_same(app: App, method: Method) -> None:
    await ingest.ingest_texts(app, _texts(700), "kb")
    results: dict[str, list[list[tuple[int, float]]]] = {}
    for kind in ("exact", "index"):
        await _forced(app, kind)
        results[kind] = [
            _scored(
                await search_collections(app, query("fox hen", "kb", method=method, filter=text))
            )
            for text in FILTERS
        ]
    exact, index = (dict(x for found in results[kind] for x in found) for kind in results)
    shared = exact.keys() & index.keys()
    assert len(shared) >= 0.95 * len(exact)
    if method != "hybrid":  # there a score is a share of the best that was found
        assert {id_: index[id_] for id_ in shared} == pytest.approx({i: exact[i] for i in shared})


def _scored(result: SearchResult) -> list[tuple[int, float]]:
    return [(hit.chunk_id, hit.score) for hit in result.hits]


async def test_a_scan_that_gives_up_costs_time_and_never_hits(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that was thought to keep much and keeps next to nothing."""
    texts = _texts(700)
    await ingest.ingest_texts(app, texts, "kb")
    await _forced(app, "index")
    original = statements.statement
    monkeypatch.setattr(
        statements, "statement", lambda *a, **b: original(*a, **b).replace("'200000'", "'1'")
    )
    drafts = sum(bool(t.metadata.get("draft")) for t in texts)
    found = await search_collections(
        app, query("fox gnu", "kb", k=50, method="vector", filter="draft exists")
    )
    assert len(found.hits) == drafts
    assert app.counters["search_widened"] == 1
    assert found.used[0].access is not None
    assert found.used[0].access.kind == "exact"


async def test_a_filter_of_a_collection_without_vectors(app: App) -> None:
    await ingest.ingest_texts(app, _texts(40), "kb")
    found = await search_collections(
        app, query("fox", "kb", method="lexical", filter='lang = "en"', k=40)
    )
    assert {hit.metadata["lang"] for hit in found.hits} == {"en"}


async def test_exact_finds_what_a_scan_of_every_vector_finds(app: App, db: Db) -> None:
    await ingest.ingest_texts(app, _texts(700), "kb")
    found = await search_collections(
        app, query("fox", "kb", method="vector", exact=True, explain=True)
    )
    assert found.used[0].is_exact
    assert found.used[0].ef_search is None
    assert "Seq Scan" in str(found.used[0].vector_plan)
    embedder = await app.embedder()
    assert embedder is not None
    vector = "[" + ",".join(map(str, (await embedder.embed_query("fox")).tolist())) + "]"
    space = await db.fetchval("select active_space_id from collection")
    rows = await db.fetch(
        f"select chunk_id from embedding_{space} "  # noqa: S608 -- an integer
        "order by (embedding <=> $1::text::vector) + 0, 1 limit 10",
        vector,
    )
    assert [hit.chunk_id for hit in found.hits] == [row[0] for row in rows]


async def test_a_filter_may_be_text_json_or_an_expression(app: App) -> None:
    await ingest.ingest_texts(app, _texts(50), "kb")
    ways: list[filters.Filter | dict[str, Any] | str] = [
        'lang = "en"',
        {"key": "lang", "op": "eq", "value": "en"},
        filters.Compare("lang", "eq", "en"),
    ]
    found = [
        [
            hit.chunk_id
            for hit in (await search_collections(app, query("fox", "kb", filter=way))).hits
        ]
        for way in ways
    ]
    assert found[0] == found[1] == found[2]
    with pytest.raises(UsageError):
        query("fox", "kb", filter="lang ==")


async def test_a_small_collection_is_not_calibrated(app: App) -> None:
    await ingest.ingest_texts(app, _texts(20), "kb")
    with pytest.raises(UsageError, match="nothing to calibrate"):
        await calibration.calibrate(app, "kb")


async def test_calibration_is_measured_stored_and_used(app: App, db: Db) -> None:
    texts = [
        ingest.Text(source=f"t{n}", text=f"{WORDS[n % 12]} {n}", metadata={"n": n % 100})
        for n in range(2100)
    ]
    report = await ingest.ingest_texts(app, texts, "kb")
    assert not report.warnings
    stored = await db.fetchrow("select * from search_calibration")
    assert stored is not None
    assert stored["chunks"] == 2100
    facts = await app.collection("kb", fresh=True)
    assert facts.space is not None
    assert facts.space.calibration is not None
    assert facts.space.calibration.exact_chunks == stored["exact_chunks"]
    assert [level.share for level in facts.space.calibration.levels] == [0.5, 0.1]
    found = await search_collections(app, query("fox", "kb", filter="n < 90"))
    assert found.used[0].access is not None
    assert found.used[0].access.is_calibrated
    assert 0.75 < found.used[0].access.share < 1

    pool = await app.pool("admin")
    async with pool.connection() as connection:
        assert await collections.index_state(connection, facts.space.id)
    # What was measured a moment ago is not measured again.
    await db.execute("update search_calibration set exact_chunks = 7")
    await ingest.ingest_texts(app, [ingest.Text(source="one", text="more")], "kb")
    assert await db.fetchval("select exact_chunks from search_calibration") == 7


async def test_a_collection_that_cannot_be_calibrated_is_ingested_all_the_same(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    """Hardly any vectors: a sample may hold none, and there is nothing to measure with."""
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, _texts(5), "kb")
    texts = [ingest.Text(source=f"s{n}", text=f"{WORDS[n % 12]} {n}") for n in range(2100)]
    async with opened(own_dsn, tmp_path, None) as app:
        report = await ingest.ingest_texts(app, texts, "kb")
        assert report.added == 2100
        facts = await app.collection("kb", fresh=True)
        assert facts.space is not None
        assert facts.space.calibration is None
        with pytest.raises(UsageError, match=r"valid vector index|too few to"):
            await calibration.calibrate(app, "kb")


async def test_one_large_document_is_calibrated_by_its_chunks(app: App) -> None:
    text = "\n\n".join(f"# Part {n}\n\n{WORDS[n % 12]} " + f"word{n} " * 60 for n in range(2100))
    await ingest.ingest_texts(
        app, [ingest.Text(source="book", text=text, media_type="text/markdown")], "kb"
    )
    facts = await app.collection("kb", fresh=True)
    assert facts.space is not None
    assert facts.space.calibration is not None
    assert all(level.recall > 0.5 for level in facts.space.calibration.levels)


def test_a_vector_without_a_direction_is_refused() -> None:
    for vector in ([0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(UsageError, match="no direction"):
            query("x", "kb", vector=vector)

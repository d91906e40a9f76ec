"""Measurements without labels: how much an index finds, and how far a run moves by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evaluated
from evaluated import BY_WORDS, COLLECTION, prepared
from ragline.core.dsn import Dsn
from ragline.core.runs import Limits
from ragline.db import evals
from ragline.errors import Inconclusive, NotFound, UsageError
from ragline.evals.noise import calibrate
from ragline.evals.recall import recall
from ragline.evals.run import Progress
from ragline.models.embed_fake import FakeEmbedder
from ragline.models.judge_fake import FakeJudge
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts

WORDS = [f"w{n}" for n in range(300)]


def texts(count: int) -> list[Text]:
    generator = np.random.default_rng(7)
    return [
        Text(source=f"t{n}", text=" ".join(generator.choice(WORDS, size=12))) for n in range(count)
    ]


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with evaluated.opened(own_dsn, tmp_path, embedder=FakeEmbedder()) as app:
        yield app


async def test_a_wide_search_of_the_index_finds_what_an_exact_one_does(app: App) -> None:
    await ingest_texts(app, texts(400), COLLECTION)
    seen: list[Progress] = []

    found = await recall(app, COLLECTION, n=30, k=5, ef_search=400, on_progress=seen.append)

    assert (found.n, found.k, len(found.values), found.short) == (30, 5, 30, 0)
    assert found.mean > 0.99
    assert found.rows == 1.0
    assert found.ef_search == 400
    assert [one.done for one in seen] == list(range(1, 31))


async def test_a_narrow_search_of_the_index_finds_less_and_says_so(app: App) -> None:
    await ingest_texts(app, texts(1500), COLLECTION)

    wide = await recall(app, COLLECTION, n=60, k=5, ef_search=400)
    narrow = await recall(app, COLLECTION, n=60, k=5, ef_search=1)

    assert narrow.mean < wide.mean
    assert narrow.low is not None
    assert narrow.high is not None
    assert narrow.low <= narrow.mean <= narrow.high
    assert narrow.worst == min(narrow.values)


async def test_a_small_collection_is_measured_with_what_it_has(app: App) -> None:
    await ingest_texts(app, texts(20), COLLECTION)

    found = await recall(app, COLLECTION, n=50, k=3)

    assert found.n == 20
    assert any("20 vectors, fewer than the 50" in said for said in found.warnings)


async def test_what_cannot_be_measured_is_refused(app: App, own_dsn: Dsn, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await recall(app, COLLECTION)
    await ingest_texts(app, texts(5), COLLECTION)
    with pytest.raises(UsageError, match="5 vectors: too few"):
        await recall(app, COLLECTION)
    with pytest.raises(UsageError, match="n is 3"):
        await recall(app, COLLECTION, n=3)
    with pytest.raises(UsageError, match="k is 0"):
        await recall(app, COLLECTION, k=0)
    async with evaluated.opened(own_dsn, tmp_path) as without:
        await ingest_texts(without, texts(5), "words")
        with pytest.raises(UsageError, match="no vectors"):
            await recall(without, "words")


async def test_the_noise_of_a_run_is_stored_and_its_runs_are_gone(app: App) -> None:
    facts = await prepared(app)
    seen: list[Progress] = []

    report = await calibrate(app, "small", BY_WORDS, Limits(), runs=3, on_progress=seen.append)

    assert (report.runs, report.cases) == (3, 3)
    # Searches repeat exactly, times do not.
    assert report.metrics["recall@3"].half_width == 0
    assert report.metrics["p50_ms"].half_width > 0
    assert "eval_cost_micro_usd" not in report.metrics
    assert [one.done for one in seen] == list(range(1, 10))
    assert seen[0].left_s is not None
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        assert await evals.runs(connection) == []
        stored = await evals.noise(connection, facts.id, report.settings_hash)
    assert stored == report.metrics


async def test_noise_that_could_not_be_measured_is_not_stored(own_dsn: Dsn, tmp_path: Path) -> None:
    settings = replace(BY_WORDS, answers="extractive", judge="llm")
    async with evaluated.opened(own_dsn, tmp_path, judge=FakeJudge(fails_after=30)) as app:
        await prepared(app)

        with pytest.raises(Inconclusive, match=r"partial.* judge ModelUnavailable"):
            await calibrate(app, "small", settings, Limits(), runs=3)
        with pytest.raises(UsageError, match="at least 3"):
            await calibrate(app, "small", settings, Limits(), runs=2)

"""The gate where there is little to ask, where searches get slow, and where contents move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gated
from conftest import connect
from gated import COLLECTION, ClusteredEmbedder
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.core.search_policy import SearchPolicy, to_json
from ragline.db import collections, samples
from ragline.evals import gate_searches
from ragline.evals.gate import Gate
from ragline.models.embed import Vector

QUICK = Asked(questions=40, budget_s=4.0)


def policy(**values: object) -> dict[str, Trial]:
    return {COLLECTION: Trial(policy=to_json(SearchPolicy(**values)))}  # type: ignore[arg-type]


async def filled(dsn: Dsn, folder: Path, chunks: int, *more: ClusteredEmbedder) -> gated.OpenApp:
    open_app = gated.opener(dsn, folder, ClusteredEmbedder(chunks), *more)
    async with open_app("serve", {}) as app:
        await gated.fill(app, dsn, chunks)
    return open_app


@pytest.fixture(autouse=True)
def clock() -> Iterator[gated.SearchTime]:
    with gated.steady() as clock:
        yield clock


def time_row(judgement: Judgement) -> dict[str, object]:
    return next(dict(r) for r in judgement.rows if r["metric"] == "p50_ms [all questions]")


@pytest.mark.parametrize("chunks", [1, 5])
async def test_a_few_chunks_are_asked_often_enough(
    own_dsn: Dsn, tmp_path: Path, chunks: int
) -> None:
    open_app = await filled(own_dsn, tmp_path, chunks)

    found = await Gate(open_app).pair(QUICK, {}, policy(early_exit=9000))

    assert found.rung == "identical"
    n = time_row(found)["n"]
    assert isinstance(n, int)
    assert n >= gate_searches.TIMED
    assert found.status == "pass", found.reason


async def test_what_got_much_slower_fails_although_it_finds_the_same(
    own_dsn: Dsn, tmp_path: Path, clock: gated.SearchTime
) -> None:
    open_app = await filled(own_dsn, tmp_path, 200)
    clock.slower = lambda app: 0.002 if app.trials else 0.0

    found = await Gate(open_app).pair(QUICK, {}, policy(early_exit=9000))

    assert (found.status, found.rung) == ("fail", "identical"), found.reason
    assert "p50_ms [all questions]" in found.reason


async def test_searches_that_got_very_slow_are_not_asked_for_ever(
    own_dsn: Dsn, tmp_path: Path, clock: gated.SearchTime
) -> None:
    open_app = await filled(own_dsn, tmp_path, 200)
    gate = Gate(open_app)
    before = await gate.before(QUICK)
    clock.slower = lambda _app: 0.05
    clock.delays.clear()

    found = await gate.after(replace(QUICK, budget_s=3.0), before)

    assert found.status == "fail", found.reason
    assert "p50_ms [all questions]" in found.reason
    # Answers, and times at most twice, each as long as the budget, and the fewest that can be judged.
    assert sum(clock.delays) < 9 + 60 * 0.05


async def test_a_question_is_embedded_once_whatever_it_is_asked_for(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Counting(ClusteredEmbedder):
        async def embed_query(self, text: str) -> Vector:
            asked.append(text)
            return await super().embed_query(text)

    await filled(own_dsn, tmp_path, 200)
    gate = Gate(gated.opener(own_dsn, tmp_path, Counting(200)))

    await gate.pair(QUICK, {}, policy(early_exit=9000))
    assert len(asked) == len(set(asked)) >= 30
    asked.clear()
    await gate.before(QUICK)
    assert len(asked) == len(set(asked)) >= 30


async def test_documents_that_the_other_space_lacks_as_yet_are_not_held_against_it(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    other = ClusteredEmbedder(200, noise=0.001)
    gate = Gate(await filled(own_dsn, tmp_path, 200, other))
    connection = await connect(own_dsn)
    space = await connection.fetchval(
        "select create_space(id, $1, $2, $3, 'cosine', 'vector', true, '{}', true) from collection",
        other.facts.model_id,
        other.facts.weights_hash,
        other.facts.dimension,
    )
    await connection.execute(
        f"insert into embedding_{space} select * from embedding_"  # noqa: S608 -- integers
        f"{await connection.fetchval('select active_space_id from collection')} "
        "where chunk_id % 10 <> 0"
    )
    await connection.close()

    found = await gate.pair(QUICK, {}, {COLLECTION: Trial(space_id=space)})

    assert "their chunks are not in both arms" in found.reason
    lost = {row["metric"] for row in found.rows if row["status"] == "fail"}
    assert not {metric for metric in lost if not metric.startswith("p50_ms")}, found.reason


async def test_filters_are_estimated_alike_on_both_sides(
    own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(await filled(own_dsn, tmp_path, 400))
    sizes: list[int] = []
    metadata = samples.metadata

    async def luckless(*place: Any, chunks: int, size: int) -> list[tuple[Mapping[str, Any], int]]:
        # Every second draw knows of no document that a filter allows.
        sizes.append(size)
        found = await metadata(*place, chunks=chunks, size=size)
        return found if len(sizes) % 2 else [({}, count) for _, count in found]

    monkeypatch.setattr(samples, "metadata", luckless)

    found = await gate.pair(QUICK, {}, policy(early_exit=9000))
    before = await gate.before(QUICK)
    again = await gate.after(QUICK, before)

    # For the filters that are asked, and for how each is reached: once, however many arms there are.
    assert len(sizes) == 4
    assert (found.rung, again.rung) == ("identical", "identical")


async def test_of_many_collections_a_few_are_named_that_are_not_measured(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    open_app = await filled(own_dsn, tmp_path, 20)
    async with open_app("serve", {}) as app, (await app.pool("admin")).connection() as connection:
        for number in range(50):
            await collections.add(
                connection, f"c{number:02}", language="english", chunk_size=100, chunk_overlap=0
            )
    lines: list[str] = []

    await Gate(open_app, lines.append).before(QUICK)

    assert "not measured: c00, c01, c02, c03, c04 and 45 more" in lines[0]

"""The gate of the change loop, on collections whose neighbours are known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import evaluated
import gated
from conftest import TEMPLATE, connect
from gated import COLLECTION, ClusteredEmbedder
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.core.search_policy import SearchPolicy, to_json
from ragline.errors import PreconditionFailed, UsageError
from ragline.evals.gate import Gate
from ragline.models.embed_fake import FakeEmbedder

# A cluster far from the others: from elsewhere the way to it is long. One is drawn besides.
QUICK = Asked(questions=30, budget_s=3.0, filters=("own = 22",))
EMBEDDER = ClusteredEmbedder()


@pytest.fixture(scope="module")
def filled(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dsn]:
    """A database with one collection, filled and indexed, to be cloned."""
    name = "ragline_gated"

    async def make() -> None:
        connection = await asyncpg.connect(**template.on("postgres").for_asyncpg("admin"))
        await connection.execute(f"create database {name} template {TEMPLATE}")
        await connection.close()
        folder = tmp_path_factory.mktemp("gated")
        async with gated.opener(template.on(name), folder, EMBEDDER)("serve", {}) as app:
            await gated.fill(app, template.on(name), gated.TRAP_CHUNKS)
        await gated.walk_filters(template.on(name))

    asyncio.run(make())
    yield template.on(name)
    asyncio.run(_drop(template, name))


@pytest.fixture(scope="module")
def before(filled: Dsn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was measured there before any change; the clones are the same."""
    folder = tmp_path_factory.mktemp("before")
    with gated.steady():
        found = asyncio.run(Gate(gated.opener(filled, folder, EMBEDDER)).before(QUICK))
    # As the ledger keeps it.
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


async def _drop(dsn: Dsn, name: str) -> None:
    connection = await asyncpg.connect(**dsn.on("postgres").for_asyncpg("admin"))
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


_numbers = iter(range(1000))


@pytest.fixture
async def place(filled: Dsn) -> AsyncIterator[Dsn]:
    """A clone of it, of this test alone."""
    name = f"ragline_gated_{next(_numbers)}"
    connection = await asyncpg.connect(**filled.on("postgres").for_asyncpg("admin"))
    await connection.execute(f"create database {name} template {filled.database}")
    await connection.close()
    yield filled.on(name)
    await _drop(filled, name)


@pytest.fixture(autouse=True)
def clock() -> Iterator[gated.SearchTime]:
    with gated.steady() as clock:
        yield clock


@pytest.fixture
def gate(filled: Dsn, tmp_path: Path) -> Gate:
    """A gate for what changes nothing in the database."""
    return Gate(gated.opener(filled, tmp_path, EMBEDDER))


@pytest.fixture
def own_gate(place: Dsn, tmp_path: Path) -> Gate:
    return Gate(gated.opener(place, tmp_path, EMBEDDER))


async def execute(dsn: Dsn, *statements: str) -> None:
    connection = await connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def policy(**values: object) -> dict[str, Trial]:
    return {COLLECTION: Trial(policy=to_json(SearchPolicy(**values)))}  # type: ignore[arg-type]


def rows(judgement: Judgement, status: str) -> set[str]:
    return {row["metric"] for row in judgement.rows if row["status"] == status}


async def test_too_narrow_a_search_fails_on_recall_and_is_named(gate: Gate) -> None:
    found = await gate.pair(QUICK, {}, policy(ef_search=1))

    assert found.status == "fail", found.reason
    assert found.rung == "recall"
    assert "ann_recall@10 [docs]" in found.reason
    assert "ann_recall@10 [docs]" in rows(found, "fail")


async def test_the_same_on_both_sides_passes_at_the_first_rung(gate: Gate) -> None:
    found = await gate.pair(QUICK, {}, policy())

    assert found.rung == "identical"
    assert found.overlap == 1.0
    assert not rows(found, "fail")
    assert found.status == "pass", found.reason


async def test_little_memory_is_quicker_and_loses_what_a_filter_allows(
    own_gate: Gate, place: Dsn, before: dict[str, Any]
) -> None:
    await execute(
        place, f"alter role ragline_serve in database {place.database} set work_mem = '64kB'"
    )

    found = await own_gate.after(QUICK, before)

    assert found.status == "fail", found.reason
    lost = rows(found, "fail")
    assert any(metric.startswith("ann_recall@10 [docs where own = ") for metric in lost), lost
    assert "ann_recall@10 [docs]" not in lost
    assert "ann_recall@10 [docs where own = " in found.reason


async def test_what_changed_nothing_is_never_undone_for_its_quality(
    gate: Gate, before: dict[str, Any]
) -> None:
    found = await gate.after(QUICK, before)

    assert (found.rung, found.overlap) == ("identical", 1.0)
    assert found.status == "pass", found.reason


async def test_a_graph_of_few_neighbours_fails_on_recall(
    place: Dsn, own_gate: Gate, before: dict[str, Any]
) -> None:
    await execute(
        place,
        """
        insert into space_index (space_id, slot, storage, m, ef_construction)
        select active_space_id, 2, 'vector', 2, 4 from collection
        """,
    )
    connection = await connect(place)
    space = await connection.fetchval("select active_space_id from collection")
    await connection.execute(
        await connection.fetchval("select space_index_statement($1, 2, false)", space)
    )
    await connection.close()

    found = await own_gate.pair(QUICK, {}, {COLLECTION: Trial(slot=2)})

    assert found.status == "fail", found.reason
    assert "ann_recall@10 [docs]" in rows(found, "fail")


async def test_a_worse_embedding_model_fails_on_known_items(place: Dsn, tmp_path: Path) -> None:
    worse = ClusteredEmbedder(noise=1.0)
    connection = await connect(place)
    collection = await connection.fetchval("select id from collection")
    space = await connection.fetchval(
        "select create_space($1, $2, $3, $4, 'cosine', 'vector', true, '{}', true)",
        collection,
        worse.facts.model_id,
        worse.facts.weights_hash,
        worse.facts.dimension,
    )
    await connection.execute(
        f"insert into embedding_{space} select * from embedding_"  # noqa: S608 -- integers
        f"{await connection.fetchval('select active_space_id from collection')}"
    )
    await connection.close()
    gate = Gate(gated.opener(place, tmp_path, EMBEDDER, worse))

    found = await gate.pair(QUICK, {}, {COLLECTION: Trial(space_id=space)})

    assert found.status == "fail", found.reason
    assert "known_mrr@10 [words of docs by vectors]" in rows(found, "fail")
    assert "known_mrr@10" in found.reason


async def test_what_was_removed_meanwhile_is_counted_and_said(
    place: Dsn, own_gate: Gate, before: dict[str, Any]
) -> None:
    await execute(place, "delete from document where (metadata->>'own')::int < 5")

    found = await own_gate.after(QUICK, before)

    assert "questions could not be asked again" in found.reason
    assert found.rung == "recall"
    assert found.status != "pass"


async def test_a_search_that_fails_afterwards_fails_the_change(
    place: Dsn, own_gate: Gate, before: dict[str, Any]
) -> None:
    await execute(place, "alter table chunk rename column body to text")

    found = await own_gate.after(QUICK, before)

    assert found.status == "fail"
    assert "questions to docs failed: " in found.reason
    assert "column content.body does not exist" in found.reason


async def test_a_collection_that_is_gone_fails_the_change(
    place: Dsn, own_gate: Gate, before: dict[str, Any]
) -> None:
    await execute(place, "delete from collection")

    found = await own_gate.after(QUICK, before)

    assert found.status == "fail"
    assert "it could not be measured any more: collection 'docs' does not exist" in found.reason


async def test_what_cannot_be_measured_is_refused_beforehand(
    gate: Gate, own_dsn: Dsn, tmp_path: Path
) -> None:
    empty = Gate(gated.opener(own_dsn, tmp_path, EMBEDDER))
    with pytest.raises(PreconditionFailed, match=r"nothing to measure .* --no-measure"):
        await empty.before(QUICK)
    floor = '[[line]]\nmetric = "recall@k"\nat_least = 0.9'
    with pytest.raises(UsageError, match="recall@k, which only a dataset measures"):
        await gate.before(replace(QUICK, policy=floor))
    with pytest.raises(UsageError, match="judge is 'llm', which takes a dataset"):
        await gate.pair(replace(QUICK, judge="llm"), {}, {})


async def test_a_dataset_is_run_on_both_sides_and_its_runs_stay(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    open_app = gated.opener(own_dsn, tmp_path, FakeEmbedder())
    async with open_app("eval", {}) as app:
        await evaluated.prepared(app)
    asked = replace(QUICK, collections=(evaluated.COLLECTION,), dataset="small")

    found = await Gate(open_app).pair(asked, {}, {})

    assert found.rung == "identical"
    assert "dataset small pass: runs 1 and 2" in found.reason
    assert "recall@10 [small]" in rows(found, "pass")

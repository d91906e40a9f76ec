"""The gate of the change loop, on collections whose neighbours are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

import gated
from conftest import TEMPLATE, connect
from gated import COLLECTION, ClusteredEmbedder, OpenApp
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.core.search_policy import SearchPolicy, to_json
from ragline.evals.gate import Gate

QUICK = Asked(questions=60, budget_s=12.0)
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


@pytest.fixture
def open_app(place: Dsn, tmp_path: Path) -> OpenApp:
    return gated.opener(place, tmp_path, EMBEDDER)


@pytest.fixture
def gate(open_app: OpenApp) -> Gate:
    return Gate(open_app)


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
    assert found.status == "pass" or found.is_too_noisy, found.reason


async def test_little_memory_is_quicker_and_loses_what_a_filter_allows(
    gate: Gate, place: Dsn
) -> None:
    before = await gate.before(QUICK)
    connection = await connect(place)
    await connection.execute(
        f"alter role ragline_serve in database {place.database} set work_mem = '64kB'"
    )
    await connection.close()

    found = await gate.after(QUICK, before)

    assert found.status == "fail", found.reason
    lost = rows(found, "fail")
    assert any(metric.startswith("ann_recall@10 [docs where own = ") for metric in lost), lost
    assert "ann_recall@10 [docs]" not in lost

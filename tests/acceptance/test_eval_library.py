"""Evaluation as a library: what the command line does, with values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import opened
from ragline.core.cases import Case, Dataset, Relevant
from ragline.core.dsn import Dsn
from ragline.core.filters import Compare
from ragline.core.runs import Limits
from ragline.errors import NotFound, UsageError
from ragline.evals.run import Progress
from ragline.library import Rag
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag.ingest import Text

FRUIT = ("apple", "pear", "plum", "quince", "cherry")
TEXTS = [
    Text(source=f"{name}.md", text=f"The {name} grows in garden {at}.", metadata={"at": at})
    for at, name in enumerate(FRUIT)
]
CASES = tuple(
    Case(
        id=name,
        question=f"Where does the {name} grow?",
        answer=f"garden {at}",
        relevant=(Relevant(document=name),),
    )
    for at, name in enumerate(FRUIT)
)
FRUITS = Dataset(name="fruit", cases=CASES, format="jsonl")
CLOSED_AT_ONCE = Limits(max_time_s=0.001)


@pytest.fixture
async def rag(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[Rag]:
    """A ragline opened for searching, with a collection and a dataset about it."""
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        rag = Rag(app)
        await rag.ingest_texts(TEXTS, collection="kb")
        await rag.add_dataset(FRUITS)
        yield rag


async def test_a_run_is_measured_as_another_workload_and_kept(rag: Rag) -> None:
    seen: list[Progress] = []

    run = await rag.evaluate("fruit", collection="kb", k=3, on_progress=seen.append)

    assert (run.state, run.metrics["recall@3"].value, run.metrics["recall@3"].n) == (
        "complete",
        1.0,
        5,
    )
    assert [progress.done for progress in seen] == [1, 2, 3, 4, 5]
    assert await rag.runs("fruit") == (run,)
    assert [result.case_id for result in await rag.results(run)] == list(FRUIT)
    assert "eval" in rag.app.pools
    assert rag.app.search_workload == "serve"


async def test_searches_and_evaluations_go_on_side_by_side(rag: Rag) -> None:
    run, found = await asyncio.gather(
        rag.evaluate("fruit", collection=["kb"]), rag.search("apple", collection="kb")
    )

    assert run.state == "complete"
    assert found.hits[0].source == "apple.md"


async def test_a_filter_may_be_a_value(rag: Rag) -> None:
    run = await rag.evaluate("fruit", collection="kb", filter=Compare("at", "lt", 2))
    same = await rag.evaluate(
        "fruit", collection="kb", filter={"key": "at", "op": "lt", "value": 2}
    )

    assert run.metrics["recall@10"].value == 2 / 5
    assert run.settings == same.settings
    assert run.settings.filter == "at < 2"


async def test_a_partial_run_goes_on(rag: Rag) -> None:
    started = await rag.evaluate("fruit", collection="kb", k=2, limits=CLOSED_AT_ONCE)
    assert (started.state, started.done) == ("partial", 0)

    whole = await rag.resume(started)

    assert (whole.id, whole.state, whole.settings.k) == (started.id, "complete", 2)


async def test_runs_are_meant_by_value_number_name_or_baseline(rag: Rag) -> None:
    one = await rag.evaluate("fruit", collection="kb", name="one")
    two = await rag.evaluate("fruit", collection="kb", name="two")
    kept = await rag.set_baseline(one, name="main", note="the first")

    assert (kept.run, kept.note) == ("one", "the first")
    assert await rag.baselines() == (kept,)
    for baseline, run in ((one, two), ("main", two.id), ("one", "two")):
        assert (await rag.compare(baseline, run)).status == "pass"
    with pytest.raises(NotFound, match="'three' does not exist"):
        await rag.compare("main", "three")


async def test_a_policy_is_a_value_a_file_or_a_name(rag: Rag, tmp_path: Path) -> None:
    run = await rag.evaluate("fruit", collection="kb")
    floor = tmp_path / "floor.toml"
    floor.write_text('[[line]]\nmetric = "recall@k"\nat_least = 0.9\n')
    ceiling = tmp_path / "ceiling.toml"
    ceiling.write_text('[[line]]\nmetric = "recall@k"\nat_most = 0.9\n')

    assert (await rag.check(run, policy=floor)).status == "pass"
    assert (await rag.check(run, policy=str(ceiling))).status == "fail"
    assert (await rag.check(run, policy="default", against=run)).status == "pass"


async def test_reports_are_written_of_runs_and_comparisons(rag: Rag, tmp_path: Path) -> None:
    run = await rag.evaluate("fruit", collection="kb", name="reported")

    await rag.save_report(run, tmp_path / "run.md")
    await rag.save_report(await rag.compare(run, run), tmp_path / "comparison.html")

    assert "reported" in (tmp_path / "run.md").read_text()
    assert (tmp_path / "comparison.html").read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match=r"\.html, \.md, \.json"):
        await rag.save_report(run, tmp_path / "run.pdf")


async def test_a_dataset_comes_from_a_file_or_from_values(rag: Rag, tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text('{"id": "a", "question": "q", "answer": "x"}\n')

    facts = await rag.import_dataset(path, name="more")
    again = await rag.add_dataset(replace(FRUITS, name="more"), replace=True)

    assert (facts.cases, again.cases) == (1, 5)
    assert [one.name for one in await rag.datasets()] == ["fruit", "more"]

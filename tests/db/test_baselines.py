"""Baselines by name, and runs compared as they are stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evaluated
import synthetic_runs as made
from ragline.core.cases import Dataset, content_hash
from ragline.core.dsn import Dsn
from ragline.core.policies import Line, Policy
from ragline.core.runs import CaseError, CaseResult, Figure, Run, Spent
from ragline.db import datasets
from ragline.db import evals as rows
from ragline.errors import NotFound, UsageError
from ragline.evals import baseline, check, compare, loading, report
from ragline.rag.app import App

ERROR = CaseError(phase="judge", kind="ModelUnavailable", message="the judge is down")


@pytest.fixture
async def opened(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with evaluated.opened(own_dsn, tmp_path) as app:
        yield app


def results(value: float, n: int = 40, **more: Any) -> list[CaseResult]:
    return [made.result(number, {"ndcg@10": value, "lex_f1": 0.5}, **more) for number in range(n)]


async def stored(
    app: App,
    name: str,
    found: Sequence[CaseResult],
    *,
    dataset: str = "faq",
    judge_id: str | None = "lexical-v1",
    settings_hash: str = "s1",
) -> Run:
    """Store a run as an evaluation would; one with an error in it is partial."""
    cases = tuple(made.cases(found).values())
    whole = Dataset(name=dataset, cases=cases, format="jsonl")
    summary = made.run(0, found)
    owner = rows.new_owner()
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        facts = await datasets.add(connection, whole, content_hash(whole))
        run = await rows.open_run(
            connection,
            name=name,
            dataset_id=facts.id,
            settings=made.SETTINGS,
            judge_id=judge_id,
            provenance={"settings_hash": settings_hash},
            cases=len(cases),
            owner=owner,
        )
        await rows.save_cases(connection, run.id, found, owner=owner)
        return await rows.close_run(
            connection,
            run.id,
            state="partial" if any(one.errors for one in found) else "complete",
            metrics={
                **summary.metrics,
                "p50_ms": Figure(value=found[0].total_ms, n=len(found)),
            },
            errors={},
            phases_ms={},
            spent=Spent(),
            cache={},
            warnings=(),
            seconds=1.0,
            owner=owner,
        )


async def test_a_baseline_is_a_run_by_another_name(opened: App) -> None:
    run = await stored(opened, "monday", results(1.0))
    kept = await baseline.keep(opened, "monday", "main", "before the upgrade")

    assert (kept.name, kept.dataset, kept.run_id, kept.note) == (
        "main",
        "faq",
        run.id,
        "before the upgrade",
    )
    for reference in ("main", "baseline:main", "monday", str(run.id)):
        assert (await loading.one(opened, reference)).id == run.id
    assert (await baseline.one(opened, "main")).id == run.id
    assert (await baseline.one(opened, "main", "faq")).id == run.id


async def test_setting_a_baseline_again_keeps_what_was_before(opened: App) -> None:
    await stored(opened, "monday", results(1.0))
    tuesday = await stored(opened, "tuesday", results(1.0))
    await baseline.keep(opened, "monday", "main")
    await baseline.keep(opened, "tuesday", "main")
    every = await baseline.every(opened)

    assert [(one.run, one.ended_at is None) for one in every] == [
        ("tuesday", True),
        ("monday", False),
    ]
    assert (await loading.one(opened, "main")).id == tuesday.id
    assert await baseline.every(opened, "another") == ()


async def test_a_partial_run_is_no_baseline(opened: App) -> None:
    found = [*results(1.0, 2), made.result(2, {}, errors=(ERROR,))]
    run = await stored(opened, "half", found)

    with pytest.raises(UsageError, match=rf"half\) is partial: 3 of 3 .*--resume {run.id}"):
        await baseline.keep(opened, "half", "main")
    assert await baseline.every(opened) == ()


async def test_what_does_not_exist_is_refused_with_what_does(opened: App) -> None:
    with pytest.raises(NotFound, match=r"run or baseline 'main' does not exist; there is no run"):
        await loading.one(opened, "main")
    run = await stored(opened, "monday", results(1.0, 2))
    await baseline.keep(opened, "monday", "main")

    with pytest.raises(NotFound, match=rf"{run.id} \(monday\); baselines: main"):
        await loading.one(opened, "mian")
    with pytest.raises(NotFound, match=r"baseline 'monday' does not exist"):
        await loading.one(opened, "baseline:monday")
    with pytest.raises(NotFound, match=r"dataset 'other' has no baseline 'main'; it has none yet"):
        await baseline.one(opened, "main", "other")
    with pytest.raises(NotFound, match=r"no baseline 'mian'; there are: main"):
        await baseline.one(opened, "mian", "faq")


async def test_a_name_of_two_things_must_be_made_clear(opened: App) -> None:
    run = await stored(opened, "main", results(1.0, 2))
    other = await stored(opened, "other", results(1.0, 2))
    await baseline.keep(opened, "other", "main")

    with pytest.raises(UsageError, match=rf"run {run.id} and of a baseline, run {other.id}"):
        await loading.one(opened, "main")
    assert (await loading.one(opened, "baseline:main")).id == other.id
    assert (await loading.one(opened, str(run.id))).id == run.id


async def test_a_baseline_of_several_datasets_is_that_of_the_other_run(opened: App) -> None:
    one = await stored(opened, "a", results(1.0, 2), dataset="faq")
    await stored(opened, "b", results(1.0, 2), dataset="manual")
    for run in ("a", "b"):
        await baseline.keep(opened, run, "main")
    now = await stored(opened, "now", results(1.0, 2), dataset="faq")

    assert [run.id for run in await loading.both(opened, "main", "now")] == [one.id, now.id]
    assert [run.id for run in await loading.both(opened, "now", "main")] == [now.id, one.id]
    with pytest.raises(UsageError, match="baseline of several datasets"):
        await loading.one(opened, "main")


async def test_a_loss_fails_by_name_and_an_equal_run_passes(opened: App) -> None:
    await stored(opened, "before", results(1.0))
    await stored(opened, "worse", results(0.5, chunks=(7, 8, 9)))
    await stored(opened, "same", results(1.0, ms=90.0))
    await baseline.keep(opened, "before", "main")
    worse = await compare.compare(opened, "main", "worse")
    same = await compare.compare(opened, "main", "same")

    assert worse.status == "fail"
    assert [row.metric for row in worse.verdict.rows if row.status == "fail"] == ["ndcg@10"]
    assert len(worse.changes.regressed) == 40
    assert worse.overlap == 0.0
    assert worse.changes.regressed[0].question == "What does c0 say?"
    assert same.status == "pass"
    assert same.is_identical


async def test_runs_of_other_judges_and_partial_ones_are_refused(opened: App) -> None:
    await stored(opened, "before", results(1.0, 3))
    await stored(opened, "judged", results(1.0, 3), judge_id="llm:model@1")
    await stored(opened, "half", [*results(1.0, 2), made.result(2, {}, errors=(ERROR,))])

    with pytest.raises(UsageError, match="two judges judged them, lexical-v1 and llm:model@1"):
        await compare.compare(opened, "before", "judged")
    with pytest.raises(UsageError, match=r"\(half\) is partial"):
        await compare.compare(opened, "before", "half")
    with pytest.raises(UsageError, match="no line can judge a part of a dataset"):
        await check.check(opened, "half", Policy(lines=(Line(metric="ndcg@10", at_least=0.1),)))


async def test_floors_need_no_baseline_and_relative_lines_do(opened: App) -> None:
    await stored(opened, "before", results(1.0))
    await stored(opened, "now", results(0.8, chunks=(4, 5, 6)))
    floor = Policy(lines=(Line(metric="ndcg@10", at_least=0.7),))
    relative = Policy(lines=(Line(metric="ndcg@10", margin=0.01),))

    assert (await check.check(opened, "now", floor)).status == "pass"
    alone = await check.check(opened, "now", relative)
    assert alone.status == "fail"
    assert "no baseline" in alone.rows[0].reason
    against = await check.check(opened, "now", relative, against="before")
    assert (against.status, against.rows[0].baseline) == ("fail", 1.0)


async def test_latencies_are_judged_with_the_measured_noise(opened: App) -> None:
    before = await stored(opened, "before", results(1.0, ms=10.0))
    await stored(opened, "slow", results(1.0, ms=30.0))
    policy = Policy(lines=(Line(metric="p50_ms", margin=0.1, better="lower"),))
    unknown = await compare.compare(opened, "before", "slow", policy)

    assert unknown.status == "inconclusive"
    assert "ragline eval noise" in unknown.verdict.rows[0].reason
    assert unknown.latencies[0].ratio == pytest.approx(3.0)

    pool = await opened.pool("eval")
    async with pool.connection() as connection:
        found = await datasets.of_run(connection, before.id)
        assert found is not None
        await rows.save_noise(connection, found[0].id, "s1", {"p50_ms": (0.02, 40)}, runs=4)
    assert (await compare.compare(opened, "before", "slow", policy)).status == "fail"


async def test_noise_is_that_of_either_setting_and_the_larger_of_both(opened: App) -> None:
    one = await stored(opened, "one", results(0.5))
    other = await stored(opened, "other", results(0.5), settings_hash="s2")
    pool = await opened.pool("eval")
    async with pool.connection() as connection:
        facts = await datasets.one(connection, "faq")
        assert facts is not None
        for settings_hash, known in (
            ("s1", {"p95_ms": (0.05, 40), "p50_ms": (0.04, 40)}),
            ("s2", {"p95_ms": (0.02, 40)}),
        ):
            await rows.save_noise(connection, facts[0].id, settings_hash, known, runs=3)

    assert await loading.noise(opened, one, other) == {"p95_ms": 0.05, "p50_ms": 0.04}
    assert await loading.noise(opened, other) == {"p95_ms": 0.02}


async def test_questions_come_from_the_dataset_as_it_was(opened: App) -> None:
    await stored(opened, "before", results(1.0, 2))
    changed = Dataset(
        name="faq",
        format="jsonl",
        cases=(replace(made.cases(results(1.0, 1))["c0"], question="Another one?"),),
    )
    pool = await opened.pool("eval")
    async with pool.connection() as connection:
        await datasets.add(connection, changed, content_hash(changed), replace=True)
    found = await report.of_run(opened, "before")

    assert found.cases["c0"].question == "What does c0 say?"


async def test_the_same_evaluation_twice_is_unchanged_by_construction(opened: App) -> None:
    await evaluated.prepared(opened)
    one = await evaluated.run(opened)
    await baseline.keep(opened, str(one.id), "main")
    two = await evaluated.run(opened)
    found = await compare.compare(opened, "main", str(two.id))

    assert found.is_identical
    assert found.status == "pass"
    assert found.overlap == 1.0
    assert found.changes.same == len(evaluated.CASES)
    for form in (report.terminal, report.markdown, report.html):
        assert "nchanged by construction" in " ".join(form(found).split())

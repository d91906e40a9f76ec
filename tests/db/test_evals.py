"""Datasets, runs, baselines and noise in the database: what it keeps, and what it refuses."""

# ruff: noqa: S608 -- the names and numbers in these statements are the tests' own

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import asyncpg
import pytest

from conftest import connect
from lock_waits import waits
from ragline.core.budget import ROLES, Workload
from ragline.core.cases import Case, Context, Dataset, Relevant
from ragline.core.claims import ClaimLabels
from ragline.core.dsn import Dsn
from ragline.core.runs import CaseError, CaseResult, Figure, Run, RunHit, Settings, Spent
from ragline.db import datasets, evals, queries
from ragline.db.pool import Connection, Pool, open_pool
from ragline.errors import Conflict, NotFound, RaglineError, UsageError
from ragline.rag.app import App
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
HASH = "a" * 64
OTHER_HASH = "b" * 64
ME = "here:1:aaaaaaaaaaaa"
OTHER = "there:2:bbbbbbbbbbbb"
SETTINGS = Settings(collections=("kb",))


def cases(count: int) -> tuple[Case, ...]:
    return tuple(
        Case(id=f"q{n}", question=f"what is {n}?", answer=f"it is {n}") for n in range(count)
    )


def dataset_of(count: int = 2, name: str = "cranfield") -> Dataset:
    return Dataset(name=name, cases=cases(count), format="jsonl")


def result(ordinal: int, **given: Any) -> CaseResult:
    return replace(CaseResult(case_id=f"q{ordinal}", ordinal=ordinal), **given)


FAILED = CaseError(phase="judge", kind="ModelUnavailable", message="no reply", exit_code=3)
FULL = CaseResult(
    case_id="q0",
    ordinal=0,
    hits=(RunHit(collection="kb", chunk_id=7, source="größe.md", hash="0f" * 8, score=0.1 + 0.2),),
    contexts=("one\ntwo", ""),
    answer="it is 0, said “知识库”\t😀",
    found=True,
    labels=ClaimLabels(
        answer_claims=(("a", "is", "b"),),
        gold_claims=(("a sentence",), ("a", "is", "c")),
        answer_by_gold=("Entailment",),
        gold_by_answer=("Neutral", "Contradiction"),
        answer_by_context=(("Entailment", "Neutral"),),
        gold_by_context=(("Neutral", "Neutral"), ("Contradiction", "Entailment")),
    ),
    metrics={"recall@10": 1.0, "ndcg@10": 1 / 3, "f1": 5e-324},
    warnings=("slow",),
    phases_ms={"embed": 0.5, "rest": 1e-9},
    total_ms=12.25,
    spent=Spent(calls=3, input_tokens=None, output_tokens=12, cost_micro_usd=None),
    reuse_key="k" * 64,
    is_reused=True,
)


@pytest.fixture(scope="module")
async def shared(template: Dsn) -> AsyncIterator[Pool]:
    """One database for all tests that need no commit, as evaluations log in to it."""
    async with own_database(template) as dsn, eval_pool(dsn) as pool:
        yield pool


@pytest.fixture
async def ev(shared: Pool) -> AsyncIterator[Connection]:
    """A connection as eval_app, in a transaction that is rolled back."""
    async with shared.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        await transaction.rollback()


@pytest.fixture
async def own(own_dsn: Dsn) -> AsyncIterator[Pool]:
    """A pool as eval_app on a database of the test alone, for tests that commit."""
    async with eval_pool(own_dsn) as pool:
        yield pool


@asynccontextmanager
async def eval_pool(dsn: Dsn, workload: Workload = "eval") -> AsyncIterator[Pool]:
    pool = await open_pool(
        dsn,
        workload,
        password=None,
        size=lambda _: 8,
        timeout_s=60,
        query_timeout_s=60,
    )
    assert pool.why_not_isolated is None
    try:
        yield pool
    finally:
        await pool.close()


async def opened(
    connection: Connection, dataset_id: int, *, name: str | None = None, count: int = 2
) -> Run:
    return await evals.open_run(
        connection,
        name=name,
        dataset_id=dataset_id,
        settings=SETTINGS,
        judge_id="lexical-v1",
        provenance={"epochs": {"kb": 3}, "server": "18.6", "seed": 0},
        cases=count,
        owner=ME,
    )


async def closed(
    connection: Connection, run: Run, *, state: Any = "complete", owner: str = ME
) -> Run:
    return await evals.close_run(
        connection,
        run.id,
        state=state,
        metrics={"recall@10": Figure(value=0.5, n=2), "hit@10": Figure(value=1.0, n=1, missing=1)},
        errors={"judge ModelUnavailable": 1},
        phases_ms={"embed": 1.5},
        spent=Spent(calls=2),
        cache={"hits": 1, "misses": 0, "bytes": 9},
        warnings=["few cases"],
        seconds=1.25,
        owner=owner,
    )


async def measured(connection: Connection, name: str | None = None) -> Run:
    """Return a complete run of the dataset `cranfield`, which is made where it is not there."""
    facts = await datasets.add(connection, dataset_of(), HASH)
    run = await opened(connection, facts.id, name=name)
    await evals.save_cases(connection, run.id, [result(0), result(1)], owner=ME)
    return await closed(connection, run)


@asynccontextmanager
async def refused(connection: Connection, match: str) -> AsyncIterator[None]:
    """Expect that PostgreSQL refuses, and go on in the transaction all the same."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=match):
        async with connection.transaction():
            yield


# Datasets


async def test_dataset_comes_back_as_it_was(ev: Connection) -> None:
    dataset = Dataset(
        name="größe-1",
        format="ragchecker",
        extra={"z": 1, "a": {"nul": "\0", "half": "\ud800", "n": [1.5, None, True]}},
        cases=(
            Case(
                id="q/1",
                question="what?",
                answer="this",
                answers=("that",),
                relevant=(Relevant(document="a.md", grade=2, passage="words"),),
                tags=("t",),
                response="so",
                contexts=(Context(text="c", document="d"), Context(text="e")),
                labels=FULL.labels,
                extra={"zz": 1, "aa": "\ud800 and \0"},
            ),
            Case(id="q/2", question="how?", relevant=(Relevant(document="b"),)),
            Case(id="q/3", question="who?", is_answerable=False),
        ),
    )
    made = await datasets.add(ev, dataset, HASH)
    found = await datasets.one(ev, dataset.name)

    assert found is not None
    assert found == (made, dataset)
    assert list(found[1].extra) == ["z", "a"]
    assert (made.cases, made.with_answer, made.with_relevant, made.unanswerable) == (3, 1, 2, 1)
    assert (made.hash, made.format) == (HASH, "ragchecker")
    assert await datasets.every(ev) == [made]


@pytest.mark.parametrize("name", ["nothing", "", "a\0b", "\ud800"])
async def test_dataset_that_is_not_there_is_none(ev: Connection, name: str) -> None:
    assert await datasets.one(ev, name) is None
    assert not await datasets.remove(ev, name)


@pytest.mark.parametrize("name", ["", "-x", "_x", "a b", "a/b", "x" * 101, "a\n"])
async def test_dataset_name_is_plain(ev: Connection, name: str) -> None:
    with pytest.raises(UsageError, match="name of a dataset is not plain"):
        await datasets.add(ev, dataset_of(name=name), HASH)


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
async def test_what_is_no_text_is_refused_with_a_sentence(ev: Connection, name: str) -> None:
    bad = Case(id=name, question="?", answer="a")
    for dataset in (dataset_of(name=name), Dataset(name="d", format="jsonl", cases=(bad,))):
        with pytest.raises(UsageError, match="holds a character that PostgreSQL cannot hold"):
            await datasets.add(ev, dataset, HASH)


async def test_dataset_with_two_cases_of_one_id_is_refused_as_a_whole(ev: Connection) -> None:
    twice = Dataset(name="d", format="jsonl", cases=cases(1) * 2)
    with pytest.raises(Conflict, match=r"dataset_case: Key .*q0\) already exists"):
        await datasets.add(ev, twice, HASH)
    assert await datasets.every(ev) == []


async def test_case_with_a_number_that_json_cannot_hold_is_refused(ev: Connection) -> None:
    bad = Case(id="q", question="?", answer="a", extra={"score": float("nan")})
    with pytest.raises(UsageError, match=r"case q\.score is nan"):
        await datasets.add(ev, Dataset(name="d", format="jsonl", cases=(bad,)), HASH)


async def test_same_content_again_changes_nothing(ev: Connection) -> None:
    first = await datasets.add(ev, dataset_of(), HASH)
    assert await datasets.add(ev, dataset_of(), HASH) == first


async def test_other_content_under_a_taken_name_needs_replace(ev: Connection) -> None:
    first = await datasets.add(ev, dataset_of(), HASH)
    with pytest.raises(Conflict, match="'cranfield' exists with other cases"):
        await datasets.add(ev, dataset_of(3), OTHER_HASH)
    assert await datasets.every(ev) == [first]

    second = await datasets.add(ev, dataset_of(3), OTHER_HASH, replace=True)
    assert (second.hash, second.cases) == (OTHER_HASH, 3)
    assert await datasets.every(ev) == [second]
    # Nobody was measured with the first one.
    assert await ev.fetchval("select count(*) from dataset") == 1


async def test_replaced_dataset_stays_for_its_runs_and_goes_with_the_last(ev: Connection) -> None:
    run = await measured(ev)
    new = await datasets.add(ev, dataset_of(3), OTHER_HASH, replace=True)

    old = await datasets.of_run(ev, run.id)
    assert old is not None
    assert (old[0].hash, len(old[1].cases)) == (HASH, 2)
    again = await evals.run(ev, run.name)
    assert again == run
    assert await evals.runs(ev, "cranfield") == [run]
    assert await datasets.every(ev) == [new]

    assert await evals.remove_run(ev, run.id)
    assert await ev.fetchval("select array_agg(hash) from dataset") == [OTHER_HASH]
    assert await ev.fetchval("select count(*) from dataset_case") == 3


async def test_two_imports_of_one_name_at_once_leave_one(own: Pool) -> None:
    async def add(hash_: str) -> str:
        async with own.connection() as connection:
            try:
                return (await datasets.add(connection, dataset_of(40), hash_)).hash
            except Conflict:
                return "conflict"

    said = await asyncio.gather(add(HASH), add(OTHER_HASH))
    assert sorted(said)[1] == "conflict"
    async with own.connection() as connection:
        assert await connection.fetchval("select count(*) from dataset") == 1
        assert await connection.fetchval("select count(*) from dataset_case") == 40


async def test_dataset_with_runs_is_not_removed(ev: Connection) -> None:
    run = await measured(ev)
    with pytest.raises(Conflict, match=f"has runs: {run.name}; remove them first"):
        await datasets.remove(ev, "cranfield")
    assert await evals.remove_run(ev, run.id)
    assert await datasets.remove(ev, "cranfield")
    assert await ev.fetchval("select count(*) from dataset_case") == 0


async def test_dataset_never_changes_not_even_by_its_owner(own_dsn: Dsn) -> None:
    async with eval_pool(own_dsn, "admin") as pool, pool.connection() as db, db.transaction():
        await measured(db)
        for sql, match in (
            ("update dataset set hash = repeat('c', 64)", "dataset cranfield never changes"),
            ("update dataset set name = 'x'", "dataset cranfield never changes"),
            ("update dataset_case set body = '{}'", "cases of a dataset never change"),
            ("delete from dataset_case where ordinal = 1", "run cranfield-1 was made with"),
            (
                "insert into dataset_case values (1, 2, 'q2', true, true, true, '{}')",
                "run cranfield-1 was made with",
            ),
            ("delete from dataset", "foreign key|run cranfield-1 was made with"),
        ):
            async with refused(db, match):
                await db.execute(sql)


async def test_case_added_beside_a_new_run_waits_for_it_and_is_refused(own: Pool) -> None:
    async with own.connection() as first, own.connection() as second:
        facts = await datasets.add(first, dataset_of(), HASH)
        transaction = first.transaction()
        await transaction.start()
        await opened(first, facts.id)
        adding = asyncio.create_task(
            second.execute(
                "insert into dataset_case values ($1, 2, 'q2', true, true, true, '{}')", facts.id
            )
        )
        assert await waits(adding, first)
        await transaction.commit()
        with pytest.raises(asyncpg.RestrictViolationError, match="was made with these cases"):
            await adding


# Runs


async def test_run_comes_back_as_it_was_closed(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    settings = Settings(
        collections=("kb", "other"), k=12, method="vector", ef_search=80, exact=True,
        filter="lang = 'de'", answers="generated", judge="llm", contexts="fixed", match="stem",
        against_exact=True, seed=7,
    )  # fmt: skip
    provenance = {"zeta": 1, "epochs": {"kb": 3}, "models": None, "f": 0.1}
    run = await evals.open_run(
        ev, name="first", dataset_id=facts.id, settings=settings, judge_id="llm:x@1",
        provenance=provenance, cases=2, owner=ME,
    )  # fmt: skip
    assert (run.state, run.cases, run.done, run.metrics) == ("running", 2, 0, {})
    assert (run.settings, run.provenance, run.spent) == (settings, provenance, Spent())
    assert list(run.provenance) == list(provenance)

    await evals.save_cases(ev, run.id, [FULL], owner=ME)
    await evals.save_cases(ev, run.id, [result(1, errors=(FAILED,))], owner=ME)
    done = await closed(ev, run, state="partial")

    assert done == replace(
        run,
        state="partial",
        done=2,
        failed=1,
        reused=1,
        metrics={"recall@10": Figure(value=0.5, n=2), "hit@10": Figure(value=1.0, n=1, missing=1)},
        errors={"judge ModelUnavailable": 1},
        phases_ms={"embed": 1.5},
        spent=Spent(calls=2),
        cache={"hits": 1, "misses": 0, "bytes": 9},
        warnings=("few cases",),
        seconds=1.25,
    )
    assert list(done.metrics) == ["recall@10", "hit@10"]
    assert await evals.run(ev, "first") == done == await evals.run(ev, str(run.id))
    assert (run.dataset, run.dataset_hash) == ("cranfield", HASH)


async def test_case_comes_back_as_it_was_and_a_later_one_takes_its_place(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    await evals.save_cases(ev, run.id, [result(1, answer="old", errors=(FAILED,))], owner=ME)
    await evals.save_cases(ev, run.id, [result(1), FULL], owner=ME)

    assert await evals.results(ev, run.id) == [FULL, result(1)]
    found = await evals.run(ev, run.name)
    assert found is not None
    assert (found.done, found.failed, found.reused) == (2, 0, 1)
    assert await evals.results(ev, run.id + 1) == []


async def test_answer_that_no_text_can_hold_is_kept_with_signs_in_their_place(
    ev: Connection,
) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    contexts = ("nul \0", "half \ud800")
    await evals.save_cases(
        ev, run.id, [result(0, answer="a\0b\ud800c", contexts=contexts)], owner=ME
    )
    (kept,) = await evals.results(ev, run.id)
    assert (kept.answer, kept.contexts) == ("a\ufffdb\ufffdc", contexts)


async def test_number_that_json_cannot_hold_is_refused_by_name(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    for value in (float("nan"), float("inf")):
        bad = result(0, metrics={"f1": value})
        with pytest.raises(UsageError, match=r"case q0\.metrics\.f1 is (nan|inf)"):
            await evals.save_cases(ev, run.id, [bad], owner=ME)
    assert await evals.results(ev, run.id) == []


async def test_run_without_a_name_gets_its_datasets_and_its_number(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(name="x" * 100), HASH)
    run = await opened(ev, facts.id)
    assert run.name == f"{'x' * 80}-{run.id}"
    named = await opened(ev, facts.id, name="mine")
    assert [one.name for one in await evals.runs(ev)] == ["mine", run.name]
    assert [one.name for one in await evals.runs(ev, limit=1)] == ["mine"]
    assert await evals.runs(ev, "cranfield") == []
    assert await evals.run(ev, f"{named.id}") == named


@pytest.mark.parametrize("name", ["7", "a b", "", "baseline:x", "x" * 101])
async def test_run_name_is_plain_and_no_number(ev: Connection, name: str) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    with pytest.raises(UsageError, match="name of a run is not plain"):
        await opened(ev, facts.id, name=name)


async def test_run_name_is_unique(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    await opened(ev, facts.id, name="mine")
    with pytest.raises(Conflict, match=r"run: Key \(name\)=\(mine\) already exists"):
        await opened(ev, facts.id, name="mine")


@pytest.mark.parametrize(
    "which", ["0", "99999999999999999999", "nothing", "a\0", "\ud800", "٣", ""]
)
async def test_run_that_is_not_there_is_none(ev: Connection, which: str) -> None:
    assert await evals.run(ev, which) is None


async def test_run_needs_a_dataset_with_cases_as_many_as_were_read(ev: Connection) -> None:
    with pytest.raises(Conflict, match="there is no dataset 12345"):
        async with ev.transaction():
            await opened(ev, 12345)
    empty = await datasets.add(ev, dataset_of(0, name="empty"), HASH)
    with pytest.raises(UsageError, match="run_has_cases"):
        await opened(ev, empty.id, count=0)
    facts = await datasets.add(ev, dataset_of(), HASH)
    with pytest.raises(Conflict, match="has 2 cases, not 3"):
        await opened(ev, facts.id, count=3)
    assert await evals.runs(ev) == []


@pytest.mark.parametrize(
    ("stored", "there"),
    [
        ([], 0),
        ([result(0)], 1),
        ([result(0), result(1, errors=(FAILED,))], 1),
    ],
)
async def test_run_is_complete_only_with_every_case_and_no_error(
    ev: Connection, stored: Sequence[CaseResult], there: int
) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    await evals.save_cases(ev, run.id, stored, owner=ME)
    with pytest.raises(Conflict, match=f"is not complete: {there} of 2 cases"):
        async with ev.transaction():
            await closed(ev, run)
    assert (await closed(ev, run, state="partial")).state == "partial"


_HELD = "owner = 'x', lease_until = now(), closed_at = null"


async def test_complete_run_never_changes_not_even_by_its_owner(own_dsn: Dsn) -> None:
    async with eval_pool(own_dsn, "admin") as pool, pool.connection() as db, db.transaction():
        run = await measured(db)
        with pytest.raises(Conflict, match="cranfield-1 is complete and never changes"):
            await evals.claim_run(db, run.id, owner=ME)
        with pytest.raises(Conflict, match="cranfield-1 is complete and never changes"):
            await evals.save_cases(db, run.id, [result(0)], owner=ME)
        with pytest.raises(Conflict, match="cranfield-1 is complete and never changes"):
            await closed(db, run)
        for sql, match in (
            (f"update run set state = 'running', {_HELD}", "complete and never changes"),
            ("update run set metrics = '{}'", "complete and never changes"),
            ("update run_case set answer = 'x'", "its cases never change"),
            ("update run_case set ordinal = 5 where ordinal = 1", "its cases never change"),
            ("delete from run_case", "its cases never change"),
            (
                "insert into run_case (run_id, ordinal, case_id) values (1, 2, 'q2')",
                "its cases never change",
            ),
        ):
            async with refused(db, match):
                await db.execute(sql)
        assert await evals.run(db, "1") == run


async def test_run_keeps_what_it_was_begun_with(own_dsn: Dsn) -> None:
    async with eval_pool(own_dsn, "admin") as pool, pool.connection() as db, db.transaction():
        facts = await datasets.add(db, dataset_of(), HASH)
        run = await opened(db, facts.id)
        await evals.save_cases(db, run.id, [result(0)], owner=ME)
        for change in (
            "name = 'x'", "settings = '{}'", "provenance = '{}'", "judge_id = null",
            "cases = 1", "started_at = now()", "dataset_id = 5",
        ):  # fmt: skip
            async with refused(db, "keeps what it was begun with"):
                await db.execute(f"update run set {change}")
        for sql, match in (
            ("update run set state = 'partial'", "running_is_o"),
            ("update run set owner = null, lease_until = null", "running_is_owned"),
            ("update run set state = 'done'", "run_state_is_known|running_is_o"),
            ("update run_case set ordinal = 1, case_id = 'q1'", "stays in its place"),
            ("insert into run_case (run_id, ordinal, case_id) values (1, 1, 'q0')", "not in"),
            ("insert into run_case (run_id, ordinal, case_id) values (1, 9, 'q9')", "not in"),
            ("insert into run_case (run_id, ordinal, case_id) values (9, 1, 'q1')", "foreign"),
            ("insert into run (dataset_id, state) values (1, 'complete')", "begins as running"),
        ):
            async with refused(db, match):
                await db.execute(sql)


async def test_case_of_another_dataset_is_refused(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    with pytest.raises(Conflict, match=r"case 2 \(q2\) is not in the dataset of run"):
        await evals.save_cases(ev, run.id, [result(2)], owner=ME)


async def test_cases_of_a_run_may_be_saved_at_the_same_time(own: Pool) -> None:
    count = 120
    async with own.connection() as connection:
        facts = await datasets.add(connection, dataset_of(count), HASH)
        run = await opened(connection, facts.id, count=count)

    async def save(first: int) -> None:
        for ordinal in range(first, count, 6):
            async with own.connection() as connection:
                await evals.save_cases(connection, run.id, [result(ordinal)], owner=ME)

    await asyncio.gather(*(save(first) for first in range(6)))
    async with own.connection() as connection:
        assert await evals.results(connection, run.id) == [result(n) for n in range(count)]
        assert (await closed(connection, run)).state == "complete"


async def test_case_that_fails_beside_the_end_of_a_run_does_not_slip_in(own: Pool) -> None:
    async with own.connection() as first, own.connection() as second:
        facts = await datasets.add(first, dataset_of(), HASH)
        run = await opened(first, facts.id)
        await evals.save_cases(first, run.id, [result(0), result(1)], owner=ME)
        # Without the run's own row: only what the trigger locks keeps them apart.
        sql = "update run_case set errors = '[{}]' where run_id = $1 and ordinal = 1"
        transaction = first.transaction()
        await transaction.start()
        await first.execute(sql, run.id)
        closing = asyncio.create_task(closed(second, run))
        assert await waits(closing, first)
        await transaction.commit()
        with pytest.raises(Conflict, match="1 of 2 cases"):
            await closing

        await first.execute(sql.replace("[{}]", "[]"), run.id)
        transaction = second.transaction()
        await transaction.start()
        await closed(second, run)
        failing = asyncio.create_task(first.execute(sql, run.id))
        assert await waits(failing, second)
        await transaction.commit()
        with pytest.raises(asyncpg.RestrictViolationError, match="its cases never change"):
            await failing


async def test_run_with_its_cases_is_removed(ev: Connection) -> None:
    run = await measured(ev)
    assert await evals.remove_run(ev, run.id)
    assert await ev.fetchval("select count(*) from run_case") == 0
    assert not await evals.remove_run(ev, run.id)


# Who works on a run


async def expire(connection: Connection, run: Run) -> None:
    sql = "update run set lease_until = clock_timestamp() - interval '1 ms' where id = $1"
    await connection.execute(sql, run.id)


async def test_run_in_work_is_nobody_elses(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    said = f"{run.name} is being worked on by {ME} until 20..-..-..T.* wait for it"
    with pytest.raises(Conflict, match=said):
        await evals.claim_run(ev, run.id, owner=OTHER)
    with pytest.raises(Conflict, match=said):
        await evals.save_cases(ev, run.id, [result(0)], owner=OTHER)
    with pytest.raises(Conflict, match=said):
        await evals.renew_run(ev, run.id, owner=OTHER)
    with pytest.raises(Conflict, match=said):
        await closed(ev, run, state="partial", owner=OTHER)
    with pytest.raises(Conflict, match=said):
        await evals.remove_run(ev, run.id)
    assert await evals.results(ev, run.id) == []
    assert await evals.claim_run(ev, run.id, owner=ME) == run


async def test_run_that_its_process_left_is_partial_and_can_be_taken_over(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    await evals.save_cases(ev, run.id, [result(0)], owner=ME)
    await expire(ev, run)
    left = await evals.run(ev, run.name)
    assert left == replace(run, state="partial", done=1)

    taken = await evals.claim_run(ev, run.id, owner=OTHER)
    assert taken == replace(run, state="running", done=1)
    # The one that was only slow finds out before it writes anything.
    with pytest.raises(Conflict, match=f"worked on by {OTHER}"):
        await evals.save_cases(ev, run.id, [result(1)], owner=ME)
    await evals.save_cases(ev, run.id, [result(1)], owner=OTHER)
    assert (await closed(ev, run, owner=OTHER)).state == "complete"


async def test_slow_owner_goes_on_where_nobody_took_over(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    for again in (
        evals.save_cases(ev, run.id, [result(0)], owner=ME),
        evals.renew_run(ev, run.id, owner=ME),
    ):
        await expire(ev, run)
        await again
        left_s = await ev.fetchval(
            "select extract(epoch from lease_until - clock_timestamp())::float8 from run"
        )
        assert evals.LEASE_S - 5 < left_s <= evals.LEASE_S


async def test_partial_run_is_resumed(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    await evals.save_cases(ev, run.id, [result(0, errors=(FAILED,))], owner=ME)
    await closed(ev, run, state="partial")
    with pytest.raises(Conflict, match="not held by this process; resume it first"):
        await evals.save_cases(ev, run.id, [result(0)], owner=ME)

    assert (await evals.claim_run(ev, run.id, owner=OTHER)).state == "running"
    await evals.save_cases(ev, run.id, [result(0), result(1)], owner=OTHER)
    assert (await closed(ev, run, owner=OTHER)).state == "complete"


async def test_of_many_who_claim_a_run_one_gets_it(own: Pool) -> None:
    async with own.connection() as connection:
        facts = await datasets.add(connection, dataset_of(), HASH)
        run = await opened(connection, facts.id)
        await closed(connection, run, state="partial")

    async def claim() -> bool:
        async with own.connection() as connection:
            try:
                await evals.claim_run(connection, run.id, owner=evals.new_owner())
            except Conflict:
                return False
            return True

    assert sum(await asyncio.gather(*(claim() for _ in range(8)))) == 1


async def test_run_that_does_not_exist_cannot_be_worked_on(ev: Connection) -> None:
    run = replace(await measured(ev), id=12345)
    for act in (
        evals.claim_run(ev, run.id, owner=ME),
        evals.renew_run(ev, run.id, owner=ME),
        evals.save_cases(ev, run.id, [result(0)], owner=ME),
        closed(ev, run),
    ):
        with pytest.raises(NotFound, match="there is no run 12345"):
            await act


def test_owners_differ() -> None:
    assert evals.new_owner() != evals.new_owner()


# What is measured once


async def test_newest_case_without_errors_is_reused(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(3), HASH)
    first = await opened(ev, facts.id, count=3)
    second = await opened(ev, facts.id, count=3)
    third = await opened(ev, facts.id, count=3)
    for run, results in (
        (first, [result(0, reuse_key="a", answer="old"), result(1, reuse_key="b", answer="b")]),
        (second, [result(0, reuse_key="a", answer="new"), result(1), result(2)]),
        (third, [result(0, reuse_key="a", answer="bad", errors=(FAILED,))]),
        (third, [result(1, reuse_key="c", errors=(FAILED,))]),
    ):
        await evals.save_cases(ev, run.id, results, owner=ME)

    found = await evals.reusable(ev, ["a", "b", "c", "d", "a"])
    assert {key: one.answer for key, one in found.items()} == {"a": "new", "b": "b"}
    assert found["a"] == result(0, reuse_key="a", answer="new")
    assert await evals.reusable(ev, []) == {}


async def test_reuse_is_looked_up_in_an_index(own: Pool) -> None:
    count = 1500
    async with own.connection() as connection:
        facts = await datasets.add(connection, dataset_of(count), HASH)
        run = await opened(connection, facts.id, count=count)
        stored = [result(n, reuse_key=f"{n:064x}", answer="x" * 500) for n in range(count)]
        await evals.save_cases(connection, run.id, stored, owner=ME)
        async with connection.transaction():
            # As the engine asks: a plan for all values.
            await connection.execute("set local plan_cache_mode = force_generic_plan")
            sql = queries.block("evals", "reusable")
            await connection.execute(f"prepare reuse as {sql}")
            plan = await connection.fetch("explain execute reuse(array['a'])")
            await connection.execute("deallocate reuse")
        assert "run_case_by_reuse_key" in "\n".join(row[0] for row in plan)
        keys = [f"{n:064x}" for n in range(0, count, 3)]
        assert list((await evals.reusable(connection, keys)).values()) == stored[::3]


# Baselines


async def test_baseline_is_set_and_the_former_one_is_history(ev: Connection) -> None:
    first, second = await measured(ev), await measured(ev)
    one = await evals.set_baseline(ev, "main", first.id, "as it was")
    assert (one.name, one.dataset, one.run_id, one.run) == (
        "main", "cranfield", first.id, first.name,
    )  # fmt: skip
    assert (one.note, one.ended_at) == ("as it was", None)
    assert await evals.baseline(ev, "main", "cranfield") == first

    two = await evals.set_baseline(ev, "main", second.id)
    other = await evals.set_baseline(ev, "other", first.id)
    assert await evals.baseline(ev, "main", "cranfield") == second
    kept = await evals.baselines(ev, "cranfield")
    assert kept[:2] == [other, two]
    assert kept[2] == replace(one, ended_at=kept[2].ended_at)
    assert kept[2].ended_at is not None
    assert await evals.baselines(ev) == kept
    assert await evals.baselines(ev, "x") == []
    assert await evals.baseline(ev, "main", "x") is None
    assert await evals.baseline(ev, "x", "cranfield") is None
    assert await evals.baseline(ev, "a\0", "\ud800") is None


async def test_baselines_of_two_datasets_may_have_one_name(ev: Connection) -> None:
    first = await measured(ev)
    await evals.set_baseline(ev, "main", first.id)
    facts = await datasets.add(ev, dataset_of(name="other"), HASH)
    second = await opened(ev, facts.id)
    await evals.save_cases(ev, second.id, [result(0), result(1)], owner=ME)
    second = await closed(ev, second)
    await evals.set_baseline(ev, "main", second.id)
    assert await evals.baseline(ev, "main", "cranfield") == first
    assert await evals.baseline(ev, "main", "other") == second


async def test_only_a_complete_run_is_a_baseline(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    run = await opened(ev, facts.id)
    with pytest.raises(Conflict, match=f"run {run.name} is running: only a complete run"):
        async with ev.transaction():
            await evals.set_baseline(ev, "main", run.id)
    await closed(ev, run, state="partial")
    with pytest.raises(Conflict, match=f"run {run.name} is partial: only a complete run"):
        async with ev.transaction():
            await evals.set_baseline(ev, "main", run.id)
    with pytest.raises(NotFound, match="there is no run 12345"):
        async with ev.transaction():
            await evals.set_baseline(ev, "main", 12345)
    async with refused(ev, "baseline_is_a_complete_run"):
        await ev.execute(
            "insert into baseline (name, run_id, run_state) values ('x', $1, 'partial')", run.id
        )
    with pytest.raises(UsageError, match="name of a baseline is not plain"):
        async with ev.transaction():
            await evals.set_baseline(ev, "a b", run.id)
    assert await evals.baselines(ev) == []


async def test_current_baseline_cannot_be_removed_a_former_one_can(ev: Connection) -> None:
    first, second = await measured(ev), await measured(ev)
    await evals.set_baseline(ev, "main", first.id)
    with pytest.raises(
        Conflict, match=f"{first.name} is the current baseline main of dataset cranfield; set the"
    ):
        await evals.remove_run(ev, first.id)
    await evals.set_baseline(ev, "main", second.id)
    assert await evals.remove_run(ev, first.id)
    assert [one.run_id for one in await evals.baselines(ev)] == [second.id]


async def test_baseline_set_by_many_at_once_has_one_current(own: Pool) -> None:
    async with own.connection() as connection:
        runs = [await measured(connection) for _ in range(6)]

    async def choose(run: Run) -> None:
        async with own.connection() as connection:
            await evals.set_baseline(connection, "main", run.id)

    await asyncio.gather(*(choose(run) for run in runs[:4]))
    async with own.connection() as connection:
        kept = await evals.baselines(connection)
    assert len(kept) == 4
    assert sum(one.ended_at is None for one in kept) == 1


async def test_history_of_baselines_never_changes(own_dsn: Dsn) -> None:
    async with eval_pool(own_dsn, "admin") as pool, pool.connection() as db, db.transaction():
        first, second = await measured(db), await measured(db)
        await evals.set_baseline(db, "main", first.id)
        await evals.set_baseline(db, "main", second.id)
        for sql in (
            "update baseline set ended_at = null where ended_at is not null",
            "update baseline set note = 'x' where ended_at is null",
            f"update baseline set run_id = {first.id} where ended_at is null",
        ):
            async with refused(db, "is history and never changes"):
                await db.execute(sql)


# Noise


async def test_noise_is_kept_by_dataset_and_settings(ev: Connection) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    assert await evals.noise(ev, facts.id, "s") == {}
    await evals.save_noise(ev, facts.id, "s", {"p95_ms": (1.5, 2), "f1": (0.0, 2)}, runs=4)
    await evals.save_noise(ev, facts.id, "t", {"f1": (0.25, 1)}, runs=2)
    found = await evals.noise(ev, facts.id, "s")
    assert {key: (one.half_width, one.n, one.runs) for key, one in found.items()} == {
        "p95_ms": (1.5, 2, 4),
        "f1": (0.0, 2, 4),
    }
    assert found["f1"].measured_at.startswith("20")

    await evals.save_noise(ev, facts.id, "s", {"f1": (0.5, 2)}, runs=3)
    assert set(await evals.noise(ev, facts.id, "s")) == {"f1"}
    assert set(await evals.noise(ev, facts.id, "t")) == {"f1"}
    assert await datasets.remove(ev, "cranfield")
    assert await evals.noise(ev, facts.id, "t") == {}


@pytest.mark.parametrize(
    ("half_width", "n", "runs", "constraint"),
    [
        (float("nan"), 2, 4, "noise_is_finite"),
        (float("inf"), 2, 4, "noise_is_finite"),
        (-0.1, 2, 4, "noise_is_finite"),
        (0.1, 0, 4, "noise_has_cases"),
        (0.1, 2, 1, "noise_needs_two_runs"),
    ],
)
async def test_silly_noise_is_refused(
    ev: Connection, half_width: float, n: int, runs: int, constraint: str
) -> None:
    facts = await datasets.add(ev, dataset_of(), HASH)
    with pytest.raises(UsageError, match=constraint):
        await evals.save_noise(ev, facts.id, "s", {"f1": (half_width, n)}, runs=runs)


# Who may do what

_WRITES = [
    "insert into dataset (name, hash, format) values ('x', repeat('a', 64), 'f')",
    "update dataset set superseded_at = now()",
    "delete from dataset",
    "insert into dataset_case values (1, 0, 'q', true, true, true, '{}')",
    "delete from dataset_case",
    "insert into run (dataset_id, settings) values (1, '{}')",
    "update run set seconds = 1",
    "delete from run",
    "insert into run_case (run_id, ordinal, case_id) values (1, 0, 'q')",
    "update run_case set answer = ''",
    "delete from run_case",
    "insert into baseline (name, run_id) values ('x', 1)",
    "update baseline set ended_at = now()",
    "delete from baseline",
    "insert into noise values (1, 's', 'm', 0, 1, 2)",
    "delete from noise",
    "select nextval('run_id_seq')",
    "truncate run cascade",
]
_TABLES = ("dataset", "dataset_case", "run", "run_case", "baseline", "noise")


@pytest.mark.parametrize("workload", ["serve", "memory", "read"])
async def test_other_workloads_may_read_runs_but_write_nothing(
    shared: Pool, workload: Workload
) -> None:
    db = await connect(shared.dsn.login(ROLES[workload], None))
    try:
        await db.execute("set default_transaction_read_only = off")
        for table in _TABLES:
            await db.fetchval(f"select count(*) from {table}")
        for sql in _WRITES:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await db.execute(sql)
    finally:
        await db.close()


async def test_what_evaluations_may_write_is_exactly_this(db: Db) -> None:
    rows = await db.fetch(
        """
        select table_name || ':' || lower(privilege_type) as may
        from information_schema.table_privileges
        where grantee = 'eval_app' and privilege_type <> 'SELECT'
        union all
        select table_name || '.' || column_name || ':' || lower(privilege_type)
        from information_schema.column_privileges
        where grantee = 'eval_app' and privilege_type <> 'SELECT' and privilege_type <> 'INSERT'
          and table_name <> 'verdict'
        """
    )
    assert {row["may"] for row in rows} == {
        *(f"{table}:insert" for table in (*_TABLES, "verdict")),
        *(f"{table}:delete" for table in ("dataset", "dataset_case", "run", "noise", "verdict")),
        "verdict:update",
        "dataset.superseded_at:update",
        "baseline.ended_at:update",
        *(
            f"run.{column}:update"
            for column in (
                "state", "owner", "lease_until", "metrics", "errors", "phases_ms", "spent",
                "cache", "warnings", "seconds", "closed_at",
            )
        ),
        *(
            f"run_case.{column}:update"
            for column in (
                "hits", "contexts", "answer", "found", "labels", "metrics", "errors", "warnings",
                "phases_ms", "total_ms", "spent", "reuse_key", "is_reused", "saved_at",
            )
        ),
    }  # fmt: skip


async def test_evaluations_work_where_there_are_no_roles(app: App, db: Db) -> None:
    """On the pool that the engine uses."""
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        run = await measured(connection)
    with pytest.raises(Conflict, match="complete and never changes"):
        async with pool.connection() as connection:
            await evals.save_cases(connection, run.id, [result(0)], owner=ME)
    assert json.loads(await db.fetchval("select settings from run"))["collections"] == ["kb"]
    with pytest.raises(RaglineError):
        async with pool.connection() as connection:
            await connection.execute("update run set name = 'x'")

"""A run: every case of a dataset, through the live pipeline, saved as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ragline.core.cases import Case
from ragline.core.runs import CaseResult, Limits, Run, Settings, Spent
from ragline.db import evals as rows
from ragline.errors import Conflict, DatabaseUnreachable, NotFound, RaglineError, UsageError, first
from ragline.evals import cache, preparation, provenance, summary, work
from ragline.evals.preparation import Prepared
from ragline.evals.saving import Book
from ragline.evals.stopping import EARLY, LIMIT, Watch
from ragline.rag.app import App
from ragline.signals import usage
from ragline.signals.usage import Usage

_CLOSING_S = 15.0
# What may differ when a run goes on: it is said, and the rest must be the same.
_MAY_DIFFER = ("server", "code")
# How warnings begin that stay true when a run goes on; all others are made anew.
_DIED, _COLLECTION, _RESUMED = "a process died", "collection", "resumed"
_OF_THE_PAST = (_DIED, _COLLECTION, _RESUMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. `failed` counts since it began, or went on; `left_s` is an estimate.

    None is not known: how much is left before the first case, a cost without a price.
    """

    done: int
    total: int
    failed: int
    left_s: float | None
    cost_micro_usd: int | None


async def evaluate(
    app: App,
    dataset_name: str,
    settings: Settings,
    limits: Limits,
    *,
    name: str | None = None,
    resume: str | None = None,
    is_fresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Measure a dataset, and return the run: `complete`, or `partial` where cases failed or are missing.

    `app` must be open with `search_workload="eval"`. With `resume`, an earlier run goes on: only its
    missing and failed cases are measured again. `is_fresh` answers and judges anew what earlier runs
    did with the same contexts. Raises what the checks before a run say, UsageError and Conflict, and
    DatabaseUnreachable where the database is gone; cancelled, the run stays behind as partial.
    """
    started = time.monotonic()
    with usage.counting() as taken:
        async with preparation.prepared(
            app, dataset_name, settings, limits, is_fresh=is_fresh
        ) as ready:
            session = await _begun(ready, name, resume, taken, started)
            watch = Watch(limits=limits, taken=taken)
            try:
                await _worked(session, watch, on_progress)
                return await _closed(session, watch.why)
            except BaseException as error:
                await _left(session, error)
                raise


def ended_by(run: Run) -> Literal["limit", "errors"] | None:
    """Return why a run is partial: a limit of its own, or what failed; None where nothing says so."""
    if run.state == "complete":
        return None
    if any(said.startswith(LIMIT) for said in run.warnings):
        return "limit"
    return "errors" if run.errors else None


@dataclass(slots=True, kw_only=True)
class _Session:
    """A run while this process works on it. `run` is as it was when the work began."""

    ready: Prepared
    run: Run
    owner: str
    taken: Usage
    started: float
    book: Book
    results: dict[str, CaseResult]
    spent_before: Spent
    warnings: list[str]
    is_closed: bool = False

    def todo(self) -> list[tuple[int, Case]]:
        """Return the cases that are missing or failed, in order."""
        cases = enumerate(self.ready.dataset.cases)
        return [(at, case) for at, case in cases if not self._is_done(case.id)]

    def _is_done(self, case_id: str) -> bool:
        result = self.results.get(case_id)
        return result is not None and not result.errors


# -- the beginning ---------------------------------------------------------------------------------


async def _begun(
    ready: Prepared, name: str | None, resume: str | None, taken: Usage, started: float
) -> _Session:
    owner = rows.new_owner()
    results: list[CaseResult] = []
    warnings: list[str] = []
    async with ready.job.pool.connection() as connection:
        if resume is None:
            run = await rows.open_run(
                connection,
                name=name,
                dataset_id=ready.facts.id,
                settings=ready.job.settings,
                judge_id=ready.job.judge_id,
                provenance=ready.provenance,
                cases=len(ready.dataset.cases),
                owner=owner,
            )
        else:
            before = await rows.run(connection, resume)
            warnings = _check_same(before, ready, name, resume)
            run_id = before.id if before else 0
            has_died = await rows.was_left(connection, run_id)
            run = await rows.claim_run(connection, run_id, owner=owner)
            results = await rows.results(connection, run.id)
            warnings += [said for said in run.warnings if said.startswith(_OF_THE_PAST)]
            if has_died:
                warnings.append(f"{_DIED} that worked on it, and its time and cost are not known")
    return _Session(
        ready=ready,
        run=run,
        owner=owner,
        taken=taken,
        started=started,
        book=Book(ready.job.pool, run.id, owner),
        results={result.case_id: result for result in results},
        spent_before=_spent_before(run, results),
        warnings=[*ready.warnings, *warnings],
    )


def _check_same(run: Run | None, ready: Prepared, name: str | None, resume: str) -> list[str]:
    """Refuse to go on with a run that measured something else; return what to warn about."""
    if run is None:
        raise NotFound(f"run {resume!r} does not exist; `ragline eval runs` lists them")
    if name is not None:
        raise UsageError(f"run {run.name!r} has its name already: leave --name out, or --resume")
    if run.state == "complete":
        raise Conflict(f"run {run.name!r} is complete, and there is nothing to resume")
    reasons = []
    if run.dataset != ready.facts.name or run.dataset_hash != ready.facts.hash:
        reasons.append(
            f"the dataset was {run.dataset} ({run.dataset_hash[:12]}) and is {ready.facts.name} "
            f"({ready.facts.hash[:12]})"
        )
    if run.settings != ready.job.settings:
        reasons.append(f"the settings were {run.settings} and are {ready.job.settings}")
    if run.judge_id != ready.job.judge_id:
        reasons.append(f"the judge was {run.judge_id} and is {ready.job.judge_id}")
    reasons += provenance.differences(run.provenance, ready.provenance, but=_MAY_DIFFER)
    if reasons:
        raise UsageError(
            f"run {run.name!r} cannot go on, it would mix two things: {'; '.join(reasons)}. Begin a "
            "new run"
        )
    others = [part for part in run.provenance if part not in _MAY_DIFFER]
    differing = provenance.differences(run.provenance, ready.provenance, but=others)
    return [f"{_RESUMED} with another {one}" for one in differing]


# -- the work --------------------------------------------------------------------------------------


async def _worked(
    session: _Session, watch: Watch, on_progress: Callable[[Progress], None] | None
) -> None:
    """Do the cases that are left, several at once, and save them beside."""
    todo = session.todo()
    cases = iter(todo)
    report = _reporter(session, len(todo), on_progress)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.book.keep())
            try:
                async with asyncio.timeout(_left_s(session, watch.limits)) as clock:
                    await _side_by_side(session, watch, cases, report)
            except TimeoutError:
                if not clock.expired():
                    raise
                watch.over_time()
            session.book.close()
    except BaseExceptionGroup as several:
        raise first(several) from several


def _left_s(session: _Session, limits: Limits) -> float | None:
    if limits.max_time_s is None:
        return None
    return max(0.0, limits.max_time_s - (time.monotonic() - session.started))


async def _side_by_side(
    session: _Session,
    watch: Watch,
    cases: Iterator[tuple[int, Case]],
    report: Callable[[CaseResult], None],
) -> None:
    async def some() -> None:
        for ordinal, case in cases:
            if not await watch.may_begin():
                return
            result = await work.one(session.ready.job, ordinal, case)
            watch.saw(result)
            await watch.look_at_database(result, session.ready.job.pool)
            session.results[case.id] = result
            session.book.add(result)
            report(result)

    async with asyncio.TaskGroup() as group:
        for _ in range(watch.limits.concurrency):
            group.create_task(some())


def _reporter(
    session: _Session, todo: int, on_progress: Callable[[Progress], None] | None
) -> Callable[[CaseResult], None]:
    started, before = time.monotonic(), len(session.ready.dataset.cases) - todo
    done = failed = 0

    def report(result: CaseResult) -> None:
        nonlocal done, failed
        done += 1
        failed += bool(result.errors)
        if on_progress is None:
            return
        on_progress(
            Progress(
                done=before + done,
                total=before + todo,
                failed=failed,
                left_s=(time.monotonic() - started) / done * (todo - done),
                cost_micro_usd=session.taken.cost_micro_usd,
            )
        )

    return report


# -- the end ---------------------------------------------------------------------------------------


async def _closed(session: _Session, why: str | None) -> Run:
    """Return the run as it is stored, with its figures."""
    job, run = session.ready.job, session.run
    cases = {case.id: case for case in session.ready.dataset.cases}
    order = {case_id: at for at, case_id in enumerate(cases)}
    results = sorted(session.results.values(), key=lambda result: order[result.case_id])
    is_complete = len(results) == len(cases) and not any(result.errors for result in results)
    seconds = run.seconds + time.monotonic() - session.started
    has_died = any(said.startswith(_DIED) for said in session.warnings)
    spent = _spent_in_all(session, has_died=has_died)
    try:
        await session.book.flush()
        cached = await _cache(session)
        warnings = [
            *session.warnings,
            *summary.warned(results),
            *await _changed(session),
            *([why] if why else []),
        ]
        async with job.pool.connection() as connection:
            closed = await rows.close_run(
                connection,
                run.id,
                state="complete" if is_complete else "partial",
                metrics=summary.figures(
                    cases,
                    results,
                    {case.id: work.expected(job, case) for case in cases.values()},
                    seconds=None if has_died else seconds,
                    spent=spent,
                ),
                errors=summary.errors(results),
                phases_ms=summary.phases_ms(results),
                spent=spent,
                cache=cached,
                warnings=list(dict.fromkeys(warnings)),
                seconds=seconds,
                owner=session.owner,
            )
    except DatabaseUnreachable as error:
        raise DatabaseUnreachable(
            f"{error}. What was saved of run {run.name!r} is kept: when the database is back, and a "
            f"minute has passed, go on with --resume {run.name}"
        ) from error
    session.is_closed = True
    return closed


async def _left(session: _Session, error: BaseException) -> None:
    """Leave a partial run behind when something ends it; `error` says so where that is not possible."""
    if session.is_closed:
        return
    what = "interrupted" if isinstance(error, asyncio.CancelledError) else f"broke off: {error}"
    try:
        async with asyncio.timeout(_CLOSING_S):
            await _closed(session, f"{EARLY}: {what}")
    except (RaglineError, TimeoutError) as failure:
        error.add_note(f"run {session.run.name!r} could not be closed: {failure!r}")


async def _changed(session: _Session) -> list[str]:
    """Return a warning for each collection that was changed while it was measured."""
    app, epochs = session.ready.job.app, session.ready.provenance["epochs"]
    changed = []
    for name, before in epochs.items():
        try:
            now = (await app.collection(name, fresh=True)).epoch
        except NotFound:
            changed.append(f"{_COLLECTION} {name!r} was removed while it was measured")
            continue
        if now != before:
            changed.append(
                f"{_COLLECTION} {name!r} was changed while it was measured (epoch {before}, now {now}): "
                "cases may have seen different contents"
            )
    return changed


async def _cache(session: _Session) -> dict[str, int]:
    """Return what the verdict cache saved, earlier parts of the run included, and its size."""
    job, memory, before = session.ready.job, session.ready.memory, session.run.cache
    if job.judge is None or memory is None:
        return dict(before)
    await memory.close()
    tally, facts = job.judge.tally, await cache.facts(job.app)
    return {
        "hits": before.get("hits", 0) + tally.hits,
        "misses": before.get("misses", 0) + tally.misses,
        "bytes": facts.bytes,
        "evicted": before.get("evicted", 0) + memory.evicted,
    }


def _spent_before(run: Run, results: list[CaseResult]) -> Spent:
    """Return what earlier parts of the run took; where one was killed, at least what its cases say."""
    return max(
        run.spent, summary.spent(result.spent for result in results), key=lambda spent: spent.calls
    )


def _spent_in_all(session: _Session, *, has_died: bool) -> Spent:
    spent = summary.spent([session.spent_before, summary.taken(session.taken)])
    settings = session.ready.job.settings
    asks_models = spent.calls or settings.answers == "generated" or settings.judge == "llm"
    if has_died and asks_models:
        # What that process asked for last may be billed, and stands in no case.
        return replace(spent, input_tokens=None, output_tokens=None, cost_micro_usd=None)
    return spent

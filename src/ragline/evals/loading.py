"""Runs by what people call them: a number, a name, or the name of a baseline."""

from __future__ import annotations

from collections.abc import Mapping

from ragline.core.cases import Case
from ragline.core.runs import CaseResult, Run
from ragline.db import datasets as dataset_rows
from ragline.db import evals as rows
from ragline.db.pool import Connection
from ragline.errors import NotFound, UsageError
from ragline.rag.app import App

BASELINE = "baseline:"
_MOST_LISTED = 10


async def one(app: App, reference: str) -> Run:
    """Return the run that is meant; NotFound says which there are."""
    async with app.connection("eval") as connection:
        found = await _candidates(connection, reference)
    return _only(reference, found)


async def both(app: App, a: str, b: str) -> tuple[Run, Run]:
    """Return the two runs that are meant. A baseline's name may be kept for several datasets: then
    it means that of the other run's.
    """
    async with app.connection("eval") as connection:
        first, second = await _candidates(connection, a), await _candidates(connection, b)
    if len(second) == 1:
        first = _of_dataset(first, second[0])
    elif len(first) == 1:
        second = _of_dataset(second, first[0])
    return _only(a, first), _only(b, second)


async def results(app: App, run: Run) -> tuple[CaseResult, ...]:
    """Return a run's cases in order."""
    async with app.connection("eval") as connection:
        return tuple(await rows.results(connection, run.id))


async def cases(app: App, run: Run) -> Mapping[str, Case]:
    """Return the cases that a run was measured with, by id."""
    async with app.connection("eval") as connection:
        found = await dataset_rows.of_run(connection, run.id)
    return {case.id: case for case in found[1].cases} if found else {}


async def noise(app: App, *runs: Run) -> dict[str, float]:
    """Return what two runs without a change differ by on this machine, as far as it was measured.

    It is measured for the settings of a run; of several runs with other settings, the largest counts.
    """
    largest: dict[str, float] = {}
    async with app.connection("eval") as connection:
        for run in runs:
            settings_hash = run.provenance.get("settings_hash")
            found = await dataset_rows.of_run(connection, run.id)
            if found is None or not isinstance(settings_hash, str):
                continue
            for metric, one in (await rows.noise(connection, found[0].id, settings_hash)).items():
                largest[metric] = max(one.half_width, largest.get(metric, 0.0))
    return largest


async def _candidates(connection: Connection, reference: str) -> list[Run]:
    name = reference.removeprefix(BASELINE)
    kept = await _kept(connection, name)
    if name != reference:
        return kept or await _missing(connection, reference)
    run = await rows.run(connection, name)
    if run is None:
        return kept or await _missing(connection, reference)
    if others := [other for other in kept if other.id != run.id]:
        raise UsageError(
            f"{name!r} is the name of run {run.id} and of a baseline, run {others[0].id}; say "
            f"{run.id}, or {BASELINE}{name}"
        )
    return [run]


async def _kept(connection: Connection, name: str) -> list[Run]:
    """Return the runs that are a baseline of this name now, one for each dataset."""
    found = []
    for baseline in await rows.baselines(connection):
        if baseline.name == name and baseline.ended_at is None:
            run = await rows.baseline(connection, name, baseline.dataset)
            if run is not None:
                found.append(run)
    return found


async def _missing(connection: Connection, reference: str) -> list[Run]:
    known = [f"{run.id} ({run.name})" for run in await rows.runs(connection, limit=_MOST_LISTED)]
    kept = sorted({one.name for one in await rows.baselines(connection) if one.ended_at is None})
    listed = f"the newest runs are {', '.join(known)}" if known else "there is no run yet"
    if kept:
        listed += f"; baselines: {', '.join(kept[:_MOST_LISTED])}"
    what = "baseline" if reference.startswith(BASELINE) else "run or baseline"
    raise NotFound(f"{what} {reference.removeprefix(BASELINE)!r} does not exist; {listed}")


def _of_dataset(found: list[Run], other: Run) -> list[Run]:
    fitting = [run for run in found if run.dataset == other.dataset]
    return fitting if len(found) > 1 and fitting else found


def _only(reference: str, found: list[Run]) -> Run:
    if len(found) > 1:
        listed = ", ".join(f"run {run.id} of {run.dataset}" for run in found)
        raise UsageError(
            f"{reference!r} is a baseline of several datasets ({listed}); say the run's number"
        )
    return found[0]

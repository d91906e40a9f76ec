"""Baselines: runs that are kept under a name, to compare others with."""

from __future__ import annotations

from ragline.core.runs import Baseline, Run
from ragline.db import evals as rows
from ragline.errors import NotFound, UsageError
from ragline.evals import loading
from ragline.rag.app import App


async def keep(app: App, run: str, name: str, note: str | None = None) -> Baseline:
    """Make a run the baseline `name` of its dataset; the one before it ends, and stays in the list.

    `run` is a number, a name, or a baseline's name. Only a complete run can be one: UsageError says
    what is missing.
    """
    found = await loading.one(app, run)
    if found.state != "complete":
        raise UsageError(
            f"run {found.id} ({found.name}) is {found.state}: {found.done} of {found.cases} cases "
            "are there, so nothing can be measured against it; finish it with "
            f"`ragline eval run {found.dataset} --resume {found.id}`"
        )
    async with app.connection("eval") as connection:
        return await rows.set_baseline(connection, name, found.id, note)


async def every(app: App, dataset: str | None = None) -> tuple[Baseline, ...]:
    """Return the baselines of a dataset or of all, the newest first, also those that ended."""
    async with app.connection("eval") as connection:
        return tuple(await rows.baselines(connection, dataset))


async def one(app: App, name: str, dataset: str | None = None) -> Run:
    """Return the run that a baseline is now; NotFound says which baselines there are."""
    if dataset is None:
        return await loading.one(app, f"{loading.BASELINE}{name}")
    async with app.connection("eval") as connection:
        found = await rows.baseline(connection, name, dataset)
        if found is None:
            kept = [
                one.name for one in await rows.baselines(connection, dataset) if not one.ended_at
            ]
            there = f"there are: {', '.join(kept)}" if kept else "it has none yet"
            raise NotFound(f"dataset {dataset!r} has no baseline {name!r}; {there}")
    return found

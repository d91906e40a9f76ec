"""How far the same evaluation moves by itself, on this machine and with these models: A/A."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ragline.core import stats
from ragline.core.runs import Limits, Noise, Run, Settings
from ragline.db import datasets as dataset_rows
from ragline.db import evals as rows
from ragline.errors import Inconclusive, UsageError
from ragline.evals.run import Progress, evaluate
from ragline.rag.app import App

# Of these a share is compared, not a difference, so their noise is a share too.
_RATIOS = ("_ms", "_seconds", "_micro_usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseReport:
    """The noise of each metric: within `half_width` lie 95 of 100 pairs of runs without a difference.

    Of times and costs it is a share (0.08 is 8 %), of all others a difference.
    """

    dataset: str
    settings_hash: str
    runs: int
    cases: int
    metrics: Mapping[str, Noise]
    seconds: float
    warnings: tuple[str, ...]


async def calibrate(
    app: App,
    dataset: str,
    settings: Settings,
    limits: Limits,
    *,
    runs: int = 4,
    on_progress: Callable[[Progress], None] | None = None,
) -> NoiseReport:
    """Measure a dataset `runs` times, each time anew, and store how far the figures lie apart.

    The runs are removed afterwards. Raises UsageError for fewer than three runs, and Inconclusive
    where one of them is partial or they did not measure the same: then nothing is stored.
    """
    if runs < stats.FEWEST_REPEATS:
        raise UsageError(f"runs is {runs}; it takes at least {stats.FEWEST_REPEATS} to see noise")
    started = time.monotonic()
    done: list[Run] = []
    try:
        for number in range(runs):
            report = _reporter(number, runs, on_progress)
            one = await evaluate(app, dataset, settings, limits, is_fresh=True, on_progress=report)
            done.append(one)
            _check(one, done[0])
        dataset_id = await _store(app, done)
    finally:
        await _remove(app, done)
    return await _stored(app, dataset_id, done, time.monotonic() - started)


def half_widths(runs: Sequence[Run]) -> dict[str, tuple[float, int]]:
    """Return the half width and the number of cases of each metric that all runs have.

    A time or a cost of 0 has no share, and is left out.
    """
    shared = set.intersection(*(set(run.metrics) for run in runs))
    found = {}
    for name in sorted(shared):
        values = [run.metrics[name].value for run in runs]
        is_ratio = name.endswith(_RATIOS)
        if not is_ratio or min(values) > 0:
            width = stats.half_width(values, is_ratio=is_ratio)
            found[name] = (width, runs[0].metrics[name].n)
    return found


def _check(one: Run, first: Run) -> None:
    if one.state != "complete":
        errors = ", ".join(f"{count} {what}" for what, count in one.errors.items())
        why = errors or "; ".join(one.warnings) or "cases are missing"
        raise Inconclusive(f"a run of {one.dataset!r} is partial, so its noise is not known: {why}")
    for part in ("settings_hash", "epochs"):
        if one.provenance[part] != first.provenance[part] or one.dataset_hash != first.dataset_hash:
            raise Inconclusive(
                f"dataset {one.dataset!r}, its collections or its models were changed while the noise "
                "was measured; measure again"
            )


async def _store(app: App, runs: Sequence[Run]) -> int:
    """Store the noise, and return the dataset's number."""
    async with app.connection("eval") as connection:
        found = await dataset_rows.of_run(connection, runs[0].id)
        if found is None:
            raise UsageError(f"dataset {runs[0].dataset!r} was removed while it was measured")
        await rows.save_noise(
            connection,
            found[0].id,
            runs[0].provenance["settings_hash"],
            half_widths(runs),
            runs=len(runs),
        )
        return found[0].id


async def _stored(app: App, dataset_id: int, runs: Sequence[Run], seconds: float) -> NoiseReport:
    """Return what was stored, read back."""
    settings_hash = runs[0].provenance["settings_hash"]
    async with app.connection("eval") as connection:
        noise = await rows.noise(connection, dataset_id, settings_hash)
    return NoiseReport(
        dataset=runs[0].dataset,
        settings_hash=settings_hash,
        runs=len(runs),
        cases=runs[0].cases,
        metrics=noise,
        seconds=seconds,
        warnings=tuple(dict.fromkeys(said for run in runs for said in run.warnings)),
    )


async def _remove(app: App, runs: Sequence[Run]) -> None:
    async with app.connection("eval") as connection:
        for run in runs:
            await rows.remove_run(connection, run.id)


def _reporter(
    number: int, runs: int, on_progress: Callable[[Progress], None] | None
) -> Callable[[Progress], None] | None:
    if on_progress is None:
        return None

    def report(one: Progress) -> None:
        left, later = one.total - one.done, (runs - number - 1) * one.total
        # The last case of a run leaves nothing to estimate a case by.
        case_s = one.left_s / left if one.left_s is not None and left else None
        on_progress(
            Progress(
                done=number * one.total + one.done,
                total=runs * one.total,
                failed=one.failed,
                left_s=None if case_s is None else case_s * (left + later),
                cost_micro_usd=one.cost_micro_usd,
            )
        )

    return report

"""Two runs of a dataset: what differs, by how much, how sure that is, and whether it may stay."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.core import comparing, redline, stats
from ragline.core.cases import Case
from ragline.core.comparing import Changes, Pair
from ragline.core.policies import Line, Policy
from ragline.core.redline import Verdict
from ragline.core.runs import CaseResult, Figure, Run
from ragline.core.stats import Outcome
from ragline.errors import UsageError
from ragline.evals import loading
from ragline.rag.app import App

MARGIN = 0.01
"""What a metric of quality may lose where no policy says otherwise: one point of a hundred."""
_LATENCY = "search_ms"
_COST = "eval_cost_micro_usd"
_QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A metric that both runs have: means over the cases that both measured, and run - baseline.

    `low` and `high` are the 95 % interval of the difference; None with a single case.
    """

    metric: str
    n: int
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A quantile of the time a search took, and run / baseline.

    `low` and `high` are its 95 % interval; None with fewer cases than the policy's minimum.
    """

    metric: str
    n: int
    before_ms: float
    after_ms: float
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run beside a baseline. Without a policy of the caller's, the baseline's metrics have a line.

    `overlap` is the mean share of chunks that both found among the first k; None without searches.
    `metrics` are all that both have, `verdict` judges those that `policy` names.
    """

    baseline: Run
    run: Run
    policy: Policy
    is_own_policy: bool
    is_identical: bool
    overlap: float | None
    metrics: tuple[Difference, ...]
    latencies: tuple[Latency, ...]
    changes: Changes
    verdict: Verdict
    caveats: tuple[str, ...]

    @property
    def status(self) -> Outcome:
        """The verdict over all lines: `pass`, `fail` or `inconclusive`."""
        return self.verdict.status


async def compare(app: App, a: str, b: str, policy: Policy | None = None) -> Comparison:
    """Return how run `b` differs from baseline `a`, case by case, with a verdict.

    Each is a run's number, its name, a baseline's name, or `baseline:NAME`. Raises UsageError where
    their cases make no pairs, saying why and what to do, and NotFound.
    """
    baseline, run = await loading.both(app, a, b)
    refuse(baseline, run)
    before, after = await loading.results(app, baseline), await loading.results(app, run)
    cases, noise = await loading.cases(app, run), await loading.noise(app, baseline, run)
    return await asyncio.to_thread(
        compared, baseline, run, before, after, cases=cases, policy=policy, noise=noise
    )


def refuse(baseline: Run, run: Run) -> None:
    """Raise UsageError when two runs cannot be compared."""
    if reasons := comparing.unmatched(baseline, run):
        raise UsageError(
            f"run {run.id} ({run.name}) cannot be compared with run {baseline.id} "
            f"({baseline.name}): {'; '.join(reasons)}"
        )


def compared(
    baseline: Run,
    run: Run,
    before: Sequence[CaseResult],
    after: Sequence[CaseResult],
    *,
    cases: Mapping[str, Case],
    policy: Policy | None = None,
    noise: Mapping[str, float] | None = None,
) -> Comparison:
    """Return the comparison of two runs that may be compared. The order of cases does not matter.

    `noise` is the half width of what two runs without a change differ by, for each latency.
    """
    if alone := comparing.unpaired(before, after):
        raise UsageError(
            f"runs {baseline.id} and {run.id} do not have the same cases: {alone}; run both again"
        )
    together = comparing.pairs(before, after)
    is_identical = comparing.is_identical(together)
    was, now = comparing.per_case(before), comparing.per_case(after)
    lines = policy or default_policy(was, now)
    verdict = redline.verdict(
        lines, figures(run), run.judge_id, now, was, is_identical=is_identical, noise=noise
    )
    return Comparison(
        baseline=baseline,
        run=run,
        policy=lines,
        is_own_policy=policy is not None,
        is_identical=is_identical,
        overlap=comparing.overlap(run.settings.k, together),
        metrics=_differences(together, lines),
        latencies=_latencies(together, lines),
        changes=comparing.changes(together, cases),
        verdict=verdict,
        caveats=comparing.caveats(baseline, run),
    )


def figures(run: Run) -> dict[str, Figure | None]:
    """Return a run's figures by metric; a cost that nobody knows is None, and keeps no ceiling."""
    unknown = {_COST: None} if run.spent.cost_micro_usd is None else {}
    return {**run.metrics, **unknown}


def default_policy(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> Policy:
    """Return a policy with a line for every metric of quality of the baseline, `before`.

    One that the run has lost is not measured, and fails. Raises UsageError where they share none.
    """
    judged = [
        name for name in before if comparing.is_of_quality(name) and comparing.has_direction(name)
    ]
    if not after.keys() & set(judged):
        raise UsageError(
            "the two runs have no metric in common; run both on a dataset with relevant documents or "
            "gold answers, or with `--against-exact`"
        )
    lines = [
        Line(
            metric=name,
            margin=MARGIN,
            better="lower" if comparing.is_lower_better(name) else "higher",
        )
        for name in judged
    ]
    return Policy(lines=(), source="default margin").of(lines)


def _differences(together: Sequence[Pair], policy: Policy) -> tuple[Difference, ...]:
    columns = {
        metric: values
        for metric, values in _columns(together).items()
        if comparing.is_of_quality(metric)
    }
    if not columns:
        return ()
    found = stats.resampled(
        [[after - before for before, after in values] for values in columns.values()],
        seed=policy.seed,
        resamples=policy.resamples,
    )
    return tuple(
        Difference(
            metric=metric,
            n=one.n,
            before=math.fsum(before for before, _ in values) / one.n,
            after=math.fsum(after for _, after in values) / one.n,
            difference=one.mean,
            low=ends[0] if ends else None,
            high=ends[1] if ends else None,
        )
        for (metric, values), one in zip(columns.items(), found, strict=True)
        for ends in [one.interval()]
    )


def _columns(together: Sequence[Pair]) -> dict[str, list[tuple[float, float]]]:
    """Return both values of each metric, for the cases where both runs measured it."""
    columns: dict[str, list[tuple[float, float]]] = {}
    for pair in together:
        for metric, before in pair.before.metrics.items():
            after = pair.after.metrics.get(metric)
            if after is not None:
                columns.setdefault(metric, []).append((before, after))
    return columns


def _latencies(together: Sequence[Pair], policy: Policy) -> tuple[Latency, ...]:
    times = _columns(together).get(_LATENCY, [])
    if not times or min(min(pair) for pair in times) <= 0:
        return ()
    before, after = [pair[0] for pair in times], [pair[1] for pair in times]
    return tuple(
        _latency(metric, share, before, after, policy) for metric, share in _QUANTILES.items()
    )


def _latency(
    metric: str, share: float, before: Sequence[float], after: Sequence[float], policy: Policy
) -> Latency:
    gain = stats.block_bootstrap(
        after, before, share=share, seed=policy.seed, resamples=policy.resamples
    )
    ends = gain.interval() if gain.n >= policy.minimum else None
    return Latency(
        metric=metric,
        n=gain.n,
        before_ms=stats.quantile(before, share),
        after_ms=stats.quantile(after, share),
        ratio=math.exp(-gain.mean),
        low=math.exp(-ends[1]) if ends else None,
        high=math.exp(-ends[0]) if ends else None,
    )

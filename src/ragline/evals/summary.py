"""What a run's cases amount to: means, quantiles, sums, each with how many it is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from ragline.core import reading, stats
from ragline.core.cases import Case
from ragline.core.runs import CaseResult, Figure, Spent
from ragline.signals import usage
from ragline.signals.usage import Usage

LATENCY = "search_ms"
_MOST_WARNINGS = 5
_QUANTILES = (("p50_ms", 0.5), ("p95_ms", 0.95))


def figures(
    cases: Mapping[str, Case],
    results: Sequence[CaseResult],
    expected: Mapping[str, Sequence[str]],
    *,
    seconds: float | None,
    spent: Spent,
) -> dict[str, Figure]:
    """Return the figures of a run. `expected` has the metrics of each case when nothing goes wrong.

    A metric that no case has is not there, nor a time (`seconds`) or cost that nobody knows. Cases that
    a partial run did not come to are missing; one without errors lacks nothing: where there was nothing
    to find, its `ann_recall` has no value.
    """
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.metrics.items():
            values.setdefault(name, []).append(value)
    had = {r.case_id: r.metrics if r.errors else expected.get(r.case_id, ()) for r in results}
    lacking = Counter(
        name
        for case_id, names in expected.items()
        for name in names
        if name not in had.get(case_id, ())
    )
    found = {
        name: Figure(value=fmean(some), n=len(some), missing=lacking[name])
        for name, some in sorted(values.items())
    }
    if times := values.get(LATENCY):
        missing = found[LATENCY].missing
        for name, share in _QUANTILES:
            value = stats.quantile(times, share)
            found[name] = Figure(value=value, n=len(times), missing=missing)
    found |= _abstention(cases, results)
    if seconds is not None:
        found["eval_seconds"] = Figure(value=seconds, n=len(results))
    if spent.cost_micro_usd is not None:
        found["eval_cost_micro_usd"] = Figure(value=float(spent.cost_micro_usd), n=len(results))
    return found


def errors(results: Iterable[CaseResult]) -> dict[str, int]:
    """Return how many errors there are by phase and class: {"judge ModelUnavailable": 3}."""
    counted = Counter(f"{e.phase} {e.kind}" for result in results for e in result.errors)
    return dict(sorted(counted.items()))


def phases_ms(results: Iterable[CaseResult]) -> dict[str, float]:
    """Return the milliseconds of each phase, summed over the cases."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.phases_ms)
    return dict(sorted(total.items()))


def warned(results: Iterable[CaseResult]) -> list[str]:
    """Return what cases warn of, the most frequent first, with how many do."""
    counted = Counter(said for result in results for said in result.warnings)
    most = counted.most_common(_MOST_WARNINGS)
    lines = [f"{count} {'case' if count == 1 else 'cases'}: {said}" for said, count in most]
    more = len(counted) - len(most)
    return [*lines, *([f"cases have {more} other warnings: see each"] if more else [])]


def taken(counted: Usage) -> Spent:
    """Return what was counted while something was measured."""
    return Spent(
        calls=counted.calls,
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cost_micro_usd=counted.cost_micro_usd,
    )


def spent(several: Iterable[Spent]) -> Spent:
    """Return the sum; what is unknown in a part is unknown in the whole."""
    some = list(several)
    return Spent(
        calls=sum(one.calls for one in some),
        input_tokens=usage.total(one.input_tokens for one in some),
        output_tokens=usage.total(one.output_tokens for one in some),
        cost_micro_usd=usage.total(one.cost_micro_usd for one in some),
    )


def _abstention(cases: Mapping[str, Case], results: Iterable[CaseResult]) -> dict[str, Figure]:
    told = {r.case_id: r.found for r in results if r.found is not None}
    outcomes = [(cases[case_id].is_answerable, found) for case_id, found in told.items()]
    if all(is_answerable for is_answerable, _ in outcomes):
        return {}
    measured = reading.abstention(outcomes)
    # Whether a case that failed would have been declined is not known.
    unknown = [case for case_id, case in cases.items() if case_id not in told]
    of_those = sum(not case.is_answerable for case in unknown)
    named = {
        "abstention_precision": (measured.precision, measured.declined, len(unknown)),
        "abstention_recall": (measured.recall, measured.unanswerable, of_those),
    }
    return {
        name: Figure(value=value, n=n, missing=missing)
        for name, (value, n, missing) in named.items()
        if value is not None
    }

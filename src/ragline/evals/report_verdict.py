"""A verdict as reports show it: line by line, with what it rests on and what it could have seen."""

from __future__ import annotations

from ragline.core.policies import Policy
from ragline.core.redline import Verdict
from ragline.core.redline_rows import Row
from ragline.evals.report_content import (
    Foreign,
    Table,
    columns,
    figure,
    interval,
    signed,
)

_COLUMNS = columns(
    "metric | verdict | #baseline | #run | #difference | #95 % interval | #n "
    "| #least visible drop | >line | >reason"
)


def table(verdict: Verdict, policy: Policy) -> Table:
    """Return each line of a policy with its verdict."""
    return Table(
        key="verdict",
        title="Verdict, line by line",
        columns=_COLUMNS,
        rows=tuple(_row(row) for row in verdict.rows),
        note=how(policy),
    )


def _row(row: Row) -> tuple[str, ...]:
    return (
        row.metric,
        row.status,
        "-" if row.baseline is None else figure(row.metric, row.baseline),
        figure(row.metric, row.value),
        _difference(row),
        _interval(row),
        str(row.n),
        _detectable(row),
        Foreign(row.line),
        Foreign(row.reason),
    )


def _difference(row: Row) -> str:
    if row.is_ratio and row.difference is not None:
        return f"{row.difference:+.1%}"
    return signed(row.metric, row.difference)


def _interval(row: Row) -> str:
    """Return the interval of the difference, or of the value where there is nothing to differ from."""
    if row.low is None or row.high is None:
        return "-"
    if row.is_ratio:
        return f"{row.low:+.1%} to {row.high:+.1%}"
    if row.difference is None:
        return f"{figure(row.metric, row.low)} to {figure(row.metric, row.high)}"
    return interval(row.metric, row.low, row.high)


def _detectable(row: Row) -> str:
    if row.detectable is None:
        return "-"
    return f"{row.detectable:.1%}" if row.is_ratio else figure(row.metric, row.detectable)


def how(policy: Policy) -> str:
    """Return how the verdicts were reached."""
    return (
        f"Paired bootstrap over cases: {policy.resamples:,} resamples, seed {policy.seed}. Where "
        f"nothing changed, at most {policy.alpha:.2g} of comparisons fail, over all lines with a "
        f"margin and {policy.looks} look{'s' if policy.looks > 1 else ''} together (Holm). Below "
        f"{policy.minimum} cases a line with a margin is inconclusive. Floors and ceilings are held "
        "against the figure as it is. A drop as large as the least visible one would have failed four "
        "times in five although a few cases lose all they had; one that is spread over many shows "
        "sooner."
    )


def summary(verdict: Verdict) -> str:
    """Return a verdict as a sentence that names the lines which decided it."""
    total = len(verdict.rows)
    named = _named(verdict, verdict.status)
    left = _named(verdict, "not judged")
    if not named:
        return f"{verdict.reason}."
    said = f"{len(named)} of {total} lines pass"
    if verdict.status != "pass":
        verb = "fail" if verdict.status == "fail" else "are inconclusive"
        said = f"{len(named)} of {total} lines {verb}: {', '.join(dict.fromkeys(named))}"
    return f"{said}; {len(left)} not judged." if left else f"{said}."


def _named(verdict: Verdict, status: str) -> list[str]:
    return [row.metric for row in verdict.rows if row.status == status]

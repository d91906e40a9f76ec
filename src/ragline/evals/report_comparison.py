"""What a report says of two runs."""

from __future__ import annotations

from collections.abc import Sequence

from ragline.core.comparing import CaseChange, has_direction, is_lower_better
from ragline.core.policies import Line
from ragline.core.redline_rows import Row
from ragline.evals import report_cases, report_verdict
from ragline.evals.compare import Comparison, Difference
from ragline.evals.report_content import (
    Content,
    Interval,
    Table,
    bars,
    columns,
    direction,
    effort,
    errors,
    figure,
    interval,
    marks_of,
    measured_on,
    phases,
    ratio,
    run_name,
    signed,
)

MOST_LISTED = 20
_MOST_PANELS = 10
_UNCHANGED = (
    "Unchanged by construction: every case has the same chunks in order, and the same answer."
)


def content(comparison: Comparison) -> Content:
    """Return what the report of a comparison says."""
    runs = (comparison.baseline, comparison.run)
    changes = comparison.changes
    listed = [
        report_verdict.table(comparison.verdict, comparison.policy),
        _not_judged(comparison),
        _latencies(comparison),
        _counts(comparison),
        _changed("regressed", "Regressed cases", changes.regressed),
        _changed("improved", "Improved cases", changes.improved),
        _changed("changed", "Cases that changed otherwise", changes.changed),
        errors(runs),
        phases(runs),
        effort(runs),
        measured_on(runs),
    ]
    return Content(
        title=f"{run_name(comparison.run)} compared with {run_name(comparison.baseline)}",
        status=comparison.status,
        summary=_summary(comparison),
        marks=_marks(comparison),
        tables=tuple(table for table in listed if table is not None),
        intervals=_intervals(comparison),
        bars=bars(runs),
        bar_names=("baseline", "run"),
        panels=tuple(map(report_cases.compared, changes.regressed[:_MOST_PANELS])),
        panels_title="Worst regressions, side by side",
        panels_after="regressed",
    )


def _summary(comparison: Comparison) -> str:
    said = report_verdict.summary(comparison.verdict)
    changes = comparison.changes
    counts = (
        f"{len(changes.regressed)} cases regressed, {len(changes.improved)} improved, "
        f"{len(changes.changed)} changed otherwise, {changes.same} are the same."
    )
    return " ".join([said, _UNCHANGED if comparison.is_identical else counts])


def _marks(comparison: Comparison) -> tuple[str, ...]:
    own = (
        ()
        if comparison.is_own_policy
        else ("no policy was given: each metric of the baseline may lose 1 point of 100",)
    )
    found = [*marks_of(comparison.baseline), *marks_of(comparison.run), *comparison.caveats, *own]
    return tuple(dict.fromkeys(found))


def _not_judged(comparison: Comparison) -> Table | None:
    """Return the differences that no line of the policy asks for."""
    judged = {row.metric for row in comparison.verdict.rows}
    rows = tuple(_difference(one) for one in comparison.metrics if one.metric not in judged)
    if not rows:
        return None
    return Table(
        key="metrics",
        title="Metrics that no line judges",
        columns=columns(
            "metric | #baseline | #run | #difference | #95 % interval | #n | >direction"
        ),
        rows=rows,
    )


def _difference(one: Difference) -> tuple[str, ...]:
    return (
        one.metric,
        figure(one.metric, one.before),
        figure(one.metric, one.after),
        signed(one.metric, one.difference),
        interval(one.metric, one.low, one.high),
        str(one.n),
        direction(one.metric),
    )


def _latencies(comparison: Comparison) -> Table | None:
    if not comparison.latencies:
        return None
    rows = tuple(
        (
            one.metric,
            figure(one.metric, one.before_ms),
            figure(one.metric, one.after_ms),
            ratio(one.ratio),
            "-" if one.low is None else f"{ratio(one.low)} to {ratio(one.high)}",
            str(one.n),
        )
        for one in comparison.latencies
    )
    return Table(
        key="latency",
        title="Latency of the search",
        columns=columns("metric | #baseline | #run | #run / baseline | #95 % interval | #n"),
        rows=rows,
        note=(
            "Pairs of the same question, drawn in blocks of neighbours. Two runs one after the other "
            "may differ by what else the machine did; only a line of the policy judges this."
        ),
    )


def _counts(comparison: Comparison) -> Table:
    changes, run = comparison.changes, comparison.run
    rows = [
        ("regressed", str(len(changes.regressed))),
        ("improved", str(len(changes.improved))),
        ("changed otherwise", str(len(changes.changed))),
        ("the same", str(changes.same)),
    ]
    if comparison.overlap is not None:
        rows.append((f"chunks in common (overlap@{run.settings.k})", f"{comparison.overlap:.4f}"))
    return Table(
        key="counts",
        title="Cases",
        columns=columns("what | #number"),
        rows=tuple(rows),
        note="A case goes by the first metric that differs: answers before searches.",
    )


def _changed(key: str, title: str, listed: Sequence[CaseChange]) -> Table | None:
    return report_cases.changes(key, title, listed, MOST_LISTED) if listed else None


def _intervals(comparison: Comparison) -> tuple[Interval, ...]:
    """Return every difference of quality: with its line's margin and verdict, where it has one."""
    # A line of "recall@k" has a row of "recall@10"; floors judge no difference.
    judged = {
        row.metric: (line, row)
        for line, row in zip(comparison.policy.lines, comparison.verdict.rows, strict=True)
        if line.is_relative
    }
    return tuple(
        _interval(one, judged.get(one.metric))
        for one in comparison.metrics
        if one.low is not None and (one.metric in judged or has_direction(one.metric))
    )


def _interval(one: Difference, judged: tuple[Line, Row] | None) -> Interval:
    line, row = judged or (None, None)
    return Interval(
        metric=one.metric,
        low=one.difference if one.low is None else one.low,
        value=one.difference,
        high=one.difference if one.high is None else one.high,
        margin=line.margin if line else None,
        status=row.status if row else "not judged",
        is_lower_better=not line.is_more_better if line else is_lower_better(one.metric),
    )

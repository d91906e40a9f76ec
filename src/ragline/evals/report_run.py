"""What a report says of a single run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ragline.core import comparing
from ragline.core.cases import Case
from ragline.core.policies import Policy
from ragline.core.redline import Verdict
from ragline.core.runs import CaseResult, Run
from ragline.evals import report_cases, report_verdict
from ragline.evals.report_content import (
    Content,
    Panel,
    Table,
    bars,
    columns,
    direction,
    effort,
    errors,
    figure,
    marks_of,
    measured_on,
    phases,
    run_name,
)

MOST_LISTED = 10
_MOST_ERRORS = 20
_WEAKEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A run with its cases, and the verdict of a policy where one was asked for."""

    run: Run
    results: tuple[CaseResult, ...]
    cases: Mapping[str, Case] = field(default_factory=dict)
    verdict: Verdict | None = None
    policy: Policy | None = None


def content(report: RunReport) -> Content:
    """Return what the report of a run says."""
    run = report.run
    listed: list[Table | None] = []
    if report.verdict and report.policy:
        listed.append(report_verdict.table(report.verdict, report.policy))
    listed += [
        _metrics(run),
        errors([run]),
        report_cases.failed(report.results, _MOST_ERRORS),
        phases([run]),
        report_cases.slowest(report.results, report.cases, MOST_LISTED),
        effort([run]),
        measured_on([run]),
    ]
    metric = comparing.headline(report.results)
    return Content(
        title=f"{run_name(run)} of dataset {run.dataset}",
        status=report.verdict.status if report.verdict else run.state,
        summary=_summary(report),
        marks=tuple(marks_of(run)),
        tables=tuple(table for table in listed if table is not None),
        bars=bars([run]),
        bar_names=("run",),
        panels=_weakest(report, metric) if metric else (),
        panels_title=f"Weakest cases by {metric}",
        panels_after="slowest",
    )


def _summary(report: RunReport) -> str:
    run = report.run
    said = f"{run.done} of {run.cases} cases in {run.seconds:,.1f} s, {run.failed} failed."
    if run.spent.calls == 0 and run.reused:
        said += f" No model was called: {run.reused} cases have the contexts of an earlier run."
    return f"{report_verdict.summary(report.verdict)} {said}" if report.verdict else said


def _metrics(run: Run) -> Table:
    rows = tuple(
        (name, figure(name, one.value), str(one.n), str(one.missing), direction(name))
        for name, one in run.metrics.items()
    )
    return Table(
        key="metrics",
        title="Metrics",
        columns=columns("metric | #value | #n | #missing | direction"),
        rows=rows,
        note="n is the number of cases that a value rests on; missing ones failed, and are in none.",
    )


def _weakest(report: RunReport, metric: str) -> tuple[Panel, ...]:
    sign = -1 if comparing.is_lower_better(metric) else 1
    measured = [result for result in report.results if metric in result.metrics]
    measured.sort(key=lambda result: (sign * result.metrics[metric], result.ordinal))
    return tuple(
        report_cases.alone(result, report.cases.get(result.case_id), metric)
        for result in measured[:_WEAKEST]
    )

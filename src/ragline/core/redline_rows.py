"""What each line of a policy is judged by, or the row that says why there is nothing to judge."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ragline.core.policies import ONE_PER_RUN, TIMES, Line
from ragline.core.runs import Figure

# What adding up in another order may do to a metric.
ROUNDING = 1e-12
Status = Literal["pass", "fail", "inconclusive", "not judged"]
Values: TypeAlias = Mapping[str, Mapping[str, float]]
"""By metric and case id, the cases in the order in which they ran."""
Figures: TypeAlias = Mapping[str, Figure | None]
"""By metric; None is unknown, as a cost without a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One red line, judged.

    Of a floor or ceiling `low` and `high` are the 95 % interval of `value`; of a relative line that
    of `difference`, which is now - before, or for a latency now / before - 1. `detectable` is the
    smallest change for the worse that would have been found four times in five, in the same unit.
    None is not known. `p_worse` is small when it surely got worse by more than the margin.
    """

    metric: str
    line: str
    status: Status
    reason: str
    value: float | None = None
    baseline: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    detectable: float | None = None
    p_worse: float | None = None
    unit: str = ""
    is_ratio: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A line that its values decide: of every case now, and, of a relative line, before."""

    line: Line
    metric: str
    figure: Figure
    now: tuple[float, ...]
    before: tuple[float, ...] = ()

    @property
    def sign(self) -> int:
        return 1 if self.line.is_more_better else -1

    @property
    def column(self) -> tuple[float, ...]:
        """What is resampled: differences where more is better, or the values themselves."""
        if not self.line.is_relative:
            return self.now
        pairs = zip(self.now, self.before, strict=True)
        sign = self.sign
        differences = (sign * (now - before) for now, before in pairs)
        return tuple(0.0 if abs(one) < ROUNDING else one for one in differences)

    @property
    def largest(self) -> float:
        """What cases that lose all they had lose, weighed by it; 0 for times, which have no end."""
        if self.line.share is not None:
            return 0.0
        had = [one if self.sign > 0 else 1.0 - one for one in self.before]
        total = math.fsum(had)
        return math.fsum(one**2 for one in had) / total if total > 0 else 1.0


def opened(
    line: Line,
    figures: Figures,
    judge_id: str | None,
    now: Values,
    before: Values | None,
) -> Row | Open:
    """Return what a line is judged by, or its row where that is not there."""
    metric = _named(line.metric, figures, before)
    cases = TIMES if line.share is not None else metric
    is_expected = line.when == "always" or metric in figures or cases in (before or {})
    if not is_expected:
        others = _at_other_places(metric, figures)
        here = f"; the run has {' and '.join(others)}" if others else ""
        reason = f"neither the run nor its baseline measures it{here}"
        return row(line, metric, "not judged", reason)
    if not line.is_for(judge_id):
        judge = f"judged by {judge_id}" if judge_id else "the run has no judge"
        reason = f"{judge}; the line asks for {' or '.join(line.judges)}"
        return row(line, metric, "not judged" if line.when == "measured" else "fail", reason)
    figure = figures.get(metric)
    if figure is None:
        return row(line, metric, "fail", _absent(metric, figures))
    if figure.missing:
        of = figure.n + figure.missing
        reason = f"not measured in {figure.missing:,} of {of:,} cases; see their errors"
        return row(line, metric, "fail", reason, figure)
    if line.is_relative:
        return _paired(line, metric, figure, now.get(cases, {}), before)
    values = () if metric in ONE_PER_RUN else tuple(now.get(cases, {}).values())
    return Open(line=line, metric=metric, figure=figure, now=values)


def _named(metric: str, figures: Figures, before: Values | None) -> str:
    """Return a metric's name with the run's own k in the place of "@k", where there is one."""
    if not metric.endswith("@k"):
        return metric
    is_it = re.compile(re.escape(metric[:-1]) + r"\d+").fullmatch
    found = [name for name in figures if is_it(name)] or [n for n in before or {} if is_it(n)]
    return found[0] if len(found) == 1 else metric


def _absent(metric: str, figures: Figures) -> str:
    if metric in figures:
        return "not known, so it may be above any limit"
    if metric.endswith("@k") and (several := _at_other_places(metric, figures)):
        return f"the run has {' and '.join(several)}; name one of them in the policy"
    return f"not measured; the run has {', '.join(sorted(figures)) or 'no metric at all'}"


def _at_other_places(metric: str, figures: Figures) -> list[str]:
    """Return the same metric at what other k the run has it."""
    word, at, _ = metric.partition("@")
    return sorted(name for name in figures if at and name.startswith(f"{word}@"))


def _paired(
    line: Line, metric: str, figure: Figure, ours: Mapping[str, float], before: Values | None
) -> Row | Open:
    """Return both runs' values of the same cases, in the baseline's order."""
    if before is None:
        reason = "there is no baseline to compare with; name one with `--against`"
        return row(line, metric, "fail", reason, figure)
    theirs = before.get(TIMES if line.share is not None else metric, {})
    for here, there, name in ((ours, theirs, "run"), (theirs, ours, "baseline")):
        if not here:
            reason = f"the {name} has no value of it for any case"
            return row(line, metric, "fail", reason, figure)
        if lost := [case for case in there if case not in here]:
            of = f"{len(lost):,} of {len(there):,} cases, as in {lost[0]}"
            reason = f"the {name} does not measure it in {of}"
            return row(line, metric, "fail", reason, figure)
    return Open(
        line=line,
        metric=metric,
        figure=figure,
        now=tuple(ours[case] for case in theirs),
        before=tuple(theirs.values()),
    )


def row(line: Line, metric: str, status: Status, reason: str, figure: Figure | None = None) -> Row:
    said = str(replace(line, metric=metric))
    if line.judges:
        said += f" (judge {' or '.join(line.judges)})"
    return Row(
        metric=metric,
        line=said,
        status=status,
        reason=reason,
        value=figure.value if figure else None,
        n=figure.n if figure else 0,
        unit=line.unit,
        is_ratio=line.is_relative and line.share is not None,
    )

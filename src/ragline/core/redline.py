"""Judging a run by red lines: `pass`, `fail` or `inconclusive`, line by line and as a whole.

Floors and ceilings are held against the run's own figures, relative lines against a baseline, case by
case. What was not measured fails. A whole is as good as its worst line.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ragline.core import stats
from ragline.core.policies import ONE_PER_RUN, PRESETS, TIMES, Line, Policy, policy
from ragline.core.runs import Figure
from ragline.core.stats import Outcome, Resampled, Test

__all__ = ["PRESETS", "Line", "Policy", "Row", "Status", "Values", "Verdict", "policy", "verdict"]

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
class Verdict:
    """All lines, and what follows: `fail` if one fails, else `inconclusive` if one is, else `pass`."""

    status: Outcome
    rows: tuple[Row, ...]
    reason: str
    judge_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
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
        return tuple(0.0 if abs(one) < _ROUNDING else one for one in differences)

    @property
    def largest(self) -> float:
        """What cases that lose all they had lose, weighed by it; 0 for times, which have no end."""
        if self.line.share is not None:
            return 0.0
        had = [one if self.sign > 0 else 1.0 - one for one in self.before]
        total = math.fsum(had)
        return math.fsum(one**2 for one in had) / total if total > 0 else 1.0


def verdict(
    policy: Policy,
    figures: Figures,
    judge_id: str | None,
    now: Values,
    before: Values | None,
    *,
    is_identical: bool,
    noise: Mapping[str, float] | None = None,
) -> Verdict:
    """Return what the policy says of a run; `before` are the baseline's values, None without one.

    `is_identical`: every case has the same contexts and the same answer as in the baseline, so that
    no metric of quality can have changed. `noise` is the half width of the machine's own noise for
    each latency, as `stats.half_width` gives it; without it no latency is compared.
    """
    opened = [_opened(line, figures, judge_id, now, before) for line in policy.lines]
    undecided = [one for one in opened if isinstance(one, _Open)]
    drawn = iter(_drawn(undecided, policy, noise or {}))
    pairs = [(one, next(drawn)) for one in undecided]
    tests = iter(_tests(pairs, policy))
    judged = iter(
        _relative(one, next(tests), policy, noise or {}, is_identical=is_identical)
        if one.line.is_relative
        else _bounded(one, resampled, policy)
        for one, resampled in pairs
    )
    return _whole([one if isinstance(one, Row) else next(judged) for one in opened], judge_id)


def _whole(rows: Sequence[Row], judge_id: str | None) -> Verdict:
    counts = Counter(row.status for row in rows)
    if counts["not judged"] == len(rows):
        reason = "no line could be judged: the run measures nothing that the policy asks for"
        return Verdict(status="fail", rows=tuple(rows), reason=reason, judge_id=judge_id)
    status: Outcome = (
        "fail" if counts["fail"] else "inconclusive" if counts["inconclusive"] else "pass"
    )
    reason = ", ".join(f"{counts[name]} {name}" for name in _STATUSES if counts[name])
    return Verdict(status=status, rows=tuple(rows), reason=reason, judge_id=judge_id)


def _opened(
    line: Line,
    figures: Figures,
    judge_id: str | None,
    now: Values,
    before: Values | None,
) -> Row | _Open:
    """Return what a line is judged by, or its row where that is not there."""
    metric = _named(line.metric, figures, before)
    cases = TIMES if line.share is not None else metric
    is_expected = line.when == "always" or metric in figures or cases in (before or {})
    if not is_expected:
        others = _at_other_places(metric, figures)
        here = f"; the run has {' and '.join(others)}" if others else ""
        reason = f"neither the run nor its baseline measures it{here}"
        return _row(line, metric, "not judged", reason)
    if not line.is_for(judge_id):
        judge = f"judged by {judge_id}" if judge_id else "the run has no judge"
        reason = f"{judge}; the line asks for {' or '.join(line.judges)}"
        return _row(line, metric, "not judged" if line.when == "measured" else "fail", reason)
    figure = figures.get(metric)
    if figure is None:
        return _row(line, metric, "fail", _absent(metric, figures))
    if figure.missing:
        of = figure.n + figure.missing
        reason = f"not measured in {figure.missing:,} of {of:,} cases; see their errors"
        return _row(line, metric, "fail", reason, figure)
    if line.is_relative:
        return _paired(line, metric, figure, now.get(cases, {}), before)
    values = () if metric in ONE_PER_RUN else tuple(now.get(cases, {}).values())
    return _Open(line=line, metric=metric, figure=figure, now=values)


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
) -> Row | _Open:
    """Return both runs' values of the same cases, in the baseline's order."""
    if before is None:
        reason = "there is no baseline to compare with; name one with `--against`"
        return _row(line, metric, "fail", reason, figure)
    theirs = before.get(TIMES if line.share is not None else metric, {})
    for here, there, name in ((ours, theirs, "run"), (theirs, ours, "baseline")):
        if not here:
            reason = f"the {name} has no value of it for any case"
            return _row(line, metric, "fail", reason, figure)
        if lost := [case for case in there if case not in here]:
            of = f"{len(lost):,} of {len(there):,} cases, as in {lost[0]}"
            reason = f"the {name} does not measure it in {of}"
            return _row(line, metric, "fail", reason, figure)
    return _Open(
        line=line,
        metric=metric,
        figure=figure,
        now=tuple(ours[case] for case in theirs),
        before=tuple(theirs.values()),
    )


def _drawn(
    opened: Sequence[_Open], policy: Policy, noise: Mapping[str, float]
) -> list[Resampled | None]:
    """Return what resampling says of each line's values: one matrix of draws for all of quality."""
    columns = [one.column for one in opened if one.line.share is None and one.now]
    drawn = iter(stats.resampled(columns, seed=policy.seed, resamples=policy.resamples))
    how = {"seed": policy.seed, "resamples": policy.resamples}
    found: list[Resampled | None] = []
    for one in opened:
        share = one.line.share
        if not one.now:
            found.append(None)
        elif share is None:
            found.append(next(drawn))
        elif one.line.is_relative:
            more = noise.get(one.metric, 0.0)
            found.append(stats.block_bootstrap(one.now, one.before, share=share, noise=more, **how))
        else:
            found.append(stats.block_quantile(one.now, share=share, **how))
    return found


def _tests(
    pairs: Iterable[tuple[_Open, Resampled | None]], policy: Policy
) -> Iterable[tuple[Test, int]]:
    """Return the decided test of each relative line, and over how many the alarm was shared out."""
    relative = [(one, drawn) for one, drawn in pairs if drawn is not None and one.line.is_relative]
    alpha = policy.alpha / policy.looks
    family = max(1, sum(drawn.n >= policy.minimum for _, drawn in relative))
    tests = [
        stats.compared(
            drawn,
            margin=_margin(one.line),
            level=alpha / family,
            largest=one.largest,
        )
        for one, drawn in relative
    ]
    p_values = {str(at): test.p_worse for at, test in enumerate(tests) if test.n >= policy.minimum}
    is_worse = stats.holm(p_values, policy.alpha, policy.looks)
    for at, ((one, _), test) in enumerate(zip(relative, tests, strict=True)):
        decided = stats.decided(
            test,
            margin=_margin(one.line),
            is_worse=is_worse.get(str(at), False),
            alpha=alpha,
            minimum=policy.minimum,
        )
        yield decided, family


def _margin(line: Line) -> float:
    margin = line.margin or 0.0
    return margin if line.share is None else math.log1p(margin)


def _row(line: Line, metric: str, status: Status, reason: str, figure: Figure | None = None) -> Row:
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


def _bounded(one: _Open, drawn: Resampled | None, policy: Policy) -> Row:
    """Judge a floor or a ceiling by the figure itself; the interval beside it is for information."""
    value, line = one.figure.value, one.line
    if line.at_least is not None:
        is_kept, sign, bound = value >= line.at_least - _ROUNDING, "<", line.at_least
    else:
        bound = math.inf if line.at_most is None else line.at_most
        is_kept, sign = value <= bound + _ROUNDING, ">"
    low, high = _ends(drawn, line) or (None, None)
    # A drop changes the spread of values that differ by little; those that are all equal have none.
    largest = 1.0 if line.share is None and drawn and not drawn.se else 0.0
    drop = stats.visible(drawn, margin=0, level=policy.alpha, largest=largest) if drawn else None
    reasons = [] if is_kept else [f"{value:.4g} {sign} {bound:g}"]
    if low is not None and high is not None and drop is not None and low <= bound <= high:
        reasons.append(
            f"the limit is within the 95 % interval: {one.figure.n:,} cases tell only "
            f"{drop:.3g}{_spaced(line.unit)} or more from chance"
        )
    return replace(
        _row(line, one.metric, "pass" if is_kept else "fail", "; ".join(reasons)),
        value=value,
        low=low,
        high=high,
        n=one.figure.n,
        detectable=drop,
    )


def _ends(drawn: Resampled | None, line: Line) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure, within what it can be."""
    ends = drawn.interval() if drawn else None
    if drawn is None or ends is None:
        return None
    if line.unit:
        return max(ends[0], 0.0), ends[1]
    if drawn.se == 0:
        # Cases that are all alike: so many others may exist, unseen by chance (Clopper and Pearson).
        unseen = 1 - ((1 - stats.LEVEL) / 2) ** (1 / drawn.n)
        return drawn.mean * (1 - unseen), drawn.mean + (1 - drawn.mean) * unseen
    # No share is outside 0 to 1, whatever Student's t says.
    return max(ends[0], 0.0), min(ends[1], 1.0)


def _relative(
    one: _Open,
    tested: tuple[Test, int],
    policy: Policy,
    noise: Mapping[str, float],
    *,
    is_identical: bool,
) -> Row:
    """Return the row of a comparison: by construction, by the machine's noise, or by its test."""
    line, (test, family) = one.line, tested
    is_time = line.share is not None
    value, baseline, difference = _figures(one)
    row = replace(
        _row(line, one.metric, test.verdict, ""),
        value=value,
        baseline=baseline,
        difference=difference,
        n=test.n,
    )
    if is_identical and not is_time:
        reason = "unchanged by construction: the same contexts, the same answers"
        reason += "; the judge said another thing of them" if any(one.column) else ""
        return replace(row, status="pass", reason=reason)
    if is_time and (reason := _too_noisy(line, noise.get(one.metric))):
        return replace(row, status="inconclusive", reason=reason)
    low, high, drop = test.low, test.high, test.detectable
    if low is not None and high is not None:
        low, high = (low, high) if one.sign > 0 and not is_time else (-high, -low)
    if is_time:
        low, high, drop = (None if x is None else math.expm1(x) for x in (low, high, drop))
    return replace(
        row,
        reason=_reason(line, test, family, drop, policy),
        low=low,
        high=high,
        detectable=drop,
        p_worse=test.p_worse,
    )


def _figures(one: _Open) -> tuple[float, float, float]:
    share = one.line.share
    if share is None:
        now, before = (math.fsum(some) / len(some) for some in (one.now, one.before))
        return now, before, now - before
    now, before = (stats.quantile(some, share) for some in (one.now, one.before))
    return now, before, now / before - 1


def _too_noisy(line: Line, noise: float | None) -> str:
    if noise is None:
        return (
            "the machine's own noise is not known; measure it with `ragline eval noise` and the "
            "settings of one of the runs"
        )
    margin = line.margin or 0.0
    if noise <= margin:
        return ""
    return (
        f"two runs without a change lie up to {noise:.1%} apart on this machine, more than the "
        f"margin of {margin:.1%}; calm it, or allow more"
    )


def _reason(line: Line, test: Test, family: int, drop: float | None, policy: Policy) -> str:
    worse = "lower" if line.is_more_better else "higher"
    seen = (
        "no loss, however large, would have been found"
        if drop is None
        else f"a change of {drop:.3g} for the worse would have been found four times in five"
    )
    if test.n < policy.minimum:
        return f"{test.n:,} cases decide nothing; at least {policy.minimum:,} are needed"
    if test.verdict == "fail":
        shared = f"; {family} lines share {policy.alpha:g}" if family > 1 else ""
        return (
            f"surely {worse} (p = {test.p_worse:.2g}{shared}), by more than the margin on average"
        )
    if test.verdict == "pass":
        if test.low == test.high == 0:
            return f"no case differs; {seen}"
        return f"surely not {worse} by more than the margin (p = {test.p_not_worse:.2g})"
    if not line.margin:
        return f"a margin of 0 passes what is surely better, or the same in every case; {seen}"
    return f"it may be {worse} by more than the margin, or not; {seen}"


def _spaced(unit: str) -> str:
    return unit and f" {unit}"


# What adding up in another order may do to a metric.
_ROUNDING = 1e-12
_STATUSES: tuple[Status, ...] = ("pass", "fail", "inconclusive", "not judged")

"""Judging a run by red lines: `pass`, `fail` or `inconclusive`, line by line and as a whole.

Floors and ceilings are held against the run's own figures, relative lines against a baseline, case by
case. What was not measured fails. A whole is as good as its worst line.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ragline.core import redline_rows, stats
from ragline.core.policies import Line, Policy
from ragline.core.redline_rows import ROUNDING, Figures, Open, Row, Status, Values
from ragline.core.stats import Outcome, Resampled, Test


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All lines, and what follows: `fail` if one fails, else `inconclusive` if one is, else `pass`."""

    status: Outcome
    rows: tuple[Row, ...]
    reason: str
    judge_id: str | None


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
    opened = [redline_rows.opened(line, figures, judge_id, now, before) for line in policy.lines]
    undecided = [one for one in opened if isinstance(one, Open)]
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


def worst(statuses: Iterable[Status]) -> Outcome:
    """Return `fail` if one fails, else `inconclusive` if one is, else `pass`."""
    found = set(statuses)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def _whole(rows: Sequence[Row], judge_id: str | None) -> Verdict:
    counts = Counter(row.status for row in rows)
    if counts["not judged"] == len(rows):
        reason = "no line could be judged: the run measures nothing that the policy asks for"
        return Verdict(status="fail", rows=tuple(rows), reason=reason, judge_id=judge_id)
    reason = ", ".join(f"{counts[name]} {name}" for name in _STATUSES if counts[name])
    return Verdict(status=worst(counts), rows=tuple(rows), reason=reason, judge_id=judge_id)


def _drawn(
    opened: Sequence[Open], policy: Policy, noise: Mapping[str, float]
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
    pairs: Iterable[tuple[Open, Resampled | None]], policy: Policy
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


def _bounded(one: Open, drawn: Resampled | None, policy: Policy) -> Row:
    """Judge a floor or a ceiling by the figure itself; the interval beside it is for information."""
    value, line = one.figure.value, one.line
    if line.at_least is not None:
        is_kept, sign, bound = value >= line.at_least - ROUNDING, "<", line.at_least
    else:
        bound = math.inf if line.at_most is None else line.at_most
        is_kept, sign = value <= bound + ROUNDING, ">"
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
        redline_rows.row(line, one.metric, "pass" if is_kept else "fail", "; ".join(reasons)),
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
    one: Open,
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
        redline_rows.row(line, one.metric, test.verdict, ""),
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


def _figures(one: Open) -> tuple[float, float, float]:
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


_STATUSES: tuple[Status, ...] = ("pass", "fail", "inconclusive", "not judged")

"""Statistics of a comparison: how large a difference is, how sure that is, what could not be seen.

Everything is pure and seeded. A comparison is paired: one difference per case, or one time per case
in either run. Nothing depends on the order of paired differences; that of times is the order in which
they were taken. Why these methods and not others: decision 012.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ragline.core import student
from ragline.errors import UsageError

Outcome = Literal["pass", "fail", "inconclusive"]
Numbers: TypeAlias = Sequence[float] | npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.float64]

RESAMPLES = 10_000
MINIMUM = 30
"""With fewer cases nothing is decided: tails of so few are a matter of luck."""
POWER = 0.8
"""How often the smallest drop that counts as visible would have been found."""
LEVEL = 0.95
FEWEST_REPEATS = 3

# A bound that equals a resampled mean counts against a decision; so near is equal.
_TIE = 1e-12
# Enough to tell a drop to a billionth of itself.
_HALVINGS = 40
# So many numbers are drawn at once: they stay in the processor's cache.
_AT_ONCE = 1 << 18
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A mean, or a logarithm of a ratio, with what resampling says of it.

    `values` are its resampled values, sorted. `freedom` is the degrees of freedom behind them; their
    standard deviation is `se`, or None with a single case. `skewness` is that of the cases, where
    they are independent.
    """

    n: int
    mean: float
    se: float | None
    freedom: float
    values: Floats
    skewness: float = 0.0

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return the two-sided interval; None when one case is all there is."""
        if self.se is None:
            return None
        low, high = np.quantile(self.values, [(1 - level) / 2, (1 + level) / 2])
        t = student.quantile((1 + level) / 2, self.freedom) * self.se
        return min(float(low), self.mean - t), max(float(high), self.mean + t)

    def p_at_least(self, bound: float) -> float:
        """Return the p-value of "it is `bound` or more": small when it is surely below."""
        above = int(np.count_nonzero(self.values >= bound - _near(bound)))
        return self._p(above, self.mean - bound, self.skewness)

    def p_at_most(self, bound: float) -> float:
        """Return the p-value of "it is `bound` or less": small when it is surely above."""
        below = int(np.count_nonzero(self.values <= bound + _near(bound)))
        return self._p(below, bound - self.mean, -self.skewness)

    def _p(self, count: int, beyond: float, skewness: float) -> float:
        # The largest of three: the bootstrap is too sure of sparse columns, the t test of skewed
        # ones, and both of those whose long tail is hardly in the sample.
        if self.se is None or count == len(self.values):
            return 1.0
        drawn = (count + 1) / (len(self.values) + 1)
        if not self.se:
            return drawn
        t = beyond / self.se
        return max(
            drawn, *(student.share(x, self.freedom) for x in (t, _unskewed(t, self.n, skewness)))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The mean of paired differences with its 95 % interval, two-sided. None: one case is too few."""

    n: int
    mean: float
    low: float | None
    high: float | None
    se: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Whether something got worse.

    `p_worse` is small when it is surely worse than before, `p_not_worse` when it is surely not worse
    by the margin or more. It fails when it is surely worse, and the mean says by more than the margin.
    `detectable` is the smallest drop that would have failed four times in five. `low` and `high` are
    the 95 % interval of the mean difference.
    """

    __test__ = False  # the tests' runner takes every class of this name for its own

    verdict: Outcome
    n: int
    mean: float
    low: float | None
    high: float | None
    p_worse: float
    p_not_worse: float
    detectable: float | None


def paired(differences: Numbers, *, seed: int, resamples: int = RESAMPLES) -> Paired:
    """Return the mean of paired differences, with the interval that resampling the cases gives."""
    (one,) = resampled([differences], seed=seed, resamples=resamples)
    low, high = one.interval() or (None, None)
    return Paired(n=one.n, mean=one.mean, low=low, high=high, se=one.se)


def noninferior(
    differences: Numbers,
    *,
    margin: float,
    alpha: float,
    seed: int,
    resamples: int = RESAMPLES,
    minimum: int = MINIMUM,
) -> Test:
    """Return whether a metric got worse by more than a margin, surely did not, or neither is sure.

    A difference is now - before, of a metric where more is better. For several metrics at once use
    `resampled`, `compared`, `holm` and `decided`.
    """
    (one,) = resampled([differences], seed=seed, resamples=resamples)
    test = compared(one, margin=margin, level=alpha)
    is_worse = test.p_worse <= alpha
    return decided(test, margin=margin, is_worse=is_worse, alpha=alpha, minimum=minimum)


def compared(one: Resampled, *, margin: float, level: float, largest: float = 1.0) -> Test:
    """Return p-values and the visible drop of one comparison, not yet decided: `inconclusive`.

    `level` is that of the alarm, after every correction; `largest` is what a single case can lose,
    and 0 of what has no end.
    """
    low, high = one.interval() or (None, None)
    return Test(
        verdict="inconclusive",
        n=one.n,
        mean=one.mean,
        low=low,
        high=high,
        p_worse=one.p_at_least(0.0),
        p_not_worse=one.p_at_most(-margin),
        detectable=visible(one, margin=margin, level=level, largest=largest),
    )


def decided(test: Test, *, margin: float, is_worse: bool, alpha: float, minimum: int) -> Test:
    """Return the test with its verdict. Where no case differs, nothing got worse."""
    if test.n < minimum:
        return replace(test, verdict="inconclusive")
    if is_worse and test.mean < -margin - _near(margin):
        return replace(test, verdict="fail")
    is_same = test.mean == 0 and test.low == 0 and test.high == 0
    return replace(test, verdict="pass" if is_same or test.p_not_worse <= alpha else "inconclusive")


def visible(one: Resampled, *, margin: float, level: float, largest: float = 1.0) -> float | None:
    """Return the smallest drop that fails with a power of 0.8, however it is spread over the cases.

    The worst spread is a few cases that lose all they can: that is noise of its own. None with a
    single case, and where not even a loss of everything would have been found.
    """
    if one.se is None:
        return None
    quantile, power = student.quantile(1 - level, one.freedom), _NORMAL.inv_cdf(POWER)
    known, own = one.se**2, largest / one.n

    def is_found(drop: float) -> bool:
        noise = math.sqrt(known + own * drop)
        # Where a drop comes out larger it is noisier too: mean / noise varies by less than 1.
        varies = noise - (own * drop / noise / 2 if noise else 0.0)
        return drop >= max(quantile * noise + power * varies, margin + power * noise)

    low, high = 0.0, max(margin, one.se, own)
    while not is_found(high):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return None if largest and high > 1 else high


def holm(p_values: Mapping[str, float], alpha: float, looks: int = 1) -> dict[str, bool]:
    """Return which hypotheses are rejected, so that one is wrongly with at most `alpha`, over all.

    Holm, A simple sequentially rejective multiple test procedure (1979). `looks` is how often the
    same comparison is judged; each look gets its equal part.
    """
    rejected = dict.fromkeys(p_values, False)
    in_order = sorted(p_values, key=lambda name: (p_values[name], name))
    for done, name in enumerate(in_order):
        if p_values[name] > alpha / looks / (len(in_order) - done):
            break
        rejected[name] = True
    return rejected


def resampled(
    columns: Sequence[Numbers], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Resampled, ...]:
    """Return the resampled mean of each column of paired differences, in the columns' order.

    Columns of one length share their draws. Each column is sorted first, so that nothing depends on
    the order of the cases; every draw is used forwards and backwards, so that a column with all signs
    turned gives exactly the mirrored result.
    """
    given = [np.sort(_numbers(column, "a difference")) for column in columns]
    found: dict[int, Resampled] = {}
    for n in sorted({len(column) for column in given}):
        at = [place for place, column in enumerate(given) if len(column) == n]
        means = [math.fsum(given[place]) / n for place in at]
        # Around their mean, and exactly 0 when all are equal: then no rounding looks like noise.
        centred = np.stack(
            [
                np.zeros(n) if given[place][0] == given[place][-1] else given[place] - mean
                for place, mean in zip(at, means, strict=True)
            ],
            axis=1,
        )
        drawn = _drawn_means(centred, seed=seed, resamples=resamples)
        for place, mean, deviations, values in zip(at, means, centred.T, drawn.T, strict=True):
            spread = math.sqrt(math.fsum(deviations**2) / (n - 1)) if n > 1 else 0.0
            found[place] = Resampled(
                n=n,
                mean=mean,
                se=spread / math.sqrt(n) if n > 1 else None,
                freedom=n - 1,
                values=np.sort(values) + mean,
                skewness=math.fsum((deviations / spread) ** 3) / n if spread else 0.0,
            )
    return tuple(found[place] for place in range(len(given)))


def _drawn_means(centred: Floats, *, seed: int, resamples: int) -> Floats:
    """Return means of drawn rows, shape (resamples, columns): one matrix of draws for all columns."""
    n, columns = centred.shape
    both = np.concatenate([centred, centred[::-1]], axis=1) / n
    generator = np.random.default_rng([seed, n])
    half = (resamples + 1) // 2
    rows = max(1, _AT_ONCE // n)
    parts = []
    for start in range(0, half, rows):
        count = min(rows, half - start)
        drawn = generator.integers(n, size=(count, n), dtype=np.uint32).astype(np.int64)
        drawn += np.arange(count)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        parts.append(times.astype(np.float64) @ both)
    found = np.concatenate(parts)
    return np.concatenate([found[:, :columns], found[:, columns:]])


def block_bootstrap(
    now: Numbers,
    before: Numbers,
    *,
    share: float,
    seed: int,
    resamples: int = RESAMPLES,
    noise: float = 0.0,
) -> Resampled:
    """Return log(before / now) of a quantile of times: below 0 is slower. Pairs are in time order.

    `noise` is the half width of two runs without a difference, as `half_width` gives it: it is added
    to every draw, since one run does not see it.
    """
    times = [_numbers(values, "a time") for values in (now, before)]
    if len(times[0]) != len(times[1]):
        raise UsageError(
            f"{len(times[0])} times cannot be paired with {len(times[1])}; give one of each case"
        )
    if min(float(values.min()) for values in times) <= 0:
        raise UsageError("a time is 0 or less, so there is no ratio; give milliseconds above 0")
    ours, theirs = _drawn_quantiles(times, share=share, seed=seed, resamples=resamples)
    width = math.log1p(noise) / _NORMAL.inv_cdf((1 + LEVEL) / 2)
    drawn = np.random.default_rng([seed, 0]).normal(0.0, 1.0, size=resamples) * width
    mean = math.log(quantile(times[1], share) / quantile(times[0], share))
    return _of_blocks(np.log(theirs / ours) + drawn, mean, len(times[0]))


def block_quantile(
    times: Numbers, *, share: float, seed: int, resamples: int = RESAMPLES
) -> Resampled:
    """Return a quantile of one run's times, in time order, with its interval."""
    given = _numbers(times, "a time")
    (drawn,) = _drawn_quantiles([given], share=share, seed=seed, resamples=resamples)
    return _of_blocks(drawn, quantile(given, share), len(given))


def _of_blocks(values: Floats, mean: float, n: int) -> Resampled:
    return Resampled(
        n=n,
        mean=mean,
        se=float(values.std(ddof=1)) if n > 1 else None,
        freedom=max(1.0, n / _block(n) - 1),
        values=np.sort(values),
    )


def _drawn_quantiles(
    times: Sequence[Floats], *, share: float, seed: int, resamples: int
) -> list[Floats]:
    """Return a quantile of drawn rows of each, the same rows of all.

    Circular blocks of neighbours are drawn, so that a burst of slow cases stays together.
    """
    n = len(times[0])
    block = _block(n)
    below, above = math.floor((n - 1) * share), math.ceil((n - 1) * share)
    between = (n - 1) * share - below
    generator = np.random.default_rng([seed, n, block])
    rows = max(1, _AT_ONCE // n)
    parts: list[list[Floats]] = [[] for _ in times]
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        begins = generator.integers(n, size=(count, -(-n // block), 1))
        places = (begins + np.arange(block)).reshape(count, -1)[:, :n]
        for part, values in zip(parts, times, strict=True):
            # Twice over, so that a block goes on where the run began. Sorting beats partitioning.
            ranked = np.sort(np.concatenate([values, values])[places], axis=1)
            part.append(ranked[:, below] + (ranked[:, above] - ranked[:, below]) * between)
    return [np.concatenate(part) for part in parts]


def _block(n: int) -> int:
    """Return the root of n, rounded up: the cases that stay together."""
    return math.isqrt(n - 1) + 1


def quantile(values: Numbers, share: float) -> float:
    """Return the value that `share` of the values stay below, interpolated between neighbours."""
    return float(np.quantile(_numbers(values, "a value"), share))


def half_width(repeats: Numbers, *, is_ratio: bool = False) -> float:
    """Return how far two runs of the same thing lie apart: within it in 95 of 100 pairs.

    `repeats` is one figure of several runs without a difference, at least three. A ratio's half width
    is relative: 0.08 is 8 % more or less.
    """
    given = _numbers(repeats, "a figure")
    if len(given) < FEWEST_REPEATS:
        raise UsageError(f"{len(given)} runs show no noise; repeat at least {FEWEST_REPEATS}")
    if is_ratio and float(given.min()) <= 0:
        raise UsageError("a figure is 0 or less, so there is no ratio; give figures above 0")
    spread = float(np.std(np.log(given) if is_ratio else given, ddof=1))
    width = student.quantile((1 + LEVEL) / 2, len(given) - 1) * spread * math.sqrt(2)
    return math.expm1(width) if is_ratio else width


_MOST = 1e6


def _unskewed(t: float, n: int, skewness: float) -> float:
    """Return t without what skewness does to it. Hall, On the removal of skewness (1992)."""
    root = math.sqrt(n)
    # The correction rises with t, and beyond this no table has a share that is not 0 or 1.
    x = min(max(t / root, -_MOST), _MOST)
    return root * (x + skewness * x**2 / 3 + skewness**2 * x**3 / 27 + skewness / (6 * n))


def _near(bound: float) -> float:
    return _TIE * max(1.0, abs(bound))


def _numbers(values: Numbers, what: str) -> Floats:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise UsageError(f"{what} of at least one case is needed; there is none")
    if not np.isfinite(given).all():
        raise UsageError(f"{what} is not a finite number; leave out what was not measured")
    return given

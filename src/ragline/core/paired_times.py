"""Times before and after a change: the same questions in pairs, and what the machine does by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ragline.core import stats
from ragline.core.asking import Times

ALL = "all questions"
"""The name of what is said of the times of all groups together."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Times of the same questions, in the order in which they were asked."""

    before: dict[str, float] = field(default_factory=dict)
    now: dict[str, float] = field(default_factory=dict)

    def joined(self, name: str, other: Pairs) -> Pairs:
        """Return both; a question's id says where it stood, so that neighbours in time stay so."""
        before = self.before | {f"{case} {name}": ms for case, ms in other.before.items()}
        now = self.now | {f"{case} {name}": ms for case, ms in other.now.items()}
        return Pairs(
            {case: before[case] for case in sorted(before)},
            {case: now[case] for case in sorted(now)},
        )

    def in_proportion(self) -> Pairs:
        """Return each question's time in proportion to what it took before, which is the middle time.

        The middle of the proportions varies half as much as the proportion of the middles: questions
        differ by much more than a change does.
        """
        if not self.before:
            return self
        middle = stats.quantile(list(self.before.values()), 0.5)
        return Pairs(
            dict.fromkeys(self.before, middle),
            {case: middle * ms / self.before[case] for case, ms in self.now.items()},
        )

    def times(self, factor: float) -> Pairs:
        """Return the times of now so many times as long."""
        return Pairs(self.before, {case: factor * ms for case, ms in self.now.items()})


def paired(before: Mapping[str, float], now: Mapping[str, float]) -> Pairs:
    """Return the times of the questions that have both."""
    shared = [case for case in now if case in before]
    return Pairs({case: before[case] for case in shared}, {case: now[case] for case in shared})


def repeated_figures(
    repeats: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, list[float]]:
    """Return, by group and for all questions, how each repetition's times lie to the mean of all.

    `repeats` are the times of all questions of a group, as often as they were measured.
    """
    proportions: dict[str, list[list[float]]] = {}
    for group, times in repeats.items():
        if not times:
            continue
        means = {case: math.fsum(one[case] for one in times) / len(times) for case in times[0]}
        proportions[group] = [[one[case] / mean for case, mean in means.items()] for one in times]
    count = min(map(len, proportions.values()), default=0)
    if count:
        every = list(proportions.values())
        proportions[ALL] = [[x for group in every for x in group[at]] for at in range(count)]
    return {name: [stats.quantile(one, 0.5) for one in some] for name, some in proportions.items()}


def repeated_noise(figures: Mapping[str, Sequence[float]], after: int) -> dict[str, float]:
    """Return how far the mean of `after` repetitions may lie from that of the earlier ones.

    `figures` are what `repeated_figures` gave; means of several move less than one.
    """
    return {
        name: math.expm1(
            math.log1p(stats.half_width(values, is_ratio=True))
            * math.sqrt((1 / len(values) + 1 / max(1, after)) / 2)
        )
        for name, values in figures.items()
        if len(values) >= stats.FEWEST_REPEATS
    }


def witnessed(
    noise: Mapping[str, float], before: Sequence[float], now: Sequence[float]
) -> dict[str, float]:
    """Return the noise, no less than what a question that no change concerns differs by.

    One after the other, a machine that others begin to use looks like a change for the worse.
    """
    width = drift(before, now)
    return {name: max(own, width) for name, own in noise.items()}


def drift(before: Sequence[float], now: Sequence[float]) -> float:
    """Return by which share the machine itself became slower, or quicker; 0 where nobody looked."""
    if not before or not now:
        return 0.0
    was, is_now = (math.fsum(times) / len(times) for times in (before, now))
    return math.expm1(abs(math.log(is_now / was)))


def paired_noise(one: Times, again: Times, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return what two measurements of the same thing differ by, and could differ by, by group.

    The first is a lasting difference, as of two connections; the comparison of two arms does not see
    it. The second is the far end of its 95 % interval: by so much chance alone moves any comparison.
    """
    together, found = Pairs(), {}
    for group, times in one.items():
        pairs = paired(times, again.get(group, {}))
        together = together.joined(group, pairs)
        found[group] = pairs
    noise, spread = {}, {}
    for name, pairs in (found | {ALL: together}).items():
        if len(pairs.now) < 2:
            continue
        even = pairs.in_proportion()
        drawn = stats.block_bootstrap(
            list(even.now.values()), list(even.before.values()), share=0.5, seed=seed
        )
        noise[name] = math.expm1(abs(drawn.mean))
        if ends := drawn.interval():
            spread[name] = math.expm1(max(abs(end) for end in ends))
    return noise, spread

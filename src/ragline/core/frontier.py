"""Which index designs were tried, and which of them is the cheapest.

Nothing is measured here. A design is tried at several breadths (`ef_search`, or `probes`); at each it
has a recall with an interval and a time. Two times that differ by less than `NOISE` count as equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Method = Literal["hnsw", "ivfflat"]
Storage = Literal["vector", "halfvec", "bit"]

NOISE = 0.1
"""On a machine that does something else as well, the same searches differ by so much."""
FINALISTS = 3
_CLOSE = 1.1
TOO_SLOW = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How an index is built. HNSW has `m` and `ef_construction`, IVFFlat `lists`."""

    method: Method
    storage: Storage
    m: int | None = None
    ef_construction: int | None = None
    lists: int | None = None

    @property
    def knob(self) -> str:
        """The name of the breadth of its searches."""
        return "ef_search" if self.method == "hnsw" else "probes"

    @property
    def is_applicable(self) -> bool:
        """Whether a collection can be searched through it; others are measured for comparison."""
        return self.method == "hnsw" and self.storage != "bit"

    def __str__(self) -> str:
        if self.method == "ivfflat":
            return f"ivfflat {self.storage} lists {self.lists}"
        return f"hnsw {self.storage} m {self.m} ef_construction {self.ef_construction}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What searches of one breadth found of `n` questions: mean recall, its 95 % interval, times."""

    breadth: int
    recall: float
    low: float
    high: float
    p50_ms: float
    p95_ms: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A design that was built, with what was measured of it, by rising breadth."""

    design: Design
    size_bytes: int
    build_s: float
    points: tuple[Point, ...]

    def needed(self, target: float) -> Point | None:
        """Return the narrowest search whose recall surely holds the target; None where none does."""
        return next((one for one in self.points if one.low >= target), None)

    @property
    def best(self) -> Point:
        """The search that found the most, the quickest of those."""
        return min(self.points, key=lambda one: (-one.recall, one.p50_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A point of the frontier: no other is as good in everything and better in something."""

    design: Design
    point: Point
    size_bytes: int
    build_s: float


def frontier(trials: Sequence[Trial]) -> tuple[Place, ...]:
    """Return the points that none beats in recall, time, size and build time at once, by recall."""
    places = [
        Place(design=t.design, point=p, size_bytes=t.size_bytes, build_s=t.build_s)
        for t in trials
        for p in t.points
    ]
    kept = [one for one in places if not any(_beats(other, one) for other in places)]
    return tuple(sorted(kept, key=lambda one: (one.point.recall, one.point.p50_ms)))


def _costs(place: Place) -> tuple[float, float, float, float]:
    return -place.point.recall, place.point.p50_ms, float(place.size_bytes), place.build_s


def _beats(one: Place, other: Place) -> bool:
    ours, theirs = _costs(one), _costs(other)
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def cheapest(
    trials: Iterable[Trial], target: float, max_bytes: int | None = None
) -> tuple[Trial, Point] | None:
    """Return the design to have, and how broadly to search it; None where none holds the target.

    Of those that can be applied, fit, and hold the target with the lower end of their interval, it is
    the smallest of the quickest: times within `NOISE` of the least count as the least.
    """
    held = _held(trials, target, max_bytes)
    if not held:
        return None
    least = min(point.p50_ms for _, point in held)
    near = [one for one in held if one[1].p50_ms <= least * (1 + NOISE)]
    return min(near, key=lambda one: (one[0].size_bytes, one[0].build_s, one[1].p50_ms))


def finalists(
    trials: Iterable[Trial], target: float, max_bytes: int | None = None
) -> tuple[tuple[Trial, Point], ...]:
    """Return the few designs one of which is the cheapest, with how broadly they are searched.

    Their times were taken minutes apart, while the machine did this and that: they are to be measured
    once more, by turns. `cheapest` decides among what comes of it.
    """
    held = sorted(_held(trials, target, max_bytes), key=lambda one: one[1].p50_ms)
    near = [one for one in held if one[1].p50_ms <= held[0][1].p50_ms * TOO_SLOW]
    # The smallest of them is what is taken where their times turn out to be equal.
    smallest = sorted(near, key=lambda one: (one[0].size_bytes, one[0].build_s))[:1]
    rest = [one for one in near if one not in smallest]
    return (*smallest, *rest[: FINALISTS - 1])


def _held(
    trials: Iterable[Trial], target: float, max_bytes: int | None
) -> list[tuple[Trial, Point]]:
    return [
        (trial, point)
        for trial in trials
        if trial.design.is_applicable
        and (max_bytes is None or trial.size_bytes <= max_bytes)
        and (point := trial.needed(target)) is not None
    ]


def next_breadth(
    points: Sequence[Point], target: float, *, lowest: int, highest: int, first: int
) -> int | None:
    """Return where to measure next to find the narrowest search that holds; None when it is found.

    Doubled until it holds, then halved in between until the two ends are within a tenth.
    """
    if not points:
        return min(max(first, lowest), highest)
    held = [one.breadth for one in points if one.low >= target]
    if not held:
        widest = max(one.breadth for one in points)
        return None if widest >= highest else min(2 * widest, highest)
    upper = min(held)
    below = [one.breadth for one in points if one.breadth < upper]
    if not below:
        return None if upper <= lowest else max(lowest, upper // 2)
    lower = max(below)
    if upper - lower <= 1 or upper <= lower * _CLOSE:
        return None
    return min(max(round(math.sqrt(lower * upper)), lower + 1), upper - 1)


# What was learnt.


def unreachable(trials: Sequence[Trial], target: float) -> tuple[str, ...]:
    """Return a sentence for each way by which the target is not reached, with the best it did."""
    said = []
    for method, storage in dict.fromkeys((t.design.method, t.design.storage) for t in trials):
        own = [t for t in trials if (t.design.method, t.design.storage) == (method, storage)]
        if any(t.needed(target) for t in own):
            continue
        best = min(own, key=lambda t: (-t.best.recall, t.best.p50_ms))
        said.append(
            f"{target:g} is not reached by {method} of {storage}: the best is "
            f"{best.best.recall:.3f} [{best.best.low:.3f}, {best.best.high:.3f}] with "
            f"{best.design.knob} {best.best.breadth} ({best.design})"
        )
    return tuple(said)


def dead_knobs(trials: Sequence[Trial], target: float) -> tuple[str, ...]:
    """Return a sentence for each knob whose values made no difference to recall or time."""
    said = [
        sentence
        for name, without in _KNOBS.items()
        if (sentence := _dead(name, without, trials, target)) is not None
    ]
    return (*said, *_dead_breadths(trials))


_KNOBS: dict[str, Callable[[Design], Design]] = {
    "m": lambda design: replace(design, m=None),
    "ef_construction": lambda design: replace(design, ef_construction=None),
    "storage": lambda design: replace(design, storage="vector"),
    "lists": lambda design: replace(design, lists=None),
}


def _dead(
    name: str, without: Callable[[Design], Design], trials: Sequence[Trial], target: float
) -> str | None:
    groups: dict[Design, list[Trial]] = {}
    for trial in trials:
        if getattr(trial.design, name) is not None and trial.design.storage != "bit":
            groups.setdefault(without(trial.design), []).append(trial)
    compared = [group for group in groups.values() if len(group) > 1]
    if not compared or not all(_are_alike(group, target) for group in compared):
        return None
    values = {getattr(t.design, name) for group in compared for t in group}
    shown = ", ".join(map(str, sorted(values)))
    return f"{name} made no difference: {shown} reach {target:g} in the same time"


def _are_alike(group: Sequence[Trial], target: float) -> bool:
    found = [trial.needed(target) for trial in group]
    held = [point for point in found if point is not None]
    if len(held) < len(found):
        return False
    times = [point.p50_ms for point in held]
    breadths = [point.breadth for point in held]
    return max(times) <= min(times) * (1 + NOISE) and max(breadths) <= min(breadths) * (1 + NOISE)


def _dead_breadths(trials: Sequence[Trial]) -> Iterable[str]:
    for method in dict.fromkeys(trial.design.method for trial in trials):
        own = [t for t in trials if t.design.method == method and t.design.storage != "bit"]
        wide = [t for t in own if len(t.points) > 1]
        if wide and all(len({p.recall for p in t.points}) == 1 for t in wide):
            breadths = [p.breadth for t in wide for p in t.points]
            yield (
                f"{wide[0].design.knob} made no difference: recall is the same from "
                f"{min(breadths)} to {max(breadths)}"
            )

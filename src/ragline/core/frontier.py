"""Which index designs were tried, which are worth trying next, and which of them is the cheapest.

Nothing is measured here. A design is tried at several breadths (`ef_search`, or `probes`); at each it
has a recall with an interval and a time. Two times that differ by less than `NOISE` count as equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ragline.core import hnsw
from ragline.errors import UsageError

Method = Literal["hnsw", "ivfflat"]
Storage = Literal["vector", "halfvec", "bit"]
STORAGES: tuple[Storage, ...] = ("vector", "halfvec", "bit")

NOISE = 0.1
"""On a machine that does something else as well, the same searches differ by so much."""
FEWEST_CHUNKS = 1_000
"""Below, all vectors are compared in the time that an index takes."""
FINALISTS = 3
_CLOSE = 1.1
_M = (16, 24, 32, 8)
_EF_CONSTRUCTION = (64, 128, 200)
_FEW_M = (16, 24)
_FEW_EF_CONSTRUCTION = (64, 128)
_DEFAULT_M = 16
_DEFAULT_EF_CONSTRUCTION = 64
_MOST_LISTS = 32_768
_TOO_SLOW = 1.5
_LEAST_GAIN = 0.002
# Two graphs of the same vectors and values, since their layers are drawn.
_GRAPHS_DIFFER = 0.01
# Halves are as much work as whole numbers: what took less than so much longer met a busy moment.
_CLEARLY_SLOWER = 1.6


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Designs that were not built, and why."""

    design: Design
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sweep is for. `storages` are those that this collection and server can have."""

    target: float
    chunks: int
    dimension: int
    storages: tuple[Storage, ...]
    max_bytes: int | None = None
    is_quick: bool = False
    now: Design | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is left of a sweep: designs still to be built, in order, and those that need not be."""

    upcoming: tuple[Design, ...]
    skipped: tuple[Skipped, ...]


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
    near = [one for one in held if one[1].p50_ms <= held[0][1].p50_ms * _TOO_SLOW]
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


# What to build next.


def outlook(trials: Sequence[Trial], limits: Limits) -> Outlook:
    """Return what is still to be built, and what the trials so far have made pointless."""
    tried = {trial.design: trial for trial in trials}
    upcoming: list[Design] = []
    skipped: list[Skipped] = []
    for design in designs(limits):
        if design in tried:
            continue
        why = _why_not(design, tried, limits)
        if why is None:
            upcoming.append(design)
        else:
            skipped.append(Skipped(design=design, why=why))
    return Outlook(upcoming=tuple(upcoming), skipped=tuple(skipped))


def designs(limits: Limits) -> tuple[Design, ...]:
    """Return all designs of a sweep, in the order in which they are built."""
    whole = [one for one in ("halfvec", "vector") if one in limits.storages]
    grid = [
        _hnsw(storage, m, ef)
        for storage in whole
        for m in (_FEW_M if limits.is_quick else _M)
        for ef in (_FEW_EF_CONSTRUCTION if limits.is_quick else _EF_CONSTRUCTION)
        if ef >= 2 * m
    ]
    found = [_hnsw(storage, _DEFAULT_M, _DEFAULT_EF_CONSTRUCTION) for storage in whole]
    found += [limits.now] if limits.now is not None else []
    found += grid
    if not limits.is_quick:
        found += [_ivfflat(storage, limits.chunks) for storage in whole]
        found += [_ivfflat(s, limits.chunks, share) for s in whole[:1] for share in (0.5, 2.0)]
        if "bit" in limits.storages:
            found += [_hnsw("bit", _DEFAULT_M, ef) for ef in (_DEFAULT_EF_CONSTRUCTION, 200)]
    return tuple(dict.fromkeys(found))


def _hnsw(storage: Storage | str, m: int, ef_construction: int) -> Design:
    return Design(method="hnsw", storage=_storage(storage), m=m, ef_construction=ef_construction)


def _ivfflat(storage: Storage | str, chunks: int, share: float = 1.0) -> Design:
    lists = min(_MOST_LISTS, max(1, round(math.sqrt(chunks) * share)))
    return Design(method="ivfflat", storage=_storage(storage), lists=lists)


def _storage(name: str) -> Storage:
    return "bit" if name == "bit" else "halfvec" if name == "halfvec" else "vector"


def _why_not(design: Design, tried: dict[Design, Trial], limits: Limits) -> str | None:
    if too_large := _too_large(design, limits):
        return too_large
    if design == limits.now:
        return None
    if design.method == "ivfflat":
        return _after(design, tried, limits, _first_ivfflat(limits))
    if design.storage == "bit":
        return _after(design, tried, limits, _hnsw("bit", _DEFAULT_M, _DEFAULT_EF_CONSTRUCTION))
    return (
        _of_worse_storage(design, tried, limits)
        or _of_dead_ef_construction(design, tried, limits)
        or _of_dead_m(design, tried, limits)
    )


def size(text: str, option: str) -> int:
    """Return the bytes of a size as people say it: "100MB", "1.5 GB". A GB is 1024 MB."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([kmgt])i?b?", text.strip().lower())
    if found is None:
        raise UsageError(f"{option} is {text!r}; write a size with its unit, such as 100MB")
    return int(float(found[1]) * 1024 ** ("kmgt".index(found[2]) + 1))


def index_bytes(design: Design, dimension: int, chunks: int) -> int:
    """Return about how large an index becomes."""
    data = {"vector": 8 + 4 * dimension, "halfvec": 8 + 2 * dimension, "bit": 8 + dimension // 8}
    if design.method == "hnsw" and design.storage != "bit":
        graph = hnsw.Graph(
            slot=1,
            storage="halfvec" if design.storage == "halfvec" else "vector",
            m=design.m or _DEFAULT_M,
            ef_construction=design.ef_construction or _DEFAULT_EF_CONSTRUCTION,
        )
        return hnsw.index_bytes(graph, dimension, chunks)
    neighbours = 4 + 12 * (design.m or 0) + 80 if design.method == "hnsw" else 12
    return chunks * (data[design.storage] + neighbours) + 8192


def _too_large(design: Design, limits: Limits) -> str | None:
    size = index_bytes(design, limits.dimension, limits.chunks)
    if limits.max_bytes is None or size <= limits.max_bytes * 1.15:
        return None
    most = limits.max_bytes / 2**20
    return f"it would take about {size / 2**20:,.0f} MB, more than the {most:,.0f} MB allowed"


def _first_ivfflat(limits: Limits) -> Design:
    storage = "halfvec" if "halfvec" in limits.storages else "vector"
    return _ivfflat(storage, limits.chunks)


def _after(
    design: Design, tried: dict[Design, Trial], limits: Limits, before: Design
) -> str | None:
    """Return why no more of a way is tried, once its first one showed how it compares."""
    first = tried.get(before)
    if first is None or design == before:
        return None
    least = min(
        (_time(trial, limits.target) for d, trial in tried.items() if d.is_applicable),
        default=math.inf,
    )
    took = _time(first, limits.target)
    if math.isinf(took):
        return (
            f"{before} does not reach {limits.target:g}: {first.best.recall:.3f} at most, in "
            f"{first.best.p50_ms:.2f} ms"
        )
    if took > least * _TOO_SLOW:
        return f"{before} takes {took / least:.1f} x the quickest graph's time at the same recall"
    return None


def _of_worse_storage(design: Design, tried: dict[Design, Trial], limits: Limits) -> str | None:
    """One storage is enough for the grid: what m and ef_construction do is the same in both."""
    half, whole = (
        tried.get(_hnsw(one, _DEFAULT_M, _DEFAULT_EF_CONSTRUCTION)) for one in ("halfvec", "vector")
    )
    if half is None or whole is None:
        return None
    is_half_as_good = _is_as_good(half, whole)
    better, one, other = ("halfvec", half, whole) if is_half_as_good else ("vector", whole, half)
    if design.storage == better:
        return None
    said = f"{_shown(one, limits.target)} against {_shown(other, limits.target)}"
    return f"{better} does as well or better with the same m and ef_construction: {said}"


def _is_as_good(one: Trial, other: Trial) -> bool:
    """Whether searches of one breadth find as much in the same time, as far as two graphs can tell."""
    theirs = {point.breadth: point for point in other.points}
    both = [(point, theirs[point.breadth]) for point in one.points if point.breadth in theirs]
    if not both:
        return one.best.recall >= other.best.recall
    ours, same = both[-1]
    is_as_quick = ours.p50_ms <= same.p50_ms * _CLEARLY_SLOWER
    return is_as_quick and ours.recall >= same.recall - _GRAPHS_DIFFER


def _shown(trial: Trial, target: float) -> str:
    point = trial.needed(target) or trial.best
    return f"{point.p50_ms:.2f} ms at {point.recall:.3f} and {trial.size_bytes / 2**20:,.0f} MB"


def _of_dead_ef_construction(
    design: Design, tried: dict[Design, Trial], limits: Limits
) -> str | None:
    """Two steps up that brought nothing are not followed by a third."""
    lower = [
        trial
        for d, trial in tried.items()
        if (d.method, d.storage, d.m) == (design.method, design.storage, design.m)
        and (d.ef_construction or 0) < (design.ef_construction or 0)
    ]
    lower.sort(key=lambda trial: trial.design.ef_construction or 0)
    if len(lower) < 2 or _is_gain(lower[-2], lower[-1], limits.target):
        return None
    one, other = (trial.design.ef_construction for trial in lower[-2:])
    return f"ef_construction {one} -> {other} brought nothing with m {design.m}"


def _of_dead_m(design: Design, tried: dict[Design, Trial], limits: Limits) -> str | None:
    if design.m is None or design.m <= _DEFAULT_M:
        return None
    by_m: dict[int, list[Trial]] = {}
    for d, trial in tried.items():
        if d.storage == design.storage and d.m is not None and _DEFAULT_M <= d.m < design.m:
            by_m.setdefault(d.m, []).append(trial)
    if len(by_m) < 2:
        return None
    one, other = sorted(by_m)[-2:]
    best = [
        min(by_m[m], key=lambda t: (_time(t, limits.target), -t.best.recall)) for m in (one, other)
    ]
    if _is_gain(best[0], best[1], limits.target):
        return None
    return f"m {one} -> {other} brought nothing"


def _is_gain(before: Trial, after: Trial, target: float) -> bool:
    """Whether the same recall comes clearly sooner; or, where neither reaches it, more of it."""
    was, became = _time(before, target), _time(after, target)
    if math.isinf(was) and math.isinf(became):
        return after.best.recall > before.best.recall + _LEAST_GAIN
    return became < was * (1 - NOISE)


def _time(trial: Trial, target: float) -> float:
    point = trial.needed(target)
    return math.inf if point is None else point.p50_ms


def expected_s(design: Design, trials: Sequence[Trial]) -> float | None:
    """Return how long a design takes to build, by what others of its method took; None for the first."""
    rates = [t.build_s / _work(t.design) for t in trials if t.design.method == design.method]
    return None if not rates else sum(rates) / len(rates) * _work(design)


def _work(design: Design) -> float:
    if design.method == "ivfflat":
        return float(design.lists or 1)
    return (design.ef_construction or _DEFAULT_EF_CONSTRUCTION) * math.sqrt(design.m or _DEFAULT_M)


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

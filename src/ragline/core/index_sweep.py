"""Which index designs a sweep builds, in which order, and which need not be built any more.

`frontier` says what comes of those that were.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ragline.core import hnsw
from ragline.core.frontier import NOISE, TOO_SLOW, Design, Storage, Trial
from ragline.errors import UsageError

STORAGES: tuple[Storage, ...] = ("vector", "halfvec", "bit")
FEWEST_CHUNKS = 1_000
"""Below, all vectors are compared in the time that an index takes."""
_WHOLE: tuple[Storage, ...] = ("halfvec", "vector")
_M = (16, 24, 32, 8)
_EF_CONSTRUCTION = (64, 128, 200)
_FEW_M = (16, 24)
_FEW_EF_CONSTRUCTION = (64, 128)
_DEFAULT_M = 16
_DEFAULT_EF_CONSTRUCTION = 64
_MOST_LISTS = 32_768
_LEAST_GAIN = 0.002
# Two graphs of the same vectors and values, since their layers are drawn.
_GRAPHS_DIFFER = 0.01
# Halves are as much work as whole numbers: what took less than so much longer met a busy moment.
_CLEARLY_SLOWER = 1.6


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
    whole = [one for one in _WHOLE if one in limits.storages]
    found = [_usual(storage) for storage in whole]
    found += [limits.now] if limits.now is not None else []
    found += [
        _hnsw(storage, m, ef)
        for storage in whole
        for m in (_FEW_M if limits.is_quick else _M)
        for ef in (_FEW_EF_CONSTRUCTION if limits.is_quick else _EF_CONSTRUCTION)
        if ef >= 2 * m
    ]
    if not limits.is_quick:
        found += [_ivfflat(storage, limits.chunks) for storage in whole]
        found += [_ivfflat(s, limits.chunks, share) for s in whole[:1] for share in (0.5, 2.0)]
        if "bit" in limits.storages:
            found += [_hnsw("bit", _DEFAULT_M, ef) for ef in (_DEFAULT_EF_CONSTRUCTION, 200)]
    return tuple(dict.fromkeys(found))


def _hnsw(storage: Storage, m: int, ef_construction: int) -> Design:
    return Design(method="hnsw", storage=storage, m=m, ef_construction=ef_construction)


def _usual(storage: Storage) -> Design:
    return _hnsw(storage, _DEFAULT_M, _DEFAULT_EF_CONSTRUCTION)


def _ivfflat(storage: Storage, chunks: int, share: float = 1.0) -> Design:
    lists = min(_MOST_LISTS, max(1, round(math.sqrt(chunks) * share)))
    return Design(method="ivfflat", storage=storage, lists=lists)


def _why_not(design: Design, tried: dict[Design, Trial], limits: Limits) -> str | None:
    if too_large := _too_large(design, limits):
        return too_large
    if design == limits.now:
        return None
    if design.method == "ivfflat":
        storage: Storage = "halfvec" if "halfvec" in limits.storages else "vector"
        return _after(design, tried, limits, _ivfflat(storage, limits.chunks))
    if design.storage == "bit":
        return _after(design, tried, limits, _usual("bit"))
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
    if took > least * TOO_SLOW:
        return f"{before} takes {took / least:.1f} x the quickest graph's time at the same recall"
    return None


def _of_worse_storage(design: Design, tried: dict[Design, Trial], limits: Limits) -> str | None:
    """One storage is enough for the grid: what m and ef_construction do is the same in both."""
    half, whole = (tried.get(_usual(one)) for one in _WHOLE)
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

"""How the chunks that a filter allows are reached: all compared, or the index walked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

AccessKind = Literal["exact", "index"]

# A filter that goes along with what texts say makes the walk many times longer than one that was drawn,
# while comparing all costs what it costs: so a walk must be quicker by so much to be chosen.
_WORTH_WALKING = 2.0
_LEAST_RECALL = 0.95
# Where the collection was never measured: what 25,000 chunks of 384 dimensions showed.
_UNMEASURED_EXACT_CHUNKS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How the index has to be walked when a filter keeps `share` of the chunks, as it was measured.

    `ef_search` and `factor` (hits asked of the index for each one wanted, sorted again) are the
    cheapest that reached `recall`; `index_ms` is what they took, `exact_ms` what comparing all took.
    """

    share: float
    ef_search: int
    factor: int
    recall: float
    index_ms: float
    exact_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Where one way becomes quicker than the other in a collection. Levels by falling share.

    Up to `exact_chunks` allowed chunks are all compared. `chunks` is how many there were then.
    """

    exact_chunks: int
    levels: tuple[Level, ...]
    chunks: int
    is_measured: bool = True


UNMEASURED = Calibration(
    exact_chunks=_UNMEASURED_EXACT_CHUNKS,
    levels=(
        Level(share=0.5, ef_search=400, factor=1, recall=0.0, index_ms=0.0, exact_ms=0.0),
        Level(share=0.1, ef_search=400, factor=4, recall=0.0, index_ms=0.0, exact_ms=0.0),
    ),
    chunks=0,
    is_measured=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How one search with a filter was done, and why. `share` is an estimate from `sampled` chunks.

    `rows` is how many allowed chunks the index hands over before they are sorted again.
    """

    kind: AccessKind
    share: float
    sampled: int
    allowed_chunks: int
    exact_chunks: int
    is_calibrated: bool
    ef_search: int | None = None
    rows: int | None = None


def choose(
    share: float,
    sampled: int,
    chunks: int,
    k: int,
    calibration: Calibration | None,
    *,
    is_exact: bool = False,
) -> Access:
    """Return how to reach the chunks of a filter that keeps about `share` of `chunks` chunks."""
    measured = calibration or UNMEASURED
    allowed = round(share * chunks)
    is_few = is_exact or allowed <= measured.exact_chunks
    level = None if is_few else _level(measured.levels, share)
    return Access(
        kind="exact" if level is None else "index",
        share=share,
        sampled=sampled,
        allowed_chunks=allowed,
        exact_chunks=measured.exact_chunks,
        is_calibrated=measured.is_measured,
        ef_search=None if level is None else level.ef_search,
        rows=None if level is None else level.factor * k,
    )


def _level(levels: Sequence[Level], share: float) -> Level:
    """Return the level measured at the nearest share below, which is the more careful one."""
    return next((level for level in levels if level.share <= share * 1.1), levels[-1])


def crossover(levels: Sequence[Level], chunks: int) -> int:
    """Return up to how many allowed chunks comparing them all is quicker than walking the index.

    Between the two levels where the quicker way changes, both costs are taken as straight lines. A
    walk counts as twice what it took: it is what may take longer than measured, and finds less.
    """
    by_size = [
        replace(
            level,
            # No walk that misses so much is quick enough.
            index_ms=level.index_ms * _WORTH_WALKING
            if level.recall >= _LEAST_RECALL
            else level.exact_ms * 2,
        )
        for level in sorted(levels, key=lambda level: level.share)
    ]
    last = by_size[0].share if by_size else 0.0
    if by_size and by_size[0].exact_ms > by_size[0].index_ms:
        # Even the fewest were slower to compare: as many as cost the same, their cost being linear.
        return round(last * chunks * by_size[0].index_ms / by_size[0].exact_ms)
    for lower, upper in pairwise(by_size):
        if upper.exact_ms > upper.index_ms:
            gain = lower.index_ms - lower.exact_ms
            loss = upper.exact_ms - upper.index_ms
            share = lower.share + (upper.share - lower.share) * gain / (gain + loss)
            return round(share * chunks)
        last = upper.share
    return round(last * chunks)


def to_json(calibration: Calibration) -> list[dict[str, Any]]:
    """Return the levels as plain values."""
    return [asdict(level) for level in calibration.levels]


def levels_from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Level, ...]:
    """Return what `to_json` made of levels."""
    return tuple(Level(**value) for value in values)

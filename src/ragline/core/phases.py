"""Where the time of a piece of work went: each moment belongs to what was under way just then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

Span = tuple[int, int | None, str, float, float]
"""Its number, its parent's, a phase, and the seconds of its start and end."""

REST = "rest"


def attributed(spans: Iterable[Span], start: float, end: float) -> dict[str, float]:
    """Return the seconds of each phase between `start` and `end`; they sum up to `end - start`.

    A span stands back while one of its own is under way; those that run side by side share the time
    equally; what no span covers is "rest". Spans are cut to the time asked for.

    >>> attributed([(1, None, "judge", 0, 8), (2, 1, "limiter", 2, 4)], 0, 10)
    {'judge': 6.0, 'limiter': 2.0, 'rest': 2.0}
    """
    found: dict[str, float] = {}
    active: dict[int, tuple[int | None, str]] = {}
    children: Counter[int | None] = Counter()
    before = start
    for moment, is_start, number, parent, phase in _turns(spans, start, end):
        if moment > before:
            _share(found, active, children, moment - before)
            before = moment
        if is_start:
            active[number] = (parent, phase)
            children[parent] += 1
        else:
            del active[number]
            children[parent] -= 1
    found[REST] = max(0.0, end - start - sum(found.values()))
    return found


def _turns(
    spans: Iterable[Span], start: float, end: float
) -> list[tuple[float, bool, int, int | None, str]]:
    """Return starts and ends in order; at one moment ends go first."""
    turns = []
    for number, parent, phase, began, ended in spans:
        low, high = max(start, began), min(end, ended)
        if low < high:
            turns.append((low, True, number, parent, phase))
            turns.append((high, False, number, parent, phase))
    return sorted(turns, key=lambda turn: (turn[0], turn[1]))


def _share(
    found: dict[str, float],
    active: dict[int, tuple[int | None, str]],
    children: Counter[int | None],
    seconds: float,
) -> None:
    """Give a stretch of time to the spans that have none of their own under way."""
    leaves = [phase for number, (_, phase) in active.items() if not children[number]]
    for phase in leaves:
        found[phase] = found.get(phase, 0.0) + seconds / len(leaves)

"""Retrieval metrics of one ranked list; averages over questions are the caller's.

They are trec_eval's, to which the tests compare them: an item is relevant from grade 1 on, and one
that stands in a list twice counts once, where it stands first.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ragline.errors import UsageError

Grades = AbstractSet[object] | Mapping[Any, int]
"""The relevant items, or the grade of each judged one; 0 and less is not relevant."""


def ordered(scores: Mapping[str, float]) -> list[str]:
    """Return the items as trec_eval ranks them: highest score first, of equal ones the last id.

    Scores that are the same in single precision are equal, as they are there.
    """
    if unfit := [item for item, score in scores.items() if math.isnan(score)]:
        raise UsageError(f"the score of {unfit[0]!r} is not a number; give every item a score")
    single = dict(zip(scores, array("f", scores.values()), strict=True))
    return sorted(single, key=lambda item: (single[item], item), reverse=True)


def recall_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return the share of the relevant items that stand among the first `k`."""
    _check(k, relevant)
    return len(relevant & set(ranked[:k])) / len(relevant)


def hit_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return 1.0 when a relevant item stands among the first `k`, else 0.0."""
    _check(k, relevant)
    return float(bool(_places(k, ranked, relevant)))


def precision_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return how many of the first `k` are relevant, as a share of `k` however short the list is."""
    _check(k, relevant)
    return len(_places(k, ranked, relevant)) / k


def reciprocal_rank_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return 1 / rank of the first relevant item; 0.0 when none stands among the first `k`."""
    _check(k, relevant)
    places = _places(k, ranked, relevant)
    return 1 / places[0] if places else 0.0


def average_precision_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return the mean over all relevant items of the precision where each stands; 0 below `k`."""
    _check(k, relevant)
    places = _places(k, ranked, relevant)
    return sum(found / place for found, place in enumerate(places, start=1)) / len(relevant)


def ndcg_at(k: int, ranked: Sequence[object], grades: Grades) -> float:
    """Return nDCG: the sum of grade / log2(1 + rank), as a share of the best possible.

    The gain is the grade itself; of a set, 1 for each item. Järvelin and Kekäläinen, Cumulated
    gain-based evaluation of IR techniques (2002).
    """
    gains = _gains(grades)
    _check(k, gains.keys())
    gain = sum(
        gains[ranked[place - 1]] / math.log2(1 + place) for place in _places(k, ranked, gains)
    )
    best = sorted(gains.values(), reverse=True)[:k]
    return gain / sum(grade / math.log2(1 + rank) for rank, grade in enumerate(best, start=1))


def retrieval(k: int, ranked: Sequence[str], grades: Mapping[str, int]) -> dict[str, float]:
    """Return all metrics of a ranked list, each under its name with `k` filled in.

    >>> retrieval(2, ["b", "a"], {"a": 1})["mrr@2"]
    0.5
    """
    relevant = _gains(grades).keys()
    return {
        f"recall@{k}": recall_at(k, ranked, relevant),
        f"hit@{k}": hit_at(k, ranked, relevant),
        f"precision@{k}": precision_at(k, ranked, relevant),
        f"mrr@{k}": reciprocal_rank_at(k, ranked, relevant),
        f"map@{k}": average_precision_at(k, ranked, relevant),
        f"ndcg@{k}": ndcg_at(k, ranked, grades),
    }


def overlap_at(k: int, one: Sequence[object], other: Sequence[object]) -> float:
    """Return the share of the items among the first `k` that both lists have, whatever their order.

    A share of the longer list's: two lists that both found nothing are alike, 1.0.
    """
    _check_size(k)
    first, second = set(one[:k]), set(other[:k])
    longer = max(len(first), len(second))
    return len(first & second) / longer if longer else 1.0


def _places(k: int, ranked: Sequence[object], relevant: Grades) -> list[int]:
    """Return the ranks, from 1, of the relevant items among the first `k`."""
    first: dict[object, int] = {}
    for rank, item in enumerate(ranked[:k], start=1):
        if item in relevant:
            first.setdefault(item, rank)
    return list(first.values())


def _gains(grades: Grades) -> dict[Any, int]:
    if isinstance(grades, Mapping):
        return {item: grade for item, grade in grades.items() if grade >= 1}
    return dict.fromkeys(grades, 1)


def _check(k: int, relevant: AbstractSet[object]) -> None:
    _check_size(k)
    if not relevant:
        raise UsageError("no item is relevant, so nothing can be measured")


def _check_size(k: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}; it must be at least 1")

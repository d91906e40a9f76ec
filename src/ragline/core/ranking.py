"""Retrieval metrics of one ranked list; averages over questions are the caller's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from ragline.errors import UsageError


def recall_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return the share of the relevant items that stand among the first `k`."""
    _check(k, relevant)
    return len(relevant & set(ranked[:k])) / len(relevant)


def ndcg_at(k: int, ranked: Sequence[object], relevant: AbstractSet[object]) -> float:
    """Return nDCG with binary gain: the sum of 1 / log2(1 + rank), as a share of the best possible.

    Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (2002).
    """
    _check(k, relevant)
    gain = sum(
        1 / math.log2(1 + rank)
        for rank, item in enumerate(ranked[:k], start=1)
        if item in relevant and item not in ranked[: rank - 1]
    )
    best = sum(1 / math.log2(1 + rank) for rank in range(1, min(k, len(relevant)) + 1))
    return gain / best


def _check(k: int, relevant: AbstractSet[object]) -> None:
    if k < 1:
        raise UsageError(f"k is {k}; it must be at least 1")
    if not relevant:
        raise UsageError("no item is relevant, so nothing can be measured")

"""Putting ranked lists together."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ragline.core.results import Hit, Method

# A convex combination of scores, each as a share of the best one found: Bruch, Gai and Ingber, "An
# Analysis of Fusion Functions for Hybrid Retrieval" (ACM TOIS, 2023). Decision 009 has the table
# that chose the weight and shows what ranks alone (RRF) lose.
VECTOR_WEIGHT = 0.7
WORDS_WEIGHT = 0.3
# What a half does not hand over counts as nothing there, so a short list loses more than with ranks.
FEWEST_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Weights:
    """What each half's share counts; together 1."""

    vector: float = VECTOR_WEIGHT
    words: float = WORDS_WEIGHT


def weights(vector_weight: float | None) -> Weights:
    """Return the weights where the vectors' share counts so much; None is the default."""
    if vector_weight is None:
        return Weights()
    # As they are stored: 1 - 0.9 is not quite 0.1.
    return Weights(round(vector_weight, 6), round(1 - vector_weight, 6))


def candidates(k: int) -> int:
    """Return how many chunks each half hands to the fusion for `k` hits."""
    return max(FEWEST_CANDIDATES, 2 * k)


def combined(
    vector_share: float | None,
    words_share: float | None,
    by: Weights = Weights(),
) -> float:
    """Return 0.7 v + 0.3 w, from 0 to 1; None stands for "not among that half's candidates".

    A share is a chunk's score divided by the best score of its half: the similarity (at least 0),
    or BM25.
    """
    return by.vector * (vector_share or 0.0) + by.words * (words_share or 0.0)


def merge(lists: Iterable[Sequence[Hit]], method: Method, k: int) -> tuple[Hit, ...]:
    """Return the best `k` hits of several collections, each list already in its own order.

    Fused scores are shares of each collection's best, so they compare across collections; BM25 scores
    and distances of different corpora or models do not, so those are merged by rank: all firsts, all
    seconds, …. Asked for both, a collection searched by words alone gets its BM25 as a share of its
    best: the half that was not asked leaves its weight to the other.
    """
    if method == "hybrid":
        lists = [_fused(hits) for hits in lists]
    ranked = [
        (-hit.score if method == "hybrid" else place, place, hit.collection, hit.chunk_id, hit)
        for hits in lists
        for place, hit in enumerate(hits, start=1)
    ]
    return tuple(row[-1] for row in heapq.nsmallest(k, ranked, key=lambda row: row[:4]))


def _fused(hits: Sequence[Hit]) -> Sequence[Hit]:
    if any(hit.vector_rank is not None for hit in hits):
        return hits
    best = max((hit.lexical_score or 0.0 for hit in hits), default=0.0)
    return [replace(hit, score=(hit.lexical_score or 0.0) / best) for hit in hits] if best else hits

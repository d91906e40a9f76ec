"""Putting ranked lists together."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ragline.core.results import Hit, Method

# Cormack, Clarke and Buettcher, Reciprocal Rank Fusion (SIGIR 2009): 60 was best and is flat around.
RRF_K = 60


def rrf(*ranks: int | None) -> float:
    """Return the sum of 1 / (60 + rank) over the lists that hold an item; ranks start at 1."""
    return sum(1.0 / (RRF_K + rank) for rank in ranks if rank is not None)


def merge(lists: Iterable[Sequence[Hit]], method: Method, k: int) -> tuple[Hit, ...]:
    """Return the best `k` hits of several collections, each list already in its own order.

    Fused scores depend on ranks alone, so they compare across collections; BM25 scores and distances
    of different corpora or models do not, so those are merged by rank: all firsts, all seconds, ….
    Asked for both, a collection without vectors is searched by words; its hits get fused scores too.
    """
    if method == "hybrid":
        lists = [[_fused(hit) for hit in hits] for hits in lists]
    ranked = [
        (-hit.score if method == "hybrid" else place, place, hit.collection, hit.chunk_id, hit)
        for hits in lists
        for place, hit in enumerate(hits, start=1)
    ]
    return tuple(row[-1] for row in heapq.nsmallest(k, ranked, key=lambda row: row[:4]))


def _fused(hit: Hit) -> Hit:
    return replace(hit, score=rrf(hit.vector_rank, hit.lexical_rank))

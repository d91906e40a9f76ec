"""How well lists of vectors could part today's rows, to compare what an IVFFlat index has with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]

_ROUNDS = 4
_SHORTEST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFit:
    """What one probe finds: the mean share of the k nearest, and the median share of rows compared."""

    recall: float
    share: float


def fitted(
    vectors: Vectors, queries: Vectors, *, lists: int, k: int, metric: str, seed: int
) -> ListFit:
    """Return what lists made of these very vectors, shape (n, dimension), find for the queries.

    With fewer vectors than the table has rows the nearest are farther, and fewer of them share a list:
    what the whole table would give is at least as good.
    """
    if metric != "l2":  # directions, as pgvector parts them for these distances
        vectors, queries = _directions(vectors), _directions(queries)
    centres = _centres(vectors, lists, is_direction=metric != "l2", seed=seed)
    of_rows, of_queries = _nearest(vectors, centres), _nearest(queries, centres)
    found, shares = [], []
    for query, one in zip(queries, of_queries, strict=True):
        distances = _squares(query[None, :], vectors)[0]
        best = np.argpartition(distances, min(k, len(distances)) - 1)[:k]
        found.append(float(np.mean(of_rows[best] == one)))
        shares.append(float(np.mean(of_rows == one)))
    return ListFit(recall=float(np.mean(found)), share=float(np.median(shares)))


def _centres(vectors: Vectors, lists: int, *, is_direction: bool, seed: int) -> Vectors:
    """Return k-means centres, begun with vectors drawn at random."""
    drawn = np.random.default_rng(seed).permutation(len(vectors))[:lists]
    centres = vectors[drawn].copy()
    for _ in range(_ROUNDS):
        nearest = _nearest(vectors, centres)
        order = np.argsort(nearest, kind="stable")
        held, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(vectors[order], starts, axis=0)
        counts = np.diff([*starts, len(vectors)])[:, None]
        centres[held] = (sums / counts).astype(np.float32)
        if is_direction:
            centres = _directions(centres)
    return centres


def _nearest(vectors: Vectors, centres: Vectors) -> npt.NDArray[np.intp]:
    return np.asarray(_squares(vectors, centres).argmin(axis=1), dtype=np.intp)


def _squares(one: Vectors, other: Vectors) -> Vectors:
    """Return squared distances without the part that is the same for a row, shape (one, other)."""
    squares: Vectors = (other**2).sum(axis=1)[None, :] - 2 * (one @ other.T)
    return squares


def _directions(vectors: Vectors) -> Vectors:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SHORTEST)
    unit: Vectors = (vectors / lengths).astype(np.float32)
    return unit

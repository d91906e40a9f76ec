"""What an exact search of many vectors finds, computed once in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.int64]

# So many more than k are kept, for those that are as near as the last one.
_SPARE = 40
_TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Truth:
    """For each question how many are to be found, and all that are near enough to be among them."""

    wanted: tuple[int, ...]
    nearest: tuple[frozenset[int], ...]

    def recall(self, question: int, found: Sequence[int]) -> float:
        """Return the share of what an exact search finds that was found; equally near ones are equal."""
        wanted = self.wanted[question]
        if not wanted:
            return 1.0
        hits = len(self.nearest[question].intersection(found))
        return min(hits, wanted) / wanted

    def of(self, questions: Sequence[int]) -> Truth:
        """Return the truth of some of the questions, in their order."""
        return Truth(
            tuple(self.wanted[n] for n in questions), tuple(self.nearest[n] for n in questions)
        )


class Nearest:
    """The nearest so far. For q questions it holds q times (k + spare) distances, and no vectors."""

    def __init__(
        self, questions: Floats, k: int, metric: str, allowed: Numbers | None = None
    ) -> None:
        self._questions = _unit(questions) if metric == "cosine" else questions
        self._k, self._metric, self._allowed = k, metric, allowed
        self._numbers = np.empty((len(questions), 0), dtype=np.int64)
        self._distances = np.empty((len(questions), 0), dtype=np.float32)

    def see(self, numbers: Numbers, vectors: Floats) -> None:
        """Take some more vectors, shape (rows, dimension), in any order."""
        if self._allowed is not None:
            kept = np.isin(numbers, self._allowed)
            numbers, vectors = numbers[kept], vectors[kept]
        if not len(numbers):
            return
        distances = np.hstack([self._distances, self._between(vectors)])
        everyone = np.broadcast_to(numbers, (len(self._questions), len(numbers)))
        together = np.hstack([self._numbers, everyone])
        most = self._k + _SPARE
        if distances.shape[1] > most:
            order = np.argpartition(distances, most - 1, axis=1)[:, :most]
            distances = np.take_along_axis(distances, order, axis=1)
            together = np.take_along_axis(together, order, axis=1)
        self._distances, self._numbers = distances, together

    def truth(self) -> Truth:
        """Return what there is to be found."""
        wanted = min(self._k, self._distances.shape[1])
        if not wanted:
            nothing: frozenset[int] = frozenset()
            return Truth((0,) * len(self._questions), (nothing,) * len(self._questions))
        last = np.partition(self._distances, wanted - 1, axis=1)[:, wanted - 1]
        limits = last + _TIE * np.maximum(np.abs(last), 1.0)
        near = self._distances <= limits[:, None]
        found = (
            frozenset(row[is_near].tolist())
            for row, is_near in zip(self._numbers, near, strict=True)
        )
        return Truth((wanted,) * len(self._questions), tuple(found))

    def _between(self, vectors: Floats) -> Floats:
        if self._metric == "cosine":
            distances = 1 - np.matmul(self._questions, _unit(vectors).T)
        elif self._metric == "inner_product":
            distances = -np.matmul(self._questions, vectors.T)
        else:
            squares = (self._questions**2).sum(axis=1)[:, None] + (vectors**2).sum(axis=1)[None, :]
            distances = np.sqrt(np.maximum(squares - 2 * self._questions @ vectors.T, 0))
        # A vector of no length has no direction: last, as in the server.
        return np.where(np.isnan(distances), np.inf, distances).astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


async def exact(
    vectors: AsyncIterator[tuple[Numbers, Floats]], of: Sequence[Nearest]
) -> list[Truth]:
    """Return the truths of several sets of questions, from one reading of the vectors."""
    async for numbers, block in vectors:
        for one in of:
            one.see(numbers, block)
    return [one.truth() for one in of]

"""What an exact search of many vectors finds, computed once in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.uint8]
Vectors: TypeAlias = Callable[[], AsyncIterator[tuple[Numbers, Floats]]]
"""Reads all numbers and vectors anew, some at a time."""

# So many more than k are kept, for those that are as near as the last one.
_SPARE = 40
# Of the lengths of the vectors: so far apart sums of single precision may lie that should be equal.
_TIE = 5e-6


@dataclass(frozen=True, slots=True)
class Ties:
    """All that are near enough, where they are many: a bit of each row, the rows by their numbers."""

    numbers: Numbers
    bits: Bits

    def count(self, found: Sequence[int]) -> int:
        """Return how many different ones of these are near enough."""
        asked = np.unique(np.asarray(found, dtype=np.int64))
        at = np.minimum(np.searchsorted(self.numbers, asked), len(self.numbers) - 1)
        is_there = self.numbers[at] == asked
        is_near = self.bits[at >> 3] >> (7 - (at & 7)).astype(np.uint8) & 1
        return int((is_there & (is_near == 1)).sum())


@dataclass(frozen=True, slots=True)
class Truth:
    """For each question how many are to be found, and all that are near enough to be among them."""

    wanted: tuple[int, ...]
    nearest: tuple[frozenset[int] | Ties, ...]

    def recall(self, question: int, found: Sequence[int]) -> float:
        """Return the share of what an exact search finds that was found; equally near ones are equal."""
        wanted = self.wanted[question]
        if not wanted:
            return 1.0
        nearest = self.nearest[question]
        if isinstance(nearest, Ties):
            return min(nearest.count(found), wanted) / wanted
        return min(len(nearest.intersection(found)), wanted) / wanted


class Nearest:
    """The nearest so far. For q questions it holds q times (k + spare) distances, and no vectors."""

    def __init__(
        self, questions: Floats, k: int, metric: str, allowed: Numbers | None = None
    ) -> None:
        self._questions = _unit(questions) if metric == "cosine" else questions
        self._k, self._metric, self._allowed = k, metric, allowed
        self._longest = np.float32(0.0)
        self._numbers = np.empty((len(questions), 0), dtype=np.int64)
        self._distances = np.empty((len(questions), 0), dtype=np.float32)
        self._crowded: dict[int, Ties] = {}
        self._seen: list[Numbers] = []
        self._near: list[Bits] = []

    def see(self, numbers: Numbers, vectors: Floats) -> None:
        """Take some more vectors, shape (rows, dimension), in any order."""
        numbers, vectors = self._kept(numbers, vectors)
        if not len(numbers):
            return
        if self._metric != "cosine":
            self._longest = max(self._longest, np.linalg.norm(vectors, axis=1).max())
        distances = np.hstack([self._distances, self._between(self._questions, vectors)])
        everyone = np.broadcast_to(numbers, (len(self._questions), len(numbers)))
        together = np.hstack([self._numbers, everyone])
        most = self._k + _SPARE
        if distances.shape[1] > most:
            order = np.argpartition(distances, most - 1, axis=1)[:, :most]
            distances = np.take_along_axis(distances, order, axis=1)
            together = np.take_along_axis(together, order, axis=1)
        self._distances, self._numbers = distances, together

    @property
    def crowded(self) -> list[int]:
        """The questions with more equally near ones than were kept: copies of one text, say."""
        if self._distances.shape[1] < self._k + _SPARE:
            return []
        is_full = (self._distances <= self._limits()[:, None]).all(axis=1)
        return [int(number) for number in np.flatnonzero(is_full)]

    def see_again(self, numbers: Numbers, vectors: Floats, crowded: Sequence[int]) -> None:
        """Take all vectors once more, and note which are near enough to these questions."""
        numbers, vectors = self._kept(numbers, vectors)
        distances = self._between(self._questions[list(crowded)], vectors)
        self._seen.append(numbers)
        # A row of bits for each vector: the questions lie side by side.
        limits = self._limits()[list(crowded)]
        self._near.append(np.packbits((distances <= limits[:, None]).T, axis=1))

    def seen_again(self, crowded: Sequence[int]) -> None:
        """Have the truth of these questions consist of what was noted."""
        numbers = np.concatenate(self._seen)
        order = np.argsort(numbers, kind="stable")
        numbers, near = numbers[order], np.concatenate(self._near)[order]
        for place, question in enumerate(crowded):
            bits = near[:, place >> 3] >> np.uint8(7 - (place & 7)) & 1
            self._crowded[question] = Ties(numbers, np.packbits(bits))
        self._seen, self._near = [], []

    def truth(self) -> Truth:
        """Return what there is to be found."""
        wanted = min(self._k, self._distances.shape[1])
        if not wanted:
            nothing: frozenset[int] = frozenset()
            return Truth((0,) * len(self._questions), (nothing,) * len(self._questions))
        near = self._distances <= self._limits()[:, None]
        found: list[frozenset[int] | Ties] = [
            frozenset(row[is_near].tolist())
            for row, is_near in zip(self._numbers, near, strict=True)
        ]
        for question, ties in self._crowded.items():
            found[question] = ties
        return Truth((wanted,) * len(self._questions), tuple(found))

    def _kept(self, numbers: Numbers, vectors: Floats) -> tuple[Numbers, Floats]:
        if self._allowed is None:
            return numbers, vectors
        kept = np.isin(numbers, self._allowed)
        return numbers[kept], vectors[kept]

    def _limits(self) -> Floats:
        wanted = min(self._k, self._distances.shape[1])
        last = np.partition(self._distances, wanted - 1, axis=1)[:, wanted - 1]
        limits: Floats = last + np.float32(_TIE) * self._scale()
        return limits

    def _scale(self) -> Floats:
        lengths: Floats = np.linalg.norm(self._questions, axis=1)
        if self._metric == "cosine":
            return np.ones_like(lengths)
        if self._metric == "inner_product":
            return lengths * self._longest
        return lengths**2 + self._longest**2

    def _between(self, questions: Floats, vectors: Floats) -> Floats:
        if self._metric == "cosine":
            distances = 1 - np.matmul(questions, _unit(vectors).T)
        elif self._metric == "inner_product":
            distances = -np.matmul(questions, vectors.T)
        else:
            squares = (questions**2).sum(axis=1)[:, None] + (vectors**2).sum(axis=1)[None, :]
            # Squared: their order is the same, and small ones are not lost in a root.
            distances = np.maximum(squares - 2 * questions @ vectors.T, 0)
        # A vector of no length has no direction: last, as in the server.
        return np.where(np.isnan(distances), np.inf, distances).astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


async def exact(vectors: Vectors, of: Sequence[Nearest]) -> list[Truth]:
    """Return the truths of several sets of questions, from one reading of the vectors, or two."""
    async for numbers, block in vectors():
        for one in of:
            one.see(numbers, block)
    crowded = [(one, one.crowded) for one in of]
    again = [(one, questions) for one, questions in crowded if questions]
    if again:
        async for numbers, block in vectors():
            for one, questions in again:
                one.see_again(numbers, block, questions)
        for one, questions in again:
            one.seen_again(questions)
    return [one.truth() for one in of]

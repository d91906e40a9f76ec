"""BM25 worked out from the texts alone: an oracle that shares no table and no SQL with the search.

Robertson and Zaragoza (2009), with the idf that is never negative, ln(1 + (N - n + 0.5) / (n + 0.5)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core import lexical
from ragline.core.results import Hit
from ragline.rag.compose import passage

K1 = 1.2
B = 0.75
LANGUAGE = "english"
# Sums of the same numbers in another order differ in the last digits.
SAME = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Bm25:
    """Every term of every chunk, sorted by term; chunks are counted by their place in `chunk_ids`."""

    chunk_ids: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.float64]
    numbers: dict[str, int]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.int32]
    frequencies: npt.NDArray[np.float64]

    def scores(self, question: str) -> npt.NDArray[np.float64]:
        """Return the score of every chunk, shape (chunks,); 0 where it holds no word of the question."""
        found = np.zeros(len(self.chunk_ids))
        norms = K1 * (1 - B + B * self.lengths / max(self.lengths.mean(), 1.0))
        for word, times in Counter(lexical.question_terms(question, LANGUAGE)).items():
            number = self.numbers.get(word)
            if number is None:
                continue
            first, last = self.starts[number], self.starts[number + 1]
            places, frequency = self.places[first:last], self.frequencies[first:last]
            idf = np.log1p((len(found) - (last - first) + 0.5) / (last - first + 0.5))
            found[places] += times * (K1 + 1) * idf * frequency / (frequency + norms[places])
        return found

    def share(self, question: str, hits: Sequence[Hit], k: int) -> float | None:
        """Return how much of the best `k` the hits are; None where no chunk holds a word.

        A hit as good as the k-th counts: which of several with the same score come first is chance.
        """
        scores = self.scores(question)
        wanted = min(k, int(np.count_nonzero(scores)))
        if not wanted:
            return None
        least = np.partition(scores, -wanted)[-wanted] * (1 - SAME)
        places = np.searchsorted(self.chunk_ids, [hit.chunk_id for hit in hits])
        return min(1.0, int(np.count_nonzero(scores[places] >= least)) / wanted)

    def error(self, question: str, hits: Sequence[Hit]) -> float:
        """Return the largest relative difference of a hit's score from the true one."""
        scores = self.scores(question)[
            np.searchsorted(self.chunk_ids, [hit.chunk_id for hit in hits])
        ]
        said = [hit.lexical_score or 0.0 for hit in hits]
        return max(
            (abs(a - b) / b if b else np.inf for a, b in zip(said, scores, strict=True)),
            default=0.0,
        )


async def read(connection: asyncpg.Connection[asyncpg.Record], collection: str) -> Bm25:
    """Return the oracle of what a collection holds now, in the connection's snapshot."""
    rows = await connection.fetch(
        """
        select c.id, d.title, c.headings, c.body
        from ragline.chunk c join ragline.document d on d.id = c.document_id
        where c.collection_id = (select id from ragline.collection where name = $1)
        order by c.id
        """, collection,
    )  # fmt: skip
    texts = (passage(row[1], row[2], row[3]) for row in rows)
    return _index([row[0] for row in rows], texts)


def _index(chunk_ids: Sequence[int], texts: Iterable[str]) -> Bm25:
    numbers: dict[str, int] = {}
    terms: list[int] = []
    counts: list[int] = []
    sizes: list[int] = []
    for text in texts:
        found = lexical.term_counts(text, LANGUAGE)
        terms += [numbers.setdefault(term, len(numbers)) for term in found]
        counts += found.values()
        sizes.append(len(found))
    term = np.asarray(terms, dtype=np.int64)
    order = np.argsort(term, kind="stable")
    place = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    frequency = np.asarray(counts, dtype=np.float64)
    starts = np.searchsorted(term[order], np.arange(len(numbers) + 1))
    lengths = np.bincount(place, weights=frequency, minlength=len(sizes)).astype(np.float64)
    return Bm25(
        np.asarray(chunk_ids, dtype=np.int64),
        lengths,
        numbers,
        starts,
        place[order],
        frequency[order],
    )

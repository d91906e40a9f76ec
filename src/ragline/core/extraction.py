"""Choosing the sentences that answer a question. Pure arithmetic on what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Set on the demo's labelled questions: docs/decisions/006-extractive-answers.md has the table.
_WINDOW_WEIGHT = 0.5
_HIT_WEIGHT = 0.5
_WORDS_WEIGHT = 0.1
_RANK_WEIGHT = 0.1
_NEARLY_AS_GOOD = 0.8
# Calibrated on half of SQuAD 2 with the default model (bench/squad.py): 0.92 of its answerable
# questions stay answered. Cosines of other models lie elsewhere, and the threshold is the same.
SIMILARITY_THRESHOLD = 0.48
# Not calibrated there: those questions repeat the words of their paragraph, and users' do not.
COVERAGE_THRESHOLD = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One or two neighbouring sentences of a hit; offsets count characters of the document.

    `similarity` is the cosine of its embedding to the question's, `hit_similarity` that of the whole
    chunk; both None without a model.
    """

    hit: int
    document_id: int
    start: int
    end: int
    terms: frozenset[str]
    collection: str = ""
    similarity: float | None = None
    hit_similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A window with its score."""

    window: Window
    score: float


def idf(document_frequencies: Mapping[str, int], chunks: int) -> dict[str, float]:
    """Return ln(1 + (N - n + 0.5) / (n + 0.5)) per term, as in BM25; n may be 0."""
    return {
        term: math.log(1 + (chunks - n + 0.5) / (n + 0.5))
        for term, n in document_frequencies.items()
    }


def windows(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans of every two neighbouring sentences; of a lone one, itself."""
    if len(spans) == 1:
        return list(spans)
    return [(one[0], two[1]) for one, two in pairwise(spans)]


def coverage(weights: Mapping[str, float], terms: frozenset[str]) -> float:
    """Return the share, from 0 to 1, of the question's weight whose words stand in `terms`."""
    total = sum(weights.values())
    return sum(w for term, w in weights.items() if term in terms) / total if total else 0.0


def ranked(candidates: Sequence[Window], weights: Mapping[str, float]) -> list[Scored]:
    """Return the windows, best first."""
    found = [Scored(window=window, score=_score(window, weights)) for window in candidates]
    return sorted(found, key=lambda s: (-s.score, s.window.hit, s.window.start))


def chosen(best_first: Sequence[Scored], most: int) -> list[Scored]:
    """Return the best window and those nearly as good, at most `most`, none over another."""
    picked: list[Scored] = []
    for item in best_first:
        if picked and item.score < _NEARLY_AS_GOOD * picked[0].score:
            break
        if not any(_overlap(item.window, other.window) for other in picked):
            picked.append(item)
        if len(picked) == most:
            break
    return picked


def confidence(candidates: Sequence[Window], weights: Mapping[str, float]) -> float:
    """Return how sure it is, from 0 to 1, that the question is answered at all.

    The similarity of the window most like the question; by words alone, the best coverage.
    """
    by_meaning = [w.similarity for w in candidates if w.similarity is not None]
    if by_meaning:
        return min(1.0, max(0.0, *by_meaning, 0.0))
    return max((coverage(weights, window.terms) for window in candidates), default=0.0)


def is_answered(candidates: Sequence[Window], weights: Mapping[str, float]) -> bool:
    """Return whether the documents answer the question, as far as can be told."""
    has_meaning = any(window.similarity is not None for window in candidates)
    threshold = SIMILARITY_THRESHOLD if has_meaning else COVERAGE_THRESHOLD
    return confidence(candidates, weights) >= threshold


def _score(window: Window, weights: Mapping[str, float]) -> float:
    words = coverage(weights, window.terms)
    early = _RANK_WEIGHT / (1 + window.hit)
    if window.similarity is None:
        return words + early
    hit = window.similarity if window.hit_similarity is None else window.hit_similarity
    return _WINDOW_WEIGHT * window.similarity + _HIT_WEIGHT * hit + _WORDS_WEIGHT * words + early


def _overlap(one: Window, other: Window) -> bool:
    # Rows of two attached tables can have the same number.
    documents = [(window.collection, window.document_id) for window in (one, other)]
    return documents[0] == documents[1] and one.start < other.end and other.start < one.end

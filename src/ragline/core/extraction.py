"""Choosing the sentences that answer a question. Pure arithmetic on what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Weights and threshold were set on the demo's labelled questions; see docs/decisions/006.
MEANING_WEIGHT = 0.6
WORDS_WEIGHT = 0.4
RANK_WEIGHT = 0.1
THRESHOLD = 0.40
_CLOSE_TO_BEST = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A sentence of a hit. `similarity` is its cosine to the question; None without a model."""

    hit: int
    start: int
    end: int
    terms: frozenset[str]
    similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A candidate with its score; `confidence` is the score without the credit for the hit's rank."""

    candidate: Candidate
    score: float
    confidence: float


def idf(document_frequencies: Mapping[str, int], chunks: int) -> dict[str, float]:
    """Return ln(1 + (N - n + 0.5) / (n + 0.5)) per term, as in BM25; n may be 0."""
    return {
        term: math.log(1 + (chunks - n + 0.5) / (n + 0.5))
        for term, n in document_frequencies.items()
    }


def coverage(weights: Mapping[str, float], terms: frozenset[str]) -> float:
    """Return the share, from 0 to 1, of the question's weight whose words stand in `terms`."""
    total = sum(weights.values())
    return sum(w for term, w in weights.items() if term in terms) / total if total else 0.0


def scored(candidates: Sequence[Candidate], weights: Mapping[str, float]) -> list[Scored]:
    """Return the candidates, best first."""
    found = []
    for candidate in candidates:
        words = coverage(weights, candidate.terms)
        confidence = (
            words
            if candidate.similarity is None
            else MEANING_WEIGHT * max(0.0, candidate.similarity) + WORDS_WEIGHT * words
        )
        score = confidence + RANK_WEIGHT / (1 + candidate.hit)
        found.append(Scored(candidate=candidate, score=score, confidence=confidence))
    return sorted(found, key=lambda s: (-s.score, s.candidate.hit, s.candidate.start))


def chosen(ranked: Sequence[Scored], most: int) -> list[Scored]:
    """Return the sentences that answer: the best one and those nearly as good, at most `most`."""
    if not ranked:
        return []
    floor = ranked[0].score * _CLOSE_TO_BEST
    return [item for item in ranked[:most] if item.score >= floor]


def is_answer(ranked: Sequence[Scored]) -> bool:
    """Return whether the best sentence is good enough to call the question answered."""
    return bool(ranked) and max(item.confidence for item in ranked) >= THRESHOLD

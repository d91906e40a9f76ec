"""What searches, answers and ingests return: the same values in the library, `--json` and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Method = Literal["hybrid", "vector", "lexical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk with its scores. Offsets count characters of the document's parsed text.

    `score` orders the result: reciprocal rank fusion for `hybrid`, 1 - distance for `vector` with
    cosine distance, BM25 for `lexical`. Ranks start at 1; None means not among that half's candidates.
    """

    collection: str
    chunk_id: int
    document_id: int
    source: str
    title: str | None
    body: str
    start: int
    end: int
    headings: tuple[str, ...]
    metadata: Mapping[str, Any]
    score: float
    vector_rank: int | None = None
    vector_distance: float | None = None
    lexical_rank: int | None = None
    lexical_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a search of one collection used. An iterative scan goes on until its limit is met."""

    collection: str
    method: Method
    model_id: str | None
    ef_search: int | None
    is_iterative: bool
    candidates: int
    terms: tuple[str, ...]
    vector_plan: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The hits of a question, best first, with how they came about. Times in milliseconds."""

    question: str
    method: Method
    k: int
    hits: tuple[Hit, ...]
    warnings: tuple[str, ...]
    used: tuple[Used, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Words of a document that an answer rests on; `text` is exactly what stands at the offsets."""

    number: int
    collection: str
    document_id: int
    chunk_id: int
    source: str
    title: str | None
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Text with numbered citations, or an honest `found = False`."""

    question: str
    found: bool
    text: str
    confidence: float
    citations: tuple[Citation, ...]
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFacts:
    """An embedding space of a collection."""

    id: int
    model_id: str
    weights_hash: str
    dimension: int
    metric: str
    storage: str
    normalised: bool
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionFacts:
    """A collection as the database knows it. `space` is None until vectors exist."""

    id: int
    name: str
    language: str
    chunk_size: int
    chunk_overlap: int
    epoch: int
    created_at: datetime
    documents: int
    chunks: int
    space: SpaceFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFacts:
    """A document without its text."""

    id: int
    source: str
    title: str | None
    media_type: str
    characters: int
    chunks: int
    metadata: Mapping[str, Any]
    ingested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An input that was not taken, and why."""

    source: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What an ingest did. Counts are of documents unless said otherwise."""

    collection: str
    found: int
    added: int
    replaced: int
    unchanged: int
    pruned: int
    skipped: int
    chunks: int
    embedded: int
    truncated: int
    epoch: int
    seconds: float
    rejections: tuple[Rejection, ...]
    warnings: tuple[str, ...] = field(default=())

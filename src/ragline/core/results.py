"""What searches, answers and ingests return: the same values in the library, `--json` and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ragline.core import search_policy
from ragline.core.access import Access, Calibration
from ragline.core.attached import Attached
from ragline.core.search_policy import SearchPolicy

Method = Literal["hybrid", "vector", "lexical"]
AnswerMethod = Literal["extractive", "generated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk with its scores. Offsets count characters of the document's parsed text.

    `score` orders the result: for `hybrid` 0.7 of the similarity and 0.3 of BM25, each as a share of
    the best one found; 1 - distance for `vector` with cosine distance; BM25 for `lexical`. Ranks
    start at 1; None means not among that half's candidates.
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
    """What a search of one collection used. An iterative scan goes on until its limit is met.

    `is_exact`: every vector was compared, every chunk with a word weighed. `access` says how the
    chunks that `filter` allows were reached; None without a filter. `policy` is what the collection's
    search policy says where that is not the default.
    """

    collection: str
    method: Method
    model_id: str | None
    ef_search: int | None
    is_iterative: bool
    candidates: int
    terms: tuple[str, ...]
    vector_plan: str | None = None
    is_exact: bool = False
    filter: str | None = None
    access: Access | None = None
    policy: Mapping[str, Any] | None = None


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
class Usage:
    """What a model's answer took. None is unknown, and never counted as 0."""

    input_tokens: int | None
    output_tokens: int | None
    cost_micro_usd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence that a model wrote, and how far the passages that it cites bear it out.

    `citations` are the numbers it cites that exist, `invalid_citations` the others, which are gone
    from `text`. `lexical_support` is the share, from 0 to 1, of its telling words that stand in the
    cited passages; None when it cites none that exists. It compares words, not meanings.
    """

    text: str
    citations: tuple[int, ...]
    invalid_citations: tuple[int, ...]
    lexical_support: float | None
    is_supported: bool
    starts_line: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Text with numbered citations, or an honest `found = False`.

    `text` is plain: no image, link or tag of a document or a model is in it, and addresses are
    written `example[.]com`. An extractive answer is made of the documents' sentences; its
    `confidence` is the similarity of the best one to the question, or by words alone the share of
    the question's words in it. A generated one is a model's; it has `sentences`, each with its
    support, what the model is and used, and its `confidence` is the mean support of its sentences.
    `is_partial` says that the model was cut off.
    """

    question: str
    found: bool
    text: str
    confidence: float
    citations: tuple[Citation, ...]
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]
    method: AnswerMethod = "extractive"
    sentences: tuple[Sentence, ...] = ()
    is_partial: bool = False
    model_id: str | None = None
    prompt_version: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFacts:
    """An embedding space of a collection.

    `index_slot` is the vector index that searches walk, `index_storage` what it holds (the vectors, or
    their halves), the others how it is built.
    """

    id: int
    model_id: str
    weights_hash: str
    dimension: int
    metric: str
    storage: str
    normalised: bool
    languages: tuple[str, ...]
    calibration: Calibration | None = None
    index_slot: int = 1
    index_storage: str = "vector"
    index_m: int = 16
    index_ef_construction: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionFacts:
    """A collection as the database knows it. `space` is None until vectors exist.

    `search_version` rises whenever the space, its index or the search policy changes. `attached` is
    the table of somebody else's in which its rows are; each row is then a document of one chunk.
    """

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
    search_version: int = 1
    policy: SearchPolicy = search_policy.DEFAULT
    attached: Attached | None = None


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

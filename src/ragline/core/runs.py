"""What an evaluation is told, and what it leaves: one run of a dataset, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from ragline.core.claims import ClaimLabels
from ragline.core.results import Method

AnswerKind = Literal["none", "extractive", "generated"]
JudgeKind = Literal["none", "lexical", "llm", "imported"]
ContextKind = Literal["live", "fixed"]
Match = Literal["auto", "source", "name", "stem"]
State = Literal["running", "complete", "partial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured. Two runs with other settings are two things; limits are not among them."""

    collections: tuple[str, ...]
    k: int = 10
    method: Method = "hybrid"
    ef_search: int | None = None
    exact: bool = False
    filter: str | None = None
    answers: AnswerKind = "none"
    judge: JudgeKind = "none"
    contexts: ContextKind = "live"
    match: Match = "auto"
    against_exact: bool = False
    """Search each question a second time without shortcuts, for `ann_recall@k`."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a run may go: it stops with a partial result, and can be resumed."""

    concurrency: int = 2
    max_cost_micro_usd: int | None = None
    max_time_s: float | None = None
    give_up_after: int = 5
    """So many cases in a row that fail for the same reason end the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHit:
    """A chunk that a search found for a case; `hash` is the `text_hash` of its text."""

    collection: str
    chunk_id: int
    source: str
    hash: str
    score: float


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, in hex, cut to 16: what a run knows the text of a hit by."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseError:
    """Why a case, or a part of it, was not measured. `kind` is the error's class."""

    phase: str
    kind: str
    message: str
    exit_code: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the models took for a case, or for a run. None is unknown, and never counted as 0."""

    calls: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_micro_usd: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case of a run. A metric that was not measured is absent, and `errors` says why.

    `phases_ms` are spans on the wall clock that sum up to `total_ms`. `reuse_key` names everything
    that answer and labels depend on; `is_reused` says that they were taken from an earlier run with
    the same key.
    """

    case_id: str
    ordinal: int
    hits: tuple[RunHit, ...] = ()
    contexts: tuple[str, ...] = ()
    """The texts that the answer was made from and judged against, as far as one was."""
    answer: str | None = None
    found: bool | None = None
    labels: ClaimLabels | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[CaseError, ...] = ()
    warnings: tuple[str, ...] = ()
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    total_ms: float = 0.0
    spent: Spent = Spent()
    reuse_key: str | None = None
    is_reused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric over the cases that have it: the mean, or what its name says. `missing` ones failed."""

    value: float
    n: int
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One evaluation of a dataset.

    `judge_id` is None without a judge. `provenance` has what it was measured on: `epochs` and
    `spaces` by collection, `server`, `code`, `models`, `prompt`, `settings_hash`. Only a `complete` run
    may be judged as a whole: every case is there, and each without an error.
    """

    id: int
    name: str
    dataset: str
    dataset_hash: str
    state: State
    settings: Settings
    judge_id: str | None
    provenance: Mapping[str, Any]
    cases: int
    done: int
    failed: int
    reused: int
    metrics: Mapping[str, Figure]
    errors: Mapping[str, int]
    """How many, by phase and class: {"judge ModelUnavailable": 3}."""
    phases_ms: Mapping[str, float]
    """Summed over the cases."""
    spent: Spent
    cache: Mapping[str, int]
    """The verdict cache: hits, misses, bytes."""
    warnings: tuple[str, ...]
    started_at: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A complete run that others are compared with. `ended_at` is None for the current one."""

    name: str
    dataset: str
    run_id: int
    run: str
    note: str | None
    set_at: str
    ended_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far a metric moves by itself: `runs` runs with the same settings, `n` cases each."""

    half_width: float
    n: int
    runs: int
    measured_at: str

"""What is asked of an index tuning, and what came of it, as values."""

from __future__ import annotations

from dataclasses import dataclass

from ragline.core.frontier import Design, Place, Point, Trial
from ragline.core.gate import Sampled
from ragline.core.index_sweep import Skipped
from ragline.evals import production


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a tuning. `questions` are texts; else texts of the collection that read like
    questions are asked, or with `is_midway` points between its vectors.

    Without `max_bytes` an index may be of any size. `filters` are what the proposal is searched within;
    without any, the usual ones are tried. `is_quick` tries a few designs only. `is_last` has builds come
    after all that else runs on the machine, where that can be had.
    """

    recall: float
    k: int = 10
    max_bytes: int | None = None
    dataset: str | None = None
    questions: tuple[str, ...] | None = None
    is_midway: bool = False
    filters: tuple[str, ...] = ()
    is_quick: bool = False
    is_last: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a tuning is: what it does, for how many seconds, and how many are left (None: unknown)."""

    what: str
    done_s: float
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What the collection is searched through today, by searches of production's own."""

    design: Design | None
    ef_search: int
    recall: float
    low: float
    high: float
    p50_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WithFilter:
    """What searches within a filter find through the proposal. `share` is that of the chunks it keeps.

    `way` is "exact" where so few are allowed that searches compare them all. `rows` is the mean share
    of the hits wanted that came back.
    """

    text: str
    share: float
    way: str
    recall: float
    low: float
    high: float
    rows: float
    p50_ms: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The cheapest design that holds, with what it did on questions that no choice has seen.

    `verdict`: "holds" (the lower end of the interval does), "within its interval" (its upper end does),
    or "missed". `checks` is how often it was asked, each time more broadly. `rivals` are the designs
    that were searched by turns, question by question, it among them.
    """

    design: Design
    ef_search: int
    size_bytes: int
    build_s: float
    seen: Point
    unseen: Point
    verdict: str
    checks: int
    rivals: tuple[Trial, ...]
    filters: tuple[WithFilter, ...] = ()
    unmeasured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came of a tuning. Without a `proposal`, `reason` says why there is none.

    `sampled` and `unseen` are the sort of the questions, and the texts of those that no choice has seen:
    by these a change is judged. `filtered` says which filters were measured, and why no others.
    """

    collection: str
    k: int
    target: float
    max_bytes: int | None
    chunks: int
    questions: str
    sampled: Sampled
    n_seen: int
    n_unseen: int
    now: Now | None
    exact_p50_ms: float | None
    trials: tuple[Trial, ...]
    frontier: tuple[Place, ...]
    skipped: tuple[Skipped, ...]
    proposal: Proposal | None
    reason: str
    dead_knobs: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    filtered: str = ""
    unseen: tuple[str, ...] = ()
    production: production.Seen | None = None
    seconds: float = 0.0

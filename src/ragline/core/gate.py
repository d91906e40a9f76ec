"""What a change is measured by, and what came of it; the decision itself is `core.redline`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ragline.core.budget import Workload
from ragline.core.stats import Outcome

Rung = Literal["identical", "recall", "retrieval", "answers", "nothing"]
"""How dear the measurement was that decided: the same chunks in the same order; recall against exact
search; labelled cases; answers and claims; "nothing" was measured, on somebody's word."""
Sampled = Literal["all", "likely", "midway", "given"]
"""Which questions judge: of every sort; texts of the collection that read like questions; points midway
between two vectors; the `texts` that were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to measure. `questions` are made of the collection's own vectors, for each collection.

    `sampled` narrows them to the sort by which somebody chose what is to be judged: what holds on
    the questions that people ask need not hold on harder ones that nobody does. `texts` are
    questions of somebody's own. `filters` are put to as many questions each. With a `dataset` its
    cases are searched as well, and with `answers` or a `judge` answered and judged where their
    contexts changed. `policy` is one of `ragline eval policy`, or a file's text; its lines go
    beside the margins. Margins: recall and rows may lose so much of 1, the middle latency so much
    of itself. `budget_s` is how long a measurement that decides nothing is extended; with
    `keep_inconclusive` the change then stays.
    """

    collections: tuple[str, ...] = ()
    workload: Workload = "serve"
    questions: int = 200
    k: int | None = None
    filters: tuple[str, ...] = ()
    dataset: str | None = None
    answers: str = "none"
    judge: str = "none"
    policy: str | None = None
    quality_margin: float = 0.01
    latency_margin: float = 0.25
    budget_s: float = 120.0
    keep_inconclusive: bool = False
    seed: int = 1
    sampled: Sampled = "all"
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict on a change, with what it rests on.

    `rows` are the lines of the policy as `core.redline_rows.Row` says them, as plain values. `plans`
    are the shapes of the plans before and after. `is_too_noisy`: two measurements of the same thing
    differed by more than a margin, so that latency decides nothing. `seconds` is how long measuring
    took.
    """

    status: Outcome
    reason: str
    rung: Rung
    rows: tuple[Mapping[str, Any], ...] = ()
    n: int = 0
    overlap: float | None = None
    plans: Mapping[str, tuple[str, ...]] | None = None
    noise: Mapping[str, float] | None = None
    is_too_noisy: bool = False
    seconds: float = 0.0

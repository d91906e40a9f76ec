"""How much of what an exact search finds the index finds too: no labels, and no model calls."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ragline.core import measuring, stats
from ragline.core.index_sample import Sample
from ragline.core.results import CollectionFacts, SearchResult, SpaceFacts
from ragline.db import attached_rows, samples
from ragline.errors import RaglineError, UsageError
from ragline.evals.run import Progress
from ragline.models.embed import Vector
from ragline.rag.app import App
from ragline.rag.query import MOST_HITS, query
from ragline.rag.search import search_collections, target_of

_FEWEST = 10
_SHORTEST = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """recall@k of a collection's vector searches against exact ones, over `n` made-up questions.

    `values` has one share for each, whose mean lies in `low` to `high` in 95 of 100 samples; `worst` is
    the least of them. `rows` is the mean share of `k` that came back, and `short` counts the questions
    with fewer. Times are medians of one search.
    """

    collection: str
    k: int
    n: int
    mean: float
    low: float | None
    high: float | None
    worst: float
    rows: float
    short: int
    ef_search: int | None
    median_ms: float
    exact_median_ms: float
    values: tuple[float, ...]
    warnings: tuple[str, ...]


async def recall(
    app: App,
    collection: str,
    *,
    n: int = 200,
    k: int = 10,
    ef_search: int | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Recall:
    """Measure it with questions midway between two chunks drawn at random, by production's searches.

    A chunk itself would be too easy: the graph leads to it and to its neighbours whatever `ef_search`
    is. Midway is harder than most that people ask. On Cranfield, `ef_search` 1, 10, 40 and 100: 0.62,
    0.86, 0.95 and 1.00 where its own questions have 0.81, 0.95, 0.99 and 1.00, and chunks themselves
    0.96, 0.99, 1.00 and 1.00. Where a dataset has questions, `--against-exact` measures with them.

    Raises UsageError where there are no vectors to measure with. `seed` is that of the interval; the
    chunks are drawn by the database.
    """
    _check(n, k)
    facts, space = await embedded(app, collection)
    async with app.connection(app.search_workload) as connection:
        has_index = bool(await attached_rows.index_state(connection, facts))
        ids, vectors = await samples.vectors(
            connection, target_of(facts), chunks=facts.chunks, size=n
        )
    if len(ids) < _FEWEST:
        raise UsageError(
            f"collection {collection!r} has {len(ids)} vectors: too few to measure with, every search "
            "compares them all"
        )
    questions: list[_Question] = []
    used: int | None = None
    for number, vector in enumerate(vectors, start=1):
        # The one before it, and before the first the last: they come in no order.
        between = midway(vectors[number - 2], vector, is_unit=space.normalised)
        asked = query("", collection, k=k, method="vector", ef_search=ef_search, vector=between)
        found = await search_collections(app, asked)
        exact = await search_collections(app, replace(asked, exact=True))
        questions.append(_question(k, found, exact))
        used = found.used[0].ef_search or used
        if on_progress:
            on_progress(_progress(number, len(ids), questions))
    return _summed(collection, k, questions, used, seed, _warnings(n, len(ids), has_index))


async def embedded(app: App, collection: str) -> tuple[CollectionFacts, SpaceFacts]:
    """Return a collection and its vectors' space as they are now; UsageError where it has none."""
    facts = await app.collection(collection, fresh=True)
    if facts.space is None:
        raise UsageError(f"collection {collection!r} has no vectors: ingest it with a model first")
    return facts, facts.space


async def sample(
    app: App,
    collection: str,
    *,
    n: int,
    k: int,
    seed: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> Sample:
    """Return `recall` as what an inventory says of the index that searches of a collection use."""
    found = await recall(app, collection, n=n, k=k, seed=seed, on_progress=on_progress)
    return Sample(
        k=found.k,
        n=found.n,
        mean=found.mean,
        low=found.low,
        high=found.high,
        worst=found.worst,
        short=found.short,
        median_ms=found.median_ms,
        exact_ms=found.exact_median_ms,
        width=found.ef_search,
        warnings=found.warnings,
    )


def midway(one: Vector, other: Vector, *, is_unit: bool) -> Vector:
    """Return what lies between two vectors, of shape (dimension,), of length 1 where both are."""
    middle: Vector = ((one + other) / 2).astype(np.float32)
    length = float(np.linalg.norm(middle))
    # Opposite ones have no direction between them.
    if length < _SHORTEST:
        return one
    return middle / np.float32(length) if is_unit else middle


@dataclass(frozen=True, slots=True)
class _Question:
    value: float
    rows: float
    is_short: bool
    ms: float
    exact_ms: float


def _question(k: int, found: SearchResult, exact: SearchResult) -> _Question:
    ours, best = measuring.chunks(found.hits), measuring.chunks(exact.hits)
    value = measuring.ann_recall(k, ours, best)
    if value is None:
        raise RaglineError("an exact search found nothing in a collection that has vectors")
    return _Question(
        value=value,
        rows=len(ours) / k,
        is_short=len(ours) < len(best),
        ms=found.timings_ms["total"],
        exact_ms=exact.timings_ms["total"],
    )


def _summed(
    collection: str,
    k: int,
    questions: list[_Question],
    ef_search: int | None,
    seed: int,
    warnings: tuple[str, ...],
) -> Recall:
    values = tuple(question.value for question in questions)
    interval = stats.paired(values, seed=seed)
    return Recall(
        collection=collection,
        k=k,
        n=len(values),
        mean=interval.mean,
        # Resampled means are spread a little wider than a share can be.
        low=None if interval.low is None else max(0.0, interval.low),
        high=None if interval.high is None else min(1.0, interval.high),
        worst=min(values),
        rows=statistics.fmean(question.rows for question in questions),
        short=sum(question.is_short for question in questions),
        ef_search=ef_search,
        median_ms=statistics.median(question.ms for question in questions),
        exact_median_ms=statistics.median(question.exact_ms for question in questions),
        values=values,
        warnings=warnings,
    )


def _check(n: int, k: int) -> None:
    if n < _FEWEST:
        raise UsageError(f"n is {n}; with fewer than {_FEWEST} questions nothing can be said")
    if not 1 <= k <= MOST_HITS:
        raise UsageError(f"k is {k}; it must lie between 1 and {MOST_HITS}")


def _warnings(wanted: int, there: int, has_index: bool) -> tuple[str, ...]:
    said = []
    if there < wanted:
        said.append(f"the collection has {there:,} vectors, fewer than the {wanted:,} asked for")
    if not has_index:
        said.append("there is no valid vector index, so every search was exact; ingest builds it")
    return tuple(said)


def _progress(done: int, total: int, questions: list[_Question]) -> Progress:
    took_ms = statistics.fmean(one.ms + one.exact_ms for one in questions)
    return Progress(
        done=done,
        total=total,
        failed=0,
        left_s=took_ms / 1000 * (total - done),
        cost_micro_usd=0,
    )

"""Finding the vector index of a collection that holds a recall at the least cost, by trying.

Indexes are built on a copy of the vectors, one at a time, and searched with one half of the questions.
What is proposed is built once more and searched with the other half, which no choice has seen.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ragline.core import filters, frontier, hnsw, stats
from ragline.core.frontier import Design, Limits, Point, Skipped, Trial
from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.db import trial_tables
from ragline.db.trial_tables import Filtered, TrialTable
from ragline.errors import NotFound, PreconditionFailed, RaglineError, UsageError
from ragline.evals import exact_truth, production, tuning_questions
from ragline.evals.exact_truth import Floats, Nearest, Truth
from ragline.evals.index_tuned import Now, Progress, Proposal, Tuned, Wanted, WithFilter
from ragline.evals.production import Watch
from ragline.ops import giving_way, machine
from ragline.rag import filtering
from ragline.rag.app import App
from ragline.rag.query import LARGEST_EF_SEARCH, MOST_HITS, query
from ragline.rag.search import search_collections, target_of

_RESAMPLES = 2_000
_EXACT_TIMES = 10
_AT_ONCE = 40
_WIDER = 1.15
_MOST_CHECKS = 4
_ROW_BYTES = 60
_HEADROOM = 1.3
_MIB = 2**20


@dataclass(slots=True, kw_only=True)
class _Work:
    """A tuning under way."""

    app: App
    facts: CollectionFacts
    space: SpaceFacts
    wanted: Wanted
    table: TrialTable
    folder: Path | None
    say: Callable[[str], None]
    show: Callable[[Progress], None]
    watch: Watch
    seen: Floats
    unseen: Floats
    truth_seen: Truth
    truth_unseen: Truth
    started: float
    trials: list[Trial]


async def tune(
    app: App,
    collection: str,
    wanted: Wanted,
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
    show: Callable[[Progress], None] = lambda _progress: None,
) -> Tuned:
    """Try indexes on a copy of a collection's vectors; return the frontier and what is proposed.

    `folder` is the server's data directory where that is on this machine. Production's index, and what
    searches find, are not touched. Raises UsageError for what cannot be tuned, PreconditionFailed where
    the copy would not fit.
    """
    started = time.monotonic()
    _check(wanted)
    for text in wanted.filters:
        filters.from_text(text)
    facts = await app.collection(collection, fresh=True)
    space = facts.space
    if space is None:
        raise UsageError(f"collection {collection!r} has no vectors: ingest it with a model first")
    if facts.chunks < frontier.FEWEST_CHUNKS:
        return _too_small(facts, wanted)
    warnings = _room(facts, space, folder)
    texts = await tuning_questions.texts(app, wanted)
    admin, searching = await app.pool("admin"), await app.pool(app.search_workload)
    async with admin.connection() as connection:
        await trial_tables.sweep(connection)
    async with searching.connection() as connection:
        work_mem = await connection.fetchval("select pg_catalog.current_setting('work_mem')")
    show(Progress(what="copying the vectors", done_s=0.0, left_s=None))
    async with trial_tables.copied(admin.dsn, target_of(facts), work_mem=work_mem) as table:
        if table.rows < frontier.FEWEST_CHUNKS:
            return _too_small(replace(facts, chunks=table.rows), wanted)
        facts = replace(facts, chunks=table.rows)
        if folder is not None:
            giving_way.come_last(table.builder.get_server_pid())
        asked = await tuning_questions.vectors(app, facts, space, table, wanted, texts)
        show(
            Progress(what="comparing every vector", done_s=time.monotonic() - started, left_s=None)
        )
        order = np.random.default_rng(wanted.seed).permutation(len(asked))
        half = len(asked) // 2
        seen, unseen = asked[order[:half]], asked[order[half:]]
        truths = await exact_truth.exact(
            trial_tables.streamed(table),
            [Nearest(some, wanted.k, space.metric) for some in (seen, unseen)],
        )
        async with production.watched(app, collection, wanted.k, list(seen)) as watch:
            work = _Work(
                app=app, facts=facts, space=space, wanted=wanted, table=table, folder=folder,
                say=say, show=show, watch=watch, seen=seen, unseen=unseen, truth_seen=truths[0],
                truth_unseen=truths[1], started=started, trials=[],
            )  # fmt: skip
            tuned = await _tuned(work, warnings)
            return replace(
                tuned, production=watch.seen(), seconds=time.monotonic() - started,
                questions=tuning_questions.source(wanted),
            )  # fmt: skip


async def _tuned(work: _Work, warnings: tuple[str, ...]) -> Tuned:
    wanted = work.wanted
    limits = _limits(work)
    now = await _now(work)
    exact_ms = await _exact_ms(work)
    skipped = await _sweep(work, limits)
    trials = tuple(work.trials)
    chosen = frontier.cheapest(trials, wanted.recall, wanted.max_bytes)
    proposal, reason = None, _why_none(trials, wanted)
    if chosen is not None and exact_ms <= chosen[1].p50_ms:
        reason = (
            f"comparing every vector takes {exact_ms:.2f} ms, no longer than the quickest index that "
            f"holds {wanted.recall:g} ({chosen[1].p50_ms:.2f} ms): no index is proposed"
        )
    elif chosen is not None:
        proposal = await _proposed(work, *chosen)
        reason = _verdict_said(proposal, wanted.recall)
    return Tuned(
        collection=work.facts.name,
        k=wanted.k,
        target=wanted.recall,
        max_bytes=wanted.max_bytes,
        chunks=work.facts.chunks,
        questions="",
        n_seen=len(work.seen),
        n_unseen=len(work.unseen),
        now=now,
        exact_p50_ms=exact_ms,
        trials=trials,
        frontier=frontier.frontier(trials),
        skipped=skipped,
        proposal=proposal,
        reason=reason,
        dead_knobs=frontier.dead_knobs(trials, wanted.recall),
        unreachable=frontier.unreachable(trials, wanted.recall),
        warnings=(*warnings, *_about(work)),
    )


async def _sweep(work: _Work, limits: Limits) -> tuple[Skipped, ...]:
    """Build and search one design after the other, until none is left that may be worth it."""
    while upcoming := (left := frontier.outlook(work.trials, limits)).upcoming:
        design = upcoming[0]
        await work.watch.calm()
        trial = await _tried(work, design, upcoming)
        work.trials.append(trial)
        work.say(_line(trial, work.wanted.recall))
    return left.skipped


async def _tried(work: _Work, design: Design, upcoming: Sequence[Design]) -> Trial:
    seconds, size = await _build(work, design, upcoming)
    points: list[Point] = []
    lowest, highest = _span(work, design)
    first = 5 if design.method == "ivfflat" else 40 if design.storage != "bit" else 160
    while (
        breadth := frontier.next_breadth(
            points, work.wanted.recall, lowest=lowest, highest=highest, first=first
        )
    ) is not None:
        points.append(await _measured(work, design, breadth, work.seen, work.truth_seen))
        points.sort(key=lambda one: one.breadth)
    return Trial(design=design, size_bytes=size, build_s=seconds, points=tuple(points))


def _span(work: _Work, design: Design) -> tuple[int, int]:
    """Return the least and the most breadth: an HNSW scan hands over no more than that at first."""
    if design.method == "ivfflat":
        return 1, design.lists or 1
    return min(work.wanted.k, LARGEST_EF_SEARCH), LARGEST_EF_SEARCH


async def _build(work: _Work, design: Design, upcoming: Sequence[Design] = ()) -> tuple[float, int]:
    """Build one index, saying now and then how far the whole is."""
    expected = frontier.expected_s(design, work.trials)
    after = [frontier.expected_s(one, work.trials) for one in upcoming[1:]]
    building = asyncio.ensure_future(
        trial_tables.build(work.table, design, memory=_memory(work, design))
    )
    began = time.monotonic()
    try:
        while not building.done():
            left = None
            if expected is not None:
                known = [one for one in after if one is not None]
                mean = statistics.fmean(known) if known else 0.0
                rest = sum(mean if one is None else one for one in after) + 2.0 * len(after)
                left = max(0.0, expected - (time.monotonic() - began)) + rest
            work.show(
                Progress(
                    what=f"building {design}", done_s=time.monotonic() - work.started, left_s=left
                )
            )
            await asyncio.wait({building}, timeout=0.5)
    finally:
        if not building.done():
            building.cancel()
            await asyncio.wait({building}, timeout=5.0)
    return building.result()


def _memory(work: _Work, design: Design) -> int:
    needed = 64 * _MIB
    if design.method == "hnsw":
        graph = hnsw.Graph(
            slot=1,
            storage="vector" if design.storage == "vector" else "halfvec",
            m=design.m or 16,
            ef_construction=design.ef_construction or 64,
        )
        needed = hnsw.build_bytes(graph, work.space.dimension, work.facts.chunks)
    available = machine.available_bytes() if work.folder is not None else None
    return hnsw.build_memory(needed, work.table.build_memory, available)


async def _measured(
    work: _Work,
    design: Design,
    breadth: int,
    questions: Floats,
    truth: Truth,
    filtered: Filtered | None = None,
) -> Point:
    """Search with every question once, in an order of its own."""
    values, times, _ = await _searched(work, design, breadth, questions, truth, filtered)
    return _point(work, breadth, values, times)


async def _searched(
    work: _Work,
    design: Design,
    breadth: int,
    questions: Floats,
    truth: Truth,
    filtered: Filtered | None = None,
) -> tuple[list[float], list[float], list[int]]:
    table, k = work.table, work.wanted.k
    sql = trial_tables.search_statement(table, design, k, breadth, filtered)
    bound = filtered.values if filtered else ()
    plan = await trial_tables.plan_of(table, sql, [*bound, questions[0], str(breadth)])
    if not trial_tables.is_indexed(plan, table):
        raise RaglineError(f"the server does not search through {design}, but so:\n{plan}")
    statement = await table.searcher.prepare(sql)
    values, times, rows = [0.0] * len(questions), [], [0] * len(questions)
    for place, number in enumerate(
        np.random.default_rng(breadth).permutation(len(questions)).tolist()
    ):
        if place % _AT_ONCE == 0:
            # Between some, not between any two: after a pause a search takes several times as long.
            await work.watch.breathe()
        started = time.perf_counter()
        found = await statement.fetch(*bound, questions[number], str(breadth))
        times.append((time.perf_counter() - started) * 1000)
        values[number] = truth.recall(number, [row[0] for row in found])
        rows[number] = len(found)
    return values, times, rows


def _point(work: _Work, breadth: int, values: Sequence[float], times: Sequence[float]) -> Point:
    mean, low, high = _interval(values, work.wanted.seed)
    return Point(
        breadth=breadth,
        recall=mean,
        low=low,
        high=high,
        p50_ms=stats.quantile(times, 0.5),
        p95_ms=stats.quantile(times, 0.95),
        n=len(values),
    )


def _interval(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    found = stats.paired(values, seed=seed, resamples=_RESAMPLES)
    low = found.mean if found.low is None else max(0.0, found.low)
    high = found.mean if found.high is None else min(1.0, found.high)
    return found.mean, low, high


# The proposal.


async def _proposed(work: _Work, trial: Trial, point: Point) -> Proposal:
    """Build the chosen design anew and ask what was not asked before; search wider where that misses.

    A graph depends on chance: that the second one holds as well is part of what is checked.
    """
    work.say(f"checking {trial.design} on {len(work.unseen)} questions that no choice has seen")
    seconds, size = await _build(work, trial.design)
    breadth, checked = point.breadth, None
    for _ in range(_MOST_CHECKS):
        checked = await _measured(work, trial.design, breadth, work.unseen, work.truth_unseen)
        if checked.high >= work.wanted.recall or breadth >= LARGEST_EF_SEARCH:
            break
        breadth = min(LARGEST_EF_SEARCH, math.ceil(breadth * _WIDER))
    if checked is None:
        raise RaglineError("nothing was checked")
    target = work.wanted.recall
    verdict = (
        "holds"
        if checked.low >= target
        else "within its interval"
        if checked.high >= target
        else "missed"
    )
    return Proposal(
        design=trial.design,
        ef_search=checked.breadth,
        size_bytes=size,
        build_s=seconds,
        seen=point,
        unseen=checked,
        verdict=verdict,
        filters=await _filters(work, trial.design, checked.breadth),
    )


def _verdict_said(proposal: Proposal, target: float) -> str:
    one = proposal.unseen
    shown = f"{one.recall:.3f} [{one.low:.3f}, {one.high:.3f}] on {one.n} questions not seen before"
    if proposal.verdict == "missed":
        return f"{target:g} was missed: {shown}"
    return f"{target:g} {proposal.verdict}: {shown}"


async def _filters(work: _Work, design: Design, breadth: int) -> tuple[WithFilter, ...]:
    if work.facts.attached is not None:
        return ()
    return tuple([await _with_filter(work, design, breadth, text) for text in work.wanted.filters])


async def _with_filter(work: _Work, design: Design, breadth: int, text: str) -> WithFilter:
    """Search within a filter as production would once the proposal is applied."""
    k, app = work.wanted.k, work.app
    target = target_of(work.facts)
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        plan = await filtering.plan(
            app.samples,
            connection,
            target,
            work.facts,
            filters.from_text(text),
            k=k,
            is_exact=False,
        )
    if not plan.scope.condition:
        raise NotFound(f"filter {text!r} keeps nothing")
    allowed = await trial_tables.allowed(work.table, plan.scope.condition, plan.values)
    share = len(allowed) / work.facts.chunks
    if plan.scope.is_small or not len(allowed):
        return WithFilter(
            text=text, share=share, way="exact", recall=1.0, low=1.0, high=1.0, rows=1.0, p50_ms=0.0,
            n=0,
        )  # fmt: skip
    (truth,) = await exact_truth.exact(
        trial_tables.streamed(work.table),
        [Nearest(work.unseen, k, work.space.metric, allowed)],
    )
    asked = Filtered(
        condition=plan.scope.condition,
        values=plan.values,
        rows=plan.scope.rows,
        mode=work.facts.policy.iterative or "relaxed_order",
    )
    values, times, rows = await _searched(work, design, breadth, work.unseen, truth, asked)
    mean, low, high = _interval(values, work.wanted.seed)
    wanted = sum(truth.wanted) or 1
    return WithFilter(
        text=text,
        share=share,
        way=f"index, {asked.mode}",
        recall=mean,
        low=low,
        high=high,
        rows=sum(map(min, rows, truth.wanted)) / wanted,
        p50_ms=stats.quantile(times, 0.5),
        n=len(values),
    )


# What there is.


async def _now(work: _Work) -> Now:
    """Search as production does with the unseen questions: what a proposal is held against."""
    values, times, used = [], [], 0
    for number, vector in enumerate(work.unseen):
        asked = query("", work.facts.name, k=work.wanted.k, method="vector", vector=vector)
        started = time.perf_counter()
        found = await search_collections(work.app, asked)
        times.append((time.perf_counter() - started) * 1000)
        values.append(work.truth_unseen.recall(number, [hit.chunk_id for hit in found.hits]))
        used = found.used[0].ef_search or used
    mean, low, high = _interval(values, work.wanted.seed)
    return Now(
        design=_design_now(work),
        ef_search=used,
        recall=mean,
        low=low,
        high=high,
        p50_ms=stats.quantile(times, 0.5),
    )


def _design_now(work: _Work) -> Design | None:
    """Return the design that is in use, as a trial could have it; of an attached table it is unknown."""
    space, possible = work.space, trial_tables.storages(work.table)
    if work.facts.attached is not None or not possible.get(space.index_storage):
        return None
    return Design(
        method="hnsw",
        storage="halfvec" if space.index_storage == "halfvec" else "vector",
        m=space.index_m,
        ef_construction=space.index_ef_construction,
    )


def _limits(work: _Work) -> Limits:
    possible = trial_tables.storages(work.table)
    storages = tuple(one for one in frontier.STORAGES if possible[one])
    if "vector" not in storages and "halfvec" not in storages:
        raise UsageError(
            f"no index of this pgvector holds {work.space.dimension:,} dimensions: searches of "
            f"{work.facts.name!r} compare every vector"
        )
    return Limits(
        target=work.wanted.recall,
        chunks=work.facts.chunks,
        dimension=work.space.dimension,
        storages=storages,
        max_bytes=work.wanted.max_bytes,
        is_quick=work.wanted.is_quick,
        now=_design_now(work),
    )


async def _exact_ms(work: _Work) -> float:
    times = []
    statement = await work.table.searcher.prepare(
        trial_tables.exact_statement(work.table, work.wanted.k)
    )
    for vector in work.seen[: _EXACT_TIMES + 1]:
        started = time.perf_counter()
        await statement.fetch(vector)
        times.append((time.perf_counter() - started) * 1000)
    return stats.quantile(times[1:], 0.5)


def _about(work: _Work) -> tuple[str, ...]:
    said = []
    if work.wanted.filters and work.facts.attached is not None:
        said.append(
            "filters of an attached table are not tried here: the change measures them when it is "
            "planned with --filter"
        )
    if work.wanted.max_bytes is None and work.folder is None:
        said.append("the server is on another machine: builds ran beside its searches as any other")
    return tuple(said)


def _why_none(trials: Sequence[Trial], wanted: Wanted) -> str:
    applicable = [t for t in trials if t.design.is_applicable]
    held = [t for t in applicable if t.needed(wanted.recall)]
    if not applicable:
        return "no index is small enough to be tried: raise --max-size"
    if held:
        least = min(held, key=lambda t: t.size_bytes)
        return (
            f"no index of at most {(wanted.max_bytes or 0) / _MIB:,.0f} MB holds {wanted.recall:g}; the "
            f"least that does takes {least.size_bytes / _MIB:,.1f} MB ({least.design})"
        )
    best = min(applicable, key=lambda t: (-t.best.recall, t.best.p50_ms))
    return (
        f"no index holds {wanted.recall:g} with the lower end of its interval; the best is "
        f"{best.best.recall:.3f} [{best.best.low:.3f}, {best.best.high:.3f}] ({best.design}, "
        f"{best.design.knob} {best.best.breadth})"
    )


def _too_small(facts: CollectionFacts, wanted: Wanted) -> Tuned:
    return Tuned(
        collection=facts.name, k=wanted.k, target=wanted.recall, max_bytes=wanted.max_bytes,
        chunks=facts.chunks, questions=tuning_questions.source(wanted), n_seen=0, n_unseen=0, now=None,
        exact_p50_ms=None, trials=(), frontier=(), skipped=(), proposal=None,
        reason=f"collection {facts.name!r} has {facts.chunks:,} vectors: comparing them all is exact, "
        f"and as quick as an index below about {frontier.FEWEST_CHUNKS:,}; no index is proposed",
    )  # fmt: skip


def _room(facts: CollectionFacts, space: SpaceFacts, folder: Path | None) -> tuple[str, ...]:
    """Return a warning where nobody knows whether the copy fits; raises where it does not."""
    each = space.dimension * (2 if space.storage == "halfvec" else 4) + _ROW_BYTES
    largest = Design(
        method="hnsw",
        storage="halfvec" if space.storage == "halfvec" else "vector",
        m=32,
        ef_construction=64,
    )
    index = frontier.index_bytes(largest, space.dimension, facts.chunks)
    needed = math.ceil((each * facts.chunks + index) * _HEADROOM)
    free = None
    if folder is not None:
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            free = None
    if free is None:
        said = f"the copy and its indexes take up to {needed / _MIB:,.0f} MB for a while"
        return (f"{said}; how much is free where the database lies is unknown",)
    if free < needed:
        raise PreconditionFailed(
            f"tuning needs about {needed / _MIB:,.0f} MB for a copy of the vectors and one index at a "
            f"time, and {free / _MIB:,.0f} MB are free where the database lies: free "
            f"{(needed - free) / _MIB:,.0f} MB more"
        )
    return ()


def _check(wanted: Wanted) -> None:
    if not 0 < wanted.recall < 1:
        raise UsageError(
            f"recall is {wanted.recall:g}; write a share between 0 and 1, such as 0.95: an index that "
            "always finds all is a comparison of every vector"
        )
    if not 1 <= wanted.k <= MOST_HITS:
        raise UsageError(f"k is {wanted.k}; it must lie between 1 and {MOST_HITS}")
    if wanted.dataset is not None and wanted.questions is not None:
        raise UsageError("questions come from a dataset or from a file, not from both")
    if wanted.max_bytes is not None and wanted.max_bytes < _MIB:
        raise UsageError(f"max size is {wanted.max_bytes} bytes; no index is smaller than 1 MB")


def _line(trial: Trial, target: float) -> str:
    point = trial.needed(target)
    found = point or trial.best
    reached = "" if point else f", {target:g} not reached"
    return (
        f"{trial.design}: {trial.size_bytes / _MIB:,.1f} MB in {trial.build_s:.1f} s, "
        f"{trial.design.knob} {found.breadth}: {found.recall:.3f} [{found.low:.3f}, {found.high:.3f}], "
        f"{found.p50_ms:.2f} ms{reached}"
    )

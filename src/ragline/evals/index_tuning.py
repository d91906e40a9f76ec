"""Finding the vector index of a collection that holds a recall at the least cost, by trying.

Indexes are built on a copy of the vectors, one at a time, and searched with one half of the questions.
The best of them are built once more and searched by turns; what is then proposed is searched with the
other half of the questions, which no choice has seen.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ragline.core import filters, frontier, index_sweep, stats
from ragline.core.frontier import Design, Trial
from ragline.core.index_sweep import Limits, Skipped
from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.db import trial_tables
from ragline.errors import Conflict, PreconditionFailed, UsageError
from ragline.evals import (
    exact_truth,
    index_proposal,
    index_trials,
    production,
    recall,
    tuning_questions,
)
from ragline.evals.exact_truth import Nearest
from ragline.evals.index_trials import Work
from ragline.evals.index_tuned import Now, Progress, Proposal, Tuned, Wanted
from ragline.evals.tuning_questions import Texts
from ragline.ops import giving_way
from ragline.rag.app import App
from ragline.rag.query import MOST_HITS, query
from ragline.rag.search import search_collections, target_of

_ROW_BYTES = 60
_HEADROOM = 1.3
_MIB = 2**20


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
    the copy would not fit, Conflict where the collection was embedded anew meanwhile.
    """
    started = time.monotonic()
    _check(wanted)
    facts, space = await recall.embedded(app, collection)
    if facts.chunks < index_sweep.FEWEST_CHUNKS:
        return _too_small(facts, wanted)
    warnings = _room(facts, space, folder)
    texts = await tuning_questions.texts(app, facts, space, wanted)
    if texts.texts is not None:
        await tuning_questions.model_of(app, facts, space)
    within, filtered = await index_proposal.usual(app, facts, wanted)
    admin, searching = await app.pool("admin"), await app.pool(app.search_workload)
    async with admin.connection() as connection:
        await trial_tables.sweep(connection)
    async with searching.connection() as connection:
        work_mem = await connection.fetchval("select pg_catalog.current_setting('work_mem')")
    show(Progress(what="copying the vectors", done_s=0.0, left_s=None))
    async with trial_tables.copied(admin.dsn, target_of(facts), work_mem=work_mem) as table:
        if table.rows < index_sweep.FEWEST_CHUNKS:
            return _too_small(replace(facts, chunks=table.rows), wanted)
        seen_at = facts
        facts = replace(facts, chunks=table.rows)
        if wanted.is_last:
            say(_come_last(table.builder.get_server_pid(), folder))
        show(Progress(what="embedding the questions", done_s=0.0, left_s=None))
        asked, said = await tuning_questions.vectors(app, facts, space, table, wanted, texts)
        show(
            Progress(what="comparing every vector", done_s=time.monotonic() - started, left_s=None)
        )
        order = np.random.default_rng(wanted.seed).permutation(len(asked))
        half = len(asked) // 2
        seen, unseen = asked[order[:half]], asked[order[half:]]
        truths = await exact_truth.exact(
            lambda: trial_tables.streamed(table),
            [Nearest(some, wanted.k, space.metric) for some in (seen, unseen)],
        )
        async with production.watched(app, collection, wanted.k, list(seen)) as watch:
            work = Work(
                app=app, facts=facts, space=space, wanted=wanted, table=table, folder=folder,
                say=say, show=show, watch=watch, seen=seen, unseen=unseen, truth_seen=truths[0],
                truth_unseen=truths[1], started=started, filters=within, trials=[],
            )  # fmt: skip
            tuned = await _tuned(work, texts, warnings)
            return replace(
                tuned,
                production=watch.seen(),
                seconds=time.monotonic() - started,
                filtered=filtered,
                unseen=tuple(said[number] for number in order[half:].tolist()) if said else (),
                warnings=(*tuned.warnings, *await _meanwhile(app, seen_at, space)),
            )


async def _meanwhile(app: App, before: CollectionFacts, space: SpaceFacts) -> tuple[str, ...]:
    """Return a warning where the contents changed meanwhile. Raises Conflict for other vectors."""
    now, other = await recall.embedded(app, before.name)
    if (now.id, other.id) != (before.id, space.id):
        raise Conflict(
            f"collection {before.name!r} was embedded anew while its index was tuned: what was measured "
            "is of vectors that nobody searches any more; tune again"
        )
    if now.epoch == before.epoch:
        return ()
    said = f"the contents changed meanwhile ({before.chunks:,} chunks then, {now.chunks:,} now)"
    return (f"{said}: the copy is of how they were, and what searches found was held against it",)


def _come_last(pid: int, folder: Path | None) -> str:
    done = giving_way.come_last(pid, folder) if folder is not None else None
    if done is None:
        return (
            "builds run as any other process: the system does not let us lower their priority here"
        )
    return f"builds come after all other processes until they end (priority of the {done} lowered)"


async def _tuned(work: Work, texts: Texts, warnings: tuple[str, ...]) -> Tuned:
    wanted = work.wanted
    limits = _limits(work)
    now = await _now(work)
    skipped = await _sweep(work, limits)
    trials = tuple(work.trials)
    proposal, reason = None, _why_none(trials, wanted)
    near = frontier.finalists(trials, wanted.recall, wanted.max_bytes)
    exact_ms = await index_trials.exact_ms(work)
    if near and exact_ms <= min(point.p50_ms for _, point in near):
        least = min(point.p50_ms for _, point in near)
        reason = (
            f"comparing every vector takes {exact_ms:.2f} ms, no longer than the quickest index that "
            f"holds {wanted.recall:g} ({least:.2f} ms): no index is proposed"
        )
    elif near:
        proposal = await index_proposal.proposed(work, near)
        reason = index_proposal.said(proposal, wanted.recall)
        warnings = (*warnings, *_about(proposal, wanted.recall))
    return Tuned(
        collection=work.facts.name,
        k=wanted.k,
        target=wanted.recall,
        max_bytes=wanted.max_bytes,
        chunks=work.facts.chunks,
        questions=texts.said,
        sampled=texts.sampled,
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
        warnings=warnings,
    )


async def _sweep(work: Work, limits: Limits) -> tuple[Skipped, ...]:
    """Build and search one design after the other, until none is left that may be worth it."""
    while upcoming := (left := index_sweep.outlook(work.trials, limits)).upcoming:
        await work.watch.rest()
        trial = await index_trials.tried(work, upcoming[0], upcoming)
        work.trials.append(trial)
        work.say(index_trials.line(trial, work.wanted.recall))
    return left.skipped


def _about(proposal: Proposal, target: float) -> tuple[str, ...]:
    return (
        *proposal.unmeasured,
        *(
            f"within {one.text} the proposal finds {one.recall:.3f} [{one.low:.3f}, {one.high:.3f}], "
            f"less than {target:g}"
            for one in proposal.filters
            if one.high < target
        ),
    )


# What there is.


async def _now(work: Work) -> Now:
    """Search as production does with the unseen questions: what a proposal is held against."""
    values, times, used = [], [], 0
    for number, vector in enumerate(work.unseen):
        asked = query("", work.facts.name, k=work.wanted.k, method="vector", vector=vector)
        started = time.perf_counter()
        found = await search_collections(work.app, asked)
        times.append((time.perf_counter() - started) * 1000)
        values.append(work.truth_unseen.recall(number, [hit.chunk_id for hit in found.hits]))
        used = found.used[0].ef_search or used
    mean, low, high = index_trials.interval(values, work.wanted.seed)
    return Now(
        design=_design_now(work),
        ef_search=used,
        recall=mean,
        low=low,
        high=high,
        p50_ms=stats.quantile(times, 0.5),
    )


def _design_now(work: Work) -> Design | None:
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


def _limits(work: Work) -> Limits:
    possible = trial_tables.storages(work.table)
    storages = tuple(one for one in index_sweep.STORAGES if possible[one])
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


def _why_none(trials: Sequence[Trial], wanted: Wanted) -> str:
    applicable = [t for t in trials if t.design.is_applicable]
    held = [t for t in applicable if t.needed(wanted.recall)]
    if not applicable:
        return "no index is small enough to be tried: raise --max-size"
    if held:
        least = min(held, key=lambda t: t.size_bytes)
        return (
            f"no index of at most {(wanted.max_bytes or 0) / _MIB:,.1f} MB holds {wanted.recall:g}; the "
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
        chunks=facts.chunks, questions="none were asked", sampled="all", n_seen=0, n_unseen=0, now=None,
        exact_p50_ms=None, trials=(), frontier=(), skipped=(), proposal=None,
        reason=f"collection {facts.name!r} has {facts.chunks:,} vectors: comparing them all is exact, "
        f"and as quick as an index below about {index_sweep.FEWEST_CHUNKS:,}; no index is proposed",
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
    index = index_sweep.index_bytes(largest, space.dimension, facts.chunks)
    needed = math.ceil((each * facts.chunks + frontier.FINALISTS * index) * _HEADROOM)
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
            f"tuning needs about {needed / _MIB:,.0f} MB for a copy of the vectors and up to "
            f"{frontier.FINALISTS} indexes, and {free / _MIB:,.0f} MB are free where the database lies: "
            f"free {(needed - free) / _MIB:,.0f} MB more"
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
    if wanted.is_midway and (wanted.dataset is not None or wanted.questions is not None):
        raise UsageError("questions are made of the vectors, or given; not both")
    for text in wanted.filters:
        filters.from_text(text)

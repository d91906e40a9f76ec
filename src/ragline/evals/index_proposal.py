"""What a tuning proposes: the finalists measured side by side, and the best checked on new questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ragline.core import filters, frontier
from ragline.core.frontier import Design, Point, Trial
from ragline.core.results import CollectionFacts
from ragline.db import samples, trial_tables
from ragline.db.trial_tables import Filtered
from ragline.errors import RaglineError
from ragline.evals import exact_truth, index_trials
from ragline.evals.exact_truth import Nearest
from ragline.evals.gate_questions import conditions_of
from ragline.evals.index_trials import Search, Work
from ragline.evals.index_tuned import Proposal, Wanted, WithFilter
from ragline.rag import filtering
from ragline.rag.app import App
from ragline.rag.query import LARGEST_EF_SEARCH
from ragline.rag.search import target_of

_WIDER = 1.15
_MOST_CHECKS = 4
_SAMPLED = 500
_WARM = 20


async def proposed(work: Work, near: Sequence[tuple[Trial, Point]]) -> Proposal:
    """Build the finalists anew and measure them side by side; check the cheapest on the other questions.

    A graph depends on chance: that the second one holds as well is part of what is checked. Where it
    misses, it is searched more broadly.
    """
    rivals = await _side_by_side(work, near)
    target = work.wanted.recall
    best = max(rivals, key=lambda one: one.points[0].low)
    trial, seen = frontier.cheapest(rivals, target) or (best, best.points[0])
    slot = 1 + rivals.index(trial)
    work.say(f"checking {trial.design} on {len(work.unseen)} questions that no choice has seen")
    breadth = seen.breadth
    for checks in range(1, _MOST_CHECKS + 1):
        checked = await index_trials.measured(
            work, trial.design, breadth, work.unseen, work.truth_unseen, slot=slot
        )
        is_last = checks == _MOST_CHECKS or breadth >= LARGEST_EF_SEARCH
        if checked.high >= target or is_last:
            break
        breadth = min(LARGEST_EF_SEARCH, math.ceil(breadth * _WIDER))
    measured, failed = await _filters(work, trial.design, checked.breadth, slot)
    return Proposal(
        design=trial.design,
        ef_search=checked.breadth,
        size_bytes=trial.size_bytes,
        build_s=trial.build_s,
        seen=seen,
        unseen=checked,
        verdict=_verdict(checked, target),
        checks=checks,
        rivals=rivals,
        filters=measured,
        unmeasured=failed,
    )


def _verdict(checked: Point, target: float) -> str:
    if checked.low >= target:
        return "holds"
    return "within its interval" if checked.high >= target else "missed"


def said(proposal: Proposal, target: float) -> str:
    """Return what came of the check in a sentence."""
    one = proposal.unseen
    shown = f"{one.recall:.3f} [{one.low:.3f}, {one.high:.3f}] on {one.n} questions not seen before"
    if proposal.checks > 1:
        shown += f" (searched more broadly until it did, {proposal.checks} times)"
    if proposal.verdict == "missed":
        return f"{target:g} was missed: {shown}"
    return f"{target:g} {proposal.verdict}: {shown}"


async def _side_by_side(work: Work, near: Sequence[tuple[Trial, Point]]) -> tuple[Trial, ...]:
    """Return the finalists, built anew and searched by turns: their times are of the same moments."""
    built = []
    for slot, (trial, _) in enumerate(near, 1):
        await work.watch.rest()
        left = [one.design for one, _ in near[slot - 1 :]]
        built.append(await index_trials.build(work, trial.design, left, slot=slot))
    searches = [
        await Search.of(work, trial.design, point.breadth, work.seen[0], slot=slot)
        for slot, (trial, point) in enumerate(near, 1)
    ]
    # Once for nothing: what is asked first finds everything cold.
    await index_trials.searched(work, searches, work.seen[:_WARM], work.truth_seen)
    for one in searches:
        one.forget()
    await index_trials.searched(work, searches, work.seen, work.truth_seen)
    rivals = tuple(
        Trial(design=trial.design, size_bytes=size, build_s=seconds, points=(one.point(work),))
        for (trial, _), (seconds, size), one in zip(near, built, searches, strict=True)
    )
    for rival in rivals:
        work.say(f"side by side: {index_trials.line(rival, work.wanted.recall)}")
    return rivals


# Filters.


async def usual(app: App, facts: CollectionFacts, wanted: Wanted) -> tuple[tuple[str, ...], str]:
    """Return the filters to measure, and which these are and why no others, in words."""
    if facts.attached is not None:
        return (), (
            "none was measured: those of an attached table are searched within the table itself, and "
            "measured by the change"
        )
    if wanted.filters:
        return wanted.filters, "as named"
    async with app.connection(app.search_workload) as connection:
        documents = await samples.metadata(
            connection, target_of(facts), chunks=facts.chunks, size=_SAMPLED
        )
    found = tuple(conditions_of(facts, documents))
    if found:
        return found, "guessed from the metadata; name your own with --filter"
    return (), (
        "none was measured: no value in the metadata is shared by 2 to 60 of 100 chunks; name one with "
        "--filter"
    )


async def _filters(
    work: Work, design: Design, breadth: int, slot: int
) -> tuple[tuple[WithFilter, ...], tuple[str, ...]]:
    """Return what came of each filter, and a sentence for each that could not be measured."""
    found, failed = [], []
    for text in work.filters:
        try:
            found.append(await _with_filter(work, design, breadth, slot, text))
        except RaglineError as error:
            # What was measured in minutes is not lost for one filter.
            failed.append(f"filter {text!r} was not measured: {str(error).splitlines()[0]}")
    return tuple(found), tuple(failed)


async def _with_filter(
    work: Work, design: Design, breadth: int, slot: int, text: str
) -> WithFilter:
    """Search within a filter as production would once the proposal is applied."""
    k, app = work.wanted.k, work.app
    target = target_of(work.facts)
    async with app.connection(app.search_workload) as connection:
        plan = await filtering.plan(
            app.samples,
            connection,
            target,
            work.facts,
            filters.from_text(text),
            k=k,
            is_exact=False,
        )
    allowed = await trial_tables.allowed(work.table, plan.scope.condition, plan.values)
    share = len(allowed) / work.facts.chunks
    if plan.scope.is_small or not len(allowed):
        return WithFilter(
            text=text, share=share, way="exact", recall=1.0, low=1.0, high=1.0, rows=1.0, p50_ms=0.0,
            n=0,
        )  # fmt: skip
    (truth,) = await exact_truth.exact(
        lambda: trial_tables.streamed(work.table),
        [Nearest(work.unseen, k, work.space.metric, allowed)],
    )
    asked = Filtered(
        condition=plan.scope.condition,
        values=plan.values,
        rows=plan.scope.rows,
        mode=work.facts.policy.iterative or "relaxed_order",
    )
    search = await Search.of(work, design, breadth, work.unseen[0], asked, slot=slot)
    await index_trials.searched(work, [search], work.unseen, truth)
    found = search.point(work)
    return WithFilter(
        text=text,
        share=share,
        way=f"index, {asked.mode}",
        recall=found.recall,
        low=found.low,
        high=found.high,
        rows=search.rows / (sum(truth.wanted) or 1),
        p50_ms=found.p50_ms,
        n=found.n,
    )

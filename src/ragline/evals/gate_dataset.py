"""A change judged by a dataset's cases, beside the questions made of the collections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast, get_args

from ragline.core import asking, comparing, gating, redline
from ragline.core.asking import Group
from ragline.core.gate import Asked, Judgement, Rung
from ragline.core.gating import Terms
from ragline.core.policies import LATENCY, Line, Policy, policy
from ragline.core.runs import AnswerKind, JudgeKind, Limits, Settings
from ragline.errors import PreconditionFailed, UsageError
from ragline.evals import compare, loading
from ragline.evals import policy as policies
from ragline.evals.compare import Comparison
from ragline.evals.run import Progress, evaluate
from ragline.rag.app import App


def floors(asked: Asked) -> Policy | None:
    """Return the policy that was asked for: one that ragline has, a file, or TOML itself."""
    if asked.policy is None:
        return None
    if "[[" in asked.policy:
        return policy(asked.policy, "the policy of this change")
    return policies.load(asked.policy)


def terms(asked: Asked, noise: Mapping[str, float]) -> Terms:
    """Return by what searches are judged."""
    return Terms(
        quality_margin=asked.quality_margin,
        latency_margin=asked.latency_margin,
        floors=floors(asked),
        noise=noise,
        seed=asked.seed,
    )


def check(asked: Asked, floors: Policy | None, groups: Sequence[Group]) -> None:
    """Raise UsageError for a line that nothing measures: it would fail whatever the change does."""
    for name, given, kinds in (
        ("answers", asked.answers, get_args(AnswerKind)),
        ("judge", asked.judge, get_args(JudgeKind)),
    ):
        if given not in kinds:
            raise UsageError(f"{name} is {given!r}; it is one of {', '.join(kinds)}")
        if given != "none" and asked.dataset is None:
            raise UsageError(f"{name} is {given!r}, which takes a dataset to ask: name one")
    if floors is None or asked.dataset is not None:
        return
    for line in floors.lines:
        if line.when == "always" and not gating.measures(groups, line):
            raise UsageError(
                f"the policy has a line for {line.metric}, which only a dataset measures: name one, or "
                'write when = "measured"'
            )


async def run(
    app: App,
    asked: Asked,
    groups: Sequence[Group],
    which: str,
    advance: Callable[[str, int, int], None],
) -> int:
    """Evaluate the dataset, and return the number of the run, which stays in the ledger of runs.

    Raises PreconditionFailed where it is not complete: a part of it cannot be judged.
    """
    settings = Settings(
        collections=tuple(dict.fromkeys(group.collection for group in groups)),
        k=max(group.k for group in groups),
        answers=cast(AnswerKind, asked.answers),
        judge=cast(JudgeKind, asked.judge),
    )

    def progress(one: Progress) -> None:
        advance("cases", one.done, one.total)

    found = await evaluate(
        app,
        asked.dataset or "",
        settings,
        Limits(),
        name=f"change-{time.time_ns()}-{which}",
        on_progress=progress,
    )
    if found.state != "complete":
        said = "; ".join((*found.errors, *found.warnings)) or "cases are missing"
        raise PreconditionFailed(
            f"run {found.name} of dataset {found.dataset!r} is partial: {said}"
        )
    return found.id


async def compared(app: App, asked: Asked, baseline: int | None, after: int | None) -> Comparison:
    """Return how the second run differs from the first, judged by the margins and the floors."""
    before, now = await loading.both(app, str(baseline), str(after))
    compare.refuse(before, now)
    was, found = await loading.results(app, before), await loading.results(app, now)
    policy = compare.default_policy(comparing.per_case(was), comparing.per_case(found))
    lines = [replace(line, margin=asked.quality_margin) for line in policy.lines]
    given = floors(asked)
    lines += [line for line in (given.lines if given else ()) if _is_of_cases(line)]
    return await asyncio.to_thread(
        compare.compared,
        before,
        now,
        was,
        found,
        cases=await loading.cases(app, now),
        policy=replace(policy, lines=tuple(lines)),
    )


def _is_of_cases(line: Line) -> bool:
    """Whether a run of a dataset is what keeps a line; times are compared by searches in pairs."""
    is_of_searches = line.metric.startswith(("ann_recall@", asking.KNOWN))
    return not is_of_searches and not (line.is_relative and LATENCY.fullmatch(line.metric))


def joined(asked: Asked, judgement: Judgement, found: Comparison, seconds: float) -> Judgement:
    """Return a judgement with the verdict on a dataset's runs added."""
    rows = tuple(
        replace(row, metric=f"{row.metric} [{asked.dataset}]") for row in found.verdict.rows
    )
    said = [gating.said_row(row) for row in rows if row.status == found.status != "pass"]
    runs = f"dataset {asked.dataset} {found.status}: runs {found.baseline.id} and {found.run.id}"
    is_deeper = asked.answers != "none" or asked.judge != "none"
    rung: Rung = "answers" if is_deeper else "retrieval"
    if found.is_identical and judgement.rung == "identical":
        rung = "identical"
    return replace(
        judgement,
        status=redline.worst((judgement.status, found.status)),
        reason="; ".join([*said[:3], runs, judgement.reason]),
        rung=rung,
        rows=(*judgement.rows, *(asdict(row) for row in rows)),
        n=judgement.n + found.run.cases,
        seconds=seconds,
    )

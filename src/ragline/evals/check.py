"""One run held against the red lines of a policy."""

from __future__ import annotations

import asyncio

from ragline.core import comparing, redline
from ragline.core.policies import Policy
from ragline.core.redline import Verdict
from ragline.core.runs import Run
from ragline.errors import UsageError
from ragline.evals import compare, loading
from ragline.rag.app import App


async def check(app: App, run: str, policy: Policy, against: str | None = None) -> Verdict:
    """Return whether a run keeps every line of a policy; relative lines need a run `against` it.

    Raises UsageError for a run that is not complete, and for two that cannot be compared.
    """
    if against is not None:
        return (await compare.compare(app, against, run, policy)).verdict
    found = await loading.one(app, run)
    refuse(found)
    now = comparing.per_case(await loading.results(app, found))
    return await asyncio.to_thread(
        redline.verdict,
        policy,
        compare.figures(found),
        found.judge_id,
        now,
        None,
        is_identical=False,
    )


def refuse(run: Run) -> None:
    """Raise UsageError for a run that may not be judged as a whole."""
    if reasons := comparing.unfinished(run):
        raise UsageError(f"no line can judge a part of a dataset: {'; '.join(reasons)}")

"""The gate of the change loop: what is searched before and after, and whether it may stay.

Two ways. Side by side: both arms can be searched, so each question is put to both, one after the
other, in an order drawn by lot. One after the other: what is there now is measured before the change
and asked the very same questions after it. Both measure the same thing twice as well, so that a noisy
machine is not taken for a change.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Any

from ragline.core import asking, gating, paired_times
from ragline.core.asking import Group, Seen, Side
from ragline.core.budget import Workload
from ragline.core.change import Arm as Trials
from ragline.core.change import Trial
from ragline.core.gate import Asked, Judgement
from ragline.core.measuring import Found
from ragline.core.stats import MINIMUM
from ragline.errors import PreconditionFailed, RaglineError
from ragline.evals import gate_dataset, gate_questions, gate_searches
from ragline.evals.gate_pair import Pair
from ragline.evals.gate_searches import Advance, Arm, Clock, Say
from ragline.models.embed import Vector
from ragline.rag.app import App
from ragline.rag.filtering import Documents

OpenApp = Callable[[Workload, Mapping[str, Trial]], AbstractAsyncContextManager[App]]

# Of so many times of a question the least one counts, each time it is measured.
_LEAST_OF = 3
# The machine's noise should be this part of the margin, if that can be had in this part of the budget.
_CALM = 1 / 3
_PART_FOR_NOISE = 1 / 3
_FEWEST_REPEATS = 4
_MOST_GONE = 0.1


class Gate:
    """Measures changes; satisfies `change.kind.Measure`. Made by `wiring`.

    `open_app` opens ragline anew, with connections of the workload's role that nobody used before:
    settings and roles act on new ones only. `say` is told a line now and then, `advance` how far a
    part of the measurement is.
    """

    def __init__(
        self,
        open_app: OpenApp,
        say: Say = lambda _line: None,
        reached: Say = lambda _point: None,
        advance: Advance | None = None,
    ) -> None:
        self._open = open_app
        self._say = say
        self._reached = reached
        self._advance = advance or (lambda _what, _done, _total: None)

    async def before(self, asked: Asked) -> dict[str, Any]:
        """Measure what is there, repeatedly, so that the machine's noise is known; plain values.

        Raises PreconditionFailed where nothing can be measured, UsageError where what was asked for
        cannot be, and NotFound.
        """
        started = time.monotonic()
        self._reached("measure:before")
        floors = gate_dataset.floors(asked)
        clock = Clock(least_of=_LEAST_OF)
        embedded: dict[tuple[str, str], Vector] = {}
        samples: dict[str, Documents] = {}
        async with self._open(asked.workload, {}) as app:
            drawn = await gate_questions.drawn(app, asked)
            gate_dataset.check(asked, floors, drawn.groups)
            self._say(gate_questions.said(drawn))
            arm = Arm(app=app, hits=asked.k, embedded=embedded, samples=samples)
            await arm.learn(drawn.groups)
            there, _ = gate_searches.askable([arm], drawn.groups)
            began = time.monotonic()
            until = started + asked.budget_s * gate_searches.PART_FOR_ANSWERS
            groups, answers = await self._answers(arm, there, until)
            gate_searches.check(answers)
            plans, contents = await arm.plans(groups), gate_searches.contents(arm)
            timed = gate_searches.timed(groups, floors)
            # An answer takes an exact search as well: what this leaves is a little less than could be.
            each_s = _LEAST_OF * gate_searches.REPEATS * _each_s(answers, began)
            timed = gate_searches.affordable(timed, each_s, asked.budget_s)
            await self._timed(arm, timed, clock)
        until = time.monotonic() + asked.budget_s * _PART_FOR_NOISE
        while not _is_calm(clock, timed, asked) and time.monotonic() < until:
            async with self._open(asked.workload, {}) as app:
                arm = Arm(app=app, hits=asked.k, embedded=embedded, samples=samples)
                await arm.learn(groups)
                await self._timed(arm, timed, clock)
        clock = clock.calm(_FEWEST_REPEATS)
        side = Side(answers=answers, times=clock.times(), plans=plans, contents=contents)
        run = await self._run_dataset(asked, groups, {}, "before")
        return {
            "groups": [asking.group_to_json(group) for group in groups],
            "side": asking.side_to_json(side),
            "figures": _figures(clock, timed),
            "witnesses": clock.witnesses,
            "samples": {name: list(documents) for name, documents in samples.items()},
            "notes": list(drawn.notes),
            "run": run,
            "seconds": time.monotonic() - started,
        }

    async def after(self, asked: Asked, before: Mapping[str, Any]) -> Judgement:
        """Measure again the same way and judge, extending up to the budget.

        What cannot be measured any more fails: the error is the reason.
        """
        started = time.monotonic()
        self._reached("measure:after")
        try:
            return await self._after(asked, before, started)
        except gate_searches.ERRORS as error:
            return _unmeasured(error, time.monotonic() - started)

    async def pair(self, asked: Asked, now: Trials, want: Trials) -> Judgement:
        """Measure two arms side by side, question by question, and judge the second.

        Raises what `before` does where the first cannot be measured.
        """
        started = time.monotonic()
        self._reached("measure:pair")
        async with AsyncExitStack() as stack:
            apps = [
                await stack.enter_async_context(self._open(asked.workload, trials))
                for trials in (now, now, want)
            ]
            judgement, groups = await Pair(apps, asked, self._say, self._advance, started).judged()
        if asked.dataset is None or judgement.status == "fail":
            return judgement
        one = await self._run_dataset(asked, groups, now, "before")
        return await self._with_dataset(asked, judgement, groups, one, want, started)

    # -- one after the other -----------------------------------------------------------------------

    async def _after(self, asked: Asked, before: Mapping[str, Any], started: float) -> Judgement:
        groups = [asking.group_from_json(one) for one in before["groups"]]
        was, notes = asking.side_from_json(before["side"]), [str(one) for one in before["notes"]]
        clocks: list[Clock] = []
        async with self._open(asked.workload, {}) as app:
            arm = Arm(app=app, hits=asked.k, samples=dict(before["samples"]))
            await arm.learn(groups)
            left, said = _still_there(arm, groups)
            is_too_little = 1 - gate_searches.count(left) / gate_searches.count(groups) > _MOST_GONE
            began = time.monotonic()
            answers = await self._again(arm, left, was, started + asked.budget_s)
            left = gate_searches.answered(left, answers)
            was = _only(was, left)
            now = Side(
                answers=answers,
                times={},
                plans=await arm.plans(left),
                contents=gate_searches.contents(arm),
            )
            is_lost = gating.is_lost(left, was.answers, answers, gate_dataset.terms(asked, {}))
            # Where it is decided already, the times are but to be shown.
            repeats = 1 if is_lost or is_too_little else gate_searches.REPEATS
            timed = gate_searches.timed(left, gate_dataset.floors(asked))
            each_s = _LEAST_OF * repeats * _each_s(answers, began)
            timed = gate_searches.affordable(timed, each_s, asked.budget_s)
            for look in range(1, gating.LOOKS + 1):
                if look > 1:
                    self._say("measuring on: nothing is decided yet")
                    part = asked.budget_s * look / gating.LOOKS
                    await arm.settled(before["witnesses"], started + part)
                clock = Clock(least_of=_LEAST_OF)
                await self._timed(arm, timed, clock, repeats)
                clocks.append(clock)
                # What the machine was like decides which of them counts, not what came out.
                best = min(
                    clocks, key=lambda one: paired_times.drift(before["witnesses"], one.witnesses)
                )
                noise = paired_times.repeated_noise(before["figures"], repeats)
                noise = paired_times.witnessed(noise, before["witnesses"], best.witnesses)
                terms = gate_dataset.terms(asked, noise)
                now = replace(now, times=best.times())
                parts = await asyncio.to_thread(gating.judged, left, was, now, terms)
                is_over = time.monotonic() - started > asked.budget_s
                if parts.is_decided or is_too_little or is_over:
                    break
        if is_too_little and parts.status == "pass":
            parts = replace(parts, quality="inconclusive")
        judgement = gating.judgement(
            left, was, now, parts, terms,
            notes=[*said, *notes], seconds=time.monotonic() - started,
        )  # fmt: skip
        if before["run"] is None or judgement.status == "fail":
            return judgement
        return await self._with_dataset(asked, judgement, left, before["run"], {}, started)

    async def _answers(
        self, arm: Arm, groups: Sequence[Group], until: float
    ) -> tuple[tuple[Group, ...], dict[str, dict[str, Seen]]]:
        """Return what all questions find, and the groups without those that there was no time for."""
        answers: dict[str, dict[str, Seen]] = {group.name: {} for group in groups}
        turns = gate_searches.by_turns(groups)
        fewest = gate_searches.FEWEST_QUESTIONS * len(groups)
        for group, question in gate_searches.in_time(
            turns, until=until, fewest=fewest, advance=self._advance
        ):
            found = await arm.found(group, question)
            exact = await arm.exact(group, question)
            answers[group.name][question.id] = gate_searches.seen(group, question, found, exact)
        return gate_searches.answered(groups, answers), answers

    async def _again(
        self, arm: Arm, groups: Sequence[Group], was: Side, until: float
    ) -> dict[str, dict[str, Seen]]:
        """Return what the questions find now, as far as there is time: it may be much slower.

        The same chunks are worth what they were worth.
        """
        answers: dict[str, dict[str, Seen]] = {group.name: {} for group in groups}
        is_same_content = gate_searches.contents(arm) == was.contents
        turns = gate_searches.by_turns(groups)
        for group, question in gate_searches.in_time(
            turns, until=until, fewest=MINIMUM, advance=self._advance
        ):
            found = await arm.found(group, question)
            known = was.answers[group.name][question.id]
            if is_same_content and _is_same(known, found, group.k):
                answers[group.name][question.id] = known
                continue
            exact = await arm.exact(group, question)
            answers[group.name][question.id] = gate_searches.seen(group, question, found, exact)
        return answers

    async def _timed(
        self,
        arm: Arm,
        groups: Sequence[Group],
        clock: Clock,
        repeats: int = gate_searches.REPEATS,
    ) -> None:
        turns = gate_searches.by_turns(groups)
        passes = repeats * clock.least_of
        for repeat in range(passes):
            witnesses = []
            for number, (group, question) in enumerate(turns):
                self._advance("times", repeat * len(turns) + number + 1, passes * len(turns))
                clock.add(group, question, await arm.timed(group, question))
                witnesses.append(await arm.witness_ms() if arm.failed == 0 else None)
            told = [ms for ms in witnesses if ms is not None]
            clock.witnesses += [statistics.median(told)] if told else []

    # -- labelled cases ----------------------------------------------------------------------------

    async def _run_dataset(
        self, asked: Asked, groups: Sequence[Group], trials: Trials, which: str
    ) -> int | None:
        if asked.dataset is None:
            return None
        async with self._open("eval", trials) as app:
            return await gate_dataset.run(app, asked, groups, which, self._advance)

    async def _with_dataset(
        self,
        asked: Asked,
        judgement: Judgement,
        groups: Sequence[Group],
        baseline: int | None,
        trials: Trials,
        started: float,
    ) -> Judgement:
        """Return the judgement with what the cases of the dataset say."""
        try:
            run = await self._run_dataset(asked, groups, trials, "after")
            async with self._open("eval", trials) as app:
                found = await gate_dataset.compared(app, asked, baseline, run)
        except gate_searches.ERRORS as error:
            failed = _unmeasured(error, time.monotonic() - started)
            return replace(judgement, status="fail", reason=f"{failed.reason}; {judgement.reason}")
        return gate_dataset.joined(asked, judgement, found, time.monotonic() - started)


# -- small parts -----------------------------------------------------------------------------------


def _each_s(answers: Mapping[str, Mapping[str, Seen]], began: float) -> float:
    return (time.monotonic() - began) / max(1, sum(map(len, answers.values())))


def _is_same(known: Seen, found: list[Found] | str, k: int) -> bool:
    return not isinstance(found, str) and known.chunks == tuple(hit.chunk_id for hit in found[:k])


def _figures(clock: Clock, groups: Sequence[Group]) -> dict[str, list[float]]:
    return paired_times.repeated_figures(
        {group.name: clock.figures(group.name) for group in groups}
    )


def _is_calm(clock: Clock, groups: Sequence[Group], asked: Asked) -> bool:
    """Whether the noise is known, and small enough for the margin to be seen."""
    quiet = clock.calm(_FEWEST_REPEATS)
    noise = paired_times.repeated_noise(_figures(quiet, groups), gate_searches.REPEATS)
    return noise.get(paired_times.ALL, math.inf) <= asked.latency_margin * _CALM


def _still_there(arm: Arm, groups: Sequence[Group]) -> tuple[tuple[Group, ...], list[str]]:
    """Return the groups without questions made of chunks that are gone, and how many those are."""
    left, lost = gate_searches.askable([arm], groups)
    if not lost:
        return left, []
    said = f"{lost} questions could not be asked again: their chunks were removed meanwhile"
    if not left:
        raise PreconditionFailed(f"{said}, and no question is left: measure again")
    return left, [said]


def _only(side: Side, groups: Sequence[Group]) -> Side:
    """Return a side with nothing but what these questions found."""
    ids = {group.name: {one.id for one in group.questions} for group in groups}

    def kept(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: {case: one for case, one in sorted(values[name].items()) if case in cases}
            for name, cases in ids.items()
            if name in values
        }

    return replace(
        side,
        answers=kept(side.answers),
        plans={name: shape for name, shape in side.plans.items() if name in ids},
    )


def _unmeasured(error: Exception, seconds: float) -> Judgement:
    """Return what is to be said of a change after which nothing can be measured."""
    said = str(error) if isinstance(error, RaglineError) else f"{type(error).__name__}: {error}"
    return Judgement(
        status="fail",
        reason=f"it could not be measured any more: {said}",
        rung="nothing",
        seconds=seconds,
    )

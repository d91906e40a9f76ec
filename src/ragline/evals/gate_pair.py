"""Two arms that can both be searched, measured side by side: each question is put to both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ragline.core import gating, paired_times
from ragline.core.asking import Group, Question, Seen, Side
from ragline.core.gate import Asked, Judgement
from ragline.errors import PreconditionFailed
from ragline.evals import gate_dataset, gate_questions, gate_searches
from ragline.evals.gate_searches import Advance, Arm, Clock, Say
from ragline.models.embed import Vector
from ragline.rag.app import App
from ragline.rag.filtering import Documents


class Pair:
    """Two arms and the first of them once more, for as long as they are measured."""

    def __init__(
        self, apps: Sequence[App], asked: Asked, say: Say, advance: Advance, started: float
    ) -> None:
        self.say = say
        self.advance = advance
        self.asked = asked
        embedded: dict[tuple[str, str], Vector] = {}
        samples: dict[str, Documents] = {}
        self.arms = [Arm(app=app, hits=asked.k, embedded=embedded, samples=samples) for app in apps]
        self.clocks = [Clock(least_of=1) for _ in apps]
        self.started = started
        self.answers_s = 0.0
        self.notes: list[str] = []
        self.lot = np.random.default_rng(asked.seed)
        self.was: dict[str, dict[str, Seen]] = {}
        self.now: dict[str, dict[str, Seen]] = {}

    async def judged(self) -> tuple[Judgement, tuple[Group, ...]]:
        asked = self.asked
        floors = gate_dataset.floors(asked)
        drawn = await gate_questions.drawn(self.arms[0].app, asked)
        gate_dataset.check(asked, floors, drawn.groups)
        self.say(gate_questions.said(drawn))
        groups = await self._answers(drawn.groups)
        plans = [await self.arms[at].plans(groups) for at in (0, 2)]
        is_lost = gating.is_lost(groups, self.was, self.now, gate_dataset.terms(asked, {}))
        for look in range(1, gating.LOOKS + 1):
            # Where quality is lost already, the times are but to be shown.
            await self._timed(self._affordable(groups), 1 if is_lost else gate_searches.REPEATS)
            times, again, wanted = (clock.least() for clock in self.clocks)
            noise, spread = paired_times.paired_noise(times, again, asked.seed)
            terms = replace(gate_dataset.terms(asked, noise), spread=spread)
            before = Side(answers=self.was, times=times, plans=plans[0], contents=self._space(0))
            now = Side(answers=self.now, times=wanted, plans=plans[1], contents=self._space(2))
            parts = await asyncio.to_thread(gating.judged, groups, before, now, terms)
            if look == gating.LOOKS or parts.is_decided or self._left_s() < 0:
                break
            self.say("measuring on: nothing is decided yet")
            if parts.quality == "inconclusive":
                groups = await self._extended(groups, look)
        judgement = gating.judgement(
            groups, before, now, parts, terms,
            notes=[*drawn.notes, *dict.fromkeys(self.notes)], seconds=time.monotonic() - self.started,
        )  # fmt: skip
        return judgement, groups

    def _left_s(self) -> float:
        return self.started + self.asked.budget_s - time.monotonic()

    def _space(self, at: int) -> dict[str, Any]:
        facts = self.arms[at].facts
        return {name: one.space.id if one.space else None for name, one in facts.items()}

    async def _answers(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """Put the questions that are new to both arms; return the groups that there was time for."""
        for arm in self.arms:
            await arm.learn(groups)
        groups, lost = gate_searches.askable(self.arms, groups)
        if not groups:
            raise PreconditionFailed(
                "nothing that was drawn is in both arms: documents were removed, or a space is empty; "
                "plan again, or say --no-measure"
            )
        if lost:
            self.notes.append(f"{lost} questions were left out: their chunks are not in both arms")
        turns = [
            (group, question)
            for group, question in gate_searches.by_turns(groups)
            if question.id not in self.was.get(group.name, {})
        ]
        began = time.monotonic()
        until = self.started + self.asked.budget_s * gate_searches.PART_FOR_ANSWERS
        fewest = gate_searches.FEWEST_QUESTIONS * len(groups)
        for group, question in gate_searches.in_time(
            turns, until=until, fewest=fewest, advance=self.advance
        ):
            await self._both(group, question)
        self.answers_s += time.monotonic() - began
        gate_searches.check(self.was)
        return gate_searches.answered(groups, self.was)

    async def _both(self, group: Group, question: Question) -> None:
        one, other = self.arms[0], self.arms[2]
        found, exact = await one.found(group, question), await one.exact(group, question)
        theirs = await other.found(group, question)
        truth = exact if self._is_one_truth(group) else await other.exact(group, question)
        seen = gate_searches.seen
        self.was.setdefault(group.name, {})[question.id] = seen(group, question, found, exact)
        self.now.setdefault(group.name, {})[question.id] = seen(group, question, theirs, truth)

    def _is_one_truth(self, group: Group) -> bool:
        """Whether an exact search finds the same in both arms: the same vectors, weighed alike."""
        one, other = (self.arms[at].facts[group.collection] for at in (0, 2))
        is_one_space = (one.space and one.space.id) == (other.space and other.space.id)
        return is_one_space and (group.method == "vector" or one.policy == other.policy)

    async def _timed(self, groups: Sequence[Group], repeats: int) -> None:
        turns = gate_searches.by_turns(groups)
        for repeat in range(repeats):
            for number, (group, question) in enumerate(turns):
                self.advance("times", repeat * len(turns) + number + 1, repeats * len(turns))
                # Whoever is asked second finds the pages warm.
                for at in self.lot.permutation(len(self.arms)).tolist():
                    ms = await self.arms[at].timed(group, question)
                    self.clocks[at].add(group, question, ms)

    def _affordable(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """Return the groups with the questions to be timed, as many as there is time for."""
        timed = gate_searches.timed(groups, gate_dataset.floors(self.asked))
        answered = sum(len(cases) for cases in self.was.values())
        # An answer took about as many searches as there are arms.
        each_s = gate_searches.REPEATS * self.answers_s / max(1, answered)
        return gate_searches.affordable(timed, each_s, self.asked.budget_s)

    async def _extended(self, groups: tuple[Group, ...], look: int) -> tuple[Group, ...]:
        """Return the groups with as many questions more as there is time for, answered."""
        count = max(len(group.questions) for group in groups)
        per_question = (time.monotonic() - self.started) / count
        affordable = min(count, int(self._left_s() / per_question / 2))
        if affordable < 1:
            return groups
        seed = self.asked.seed + look
        return await self._answers(
            await gate_questions.more(self.arms[0].app, groups, affordable, seed)
        )

"""One arm of a measurement: its questions asked, timed and held against exact searches."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from ragline.core import asking, languages, measuring, paired_times
from ragline.core.asking import Group, Question, Seen
from ragline.core.filters import Filter, from_text
from ragline.core.measuring import Found
from ragline.core.policies import LATENCY, Policy
from ragline.core.results import CollectionFacts, Method
from ragline.core.stats import MINIMUM
from ragline.db import samples
from ragline.errors import DatabaseUnreachable, ModelError, PreconditionFailed, RaglineError
from ragline.evals.recall import midway
from ragline.models.embed import Vector
from ragline.rag import filtering
from ragline.rag.app import App
from ragline.rag.filtering import Documents
from ragline.rag.query import Query, query
from ragline.rag.search import plan_of, search_collections, target_of

ERRORS = (RaglineError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What makes a search fail. All else is a mistake of ours."""
Say = Callable[[str], None]
Advance = Callable[[str, int, int], None]
"""Called with what is being measured, how many are done, and how many there are."""
REPEATS = 2
"""So often times are taken between two looks at them."""
PART_FOR_ANSWERS = 1 / 2
"""Exact searches of a large collection may take this part of the budget; then fewer questions do."""
FEWEST_QUESTIONS = 60
TIMED = 60
"""So many questions of a group are timed, and so many of all groups together at the least."""
# A server that is gone fails every question, each after a long wait.
_GIVE_UP_AFTER = 3
_WITNESSES = 30
_SETTLED = 0.15
_PAUSE_S = 0.3


@dataclass(slots=True, kw_only=True)
class Arm:
    """An open ragline that is asked the questions of groups, and what it remembers of them.

    `hits` is how many hits are asked for; None is what the collection's policy says. `embedded` are
    questions' vectors by the model's weights and the text, `samples` what filters are estimated by.
    All arms of a measurement share them: no model is paid twice for the same words, and no filter is
    reached in two ways by chance.
    """

    app: App
    hits: int | None
    embedded: dict[tuple[str, str], Vector] = field(default_factory=dict)
    samples: dict[str, Documents] = field(default_factory=dict)
    facts: dict[str, CollectionFacts] = field(default_factory=dict)
    vectors: dict[tuple[str, int], Vector] = field(default_factory=dict)
    of_words: dict[tuple[str, Method, str], Vector | None] = field(default_factory=dict)
    conditions: dict[str, Filter] = field(default_factory=dict)
    failed: int = 0
    last_error: str = ""

    async def learn(self, groups: Sequence[Group]) -> None:
        """Read what the questions are made of, before any clock runs."""
        for name in dict.fromkeys(group.collection for group in groups):
            facts = self.facts[name] = await self.app.collection(name, fresh=True)
            if facts.space is None:
                continue
            wanted = {
                chunk
                for group in groups
                if group.collection == name
                for question in group.questions
                for chunk in question.chunks
                if (name, chunk) not in self.vectors
            }
            async with self.app.connection(self.app.search_workload) as connection:
                found = await samples.vectors_of(connection, target_of(facts), sorted(wanted))
                if name not in self.samples:
                    self.samples[name] = await filtering.drawn(connection, target_of(facts), facts)
            self.app.samples[facts.id] = filtering.lasting(facts, self.samples[name])
            self.vectors |= {(name, chunk): vector for chunk, vector in found.items()}
        for group in groups:
            if group.filter is not None:
                self.conditions[group.filter] = from_text(group.filter)
            for question in group.questions if group.is_worded else ():
                await self._learn_words(group, question)

    async def _learn_words(self, group: Group, question: Question) -> None:
        """Embed a question once: asked again, it shall cost the database's time and nobody's money."""
        key = (group.collection, group.method, question.text)
        space = self.facts[group.collection].space
        if key in self.of_words or space is None:
            return
        language = self.facts[group.collection].language
        is_foreign = languages.foreign(question.text, language, space.languages) is not None
        if group.method == "lexical" or (group.method == "hybrid" and is_foreign):
            # A hybrid search of production goes by words alone here.
            self.of_words[key] = None
            return
        words = (space.weights_hash, question.text)
        if words not in self.embedded:
            model = await self.app.embedder_for(space)
            if model is None:
                raise ModelError(
                    f"no configured model fits the vectors of {group.collection!r}, which are of "
                    f"{space.model_id}: configure it, or say --no-measure"
                )
            self.embedded[words] = await model.embed_query(question.text)
        self.of_words[key] = self.embedded[words]

    def can_ask(self, group: Group, question: Question) -> bool:
        """Return whether what the question is made of is there, and can be found by its vector."""
        if self.facts[group.collection].space is None:
            return group.is_worded
        return all((group.collection, chunk) in self.vectors for chunk in question.chunks)

    async def exact(self, group: Group, question: Question) -> list[Found] | str:
        """Return what is there to be found, or the error that looking for it fails with."""
        return await self.found(group, question, is_exact=True)

    async def found(
        self, group: Group, question: Question, *, is_exact: bool = False
    ) -> list[Found] | str:
        """Return what production finds, or the error that it fails with."""
        if self.failed >= _GIVE_UP_AFTER:
            return self.last_error
        if not self.can_ask(group, question):
            return f"{group.collection!r} has no vector of chunk {question.chunks[0]}"
        asked = self._query(group, question)
        if is_exact:
            asked = replace(asked, k=group.k, exact=True)
        try:
            found = await search_collections(self.app, asked)
        except ERRORS as error:
            return self._failed(error)
        return measuring.chunks(found.hits)

    async def timed(self, group: Group, question: Question) -> float | None:
        """Return the milliseconds of one search; None where it fails."""
        if self.failed >= _GIVE_UP_AFTER or not self.can_ask(group, question):
            return None
        asked = self._query(group, question)
        started = time.perf_counter()
        try:
            await search_collections(self.app, asked)
        except ERRORS as error:
            self._failed(error)
            return None
        return (time.perf_counter() - started) * 1000

    async def witness_ms(self) -> float | None:
        """Return what a question takes that no change concerns; None where it fails."""
        try:
            async with self.app.connection(self.app.search_workload) as connection:
                started = time.perf_counter()
                await connection.fetchval("select 1")
                return (time.perf_counter() - started) * 1000
        except ERRORS as error:
            self._failed(error)
            return None

    async def settled(self, before: Sequence[float], until: float) -> None:
        """Wait until the machine is about as quick as it was, but not for ever."""
        while self.failed == 0 and time.monotonic() < until:
            told = [await self.witness_ms() for _ in range(_WITNESSES)]
            times = [ms for ms in told if ms is not None]
            if not times or paired_times.drift(before, [statistics.median(times)]) <= _SETTLED:
                return
            await asyncio.sleep(_PAUSE_S)

    async def plans(self, groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
        """Return the shape of the plan by which each group is searched."""
        shapes = {}
        for group in groups:
            askable = (one for one in group.questions if self.can_ask(group, one))
            question = next(askable, None)
            if question is None:
                continue
            try:
                shapes[group.name] = await plan_of(self.app, self._query(group, question))
            except ERRORS as error:
                self._failed(error)
        return shapes

    def _query(self, group: Group, question: Question) -> Query:
        return query(
            question.text,
            group.collection,
            k=self.hits,
            method=group.method,
            vector=self._vector(group, question),
            filter=None if group.filter is None else self.conditions[group.filter],
        )

    def _vector(self, group: Group, question: Question) -> Vector | None:
        if group.is_worded:
            return self.of_words.get((group.collection, group.method, question.text))
        space = self.facts[group.collection].space
        one, other = (self.vectors[group.collection, chunk] for chunk in question.chunks)
        return midway(one, other, is_unit=space is not None and space.normalised)

    def _failed(self, error: Exception) -> str:
        """Return what an error says. One of the database may mean all others, too."""
        self.failed = self.failed + 1 if isinstance(error, DatabaseUnreachable | OSError) else 0
        self.last_error = f"{type(error).__name__}: {error}"
        return self.last_error


def seen(
    group: Group, question: Question, found: list[Found] | str, exact: list[Found] | str
) -> Seen:
    """Return what a question found and what that is worth, or the error that it failed with."""
    if isinstance(found, str):
        return Seen(error=found)
    if isinstance(exact, str):
        return Seen(error=exact)
    return asking.seen(group, question, found, exact)


def contents(arm: Arm) -> dict[str, list[int]]:
    """Return what an arm's contents are known by: what answers depend on besides the search."""
    return {
        name: [facts.id, facts.epoch, facts.space.id if facts.space else 0]
        for name, facts in arm.facts.items()
    }


@dataclass(slots=True)
class Clock:
    """Times of an arm by group and question: the least of every few, and the mean of those.

    A search is never quicker than it can be, and slower for many reasons that are not its own.
    """

    least_of: int
    witnesses: list[float] = field(default_factory=list)
    """The middle time, each time that all were asked, of a question that no change concerns."""
    taken: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, group: Group, question: Question, ms: float | None) -> None:
        """Take down one time."""
        if ms is not None:
            self.taken.setdefault(group.name, {}).setdefault(question.id, []).append(ms)

    def figures(self, group: str) -> list[dict[str, float]]:
        """Return each repetition's least times by question."""
        cases = self.taken.get(group, {})
        count = min((len(times) // self.least_of for times in cases.values()), default=0)
        return [
            {
                case: min(times[at * self.least_of : (at + 1) * self.least_of])
                for case, times in cases.items()
            }
            for at in range(count)
        ]

    def calm(self, fewest: int) -> Clock:
        """Return the quieter half of the repetitions, at least so many, by what the witness says.

        It knows nothing of what is measured, so that choosing by it takes nobody's side.
        """
        size = self.least_of
        count = len(self.witnesses) // size
        loud = [sum(self.witnesses[at * size : (at + 1) * size]) for at in range(count)]
        kept = sorted(sorted(range(count), key=loud.__getitem__)[: max(fewest, -(-count // 2))])
        places = [at * size + place for at in kept for place in range(size)]
        return Clock(
            least_of=size,
            witnesses=[self.witnesses[place] for place in places],
            taken={
                group: {
                    case: [times[place] for place in places if place < len(times)]
                    for case, times in cases.items()
                }
                for group, cases in self.taken.items()
            },
        )

    def times(self) -> dict[str, dict[str, float]]:
        """Return the mean of the repetitions, by group and question."""
        found = {}
        for group in self.taken:
            figures = self.figures(group)
            if figures:
                found[group] = {
                    case: sum(one[case] for one in figures) / len(figures) for case in figures[0]
                }
        return found

    def least(self) -> dict[str, dict[str, float]]:
        """Return the least time of all, by group and question."""
        return {
            group: {case: min(times) for case, times in cases.items()}
            for group, cases in self.taken.items()
        }


def check(answers: Mapping[str, Mapping[str, Seen]]) -> None:
    """Refuse to go on where what is there now cannot be searched: then nothing can be compared."""
    for name, cases in answers.items():
        for one in cases.values():
            if one.error is not None:
                raise PreconditionFailed(
                    f"before any change, a search of {name} fails: {one.error}. Mend that first, or "
                    "say --no-measure"
                )


def by_turns(groups: Sequence[Group]) -> list[tuple[Group, Question]]:
    """Return every question of every group, the groups by turns: so long as one question is apart."""
    longest = max((len(group.questions) for group in groups), default=0)
    return [
        (group, group.questions[place])
        for place in range(longest)
        for group in groups
        if place < len(group.questions)
    ]


def in_time(
    turns: Sequence[tuple[Group, Question]], *, until: float, fewest: int, advance: Advance
) -> Iterator[tuple[Group, Question]]:
    """Yield the questions to be answered until the time is over, but `fewest` in any case."""
    for number, turn in enumerate(turns):
        if time.monotonic() > until and number >= fewest:
            return
        advance("answers", number + 1, len(turns))
        yield turn


def timed(groups: Sequence[Group], floors: Policy | None) -> tuple[Group, ...]:
    """Return the groups with the questions whose times are taken: all where a policy limits times.

    Where there are few of them, as of a collection of five chunks, each is asked several times.
    """
    is_limited = any(LATENCY.fullmatch(line.metric) for line in floors.lines) if floors else False
    at_most = None if is_limited else TIMED
    cut = [replace(group, questions=group.questions[:at_most]) for group in groups]
    times = -(-TIMED // (count(cut) or TIMED))
    return tuple(
        replace(
            group,
            questions=tuple(
                replace(one, id=f"{one.id} {time}") if time else one
                for time in range(times)
                for one in group.questions
            ),
        )
        for group in cut
    )


def askable(arms: Sequence[Arm], groups: Sequence[Group]) -> tuple[tuple[Group, ...], int]:
    """Return the groups with what all arms can be asked, and how many questions that leaves out.

    Documents come and go: a space beside the one in use lacks what was written a moment ago.
    """
    left = _only(groups, lambda group, one: all(arm.can_ask(group, one) for arm in arms))
    return left, count(groups) - count(left)


def answered(
    groups: Sequence[Group], answers: Mapping[str, Mapping[str, Seen]]
) -> tuple[Group, ...]:
    """Return the groups with those questions only that were answered."""
    return _only(groups, lambda group, one: one.id in answers.get(group.name, ()))


def affordable(groups: Sequence[Group], each_s: float, left_s: float) -> tuple[Group, ...]:
    """Return the groups with as many questions as there is time for, but enough to be judged.

    `each_s` is what one of them takes with all its repetitions: a change can make searches very slow.
    """
    most = max(MINIMUM, int(left_s / each_s)) if each_s > 0 else None
    kept = {(group.name, question.id) for group, question in by_turns(groups)[:most]}
    return _only(groups, lambda group, one: (group.name, one.id) in kept)


def count(groups: Sequence[Group]) -> int:
    """Return how many questions there are in all."""
    return sum(len(group.questions) for group in groups)


def _only(groups: Sequence[Group], is_kept: Callable[[Group, Question], bool]) -> tuple[Group, ...]:
    """Return the groups with some of their questions, and without groups that have none left."""
    left = (
        replace(group, questions=tuple(one for one in group.questions if is_kept(group, one)))
        for group in groups
    )
    return tuple(group for group in left if group.questions)

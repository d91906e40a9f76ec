"""Changes killed at every point, and the server as well: afterwards each is kept or undone, entirely."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Literal, TypeAlias

import pytest

import breaking
import change_process
from breaking import ATTACHED, COLLECTION, Facts, Ground
from change_process import Job
from command import place
from ragline.change import loop
from ragline.change.kind import Site
from ragline.core.change import Entry, Part
from ragline.core.gate import Asked
from ragline.errors import PreconditionFailed

Way: TypeAlias = Literal["process", "server", "both"]
_RESTART = ["max_locks_per_transaction", "shared_preload_libraries"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A change that is made again and again, and killed at another point each time.

    `since` and `only` leave out points that another scenario has. At those in `crashes` the server is
    killed while the process stands there; in `both` the server right after the process. `undoes`: it is
    taking back the kept change that is killed.
    """

    name: str
    parts: tuple[Part, ...]
    status: str | None = "pass"
    asked: Asked | None = field(default_factory=Asked)
    since: str = ""
    only: tuple[str, ...] = ("",)
    crashes: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    undoes: bool = False
    is_blind: bool = False

    def __str__(self) -> str:
        return self.name

    def points(self, passed: list[str]) -> list[str]:
        """Return the points to be killed at, each moment once."""
        begin = passed.index(self.since) if self.since else 0
        moments = [
            point
            for before, point in list(pairwise(["", *passed]))[begin:]
            if point.startswith(self.only) and not _is_same_moment(before, point)
        ]
        return list(dict.fromkeys(moments))


def _is_same_moment(before: str, point: str) -> bool:
    """Whether nothing happens between two points."""
    if before.startswith("state:"):
        return point == before.removeprefix("state:") or before == "state:kept"
    return before.endswith(":after") and point.endswith(":before")


def _part(kind: str, target: str, want: object) -> Part:
    return Part(kind=kind, target=target, want=want)  # type: ignore[arg-type]


_BY_ATTRIBUTE = "create index attribute_by_document on ragline.attribute (document_id, field)"
RELOADED = (_part("setting", "work_mem", "9MB"),)
RESTARTED = (
    _part("setting", "max_locks_per_transaction", "80"),
    _part("setting", "shared_preload_libraries", ["vector", "pg_stat_statements", "auto_explain"]),
    _part("setting", "work_mem", "9MB"),
)
# The server takes it, and does not start with it: replicas could not be fed from so little WAL.
IMPOSSIBLE = (
    _part("setting", "wal_level", "minimal"),
    _part("setting", "work_mem", "9MB"),
)
ROLES = (
    _part("role", "eval_app.work_mem", "9MB"),
    _part("role", "eval_app.connection_limit", 9),
)
INDEX = (_part("index", COLLECTION, {"m": 8, "ef_construction": 32}),)
ATTACHED_INDEX = (_part("index", ATTACHED, {"m": 8, "ef_construction": 32}),)
NO_INDEX = (_part("index", COLLECTION, None),)
REPLACED = (_part("index", "attribute.attribute_by_document", {"definition": _BY_ATTRIBUTE}),)
DROPPED = (_part("index", "attribute.attribute_by_document", None),)
SPACE = (_part("space", COLLECTION, {"model": "second"}),)
SEARCH = (_part("search", COLLECTION, {"ef_search": 50, "vector_weight": 0.4}),)
MIXED = (RELOADED[0], *ROLES, *SEARCH)

SCENARIOS = [
    Scenario(
        name="setting, kept",
        parts=RELOADED,
        crashes=("apply:1:after", "state:measuring", "state:keeping", "state:kept"),
    ),
    Scenario(
        name="setting, undone",
        parts=RELOADED,
        status="fail",
        since="measured",
        crashes=("undo:1:after", "put-back"),
    ),
    Scenario(
        name="restart, kept",
        parts=RESTARTED,
        crashes=("apply:1:after", "apply:4:before", "state:keeping"),
        both=("apply:2:after",),
        only=("apply", "state:applied"),
    ),
    Scenario(
        name="restart, undone",
        parts=RESTARTED,
        status="fail",
        since="measured",
        crashes=("undo:1:after", "undo:4:before"),
        only=("undo", "put-back"),
    ),
    Scenario(
        name="server that does not start",
        parts=IMPOSSIBLE,
        is_blind=True,
        both=("apply:1:after", "apply:2:after", "apply:3:before"),
        crashes=("apply:1:after", "apply:3:before"),
        only=("apply", "state:undoing", "undo", "put-back"),
    ),
    Scenario(name="role, kept", parts=ROLES, crashes=("apply:1:after", "state:keeping")),
    Scenario(
        name="role, undone",
        parts=ROLES,
        status="fail",
        since="measured",
        crashes=("undo:1:after",),
    ),
    Scenario(
        name="index, kept",
        parts=INDEX,
        crashes=("index:described", "index:building", "state:measuring", "adopt:1:after"),
        both=("index:building",),
    ),
    Scenario(
        name="index, undone",
        parts=INDEX,
        status="fail",
        since="measured",
        crashes=("state:undoing", "put-back"),
    ),
    Scenario(name="no index, kept", parts=NO_INDEX, crashes=("state:keeping",)),
    Scenario(
        name="index of a table, kept",
        parts=REPLACED,
        crashes=("index:building", "index:swapped", "apply:3:before"),
    ),
    Scenario(
        name="index of a table, undone",
        parts=REPLACED,
        status="fail",
        since="measured",
        crashes=("index:building", "undo:2:after"),
    ),
    Scenario(
        name="no index of a table, undone",
        parts=DROPPED,
        status="fail",
        since="measured",
        crashes=("undo:1:before",),
    ),
    Scenario(
        name="space, kept",
        parts=SPACE,
        crashes=("space:created", "space:filling", "space:indexed", "measured", "adopt:1:after"),
        both=("space:filling",),
    ),
    Scenario(
        name="space, undone",
        parts=SPACE,
        status="fail",
        since="measured",
        crashes=("state:undoing", "put-back"),
    ),
    Scenario(name="search, kept", parts=SEARCH, crashes=("measured", "adopt:1:before")),
    Scenario(
        name="search, undone", parts=SEARCH, status="fail", since="measured", crashes=("put-back",)
    ),
    Scenario(
        name="undo of several kinds",
        parts=MIXED,
        undoes=True,
        only=("apply", "adopt", "confirmed", "state:keeping"),
        crashes=("apply:2:after", "adopt"),
    ),
    Scenario(name="undo of a restart", parts=RESTARTED, undoes=True, only=("apply",)),
    Scenario(name="undo of an index", parts=INDEX, undoes=True, crashes=("adopt",)),
    Scenario(
        name="index of an attached table, kept",
        parts=ATTACHED_INDEX,
        only=("index:", "adopt:"),
        crashes=("index:building", "index:swapped"),
        both=("index:building",),
    ),
    Scenario(
        name="index of an attached table, undone",
        parts=ATTACHED_INDEX,
        status="fail",
        since="measured",
        crashes=("put-back",),
    ),
    Scenario(
        name="undo of the index of an attached table",
        parts=ATTACHED_INDEX,
        undoes=True,
        only=("adopt:",),
    ),
    Scenario(name="undo of a space", parts=SPACE, undoes=True, crashes=("adopt",)),
    Scenario(
        name="search, really measured",
        parts=SEARCH,
        status=None,
        asked=Asked(questions=20, budget_s=3),
        only=("measure:",),
    ),
    Scenario(
        name="setting, really measured",
        parts=RELOADED,
        status=None,
        asked=Asked(questions=20, budget_s=3),
        only=("measure:",),
        crashes=("measure:after",),
    ),
]


@dataclass(frozen=True, kw_only=True)
class Killed:
    """Something was killed at a point, and the next command settled it."""

    scenario: str
    point: str
    way: Way
    end: str
    settled_s: float


killed: list[Killed] = []


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with place() as command:
        made = breaking.ground(command)
        asyncio.run(breaking.attached(made))
        yield made


@dataclass(kw_only=True)
class Course:
    """A scenario under way, and the points that it passes undisturbed.

    `initial` is what there was before the test; `before` and `after` what there is without the change
    that is killed, and with it. Where that takes back another one, it begins with the other one kept.
    """

    ground: Ground
    scenario: Scenario
    parts: tuple[Part, ...]
    initial: Facts
    before: Facts | None = None
    after: Facts | None = None
    passed: list[str] = field(default_factory=list)
    preparations: Iterator[int] = field(default_factory=count)
    at: str = "undisturbed"

    async def job(self) -> Job:
        """Return what a process is to do, with what it needs in place."""
        scenario = self.scenario
        if not scenario.undoes:
            return Job(
                parts=self.parts,
                status=scenario.status,
                asked=scenario.asked,
                is_blind=scenario.is_blind,
            )
        async with self.ground.site() as site:
            kept = await change_process.made(site, Job(parts=self.parts))
        assert kept.state == "kept"
        return Job(undoes=kept.id)

    async def learn(self) -> None:
        """Make the change undisturbed, and take it back."""
        job = await self.job()
        self.before = await self.same(self.before)
        async with self.ground.site(self.scenario.status) as site:
            passed = change_process.recorded(site)
            if self.scenario.is_blind:
                with pytest.raises(PreconditionFailed, match=r'requires "?wal_level'):
                    await change_process.made(site, job)
            else:
                await change_process.made(site, job)
            self.passed = list(passed)  # what follows is no part of it
            entry = await newest(site)
            if entry.state == "kept":
                self.after = await self.same(self.after)
            await self.take_back(site, entry, job)

    async def kill(self, point: str, way: Way) -> None:
        """Kill at a point; then let the next command settle it, look at all there is, and go back."""
        self.at = f"{point}, {way}"
        job = await self.job()
        process = change_process.start(
            self.ground.environment,
            job,
            f"{point}={'stop' if way == 'server' else 'die'}",
            self.ground.command.folder / "process.log",
        )
        try:
            if way == "server":
                assert await change_process.stopped(process), f"{point} was never passed"
                self.ground.kill_server()
                change_process.go_on(process)
            else:
                assert change_process.died(process), f"{point} was never passed"
            if way == "both":
                self.ground.kill_server()
        finally:
            process.kill()
        began = time.monotonic()
        async with self.ground.site(self.scenario.status) as site:
            entry = await self.settle(site)
            settled_s = time.monotonic() - began
            assert entry.state in ("planned", "kept", "undone", "inconclusive"), entry
            await self.same(self.after if entry.state == "kept" else self.before)
            assert await breaking.leftovers(self.ground) == [], (point, way, entry)
            await self.take_back(site, entry, job)
        killed.append(
            Killed(
                scenario=self.scenario.name,
                point=point,
                way=way,
                end=entry.state,
                settled_s=settled_s,
            )
        )

    async def same(self, expected: Facts | None) -> Facts:
        """Return all there is, which must be as expected, where something is."""
        found = await breaking.fingerprint(self.ground)
        assert expected is None or found == expected, (self.at, *_differences(found, expected))
        return found

    def first(self, begin: str) -> str:
        """Return the first point whose name begins so."""
        return next(point for point in self.passed if point.startswith(begin))

    async def settle(self, site: Site) -> Entry:
        """Do what the next command does; what was being prepared is given up every other time."""
        left = await newest(site)
        if left.state == "preparing" and next(self.preparations) % 2:
            return await loop.undo(site, left.id)
        await loop.resume(site)
        return await newest(site)

    async def take_back(self, site: Site, entry: Entry, job: Job) -> None:
        """Have all as it was before the scenario."""
        if job.undoes is None and entry.state == "kept":
            await loop.undo(site, entry.id)
        elif job.undoes is not None and entry.state != "kept":
            await loop.undo(site, job.undoes)
        await breaking.retire(self.ground, site)
        await self.same(self.initial)


def _differences(found: Facts, expected: Facts) -> list[str]:
    """Return what there is and should not be, and the other way round, in few words."""
    said = []
    for name in found:
        one, other = ([str(row) for row in _listed(facts[name])] for facts in (found, expected))
        said += [f"{name}: {row} is there" for row in one if row not in other]
        said += [f"{name}: {row} is missing" for row in other if row not in one]
    return said


def _listed(facts: Any) -> list[Any]:
    return list(facts.items()) if isinstance(facts, dict) else list(facts)


async def newest(site: Site) -> Entry:
    (entry,) = await loop.entries(site, 1)
    return entry


def parts_of(ground: Ground, scenario: Scenario) -> tuple[Part, ...]:
    if scenario.parts is SPACE:
        return (_part("space", COLLECTION, {"model": str(ground.second)}),)
    return scenario.parts


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_killed_anywhere_a_change_is_kept_or_undone_entirely(
    ground: Ground, scenario: Scenario
) -> None:
    async with ground.site() as site:
        # Whatever a test before left: this one is to say something of its own.
        await loop.resume(site)
    course = Course(
        ground=ground,
        scenario=scenario,
        parts=parts_of(ground, scenario),
        initial=await breaking.fingerprint(ground),
    )
    await course.learn()
    points = scenario.points(course.passed)
    assert points
    for point in points:
        await course.kill(point, "process")
    for begin in scenario.crashes:
        await course.kill(course.first(begin), "server")
    for begin in scenario.both:
        await course.kill(course.first(begin), "both")
    # The following change works: the same again, to its end.
    await course.learn()


def test_count_of_kill_points(capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = {one.scenario for one in killed}
    if scenarios != {one.name for one in SCENARIOS}:
        pytest.skip("not all of the scenarios ran before")
    servers = [one for one in killed if one.way != "process"]
    ends = Counter(one.end for one in killed)
    lines = [
        f"  {scenario.name}: {len(of)} ({', '.join(sorted({one.end for one in of}))})"
        for scenario in SCENARIOS
        for of in [[one for one in killed if one.scenario == scenario.name]]
    ]
    said = (
        f"kill points: {len(killed)}, of them PostgreSQL: {len(servers)}; "
        f"{', '.join(f'{number} {end}' for end, number in ends.items())}; the slowest was settled in "
        f"{max(one.settled_s for one in killed):.1f} s"
    )
    with capsys.disabled():
        sys.stdout.write("\n".join(["", said, *lines, ""]))
    assert len(killed) >= 60
    assert len(servers) >= 20

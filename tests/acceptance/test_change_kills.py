"""Changes killed at every point, and the server as well: afterwards each is kept or undone, entirely."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, TypeAlias

import pytest

import breaking
from breaking import COLLECTION, Facts, Ground, Job
from command import place
from ragline.change import loop
from ragline.change.kind import Site
from ragline.core.change import Part
from ragline.core.gate import Asked

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
    only: str = ""
    crashes: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    undoes: bool = False
    is_blind: bool = False

    def __str__(self) -> str:
        return self.name

    def points(self, passed: list[str]) -> list[str]:
        """Return the points to be killed at, each once."""
        left = passed[passed.index(self.since) :] if self.since else passed
        return [point for point in dict.fromkeys(left) if point.startswith(self.only)]


def _part(kind: str, target: str, want: object) -> Part:
    return Part(kind=kind, target=target, want=want)  # type: ignore[arg-type]


_BY_ATTRIBUTE = "create index attribute_by_document on ragline.attribute (document_id, field)"
RELOADED = (_part("setting", "work_mem", "9MB"),)
RESTARTED = (
    _part("setting", "max_locks_per_transaction", "80"),
    _part(
        "setting", "shared_preload_libraries", ["vector", "pg_stat_statements", "auto_explain"]
    ),
    _part("setting", "work_mem", "9MB"),
)
# The server takes it, and does not start with it: more connections kept free than there are.
IMPOSSIBLE = (
    _part("setting", "superuser_reserved_connections", "5000"),
    _part("setting", "work_mem", "9MB"),
)
ROLES = (
    _part("role", "eval_app.work_mem", "9MB"),
    _part("role", "eval_app.connection_limit", 9),
)
INDEX = (_part("index", COLLECTION, {"m": 8, "ef_construction": 32}),)
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
        crashes=("apply:1:after", "state:measuring", "adopt:1:before", "state:kept"),
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
    ),
    Scenario(
        name="restart, undone",
        parts=RESTARTED,
        status="fail",
        since="measured",
        crashes=("undo:1:after", "undo:4:before"),
    ),
    Scenario(
        name="server that does not start",
        parts=IMPOSSIBLE,
        is_blind=True,
        both=("apply:1:after", "apply:2:after", "apply:3:before"),
        crashes=("apply:1:after", "apply:3:before"),
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
        crashes=("apply:2:after", "adopt:1:before"),
    ),
    Scenario(name="undo of a restart", parts=RESTARTED, undoes=True, only="apply"),
    Scenario(name="undo of an index", parts=INDEX, undoes=True, crashes=("adopt:1:before",)),
    Scenario(name="undo of a space", parts=SPACE, undoes=True, crashes=("adopt:1:before",)),
    Scenario(
        name="search, really measured",
        parts=SEARCH,
        status=None,
        asked=Asked(questions=20, budget_s=3),
        only="measure",
    ),
    Scenario(
        name="setting, really measured",
        parts=RELOADED,
        status=None,
        asked=Asked(questions=20, budget_s=3),
        only="measure",
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
        yield breaking.ground(command)


@pytest.fixture(autouse=True)
async def as_ever(ground: Ground) -> AsyncIterator[None]:
    """Start the server where a test left it dead, and see that a test leaves all as it was."""
    async with ground.site() as site:
        await loop.resume(site)
    before = await breaking.fingerprint(ground)
    yield
    assert await breaking.fingerprint(ground) == before


@dataclass(kw_only=True)
class Trial_:
    """A scenario under way: the job, and what there is without it and with it."""

    ground: Ground
    scenario: Scenario
    before: Facts
    after: Facts
    kept: int | None = None

    def job(self) -> Job:
        if self.scenario.undoes:
            return Job(undoes=self.kept)
        return Job(
            parts=parts(self.ground, self.scenario),
            status=self.scenario.status,
            asked=self.scenario.asked,
            is_blind=self.scenario.is_blind,
        )

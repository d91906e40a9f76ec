"""What a kind of change is to the loop, and what it is handed to act with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from ragline.core.change import Arm, Part, Step, Value
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.db import pool as pools
from ragline.db.pool import Connection
from ragline.ops.restart import Restart
from ragline.rag.app import App


class Measure(Protocol):
    """How the loop learns what a change did; made by `wiring`, since it evaluates."""

    async def before(self, asked: Asked) -> dict[str, Any]:
        """Measure what is there, twice, so that noise is known; plain values that `after` takes."""

    async def after(self, asked: Asked, before: Mapping[str, Any]) -> Judgement:
        """Measure again the same way and judge, extending up to the budget."""

    async def pair(self, asked: Asked, now: Arm, want: Arm) -> Judgement:
        """Measure two arms side by side, question by question, and judge the second."""


@dataclass(slots=True, kw_only=True)
class Site:
    """Where changes are made: an open ragline, its server, and the ways to act on it.

    `restart` is None where nobody but a person can restart the server. `say` shows a line of progress.
    `reached` is called with the name of each point that a change passes; tests stop there.
    `together` are the parts of the change that is being planned.
    """

    app: App
    dsn: Dsn
    restart: Restart | None
    measure: Measure
    kinds: Mapping[str, Kind]
    data_dir: Path
    lock_timeout_ms: int = 2000
    say: Callable[[str], None] = field(default=lambda _line: None)
    reached: Callable[[str], None] = field(default=lambda _point: None)
    together: Sequence[Part] = ()

    def session(
        self, database: str | None = None, *, settings: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[asyncpg.Connection[asyncpg.Record]]:
        """Lend a new connection of the DSN's user, who may do what the workloads' roles may not."""
        dsn = self.dsn if database is None else self.dsn.on(database)
        return pools.session(dsn, "admin", settings=settings)

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Connection]:
        """Lend a connection that may do everything in schema ragline: the ledger is there."""
        pool = await self.app.pool("admin")
        async with pool.connection() as connection:
            yield connection


class Kind(Protocol):
    """One kind of change. The same functions lead there and back.

    `is_cluster_wide`: it changes what all databases of the server share. What a kind leaves out is that
    of a thing with one value at a time, beside which nothing lies, and which may touch any collection.
    """

    name: str
    is_cluster_wide: bool = False

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return what is wanted, complete and in the form of `read`, and warnings for the plan.

        Raises UsageError, NotFound or PreconditionFailed, saying what to do, for what this server does
        not know, does not allow, or could not start with.
        """

    async def read(self, site: Site, target: str) -> Value:
        """Return what is there: this is the snapshot."""

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return the steps from `now` to `want`; none where they are equal. Pure."""

    async def run(self, site: Site, step: Step) -> None:
        """Do one step; done before, it does nothing. Reload and restart are the loop's."""

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Raise RaglineError unless `want` is really in effect, as its users see it."""

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        """Return how both can be searched before adoption; None where only one can be at a time."""
        return None

    async def tidy(self, site: Site, target: str, keep: Value) -> None:
        """Remove what lies beside `keep`: an index that lost, a space half filled. Idempotent."""
        return

    def measured(self, target: str) -> Mapping[str, Any]:
        """Return what of `Asked` follows from the target: {"collections": (…)}, {"workload": …}."""
        return {}


def by_name(kinds: Sequence[Kind]) -> dict[str, Kind]:
    """Return kinds by their names."""
    return {kind.name: kind for kind in kinds}

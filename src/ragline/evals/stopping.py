"""When a run ends before its last case: a limit, a model that is down, a database that is gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ragline.core.runs import CaseResult, Limits
from ragline.db.pool import Pool
from ragline.errors import DatabaseUnreachable, PoolTimeout
from ragline.signals.usage import Usage

EARLY = "ended early"
"""How every warning begins that says why a run ended before its last case."""
LIMIT = f"{EARLY}, at a limit: "
_DATABASE = {"DatabaseUnreachable", "PoolTimeout"}


@dataclass(slots=True, kw_only=True)
class Watch:
    """What a run has come to. `why` says why no case is begun any more."""

    limits: Limits
    taken: Usage
    why: str | None = None
    under_way: int = 0
    _dearest: int = 0
    _same: tuple[str, str] | None = None
    _times: int = 0
    _one_is_done: asyncio.Event = field(default_factory=asyncio.Event)

    async def may_begin(self) -> bool:
        """Return whether another case may be begun, and count it as under way if so.

        Under a limit of cost, cases go one by one until one has cost something: before, nobody knows
        what several at once would take.
        """
        while self._knows_no_cost() and self.under_way and self.why is None:
            self._one_is_done.clear()
            await self._one_is_done.wait()
        if self.why is None:
            self.why = self._over_cost()
        if self.why is not None:
            return False
        self.under_way += 1
        return True

    def saw(self, result: CaseResult) -> None:
        """Take note of a case that is done."""
        self.under_way -= 1
        self._one_is_done.set()
        self._dearest = max(self._dearest, result.spent.cost_micro_usd or 0)
        failed = (result.errors[0].phase, result.errors[0].kind) if result.errors else None
        self._times = self._times + 1 if failed == self._same else 1
        self._same = failed
        if failed and self._times >= self.limits.give_up_after and self.why is None:
            self.why = (
                f"{EARLY}: gave up after {self._times} cases in a row failed with {failed[1]} in phase "
                f"{failed[0]}: {result.errors[0].message}"
            )

    def over_time(self) -> None:
        """Say that the time is up."""
        self.why = f"{LIMIT}{self.limits.max_time_s:g} s are over"

    async def look_at_database(self, result: CaseResult, pool: Pool) -> None:
        """End the run when a case failed because the database is gone; one slow query is no reason."""
        if self.why is not None or not any(error.kind in _DATABASE for error in result.errors):
            return
        try:
            async with pool.connection() as connection:
                await connection.fetchval("select 1")
        except PoolTimeout:
            return
        except DatabaseUnreachable as error:
            self.why = f"{EARLY}: the database is gone: {error}"

    def _knows_no_cost(self) -> bool:
        return self.limits.max_cost_micro_usd is not None and not self._dearest

    def _over_cost(self) -> str | None:
        """Return why the next case, if it costs as much as the dearest one so far, is not begun."""
        most = self.limits.max_cost_micro_usd
        if most is None:
            return None
        spent = self.taken.cost_micro_usd
        if spent is None:
            return (
                f"{LIMIT}a request may be billed whose tokens nobody counted, so nobody knows whether "
                f"{most / 1_000_000:g} USD are spent"
            )
        if spent + self._dearest * (self.under_way + 1) > most:
            return (
                f"{LIMIT}{spent / 1_000_000:.6f} of {most / 1_000_000:g} USD are spent, and a case took "
                f"up to {self._dearest / 1_000_000:.6f}"
            )
        return None

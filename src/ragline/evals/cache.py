"""What judges answered, kept in the evaluation's own table, and never asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.db import verdicts
from ragline.db.pool import Pool
from ragline.rag.app import App

_MB = 1_000_000
# A case has some hundred prompts; many more in one statement would hold its locks for long.
_ROWS_A_STATEMENT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found when every kept answer was held against its checksum; keys are in hex."""

    entries: int
    damaged: tuple[str, ...]


class DatabaseMemory:
    """A `models.judge.Memory` in the database, with the connections of a workload.

    It is held below `max_bytes`: looked at after every `rows_between` answers and at the end, and then
    those go that were not used for longest. Between two looks it may be larger by so many answers.
    """

    def __init__(self, pool: Pool, *, max_bytes: int, rows_between: int = 500) -> None:
        self.evicted = 0
        """How many answers went to make room."""
        self._pool = pool
        self._max_bytes = max_bytes
        self._rows_between = rows_between
        self._since_look = 0

    async def get(self, keys: Sequence[bytes]) -> Mapping[bytes, str]:
        found: dict[bytes, str] = {}
        async with self._pool.connection() as connection:
            for at in range(0, len(keys), _ROWS_A_STATEMENT):
                found |= await verdicts.get(connection, keys[at : at + _ROWS_A_STATEMENT])
        return found

    async def put(self, judge_id: str, rows: Sequence[tuple[bytes, str]]) -> None:
        async with self._pool.connection() as connection:
            for at in range(0, len(rows), _ROWS_A_STATEMENT):
                await verdicts.put(connection, judge_id, rows[at : at + _ROWS_A_STATEMENT])
        self._since_look += len(rows)
        if self._since_look >= self._rows_between:
            await self._make_room()

    async def close(self) -> None:
        """Bring what is kept below its limit; the pool stays open."""
        if self._since_look:
            await self._make_room()

    async def _make_room(self) -> None:
        self._since_look = 0
        async with self._pool.connection() as connection:
            self.evicted += await verdicts.evict(connection, self._max_bytes)


async def memory(app: App) -> DatabaseMemory:
    """Return the memory of the evaluation workload, as large as RAGLINE_EVAL_CACHE_MB says."""
    return DatabaseMemory(await app.pool("eval"), max_bytes=app.config.eval_cache_mb * _MB)


async def facts(app: App) -> verdicts.Facts:
    """Return how much is kept, since when, and how often it was of use."""
    async with app.connection("eval") as connection:
        return await verdicts.facts(connection)


async def verify(app: App) -> Verification:
    """Hold every kept answer against its checksum. A damaged one is never used: it is asked again."""
    async with app.connection("eval") as connection:
        kept = await verdicts.facts(connection)
        damaged = await verdicts.damaged(connection)
    return Verification(entries=kept.entries, damaged=tuple(key.hex() for key in damaged))


async def clear(app: App, judge_id: str | None = None) -> int:
    """Forget the answers of one judge, or of all; return how many there were."""
    async with app.connection("eval") as connection:
        return await verdicts.clear(connection, judge_id)

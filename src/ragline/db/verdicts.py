"""The cache of judges' replies as rows: checked when read, and the oldest thrown away first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from ragline.db import queries
from ragline.db.pool import Connection
from ragline.db.texts import storable


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the cache holds. `bytes` is what its rows hold, not what they take on the disk.

    `hits` are those of all times. `oldest` and `newest_use` are None where it is empty.
    """

    entries: int
    bytes: int
    hits: int
    oldest: datetime | None
    newest_use: datetime | None


async def get(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, str]:
    """Return the replies that are there, by key, and note their use; a damaged one is not there."""
    rows = await connection.fetch(queries.block("evals", "verdicts"), list(set(keys)))
    found = {
        row["key"]: row["reply"]
        for row in rows
        if row["checksum"] == _checksum(row["key"], row["reply"])
    }
    if found:
        await connection.execute(queries.block("evals", "touch_verdicts"), list(found))
    return found


async def put(connection: Connection, judge_id: str, rows: Iterable[tuple[bytes, str]]) -> int:
    """Store replies by key, the last of each; return how many.

    One that PostgreSQL cannot hold as a text, such as one with a NUL, is not kept: it would not come
    back as it was.
    """
    kept = {key: reply for key, reply in rows if reply == storable(reply)}
    if kept:
        await connection.execute(
            queries.block("evals", "put_verdicts"),
            judge_id,
            list(kept),
            list(kept.values()),
            [_checksum(key, reply) for key, reply in kept.items()],
        )
    return len(kept)


async def facts(connection: Connection) -> Facts:
    """Return how much is cached, and how often it was used."""
    row = await connection.fetchrow(queries.block("evals", "verdict_facts"))
    return Facts(**dict(row or {}))


async def evict(connection: Connection, max_bytes: int) -> int:
    """Throw away what was not used for longest, until `max_bytes` are left; return how many."""
    return _count(await connection.execute(queries.block("evals", "evict_verdicts"), max_bytes))


async def damaged(connection: Connection) -> list[bytes]:
    """Return the keys of replies that are not what was stored."""
    sql = queries.block("evals", "damaged_verdicts")
    bounds = [bytes([first]) for first in range(0, 256, 16)]
    found = []
    for first, last in pairwise([*bounds, None]):
        found += [row["key"] for row in await connection.fetch(sql, first, last)]
    return found


async def clear(connection: Connection, judge_id: str | None) -> int:
    """Throw away a judge's replies, or all; return how many."""
    return _count(await connection.execute(queries.block("evals", "clear_verdicts"), judge_id))


def _checksum(key: bytes, reply: str) -> bytes:
    return hashlib.sha256(key + reply.encode()).digest()


def _count(done: str) -> int:
    return int(done.split()[-1])

"""Waiting for locks, seen in the server instead of guessed from how long something takes."""

from __future__ import annotations

import asyncio
from typing import Any

from ragline.db.pool import Db

_WAITING = "select exists (select from pg_catalog.pg_locks where not granted)"


async def waits(task: asyncio.Task[Any], db: Db) -> bool:
    """Return True once somebody waits for a lock, and False where the task ends without.

    No other test runs on the server. `db` may be in a transaction, and the one that is waited for.
    """
    while not task.done():
        if await db.fetchval(_WAITING):
            return True
        await asyncio.sleep(0.005)
    return False

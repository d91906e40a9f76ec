"""What the collections' words look like in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ragline.db import queries
from ragline.db.pool import Connection


async def frequencies(
    connection: Connection, collection_id: int, terms: Sequence[str]
) -> tuple[int, dict[str, int]]:
    """Return how many chunks a collection has, and how many of them hold each of `terms`."""
    sql = queries.block("lexical", "frequencies")
    rows = await connection.fetch(sql, collection_id, terms)
    return (rows[0]["total"] if rows else 0), {row["word"]: row["chunks"] for row in rows}

"""Search policies of collections as rows."""

from __future__ import annotations

from ragline.core import search_policy
from ragline.core.search_policy import SearchPolicy
from ragline.db import queries
from ragline.db.pool import Connection


async def of(connection: Connection, collection: str) -> SearchPolicy | None:
    """Return how a collection is searched; None where there is no such collection."""
    row = await connection.fetchrow(queries.block("policies", "policy_of"), collection)
    return None if row is None else SearchPolicy(**dict(row))


async def keep(connection: Connection, collection: str, policy: SearchPolicy) -> bool:
    """Let a collection be searched so from now on; False where there is no such collection.

    What is all defaults has no row.
    """
    if policy == search_policy.DEFAULT:
        await connection.execute(queries.block("policies", "forget_policy"), collection)
        return await of(connection, collection) is not None
    kept = await connection.fetchval(
        queries.block("policies", "keep_policy"),
        collection,
        policy.k,
        policy.vector_weight,
        policy.ef_search,
        policy.iterative,
        policy.early_exit,
    )
    return kept is not None


async def postings(connection: Connection, collection_id: int) -> int:
    """Return how many postings the words of a collection have together."""
    count: int = await connection.fetchval(queries.block("policies", "postings"), collection_id)
    return count

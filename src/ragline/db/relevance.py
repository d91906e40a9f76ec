"""Which documents that a dataset names a collection has, and what an evaluation ran on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from ragline.core.measuring import Way
from ragline.db import queries
from ragline.db.pool import Connection

# What changes what a search finds, or how fast; names of extensions not loaded read as null.
_SETTINGS = (
    "work_mem", "shared_buffers", "effective_cache_size", "random_page_cost", "jit",
    "max_parallel_workers_per_gather", "plan_cache_mode", "hnsw.ef_search", "hnsw.iterative_scan",
    "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier",
)  # fmt: skip


async def present(
    connection: Connection, collection_ids: Sequence[int], names: Iterable[str], way: Way
) -> dict[str, int]:
    """Return how many documents of the collections have each name, of those that any has."""
    sql = queries.block("relevance", f"by_{way}")
    rows = await connection.fetch(sql, list(collection_ids), _possible(names))
    return {row["name"]: row["documents"] for row in rows}


async def bodies(
    connection: Connection, collection_ids: Sequence[int], names: Iterable[str], way: Way
) -> AsyncIterator[tuple[str, str]]:
    """Yield the name and the text of every chunk of the documents that have one of these names."""
    sql = queries.block("relevance", "bodies")
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(sql, list(collection_ids), _possible(names), way):
            yield row["name"], row["body"]


def _possible(names: Iterable[str]) -> list[str]:
    # PostgreSQL has no NUL, so no document is called so. Each once: they are joined.
    return [name for name in dict.fromkeys(names) if "\0" not in name]


async def server(connection: Connection) -> dict[str, object]:
    """Return the versions of PostgreSQL and pgvector, and the settings that searches depend on."""
    # To parse a vector loads the library, and its settings with it.
    rows = await connection.fetch(
        """
        select name, current_setting(name, true) as value from pg_catalog.unnest($1::text[]) as name
        where '[1]'::vector is not null
        union all
        select 'pgvector', extversion from pg_catalog.pg_extension where extname = 'vector'
        """,
        ["server_version", *_SETTINGS],
    )
    found = {row["name"]: row["value"] for row in rows}
    return {
        "postgresql": found.pop("server_version"),
        "pgvector": found.pop("pgvector", None),
        "settings": found,
    }

"""Which documents that a dataset names a collection has, and what an evaluation ran on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence

from ragline.core.measuring import Way
from ragline.core.results import CollectionFacts
from ragline.db import attached_relevance, queries
from ragline.db.pool import Connection

# What changes what a search finds, or how fast; names of extensions not loaded read as null.
_SETTINGS = (
    "work_mem", "shared_buffers", "effective_cache_size", "random_page_cost", "jit",
    "max_parallel_workers_per_gather", "plan_cache_mode", "hnsw.ef_search", "hnsw.iterative_scan",
    "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier",
)  # fmt: skip


async def present(
    connection: Connection, collections: Sequence[CollectionFacts], names: Iterable[str], way: Way
) -> dict[str, int]:
    """Return how many documents of the collections have each name, of those that any has."""
    wanted = _possible(names)
    found: Counter[str] = Counter()
    if own := _own(collections):
        rows = await connection.fetch(queries.block("relevance", f"by_{way}"), own, wanted)
        found.update({row["name"]: row["documents"] for row in rows})
    for facts in collections:
        if facts.attached is not None:
            found.update(
                await attached_relevance.present(
                    connection, facts.name, facts.attached, wanted, way
                )
            )
    return dict(found)


async def bodies(
    connection: Connection, collections: Sequence[CollectionFacts], names: Iterable[str], way: Way
) -> AsyncIterator[tuple[str, str]]:
    """Yield the name and the text of every chunk of the documents that have one of these names."""
    sql = queries.block("relevance", "bodies")
    wanted = _possible(names)
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(sql, _own(collections), wanted, way):
            yield row["name"], row["body"]
    for facts in collections:
        if facts.attached is not None:
            async for name, body in attached_relevance.bodies(
                connection, facts.name, facts.attached, wanted, way
            ):
                yield name, body


def _own(collections: Sequence[CollectionFacts]) -> list[int]:
    return [facts.id for facts in collections if facts.attached is None]


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

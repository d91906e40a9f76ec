"""What a database of documents holds, and everything that must be true between its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import asyncpg

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Each statement finds what contradicts another table; a sound database has no such row.
_CONTRADICTIONS = {
    "chunks whose text is not at their offsets": """
        select c.id from chunk c join document d on d.id = c.document_id
        where c.body <> substr(d.body, c.start_char + 1, c.end_char - c.start_char)
    """,
    "documents without chunks, or with a gap in them": """
        select d.id from document d left join chunk c on c.document_id = d.id
        group by d.id having count(c.id) = 0 or max(c.ordinal) <> count(*) - 1
    """,
    "text that is in no chunk": """
        select d.id from document d
        join (
            select document_id, min(start_char) as first, max(end_char) as last
            from chunk group by document_id
        ) as c on c.document_id = d.id
        where btrim(left(d.body, c.first) || substr(d.body, c.last + 1), E' \\t\\n') <> ''
          and d.body not like E'---\\n%' -- what a Markdown file says about itself is metadata
    """,
    "terms of chunks without a posting": """
        select c.collection_id, t.term_id, c.id, t.frequency, c.length
        from chunk c, unnest(c.term_ids, c.frequencies) as t (term_id, frequency)
        except all select collection_id, term_id, chunk_id, frequency, length from posting
    """,
    "postings without a chunk": """
        select collection_id, term_id, chunk_id, frequency, length from posting
        except all
        select c.collection_id, t.term_id, c.id, t.frequency, c.length
        from chunk c, unnest(c.term_ids, c.frequencies) as t (term_id, frequency)
    """,
    "term statistics that are not the count of postings": """
        select * from (
            select collection_id, term_id, sum(chunks) as n from term_statistic group by 1, 2
        ) as s full join (
            select collection_id, term_id, count(*) as n from posting group by 1, 2
        ) as p using (collection_id, term_id)
        where coalesce(s.n, 0) <> coalesce(p.n, 0)
    """,
    "collection statistics that are not the count of chunks": """
        select * from (
            select collection_id, sum(chunks) as n, sum(tokens) as tokens
            from collection_statistic group by 1
        ) as s full join (
            select collection_id, count(*) as n, sum(length) as tokens from chunk group by 1
        ) as c using (collection_id)
        where (coalesce(s.n, 0), coalesce(s.tokens, 0)) <> (coalesce(c.n, 0), coalesce(c.tokens, 0))
    """,
    "statistics of collections that are gone": """
        select collection_id from collection_statistic
        where collection_id not in (select id from collection)
    """,
}


async def check(db: Db, *, with_vectors: bool = True) -> None:
    """Assert that all tables agree, counted anew; with vectors, that every chunk has one."""
    for what, sql in _CONTRADICTIONS.items():
        assert await db.fetch(sql) == [], what
    if with_vectors:
        for collection, space in await active_spaces(db):
            assert await without_vector(db, collection, space) == 0


async def active_spaces(db: Db) -> list[tuple[int, int]]:
    """Return the collections with their active space."""
    sql = "select id, active_space_id from collection where active_space_id is not null"
    return [(row[0], row[1]) for row in await db.fetch(sql)]


async def without_vector(db: Db, collection: int, space: int) -> int:
    """Return how many chunks of a collection a space lacks."""
    sql = f"""
        select count(*) from chunk c left join embedding_{space:d} e on e.chunk_id = c.id
        where c.collection_id = $1 and e.chunk_id is null
    """  # noqa: S608 -- an integer
    count: int = await db.fetchval(sql, collection)
    return count


async def indexes(db: Db) -> list[bool]:
    """Return whether each vector index is valid."""
    found = await db.fetch(
        """
        select i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
        where c.relname like 'embedding%hnsw'
        """
    )
    return [row[0] for row in found]


async def content(db: Db, collection: str) -> dict[str, Any]:
    """Return what a collection holds, without numbers that depend on who came first."""
    documents = await db.fetch(
        """
        select d.source, d.content_hash, d.title, d.body, d.recipe
        from document d join collection l on l.id = d.collection_id where l.name = $1
        """,
        collection,
    )
    chunks = await db.fetch(
        """
        select d.source, c.ordinal, c.start_char, c.end_char, c.body, c.headings, c.tokens, c.length
        from chunk c join document d on d.id = c.document_id
        join collection l on l.id = d.collection_id where l.name = $1
        """,
        collection,
    )
    postings = await db.fetch(
        """
        select d.source, c.ordinal, t.term, p.frequency, p.length
        from posting p join term t on t.id = p.term_id join chunk c on c.id = p.chunk_id
        join document d on d.id = c.document_id
        join collection l on l.id = p.collection_id where l.name = $1
        """,
        collection,
    )
    return {
        "documents": sorted(map(tuple, documents)),
        "chunks": sorted(map(tuple, chunks)),
        "postings": sorted(map(tuple, postings)),
    }


async def vectors(db: Db, collection: str) -> dict[tuple[str, int], np.ndarray[Any, Any]]:
    """Return the vectors of a collection by source and ordinal."""
    space = await db.fetchval("select active_space_id from collection where name = $1", collection)
    sql = f"""
        select d.source, c.ordinal, e.embedding::real[]
        from embedding_{space:d} e join chunk c on c.id = e.chunk_id
        join document d on d.id = c.document_id
    """  # noqa: S608 -- an integer
    return {(row[0], row[1]): np.array(row[2]) for row in await db.fetch(sql)}

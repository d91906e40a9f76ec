"""What a database of documents holds, and everything that must be true between its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import asyncpg

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Which chunk holds which term, as searches see it: the blocks without the dead, and the fresh.
POSTINGS = """
    select b.collection_id, b.term_id, b.first_chunk_id + o.chunk as chunk_id
    from posting_block b cross join lateral unnest(b.offsets) as o (chunk)
    where not exists (
        select from dead_chunk d
        where d.collection_id = b.collection_id and d.chunk_id = b.first_chunk_id + o.chunk
    )
    union all
    select f.collection_id, t.term_id, f.chunk_id
    from fresh_chunk f cross join lateral unnest(f.term_ids) as t (term_id)
"""

# Each statement finds what contradicts another table; a sound database has no such row.
CONTRADICTIONS = {
    "keys of metadata that filters do not find": """
        select d.id, d.collection_id, left(m.key, 200)
        from document d cross join lateral jsonb_object_keys(d.metadata) as m (key)
        except
        select document_id, collection_id, substr(field, 2) from attribute where field !~ '^\\['
    """,
    "attributes that no document has": """
        select document_id, collection_id, substr(field, 2) from attribute
        except select d.id, d.collection_id, left(m.key, 200)
        from document d cross join lateral jsonb_object_keys(d.metadata) as m (key)
    """,
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
    "terms of chunks without a posting": f"""
        select c.collection_id, t.term_id, c.id from chunk c, unnest(c.term_ids) as t (term_id)
        except all ({POSTINGS})
    """,  # noqa: S608 -- our own text
    "postings without a chunk": f"""
        ({POSTINGS})
        except all select c.collection_id, t.term_id, c.id
        from chunk c, unnest(c.term_ids) as t (term_id)
    """,  # noqa: S608 -- our own text
    "fresh chunks that are not as their chunk": """
        select f.chunk_id from fresh_chunk f left join chunk c on c.id = f.chunk_id
        where (f.collection_id, f.term_ids, f.frequencies, f.length)
              is distinct from (c.collection_id, c.term_ids, c.frequencies, c.length)
    """,
    "dead chunks that no block names": """
        select d.chunk_id from dead_chunk d cross join lateral unnest(d.term_ids) as t (term_id)
        where not exists (
            select from posting_block b
            where b.collection_id = d.collection_id and b.term_id = t.term_id
              and d.chunk_id - b.first_chunk_id = any (b.offsets)
        )
    """,
    "blocks that overlap, are empty or are a class too many": """
        select * from (
            select b.*, lead(first_chunk_id) over (
                partition by collection_id, term_id, impact order by first_chunk_id
            ) as next
            from posting_block b
        ) as b
        where b.offsets = '{}' or (b.impact = 0 and b.next is not null)
           or b.impact > 0 and exists (
               select from unnest(b.offsets) as o (chunk)
               where o.chunk < 0 or b.first_chunk_id + o.chunk >= b.next
           )
    """,
    "term statistics that are not the count of postings": f"""
        select * from (
            select collection_id, term_id, sum(n) as n
            from (
                select collection_id, term_id, chunks as n from term_statistic
                union all
                select f.collection_id, unnest(f.term_ids), 1 from fresh_chunk f
                union all
                select d.collection_id, unnest(d.term_ids), -1 from dead_chunk d
            ) as counted group by 1, 2
        ) as s full join (
            select collection_id, term_id, count(*) as n from ({POSTINGS}) as posting group by 1, 2
        ) as p using (collection_id, term_id)
        where coalesce(s.n, 0) <> coalesce(p.n, 0)
    """,  # noqa: S608 -- our own text
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
    for what, sql in CONTRADICTIONS.items():
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
        f"""
        select d.source, c.ordinal, t.term,
               get_byte(c.frequencies, array_position(c.term_ids, t.id) - 1), c.length
        from ({POSTINGS}) as p join term t on t.id = p.term_id join chunk c on c.id = p.chunk_id
        join document d on d.id = c.document_id
        join collection l on l.id = p.collection_id where l.name = $1
        """,  # noqa: S608 -- our own text
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

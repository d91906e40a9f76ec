"""Documents and their chunks as rows: each document comes, changes and goes in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core.chunking import Chunk
from ragline.core.results import DocumentFacts
from ragline.db import locks, queries
from ragline.db.pool import Connection
from ragline.errors import Conflict, RaglineError

# A byte a term: BM25 saturates long before.
_MOST_COUNTED = 255
# Below this, reading the fresh chunks costs a search less than a millisecond.
_MOST_UNFOLDED = 500
_FOLDED_AT_ONCE = 10_000
# Two writers of the same source: the later one replaces what the earlier one wrote.
_TRIES = 5


ChunkText: TypeAlias = tuple[int, str | None, list[str], str]
"""A chunk's id, the title above it, its headings and its text."""


class SpaceChanged(RaglineError):
    """The collection has another active space than the one written to; nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """A document about to be written."""

    source: str
    title: str | None
    media_type: str
    body: str
    content_hash: bytes
    recipe: str
    metadata: Mapping[str, Any]
    chunks: tuple[Chunk, ...]
    term_counts: tuple[Mapping[str, int], ...]


async def known(
    connection: Connection, collection_id: int, sources: Sequence[str] | None = None
) -> dict[str, tuple[bytes, str]]:
    """Return content hash and recipe by source, of every document or of some."""
    sql = queries.block("documents", "known_documents")
    rows = await connection.fetch(sql, collection_id, sources)
    return {row["source"]: (row["content_hash"], row["recipe"]) for row in rows}


async def term_ids(connection: Connection, terms: Sequence[str]) -> dict[str, int]:
    """Return the dictionary's numbers of `terms`, adding those it lacks.

    In a transaction of its own: an entry without postings does no harm, and locks are short.
    """
    rows = await connection.fetch(queries.block("documents", "term_ids"), terms)
    found = {row["term"]: row["id"] for row in rows}
    if missing := [term for term in terms if term not in found]:
        await connection.execute(queries.block("documents", "add_terms"), missing)
        rows = await connection.fetch(queries.block("documents", "term_ids"), missing)
        found |= {row["term"]: row["id"] for row in rows}
    return found


async def write(
    connection: Connection,
    collection_id: int,
    document: NewDocument,
    numbers: Mapping[str, int],
    *,
    space_id: int | None,
    vectors: npt.NDArray[np.float32] | None,
) -> int:
    """Write a document with chunks, postings and vectors, replacing an older one; return its id.

    Raises SpaceChanged where `space_id` is not the space that searches use: a chunk without a vector
    there would not be found.
    """
    for _ in range(_TRIES):
        try:
            async with connection.transaction():
                await connection.execute(
                    queries.block("documents", "remove_document_by_source"),
                    collection_id,
                    document.source,
                )
                document_id = await _insert(
                    connection, collection_id, document, numbers, space_id, vectors
                )
                await _check_space(connection, collection_id, space_id)
                return document_id
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
            # Who removes a collection locks tables that a removed document's vectors refer to.
            continue
    raise Conflict(
        f"document {document.source!r} is being written by others all the time; try again later"
    )


async def _check_space(connection: Connection, collection_id: int, space_id: int | None) -> None:
    # Locked until the commit: who swaps the space waits, and then sees what was written. As strongly as
    # raising the epoch at the commit will: two writers with a weaker lock would wait for each other.
    found = await connection.fetchrow(queries.block("documents", "space_written_to"), collection_id)
    if found is not None and found["active_space_id"] != space_id:
        raise SpaceChanged(
            f"the collection's space is {found['active_space_id']} now, and no longer {space_id}"
        )


async def _insert(
    connection: Connection,
    collection_id: int,
    document: NewDocument,
    numbers: Mapping[str, int],
    space_id: int | None,
    vectors: npt.NDArray[np.float32] | None,
) -> int:
    row = await connection.fetchrow(
        queries.block("documents", "add_document"),
        collection_id,
        document.source,
        document.title,
        document.media_type,
        document.body,
        document.content_hash,
        document.recipe,
        json.dumps(document.metadata),
    )
    if row is None:
        raise Conflict(f"document {document.source!r} was not written")
    ids = await connection.fetch(queries.block("documents", "chunk_ids"), len(document.chunks))
    await connection.copy_records_to_table(
        "chunk",
        schema_name="ragline",
        columns=_CHUNK_COLUMNS,
        records=[
            (
                id_[0],
                collection_id,
                row["id"],
                row["characters"],
                chunk.ordinal,
                chunk.start,
                chunk.end,
                chunk.body,
                list(chunk.headings),
                chunk.tokens,
                [numbers[term] for term in counts],
                bytes(min(count, _MOST_COUNTED) for count in counts.values()),
                sum(counts.values()),
            )
            for id_, chunk, counts in zip(ids, document.chunks, document.term_counts, strict=True)
        ],
    )
    if space_id is not None and vectors is not None:
        await add_vectors(connection, space_id, [id_[0] for id_ in ids], vectors)
    document_id: int = row["id"]
    return document_id


_CHUNK_COLUMNS = (
    "id",
    "collection_id",
    "document_id",
    "document_characters",
    "ordinal",
    "start_char",
    "end_char",
    "body",
    "headings",
    "tokens",
    "term_ids",
    "frequencies",
    "length",
)


async def add_vectors(
    connection: Connection,
    space_id: int,
    chunk_ids: Sequence[int],
    vectors: npt.NDArray[np.float32],
) -> None:
    """Write the vectors, shape (n, dimension), of n chunks."""
    await connection.copy_records_to_table(
        f"embedding_{space_id:d}",
        schema_name="ragline",
        columns=("chunk_id", "embedding"),
        records=zip(chunk_ids, vectors, strict=True),
    )


async def without_vector(
    connection: Connection, collection_id: int, space_id: int, *, after: int = 0, limit: int
) -> list[ChunkText]:
    """Return chunks that a space lacks, by id from `after`."""
    # A subquery for each, and the limit written out: joined or guessed, all chunks would be read and
    # sorted for each batch as long as the new table was never analysed.
    sql = f"""
        select c.id, d.title, c.headings, c.body
        from (
            select id, document_id, headings, body from ragline.chunk c
            where c.collection_id = $1 and c.id > $2
              and (select true from ragline.embedding_{space_id:d} e where e.chunk_id = c.id) is null
            order by c.id limit {limit:d}
        ) as c
        join ragline.document d on d.id = c.document_id
        order by c.id
    """  # noqa: S608 -- integers
    rows = await connection.fetch(sql, collection_id, after, timeout=None)
    return [(row[0], row[1], row[2], row[3]) for row in rows]


async def remove(connection: Connection, collection_id: int, sources: Sequence[str]) -> int:
    """Remove documents by source, each in its own transaction; return how many there were."""
    sql = queries.block("documents", "remove_document_by_source")
    count = 0
    for source in sources:
        done = await locks.again_after_a_deadlock(
            partial(connection.execute, sql, collection_id, source)
        )
        count += int(done.split()[-1])
    return count


async def remove_one(connection: Connection, document_id: int) -> int | None:
    """Remove a document; return its collection's id, or None when there is none of that id."""
    sql = queries.block("documents", "remove_document")
    return await locks.again_after_a_deadlock(lambda: connection.fetchval(sql, document_id))


async def fold_postings(
    connection: Connection,
    collection_id: int,
    *,
    most_left: int = _MOST_UNFOLDED,
    is_owner: bool = False,
) -> int:
    """Move new and removed chunks into the postings' blocks, when more than `most_left` wait.

    Returns how many were moved; 0 also while another process is at it. Searches find the same. As
    their owner, begin anew where chunks have become much longer or shorter than at first, and free what
    a fold rewrote before the next one, which would else take new space.
    """
    count_sql = queries.block("documents", "unfolded")
    fold_sql = queries.block("documents", "fold_postings")
    moved = 0
    if is_owner:
        await connection.execute(
            queries.block("documents", "rebuild_postings"), collection_id, timeout=None
        )
    while await connection.fetchval(count_sql, collection_id, most_left + 1) > most_left:
        step = await connection.fetchval(fold_sql, collection_id, _FOLDED_AT_ONCE)
        if step == 0:
            break
        moved += step
        if is_owner and step == _FOLDED_AT_ONCE:
            await connection.execute("vacuum posting_block", timeout=None)
    return moved


async def page(
    connection: Connection, collection_id: int, *, after: int, limit: int
) -> list[DocumentFacts]:
    """Return documents by id from `after`."""
    sql = queries.block("documents", "documents_page")
    return [_facts(dict(row)) for row in await connection.fetch(sql, collection_id, after, limit)]


async def one(connection: Connection, document_id: int) -> tuple[str, DocumentFacts, str] | None:
    """Return the collection's name, the facts and the text of a document, or None."""
    row = await connection.fetchrow(queries.block("documents", "one_document"), document_id)
    if row is None:
        return None
    found = dict(row)
    collection, body = found.pop("collection"), found.pop("body")
    return collection, _facts(found), body


def _facts(row: Mapping[str, Any]) -> DocumentFacts:
    return DocumentFacts(**{**row, "metadata": json.loads(row["metadata"])})

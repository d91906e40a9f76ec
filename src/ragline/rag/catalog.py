"""Collections and documents: listing, showing, removing."""

from __future__ import annotations

from dataclasses import dataclass

from ragline.core.results import CollectionFacts, DocumentFacts
from ragline.db import collections as collection_rows
from ragline.db import documents as document_rows
from ragline.errors import NotFound
from ragline.rag.app import App


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentText:
    """A document with its parsed text, which citations' offsets count."""

    collection: str
    facts: DocumentFacts
    text: str


async def collections(app: App) -> list[CollectionFacts]:
    """Return every collection by name."""
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        return await collection_rows.every(connection)


async def remove_collection(app: App, name: str) -> None:
    """Remove a collection with all its documents; NotFound when there is none."""
    pool = await app.pool(app.ingest_workload)
    async with pool.connection() as connection:
        removed = await collection_rows.remove(connection, name)
    app.known.pop(name, None)
    if not removed:
        raise NotFound(f"collection {name!r} does not exist")


async def documents(
    app: App, collection: str, *, after: int = 0, limit: int = 100
) -> list[DocumentFacts]:
    """Return a page of a collection's documents, by id from `after`."""
    facts = await app.collection(collection, fresh=True)
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        return await document_rows.page(connection, facts.id, after=after, limit=limit)


async def document(app: App, document_id: int) -> DocumentText:
    """Return a document with its text; NotFound when there is none."""
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        found = await document_rows.one(connection, document_id)
    if found is None:
        raise NotFound(f"document {document_id} does not exist")
    return DocumentText(collection=found[0], facts=found[1], text=found[2])


async def remove_document(app: App, document_id: int) -> None:
    """Remove a document with its chunks, postings and vectors; NotFound when there is none."""
    pool = await app.pool(app.ingest_workload)
    async with pool.connection() as connection:
        removed = await document_rows.remove_one(connection, document_id)
    if not removed:
        raise NotFound(f"document {document_id} does not exist")

"""Collections and documents: making, listing, showing, removing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import asyncpg

from ragline.core import lexical
from ragline.core.chunking import ChunkPolicy
from ragline.core.results import CollectionFacts, DocumentFacts, SpaceFacts
from ragline.db import collections as collection_rows
from ragline.db import documents as document_rows
from ragline.db.pool import Connection
from ragline.errors import Conflict, ModelError, NotFound, UsageError
from ragline.models.embed import ModelFacts
from ragline.rag.app import App

_NAME = re.compile(r"[^\W_][\w.-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a new collection cuts text; None takes what the collection has, else the defaults."""

    language: str | None = None
    chunk_size: int | None = None
    chunk_overlap: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentText:
    """A document with its parsed text, which citations' offsets count."""

    collection: str
    facts: DocumentFacts
    text: str


async def collections(app: App) -> list[CollectionFacts]:
    """Return every collection by name."""
    async with app.connection(app.search_workload) as connection:
        return await collection_rows.every(connection)


def refuse_attached(facts: CollectionFacts, what: str) -> None:
    """Refuse what would write or read documents of ours in a table of somebody else's."""
    if facts.attached is not None:
        raise Conflict(
            f"collection {facts.name!r} is the attached table {facts.attached.schema}."
            f"{facts.attached.table}, and {what}"
        )


async def remove_collection(app: App, name: str) -> None:
    """Remove a collection with all its documents; NotFound when there is none.

    Raises Conflict for an attached one, which is detached instead.
    """
    async with app.connection(app.ingest_workload) as connection:
        facts = await collection_rows.one(connection, name)
        if facts is not None:
            refuse_attached(
                facts,
                f"its rows are not ragline's to remove: `ragline detach {name}` gives it back",
            )
        removed = await collection_rows.remove(connection, name)
    app.known.pop(name, None)
    if not removed:
        raise NotFound(f"collection {name!r} does not exist")


async def documents(
    app: App, collection: str, *, after: int = 0, limit: int = 100
) -> list[DocumentFacts]:
    """Return a page of a collection's documents, by id from `after`."""
    facts = await app.collection(collection, fresh=True)
    refuse_attached(
        facts, "its rows are not documents of ragline: its own application lists and shows them"
    )
    async with app.connection(app.search_workload) as connection:
        return await document_rows.page(connection, facts.id, after=after, limit=limit)


def _no_document(document_id: int) -> str:
    if document_id <= 0:
        return (
            f"document {document_id} is a row of an attached table (numbers from 1 on are ragline's "
            "own): its hit holds its whole text, and its key as the source; its own application "
            "lists, changes and removes it"
        )
    return f"document {document_id} does not exist"


async def document(app: App, document_id: int) -> DocumentText:
    """Return a document with its text; NotFound when there is none."""
    async with app.connection(app.search_workload) as connection:
        found = await document_rows.one(connection, document_id)
    if found is None:
        raise NotFound(_no_document(document_id))
    return DocumentText(collection=found[0], facts=found[1], text=found[2])


async def remove_document(app: App, document_id: int) -> None:
    """Remove a document with its chunks, postings and vectors; NotFound when there is none."""
    async with app.connection(app.ingest_workload) as connection:
        collection_id = await document_rows.remove_one(connection, document_id)
        if collection_id is None:
            raise NotFound(_no_document(document_id))
        await document_rows.fold_postings(connection, collection_id)


async def open_collection(
    app: App, name: str, policy: Policy, model: ModelFacts | None, *, must_be_new: bool = False
) -> CollectionFacts:
    """Return a collection with its embedding space, making what is missing.

    A new space is `model`'s. Raises UsageError for a name or policy that cannot be, Conflict when
    `must_be_new` and it is not, or when it is an attached table, ModelError when it was embedded with
    a model that is not configured.
    """
    check_name(name)
    async with app.connection(app.ingest_workload) as connection:
        facts = None if must_be_new else await collection_rows.one(connection, name)
        if facts is None:
            was_added = await _add_collection(connection, name, policy)
            if must_be_new and not was_added:
                raise Conflict(f"collection {name!r} exists already")
            facts = await _read_back(connection, name)
        refuse_attached(
            facts,
            "its own application writes it: ingest into another collection, or detach it first",
        )
        _check_policy(facts, policy)
        if facts.space is None and model is not None:
            await collection_rows.add_space(
                connection,
                facts.id,
                model_id=model.model_id,
                weights_hash=model.weights_hash,
                dimension=model.dimension,
                metric="cosine",
                storage="vector",
                normalised=model.normalised,
                languages=model.languages,
                # Only the owner may build one later; empty, it costs nothing now.
                indexed=app.ingest_workload != "admin",
            )
            facts = await _read_back(connection, name)
    if facts.space and model and await app.embedder_for(facts.space) is None:
        raise other_model(name, facts.space, model)
    return facts


def other_model(name: str, space: SpaceFacts, model: ModelFacts) -> ModelError:
    """Return the error that a collection was embedded with a model that is not configured."""
    return ModelError(
        f"collection {name!r} was embedded with {space.model_id} "
        f"({space.weights_hash[:12]}), and the configured model is {model.model_id} "
        f"({model.weights_hash[:12]}): vectors of two models never mix. Use another collection, "
        "or configure the first model again (RAGLINE_MODEL_DIR or RAGLINE_EMBED_MODEL)"
    )


async def _add_collection(connection: Connection, name: str, policy: Policy) -> bool:
    size = ChunkPolicy().size if policy.chunk_size is None else policy.chunk_size
    overlap = policy.chunk_overlap
    checked = ChunkPolicy(
        size=size, overlap=min(ChunkPolicy().overlap, size // 4) if overlap is None else overlap
    )
    try:
        return await collection_rows.add(
            connection,
            name,
            language=lexical.check_language(policy.language or "english"),
            chunk_size=checked.size,
            chunk_overlap=checked.overlap,
        )
    except asyncpg.CheckViolationError as error:
        if error.constraint_name == "collection_name_is_plain":
            # What is a letter is for the database's locale to say; ours has more of them.
            raise _bad_name(name) from error
        raise UsageError(
            f"chunk size {checked.size} with overlap {checked.overlap} cannot be: the size lies "
            "between 16 and 4,096 tokens, the overlap is at most half of it"
        ) from error


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a collection."""
    if not _NAME.fullmatch(name):
        raise _bad_name(name)


def _bad_name(name: str) -> UsageError:
    return UsageError(
        f"{name!r} cannot name a collection: use letters, digits, dot, dash and underscore, "
        "beginning with a letter or digit, at most 100"
    )


async def _read_back(connection: Connection, name: str) -> CollectionFacts:
    facts = await collection_rows.one(connection, name)
    if facts is None:
        raise UsageError(f"collection {name!r} was removed while it was being made")
    return facts


def _check_policy(facts: CollectionFacts, policy: Policy) -> None:
    for what, wanted, has in (
        ("language", policy.language, facts.language),
        ("chunk size", policy.chunk_size, facts.chunk_size),
        ("chunk overlap", policy.chunk_overlap, facts.chunk_overlap),
    ):
        if wanted is not None and wanted != has:
            raise UsageError(
                f"collection {facts.name!r} has {what} {has}, not {wanted}; leave it out, or use "
                "another collection"
            )

"""From a source to a document that is ready to be embedded and written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from ragline.core import lexical
from ragline.core.results import CollectionFacts, Rejection
from ragline.db.documents import NewDocument
from ragline.rag import sources
from ragline.rag.compose import Cut
from ragline.rag.formats import Rejected
from ragline.rag.parsing import ParserPool
from ragline.rag.sources import Source

# Raised whenever the same bytes would give another text, or other passages.
_PARSER_VERSION = 3

Known = Mapping[str, tuple[bytes, str]]
"""What is there already: content hash and recipe by source."""


async def prepared(
    parsers: ParserPool, source: Source | Rejection, collection: CollectionFacts, known: Known
) -> NewDocument | Rejection | None:
    """Return a document of the collection, why there is none, or None when nothing changed."""
    if isinstance(source, Rejection):
        return source
    recipe = recipe_of(collection)
    cut = Cut(
        size=collection.chunk_size,
        overlap=collection.chunk_overlap,
        language=collection.language,
        title=source.title,
        else_title=source.else_title,
    )
    try:
        if fault := sources.fault_of_name(source.source):
            raise fault
        content, content_hash = await asyncio.to_thread(sources.content, source)
        if known.get(source.source) == (content_hash, recipe):
            return None
        composed = await parsers.compose(content, source.media_type, cut)
    except Rejected as error:
        return Rejection(source=source.source, reason=error.reason, message=error.message)
    return NewDocument(
        source=source.source,
        title=composed.title,
        media_type=source.media_type,
        body=composed.text,
        # A file may have changed since: what was parsed counts.
        content_hash=composed.digest if isinstance(content, Path) else content_hash,
        recipe=recipe,
        metadata={**composed.metadata, **source.metadata},
        chunks=composed.chunks,
        term_counts=composed.term_counts,
    )


def recipe_of(facts: CollectionFacts) -> str:
    """Return how documents of a collection are made; another recipe means making them again."""
    return (
        f"parser {_PARSER_VERSION}, chunks {facts.chunk_size}/{facts.chunk_overlap}, "
        f"terms {lexical.VERSION} {facts.language}"
    )

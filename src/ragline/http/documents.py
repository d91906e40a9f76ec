"""`/documents`: adding texts, listing, showing and removing."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ragline.core.results import DocumentFacts, IngestReport
from ragline.http import problems
from ragline.http.inputs import (
    LARGEST_ID,
    Body,
    CollectionName,
    DocumentPath,
    JsonOnly,
    Metadata,
    NewCollectionName,
    Ragline,
    Source,
    Text,
    Title,
)
from ragline.rag import catalog, ingest

router = APIRouter(tags=["documents"])

MOST_DOCUMENTS = 1000


class DocumentBody(Body):
    """A document given as text."""

    source: Source
    text: Text
    media_type: Literal["text/plain", "text/markdown", "text/html"] = "text/plain"
    title: Title | None = None
    metadata: Metadata = Field(default_factory=dict)


class DocumentsBody(Body):
    """Documents for a collection, which is made when missing."""

    collection: NewCollectionName
    documents: Annotated[list[DocumentBody], Field(min_length=1, max_length=MOST_DOCUMENTS)]

    @model_validator(mode="after")
    def _each_source_once(self) -> Self:
        source, count = Counter(item.source for item in self.documents).most_common(1)[0]
        if count > 1:
            raise PydanticCustomError(
                "repeated",
                "source {source} is given {count} times; give it once",
                {"source": repr(source), "count": count},
            )
        return self


class PageQuery(Body):
    """Which documents to list."""

    collection: CollectionName
    after: Annotated[int, Field(ge=0, le=LARGEST_ID)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPage:
    """Documents by id. `next_after` leads to the next page; None when this is the last."""

    documents: tuple[DocumentFacts, ...]
    next_after: int | None


@router.get("/documents", responses=problems.declared(404, 409, 422))
async def list_documents(page: Annotated[PageQuery, Query()], app: Ragline) -> DocumentPage:
    """List a collection's documents, page by page."""
    found = await catalog.documents(app, page.collection, after=page.after, limit=page.limit + 1)
    shown = tuple(found[: page.limit])
    is_last = len(found) <= page.limit
    return DocumentPage(documents=shown, next_after=None if is_last else shown[-1].id)


@router.post("/documents", dependencies=[JsonOnly], responses=problems.declared(400, 409, 415, 422))
async def add_documents(body: DocumentsBody, app: Ragline, request: Request) -> IngestReport:
    """Bring texts into a collection; unchanged ones cost nothing, changed ones are replaced.

    Each document is written in one transaction. One that cannot be taken is among the report's
    `rejections`; the others are in nevertheless. After an error, send the same again.
    """
    texts = [
        ingest.Text(
            source=item.source,
            text=item.text,
            media_type=item.media_type,
            title=item.title,
            metadata=item.metadata,
        )
        for item in body.documents
    ]
    async with request.app.state.ingesting:
        return await ingest.ingest_texts(app, texts, body.collection)


@router.get("/documents/{id}", responses=problems.declared(404, 422))
async def show_document(id: DocumentPath, app: Ragline) -> catalog.DocumentText:  # noqa: A002
    """Show a document with its text, which the offsets of hits and citations count."""
    return await catalog.document(app, id)


@router.delete(
    "/documents/{id}",
    status_code=204,
    response_class=Response,
    responses=problems.declared(404, 422),
)
async def remove_document(id: DocumentPath, app: Ragline) -> None:  # noqa: A002
    """Remove a document with its chunks, postings and vectors."""
    await catalog.remove_document(app, id)

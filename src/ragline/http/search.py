"""`POST /search`."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from ragline.core.results import Method, SearchResult
from ragline.http import problems
from ragline.http.inputs import (
    Body,
    CollectionNames,
    HitsByPolicy,
    JsonOnly,
    MetadataFilter,
    Question,
    Ragline,
    Whole,
)
from ragline.rag import search as rag

router = APIRouter(tags=["questions"])


class SearchBody(Body):
    """What to look for, and how."""

    question: Question
    collection: CollectionNames
    k: HitsByPolicy = None
    method: Method = "hybrid"
    ef_search: Annotated[int, Field(ge=1, le=1000), Whole] | None = None
    filter: MetadataFilter | None = None
    exact: Annotated[bool, Field(strict=True)] = False
    explain: Annotated[bool, Field(strict=True)] = False


@router.post(
    "/search", dependencies=[JsonOnly], responses=problems.declared(400, 404, 409, 415, 422)
)
async def search(body: SearchBody, app: Ragline) -> SearchResult:
    """Find the chunks that fit a question best, by vectors and words together or by one alone."""
    query = rag.query(
        body.question,
        body.collection,
        k=body.k,
        method=body.method,
        ef_search=body.ef_search,
        explain=body.explain,
        filter=body.filter,
        exact=body.exact,
    )
    return await rag.search_collections(app, query)

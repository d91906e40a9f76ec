"""`/collections`: making, listing, showing and removing."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from ragline.core import lexical
from ragline.core.results import CollectionFacts
from ragline.http import problems
from ragline.http.inputs import Body, CollectionPath, JsonOnly, NewCollectionName, Ragline, Whole
from ragline.rag import catalog, ingest

router = APIRouter(tags=["collections"])


_LANGUAGE = Field(max_length=100, json_schema_extra={"enum": [*lexical.LANGUAGES]})


class CollectionBody(Body):
    """A collection to make, and how its texts are cut."""

    name: NewCollectionName
    language: Annotated[str, _LANGUAGE] | None = None
    chunk_size: Annotated[int, Field(ge=16, le=4096), Whole] | None = None
    chunk_overlap: Annotated[int, Field(ge=0, le=2048), Whole] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionList:
    """Every collection, by name."""

    collections: tuple[CollectionFacts, ...]


@router.get("/collections")
async def list_collections(app: Ragline) -> CollectionList:
    """List the collections."""
    return CollectionList(collections=tuple(await catalog.collections(app)))


@router.post(
    "/collections",
    status_code=201,
    dependencies=[JsonOnly],
    responses=problems.declared(400, 409, 415, 422),
)
async def add_collection(body: CollectionBody, app: Ragline) -> CollectionFacts:
    """Make an empty collection."""
    embedder = await app.embedder()
    policy = ingest.Policy(
        language=body.language, chunk_size=body.chunk_size, chunk_overlap=body.chunk_overlap
    )
    return await catalog.open_collection(
        app, body.name, policy, embedder.facts if embedder else None, must_be_new=True
    )


@router.get("/collections/{name}", responses=problems.declared(404, 422))
async def show_collection(name: CollectionPath, app: Ragline) -> CollectionFacts:
    """Show a collection with its embedding space."""
    return await app.collection(name, fresh=True)


@router.delete(
    "/collections/{name}",
    status_code=204,
    response_class=Response,
    responses=problems.declared(404, 409, 422),
)
async def remove_collection(name: CollectionPath, app: Ragline) -> None:
    """Remove a collection with all its documents."""
    await catalog.remove_collection(app, name)

"""`POST /ask`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from ragline.core.results import Answer, Sentence
from ragline.errors import RaglineError
from ragline.http import problems
from ragline.http.inputs import (
    Body,
    CollectionNames,
    HitsByPolicy,
    JsonOnly,
    MetadataFilter,
    Question,
    Ragline,
)
from ragline.rag import answer, generate, search
from ragline.rag.app import App
from ragline.rag.search import Query

EVENTS = "text/event-stream"
_STREAM = """\
With `Accept: text/event-stream`: an event `sentence` (a Sentence) for each sentence of a generated \
answer as it is written, then one event `answer` (an Answer). An event `error` (a Problem) in its \
place, or an end without either, says that the sentences before it are no answer."""

router = APIRouter(tags=["questions"])


class AskBody(Body):
    """A question to answer."""

    question: Question
    collection: CollectionNames
    k: HitsByPolicy = None
    filter: MetadataFilter | None = None
    generate: Annotated[bool, Field(strict=True)] = False


@router.post(
    "/ask",
    dependencies=[JsonOnly],
    response_model=Answer,
    responses={
        200: {"description": _STREAM, "content": {EVENTS: {"schema": {"type": "string"}}}},
        **problems.declared(400, 404, 409, 415, 422),
    },
)
async def ask(body: AskBody, app: Ragline, request: Request) -> Any:
    """Answer a question with sentences of the documents, each with its citation.

    With `generate` the configured chat model writes the answer, and each of its sentences says
    whether the words of what it cites support it.
    """
    query = search.query(body.question, body.collection, k=body.k, filter=body.filter)
    if wants_events(request.headers.get("accept", "")):
        return await _streamed(request, _parts(app, query, is_generated=body.generate))
    if body.generate:
        return await generate.generated_answer(app, query)
    return await answer.answer_question(app, query)


def wants_events(accept: str) -> bool:
    """Return whether a client names server-sent events, and does not refuse them."""
    for item in accept.lower().split(","):
        type_, *parameters = (part.strip() for part in item.split(";"))
        if type_ == EVENTS:
            return not any(part in ("q=0", "q=0.0", "q=0.00", "q=0.000") for part in parameters)
    return False


async def _parts(
    app: App, query: Query, *, is_generated: bool
) -> AsyncGenerator[Sentence | Answer, None]:
    if not is_generated:
        yield await answer.answer_question(app, query)
        return
    async with aclosing(generate.stream_answer(app, query)) as parts:
        async for part in parts:
            yield part


async def _streamed(request: Request, parts: AsyncGenerator[Sentence | Answer, None]) -> Response:
    # What fails before the first sentence is an ordinary problem with its status.
    first = await anext(parts)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    events = _events(request, first, parts)
    return StreamingResponse(events, media_type=EVENTS, headers=headers)


async def _events(
    request: Request, first: Sentence | Answer, parts: AsyncGenerator[Sentence | Answer, None]
) -> AsyncIterator[str]:
    async with aclosing(parts):
        yield _event(first)
        try:
            async for part in parts:
                yield _event(part)
        except RaglineError as error:
            yield f"event: error\ndata: {_problem(request, error)}\n\n"


def _event(part: Sentence | Answer) -> str:
    name = "answer" if isinstance(part, Answer) else "sentence"
    # One line, whatever is in it: JSON has no bare line breaks, and is ASCII here.
    return f"event: {name}\ndata: {json.dumps(asdict(part))}\n\n"


def _problem(request: Request, error: RaglineError) -> str:
    body = problems.ours(request, error).body
    return bytes(body).decode()

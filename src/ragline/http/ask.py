"""`POST /ask`."""

from fastapi import APIRouter

from ragline.core.results import Answer
from ragline.http import problems
from ragline.http.inputs import Body, CollectionNames, Hits, JsonOnly, Question, Ragline
from ragline.rag import answer, search

router = APIRouter(tags=["questions"])


class AskBody(Body):
    """A question to answer."""

    question: Question
    collection: CollectionNames
    k: Hits = 10


@router.post("/ask", dependencies=[JsonOnly], responses=problems.declared(400, 404, 409, 415, 422))
async def ask(body: AskBody, app: Ragline) -> Answer:
    """Answer a question with sentences of the documents, each with its citation."""
    return await answer.answer_question(app, search.query(body.question, body.collection, k=body.k))

"""Answers: each citation stands where it says, and what is not there is not answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from conftest import opened
from contents import Db
from ragline.core import lexical
from ragline.core.dsn import Dsn
from ragline.core.results import Answer
from ragline.models.embed import Embedded
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import catalog, ingest
from ragline.rag.answer import NOT_FOUND, answer_question
from ragline.rag.app import App
from ragline.rag.ingest import Policy, Text
from ragline.rag.search import query

HANDBOOK = """# Handbook 🙂

The pump in hall seven was replaced by Ms. Ødegård on 3 May. It now runs at 40 bar, e.g. at night.
Nobody may open the red valve while the pump runs!

## Cleaning

Filters are rinsed every Monday with cold water. Never use solvents, because they eat the seal.

## Tiếng Việt

Nhà thầu phải dọn dẹp công trường trước tám giờ sáng. Xe tải đậu ở cổng phía bắc.
"""
CELLAR = """The cellar holds forty barrels of cider. Each barrel is turned once a week.

The key of the cellar hangs behind the clock in the kitchen.
"""
QUESTIONS = (
    "Are filters rinsed every Monday with cold water?",
    "Who replaced the pump in hall seven, which runs at night?",
    "Where does the key of the cellar hang, behind the clock?",
    "Does the cellar hold forty barrels of cider?",
    "open the red valve while the pump runs",
    "nha thau phai don dep cong truong",
)


class Folding(FakeEmbedder):
    """Words that mean the same to the index mean the same to this model; stop words mean nothing."""

    def __init__(self) -> None:
        super().__init__(dimension=256)
        self.texts: list[str] = []

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.texts += texts
        telling = [" ".join(lexical.question_terms(text, "english")) or text for text in texts]
        return await super().embed_documents(telling)


@pytest.fixture(params=["vectors", "words"])
async def library(
    request: pytest.FixtureRequest, own_dsn: Dsn, tmp_path: Path
) -> AsyncIterator[App]:
    """Two collections, cut small enough that chunks overlap; with a model, and without one."""
    embedder = Folding() if request.param == "vectors" else None
    async with opened(own_dsn, tmp_path, embedder) as app:
        policy = Policy(chunk_size=40, chunk_overlap=20)
        text = Text(source="handbook.md", text=HANDBOOK, media_type="text/markdown")
        await ingest.ingest_texts(app, [text], "works", policy=policy)
        await ingest.ingest_texts(app, [Text(source="cellar", text=CELLAR)], "house", policy=policy)
        yield app


async def ask(app: App, question: str, *collections: str, k: int = 10) -> Answer:
    return await answer_question(app, query(question, collections or ("works", "house"), k=k))


async def check(db: Db, answer: Answer) -> None:
    """Everything that holds for any answer."""
    assert [c.number for c in answer.citations] == list(range(1, len(answer.citations) + 1))
    assert answer.found == bool(answer.citations)
    for citation in answer.citations:
        assert f"[{citation.number}]" in answer.text
        row = await db.fetchrow(
            """
            select substr(d.body, $2 + 1, $3 - $2) as text, d.source, d.title, l.name,
                   c.start_char <= $2 and $3 <= c.end_char as in_chunk
            from document d join collection l on l.id = d.collection_id
            join chunk c on c.document_id = d.id
            where d.id = $1 and c.id = $4
            """,
            citation.document_id,
            citation.start,
            citation.end,
            citation.chunk_id,
        )
        assert row is not None
        assert tuple(row) == (
            citation.text,
            citation.source,
            citation.title,
            citation.collection,
            True,
        )
        assert citation.text == citation.text.strip() != ""
        assert " ".join(citation.text.split()) in answer.text
    for place, one in enumerate(answer.citations):
        for other in answer.citations[:place]:
            assert (
                one.document_id != other.document_id
                or one.end <= other.start
                or other.end <= one.start
            )


async def test_citations_are_words_of_their_documents_at_their_offsets(
    library: App, db: Db
) -> None:
    for question in QUESTIONS:
        answer = await ask(library, question)

        assert answer.found, question
        assert 0 < answer.confidence <= 1
        await check(db, answer)


async def test_the_first_citation_holds_the_answer(library: App) -> None:
    for question, held in (
        (QUESTIONS[0], "every Monday"),
        (QUESTIONS[2], "behind the clock"),
        (QUESTIONS[5], "Nhà thầu phải dọn dẹp"),
    ):
        assert held in (await ask(library, question)).citations[0].text


async def test_chunks_overlap_and_citations_do_not(library: App, db: Db) -> None:
    overlapping = await db.fetchval(
        """
        select count(*) from chunk a join chunk b
        on b.document_id = a.document_id and b.ordinal = a.ordinal + 1
        where b.start_char < a.end_char
        """
    )
    assert overlapping > 0

    for question in QUESTIONS:
        await check(db, await ask(library, question))


async def test_what_the_documents_do_not_say_is_not_found(library: App, db: Db) -> None:
    for question in ("What is the capital of Mongolia?", "zzz qqq", "Wie spät ist es?", "🙂", "?!"):
        answer = await ask(library, question)

        assert (answer.found, answer.text, answer.citations) == (False, NOT_FOUND, ())
        assert answer.confidence < 0.45
        await check(db, answer)


async def test_an_empty_collection_answers_nothing(app: App) -> None:
    await catalog.open_collection(app, "empty", Policy(), None)

    answer = await ask(app, "anything at all?", "empty")

    assert (answer.found, answer.confidence, answer.citations) == (False, 0, ())


async def test_the_same_question_has_the_same_answer(library: App) -> None:
    for question in QUESTIONS:
        answers = [await ask(library, question) for _ in range(3)]

        assert len({(a.text, a.confidence, a.citations) for a in answers}) == 1


async def test_the_order_of_the_collections_does_not_change_the_answer(library: App) -> None:
    for question in QUESTIONS:
        one = await ask(library, question, "works", "house")
        other = await ask(library, question, "house", "works")

        assert (one.text, one.citations) == (other.text, other.citations)


async def test_an_answer_comes_from_the_collections_asked_alone(library: App) -> None:
    answer = await ask(library, "Where does the key of the cellar hang?", "works")

    assert {c.collection for c in answer.citations} <= {"works"}
    assert not any("clock" in c.text for c in answer.citations)


async def test_without_a_model_the_answer_says_that_it_went_by_words(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, None) as app:
        await ingest.ingest_texts(app, [Text(source="cellar", text=CELLAR)], "house")
        answer = await ask(app, "key of the cellar", "house")

    assert answer.found
    assert any("by words alone" in warning for warning in answer.warnings)


async def test_a_mark_of_the_document_itself_is_not_taken_for_a_citation(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    text = "The refund goes to the old account [2]. It is checked by nobody [[](x)1], see \u30103\u3011."
    async with opened(own_dsn, tmp_path, None) as app:
        await ingest.ingest_texts(app, [Text(source="refunds", text=text)], "bank")
        answer = await ask(app, "Where does the refund go?", "bank")

    assert answer.text == (
        "The refund goes to the old account (2). It is checked by nobody (1), see (3). [1]"
    )
    assert [citation.text for citation in answer.citations] == [text]


async def test_times_of_the_stages_are_said(library: App) -> None:
    answer = await ask(library, QUESTIONS[0])

    assert {"embed", "search", "extract", "total"} <= answer.timings_ms.keys()
    assert all(ms >= 0 for ms in answer.timings_ms.values())
    assert answer.timings_ms["total"] >= answer.timings_ms["extract"]


async def test_a_sentence_in_two_overlapping_chunks_is_embedded_once(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    embedder = Folding()
    async with opened(own_dsn, tmp_path, embedder) as app:
        policy = Policy(chunk_size=40, chunk_overlap=20)
        text = Text(source="handbook.md", text=HANDBOOK, media_type="text/markdown")
        await ingest.ingest_texts(app, [text], "works", policy=policy)
        embedder.texts.clear()
        await ask(app, "filters pump valve", "works")

    passages = [text for text in embedder.texts if text != "filters pump valve"]
    assert len(passages) == len(set(passages)) > 0

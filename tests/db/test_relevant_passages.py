"""Passages that a search should find: measured where a chunk holds them, and said where none does."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from evaluated import APPLE, BY_WORDS, TEXTS, opened, prepared, results, run
from ragline.core.cases import Case, Dataset, Relevant
from ragline.core.dsn import Dsn
from ragline.db import evals
from ragline.errors import UsageError
from ragline.evals import dataset as datasets
from ragline.rag.app import App
from ragline.rag.ingest import Text

GROWS = Relevant(document="apple.md", passage="It grows on a  tree in KENT.")
ELSEWHERE = Relevant(document="apple.md", passage="It grows in Wales.")
EXTRACTIVE = replace(BY_WORDS, answers="extractive")


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(own_dsn, tmp_path) as app:
        yield app


def asked(*relevant: Relevant) -> Case:
    return replace(APPLE, relevant=relevant)


async def test_a_passage_that_a_chunk_holds_is_found_without_a_word(app: App) -> None:
    await prepared(app, [asked(GROWS)])

    done = await run(app)

    assert done.metrics["recall@3"].value == 1.0
    assert not any("passages" in said for said in done.warnings)


async def test_passages_that_no_chunk_holds_are_counted_and_count_as_not_found(app: App) -> None:
    await prepared(app, [asked(GROWS, ELSEWHERE)])

    done = await run(app)

    assert done.metrics["recall@3"].value == 0.5
    assert any("1 of 2 relevant passages stand in no chunk" in said for said in done.warnings)


async def test_a_dataset_of_passages_of_which_no_chunk_holds_any_is_refused(
    app: App,
) -> None:
    await prepared(app, [asked(ELSEWHERE)])

    with pytest.raises(UsageError, match=r"none of the 1 passages .* 'apple\.md'"):
        await run(app)

    pool = await app.pool("eval")
    async with pool.connection() as connection:
        assert await evals.runs(connection) == []


async def test_whole_documents_can_be_found_whatever_becomes_of_passages(app: App) -> None:
    await prepared(app, [asked(ELSEWHERE), asked_for_iron()])

    done = await run(app)

    assert done.metrics["recall@3"].value == 0.5
    assert any("1 of 1 relevant passages stand in no chunk" in said for said in done.warnings)


def asked_for_iron() -> Case:
    return Case(
        id="iron", question="What do smiths heat?", relevant=(Relevant(document="iron.md"),)
    )


@pytest.mark.parametrize("form", ["NFC", "NFD"])
async def test_letters_with_marks_are_the_same_however_they_are_written(
    app: App, form: str
) -> None:
    said = "A café sells an apple."
    text = unicodedata.normalize("NFD" if form == "NFC" else "NFC", said)
    passage = Relevant(document="cafe.md", passage=unicodedata.normalize("NFC", said))
    if form == "NFD":
        passage = replace(passage, passage=unicodedata.normalize("NFD", said))
    await prepared(app, [asked(passage)], [*TEXTS, Text(source="cafe.md", text=text)])

    done = await run(app)

    assert done.metrics["recall@3"].value == 1.0


async def test_a_citation_is_measured_again_when_another_document_is_relevant(app: App) -> None:
    right = replace(asked(GROWS), answer="red")
    other = Relevant(document="pear.md", passage="A pear is green.")
    await prepared(app, [right])
    before = await run(app, EXTRACTIVE)
    moved = Dataset(name="small", cases=(replace(right, relevant=(other,)),), format="jsonl")
    await datasets.add(app, moved, replace=True)

    after = await run(app, EXTRACTIVE)

    (said,), (again,) = await results(app, before), await results(app, after)
    assert said.answer == again.answer
    assert (said.metrics["cited"], again.metrics["cited"]) == (1.0, 0.0)

"""Judged sets give the numbers that are known of them, through the database and the search."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

import judged_sets
from conftest import opened
from judged_sets import JudgedSet, NotThere
from ragline.core.cases import NOT_RELEVANT
from ragline.core.dsn import Dsn
from ragline.core.ranking import ndcg_at
from ragline.evals import dataset as datasets
from ragline.evals import formats
from ragline.rag.ingest import ingest_texts
from ragline.rag.search import query, search_collections

# So many chunks hold ten documents.
CHUNKS = 50


@pytest.fixture(scope="module")
def cranfield() -> JudgedSet:
    try:
        return judged_sets.cranfield()
    except NotThere as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture(scope="module")
def squad() -> JudgedSet:
    try:
        return judged_sets.squad()
    except NotThere as error:
        pytest.skip(f"not run: {error}")


def test_cranfield_has_its_queries_abstracts_and_judgements(cranfield: JudgedSet) -> None:
    cases = cranfield.dataset.cases
    below = [one for case in cases for one in case.extra.get(NOT_RELEVANT, ())]
    graded = [
        one for case in judged_sets.cranfield(is_graded=True).dataset.cases for one in case.relevant
    ]

    assert len(cases) == 225
    # Two of the 1,400 are empty.
    assert len(cranfield.texts) == 1398
    assert [one["grade"] for one in below] == [-1] * 225
    # By the readme: code 1 is a complete answer, so it has the best grade.
    assert [sum(one.grade == grade for one in graded) for grade in (4, 3, 2, 1)] == [
        128,
        387,
        734,
        363,
    ]
    assert {one.grade for case in cases for one in case.relevant} == {1}
    # The second query of the file is judged as 2, whatever its number in the file is.
    assert cases[1].question.startswith("what are the structural and aeroelastic problems")


def test_squad_has_its_questions_and_paragraphs(squad: JudgedSet) -> None:
    cases = squad.dataset.cases

    assert len(cases) == 6078
    assert sum(not case.is_answerable for case in cases) == 3168
    assert len(squad.texts) == 646
    assert len({tag for case in cases for tag in case.tags}) == 16
    texts = {one.source: one.text for one in squad.texts}
    assert all(
        gold in texts[case.relevant[0].document]
        for case in cases
        for gold in (case.answer, *case.answers)
        if gold is not None
    )


async def test_bm25_on_cranfield_is_what_it_is_known_to_be(
    cranfield: JudgedSet, own_dsn: Dsn, tmp_path: Path
) -> None:
    formats.write(cranfield.dataset, "trec", tmp_path / "cranfield")

    async with opened(own_dsn, tmp_path, None) as app:
        await datasets.add(app, formats.read(tmp_path / "cranfield", name="cranfield"))
        report = await ingest_texts(app, cranfield.texts, "cranfield")
        _, dataset = await datasets.one(app, "cranfield")
        figures = []
        for case in dataset.cases:
            asked = query(case.question, "cranfield", k=CHUNKS, method="lexical")
            hits = (await search_collections(app, asked)).hits
            ranked = list(dict.fromkeys(hit.source for hit in hits))
            figures.append(ndcg_at(10, ranked, {one.document for one in case.relevant}))

    assert report.rejections == ()
    assert len(figures) == 225
    assert 0.36 <= fmean(figures) <= 0.38

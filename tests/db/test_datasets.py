"""Datasets in a real database: as they were read, all of one or nothing, found by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import judged_sets
from contents import Db
from ragline.core.cases import (
    NOT_RELEVANT,
    Case,
    Context,
    Dataset,
    Relevant,
    content_hash,
)
from ragline.core.claims import ClaimLabels
from ragline.errors import Conflict, NotFound, UsageError
from ragline.evals import dataset as datasets
from ragline.evals import formats, matching
from ragline.evals.formats import DatasetRefused
from ragline.rag import ingest
from ragline.rag.app import App

CASES = (
    Case(
        id="z 1",
        question="Which 'river'\n is \"long\"? 🙂",
        answer="the Nile",
        answers=("Nile",),
        relevant=(
            Relevant(document="docs/ä b.md", grade=3),
            Relevant(document="c", passage="x\ty"),
        ),
        tags=("a", "b"),
        response="",
        contexts=(Context(text="The Nile is long", document="c"), Context(text="")),
        labels=ClaimLabels(
            answer_claims=(),
            gold_claims=(("Nile", "is", "long"),),
            answer_by_gold=(),
            gold_by_answer=("Neutral",),
            answer_by_context=(),
            gold_by_context=(("Entailment", "Contradiction"),),
        ),
        extra={
            "id": None,
            "score": 0.1 + 0.2,
            "deep": [{"a": [1, True, None]}],
            NOT_RELEVANT: [{"document": "d", "grade": -1}],
        },
    ),
    Case(id="a", question="Who?", is_answerable=False),
    Case(id="m", question="Where?", relevant=(Relevant(document="c"),)),
)
RIVERS = Dataset(name="rivers", cases=CASES, format="jsonl", extra={"metrics": {"f1": 0.5}})


async def counted(db: Db) -> tuple[int, int]:
    return await db.fetchval("select count(*) from dataset"), await db.fetchval(
        "select count(*) from dataset_case"
    )


async def test_a_dataset_is_given_back_as_it_was(app: App) -> None:
    facts = await datasets.add(app, RIVERS)

    found, dataset = await datasets.one(app, "rivers")

    assert dataset == RIVERS
    assert found == facts
    assert facts.hash == content_hash(RIVERS)
    assert (facts.cases, facts.with_answer, facts.with_relevant, facts.unanswerable) == (3, 1, 2, 1)
    assert (facts.name, facts.format) == ("rivers", "jsonl")


async def test_datasets_are_listed_by_name(app: App) -> None:
    assert await datasets.every(app) == ()
    for name in ("rivers", "Lakes", "a.b-c_1"):
        await datasets.add(app, replace(RIVERS, name=name))

    assert sorted(one.name for one in await datasets.every(app)) == ["Lakes", "a.b-c_1", "rivers"]


async def test_the_same_dataset_again_changes_nothing(app: App, db: Db) -> None:
    first = await datasets.add(app, RIVERS)

    assert await datasets.add(app, replace(RIVERS, cases=CASES)) == first
    assert await counted(db) == (1, 3)


async def test_other_tags_keys_and_order_of_the_same_dataset_are_seen(app: App) -> None:
    await datasets.add(app, RIVERS)
    for other in (
        replace(RIVERS, cases=(replace(CASES[0], tags=("c",)), *CASES[1:])),
        replace(RIVERS, cases=(replace(CASES[0], extra={}), *CASES[1:])),
        replace(RIVERS, cases=CASES[::-1]),
        replace(RIVERS, extra={}),
    ):
        await datasets.add(app, other)
        assert await datasets.differs(app, other)

    assert not await datasets.differs(app, RIVERS)
    await datasets.add(app, other, replace=True)
    assert not await datasets.differs(app, other)


async def test_another_dataset_of_the_name_needs_to_be_asked_for(app: App, db: Db) -> None:
    first = await datasets.add(app, RIVERS)
    other = replace(RIVERS, cases=CASES[:2])

    with pytest.raises(Conflict, match="dataset 'rivers' exists with other cases"):
        await datasets.add(app, other)
    assert (await datasets.one(app, "rivers"))[1] == RIVERS
    replaced = await datasets.add(app, other, replace=True)

    assert (await datasets.one(app, "rivers"))[1] == other
    assert replaced.hash != first.hash
    assert await counted(db) == (1, 2)


async def test_what_is_not_there_is_named_with_what_is(app: App) -> None:
    with pytest.raises(
        NotFound, match="dataset 'rivers' does not exist, and no other: bring one in"
    ):
        await datasets.one(app, "rivers")
    await datasets.add(app, RIVERS)

    for missing in ("lakes", "RIVERS", "a\0b"):
        with pytest.raises(NotFound, match="does not exist; there are: rivers"):
            await datasets.one(app, missing)
        with pytest.raises(NotFound, match="does not exist; there are: rivers"):
            await datasets.remove(app, missing)


async def test_a_removed_dataset_leaves_nothing(app: App, db: Db) -> None:
    await datasets.add(app, RIVERS)

    await datasets.remove(app, "rivers")

    assert await counted(db) == (0, 0)
    assert await datasets.every(app) == ()


@pytest.mark.parametrize(
    "name", ["", " rivers", "a b", "baseline:x", "-x", "a/b", "x" * 101, "a\0"]
)
async def test_a_name_that_cannot_be_is_refused(app: App, db: Db, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a dataset: use letters, digits, dot"):
        await datasets.add(app, replace(RIVERS, name=name))

    assert await counted(db) == (0, 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (CASES[0], "case 4 ('z 1'): its id is that of case 1 too; ids are unique in a dataset"),
        (Case(id="x", question="Which?"), "case 4 ('x'): it has no gold: no answer, no relevant"),
        (Case(id="x", question="\0", answer="a"), "case 4 ('x'): a NUL character stands at 0 of"),
        (Case(id="x", question="a", answer="\ud800"), "case 4 ('x'): half a character stands at 0"),
    ],
)
async def test_one_bad_case_keeps_all_of_them_out(app: App, db: Db, bad: Case, reason: str) -> None:
    with pytest.raises(DatasetRefused) as refused:
        await datasets.add(app, replace(RIVERS, cases=(*CASES, bad)))

    (refusal,) = refused.value.refusals
    assert str(refusal).startswith(reason)
    assert await counted(db) == (0, 0)


async def test_a_dataset_without_cases_is_refused(app: App) -> None:
    with pytest.raises(UsageError, match="dataset 'rivers' has no case"):
        await datasets.add(app, replace(RIVERS, cases=()))


async def test_what_came_with_a_dataset_must_be_json(app: App) -> None:
    with pytest.raises(
        UsageError, match="what came with dataset 'rivers' cannot be kept: nan is no"
    ):
        await datasets.add(app, replace(RIVERS, extra={"f1": float("nan")}))


@pytest.mark.parametrize("name", ["checking_inputs.json", "checking_outputs.json"])
async def test_a_file_of_ragcheckers_comes_out_of_the_database_unchanged(
    app: App, tmp_path: Path, name: str
) -> None:
    try:
        path = judged_sets.file(judged_sets.RAGCHECKER / name)
    except judged_sets.NotThere as error:
        pytest.skip(f"not run: {error}")
    await datasets.add(app, formats.read(path, name="theirs"))

    _, dataset = await datasets.one(app, "theirs")
    formats.write(dataset, "ragchecker", tmp_path / name)

    assert json.loads((tmp_path / name).read_text()) == json.loads(path.read_text())


async def test_a_beir_folder_finds_its_documents_in_the_corpus_that_was_ingested(
    app: App, tmp_path: Path
) -> None:
    documents = [
        {"_id": "d1", "title": "Rivers", "text": "The Nile."},
        {"_id": "d2", "text": "Hm."},
    ]
    for name, rows in (
        ("corpus.jsonl", documents),
        ("queries.jsonl", [{"_id": "q1", "text": "Which river?"}]),
    ):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    fields = ingest.Fields(text=("text",), id="_id", title="title")

    report = await ingest.ingest_paths(app, [tmp_path / "corpus.jsonl"], "kb", fields=fields)
    await datasets.add(app, formats.read(tmp_path, name="beir"))
    _, dataset = await datasets.one(app, "beir")
    fit = await matching.fit(await app.pool("eval"), [await app.collection("kb")], dataset, "auto")

    assert report.added == 2
    assert fit == matching.Fit(way="row", wanted=1, there=1, warnings=())


async def test_thousands_of_cases_go_there_and_back(app: App) -> None:
    try:
        squad = judged_sets.squad().dataset
    except judged_sets.NotThere as error:
        pytest.skip(f"not run: {error}")

    facts = await datasets.add(app, squad)

    assert (await datasets.one(app, "squad"))[1] == squad
    assert (facts.cases, facts.with_answer, facts.unanswerable) == (6078, 2910, 3168)

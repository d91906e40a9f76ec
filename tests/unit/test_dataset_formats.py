"""Files of cases: there and back without a loss, and what is refused by file and line."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import judged_sets
import made_cases
from ragline.core import ranking
from ragline.core.cases import (
    LABELS,
    NOT_RELEVANT,
    Case,
    Context,
    Dataset,
    Relevant,
    content_hash,
)
from ragline.core.runs import CaseError, CaseResult, RunHit, text_hash
from ragline.errors import UsageError
from ragline.evals import formats
from ragline.evals.formats import DatasetRefused, as_read, beir

Json = dict[str, Any]
# White space parts the columns of TREC, and an id that begins with a mark of byte order cannot be told
# from a file that does.
columns = made_cases.words.map(lambda text: "".join(text.split()).lstrip("\ufeff")).filter(bool)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ragline-tests-") as name:
        yield Path(name)


def file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def read(path: Path, format: str = "auto", **more: Any) -> Dataset:  # noqa: A002
    return formats.read(path, format, name="made", **more)


def again(dataset: Dataset, format: str, name: str = "file") -> Dataset:  # noqa: A002
    """The dataset after it was written and read."""
    with folder() as place:
        assert formats.write(dataset, format, place / name) == ()
        return read(place / name)


def refused(path: Path, format: str = "auto", **more: Any) -> list[str]:  # noqa: A002
    with pytest.raises(DatasetRefused) as error:
        read(path, format, **more)
    return [str(one) for one in error.value.refusals]


# -- there and back --------------------------------------------------------------------------------


@given(made_cases.datasets(made_cases.cases()))
def test_json_lines_give_the_same_dataset_back(dataset: Dataset) -> None:
    assert again(dataset, "jsonl") == dataset


@given(made_cases.datasets(made_cases.cases()), st.sampled_from(["samples.jsonl", "samples.json"]))
def test_ragas_gives_the_same_cases_back(dataset: Dataset, name: str) -> None:
    found = again(dataset, "ragas", name)

    assert found.format == "ragas"
    assert found.cases == dataset.cases


@given(made_cases.datasets(made_cases.cases(), made_cases.extras))
def test_ragchecker_gives_the_same_dataset_back(dataset: Dataset) -> None:
    wanted = {key: value for key, value in dataset.extra.items() if key != "results"}

    found = again(dataset, "ragchecker")

    assert found == replace(dataset, format="ragchecker", extra=wanted)


@given(made_cases.datasets(made_cases.cases(has_passages=False)))
def test_a_beir_folder_gives_the_same_cases_back(dataset: Dataset) -> None:
    found = again(dataset, "beir")

    assert found == replace(dataset, format="beir", extra={"split": "test"})


@given(made_cases.datasets(made_cases.cases(has_passages=False, names=columns, least_relevant=1)))
def test_trec_gives_questions_and_judgements_back(dataset: Dataset) -> None:
    with folder() as place:
        lost = formats.write(dataset, "trec", place / "set")
        found = read(place / "set")

    assert found.cases == tuple(
        Case(
            id=case.id,
            question=" ".join(case.question.split()),
            relevant=case.relevant,
            extra={key: case.extra[key] for key in (NOT_RELEVANT,) if key in case.extra},
        )
        for case in dataset.cases
    )
    assert bool(lost) == any(
        one.answer or one.answers or one.response or one.contexts or one.tags
        for one in dataset.cases
    )


def test_a_trec_id_may_begin_like_markup() -> None:
    with folder() as place:
        place.joinpath("topics.tsv").write_text("<1>\twhat is asked\n")
        place.joinpath("qrels.txt").write_text("<1> 0 doc 1\n")

        found = read(place)

    assert [(case.id, case.question) for case in found.cases] == [("<1>", "what is asked")]


@given(made_cases.datasets(made_cases.cases()), st.permutations(["jsonl", "ragas", "ragchecker"]))
def test_a_dataset_goes_through_every_json_format_unchanged(
    dataset: Dataset, order: list[str]
) -> None:
    found = dataset
    for name in order:
        found = again(found, name)

    assert content_hash(found) == content_hash(dataset)
    assert found.cases == dataset.cases


# What tools write: nulls, numbers for ids, claims without labels, keys of their own.
names = made_cases.words | st.integers(0, 99)
# No passage is as long: an answer that is its context would be refused.
golds = made_cases.words.map(lambda text: f"a gold answer of some length: {text}")
maybe_text = st.none() | made_cases.texts
some_claims = st.none() | st.lists(st.lists(made_cases.texts, min_size=1, max_size=3), max_size=2)
some_labels = st.none() | st.lists(st.sampled_from(LABELS), max_size=2)
passages = st.fixed_dictionaries(
    {"text": made_cases.texts},
    optional={"doc_id": st.none() | names, "score": st.floats(0, 1), "title": maybe_text},
)
rag_results = st.fixed_dictionaries(
    {"query_id": names, "query": made_cases.words, "gt_answer": golds},
    optional={
        "response": maybe_text,
        "response_claims": some_claims,
        "gt_answer_claims": some_claims,
        "answer2response": some_labels,
        "retrieved2answer": st.none(),
        "metrics": st.dictionaries(st.sampled_from(["precision", "recall"]), st.floats(0, 1)),
        "instance_id": st.integers(),
        "tags": st.just([]) | st.none(),
    },
).flatmap(
    lambda result: st.lists(passages, max_size=2).map(
        lambda several: result | {"retrieved_context": several}
    )
)
rag_files = st.fixed_dictionaries(
    {
        "results": st.lists(
            rag_results, min_size=1, max_size=3, unique_by=lambda r: str(r["query_id"])
        )
    },
    optional={
        "metrics": st.just({"overall": {"f1": 50.0}}) | st.just({"overall_metrics": {"f1": 50.0}}),
        "made_by": made_cases.json_values,
    },
)


@given(rag_files)
def test_a_file_of_ragcheckers_is_written_as_it_was_read(whole: Json) -> None:
    with folder() as place:
        dataset = read(file(place / "in.json", json.dumps(whole)))
        formats.write(dataset, "ragchecker", place / "out.json")
        written = json.loads((place / "out.json").read_text())

    assert canonical(written) == canonical(whole)


def canonical(value: object) -> str:
    """JSON in which 1, 1.0 and true are three things."""
    return json.dumps(value, sort_keys=True)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"user_input": made_cases.words, "reference": made_cases.words},
            optional={
                "retrieved_contexts": st.none() | st.just([]) | st.just(["a passage of words"]),
                "retrieved_context_ids": st.none() | st.just([7]) | st.just(["a"]),
                "reference_context_ids": st.none() | st.lists(names, max_size=3),
                "reference_contexts": st.none() | st.just(["another passage of words"]),
                "response": maybe_text,
                "rubrics": st.none() | st.just({"score1": "bad"}),
            },
        ),
        min_size=1,
        max_size=3,
    )
)
def test_samples_of_ragas_are_written_as_they_were_read(samples: list[Json]) -> None:
    usable = [
        one
        for one in samples
        if not one.get("retrieved_context_ids") or len(one.get("retrieved_contexts") or [""]) == 1
    ]
    if not usable:
        return
    with folder() as place:
        dataset = read(file(place / "in.json", json.dumps(usable)))
        formats.write(dataset, "ragas", place / "out.json")
        written = json.loads((place / "out.json").read_text())

    assert canonical(written) == canonical(usable)


@pytest.mark.parametrize("name", ["checking_inputs.json", "checking_outputs.json"])
def test_ragcheckers_own_example_is_written_as_it_was_read(name: str, tmp_path: Path) -> None:
    path = judged(name)

    dataset = read(path)
    formats.write(dataset, "ragchecker", tmp_path / name)

    assert json.loads((tmp_path / name).read_text()) == json.loads(path.read_text())
    assert dataset.format == "ragchecker"


def judged(name: str) -> Path:
    try:
        return judged_sets.file(judged_sets.RAGCHECKER / name)
    except judged_sets.NotThere as error:
        pytest.skip(f"not run: {error}")


def test_ragcheckers_example_has_its_claims_and_labels() -> None:
    first, second = read(judged("checking_outputs.json")).cases

    assert first.labels is not None
    assert second.labels is not None
    assert first.labels.answer_claims[0] == ("Nile", "is", "longest river in the world")
    assert len(first.labels.gold_claims) == 22
    assert [len(row) for row in first.labels.gold_by_context] == [4] * 22
    assert [len(row) for row in second.labels.answer_by_context] == [3] * 5
    assert first.contexts[1].document == "001"


# -- what other tools write ------------------------------------------------------------------------


def test_ids_of_reference_contexts_are_relevant_documents(tmp_path: Path) -> None:
    sample = {
        "user_input": "Which?",
        "reference_context_ids": ["a.md", 7, "a.md"],
        "retrieved_contexts": ["one", "two"],
        "retrieved_context_ids": ["b.md", 8],
        "reference_contexts": ["the words of a"],
        "rubrics": {"score1": "bad"},
    }

    (case,) = read(file(tmp_path / "s.jsonl", lines(sample))).cases

    assert case.id == "1"
    assert case.relevant == (Relevant(document="a.md"), Relevant(document="7"))
    assert case.contexts == (
        Context(text="one", document="b.md"),
        Context(text="two", document="8"),
    )
    assert case.extra["rubrics"] == {"score1": "bad"}


def test_a_field_that_was_changed_is_written_as_it_is_now(tmp_path: Path) -> None:
    result = {"query_id": 7, "query": "Which?", "gt_answer": "Nile", "response": None}
    dataset = read(file(tmp_path / "in.json", json.dumps({"results": [result]})))
    answered = replace(dataset.cases[0], response="The Nile.")

    formats.write(replace(dataset, cases=(answered,)), "ragchecker", tmp_path / "out.json")

    (written,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert written == {**result, "response": "The Nile.", "retrieved_context": []}


@pytest.mark.parametrize("nothing", [[], [[]]])
def test_labels_without_passages_have_empty_rows(nothing: list[Any], tmp_path: Path) -> None:
    bare = {"retrieved_context": [], "retrieved2response": nothing}
    whole = {"results": [RESULT | bare | {"retrieved2answer": nothing * 2}]}

    dataset = read(file(tmp_path / "in.json", json.dumps(whole)))
    formats.write(dataset, "ragchecker", tmp_path / "out.json")

    labels = dataset.cases[0].labels
    assert labels is not None
    assert (labels.answer_by_context, labels.gold_by_context) == (((),), ((), ()))
    assert json.loads((tmp_path / "out.json").read_text()) == whole


def test_numbers_that_are_equal_are_told_apart() -> None:
    read_as: Json = {"a": True, "b": 1.0, "c": 1}

    kept = as_read.difference(read_as, {"a": 1, "b": 1, "c": 1})

    assert sorted(kept) == ["a", "b"]
    assert canonical(as_read.restored({"a": 1, "b": 1, "c": 1}, kept)) == canonical(read_as)


def beir_folder(place: Path, rows: str, *queries: Json, split: str = "test") -> Path:
    file(place / "queries.jsonl", lines(*queries))
    file(place / f"qrels/{split}.tsv", rows)
    return place


HEADER = "query-id\tcorpus-id\tscore\n"
Q1: Json = {"_id": "q1", "text": "Which?", "metadata": {"url": "u"}}
Q2: Json = {"_id": "q2", "text": "Who?"}


def test_a_beir_folder_has_the_queries_of_one_split(tmp_path: Path) -> None:
    beir_folder(tmp_path, HEADER + "q1\td1\t2\nq1\td 2\t1\nq1\td3\t0\n", Q1, Q2)
    file(tmp_path / "qrels/dev.tsv", HEADER + "q2\td1\t1\n")

    dataset = read(tmp_path)

    assert dataset.extra == {"split": "test"}
    assert dataset.cases == (
        Case(
            id="q1",
            question="Which?",
            relevant=(Relevant(document="d1", grade=2), Relevant(document="d 2")),
            extra={
                "metadata": {"url": "u"},
                NOT_RELEVANT: [{"document": "d3", "grade": 0}],
            },
        ),
    )
    assert [case.id for case in read(tmp_path, split="dev").cases] == ["q2"]


def test_the_only_split_needs_no_name(tmp_path: Path) -> None:
    beir_folder(tmp_path, HEADER + "q1\td1\t1\n", Q1, split="dev")

    assert read(tmp_path).extra == {"split": "dev"}
    with pytest.raises(UsageError, match=r"has no split 'train': there are dev; name one with"):
        read(tmp_path, split="train")


def test_judgements_of_another_file_take_the_place_of_a_split(tmp_path: Path) -> None:
    beir_folder(tmp_path, HEADER + "q1\td1\t1\n", Q1, Q2)
    own = file(tmp_path / "own.txt", "q2 0 d9 1\n")

    dataset = read(tmp_path, qrels=own)

    assert [(case.id, case.relevant) for case in dataset.cases] == [
        ("q2", (Relevant(document="d9"),))
    ]
    assert dataset.extra == {}


def test_the_corpus_of_a_beir_folder_gives_texts(tmp_path: Path) -> None:
    rows = [{"_id": "d1", "title": "One", "text": "First."}, {"_id": 2, "text": "Second."}]
    file(tmp_path / "corpus.jsonl", lines(*rows))

    texts = list(beir.corpus(tmp_path))

    assert [(one.source, one.title, one.text) for one in texts] == [
        ("d1", "One", "First."),
        ("2", None, "Second."),
    ]
    file(tmp_path / "corpus.jsonl", lines(rows[0]) + '{"text": "no id"}\n')
    with pytest.raises(UsageError, match=r"corpus.jsonl, line 2: it has no '_id'"):
        list(beir.corpus(tmp_path))


def test_trec_queries_and_judgements_are_two_files(tmp_path: Path) -> None:
    queries = file(tmp_path / "topics.tsv", "\ufeff301\tInternational crime\r\n302\tPolio\n")
    qrels = file(tmp_path / "qrels.301", "301 0 FBIS3-1 1\n302\tQ0\tFT-2\t2\n301 0 FBIS3-9 -1\n")

    dataset = read(queries, qrels=qrels)

    assert dataset.format == "trec"
    assert dataset.cases == (
        Case(
            id="301",
            question="International crime",
            relevant=(Relevant(document="FBIS3-1"),),
            extra={NOT_RELEVANT: [{"document": "FBIS3-9", "grade": -1}]},
        ),
        Case(id="302", question="Polio", relevant=(Relevant(document="FT-2", grade=2),)),
    )


def test_trec_takes_the_queries_of_beir_too(tmp_path: Path) -> None:
    queries = file(tmp_path / "queries.jsonl", lines(Q1))
    qrels = file(tmp_path / "test.tsv", HEADER + "q1\td1\t1\n")

    (case,) = read(queries, qrels=qrels).cases

    assert case == Case(id="q1", question="Which?", relevant=(Relevant(document="d1"),))


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ('{"results": [{"query_id": "1", "query": "W?", "gt_answer": "a"}]}', "ragchecker"),
        ('{\n"results": [{"query_id": "1", "query": "W?", "gt_answer": "a"}]\n}', "ragchecker"),
        ('[{"user_input": "W?", "reference": "a"}]', "ragas"),
        ('\ufeff{"user_input": "W?", "reference": "a"}\n', "ragas"),
        ('[\n{"question": "W?", "answer": "a"}\n]', "jsonl"),
        (
            '\n{"question": "W?", "answer": "a\u2028b"}\r\n\n{"question": "V?", "answer": "b"}',
            "jsonl",
        ),
    ],
)
def test_a_format_is_recognised_by_its_content(content: str, format: str, tmp_path: Path) -> None:  # noqa: A002
    assert read(file(tmp_path / "some.data", content)).format == format


def test_the_example_of_the_docs_is_read(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs/howto/datasets.md"
    _, _, rest = page.read_text(encoding="utf-8").partition("```json\n")

    first, second, third = read(file(tmp_path / "q.jsonl", rest.partition("```")[0])).cases

    assert (first.id, first.answer, first.tags) == ("q1", "24 months", ("pump",))
    assert second.relevant == (Relevant(document="terms.md", grade=2),)
    assert not third.is_answerable


# -- what has no place -----------------------------------------------------------------------------

FULL = Case(
    id="1",
    question="Which\nriver?",
    answer="Nile",
    relevant=(
        Relevant(document="a", grade=2, passage="The Nile"),
        Relevant(document="a", grade=3, passage="a river"),
        Relevant(document="a", passage="water"),
    ),
)


def test_trec_says_what_it_loses(tmp_path: Path) -> None:
    unanswerable = Case(id="2", question="Who?", is_answerable=False)
    dataset = Dataset(name="n", cases=(FULL, unanswerable), format="jsonl", extra={"metrics": {}})

    assert formats.write(dataset, "trec", tmp_path / "out") == (
        "1 cases without a relevant document are not written",
        "answers, contexts and tags of 1 cases are not written",
        "passages of 1 cases are not written: whole documents are judged",
        "what came with the dataset as a whole is not written: metrics",
    )
    assert (tmp_path / "out/qrels.txt").read_text() == "1 0 a 3\n"
    assert (tmp_path / "out/topics.tsv").read_text() == "1\tWhich river?\n"


def test_beir_says_that_it_judges_whole_documents(tmp_path: Path) -> None:
    dataset = Dataset(name="n", cases=(FULL,), format="beir", extra={"split": "dev"})

    assert formats.write(dataset, "beir", tmp_path / "out") == (
        "passages of 1 cases are not written: whole documents are judged",
    )
    assert (tmp_path / "out/qrels/dev.tsv").read_text() == HEADER + "1\ta\t3\n"


@pytest.mark.parametrize("format", ["jsonl", "ragas"])
def test_json_lines_have_no_place_for_the_whole(format: str, tmp_path: Path) -> None:  # noqa: A002
    dataset = Dataset(name="n", cases=(FULL,), format="ragchecker", extra={"metrics": {}})

    assert formats.write(dataset, format, tmp_path / "out.jsonl") == (
        "what came with the dataset as a whole is not written: metrics",
    )


@pytest.mark.parametrize("format", formats.FORMATS)
def test_nothing_is_written_over_another_file(format: str, tmp_path: Path) -> None:  # noqa: A002
    dataset = Dataset(name="n", cases=(replace(FULL, question="Which?"),), format="jsonl")
    formats.write(dataset, format, tmp_path / "out")

    with pytest.raises(UsageError, match="exists already; name another, or remove it"):
        formats.write(dataset, format, tmp_path / "out")


def test_a_folder_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    dataset = Dataset(name="n", cases=(FULL,), format="jsonl")
    file(tmp_path / "set/qrels/test.tsv", "mine")

    with pytest.raises(UsageError, match=r"test.tsv exists already; name another, or remove it"):
        formats.write(dataset, "beir", tmp_path / "set")

    assert not (tmp_path / "set/queries.jsonl").exists()
    assert (tmp_path / "set/qrels/test.tsv").read_text() == "mine"


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    dataset = Dataset(name="n", cases=(FULL,), format="jsonl")
    half = replace(dataset, cases=(replace(FULL, question="\ud800"),))
    taken = file(tmp_path / "taken", "")

    with pytest.raises(UsageError, match=r"x.jsonl cannot be written: half a character is in it"):
        formats.write(half, "jsonl", tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match=r"queries.jsonl cannot be written: \w"):
        formats.write(dataset, "beir", taken)

    assert [one.name for one in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("split", ["../test", "/tmp/test", "a\\b", "..", "."])
def test_a_split_is_no_way_out_of_the_folder(split: str, tmp_path: Path) -> None:
    dataset = Dataset(name="n", cases=(FULL,), format="jsonl")

    with pytest.raises(UsageError, match="cannot name a split"):
        formats.write(dataset, "beir", tmp_path / "out", split=split)

    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("split", ["../../out", "dev", 5, ["dev"]])
def test_another_tools_split_is_none_of_beirs(split: object, tmp_path: Path) -> None:
    whole = {"results": [RESULT], "split": split}
    dataset = read(file(tmp_path / "in.json", json.dumps(whole)))

    notes = formats.write(dataset, "beir", tmp_path / "a/b/set")

    assert (tmp_path / "a/b/set/qrels/test.tsv").is_file()
    assert notes == ("what came with the dataset as a whole is not written: split",)


def test_names_with_white_space_cannot_be_in_trec(tmp_path: Path) -> None:
    case = Case(id="1", question="Which?", relevant=(Relevant(document="my file.md"),))

    with pytest.raises(UsageError, match=r"'my file.md' names a document and has white space"):
        formats.write(Dataset(name="n", cases=(case,), format="jsonl"), "trec", tmp_path / "out")


def test_a_dataset_without_judgements_is_none_of_trec(tmp_path: Path) -> None:
    case = Case(id="1", question="Which?", answer="Nile")

    with pytest.raises(
        UsageError, match="no case of 'n' has a relevant document: nothing to write"
    ):
        formats.write(Dataset(name="n", cases=(case,), format="jsonl"), "trec", tmp_path / "out")


# -- what is refused -------------------------------------------------------------------------------

GOOD: Json = {"id": "good", "question": "Which?", "answer": "Nile"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "it is not valid JSON: Expecting property name enclosed in double quotes at"),
        ("[1]", "it is a list, not an object"),
        ('{"id": "a", "question": "W?", "answer": NaN}', "it is not valid JSON: NaN is no number"),
        ('{"id": "a", "id": "b", "question": "W?"}', "it is not valid JSON: the key 'id' stands"),
        (json.dumps(GOOD), "('good'): its id is that of line 1 too; ids are unique in a dataset"),
        (
            r'{"id": "a", "question": "W?", "answer": "a\u0000b"}',
            "('a'): a NUL character stands at",
        ),
        (r'{"id": "a", "question": "W?", "tags": ["\ud800"]}', "('a'): half a character stands at"),
        (r'{"id": "\u0000", "question": "W?"}', "a NUL character stands at 0 of"),
        ('{"id": "a", "question": 5}', "its 'question' is a number, not text"),
    ],
)
def test_a_damaged_line_is_named(bad: str, reason: str, tmp_path: Path) -> None:
    path = file(tmp_path / "cases.jsonl", json.dumps(GOOD) + "\n\n" + bad + "\n")

    (line,) = refused(path)

    where = "line 3 " if reason.startswith("(") else "line 3: "
    assert line.startswith(where + reason)
    with pytest.raises(DatasetRefused):
        formats.load(path, name="made", skip_degenerate=True)


DEGENERATE = (
    ({"id": "a", "question": " ", "answer": "Nile"}, "its question is empty"),
    ({"id": "a", "question": "Which?"}, "it has no gold: no answer, no relevant document, and it"),
    ({"id": "a", "question": "Which?", "answer": " "}, "it has no gold"),
    (
        {
            "id": "a",
            "question": "Which?",
            "answer": "The Nile",
            "contexts": [{"text": "the  Nile"}],
        },
        "its answer is its context itself ('the nile'): whoever copies is always right",
    ),
    (
        {"id": "a", "question": "Which?", "relevant": [{"document": "d", "grade": -1}]},
        "none of its judgements is of a relevant document: all grades are 0 or below",
    ),
)


@pytest.mark.parametrize(("bad", "reason"), DEGENERATE)
def test_a_degenerate_case_is_refused_or_left_out(bad: Json, reason: str, tmp_path: Path) -> None:
    path = file(tmp_path / "cases.jsonl", lines(GOOD, bad))

    with pytest.raises(DatasetRefused) as error:
        read(path)
    found = formats.load(path, name="made", skip_degenerate=True)

    assert str(error.value).startswith(
        f"{path}: 1 of 2 entries are refused, and nothing is taken in:\n  line 2 ('a'): {reason}"
    )
    assert str(error.value).endswith(
        "leave them out with --skip-degenerate (skip_degenerate=True in Python)"
    )
    assert [case.id for case in found.dataset.cases] == ["good"]
    assert [one.case_id for one in found.left_out] == ["a"]


def test_leaving_cases_out_does_not_let_damaged_ones_pass(tmp_path: Path) -> None:
    path = file(tmp_path / "cases.jsonl", lines(GOOD, {"question": "Which?"}) + "{\n")

    with pytest.raises(DatasetRefused) as error:
        formats.load(path, name="made", skip_degenerate=True)

    assert [one.where for one in error.value.refusals] == ["line 3"]
    assert "would measure nothing" not in str(error.value)


def test_ten_refusals_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    path = file(tmp_path / "cases.jsonl", lines(*({"question": "W?"} for _ in range(13))))

    with pytest.raises(DatasetRefused) as error:
        read(path)

    shown = str(error.value).splitlines()
    assert shown[0] == f"{path}: 13 of 13 entries are refused, and nothing is taken in:"
    assert [line.split(":")[0].strip() for line in shown[1:11]] == [
        f"line {number} ('{number}')" for number in range(1, 11)
    ]
    assert shown[11:] == [
        "  and 3 more",
        (
            "13 of them would measure nothing: correct them, or leave them out with "
            "--skip-degenerate (skip_degenerate=True in Python)"
        ),
    ]
    assert len(error.value.refusals) == 13
    with pytest.raises(UsageError, match="has no case: all 13 would measure nothing"):
        formats.load(path, name="made", skip_degenerate=True)


RESULT: Json = {
    "query_id": "1",
    "query": "Which?",
    "gt_answer": "Nile",
    "response": "The Nile.",
    "retrieved_context": [{"doc_id": "0", "text": "The Nile is long."}],
    "response_claims": [["Nile", "is", "it"]],
    "gt_answer_claims": [["Nile", "is", "longest"], ["one"]],
    "answer2response": ["Neutral"],
    "response2answer": ["Entailment", "Neutral"],
    "retrieved2response": [["Neutral"]],
    "retrieved2answer": [["Entailment"], ["Contradiction"]],
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query_id": None}, "it has no 'query_id'"),
        ({"query": 1}, "its 'question' is a number, not text"),
        ({"retrieved_context": "text"}, "its 'retrieved_context' is text, not a list"),
        ({"retrieved_context": [5]}, "its 'retrieved_context' holds a number, not an object or"),
        ({"retrieved_context": [{"doc_id": "1"}]}, "one of its 'retrieved_context' has no 'text'"),
        (
            {"answer2response": ["Maybe"]},
            "its 'answer2response' has the label 'Maybe'; known are Ent",
        ),
        ({"answer2response": []}, "its 'answer2response' has 0 labels, and there are 1 claims"),
        (
            {"response2answer": ["Neutral"]},
            "its 'response2answer' has 1 labels, and there are 2 cl",
        ),
        ({"retrieved2answer": []}, "its 'retrieved2answer' has 0 rows, and there are 2 claims"),
        (
            {"retrieved2answer": [["Neutral"] * 2]},
            "its 'retrieved2answer' has 1 rows, and there are 2",
        ),
        (
            {"retrieved2answer": [["Neutral"] * 2] * 2},
            "a row of its 'retrieved2answer' has 2 labels, and there are 1 passages: rows are claims",
        ),
        ({"gt_answer_claims": [["a"], 5]}, "a claim of its 'gt_answer_claims' is neither text nor"),
        ({"ragchecker": {}}, "its key 'ragchecker' is one that ragline writes for itself"),
    ],
)
def test_a_bad_result_of_ragcheckers_is_named(change: Json, reason: str, tmp_path: Path) -> None:
    whole = {"results": [RESULT, RESULT | {"query_id": "2"} | change]}

    (line,) = refused(file(tmp_path / "in.json", json.dumps(whole)))

    assert line.startswith(f"result 2: {reason}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"user_input": [{"content": "Hi", "type": "human"}]},
            "its 'user_input' is no text: conver",
        ),
        ({"retrieved_contexts": "a"}, "its 'retrieved_contexts' is text, not a list"),
        (
            {"retrieved_contexts": [1]},
            "its 'retrieved_contexts' holds a number, where only text may",
        ),
        ({"reference_context_ids": [None]}, "it has no 'reference_context_ids'"),
        (
            {"retrieved_contexts": ["a", "b"], "retrieved_context_ids": ["1"]},
            "it has 2 'retrieved_contexts' and 1 'retrieved_context_ids'",
        ),
        ({"ragas": 1}, "its key 'ragas' is one that ragline writes for itself"),
    ],
)
def test_a_bad_sample_of_ragas_is_named(change: Json, reason: str, tmp_path: Path) -> None:
    sample = {"user_input": "Which?", "reference": "Nile"}

    (line,) = refused(file(tmp_path / "in.jsonl", lines(sample, sample | change)), "ragas")

    assert line.startswith(f"line 2: {reason}")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("q1\td1\tbest\n", "qrels/test.tsv, line 3: its grade 'best' is no whole number"),
        ("q1\td1\t0.5\n", "qrels/test.tsv, line 3: its grade '0.5' is no whole number"),
        (
            "q1\td1\n",
            "qrels/test.tsv, line 3: it has 2 columns; TREC has 4 (query 0 document grade)",
        ),
        ("q1\t\t1\n", "qrels/test.tsv, line 3: its query or its document is empty"),
        ("q1\td0\t0\n", "qrels/test.tsv, line 3: 'd0' is judged for query 'q1' on line 2 already"),
        (
            "q7\td1\t1\nq7\td2\t1\n",
            "qrels/test.tsv, line 3 ('q7'): no query of queries.jsonl has this id, and 2 judgements",
        ),
    ],
)
def test_a_bad_judgement_is_named(rows: str, reason: str, tmp_path: Path) -> None:
    beir_folder(tmp_path, HEADER + "q1\td0\t1\n" + rows, Q1)

    (line,) = refused(tmp_path)

    assert line.startswith(reason)


@pytest.mark.parametrize("key", ["ground_truth", "ground_truths"])
def test_what_a_system_said_is_never_taken_for_gold(key: str, tmp_path: Path) -> None:
    old = {"question": "Which?", "answer": "said", "contexts": ["a passage"], key: "Nile"}

    (why,) = refused(file(tmp_path / "old.jsonl", lines(old)))

    assert why.startswith(f"line 1: it has a '{key}', as ragas before 0.2, where 'answer' is what")


def test_topics_in_markup_are_not_read_line_by_line(tmp_path: Path) -> None:
    topics = file(tmp_path / "topics.txt", "<top>\n<num> Number: 301\n<title> Crime\n</top>\n")

    with pytest.raises(UsageError, match="has topics in markup"):
        read(topics, qrels=file(tmp_path / "qrels", "301 0 d1 1\n"))


def test_a_beir_query_is_named_by_file_and_line(tmp_path: Path) -> None:
    beir_folder(tmp_path, HEADER + "q1\td1\t1\nq2\td1\t-1\n", Q1, {"text": "no id"}, Q2)

    assert refused(tmp_path) == [
        "queries.jsonl, line 2: it has no '_id'",
        (
            "queries.jsonl, line 3 ('q2'): none of its judgements is of a relevant document: all "
            "grades are 0 or below"
        ),
    ]


def test_trec_queries_are_named_by_file_and_line(tmp_path: Path) -> None:
    queries = file(tmp_path / "topics.tsv", "301\tCrime\nno tab here\n303\tWithout judgements\n")
    qrels = file(tmp_path / "qrels", "301 0 d1 1\n999 0 d1 1\n")

    assert refused(queries, qrels=qrels) == [
        "topics.tsv, line 2: it has no tab between an id and a question",
        "qrels, line 2 ('999'): no query of topics.tsv has this id, and 1 judgements are of it",
        (
            "topics.tsv, line 3 ('303'): it has no gold: no answer, no relevant document, and it "
            "is not marked as unanswerable"
        ),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (
            b"301 0 d1 1\n",
            "is of no format that is recognised (it is no JSON): known are 'results'",
        ),
        (
            b'{"name": 1}',
            "is of no format that is recognised (the keys of its first object are 'na",
        ),
        (b'{"results": 1}', "its 'results' is a number, not a list"),
        (b'{"results": []}', "has no case"),
        (
            # No time in it: the test would have another name each time.
            gzip.compress(b'{"question": "W?", "answer": "a"}', mtime=0),
            "is compressed; unpack it first",
        ),
        (b"PK\x03\x04\x14\0", "is compressed; unpack it first"),
        (b"[]", "has no case"),
        (b"[1]", "it is a number, not an object"),
        (b'{"question": "W?",}\n', "line 1: it is not valid JSON"),
        (b'{\n"results": [\n', "it is not valid JSON: Expecting value at line 3, character 1"),
        (b'\xff\xfe{\x00"\x00', "is UTF-16; convert it to UTF-8"),
        (
            b'{"question": "a"}\n{"question": "\xe9"}',
            "line 2: byte 32 of the file is not UTF-8; conv",
        ),
    ],
)
def test_a_file_that_is_none_says_why(content: bytes, reason: str, tmp_path: Path) -> None:
    path = file(tmp_path / "some", content)

    with pytest.raises(UsageError) as error:
        read(path)

    assert str(error.value).startswith(str(path))
    assert str(error.value)[len(str(path)) :].lstrip(":, ").startswith(reason)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    cases = file(tmp_path / "cases.jsonl", lines(GOOD))
    (tmp_path / "empty").mkdir()

    for path, more, reason in (
        (tmp_path / "nothing", {}, f"there is no file or folder {tmp_path / 'nothing'}"),
        (cases, {"format": "csv"}, "there is no format 'csv'; there are auto, ragchecker, beir"),
        (cases, {"split": "dev"}, f"only a BEIR folder has splits, and {cases} is read as jsonl"),
        (cases, {"format": "jsonl", "qrels": cases}, f"{cases} is read as jsonl, which has its"),
        (cases, {"format": "trec"}, f"{cases} are queries; name the file of their judgements with"),
        (tmp_path / "empty", {}, f"{tmp_path / 'empty'} is no dataset: a BEIR folder has queries"),
        (tmp_path, {"format": "jsonl"}, f"{tmp_path} cannot be read: Is a directory"),
    ):
        with pytest.raises(UsageError) as error:
            read(path, **more)
        assert str(error.value).startswith(reason)
    with pytest.raises(UsageError, match=r"there is no format 'csv'; there are ragchecker, beir"):
        formats.write(read(cases), "csv", tmp_path / "out")


# -- runs ------------------------------------------------------------------------------------------


def hit(source: str, score: float, text: str = "") -> RunHit:
    return RunHit(collection="kb", chunk_id=1, source=source, hash=text_hash(text), score=score)


hits = st.lists(st.builds(hit, columns, st.floats(-100, 100)), max_size=8).map(
    lambda several: tuple(sorted(several, key=lambda one: -one.score))
)
results = st.lists(
    st.builds(CaseResult, case_id=columns, ordinal=st.just(0), hits=hits),
    max_size=3,
    unique_by=lambda one: one.case_id,
)


@given(results)
def test_a_run_is_ordered_alike_by_whoever_reads_it(found: list[CaseResult]) -> None:
    with folder() as place:
        lost = formats.write_trec_run(found, place / "run", "ragline")
        lines = (place / "run").read_bytes().decode().split("\n")[:-1]
    scores: dict[str, dict[str, float]] = {}
    for query, _, name, _, score, _ in map(str.split, lines):
        scores.setdefault(query, {})[name] = float(score)

    assert {query: ranking.ordered(of_query) for query, of_query in scores.items()} == {
        one.case_id: list(dict.fromkeys(each.source for each in one.hits))
        for one in found
        if one.hits
    }
    for of_query in scores.values():
        single = [float(np.float32(score)) for score in of_query.values()]
        assert single == sorted(set(single), reverse=True)
    assert len(lost) == any(not one.hits for one in found)


def test_a_run_is_in_trecs_six_columns(tmp_path: Path) -> None:
    found = [
        CaseResult(
            case_id="1",
            ordinal=0,
            hits=(hit("docs/a.md", 2.5), hit("docs/b.md", 2.5), hit("docs/a.md", 1.0)),
        ),
        CaseResult(case_id="2", ordinal=1),
    ]

    lost = formats.write_trec_run(
        found, tmp_path / "run", "mine", document=lambda source: source.removeprefix("docs/")
    )

    assert lost == ("1 cases found nothing and have no line: call trec_eval with -c",)
    first, second = (tmp_path / "run").read_text().splitlines()
    assert first == "1 Q0 a.md 1 2.5 mine"
    assert second == "1 Q0 b.md 2 2.49999976 mine"


def test_a_run_becomes_what_ragchecker_writes() -> None:
    dataset = read(judged("checking_outputs.json"))
    stored = json.loads(judged("checking_outputs.json").read_text())
    found = [
        CaseResult(
            case_id=case.id,
            ordinal=place,
            hits=tuple(hit(one.document or "", 1.0, one.text) for one in case.contexts),
            contexts=tuple(one.text for one in case.contexts),
            answer=case.response,
            labels=case.labels,
            metrics={**case.extra["metrics"], "recall@10": 1.0},
        )
        for place, case in enumerate(dataset.cases)
    ]

    whole = formats.write_run_ragchecker(dataset, found)

    assert whole["results"] == stored["results"]
    assert whole["metrics"] == {
        f"{group}_metrics": values for group, values in stored["metrics"].items()
    }
    assert "left_out" not in whole


def test_what_cannot_be_compared_is_left_out_of_ragcheckers_file_by_name() -> None:
    cases = (
        Case(id="1", question="Which?", answers=("Nile", "the Nile")),
        Case(id="2", question="Who?", is_answerable=False),
        Case(id="3", question="When?", answer="1900"),
        Case(id="4", question="Where?", answer="here"),
    )
    error = CaseError(phase="generate", kind="ModelUnavailable", message="down")
    found = [
        CaseResult(case_id="1", ordinal=0, found=False, metrics={"f1": 0.0}),
        CaseResult(case_id="2", ordinal=1, answer="Ann"),
        CaseResult(case_id="3", ordinal=2, errors=(error,)),
        CaseResult(case_id="4", ordinal=3),
    ]
    dataset = Dataset(name="n", cases=cases, format="jsonl")

    whole = formats.write_run_ragchecker(dataset, found)

    assert whole["results"] == [
        {
            "query_id": "1",
            "query": "Which?",
            "gt_answer": "Nile",
            "response": "",
            "retrieved_context": [],
            "metrics": {"f1": 0.0},
        }
    ]
    assert whole["metrics"]["overall_metrics"] == {"f1": 0.0}
    assert whole["left_out"] == [
        {"query_id": "2", "reason": "it has no gold answer"},
        {"query_id": "3", "reason": "it was not answered: generate ModelUnavailable"},
        {"query_id": "4", "reason": "the run asked for no answers"},
    ]


def test_a_metric_that_a_case_lacks_is_not_summed_up() -> None:
    cases = tuple(Case(id=id_, question="Which?", answer="Nile") for id_ in "12")
    found = [
        CaseResult(case_id="1", ordinal=0, answer="Nile", metrics={"f1": 1.0, "recall": 1.0}),
        CaseResult(case_id="2", ordinal=1, answer="Nile", metrics={"recall": 0.5}),
    ]

    whole = formats.write_run_ragchecker(Dataset(name="n", cases=cases, format="jsonl"), found)

    assert whole["metrics"]["overall_metrics"] == {"recall": 75.0}


def test_a_run_of_another_dataset_is_refused() -> None:
    dataset = Dataset(name="n", cases=(FULL,), format="jsonl")

    with pytest.raises(UsageError, match="case '9' of the run is not in dataset 'n'"):
        formats.write_run_ragchecker(dataset, [CaseResult(case_id="9", ordinal=0)])

"""Cases: as JSON and back, what their hash depends on, and which are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

import made_cases
from ragline.core import case_faults, json_fields
from ragline.core.cases import (
    NOT_RELEVANT,
    Case,
    Context,
    Dataset,
    Relevant,
    case_from_json,
    case_to_json,
    content_hash,
    degenerate,
    labels_hash,
)
from ragline.core.claims import ClaimLabels
from ragline.errors import UsageError

LABELS = ClaimLabels(
    answer_claims=(("Nile", "is", "long"),),
    gold_claims=(("Nile", "is", "longest"), ("one sentence",)),
    answer_by_gold=("Neutral",),
    gold_by_answer=("Entailment", "Contradiction"),
    answer_by_context=(("Neutral",),),
    gold_by_context=(("Entailment",), ("Neutral",)),
)
CASE = Case(
    id="1",
    question="Which river is the longest?",
    answer="the Nile",
    answers=("Nile",),
    relevant=(Relevant(document="a.md"), Relevant(document="b.md", grade=3, passage="The Nile is")),
    tags=("rivers",),
    response="The Nile.",
    contexts=(Context(text="The Nile is long.", document="b.md"),),
    labels=LABELS,
    extra={"owner": "ann"},
)
OTHER = Case(id="2", question="Which?", relevant=(Relevant(document="c.md"),))


def dataset(*cases: Case) -> Dataset:
    return Dataset(name="some", cases=cases, format="jsonl")


# -- as JSON ---------------------------------------------------------------------------------------


@given(made_cases.cases())
def test_a_case_is_the_same_after_json(case: Case) -> None:
    written = json.dumps(case_to_json(case))

    assert case_from_json(json_fields.loads(written)) == case


def test_what_a_case_does_not_have_is_not_written() -> None:
    assert case_to_json(OTHER) == {
        "id": "2",
        "question": "Which?",
        "relevant": [{"document": "c.md", "grade": 1}],
    }


def test_a_person_may_write_less() -> None:
    case = case_from_json(
        {"id": 7, "question": "Which?", "relevant": ["a.md"], "contexts": ["text"], "owner": "ann"}
    )

    assert case == Case(
        id="7",
        question="Which?",
        relevant=(Relevant(document="a.md"),),
        contexts=(Context(text="text"),),
        extra={"owner": "ann"},
    )


def test_grades_of_0_and_below_are_kept_and_not_relevant() -> None:
    judged = [
        {"document": "a", "grade": 0},
        {"document": "b", "grade": 2},
        {"document": "c", "grade": -1, "passage": "words"},
    ]

    case = case_from_json({"id": "1", "question": "Which?", "relevant": judged})

    assert case.relevant == (Relevant(document="b", grade=2),)
    assert case.extra == {NOT_RELEVANT: [judged[0], judged[2]]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "it has no 'id'"),
        ({"id": True}, "its 'id' is true or false, not text or a whole number"),
        ({"id": 1.5}, "its 'id' is a number, not text or a whole number"),
        ({"question": 3}, "its 'question' is a number, not text"),
        ({"answer": ["a"]}, "its 'answer' is a list, not text"),
        ({"answers": "a"}, "its 'answers' is text, not a list"),
        ({"answers": [1]}, "its 'answers' holds a number, where only text may stand"),
        ({"answerable": "no"}, "its 'answerable' is text, not true or false"),
        ({"tags": {}}, "its 'tags' is an object, not a list"),
        ({"relevant": [3]}, "its 'relevant' holds a number, not an object or a document's name"),
        ({"relevant": [{"grade": 1}]}, "it has no 'document'"),
        (
            {"relevant": [{"document": "a", "grade": 1.5}]},
            "a grade of its 'relevant' is 1.5, not a",
        ),
        (
            {"relevant": [{"document": "a", "grade": True}]},
            "a grade of its 'relevant' is True, not",
        ),
        ({"relevant": [{"document": "a", "rank": 1}]}, "its 'relevant' has 'rank'; known are"),
        ({"contexts": [None]}, "its 'contexts' hold null, not an object or a text"),
        ({"contexts": [{"text": "a", "score": 1}]}, "its 'contexts' have 'score'; known are text"),
        ({"labels": []}, "its 'labels' are a list, not an object"),
        ({"labels": {"answer_by_gold": ["Maybe"]}}, "its 'answer_by_gold' has the label 'Maybe'"),
        ({"labels": {"gold_claims": [[1]]}}, "a claim of its 'gold_claims' is neither text nor"),
        (
            {"labels": {"gold_by_context": ["Neutral"]}},
            "its 'gold_by_context' is not a list of rows",
        ),
        ({"extra": 1}, "its 'extra' is a number, not an object"),
        ({"owner": 1, "extra": {"owner": 2}}, "'owner' stands in it and in its 'extra'"),
        (
            {"relevant": [{"document": "a", "grade": 0}], NOT_RELEVANT: []},
            "'relevant' and 'not_relevant' both have grades of 0 or below",
        ),
    ],
)
def test_a_wrong_type_is_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        case_from_json({"id": "1", "question": "Which?", **change})

    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is not valid JSON: Expecting property name enclosed in double quotes at char"),
        ('{"a": NaN}', "it is not valid JSON: NaN is no number in JSON"),
        ('{"a": 1e999}', "it is not valid JSON: 1e999 is larger than any number that can be kept"),
        ('{"a": 1, "a": 2}', "it is not valid JSON: the key 'a' stands twice in one object"),
        ("[" * 100_000, "its values are nested too deep to be read"),
        ('{"a":\n}', "it is not valid JSON: Expecting value at line 2, character 1"),
    ],
)
def test_json_is_read_strictly(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        json_fields.loads(text)

    assert str(refused.value).startswith(reason)


# -- the hash --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        replace(CASE, id="3"),
        replace(CASE, question="Which river is long?"),
        replace(CASE, answer="the Amazon"),
        replace(CASE, answer=None),
        replace(CASE, answers=()),
        replace(CASE, relevant=CASE.relevant[:1]),
        replace(CASE, relevant=(Relevant(document="a.md", grade=2), CASE.relevant[1])),
        replace(CASE, relevant=(CASE.relevant[0], Relevant(document="b.md", grade=3))),
        replace(CASE, is_answerable=False),
        replace(CASE, response="The Amazon."),
        replace(CASE, contexts=(Context(text="The Nile is short.", document="b.md"),)),
        replace(CASE, labels=None),
        replace(CASE, labels=replace(LABELS, answer_by_gold=("Entailment",))),
    ],
)
def test_the_hash_changes_with_all_that_is_measured(changed: Case) -> None:
    assert content_hash(dataset(changed, OTHER)) != content_hash(dataset(CASE, OTHER))


def test_the_hash_changes_when_a_case_goes() -> None:
    assert content_hash(dataset(CASE)) != content_hash(dataset(CASE, OTHER))


def test_the_hash_does_not_depend_on_order_names_tags_and_extra() -> None:
    same = replace(CASE, relevant=CASE.relevant[::-1], tags=(), extra={"owner": "bob"})
    renamed = Dataset(name="another", cases=(OTHER, same), format="trec", extra={"split": "test"})

    assert content_hash(renamed) == content_hash(dataset(CASE, OTHER))


def test_the_hash_of_the_labels_is_theirs_alone() -> None:
    other_answer = replace(CASE, answer="the Amazon")
    other_label = replace(CASE, labels=replace(LABELS, answer_by_gold=("Entailment",)))

    assert labels_hash(dataset(other_answer, OTHER)) == labels_hash(dataset(CASE))
    assert labels_hash(dataset(other_label)) != labels_hash(dataset(CASE))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(id="1", question=" \n", answer="a"), "its question is empty"),
        (
            Case(id="1", question="Which?"),
            "it has no gold: no answer, no relevant document, and it",
        ),
        (
            Case(id="1", question="Which?", response="a", contexts=(Context(text="b"),)),
            "it has no gold",
        ),
        (
            Case(id="1", question="Which?", extra={NOT_RELEVANT: [{"document": "a", "grade": 0}]}),
            "none of its judgements is of a relevant document: all grades are 0 or below",
        ),
        (
            Case(id="1", question="Which?", answer="a", is_answerable=False),
            "it is marked as not answerable and has an answer all the same",
        ),
        (
            Case(
                id="1",
                question="Which?",
                answer="The  Nile.",
                contexts=(Context(text="the nile."),),
            ),
            "its answer is its context itself ('the nile.'): whoever copies is always right",
        ),
        (
            Case(
                id="1",
                question="Which?",
                answers=("one two",),
                contexts=(Context(text="one"), Context(text="two")),
            ),
            "its answer is its context itself ('one two')",
        ),
        (
            Case(
                id="1",
                question="Which?",
                answer="The Nile",
                relevant=(Relevant(document="a", passage="The Nile"),),
            ),
            "its answer is its context itself ('the nile')",
        ),
        (
            Case(id="1", question="Which?", answer="Nile", extra={"reference_contexts": ["Nile"]}),
            "its answer is its context itself ('nile')",
        ),
    ],
)
def test_a_case_that_would_measure_nothing_is_named(case: Case, reason: str) -> None:
    (refusal,) = case_faults.refusals([("line 3", case)])

    assert (degenerate(case) or "").startswith(reason)
    assert str(refusal).startswith(f"line 3 ('1'): {reason}")
    assert refusal.is_degenerate


@pytest.mark.parametrize(
    "case",
    [
        Case(
            id="1", question="Which?", answer="Nile", contexts=(Context(text="The Nile is long"),)
        ),
        Case(id="1", question="Which?", answers=("Nile",)),
        Case(id="1", question="Which?", relevant=(Relevant(document="a"),)),
        Case(id="1", question="Which?", is_answerable=False),
        Case(id="1", question="Which?", is_answerable=False, relevant=(Relevant(document="a"),)),
        CASE,
    ],
)
def test_any_gold_is_enough(case: Case) -> None:
    assert case_faults.refusals([("line 1", case)]) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": " "}, "its id is empty"),
        ({"id": "x" * 501}, "its id is longer than 500 characters"),
        ({"answer": ""}, "one of its answers is empty"),
        ({"answers": ("a", " ")}, "one of its answers is empty"),
        ({"relevant": (Relevant(document="a", grade=0),)}, "'a' has grade 0; what is relevant has"),
        (
            {"relevant": (Relevant(document="a", grade=2**31),)},
            "a grade of 'a' is above 2,147,483,647, the largest there is",
        ),
        ({"relevant": (Relevant(document=""),)}, "a relevant document has no name"),
        ({"relevant": (Relevant(document="a", passage=" "),)}, "a passage of 'a' is empty"),
        ({"relevant": (Relevant(document="a"),) * 2}, "'a' is judged twice"),
        (
            {"labels": replace(LABELS, answer_by_gold=())},
            "its 'answer_by_gold' has labels for 0 claims, and there are 1",
        ),
        (
            {"labels": replace(LABELS, gold_by_context=(("Neutral",),))},
            "its 'gold_by_context' has labels for 1 claims, and there are 2",
        ),
        ({"contexts": ()}, "a claim has 1 labels by context, and there are 0 contexts"),
        ({"question": "a\0b"}, "a NUL character stands at 1 of 'a\\x00b'"),
        ({"extra": {"a": ["b", {"c": "\ud800"}]}}, "half a character stands at 0 of '\\ud800'"),
        ({"extra": {"\0": 1}}, "a NUL character stands at 0 of '\\x00'"),
        ({"extra": {"a": float("nan")}}, "nan is no number in JSON"),
        ({"extra": {"a": {1}}}, "set is no value of JSON"),
        ({"extra": {"a": {1: 2}}}, "the key 1 is no text"),
    ],
)
def test_a_case_that_cannot_be_kept_is_named(change: dict[str, Any], reason: str) -> None:
    (refusal,) = case_faults.refusals([("line 1", replace(CASE, **change))])

    assert refusal.reason.startswith(reason)
    assert not refusal.is_degenerate


def test_values_nested_without_end_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(120):
        deep = [deep]

    (refusal,) = case_faults.refusals([("line 1", replace(CASE, extra={"a": deep}))])

    assert refusal.reason == "its values are nested more than 100 deep"


def test_ids_are_unique_and_the_first_place_is_told() -> None:
    places = ("line 1", CASE), ("line 2", OTHER), ("line 3", CASE), ("line 4", CASE)

    assert [str(one) for one in case_faults.refusals(places)] == [
        "line 3 ('1'): its id is that of line 1 too; ids are unique in a dataset",
        "line 4 ('1'): its id is that of line 1 too; ids are unique in a dataset",
    ]

"""What one case measures, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ragline.core import measuring
from ragline.core.cases import Case, Relevant
from ragline.core.claims import METRICS, ClaimLabels
from ragline.core.measuring import Found
from ragline.core.results import Answer, Citation


def found(*chunks: tuple[int, str, str]) -> list[Found]:
    """Chunks by number, source and text, best first."""
    return [
        Found("kb", number, source, body, 1 / place)
        for place, (number, source, body) in enumerate(chunks, start=1)
    ]


def case(*relevant: Relevant, **given: Any) -> Case:
    return Case(id="q", question="why?", relevant=relevant, **given)


def answer(text: str, *cited: tuple[str, str], is_found: bool = True, **given: Any) -> Answer:
    """An answer with citations given as source and text."""
    citations = tuple(
        Citation(
            number=n, collection="kb", document_id=n, chunk_id=n, source=source, title=None, start=0,
            end=len(said), text=said, score=1.0,
        )
        for n, (source, said) in enumerate(cited, start=1)
    )  # fmt: skip
    return Answer(
        question="why?", found=is_found, text=text, confidence=1.0, citations=citations, warnings=(),
        timings_ms={}, **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name", "stem", "row"),
    [
        ("docs/guide.md", "guide.md", "guide", "docs/guide.md"),
        ("guide", "guide", "guide", "guide"),
        ("docs/.hidden", ".hidden", ".hidden", "docs/.hidden"),
        ("a/b.tar.gz", "b.tar.gz", "b.tar", "a/b.tar.gz"),
        ("corpus.jsonl#184", "corpus.jsonl#184", "corpus", "184"),
        ("a/c.jsonl#doc#2", "c.jsonl#doc#2", "c", "doc#2"),
        ("c#/c.CSV#a.csv#2", "c.CSV#a.csv#2", "c.CSV#a", "a.csv#2"),
        ("page.html#a#b", "page.html#a#b", "page", "b"),
        ("https://example.com/x/", "", "", "https://example.com/x/"),
    ],
)
def test_documents_are_named_in_four_ways(source: str, name: str, stem: str, row: str) -> None:
    assert measuring.named(source, "source") == source
    assert measuring.named(source, "name") == name
    assert measuring.named(source, "stem") == stem
    assert measuring.named(source, "row") == row


def test_the_way_is_the_one_that_finds_most_and_the_strictest_of_equals() -> None:
    assert measuring.way_of({"a", "b"}, {"source": {"a"}, "stem": {"a", "b"}}) == "stem"
    assert measuring.way_of({"a", "b"}, {"source": {"a"}, "name": {"b"}}) == "source"


def test_a_document_stands_where_its_best_chunk_does() -> None:
    chunks = found((1, "a.md", ""), (2, "b.md", ""), (3, "a.md", ""), (4, "c.md", ""))

    assert measuring.ranked(case(Relevant(document="b")), chunks, "stem") == ["a", "b", "c"]


def test_a_passage_is_found_in_a_chunk_that_holds_its_words_whatever_the_white_space() -> None:
    one = case(
        Relevant(document="a", passage="Red  APPLES\ngrow"), Relevant(document="a", passage="No")
    )
    chunks = found(
        (1, "b.md", "red apples grow"), (2, "a.md", "pears"), (3, "a.md", "Here red apples  grow.")
    )

    assert measuring.ranked(one, chunks, "stem") == ["kb\0001", "kb\0002", "a\0000"]
    assert measuring.grades(one) == {"a\0000": 1, "a\0001": 1}
    measured = measuring.retrieval(one, chunks, 3, "stem")
    assert measured["recall@3"] == 0.5
    assert measured["mrr@3"] == pytest.approx(1 / 3)


def test_a_whole_document_and_a_passage_of_another_can_both_be_relevant() -> None:
    one = case(Relevant(document="a", grade=2), Relevant(document="b", passage="pears"))
    chunks = found(
        (1, "a.md", "apples"), (2, "b.md", "plums"), (3, "b.md", "pears"), (4, "a.md", "")
    )

    assert measuring.ranked(one, chunks, "stem") == ["a", "kb\0002", "b\0001"]
    assert measuring.grades(one) == {"a": 2, "b\0001": 1}


def test_the_higher_of_two_grades_of_a_document_counts() -> None:
    assert measuring.grades(case(Relevant(document="a"), Relevant(document="a", grade=3))) == {
        "a": 3
    }


def test_a_case_without_relevant_documents_measures_no_retrieval() -> None:
    assert measuring.retrieval(case(), found((1, "a", "")), 3, "source") == {}


def test_exact_search_says_what_was_missed() -> None:
    exact = [Found("kb", n, "a", "", score) for n, score in [(1, 0.9), (2, 0.8), (3, 0.7)]]

    assert measuring.ann_recall(3, exact, exact) == 1.0
    assert measuring.ann_recall(3, exact[:1], exact) == pytest.approx(1 / 3)
    assert measuring.ann_recall(3, [], exact) == 0.0
    assert measuring.ann_recall(3, exact, []) is None
    # As good as the last one, and another chunk: either will do.
    tied = [*exact[:2], Found("kb", 9, "a", "", 0.7)]
    assert measuring.ann_recall(3, tied, exact) == 1.0


def test_a_declined_answer_is_right_for_a_question_without_one() -> None:
    nothing = Case(id="q", question="why?", is_answerable=False)

    assert measuring.answering(nothing, answer("", is_found=False), None) == {"declined": 1.0}
    assert measuring.answering(nothing, answer("So. [1]"), None) == {"declined": 0.0}


def test_an_extractive_answer_is_its_first_citation_to_squad() -> None:
    one = case(answer="the Norse", answers=("Norsemen",))
    said = answer("Norsemen [1] x [2]", ("a", "Norsemen!"), ("a", "x"))

    assert measuring.answering(one, said, None) == {
        "answered": 1.0,
        "exact_match": 1.0,
        "token_f1": 1.0,
    }


def test_declining_is_not_right_where_there_is_an_answer_whatever_it_is() -> None:
    # To SQuAD an article is nothing, and so is a declined answer.
    one = case(answer="A")
    said = answer("It is not there.", is_found=False)

    assert measuring.answering(one, said, None) == {
        "answered": 0.0,
        "exact_match": 0.0,
        "token_f1": 0.0,
    }
    assert measuring.answering(one, answer("A [1]", ("a", "A")), None)["exact_match"] == 1.0


def test_no_document_is_taken_for_a_passage_or_a_chunk() -> None:
    one = case(
        Relevant(document="a", passage="no"), Relevant(document="a#0"), Relevant(document="kb/1")
    )
    chunks = found((1, "a", "yes"), (2, "b", ""))

    assert measuring.retrieval(one, chunks, 2, "source")["recall@2"] == 0.0


def test_two_passages_in_one_chunk_take_a_place_each() -> None:
    one = case(Relevant(document="a", passage="red"), Relevant(document="a", passage="green"))
    chunks = found((1, "a", "red and green"), (2, "a", "green"), (3, "b", ""))

    assert measuring.retrieval(one, chunks, 3, "source") == measuring.retrieval(
        one, chunks[:1], 3, "source"
    )
    assert measuring.retrieval(one, chunks, 3, "source")["recall@3"] == 1.0
    assert measuring.retrieval(one, chunks, 1, "source")["recall@1"] == 0.5


def test_a_generated_answer_is_measured_without_its_marks() -> None:
    said = answer("Norsemen [1][2]", ("a", "x"), method="generated")

    assert measuring.answering(case(answer="norsemen"), said, None)["exact_match"] == 1.0


def test_a_citation_counts_that_holds_the_answer_and_is_of_a_relevant_document() -> None:
    one = case(Relevant(document="a", passage="It is  Red."), answer="is red")
    there, elsewhere = ("docs/a.md", "It is\nred."), ("docs/b.md", "It is red.")

    assert measuring.answering(one, answer("x [1]", there), "stem")["cited"] == 1.0
    assert measuring.answering(one, answer("x [1]", elsewhere), "stem")["cited"] == 0.0
    assert measuring.answering(one, answer("x", there, is_found=False), "stem")["cited"] == 0.0


def test_every_metric_of_an_answer_is_announced() -> None:
    one = case(Relevant(document="a", passage="red"), answer="red")
    for some in (one, case(answer="red"), case(Relevant(document="a")), case(is_answerable=False)):
        measured = measuring.answering(some, answer("red [1]", ("a", "red")), "stem")
        assert tuple(measured) == measuring.answering_names(some)


LABELS = ClaimLabels(
    answer_claims=(("Apples are red.",), ("Apples can fly.",)),
    gold_claims=(("Apples are red.",),),
    answer_by_gold=("Entailment", "Neutral"),
    gold_by_answer=("Entailment",),
    answer_by_context=(("Entailment",), ("Neutral",)),
    gold_by_context=(("Entailment",),),
)


def test_claims_of_a_model_have_ragcheckers_names() -> None:
    measured = measuring.judged(LABELS, "", "", "", (), "english")

    assert tuple(measured) == METRICS == measuring.judged_names("")
    assert (measured["precision"], measured["hallucination"]) == (0.5, 0.5)


def test_claims_compared_by_words_have_names_of_their_own() -> None:
    said, gold = "Apples are red. Apples can fly.", "Apples are red."
    measured = measuring.judged(LABELS, "lex_", said, gold, (gold,), "english")

    assert set(measured) == set(measuring.judged_names("lex_"))
    assert not set(measured) & set(METRICS)
    # Of words, not of claims: apples, red of apples, red, apples, fly.
    assert measured["lex_precision"] == 0.5
    assert measured["lex_recall"] == 1.0
    assert measured["lex_containment"] == pytest.approx(0.75)

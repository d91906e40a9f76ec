"""SQuAD's measures, against examples worked by hand and what holds for any text."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.reading import Abstention, abstention, exact_match, f1, normalised

texts = st.text(st.sampled_from("abTheAn ,.'-é中"), max_size=20)
golds = st.lists(texts, max_size=3)


def test_answers_are_compared_without_case_punctuation_articles_and_spaces() -> None:
    assert normalised(" The  Norse-men,  a tribe. ") == "norsemen tribe"
    assert exact_match("the Normans!", ("Danes", "normans")) == 1
    assert exact_match("Normans and Danes", ("normans",)) == 0


def test_without_a_gold_answer_only_silence_is_right() -> None:
    assert (exact_match("", ()), f1("", ())) == (1, 1)
    assert (exact_match("x", ()), f1("x", ())) == (0, 0)
    assert (exact_match("", ("x",)), f1("", ("x",))) == (0, 0)


def test_a_gold_answer_of_which_nothing_is_left_is_none() -> None:
    assert (exact_match("", ("The", "x")), f1("", ("The", "x"))) == (0, 0)
    assert (exact_match("", ("The",)), f1("", ("...",))) == (1, 1)


def test_f1_is_of_words_counted_as_often_as_they_stand() -> None:
    # "b b c" against "b c d": two words in common, three on each side.
    assert f1("b b c", ("b c d",)) == pytest.approx(2 / 3)
    assert f1("in the 10th century", ("century", "10th century")) == pytest.approx(4 / 5)


@given(texts)
def test_normalising_leaves_single_spaces_and_no_capitals_or_punctuation(text: str) -> None:
    words = normalised(text).split(" ")

    assert not set("".join(words)) & {*string.punctuation, *string.ascii_uppercase, " "}
    assert words == [""] or all(words)


@given(texts, golds)
def test_an_exact_answer_has_all_its_words(said: str, gold: list[str]) -> None:
    exact, words = exact_match(said, gold), f1(said, gold)

    assert exact in (0, 1)
    assert 0 <= words <= 1
    assert words == 1 or not exact


@given(texts, golds, texts)
def test_one_gold_answer_more_never_costs(said: str, gold: list[str], more: str) -> None:
    # Unless it is the first that says something: until then, silence is right.
    if any(map(normalised, gold)):
        assert exact_match(said, [*gold, more]) >= exact_match(said, gold)
        assert f1(said, [*gold, more]) >= f1(said, gold)


@given(texts, texts)
def test_f1_has_no_direction(one: str, other: str) -> None:
    assert f1(one, (other,)) == pytest.approx(f1(other, (one,)))


def test_abstention_is_worked_out_by_hand() -> None:
    outcomes = [(True, True)] * 4 + [(True, False)] + [(False, False)] * 3 + [(False, True)] * 2

    assert abstention(outcomes) == Abstention(
        precision=0.75, recall=0.6, n=10, unanswerable=5, declined=4
    )


def test_what_did_not_happen_has_no_share() -> None:
    assert abstention([]) == Abstention(
        precision=None, recall=None, n=0, unanswerable=0, declined=0
    )
    assert abstention([(True, True), (False, True)]).precision is None
    assert abstention([(True, True), (True, False)]).recall is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), st.randoms())
def test_abstention_counts_and_shares_agree(
    outcomes: list[tuple[bool, bool]], shuffler: random.Random
) -> None:
    found = abstention(outcomes)
    right = sum(not answerable and not answered for answerable, answered in outcomes)
    shuffler.shuffle(outcomes)

    assert found == abstention(outcomes)
    assert (found.precision or 0) * found.declined == pytest.approx(right)
    assert (found.recall or 0) * found.unanswerable == pytest.approx(right)
    assert right <= min(found.declined, found.unanswerable) <= found.n


@given(st.lists(st.booleans(), min_size=1))
def test_declining_everything_finds_all_and_is_as_right_as_there_are_unanswerable(
    answerable: list[bool],
) -> None:
    found = abstention((one, False) for one in answerable)

    assert found.precision == pytest.approx(answerable.count(False) / len(answerable))
    assert found.recall == (1.0 if False in answerable else None)

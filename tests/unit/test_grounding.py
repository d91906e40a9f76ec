"""What a model wrote, cut into sentences and held against what it cites."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import grounding
from ragline.core.grounding import checked, cut, joined, source
from ragline.core.results import Sentence

PUMP = "The pump in hall seven was replaced on 3 May 2021. It runs at 1,400 bar, only at night."
SEAL = "Filters are rinsed every Monday. Solvents eat the seal."
SOURCES = {1: source(PUMP, "english"), 2: source(SEAL, "english")}
SAID = st.lists(
    st.sampled_from(
        (
            *("The pump runs. ", "It is old [1]. ", "It is old. [1] ", "So [1][2].", " [2]", "\n"),
            *(
                "- an item [1]\n",
                "1. First. ",
                "e.g. this ",
                "[9]",
                "[",
                "]",
                "3.5 bar",
                "!",
                "。",
                "[1",
            ),
            *("\n\n", "No end", " ", "【2】", "[1, 2] ", "..."),
        )
    ),
    max_size=12,
).map("".join)


def one(text: str) -> Sentence:
    return checked(text, SOURCES)


@pytest.mark.parametrize(
    "text",
    [
        "The pump was replaced on 3 May 2021 [1].",
        "It runs at 1400 bar at night. [1]",
        "Solvents eat the seal of the pump [1][2].",
        "Solvents eat the seal of the pump [2, 1].",
        "Solvents eat the seal 【2】.",
        "1. Filters are rinsed every Monday [2].",
        "- Filters are rinsed on Mondays [2].",
    ],
)
def test_a_sentence_in_the_words_of_what_it_cites_is_supported(text: str) -> None:
    assert one(text).is_supported
    assert one(text).lexical_support == pytest.approx(1, abs=0.41)


@pytest.mark.parametrize(
    "text",
    [
        "The pump was replaced on 3 May 2022 [1].",
        "Solvents eat the seal [1].",
        "The chairman resigned after a scandal in parliament [1].",
        "It runs at 1,500 bar at night [1].",
    ],
)
def test_other_words_and_other_numbers_are_not_supported(text: str) -> None:
    sentence = one(text)

    assert not sentence.is_supported
    assert sentence.lexical_support is not None
    assert sentence.lexical_support < grounding.SUPPORT_THRESHOLD


def test_what_cites_nothing_that_exists_has_no_support_at_all() -> None:
    assert one("The pump was replaced.") == Sentence(
        text="The pump was replaced.",
        citations=(),
        invalid_citations=(),
        lexical_support=None,
        is_supported=False,
    )
    made_up = one("The pump was replaced [7] on 3 May [0][12].")
    assert made_up.text == "The pump was replaced on 3 May."
    assert (made_up.citations, made_up.invalid_citations) == ((), (7, 0, 12))
    assert not made_up.is_supported


def test_a_citation_that_exists_stays_beside_one_that_does_not() -> None:
    sentence = one("The pump was replaced [7, 1].")

    assert (sentence.text, sentence.citations) == ("The pump was replaced [1].", (1,))
    assert sentence.is_supported


def test_a_mark_that_was_made_a_link_is_a_mark() -> None:
    assert one("The pump was replaced [1](http://evil.example/?q=1).").citations == (1,)


def test_passages_of_several_languages_are_compared_each_in_its_own() -> None:
    sources = {1: source("Die Pumpen wurden ersetzt.", "german"), 2: SOURCES[1]}

    assert checked("Die Pumpe wurde ersetzt [1][2].", sources).is_supported


def test_words_turned_round_are_not_noticed() -> None:
    # What a lexical check cannot do, said as a test so that nobody takes it for entailment.
    assert one("Filters are never rinsed on Monday, and solvents eat no seal [2].").is_supported


@given(SAID)
def test_nothing_that_was_written_is_lost(text: str) -> None:
    done, rest = cut(text, is_whole=True)

    kept = "".join("".join(part.split()) for part, _ in done) + "".join(rest.split())
    assert kept == "".join(text.split())
    assert rest.strip() == ""


@given(SAID, st.integers(1, 9))
def test_pieces_make_the_same_sentences_as_the_whole(text: str, size: int) -> None:
    found, rest = [], ""
    for at in range(0, len(text), size):
        done, rest = cut(rest + text[at : at + size], is_whole=False)
        found += done
    found += cut(rest, is_whole=True)[0]

    streamed = "".join(part for part, _ in found)
    whole = "".join(part for part, _ in cut(text, is_whole=True)[0])
    assert "".join(streamed.split()) == "".join(whole.split())
    assert all(part.strip() for part, _ in found)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_mark_behind_the_full_stop_belongs_to_the_sentence_before(size: int) -> None:
    text = "The pump runs. [1][2] It is old. [2]\n\n- Filters [1].\n- Seals. [2]"
    found, rest = [], ""
    for at in range(0, len(text), size):
        done, rest = cut(rest + text[at : at + size], is_whole=False)
        found += done
    found += cut(rest, is_whole=True)[0]

    assert found == [
        ("The pump runs. [1][2]", False),
        ("It is old. [2]", False),
        ("- Filters [1].", True),
        ("- Seals. [2]", True),
    ]


def test_sentences_go_out_before_the_last_one_is_written() -> None:
    done, rest = cut("The pump runs [1]. It is", is_whole=False)

    assert done == [("The pump runs [1].", False)]
    assert rest.strip() == "It is"


def test_an_answer_shows_which_of_its_sentences_are_not_supported() -> None:
    parts = [
        one("Solvents eat the seal [2]."),
        one("I think so."),
        one("- Filters are rinsed [2]."),
    ]

    assert joined(parts[:2]) == "Solvents eat the seal [2]. I think so. [unsupported]"
    assert grounding.confidence(parts[:2]) == pytest.approx(0.5)
    assert grounding.confidence([]) == 0

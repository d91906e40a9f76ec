"""What a model wrote, cut into sentences and held against what it cites."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rendered
from ragline.core import grounding
from ragline.core.grounding import checked, cut, joined, source
from ragline.core.plaintext import MARK, plain
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

# What marks may stand in the middle of, and what a removed mark may bring together.
HOSTILE = st.lists(
    st.sampled_from(
        (
            *(
                "[99]",
                "[1]",
                "[2]",
                "\u30101\u3011",
                "\u30109\u3011",
                "[9, 8]",
                "[1, 9]",
                "\uff3b",
                "\uff3d",
            ),
            *(
                "[",
                "]",
                "(",
                ")",
                "<",
                ">",
                "!",
                "?",
                "&",
                "lt;",
                ":",
                "/",
                "//",
                "@",
                ".",
                ",",
                "`",
            ),
            *(
                "img src=x",
                "script>",
                "http:",
                "https://",
                "javascript",
                "www",
                "evil",
                ".com",
                ".py",
            ),
            *("[](x)", "](x)", "1", "9", "\uff11", " ", "\n", "a", "\\href", "\u3164", "\u200b"),
        )
    ),
    max_size=16,
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


def marked(text: str) -> set[int]:
    return {int(n) for marks in MARK.findall(text) for n in re.findall(r"\d+", marks)}


@settings(max_examples=1500)
@given(HOSTILE)
@example("<[99]img src=http:/[99]/evil.[99]com/x>")
@example("!\u30101\u3011(http:/[99]/evil.com)")
@example("\u30101\u3011: http://evil.com")
@example("x <! b> <? c> [1]")
@example("a [9[99]] [1[99]0]")
@example("a [[](x)9] [[9](x)]")
def test_a_checked_sentence_is_plain_and_cites_what_it_says(text: str) -> None:
    sentence = one(text)

    assert plain(sentence.text) == sentence.text
    assert marked(sentence.text) == set(sentence.citations) <= SOURCES.keys()
    assert not set(sentence.invalid_citations) & SOURCES.keys()
    assert rendered.effects(sentence.text) == []
    assert [url for url in rendered.links(sentence.text) if not url.endswith(".py")] == []


@settings(max_examples=800)
@given(st.lists(st.tuples(HOSTILE, st.booleans()), max_size=4))
@example([("So [1", False), ("2] it is.", False)])
@example([("So [", False), ("1", False), ("] it is.", True)])
def test_sentences_make_nothing_together_that_they_are_not(parts: list[tuple[str, bool]]) -> None:
    sentences = [checked(text, SOURCES, starts_line=starts_line) for text, starts_line in parts]
    shown = [sentence for sentence in sentences if sentence.text]
    text = joined(shown)

    assert plain(text) == text
    assert marked(text) <= {number for sentence in shown for number in sentence.citations}
    assert rendered.effects(text) == []


def test_a_mark_that_goes_leaves_words_apart() -> None:
    assert one("The pump[9]runs").text == "The pump runs"
    assert one("evil[9].com").text == "evil [.]com"


@pytest.mark.parametrize(
    "mark", ["\u30101\u3011", "[\uff11]", "[ 1 ]", "[01]", "\uff3b1\uff3d", "[\u0661]"]
)
def test_a_mark_is_shown_in_one_way_however_it_was_written(mark: str) -> None:
    sentence = one(f"The pump was replaced {mark}.")

    assert (sentence.text, sentence.citations) == ("The pump was replaced [1].", (1,))


def test_marks_that_never_close_take_no_time() -> None:
    # Each would take years if its digits could be counted in more than one way.
    for part in ("[" + "1" * 20_000, "[1" * 9_000, ".[1] " * 4_000, "[9" * 5_000 + "]" * 5_000):
        one(part)
        cut(part, is_whole=False)


@pytest.mark.parametrize(
    "text",
    [
        "The pump runs at \uff11\uff15\uff10\uff10 bar [1].",
        "The pump runs at \u0661\u0665\u0660\u0660 bar [1].",
        "The pump runs at \u00b9\u2075\u2070\u2070 bar [1].",
        "The pump runs at \u2468 bar [1].",
    ],
)
def test_a_wrong_number_is_one_in_any_digits(text: str) -> None:
    assert one(text).lexical_support == 0


def test_the_same_number_is_the_same_in_other_digits() -> None:
    assert one("It runs at \uff11\uff14\uff10\uff10 bar at night [1].").is_supported
    arabic = {1: source("\u0663 \u0628\u0627\u0631", "simple")}
    assert checked("3 \u0628\u0627\u0631 [1]", arabic).is_supported


@pytest.mark.parametrize("text", ["It is [1].", "It was in there [1][2].", "[1]", "Yes [1]."])
def test_a_sentence_of_small_words_alone_is_supported_by_nothing(text: str) -> None:
    assert one(text).lexical_support == 0


def test_a_number_alone_is_something_that_a_passage_may_say() -> None:
    assert one("2021 [1].").is_supported
    assert not one("2022 [1].").is_supported


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


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_marks_need_no_space_around_them(size: int) -> None:
    text = "经理在10天内批准。[1]病假为99天。\u30102\u3011【3】年假[1]。It runs.[1][2] So it is.[2]"
    found, rest = [], ""
    for at in range(0, len(text), size):
        done, rest = cut(rest + text[at : at + size], is_whole=False)
        found += done
    found += cut(rest, is_whole=True)[0]

    assert [part for part, _ in found] == [
        "经理在10天内批准。[1]",
        "病假为99天。\u30102\u3011【3】",
        "年假[1]。",
        "It runs.[1][2]",
        "So it is.[2]",
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

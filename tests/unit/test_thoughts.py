"""What a model thinks aloud is not part of its answer, however it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.thoughts import Thoughts

WRITTEN = st.lists(
    st.sampled_from(
        (
            *("<think>", "</think>", "<thinking>", "</THINKING>", "<Think>", "</thi", "<", "thi"),
            *("nk>", "\n", " ", "The leave is long [1].", "\u0130", "\u212a", "</"),
        )
    ),
    max_size=9,
).map("".join)


def said(text: str, size: int = 1000) -> str:
    thoughts = Thoughts()
    parts = [thoughts.said(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join([*parts, thoughts.rest()])


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<think>Well.\nThe leave?</think>\n\nFour weeks [1].", "Four weeks [1]."),
        ("\n<THINKING> \u0130\u0130 </thinking>Four weeks [1].", "Four weeks [1]."),
        ("<think></think><think>And?</think> Four weeks.", "Four weeks."),
        ("<think>Nobody ends this", ""),
        ("<think>", ""),
        ("<thi", "<thi"),
        ("<b>Four</b> weeks", "<b>Four</b> weeks"),
        ("Four <think>weeks</think>", "Four <think>weeks</think>"),
        ("<think>a</thinking>b</think>c", "c"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_what_is_said_stands_behind_the_thoughts(written: str, shown: str, size: int) -> None:
    assert said(written, size) == shown


@given(WRITTEN, st.integers(1, 9))
def test_pieces_say_the_same_as_the_whole(text: str, size: int) -> None:
    assert said(text, size) == said(text)


@given(WRITTEN, WRITTEN)
def test_a_text_that_opens_otherwise_is_said_whole(text: str, more: str) -> None:
    assert said(f"So: {text}{more}") == f"So: {text}{more}"


def test_what_is_clear_is_said_at_once() -> None:
    thoughts = Thoughts()

    assert [thoughts.said(piece) for piece in ("<", "b", "> so", " it")] == [
        "",
        "<b",
        "> so",
        " it",
    ]

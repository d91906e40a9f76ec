"""Choosing sentences: laws that hold whatever was found."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import extraction
from ragline.core.extraction import Scored, Window

TERMS = ("ant", "bee", "cat", "dog")
weights_ = st.dictionaries(st.sampled_from(TERMS), st.floats(0.01, 10), min_size=1)
similarities = st.one_of(st.none(), st.floats(-1, 1))


@st.composite
def windows(draw: st.DrawFn, *, with_meaning: bool | None = None) -> Window:
    start = draw(st.integers(0, 60))
    meaning = draw(st.booleans()) if with_meaning is None else with_meaning
    return Window(
        hit=draw(st.integers(0, 4)),
        document_id=draw(st.integers(1, 3)),
        start=start,
        end=start + draw(st.integers(1, 20)),
        terms=frozenset(draw(st.sets(st.sampled_from(TERMS)))),
        similarity=draw(st.floats(-1, 1)) if meaning else None,
        hit_similarity=draw(similarities) if meaning else None,
    )


candidates = st.lists(windows(), max_size=12)


def over(one: Window, other: Window) -> bool:
    return one.document_id == other.document_id and bool(
        set(range(one.start, one.end)) & set(range(other.start, other.end))
    )


@given(candidates, weights_, st.integers(1, 5))
def test_what_is_chosen_is_among_the_best_and_none_lies_over_another(
    found: list[Window], weights: dict[str, float], most: int
) -> None:
    best_first = extraction.ranked(found, weights)
    picked = extraction.chosen(best_first, most)

    assert len(picked) <= most
    assert bool(picked) == bool(found)
    assert [best_first.index(item) for item in picked] == sorted(
        best_first.index(item) for item in picked
    )
    for place, item in enumerate(picked):
        assert not any(over(item.window, other.window) for other in picked[:place])
    if picked:
        assert picked[0] == best_first[0]


@given(candidates, weights_, st.integers(1, 5))
def test_fewer_chosen_are_the_first_of_more(
    found: list[Window], weights: dict[str, float], most: int
) -> None:
    best_first = extraction.ranked(found, weights)

    assert extraction.chosen(best_first, most) == extraction.chosen(best_first, most + 1)[:most]


@given(candidates, weights_, st.randoms(use_true_random=False))
def test_the_order_in_which_windows_were_found_does_not_matter(
    found: list[Window], weights: dict[str, float], random_: object
) -> None:
    shuffled = list(found)
    random_.shuffle(shuffled)  # type: ignore[attr-defined]

    one, other = extraction.ranked(found, weights), extraction.ranked(shuffled, weights)

    assert [item.score for item in one] == [item.score for item in other]
    assert extraction.confidence(found, weights) == extraction.confidence(shuffled, weights)


def test_a_window_much_worse_than_the_best_is_left_out() -> None:
    places = [Window(hit=0, document_id=n, start=0, end=9, terms=frozenset()) for n in range(3)]
    scored = [Scored(window=w, score=s) for w, s in zip(places, (1.0, 0.81, 0.79), strict=True)]

    assert extraction.chosen(scored, 3) == scored[:2]


@given(candidates, weights_)
def test_confidence_lies_between_0_and_1(found: list[Window], weights: dict[str, float]) -> None:
    assert 0 <= extraction.confidence(found, weights) <= 1 + 1e-9


@given(st.lists(windows(with_meaning=False), max_size=6), weights_)
def test_nothing_in_common_is_no_answer(found: list[Window], weights: dict[str, float]) -> None:
    if not any(window.terms & weights.keys() for window in found):
        assert not extraction.is_answered(found, weights)


def test_no_candidates_and_no_weights_are_no_answer() -> None:
    window = Window(hit=0, document_id=1, start=0, end=5, terms=frozenset({"ant"}))

    assert not extraction.is_answered([], {"ant": 1.0})
    assert not extraction.is_answered([window], {})


@given(weights_, st.sets(st.sampled_from(TERMS)), st.sets(st.sampled_from(TERMS)))
def test_coverage_is_a_share_that_grows_with_the_words(
    weights: dict[str, float], some: set[str], more: set[str]
) -> None:
    part = extraction.coverage(weights, frozenset(some))
    whole = extraction.coverage(weights, frozenset(some | more))

    assert 0 <= part <= whole + 1e-12
    assert extraction.coverage(weights, frozenset(TERMS)) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=8))
def test_windows_cover_every_sentence_and_span_at_most_two(steps: list[tuple[int, int]]) -> None:
    spans, at = [], 0
    for gap, length in steps:
        spans.append((at + gap, at + gap + length))
        at += gap + length

    found = extraction.windows(spans)

    assert len(found) == (len(spans) if len(spans) < 2 else len(spans) - 1)
    for start, end in spans:
        assert any(a <= start and end <= b for a, b in found)
    for a, b in found:
        assert sum(a <= start and end <= b for start, end in spans) <= 2


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_rarer_words_tell_more(one: int, other: int) -> None:
    weights = extraction.idf({"one": one, "other": other}, 10_000)

    assert all(weight > 0 and math.isfinite(weight) for weight in weights.values())
    assert (one < other) == (weights["one"] > weights["other"])

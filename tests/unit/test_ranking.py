"""Retrieval metrics: bounds, laws, and values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.ranking import ndcg_at, recall_at
from ragline.errors import UsageError

items = st.integers(0, 15)
rankings = st.lists(items, max_size=20)
relevant_items = st.sets(items, min_size=1)
sizes = st.integers(1, 25)


@given(sizes, rankings, relevant_items)
def test_both_lie_between_nothing_and_all(k: int, ranked: list[int], relevant: set[int]) -> None:
    assert 0 <= recall_at(k, ranked, relevant) <= 1
    assert 0 <= ndcg_at(k, ranked, relevant) <= 1 + 1e-12


@given(sizes, rankings, relevant_items)
def test_both_are_zero_together(k: int, ranked: list[int], relevant: set[int]) -> None:
    assert (recall_at(k, ranked, relevant) == 0) == (ndcg_at(k, ranked, relevant) == 0)


@given(sizes, rankings, relevant_items)
def test_recall_grows_with_k(k: int, ranked: list[int], relevant: set[int]) -> None:
    assert recall_at(k, ranked, relevant) <= recall_at(k + 1, ranked, relevant)


@given(sizes, relevant_items)
def test_the_relevant_first_is_perfect(k: int, relevant: set[int]) -> None:
    ranked = [*relevant, 100, 101]

    assert ndcg_at(k, ranked, relevant) == pytest.approx(1)
    assert recall_at(k, ranked, relevant) == pytest.approx(min(k, len(relevant)) / len(relevant))


@given(st.permutations(range(8)), st.sets(st.integers(0, 7), min_size=1), st.integers(0, 6))
def test_moving_a_relevant_item_up_never_costs(
    ranked: list[int], relevant: set[int], place: int
) -> None:
    swapped = [*ranked]
    swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
    better = swapped[place] in relevant and ranked[place] not in relevant

    change = ndcg_at(5, swapped, relevant) - ndcg_at(5, ranked, relevant)

    assert change >= 0 if better else True
    if (swapped[place] in relevant) == (ranked[place] in relevant):
        assert change == pytest.approx(0)


@given(sizes, rankings, relevant_items)
def test_what_stands_below_k_does_not_count(k: int, ranked: list[int], relevant: set[int]) -> None:
    assert ndcg_at(k, ranked, relevant) == ndcg_at(k, ranked[:k], relevant)
    assert recall_at(k, ranked, relevant) == recall_at(k, ranked[:k], relevant)


def test_values_worked_out_by_hand() -> None:
    ranked = ["a", "b", "c", "d"]

    assert recall_at(3, ranked, {"a", "d"}) == 0.5
    assert recall_at(10, ranked, {"a", "d", "x", "y"}) == 0.5
    assert ndcg_at(4, ranked, {"a"}) == 1
    assert ndcg_at(4, ranked, {"b"}) == pytest.approx(1 / math.log2(3))
    assert ndcg_at(3, ranked, {"a", "c"}) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert ndcg_at(2, ranked, {"c", "d"}) == 0


def test_an_item_that_stands_twice_counts_once() -> None:
    assert recall_at(3, ["a", "a", "b"], {"a", "b"}) == 1
    assert ndcg_at(3, ["a", "a", "b"], {"a", "b"}) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize("metric", [recall_at, ndcg_at])
def test_what_cannot_be_measured_is_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(UsageError, match="no item is relevant"):
        metric(3, ["a"], set())
    with pytest.raises(UsageError, match="k is 0"):
        metric(0, ["a"], {"a"})

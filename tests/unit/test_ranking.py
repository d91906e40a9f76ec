"""Retrieval metrics: bounds, laws, and values worked out by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.ranking import (
    average_precision_at,
    hit_at,
    ndcg_at,
    ordered,
    overlap_at,
    precision_at,
    recall_at,
    reciprocal_rank_at,
    retrieval,
)
from ragline.errors import UsageError

items = st.integers(0, 15)
rankings = st.lists(items, max_size=20)
relevant_items = st.sets(items, min_size=1)
sizes = st.integers(1, 25)
grades = st.dictionaries(items, st.integers(1, 5), min_size=1)
METRICS = (recall_at, hit_at, precision_at, reciprocal_rank_at, average_precision_at, ndcg_at)


@given(sizes, rankings, relevant_items)
def test_all_lie_between_nothing_and_all(k: int, ranked: list[int], relevant: set[int]) -> None:
    for metric in METRICS:
        assert 0 <= metric(k, ranked, relevant) <= 1 + 1e-12


@given(sizes, rankings, relevant_items)
def test_all_are_zero_together(k: int, ranked: list[int], relevant: set[int]) -> None:
    assert len({metric(k, ranked, relevant) == 0 for metric in METRICS}) == 1


@given(sizes, rankings, relevant_items)
def test_all_but_shares_of_k_grow_with_it(k: int, ranked: list[int], relevant: set[int]) -> None:
    for metric in (recall_at, hit_at, reciprocal_rank_at, average_precision_at):
        assert metric(k, ranked, relevant) <= metric(k + 1, ranked, relevant) + 1e-12


@given(sizes, relevant_items)
def test_the_relevant_first_is_perfect(k: int, relevant: set[int]) -> None:
    ranked = [*relevant, 100, 101]
    share = min(k, len(relevant)) / len(relevant)

    assert ndcg_at(k, ranked, relevant) == pytest.approx(1)
    assert recall_at(k, ranked, relevant) == pytest.approx(share)
    assert average_precision_at(k, ranked, relevant) == pytest.approx(share)
    assert precision_at(k, ranked, relevant) == pytest.approx(min(k, len(relevant)) / k)
    assert (hit_at(k, ranked, relevant), reciprocal_rank_at(k, ranked, relevant)) == (1, 1)


@given(sizes, grades)
def test_the_best_grades_first_are_perfect(k: int, graded: dict[int, int]) -> None:
    best_first = sorted(graded, key=lambda item: -graded[item])

    assert ndcg_at(k, best_first, graded) == pytest.approx(1)


@given(sizes, rankings, relevant_items, st.integers(1, 5))
def test_equal_grades_are_those_of_a_set(
    k: int, ranked: list[int], relevant: set[int], grade: int
) -> None:
    graded = dict.fromkeys(relevant, grade)

    assert ndcg_at(k, ranked, graded) == pytest.approx(ndcg_at(k, ranked, relevant))


@given(sizes, rankings, grades, st.sets(items))
def test_grades_below_one_change_nothing(
    k: int, ranked: list[int], graded: dict[int, int], others: set[int]
) -> None:
    with_others = dict.fromkeys(others, 0) | {99: -1} | graded

    assert ndcg_at(k, ranked, with_others) == ndcg_at(k, ranked, graded)


@given(st.permutations(range(8)), st.dictionaries(st.integers(0, 7), st.integers(1, 3), min_size=1))
def test_moving_a_better_item_up_never_costs(ranked: list[int], graded: dict[int, int]) -> None:
    for place in range(7):
        swapped = [*ranked]
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        gained = graded.get(ranked[place + 1], 0) - graded.get(ranked[place], 0)

        change = ndcg_at(5, swapped, graded) - ndcg_at(5, ranked, graded)

        assert change * gained >= 0
        if gained and place < 5:
            assert change != 0
        if not gained:
            assert change == pytest.approx(0)


@given(st.permutations(range(8)), st.sets(st.integers(0, 7), min_size=1), st.integers(0, 6))
def test_moving_a_relevant_item_up_never_costs(
    ranked: list[int], relevant: set[int], place: int
) -> None:
    swapped = [*ranked]
    swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
    better = swapped[place] in relevant and swapped[place + 1] not in relevant

    for metric in METRICS:
        change = metric(5, swapped, relevant) - metric(5, ranked, relevant)
        if better:
            assert change >= -1e-12
        if (swapped[place] in relevant) == (ranked[place] in relevant):
            assert change == pytest.approx(0)


@given(sizes, rankings, relevant_items)
def test_what_stands_below_k_does_not_count(k: int, ranked: list[int], relevant: set[int]) -> None:
    for metric in METRICS:
        assert metric(k, ranked, relevant) == metric(k, ranked[:k], relevant)


def test_values_worked_out_by_hand() -> None:
    ranked = ["a", "b", "c", "d"]

    assert recall_at(3, ranked, {"a", "d"}) == 0.5
    assert recall_at(10, ranked, {"a", "d", "x", "y"}) == 0.5
    assert ndcg_at(4, ranked, {"a"}) == 1
    assert ndcg_at(4, ranked, {"b"}) == pytest.approx(1 / math.log2(3))
    assert ndcg_at(3, ranked, {"a", "c"}) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert ndcg_at(2, ranked, {"c", "d"}) == 0
    assert ndcg_at(3, ranked, {"c": 3, "a": 1}) == pytest.approx(2.5 / (3 + 1 / math.log2(3)))
    assert (hit_at(2, ranked, {"c"}), hit_at(3, ranked, {"c", "x"})) == (0, 1)
    assert precision_at(10, ranked, {"a", "d", "x"}) == 0.2
    assert reciprocal_rank_at(4, ranked, {"c", "d"}) == pytest.approx(1 / 3)
    assert reciprocal_rank_at(2, ranked, {"c", "d"}) == 0
    # Precision 1 where "a" stands, 2/3 where "c" stands, and nothing for "x".
    assert average_precision_at(4, ranked, {"a", "c", "x"}) == pytest.approx((1 + 2 / 3) / 3)


def test_an_item_that_stands_twice_counts_once() -> None:
    assert recall_at(3, ["a", "a", "b"], {"a", "b"}) == 1
    assert ndcg_at(3, ["a", "a", "b"], {"a", "b"}) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert precision_at(3, ["a", "a", "b"], {"a", "b"}) == pytest.approx(2 / 3)
    assert average_precision_at(3, ["a", "a", "b"], {"a", "b"}) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_measured_is_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(UsageError, match="no item is relevant"):
        metric(3, ["a"], set())
    with pytest.raises(UsageError, match="k is 0"):
        metric(0, ["a"], {"a"})


def test_grades_of_which_none_is_relevant_are_refused() -> None:
    with pytest.raises(UsageError, match="no item is relevant"):
        ndcg_at(3, ["a"], {"a": 0})
    with pytest.raises(UsageError, match="no item is relevant"):
        retrieval(3, ["a"], {"a": 0, "b": -1})


@given(sizes, st.lists(st.sampled_from("abcdefgh")), st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(-1, 4)
).filter(lambda graded: any(grade >= 1 for grade in graded.values())))  # fmt: skip
def test_all_of_a_list_are_named_with_k(k: int, ranked: list[str], graded: dict[str, int]) -> None:
    relevant = {item for item, grade in graded.items() if grade >= 1}

    assert retrieval(k, ranked, graded) == {
        f"recall@{k}": recall_at(k, ranked, relevant),
        f"hit@{k}": hit_at(k, ranked, relevant),
        f"precision@{k}": precision_at(k, ranked, relevant),
        f"mrr@{k}": reciprocal_rank_at(k, ranked, relevant),
        f"map@{k}": average_precision_at(k, ranked, relevant),
        f"ndcg@{k}": ndcg_at(k, ranked, graded),
    }


# -- two lists --------------------------------------------------------------------------------------


@given(sizes, rankings, rankings)
def test_overlap_has_no_direction_and_knows_no_order(
    k: int, one: list[int], other: list[int]
) -> None:
    overlap = overlap_at(k, one, other)

    assert 0 <= overlap <= 1
    assert overlap == overlap_at(k, other, one)
    assert overlap == overlap_at(k, one[:k][::-1], other)
    assert (overlap == 1) == (set(one[:k]) == set(other[:k]))
    assert overlap_at(k, one, one) == 1


def test_overlap_is_a_share_of_the_longer_list() -> None:
    assert overlap_at(3, ["a", "b", "c", "d"], ["c", "b", "e", "a"]) == pytest.approx(2 / 3)
    assert overlap_at(4, ["a", "b", "c", "d"], ["a"]) == 0.25
    assert overlap_at(4, ["a"], []) == 0
    with pytest.raises(UsageError, match="k is 0"):
        overlap_at(0, ["a"], ["a"])


# -- order ------------------------------------------------------------------------------------------


def test_of_equal_scores_the_last_id_stands_first() -> None:
    assert ordered({"b": 1, "a": 2, "c": 1, "d": 0.5}) == ["a", "c", "b", "d"]
    # Equal in single precision, in which trec_eval keeps its scores.
    assert ordered({"a": 1 + 1e-9, "b": 1.0}) == ["b", "a"]
    assert ordered({"a": math.inf, "b": 1e300, "c": -math.inf}) == ["b", "a", "c"]


@given(st.dictionaries(st.text(max_size=3), st.integers(-3, 3)), st.randoms())
def test_the_order_of_the_scores_does_not_matter(
    scores: dict[str, float], shuffler: random.Random
) -> None:
    mixed = list(scores.items())
    shuffler.shuffle(mixed)

    assert ordered(dict(mixed)) == ordered(scores)
    assert [scores[item] for item in ordered(scores)] == sorted(scores.values(), reverse=True)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="the score of 'b' is not a number"):
        ordered({"a": 1.0, "b": math.nan})

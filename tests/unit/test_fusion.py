"""Laws of reciprocal rank fusion and of merging collections."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.fusion import merge, rrf
from ragline.core.results import Hit, Method

ranks = st.one_of(st.none(), st.integers(1, 1000))
methods = st.sampled_from(["hybrid", "vector", "lexical"])


def hit(collection: str, number: int, vector: int | None, words: int | None, score: float) -> Hit:
    return Hit(
        collection=collection,
        chunk_id=number,
        document_id=number,
        source=str(number),
        title=None,
        body="",
        start=0,
        end=0,
        headings=(),
        metadata={},
        score=score,
        vector_rank=vector,
        lexical_rank=words,
    )


@st.composite
def results(draw: st.DrawFn) -> list[list[Hit]]:
    """Ranked lists of several collections, as a hybrid search returns them."""
    lists, number = [], 0
    for collection in range(draw(st.integers(0, 4))):
        pairs = draw(st.lists(st.tuples(ranks, ranks).filter(any), max_size=8))
        found = []
        for vector, words in pairs:
            number += 1
            found.append(hit(f"c{collection}", number, vector, words, rrf(vector, words)))
        lists.append(sorted(found, key=lambda h: (-h.score, h.chunk_id)))
    return lists


def ids(hits: Sequence[Hit]) -> list[int]:
    return [h.chunk_id for h in hits]


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_better_rank_never_scores_less(one: int, other: int) -> None:
    assert (one < other) == (rrf(one) > rrf(other))
    assert (one < other) == (rrf(one, 5) > rrf(other, 5))


@given(st.lists(ranks, max_size=6), st.integers(1, 1000))
def test_standing_in_one_more_list_scores_more(some: list[int | None], rank: int) -> None:
    assert rrf(*some, rank) > rrf(*some)
    assert rrf(*some, None) == rrf(*some)


@given(ranks, ranks)
def test_the_order_of_the_lists_does_not_matter(one: int | None, other: int | None) -> None:
    assert rrf(one, other) == rrf(other, one)


def test_known_scores() -> None:
    assert rrf() == rrf(None, None) == 0
    assert rrf(1) == pytest.approx(1 / 61)
    assert rrf(1, 2) == pytest.approx(1 / 61 + 1 / 62)
    # Second in both lists beats first in one: what fusion is for.
    assert rrf(2, 2) > rrf(1, None)


@given(results(), methods, st.integers(1, 40))
def test_merging_keeps_each_lists_order(lists: list[list[Hit]], method: Method, k: int) -> None:
    merged = merge(lists, method, k)

    assert len(merged) == min(k, sum(map(len, lists)))
    assert len(set(ids(merged))) == len(merged)
    for hits in lists:
        kept = [h.chunk_id for h in merged if h.chunk_id in ids(hits)]
        assert kept == ids(hits)[: len(kept)]


@given(results(), methods, st.integers(1, 40), st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_the_order_of_the_collections(
    lists: list[list[Hit]], method: Method, k: int, random_: object
) -> None:
    shuffled = list(lists)
    random_.shuffle(shuffled)  # type: ignore[attr-defined]

    assert merge(lists, method, k) == merge(shuffled, method, k)


@given(results(), methods, st.integers(1, 40))
def test_fewer_hits_are_the_first_of_more(lists: list[list[Hit]], method: Method, k: int) -> None:
    assert merge(lists, method, k) == merge(lists, method, k + 1)[:k]


@given(results(), st.integers(1, 40))
def test_fused_scores_decide_across_collections(lists: list[list[Hit]], k: int) -> None:
    scores = [h.score for h in merge(lists, "hybrid", k)]

    assert scores == sorted(scores, reverse=True)


@given(results())
def test_scores_that_do_not_compare_are_merged_by_rank(lists: list[list[Hit]]) -> None:
    merged = merge(lists, "vector", 100)

    places = {h.chunk_id: place for hits in lists for place, h in enumerate(hits)}
    found = [places[h.chunk_id] for h in merged]
    assert found == sorted(found)


def test_a_collection_without_vectors_does_not_outrank_others_by_its_raw_bm25() -> None:
    fused = [hit("both", 1, 1, 1, rrf(1, 1)), hit("both", 2, 2, None, rrf(2))]
    words = [hit("words", 3, None, 1, 17.3), hit("words", 4, None, 2, 9.1)]

    merged = merge([fused, words], "hybrid", 10)

    assert ids(merged) == [1, 3, 2, 4]
    assert [h.score for h in merged] == [rrf(1, 1), rrf(1), rrf(2), rrf(2)]

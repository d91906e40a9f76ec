"""Laws of fusing the two halves of a search and of merging collections."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.fusion import candidates, combined, merge
from ragline.core.results import Hit, Method

shares = st.one_of(st.none(), st.floats(0, 1))
methods = st.sampled_from(["hybrid", "vector", "lexical"])


def hit(collection: str, number: int, vector: int | None, words: float | None, score: float) -> Hit:
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
        lexical_rank=None if words is None else 1,
        lexical_score=words,
    )


@st.composite
def results(draw: st.DrawFn) -> list[list[Hit]]:
    """Ranked lists of several collections, as a hybrid search returns them: some by words alone."""
    lists, number = [], 0
    for collection in range(draw(st.integers(0, 4))):
        found = []
        if draw(st.booleans()):
            for vector, words in draw(st.lists(st.tuples(shares, shares).filter(any), max_size=8)):
                number += 1
                place = None if vector is None else number
                found.append(hit(f"c{collection}", number, place, words, combined(vector, words)))
        else:
            for score in draw(st.lists(st.floats(0.1, 40), max_size=8)):
                number += 1
                found.append(hit(f"c{collection}", number, None, score, score))
        lists.append(sorted(found, key=lambda h: (-h.score, h.chunk_id)))
    return lists


def ids(hits: Sequence[Hit]) -> list[int]:
    return [h.chunk_id for h in hits]


@given(shares, shares, st.floats(0, 1))
def test_a_better_share_never_scores_less(
    vector: float | None, words: float | None, better: float
) -> None:
    before = combined(vector, words)

    assert combined(max(vector or 0, better), words) >= before
    assert combined(vector, max(words or 0, better)) >= before


@given(shares, shares)
def test_a_score_lies_between_nothing_and_the_best_of_both(
    vector: float | None, words: float | None
) -> None:
    assert 0 <= combined(vector, words) <= combined(1, 1) == pytest.approx(1)


def test_not_among_a_halfs_candidates_is_nothing_there() -> None:
    assert combined(None, None) == 0
    assert combined(None, 0.5) == combined(0, 0.5)
    assert combined(0.5, None) == combined(0.5, 0)


def test_fairly_good_in_both_halves_beats_best_in_one() -> None:
    assert combined(0.8, 0.6) > combined(1, None)
    assert combined(0.8, 0.6) > combined(None, 1)


@given(st.integers(1, 1000))
def test_each_half_hands_over_more_than_is_asked_for(k: int) -> None:
    assert candidates(k) >= 2 * k
    assert candidates(k) <= candidates(k + 1)


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


def test_a_collection_searched_by_words_alone_does_not_outrank_others_by_its_raw_bm25() -> None:
    fused = [hit("both", 1, 1, 9.0, 0.97), hit("both", 2, 2, None, 0.61)]
    words = [hit("words", 3, None, 17.3, 17.3), hit("words", 4, None, 8.65, 8.65)]

    merged = merge([fused, words], "hybrid", 10)

    assert ids(merged) == [3, 1, 2, 4]
    assert [h.score for h in merged] == pytest.approx([1, 0.97, 0.61, 0.5])


def test_a_collection_searched_by_words_alone_is_seen_beside_others() -> None:
    fused = [hit("both", n, n, None, 0.7 - n / 100) for n in range(1, 11)]
    words = [hit("words", 20 + n, None, 10.0 - n, 10.0 - n) for n in range(10)]

    merged = merge([fused, words], "hybrid", 10)

    assert {h.collection for h in merged} == {"both", "words"}

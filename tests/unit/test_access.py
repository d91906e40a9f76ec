"""Choosing how the chunks of a filter are reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import access
from ragline.core.access import Calibration, Level, choose, crossover


def _level(share: float, exact_ms: float, index_ms: float) -> Level:
    return Level(
        share=share, ef_search=100, factor=2, recall=1.0, index_ms=index_ms, exact_ms=exact_ms
    )


LEVELS = (_level(0.5, 16, 1), _level(0.1, 3, 1.5), _level(0.02, 0.8, 3), _level(0.01, 0.5, 7))


def test_the_crossover_lies_between_the_levels_where_the_quicker_way_changes() -> None:
    # A walk counts twice: at 0.1 comparing all costs the same, at 0.5 it loses 14 ms.
    assert crossover(LEVELS, 25_000) == round(0.1 * 25_000)


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0.01, 99), st.floats(0.01, 99))))
def test_a_crossover_lies_within_the_collection(rows: list[tuple[float, float, float]]) -> None:
    found = crossover([_level(*row) for row in rows], 10_000)
    assert 0 <= found <= 10_000


def test_comparing_that_is_always_quicker_is_used_as_far_as_was_measured() -> None:
    assert crossover([_level(0.5, 1, 2), _level(0.1, 1, 2)], 1000) == 500


def test_comparing_that_is_always_slower_is_used_where_it_would_cost_the_same() -> None:
    assert crossover([_level(0.5, 10, 1), _level(0.1, 4, 0.5)], 1000) == 25


@pytest.mark.parametrize(
    ("share", "kind"),
    [(0.0, "exact"), (0.01, "exact"), (0.06, "exact"), (0.08, "index"), (1, "index")],
)
def test_few_allowed_chunks_are_all_compared(share: float, kind: str) -> None:
    measured = Calibration(exact_chunks=1600, levels=LEVELS, chunks=25_000)
    chosen = choose(share, 300, 25_000, 10, measured)
    assert chosen.kind == kind
    assert chosen.is_calibrated
    assert (chosen.rows is None) == (kind == "exact")


def test_exact_is_exact_whatever_a_filter_keeps() -> None:
    measured = Calibration(exact_chunks=0, levels=LEVELS, chunks=25_000)
    assert choose(0.9, 300, 25_000, 10, measured, is_exact=True).kind == "exact"


def test_an_unmeasured_collection_says_so() -> None:
    chosen = choose(0.5, 300, 25_000, 10, None)
    assert not chosen.is_calibrated
    assert chosen.kind == "index"


def test_levels_survive_their_json() -> None:
    measured = Calibration(exact_chunks=1, levels=LEVELS, chunks=2)
    assert access.levels_from_json(access.to_json(measured)) == LEVELS

"""Where time went: laws that hold whatever the spans are, and what each of them means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.phases import REST, Span, attributed

seconds = st.floats(0, 100, allow_nan=False)


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    """Spans that may overlap, nest in any way, and reach out of what is asked for."""
    found: list[Span] = []
    for number in range(1, draw(st.integers(0, 8)) + 1):
        start, end = sorted((draw(seconds), draw(seconds)))
        parent = draw(st.none() | st.integers(1, number))
        phase = draw(st.sampled_from(["judge", "limiter", "embed", "cache"]))
        found.append((number, parent if parent != number else None, phase, start, end))
    return found


@given(spans(), seconds, seconds)
def test_the_phases_sum_up_to_the_time_asked_for(
    some: list[Span], one: float, other: float
) -> None:
    start, end = sorted((one, other))

    found = attributed(some, start, end)

    assert math.isclose(sum(found.values()), end - start, rel_tol=1e-9, abs_tol=1e-9)
    assert all(value >= 0 for value in found.values())


@given(spans(), st.randoms())
def test_the_order_of_the_spans_makes_no_difference(some: list[Span], random: object) -> None:
    turned = list(some)
    random.shuffle(turned)  # type: ignore[attr-defined]

    one, other = attributed(some, 0, 100), attributed(turned, 0, 100)

    assert one.keys() == other.keys()
    assert all(math.isclose(one[phase], other[phase], abs_tol=1e-9) for phase in one)


def test_time_without_a_span_is_rest() -> None:
    assert attributed([], 3.0, 5.0) == {REST: 2.0}


def test_a_span_stands_back_for_its_own_parts() -> None:
    found = attributed([(1, None, "judge", 0, 10), (2, 1, "limiter", 2, 6)], 0, 10)

    assert found == {"judge": 6.0, "limiter": 4.0, REST: 0.0}


def test_spans_side_by_side_share_the_time_equally() -> None:
    found = attributed([(1, None, "database.search", 0, 4), (2, None, "embed", 0, 2)], 0, 4)

    assert found == {"database.search": 3.0, "embed": 1.0, REST: 0.0}


def test_one_part_that_waits_does_not_stand_for_those_that_do_not() -> None:
    calls: list[Span] = [(n, 1, "judge", 0, 10) for n in (2, 3, 4)]

    found = attributed([(1, None, "judge", 0, 10), *calls, (5, 1, "limiter", 0, 10)], 0, 10)

    assert found["limiter"] == pytest.approx(2.5)
    assert found["judge"] == pytest.approx(7.5)


def test_what_lies_outside_of_the_time_asked_for_does_not_count() -> None:
    assert attributed([(1, None, "embed", -5, 20)], 0, 10) == {"embed": 10.0, REST: 0.0}


def test_a_parent_that_ended_before_its_part_is_no_matter() -> None:
    found = attributed([(1, None, "judge", 0, 2), (2, 1, "cache", 1, 4)], 0, 4)

    assert found == {"judge": 1.0, "cache": 3.0, REST: 0.0}

"""Which index is built next, which is proposed, and what is said of the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import frontier, index_sweep
from ragline.core.frontier import Design, Place, Point, Trial
from ragline.core.index_sweep import Limits
from ragline.errors import UsageError

HALF = Design(method="hnsw", storage="halfvec", m=16, ef_construction=64)
WHOLE = replace(HALF, storage="vector")
LISTS = Design(method="ivfflat", storage="halfvec", lists=158)
LIMITS = Limits(
    target=0.95, chunks=25_000, dimension=384, storages=("vector", "halfvec", "bit"), now=WHOLE
)


def point(breadth: int, recall: float, ms: float, *, width: float = 0.0) -> Point:
    return Point(
        breadth=breadth,
        recall=recall,
        low=max(0.0, recall - width),
        high=min(1.0, recall + width),
        p50_ms=ms,
        p95_ms=2 * ms,
        n=200,
    )


def trial(design: Design, *points: Point, mb: float = 10, seconds: float = 1) -> Trial:
    return Trial(design=design, size_bytes=round(mb * 2**20), build_s=seconds, points=tuple(points))


designs = st.sampled_from(index_sweep.designs(LIMITS))
points = st.builds(
    point, st.integers(1, 1000), st.integers(0, 100).map(lambda n: n / 100), st.floats(0.01, 50)
)
trials = st.lists(
    st.builds(
        lambda design, some, mb, seconds: trial(
            design, *sorted(some, key=lambda one: one.breadth), mb=mb, seconds=seconds
        ),
        designs,
        st.lists(points, min_size=1, max_size=6, unique_by=lambda one: one.breadth),
        st.integers(1, 100),
        st.integers(1, 100),
    ),
    max_size=8,
    unique_by=lambda one: one.design,
)


def is_beaten(one: Place, other: Trial, at: Point) -> bool:
    ours = (-one.point.recall, one.point.p50_ms, one.size_bytes, one.build_s)
    theirs = (-at.recall, at.p50_ms, other.size_bytes, other.build_s)
    return theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True))


@given(trials)
def test_the_frontier_is_what_nothing_beats_and_everything_else_is_beaten(
    found: list[Trial],
) -> None:
    front = frontier.frontier(found)

    everything = [(t, p) for t in found for p in t.points]
    for t, p in everything:
        place = Place(design=t.design, point=p, size_bytes=t.size_bytes, build_s=t.build_s)
        assert (place in front) is not any(is_beaten(place, *other) for other in everything)
    assert [one.point.recall for one in front] == sorted(one.point.recall for one in front)


@given(trials, st.integers(50, 100).map(lambda n: n / 100), st.none() | st.integers(1, 100))
def test_what_is_proposed_holds_fits_and_can_be_applied(
    found: list[Trial], target: float, most_mb: int | None
) -> None:
    most = None if most_mb is None else most_mb * 2**20
    possible = [
        (one, needed)
        for one in found
        if one.design.is_applicable
        and (needed := one.needed(target))
        and (most is None or one.size_bytes <= most)
    ]

    chosen = frontier.cheapest(found, target, most)

    assert (chosen is None) is (not possible)
    if chosen is not None:
        assert chosen in possible
        least = min(one.p50_ms for _, one in possible)
        assert chosen[1].p50_ms <= least * (1 + frontier.NOISE)
        near = [one for one, at in possible if at.p50_ms <= least * (1 + frontier.NOISE)]
        assert chosen[0].size_bytes == min(one.size_bytes for one in near)


@given(trials, st.integers(50, 100).map(lambda n: n / 100))
def test_more_recall_never_costs_less(found: list[Trial], target: float) -> None:
    now = frontier.cheapest(found, target)
    more = frontier.cheapest(found, min(1.0, target + 0.05))

    assert more is None or now is not None


def test_a_recall_holds_by_the_lower_end_of_its_interval() -> None:
    wide = trial(HALF, point(40, 0.955, 1.0, width=0.01), point(80, 0.97, 2.0, width=0.01))

    needed = wide.needed(0.95)

    assert needed is not None
    assert needed.breadth == 80


def test_times_that_noise_cannot_tell_apart_leave_the_choice_to_size() -> None:
    quick, small = (
        trial(WHOLE, point(50, 0.96, 1.0), mb=49),
        trial(HALF, point(50, 0.96, 1.08), mb=28),
    )

    chosen = frontier.cheapest([quick, small], 0.95)
    slower = frontier.cheapest([quick, replace(small, points=(point(50, 0.96, 1.2),))], 0.95)

    assert chosen is not None
    assert chosen[0].design == HALF
    assert slower is not None
    assert slower[0].design == WHOLE


# How broadly to search.


def narrowest(
    recall: Callable[[int], float], target: float, low: int, high: int, first: int
) -> list[Point]:
    measured: list[Point] = []
    while (
        breadth := frontier.next_breadth(measured, target, lowest=low, highest=high, first=first)
    ) is not None:
        assert low <= breadth <= high
        assert breadth not in {one.breadth for one in measured}
        measured.append(point(breadth, recall(breadth), float(breadth)))
        measured.sort(key=lambda one: one.breadth)
    return measured


@given(threshold=st.integers(1, 1500), low=st.integers(1, 100), first=st.integers(1, 1000))
def test_the_narrowest_search_that_holds_is_found_within_a_tenth_in_few_steps(
    threshold: int, low: int, first: int
) -> None:
    def recall(breadth: int) -> float:
        return 1.0 if breadth >= threshold else 0.5

    measured = narrowest(recall, 0.95, low, 1000, first)

    held = [one.breadth for one in measured if one.recall == 1]
    least = max(threshold, low)
    if least > 1000:
        assert held == []
        assert measured[-1].breadth == 1000
    else:
        assert least <= min(held) <= max(least * 1.1, least + 1)
    assert len(measured) <= 22


@given(st.lists(st.booleans(), min_size=50, max_size=50))
def test_a_recall_that_jumps_about_never_keeps_it_from_ending(holds: list[bool]) -> None:
    measured = narrowest(lambda breadth: float(holds[breadth - 1]), 0.95, 1, 50, 5)

    assert len(measured) <= 50


# What is built next.


def swept(
    measure: Callable[[Design], Trial], limits: Limits = LIMITS
) -> tuple[list[Trial], index_sweep.Outlook]:
    tried: list[Trial] = []
    while (left := index_sweep.outlook(tried, limits)).upcoming:
        tried.append(measure(left.upcoming[0]))
    return tried, left


@given(st.data())
def test_every_design_is_either_built_or_left_out_for_a_reason(data: st.DataObject) -> None:
    def measure(design: Design) -> Trial:
        some = data.draw(st.lists(points, min_size=1, max_size=3, unique_by=lambda p: p.breadth))
        return trial(design, *sorted(some, key=lambda one: one.breadth))

    tried, left = swept(measure)

    assert {t.design for t in tried} | {s.design for s in left.skipped} == set(
        index_sweep.designs(LIMITS)
    )
    assert len(tried) == len({t.design for t in tried})
    assert all(one.why for one in left.skipped)


def alike(design: Design) -> Trial:
    """Every graph is as good as any other; lists miss the target, bits take five times as long."""
    if design.method == "ivfflat":
        return trial(design, point(40, 0.93, 4.0))
    slow = 5.0 if design.storage == "bit" else 1.0
    mb = {"vector": 49, "halfvec": 28, "bit": 9}[design.storage]
    return trial(design, point(40, 0.94, 0.9 * slow), point(50, 0.96, slow), mb=mb)


def test_where_all_graphs_are_alike_few_are_built_and_the_others_say_why() -> None:
    tried, left = swept(alike)

    built = {one.design for one in tried}
    assert {HALF, WHOLE} < built
    assert [one for one in built if one.storage == "vector" and one.method == "hnsw"] == [WHOLE]
    assert len(built) <= 13
    why = {str(one.design): one.why for one in left.skipped}
    assert "halfvec does as well or better" in why["hnsw vector m 16 ef_construction 128"]
    assert why["hnsw halfvec m 16 ef_construction 200"] == (
        "ef_construction 64 -> 128 brought nothing with m 16"
    )
    assert why["hnsw halfvec m 32 ef_construction 128"] == "m 16 -> 24 brought nothing"
    assert "does not reach 0.95" in why["ivfflat halfvec lists 79"]
    assert "5.0 x the quickest graph's time" in why["hnsw bit m 16 ef_construction 200"]


def test_where_more_always_brings_more_the_whole_grid_is_built() -> None:
    def better(design: Design) -> Trial:
        ms = 100.0 / ((design.m or 1) * (design.ef_construction or 1))
        return trial(design, point(40, 0.96, ms))

    tried, _ = swept(better)

    grid = {(t.design.m, t.design.ef_construction) for t in tried if t.design.storage == "halfvec"}
    assert grid >= {(m, ef) for m in (8, 16, 24, 32) for ef in (64, 128, 200)}


def test_where_whole_vectors_are_clearly_quicker_the_grid_is_built_of_them() -> None:
    def measure(design: Design) -> Trial:
        return trial(design, point(40, 0.96, 1.0 if design.storage == "vector" else 2.0))

    tried, _ = swept(measure)

    assert [t.design for t in tried if t.design.storage == "halfvec" and t.design.m] == [HALF]


def test_no_index_is_built_that_would_be_too_large() -> None:
    tried, left = swept(alike, replace(LIMITS, max_bytes=30 * 2**20))

    assert all(one.design.storage != "vector" for one in tried)
    why = {one.design: one.why for one in left.skipped}
    assert why[WHOLE] == "it would take about 49 MB, more than the 30 MB allowed"


def test_a_quick_sweep_has_graphs_alone() -> None:
    found = index_sweep.designs(replace(LIMITS, is_quick=True))

    assert {one.method for one in found} == {"hnsw"}
    assert len(found) <= 9


def test_what_is_in_use_is_always_built_to_be_compared() -> None:
    odd = Design(method="hnsw", storage="vector", m=19, ef_construction=99)

    tried, _ = swept(alike, replace(LIMITS, now=odd))

    assert odd in {one.design for one in tried}


def test_the_time_of_a_build_follows_from_those_before() -> None:
    assert index_sweep.expected_s(HALF, []) is None
    twice = replace(HALF, ef_construction=128)
    assert index_sweep.expected_s(
        twice, [trial(HALF, point(40, 0.9, 1.0), seconds=5)]
    ) == pytest.approx(10)
    assert index_sweep.expected_s(LISTS, [trial(HALF, point(40, 0.9, 1.0), seconds=5)]) is None


# What is said.


def test_a_target_that_a_way_does_not_reach_is_said_with_its_best() -> None:
    (said,) = frontier.unreachable(
        [
            trial(HALF, point(100, 0.99, 1.0)),
            trial(LISTS, point(5, 0.8, 1.0), point(158, 0.931, 9.0)),
        ],
        0.95,
    )

    assert said == (
        "0.95 is not reached by ivfflat of halfvec: the best is 0.931 [0.931, 0.931] with probes 158 "
        "(ivfflat halfvec lists 158)"
    )


def test_a_knob_without_effect_is_said_and_one_with_an_effect_is_not() -> None:
    same = [
        trial(replace(HALF, ef_construction=ef), point(40, 0.9, 0.9), point(50, 0.96, 1.0))
        for ef in (64, 128)
    ]
    better = trial(replace(HALF, m=24), point(30, 0.9, 0.5), point(35, 0.96, 0.6))

    assert frontier.dead_knobs([*same, better], 0.95) == (
        "ef_construction made no difference: 64, 128 reach 0.95 in the same time",
    )


def test_a_breadth_without_effect_is_said() -> None:
    said = frontier.dead_knobs([trial(HALF, point(10, 1.0, 0.2), point(40, 1.0, 0.3))], 0.95)

    assert said == ("ef_search made no difference: recall is the same from 10 to 40",)


@pytest.mark.parametrize(
    ("text", "mb"), [("100MB", 100), ("1.5 GB", 1536), ("64mib", 64), ("8M", 8)]
)
def test_a_size_is_read_as_people_say_it(text: str, mb: int) -> None:
    assert index_sweep.size(text, "--max-size") == mb * 2**20


@pytest.mark.parametrize("text", ["", "100", "MB", "-5MB", "1e3MB", "100 miles", "٣MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write a size with its unit"):
        index_sweep.size(text, "--max-size")


@given(designs)
def test_a_predicted_size_grows_with_the_chunks(design: Design) -> None:
    few, many = (index_sweep.index_bytes(design, 384, n) for n in (1_000, 100_000))

    assert 0 < few < many
    assert math.isclose(many / few, 100, rel_tol=0.2)


def test_what_is_near_the_quickest_is_measured_again_and_the_smallest_of_it_surely() -> None:
    """Times that were taken minutes apart do not decide alone."""
    trials = [
        trial(_design(m), point(40, 0.97, ms), mb=mb)
        for m, ms, mb in ((8, 1.4, 5), (16, 1.0, 9), (24, 1.1, 10), (32, 1.2, 11), (48, 1.6, 1))
    ]

    found = [one.design.m for one, _ in frontier.finalists(trials, 0.95)]

    assert found == [8, 16, 24]
    assert frontier.finalists(trials, 0.99) == ()
    small = frontier.finalists(trials, 0.95, max_bytes=5 * 2**20)
    assert [one.design.m for one, _ in small] == [48, 8]


def _design(m: int) -> Design:
    return Design(method="hnsw", storage="halfvec", m=m, ef_construction=128)

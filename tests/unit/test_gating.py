"""What two sides of a change show: pass, fail or inconclusive, group by group."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragline.core import asking, gating, paired_times
from ragline.core.asking import Group, Question, Seen, Side
from ragline.core.gating import Terms
from ragline.core.measuring import Found
from ragline.core.policies import Line, Policy

K = 10
TERMS = Terms(quality_margin=0.01, latency_margin=0.25, looks=1)
QUIET = replace(TERMS, noise=dict.fromkeys(("docs", "docs where a = 1", paired_times.ALL), 0.02))


def group(name: str = "docs", n: int = 60, *, is_known: bool = False) -> Group:
    return Group(
        name=name,
        collection="docs",
        method="vector",
        k=K,
        questions=tuple(
            Question(id=f"q{at:04}", chunks=(at,) if is_known else (at, at + 1)) for at in range(n)
        ),
    )


def seen(of: Group, at: int, lost: int = 0) -> Seen:
    """A question that finds all but so many of its ten best chunks, and others in their place."""
    exact = [Found("docs", 1000 * at + place, "s", "b", 1.0 - place / 100) for place in range(K)]
    others = [Found("docs", 1000 * at + 500 + place, "s", "b", 0.1) for place in range(lost)]
    return asking.seen(of, of.questions[at], exact[: K - lost] + others, exact)


def side(
    groups: Sequence[Group],
    lost: Mapping[str, Sequence[int]] | None = None,
    ms: Mapping[str, float] | None = None,
    contents: int = 1,
) -> Side:
    losses = lost or {}
    drawn = np.random.default_rng(5)
    return Side(
        answers={
            one.name: {
                question.id: seen(one, at, losses.get(one.name, [0] * len(one.questions))[at])
                for at, question in enumerate(one.questions)
            }
            for one in groups
        },
        times={
            one.name: {
                question.id: (ms or {}).get(one.name, 2.0) * float(drawn.lognormal(0, 0.1))
                for question in one.questions
            }
            for one in groups
        },
        plans={},
        contents={"docs": [1, contents, 1]},
    )


def test_the_same_chunks_in_the_same_order_pass_at_the_first_rung() -> None:
    groups = (group(),)

    parts = gating.judged(groups, side(groups), side(groups), QUIET)
    said = gating.judgement(groups, side(groups), side(groups), parts, QUIET)

    assert (said.status, said.rung, said.overlap) == ("pass", "identical", 1.0)
    assert "same chunks in the same order" in said.reason


def test_the_same_chunks_of_other_contents_are_no_proof() -> None:
    groups = (group(),)

    assert not asking.is_identical(side(groups), side(groups, contents=2))


def test_what_a_filter_loses_is_not_thinned_out_by_the_rest() -> None:
    many, few = group("docs", 500), group("docs where a = 1", 40)
    lost = {few.name: [1] * 40}

    parts = gating.judged((many, few), side((many, few)), side((many, few), lost), QUIET)
    said = gating.judgement((many, few), side((many, few)), side((many, few), lost), parts, QUIET)

    assert said.status == "fail"
    failed = [row["metric"] for row in said.rows if row["status"] == "fail"]
    assert failed == ["ann_recall@10 [docs where a = 1]"]
    assert "was 1 and is 0.9" in said.reason


def test_fewer_rows_than_there_are_fail() -> None:
    one = group()
    exact = [Found("docs", place, "s", "b", 1.0 - place / 100) for place in range(K)]
    short = asking.seen(one, one.questions[0], exact[:3], exact)

    assert short.metrics == {"ann_recall@10": 0.3, "rows": 0.3}


def test_nothing_there_to_be_found_is_nothing_missed() -> None:
    one = group()

    assert asking.seen(one, one.questions[0], [], []).metrics == {"ann_recall@10": 1.0, "rows": 1.0}


def test_a_question_that_fails_fails_the_change_and_names_the_error() -> None:
    groups = (group(),)
    now = side(groups)
    broken = dict(now.answers["docs"]) | {"q0003": Seen(error="QueryCanceledError: too long")}
    now = replace(now, answers={"docs": broken})

    parts = gating.judged(groups, side(groups), now, QUIET)
    said = gating.judgement(groups, side(groups), now, parts, QUIET)

    assert said.status == "fail"
    assert "1 of 60 questions to docs failed: QueryCanceledError: too long" in said.reason


def test_a_known_chunk_counts_by_its_rank() -> None:
    one = group("words of docs", is_known=True)
    found = [Found("docs", chunk, "s", "b", 1.0) for chunk in (7, 0, 9)]

    assert asking.seen(one, one.questions[0], found, found).metrics["known_mrr@10"] == 0.5
    assert asking.seen(one, one.questions[3], found, found).metrics["known_mrr@10"] == 0.0


def test_a_slower_search_fails_on_its_middle_time() -> None:
    groups = (group(n=200),)

    parts = gating.judged(groups, side(groups), side(groups, ms={"docs": 3.2}), QUIET)

    assert (parts.quality, parts.latency) == ("pass", "fail")
    assert [row.metric for row in parts.rows if row.status == "fail"] == [
        "p50_ms [all questions]",
        "p50_ms [docs]",
    ]


def test_one_slow_group_fails_among_many_that_are_not() -> None:
    groups = (group(n=200), group("docs where a = 1", 100))

    parts = gating.judged(groups, side(groups), side(groups, ms={"docs where a = 1": 6.0}), QUIET)

    assert [row.metric for row in parts.rows if row.status == "fail"] == [
        "p50_ms [docs where a = 1]"
    ]


def test_a_noisy_group_decides_nothing_unless_its_plan_changed() -> None:
    groups = (group(n=200), group("docs where a = 1", 100))
    noisy = replace(QUIET, noise={**QUIET.noise, "docs where a = 1": 0.4})
    before = replace(side(groups), plans={"docs where a = 1": ("Index Scan on a",)})
    other = replace(before, plans={"docs where a = 1": ("Seq Scan on a",)})

    assert gating.judged(groups, before, before, noisy).latency == "pass"
    assert gating.judged(groups, before, other, noisy).latency == "inconclusive"


def test_a_machine_too_noisy_for_the_margin_decides_nothing_about_time() -> None:
    groups = (group(n=200),)
    noisy = replace(TERMS, noise={paired_times.ALL: 0.4, "docs": 0.4})

    for ms in (2.0, 3.2):
        parts = gating.judged(groups, side(groups), side(groups, ms={"docs": ms}), noisy)
        said = gating.judgement(groups, side(groups), side(groups), parts, noisy)
        assert (parts.quality, parts.latency) == ("pass", "inconclusive")
        assert said.is_too_noisy
        assert "more than the margin of 25.0%" in said.reason


def test_what_is_slower_far_beyond_all_noise_fails_on_any_machine() -> None:
    groups = (group(n=200),)
    noisy = replace(TERMS, noise={paired_times.ALL: 2.0, "docs": 2.0})

    parts = gating.judged(groups, side(groups), side(groups, ms={"docs": 20.0}), noisy)

    assert parts.latency == "fail"
    assert "two runs without a change differ by (200%)" in parts.rows[-1].reason


@pytest.mark.parametrize(("noise", "latency"), [(0.53, "pass"), (0.9, "inconclusive")])
def test_what_is_quicker_beyond_all_noise_passes_on_any_machine(noise: float, latency: str) -> None:
    # A third less time: 1.53 x as much of it is within the margin, 1.9 x is not.
    groups = (group(n=200),)
    noisy = replace(TERMS, noise={paired_times.ALL: noise, "docs": noise})

    parts = gating.judged(groups, side(groups), side(groups, ms={"docs": 2.0 * 0.67}), noisy)

    assert (parts.latency, bool(parts.too_noisy)) == (latency, latency != "pass")
    row = next(row for row in parts.rows if row.metric.startswith("p50_ms"))
    assert ("two runs without a change differ by (53%)" in row.reason) is (latency == "pass")
    assert row.difference == pytest.approx(-0.33, abs=0.02)


@pytest.mark.parametrize(("slower", "outcome"), [(1.05, "pass"), (3.0, "fail")])
def test_a_little_slower_may_stay_and_much_slower_may_not(slower: float, outcome: str) -> None:
    groups = (group(n=60), group("docs where a = 1", 60))
    ms = {one.name: 2.0 * slower for one in groups}

    parts = gating.judged(groups, side(groups), side(groups, ms=ms), QUIET)

    assert (parts.is_identical, parts.quality, parts.latency) == (True, "pass", outcome)


def test_one_question_of_a_hundred_that_fails_is_enough() -> None:
    groups = (group(n=100),)
    now = side(groups)
    broken = {**now.answers["docs"], "q0007": Seen(error="DatabaseError: out of memory")}

    parts = gating.judged(groups, side(groups), replace(now, answers={"docs": broken}), QUIET)

    assert parts.quality == "fail"


def test_without_known_noise_no_time_is_judged() -> None:
    groups = (group(n=200),)

    parts = gating.judged(groups, side(groups), side(groups), TERMS)

    assert parts.latency == "inconclusive"


def test_a_gain_in_time_never_pays_for_quality() -> None:
    groups = (group(),)

    parts = gating.judged(
        groups, side(groups), side(groups, {"docs": [2] * 60}, ms={"docs": 0.1}), QUIET
    )

    assert (parts.quality, parts.latency, parts.status) == ("fail", "pass", "fail")


def test_floors_are_held_in_every_group() -> None:
    groups = (group(), group("docs where a = 1"))
    floor = Policy(lines=(Line(metric="ann_recall@k", at_least=0.95),))
    lost = {one.name: [1] * 60 for one in groups}

    parts = gating.judged(
        groups, side(groups, lost), side(groups, lost), replace(QUIET, floors=floor)
    )

    failed = {row.metric for row in parts.rows if row.status == "fail"}
    assert failed == {"ann_recall@10 [docs]", "ann_recall@10 [docs where a = 1]"}


def test_a_changed_plan_is_said_and_fails_nothing() -> None:
    groups = (group(),)
    before = replace(side(groups), plans={"docs": ("Index Scan on embedding_hnsw",)})
    now = replace(side(groups), plans={"docs": ("Seq Scan on embedding",)})

    parts = gating.judged(groups, before, now, QUIET)
    said = gating.judgement(groups, before, now, parts, QUIET)

    assert said.status == "pass"
    assert "the plan of docs changed: Index Scan on embedding_hnsw became Seq Scan" in said.reason
    assert said.plans == {
        "docs before": ("Index Scan on embedding_hnsw",),
        "docs after": ("Seq Scan on embedding",),
    }


def test_few_questions_decide_nothing_unless_nothing_differs() -> None:
    groups = (group(n=12),)
    lost = {"docs": [3] * 12}

    assert gating.judged(groups, side(groups), side(groups, lost), QUIET).quality == "inconclusive"
    assert gating.judged(groups, side(groups), side(groups), QUIET).quality == "pass"


def test_repeated_figures_give_the_noise_of_their_means() -> None:
    repeats = {
        "docs": [{f"q{at}": ms * (1 + at) for at in range(40)} for ms in (2.0, 2.1, 1.9, 2.0)]
    }
    figures = paired_times.repeated_figures(repeats)
    assert figures["docs"] == figures[paired_times.ALL] == pytest.approx([1.0, 1.05, 0.95, 1.0])

    one, more = (paired_times.repeated_noise(figures, after)["docs"] for after in (1, 8))

    assert 0.05 < more < one < 0.5
    assert paired_times.repeated_noise({"docs": [2.0, 2.1]}, 2) == {}


def test_a_machine_that_others_began_to_use_is_a_noisy_one() -> None:
    noise = {paired_times.ALL: 0.05}

    assert paired_times.witnessed(noise, [0.2, 0.2], [0.2, 0.21]) == noise
    assert paired_times.witnessed(noise, [0.2, 0.2], [0.3, 0.3])[paired_times.ALL] == pytest.approx(
        0.5
    )
    assert paired_times.witnessed(noise, [0.3, 0.3], [0.2, 0.2])[paired_times.ALL] == pytest.approx(
        0.5
    )


def test_pairs_that_differ_by_nothing_have_no_noise() -> None:
    times = {"docs": {f"q{at}": 1.0 + at % 7 for at in range(100)}}
    slower = {"docs": {case: 1.3 * ms for case, ms in times["docs"].items()}}

    for widths in paired_times.paired_noise(times, times, 1):
        assert widths == pytest.approx({"docs": 0.0, paired_times.ALL: 0.0}, abs=1e-9)
    for widths in paired_times.paired_noise(times, slower, 1):
        assert widths == pytest.approx({"docs": 0.3, paired_times.ALL: 0.3}, abs=1e-6)


def test_sides_and_groups_come_back_from_plain_values() -> None:
    groups = (group(), group("words of docs", is_known=True))
    one = replace(side(groups), plans={"docs": ("Seq Scan on embedding",)})

    there = json.loads(json.dumps([asking.side_to_json(one), *map(asking.group_to_json, groups)]))

    assert asking.side_from_json(there[0]) == one
    assert tuple(map(asking.group_from_json, there[1:])) == groups


# -- laws ------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(0, 100), st.integers(0, 5))
def test_pairs_are_of_two_chunks_and_never_come_twice(size: int, count: int, seed: int) -> None:
    chunks = list(range(100, 100 + size))

    found = asking.pairs(chunks, count, seed)
    more = asking.pairs(chunks, count, seed + 1, found)

    assert len(found) == min(count, size * (size - 1) // 2)
    keys = [tuple(sorted(pair)) for pair in [*found, *more]]
    assert len(keys) == len(set(keys))
    assert all(one != other and {one, other} <= set(chunks) for one, other in keys)
    assert asking.pairs(chunks, count, seed) == found


losses = st.lists(st.integers(0, 3), min_size=60, max_size=60)


@settings(max_examples=8, deadline=None)
@given(losses, st.integers(0, 9))
def test_the_order_of_questions_does_not_matter_for_quality(lost: list[int], seed: int) -> None:
    one = group()
    order = list(range(60))
    random.Random(seed).shuffle(order)
    mixed = replace(one, questions=tuple(one.questions[at] for at in order))
    now = side((one,), {"docs": lost})

    first = gating.judged((one,), side((one,)), now, QUIET)
    other = gating.judged((mixed,), side((one,)), now, QUIET)

    assert first.quality == other.quality
    assert [row.p_worse for row in first.rows[:2]] == [row.p_worse for row in other.rows[:2]]


@settings(max_examples=8, deadline=None)
@given(losses)
def test_what_lost_the_same_before_passes(lost: list[int]) -> None:
    groups = (group(),)
    both = side(groups, {"docs": lost})

    assert gating.judged(groups, both, both, QUIET).quality == "pass"


@settings(max_examples=8, deadline=None)
@given(losses, st.lists(st.integers(0, 4), min_size=60, max_size=60))
def test_losing_more_never_turns_a_failure_into_a_pass(lost: list[int], more: list[int]) -> None:
    groups = (group(),)
    order = {"pass": 0, "inconclusive": 1, "fail": 2}
    worse = [a + b for a, b in zip(lost, more, strict=True)]

    first = gating.judged(groups, side(groups), side(groups, {"docs": lost}), QUIET)
    second = gating.judged(groups, side(groups), side(groups, {"docs": worse}), QUIET)

    if first.quality == "fail":
        assert second.quality != "pass"
    if not any(lost):
        assert order[first.quality] <= order[second.quality]

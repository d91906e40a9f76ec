"""Two runs side by side: pairs, lists, refusals and verdicts, without a database."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthetic_runs as made
from ragline.core import comparing
from ragline.core.policies import Line, Policy
from ragline.core.runs import CaseResult, Figure
from ragline.errors import UsageError
from ragline.evals import check, compare
from ragline.evals.compare import Comparison

METRICS = ("ndcg@10", "recall@10", "lex_f1", "lex_hallucination", "lex_self_knowledge")
COMPUTED = dict.fromkeys(("ndcg@10", "rows", "token_f1", "cited", "lex_f1"), 1.0)
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@st.composite
def cases_of_two_runs(draw: st.DrawFn) -> tuple[list[CaseResult], list[CaseResult]]:
    """Two runs of the same cases, which differ here and there, in one order each."""
    count = draw(st.integers(1, 12))
    sides = []
    for _ in range(2):
        side = [
            made.result(
                number,
                {name: draw(SHARES) for name in METRICS if draw(st.integers(0, 5))},
                chunks=draw(st.sampled_from([(1, 2, 3), (3, 2, 1), (4, 5, 6)])),
                answer=draw(st.sampled_from(["yes", "no", None])),
                ms=draw(st.floats(1, 50)),
            )
            for number in range(count)
        ]
        sides.append(draw(st.permutations(side)))
    return sides[0], sides[1]


def compared(before: Sequence[CaseResult], after: Sequence[CaseResult], **more: Any) -> Comparison:
    return compare.compared(
        made.run(1, before), made.run(2, after), before, after, cases=made.cases(before), **more
    )


def runs_of(n: int, metric: str, before: float, after: float) -> Comparison:
    """Compare `n` cases whose metric scatters around two means."""
    noise = random.Random(4)
    return compared(
        [made.result(i, {metric: before + noise.uniform(-0.1, 0.1)}) for i in range(n)],
        [
            made.result(i, {metric: after + noise.uniform(-0.1, 0.1)}, chunks=(1, 2, i + 3))
            for i in range(n)
        ],
    )


@given(cases_of_two_runs(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_cases_are_paired_by_their_id_whatever_their_order(
    sides: tuple[list[CaseResult], list[CaseResult]], shuffler: random.Random
) -> None:
    before, after = sides
    pairs = comparing.pairs(before, after)
    others = [list(side) for side in sides]
    for side in others:
        shuffler.shuffle(side)

    assert comparing.pairs(*others) == pairs
    assert {pair.before.case_id for pair in pairs} == {one.case_id for one in before}
    assert all(pair.before.case_id == pair.after.case_id for pair in pairs)


@given(cases_of_two_runs())
@settings(max_examples=200, deadline=None)
def test_every_case_is_in_exactly_one_list(
    sides: tuple[list[CaseResult], list[CaseResult]],
) -> None:
    before, after = sides
    found = comparing.changes(comparing.pairs(before, after), {})
    listed = [change.case_id for change in (*found.improved, *found.changed, *found.regressed)]

    assert len(listed) == len(set(listed))
    assert len(listed) + found.same == len(before)


@given(cases_of_two_runs())
@settings(max_examples=200, deadline=None)
def test_what_improved_one_way_regressed_the_other_way(
    sides: tuple[list[CaseResult], list[CaseResult]],
) -> None:
    before, after = sides
    there = comparing.changes(comparing.pairs(before, after), {})
    back = comparing.changes(comparing.pairs(after, before), {})

    assert {one.case_id for one in there.improved} == {one.case_id for one in back.regressed}
    assert {one.case_id for one in there.changed} == {one.case_id for one in back.changed}
    assert there.same == back.same


@given(cases_of_two_runs())
@settings(max_examples=30, deadline=None)
def test_a_comparison_does_not_depend_on_the_order_of_rows(
    sides: tuple[list[CaseResult], list[CaseResult]],
) -> None:
    before, after = sides
    if not set(comparing.per_case(before)) & set(comparing.per_case(after)) - {
        "search_ms",
        "lex_self_knowledge",
    }:
        return
    policy = Policy(lines=(Line(metric="lex_f1", margin=0.01, when="measured"),), resamples=1_000)
    one = compared(before, after, policy=policy)
    other = compared(before[::-1], after[::-1], policy=policy)

    assert (one.verdict, one.metrics, one.latencies) == (
        other.verdict,
        other.metrics,
        other.latencies,
    )
    assert one.changes == other.changes


@pytest.mark.parametrize(
    ("metric", "is_lower"),
    [
        ("ndcg@10", False),
        ("ann_recall@10", False),
        ("faithfulness", False),
        ("lex_faithfulness", False),
        ("rows", False),
        ("hallucination", True),
        ("lex_hallucination", True),
        ("noise_sensitivity_in_relevant", True),
        ("lex_noise_sensitivity_in_irrelevant", True),
        ("p95_ms", True),
        ("search_ms", True),
        ("eval_seconds", True),
        ("eval_cost_micro_usd", True),
    ],
)
def test_each_metric_has_its_better_side(metric: str, is_lower: bool) -> None:
    assert comparing.is_lower_better(metric) is is_lower


@pytest.mark.parametrize("metric", ["ndcg@10", "faithfulness"])
def test_less_of_what_should_be_high_fails_and_more_passes(metric: str) -> None:
    assert runs_of(100, metric, 0.8, 0.6).status == "fail"
    assert runs_of(100, metric, 0.6, 0.8).status == "pass"


@pytest.mark.parametrize(
    "metric",
    [
        *("hallucination", "lex_hallucination", "noise_sensitivity_in_relevant"),
        *("lex_noise_sensitivity_in_irrelevant",),
    ],
)
def test_more_of_what_should_be_low_fails_and_less_passes(metric: str) -> None:
    worse, better = runs_of(100, metric, 0.2, 0.4), runs_of(100, metric, 0.4, 0.2)

    assert worse.status == "fail"
    assert len(worse.changes.regressed) > len(worse.changes.improved)
    assert better.status == "pass"
    assert len(better.changes.improved) > len(better.changes.regressed)


def test_a_failed_metric_is_named_with_what_it_lost() -> None:
    found = runs_of(225, "recall@10", 0.8, 0.4)

    (row,) = found.verdict.rows
    assert (row.metric, row.status, row.n) == ("recall@10", "fail", 225)
    assert row.difference == pytest.approx(-0.4, abs=0.02)
    assert row.low is not None
    assert row.high is not None
    assert row.low < -0.35 < row.high + 0.1
    assert row.detectable is not None


def test_few_cases_decide_nothing() -> None:
    assert runs_of(15, "ndcg@10", 0.8, 0.6).status == "inconclusive"


def test_the_same_chunks_and_answers_pass_however_few_they_are() -> None:
    before = [made.result(i, {"f1": 0.5, "ndcg@10": 1.0}, ms=20) for i in range(3)]
    # A judge that samples, and a busy machine: neither is a change.
    after = [made.result(i, {"f1": 0.1, "ndcg@10": 1.0}, ms=90) for i in range(3)]
    found = compared(before, after)

    assert found.is_identical
    assert found.status == "pass"
    assert all("unchanged by construction" in row.reason for row in found.verdict.rows)
    assert found.overlap == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": (1, 3, 2)},
        {"chunks": (1, 2)},
        {"chunks": (1, 2, 4)},
        {"answer": "another answer"},
        {"answer": None},
        {"metrics": {**COMPUTED, "ndcg@10": 0.9}},
        {"metrics": {**COMPUTED, "rows": 0.5}},
        {"metrics": {**COMPUTED, "token_f1": 0.5}},
        {"metrics": {**COMPUTED, "cited": 0.0}},
        {"metrics": {**COMPUTED, "lex_f1": 0.5}},
    ],
)
def test_any_other_chunk_answer_or_computed_figure_is_a_change(change: dict[str, Any]) -> None:
    given_ = {"metrics": COMPUTED, **change}
    before = [made.result(i, COMPUTED) for i in range(3)]
    after = [before[0], made.result(1, **given_), before[2]]

    assert not comparing.is_identical(comparing.pairs(before, after))


def test_the_same_number_with_another_text_is_another_chunk() -> None:
    before = [made.result(0, {"ndcg@10": 1.0})]
    hits = (replace(before[0].hits[0], hash="f" * 16), *before[0].hits[1:])

    assert not comparing.is_identical(comparing.pairs(before, [replace(before[0], hits=hits)]))


def test_other_passages_below_the_same_answer_are_a_change() -> None:
    before = [made.result(0, {"lex_f1": 1.0}, chunks=())]
    after = [replace(before[0], contexts=("another passage",))]

    assert comparing.is_identical(comparing.pairs(before, before))
    assert not comparing.is_identical(comparing.pairs(before, after))


def test_nothing_compared_is_not_the_same() -> None:
    assert not comparing.is_identical([])


@pytest.mark.parametrize(
    ("former", "latter", "share"),
    [
        ((1, 2, 3), (3, 2, 1), 1.0),
        ((1, 2, 3), (4, 5, 6), 0.0),
        ((1, 2, 3, 4), (1, 2, 5, 6), 0.5),
        ((1, 2, 3, 4), (1,), 0.25),
        ((1,), (), 0.0),
        ((), (), None),
    ],
)
def test_overlap_is_the_share_of_chunks_in_common(
    former: tuple[int, ...], latter: tuple[int, ...], share: float | None
) -> None:
    pairs = comparing.pairs(
        [made.result(0, {}, chunks=former)], [made.result(0, {}, chunks=latter)]
    )

    assert comparing.overlap(10, pairs) == share


def test_overlap_counts_the_first_k_only() -> None:
    pairs = comparing.pairs(
        [made.result(0, {}, chunks=(1, 2, 3))], [made.result(0, {}, chunks=(1, 9, 2))]
    )

    assert comparing.overlap(1, pairs) == 1.0
    assert comparing.overlap(2, pairs) == 0.5


def test_the_most_telling_metric_decides_and_the_largest_loss_comes_first() -> None:
    before = [made.result(i, {"lex_f1": 0.8, "ndcg@10": 0.5}) for i in range(3)]
    after = [
        made.result(0, {"lex_f1": 0.7, "ndcg@10": 1.0}),
        made.result(1, {"lex_f1": 0.2, "ndcg@10": 1.0}),
        made.result(2, {"lex_f1": 0.8, "ndcg@10": 0.6}),
    ]
    found = compared(before, after).changes

    assert [(one.case_id, one.metric) for one in found.regressed] == [
        ("c1", "lex_f1"),
        ("c0", "lex_f1"),
    ]
    assert [(one.case_id, one.metric) for one in found.improved] == [("c2", "ndcg@10")]
    assert found.regressed[0].question == "What does c1 say?"


def test_other_chunks_with_the_same_figures_have_changed() -> None:
    found = comparing.changes(
        comparing.pairs(
            [made.result(0, {"ndcg@10": 1.0})], [made.result(0, {"ndcg@10": 1.0}, chunks=(1, 3))]
        ),
        {},
    )

    assert [(one.case_id, one.metric) for one in found.changed] == [("c0", None)]


def test_a_metric_that_only_one_run_has_judges_nothing() -> None:
    before = [made.result(i, {"ndcg@10": 0.5}) for i in range(3)]
    after = [made.result(i, {"ndcg@10": 0.5, "ann_recall@10": 0.1}) for i in range(3)]
    found = compared(before, after)

    assert [row.metric for row in found.verdict.rows] == ["ndcg@10"]
    assert found.changes.same == 3


def test_a_metric_that_the_run_has_lost_fails() -> None:
    before = [made.result(i, {"ndcg@10": 0.5, "cited": 1.0}) for i in range(40)]
    after = [made.result(i, {"cited": 1.0}) for i in range(40)]
    found = compared(before, after)

    assert [(row.metric, row.status) for row in found.verdict.rows] == [
        ("ndcg@10", "fail"),
        ("cited", "pass"),
    ]
    assert found.verdict.rows[0].reason.startswith("not measured; the run has cited")


def test_a_run_that_is_compared_with_itself_says_so() -> None:
    one = made.run(1, [made.result(0, {"ndcg@10": 0.5})])

    assert comparing.caveats(one, one) == (
        "run 1 is compared with itself: it cannot fail, and shows nothing",
    )
    assert comparing.caveats(one, replace(one, id=2)) == ()


def test_knowing_by_oneself_is_neither_better_nor_worse() -> None:
    before = [made.result(0, {"ndcg@10": 1.0, "self_knowledge": 0.0})]
    after = [made.result(0, {"ndcg@10": 1.0, "self_knowledge": 1.0})]
    found = compared(before, after)

    assert [row.metric for row in found.verdict.rows] == ["ndcg@10"]
    assert found.changes.same == 1
    assert "self_knowledge" in {one.metric for one in found.metrics}


def test_runs_without_a_common_metric_are_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"no metric in common.*--against-exact"):
        compared([made.result(0, {})], [made.result(0, {})])


def test_a_policy_judges_its_lines_and_the_others_are_shown() -> None:
    noise = random.Random(1)
    before = [made.result(i, {"ndcg@10": noise.random(), "recall@10": 1.0}) for i in range(60)]
    after = [replace(one, metrics={**one.metrics, "recall@10": 0.0}) for one in before]
    policy = Policy(lines=(Line(metric="ndcg@10", margin=0.01),))
    found = compared(before, after, policy=policy)

    assert found.status == "pass"
    assert [row.metric for row in found.verdict.rows] == ["ndcg@10"]
    (lost,) = [one for one in found.metrics if one.metric == "recall@10"]
    assert (lost.before, lost.after, lost.difference) == (1.0, 0.0, -1.0)


def test_latency_is_a_ratio_that_no_default_line_judges() -> None:
    noise = random.Random(2)
    before = [made.result(i, {"ndcg@10": 1.0}, ms=10 * noise.uniform(0.9, 1.1)) for i in range(60)]
    after = [
        made.result(i, {"ndcg@10": 1.0}, ms=20 * noise.uniform(0.9, 1.1), answer="other")
        for i in range(60)
    ]
    found = compared(before, after)
    half = next(one for one in found.latencies if one.metric == "p50_ms")

    assert found.status == "pass"
    assert half.ratio == pytest.approx(2.0, rel=0.05)
    assert half.low is not None
    assert half.high is not None
    assert half.low <= half.ratio <= half.high
    assert half.low > 1.5


def test_few_times_have_no_interval() -> None:
    results = [made.result(i, {"ndcg@10": 1.0}, ms=10 + i) for i in range(3)]
    (half, _) = compared(results, results).latencies

    assert (half.ratio, half.low, half.high) == (1.0, None, None)


def test_a_latency_line_needs_the_noise_of_the_machine() -> None:
    before = [made.result(i, {"ndcg@10": 1.0}, ms=10 + i % 3) for i in range(60)]
    after = [made.result(i, {"ndcg@10": 1.0}, ms=30 + i % 3) for i in range(60)]
    baseline = made.run(1, before, metrics={"p50_ms": Figure(value=11.0, n=60)})
    run = made.run(2, after, metrics={"p50_ms": Figure(value=31.0, n=60)})
    policy = Policy(lines=(Line(metric="p50_ms", margin=0.1, better="lower"),))

    def judged(noise: dict[str, float]) -> str:
        return compare.compared(
            baseline, run, before, after, cases={}, policy=policy, noise=noise
        ).status

    assert judged({}) == "inconclusive"
    assert judged({"p50_ms": 0.05}) == "fail"


def test_an_unknown_cost_keeps_no_ceiling() -> None:
    before = [made.result(i, {"ndcg@10": 1.0}) for i in range(3)]
    policy = Policy(lines=(Line(metric="eval_cost_micro_usd", at_most=1_000_000),))
    found = compared(before, before, policy=policy)

    assert found.status == "fail"
    assert "not known" in found.verdict.rows[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"state": "partial", "done": 1, "failed": 1},
            r"run 2 \(night-2\) is partial: 1 of 2.*--resume 2",
        ),
        ({"state": "running"}, "run 2 .* is running"),
        ({"dataset_hash": "c" * 64}, "dataset 'faq' changed between them .*aaaaaaaaaaaa and cccc"),
        ({"dataset_hash": "c" * 64, "dataset": "x"}, "two datasets, 'faq' and 'x'"),
        ({"judge_id": "llm:m@1"}, "two judges judged them, lexical-v1 and llm:m@1.*same judge"),
        ({"judge_id": None}, "lexical-v1 and none"),
        ({"settings": replace(made.SETTINGS, k=5)}, "k differs, 10 and 5.*`-k`"),
        (
            {"settings": replace(made.SETTINGS, answers="generated")},
            "answers differs, extractive and generated",
        ),
        (
            {"settings": replace(made.SETTINGS, contexts="fixed")},
            "contexts differs, live and fixed",
        ),
        ({"settings": replace(made.SETTINGS, match="stem")}, "match differs, auto and stem"),
    ],
)
def test_runs_that_make_no_pairs_are_refused_with_the_reason(
    change: dict[str, Any], reason: str
) -> None:
    results = [made.result(i, {"ndcg@10": 1.0}) for i in range(2)]
    baseline, run = made.run(1, results), made.run(2, results, **change)

    with pytest.raises(UsageError, match=reason) as refused:
        compare.refuse(baseline, run)
    assert refused.value.exit_code == 2
    # The other way round as well.
    with pytest.raises(UsageError):
        compare.refuse(run, baseline)


def test_every_reason_is_said_at_once() -> None:
    results = [made.result(i, {"ndcg@10": 1.0}) for i in range(2)]
    changed = made.run(2, results, judge_id=None, state="partial", dataset_hash="c" * 64)

    assert len(comparing.unmatched(made.run(1, results), changed)) == 3


def test_runs_that_differ_in_what_is_measured_on_purpose_are_compared() -> None:
    results = [made.result(i, {"ndcg@10": 1.0}) for i in range(2)]
    changed = made.run(2, results, settings=replace(made.SETTINGS, ef_search=1, method="vector"))

    compare.refuse(made.run(1, results), changed)


def test_what_was_found_out_and_what_was_said_may_be_the_same() -> None:
    results = [made.result(i, {"ndcg@10": 1.0}) for i in range(2)]
    named = replace(made.SETTINGS, match="name")
    found_out = made.run(1, results, provenance={"match": "name"})
    otherwise = made.run(2, results, provenance={"match": "stem"})

    compare.refuse(found_out, made.run(2, results, settings=named))
    compare.refuse(found_out, otherwise)
    with pytest.raises(UsageError, match="match differs, stem and name"):
        compare.refuse(otherwise, made.run(3, results, settings=named))


def test_other_collections_are_compared_and_said() -> None:
    results = [made.result(i, {"ndcg@10": 1.0}) for i in range(2)]
    other = made.run(2, results, settings=replace(made.SETTINGS, collections=("docs-new",)))
    found = compare.compared(made.run(1, results), other, results, results, cases={})

    (caveat,) = found.caveats
    assert caveat.startswith("the runs searched other collections, 'docs' and 'docs-new'")


def test_cases_on_one_side_only_are_refused() -> None:
    results = [made.result(i, {"ndcg@10": 1.0}) for i in range(3)]

    with pytest.raises(UsageError, match=r"1 cases are on one side only: 'c2'"):
        compared(results, results[:2])


def test_a_part_of_a_run_is_judged_by_no_line() -> None:
    results = [made.result(0, {"ndcg@10": 1.0})]

    with pytest.raises(
        UsageError, match=r"no line can judge a part of a dataset: run 1 .* is partial"
    ):
        check.refuse(made.run(1, results, state="partial"))

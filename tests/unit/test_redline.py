"""Red lines: what a policy may say, and what the gate makes of a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragline.core import policies as red_lines
from ragline.core import redline, stats
from ragline.core.policies import Line, Policy
from ragline.core.redline import Verdict
from ragline.core.redline_rows import Row, Values
from ragline.core.runs import Figure
from ragline.errors import NotFound, UsageError
from ragline.evals import policy as policies

LLM = "llm:openai/gpt-x@3f2a9c01b7de"


def policy(*lines: Line, looks: int = 1) -> Policy:
    return Policy(lines=lines, resamples=2_000, looks=looks)


def values(metric: str, *numbers: float) -> dict[str, dict[str, float]]:
    return {metric: {f"case{at:04}": number for at, number in enumerate(numbers)}}


def noisy(metric: str, n: int, mean: float, spread: float = 0.1) -> dict[str, dict[str, float]]:
    drawn = np.random.default_rng([n, round(mean * 1000)]).normal(mean, spread, n)
    return values(metric, *drawn.tolist())


def figures(now: Values) -> dict[str, Figure]:
    found = {
        name: Figure(value=sum(some.values()) / len(some), n=len(some))
        for name, some in now.items()
    }
    if times := tuple(now.get("search_ms", {}).values()):
        found["p95_ms"] = Figure(value=stats.quantile(times, 0.95), n=len(times))
    return found


def verdict(
    asked: Policy,
    now: Values,
    before: Values | None = None,
    *,
    judge: str | None = None,
    is_identical: bool = False,
    noise: Mapping[str, float] | None = None,
) -> Verdict:
    return redline.verdict(
        asked, figures(now), judge, now, before, is_identical=is_identical, noise=noise
    )


def row(found: Verdict) -> Row:
    (one,) = found.rows
    return one


RECALL = Line(metric="recall@10", margin=0.01)


def test_a_drop_beyond_the_margin_fails_and_says_how_large_it_is() -> None:
    found = verdict(policy(RECALL), noisy("recall@10", 225, 0.5), values("recall@10", *[0.6] * 225))
    one = row(found)

    assert found.status == one.status == "fail"
    assert one.reason.startswith("surely lower (p = ")
    assert one.difference == pytest.approx(-0.1, abs=0.03)
    assert one.value == pytest.approx(0.5, abs=0.03)
    assert one.baseline == pytest.approx(0.6)
    assert one.difference is not None
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.difference < one.high < 0
    assert one.n == 225
    assert one.detectable == pytest.approx(0.03, abs=0.01)


def test_a_run_that_is_surely_no_worse_passes() -> None:
    before = noisy("recall@10", 400, 0.5, 0.2)
    now = values("recall@10", *(value + 0.001 for value in before["recall@10"].values()))

    assert verdict(policy(RECALL), now, before).status == "pass"


def test_what_is_not_sure_is_inconclusive_and_names_what_could_have_been_seen() -> None:
    now, before = noisy("recall@10", 40, 0.5), noisy("recall@10", 40, 0.501)
    one = row(verdict(policy(RECALL), now, before))

    assert one.status == "inconclusive"
    assert "would have been found" in one.reason


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.05, 0.1, 0.5])
def test_fifteen_cases_decide_nothing(loss: float) -> None:
    before = values("recall@10", *[0.9] * 15)
    now = values("recall@10", *[0.9 - loss] * 15)
    found = verdict(policy(RECALL), now, before)

    assert found.status == "inconclusive"
    assert row(found).reason == "15 cases decide nothing; at least 30 are needed"


def test_the_same_contexts_and_answers_pass_with_any_number_of_cases() -> None:
    now = values("recall@10", 0.5, 1.0)
    found = verdict(policy(RECALL), now, now, is_identical=True)

    assert found.status == "pass"
    assert row(found).reason.startswith("unchanged by construction")


def test_unchanged_answers_do_not_excuse_a_metric_that_is_missing() -> None:
    found = verdict(policy(RECALL), {}, values("recall@10", 0.5), is_identical=True)

    assert found.status == "fail"


def test_where_no_case_differs_the_verdict_passes_and_says_what_it_could_not_see() -> None:
    now = values("recall@10", *[0.5, 1.0] * 15)
    one = row(verdict(policy(RECALL), now, now))

    assert one.status == "pass"
    assert one.reason.startswith("no case differs; a change of 0.125 ")
    assert one.detectable == pytest.approx(0.125, abs=0.002)


@pytest.mark.parametrize(("metric", "worst"), [("recall@10", 0.0), ("hallucination", 1.0)])
def test_what_was_bad_already_has_less_to_lose(metric: str, worst: float) -> None:
    line = Line(metric=metric, margin=0.01)

    def visible(good: int) -> float:
        now = values(
            metric, *[1 - worst] * good, *[worst + (0.1 if not worst else -0.1)] * (60 - good)
        )
        return row(verdict(policy(line), now, now)).detectable or 0

    assert visible(0) < 0.2 * visible(60)


def test_a_line_for_another_k_says_which_the_run_has() -> None:
    line = Line(metric="recall@5", margin=0.01, when="measured")
    now = values("recall@10", 0.5)

    assert row(verdict(policy(line), now, now)).reason == (
        "neither the run nor its baseline measures it; the run has recall@10"
    )


@pytest.mark.parametrize("metric", ["rows", "ann_recall@k", "cited", "lex_containment", "p99_ms"])
def test_every_metric_of_a_run_can_have_a_line(metric: str) -> None:
    made = red_lines.policy(f'[[line]]\nmetric = "{metric}"\nat_most = 0.5\n', "mine.toml")

    assert made.lines[0].metric == metric


def test_a_share_that_no_case_broke_may_still_be_below_its_floor() -> None:
    line = Line(metric="hit@10", at_least=0.95)
    one = row(verdict(policy(line), values("hit@10", *[1.0] * 30)))

    # Of a system that is right in 0.884 of all cases, 30 are all right in 1 of 40 samples.
    assert one.status == "pass"
    assert one.low == pytest.approx(0.025 ** (1 / 30))
    assert one.high == 1.0
    assert "the limit is within the 95 % interval" in one.reason


def test_rounding_breaks_no_floor_and_no_ceiling() -> None:
    now = values("f1", 0.1, 0.1, 0.1, 0.2, 0.2, 0.5)
    bounds = (Line(metric="f1", at_least=0.2), Line(metric="f1", at_most=0.2 - 1e-14))
    found = redline.verdict(policy(*bounds), figures(now), None, now, None, is_identical=False)

    assert [one.status for one in found.rows] == ["pass", "pass"]


def test_a_judge_that_says_another_thing_of_the_same_is_named() -> None:
    one = row(
        verdict(
            policy(Line(metric="f1", margin=0)),
            values("f1", 0.2),
            values("f1", 0.3),
            is_identical=True,
        )
    )

    assert one.status == "pass"
    assert one.reason.endswith("the same answers; the judge said another thing of them")


def test_rounding_is_no_difference() -> None:
    before = values("recall@10", *[0.1 + 0.2] * 40)
    one = row(verdict(policy(RECALL), values("recall@10", *[0.3] * 40), before))

    assert one.reason.startswith("no case differs")


def test_more_of_what_should_be_little_fails() -> None:
    line = Line(metric="hallucination", margin=0.01)
    before = noisy("hallucination", 225, 0.1)
    now = noisy("hallucination", 225, 0.2)
    one = row(verdict(policy(line), now, before))

    assert one.status == "fail"
    assert one.reason.startswith("surely higher")
    assert one.difference == pytest.approx(0.1, abs=0.03)
    assert one.low is not None
    assert one.low > 0
    assert verdict(policy(line), before, now).status == "pass"


def test_a_missing_metric_fails_and_the_row_says_what_the_run_has() -> None:
    one = row(verdict(policy(RECALL), noisy("ndcg@10", 40, 0.5), noisy("recall@10", 40, 0.5)))

    assert one.status == "fail"
    assert one.reason == "not measured; the run has ndcg@10"


def test_cases_that_failed_are_not_left_out() -> None:
    now = noisy("recall@10", 40, 0.5)
    measured = {"recall@10": Figure(value=0.5, n=37, missing=3)}
    found = redline.verdict(policy(RECALL), measured, None, now, now, is_identical=False)

    assert found.status == "fail"
    assert row(found).reason == "not measured in 3 of 40 cases; see their errors"


def test_a_case_that_only_the_baseline_measured_fails() -> None:
    one = row(verdict(policy(RECALL), noisy("recall@10", 39, 0.5), noisy("recall@10", 40, 0.5)))

    assert one.status == "fail"
    assert one.reason == "the run does not measure it in 1 of 40 cases, as in case0039"


def test_without_a_baseline_a_relative_line_fails() -> None:
    one = row(verdict(policy(RECALL), noisy("recall@10", 40, 0.5)))

    assert one.status == "fail"
    assert one.reason == "there is no baseline to compare with; name one with `--against`"
    assert one.value == pytest.approx(0.5, abs=0.05)
    assert one.n == 40


def test_a_floor_is_held_against_the_figure_itself() -> None:
    floor = Line(metric="f1", at_least=0.159)
    now = noisy("f1", 15, 0.17, 0.2)
    mean = figures(now)["f1"].value
    kept = row(verdict(policy(replace(floor, at_least=mean)), now))
    broken = row(verdict(policy(replace(floor, at_least=mean + 0.001)), now))

    assert kept.status == "pass"
    assert broken.status == "fail"
    assert broken.reason.startswith(f"{mean:.4g} < {mean + 0.001:g}; the limit is within the 95 %")
    assert kept.reason.startswith("the limit is within the 95 % interval: 15 cases tell only 0.")
    assert kept.low is not None
    assert kept.high is not None
    assert kept.low < mean < kept.high


@pytest.mark.parametrize("numbers", [[1.0] * 39 + [0.5], [0.0] * 39 + [0.5]])
def test_no_share_is_said_to_lie_outside_0_to_1(numbers: list[float]) -> None:
    one = row(verdict(policy(Line(metric="f1", at_least=0.0)), values("f1", *numbers)))

    assert one.low is not None
    assert one.high is not None
    assert 0 <= one.low < one.high <= 1


def test_a_limit_far_away_needs_no_word() -> None:
    assert row(verdict(policy(Line(metric="f1", at_least=0.1)), noisy("f1", 100, 0.9))).reason == ""


@pytest.mark.parametrize("metric", ["eval_seconds", "eval_cost_micro_usd", "p95_ms"])
def test_ceilings_are_kept_broken_or_not_known(metric: str) -> None:
    line = policy(Line(metric=metric, at_most=100))

    def status(*figure: tuple[str, Figure | None]) -> str:
        return redline.verdict(line, dict(figure), None, {}, None, is_identical=False).status

    assert status((metric, Figure(value=100, n=1))) == "pass"
    assert status((metric, Figure(value=100.1, n=1))) == "fail"
    assert status((metric, None)) == "fail"
    assert status() == "fail"


def test_an_unknown_cost_is_not_counted_as_nothing() -> None:
    line = Line(metric="eval_cost_micro_usd", at_most=10**9, when="measured")
    found = redline.verdict(
        policy(line), {"eval_cost_micro_usd": None}, None, {}, None, is_identical=False
    )

    assert row(found).reason == "not known, so it may be above any limit"


@pytest.mark.parametrize(
    ("judge", "status"),
    [(LLM, "pass"), ("imported:0123456789ab", "pass"), ("lexical-v1", "fail"), (None, "fail")],
)
def test_only_the_judge_of_a_line_can_keep_it(judge: str | None, status: str) -> None:
    line = Line(metric="f1", at_least=0.159, judges=("llm:*", "imported:*"))
    found = verdict(policy(line), noisy("f1", 40, 0.5), judge=judge)

    assert found.status == status
    assert found.judge_id == judge
    if status == "fail":
        assert "asks for llm:* or imported:*" in row(found).reason


def test_k_is_that_of_the_run() -> None:
    line = Line(metric="recall@k", margin=0.01)
    now = noisy("recall@5", 40, 0.5)
    found = row(verdict(policy(line), now | noisy("ann_recall@5", 40, 0.5), now))

    assert (found.metric, found.status) == ("recall@5", "pass")
    assert found.line == "recall@5 not lower by more than 0.01"


def test_two_k_in_one_run_ask_for_a_choice() -> None:
    now = noisy("recall@5", 40, 0.5) | noisy("recall@10", 40, 0.5)
    one = row(verdict(policy(Line(metric="recall@k", margin=0.01)), now, now))

    assert one.status == "fail"
    assert one.reason == "the run has recall@10 and recall@5; name one of them in the policy"


def test_a_line_for_what_nobody_measures_is_not_judged_and_the_verdict_says_so() -> None:
    now = noisy("recall@10", 40, 0.5)
    claims = Line(metric="f1", margin=0.01, when="measured")
    found = verdict(policy(RECALL, claims), now, now)

    assert found.status == "pass"
    assert found.reason == "1 pass, 1 not judged"
    assert found.rows[1].status == "not judged"


def test_a_line_for_what_only_the_baseline_measures_fails() -> None:
    now, f1 = noisy("recall@10", 40, 0.5), noisy("f1", 40, 0.5)
    claims = Line(metric="f1", margin=0.01, when="measured")

    assert verdict(policy(RECALL, claims), now, now | f1).status == "fail"


def test_a_verdict_on_nothing_is_no_pass() -> None:
    found = verdict(policy(replace(RECALL, when="measured")), noisy("f1", 40, 0.5), {})

    assert found.status == "fail"
    assert found.reason.startswith("no line could be judged")


def test_one_line_that_fails_outweighs_all_others() -> None:
    now = noisy("recall@10", 40, 0.5) | noisy("f1", 40, 0.5)
    unsure = Line(metric="p95_ms", margin=0.1)
    times = values("search_ms", *[5.0] * 40)
    broken = Line(metric="f1", at_least=0.9)

    assert verdict(policy(RECALL, unsure), now | times, now | times).status == "inconclusive"
    assert verdict(policy(RECALL, unsure, broken), now | times, now | times).status == "fail"


def test_an_alarm_is_shared_by_all_lines_and_looks() -> None:
    now = noisy("recall@10", 100, 0.5)
    gains = np.random.default_rng(2).normal(0.028, 0.1, 100).tolist()
    pairs = zip(now["recall@10"].values(), gains, strict=True)
    before = values("recall@10", *(value + gain for value, gain in pairs))
    same = {f"m{at}": now["recall@10"] for at in range(30)}
    others = tuple(Line(metric=name, margin=0.01) for name in same)
    one = row(verdict(policy(RECALL), now, before))

    assert one.p_worse == pytest.approx(0.01, abs=0.008)
    assert one.status == "fail"
    assert verdict(policy(RECALL, *others), now | same, before | same).status == "inconclusive"
    assert verdict(policy(RECALL, looks=60), now, before).status == "inconclusive"


def test_a_margin_of_nothing_says_what_it_can_show() -> None:
    line = Line(metric="recall@10", margin=0)
    one = row(verdict(policy(line), noisy("recall@10", 40, 0.5), noisy("recall@10", 40, 0.501)))

    assert one.status == "inconclusive"
    assert one.reason.startswith("a margin of 0 passes what is surely better, or the same")


def latency(factor: float, noise: float | None, n: int = 225) -> Row:
    base = np.random.default_rng(0).lognormal(2, 0.4, n)
    jitter = np.random.default_rng(1).lognormal(0, 0.05, n)
    now = values("search_ms", *(base * jitter * factor).tolist())
    before = values("search_ms", *base.tolist())
    known = {} if noise is None else {"p95_ms": noise}
    return row(verdict(policy(Line(metric="p95_ms", margin=0.1)), now, before, noise=known))


def test_a_latency_is_judged_by_its_ratio() -> None:
    slower, same = latency(1.5, 0.05), latency(1.0, 0.02)

    assert slower.status == "fail"
    assert slower.is_ratio
    assert slower.unit == "ms"
    assert slower.difference == pytest.approx(0.5, abs=0.1)
    assert slower.difference is not None
    assert slower.low is not None
    assert slower.high is not None
    assert 0 < slower.low < slower.difference < slower.high
    assert same.status == "pass"


def test_a_machine_that_is_too_noisy_decides_nothing_and_says_so() -> None:
    one = latency(1.5, 0.2)

    assert one.status == "inconclusive"
    assert one.reason.startswith("two runs without a change lie up to 20.0% apart")


def test_a_machine_whose_noise_nobody_measured_decides_nothing() -> None:
    assert latency(1.5, None).status == "inconclusive"
    assert "ragline eval noise" in latency(1.5, None).reason


def test_a_clear_slowdown_is_found_among_many_lines() -> None:
    times = np.random.default_rng(0).lognormal(2, 0.4, 225)
    same = {f"m{at}": noisy("x", 225, 0.5)["x"] for at in range(24)}
    lines = (Line(metric=name, margin=0.01) for name in same)
    now, before = (values("search_ms", *some.tolist()) for some in (times * 1.5, times))
    found = verdict(
        policy(Line(metric="p95_ms", margin=0.1), *lines),
        now | same,
        before | same,
        noise={"p95_ms": 0.05},
    )

    assert [one.metric for one in found.rows if one.status == "fail"] == ["p95_ms"]


def test_few_cases_decide_nothing_about_a_latency() -> None:
    assert latency(1.5, 0.05, n=15).status == "inconclusive"


def test_unchanged_answers_do_not_excuse_a_latency() -> None:
    now, before = values("search_ms", *[9.0] * 40), values("search_ms", *[5.0] * 40)
    line = policy(Line(metric="p95_ms", margin=0.1))
    found = verdict(line, now, before, is_identical=True, noise={"p95_ms": 0.01})

    assert found.status == "fail"


# What is nearer than 1e-12 counts as the same.
share = st.floats(0, 1).map(lambda value: round(value, 6))
shares = st.lists(st.tuples(share, share), min_size=30, max_size=60)


@settings(max_examples=40)
@given(shares, st.integers(0, 2**32 - 1))
def test_the_order_of_cases_changes_no_verdict(pairs: list[tuple[float, float]], seed: int) -> None:
    now = values("recall@10", *(pair[0] for pair in pairs))
    before = values("recall@10", *(pair[1] for pair in pairs))
    mixed = random.Random(seed).sample(list(now["recall@10"].items()), len(pairs))
    asked = policy(RECALL)

    assert verdict(asked, {"recall@10": dict(mixed)}, before) == verdict(asked, now, before)


@settings(max_examples=40)
@given(shares)
def test_no_run_is_worse_than_another_that_is_worse_than_it(
    pairs: list[tuple[float, float]],
) -> None:
    one = values("recall@10", *(pair[0] for pair in pairs))
    other = values("recall@10", *(pair[1] for pair in pairs))
    asked = policy(replace(RECALL, margin=0))
    forth, back = verdict(asked, one, other).status, verdict(asked, other, one).status

    if one == other:
        assert forth == back == "pass"
    else:
        mirrored = {"pass": "fail", "fail": "pass", "inconclusive": "inconclusive"}
        assert back == mirrored[forth]


GOOD = '[[line]]\nmetric = "recall@10"\nmargin = 0.01\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[line]\n", "mine.toml is not TOML: "),
        ("", "mine.toml has no red line; write at least one table under [[line]]"),
        ('line = "f1"', "mine.toml has no red line"),
        ("line = [3]", "mine.toml, line 1 is 3; write a table under [[line]]"),
        ("alfa = 0.05\n" + GOOD, "mine.toml: alfa is 0.05, and there is no such key; write one of"),
        ("alpha = 5\n" + GOOD, "mine.toml: alpha is 5; write a share from 0.0001 to 0.2, as 0.05"),
        ("minimum = 3\n" + GOOD, "mine.toml: minimum is 3; write a whole number from 10 to"),
        ("looks = true\n" + GOOD, "mine.toml: looks is True; write a whole number from 1 to 1,000"),
        (
            "looks = 30\n" + GOOD,
            "resamples is 10,000, too few to see a p-value of 0.05 shared by 30",
        ),
        (GOOD + "magrin = 1\n", "line 1 (recall@10): magrin is 1, and there is no such key"),
        (
            GOOD + "at_least = 0.5\n",
            "line 1 (recall@10) has at_least and margin; write exactly one",
        ),
        (
            '[[line]]\nmetric = "f1"\n',
            "line 1 (f1) has none of them; write exactly one of at_least",
        ),
        (
            "[[line]]\nmargin = 0.01\n",
            'line 1: metric is None; write the name of one, as "recall@10"',
        ),
        (
            '[[line]]\nmetric = "Recall @ 10"\nmargin = 0\n',
            "metric is 'Recall @ 10'; write the name",
        ),
        ('[[line]]\nmetric = "f1"\nmargin = 1.5\n', "margin is 1.5; write a number from 0 to 0.5"),
        (
            '[[line]]\nmetric = "f1"\nmargin = -0.1\n',
            "margin is -0.1; write a number from 0 to 0.5",
        ),
        ('[[line]]\nmetric = "f1"\nmargin = 1\n', "margin is 1; write a number from 0 to 0.5"),
        (
            '[[line]]\nmetric = "recal@10"\nmargin = 0\nwhen = "measured"\n',
            "metric is 'recal@10', and no run measures that; write recall@k",
        ),
        ('[[line]]\nmetric = "f1@10"\nat_least = 0\n', "no run measures that; write f1"),
        (
            '[[line]]\nmetric = "p95_ms"\nmargin = 10\n',
            "margin is 10; write a number from 0 to 0.5, as 0.1 for a tenth slower",
        ),
        ('[[line]]\nmetric = "f1"\nmargin = nan\n', "margin is nan; write a number from 0 to 0.5"),
        (
            '[[line]]\nmetric = "f1"\nat_least = 85\n',
            "at_least is 85; write a number from 0 to 1, as",
        ),
        (
            '[[line]]\nmetric = "f1"\nat_least = "x"\n',
            "at_least is 'x'; write a number from 0 to 1",
        ),
        ('[[line]]\nmetric = "p95_ms"\nat_least = 9\n', "for p95_ms write a ceiling, at_most"),
        ('[[line]]\nmetric = "p95_ms"\nat_most = inf\n', "at_most is inf; write a number above 0"),
        ('[[line]]\nmetric = "eval_seconds"\nmargin = 0.1\n', "there is one eval_seconds in a run"),
        (
            '[[line]]\nmetric = "search_ms"\nmargin = 0.1\n',
            "search_ms is no quantile; write p50_ms",
        ),
        (GOOD + "judge = 3\n", 'judge is 3; write a pattern, as "llm:*", or a list'),
        (GOOD + "judge = []\n", "judge is []; write a pattern"),
        (GOOD + 'when = "sometimes"\n', 'when is \'sometimes\'; write "always" or "measured"'),
        (GOOD + 'better = "yes"\n', 'better is \'yes\'; write "higher" or "lower"'),
        (
            '[[line]]\nmetric = "self_knowledge"\nmargin = 0\n',
            "better is missing, and self_knowledge",
        ),
        (
            '[[line]]\nmetric = "f1"\nat_least = 0.5\nbetter = "lower"\n',
            "better is 'lower', but at_least says it; remove it",
        ),
        (
            GOOD + '[[line]]\nmetric = "recall@10"\nmargin = 0.02\n',
            "line 2 (recall@10): margin is 0.02, and line 1 says 0.01; keep one of them",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_file_line_key_and_value(
    text: str, said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        red_lines.policy(text, "mine.toml")

    assert said in str(refused.value)
    assert str(refused.value).startswith("mine.toml")


def test_a_policy_reads_as_it_is_written() -> None:
    text = (
        "alpha = 0.1\nminimum = 50\nresamples = 5000\nseed = 7\nlooks = 2\n"
        '[[line]]\nmetric = "f1"\nat_least = 0.5\njudge = "llm:*"\n'
        '[[line]]\nmetric = "f1"\nat_least = 0.4\njudge = ["imported:*"]\n'
        '[[line]]\nmetric = "p95_ms"\nat_most = 200\n'
        '[[line]]\nmetric = "self_knowledge"\nmargin = 0\nbetter = "lower"\nwhen = "measured"\n'
    )

    assert red_lines.policy(text, "mine.toml") == Policy(
        lines=(
            Line(metric="f1", at_least=0.5, judges=("llm:*",)),
            Line(metric="f1", at_least=0.4, judges=("imported:*",)),
            Line(metric="p95_ms", at_most=200),
            Line(metric="self_knowledge", margin=0, better="lower", when="measured"),
        ),
        alpha=0.1,
        minimum=50,
        resamples=5000,
        seed=7,
        looks=2,
    )


def test_every_shipped_policy_can_be_read_and_has_comments() -> None:
    for name in red_lines.PRESETS:
        assert policies.load(name).lines
        assert policies.text(name).startswith("# ")


def test_the_floors_of_the_presets_are_those_that_users_gave() -> None:
    def floors(name: str) -> dict[str, float | None]:
        return {line.metric: line.at_least for line in policies.load(name).lines}

    assert floors("ragchecker-floor") == {"precision": 0.159, "recall": 0.166, "f1": 0.159}
    assert floors("faithful") == {
        "faithfulness": 0.85,
        "context_precision": 0.75,
        "claim_recall": 0.70,
    }
    for name in ("ragchecker-floor", "faithful"):
        assert all(line.judges and line.when == "always" for line in policies.load(name).lines)


def test_the_default_policy_judges_a_plain_search_with_any_k() -> None:
    now = noisy("recall@7", 40, 0.5) | noisy("ndcg@7", 40, 0.5) | noisy("rows", 40, 0.5)
    found = verdict(policies.load("default"), now, now)

    assert found.status == "pass"
    assert found.reason == "3 pass, 5 not judged"


def test_a_policy_comes_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)

    assert policies.load(str(file)).lines == (RECALL,)


@pytest.mark.parametrize("read", [policies.load, policies.text])
def test_a_policy_that_is_nowhere_names_those_that_are(read: Callable[[str], object]) -> None:
    with pytest.raises(NotFound, match="default, ragchecker-floor, faithful"):
        read("strict")


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match=r"mine\.toml cannot be read"):
        policies.load(str(file))

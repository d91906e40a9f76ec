"""Laws of the statistics behind a verdict, and how often they are wrong."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ragline.core import stats
from ragline.errors import UsageError

DRAWS = 500
differences = st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=2, max_size=80)
p_values = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1), max_size=8)


def judged(
    values: stats.Numbers, *, margin: float = 0.0, seed: int = 1, minimum: int = 30
) -> stats.Test:
    return stats.noninferior(
        values, margin=margin, alpha=0.05, seed=seed, resamples=DRAWS, minimum=minimum
    )


@given(differences, st.integers(0, 2**32 - 1))
def test_the_order_of_cases_changes_nothing(values: list[float], seed: int) -> None:
    shuffled = random.Random(seed).sample(values, len(values))

    assert judged(shuffled, margin=0.01) == judged(values, margin=0.01)


@given(differences, st.integers(0, 2**32 - 1))
def test_the_same_seed_gives_the_same_result(values: list[float], seed: int) -> None:
    assert judged(values, seed=seed) == judged(values, seed=seed)


def test_another_seed_draws_other_cases() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, 50)

    assert stats.paired(values, seed=1, resamples=DRAWS) != stats.paired(
        values, seed=2, resamples=DRAWS
    )


@given(differences)
def test_turning_the_runs_round_mirrors_the_result(values: list[float]) -> None:
    forth, back = judged(values), judged([-value for value in values])

    assert back.mean == -forth.mean
    assert forth.low is not None
    assert forth.high is not None
    assert back.low == pytest.approx(-forth.high, abs=1e-12)
    assert back.high == pytest.approx(-forth.low, abs=1e-12)
    assert back.p_worse == pytest.approx(forth.p_not_worse, abs=1e-9)


@given(differences, st.floats(-1, 1))
def test_a_constant_added_to_every_difference_shifts_the_interval(
    values: list[float], by: float
) -> None:
    one = stats.paired(values, seed=1, resamples=DRAWS)
    other = stats.paired([value + by for value in values], seed=1, resamples=DRAWS)

    assert one.low is not None
    assert one.high is not None
    assert one.se == pytest.approx(other.se, abs=1e-9)
    assert other.mean == pytest.approx(one.mean + by, abs=1e-9)
    assert other.low == pytest.approx(one.low + by, abs=1e-9)
    assert other.high == pytest.approx(one.high + by, abs=1e-9)


@given(differences, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_wider_margin_is_never_harder_to_keep(
    values: list[float], one: float, other: float
) -> None:
    narrow, wide = sorted((one, other))
    order = ["fail", "inconclusive", "pass"]
    strict = judged(values, margin=narrow, minimum=2).verdict
    mild = judged(values, margin=wide, minimum=2).verdict

    assert order.index(strict) <= order.index(mild)


@given(differences)
def test_the_interval_holds_the_mean(values: list[float]) -> None:
    one = stats.paired(values, seed=1, resamples=DRAWS)

    assert one.low is not None
    assert one.high is not None
    assert one.low <= one.mean + 1e-12
    assert one.mean <= one.high + 1e-12


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=29), st.floats(0, 1))
def test_fewer_cases_than_the_minimum_decide_nothing(values: list[float], margin: float) -> None:
    assert judged(values, margin=margin).verdict == "inconclusive"


@pytest.mark.parametrize("spread", [1e-143, 1e-200, 5e-324])
def test_a_spread_of_next_to_nothing_is_no_reason_to_break(spread: float) -> None:
    assert judged([0.0, spread], margin=1.0).verdict == "inconclusive"
    assert judged([-0.5, -0.5 + spread] * 20, margin=0.01).verdict == "fail"


def test_a_drop_that_every_case_shows_fails_from_the_minimum_on() -> None:
    assert judged([-0.5] * 29, margin=0.01).verdict == "inconclusive"
    assert judged([-0.5] * 30, margin=0.01).verdict == "fail"


def test_where_no_case_differs_nothing_got_worse() -> None:
    same = judged([0.0] * 30)

    assert same.verdict == "pass"
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_a_sure_loss_within_the_margin_does_not_fail() -> None:
    values = np.random.default_rng(0).normal(-0.005, 0.005, 400)

    assert judged(values, margin=0.0).verdict == "fail"
    assert judged(values, margin=0.01).verdict == "pass"


def test_a_single_case_has_no_interval() -> None:
    one = stats.paired([0.25], seed=1)

    assert (one.n, one.mean, one.low, one.high, one.se) == (1, 0.25, None, None, None)


def test_a_smaller_sample_sees_only_larger_drops() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, 1_000)
    seen = [judged(values[:n], margin=0.01).detectable or 0 for n in (30, 100, 300, 1_000)]

    assert seen == sorted(seen, reverse=True)
    assert 0.01 < seen[-1] < seen[0] < 0.2


@pytest.mark.parametrize(
    ("n", "margin", "spread"),
    [(30, 0.01, 0.0), (60, 0.01, 0.0), (225, 0.01, 0.0), (225, 0.01, 0.1), (100, 0.05, 0.1)],
)
def test_the_smallest_visible_drop_is_found_four_times_in_five_however_it_is_spread(
    n: int, margin: float, spread: float
) -> None:
    generator = np.random.default_rng(0)

    def noise() -> stats.Floats:
        return generator.normal(0, spread, n)

    drop = judged(noise(), margin=margin).detectable or 0
    # A few cases lose all, the others nothing; or each loses the same.
    found, shared = (
        sum(judged(noise() - lost(), margin=margin).verdict == "fail" for _ in range(400)) / 400
        for lost in (lambda: generator.random(n) < drop, lambda: drop)
    )

    assert 0.7 < found < 0.9
    assert shared > 0.8


@pytest.mark.parametrize("n", [60, 225])
def test_many_small_losses_and_few_large_gains_seldom_look_like_a_loss(n: int) -> None:
    generator = np.random.default_rng(0)
    failed = 0
    for _ in range(200):
        # Eight metrics that gain 0.45 in a case of 10 and lose 0.05 in the others: 0 on average.
        columns = [np.where(generator.random(n) < 0.1, 0.45, -0.05) for _ in range(8)]
        drawn = stats.resampled(columns, seed=1, resamples=DRAWS)
        level = 0.05 / len(columns)
        failed += any(one.mean < -0.01 and one.p_at_least(0.0) <= level for one in drawn)

    assert failed / 200 < 0.08


def test_what_no_loss_would_show_has_no_visible_drop() -> None:
    assert judged([0.0, 0.0], margin=0.01).detectable is None


def test_a_ratio_that_never_varies_shows_its_margin() -> None:
    same = stats.block_bootstrap([7.0] * 40, [7.0] * 40, share=0.5, seed=1, resamples=DRAWS)

    assert stats.visible(same, margin=0.1, level=0.05, largest=0.0) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["flips", "all or nothing", "graded"])
def test_comparisons_without_a_difference_seldom_fail(kind: str) -> None:
    generator = np.random.default_rng(0)
    failed = passed = 0
    for _ in range(800):
        values = null(kind, generator)
        failed += judged(values).verdict == "fail"
        passed += judged(values, margin=0.0).verdict == "pass"

    # 5 % each way; 800 comparisons put the upper end of chance at 6.6 %.
    assert failed / 800 < 0.066
    assert passed / 800 < 0.066


def null(kind: str, generator: np.random.Generator) -> stats.Floats:
    if kind == "flips":
        return np.asarray((generator.binomial(8, 0.05, 60) - generator.binomial(8, 0.05, 60)) / 8)
    if kind == "all or nothing":
        return generator.choice([-1.0, 0.0, 1.0], p=[0.04, 0.92, 0.04], size=225)
    return generator.normal(0, 0.1, 40)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(800):
        one = stats.paired(generator.normal(0.03, 0.1, 30), seed=1, resamples=DRAWS)
        held += (one.low or 0) <= 0.03 <= (one.high or 0)

    assert 0.93 < held / 800 < 0.98


def test_the_draws_have_the_spread_of_the_mean() -> None:
    values = np.random.default_rng(0).gamma(1.0, 0.1, 200)
    (one,) = stats.resampled([values], seed=1, resamples=20_000)

    assert one.values.std() == pytest.approx(values.std() / math.sqrt(200), rel=0.02)
    assert one.values.mean() == pytest.approx(values.mean(), abs=1e-4)


def test_columns_of_several_lengths_come_back_in_their_order() -> None:
    columns = [[0.1] * 5, [0.2] * 3, [0.3] * 5]
    found = stats.resampled(columns, seed=1, resamples=DRAWS)

    assert [round(one.mean, 9) for one in found] == [0.1, 0.2, 0.3]
    assert [one.n for one in found] == [5, 3, 5]


def test_what_stands_beside_a_column_does_not_change_it() -> None:
    one = np.random.default_rng(0).normal(0, 0.1, 40)
    (alone,) = stats.resampled([one], seed=1, resamples=DRAWS)
    together = stats.resampled([one**2, one, one[:9]], seed=1, resamples=DRAWS)[1]

    assert alone.interval() == pytest.approx(together.interval(), abs=1e-12)


@pytest.mark.parametrize("values", [[], [math.nan, 0.1], [math.inf]])
def test_what_was_not_measured_is_no_difference(values: list[float]) -> None:
    with pytest.raises(UsageError, match="a difference"):
        stats.paired(values, seed=1)


@given(p_values, st.floats(0.001, 0.2), st.integers(1, 5))
def test_whoever_has_a_smaller_p_is_rejected_first(
    given_: dict[str, float], alpha: float, looks: int
) -> None:
    rejected = stats.holm(given_, alpha, looks)

    assert rejected.keys() == given_.keys()
    for name, other in ((a, b) for a in given_ for b in given_ if given_[a] < given_[b]):
        assert rejected[name] >= rejected[other]


@given(p_values, st.floats(0.001, 0.1), st.integers(1, 5))
def test_a_stricter_level_or_one_look_more_never_rejects_more(
    given_: dict[str, float], alpha: float, looks: int
) -> None:
    mild = stats.holm(given_, alpha * 2, looks)
    for strict in (stats.holm(given_, alpha, looks), stats.holm(given_, alpha * 2, looks + 1)):
        assert all(mild[name] for name, is_rejected in strict.items() if is_rejected)


@given(p_values, st.floats(0.001, 0.2))
def test_every_rejection_would_stand_alone_too(given_: dict[str, float], alpha: float) -> None:
    assert all(given_[name] <= alpha for name, is_in in stats.holm(given_, alpha).items() if is_in)


def test_holm_of_the_textbook() -> None:
    found = stats.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}, 0.05)

    assert found == {"d": True, "a": True, "c": False, "b": False}


def test_several_looks_share_the_level() -> None:
    assert stats.holm({"a": 0.02}, 0.05, looks=2) == {"a": True}
    assert stats.holm({"a": 0.02}, 0.05, looks=3) == {"a": False}


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=2, max_size=60),
    st.sampled_from([0.5, 0.95]),
)
def test_turning_the_runs_round_turns_the_ratio_of_times_round(
    pairs: list[tuple[float, float]], share: float
) -> None:
    now, before = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    forth = stats.block_bootstrap(now, before, share=share, seed=1, resamples=DRAWS)
    back = stats.block_bootstrap(before, now, share=share, seed=1, resamples=DRAWS)
    one, other = forth.interval(), back.interval()

    assert one is not None
    assert other is not None
    assert back.mean == pytest.approx(-forth.mean, abs=1e-9)
    assert other == pytest.approx((-one[1], -one[0]), abs=1e-9)


@given(st.floats(0.5, 3.0), st.integers(1, 5))
def test_times_that_all_grew_by_a_factor_have_that_ratio(factor: float, seed: int) -> None:
    before = np.random.default_rng(seed).lognormal(2, 0.5, 50)
    found = stats.block_bootstrap(before * factor, before, share=0.95, seed=1, resamples=DRAWS)

    assert found.mean == pytest.approx(-math.log(factor), abs=1e-9)
    assert found.values == pytest.approx(np.full(DRAWS, -math.log(factor)), abs=1e-9)


def test_neighbours_that_are_alike_make_the_interval_of_times_wider() -> None:
    generator = np.random.default_rng(0)
    slow = np.repeat(generator.lognormal(2, 0.5, 15), 15)
    mixed = generator.permutation(slow)
    one, other = (
        stats.block_quantile(times, share=0.5, seed=1, resamples=2_000) for times in (slow, mixed)
    )

    assert one.se is not None
    assert other.se is not None
    assert one.se > 1.5 * other.se


def test_the_noise_between_runs_widens_the_interval_of_times() -> None:
    generator = np.random.default_rng(0)
    before = generator.lognormal(2, 0.5, 225)
    now = before * generator.lognormal(0, 0.1, 225)
    widths = []
    for noise in (0.0, 0.1, 0.3):
        ends = stats.block_bootstrap(now, before, share=0.5, seed=1, noise=noise).interval()
        assert ends is not None
        widths.append(ends[1] - ends[0])

    assert widths == sorted(widths)
    assert widths[-1] > 2 * math.log(1.3)


@settings(max_examples=30)
@given(st.lists(st.floats(0.5, 500), min_size=1, max_size=60), st.floats(0, 1))
def test_drawn_quantiles_are_those_of_the_figure(values: list[float], share: float) -> None:
    same = [values[0]] * len(values)
    found = stats.block_quantile(same, share=share, seed=1, resamples=10)

    assert found.values == pytest.approx(np.full(10, values[0]))
    assert stats.quantile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_times_of_other_cases_make_no_pairs() -> None:
    with pytest.raises(UsageError, match="3 times cannot be paired with 2"):
        stats.block_bootstrap([1, 2, 3], [1, 2], share=0.5, seed=1)
    with pytest.raises(UsageError, match="0 or less"):
        stats.block_bootstrap([1, 0], [1, 2], share=0.5, seed=1)


@given(st.lists(st.floats(0.1, 1), min_size=3, max_size=8), st.floats(1.5, 10))
def test_a_half_width_follows_the_scale(repeats: list[float], factor: float) -> None:
    assume(len(set(repeats)) > 1)
    more = [value * factor for value in repeats]

    assert stats.half_width(more) == pytest.approx(stats.half_width(repeats) * factor)
    assert stats.half_width(more, is_ratio=True) == pytest.approx(
        stats.half_width(repeats, is_ratio=True)
    )


def test_two_runs_lie_within_the_half_width_in_95_of_100() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(2_000):
        repeats = generator.normal(10, 1, 4)
        one, other = generator.normal(10, 1, 2)
        inside += abs(one - other) <= stats.half_width(repeats)

    assert 0.935 < inside / 2_000 < 0.965


def test_two_repeats_show_no_noise() -> None:
    with pytest.raises(UsageError, match="repeat at least 3"):
        stats.half_width([1.0, 2.0])

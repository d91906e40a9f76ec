"""Rate limits and repetitions: laws of the waiting times."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.pacing import Bucket, backoff_s, retry_after_s
from ragline.core.remote import Limits
from ragline.models.limits import Limiter

NOW = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)


def times(bucket: Bucket, amounts: list[float], pauses: list[float]) -> list[float]:
    """Return when each amount is taken by a caller that waits as told, and pauses in between."""
    now, taken = 0.0, []
    for amount, pause in zip(amounts, pauses, strict=True):
        now += pause
        now += bucket.wait_s(now, amount)
        bucket = bucket.taken(now, amount)
        taken.append(now)
    return taken


@given(
    st.integers(1, 120),
    st.lists(st.floats(0, 70), max_size=10),
)
def test_no_minute_has_more_requests_than_the_limit(per_minute: int, idle: list[float]) -> None:
    pauses = idle + [0.0] * (2 * per_minute)  # a quiet beginning, then as much as goes
    taken = times(Bucket.of_requests(per_minute), [1.0] * len(pauses), pauses)

    for start in taken:
        assert sum(start <= at < start + 59.999 for at in taken) <= per_minute


@given(
    st.integers(1000, 1_000_000),
    st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 30)), min_size=2, max_size=100),
)
def test_no_minute_has_more_tokens_than_the_limit(
    per_minute: int, requests: list[tuple[float, float]]
) -> None:
    bucket = Bucket.of_tokens(per_minute)
    amounts = [share * bucket.burst for share, _ in requests]
    taken = times(bucket, amounts, [pause for _, pause in requests])

    for start in taken:
        spent = sum(a for at, a in zip(taken, amounts, strict=True) if start <= at < start + 60)
        assert spent <= per_minute * 1.000001


@given(st.integers(1, 3000), st.integers(100, 400))
def test_a_busy_limit_is_used_up_in_the_long_run(per_minute: int, count: int) -> None:
    taken = times(Bucket.of_requests(per_minute), [1.0] * count, [0.0] * count)

    burst = max(1, per_minute // 12)
    steady = (per_minute - burst + 1) / 60
    assert taken[-1] == pytest.approx(max(0, count - burst) / steady, rel=0.01, abs=0.01)
    assert steady * 60 >= per_minute * 11 / 12


@given(st.integers(1, 100_000), st.floats(1, 1e7), st.floats(0, 1e6))
def test_whoever_waits_as_told_may_pass(per_minute: int, amount: float, now: float) -> None:
    bucket = Bucket.of_tokens(per_minute).taken(now, amount)

    wait = bucket.wait_s(now, amount)

    assert bucket.wait_s(now + wait + 1e-3 * (1 + wait), amount) == 0


@given(st.integers(1, 20), st.floats(0, 1))
def test_backing_off_doubles_up_to_20_seconds_and_is_spread(attempt: int, spread: float) -> None:
    wait = backoff_s(attempt, spread)

    longest = min(20.0, 0.5 * 2 ** (attempt - 1))
    assert longest / 2 <= wait <= longest


@given(st.integers(1, 20), st.floats(0, 1), st.floats(0, 1000))
def test_nobody_comes_back_sooner_than_asked(attempt: int, spread: float, asked: float) -> None:
    assert asked < backoff_s(attempt, spread, asked_s=asked) <= asked + 5


@given(st.integers(0, 10**6))
def test_retry_after_is_read_in_seconds_and_as_a_date(seconds: int) -> None:
    then = NOW + timedelta(seconds=seconds)

    assert retry_after_s(str(seconds), NOW) == seconds
    assert retry_after_s(format_datetime(then, usegmt=True), NOW) == seconds


@pytest.mark.parametrize(
    "header", ["9" * 400, "1000000000", "Thu, 01 Jan 9999 23:59:59 -2359", "Fri, 31 Dec 9999 GMT"]
)
def test_nobody_is_asked_to_wait_longer_than_a_year(header: str) -> None:
    wait = retry_after_s(header, NOW)

    assert wait is None or wait == 365 * 86400


@given(st.from_regex(r"Thu, [0-9]{2} Jan [0-9]{4} 00:00:09 [+-][0-9]{1,30}", fullmatch=True))
def test_any_date_is_a_time_or_nothing(header: str) -> None:
    wait = retry_after_s(header, NOW)

    assert wait is None or 0 <= wait <= 365 * 86400


def test_a_date_in_the_past_asks_for_nothing() -> None:
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", NOW) == 0


@pytest.mark.parametrize("header", [None, "", "soon", "-3", "1e3", "٣", "nan", "inf", "1.2.3"])
def test_what_is_no_retry_after_says_nothing(header: str | None) -> None:
    assert retry_after_s(header, NOW) is None


@given(st.text(max_size=40))
def test_any_header_is_a_time_or_nothing(header: str) -> None:
    wait = retry_after_s(header, NOW)

    assert wait is None or wait >= 0


class Clock:
    """A clock that runs only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def limiter(clock: Clock, **limits: int) -> Limiter:
    return Limiter(Limits(**limits), clock=clock, sleep=clock.sleep)


async def test_a_hold_stops_everybody() -> None:
    clock = Clock()
    door = limiter(clock)
    door.hold(7)

    assert await door.turn(1) == pytest.approx(7)
    assert await door.turn(1) == 0


async def test_a_shorter_hold_does_not_end_a_longer_one() -> None:
    clock = Clock()
    door = limiter(clock)
    door.hold(7)
    door.hold(2)

    assert await door.turn(1) == pytest.approx(7)


async def test_tokens_that_were_not_used_are_given_back() -> None:
    clock = Clock()
    door = limiter(clock, tokens_per_minute=6000)
    await door.turn(500)
    waits = await door.turn(500)
    door.correct(500, 0)

    assert waits > 5
    assert await door.turn(500) < 0.1


async def test_tokens_that_nobody_counted_stay_as_estimated() -> None:
    clock = Clock()
    door = limiter(clock, tokens_per_minute=6000)
    await door.turn(500)
    door.correct(500, None)

    assert await door.turn(500) > 5


async def test_a_count_beyond_belief_costs_a_minute_at_most() -> None:
    clock = Clock()
    door = limiter(clock, tokens_per_minute=6000)
    await door.turn(100)
    door.correct(100, 10**400)

    assert await door.turn(100) < 70


class SteppedClock(Clock):
    """A clock on which many sleep at once; it goes on by whoever wakes first."""

    def __init__(self) -> None:
        super().__init__()
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.now + seconds, woken))
        await woken

    async def run(self) -> None:
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            self.sleepers = [(at, woken) for at, woken in self.sleepers if not woken.done()]
            if not self.sleepers:
                return
            self.sleepers.sort(key=lambda sleeper: sleeper[0])
            at, woken = self.sleepers.pop(0)
            self.now = max(self.now, at)
            woken.set_result(None)


@given(
    st.lists(st.integers(1, 500), min_size=3, max_size=12),
    st.lists(st.integers(1, 400), min_size=1, max_size=4),
)
def test_a_question_goes_before_all_passages_that_still_wait(
    passages: list[int], questions: list[int]
) -> None:
    async def scenario() -> tuple[list[str], float]:
        clock, done = SteppedClock(), []
        door = limiter(clock, tokens_per_minute=6000)

        async def turn(name: str, tokens: int, *, is_urgent: bool) -> None:
            await door.turn(tokens, is_urgent=is_urgent)
            done.append(name)

        async with asyncio.TaskGroup() as group:
            for tokens in passages:
                group.create_task(turn("passage", tokens, is_urgent=False))
            for _ in range(10):
                await asyncio.sleep(0)
            started, before = clock.now, len(done)
            for tokens in questions:
                group.create_task(turn("question", tokens, is_urgent=True))
            await clock.run()
        assert done[before : before + len(questions)] == ["question"] * len(questions)
        return done, clock.now - started

    done, took_s = asyncio.run(scenario())

    assert len(done) == len(passages) + len(questions)
    assert took_s <= (sum(passages) + sum(questions)) / (6000 * 11 / 12 / 60) + 1


async def test_a_question_that_gives_up_holds_up_nobody() -> None:
    clock = SteppedClock()
    door = limiter(clock, tokens_per_minute=6000)
    await door.turn(500)
    question = asyncio.create_task(door.turn(400, is_urgent=True))
    while not clock.sleepers:  # noqa: ASYNC110 - on the clock
        await asyncio.sleep(0)
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question

    after = asyncio.create_task(door.turn(1))
    await clock.run()
    assert after.done()
    assert await after < 1

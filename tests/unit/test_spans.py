"""Spans and usage: recorded across tasks where somebody asks, and nothing where nobody does."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from types import SimpleNamespace

import pytest

from ragline.core.phases import attributed
from ragline.core.remote import Endpoint
from ragline.models.accounting import Account
from ragline.models.calls import Line, RequestFailed
from ragline.signals import spans, usage

ENDPOINT = Endpoint(
    provider="openai", model="m", url="http://127.0.0.1:9/v1", variables="RAGLINE_CHAT"
)


def phases(record: spans.Record) -> list[str]:
    return [span.phase for span in sorted(record.spans, key=lambda span: span.id)]


def test_nothing_is_recorded_where_nobody_asks() -> None:
    assert spans.span("embed") is spans.span("judge")


def test_spans_know_their_parents() -> None:
    with spans.recording() as record:
        with spans.span("judge"), spans.span("limiter"):
            pass
        with spans.span("cache"):
            pass

    parents = {span.phase: span.parent for span in record.spans}
    numbers = {span.phase: span.id for span in record.spans}
    assert parents == {"judge": None, "limiter": numbers["judge"], "cache": None}
    assert record.start <= min(span.start for span in record.spans)
    assert record.end >= max(span.end for span in record.spans)


async def test_a_task_records_within_the_span_that_started_it() -> None:
    async def call() -> None:
        with spans.span():
            await asyncio.sleep(0)

    with spans.recording() as record, spans.span("judge"):
        await asyncio.gather(call(), call())

    assert phases(record) == ["judge", "judge", "judge"]
    outer = next(span.id for span in record.spans if span.parent is None)
    assert [span.parent for span in record.spans if span.id != outer] == [outer, outer]


async def test_two_recordings_side_by_side_do_not_see_each_other() -> None:
    async def work(phase: str) -> list[str]:
        with spans.recording() as record, spans.span(phase):
            await asyncio.sleep(0.001)
        return phases(record)

    assert list(await asyncio.gather(work("embed"), work("judge"))) == [["embed"], ["judge"]]


def test_a_part_of_no_phase_is_none() -> None:
    with spans.recording() as record, spans.span():
        pass

    assert record.spans == []


def test_a_span_that_failed_is_recorded_too() -> None:
    with spans.recording() as record, pytest.raises(ValueError, match="no"), spans.span("generate"):
        raise ValueError("no")

    assert phases(record) == ["generate"]


async def test_waiting_for_the_limiter_and_before_a_repetition_is_not_the_models_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account("m", None)
    tries, now = 0, 100.0
    monkeypatch.setattr(spans, "time", SimpleNamespace(perf_counter=lambda: now))

    async def pause(seconds: float) -> None:
        nonlocal now
        now += 7

    async def send() -> str:
        nonlocal tries, now
        tries += 1
        now += 20
        if tries == 1:
            raise RequestFailed("failing", "it failed")
        return "done"

    line = Line(ENDPOINT, account, sleep=pause)
    with spans.recording() as record, usage.counting() as taken, spans.span("judge"):
        await line.call(send, tokens=1)

    found = attributed(record.spans, record.start, record.end)
    assert (found["retry"], found["judge"]) == (7, 40)
    assert "limiter" in phases(record)
    assert taken.calls == 2


def test_what_a_model_takes_is_counted_for_whoever_asked() -> None:
    with usage.counting() as whole:
        with usage.counting() as part:
            usage.sent()
            usage.answered(10, 5, Decimal("1.5"))
            usage.answered(1, 1, Decimal("0.2"))
        usage.sent()
        usage.answered(2, 2, Decimal(1))

    assert (part.calls, part.input_tokens, part.output_tokens, part.cost_micro_usd) == (1, 11, 6, 2)
    # Rounded up once, over everything.
    assert (whole.calls, whole.input_tokens, whole.cost_micro_usd) == (2, 13, 3)


def test_what_is_unknown_stays_unknown() -> None:
    with usage.counting() as whole, usage.counting() as part:
        usage.uncounted()
        usage.answered(1, 1, Decimal(1))

    assert part.input_tokens is part.output_tokens is part.cost_micro_usd is None
    assert whole.cost_micro_usd is None


def test_a_model_without_a_price_has_tokens_and_no_cost() -> None:
    with usage.counting() as taken:
        Account("m", None).answered(3, 4)

    assert (taken.input_tokens, taken.output_tokens, taken.cost_micro_usd) == (3, 4, None)

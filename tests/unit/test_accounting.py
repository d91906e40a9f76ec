"""Prices and sums: what is not known is None, and never 0."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.remote import OPENAI_URL, Endpoint
from ragline.errors import ConfigError
from ragline.models.accounting import Account, Price, Spending, price_of, prices

PRICE = Price(
    provider="openai",
    model="m",
    where=None,
    input=Decimal("0.02"),
    output=Decimal("0.6"),
    as_of=date(2026, 11, 1),
)
TOKENS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), max_size=20)
ENTRY = '[[price]]\nprovider = "openai"\nmodel = "m"\ninput = 1.5\nas_of = 2026-11-01\n'


@given(TOKENS)
def test_the_sum_is_exact_and_rounded_up_once(answers: list[tuple[int, int]]) -> None:
    account = Account("m", PRICE)
    for read, written in answers:
        account.answered(read, written)

    read, written = sum(a for a, _ in answers), sum(b for _, b in answers)
    spent = account.spending
    assert (spent.input_tokens, spent.output_tokens) == (read, written)
    assert spent.cost_micro_usd == math.ceil(Decimal(2 * read + 60 * written) / 100)


@given(TOKENS, st.integers(0, 20))
def test_one_unknown_part_makes_the_sums_unknown(answers: list[tuple[int, int]], at: int) -> None:
    account = Account("m", PRICE)
    for number, (read, written) in enumerate([*answers, (1, 1)]):
        if number == min(at, len(answers)):
            account.answered(None, written)
        account.answered(read, written)

    spent = account.spending
    assert (spent.input_tokens, spent.output_tokens, spent.cost_micro_usd) == (None, None, None)
    assert spent.uncounted == 1


def test_a_single_token_costs_more_than_nothing() -> None:
    assert Account("m", PRICE).answered(1, 0) == 1


def test_without_a_price_the_cost_of_something_is_unknown_and_of_nothing_is_none() -> None:
    account = Account("m", None)
    assert account.spending.cost_micro_usd == 0
    assert account.answered(3, 0) is None
    assert account.spending.input_tokens == 3
    assert account.spending.cost_micro_usd is None


def test_a_price_for_reading_alone_does_not_price_what_is_written() -> None:
    reading = Price(
        provider="openai",
        model="m",
        where=None,
        input=Decimal(1),
        output=None,
        as_of=PRICE.as_of,
    )
    assert Account("m", reading).answered(3, 0) == 3
    assert Account("m", reading).answered(3, 1) is None


def endpoint(model: str = "text-embedding-3-small", url: str = OPENAI_URL) -> Endpoint:
    return Endpoint(provider="openai", model=model, url=url)


def test_shipped_prices_hold_for_the_provider_s_own_address_only() -> None:
    table = prices(None)

    found = price_of(endpoint(), table)
    assert found is not None
    assert (found.input, found.output) == (Decimal("0.02"), None)
    assert price_of(endpoint(url="http://127.0.0.1:11434/v1"), table) is None
    assert price_of(endpoint(model="text-embedding-9"), table) is None


def test_shipped_prices_have_a_date_and_no_model_twice() -> None:
    table = prices(None)

    assert all(date(2026, 1, 1) <= price.as_of <= date.today() for price in table)  # noqa: DTZ011
    assert len({(p.provider, p.where, p.model) for p in table}) == len(table)


def test_own_prices_go_first(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(ENTRY.replace('"m"', '"text-embedding-3-small"'))

    found = price_of(endpoint(), prices(own))

    assert found is not None
    assert found.input == Decimal("1.5")


def test_a_price_of_zero_is_said_and_not_assumed(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(ENTRY.replace("1.5", "0"))

    price = price_of(endpoint("m"), prices(own))

    assert Account("m", price).answered(1000, 0) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[price]", "is not TOML"),
        ("price = 3", r"under \[\[price\]\]"),
        ("[other]\n", r"under \[\[price\]\]"),
        ("[[price]]\n", "price 1: provider is None"),
        (ENTRY + 'colour = "red"\n', "has 'colour'"),
        (ENTRY.replace("2026-11-01", '"2026-11-01"'), "as_of is '2026-11-01'"),
        (ENTRY.replace("as_of = 2026-11-01\n", ""), "as_of is None"),
        (ENTRY.replace("1.5", "-1.5"), "input is"),
        (ENTRY.replace("1.5", "nan"), "input is"),
        (ENTRY.replace("1.5", "true"), "input is True"),
        (ENTRY.replace("1.5", '"free"'), "input is 'free'"),
        (ENTRY + ENTRY.replace('"m"', "7"), "price 2: model is 7"),
        (ENTRY + "where = 7\n", "where is 7"),
    ],
)
def test_a_price_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(text)

    with pytest.raises(ConfigError, match=says) as raised:
        prices(own)
    assert "prices.toml" in str(raised.value)


def test_a_price_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RAGLINE_PRICES names .*none\.toml"):
        prices(tmp_path / "none.toml")


COUNT = st.none() | st.integers(0, 10**6)


def spendings() -> st.SearchStrategy[Spending]:
    return st.builds(
        Spending,
        model_id=st.just("m"),
        requests=st.integers(0, 9),
        retries=st.integers(0, 9),
        failures=st.integers(0, 9),
        uncounted=st.integers(0, 9),
        input_tokens=COUNT,
        output_tokens=COUNT,
        cost_micro_usd=COUNT,
    )


@given(spendings(), spendings())
def test_two_spendings_together_are_their_sum_and_unknown_stays_unknown(
    one: Spending, other: Spending
) -> None:
    both = one + other

    for field in fields(Spending):
        parts = getattr(one, field.name), getattr(other, field.name)
        if field.name != "model_id":
            expected = None if None in parts else sum(parts)
            assert getattr(both, field.name) == expected
    assert both == other + one

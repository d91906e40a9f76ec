"""What models cost: requests, tokens, waiting and money; what is not known is None, never 0."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ragline.core.remote import Endpoint
from ragline.errors import ConfigError
from ragline.signals import usage

_SHIPPED = "prices.toml"
_KEYS = {"provider", "where", "model", "input", "output", "as_of"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens, which is micro-dollars for one."""

    provider: str
    model: str
    where: str | None
    """The host or region that it holds for; None is anywhere."""
    input: Decimal
    output: Decimal | None
    """None for models that only read."""
    as_of: date

    def micro_usd(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return the cost of some tokens; None when a part of it has no price."""
        if output_tokens and self.output is None:
            return None
        return input_tokens * self.input + output_tokens * (self.output or Decimal(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a model has taken since it was opened.

    Tokens and cost are None as soon as a part of them is unknown: a provider that counted nothing,
    a lost connection after which something may be billed, a model without a price.
    """

    model_id: str
    requests: int = 0
    """Sent, repetitions included."""
    retries: int = 0
    failures: int = 0
    """Calls that brought nothing in the end."""
    uncounted: int = 0
    """Requests that may have been billed, and whose tokens nobody said."""
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost_micro_usd: int | None = 0
    """Rounded up, once, over everything."""
    limiter_wait_s: float = 0.0
    retry_wait_s: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        """Return what both are together, of one model; unknown where one of them is."""
        return Spending(
            model_id=self.model_id,
            requests=self.requests + other.requests,
            retries=self.retries + other.retries,
            failures=self.failures + other.failures,
            uncounted=self.uncounted + other.uncounted,
            input_tokens=usage.total((self.input_tokens, other.input_tokens)),
            output_tokens=usage.total((self.output_tokens, other.output_tokens)),
            cost_micro_usd=usage.total((self.cost_micro_usd, other.cost_micro_usd)),
            limiter_wait_s=self.limiter_wait_s + other.limiter_wait_s,
            retry_wait_s=self.retry_wait_s + other.retry_wait_s,
        )

    def __str__(self) -> str:
        """Return it in a line for people.

        >>> str(Spending(model_id="m", requests=2, retries=1, input_tokens=7, cost_micro_usd=None))
        'm: 2 requests (1 repeated), 7 tokens read, 0 written, cost not known'
        """
        repeated = f" ({self.retries} repeated)" if self.retries else ""
        waited_s = self.limiter_wait_s + self.retry_wait_s
        waited = f", {waited_s:.1f} s waited" if waited_s >= 0.1 else ""
        tokens = (
            f"tokens not known of {self.uncounted}"
            if self.input_tokens is None
            else f"{self.input_tokens:,} tokens read, {self.output_tokens:,} written"
        )
        cost = (
            "cost not known"
            if self.cost_micro_usd is None
            else f"{self.cost_micro_usd / 1_000_000:.6f} USD"
        )
        return f"{self.model_id}: {self.requests} requests{repeated}{waited}, {tokens}, {cost}"


@runtime_checkable
class Metered(Protocol):
    """A model that says what it has taken."""

    @property
    def spent(self) -> Spending:
        """What it has taken since it was opened."""


class Account:
    """The running sums of one model."""

    def __init__(self, model_id: str, price: Price | None) -> None:
        self.price = price
        self._model_id = model_id
        self._requests = self._retries = self._failures = self._uncounted = 0
        self._input_tokens = self._output_tokens = 0
        self._limiter_wait_s = self._retry_wait_s = 0.0

    def sent(self, *, waited_s: float, is_retry: bool) -> None:
        """Count a request, and how long a rate limit of ours held it up."""
        usage.sent()
        self._requests += 1
        self._retries += is_retry
        self._limiter_wait_s += waited_s

    def paused(self, seconds: float) -> None:
        """Count the wait before a repetition."""
        self._retry_wait_s += seconds

    def failed(self) -> None:
        """Count a call that brought nothing in the end."""
        self._failures += 1

    def uncounted(self) -> None:
        """Count a request that may be billed, and whose tokens nobody said."""
        usage.uncounted()
        self._uncounted += 1

    def answered(self, input_tokens: int | None, output_tokens: int | None) -> int | None:
        """Count the tokens of an answer; return its cost in micro-dollars, rounded up, if known."""
        if input_tokens is None or output_tokens is None:
            self.uncounted()
            return None
        self._input_tokens += input_tokens
        self._output_tokens += output_tokens
        usage.answered(input_tokens, output_tokens, self._exact(input_tokens, output_tokens))
        return self._cost(input_tokens, output_tokens)

    @property
    def spending(self) -> Spending:
        """The sums as they are now."""
        is_known = not self._uncounted
        return Spending(
            model_id=self._model_id,
            requests=self._requests,
            retries=self._retries,
            failures=self._failures,
            uncounted=self._uncounted,
            input_tokens=self._input_tokens if is_known else None,
            output_tokens=self._output_tokens if is_known else None,
            cost_micro_usd=self._cost(self._input_tokens, self._output_tokens)
            if is_known
            else None,
            limiter_wait_s=self._limiter_wait_s,
            retry_wait_s=self._retry_wait_s,
        )

    def _cost(self, input_tokens: int, output_tokens: int) -> int | None:
        exact = self._exact(input_tokens, output_tokens)
        return None if exact is None else math.ceil(exact)

    def _exact(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        if not input_tokens and not output_tokens:
            return Decimal(0)
        return self.price.micro_usd(input_tokens, output_tokens) if self.price else None


def prices(own: Path | None) -> tuple[Price, ...]:
    """Return the user's own prices, which go first, and then those that come with ragline."""
    shipped = resources.files("ragline.models").joinpath(_SHIPPED).read_text(encoding="utf-8")
    return (*(_read(own) if own else ()), *_parsed(shipped, _SHIPPED))


def price_of(endpoint: Endpoint, table: Sequence[Price]) -> Price | None:
    """Return the first price that holds for a model, or None: then its cost is not known."""
    for price in table:
        is_there = price.where in (None, endpoint.where)
        if is_there and (price.provider, price.model) == (endpoint.provider, endpoint.model):
            return price
    return None


def _read(path: Path) -> tuple[Price, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"RAGLINE_PRICES names {path}, which cannot be read: {error}; correct it, or unset it"
        ) from error
    return _parsed(text, str(path))


def _parsed(text: str, source: str) -> tuple[Price, ...]:
    try:
        found = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    entries = found.get("price", [])
    if set(found) - {"price"} or not isinstance(entries, list):
        raise ConfigError(f"{source}: write every price as a table under [[price]]")
    return tuple(_price(entry, f"{source}, price {at}") for at, entry in enumerate(entries, 1))


def _price(entry: Any, source: str) -> Price:
    if not isinstance(entry, Mapping) or (odd := sorted(set(entry) - _KEYS)):
        named = f"has {odd[0]!r}, which is not one of" if isinstance(entry, Mapping) else "needs"
        raise ConfigError(f"{source} {named} {', '.join(sorted(_KEYS))}")
    for key in ("provider", "model", "where"):
        if not isinstance(entry.get(key, None if key == "where" else 0), str | None):
            raise ConfigError(f"{source}: {key} is {entry.get(key)!r}; write a text")
    as_of = entry.get("as_of")
    if type(as_of) is not date:
        raise ConfigError(
            f"{source}: as_of is {as_of!r}; write the day on which the price held, as 2026-07-03"
        )
    return Price(
        provider=entry["provider"],
        model=entry["model"],
        where=entry.get("where"),
        input=_amount(entry.get("input"), f"{source}: input"),
        output=_amount(entry["output"], f"{source}: output") if "output" in entry else None,
        as_of=as_of,
    )


def _amount(value: Any, what: str) -> Decimal:
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if not is_number or not Decimal(value).is_finite() or value < 0:
        raise ConfigError(f"{what} is {value!r}; write US dollars for a million tokens")
    return Decimal(value)

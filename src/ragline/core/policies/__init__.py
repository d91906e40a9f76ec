"""Red lines as values, and as TOML: what a run must keep, and how sure a verdict has to be."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

from ragline.core import comparing, measuring, stats
from ragline.errors import UsageError

PRESETS = ("default", "ragchecker-floor", "faithful")
"""The policies that come with ragline."""

Better = Literal["higher", "lower"]
When = Literal["always", "measured"]

LATENCY = re.compile(r"p(\d{1,2})_ms")
TIMES = "search_ms"
"""What a case is timed by; a latency is a quantile of it."""
ONE_PER_RUN = ("eval_seconds", "eval_cost_micro_usd")
_METRIC = re.compile(r"([a-z][a-z0-9_]*)(@(?:k|[1-9][0-9]*))?")
_AT_K = (
    *(name.removesuffix("@1") for name in measuring.retrieval_names(1)),
    "ann_recall",
    "known_mrr",
)
_OTHERS = (
    *("rows", TIMES, *ONE_PER_RUN),
    *("answered", "declined", "exact_match", "token_f1", "cited"),
    *("abstention_precision", "abstention_recall"),
    *(*measuring.judged_names(""), *measuring.judged_names("lex_")),
)
_UNITS = {"_ms": "ms", "_seconds": "s", "_micro_usd": "micro-USD"}
_BOUNDS = ("at_least", "at_most", "margin")
_LINE_KEYS = ("metric", *_BOUNDS, "judge", "better", "when")
_DRAWS_PER_TEST = 20
_LARGEST_MARGIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One red line: a floor, a ceiling, or a margin by which a metric may be worse than the baseline.

    Exactly one of the three is set. `metric` may end with "@k": the run's own k. `judges` are
    patterns; a run whose judge fits none of them cannot keep the line. `when` "measured": a line that
    neither run nor baseline measures is not judged, and the verdict says so. The margin of a latency
    is a share of it.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    margin: float | None = None
    judges: tuple[str, ...] = ()
    better: Better | None = None
    """Of a relative line; None is what its metric is known for."""
    when: When = "always"

    @property
    def is_relative(self) -> bool:
        """Whether it compares with a baseline."""
        return self.margin is not None

    @property
    def is_more_better(self) -> bool:
        """Whether the metric is better when it is higher."""
        if self.better is not None:
            return self.better == "higher"
        return not comparing.is_lower_better(self.metric)

    @property
    def share(self) -> float | None:
        """The quantile of the cases' times that the metric is; None for what is no latency."""
        found = LATENCY.fullmatch(self.metric)
        return int(found.group(1)) / 100 if found else None

    @property
    def unit(self) -> str:
        """What the metric is counted in; "" is a share from 0 to 1."""
        return unit(self.metric)

    def is_for(self, judge_id: str | None) -> bool:
        """Return whether a run with this judge can keep the line."""
        if not self.judges:
            return True
        return any(fnmatchcase(judge_id or "", pattern) for pattern in self.judges)

    def __str__(self) -> str:
        space_unit = self.unit and f" {self.unit}"
        if self.at_least is not None:
            return f"{self.metric} at least {self.at_least:g}{space_unit}"
        if self.at_most is not None:
            return f"{self.metric} at most {self.at_most:g}{space_unit}"
        if self.share is not None:
            return f"{self.metric} not higher by more than {self.margin:.3g} of it"
        worse = "lower" if self.is_more_better else "higher"
        return f"{self.metric} not {worse} by more than {self.margin:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Red lines, and how they are judged.

    `alpha` is how often a comparison without a difference may fail, over all lines and looks.
    `minimum` is the number of cases below which a relative line is inconclusive; `looks` is how often
    the same comparison may be judged while it is extended.
    """

    lines: tuple[Line, ...]
    alpha: float = 0.05
    minimum: int = stats.MINIMUM
    resamples: int = stats.RESAMPLES
    seed: int = 1
    looks: int = 1
    source: str = field(default="", compare=False)

    def of(self, lines: Sequence[Line]) -> Policy:
        """Return it with other lines, and as many draws as their shares of `alpha` can be told by."""
        needed = math.ceil(_DRAWS_PER_TEST * max(1, len(lines)) * self.looks / self.alpha)
        return replace(self, lines=tuple(lines), resamples=max(self.resamples, needed))


def unit(metric: str) -> str:
    """Return what a metric is counted in; "" is a share from 0 to 1."""
    return next((unit for ending, unit in _UNITS.items() if metric.endswith(ending)), "")


def policy(text: str, source: str) -> Policy:
    """Return the policy that TOML says; UsageError names the entry, the key, the value and a remedy.

    `source` is the file's name, for messages.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{source} is not TOML: {error}; `ragline eval policy default` prints one to start from"
        ) from error
    _known(found, ("line", *_SETTINGS), source)
    entries = found.get("line")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{source} has no red line; write at least one table under [[line]]")
    lines = tuple(_line(entry, _where(source, at, entry)) for at, entry in enumerate(entries, 1))
    _check_twice(lines, source)
    settings = {key: read(found, key, source) for key, read in _SETTINGS.items() if key in found}
    made = Policy(lines=lines, source=source, **settings)
    _check_resamples(made, source)
    return made


def _where(source: str, at: int, entry: Any) -> str:
    metric = entry.get("metric") if isinstance(entry, Mapping) else None
    return f"{source}, line {at}" + (f" ({metric})" if isinstance(metric, str) else "")


def _line(entry: Any, where: str) -> Line:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} is {entry!r}; write a table under [[line]]")
    _known(entry, _LINE_KEYS, where)
    metric = _metric(entry, where)
    bounds = [key for key in _BOUNDS if key in entry]
    if len(bounds) != 1:
        has = " and ".join(bounds) or "none of them"
        raise UsageError(f"{where} has {has}; write exactly one of {', '.join(_BOUNDS)}")
    (bound,) = bounds
    value = _bound(metric, bound, entry[bound], where)
    return Line(
        metric=metric,
        at_least=value if bound == "at_least" else None,
        at_most=value if bound == "at_most" else None,
        margin=value if bound == "margin" else None,
        judges=_judges(entry, where),
        better=_better(metric, bound, entry, where),
        when=_one_of(entry, "when", ("always", "measured"), "always", where),
    )


def _metric(entry: Mapping[str, Any], where: str) -> str:
    metric = entry.get("metric")
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        raise UsageError(
            f'{where}: metric is {metric!r}; write the name of one, as "recall@10", "recall@k" '
            'or "p95_ms"'
        )
    if not is_metric(metric):
        # A line with when = "measured" would wait for it for ever.
        names = [*(f"{name}@k" for name in _AT_K), *_OTHERS, "p50_ms", "p95_ms"]
        word = metric.partition("@")[0]
        near = get_close_matches(metric, names, 1) or ([word] if is_metric(word) else names)
        raise UsageError(
            f"{where}: metric is {metric!r}, and no run measures that; write {' or '.join(near)}"
        )
    return metric


def is_metric(name: str) -> bool:
    """Return whether a run can measure what is called so."""
    found = _METRIC.fullmatch(name)
    if found is None:
        return False
    word, place = found.groups()
    return word in _AT_K if place else word in _OTHERS or bool(LATENCY.fullmatch(word))


def _bound(metric: str, bound: str, value: Any, where: str) -> float:
    is_quantity = bool(unit(metric))
    if is_quantity and bound == "at_least":
        raise UsageError(f"{where}: at_least is {value!r}; for {metric} write a ceiling, at_most")
    if metric in ONE_PER_RUN and bound == "margin":
        raise UsageError(
            f"{where}: margin is {value!r}, but there is one {metric} in a run and no cases to "
            "compare; write a ceiling, at_most"
        )
    if is_quantity and bound == "margin" and not LATENCY.fullmatch(metric):
        raise UsageError(
            f"{where}: margin is {value!r}, but {metric} is no quantile; write p50_ms or p95_ms"
        )
    if bound == "margin":
        # Nobody means that all may be lost; who writes 1 means a point, or a percent.
        example = "0.1 for a tenth slower" if is_quantity else "0.01 for one point"
        return _number(value, f"{where}: margin", _LARGEST_MARGIN, example)
    largest, example = (float("inf"), "200") if is_quantity else (1.0, "0.85")
    return _number(value, f"{where}: {bound}", largest, example)


def _number(value: Any, what: str, largest: float, example: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= largest or value == float("inf"):
        until = f"a number from 0 to {largest:g}" if largest < float("inf") else "a number above 0"
        raise UsageError(f"{what} is {value!r}; write {until}, as {example}")
    return float(value)


def _judges(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    given = entry.get("judge", [])
    patterns = [given] if isinstance(given, str) else given
    is_right = isinstance(patterns, list) and all(isinstance(one, str) and one for one in patterns)
    if not is_right or ("judge" in entry and not patterns):
        raise UsageError(f'{where}: judge is {given!r}; write a pattern, as "llm:*", or a list')
    return tuple(patterns)


def _better(metric: str, bound: str, entry: Mapping[str, Any], where: str) -> Better | None:
    if "better" in entry and (bound != "margin" or unit(metric)):
        why = f"{bound} says it" if bound != "margin" else f"less {metric} is always better"
        raise UsageError(f"{where}: better is {entry['better']!r}, but {why}; remove it")
    if bound == "margin" and not comparing.has_direction(metric) and "better" not in entry:
        raise UsageError(
            f'{where}: better is missing, and {metric} is neither; write "higher" or "lower"'
        )
    given: Better | None = _one_of(entry, "better", ("higher", "lower"), None, where)
    return given


def _one_of(entry: Mapping[str, Any], key: str, choices: Any, usual: Any, where: str) -> Any:
    value = entry.get(key, usual)
    if key in entry and value not in choices:
        named = " or ".join(f'"{choice}"' for choice in choices)
        raise UsageError(f"{where}: {key} is {value!r}; write {named}")
    return value


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    if odd := sorted(set(table) - set(keys)):
        raise UsageError(
            f"{where}: {odd[0]} is {table[odd[0]]!r}, and there is no such key; write one of "
            f"{', '.join(keys)}"
        )


def _check_twice(lines: tuple[Line, ...], source: str) -> None:
    seen: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for at, line in enumerate(lines, 1):
        bound = next(key for key in _BOUNDS if getattr(line, key) is not None)
        first = seen.setdefault((line.metric, bound, tuple(sorted(line.judges))), at)
        if first != at:
            raise UsageError(
                f"{source}, line {at} ({line.metric}): {bound} is {getattr(line, bound):g}, and line "
                f"{first} says {getattr(lines[first - 1], bound):g}; keep one of them"
            )


def _whole(smallest: int, largest: int) -> Callable[[Mapping[str, Any], str, str], int]:
    def read(table: Mapping[str, Any], key: str, source: str) -> int:
        value = table[key]
        if type(value) is not int or not smallest <= value <= largest:
            raise UsageError(
                f"{source}: {key} is {value!r}; write a whole number from {smallest:,} to {largest:,}"
            )
        return value

    return read


def _alpha(table: Mapping[str, Any], key: str, source: str) -> float:
    value = table[key]
    if not isinstance(value, float) or not 0.0001 <= value <= 0.2:
        raise UsageError(f"{source}: {key} is {value!r}; write a share from 0.0001 to 0.2, as 0.05")
    return value


def _check_resamples(made: Policy, source: str) -> None:
    tests = sum(line.is_relative for line in made.lines) * made.looks
    needed = round(_DRAWS_PER_TEST * tests / made.alpha)
    if made.resamples < needed:
        raise UsageError(
            f"{source}: resamples is {made.resamples:,}, too few to see a p-value of {made.alpha:g} "
            f"shared by {tests} tests (relative lines x looks); write at least {needed:,}"
        )


_SETTINGS: dict[str, Callable[[Mapping[str, Any], str, str], Any]] = {
    "alpha": _alpha,
    "minimum": _whole(10, 1_000_000),
    "resamples": _whole(1_000, 1_000_000),
    "seed": _whole(0, 2**32 - 1),
    "looks": _whole(1, 1_000),
}

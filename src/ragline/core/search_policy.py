"""How a collection is searched where a caller does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ragline.errors import UsageError

Iterative = Literal["off", "strict_order", "relaxed_order"]
_MODES = ("off", "strict_order", "relaxed_order")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPolicy:
    """A collection's own way of being searched; None is the default, measured for all.

    `vector_weight` is what the vectors' share counts in a hybrid search; words count the rest.
    `early_exit` is the number of postings after which lexical search stops looking for candidates.
    """

    k: int | None = None
    vector_weight: float | None = None
    ef_search: int | None = None
    iterative: Iterative | None = None
    early_exit: int | None = None


DEFAULT = SearchPolicy()
FIELDS = tuple(field.name for field in fields(SearchPolicy))


def from_json(values: Mapping[str, Any]) -> SearchPolicy:
    """Return a policy of plain values; raises UsageError naming the field and what it may be."""
    for name in values:
        if name not in FIELDS:
            raise UsageError(f"a search policy has no {name!r}; it has {', '.join(FIELDS)}")
    _whole(values, "k", 1, 1000)
    _whole(values, "ef_search", 1, 1000)
    _whole(values, "early_exit", 1, 2**31 - 1)
    weight = values.get("vector_weight")
    if weight is not None and (
        isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1
    ):
        raise UsageError(f"vector_weight is {weight!r}; it must lie between 0 and 1")
    mode = values.get("iterative")
    if mode is not None and mode not in _MODES:
        raise UsageError(f"iterative is {mode!r}; it is one of {', '.join(_MODES)}")
    return SearchPolicy(**values)


def to_json(policy: SearchPolicy) -> dict[str, Any]:
    """Return all fields of a policy as plain values."""
    return asdict(policy)


def _whole(values: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = values.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")

"""What a filter means, in Python: the reference that the SQL is tested against."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, assert_never

from ragline.core.filters.expressions import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Order,
    Scalar,
)

_BEFORE_OR_AFTER: Mapping[Order, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def matches(filter: Filter, metadata: Mapping[str, Any]) -> bool:  # noqa: A002 -- the word for it
    """Return whether a document's metadata, as parsed from JSON, passes a filter.

    Floats count as the decimal they print. Parse with `parse_float=Decimal` where numbers may have
    more digits than a float holds.
    """
    match filter:
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
        case Exists(key):
            return key in metadata
        case Compare(key) | In(key) | Contains(key):
            return key in metadata and _holds(filter, metadata[key])
        case _:
            assert_never(filter)


def _holds(condition: Compare | In | Contains, found: object) -> bool:
    match condition:
        case Compare(_, "eq", value):
            return _is_equal(found, value)
        case Compare(_, "ne", value):
            return not _is_equal(found, value)
        case Compare(_, order, value):
            return _is_ordered(order, found, value)
        case In(_, values):
            return any(_is_equal(found, value) for value in values)
        case Contains(_, value):
            return _has(found, value)
        case _:
            assert_never(condition)


def _is_equal(found: object, value: Scalar) -> bool:
    if value is None or isinstance(value, bool):
        return found is value
    if isinstance(value, str):
        return isinstance(found, str) and found == value
    return _is_number(found) and _exact(found) == value


def _is_ordered(order: Order, found: object, value: Scalar) -> bool:
    holds = _BEFORE_OR_AFTER[order]
    if isinstance(value, str):
        return isinstance(found, str) and holds(found, value)
    return _is_number(found) and holds(_exact(found), value)


def _has(found: object, value: Scalar) -> bool:
    if isinstance(found, str):
        return isinstance(value, str) and value in found
    if isinstance(found, Mapping) or not isinstance(found, Iterable):
        return False
    return any(_is_equal(element, value) for element in found)


def _is_number(found: object) -> bool:
    return isinstance(found, int | float | Decimal) and not isinstance(found, bool)


def _exact(number: Any) -> int | Decimal:
    if isinstance(number, float):
        return Decimal(float.__repr__(number))
    exact: int | Decimal = number
    return exact

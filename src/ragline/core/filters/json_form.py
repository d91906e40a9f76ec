"""Filters as JSON: for HTTP, and wherever a program writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, assert_never, get_args

from ragline.core.filters.expressions import (
    DEEPEST,
    LARGEST_EXPONENT,
    MOST_NODES,
    MOST_VALUES,
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
from ragline.errors import UsageError

_ORDERS = get_args(Order)
_OPERATORS = (*_ORDERS, "in", "contains", "exists")
_BESIDE_KEY = {"in": {"values"}, "exists": set[str]()}
_DECIMAL_PATTERN = r"^-?[0-9]{1,1000}(\.[0-9]{1,1000})?([eE][+-]?[0-9]{1,4})?$"
_DECIMAL = re.compile(_DECIMAL_PATTERN)
# Beyond this a float holds no whole numbers, and JSON's readers give floats back.
_WHOLE_IN_A_FLOAT = 2**53


def from_json(value: object) -> Filter:
    """Return the filter that parsed JSON stands for; raises UsageError that says where it is wrong."""
    return _read(value, "filter", depth=1)


def to_json(filter: Filter) -> dict[str, Any]:  # noqa: A002 -- the word for it
    """Return a filter as what `json.dumps` takes; `from_json` gives the same filter back."""
    match filter:
        case And(parts):
            return {"and": [to_json(part) for part in parts]}
        case Or(parts):
            return {"or": [to_json(part) for part in parts]}
        case Not(part):
            return {"not": to_json(part)}
        case Compare(key, order, value):
            return {"key": key, "op": order, "value": _written(value)}
        case In(key, values):
            return {"key": key, "op": "in", "values": [_written(value) for value in values]}
        case Contains(key, value):
            return {"key": key, "op": "contains", "value": _written(value)}
        case Exists(key):
            return {"key": key, "op": "exists"}
        case _:
            assert_never(filter)


def _written(value: Scalar) -> object:
    """Return a number as a float only where reading it gives the same number again."""
    if not isinstance(value, Decimal):
        return value
    if value == value.to_integral_value() and abs(value) < _WHOLE_IN_A_FLOAT:
        return int(value)
    if abs(value) < Decimal("1e300") and Decimal(repr(float(value))) == value:
        return float(value)
    return {"decimal": str(value)}


def _read(value: object, where: str, depth: int) -> Filter:
    if depth > DEEPEST:
        raise UsageError(f"{where}: nested more than {DEEPEST} deep")
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{where}: {_type(value)} is not a filter; give an object, such as {_EXAMPLE}"
        )
    for name in ("and", "or", "not"):
        if name in value:
            _only(value, {name}, where)
            return _joined(name, value[name], f"{where}.{name}", depth)
    return _condition(value, where)


_EXAMPLE = '{"key": "year", "op": "ge", "value": 2020}'


def _joined(name: str, value: object, where: str, depth: int) -> Filter:
    if name == "not":
        part = _read(value, where, depth + 1)
        return _checked(lambda: Not(part), where)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise UsageError(f"{where}: {_type(value)} is not a list of one filter or more")
    parts = tuple(_read(item, f"{where}[{n}]", depth + 1) for n, item in enumerate(value))
    if len(parts) == 1:
        return parts[0]
    return _checked(lambda: And(parts) if name == "and" else Or(parts), where)


def _condition(value: Mapping[Any, Any], where: str) -> Filter:
    if "key" not in value or "op" not in value:
        raise UsageError(
            f'{where}: a filter has "key" and "op", or "and", "or" or "not"; this one has '
            f"{_names(value)}"
        )
    operator = value["op"]
    if not isinstance(operator, str) or operator not in _OPERATORS:
        raise UsageError(f"{where}.op: {_shown(operator)} is not one of {', '.join(_OPERATORS)}")
    beside = _BESIDE_KEY.get(operator, {"value"})
    _only(value, {"key", "op", *beside}, where)
    for name in beside - value.keys():
        raise UsageError(f'{where}: operator "{operator}" needs "{name}"')
    return _checked(lambda: _made(value, operator), where)


def _made(value: Mapping[Any, Any], operator: Any) -> Filter:
    key = value["key"]
    if operator == "exists":
        return Exists(key)
    if operator == "in":
        values = value["values"]
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise UsageError(f'"values" is {_type(values)}, not a list')
        return In(key, tuple(_scalar(item) for item in values))
    scalar = _scalar(value["value"])
    return Contains(key, scalar) if operator == "contains" else Compare(key, operator, scalar)


def _scalar(value: Any) -> Any:
    """Return a value; whether it can be compared with is the filter's own matter."""
    if not isinstance(value, Mapping) or set(value) != {"decimal"}:
        return value
    digits = value["decimal"]
    if not isinstance(digits, str) or not _DECIMAL.fullmatch(digits):
        raise UsageError(f'{_shown(digits)} is not a number; write it as in {{"decimal": "0.10"}}')
    return Decimal(digits)


def _checked(make: Any, where: str) -> Filter:
    try:
        made: Filter = make()
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return made


def _only(value: Mapping[Any, Any], names: set[str], where: str) -> None:
    if others := [name for name in value if name not in names]:
        raise UsageError(
            f"{where}: {_names(others)} does not belong beside {', '.join(sorted(names))}"
        )


def _names(names: Any) -> str:
    shown = [_shown(name) for name in names]
    return ", ".join([*shown[:5], "…"] if len(shown) > 5 else shown) or "nothing"


def _shown(value: object) -> str:
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", int: "a number", float: "a number"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    return names.get(
        type(value), "an object" if isinstance(value, Mapping) else type(value).__name__
    )


_KEY = {"type": "string", "description": "A key of the metadata, at its top level."}
_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_EXACT_NUMBER = {
    "type": "object",
    "description": "A number with more digits than a float holds.",
    "properties": {"decimal": {"type": "string", "pattern": _DECIMAL_PATTERN}},
    "required": ["decimal"],
    "additionalProperties": False,
}
_SCALAR = {
    "description": 'Compared by JSON\'s types: 1 equals 1.0, and neither "1" nor true.',
    "anyOf": [_TEXT, _NUMBER, {"type": "boolean"}, {"type": "null"}, _EXACT_NUMBER],
}


def _object(description: str, **properties: object) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_CONDITIONS = [
    _object(
        "The key's value is equal to, or unlike, a value.",
        key=_KEY,
        op={"enum": ["eq", "ne"]},
        value=_SCALAR,
    ),
    _object(
        "The key's value is before or after a number, or a text by code point.",
        key=_KEY,
        op={"enum": ["lt", "le", "gt", "ge"]},
        value={"anyOf": [_TEXT, _NUMBER, _EXACT_NUMBER]},
    ),
    _object(
        "The key's value is equal to one of the values.",
        key=_KEY,
        op={"enum": ["in"]},
        values={"type": "array", "items": _SCALAR, "maxItems": MOST_VALUES},
    ),
    _object(
        "The key's value is an array that has the value, or a text that the value is part of.",
        key=_KEY,
        op={"enum": ["contains"]},
        value=_SCALAR,
    ),
    _object("The key is there, whatever its value.", key=_KEY, op={"enum": ["exists"]}),
]


# Not written out again: a description that refers to itself needs a place in the page to refer to.
_PART = {"type": "object", "description": "A filter, described as this one is.", "minProperties": 1}
_PARTS = {"type": "array", "items": _PART, "minItems": 1, "maxItems": MOST_NODES}

JSON_SCHEMA: dict[str, Any] = {
    "anyOf": [
        *_CONDITIONS,
        _object("Every part holds.", **{"and": _PARTS}),
        _object("One part or more holds.", **{"or": _PARTS}),
        _object("The part does not hold.", **{"not": _PART}),
    ],
    "description": f"A condition on the documents' metadata. May be nested {DEEPEST} deep. Numbers "
    f"have at most {LARGEST_EXPONENT} digits before and after their point.",
    "examples": [
        {"key": "lang", "op": "eq", "value": "en"},
        {
            "and": [
                {"key": "year", "op": "ge", "value": 2020},
                {"not": {"key": "draft", "op": "exists"}},
            ]
        },
    ],
}

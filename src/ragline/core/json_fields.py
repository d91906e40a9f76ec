"""Reading the fields of JSON objects that people wrote: the right type, or a UsageError that says so.

Messages speak of the object as "it": whoever reads a file knows where that stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NoReturn

from ragline.errors import UsageError

_MOST_DEPTH = 100


def loads(text: str) -> Any:
    """Return a JSON value, read strictly; UsageError says what is wrong, and where in the text.

    Refused are NaN and infinity, keys that stand twice in an object, and values nested without end.
    """
    try:
        return json.loads(
            text,
            parse_constant=_no_number,
            parse_float=_finite,
            object_pairs_hook=_pairs,
        )
    except RecursionError as error:
        raise UsageError("its values are nested too deep to be read") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        where = f"{line}character {error.colno}"
        raise UsageError(f"it is not valid JSON: {error.msg} at {where}") from error
    except ValueError as error:  # a number of thousands of digits, or one of ours
        raise UsageError(f"it is not valid JSON: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits} is larger than any number that can be kept")
    return number


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def kind(value: object) -> str:
    """Return what a JSON value is, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def named(value: Mapping[str, Any], key: str, default: str | None) -> str:
    """Return what names something, text or whole number; UsageError when there is neither."""
    given = value.get(key, default)
    if given is None:
        raise UsageError(f"it has no {key!r}")
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise UsageError(f"its {key!r} is {kind(given)}, not text or a whole number")
    return str(given)


def text_of(value: Mapping[str, Any], key: str, *, keep_empty: bool = False) -> str | None:
    """Return the text of a key; None for none, for null, and for one of spaces only."""
    given = value.get(key)
    if given is not None and not isinstance(given, str):
        raise UsageError(f"its {key!r} is {kind(given)}, not text")
    return given if given is None or keep_empty or given.strip() else None


def list_of(value: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list of a key; an empty one for none and for null."""
    given = value.get(key)
    if given is None:
        return []
    if not isinstance(given, list):
        raise UsageError(f"its {key!r} is {kind(given)}, not a list")
    return given


def texts_of(value: Mapping[str, Any], key: str) -> list[str]:
    """Return the list of texts of a key; an empty one for none and for null."""
    texts: list[str] = []
    for one in list_of(value, key):
        if not isinstance(one, str):
            raise UsageError(f"its {key!r} holds {kind(one)}, where only text may stand")
        texts.append(one)
    return texts


def fault(value: object) -> str | None:
    """Return why PostgreSQL cannot keep a value as JSON, or None."""
    todo: list[tuple[object, int]] = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        if depth > _MOST_DEPTH:
            return f"its values are nested more than {_MOST_DEPTH} deep"
        if reason := _fault_of_one(one):
            return reason
        todo += ((inner, depth + 1) for inner in _inner(one))
    return None


def _inner(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from chain(value, value.values())
    elif isinstance(value, list | tuple):
        yield from value


def _fault_of_one(value: object) -> str | None:
    if isinstance(value, str):
        return text_fault(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number in JSON"
    if value is None or isinstance(value, bool | int | float | list | tuple):
        return None
    if isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str)]
        return f"the key {strange[0]!r} is no text" if strange else None
    return f"{type(value).__name__} is no value of JSON"


def text_fault(text: str) -> str | None:
    """Return why PostgreSQL cannot keep a text, or None."""
    if (place := text.find("\0")) >= 0:
        return f"a NUL character stands at {place} of {_short(text)!r}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character stands at {error.start} of {_short(text)!r}"
    return None


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"

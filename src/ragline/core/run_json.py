"""Runs, their cases and what was measured as JSON values, and back, without any loss.

A value is what `json` reads and writes: dict, list, str, int, float, bool or None. NaN and infinities
are refused, for JSON has none. Mappings keep the order of their keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from ragline.core.cases import labels_from_json
from ragline.core.claims import ClaimLabels
from ragline.core.runs import CaseResult, Run
from ragline.errors import UsageError

_T = TypeVar("_T")
# Where a value stands, as the place of what holds it and the key there: written out only for errors,
# since every case of every run comes through here.
_Place: TypeAlias = "str | tuple[_Place, str | int]"
_Read: TypeAlias = Callable[[Any, _Place], Any]


def plain(value: object, where: _Place = "value") -> Any:
    """Return any of our values as JSON; UsageError names what JSON cannot hold, and where it is."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{_said(where)} is {value}, which is not a number that JSON can hold")
        return value
    if is_dataclass(value) and not isinstance(value, type):
        names = _names(type(value))
        return {name: plain(getattr(value, name), (where, name)) for name in names}
    if isinstance(value, Mapping):
        return {_key(key, where): plain(part, (where, key)) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(part, (where, number)) for number, part in enumerate(value)]
    raise UsageError(f"{_said(where)} is a {type(value).__name__}, which JSON cannot hold")


def result_to_json(result: CaseResult) -> dict[str, Any]:
    """Return one case of a run as a JSON object."""
    return _object(plain(result, f"case {result.case_id}"), "case")


def run_to_json(run: Run) -> dict[str, Any]:
    """Return a run, without its cases, as a JSON object."""
    return _object(plain(run, f"run {run.name}"), "run")


def from_json(kind: Callable[..., _T], value: object, where: _Place) -> _T:
    """Return the value of a class of `core.runs` that a JSON object holds.

    What it lacks has its default; UsageError names what does not fit, and what nobody knows.
    """
    read = _readers(kind)
    given = _object(value, where)
    if unknown := given.keys() - read.keys():
        raise UsageError(
            f"{_said(where)} has {', '.join(sorted(map(repr, unknown)))}, which this ragline does not "
            "know: it may be of a newer one"
        )
    if missing := _required(kind) - given.keys():
        raise UsageError(f"{_said(where)} lacks {', '.join(sorted(map(repr, missing)))}")
    return kind(**{name: read[name](part, (where, name)) for name, part in given.items()})


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


def _said(where: _Place) -> str:
    if isinstance(where, str):
        return where
    place, key = where
    return f"{_said(place)}[{key}]" if isinstance(key, int) else f"{_said(place)}.{key}"


def _key(key: object, where: _Place) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{_said(where)} has the key {key!r}; JSON has only texts as keys")
    return key


@cache
def _required(kind: Any) -> frozenset[str]:
    return frozenset(
        item.name
        for item in fields(kind)
        if item.default is MISSING and item.default_factory is MISSING
    )


def _object(value: object, where: _Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _misfit(where, value, "an object")
    return value


def _misfit(where: _Place, value: object, wanted: str) -> UsageError:
    said = repr(value)
    return UsageError(
        f"{_said(where)} is {said[:77] + '…' if len(said) > 78 else said}, not {wanted}"
    )


def _exactly(kind: type[Any], wanted: str) -> _Read:
    def read(value: Any, where: _Place) -> Any:
        # Not isinstance: true and false are whole numbers to it.
        if type(value) is not kind:
            raise _misfit(where, value, wanted)
        return value

    return read


def _number(value: Any, where: _Place) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _misfit(where, value, "a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise _misfit(where, value, "a number that a float can hold") from error
    if not math.isfinite(number):
        raise _misfit(where, value, "a finite number")
    return number


def _word(words: Iterable[str]) -> _Read:
    known = tuple(words)

    def read(value: Any, where: _Place) -> str:
        if value not in known:
            raise _misfit(where, value, "one of " + ", ".join(known))
        return str(value)

    return read


def _maybe(read: _Read) -> _Read:
    return lambda value, where: None if value is None else read(value, where)


def _many(read: _Read) -> _Read:
    def read_all(value: Any, where: _Place) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _misfit(where, value, "a list")
        return tuple(read(part, (where, number)) for number, part in enumerate(value))

    return read_all


def _by_name(read: _Read) -> _Read:
    def read_all(value: Any, where: _Place) -> dict[str, Any]:
        given = _object(value, where)
        return {name: read(part, (where, name)) for name, part in given.items()}

    return read_all


@cache
def _readers(kind: Any) -> Mapping[str, _Read]:
    return {name: _reader(hint) for name, hint in get_type_hints(kind).items()}


def _reader(hint: Any) -> _Read:
    """Return what reads a field of this type."""
    if hint in _KNOWN:
        return _KNOWN[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _word(inner)
    if origin is UnionType:
        return _maybe(_reader(inner[0]))
    if origin is tuple:
        return _many(_reader(inner[0]))
    if origin is Mapping:
        return _by_name(_reader(inner[1]))
    return lambda value, where: from_json(hint, value, where)


_KNOWN: Mapping[Any, _Read] = {
    str: _exactly(str, "a text"),
    bool: _exactly(bool, "true or false"),
    int: _exactly(int, "a whole number"),
    float: _number,
    ClaimLabels: lambda value, _: labels_from_json(value),
    Mapping[str, Any]: _object,
}

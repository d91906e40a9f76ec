"""Runs, their cases and what was measured as JSON values, and back, without any loss.

A value is what `json` reads and writes: dict, list, str, int, float, bool or None. NaN and infinities
are refused, for JSON has none. Mappings keep the order of their keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar, get_args

from ragline.core.cases import labels_from_json
from ragline.core.results import Method
from ragline.core.runs import (
    AnswerKind,
    CaseError,
    CaseResult,
    ContextKind,
    Figure,
    JudgeKind,
    Match,
    Run,
    RunHit,
    Settings,
    Spent,
    State,
)
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


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """Return settings as a JSON object."""
    return _object(plain(settings, "settings"), "settings")


def settings_from_json(value: object) -> Settings:
    """Return the settings that a JSON object holds; UsageError names what does not fit."""
    return _made(Settings, value, "settings", _SETTINGS)


def result_to_json(result: CaseResult) -> dict[str, Any]:
    """Return one case of a run as a JSON object."""
    return _object(plain(result, f"case {result.case_id}"), "case")


def result_from_json(value: object) -> CaseResult:
    """Return the case that a JSON object holds."""
    return _made(CaseResult, value, "case", _RESULT)


def run_to_json(run: Run) -> dict[str, Any]:
    """Return a run, without its cases, as a JSON object."""
    return _object(plain(run, f"run {run.name}"), "run")


def run_from_json(value: object) -> Run:
    """Return the run that a JSON object holds."""
    return _made(Run, value, "run", _RUN)


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


def _made(kind: Callable[..., _T], value: object, where: _Place, read: Mapping[str, _Read]) -> _T:
    """Make a value from an object; what it lacks has its default, what nobody knows is refused."""
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


def _text(value: Any, where: _Place) -> str:
    if not isinstance(value, str):
        raise _misfit(where, value, "a text")
    return value


def _flag(value: Any, where: _Place) -> bool:
    if not isinstance(value, bool):
        raise _misfit(where, value, "true or false")
    return value


def _whole(value: Any, where: _Place) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _misfit(where, value, "a whole number")
    return value


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


def _of(kind: type[Any], read: Mapping[str, _Read]) -> _Read:
    return lambda value, where: _made(kind, value, where, read)


_SETTINGS: Mapping[str, _Read] = {
    "collections": _many(_text),
    "k": _whole,
    "method": _word(get_args(Method)),
    "ef_search": _maybe(_whole),
    "exact": _flag,
    "filter": _maybe(_text),
    "answers": _word(get_args(AnswerKind)),
    "judge": _word(get_args(JudgeKind)),
    "contexts": _word(get_args(ContextKind)),
    "match": _word(get_args(Match)),
    "against_exact": _flag,
    "seed": _whole,
}
_HIT: Mapping[str, _Read] = {
    "collection": _text,
    "chunk_id": _whole,
    "source": _text,
    "hash": _text,
    "score": _number,
}
_ERROR: Mapping[str, _Read] = {
    "phase": _text,
    "kind": _text,
    "message": _text,
    "exit_code": _whole,
}
_SPENT: Mapping[str, _Read] = {
    "calls": _whole,
    "input_tokens": _maybe(_whole),
    "output_tokens": _maybe(_whole),
    "cost_micro_usd": _maybe(_whole),
}
_RESULT: Mapping[str, _Read] = {
    "case_id": _text,
    "ordinal": _whole,
    "hits": _many(_of(RunHit, _HIT)),
    "contexts": _many(_text),
    "answer": _maybe(_text),
    "found": _maybe(_flag),
    "labels": _maybe(lambda value, _: labels_from_json(value)),
    "metrics": _by_name(_number),
    "errors": _many(_of(CaseError, _ERROR)),
    "warnings": _many(_text),
    "phases_ms": _by_name(_number),
    "total_ms": _number,
    "spent": _of(Spent, _SPENT),
    "reuse_key": _maybe(_text),
    "is_reused": _flag,
}
_FIGURE: Mapping[str, _Read] = {"value": _number, "n": _whole, "missing": _whole}
_RUN: Mapping[str, _Read] = {
    "id": _whole,
    "name": _text,
    "dataset": _text,
    "dataset_hash": _text,
    "state": _word(get_args(State)),
    "settings": _of(Settings, _SETTINGS),
    "judge_id": _maybe(_text),
    "provenance": _object,
    "cases": _whole,
    "done": _whole,
    "failed": _whole,
    "reused": _whole,
    "metrics": _by_name(_of(Figure, _FIGURE)),
    "errors": _by_name(_whole),
    "phases_ms": _by_name(_number),
    "spent": _of(Spent, _SPENT),
    "cache": _by_name(_whole),
    "warnings": _many(_text),
    "started_at": _text,
    "seconds": _number,
}

"""Reading single settings out of a mapping of texts: checked, or refused with what to write."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ragline.core.dsn import Secret
from ragline.errors import ConfigError

Environment = Mapping[str, str]
_Number = TypeVar("_Number", int, float)


def text(env: Environment, name: str) -> str | None:
    """Return a setting without the spaces around it; None when it is not set, or empty."""
    return env.get(name, "").strip() or None


def number(
    env: Environment, name: str, kind: type[_Number], low: _Number, high: _Number, what: str
) -> _Number | None:
    """Return a number from `low` to `high`, or None when it is not set."""
    said = text(env, name)
    if said is None:
        return None
    try:
        value = kind(said)
    except ValueError:
        value = kind(-1)
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} is {said!r}; write {what} from {low} to {high}, or unset it")
    return value


def whole_or_none(env: Environment, name: str, *, at_most: int, at_least: int = 1) -> int | None:
    """Return a whole number, or None when it is not set."""
    return number(env, name, int, at_least, at_most, "a whole number")


def whole(env: Environment, name: str, *, default: int, at_most: int, at_least: int = 1) -> int:
    """Return a whole number."""
    value = whole_or_none(env, name, at_most=at_most, at_least=at_least)
    return default if value is None else value


def seconds(env: Environment, name: str, *, default: float) -> float:
    """Return a time in seconds, at most a day."""
    return number(env, name, float, 0.001, 86400.0, "seconds") or default


def choice(env: Environment, name: str, values: Sequence[str], *, default: str) -> str:
    """Return one of some words."""
    said = text(env, name)
    if said is None:
        return default
    if said not in values:
        raise ConfigError(f"{name} is {said!r}; write one of {', '.join(values)}, or unset it")
    return said


def header_secret(env: Environment, name: str) -> Secret | None:
    """Return a key that travels in an HTTP header, or None when it is not set."""
    said = text(env, name)
    if said is None:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", said):
        raise ConfigError(
            f"{name} (not shown) holds a character that an HTTP header cannot carry; "
            "use letters, digits and punctuation, without spaces"
        )
    return Secret(said)

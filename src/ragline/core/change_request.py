"""A change as people write it: words of a command line, or TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ragline.core.change import Part, Value
from ragline.errors import UsageError

# These change one named thing for each NAME=VALUE; the others change one thing with several facts.
_SETTINGS, _ROLES = "setting", "role"
# Revisions are hexadecimal: 12e4 is one, and no number.
_MIGRATIONS = "migration"
_NOTHING = ("none", "default")


def parts(kind: str, words: Sequence[str]) -> tuple[Part, ...]:
    """Return the parts that words of a command line name; raises UsageError with an example.

    >>> parts("setting", ["work_mem=32MB"])
    (Part(kind='setting', target='work_mem', want='32MB'),)
    >>> parts("role", ["eval_app", "work_mem=none"])
    (Part(kind='role', target='eval_app.work_mem', want=None),)
    """
    if kind == _SETTINGS:
        return tuple(
            Part(kind=kind, target=name, want=_text_or_none(value))
            for name, value in _pairs(kind, words)
        )
    if not words or "=" in words[0].partition(" ")[0]:
        raise UsageError(f"say what to change first, such as `{_EXAMPLES.get(kind, _OTHER)}`")
    target, rest = words[0], words[1:]
    if kind == _ROLES:
        return tuple(
            Part(kind=kind, target=f"{target}.{name}", want=_number_or_text(name, value))
            for name, value in _pairs(kind, rest)
        )
    if len(rest) == 1 and rest[0] in _NOTHING:
        return (Part(kind=kind, target=target, want=None),)
    read: Callable[[str], Value] = _text_or_none if kind == _MIGRATIONS else _value
    return (
        Part(
            kind=kind,
            target=target,
            want={name: read(value) for name, value in _pairs(kind, rest)},
        ),
    )


def from_toml(text: str, source: str) -> tuple[Part, ...]:
    """Return the parts of a file: tables `[[part]]` with kind, target and want (none: not there)."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}") from error
    entries = found.get("part")
    if set(found) != {"part"} or not isinstance(entries, list) or not entries:
        raise UsageError(f"{source} must hold tables [[part]], each with kind, target and want")
    return tuple(_part(entry, f"{source}, part {at}") for at, entry in enumerate(entries, 1))


def _part(entry: Mapping[str, Any], where: str) -> Part:
    if not {"kind", "target"} <= entry.keys() <= {"kind", "target", "want"}:
        raise UsageError(
            f"{where} has {', '.join(entry)}; it needs kind and target, and takes want"
        )
    for name in ("kind", "target"):
        if not isinstance(entry[name], str) or not entry[name]:
            raise UsageError(f"{where}: {name} is {entry[name]!r}; it must be a text")
    want = entry.get("want")
    _check_plain(want, where)
    return Part(kind=entry["kind"], target=entry["target"], want=want)


def _check_plain(value: object, where: str) -> None:
    """A date, or a number that is none, is no value of ours."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: want is {value!r}, which JSON does not know") from None


_EXAMPLES = {
    "setting": "ragline change plan setting work_mem=32MB",
    "role": "ragline change plan role eval_app work_mem=32MB",
    "index": "ragline change plan index COLLECTION m=24 ef_construction=128",
    "space": "ragline change plan space COLLECTION model=FOLDER",
    "search": "ragline change plan search COLLECTION ef_search=200",
    "migration": "ragline change plan migration alembic.ini revision=head",
}
_OTHER = "ragline change plan KIND TARGET NAME=VALUE"


def _pairs(kind: str, words: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise UsageError(
                f"{word!r} is not NAME=VALUE; write for example `{_EXAMPLES.get(kind, _OTHER)}`"
            )
        found.append((name.strip(), value.strip()))
    if not found:
        raise UsageError(f"say what it should be: `{_EXAMPLES.get(kind, _OTHER)}`")
    names = [name for name, _ in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice} is given twice; say once what it should be")
    return found


def _text_or_none(text: str) -> str | None:
    return None if text.lower() in ("", *_NOTHING) else text


def _number_or_text(name: str, text: str) -> Value:
    if name == "connection_limit":
        return _value(text)
    return _text_or_none(text)


def _value(text: str) -> Value:
    """Return a number or a text as one says it; "none" and nothing are none."""
    if _text_or_none(text) is None:
        return None
    try:
        found = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return found if is_number else text


def _refuse(constant: str) -> float:
    raise ValueError(constant)

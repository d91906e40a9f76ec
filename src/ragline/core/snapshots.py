"""Snapshots of a server compared: what differs, what is told of it, and what leads back.

A snapshot is groups of facts by name. A group that could not be read says why, and is never empty.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ragline.core import guc_values, gucs
from ragline.errors import UsageError

GROUPS = (
    "settings", "files", "roles", "extensions", "versions", "hardware", "memory", "schema", "sizes",
    "content",
)  # fmt: skip
LEAST_SHARE, LEAST_BYTES = 0.1, 1024**2
"""A size that moved by less than a tenth, or less than 1 MiB, moved by itself."""
CONNECTION_LIMIT = "connection_limit"
CHOSEN, HIDDEN = "chosen by the server", "hidden by what this login has of its own"
"""Sources of settings whose value is not kept."""

Fact: TypeAlias = Mapping[str, Any]

_DERIVED = frozenset(
    {
        "huge_pages_status", "num_os_semaphores", "server_version", "server_version_num",
        "shared_memory_size", "shared_memory_size_in_huge_pages",
    }
)  # fmt: skip
_MAY_HOLD_A_SECRET = re.compile(
    r"secret|passw|passphrase|token|salt|api_?key|private|conninfo|credential|_command$",
    re.IGNORECASE,
)
_NO_SECRETS = frozenset({"password_encryption", "scram_iterations"})
_LOOKS_SECRET = re.compile(r"://[^/\s:@]*:[^@\s]+@|passw(or)?d\s*=", re.IGNORECASE)
_REFERENCE = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
_MS = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1000, "ms": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Facts of one sort by name. `unknown` says why they could not be read.

    `partial` says why some may be missing, so that what is on one side only proves nothing.
    """

    facts: Mapping[str, Fact] = field(default_factory=dict)
    unknown: str | None = None
    partial: str | None = None


Contents: TypeAlias = Mapping[str, Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was there at a time, as it is stored."""

    id: int
    name: str | None
    note: str
    taken_at: datetime
    by_user: str
    contents: Contents

    @property
    def called(self) -> str:
        """How people say it."""
        return f"{self.id} ({self.name})" if self.name else str(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A fact that is not what it was. None is not there."""

    group: str
    name: str
    was: Fact | None
    now: Fact | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A group that is known, whole or there on one side only."""

    group: str
    was: Group | None
    now: Group | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A difference as people are told. `restart`: whether it takes one to change it; None: no such
    thing. `source` says where a setting's value came from and comes from.
    """

    group: str
    name: str
    was: Fact | None
    now: Fact | None
    source: str | None = None
    restart: bool | None = None
    waits_for_restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCompared:
    """A group, or a part of it, of which nobody knows whether it differs."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs, what only moved by itself, and what could not be compared."""

    differences: tuple[Told, ...]
    moved: tuple[Difference, ...]
    not_compared: tuple[NotCompared, ...]


# Values.


def kept(name: str, value: str | None) -> dict[str, Any]:
    """Return a setting's value as a snapshot keeps it: of one that may hold a secret only a hash.

    >>> kept("work_mem", "4MB")
    {'value': '4MB'}
    >>> list(kept("primary_conninfo", "password=x"))
    ['hash']
    """
    if not value or not _holds_secret(name.lower(), value):
        return {"value": value}
    said = hashlib.sha256(f"{name.lower()}\0{value}".encode()).hexdigest()
    return {"hash": f"sha256:{said[:16]}"}


def is_noise(name: str) -> bool:
    """Return whether a setting belongs to our own session, or follows from others."""
    return name.lower() in _DERIVED or guc_values.is_of_one_session(name)


def shown(fact: Fact | None) -> str:
    """Return a setting's value as people write it.

    >>> shown({"value": "4096", "unit": "kB"})
    '4MB'
    """
    if fact is None:
        return "not there"
    if "hash" in fact:
        return f"a value that is not shown ({fact['hash']})"
    value, unit = fact.get("value"), fact.get("unit")
    if value is None:
        source = str(fact.get("source"))
        return source if source.startswith((CHOSEN, HIDDEN)) else "unset"
    if unit is None or not str(value).isdigit() or value == "0":
        return str(value) or "''"
    size = guc_values.number(
        "1" + unit if unit[0] not in "0123456789" else unit, "B", is_whole=True
    )
    if size is not None:
        return gucs.written(int(value) * int(size))
    if unit in _MS:
        whole = int(value) * _MS[unit]
        return next(f"{whole // ms}{word}" for word, ms in _MS.items() if whole % ms == 0)
    return f"{value}{unit}"


def check_name(name: str) -> None:
    """Raise UsageError for a name that could be taken for a number, or for now."""
    if not _REFERENCE.fullmatch(name) or name == "now":
        raise UsageError(
            f"a snapshot cannot be called {name!r}: write letters, digits, '_', '.' or '-', at most 64, "
            "a letter first, and not the word now"
        )


def digest(group: Group) -> str | None:
    """Return one hash of all facts of a group; None of what is unknown."""
    if group.unknown is not None:
        return None
    said = json.dumps(group.facts, sort_keys=True)
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def to_json(contents: Contents) -> dict[str, Any]:
    """Return contents as plain values."""
    return {name: asdict(group) for name, group in contents.items()}


def from_json(found: Mapping[str, Any]) -> Contents:
    """Return contents that `to_json` wrote."""
    return {name: Group(**group) for name, group in found.items()}


def _holds_secret(name: str, value: str) -> bool:
    if name in _NO_SECRETS:
        return False
    may_hold = guc_values.is_confidential(name) or _MAY_HOLD_A_SECRET.search(name)
    return bool(may_hold or _LOOKS_SECRET.search(value))


# Differences: exact, so that they lead from one to the other.


def diff(was: Contents, now: Contents) -> tuple[Difference | Replaced, ...]:
    """Return everything in which two contents differ; `applied` to the first it gives the second."""
    found: list[Difference | Replaced] = []
    for group in _groups(was, now):
        before, after = was.get(group), now.get(group)
        if before is None or after is None or _head(before) != _head(after):
            found.append(Replaced(group=group, was=before, now=after))
        else:
            found += differing(group, before, after)
    return tuple(found)


def applied(was: Contents, differences: tuple[Difference | Replaced, ...]) -> Contents:
    """Return what `was` becomes by some differences."""
    found = {name: dict(group.facts) for name, group in was.items()}
    heads = dict(was)
    for one in differences:
        if isinstance(one, Replaced):
            found.pop(one.group, None)
            heads.pop(one.group, None)
            if one.now is not None:
                found[one.group], heads[one.group] = dict(one.now.facts), one.now
        elif one.now is None:
            del found[one.group][one.name]
        else:
            found[one.group][one.name] = one.now
    return {
        name: Group(facts=found[name], unknown=head.unknown, partial=head.partial)
        for name, head in heads.items()
    }


def _groups(*contents: Contents) -> list[str]:
    names = {name for one in contents for name in one}
    return [*(g for g in GROUPS if g in names), *sorted(names - set(GROUPS))]


def _head(group: Group) -> tuple[str | None, str | None]:
    return group.unknown, group.partial


def differing(name: str, was: Group, now: Group) -> list[Difference]:
    """Return the facts of a group that is known on both sides in which they differ."""
    if was.unknown is not None or now.unknown is not None:
        return []
    return [
        Difference(group=name, name=fact, was=was.facts.get(fact), now=now.facts.get(fact))
        for fact in sorted({*was.facts, *now.facts})
        if was.facts.get(fact) != now.facts.get(fact)
    ]


# What is told.


def compared(was: Contents, now: Contents) -> Comparison:
    """Return what differs as people are told it: each thing once, without what moves by itself."""
    told: list[Told] = []
    moved: list[Difference] = []
    unknown: list[NotCompared] = []
    by_setting: dict[tuple[str, str], list[Difference]] = {}
    for one in (d for name in ("settings", "files") for d in _of(name, was, now)):
        by_setting.setdefault((one.group, _setting_name(one)), []).append(one)
    for name in _groups(was, now):
        before, after = was.get(name), now.get(name)
        if before is None or after is None:
            age = "the older" if before is None else "the newer"
            unknown.append(NotCompared(group=name, reason=f"{age} snapshot does not have it"))
            continue
        unknown += _not_compared(name, before, after)
        is_partial = before.partial != after.partial
        for one in differing(name, before, after):
            if is_partial and (one.was is None or one.now is None):
                continue
            if _moves_by_itself(one):
                moved.append(one)
            elif not _is_told_elsewhere(one, by_setting):
                told.append(_told(one, was, now))
    return Comparison(differences=tuple(told), moved=tuple(moved), not_compared=tuple(unknown))


def _of(group: str, was: Contents, now: Contents) -> list[Difference]:
    return differing(group, was[group], now[group]) if group in was and group in now else []


def _not_compared(name: str, was: Group, now: Group) -> Iterator[NotCompared]:
    for when, group in (("then", was), ("now", now)):
        if group.unknown is not None:
            yield NotCompared(group=name, reason=f"unknown {when}, because {group.unknown}")
    if was.partial != now.partial:
        reason = was.partial or now.partial or ""
        yield NotCompared(group=name, reason=f"only what both sides know: on one of them {reason}")


def _is_told_elsewhere(one: Difference, all_: Mapping[tuple[str, str], list[Difference]]) -> bool:
    """Whether another line says the same: one change is one line.

    A value that runs is told as a setting, one that waits for a restart as a line of its file.
    """
    name = _setting_name(one)
    if one.group == "files":
        if any(_runs_otherwise(other) for other in all_.get(("settings", name), [])):
            return not _waits(one)
        others = all_.get(("files", name), [])
        return not _says_otherwise(one) and any(map(_says_otherwise, others))
    if one.group == "settings" and not _runs_otherwise(one):
        return any(map(_says_otherwise, all_.get(("files", name), [])))
    return False


def _setting_name(one: Difference) -> str:
    fact = one.now or one.was or {}
    return str(fact.get("name", one.name)).lower() if one.group == "files" else one.name.lower()


def _runs_otherwise(one: Difference) -> bool:
    return _differs(one, "value", "hash", "source", "file")


def _says_otherwise(one: Difference) -> bool:
    return _differs(one, "value", "hash", "error")


def _differs(one: Difference, *keys: str) -> bool:
    was, now = one.was, one.now
    return was is None or now is None or any(was.get(key) != now.get(key) for key in keys)


def _waits(one: Difference) -> bool:
    return bool(one.now and one.now.get("auto") and not one.now.get("applied"))


def _moves_by_itself(one: Difference) -> bool:
    if one.group == "memory":
        return True
    if one.group != "sizes":
        return False
    if one.was is None or one.now is None:
        return True  # the schema says that it came or went
    was, now = int(one.was["bytes"]), int(one.now["bytes"])
    return abs(now - was) < max(LEAST_BYTES, LEAST_SHARE * was)


def _told(one: Difference, was: Contents, now: Contents) -> Told:
    name, source, restart, waits = one.name, None, None, False
    if one.group == "settings":
        source = _then_and_now(source_of(one.was), source_of(one.now))
        restart = _fact_of(name, was, now).get("context") == "postmaster"
        waits = bool((one.now or {}).get("pending_restart"))
    elif one.group == "files":
        fact = one.now or one.was or {}
        name, source = str(fact.get("name")), str(fact.get("file"))
        setting = _fact_of(name, was, now)
        restart = setting.get("context") == "postmaster"
        waits = bool(setting.get("pending_restart"))
    elif one.group == "roles":
        source, restart = "role", False
    return Told(
        group=one.group,
        name=name,
        was=one.was,
        now=one.now,
        source=source,
        restart=restart,
        waits_for_restart=waits,
    )


def _then_and_now(was: str, now: str) -> str:
    return was if was == now else f"{was} -> {now}"


def source_of(fact: Fact | None) -> str:
    """Return where a setting's value comes from: a file, or what the server calls it."""
    if fact is None:
        return "not there"
    return str(fact.get("file") or fact.get("source"))


def _fact_of(name: str, was: Contents, now: Contents) -> Fact:
    """Return the setting of a name, as it is now where it is there."""
    for side in (now, was):
        for known, fact in side.get("settings", Group()).facts.items():
            if known.lower() == name.lower():
                return fact
    return {}

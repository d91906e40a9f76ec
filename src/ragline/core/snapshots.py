"""Snapshots of a server compared: what differs, what is told of it, and what leads back.

A snapshot is groups of facts by name. A group that could not be read says why, and is never empty.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ragline.core import guc_numbers, guc_values, gucs
from ragline.errors import UsageError

GROUPS = (
    "settings", "files", "roles", "extensions", "versions", "hardware", "memory", "schema", "sizes",
    "content",
)  # fmt: skip
CONNECTION_LIMIT = "connection_limit"
EVERY_ROLE = "every role"
"""Whose a setting of ALTER DATABASE is."""
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
_LIBRARIES = frozenset(
    {
        "auto_explain", "bloom", "cron", "hnsw", "ivfflat", "jit", "pg_prewarm", "pg_stat_statements",
        "pg_trgm", "pgaudit", "pgvector", "plpgsql", "postgres_fdw", "vector",
    }
)  # fmt: skip
"""What is before the dot in names of settings that a library declares, none of them a secret."""
_TELLS_NOTHING = re.compile(
    r"(?:[+-]?\d{1,9}(?:\.\d+)?(?:[kMGT]?B|us|ms|s|min|h|d)?|on|off|true|false|yes|no)",
    re.IGNORECASE,
)
_ROUNDS = 20_000
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
    # Slow, because a short password is soon guessed from a quick hash.
    said = hashlib.pbkdf2_hmac("sha256", value.encode(), name.lower().encode(), _ROUNDS)
    return {"hash": f"pbkdf2:{said.hex()[:16]}"}


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
    size = guc_numbers.number(
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
    if may_hold or _LOOKS_SECRET.search(value):
        return True
    # An application's own setting may be anything: a key, a token under any name.
    library, dot, _ = name.partition(".")
    return bool(dot) and library not in _LIBRARIES and not _TELLS_NOTHING.fullmatch(value)


def groups(*contents: Contents) -> list[str]:
    """Return the groups that there are, in the order in which they are shown."""
    names = {name for one in contents for name in one}
    return [*(g for g in GROUPS if g in names), *sorted(names - set(GROUPS))]


def differing(name: str, was: Group, now: Group) -> list[Difference]:
    """Return the facts of a group that is known on both sides in which they differ."""
    if was.unknown is not None or now.unknown is not None:
        return []
    return [
        Difference(group=name, name=fact, was=was.facts.get(fact), now=now.facts.get(fact))
        for fact in sorted({*was.facts, *now.facts})
        if was.facts.get(fact) != now.facts.get(fact)
    ]

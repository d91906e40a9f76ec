"""Versions of PostgreSQL and pgvector that are known to be faulty, as `advisories.toml` has them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Any, Literal

Version = tuple[int, ...]
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Major:
    """A major version: its newest minor, and when the last one comes."""

    newest: str
    end_of_life: date


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFault:
    """A fault of PostgreSQL; `fixed` has the first minor without it, by affected major."""

    id: str
    what: str
    fixed: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionFault:
    """A fault of pgvector before a version; `since` None is from the beginning."""

    before: str
    since: str | None
    status: Literal["fail", "warn"]
    id: str | None
    what: str

    @property
    def told(self) -> str:
        """The fault in words, with its number where it has one."""
        return self.what if self.id is None else f"{self.id}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisories:
    """What was known on a date."""

    as_of: date
    postgresql: Mapping[int, Major]
    server_faults: Sequence[ServerFault]
    pgvector_newest: str
    pgvector_faults: Sequence[ExtensionFault]

    def of_server(self, version: str) -> list[ServerFault]:
        """Return the known faults of a version such as "16.4"."""
        seen = numbers(version)
        return [
            fault
            for fault in self.server_faults
            if seen[:1]
            and (fixed := fault.fixed.get(seen[0])) is not None
            and seen < numbers(fixed)
        ]

    def of_pgvector(self, version: str) -> list[ExtensionFault]:
        """Return the known faults of a version such as "0.8.1", the worst first."""
        seen = numbers(version)
        found = [
            fault
            for fault in self.pgvector_faults
            if seen < numbers(fault.before)
            and (fault.since is None or numbers(fault.since) <= seen)
        ]
        return sorted(found, key=lambda fault: fault.status != "fail")


def numbers(version: str) -> Version:
    """Return the numbers of a version: of "16.4 (Debian 16.4-1)" 16 and 4."""
    found = _NUMBERS.match(version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def advisories(text: str) -> Advisories:
    """Return what a file of advisories says."""
    said = tomllib.loads(text)
    return Advisories(
        as_of=said["as_of"],
        postgresql=MappingProxyType(
            {int(major): Major(**facts) for major, facts in said["postgresql"].items()}
        ),
        server_faults=tuple(_server_fault(fault) for fault in said["postgresql_fault"]),
        pgvector_newest=said["pgvector"]["newest"],
        pgvector_faults=tuple(
            ExtensionFault(**{"since": None, "id": None, **fault})
            for fault in said["pgvector_fault"]
        ),
    )


def _server_fault(fault: Mapping[str, Any]) -> ServerFault:
    fixed = {int(major): str(minor) for major, minor in fault["fixed"].items()}
    return ServerFault(id=fault["id"], what=fault["what"], fixed=MappingProxyType(fixed))

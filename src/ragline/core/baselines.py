"""Baselines: which findings of a check are known already, though the lines of their files move."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar

VERSION = 1

Key = tuple[str, str, str]
"""The path, the name of the class or rule, and the evidence."""
Status = Literal["new", "known", "allowed"]


class Judged(Protocol):
    """A finding, of whatever check."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Key: ...
    @property
    def status(self) -> Status: ...


F = TypeVar("F", bound=Judged)
F_contra = TypeVar("F_contra", contravariant=True)


class Allowing(Protocol[F_contra]):
    """An entry of an allow-list."""

    @property
    def reason(self) -> str: ...
    def covers(self, finding: F_contra) -> bool: ...


def judged(
    findings: Iterable[F], allowed: Sequence[Allowing[F]], known: Mapping[Key, int]
) -> tuple[F, ...]:
    """Return the findings with what is known of each: new, known or allowed."""
    left = Counter(known)
    out = []
    for finding in findings:
        entry = next((one for one in allowed if one.covers(finding)), None)
        if finding.status == "allowed":
            out.append(finding)
        elif entry is not None:
            out.append(replace(finding, status="allowed", reason=entry.reason))
        elif left[finding.key] > 0:
            left[finding.key] -= 1
            out.append(replace(finding, status="known"))
        else:
            out.append(finding)
    return tuple(out)


def written(findings: Iterable[Judged], by: Literal["class", "rule"]) -> str:
    """Return the text of a baseline of these findings, without those that are allowed."""
    counts = Counter(one.key for one in findings if one.status != "allowed")
    entries = [
        {"path": path, by: name, "evidence": evidence, "count": count}
        for (path, name, evidence), count in sorted(counts.items())
    ]
    return json.dumps({"version": VERSION, "findings": entries}, indent=2) + "\n"


def read(text: str, by: Literal["class", "rule"]) -> dict[Key, int]:
    """Return how many of each finding a baseline knows; raises ValueError, saying what it is not."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise ValueError(f"is not a baseline of version {VERSION}")
    try:
        return {_key(entry, by): _count(entry["count"]) for entry in found["findings"]}
    except (KeyError, TypeError):
        raise ValueError("holds an entry that is none") from None


def _key(entry: Mapping[str, Any], by: str) -> Key:
    key = entry["path"], entry[by], entry["evidence"]
    if not all(isinstance(part, str) for part in key):
        raise TypeError("names are texts")
    return key


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError("a count is a whole number")
    return value

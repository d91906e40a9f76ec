"""Which findings matter: the allow-list with its reasons, and the baseline of what is known."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from ragline.core import baselines
from ragline.core.dsn import nearest
from ragline.core.dsn_audit.finding import CLASSES
from ragline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ragline.core.baselines import Key
    from ragline.core.dsn_audit.finding import Finding

_NAMES = {**{name: name for name in CLASSES}, **{one.id: one.name for one in CLASSES.values()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Findings of some classes that are all right in some files, and why."""

    path: str
    names: tuple[str, ...]
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether it allows this one."""
        return finding.name in self.names and _spec(self.path).match_file(finding.path)


def allowances(text: str, *, source: str) -> tuple[Allowance, ...]:
    """Return the entries of an allow-list; raises ConfigError, naming the entry and what is wrong."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not TOML: {error}; write [[allow]] entries") from None
    if unknown := found.keys() - {"allow"}:
        raise ConfigError(f"{source} holds {min(unknown)!r}; it may hold only [[allow]]")
    entries = found.get("allow", [])
    if not isinstance(entries, list):
        raise ConfigError(f"{source} holds [allow]; write [[allow]], with two brackets")
    return tuple(
        _allowance(entry, f"{source}, entry {number}")
        for number, entry in enumerate(entries, start=1)
    )


def unused(
    findings: Sequence[Finding], allowed: Iterable[Allowance], tops: Iterable[str]
) -> tuple[Allowance, ...]:
    """Return the allowances that no finding needs any more; none of folders that were not looked at."""
    looked_at = tuple(tops)
    return tuple(
        one
        for one in allowed
        if not any(one.covers(finding) for finding in findings)
        and any(_may_hold(top, one.path) for top in looked_at)
    )


def _may_hold(top: str, pattern: str) -> bool:
    """Whether files below `top` can be of a pattern."""
    if top == "." or "/" not in pattern.rstrip("/"):
        return True
    fixed: list[str] = []
    for part in pattern.strip("/").split("/"):
        if re.search(r"[*?\[\\]", part):
            break
        fixed.append(part)
    parts = top.split("/")
    common = min(len(parts), len(fixed))
    return parts[:common] == fixed[:common]


def baseline(text: str, *, source: str) -> dict[Key, int]:
    """Return how many of each finding a baseline knows; raises ConfigError when it is none."""
    try:
        return baselines.read(text, "class")
    except ValueError as error:
        raise ConfigError(f"{source} {error}; write it again with --write-baseline") from None


def fingerprint(finding: Finding) -> str:
    """Return what stays the same when the lines of a file move."""
    return hashlib.sha256("\0".join(finding.key).encode(errors="replace")).hexdigest()[:32]


def _allowance(entry: object, where: str) -> Allowance:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is no table; write [[allow]] with path, class and reason")
    if unknown := entry.keys() - {"path", "class", "reason"}:
        raise ConfigError(f"{where} holds {min(unknown)!r}; it holds path, class and reason")
    path, reason = (_text(entry, name, where) for name in ("path", "reason"))
    named = entry.get("class")
    given = named if isinstance(named, list) else [named]
    names = [name for name in given if isinstance(name, str)]
    if not names or len(names) < len(given):
        raise ConfigError(f'{where} has no class; write class = "credential", or a list of them')
    for name in names:
        if name not in _NAMES:
            like = nearest(name, list(_NAMES)) or ", ".join(CLASSES)
            raise ConfigError(f"{where}: there is no class {name!r}; did you mean {like}?")
    if path.startswith("!"):
        raise ConfigError(f"{where}: path {path!r} begins with '!'; name what is allowed")
    try:
        _spec(path)
    except (ValueError, re.error):
        raise ConfigError(f"{where}: path {path!r} is no pattern such as tests/** is") from None
    return Allowance(path=path, names=tuple(_NAMES[name] for name in names), reason=reason)


def _text(entry: Mapping[str, object], name: str, where: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} has no {name}; every entry says path, class and reason")
    return value.strip()


@cache
def _spec(path: str) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines([path])

"""Which findings matter: an allow-list with its reasons, and a baseline of what is known."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ragline.core import baselines
from ragline.core.baselines import Key
from ragline.core.dsn import nearest
from ragline.core.migration_lint.revision import LintFinding
from ragline.core.migration_lint.rules import FIXES
from ragline.errors import ConfigError

SQUAWK = "squawk:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Findings of some rules that are all right in some files, and why."""

    path: str
    rules: tuple[str, ...]
    reason: str

    def covers(self, finding: LintFinding) -> bool:
        """Whether it allows this one."""
        path = finding.path
        fits = fnmatchcase(path, self.path) or fnmatchcase(path, f"*/{self.path}")
        return fits and finding.rule in self.rules


def allow_list(text: str, *, source: str) -> tuple[Allowed, ...]:
    """Return the entries of an allow-list; raises ConfigError, naming the entry and what is wrong."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not TOML: {error}; write [[allow]] entries") from None
    entries = found.get("allow", [])
    if found.keys() - {"allow"} or not isinstance(entries, list):
        raise ConfigError(f"{source} may hold only [[allow]] entries of path, rule and reason")
    return tuple(
        _entry(entry, f"{source}, entry {number}") for number, entry in enumerate(entries, start=1)
    )


def _entry(entry: object, where: str) -> Allowed:
    if not isinstance(entry, dict) or entry.keys() != {"path", "rule", "reason"}:
        raise ConfigError(f"{where}: write path, rule and reason, and nothing else")
    named = entry["rule"] if isinstance(entry["rule"], list) else [entry["rule"]]
    rules = tuple(str(rule) for rule in named)
    for rule in rules:
        if rule not in FIXES and not rule.startswith(SQUAWK):
            like = nearest(rule, list(FIXES)) or ", ".join(FIXES)
            raise ConfigError(f"{where}: there is no rule {rule!r}; did you mean {like}?")
    path, reason = str(entry["path"]).strip(), str(entry["reason"]).strip()
    if not path or not reason:
        raise ConfigError(f"{where}: path and reason may not be empty; say why it is all right")
    return Allowed(path=path, rules=rules, reason=reason)


def baseline(text: str, *, source: str) -> dict[Key, int]:
    """Return how many of each finding a baseline knows; raises ConfigError when it is none."""
    try:
        return baselines.read(text, "rule")
    except ValueError:
        raise ConfigError(
            f"{source} is not a baseline of version {baselines.VERSION}; write it again with "
            "--write-baseline"
        ) from None

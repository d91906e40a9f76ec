"""Which findings matter: an allow-list with its reasons, and a baseline of what is known."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ragline.core.dsn import nearest
from ragline.core.migration_lint.revision import LintFinding
from ragline.core.migration_lint.rules import FIXES
from ragline.errors import ConfigError

VERSION = 1
SQUAWK = "squawk:"

Key = tuple[str, str, str]


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


def judged(
    findings: Iterable[LintFinding], allowed: Sequence[Allowed], known: Mapping[Key, int]
) -> tuple[LintFinding, ...]:
    """Return the findings with what is known of each: new, known or allowed."""
    left = Counter(known)
    out = []
    for finding in findings:
        entry = next((one for one in allowed if one.covers(finding)), None)
        if finding.status == "allowed":
            out.append(finding)
        elif entry is not None:
            out.append(replace(finding, status="allowed", reason=entry.reason))
        elif left[_key(finding)] > 0:
            left[_key(finding)] -= 1
            out.append(replace(finding, status="known"))
        else:
            out.append(finding)
    return tuple(out)


def as_baseline(findings: Iterable[LintFinding]) -> str:
    """Return the text of a baseline of these findings, without those that are allowed."""
    counts = Counter(_key(one) for one in findings if one.status != "allowed")
    entries = [
        {"path": path, "rule": rule, "evidence": evidence, "count": count}
        for (path, rule, evidence), count in sorted(counts.items())
    ]
    return json.dumps({"version": VERSION, "findings": entries}, indent=2) + "\n"


def baseline(text: str, *, source: str) -> dict[Key, int]:
    """Return how many of each finding a baseline knows; raises ConfigError when it is none."""
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            raise ValueError("another version")
        return {
            (str(entry["path"]), str(entry["rule"]), str(entry["evidence"])): int(entry["count"])
            for entry in found["findings"]
        }
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ConfigError(
            f"{source} is not a baseline of version {VERSION}; write it again with --write-baseline"
        ) from None


def _key(finding: LintFinding) -> Key:
    return finding.path, finding.rule, finding.evidence

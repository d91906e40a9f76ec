"""What was found out about a database, check by check: doctor, inventory and advice speak in these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail", "unknown"]
WORST_FIRST: tuple[Status, ...] = ("fail", "unknown", "warn", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `id` is stable, such as "index.invalid"; `subject` what it is about.

    `evidence` says what was seen, with figures; `fix` what to do, None where nothing is to be done.
    `unknown` is what could not be looked at: never a pass.
    """

    id: str
    status: Status
    evidence: str
    subject: str | None = None
    fix: str | None = None


def urgency(finding: Finding) -> int:
    """Return what sorts findings, the worst first."""
    return WORST_FIRST.index(finding.status)


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status; `pass` of nothing."""
    seen = {finding.status for finding in findings}
    return next((status for status in WORST_FIRST if status in seen), "pass")

"""What the lint reads and what it says: revisions, their statements, findings and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ragline.core.baselines import Key, Status

Direction = Literal["upgrade", "downgrade"]

DIRECTIONS: tuple[Direction, Direction] = ("upgrade", "downgrade")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of a revision, with the line of the revision's file that sends it.

    `sql` is empty where nobody can tell before it runs. `is_autocommit` is inside of an
    `autocommit_block`: outside of the migration's transaction.
    """

    line: int
    sql: str
    is_autocommit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSource:
    """The file of a revision, and what it sends where it was rendered; None is: ask its text."""

    path: str
    text: str
    upgrade: tuple[Statement, ...] | None = None
    downgrade: tuple[Statement, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """One fault. `reason` is why it is allowed, where a comment says so."""

    rule: str
    path: str
    line: int
    revision: str | None
    evidence: str
    fix: str
    status: Status = "new"
    reason: str | None = None

    @property
    def key(self) -> Key:
        """What stays the same when the lines of a file move."""
        return self.path, self.rule, self.evidence

"""squawk, a linter of SQL by others, run over what revisions send."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ragline.config import child_environment
from ragline.core.migration_lint import LintFinding, RevisionSource, Statement
from ragline.core.migration_lint.judging import SQUAWK
from ragline.core.migration_lint.revision import DIRECTIONS
from ragline.errors import PreconditionFailed

_TIMEOUT_S = 60
# What our own rules say, say better, or say the opposite of; and taste.
_LEFT_OUT = frozenset(
    "adding-field-with-default adding-not-nullable-field adding-foreign-key-constraint "
    "ban-create-domain-with-constraint ban-drop-column ban-drop-table ban-truncate-cascade "
    "constraint-missing-not-valid prefer-big-int prefer-bigint-over-int "
    "prefer-bigint-over-smallint prefer-identity prefer-robust-stmts prefer-text-field "
    "renaming-column renaming-table require-concurrent-index-creation require-lock-timeout "
    "require-statement-timeout require-timeout-settings".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What squawk found, or why it did not run: then nobody knows, and that is no pass."""

    findings: tuple[LintFinding, ...] = ()
    why_not: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """The SQL of one direction, with the line of the revision for each first line of a statement."""

    source: RevisionSource
    text: str
    starts: tuple[int, ...]
    lines: tuple[int, ...]

    def line(self, at: int) -> int:
        return self.lines[max(0, bisect_right(self.starts, at) - 1)]


def program() -> Path | None:
    """Return squawk of this Python's environment, else of PATH; None where it is not installed."""
    beside = Path(sys.executable).with_name("squawk")
    found = str(beside) if beside.is_file() else shutil.which("squawk")
    return None if found is None else Path(found)


def run(sources: Sequence[RevisionSource], *, found: Path | None) -> Outcome:
    """Return what squawk says of revisions that were rendered."""
    if found is None:
        return Outcome(why_not="squawk is not installed: pip install 'ragline[lint]'")
    sheets = [
        _sheet(source, sent)
        for source in sources
        for name in DIRECTIONS
        if (sent := source.upgrade if name == "upgrade" else source.downgrade)
    ]
    if not sheets:
        return Outcome(why_not="no revision could be rendered for it")
    with tempfile.TemporaryDirectory(prefix="ragline-lint-") as folder:
        files = {Path(folder, f"{number}.sql"): sheet for number, sheet in enumerate(sheets)}
        for file, sheet in files.items():
            file.write_text(sheet.text, encoding="utf-8")
        said = _said(found, list(files))
        findings = tuple(
            _finding(files[Path(str(one["file"]))], one)
            for one in said
            if one["rule_name"] not in _LEFT_OUT
        )
    return Outcome(findings=findings, version=_version(found))


def _sheet(source: RevisionSource, sent: Sequence[Statement]) -> _Sheet:
    parts, starts, lines, at = [], [], [], 0
    for statement in sent:
        text = statement.sql.strip()
        if not text:
            continue
        text = text if text.endswith(";") else f"{text};"
        starts.append(at)
        lines.append(statement.line)
        parts.append(text)
        at += text.count("\n") + 1
    return _Sheet(
        source=source,
        text="\n".join(parts) + "\n",
        starts=tuple(starts) or (0,),
        lines=tuple(lines) or (1,),
    )


def _said(found: Path, files: Sequence[Path]) -> list[dict[str, object]]:
    done = _done(found, "--reporter=json", *map(str, files))
    try:
        said = json.loads(done.stdout or "[]")
    except ValueError:
        said = None
    if done.returncode not in (0, 1) or not isinstance(said, list):
        complaint = (done.stderr or done.stdout).strip()[-300:]
        raise PreconditionFailed(f"{found} failed: {complaint}; repair it, or use --no-squawk")
    return said


def _done(found: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(found), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=child_environment(),
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PreconditionFailed(
            f"{found} cannot be run: {error}; repair it, or use --no-squawk"
        ) from error


def _version(found: Path) -> str | None:
    words = _done(found, "--version").stdout.split()
    return words[-1] if words else None


def _finding(sheet: _Sheet, one: dict[str, object]) -> LintFinding:
    line = one.get("line")
    return LintFinding(
        rule=f"{SQUAWK}{one['rule_name']}",
        path=sheet.source.path,
        line=sheet.line(line if isinstance(line, int) else 0),
        revision=None,
        evidence=str(one.get("message") or ""),
        fix=str(one.get("help") or "see https://squawkhq.com/docs/rules"),
    )

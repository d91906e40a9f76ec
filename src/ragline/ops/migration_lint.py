"""The lint of an Alembic folder as a whole: our rules, squawk, the allow-list and the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ragline.core import baselines
from ragline.core.baselines import Key
from ragline.core.migration_lint import LintFinding, judging, lint, linting
from ragline.core.migration_lint.judging import Allowed
from ragline.errors import UsageError
from ragline.ops import migration_files, squawk

DEFAULT_LIST = Path(".ragline-lint.toml")
FailOn = Literal["new", "any", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linted:
    """What was found. `squawk` is its version, or None with `squawk_not_run` as the reason."""

    revisions: int
    findings: tuple[LintFinding, ...]
    not_rendered: dict[str, str]
    squawk: str | None
    squawk_not_run: str | None

    def failing(self, on: FailOn) -> tuple[LintFinding, ...]:
        """Return the findings that make it fail."""
        statuses = {"new": ("new",), "any": ("new", "known"), "never": ()}[on]
        return tuple(one for one in self.findings if one.status in statuses)


def run(
    paths: Sequence[Path],
    *,
    allowed: Sequence[Allowed],
    known: dict[Key, int],
    with_squawk: bool,
    is_rendered: bool = True,
) -> Linted:
    """Return the faults of the revisions below some paths; nothing is changed, no database asked."""
    read = [migration_files.read(path, is_rendered=is_rendered) for path in paths]
    sources = tuple(source for one in read for source in one.sources)
    if not sources:
        raise UsageError(
            f"{', '.join(map(str, paths))}: there is no revision yet; `ragline migrate new` makes one"
        )
    if with_squawk:
        outcome = squawk.run(sources, found=squawk.program())
    else:
        outcome = squawk.Outcome(why_not="--no-squawk")
    # Each folder by itself: two of them have two heads by right.
    ours = [finding for one in read for finding in lint(one.sources)]
    theirs = linting.with_comments(outcome.findings, sources)
    findings = sorted((*ours, *theirs), key=lambda one: (one.path, one.line, one.rule))
    return Linted(
        revisions=len(sources),
        findings=baselines.judged(findings, allowed, known),
        not_rendered={path: why for one in read for path, why in one.not_rendered.items()},
        squawk=outcome.version,
        squawk_not_run=outcome.why_not,
    )


def allow_list(named: Path | None) -> tuple[Allowed, ...]:
    """Return the entries of an allow-list; without a name, of the usual one where it is there."""
    file = named or DEFAULT_LIST
    if named is None and not file.is_file():
        return ()
    return judging.allow_list(_text(file), source=str(file))


def baseline(file: Path) -> dict[Key, int]:
    """Return what a baseline knows."""
    return judging.baseline(_text(file), source=str(file))


def write_baseline(file: Path, found: Linted) -> None:
    """Write what was found to a file, whole or not at all."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.write_text(baselines.written(found.findings, "rule"), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{file} cannot be written: {error.strerror}; name another") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}; name another") from error

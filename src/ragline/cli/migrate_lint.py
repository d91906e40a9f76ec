"""`ragline migrate lint`: what is wrong with migrations before anybody runs them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output
from ragline.cli.options import AsJson, Baseline, FailOn, Quiet, WriteBaseline
from ragline.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from ragline.ops.migration_lint import Linted


def lint(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="An alembic.ini, a folder of Alembic migrations, or single revisions.",
            show_default=False,
        ),
    ],
    *,
    allow: Annotated[
        Path | None,
        typer.Option(
            help="Allow-list in TOML: entries of path, rule and reason "
            "(default: .ragline-lint.toml, if it is there).",
            show_default=False,
        ),
    ] = None,
    baseline: Baseline = None,
    write_baseline: WriteBaseline = False,
    fail_on: FailOn = "new",
    squawk: Annotated[
        bool,
        typer.Option(
            "--squawk/--no-squawk", help="Run squawk over the SQL too, where it is installed."
        ),
    ] = True,
    render: Annotated[
        bool,
        typer.Option(
            "--render/--no-render",
            help="Run the revisions' Python to see what it sends; without, only read it.",
        ),
    ] = True,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find what stops readers, loses rows or cannot go back in migrations, with file and line.

    The revisions' Python is run, as `alembic upgrade --sql` does, unless --no-render; env.py and
    databases are not used.
    A comment `# ragline: allow RULE - reason` allows a finding. Exit code 4 when a finding fails.
    """
    from ragline.ops import migration_lint

    if write_baseline and baseline is None:
        raise UsageError("--write-baseline needs to know where: add --baseline FILE")
    known = {} if baseline is None or write_baseline else migration_lint.baseline(baseline)
    found = migration_lint.run(
        paths,
        allowed=migration_lint.allow_list(allow),
        known=known,
        with_squawk=squawk,
        is_rendered=render,
    )
    if baseline is not None and write_baseline:
        migration_lint.write_baseline(baseline, found)
    failing = () if write_baseline else found.failing(fail_on)
    output.emit(
        {"failed": len(failing), "fail_on": fail_on, **output.plain(found)},
        as_json=as_json,
        text=_as_text(found, quiet=quiet),
    )
    if failing:
        raise typer.Exit(GateFailed.exit_code)


def _as_text(found: Linted, *, quiet: bool) -> str:
    shown = [one for one in found.findings if one.status != "allowed"]
    lines = [
        f"{one.path}:{one.line}  {one.rule}  {one.evidence}"
        f"{'  [known]' if one.status == 'known' else ''}"
        for one in shown
    ]
    lines += [
        f"fix {rule}: {fix}" for rule, fix in sorted({one.rule: one.fix for one in shown}.items())
    ]
    if not quiet:
        lines += [
            f"read from its text only  {path}: {why}" for path, why in found.not_rendered.items()
        ]
    if found.squawk_not_run is not None:
        lines.append(f"squawk: not run ({found.squawk_not_run})")
    counts = Counter(one.status for one in found.findings)
    said = ", ".join(f"{counts[status]} {status}" for status in ("new", "known", "allowed"))
    several = "" if found.revisions == 1 else "s"
    with_squawk = f"; squawk {found.squawk}" if found.squawk_not_run is None else ""
    lines.append(f"{found.revisions} revision{several} read; findings: {said}{with_squawk}")
    return "\n".join(map(output.on_one_line, lines))

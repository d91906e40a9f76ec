"""`ragline dsn audit`: what reads, names or opens a database by itself."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output
from ragline.cli.options import AsJson, Baseline, FailOn, Quiet, WriteBaseline
from ragline.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from ragline.core.dsn_audit.finding import Finding
    from ragline.watch.dsn_audit import Audit


def audit(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Files and folders to read.", show_default=False),
    ],
    *,
    is_tried: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Log in to each distinct target that the files name, and say which database or user "
            "does not exist and what the nearest one is.",
        ),
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=60, help="Seconds for each target of --try.")
    ] = 3.0,
    allow: Annotated[
        Path | None,
        typer.Option(
            help="Allow-list in TOML: entries of path, class and reason "
            "(default: .ragline-audit.toml, if it is there).",
            show_default=False,
        ),
    ] = None,
    baseline: Baseline = None,
    write_baseline: WriteBaseline = False,
    fail_on: FailOn = "new",
    sarif: Annotated[
        Path | None,
        typer.Option(
            help="Write the findings to this file too, as SARIF 2.1.0.", show_default=False
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find what goes around the resolver: environment reads, DSNs and passwords in files, connects.

    Nothing is changed and no password is printed. Exit code 4 when a finding fails.
    """
    from ragline.watch import dsn_audit as watch

    if write_baseline and baseline is None:
        raise UsageError("--write-baseline needs to know where: add --baseline FILE")
    known = {} if baseline is None or write_baseline else watch.baseline(baseline)
    found = watch.audit(
        paths,
        allowed=watch.allow_list(allow),
        known=known,
        patience_s=timeout_s if is_tried else None,
        apart=[file for file in (allow, baseline, sarif) if file is not None],
    )
    if sarif is not None:
        watch.write(sarif, _as_sarif(found, has_baseline=bool(baseline and not write_baseline)))
    if baseline is not None and write_baseline:
        _write_baseline(baseline, found)
    failing = () if write_baseline else found.failing(fail_on)
    output.emit(
        {"failed": len(failing), "fail_on": fail_on, **output.plain(found)},
        as_json=as_json,
        text=_as_text(found, quiet=quiet),
    )
    if failing:
        raise typer.Exit(GateFailed.exit_code)


def _write_baseline(file: Path, found: Audit) -> None:
    from ragline.core import baselines
    from ragline.watch import dsn_audit as watch

    watch.write(file, baselines.written(found.findings, "class"))
    count = sum(one.status != "allowed" for one in found.findings)
    output.note(f"{file}: {_counted(count, 'finding')} known from now on")


def _as_sarif(found: Audit, *, has_baseline: bool) -> str:
    from ragline.core.dsn_audit.sarif import sarif

    log = sarif(
        found.findings,
        version=version("ragline"),
        has_baseline=has_baseline,
        skipped=[(one.path, one.reason) for one in found.skipped],
    )
    return json.dumps(log, indent=2, ensure_ascii=True) + "\n"


def _as_text(found: Audit, *, quiet: bool) -> str:
    lines = [_line(one) for one in found.findings if one.status != "allowed"]
    lines += _fixes(found)
    if found.tried is not None:
        lines += [f"tried  {one.target}: {one.outcome}" for one in found.tried]
    if not quiet:
        lines += [f"not read  {one.path}: {one.reason}" for one in found.skipped]
        lines += [
            f"allowed, and not needed any more: {one.path} ({', '.join(one.names)})"
            for one in found.unused_allowances
        ]
    return "\n".join([*map(output.on_one_line, lines), _summary(found)])


def _line(one: Finding) -> str:
    cell = f" (cell {one.cell})" if one.cell else ""
    known = "  [known]" if one.status == "known" else ""
    return f"{one.path}:{one.line}{cell}  {one.id} {one.name}  {one.evidence}{known}"


def _fixes(found: Audit) -> list[str]:
    fixes = {one.id: one.fix for one in found.findings if one.status != "allowed"}
    return [f"fix {id_}: {fix}" for id_, fix in sorted(fixes.items())]


def _summary(found: Audit) -> str:
    counts = Counter(one.status for one in found.findings)
    said = ", ".join(f"{counts[status]} {status}" for status in ("new", "known", "allowed"))
    return (
        f"{_counted(found.files, 'file')} read, {len(found.skipped)} skipped; "
        f"{_counted(len(found.findings), 'finding')}: {said}"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

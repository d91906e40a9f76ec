"""`ragline doctor`."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from ragline.config import Config
    from ragline.core.checkup import Finding
    from ragline.core.doctor.facts import Disk, Model
    from ragline.watch.doctor import Examination

_FAILED = 3
_NOT_ANSWERED = 5

Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ID",
        help="Only this check, or with `index` all that begin with `index.`; may be given several "
        "times.",
        show_default=False,
    ),
]


def doctor(
    only: Ids = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="Not this check; may be given several times.", show_default=False
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="First wait so long for a server that is down, starts or recovers.",
        ),
    ] = 0,
    list_checks: Annotated[
        bool, typer.Option("--list", help="Print the checks with their ids; look at nothing.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Look at the database and say what is wrong, what it rests on, and what mends it.

    Nothing is changed. Without a DSN it looks at the embedded database, which is started (and made)
    as by every other command. Any user may look: what is not for this user to see is `unknown`, with
    the reason, and never a pass.

    Exit codes: 0 nothing failed (warnings too), 3 something failed, 5 a check that --only names could
    not be made, 2 the user, the password or the database is refused, 7 the server cannot be reached.
    """
    from ragline.core.doctor import catalogue

    if list_checks:
        checks = catalogue.CHECKS
        lines = [f"{check.id:<36} {check.looks_at}" for check in checks]
        output.emit({"checks": checks}, as_json=as_json, text="\n".join(lines))
        return
    wanted = catalogue.chosen(only or (), skip or ())
    found = asyncio.run(_look(runtime.load(data_dir), wanted, wait))
    code = _exit_code(found, bool(only))
    output.emit(_value(found, code), as_json=as_json, text="\n".join(_text(found.findings)))
    if code:
        raise typer.Exit(code)


async def _look(config: Config, wanted: Sequence[str], wait_s: float) -> Examination:
    from datetime import UTC, datetime

    from ragline import wiring
    from ragline.errors import EmbeddedServerError
    from ragline.ops import machine, tuning
    from ragline.watch import doctor as watch

    if config.dsn is None:
        try:
            await _ready(config)
        except EmbeddedServerError as error:
            return watch.not_started(error, wanted)
    dsn = await asyncio.to_thread(wiring.database, config)
    if wait_s:
        await watch.wait(dsn, wait_s, output.note)
    is_here = tuning.is_here(dsn)

    around = watch.Around(
        today=datetime.now(UTC).date(),
        is_local=is_here,
        memory_bytes=machine.memory_bytes() if is_here else None,
        disk=_disk,
        models=partial(_models, config),
    )
    return await watch.examine(dsn, around, wanted)


async def _ready(config: Config) -> None:
    """Make, start and give its schema to the embedded database, as every other command does."""
    from ragline import wiring
    from ragline.errors import DatabaseUnreachable, SchemaMismatch
    from ragline.watch import doctor as watch

    dsn = await asyncio.to_thread(wiring.database, config)
    # What these say comes out of the checks, with all the rest. Opening it waits for whatever is locked:
    # that is for a database that nobody else has seen yet.
    with contextlib.suppress(SchemaMismatch, DatabaseUnreachable):
        if not await watch.has_schema(dsn):
            async with wiring.open_app(config):
                pass


def _disk(folder: Path, started_at: datetime) -> Disk | None:
    from ragline.core.doctor.facts import Disk
    from ragline.ops import machine

    if not machine.is_data_directory(folder, started_at):
        return None
    seen = [(place, machine.free_and_size(place)) for place in (folder, folder / "pg_wal")]
    disks = [
        Disk(folder=str(place), free_bytes=found[0], size_bytes=found[1])
        for place, found in seen
        if found is not None
    ]
    # WAL may be on a disk of its own: the fuller one counts.
    return min(disks, key=lambda disk: disk.free_bytes / max(1, disk.size_bytes), default=None)


async def _models(config: Config) -> list[Model]:
    """Return the configured models; the first one's failure is an error, others are left out."""
    from ragline.core.doctor.facts import Model
    from ragline.models import embed

    found = []
    async with runtime.embedder(config) as open_first:
        model = await open_first()
        found += [] if model is None else [model.facts]
    for open_other in embed.other_models(config):
        other = await open_other()
        if other is not None:
            found.append(other.facts)
            await other.close()
    return [
        Model(model_id=one.model_id, weights_hash=one.weights_hash, dimension=one.dimension)
        for one in found
    ]


def _exit_code(found: Examination, is_by_name: bool) -> int:
    if found.error is not None:
        return found.error.exit_code
    statuses = {finding.status for finding in found.findings}
    if "fail" in statuses:
        return _FAILED
    return _NOT_ANSWERED if is_by_name and "unknown" in statuses else 0


def _value(found: Examination, code: int) -> dict[str, Any]:
    from ragline.core import checkup
    from ragline.core.doctor import catalogue

    findings = [
        {"group": catalogue.group_of(one.id), **output.plain(one)} for one in found.findings
    ]
    return {
        "status": checkup.worst(found.findings),
        "exit_code": code,
        "counts": _counts(found.findings),
        "findings": findings,
    }


def _counts(findings: Iterable[Finding]) -> dict[str, int]:
    from ragline.core.checkup import WORST_FIRST

    statuses = [finding.status for finding in findings]
    return {status: statuses.count(status) for status in WORST_FIRST}


def _text(findings: Sequence[Finding]) -> Iterator[str]:
    from ragline.core.doctor import catalogue, judging

    urgent = judging.first(findings)
    if urgent:
        yield "first:"
        for place, finding in enumerate(urgent, start=1):
            yield from _with_fix(finding, f"{place}. ")
    if resting := judging.resting_on(findings):
        yield f"not looked at, because {resting} failed: {len(findings) - 1} checks"
    else:
        indent = len("  unknown  ") + max(len(one.id) for one in findings) + 2
        by_group: dict[str, list[Finding]] = {group: [] for group in catalogue.GROUPS}
        for finding in findings:
            by_group.setdefault(catalogue.group_of(finding.id), []).append(finding)
        for group, rows in by_group.items():
            if rows:
                yield f"{group}:"
            for finding in rows:
                yield from _line(finding, indent)
    counts = _counts(findings)
    said = {"fail": "failed", "warn": "to look at", "unknown": "unknown", "pass": "passed"}
    yield "doctor: " + ", ".join(f"{counts[one]} {word}" for one, word in said.items())


def _line(finding: Finding, indent: int) -> Iterator[str]:
    fix = finding.fix if finding.status == "unknown" else None
    head = f"  {finding.status:<7}  {finding.id}"
    yield from _wrapped(_said(finding), head, indent)
    if fix is not None:
        yield from _wrapped(fix, f"{'':11}fix:", 17)


def _with_fix(finding: Finding, number: str) -> Iterator[str]:
    yield f"  {number}{finding.status}  {finding.id}"
    yield from _wrapped(_said(finding), "", 11)
    if finding.fix is not None:
        yield from _wrapped(finding.fix, f"{'':11}fix:", 17)


def _said(finding: Finding) -> str:
    subject = finding.subject
    is_named = subject is None or subject in finding.evidence
    return finding.evidence if is_named else f"{subject}: {finding.evidence}"


def _wrapped(text: str, head: str, indent: int) -> list[str]:
    """Return `text` after `head`, further lines indented; names in it cannot begin one."""
    wide = max(60, output.width())
    start = head + " " * max(2 if head else 0, indent - len(head))
    return textwrap.wrap(
        output.on_one_line(text),
        wide,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head]

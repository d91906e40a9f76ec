"""`ragline tune`: the server's settings for its machine, in stages that are kept one by one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ragline.cli import change_options, change_text, output, runtime, tune_machine, tune_text
from ragline.cli.change_options import KeepFor
from ragline.cli.options import AsJson, DataDir, Quiet, Yes, gathering
from ragline.cli.tune_machine import ProfileName, Said, StageName
from ragline.errors import PreconditionFailed, SchemaMismatch, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragline.change.kind import Site
    from ragline.core.change import Entry, Part, Plan
    from ragline.core.gate import Asked
    from ragline.core.stages import Tuning

app = typer.Typer(
    help="Fit PostgreSQL's settings to its machine, in stages: each is one change that is measured.",
    no_args_is_help=True,
)


StageOption = Annotated[
    StageName | None,
    typer.Option(
        "--stage",
        case_sensitive=False,
        help="A, B, C or D: shared_buffers is 1/16, 1/8, 3/16, 1/4 of the memory, and the rest goes "
        "along. C comes after B was kept, D after C.",
        show_default=False,
    ),
]
ProfileOption = Annotated[
    ProfileName,
    typer.Option("--profile", help="staged, or small: a small server that several programs share."),
]
Ram = Annotated[
    str | None,
    typer.Option(
        "--ram",
        help="Memory for PostgreSQL, such as 128GiB; a GB is 1024 MB here.",
        show_default="this machine's, limits of its container included",
    ),
]
CoresOption = Annotated[
    int | None,
    typer.Option("--cores", min=1, max=4096, help="Cores.", show_default="this machine's"),
]
SystemOption = Annotated[
    Literal["linux", "darwin", "other"] | None,
    typer.Option("--os", help="Operating system.", show_default="this machine's"),
]
DiskOption = Annotated[
    Literal["hdd", "ssd", "nvme"] | None,
    typer.Option("--disk", help="Kind of disk.", show_default="this machine's, where it is known"),
]
PgVersion = Annotated[
    str | None,
    typer.Option(
        "--pg-version", help="PostgreSQL, 14 to 18.", show_default="the server's, else 18"
    ),
]


@app.command()
def plan(
    stage: StageOption = None,
    profile: ProfileOption = "staged",
    ram: Ram = None,
    cores: CoresOption = None,
    system: SystemOption = None,
    disk: DiskOption = None,
    pg_version: PgVersion = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print what a stage would set and why, and change nothing.

    Without options about the machine the server is asked what it has now, and the steps are shown.
    With one of them nothing is asked or started: it is worked out for that machine.
    """
    said = tune_machine.said(stage, profile, ram, cores, system, disk, pg_version)
    if said.is_of_a_machine:
        found = tune_machine.worked_out(said)
        output.emit(_json(found, said, None), as_json=as_json, text=tune_text.text(found))
        return
    _show(said, data_dir, as_json=as_json)


@app.command()
@gathering("asked", change_options.asked)
def apply(
    *,
    stage: StageOption = None,
    profile: ProfileOption = "staged",
    yes: Yes = False,
    ram: Ram = None,
    cores: CoresOption = None,
    system: SystemOption = None,
    disk: DiskOption = None,
    pg_version: PgVersion = None,
    asked: Asked | None,
    keep_for: KeepFor = 7.0,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Set what a stage says: one change, one restart, one measurement; kept, or put back.

    Exit codes: 0 kept or nothing to do, 4 worse and put back, 5 undecided and put back, 6 could not be
    put back, 3 waits for a restart, or comes too early.
    """
    said = tune_machine.said(stage, profile, ram, cores, system, disk, pg_version)
    if not yes:
        _show(said, data_dir, as_json=as_json)
        output.note("nothing was changed; to do it: the same with --yes")
        raise typer.Exit(2)
    ended = runtime.with_site(
        data_dir,
        lambda site: _applied(site, said, asked, keep_for * 86400),
        quiet=quiet,
    )
    if ended is None:
        output.emit({"change": None}, as_json=as_json, text="nothing to do: all is so already")
        return
    output.emit(ended, as_json=as_json, text=change_text.ended(ended))
    if code := change_text.exit_code(ended):
        raise typer.Exit(code)


@app.command()
def conf(
    stage: StageOption = None,
    profile: ProfileOption = "staged",
    ram: Ram = None,
    cores: CoresOption = None,
    system: SystemOption = None,
    disk: DiskOption = None,
    pg_version: PgVersion = None,
    as_json: AsJson = False,
) -> None:
    """Print a piece of postgresql.conf with a reason for every line; nothing is asked or touched.

    Without --stage it is stage A.
    """
    from ragline.core import tuning_text

    if profile == "staged":
        stage = stage or "A"
    said = tune_machine.said(stage, profile, ram, cores, system, disk, pg_version)
    found = tune_machine.worked_out(said)
    text = tuning_text.fragment(found)
    value = {**_json(found, said, None), "conf": text}
    output.emit(value, as_json=as_json, text=text.rstrip("\n"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A stage held against a running server.

    `change` is None where nothing is to be done, or cannot be: `refused` says why not.
    """

    tuning: Tuning
    change: Plan | None = None
    refused: str | None = None


def _show(said: Said, data_dir: Path | None, *, as_json: bool) -> None:
    planned = _live(said, data_dir)
    text = tune_text.text(planned.tuning) + "\n" + _next(planned, said)
    output.emit(_json(planned.tuning, said, planned), as_json=as_json, text=text)


def _live(said: Said, data_dir: Path | None) -> _Planned:
    from ragline.wiring import database

    async def seen_at(site: Site) -> _Planned:
        from ragline.change import loop

        found = await _tuned(site, said)
        if not (parts := _parts(found)):
            return _Planned(tuning=found)
        try:
            change = await loop.preview(site, parts)
        except (PreconditionFailed, UsageError) as error:
            return _Planned(tuning=found, refused=str(error))
        return _Planned(tuning=found, change=change, refused=await _too_early(site, said))

    try:
        return runtime.with_site(data_dir, seen_at, quiet=True)
    except SchemaMismatch as error:
        no_ledger = str(error)
    from ragline.ops import tuning

    dsn = database(runtime.load(data_dir))
    rules = tuning.rules()
    found = tune_machine.held_against(asyncio.run(tuning.server(dsn, rules)), said)
    return _Planned(tuning=found, refused=no_ledger)


async def _applied(site: Site, said: Said, asked: Asked | None, keep_for_s: float) -> Entry | None:
    from ragline.change import loop

    if too_early := await _too_early(site, said):
        raise PreconditionFailed(too_early)
    await change_options.check(site.app, asked)
    found = await _tuned(site, said)
    for warning in found.warnings:
        output.note(f"warning: {warning}")
    parts = _parts(found)
    if not parts:
        return None
    entry = await loop.plan(site, parts, asked, title=found.title, keep_for_s=keep_for_s)
    if entry is None:
        return None
    output.note(change_text.plan(entry, is_next=False))
    return await loop.apply(site, entry.id)


async def _tuned(site: Site, said: Said) -> Tuning:
    from ragline.ops import tuning

    return tune_machine.held_against(await tuning.server(site.dsn, tuning.rules()), said)


async def _too_early(site: Site, said: Said) -> str | None:
    """Return why this stage may not come yet; one that has nothing to do before it needs no entry."""
    from ragline.change import loop
    from ragline.core import stages

    if said.stage is None or said.stage not in stages.AFTER:
        return None
    reason = stages.not_before(said.stage, await loop.entries(site))
    if reason is None:
        return None
    before = await _tuned(site, replace(said, stage=stages.AFTER[said.stage]))
    return reason if before.recommended else None


def _parts(found: Tuning) -> tuple[Part, ...]:
    from ragline.core.change import Part

    return tuple(Part(kind="setting", target=r.name, want=r.value) for r in found.recommended)


def _json(found: Tuning, said: Said, planned: _Planned | None) -> Mapping[str, Any]:
    return {
        "title": found.title,
        "stage": said.stage,
        "profile": said.profile,
        "pg_version": found.version,
        "machine": found.machine,
        "settings": {one.name: one.value for one in found.recommended},
        "recommended": [{**output.plain(r), "restarts": r.restarts} for r in found.recommended],
        "left_alone": found.left_alone,
        "warnings": found.warnings,
        "change": None if planned is None else planned.change,
        "refused": None if planned is None else planned.refused,
    }


def _next(planned: _Planned, said: Said) -> str:
    lines = []
    if planned.change is not None:
        lines += change_text.steps(output.plain(planned.change.steps))
    if planned.refused:
        lines.append(f"it would be refused: {planned.refused}")
    elif planned.tuning.recommended:
        which = f"--stage {said.stage}" if said.stage else f"--profile {said.profile}"
        lines.append(f"next: ragline tune apply {which} --yes")
    return "\n".join(lines)

"""`ragline tune`: the server's settings for its machine, in stages that are kept one by one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli import change_options, change_text, output, runtime
from ragline.cli.change_options import (
    Answers,
    Budget,
    Collections,
    DatasetOption,
    Filters,
    Hits,
    JudgeOption,
    KeepFor,
    KeepInconclusive,
    LatencyMargin,
    NoMeasure,
    PolicyOption,
    QualityMargin,
    Questions,
)
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import PreconditionFailed, SchemaMismatch, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ragline.change.kind import Site
    from ragline.core.change import Entry, Part, Plan
    from ragline.core.gate import Asked
    from ragline.core.gucs import Disk, Stage, System
    from ragline.core.stages import LeftAlone, Machine, Recommendation, Tuning
    from ragline.ops.tuning import Seen

app = typer.Typer(
    help="Fit PostgreSQL's settings to its machine, in stages: each is one change that is measured.",
    no_args_is_help=True,
)


class StageName(StrEnum):
    A = "A"
    B = "B"
    C = "C"
    D = "D"


class ProfileName(StrEnum):
    staged = "staged"
    small = "small"


class SystemName(StrEnum):
    linux = "linux"
    darwin = "darwin"
    other = "other"


class DiskName(StrEnum):
    hdd = "hdd"
    ssd = "ssd"
    nvme = "nvme"


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
    SystemName | None,
    typer.Option("--os", help="Operating system.", show_default="this machine's"),
]
DiskOption = Annotated[
    DiskName | None,
    typer.Option("--disk", help="Kind of disk.", show_default="this machine's, where it is known"),
]
PgVersion = Annotated[
    str | None,
    typer.Option(
        "--pg-version", help="PostgreSQL, 14 to 18.", show_default="the server's, else 18"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What was said on the command line, read; None where nothing was."""

    stage: Stage | None
    profile: ProfileName
    memory_bytes: int | None
    cores: int | None
    system: System | None
    disk: Disk | None
    version: int | None

    @property
    def is_of_a_machine(self) -> bool:
        said = (self.memory_bytes, self.cores, self.system, self.disk, self.version)
        return any(one is not None for one in said)


@app.command()
def plan(
    stage: StageOption = None,
    profile: ProfileOption = ProfileName.staged,
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
    said = _said(stage, profile, ram, cores, system, disk, pg_version)
    if said.is_of_a_machine:
        found = _worked_out(said)
        output.emit(_json(found, said, None), as_json=as_json, text=_text(found))
        return
    planned = _live(said, data_dir)
    text = _text(planned.tuning) + "\n" + _next(planned, said)
    output.emit(_json(planned.tuning, said, planned), as_json=as_json, text=text)


@app.command()
def apply(
    stage: StageOption = None,
    profile: ProfileOption = ProfileName.staged,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what.")] = False,
    ram: Ram = None,
    cores: CoresOption = None,
    system: SystemOption = None,
    disk: DiskOption = None,
    pg_version: PgVersion = None,
    collection: Collections = None,
    dataset: DatasetOption = None,
    policy: PolicyOption = None,
    questions: Questions = 200,
    filters: Filters = None,
    k: Hits = None,
    answers: Answers = "none",
    judge: JudgeOption = "none",
    quality_margin: QualityMargin = 0.01,
    latency_margin: LatencyMargin = 0.25,
    budget: Budget = 120.0,
    no_measure: NoMeasure = False,
    keep_inconclusive: KeepInconclusive = False,
    keep_for: KeepFor = 7.0,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Set what a stage says: one change, one restart, one measurement; kept, or put back.

    Exit codes: 0 kept or nothing to do, 4 worse and put back, 5 undecided and put back, 6 could not be
    put back, 3 waits for a restart, or comes too early.
    """
    said = _said(stage, profile, ram, cores, system, disk, pg_version)
    asked = change_options.asked(
        collections=collection,
        dataset=dataset,
        policy=policy,
        questions=questions,
        filters=filters,
        k=k,
        answers=answers,
        judge=judge,
        quality_margin=quality_margin,
        latency_margin=latency_margin,
        budget=budget,
        keep_inconclusive=keep_inconclusive,
        no_measure=no_measure,
    )
    if not yes:
        planned = _live(said, data_dir)
        text = _text(planned.tuning) + "\n" + _next(planned, said)
        output.emit(_json(planned.tuning, said, planned), as_json=as_json, text=text)
        output.note("nothing was changed; to do it: the same with --yes")
        raise typer.Exit(2)
    ended = runtime.with_site(
        data_dir,
        lambda site: _applied(site, said, asked, keep_inconclusive, keep_for * 86400),
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
    profile: ProfileOption = ProfileName.staged,
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
    from ragline.core import stages

    if profile is ProfileName.staged:
        stage = stage or StageName.A
    said = _said(stage, profile, ram, cores, system, disk, pg_version)
    found = _worked_out(said)
    text = stages.fragment(found)
    value = {**_json(found, said, None), "conf": text}
    output.emit(value, as_json=as_json, text=text.rstrip("\n"))


def _said(
    stage: StageName | None,
    profile: ProfileName,
    ram: str | None,
    cores: int | None,
    system: SystemName | None,
    disk: DiskName | None,
    pg_version: str | None,
) -> _Said:
    from ragline.core import gucs

    if profile is ProfileName.staged and stage is None:
        raise UsageError("say which stage: --stage A (or --profile small, which has no stages)")
    if profile is not ProfileName.staged and stage is not None:
        raise UsageError(f"--profile {profile} has no stages; leave --stage {stage} out")
    return _Said(
        stage=None if stage is None else stage.value,
        profile=profile,
        memory_bytes=None if ram is None else gucs.memory(ram),
        cores=cores,
        system=None if system is None else system.value,
        disk=None if disk is None else disk.value,
        version=None if pg_version is None else gucs.version(pg_version),
    )


def _worked_out(said: _Said) -> Tuning:
    """Return what is said of a machine that nobody has to be connected with."""
    from ragline.core import gucs, stages
    from ragline.ops import machine, tuning

    here = machine.this_machine()
    if said.memory_bytes is not None:
        # Of another machine the cores and the memory that programs share are not known.
        here = replace(here, cores=None, shared_memory_bytes=None)
    return stages.tuning(
        tuning.rules(),
        _machine(here, said),
        version=said.version or gucs.VERSIONS.stop - 1,
        stage=said.stage,
        profile=said.profile.value,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A stage held against a running server.

    `change` is None where nothing is to be done, or cannot be: `refused` says why not.
    """

    tuning: Tuning
    change: Plan | None = None
    refused: str | None = None


def _live(said: _Said, data_dir: Path | None) -> _Planned:
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
    found = _held_against(asyncio.run(tuning.server(dsn, rules)), said)
    return _Planned(tuning=found, refused=no_ledger)


async def _applied(
    site: Site, said: _Said, asked: Asked | None, keep_inconclusive: bool, keep_for_s: float
) -> Entry | None:
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
    return await loop.apply(site, entry.id, keep_inconclusive=keep_inconclusive)


async def _tuned(site: Site, said: _Said) -> Tuning:
    from ragline.ops import tuning

    return _held_against(await tuning.server(site.dsn, tuning.rules()), said)


def _held_against(seen: Seen, said: _Said) -> Tuning:
    """Return what a running server should have otherwise; what was said of its machine is believed."""
    from ragline.core import gucs, stages
    from ragline.ops import machine, tuning

    _check_said(seen, said)
    here = machine.this_machine(seen.data_directory)
    found = replace(here, system=seen.system)
    if not seen.is_here:
        found = replace(
            found, cores=None, disk=None, free_disk_bytes=None, shared_memory_bytes=None
        )
    made = stages.tuning(
        tuning.rules(),
        _machine(found, said),
        version=seen.version,
        stage=said.stage,
        profile=said.profile.value,
        settings=seen.settings,
        of_roles=seen.of_roles,
    )
    if seen.is_here and said.memory_bytes is not None and said.memory_bytes > here.memory_bytes:
        more = (
            f"{gucs.written(said.memory_bytes)} of memory were said, but this machine lends "
            f"{gucs.written(here.memory_bytes // 1024**2 * 1024**2)}"
        )
        made = replace(made, warnings=(more, *made.warnings))
    return made


def _check_said(seen: Seen, said: _Said) -> None:
    from ragline.core import gucs

    if seen.version not in gucs.VERSIONS:
        raise PreconditionFailed(
            f"the server is PostgreSQL {seen.version}; the rules are for {gucs.VERSIONS.start} to "
            f"{gucs.VERSIONS.stop - 1}"
        )
    if said.version not in (None, seen.version):
        raise UsageError(
            f"--pg-version is {said.version}, but the server is PostgreSQL {seen.version}: leave it out"
        )
    if said.system not in (None, seen.system):
        raise UsageError(
            f"--os is {said.system}, but the server runs on {seen.system}: leave it out"
        )
    if not seen.is_here and said.memory_bytes is None:
        raise UsageError(
            "the server is on another machine, and its memory cannot be asked: say it, such as "
            "`ragline tune apply --stage A --ram 64GiB --cores 16 --disk ssd`, which without --yes "
            "only plans"
        )


def _machine(here: Machine, said: _Said) -> Machine:
    return replace(
        here,
        memory_bytes=said.memory_bytes or here.memory_bytes,
        cores=said.cores or here.cores,
        system=said.system or here.system,
        disk=said.disk or here.disk,
    )


async def _too_early(site: Site, said: _Said) -> str | None:
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


def _json(found: Tuning, said: _Said, planned: _Planned | None) -> Mapping[str, Any]:
    return {
        "title": found.title,
        "stage": said.stage,
        "profile": said.profile.value,
        "pg_version": found.version,
        "machine": found.machine,
        "settings": {one.name: one.value for one in found.recommended},
        "recommended": [{**output.plain(r), "restarts": r.restarts} for r in found.recommended],
        "left_alone": found.left_alone,
        "warnings": found.warnings,
        "change": None if planned is None else planned.change,
        "refused": None if planned is None else planned.refused,
    }


def _text(found: Tuning) -> str:
    from ragline.core import stages

    lines = [f"{found.title}: PostgreSQL {found.version}, {stages.described(found.machine)}"]
    for one in found.recommended:
        lines += _recommended(one)
    if not found.recommended:
        lines.append("  nothing to set")
    if found.left_alone:
        lines.append("left alone:")
        lines += [_left(one) for one in found.left_alone]
    lines += [f"warning: {warning}" for warning in found.warnings]
    return "\n".join(lines)


def _recommended(one: Recommendation) -> Sequence[str]:
    value = one.value if one.now is None else f"{one.now} -> {one.value}"
    restart = "   (restart)" if one.restarts else ""
    why = ". ".join(part for part in (one.how, one.reason, one.note) if part)
    return (f"  {one.name} = {value}{restart}", f"      {why}", f"      source: {one.source}")


def _left(one: LeftAlone) -> str:
    now = "" if one.now is None else f" ({one.now})"
    return f"  {one.name}{now}: {one.reason}. Source: {one.source}"


def _next(planned: _Planned, said: _Said) -> str:
    lines = []
    if planned.change is not None:
        lines += change_text.steps(output.plain(planned.change.steps))
    if planned.refused:
        lines.append(f"it would be refused: {planned.refused}")
    elif planned.tuning.recommended:
        which = f"--stage {said.stage}" if said.stage else f"--profile {said.profile}"
        lines.append(f"next: ragline tune apply {which} --yes")
    return "\n".join(lines)

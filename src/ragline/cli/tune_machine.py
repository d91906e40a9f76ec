"""The machine that `ragline tune` is about: what was said of it, and what is seen of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ragline.errors import PreconditionFailed, UsageError

if TYPE_CHECKING:
    from ragline.core.gucs import Disk, Stage, System
    from ragline.core.stages import Machine, Tuning
    from ragline.ops.tuning import Seen

StageName = Literal["A", "B", "C", "D"]
ProfileName = Literal["staged", "small"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
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


def said(
    stage: StageName | None,
    profile: ProfileName,
    ram: str | None,
    cores: int | None,
    system: System | None,
    disk: Disk | None,
    pg_version: str | None,
) -> Said:
    """Return what was said, read; raises UsageError for a stage that is none, or is missing."""
    from ragline.core import gucs

    if profile == "staged" and stage is None:
        raise UsageError("say which stage: --stage A (or --profile small, which has no stages)")
    if profile != "staged" and stage is not None:
        raise UsageError(f"--profile {profile} has no stages; leave --stage {stage} out")
    return Said(
        stage=stage,
        profile=profile,
        memory_bytes=None if ram is None else gucs.memory(ram),
        cores=cores,
        system=system,
        disk=disk,
        version=None if pg_version is None else gucs.version(pg_version),
    )


def worked_out(said: Said) -> Tuning:
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
        profile=said.profile,
    )


def held_against(seen: Seen, said: Said) -> Tuning:
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
        profile=said.profile,
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


def _check_said(seen: Seen, said: Said) -> None:
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


def _machine(here: Machine, said: Said) -> Machine:
    return replace(
        here,
        memory_bytes=said.memory_bytes or here.memory_bytes,
        cores=said.cores or here.cores,
        system=said.system or here.system,
        disk=said.disk or here.disk,
    )

"""What a server's settings should be on a machine, stage by stage, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ragline.core import gucs
from ragline.core.change import Entry
from ragline.core.gucs import Cores, Disk, Profile, Rule, Rules, Setting, Stage, System

MIB = 1024**2
_NEAR = 0.9
"""A size that is there is good enough from this share of the wanted one on."""
_GIVEN_BY_LOGIN = ("database", "user", "database user", "session", "client")
_YES = {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off"}
_LIMIT = Fraction(2, 5)
AFTER: Mapping[Stage, Stage] = {"C": "B", "D": "C"}
"""Stages that come after another was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a server may use. None is not known; `shared_memory_bytes` is the size of /dev/shm."""

    memory_bytes: int
    cores: int | None = None
    system: System = "linux"
    disk: Disk | None = None
    free_disk_bytes: int | None = None
    shared_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A setting as a running server has it in `pg_settings`."""

    name: str
    setting: str
    unit: str | None
    context: str
    vartype: str
    source: str
    enumvals: tuple[str, ...] | None = None
    max_val: str | None = None
    is_pending: bool = False

    @property
    def in_bytes(self) -> int | None:
        """The value in bytes; None where it has no such unit, or is a number with a meaning (-1)."""
        if self.unit not in _BLOCKS or not self.setting.isdigit():
            return None
        return int(self.setting) * _BLOCKS[self.unit]

    @property
    def shown(self) -> str:
        """The value as people write it."""
        if self.in_bytes is not None:
            return gucs.written(self.in_bytes) if self.in_bytes else "0"
        return self.setting


_BLOCKS = {"B": 1, "kB": 1024, "8kB": 8192, "MB": MIB, "16MB": 16 * MIB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A setting that should be different, or, without a server to ask, what it should be.

    `how` is the arithmetic, `now` None without a server. `note` is what to know beside it.
    """

    name: str
    value: str
    now: str | None
    how: str
    reason: str
    source: str
    context: str
    note: str = ""

    @property
    def restarts(self) -> bool:
        """Whether it takes a restart."""
        return self.context == "postmaster"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """A setting that stays as it is, and why."""

    name: str
    reason: str
    source: str
    now: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a stage, or a profile, says of one machine."""

    title: str
    version: int
    machine: Machine
    recommended: tuple[Recommendation, ...]
    left_alone: tuple[LeftAlone, ...]
    warnings: tuple[str, ...] = ()

    @property
    def restarts(self) -> bool:
        """Whether one of them takes a restart."""
        return any(one.restarts for one in self.recommended)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that a rule is held against."""

    machine: Machine
    version: int
    stage: Stage
    settings: Mapping[str, Live] | None
    of_roles: Mapping[str, Sequence[str]]
    shared_buffers: int = 0


def tuning(
    rules: Rules,
    machine: Machine,
    *,
    version: int,
    stage: Stage | None,
    profile: Profile = "staged",
    settings: Mapping[str, Live] | None = None,
    of_roles: Mapping[str, Sequence[str]] | None = None,
) -> Tuning:
    """Return what should be set, and what is left alone.

    With `settings` of a running server only what is different and better; without, all of it.
    `of_roles` says for a setting which roles have their own ("eval_app 32MB"). A profile that is not
    staged takes no stage.
    """
    # A profile without stages says the same for all of them.
    case = _Case(
        machine=machine,
        version=version,
        stage=stage or "A",
        settings=settings,
        of_roles=of_roles or {},
    )
    case = _with_shared_buffers(rules, case, profile)
    said = [
        _said(setting, rules.of(name, profile), case) for name, setting in rules.settings.items()
    ]
    title = f"tune stage {stage}" if profile == "staged" else f"tune profile {profile}"
    recommended = tuple(one for one in said if isinstance(one, Recommendation))
    return Tuning(
        title=title,
        version=version,
        machine=machine,
        recommended=recommended,
        left_alone=tuple(one for one in said if isinstance(one, LeftAlone)),
        warnings=tuple(_warnings(recommended, case)),
    )


def not_before(stage: Stage, entries: Iterable[Entry]) -> str | None:
    """Return why a stage may not come yet by what the ledger holds; None where it may.

    C is for who kept B, D for who kept C.
    """
    needed = AFTER.get(stage)
    if needed is None:
        return None
    of_needed = [entry for entry in entries if entry.title.startswith(f"tune stage {needed}")]
    if any(entry.state == "kept" and entry.undone_by is None for entry in of_needed):
        return None
    seen = f"change {of_needed[0].id} is {of_needed[0].state}" if of_needed else "none was made"
    if of_needed and of_needed[0].undone_by is not None:
        seen = f"change {of_needed[0].id} was undone by change {of_needed[0].undone_by}"
    return (
        f"stage {stage} comes after stage {needed} was kept, and of that {seen}: run "
        f"`ragline tune apply --stage {needed}` first"
    )


def at_least_as_good(setting: Setting, now: Live, value: str) -> bool:
    """Return whether a server's value needs no change."""
    if setting.unit == "bytes":
        wanted, there = gucs.size(value), now.in_bytes
        if there is None:
            return False
        near = there >= wanted * _NEAR
        return near if setting.better == "more" else near and there <= wanted / _NEAR
    if setting.unit == "number":
        wanted_number, there_number = float(value), float(now.setting)
        if setting.better == "same":
            return there_number == wanted_number
        more = setting.better == "more"
        return there_number >= wanted_number if more else there_number <= wanted_number
    return _rank(setting, now.setting) >= _rank(setting, value) and (
        setting.better == "ranked" or _word(now.setting) == _word(value)
    )


def _with_shared_buffers(rules: Rules, case: _Case, profile: Profile) -> _Case:
    """Return the case with what shared_buffers will be, since other rules depend on it."""
    said = _said(rules.settings["shared_buffers"], rules.of("shared_buffers", profile), case)
    text = said.value if isinstance(said, Recommendation) else said.now if said else None
    return replace(case, shared_buffers=gucs.size(text) if text else 0)


def _said(
    setting: Setting, rules: Sequence[Rule], case: _Case
) -> Recommendation | LeftAlone | None:
    if not rules:
        return None
    missing = _missing(setting, case)
    if missing is not None:
        return LeftAlone(name=setting.name, reason=missing, source="pg_settings")
    rule, note = _first(rules, case)
    if rule is None:
        return None
    now = None if case.settings is None else case.settings[setting.name]
    shown = None if now is None else now.shown
    if case.stage not in rule.says:
        return LeftAlone(name=setting.name, reason=rule.reason, source=rule.source, now=shown)
    amount = rule.says[case.stage]
    if isinstance(amount, Cores) and case.machine.cores is None:
        reason = "it follows the number of cores, which is not known: say --cores"
        return LeftAlone(name=setting.name, reason=reason, source=rule.source, now=shown)
    value, how = _value(rule, amount, case)
    if now is not None and (kept := _kept(setting, now, value)):
        return LeftAlone(name=setting.name, reason=kept, source=rule.source, now=shown)
    return Recommendation(
        name=setting.name,
        value=value,
        now=shown,
        how=how,
        reason=rule.reason,
        source=rule.source,
        context=setting.context if now is None else now.context,
        note=". ".join(part for part in (note, _pending(now), _own(setting.name, case)) if part),
    )


def _missing(setting: Setting, case: _Case) -> str | None:
    if case.settings is not None and setting.name not in case.settings:
        return "this server has no such setting, or does not show it to this login"
    if not setting.since <= case.version <= setting.until:
        return f"PostgreSQL {case.version} has no such setting (from version {setting.since} on)"
    return None


def _first(rules: Sequence[Rule], case: _Case) -> tuple[Rule | None, str]:
    note = ""
    for rule in rules:
        if not _fits(rule, case):
            continue
        words = (case.settings[rule.name].enumvals or ()) if case.settings else ()
        if rule.has is None or rule.has in words:
            return rule, note
        missing = f"This build has no {rule.has}, but {', '.join(words)}"
        note = rule.unknown if case.settings is None else missing
    return None, note


def _fits(rule: Rule, case: _Case) -> bool:
    machine = case.machine
    return (
        case.stage in rule.stages
        and machine.system in rule.systems
        and (not rule.disks or machine.disk in rule.disks)
        and rule.since <= case.version <= rule.until
        and (machine.cores or 0) >= rule.least_cores
        and case.shared_buffers >= rule.least_shared_buffers
    )


def _value(rule: Rule, amount: Fraction | Cores | str, case: _Case) -> tuple[str, str]:
    """Return a value as it is written, and how it came about."""
    if isinstance(amount, Fraction):
        return _share(rule, amount, case)
    if isinstance(amount, Cores):
        cores = case.machine.cores or 1
        number = math.ceil(cores * amount.per) + amount.plus
        said = f"{amount.per} for each of {cores} cores"
        said += f", and {amount.plus}" if amount.plus else ""
        floor, cap = rule.floors.get(case.stage), rule.caps.get(case.stage)
        if floor is not None and number < int(floor):
            return floor, f"{said}; not less than {floor}"
        if cap is not None and number > int(cap):
            return cap, f"{said}; not more than {cap}"
        return str(number), said
    return amount, ""


def _share(rule: Rule, share: Fraction, case: _Case) -> tuple[str, str]:
    memory = case.machine.memory_bytes
    amount = gucs.rounded(int(memory * share))
    how = f"{share} of {gucs.written(gucs.rounded(memory))}"
    floor, cap = rule.floors.get(case.stage), rule.caps.get(case.stage)
    if floor is not None and amount < gucs.size(floor):
        amount, how = gucs.size(floor), f"{how}; not less than {floor}"
    if cap is not None and amount > gucs.size(cap):
        amount, how = gucs.size(cap), f"{how}; not more than {cap}"
    if rule.most is not None and amount > memory * rule.most:
        amount, how = gucs.whole(int(memory * rule.most)), f"{how}; at most {rule.most} of it"
    free = case.machine.free_disk_bytes
    if rule.of_free_disk is not None and free is not None and amount > free * rule.of_free_disk:
        least = gucs.size(floor) if floor else MIB
        amount = max(least, gucs.whole(int(free * rule.of_free_disk)))
        how = f"{how}; at most {rule.of_free_disk} of the {gucs.written(gucs.whole(free))} of free disk"
    return gucs.written(amount), how


def _kept(setting: Setting, now: Live, value: str) -> str | None:
    """Return why a running server's value stays; None where it should be different."""
    if now.source == "command line":
        return (
            f"it is {now.shown} by the server's command line, which goes before every file; "
            f"{value} has to be said there"
        )
    if now.source not in _GIVEN_BY_LOGIN and at_least_as_good(setting, now, value):
        return f"it is {now.shown} already" + (
            "" if now.shown == value else f", as good as {value}"
        )
    if setting.unit == "number" and now.max_val and float(value) > float(now.max_val):
        return f"this server takes at most {now.max_val}, not {value}"
    return None


def _own(name: str, case: _Case) -> str:
    roles = case.of_roles.get(name, ())
    return f"Not for those with their own: {', '.join(roles)}" if roles else ""


def _pending(now: Live | None) -> str:
    if now is None:
        return ""
    if now.source in _GIVEN_BY_LOGIN:
        return "What this login has of its own is shown; the server's is hidden by it"
    return "Another value waits for a restart already" if now.is_pending else ""


def _warnings(recommended: Sequence[Recommendation], case: _Case) -> Iterable[str]:
    wanted = {one.name: one.value for one in recommended}
    now = case.settings or {}

    def amount(name: str) -> int:
        live = now[name].in_bytes if name in now else None
        return gucs.size(wanted[name]) if name in wanted else live or 0

    memory = case.machine.memory_bytes
    if amount("shared_buffers") > memory * _LIMIT:
        yield (
            f"shared_buffers is {gucs.written(amount('shared_buffers'))}, more than 2/5 of "
            f"{gucs.written(gucs.rounded(memory))}"
        )
    connections = int(wanted.get("max_connections") or _setting(now, "max_connections") or 0)
    most = amount("shared_buffers") + connections * amount("work_mem")
    if connections and "work_mem" in wanted and most > memory:
        yield (
            f"{connections} connections that each sort with {wanted['work_mem']} of work_mem, and "
            f"shared_buffers, are more than {gucs.written(gucs.rounded(memory))}: keep pools small"
        )
    shared = case.machine.shared_memory_bytes
    if (
        shared is not None
        and "maintenance_work_mem" in wanted
        and _setting(now, "dynamic_shared_memory_type") == "posix"
        and amount("maintenance_work_mem") > shared
    ):
        yield (
            f"the folder of shared memory has {gucs.written(gucs.whole(shared))}: parallel builds of an "
            f"index with {wanted['maintenance_work_mem']} of maintenance_work_mem would find no space "
            "there; give the container more (--shm-size)"
        )


def _setting(settings: Mapping[str, Live], name: str) -> str | None:
    return settings[name].setting if name in settings else None


def _rank(setting: Setting, value: str) -> int:
    """Return how good a word is; a word that nobody ranked is the best: it was chosen."""
    found = [at for at, words in enumerate(setting.ranks) if _word(value) in words]
    return found[0] if found else len(setting.ranks)


def _word(value: str) -> str:
    return _YES.get(value.lower(), value.lower())

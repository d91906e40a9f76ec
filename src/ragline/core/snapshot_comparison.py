"""Two snapshots as people are told what differs: each thing once, and what nobody can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ragline.core.snapshots import (
    EVERY_ROLE,
    HIDDEN,
    Contents,
    Difference,
    Fact,
    Group,
    differing,
    groups,
)

LEAST_SHARE, LEAST_BYTES = 0.1, 1024**2
"""A size that moved by less than a tenth, or less than 1 MiB, moved by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A difference as people are told. `restart`: whether it takes one to change it; None: no such
    thing. `source` says where a setting's value came from and comes from.
    """

    group: str
    name: str
    was: Fact | None
    now: Fact | None
    source: str | None = None
    restart: bool | None = None
    waits_for_restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCompared:
    """A group, or a part of it, of which nobody knows whether it differs."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs, what only moved by itself, and what could not be compared."""

    differences: tuple[Told, ...]
    moved: tuple[Difference, ...]
    not_compared: tuple[NotCompared, ...]


_HAS_ERROR = ("files", "")
"""Where the lines are that got a fault, or lost one: with one of them no line is applied any more."""


def compared(was: Contents, now: Contents) -> Comparison:
    """Return what differs as people are told it: each thing once, without what moves by itself."""
    was, now = _at_home(was, now)
    told: list[Told] = []
    moved: list[Difference] = []
    unknown: list[NotCompared] = []
    by_setting: dict[tuple[str, str], list[Difference]] = {}
    for one in (d for name in ("settings", "files") for d in _of(name, was, now)):
        by_setting.setdefault((one.group, _setting_name(one)), []).append(one)
        if one.group == "files" and _has_another_fault(one):
            by_setting.setdefault(_HAS_ERROR, []).append(one)
    is_by_files = all(side.get("files", Group(unknown="")).unknown is None for side in (was, now))
    for name in groups(was, now):
        before, after = was.get(name), now.get(name)
        if before is None or after is None:
            age = "the older" if before is None else "the newer"
            unknown.append(NotCompared(group=name, reason=f"{age} snapshot does not have it"))
            continue
        unknown += _not_compared(name, before, after)
        is_partial = before.partial != after.partial
        for one in differing(name, before, after):
            if is_partial and _is_only_seen_by_one(one):
                continue
            if _is_hidden(one):
                hidden = f"{one.name} is what one login has of its own; the files say more"
                unknown.append(NotCompared(group=name, reason=hidden))
                continue
            if _moves_by_itself(one) or (is_by_files and _is_old_flag(one)):
                moved.append(one)
            elif not _is_told_elsewhere(one, by_setting):
                told.append(_told(one, was, now))
    return Comparison(differences=tuple(told), moved=tuple(moved), not_compared=tuple(unknown))


def _at_home(was: Contents, now: Contents) -> tuple[Contents, Contents]:
    """Return both with paths from the data directory on, where those differ.

    A restored server, or a replica, has the same files elsewhere: that is one difference, not one
    of every line.
    """
    folders = [_folder(side) for side in (was, now)]
    if None in folders or folders[0] == folders[1]:
        return was, now
    return _moved(was, folders[0] or ""), _moved(now, folders[1] or "")


def _folder(side: Contents) -> str | None:
    found = side.get("settings", Group()).facts.get("data_directory", {}).get("value")
    return found if isinstance(found, str) and found else None


def _moved(side: Contents, folder: str) -> Contents:
    def from_there(path: Any) -> Any:
        is_in = isinstance(path, str) and path.startswith(f"{folder}/")
        return f"<data directory>{path[len(folder) :]}" if is_in else path

    groups_ = {
        name: Group(
            facts={
                from_there(key): {**fact, "file": from_there(fact["file"])}
                if "file" in fact
                else fact
                for key, fact in side[name].facts.items()
            },
            unknown=side[name].unknown,
            partial=side[name].partial,
        )
        for name in ("settings", "files")
        if name in side
    }
    return {**side, **groups_}


def _is_only_seen_by_one(one: Difference) -> bool:
    """Whether a fact, or the file it is from, is on one side only, where the other may not see it."""
    if one.was is None or one.now is None:
        return True
    was, now = ({**fact, "file": None} for fact in (one.was, one.now))
    return was == now and None in (one.was.get("file"), one.now.get("file"))


def _is_hidden(one: Difference) -> bool:
    hidden = [str((fact or {}).get("source")).startswith(HIDDEN) for fact in (one.was, one.now)]
    return one.group == "settings" and any(hidden)


def _of(group: str, was: Contents, now: Contents) -> list[Difference]:
    return differing(group, was[group], now[group]) if group in was and group in now else []


def _not_compared(name: str, was: Group, now: Group) -> Iterator[NotCompared]:
    if was.unknown is not None and was.unknown == now.unknown:
        yield NotCompared(group=name, reason=f"unknown then and now, because {was.unknown}")
        return
    for when, group in (("then", was), ("now", now)):
        if group.unknown is not None:
            yield NotCompared(group=name, reason=f"unknown {when}, because {group.unknown}")
    if was.partial != now.partial:
        reason = was.partial or now.partial or ""
        yield NotCompared(group=name, reason=f"only what both sides know: on one of them {reason}")


def _is_told_elsewhere(one: Difference, all_: Mapping[tuple[str, str], list[Difference]]) -> bool:
    """Whether another line says the same: one change is one line.

    A value that runs is told as a setting, one that waits for a restart as a line of its file.
    """
    name = _setting_name(one)
    if one.group == "files":
        if _is_only_applied(one) and _HAS_ERROR in all_:
            return True
        if any(_runs_otherwise(other) for other in all_.get(("settings", name), [])):
            return not _waits(one)
        others = all_.get(("files", name), [])
        return not _says_otherwise(one) and any(map(_says_otherwise, others))
    return False


def _setting_name(one: Difference) -> str:
    fact = one.now or one.was or {}
    return str(fact.get("name", one.name)).lower() if one.group == "files" else one.name.lower()


def _runs_otherwise(one: Difference) -> bool:
    return _differs(one, "value", "hash", "source", "file")


def _says_otherwise(one: Difference) -> bool:
    return _differs(one, "value", "hash", "error")


def _is_only_applied(one: Difference) -> bool:
    return bool(one.was and one.now) and not _differs(one, "value", "hash", "error", "file")


def _differs(one: Difference, *keys: str) -> bool:
    was, now = one.was, one.now
    return was is None or now is None or any(was.get(key) != now.get(key) for key in keys)


def _has_another_fault(one: Difference) -> bool:
    faults = [(fact or {}).get("error") for fact in (one.was, one.now)]
    return faults[0] != faults[1] and not any(map(_is_of_a_restart, faults))


def _is_of_a_restart(fault: str | None) -> bool:
    return bool(fault and "restart" in fault)


def _waits(one: Difference) -> bool:
    return bool(one.now and one.now.get("auto") and not one.now.get("applied"))


def _moves_by_itself(one: Difference) -> bool:
    if one.group == "memory":
        return True
    if one.group != "sizes":
        return False
    if one.was is None or one.now is None:
        return True  # the schema says that it came or went
    was, now = int(one.was["bytes"]), int(one.now["bytes"])
    return abs(now - was) < max(LEAST_BYTES, LEAST_SHARE * was)


def _is_old_flag(one: Difference) -> bool:
    """Whether only "waits for a restart" differs, of which the files tell more.

    PostgreSQL goes on saying so until it is restarted, also of a line that was taken back.
    """
    flag = "pending_restart"
    bare = [{k: v for k, v in (fact or {}).items() if k != flag} for fact in (one.was, one.now)]
    return one.group == "settings" and bool(one.was and one.now) and bare[0] == bare[1]


def _told(one: Difference, was: Contents, now: Contents) -> Told:
    name, source, restart, waits = one.name, None, None, False
    if one.group == "settings":
        source = _then_and_now(source_of(one.was), source_of(one.now))
        restart = _fact_of(name, was, now).get("context") == "postmaster"
        waits = bool((one.now or {}).get("pending_restart"))
    elif one.group == "files":
        fact = one.now or one.was or {}
        name, source = str(fact.get("name")), str(fact.get("file"))
        setting = _fact_of(name, was, now)
        restart = setting.get("context") == "postmaster"
        is_applied = one.now is not None and bool(one.now.get("applied"))
        waits = bool(setting.get("pending_restart")) and not is_applied
    elif one.group == "roles":
        of_all = (one.now or one.was or {}).get("role") == EVERY_ROLE
        source, restart = "database" if of_all else "role", False
    return Told(
        group=one.group,
        name=name,
        was=one.was,
        now=one.now,
        source=source,
        restart=restart,
        waits_for_restart=waits,
    )


def _then_and_now(was: str, now: str) -> str:
    return was if was == now else f"{was} -> {now}"


def source_of(fact: Fact | None) -> str:
    """Return where a setting's value comes from: a file, or what the server calls it."""
    if fact is None:
        return "not there"
    return str(fact.get("file") or fact.get("source"))


def _fact_of(name: str, was: Contents, now: Contents) -> Fact:
    """Return the setting of a name, as it is now where it is there."""
    for side in (now, was):
        for known, fact in side.get("settings", Group()).facts.items():
            if known.lower() == name.lower():
                return fact
    return {}

"""From now back to a snapshot: the parts of a change, and what no change of ours puts back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ragline.core import guc_values
from ragline.core.budget import ROLES
from ragline.core.change import Part
from ragline.core.snapshot_comparison import Told, compared, source_of
from ragline.core.snapshots import (
    CONNECTION_LIMIT,
    Contents,
    Difference,
    Fact,
    Group,
    differing,
    shown,
)
from ragline.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What a plan does not put back, and what to do about it."""

    group: str
    name: str
    what_to_do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WayBack:
    """The parts of a change that leads from now to a snapshot, and what it leaves out."""

    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]


_ALLOWED = (CONNECTION_LIMIT, "default_transaction_read_only")


def way_back(was: Contents, now: Contents) -> WayBack:
    """Return what leads from now to a snapshot: settings and roles of ours by a change, the rest not."""
    parts: list[Part] = []
    left: list[LeftOut] = []
    for found in (*_files_back(was, now), *_roles_back(was, now)):
        if isinstance(found, Part):
            parts.append(found)
        else:
            left.append(found)
    told = compared(was, now)
    put_back = {part.target.lower() for part in parts if part.kind == "setting"}
    named = {one.name for one in left}
    for one in told.differences:
        if one.group == "settings" and one.name.lower() not in put_back | named:
            left.append(_setting_left(one, is_known=not _is_unknown_by_files(was, now)))
        elif one.group == "files" and not (one.now or one.was or {}).get("auto"):
            todo = f"was {shown(one.was)} in {one.source}: mend it there"
            left.append(LeftOut(group=one.group, name=one.name, what_to_do=todo))
        elif one.group not in ("settings", "files", "roles"):
            left.append(_other_left(one))
    left += [
        LeftOut(group=one.group, name="", what_to_do=f"not compared: {one.reason}")
        for one in told.not_compared
    ]
    return WayBack(parts=tuple(parts), left_out=tuple(left))


def _files_back(was: Contents, now: Contents) -> Iterator[Part | LeftOut]:
    before, after = was.get("files", Group()), now.get("files", Group())
    if _is_unknown_by_files(was, now):
        return  # said as not compared
    lines = [
        {f["name"]: f for f in side.facts.values() if f.get("auto")} for side in (before, after)
    ]
    for name in sorted({*lines[0], *lines[1]}):
        then, here = lines[0].get(name), lines[1].get(name)
        if _value(then) == _value(here):
            continue
        reason = guc_values.why_refused(name)
        if then is not None and "hash" in then:
            reason = "its value may hold a secret, so the snapshot has only a hash of it"
        if reason is not None:
            statement = f"alter system set or reset {name} by hand"
            yield LeftOut(group="settings", name=name, what_to_do=f"{reason}; {statement}")
        else:
            yield _part("setting", name, name, (then or {}).get("value"))


def _value(fact: Fact | None) -> object:
    return None if fact is None else (fact.get("value"), fact.get("hash"))


def _roles_back(was: Contents, now: Contents) -> Iterator[Part | LeftOut]:
    before, after = was.get("roles", Group()), now.get("roles", Group())
    for one in differing("roles", before, after):
        fact = one.was or one.now or {}
        target = f"{fact['role']}.{fact['name']}"
        if todo := _why_by_hand(one, after):
            yield LeftOut(group="roles", name=one.name, what_to_do=todo)
        else:
            yield _part("role", target, fact["name"], (one.was or {}).get("value"))


def _part(kind: str, target: str, name: str, want: Any) -> Part | LeftOut:
    if name == CONNECTION_LIMIT:
        return Part(kind=kind, target=target, want=want)
    try:
        return Part(kind=kind, target=target, want=guc_values.as_value(name, want))
    except UsageError as error:  # a list that somebody wrote by hand, and the server never read
        return LeftOut(group=f"{kind}s", name=target, what_to_do=f"was {want}: {error}")


def _why_by_hand(one: Difference, now: Group) -> str | None:
    """Return what to do about what a role has of its own; None where a change puts it back."""
    fact = one.was or one.now or {}
    role, name = fact["role"], fact["name"]
    if role not in ROLES.values() or not (fact["is_here"] or name == CONNECTION_LIMIT):
        return f"was {shown(one.was)}; ragline changes its own roles only: use alter role"
    if f"{role}.{CONNECTION_LIMIT}" not in now.facts:
        return "the role is gone: `ragline migrate apply` makes it, then plan again"
    if one.was is None:
        if name == CONNECTION_LIMIT:
            return "the role was not there then"
        return None
    if "hash" in one.was:
        return "its value may hold a secret, so the snapshot has only a hash of it: use alter role"
    reason = None if name in _ALLOWED else guc_values.why_refused(name)
    return None if reason is None else f"{reason}: use alter role"


def _setting_left(one: Told, *, is_known: bool) -> LeftOut:
    if not is_known:
        todo = f"was {shown(one.was)}; what set it is not known without the files: use a superuser"
    elif one.now is None:
        todo = f"was {shown(one.was)}; this server has no such setting now"
    else:
        todo = (
            f"was {shown(one.was)}; not by ALTER SYSTEM but by {source_of(one.now)}: mend it there"
        )
    return LeftOut(group=one.group, name=one.name, what_to_do=todo)


def _is_unknown_by_files(*sides: Contents) -> bool:
    return any(side.get("files", Group(unknown="not there")).unknown is not None for side in sides)


_TODO = {
    "extensions": "was version {version}: `create extension` or `alter extension … update to`",
    "versions": "was {value}: install that version",
    "hardware": "was {value}: nothing that a change could do",
    "sizes": "sizes follow the content; `vacuum full` or `reindex` where they grew alone",
    "content": "ingest the documents of then again, or restore a backup of that time",
}


def _other_left(one: Told) -> LeftOut:
    was = one.was or {}
    if one.group == "schema":
        todo = _schema_back(one)
    elif one.was is None:
        todo = "was not there then: drop it if nobody needs it"
    else:
        todo = _TODO.get(one.group, "put it back by hand").format_map(
            {"version": was.get("version"), "value": was.get("value")}
        )
    return LeftOut(group=one.group, name=one.name, what_to_do=todo)


def _schema_back(one: Told) -> str:
    if one.was is None:
        return "was not there then: drop it, or undo the change or migration that made it"
    if definition := one.was.get("definition"):
        return f"build it again, or undo the change that took it: {definition}"
    return "undo the migration that changed it, or restore a backup of that time"

"""Planning a change: what is wanted, what is there, the steps between, and what refuses it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ragline.change.kind import Site
from ragline.core import change as changes
from ragline.core.change import Entry, Part, Plan, PlannedPart
from ragline.core.gate import Asked
from ragline.db import ledger
from ragline.errors import Conflict, PreconditionFailed, StalePlan, UsageError


def check(site: Site, parts: Sequence[Part]) -> None:
    """Raise UsageError for parts that are none, of no kind, named twice, or that no ledger can keep."""
    if not parts:
        raise UsageError("name at least one thing to change")
    for part in parts:
        if part.kind not in site.kinds:
            raise UsageError(
                f"{part.kind!r} is no kind of change; there are {', '.join(sorted(site.kinds))}"
            )
        if not _is_plain(part):
            raise UsageError(
                f"{part.kind} {part.target!r} = {part.want!r} holds what PostgreSQL cannot store: only "
                "JSON's values, and text without NUL, are kept in the ledger"
            )
    named = [(part.kind, part.target) for part in parts]
    for kind, target in named:
        if named.count((kind, target)) > 1:
            raise UsageError(f"{kind} {target} is named twice; say once what it should be")


def _is_plain(part: Part) -> bool:
    try:
        said = json.dumps([part.target, part.want], ensure_ascii=False, allow_nan=False)
        said.encode()
    except (TypeError, ValueError):
        return False
    return "\\u0000" not in said.replace("\\\\", "")


async def planned(site: Site, parts: Sequence[Part]) -> Plan:
    """Return what a change of these parts would do now. Nothing is written down."""
    found: list[PlannedPart] = []
    steps: list[changes.Step] = []
    for part in parts:
        kind = site.kinds[part.kind]
        with_all = replace(site, together=tuple(parts))
        want, warnings = await kind.wanted(with_all, part.target, part.want)
        now = await kind.read(site, part.target)
        found.append(
            PlannedPart(kind=part.kind, target=part.target, now=now, want=want, warnings=warnings)
        )
        steps += kind.steps(part.target, now, want)
    await _rehearse(site, steps)
    return changes.plan(found, changes.joined(steps))


async def _rehearse(site: Site, steps: Sequence[changes.Step]) -> None:
    """Refuse settings with which, all together, the server could not start."""
    settings: dict[str, str] = {}
    for step in steps:
        if step.action == "restart":
            settings |= step.arguments.get("settings", {})
    if not settings or site.restart is None:
        return
    if (why := await site.restart.preflight(settings)) is not None:
        said = ", ".join(f"{name} = {value}" for name, value in settings.items())
        raise PreconditionFailed(
            f"the server could not start with {said}: {why}. Nothing was changed; ask for less"
        )


def completed(site: Site, found: Plan, asked: Asked) -> Asked:
    """Return what is measured with what follows from the targets; what the caller said wins."""
    collections = list(asked.collections)
    workloads: list[str] = []
    for part in found.parts:
        said = site.kinds[part.kind].measured(part.target)
        if not asked.collections:
            collections += [name for name in said.get("collections", ()) if name not in collections]
        if "workload" in said and said["workload"] not in workloads:
            workloads.append(said["workload"])
    if len(workloads) > 1:
        raise UsageError(
            f"this changes the roles of {' and '.join(workloads)}, and one measurement searches as "
            "one of them: make two changes of it"
        )
    more: dict[str, Any] = {"workload": workloads[0]} if workloads else {}
    return replace(asked, collections=tuple(collections), **more)


async def refuse_stale(site: Site, entry: Entry) -> Plan:
    """Return a change's plan as it is made now; raise StalePlan where that is another one."""
    fresh = await planned(site, entry.parts)
    if fresh.hash != entry.plan_hash:
        raise StalePlan(
            f"what change {entry.id} would change is not as it was when it was planned (plan "
            f"{entry.plan_hash}, now {fresh.hash}); plan it again"
        )
    return fresh


async def refuse_rivals(site: Site, parts: Sequence[Part], id_: int | None = None) -> None:
    """Two changes of one thing would drop what the other has beside it, and see what is only tried."""
    targets = {(part.kind, part.target) for part in parts}
    async with site.admin() as connection:
        left = [hold.entry for hold in await ledger.unsettled(connection)]
    for other in left:
        if other.id != id_ and targets & {(part.kind, part.target) for part in other.parts}:
            raise Conflict(
                f"change {other.id} ({other.title}) is {other.state} and of the same thing: see "
                f"`ragline change show {other.id}`; end it with `ragline change resume` or `ragline "
                f"change undo {other.id}`"
            )

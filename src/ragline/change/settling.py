"""Settling what was left: a change that was broken off is kept or put back, never in between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from ragline.change import journal, turns
from ragline.change.journal import Journal
from ragline.change.kind import Site
from ragline.change.turns import Turn
from ragline.core import change as changes
from ragline.core.change import Entry, Part, Plan, PlannedPart, State, Value
from ragline.db import cluster, ledger
from ragline.errors import DatabaseUnreachable, NotFound, RaglineError, UndoFailed


class _Waits(Exception):
    """The server has to be restarted by a person before what was is in effect again."""


# The server may need a moment to notice that the process of a change is gone.
_PATIENCE_S = 5.0


async def settle(site: Site) -> list[Entry]:
    """Bring every change that nobody is at any more to an end, and drop what was kept long enough.

    Runs before every administrative command. What is only being prepared stays: it is beside what is in
    use, and `resume` goes on with it. What waits for a restart waits on.
    """
    async with site.admin() as connection:
        left = await ledger.unsettled(connection)
    settled = []
    for hold in left:
        entry = hold.entry
        if entry.state == "preparing" or entry.waits_for or await turns.is_held(site, hold):
            continue
        async with turns.taken(site, patience_s=_PATIENCE_S) as turn:
            entry = await turns.entry_of(site, entry.id)
            # Else it came to an end, or to a rest, meanwhile.
            if entry.is_open and not entry.waits_for:
                settled.append(await _settled(turn, entry))
    if (site.data_dir / "changes").is_dir():
        settled += await _by_journal(site)
    if not left:
        await retire(site)
    return settled


async def put_back(
    turn: Turn,
    entry: Entry,
    reason: str,
    end: State,
    *,
    verdict: Mapping[str, Any] | None = None,
) -> Entry:
    """Undo an open change by its snapshot, read the effect back, and close it.

    Where a person has to restart the server for it, it waits. Raises UndoFailed where it does not
    work; it stays open then, and `resume` tries again.
    """
    entry = await turns.entry_of(turn.site, entry.id)
    if entry.closed_at is not None:
        return entry  # interrupted after it was decided, or ended by another process
    if entry.snapshot is None:
        raise AssertionError("an open change has its snapshot")
    started = time.monotonic()
    await turn.move(entry, "undoing", reason, verdict=verdict)
    try:
        await _undo(turn, entry, list(zip(entry.parts, entry.snapshot, strict=True)))
    except DatabaseUnreachable:
        raise
    except _Waits as why:
        return await turn.wait_for_restart(entry, "undoing", f" ({why})")
    except Exception as error:
        await turn.move(entry, "failed", f"could not be put back: {error}")
        raise UndoFailed(
            f"change {entry.id} ({entry.title}) could not be put back: {error}. Mend that, then run "
            "`ragline change resume`"
        ) from error
    undo_ms = (time.monotonic() - started) * 1000
    await _tidied(turn.site, entry)
    end = _end(entry, verdict, end)
    return await turn.close(entry, end, reason, undo_ms=undo_ms)


def _end(entry: Entry, verdict: Mapping[str, Any] | None, end: State) -> State:
    """A verdict that is stored already says how it ends, also after a crash."""
    said = verdict or entry.verdict
    if said is not None and said["status"] == "inconclusive":
        return "inconclusive"
    return end


async def finish(turn: Turn, entry: Entry, fresh: Plan) -> None:
    """Do what comes after the verdict of a change that is kept, and read the effect back."""
    steps: list[changes.Step] = []
    for part in fresh.parts:
        kind = turn.site.kinds[part.kind]
        now = await kind.read(turn.site, part.target)
        steps += kind.steps(part.target, now, part.want)
    late = [step for step in changes.joined(steps) if step.phase != "prepare"]
    for number, step in enumerate(late, start=1):
        await turn.run(entry, step, f"adopt:{number}", "do")
    await read_back(turn.site, fresh)


async def read_back(site: Site, fresh: Plan) -> None:
    """Read every effect of a plan back. Nothing counts as done before."""
    site.reached("confirm")
    for part in fresh.parts:
        await site.kinds[part.kind].confirm(site, part.target, part.want)
    site.reached("confirmed")


async def free_place(site: Site) -> None:
    """Free the place that all databases of the server share, where nobody of ours needs it any more.

    Raises nothing: whoever may not look there never took it.
    """
    with contextlib.suppress(RaglineError, asyncpg.PostgresError):
        async with turns.taken(site) as turn:
            await turn.free_place()


async def retire(site: Site) -> None:
    """Drop what nobody needs any more: what was replaced long enough ago, what was tried and held."""
    async with site.admin() as connection:
        due = await ledger.to_retire(connection)
    for entry in due:
        try:
            async with turns.taken(site):
                await _retired(site, entry)
        except DatabaseUnreachable:
            raise
        except (RaglineError, asyncpg.PostgresError) as error:
            # Another time: nobody's command has to wait for what is only left over.
            site.say(f"what change {entry.id} replaced is kept a little longer: {error}")


async def _retired(site: Site, entry: Entry) -> None:
    is_kept = entry.state == "kept"
    for part, was in zip(entry.parts, entry.snapshot or (), strict=True):
        async with site.admin() as connection:
            later = await ledger.later_change(connection, entry.id, part.kind, part.target)
        if later is not None:
            continue
        # A target that was removed took all that with it.
        with contextlib.suppress(NotFound):
            now = await site.kinds[part.kind].read(site, part.target)
            if now == (part.want if is_kept else was):
                await site.kinds[part.kind].tidy(site, part.target, now)
    async with site.admin() as connection:
        await ledger.retired(connection, entry.id)


async def _settled(turn: Turn, entry: Entry) -> Entry:
    """Finish a change that was to be kept, put any other back."""
    if entry.is_cluster_wide and not await turn.has_place(entry):
        reason = (
            "this database is a copy of the one whose change it is: settings and roles were not "
            "touched from here"
        )
        await turn.move(entry, "undoing", reason)
        return await turn.move(entry, "undone", reason)
    if entry.state == "keeping":
        try:
            await finish(turn, entry, as_planned(entry))
        except DatabaseUnreachable:
            raise
        except RaglineError as error:
            return await put_back(turn, entry, f"it could not be kept: {error}", "undone")
        return await turn.close(entry, "kept", entry.reason)
    reason = entry.verdict["reason"] if entry.verdict else f"interrupted while {entry.state}"
    return await put_back(turn, entry, reason, "undone")


def as_planned(entry: Entry) -> Plan:
    """Return the plan of a change whose snapshot is taken, without its steps."""
    parts = tuple(
        PlannedPart(kind=part.kind, target=part.target, now=was, want=part.want)
        for part, was in zip(entry.parts, entry.snapshot or (), strict=True)
    )
    return Plan(parts=parts, steps=(), hash=entry.plan_hash)


async def _undo(turn: Turn, entry: Entry, was: Sequence[tuple[Part, Value]]) -> None:
    site = turn.site
    pairs = await _still_there(site, was)
    steps = await _steps_back(site, pairs)
    for number, step in enumerate(steps, start=1):
        if step.action == "restart" and site.restart is None:
            await _restarted_by_somebody(turn, pairs)
        else:
            await turn.run(entry, step, f"undo:{number}", "undo")
    site.reached("put-back")
    await _confirmed(site, pairs)


async def _tidied(site: Site, entry: Entry) -> None:
    """Drop what was tried. What somebody holds is dropped by a later command: it is not in use."""
    try:
        for part, was in zip(entry.parts, entry.snapshot or (), strict=True):
            with contextlib.suppress(NotFound):
                await tidied(site, [(part, was)])
    except DatabaseUnreachable:
        raise
    except (RaglineError, asyncpg.PostgresError) as error:
        site.say(f"what change {entry.id} tried is dropped later: {error}")
        async with site.admin() as connection:
            await ledger.retire(connection, entry.id)


async def tidied(site: Site, pairs: Sequence[tuple[Part, Value]]) -> None:
    """Drop what lies beside the value of each part that is in effect.

    But not what an earlier kept change replaced: until its time is over, taking it back is immediate.
    """
    async with site.admin() as connection:
        retained = await ledger.retained(connection)
    replaced = [
        (part.kind, part.target, part.want, was)
        for entry in retained
        for part, was in zip(entry.parts, entry.snapshot or (), strict=False)
    ]
    for part, now in pairs:
        found = [was for *thing, was in replaced if thing == [part.kind, part.target, now]]
        await site.kinds[part.kind].tidy(site, part.target, found[0] if found else now)


async def _steps_back(site: Site, pairs: Sequence[tuple[Part, Value]]) -> list[changes.Step]:
    steps: list[changes.Step] = []
    for part, was in reversed(pairs):
        kind = site.kinds[part.kind]
        now = await kind.read(site, part.target)
        steps += kind.steps(part.target, now, was)
    return changes.joined(steps)


async def _still_there(site: Site, pairs: Sequence[tuple[Part, Value]]) -> list[tuple[Part, Value]]:
    """Return the parts whose target was not removed meanwhile: of others there is nothing left."""
    there = []
    for part, was in pairs:
        try:
            await site.kinds[part.kind].read(site, part.target)
        except NotFound:
            continue
        there.append((part, was))
    return there


async def _restarted_by_somebody(turn: Turn, pairs: Sequence[tuple[Part, Value]]) -> None:
    """Where nobody but a person can restart the server: see whether it runs as it did before."""
    await turns.reload(turn.site)
    try:
        await _confirmed(turn.site, pairs)
    except RaglineError as error:
        raise _Waits(str(error)) from error


async def _confirmed(site: Site, pairs: Sequence[tuple[Part, Value]]) -> None:
    for part, was in pairs:
        await site.kinds[part.kind].confirm(site, part.target, was)


# The journal, where the ledger knows less than it.


async def _by_journal(site: Site) -> list[Entry]:
    found = journal.read(site.data_dir, server := await turns.system_id(site))
    if found is None or found.database != site.dsn.database:
        return []
    async with site.admin() as connection:
        open_ = [hold for hold in await ledger.unsettled(connection) if hold.entry.key == found.key]
    if open_ and open_[0].entry.is_open:
        return []  # somebody is at it, or it waits
    async with turns.taken(site, patience_s=_PATIENCE_S) as turn:
        if journal.read(site.data_dir, server) != found:
            return []  # decided meanwhile
        async with site.admin() as connection:
            entry = await ledger.by_key(connection, found.key)
        if entry is not None and entry.closed_at is not None:
            await turn.release(entry)
            return []
        if entry is not None and entry.is_open:
            return []  # broken off meanwhile; the ledger knows
        put_back_entry = await _rewound(turn, found, entry)
        async with site.session(cluster.DATABASE) as session:
            await cluster.give_back(session, found.key)
        journal.remove(site.data_dir, server)
        return [put_back_entry]


async def _rewound(turn: Turn, found: Journal, entry: Entry | None) -> Entry:
    """Put back a change that the ledger does not know of, because a backup was restored."""
    site = turn.site
    reason = "the ledger was restored to before this change; the journal beside it knew what was"
    if entry is not None:  # planned, and no more
        opened = await turn.move(entry, "snapshotted", reason, snapshot=found.snapshot)
        return await put_back(turn, opened, reason, "undone")
    started = time.monotonic()
    pairs = await _still_there(site, list(zip(found.parts, found.snapshot, strict=True)))
    for step in await _steps_back(site, pairs):
        if step.action == "reload":
            await turns.reload(site)
        elif step.action == "restart" and site.restart is not None:
            await site.restart.restart()
            await site.app.forget_connections()
        elif step.action != "restart":
            await site.kinds[step.kind].run(site, step)
    await _confirmed(site, pairs)
    async with site.admin() as connection:
        return await ledger.add_put_back(
            connection,
            key=found.key,
            title=found.title,
            parts=found.parts,
            snapshot=found.snapshot,
            is_cluster_wide=found.is_cluster_wide,
            reason=reason,
            undo_ms=(time.monotonic() - started) * 1000,
            opened_at=datetime.fromisoformat(found.opened_at),
        )

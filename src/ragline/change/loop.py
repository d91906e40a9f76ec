"""The loop that every change goes through: plan, snapshot, apply, measure, judge, keep or put back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ragline.change import planning, settling, turns
from ragline.change.kind import Site
from ragline.change.turns import Turn
from ragline.core import change as changes
from ragline.core.change import Arm, Entry, HistoryLine, Part, Plan, Trial
from ragline.core.gate import Asked, Judgement
from ragline.db import ledger
from ragline.db.ledger import DoneStep
from ragline.errors import (
    Conflict,
    DatabaseUnreachable,
    NotFound,
    PreconditionFailed,
    RaglineError,
    StalePlan,
)

KEEP_FOR_S = 7 * 86400.0
EXPIRES_IN_S = 3600.0
_HOW = {
    "kept": "is kept", "undone": "was put back", "inconclusive": "was put back",
    "undoing": "is put back as soon as the server is restarted",
}  # fmt: skip
_ON_A_WORD = Judgement(status="pass", reason="not measured, on somebody's word", rung="nothing")


async def plan(
    site: Site,
    parts: Sequence[Part],
    asked: Asked | None,
    *,
    title: str | None = None,
    keep_for_s: float = KEEP_FOR_S,
    expires_in_s: float = EXPIRES_IN_S,
    undoes: int | None = None,
) -> Entry | None:
    """Write down what a change would do, and return it; None when all is so already.

    `asked` None: nothing will be measured, on somebody's word. Raises UsageError, NotFound and
    PreconditionFailed for what cannot be; nothing is changed but the ledger.
    """
    await settling.settle(site)
    planning.check(site, parts)
    found = await planning.planned(site, parts)
    await planning.refuse_rivals(site, parts)
    if not found.is_needed:
        return None
    asked = None if asked is None else planning.completed(site, found, asked)
    async with site.admin() as connection:
        await ledger.remove_old_plans(connection)
        return await ledger.add(
            connection,
            title=title or changes.title(parts),
            parts=[Part(kind=p.kind, target=p.target, want=p.want) for p in found.parts],
            plan=changes.to_json(found),
            plan_hash=found.hash,
            asked=None if asked is None else asdict(asked),
            is_cluster_wide=any(site.kinds[part.kind].is_cluster_wide for part in parts),
            undoes=undoes,
            keep_for_s=keep_for_s,
            expires_in_s=expires_in_s,
        )


async def preview(site: Site, parts: Sequence[Part]) -> Plan:
    """Return what a change would do, and write nothing down."""
    planning.check(site, parts)
    return await planning.planned(site, parts)


async def apply(site: Site, id_: int, *, keep_inconclusive: bool = False) -> Entry:
    """Do what was planned, measure, and keep it or put it back; return how it ended.

    Its state then is `kept`, `undone`, `inconclusive`, or `applied` where it waits for a restart. An
    error that ended it was put back first. Raises StalePlan for a plan that fits no more, UndoFailed
    where even putting it back failed.
    """
    await settling.settle(site)
    await _applicable(site, id_)
    # Held until it is decided, so that nobody gives it up, or applies it too, in between.
    async with turns.preparing(site, id_) as session:
        entry = await _applicable(site, id_)
        fresh = await planning.refuse_stale(site, entry)
        await planning.refuse_rivals(site, entry.parts, entry.id)
        await _prepare(site, entry, fresh)
        async with turns.taken(site, session=session) as turn:
            fresh = await planning.refuse_stale(site, entry)
            entry = await turn.open(entry, [part.now for part in fresh.parts])
            judging = _judged(turn, entry, fresh)
            return await _decided(turn, entry, fresh, judging, keep_inconclusive=keep_inconclusive)


async def undo(site: Site, id_: int) -> Entry:
    """Take a kept change back, or end an open one; returns the entry that says so."""
    await settling.settle(site)
    entry = await turns.entry_of(site, id_)
    if entry.state == "preparing":
        return await _given_up(site, id_)
    if entry.is_open:
        async with turns.taken(site) as turn:
            entry = await turns.entry_of(site, id_)
            if entry.is_open:
                return await settling.put_back(turn, entry, "taken back by hand", "undone")
    if entry.state != "kept":
        raise Conflict(f"change {entry.id} is {entry.state}: there is nothing to take back")
    if entry.undone_by is not None:
        raise Conflict(f"change {entry.id} was taken back already, by change {entry.undone_by}")
    return await _reversed(site, entry)


async def resume(site: Site) -> list[Entry]:
    """Settle what an interrupted process left, go on with what waited; returns what came of it."""
    settled = await settling.settle(site)
    await settling.free_place(site)
    async with site.admin() as connection:
        left = await ledger.unsettled(connection)
    for hold in left:
        if hold.entry.state == "preparing" and not await turns.is_held(site, hold):
            settled.append(await apply(site, hold.entry.id))
        elif hold.entry.waits_for and not await turns.is_held(site, hold):
            settled.append(await _went_on(site, hold.entry))
    return settled


async def entries(site: Site, limit: int | None = None) -> list[Entry]:
    """Return the changes of this database, newest first."""
    async with site.admin() as connection:
        return await ledger.every(connection, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """All that the ledger knows of a change."""

    entry: Entry
    history: tuple[HistoryLine, ...]
    steps: tuple[DoneStep, ...]


async def whole(site: Site, id_: int | None) -> Whole:
    """Return a change, or the newest, with every state and step it went through."""
    async with site.admin() as connection:
        if id_ is None:
            newest = await ledger.every(connection, 1)
            if not newest:
                raise NotFound("the ledger is empty; `ragline change plan` begins a change")
            id_ = newest[0].id
        return Whole(
            entry=await ledger.one(connection, id_),
            history=tuple(await ledger.history(connection, id_)),
            steps=tuple(await ledger.steps(connection, id_)),
        )


# Applying.


async def _applicable(site: Site, id_: int) -> Entry:
    entry = await turns.entry_of(site, id_)
    if entry.state not in ("planned", "preparing"):
        raise Conflict(f"change {entry.id} is {entry.state} already; plan it again")
    if entry.state == "planned" and entry.expires_at <= datetime.now(UTC):
        raise StalePlan(
            f"the plan of change {entry.id} expired at {entry.expires_at:%Y-%m-%d %H:%M} UTC; plan "
            "it again"
        )
    return entry


async def _prepare(site: Site, entry: Entry, fresh: Plan) -> None:
    """Do what takes long beside what is in use. Broken off, it goes on where it was."""
    steps = [step for step in fresh.steps if step.phase == "prepare"]
    if not steps:
        return
    await turns.move(site, entry.id, "preparing", "beside what is in use")
    for number, step in enumerate(steps, start=1):
        try:
            await turns.run(site, entry, step, f"prepare:{number}", "do")
        except DatabaseUnreachable:
            raise
        except (RaglineError, asyncio.CancelledError):
            # What is half built is dropped; the plan may be applied again.
            now = [part.now for part in fresh.parts]
            await settling.tidied(site, list(zip(entry.parts, now, strict=True)))
            await turns.move(site, entry.id, "planned", "preparing it was broken off")
            raise


async def _given_up(site: Site, id_: int) -> Entry:
    async with turns.preparing(site, id_):
        entry = await turns.entry_of(site, id_)
        if entry.state != "preparing":
            raise Conflict(f"change {id_} is {entry.state} by now; see `ragline change show {id_}`")
        now = [await site.kinds[part.kind].read(site, part.target) for part in entry.parts]
        await settling.tidied(site, list(zip(entry.parts, now, strict=True)))
        return await turns.move(
            site, entry.id, "undone", "given up while it was prepared", snapshot=now
        )


async def _decided(
    turn: Turn,
    entry: Entry,
    fresh: Plan,
    judging: Awaitable[Judgement | None],
    *,
    keep_inconclusive: bool = False,
) -> Entry:
    """Bring an opened change to its end; whatever goes wrong, it is put back first."""
    try:
        verdict = await judging
        if verdict is None:
            return await turns.entry_of(turn.site, entry.id)
        if (good := _good(verdict, entry, keep_inconclusive=keep_inconclusive)) is not None:
            return await _kept(turn, entry, fresh, good)
    except (Exception, asyncio.CancelledError) as error:
        await _broken_off(turn, entry, error)
        raise
    end: changes.State = "undone" if verdict.status == "fail" else "inconclusive"
    return await settling.put_back(turn, entry, verdict.reason, end, verdict=asdict(verdict))


def _good(verdict: Judgement, entry: Entry, *, keep_inconclusive: bool) -> Judgement | None:
    """Return the verdict with which a change stays; None where it does not."""
    asked = _asked(entry)
    if verdict.status == "pass":
        return verdict
    is_wished = keep_inconclusive or (asked is not None and asked.keep_inconclusive)
    if verdict.status == "inconclusive" and is_wished:
        return replace(verdict, reason=f"kept on somebody's word: {verdict.reason}")
    return None


async def _broken_off(turn: Turn, entry: Entry, error: BaseException) -> None:
    """Put back what an error ended, whatever it was, and say so in it."""
    reason = str(error) or "interrupted"
    try:
        ended = await settling.put_back(turn, entry, reason, "undone")
    except DatabaseUnreachable as lost:
        raise DatabaseUnreachable(
            f"{lost}. Change {entry.id} is open: the next command settles it, or `ragline change "
            "resume`"
        ) from error
    said = f"{reason}. Change {entry.id} {_HOW[ended.state]}"
    if isinstance(error, RaglineError):
        error.args = (said,)
    else:
        turn.site.say(said)


async def _judged(turn: Turn, entry: Entry, fresh: Plan) -> Judgement | None:
    """Return the verdict; None when the change waits for somebody to restart the server."""
    site, asked = turn.site, _asked(entry)
    await turn.journal(entry)
    arms = await _arms(site, fresh)
    if arms is not None and asked is not None:
        await turn.move(entry, "applying", "")
        await turn.move(entry, "applied", "ready beside what is in use")
        await turn.move(entry, "measuring", "both in turn")
        site.reached("measuring")
        verdict = await site.measure.pair(asked, *arms)
        site.reached("measured")
        return verdict
    before = None
    if asked is not None:
        site.say("measuring what is there")
        before = await site.measure.before(asked)
    await turn.move(entry, "applying", "", before=before)
    in_effect = [step for step in fresh.steps if step.phase != "prepare"]
    for number, step in enumerate(in_effect, start=1):
        if step.action == "restart" and site.restart is None:
            await turn.wait_for_restart(entry, "applied")
            return None
        await turn.run(entry, step, f"{step.phase}:{number}", "do")
    await settling.read_back(site, fresh)
    return await _measured(turn, entry, asked, before)


async def _measured(
    turn: Turn, entry: Entry, asked: Asked | None, before: Mapping[str, Any] | None
) -> Judgement:
    await turn.move(entry, "applied", "in effect")
    if asked is None or before is None:
        return _ON_A_WORD
    await turn.move(entry, "measuring", "")
    turn.site.reached("measuring")
    verdict = await turn.site.measure.after(asked, before)
    turn.site.reached("measured")
    return verdict


async def _kept(turn: Turn, entry: Entry, fresh: Plan, verdict: Judgement) -> Entry:
    await turn.move(entry, "keeping", verdict.reason, verdict=asdict(verdict))
    turn.site.reached("keeping")
    await settling.finish(turn, entry, fresh)
    return await turn.close(entry, "kept", verdict.reason)


async def _arms(site: Site, fresh: Plan) -> tuple[Arm, Arm] | None:
    """Return both sides of a change that can be searched in turn; None where one part cannot."""
    sides: tuple[dict[str, Trial], dict[str, Trial]] = ({}, {})
    for part in fresh.parts:
        kind = site.kinds[part.kind]
        if not kind.steps(part.target, part.now, part.want):
            continue
        arms = await kind.arms(site, part.target, part.now, part.want)
        if arms is None:
            return None
        for side, arm in zip(sides, arms, strict=True):
            for name, trial in arm.items():
                side[name] = _both(side[name], trial) if name in side else trial
    return sides


def _both(one: Trial, other: Trial) -> Trial:
    return Trial(
        slot=other.slot if one.slot is None else one.slot,
        space_id=other.space_id if one.space_id is None else one.space_id,
        policy=other.policy if one.policy is None else one.policy,
    )


def _asked(entry: Entry) -> Asked | None:
    if entry.asked is None:
        return None
    lists = {
        "collections": tuple(entry.asked["collections"]),
        "filters": tuple(entry.asked["filters"]),
        "texts": tuple(entry.asked.get("texts", ())),
    }
    return Asked(**{**entry.asked, **lists})


# Going on, and back.


async def _went_on(site: Site, entry: Entry) -> Entry:
    """Go on with a change whose restart somebody has done meanwhile, or with putting it back."""
    async with turns.taken(site) as turn:
        entry = await turns.entry_of(site, entry.id)
        if not entry.waits_for:
            return entry  # another process was faster
        if entry.state == "undoing":
            reason = entry.verdict["reason"] if entry.verdict else "put back after a restart"
            return await settling.put_back(turn, entry, reason, "undone")
        await _confirm_restarted(site, entry)
        judging = _measured(turn, entry, _asked(entry), entry.before)
        return await _decided(turn, entry, settling.as_planned(entry), judging)


async def _confirm_restarted(site: Site, entry: Entry) -> None:
    try:
        for part in entry.parts:
            await site.kinds[part.kind].confirm(site, part.target, part.want)
    except RaglineError as error:
        raise PreconditionFailed(
            f"change {entry.id} waits for a restart: {error}. Restart the server and run `ragline "
            f"change resume` again, or `ragline change undo {entry.id}`"
        ) from error


async def _refuse_later(site: Site, entry: Entry) -> None:
    """Taking an older change back would take back what came after it, unasked."""
    for part in entry.parts:
        async with site.admin() as connection:
            later = await ledger.later_change(connection, entry.id, part.kind, part.target)
        if later is None or await site.kinds[part.kind].read(site, part.target) == part.want:
            continue
        raise Conflict(
            f"{part.kind} {part.target} is no longer as change {entry.id} made it: change {later} came "
            f"after it. Take that one back first (`ragline change undo {later}`), or plan what it "
            "should be"
        )


async def _reversed(site: Site, entry: Entry) -> Entry:
    """Take a kept change back by a change of its own, which nothing has to judge."""
    if entry.snapshot is None:
        raise AssertionError("a kept change has its snapshot")
    await _refuse_later(site, entry)
    parts = [
        Part(kind=part.kind, target=part.target, want=was)
        for part, was in zip(reversed(entry.parts), reversed(entry.snapshot), strict=True)
    ]
    planned = await plan(
        site,
        parts,
        None,
        title=f"undo of change {entry.id}: {entry.title}"[:300],
        keep_for_s=entry.keep_for_s,
        undoes=entry.id,
    )
    if planned is None:
        raise Conflict(f"all is as it was before change {entry.id}: there is nothing to take back")
    return await apply(site, planned.id)

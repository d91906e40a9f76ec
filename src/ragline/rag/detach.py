"""Attached tables given back without a trace: what attaching gave and wrote is taken away again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import asyncpg

from ragline.core import index_definition
from ragline.db import attached_sql, attachments, ledger, pool
from ragline.db.attachments import ChangeOf, Grant, Kept, Server, Session
from ragline.errors import Conflict, NotFound, UsageError
from ragline.rag.app import App

_Mode: TypeAlias = Literal["do", "trial", "by force"]
_LOCK_TIMEOUT_MS = 5000
_PATIENT = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detachment:
    """What detaching did, or would do.

    `kept_indexes` are of changes that were kept, and stay; `gone_indexes` such a change dropped, and
    they stay so. `ended_changes` keep nothing for their undo any more; `dropped_indexes` a trial left.
    """

    collection: str
    table: str
    is_there: bool
    taken_back: tuple[Grant, ...]
    kept_indexes: tuple[str, ...]
    gone_indexes: tuple[str, ...]
    ended_changes: tuple[int, ...]
    dropped_indexes: tuple[str, ...]
    warnings: tuple[str, ...]


class _StillKept(Conflict):
    """Kept changes hold on to what they replaced; what ends them is settling."""

    def __init__(self, message: str, changes: Sequence[int]) -> None:
        super().__init__(message)
        self.changes = changes


async def plan(app: App, name: str) -> Detachment:
    """Return what `detach` would do; raises as it does."""
    return await _taken_away(app, name, mode="trial")


async def detach(
    app: App, name: str, *, settle: Callable[[], Awaitable[object]] | None = None
) -> Detachment:
    """Take everything back that attaching gave and wrote; the table itself is not touched.

    `settle` drops what changes that were kept have replaced, so that nothing of it is left behind.
    Raises NotFound, and Conflict while a change on it is open, or keeps what it replaced.
    """
    try:
        done = await _taken_away(app, name)
    except _StillKept as error:
        if settle is None:
            raise
        async with app.connection("admin") as connection:
            for change_id in error.changes:
                await ledger.retire(connection, change_id)
        await settle()
        done = replace(await _taken_away(app, name), ended_changes=tuple(error.changes))
    app.known.pop(name, None)
    return done


async def by_force(app: App, name: str) -> None:
    """Do the same though changes hold on to it: what was attached a moment ago cannot be searched."""
    await _taken_away(app, name, mode="by force")


def session(app: App) -> AbstractAsyncContextManager[asyncpg.Connection[asyncpg.Record]]:
    """Lend a session of the DSN's user that may take its time."""
    if app.dsn is None:
        raise UsageError(
            "this ragline was opened without a database of its own to attach tables of"
        )
    return pool.session(app.dsn, "admin", settings=_PATIENT)


async def _taken_away(app: App, name: str, *, mode: _Mode = "do") -> Detachment:
    async with session(app) as connection:
        server = await attachments.server(connection)
        transaction = connection.transaction()
        await transaction.start()
        try:
            done = await _detached(connection, server, name, mode)
        except BaseException:
            await transaction.rollback()
            raise
        if mode == "trial":
            await transaction.rollback()
            return done
        await transaction.commit()
        return await _without_trials(connection, done)


async def _detached(session: Session, server: Server, name: str, mode: _Mode) -> Detachment:
    await attachments.one_at_a_time(session)
    async with attachments.as_owner(session, server):
        kept = await attachments.kept(session, name)
        if kept is None:
            raise NotFound(await _not_attached(session, name))
        indexes = await attachments.indexes_of(session, kept.oid) if kept.place else []
        changes = await attachments.changes_of(session, name, kept.place)
        keeping = _keeping(name, changes) if mode != "by force" else ()
        if keeping and mode == "do":
            raise _still_kept(name, keeping)
        is_shared = len(await attachments.attached_to(session, kept.oid)) > 1
        mine = await attachments.pass_on(session, kept)
        await attachments.forget(session, kept.collection_id)
    await attachments.take_back(session, kept, mine)
    still = await attachments.still_granted(session, kept, mine)
    made, gone = _of_kept_changes(kept, dict(indexes), changes)
    on_trial = (
        [] if is_shared else [one for one, text in indexes if attached_sql.ON_TRIAL.search(text)]
    )
    return Detachment(
        collection=name,
        table=attached_sql.table(kept.attached),
        is_there=kept.place is not None,
        taken_back=tuple(grant for grant in mine if grant not in still),
        kept_indexes=made,
        gone_indexes=gone,
        ended_changes=keeping,
        dropped_indexes=tuple(
            f"{pool.quoted(kept.place[0])}.{pool.quoted(one)}" for one in on_trial if kept.place
        ),
        warnings=tuple(_left(kept, still)),
    )


async def _without_trials(session: Session, done: Detachment) -> Detachment:
    """Drop what a trial left on the table, which serves nobody; where that fails, say so."""
    dropped, said = [], list(done.warnings)
    await session.execute(f"set lock_timeout = {_LOCK_TIMEOUT_MS}")
    for index in done.dropped_indexes:
        try:
            await session.execute(f"drop index concurrently if exists {index}", timeout=None)
            dropped.append(index)
        except asyncpg.PostgresError as error:
            said.append(
                f"index {index} is left over from a trial ({error}): `drop index concurrently "
                f"{index}` removes it"
            )
    return replace(done, dropped_indexes=tuple(dropped), warnings=tuple(said))


async def _not_attached(session: Session, name: str) -> str:
    if await attachments.is_taken(session, name):
        return (
            f"collection {name!r} is ragline's own and not attached: `ragline collection remove {name}` "
            "removes it"
        )
    return f"collection {name!r} does not exist; `ragline collection list` shows what there is"


def _keeping(name: str, changes: Sequence[ChangeOf]) -> tuple[int, ...]:
    """Return the kept changes that keep what they replaced; raises Conflict where one is open."""
    for change in changes:
        if change.state != "kept":
            raise Conflict(
                f"change {change.id} ({change.title}) is at work on {name!r} ({change.state}): wait for "
                "it, or end it (`ragline change resume`), then detach. Nothing was changed"
            )
    return tuple(change.id for change in changes if change.keeps_what_was)


def _still_kept(name: str, changes: Sequence[int]) -> _StillKept:
    numbers = ", ".join(map(str, changes))
    return _StillKept(
        f"what change {numbers} replaced on {name!r} is still kept, so that undo is immediate: take "
        "it back with `ragline change undo`, or let `ragline detach` drop it",
        changes,
    )


def _of_kept_changes(
    kept: Kept, indexes: Mapping[str, str], changes: Sequence[ChangeOf]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the indexes that kept changes made and that are there, and those that they dropped."""
    before: dict[str, str | None] = {}
    for change in changes:
        for part, was in zip(change.parts, change.snapshot, strict=False):
            for name in filter(None, (_name_of(kept, part, one) for one in (part["want"], was))):
                is_same = was is not None and _name_of(kept, part, was) == name
                before.setdefault(name, was["definition"] if is_same and was else None)
    made = [name for name in indexes if name in before and before[name] != indexes[name]]
    gone = [name for name, was in before.items() if was is not None and name not in indexes]
    return tuple(made), tuple(gone)


def _name_of(kept: Kept, part: Mapping[str, Any], value: Mapping[str, Any] | None) -> str | None:
    """Return the index of this table that a part's value defines; None where it is none."""
    if part.get("kind") != "index" or value is None or "definition" not in value:
        return None
    target = str(part["target"])
    name = str(value["name"]) if "name" in value else index_definition.place(target).name
    schema, table = kept.place or (kept.attached.schema, kept.attached.table)
    try:
        index_definition.parsed(value["definition"], schema=schema, table=table, name=name)
    except UsageError:
        return None  # of a table that was attached under this name before
    return name


def _left(kept: Kept, still: Sequence[Grant]) -> list[str]:
    said = []
    if kept.place is None:
        said.append(
            f"table {attached_sql.table(kept.attached)} is gone; only our rows were removed"
        )
    if still:
        roles = ", ".join(dict.fromkeys(grant.role for grant in still))
        said.append(
            f"{roles} may still read {attached_sql.table(kept.attached)}: others gave them that right "
            "too; its owner can take it back"
        )
    return said

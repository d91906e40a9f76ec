"""The ledger as rows: changes, their steps and their history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import asyncpg

from ragline.core.change import Entry, HistoryLine, Part, State, Value
from ragline.db import queries
from ragline.db.pool import Connection
from ragline.errors import Conflict, NotFound

_IN_JSON = ("parts", "plan", "asked", "snapshot", "before", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneStep:
    """A step that was begun. `ended_at` None: it was broken off, or failed with `error`."""

    ordinal: int
    direction: str
    phase: str
    text: str
    started_at: datetime
    ended_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Who is at a change. `is_restarting`: they have the server go away for a moment."""

    entry: Entry
    owner: str | None
    is_restarting: bool


async def add(
    connection: Connection,
    *,
    title: str,
    parts: Sequence[Part],
    plan: Mapping[str, Any],
    plan_hash: str,
    asked: Mapping[str, Any] | None,
    is_cluster_wide: bool,
    undoes: int | None,
    keep_for_s: float,
    expires_in_s: float,
) -> Entry:
    """Write a plan into the ledger and return it as it is there."""
    id_ = await connection.fetchval(
        queries.block("ledger", "add_change"),
        title,
        json.dumps([asdict(part) for part in parts]),
        json.dumps(plan),
        plan_hash,
        None if asked is None else json.dumps(asked),
        is_cluster_wide,
        undoes,
        keep_for_s,
        expires_in_s,
    )
    return await one(connection, id_)


async def add_put_back(
    connection: Connection,
    *,
    key: str,
    title: str,
    parts: Sequence[Part],
    snapshot: Sequence[Value],
    is_cluster_wide: bool,
    reason: str,
    undo_ms: float,
    opened_at: datetime,
) -> Entry:
    """Write a change that only the journal knew of, and that was put back."""
    id_ = await connection.fetchval(
        queries.block("ledger", "add_put_back"),
        key,
        title,
        json.dumps([asdict(part) for part in parts]),
        json.dumps({}),
        "",
        is_cluster_wide,
        json.dumps(list(snapshot)),
        reason,
        undo_ms,
        opened_at,
    )
    return await one(connection, id_)


async def one(connection: Connection, id_: int) -> Entry:
    """Return a change; raises NotFound."""
    row = None
    if 0 < id_ < 2**63:
        row = await connection.fetchrow(queries.block("ledger", "one_change"), id_)
    if row is None:
        raise NotFound(f"there is no change {id_}; `ragline change list` shows all")
    return _entry(row)


async def by_key(connection: Connection, key: str) -> Entry | None:
    """Return the change that a journal names, or None."""
    row = await connection.fetchrow(queries.block("ledger", "change_by_key"), key)
    return None if row is None else _entry(row)


async def every(connection: Connection, limit: int | None = None) -> list[Entry]:
    """Return changes, newest first."""
    return [
        _entry(row) for row in await connection.fetch(queries.block("ledger", "changes"), limit)
    ]


async def unsettled(connection: Connection) -> list[Hold]:
    """Return changes that are being prepared, or in effect and not decided, oldest first."""
    rows = await connection.fetch(queries.block("ledger", "unsettled_changes"))
    return [
        Hold(entry=_entry(row), owner=row["owner"], is_restarting=row["is_restarting"])
        for row in rows
    ]


async def to_retire(connection: Connection) -> list[Entry]:
    """Return changes beside which something lies that nobody needs any more."""
    rows = await connection.fetch(queries.block("ledger", "changes_to_retire"))
    return [_entry(row) for row in rows]


async def retained(connection: Connection) -> list[Entry]:
    """Return kept changes whose old state is still there beside, newest first."""
    rows = await connection.fetch(queries.block("ledger", "retained_changes"))
    return [_entry(row) for row in rows]


async def move(
    connection: Connection,
    id_: int,
    state: State,
    reason: str,
    *,
    owner: str | None = None,
    snapshot: Sequence[Value] | None = None,
    before: Mapping[str, Any] | None = None,
    verdict: Mapping[str, Any] | None = None,
    waits_for: str | None = None,
    undo_ms: float | None = None,
) -> Entry:
    """Bring a change to a state, and return it. Raises Conflict where another one is open."""
    try:
        await connection.fetchval(
            queries.block("ledger", "move_change"),
            id_,
            state,
            reason,
            _json(snapshot if snapshot is None else list(snapshot)),
            _json(before),
            _json(verdict),
            waits_for,
            owner,
            undo_ms,
        )
    except asyncpg.UniqueViolationError as error:
        holder = await connection.fetchval(
            "select id from change where closed_at is null and state not in ('planned', 'preparing')"
        )
        raise Conflict(
            f"change {holder} is open, and there is one at a time: see `ragline change show "
            f"{holder}`, then `ragline change resume`"
        ) from error
    except asyncpg.RestrictViolationError as error:
        raise Conflict(f"{error}; `ragline change show {id_}` says who ended it") from error
    return await one(connection, id_)


async def owner(connection: Connection, id_: int) -> str | None:
    """Return who brought a change to the state that it is in."""
    found: str | None = await connection.fetchval("select owner from change where id = $1", id_)
    return found


async def expect_restart(connection: Connection, id_: int, seconds: float) -> None:
    """Say that the server is about to go away, and its locks with it."""
    await connection.execute(queries.block("ledger", "expect_restart"), id_, seconds)


async def retire(connection: Connection, id_: int) -> None:
    """Say that something is left beside a change that could not be dropped yet."""
    await connection.execute(queries.block("ledger", "retire"), id_)


async def retired(connection: Connection, id_: int) -> None:
    """Say that what a kept change replaced is gone."""
    await connection.execute(queries.block("ledger", "retired"), id_)


async def later_change(connection: Connection, id_: int, kind: str, target: str) -> int | None:
    """Return the last kept change of the same thing after this one."""
    found: int | None = await connection.fetchval(
        queries.block("ledger", "same_target_since"), id_, kind, target
    )
    return found


async def remove_old_plans(connection: Connection) -> None:
    """Forget plans that expired long ago and that nobody applied."""
    await connection.execute(queries.block("ledger", "remove_old_plans"))


async def begin_step(
    connection: Connection, id_: int, *, direction: str, phase: str, text: str
) -> int:
    """Write down that a step begins, and return its number."""
    number: int = await connection.fetchval(
        queries.block("ledger", "begin_step"), id_, direction, phase, text
    )
    return number


async def end_step(connection: Connection, id_: int, number: int, error: str | None = None) -> None:
    """Write down that a step ended, or what it failed with."""
    await connection.execute(queries.block("ledger", "end_step"), id_, number, error)


async def steps(connection: Connection, id_: int) -> list[DoneStep]:
    """Return every step that was begun, in order."""
    rows = await connection.fetch(queries.block("ledger", "steps_of_change"), id_)
    return [DoneStep(**dict(row)) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWay:
    """The step that one of now takes back: when it began, and what it was planned with.

    `after` and `until` are transactions: those of the step lie between them. None is not known.
    """

    began: datetime
    arguments: Mapping[str, Any]
    after: str | None
    until: str | None


async def other_way(connection: Connection, beginning: str) -> OtherWay | None:
    """Return the step whose text begins so, of the open change or of the one that it takes back."""
    row = await connection.fetchrow(queries.block("ledger", "other_way"), beginning)
    if row is None:
        return None
    planned = json.loads(row["plan"])["steps"]
    arguments = [one["arguments"] for one in planned if one["text"].startswith(beginning)]
    return OtherWay(
        began=row["started_at"],
        arguments=arguments[0] if arguments else {},
        after=row["after"],
        until=row["until"],
    )


async def history(connection: Connection, id_: int) -> list[HistoryLine]:
    """Return every state that a change came to, in order."""
    rows = await connection.fetch(queries.block("ledger", "history_of_change"), id_)
    return [HistoryLine(**dict(row)) for row in rows]


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)


def _entry(row: asyncpg.Record) -> Entry:
    found = {field.name: row[field.name] for field in fields(Entry)}
    for name in _IN_JSON:
        found[name] = None if found[name] is None else json.loads(found[name])
    found["key"] = str(found["key"])
    found["parts"] = tuple(Part(**part) for part in found["parts"])
    if found["snapshot"] is not None:
        found["snapshot"] = tuple(found["snapshot"])
    return Entry(**found)

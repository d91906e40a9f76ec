"""Snapshots as rows, and what they are made of as the catalog has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from ragline.core import guc_numbers, guc_values, snapshots
from ragline.core.dsn import missing
from ragline.core.snapshots import CONNECTION_LIMIT, Contents, Fact, Group, Snapshot
from ragline.db import queries
from ragline.db.pool import Connection
from ragline.db.server import FileSetting, Session
from ragline.errors import Conflict, NotFound, PreconditionFailed

_OF_THE_SERVER = (
    "default", "environment variable", "configuration file", "command line", "override",
)  # fmt: skip
_SAID = ("configuration file", "command line")
_ONLY_SOME = "what only superusers and pg_read_all_settings may see is hidden from this user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A snapshot without its contents."""

    id: int
    name: str | None
    note: str
    taken_at: datetime
    by_user: str
    bytes: int


async def settings(session: Session, lines: list[FileSetting] | None) -> Group:
    """Return the server's settings. `lines` are those of its files, None where they are not known.

    What a role, a database or our login have instead is not the server's: its files say what is.
    """
    sees_all = await session.fetchval(queries.block("snapshots", "sees_all_settings"))
    rows = await session.fetch(queries.block("snapshots", "settings"))
    facts = {
        row["name"]: _setting(row, lines) for row in rows if not snapshots.is_noise(row["name"])
    }
    return Group(facts=facts, partial=None if sees_all else _ONLY_SOME)


def _setting(row: asyncpg.Record, lines: list[FileSetting] | None) -> Fact:
    value, source, file = row["setting"], row["source"], row["sourcefile"]
    if source not in _OF_THE_SERVER:
        value, source, file = _below(row, lines)
    elif guc_values.is_chosen_by_server(row["name"]) and source not in _SAID:
        value, source = None, snapshots.CHOSEN
    return {
        **snapshots.kept(row["name"], value),
        "unit": row["unit"],
        "source": source,
        "file": file,
        "context": row["context"],
        "pending_restart": row["pending_restart"],
    }


def _below(
    row: asyncpg.Record, lines: list[FileSetting] | None
) -> tuple[str | None, str, str | None]:
    """Return what a setting is for those who have nothing of their own."""
    if lines is None:
        return None, f"{snapshots.HIDDEN} ({row['source']})", None
    name = row["name"].lower()
    named = [line for line in lines if (line.name or "").lower() == name]
    said = [line for line in named if line.is_applied]
    if named and not said:  # the files have a fault, and what was read of them before nobody says
        return None, f"{snapshots.HIDDEN} ({row['source']})", None
    if not said:
        return row["boot_val"], "default", None
    return _in_base_unit(row, said[-1].value or ""), "configuration file", said[-1].file


def _in_base_unit(row: asyncpg.Record, text: str) -> str:
    """Return a value of a file as pg_settings would show it."""
    if row["vartype"] in ("integer", "real"):
        is_whole = row["vartype"] == "integer"
        found = guc_numbers.number(text, row["unit"], is_whole=is_whole)
        return text if found is None else f"{found:.15g}"
    if row["vartype"] == "bool" and (truth := guc_values.truth(text)) is not None:
        return "on" if truth else "off"
    return text


def files(lines: list[FileSetting]) -> Group:
    """Return what the configuration files say; of several lines for a name in a file the last."""
    facts: dict[str, Fact] = {}
    for line in lines:
        name = line.name or f"line {line.line}"
        facts[f"{line.file}: {name.lower()}"] = {
            "name": name.lower(),
            "file": line.file,
            **snapshots.kept(name, line.value),
            "auto": line.is_auto,
            "applied": line.is_applied,
            "error": line.error,
        }
    return Group(facts=facts)


async def roles(session: Session) -> Group:
    """Return what roles have of their own in this database, and how many connections they may hold."""
    facts: dict[str, Fact] = {}
    for row in await session.fetch(queries.block("snapshots", "own_settings")):
        role, name = row["role"] or snapshots.EVERY_ROLE, row["name"]
        place = "" if row["is_here"] else " (in every database)"
        facts[f"{role}.{name}{place}"] = {
            "role": role,
            "name": name,
            "is_here": row["is_here"],
            **snapshots.kept(name, row["value"]),
        }
    for row in await session.fetch(queries.block("snapshots", "connection_limits")):
        facts[f"{row['role']}.{CONNECTION_LIMIT}"] = {
            "role": row["role"],
            "name": CONNECTION_LIMIT,
            "is_here": False,
            "value": row["value"],
        }
    return Group(facts=facts)


async def extensions(session: Session) -> Group:
    """Return the installed extensions."""
    return await _by_name(session, "extensions")


async def server_version(session: Session) -> dict[str, Fact]:
    """Return the version of PostgreSQL, and how it was built."""
    row = await session.fetchrow(queries.block("snapshots", "server_version"))
    if row is None:
        raise AssertionError("a select without from has a row")
    return {"postgresql": {"value": row["version"], "build": row["build"]}}


async def schema(session: Session) -> Group:
    """Return what all schemas hold, but PostgreSQL's and extensions' own."""
    facts: dict[str, Fact] = {}
    blocks = (
        ("relations", None), ("indexes", "index"), ("functions", "function"), ("objects", None)
    )  # fmt: skip
    for block, kind in blocks:
        for row in await session.fetch(queries.block("snapshots", block)):
            fact = dict(row)
            name = fact.pop("name")
            facts[f"{kind or fact.pop('kind')} {name}"] = fact
    return Group(facts=facts)


async def sizes(session: Session) -> Group:
    """Return the bytes of tables, TOAST included, and of indexes."""
    found = await _by_name(session, "sizes")
    # What is dropped while it is looked at has none.
    return Group(
        facts={name: fact for name, fact in found.facts.items() if fact["bytes"] is not None}
    )


async def content(session: Session) -> Group:
    """Return a hash of each collection's documents, and its epoch."""
    return await _by_name(session, "content")


async def data_directory(session: Session) -> str | None:
    """Return where the server's data is; None where this user may not know."""
    found: str | None = await session.fetchval(queries.block("snapshots", "data_directory"))
    return found


async def backend(session: Session) -> int:
    """Return the process that serves this session."""
    return int(await session.fetchval(queries.block("snapshots", "backend")))


async def _by_name(session: Session, block: str) -> Group:
    rows = [dict(row) for row in await session.fetch(queries.block("snapshots", block))]
    return Group(facts={row.pop("name"): row for row in rows})


async def add(connection: Connection, name: str | None, note: str, contents: Contents) -> Snapshot:
    """Store contents as a snapshot, and return it as it is stored."""
    said = json.dumps(snapshots.to_json(contents))
    try:
        id_ = await connection.fetchval(queries.block("snapshots", "add"), name, note, said)
    except asyncpg.UniqueViolationError:
        raise Conflict(
            f"there is a snapshot {name!r} already; a snapshot never changes: take another name"
        ) from None
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise PreconditionFailed(
            f"nothing can be stored here ({error}): on a replica, take the snapshot of its primary"
        ) from error
    return await one(connection, str(id_))


async def one(connection: Connection, reference: str) -> Snapshot:
    """Return a snapshot by its number or name; NotFound says which there are."""
    row = await connection.fetchrow(queries.block("snapshots", "one"), reference)
    if row is None:
        known = await every(connection, 50)
        if not known:
            raise NotFound("there is no snapshot yet; `ragline snapshot take` takes one")
        names = [one.name or str(one.id) for one in known]
        raise NotFound(missing("snapshot", reference, names))
    found: dict[str, Any] = dict(row)
    contents = snapshots.from_json(json.loads(found.pop("contents")))
    return Snapshot(**found, contents=contents)


async def every(connection: Connection, limit: int | None = None) -> list[Listed]:
    """Return the snapshots without their contents, newest first."""
    rows = await connection.fetch(queries.block("snapshots", "every"), limit)
    return [Listed(**row) for row in rows]

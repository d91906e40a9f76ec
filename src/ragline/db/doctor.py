"""The doctor's rows as values. A part that this user may not read is `Unknown`, and says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import asyncpg

from ragline.core.doctor.facts import (
    Age,
    Archiver,
    Extension,
    FileFault,
    HbaRule,
    Neglected,
    Prepared,
    Replica,
    Role,
    Schema,
    Server,
    Sessions,
    Setting,
    Slot,
    Space,
    Standby,
    Unknown,
    Wal,
)
from ragline.db import queries, schema, server
from ragline.errors import DatabaseUnreachable, PreconditionFailed

T = TypeVar("T")
Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

REFUSED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedColumnError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.DataError,  # names that are no text in a database without an encoding
    asyncpg.InternalServerError,  # something was dropped while it was looked at
)
_GRANTS = {
    "hba": "as a superuser `grant select on pg_hba_file_rules to` this user, and `grant execute on "
    "function pg_hba_file_rules() to` it",
    "wal": "as a superuser `grant pg_monitor to` this user",
    "schema": "see role.privileges",
    "spaces": "see role.privileges",
}
"""What lets an ordinary user read a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Everything that the server itself says."""

    server: Server
    started_at: datetime
    settings: Mapping[str, Setting]
    extensions: Mapping[str, Extension] | Unknown
    ages: Sequence[Age] | Unknown
    sessions: Sessions | Unknown
    prepared: Sequence[Prepared] | Unknown
    slots: Sequence[Slot] | Unknown
    standbys: Sequence[Standby] | Unknown
    replica: Replica | Unknown
    neglected: Sequence[Neglected] | Unknown
    roles: Sequence[Role] | Unknown
    hba: Sequence[HbaRule] | Unknown
    file_faults: Sequence[FileFault] | Unknown
    wal: Wal | Unknown
    archiver: Archiver | Unknown
    schema: Schema | Unknown
    spaces: Sequence[Space] | Unknown


async def rows(session: Session) -> Rows:
    """Return all of it, in one round trip a part: each may be refused by itself."""
    said = dict(await _row(session, "server"))
    started_at = said.pop("started_at")
    stored = await _schema(session)
    return Rows(
        server=Server(**said),
        started_at=started_at,
        settings={row["name"]: Setting(**row) for row in await session.fetch(_block("settings"))},
        extensions=await _several(
            session, "extensions", lambda found: {row["name"]: Extension(**row) for row in found}
        ),
        ages=await _values(session, "ages", Age),
        sessions=await _value(session, "sessions", Sessions),
        prepared=await _values(session, "prepared", Prepared),
        slots=await _values(session, "slots", Slot),
        standbys=await _values(session, "standbys", Standby),
        replica=await _value(session, "replica", Replica),
        neglected=await _values(session, "neglected", Neglected),
        roles=await _values(session, "roles", Role),
        hba=await _values(session, "hba", HbaRule),
        file_faults=await _file_faults(session),
        wal=await _value(session, "wal", Wal),
        archiver=await _value(session, "archiver", Archiver),
        schema=stored,
        spaces=await _spaces(session, stored),
    )


def refusal(error: asyncpg.PostgresError, part: str = "") -> Unknown:
    """Return what an error leaves unknown, and what would help."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return Unknown(reason=str(error), fix=_GRANTS.get(part, "look as a superuser"))
    if isinstance(error, asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError):
        return Unknown(reason=f"it took too long: {error}", fix="try again when less is going on")
    if isinstance(error, asyncpg.InternalServerError):
        return Unknown(reason=str(error), fix="try again: something was dropped meanwhile")
    return Unknown(reason=str(error))


async def _row(session: Session, name: str) -> asyncpg.Record:
    row = await session.fetchrow(_block(name))
    if row is None:
        raise DatabaseUnreachable("the server did not say which role it let in")
    return row


async def _several(
    session: Session, name: str, made: Callable[[list[asyncpg.Record]], T]
) -> T | Unknown:
    try:
        return made(await session.fetch(_block(name)))
    except REFUSED as error:
        return refusal(error, name)


async def _values(session: Session, name: str, kind: Callable[..., T]) -> Sequence[T] | Unknown:
    return await _several(session, name, lambda found: [kind(**row) for row in found])


async def _value(session: Session, name: str, kind: Callable[..., T]) -> T | Unknown:
    return await _several(session, name, lambda found: kind(**found[0]))


async def _file_faults(session: Session) -> Sequence[FileFault] | Unknown:
    try:
        lines = await server.file_settings(session)
    except PreconditionFailed:
        return Unknown(
            reason="this user may not see what the configuration files say",
            fix="as a superuser `grant select on pg_file_settings to` this user, and `grant execute "
            "on function pg_show_all_file_settings() to` it",
        )
    except REFUSED as error:
        return refusal(error)
    return [
        FileFault(
            place=f"line {line.line} of {line.file}",
            name=line.name,
            error=line.error,
            is_unread=line.is_broken,
        )
        for line in lines
        if line.error is not None
    ]


async def _schema(session: Session) -> Schema | Unknown:
    said: dict[str, Any] = {"head": schema.HEAD, "versions": schema.VERSIONS}
    try:
        # What a stranger put there would run with our rights.
        complaint = await session.fetchval(queries.block("catalog", "complaint"))
        if complaint is not None:
            return Schema(applied=None, complaint=complaint, **said)
        applied = await session.fetchval(queries.block("catalog", "schema_version"))
    except asyncpg.UndefinedTableError:
        return Schema(applied=None, **said)
    except REFUSED as error:
        return refusal(error, "schema")
    return Schema(applied=applied, **said)


async def _spaces(session: Session, stored: Schema | Unknown) -> Sequence[Space] | Unknown:
    if isinstance(stored, Unknown):
        return stored
    if stored.complaint is not None or stored.applied != stored.head:
        return Unknown(reason="ragline's schema is not the one of this ragline: see schema.head")
    return await _values(session, "spaces", Space)


def _block(name: str) -> str:
    return queries.block("doctor", name)

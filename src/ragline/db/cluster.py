"""The one place that changes of all databases of a server share, in its database `postgres`.

Settings and roles belong to the whole server: two databases must not change them at once. A lock would
be gone with the connection; what is not decided has to hold its place after a crash as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from ragline.db import queries
from ragline.db.pool import quoted
from ragline.errors import Conflict, PreconditionFailed

if TYPE_CHECKING:
    Session = asyncpg.Connection[asyncpg.Record]

DATABASE = "postgres"
_TABLE = "select pg_catalog.to_regclass('ragline_cluster.open_change')"
_MAKE = """
do $make$
begin
    if not exists (select from pg_catalog.pg_namespace where nspname = 'ragline_cluster') then
        create schema ragline_cluster;
        comment on schema ragline_cluster is 'Which database changes settings or roles.';
    elsif exists (
        select from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
        where n.nspname = 'ragline_cluster' and not r.rolsuper and r.rolname <> current_user
    ) then
        raise insufficient_privilege using message = 'schema ragline_cluster belongs to somebody else';
    end if;
    create table ragline_cluster.open_change (
        is_the_one boolean primary key default true check (is_the_one),
        database_oid oid not null,
        database name not null,
        change_id bigint not null,
        key uuid not null,
        opened_at timestamptz not null default pg_catalog.clock_timestamp()
    );
end
$make$
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Which change of which database holds the place."""

    database: str
    change_id: int
    key: str


async def take(session: Session, *, database: str, change_id: int, key: str) -> None:
    """Take the place for a change, or raise Conflict naming who has it. Taken before, it stays."""
    try:
        await _prepare(session)
        held = await _taken(session, database, change_id, key)
    except asyncpg.InsufficientPrivilegeError as error:
        user = quoted(await session.fetchval("select current_user::text"))
        raise PreconditionFailed(
            f"changes of settings and roles keep a row in database {DATABASE!r}, and user {user} may "
            f"not make or write it ({error}). As a superuser run there `create schema "
            f"ragline_cluster authorization {user}`; where that is there already, `grant usage on "
            f"schema ragline_cluster to {user}` and `grant select, insert, update, delete on "
            f"ragline_cluster.open_change to {user}`"
        ) from error
    if held is not None:
        raise Conflict(
            f"change {held.change_id} of database {held.database!r} is open, and settings and roles "
            "belong to the whole server: run `ragline change resume` there first"
        )


async def _taken(session: Session, database: str, change_id: int, key: str) -> Holder | None:
    """Take the place and return None, or return who has it."""
    sql = queries.block("cluster", "take_place")
    for _ in range(2):
        if await session.fetchval(sql, database, change_id, key) is not None:
            return None
        if (held := await holder(session)) is not None:
            return held
        # Given back between the two questions.
    raise Conflict("other changes take the server's place all the time; try again")


async def holder(session: Session) -> Holder | None:
    """Return who holds the place; one whose database is gone holds nothing."""
    if await session.fetchval(_TABLE) is None:
        return None
    await session.execute(queries.block("cluster", "forget_dropped"))
    row = await session.fetchrow(queries.block("cluster", "holder"))
    return None if row is None else Holder(row["database"], row["change_id"], str(row["key"]))


async def give_back(session: Session, key: str) -> None:
    """Give back a change's place; another's stays."""
    if await session.fetchval(_TABLE) is None:
        return
    await session.execute(queries.block("cluster", "give_back"), key)


async def _prepare(session: Session) -> None:
    """Make the table where it is missing; refuse one of a stranger, which could run what he likes."""
    try:
        if await session.fetchval(queries.block("cluster", "is_there")):
            if await session.fetchval(queries.block("cluster", "is_a_strangers")):
                raise PreconditionFailed(
                    f"schema ragline_cluster of database {DATABASE!r} belongs to somebody who is "
                    "neither this user nor a superuser: drop it, then try again"
                )
            return
        async with session.transaction():
            await session.execute(_MAKE)
    except (
        asyncpg.UniqueViolationError,
        asyncpg.DuplicateTableError,
        asyncpg.DuplicateSchemaError,
    ):
        await _prepare(session)  # another process made it at the same moment

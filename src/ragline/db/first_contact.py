"""What the server says of itself before a pool is opened: schemas, roles, limits, and slots for us."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from ragline.core.budget import connection_budget
from ragline.errors import DatabaseUnreachable


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a pool depends on. `budget` is how many connections ragline has here for all its work."""

    vector_schema: str | None
    has_roles: bool
    may_use_schema: bool
    statement_timeout_ms: int
    connection_limit: int
    budget: int


async def asked(connection: asyncpg.Connection[asyncpg.Record]) -> ServerFacts:
    """Return what the server says to the user of a connection."""
    row = await connection.fetchrow(
        """
        select
            (select n.nspname::text from pg_catalog.pg_extension e
             join pg_catalog.pg_namespace n on n.oid = e.extnamespace
             where e.extname = 'vector'),
            exists (select from pg_catalog.pg_roles where rolname = 'ragline_owner'),
            coalesce(pg_catalog.has_schema_privilege(
                (select oid from pg_catalog.pg_namespace where nspname = 'ragline'), 'usage'
            ), true),
            (select setting::int from pg_catalog.pg_settings where name = 'statement_timeout'),
            (select nullif(rolconnlimit, -1) from pg_catalog.pg_roles
             where rolname = current_user),
            current_setting('max_connections')::int,
            current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true), '0')::int
        """
    )
    if row is None:
        raise DatabaseUnreachable("the server did not say which role it let in")
    schema, has_roles, may_use, timeout_ms, limit, max_connections, reserved = row
    budget = connection_budget(max_connections, reserved)
    return ServerFacts(
        vector_schema=schema,
        has_roles=has_roles,
        may_use_schema=may_use,
        statement_timeout_ms=timeout_ms,
        connection_limit=budget if limit is None else limit,
        budget=budget,
    )


def statement_timeout(facts: ServerFacts, query_timeout_s: float | None) -> dict[str, str]:
    """Return the limit of a statement, unless the role or the database has a stricter one.

    Kept by the server, which costs nothing; a timer of ours costs a fortieth of each search.
    """
    wanted_ms = round((query_timeout_s or 0) * 1000)
    if 0 < facts.statement_timeout_ms <= wanted_ms:
        return {}
    return {"statement_timeout": f"{wanted_ms}ms"}


async def take_slot(connection: asyncpg.Connection[asyncpg.Record], budget: int) -> None:
    """Hold one of the slots that all ragline processes share, for as long as the connection lives.

    Workloads with roles of their own have the roles' connection limits, which the server keeps; all
    others log in as one user, and nothing but these locks keeps them below `max_connections`.
    """
    slot = await connection.fetchval(
        """
        select slot from generate_series(1, $1::int) as slot
        where pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('ragline.connection'), slot)
        limit 1
        """,
        budget,
    )
    if slot is None:
        raise asyncpg.TooManyConnectionsError(f"all {budget} connections of ragline are in use")

"""Reading the rows of attached tables, which their owners change without asking us."""

from __future__ import annotations

import asyncpg

from ragline.core.attached import Attached
from ragline.core.results import CollectionFacts
from ragline.db import attached_sql, attached_state, collections
from ragline.db.pool import Connection
from ragline.errors import Conflict, NotFound, PreconditionFailed, RaglineError

# PostgreSQL can cast no such value, or compare no such types: the columns were changed.
_OTHER_TYPES = (
    asyncpg.UndefinedFunctionError,
    asyncpg.CannotCoerceError,
    asyncpg.DatatypeMismatchError,
    asyncpg.WrongObjectTypeError,
)


async def fetch(
    connection: Connection, collection: str, attached: Attached, sql: str, *values: object
) -> list[asyncpg.Record]:
    """Return the rows of a query of an attached table; says what was done to the table if it fails.

    Raises NotFound without the table, Conflict where its columns are others now, PreconditionFailed
    where it may not be read any more.
    """
    try:
        return await connection.fetch(sql, *values)
    except asyncpg.PostgresError as error:
        said = explained(collection, attached, error)
        if said is None:
            raise
        raise said from error


def explained(collection: str, attached: Attached, error: Exception) -> RaglineError | None:
    """Return what an error of the server says about an attached table; None where nothing."""
    table = attached_sql.table(attached)
    again = f"run `ragline detach {collection} --yes` and attach it again"
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
        return NotFound(
            f"collection {collection!r} is the table {table}, which is gone: it was dropped, renamed "
            f"or moved. Put it back, or {again}"
        )
    if isinstance(error, asyncpg.UndefinedColumnError):
        return Conflict(
            f"collection {collection!r}: a column of table {table} that it was attached with is gone "
            f"({error}); put it back, or {again}"
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return PreconditionFailed(
            f"collection {collection!r}: table {table} may not be read any more ({error}); grant "
            f"select on it, and usage on its schema, or {again}"
        )
    if isinstance(error, _OTHER_TYPES):
        return Conflict(
            f"collection {collection!r}: a column of table {table} has another type than when it was "
            f"attached ({error}); {again}"
        )
    if isinstance(error, asyncpg.DataError):
        return Conflict(
            f"collection {collection!r}: a row of table {table} cannot be read as it was attached "
            f"({error}); mend the row, or {again} with --only for the rows that can"
        )
    return None


async def check(connection: Connection, facts: CollectionFacts) -> None:
    """Raise Conflict where another table has the name of the one that was attached."""
    if (said := await attached_state.why_not(connection, facts)) is not None:
        raise Conflict(said)


async def index_state(connection: Connection, facts: CollectionFacts) -> bool | None:
    """Return whether a vector index that searches of a collection walk is valid; None without one."""
    if facts.space is None:
        return None
    if facts.attached is None:
        return await collections.index_state(connection, facts.space.id)
    state: bool | None = await connection.fetchval(
        """
        select pg_catalog.bool_or(i.indisvalid)
        from pg_catalog.pg_index i
        join pg_catalog.pg_class x on x.oid = i.indexrelid
        join pg_catalog.pg_am m on m.oid = x.relam and m.amname in ('hnsw', 'ivfflat')
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attname = $2
        where i.indrelid = pg_catalog.to_regclass($1)
          and (i.indkey[0] = a.attnum or exists (
              select from pg_catalog.pg_depend d
              where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indexrelid
                and d.refobjid = i.indrelid and d.refobjsubid = a.attnum
          ))
        """,
        attached_sql.table(facts.attached),
        facts.attached.embedding,
    )
    return state

"""Tables of somebody else's as they are: what the catalog says of them, and what is in their rows.

All of it is asked in sessions of the DSN's user, who may read the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from ragline.core.attached import Attached
from ragline.core.attached_layouts import Column, Table, VectorIndex, WordsIndex
from ragline.db import attached_sql, queries
from ragline.db.attachments import Session
from ragline.db.pool import quoted
from ragline.errors import NotFound, UsageError

_FILE = "attachments"
# No model reads as much of a text; a row may hold a whole library.
_READ_AT_MOST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A relation of a name that was asked for, whether it can be attached or not."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    has_row_security: bool
    has_children: bool
    owner: str
    may_read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is in the rows of a collection. Dimensions are None where there are no vectors."""

    count: int
    without_vector: int
    without_text: int
    least_dimension: int | None
    most_dimension: int | None


async def named(session: Session, schema: str | None, name: str) -> list[Named]:
    """Return all relations of a name, in all schemas where none is said."""
    rows = await session.fetch(queries.block(_FILE, "tables_named"), schema, name)
    return [Named(**dict(row)) for row in rows]


async def table_names(session: Session) -> list[tuple[str, str, bool]]:
    """Return schema and name of the tables there are, and whether they hold vectors; those first."""
    rows = await session.fetch(queries.block(_FILE, "table_names"))
    return [(row["schema"], row["name"], row["has_vectors"]) for row in rows]


async def table(session: Session, found: Named) -> Table:
    """Return a table with its columns, keys and the indexes that searches can use."""
    columns = await session.fetch(queries.block(_FILE, "columns"), found.oid)
    keys = await session.fetch(queries.block(_FILE, "keys"), found.oid)
    indexes = await session.fetch(queries.block(_FILE, "vector_and_words_indexes"), found.oid)
    return Table(
        oid=found.oid,
        schema=found.schema,
        name=found.name,
        columns=tuple(Column(**dict(row)) for row in columns),
        keys=tuple(tuple(row["columns"]) for row in keys),
        vector_indexes=tuple(_vector_index(row) for row in indexes if not row["is_of_words"]),
        words_indexes=tuple(
            WordsIndex(
                name=row["name"], expression=row["expression"], columns=tuple(row["columns"])
            )
            for row in indexes
            if row["is_of_words"] and not row["is_partial"]
        ),
    )


def _vector_index(row: asyncpg.Record) -> VectorIndex:
    options = dict(option.split("=", 1) for option in row["options"] or ())
    return VectorIndex(
        name=row["name"],
        method=row["method"],
        operator_class=row["operator_class"],
        columns=tuple(row["columns"]),
        is_partial=row["is_partial"],
        options=options,
    )


async def rows(session: Session, attached: Attached, vector_schema: str) -> Rows:
    """Look at every row of a collection: how many there are, and of which dimensions."""
    vector = attached_sql.column(attached.embedding)
    size = f"{quoted(vector_schema)}.vector_dims({vector})"
    dimensions = (
        "null::integer, null::integer" if attached.is_typed else f"min({size}), max({size})"
    )
    sql = f"""
        select count(*), count(*) filter (where {vector} is null),
               count(*) filter (where {attached_sql.column(attached.text)} is null), {dimensions}
        from {attached_sql.table(attached)} t where {attached_sql.belongs(attached)}
    """  # noqa: S608 -- identifiers and literals are quoted
    try:
        row = await session.fetchrow(sql, timeout=None)
    except (asyncpg.DataError, asyncpg.UndefinedFunctionError) as error:
        said = ", ".join(f"{name}={value}" for name, value in attached.only)
        raise UsageError(
            f"--only {said} cannot be compared with what table {attached.table} holds: {error}"
        ) from error
    if row is None:
        raise NotFound(f"table {attached.table} was dropped meanwhile")
    return Rows(
        count=row[0],
        without_vector=row[1],
        without_text=row[2],
        least_dimension=row[3],
        most_dimension=row[4],
    )


async def sample(session: Session, attached: Attached, size: int) -> list[tuple[str, list[float]]]:
    """Return texts with their vectors, from all over a small table, from the start of a large one."""
    vector, text = attached_sql.column(attached.embedding), attached_sql.column(attached.text)
    sql = f"""
        select body, vector from (
            select pg_catalog.left({text}::text, {_READ_AT_MOST:d}) as body, {vector}::real[] as vector
            from {attached_sql.table(attached)} t
            where {attached_sql.belongs(attached)} and {vector} is not null and {text} ~ '\\S'
            limit 1000
        ) as s
        order by pg_catalog.hashtextextended(body, 0) limit {size:d}
    """  # noqa: S608 -- as above
    found = await session.fetch(sql, timeout=None)
    return [(row["body"], row["vector"]) for row in found]


async def as_stored(session: Session, column: Column, value: str) -> str:
    """Return a value as its column's type writes it; raises UsageError for what it cannot read."""
    sql = f"select {attached_sql.literal(value)}::{column.type}::text"
    try:
        found: str = await session.fetchval(sql)
    except asyncpg.PostgresError as error:
        raise UsageError(
            f"--only {column.name}={value} cannot be compared with a column of type {column.type}: "
            f"{error}"
        ) from error
    return found


async def parts(session: Session, schema: str) -> dict[str, str]:
    """Return the names of LangChain's collections of a schema by their ids, as text."""
    where = f"{quoted(schema)}.langchain_pg_collection"
    if not await session.fetchval("select pg_catalog.to_regclass($1) is not null", where):
        return {}
    sql = f"select uuid::text, name::text from {where} order by name limit 1000"  # noqa: S608
    return {row[0]: row[1] for row in await session.fetch(sql)}

"""Tables of somebody else's: looked at in the catalog, written down as collections, given back.

All of it is done in sessions of the DSN's user, who may read the table and give rights on it; what is
ours is written as its owner.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import asyncpg

from ragline.core import attached as descriptions
from ragline.core import index_definition
from ragline.core.attached import Attached
from ragline.core.attached_layouts import Column, Table, VectorIndex, WordsIndex
from ragline.core.attaching import Index
from ragline.core.budget import ROLES
from ragline.core.results import CollectionFacts
from ragline.db import attached_sql, queries
from ragline.db.pool import Connection, quoted
from ragline.errors import NotFound, PreconditionFailed, UsageError

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record] | Connection"
# Up to so many rows are counted; beyond, the planner's estimate is close enough.
COUNTED_ROWS = 10_000
# Counted by the server, a moment later; after a crash it begins anew, which is a change like others.
_WRITES = """
    select pg_catalog.pg_stat_get_tuples_inserted(t.oid) + pg_catalog.pg_stat_get_tuples_updated(t.oid)
         + pg_catalog.pg_stat_get_tuples_deleted(t.oid)
    from (select $1::text::regclass::oid as oid) as t
"""
# The table was dropped or altered a moment ago, or its rights were taken.
_ALTERED = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError, asyncpg.DataError)
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
class Server:
    """What of the server matters here. `owner` is whose schema ragline is."""

    is_replica: bool
    words_config: str
    vector_schema: str
    user: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is in the rows of a collection. Dimensions are None where there are no vectors."""

    count: int
    without_vector: int
    without_text: int
    least_dimension: int | None
    most_dimension: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What the stored vectors are."""

    model_id: str
    weights_hash: str
    dimension: int
    storage: str
    normalised: bool
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A right that a role was given: to read the table, or to use its schema ("table", "schema")."""

    role: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An attached table as it is written down. `place` is where it is now; None when it is gone."""

    collection_id: int
    name: str
    attached: Attached
    oid: int
    granted: tuple[Grant, ...]
    place: tuple[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeOf:
    """A change that is at work on a table, or was kept on it."""

    id: int
    title: str
    state: str
    parts: Sequence[Mapping[str, Any]]
    snapshot: Sequence[Any]
    keeps_what_was: bool


# What is there.


async def server(session: Session) -> Server:
    """Return what of the server matters here."""
    row = await session.fetchrow(queries.block(_FILE, "server"))
    if row is None or row["vector_schema"] is None:
        raise PreconditionFailed(
            "this database has no vector extension: run `ragline migrate apply`"
        )
    return Server(**dict(row))


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


async def attached_to(session: Session, oid: int) -> list[tuple[str, Attached]]:
    """Return the collections that a table is attached as."""
    found = await session.fetch(queries.block(_FILE, "attached_to"), oid)
    return [(row["name"], _description(row)) for row in found]


async def is_taken(session: Session, collection: str) -> bool:
    """Whether there is a collection of a name."""
    return bool(await session.fetchval(queries.block(_FILE, "is_taken"), collection))


async def lacking(session: Session, oid: int) -> list[Grant]:
    """Return what the workloads' roles need to search a table, and have not; none without roles."""
    roles = [
        row["role"]
        for row in await session.fetch(queries.block(_FILE, "roles"), list(ROLES.values()))
    ]
    found = await session.fetch(queries.block(_FILE, "lacking"), roles, oid)
    return [Grant(role=row["role"], kind=row["kind"]) for row in found]


# Writing it down and giving it back; each within a transaction of the caller's.


async def one_at_a_time(session: Session) -> None:
    """Keep other attaching and detaching out for this transaction."""
    await session.execute(queries.block(_FILE, "one_at_a_time"))


async def give(session: Session, attached: Attached, grants: Sequence[Grant]) -> None:
    """Give rights; what our user may not give is left out by the server, or raised."""
    for grant in grants:
        await session.execute(
            f"grant {_right(grant, attached.schema, attached.table)} to {quoted(grant.role)}"
        )


async def pass_on(session: Session, kept: Kept) -> list[Grant]:
    """Write down with other collections of a table what they need too; return what only this one has.

    Whose table is gone has nothing to be taken back.
    """
    if kept.place is None:
        return []
    alone: list[Grant] = []
    for kind, sql, value in (
        ("table", "others_of_table", kept.oid),
        ("schema", "others_of_schema", kept.place[0]),
    ):
        grants = [grant for grant in kept.granted if grant.kind == kind]
        heir = await session.fetchrow(queries.block(_FILE, sql), value, kept.collection_id)
        if heir is None:
            alone += grants
        elif grants:
            granted = [*_grants(heir["granted"]), *grants]
            await session.execute(
                queries.block(_FILE, "keep_granted"), heir["collection_id"], _written(granted)
            )
    return alone


async def take_back(session: Session, kept: Kept, grants: Sequence[Grant]) -> None:
    """Take rights back."""
    if kept.place is None:
        return
    for grant in grants:
        right = _right(grant, *kept.place)
        await session.execute(f"revoke {right} from {quoted(grant.role)}")


def _right(grant: Grant, schema: str, table_: str) -> str:
    if grant.kind == "schema":
        return f"usage on schema {quoted(schema)}"
    return f"select on table {quoted(schema)}.{quoted(table_)}"


@asynccontextmanager
async def as_owner(session: Session, server_: Server) -> AsyncIterator[None]:
    """Write what is ours as its owner, within a transaction."""
    if server_.owner == server_.user:
        yield
        return
    await session.execute(f"set local role {quoted(server_.owner)}")
    yield
    await session.execute("reset role")


async def add(
    session: Session,
    name: str,
    language: str,
    attached: Attached,
    *,
    oid: int,
    space: Space,
    index: Index,
    granted: Sequence[Grant],
) -> None:
    """Write a collection, its space and its table down."""

    def block(one: str) -> str:
        return queries.block(_FILE, one)

    collection_id = await session.fetchval(block("add_collection"), name, language)
    space_id = await session.fetchval(
        block("add_space"),
        collection_id,
        space.model_id,
        space.weights_hash,
        space.dimension,
        index.metric,
        space.storage,
        space.normalised,
        list(space.languages),
    )
    await session.execute(
        block("describe_index"), space_id, index.storage, index.m, index.ef_construction
    )
    await session.execute(block("activate_space"), collection_id, space_id)
    await session.execute(
        block("add_attached"),
        collection_id,
        json.dumps(descriptions.to_json(attached)),
        oid,
        _written(granted),
    )


async def kept(session: Session, name: str) -> Kept | None:
    """Return an attached table, locked for this transaction; None where the name is of none."""
    row = await session.fetchrow(queries.block(_FILE, "attached_table"), name)
    if row is None:
        return None
    return Kept(
        collection_id=row["id"],
        name=row["name"],
        attached=_description(row),
        oid=row["oid"],
        granted=tuple(_grants(row["granted"])),
        place=(row["schema"], row["table"]) if row["is_there"] else None,
    )


async def forget(session: Session, collection_id: int) -> None:
    """Remove a collection's rows; its table is not ours and stays."""
    await session.execute(queries.block(_FILE, "forget_collection"), collection_id)


async def still_granted(session: Session, kept_: Kept, grants: Sequence[Grant]) -> list[Grant]:
    """Return which of some rights roles still have by name."""
    if kept_.place is None or not grants:
        return []
    found = await session.fetch(
        queries.block(_FILE, "still_granted"),
        [grant.role for grant in grants],
        [grant.kind for grant in grants],
        kept_.oid,
        kept_.place[0],
    )
    return [Grant(role=row["role"], kind=row["kind"]) for row in found]


async def changes_of(session: Session, name: str, place: tuple[str, str] | None) -> list[ChangeOf]:
    """Return the changes on a collection, or on an index of its table, that are open or were kept."""
    found = await session.fetch(queries.block(_FILE, "changes_of"), name)
    changes = [
        ChangeOf(
            id=row["id"],
            title=row["title"],
            state=row["state"],
            parts=json.loads(row["parts"]),
            snapshot=json.loads(row["snapshot"] or "[]"),
            keeps_what_was=row["retire_at"] is not None,
        )
        for row in found
    ]
    return [
        change
        for change in changes
        if any(part["target"] == name or _is_on(part, place) for part in change.parts)
    ]


def _is_on(part: Mapping[str, Any], table_: tuple[str, str] | None) -> bool:
    """Whether a part of a change is about an index of a table: "@schema.table.index"."""
    if part["kind"] != "index" or not part["target"].startswith("@"):
        return False
    try:
        where = index_definition.place(part["target"])
    except UsageError:
        return False
    return (where.schema, where.table) == table_


async def indexes_of(session: Session, oid: int) -> list[tuple[str, str]]:
    """Return the names of a table's indexes, each with its definition."""
    found = await session.fetch(queries.block(_FILE, "indexes_of"), oid)
    return [(row["name"], row["definition"]) for row in found]


# For searches and lists.


async def why_not(connection: Connection, facts: CollectionFacts) -> str | None:
    """Return why an attached table cannot be searched any more, and what to do; None when it can."""
    if facts.attached is None:
        return None
    row = await connection.fetchrow(queries.block("collections", "attached_state"), facts.id)
    name, where = facts.name, f"{facts.attached.schema}.{facts.attached.table}"
    again = f"run `ragline detach {name} --yes`, then attach it again"
    if row is None:
        return f"collection {name!r} was detached meanwhile"
    if not row["is_there"]:
        if row["is_another"]:
            return f"table {where} of collection {name!r} was dropped and made again: {again}"
        return (
            f"table {where} of collection {name!r} was dropped: run `ragline detach {name} --yes`"
        )
    if (row["schema"], row["table"]) != (facts.attached.schema, facts.attached.table):
        moved = f"{row['schema']}.{row['table']}"
        return f"table {where} of collection {name!r} is called {moved} now: {again}"
    if not row["may_read"]:
        return f"ragline's roles may no longer read table {where} of collection {name!r}: {again}"
    if row["has_row_security"]:
        return (
            f"row-level security was switched on for table {where} of collection {name!r}, and searches "
            "here are not those of a user of its application: switch it off, or run `ragline detach "
            f"{name} --yes`"
        )
    return None


async def counted(connection: Connection, facts: CollectionFacts) -> CollectionFacts:
    """Return an attached collection with its number of rows: exact up to 10,000, else estimated.

    Its epoch rises with every row that is written, as that of others does.
    """
    if facts.attached is None or await why_not(connection, facts) is not None:
        return facts
    from_ = attached_sql.table(facts.attached)
    source = f"from {from_} t where {attached_sql.belongs(facts.attached)}"
    sql = f"select count(*) from (select 1 {source} limit {COUNTED_ROWS + 1:d}) as s"  # noqa: S608
    try:
        count: int = await connection.fetchval(sql)
        if count > COUNTED_ROWS:
            count = max(count, await _estimate(connection, source))
        writes: int = await connection.fetchval(_WRITES, from_)
    except _ALTERED:
        return facts  # a search says it in full
    return replace(facts, documents=count, chunks=count, epoch=facts.epoch + writes)


async def _estimate(connection: Connection, source: str) -> int:
    plan = await connection.fetchval(f"explain (format json) select 1 {source}")
    return int(json.loads(plan)[0]["Plan"]["Plan Rows"])


def _description(row: asyncpg.Record) -> Attached:
    return descriptions.from_json(json.loads(row["description"]))


def _grants(text: str) -> list[Grant]:
    return [Grant(**one) for one in json.loads(text)]


def _written(grants: Sequence[Grant]) -> str:
    return json.dumps([asdict(grant) for grant in grants])

"""Tables of somebody else's as collections: attached in place.

Nothing of a table is altered or copied. Written are rows of ours, and where the workloads have roles of
their own, these may read the table for as long as it is attached. `detach` gives it back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import asyncpg

from ragline.core import attaching, hnsw
from ragline.core.attached import Attached
from ragline.core.attached_layouts import Table
from ragline.core.attaching import Choice, Index, Request
from ragline.core.results import CollectionFacts
from ragline.db import attachable_tables, attached_sql, attachments
from ragline.db.attachments import Grant, Server, Session, Space
from ragline.errors import Conflict, NotFound, PreconditionFailed
from ragline.rag import attachable, catalog, detach
from ragline.rag.app import App
from ragline.rag.attached_space import space_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What attaching a table would do. `why` says by what its layout was recognised.

    `similarity` is the median cosine between stored vectors and those that the model makes of the same
    texts; None where nothing was compared. `grants` are what roles would be given.
    """

    collection: str
    attached: Attached
    why: str | None
    rows: int
    space: Space
    index: Index
    similarity: float | None
    grants: tuple[Grant, ...]
    warnings: tuple[str, ...]
    oid: int
    language: str

    @property
    def table(self) -> str:
        """The table as SQL names it."""
        return attached_sql.table(self.attached)


async def plan(app: App, request: Request) -> Plan:
    """Return what `attach` would do, having looked at the table and changed nothing.

    Raises NotFound, UsageError, Conflict and PreconditionFailed, each with what to do.
    """
    async with detach.session(app) as session:
        return await _planned(app, session, request)


async def attach(app: App, request: Request) -> tuple[Plan, CollectionFacts]:
    """Make a collection of a table that is there; return what was done, and it as searches see it."""
    async with detach.session(app) as session:
        planned = await _planned(app, session, request)
        server = await attachments.server(session)
        async with session.transaction():
            await attachments.one_at_a_time(session)
            grants = await _given(session, planned, server)
            async with attachments.as_owner(session, server):
                await _check_is_free(session, planned)
                await attachments.add(
                    session,
                    planned.collection,
                    planned.language,
                    planned.attached,
                    oid=planned.oid,
                    space=planned.space,
                    index=planned.index,
                    granted=grants,
                )
    try:
        await _read_back(app, planned)
    except BaseException:
        await detach.by_force(app, planned.collection)
        raise
    app.known.pop(planned.collection, None)
    return planned, await app.collection(planned.collection, fresh=True)


async def _planned(app: App, session: Session, request: Request) -> Plan:
    server = await attachments.server(session)
    found = await attachable.found(session, request.table)
    if server.is_replica:
        raise PreconditionFailed(
            "this server is a read-only replica: attach the table on the primary, where DATABASE_URL "
            "should point"
        )
    attachable.check(found, server)
    table = await attachable_tables.table(session, found)
    chosen = attaching.choice(table, request)
    chosen, note = await attachable.part_chosen(session, chosen)
    chosen = await _with_values(session, table, chosen)
    index = attaching.index(table, chosen.attached, chosen.storage, request.metric)
    rows = await attachable_tables.rows(session, chosen.attached, server.vector_schema)
    dimension = attachable.dimension(chosen, rows)
    if index.name is None and dimension > hnsw.LARGEST["vector"]:
        index = replace(index, storage="halfvec")
    space, similarity, notes = await space_of(app, session, chosen, dimension, request.model)
    attached = chosen.attached
    if attached.words and not attached.words_config:
        attached = replace(attached, words_config=server.words_config)
    planned = Plan(
        collection=chosen.collection,
        attached=attached,
        why=chosen.why,
        rows=rows.count,
        space=space,
        index=index,
        similarity=similarity,
        grants=tuple(await attachments.lacking(session, found.oid)),
        warnings=tuple(filter(None, [note, *notes, *attachable.warnings(chosen, rows, index)])),
        oid=found.oid,
        language=attachable.language(attached.words_config),
    )
    catalog.check_name(planned.collection)
    async with app.connection("admin") as connection:
        await _check_is_free(connection, planned)
    return planned


async def _with_values(session: Session, table: Table, chosen: Choice) -> Choice:
    """Return the values of --only as the table's columns write them."""
    only = []
    for name, value in chosen.attached.only:
        column = table.column(name)
        only.append(
            (name, await attachable_tables.as_stored(session, column, value) if column else value)
        )
    return replace(chosen, attached=replace(chosen.attached, only=tuple(only)))


async def _check_is_free(session: Session, planned: Plan) -> None:
    """Refuse a table that is attached, and a name that is taken."""
    for name, other in await attachments.attached_to(session, planned.oid):
        if set(other.only) == set(planned.attached.only):
            raise Conflict(
                f"table {planned.table} is attached already, as collection {name!r}: detach that first "
                f"(`ragline detach {name} --yes`)"
            )
    if await attachments.is_taken(session, planned.collection):
        raise Conflict(
            f"there is a collection {planned.collection!r} already: say another name by --collection"
        )


async def _given(session: Session, planned: Plan, server: Server) -> list[Grant]:
    """Give the workloads' roles what they lack, and return it; refused where our user may not."""
    grants = await attachments.lacking(session, planned.oid)
    try:
        async with session.transaction():
            await attachments.give(session, planned.attached, grants)
        left = await attachments.lacking(session, planned.oid)
    except asyncpg.InsufficientPrivilegeError:
        left = grants
    except asyncpg.UndefinedTableError as error:
        raise NotFound(f"table {planned.table} was dropped meanwhile") from error
    if left:
        roles = ", ".join(dict.fromkeys(grant.role for grant in left))
        schema = planned.attached.schema
        raise PreconditionFailed(
            f"user {server.user} may not give others the right to read {planned.table}. Have its owner "
            f"run `grant usage on schema {schema} to {roles}; grant select on {planned.table} to "
            f"{roles}`, then attach again. Nothing was changed"
        )
    return grants


async def _read_back(app: App, planned: Plan) -> None:
    """See that a search could read the table, as the role that searches."""
    key, vector = (
        attached_sql.column(name) for name in (planned.attached.key, planned.attached.embedding)
    )
    sql = (
        f"select {key}::text, {vector}::text from {planned.table} t "  # noqa: S608 -- quoted
        f"where {attached_sql.belongs(planned.attached)} limit 1"
    )
    async with app.connection(app.search_workload) as connection:
        try:
            await connection.fetch(sql)
        except asyncpg.PostgresError as error:
            raise PreconditionFailed(
                f"searches could not read table {planned.table}: {error}. It was detached again"
            ) from error

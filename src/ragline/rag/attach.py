"""Tables of somebody else's as collections: attached in place, and given back without a trace.

Nothing of a table is altered or copied. Written are rows of ours, and where the workloads have roles of
their own, these may read the table for as long as it is attached.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import asyncpg

from ragline.core import attaching, hnsw, index_definition
from ragline.core.attached import Attached
from ragline.core.attached_layouts import Table
from ragline.core.attaching import Choice, Index, Request
from ragline.core.dsn import Dsn
from ragline.core.results import CollectionFacts
from ragline.db import attached_sql, attachments, ledger
from ragline.db.attachments import ChangeOf, Grant, Kept, Server, Session, Space
from ragline.db.pool import quoted
from ragline.db.pool import session as pool_session
from ragline.errors import Conflict, NotFound, PreconditionFailed, UsageError
from ragline.rag import attachable, catalog
from ragline.rag.app import App
from ragline.rag.attached_space import space_of

# As attached_sql.vector() writes the slot of what is on trial.
_ON_TRIAL = re.compile(r"(vector|halfvec)\([^()]+, \d+, false\)")


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


class _StillKept(Conflict):
    """Kept changes hold on to what they replaced; what ends them is settling."""

    def __init__(self, message: str, changes: Sequence[int]) -> None:
        super().__init__(message)
        self.changes = changes


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


async def plan(app: App, request: Request) -> Plan:
    """Return what `attach` would do, having looked at the table and changed nothing.

    Raises NotFound, UsageError, Conflict and PreconditionFailed, each with what to do.
    """
    async with pool_session(_dsn(app), "admin", settings=_PATIENT) as session:
        return await _planned(app, session, request)


async def attach(app: App, request: Request) -> tuple[Plan, CollectionFacts]:
    """Make a collection of a table that is there; return what was done, and it as searches see it."""
    async with pool_session(_dsn(app), "admin", settings=_PATIENT) as session:
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
        await _taken_away(app, planned.collection, mode="by force")
        raise
    app.known.pop(planned.collection, None)
    return planned, await app.collection(planned.collection, fresh=True)


async def plan_detach(app: App, name: str) -> Detachment:
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
        async with (await app.pool("admin")).connection() as connection:
            for change_id in error.changes:
                await ledger.retire(connection, change_id)
        await settle()
        done = replace(await _taken_away(app, name), ended_changes=tuple(error.changes))
    app.known.pop(name, None)
    return done


_Mode: TypeAlias = Literal["do", "trial", "by force"]
_LOCK_TIMEOUT_MS = 5000
_PATIENT = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}


def _dsn(app: App) -> Dsn:
    if app.dsn is None:
        raise UsageError(
            "this ragline was opened without a database of its own to attach tables of"
        )
    return app.dsn


# What is there.


async def _planned(app: App, session: Session, request: Request) -> Plan:
    server = await attachments.server(session)
    found = await attachable.found(session, request.table)
    if server.is_replica:
        raise PreconditionFailed(
            "this server is a read-only replica: attach the table on the primary, where DATABASE_URL "
            "should point"
        )
    attachable.check(found, server)
    table = await attachments.table(session, found)
    chosen = attaching.choice(table, request)
    chosen, note = await attachable.part_chosen(session, chosen)
    chosen = await _with_values(session, table, chosen)
    index = attaching.index(table, chosen.attached, chosen.storage, request.metric)
    rows = await attachments.rows(session, chosen.attached, server.vector_schema)
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
    async with (await app.pool("admin")).connection() as connection:
        await _check_is_free(connection, planned)
    return planned


# Writing.


async def _with_values(session: Session, table: Table, chosen: Choice) -> Choice:
    """Return the values of --only as the table's columns write them."""
    only = []
    for name, value in chosen.attached.only:
        column = table.column(name)
        only.append(
            (name, await attachments.as_stored(session, column, value) if column else value)
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
    async with (await app.pool(app.search_workload)).connection() as connection:
        try:
            await connection.fetch(sql)
        except asyncpg.PostgresError as error:
            raise PreconditionFailed(
                f"searches could not read table {planned.table}: {error}. It was detached again"
            ) from error


async def _taken_away(app: App, name: str, *, mode: _Mode = "do") -> Detachment:
    async with pool_session(_dsn(app), "admin", settings=_PATIENT) as session:
        server = await attachments.server(session)
        transaction = session.transaction()
        await transaction.start()
        try:
            done = await _detached(session, server, name, mode)
        except BaseException:
            await transaction.rollback()
            raise
        if mode == "trial":
            await transaction.rollback()
            return done
        await transaction.commit()
        return await _without_trials(session, done)


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
    on_trial = [] if is_shared else [one for one, text in indexes if _ON_TRIAL.search(text)]
    return Detachment(
        collection=name,
        table=attached_sql.table(kept.attached),
        is_there=kept.place is not None,
        taken_back=tuple(grant for grant in mine if grant not in still),
        kept_indexes=made,
        gone_indexes=gone,
        ended_changes=keeping,
        dropped_indexes=tuple(
            f"{quoted(kept.place[0])}.{quoted(one)}" for one in on_trial if kept.place
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

"""Tables of somebody else's: written down as collections, and given back.

All of it is done in sessions of the DSN's user, who may read the table and give rights on it; what is
ours is written as its owner.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import asyncpg

from ragline.core import attached as descriptions
from ragline.core import index_definition
from ragline.core.attached import Attached
from ragline.core.attaching import Index
from ragline.core.budget import ROLES
from ragline.db import queries
from ragline.db.pool import Connection, quoted
from ragline.errors import PreconditionFailed, UsageError

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record] | Connection"
_FILE = "attachments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What of the server matters here. `owner` is whose schema ragline is."""

    is_replica: bool
    words_config: str
    vector_schema: str
    user: str
    owner: str


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


async def server(session: Session) -> Server:
    """Return what of the server matters here."""
    row = await session.fetchrow(queries.block(_FILE, "server"))
    if row is None or row["vector_schema"] is None:
        raise PreconditionFailed(
            "this database has no vector extension: run `ragline migrate apply`"
        )
    return Server(**dict(row))


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


def _description(row: asyncpg.Record) -> Attached:
    return descriptions.from_json(json.loads(row["description"]))


def _grants(text: str) -> list[Grant]:
    return [Grant(**one) for one in json.loads(text)]


def _written(grants: Sequence[Grant]) -> str:
    return json.dumps([asdict(grant) for grant in grants])

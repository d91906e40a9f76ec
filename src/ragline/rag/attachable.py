"""Whether a table can be attached, and as what: each refusal says what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from ragline.core import attaching, languages
from ragline.core.attaching import Choice, Index
from ragline.db import attachable_tables
from ragline.db.attachable_tables import Named, Rows
from ragline.db.attachments import Server, Session
from ragline.errors import NotFound, PreconditionFailed, UsageError

_WHAT = {"v": "a view", "m": "a materialized view"}


async def found(session: Session, said: str) -> Named:
    """Return the one relation of a name; raises NotFound with the nearest one."""
    schema, name = attaching.table_name(said)
    for variant in dict.fromkeys([(schema, name), (schema and schema.lower(), name.lower())]):
        tables = await attachable_tables.named(session, *variant)
        if len(tables) == 1:
            return tables[0]
        if tables:
            where = ", ".join(f"{one.schema}.{one.name}" for one in tables)
            raise UsageError(f"there are several tables {name!r}: say which of {where}")
    names = await attachable_tables.table_names(session)
    raise NotFound(_no_table(said, name, names))


def _no_table(said: str, name: str, names: Sequence[tuple[str, str, bool]]) -> str:
    full = {f"{schema}.{one}": one for schema, one, _ in names}
    near = get_close_matches(name, [*full.values()], n=1) or get_close_matches(said, [*full], n=1)
    if near:
        hit = next(one for one, bare in full.items() if near[0] in (one, bare))
        return f"there is no table {said!r} in this database; did you mean {hit}?"
    vectors = [f"{schema}.{one}" for schema, one, has_vectors in names if has_vectors][:10]
    listed = f"with vectors there are: {', '.join(vectors)}" if vectors else "none has vectors"
    return f"there is no table {said!r} in this database; {listed}"


def check(one: Named, server: Server) -> None:
    """Refuse what is no ordinary table of somebody else's that our user may read."""
    where = f"{one.schema}.{one.name}"
    reason = None
    if one.schema == "ragline":
        reason = f"{where} is ragline's own; its collections are searched as they are"
    elif one.persistence == "t":
        reason = (
            f"{where} is a temporary table, which no other session sees: keep it in a plain one"
        )
    elif one.kind in ("v", "m"):
        reason = (
            f"{where} is {_WHAT[one.kind]}, without a key of its own: attach the table that its "
            "vectors are in, with --filter and --only for what the view chooses"
        )
    elif one.kind == "p":
        reason = f"{where} is a partitioned table: attach its partitions, each as a collection"
    elif one.kind == "f":
        reason = (
            f"{where} is a foreign table, whose vectors another server keeps: point DATABASE_URL at "
            "that server"
        )
    elif one.has_children:
        reason = (
            f"{where} has tables that inherit from it, whose rows its indexes do not hold: attach "
            "those tables, each as a collection"
        )
    elif one.has_row_security:
        reason = (
            f"row-level security is on for {where}: ragline's roles would see other rows than those "
            "who search, or none. Attach a table without it, or have its owner `alter table … disable "
            "row level security`"
        )
    elif not one.may_read:
        reason = (
            f"user {server.user} may not read {where}: have its owner {one.owner} run `grant select "
            f"on {where} to {server.user} with grant option` (and usage on schema {one.schema}), or "
            "attach as a user who may"
        )
    if reason is not None:
        raise PreconditionFailed(f"{reason}. Nothing was changed")


async def part_chosen(session: Session, chosen: Choice) -> tuple[Choice, str | None]:
    """Return one of the collections that LangChain keeps in a table: the one meant, or the only one."""
    attached = chosen.attached
    if attached.layout != "LangChain PGVector":
        return chosen, None
    names = await attachable_tables.parts(session, attached.schema)
    said = dict(attached.only).get("collection_id")
    if said is not None:
        ids = [id_ for id_, name in names.items() if said in (id_, name)]
        if not ids and names:
            raise NotFound(f"LangChain has no collection {said!r} here; {_offered(names)}")
        only = [(c, ids[0] if c == "collection_id" and ids else v) for c, v in attached.only]
    elif chosen.part is None or not names:
        return chosen, None
    elif len(names) > 1:
        raise UsageError(
            f"table {attached.table} holds {len(names)} collections of LangChain: say which by --only; "
            f"{_offered(names)}"
        )
    else:
        ids = [*names]
        only = [(chosen.part, ids[0])]
    name = names.get(ids[0], "") if ids else ""
    own = attaching.plain_name(name)
    is_default = chosen.collection == attached.table
    return (
        replace(
            chosen,
            attached=replace(attached, only=tuple(only)),
            collection=own if own and is_default else chosen.collection,
            part=None,
        ),
        f"these are the rows of LangChain's collection {name!r}" if name else None,
    )


def _offered(names: dict[str, str]) -> str:
    listed = [f"--only collection_id={id_} ({name})" for id_, name in [*names.items()][:10]]
    return "there are: " + ", ".join(listed)


def dimension(chosen: Choice, rows: Rows) -> int:
    """Return the dimension of all vectors; raises PreconditionFailed where there is not one."""
    if chosen.dimension is not None:
        return chosen.dimension
    column, table = chosen.attached.embedding, chosen.attached.table
    if rows.least_dimension is None or rows.most_dimension is None:
        raise PreconditionFailed(
            f"column {column} of table {table} declares no dimension, and no row says one: declare it, "
            f"such as `alter table {table} alter column {column} type {chosen.storage}(384)`, or attach "
            "it when there are vectors"
        )
    if rows.least_dimension != rows.most_dimension:
        raise PreconditionFailed(
            f"column {column} of table {table} holds vectors of {rows.least_dimension} to "
            f"{rows.most_dimension} dimensions, which cannot be compared: attach those of one by "
            "--only COLUMN=VALUE, or keep them in tables of their own"
        )
    return rows.least_dimension


def warnings(chosen: Choice, rows: Rows, index: Index) -> list[str]:
    """Return what searches will not find, or find slowly, and why."""
    attached = chosen.attached
    said = []
    if rows.without_vector:
        said.append(
            f"{rows.without_vector:,} of {rows.count:,} rows have no vector: searches by vectors do not "
            "find them"
        )
    if rows.without_text:
        said.append(f"{rows.without_text:,} of {rows.count:,} rows have no text")
    if not attached.is_typed:
        said.append(
            f"column {attached.embedding} declares no dimension: searches fail once there is a vector "
            f"of another; `alter column {attached.embedding} type {chosen.storage}(…)` prevents it"
        )
    if index.name is None:
        said.append(
            f"no vector index serves {index.metric} distance: searches compare all vectors, until an "
            "index is built as a change"
        )
    if attached.words is None:
        said.append(
            f"no GIN index holds the words of column {attached.text}: searches go by vectors alone"
        )
    return said


def language(config: str | None) -> str:
    """Return the language of a configuration of words, as collections name it."""
    plain = re.sub(r"^.*\.", "", config or "")
    return plain if plain in languages.CODES or plain == "simple" else "english"

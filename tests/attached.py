"""Tables of somebody else's, made and filled as an application would, and written down as collections.

`attach` writes the rows of ragline by itself, so that searches are tested apart from attaching.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from ragline.core.attached import Attached, to_json
from ragline.db import attached_sql
from ragline.db.pool import quoted
from ragline.models.embed import Embedder

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
ROLES = ("ragline_serve", "eval_app", "ltst_app", "ragline_read", "ragline_admin")
# Quotes, a dot and letters that are not ASCII, in every name.
SCHEMA = 'Möbel."quoted"'
HOSTILE = """it's a "table".x"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of an application's table; `key` as text. Without a text or vector it has null."""

    key: str
    text: str | None
    metadata: Mapping[str, Any] | None = None
    lang: str | None = None
    year: int | None = None
    part: str = "ours"
    has_vector: bool = True


BIGINT = Attached(
    schema="public",
    table="notes",
    key="id",
    key_type="bigint",
    text="content",
    embedding="embedding",
    is_typed=True,
    metadata="metadata",
    filters=(("lang", "text"), ("year", "integer")),
    words="to_tsvector('english'::regconfig, content)",
    words_config="english",
)
UUID = Attached(
    schema=SCHEMA,
    table=HOSTILE,
    key='the "key"',
    key_type="uuid",
    text="tëxt.body",
    embedding='em"bed.ding',
    is_typed=True,
    metadata="meta data",
    metadata_type="json",
)
SHARED = Attached(
    schema="public",
    table="langchain_pg_embedding",
    key="id",
    key_type="character varying",
    text="document",
    embedding="embedding",
    is_typed=False,
    metadata="cmetadata",
    only=(("collection", "o'urs"),),
    layout="langchain",
)
HALVES = Attached(
    schema="public",
    table="halves",
    key="id",
    key_type="integer",
    text="content",
    embedding="embedding",
    is_typed=True,
)


def uuid_key(number: int) -> str:
    """Return a uuid as PostgreSQL writes it."""
    return f"00000000-0000-4000-8000-{number:012d}"


async def make(db: Db, attached: Attached, dimension: int, *, storage: str = "vector") -> None:
    """Create the table as an application would: with a key, and no index of vectors or words."""
    size = f"({dimension})" if attached.is_typed else ""
    columns = [
        f"{quoted(attached.key)} {attached.key_type} primary key",
        f"{quoted(attached.text)} text",
        f"{quoted(attached.embedding)} public.{storage}{size}",
        *(f"{quoted(name)} {type_}" for name, type_ in attached.filters),
        *(f"{quoted(name)} text" for name, _ in attached.only),
    ]
    if attached.metadata:
        columns.append(f"{quoted(attached.metadata)} {attached.metadata_type}")
    await db.execute(f"create schema if not exists {quoted(attached.schema)}")
    await db.execute(f"create table {attached_sql.table(attached)} ({', '.join(columns)})")


async def fill(
    db: Db, attached: Attached, rows: Sequence[Row], embedder: Embedder, *, storage: str = "vector"
) -> None:
    """Write rows with the vectors of their texts."""
    texts = [row.text or "nothing" for row in rows]
    vectors = (await embedder.embed_documents(texts)).vectors
    columns = [attached.key, attached.text, attached.embedding]
    values: list[list[object]] = [
        [
            row.key,
            row.text,
            str([float(x) for x in vector]) if row.has_vector else None,
            *(getattr(row, name) for name, _ in attached.filters),
            *(attached.only[0][1] if row.part == "ours" else row.part for _ in attached.only),
            *(
                [None if row.metadata is None else json.dumps(row.metadata)]
                * bool(attached.metadata)
            ),
        ]
        for row, vector in zip(rows, vectors, strict=True)
    ]
    types = [f"text::{attached.key_type}", "text", f"text::public.{storage}"]
    columns += [name for name, _ in attached.filters] + [name for name, _ in attached.only]
    types += [type_ for _, type_ in attached.filters] + ["text" for _ in attached.only]
    if attached.metadata:
        columns.append(attached.metadata)
        types.append(f"text::{attached.metadata_type}")
    places = ", ".join(f"${place}::{type_}" for place, type_ in enumerate(types, 1))
    names = ", ".join(quoted(name) for name in columns)
    sql = f"insert into {attached_sql.table(attached)} ({names}) values ({places})"  # noqa: S608
    await db.executemany(sql, values)
    await db.execute(f"analyze {attached_sql.table(attached)}")


async def index(
    db: Db,
    attached: Attached,
    dimension: int,
    *,
    held: str = "vector",
    storage: str = "vector",
    metric: str = "cosine",
    slot: int = 1,
    method: str = "hnsw",
    options: str = "",
    name: str = "by_vector",
) -> None:
    """Create the application's vector index, or one in the slot of trials."""
    expression = attached_sql.vector(
        attached,
        held=held,
        storage=storage,
        dimension=dimension,
        vector_schema="public",
        slot=slot,
        alias="",
    )
    await db.execute(
        f"create index {quoted(name)} on {attached_sql.table(attached)} "
        f"using {method} (({expression}) public.{storage}_{metric}_ops) {options}"
    )


async def index_words(db: Db, attached: Attached) -> None:
    """Create the application's full text index."""
    await db.execute(
        f"create index on {attached_sql.table(attached)} using gin (({attached.words}))"
    )


async def attach(
    db: Db,
    attached: Attached,
    embedder: Embedder,
    *,
    name: str = "kb",
    metric: str = "cosine",
    storage: str = "vector",
    model: str | None = None,
) -> int:
    """Write a table down as a collection, and let the workloads' roles read it; return its id."""
    facts = embedder.facts
    async with db.transaction():
        collection: int = await db.fetchval(
            "insert into ragline.collection (name, chunk_size, chunk_overlap) values ($1, 256, 32) "
            "returning id",
            name,
        )
        space = await db.fetchval(
            """
            insert into ragline.embedding_space (
                collection_id, model_id, weights_hash, dimension, metric, storage, normalised, languages
            ) values ($1, $2, $3, $4, $5, $6, $7, $8) returning id
            """,
            collection,
            model or facts.model_id,
            f"unknown:{attached.table}" if model == "unknown" else facts.weights_hash,
            facts.dimension,
            metric,
            storage,
            facts.normalised,
            list(facts.languages),
        )
        await db.execute(
            "update ragline.collection set active_space_id = $2 where id = $1", collection, space
        )
        await db.execute(
            "insert into ragline.attached_table (collection_id, description, table_oid) "
            "values ($1, $2, $3::text::regclass)",
            collection,
            json.dumps(to_json(attached)),
            attached_sql.table(attached),
        )
        for role in ROLES:
            if await db.fetchval("select exists (select from pg_roles where rolname = $1)", role):
                await db.execute(f"grant select on {attached_sql.table(attached)} to {role}")
                schema = quoted(attached.schema)
                await db.execute(f"grant usage on schema {schema} to {role}")
    return collection

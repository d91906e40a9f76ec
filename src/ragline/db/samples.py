"""Samples of what a collection holds: metadata to estimate filters by, vectors to measure with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.db import attached_samples
from ragline.db.own_statements import table
from ragline.db.pool import Connection
from ragline.db.targets import Target

# Pages are drawn whole, and neighbours are alike: many more than are needed, then few of each.
_SPARE = 20


async def metadata(
    connection: Connection, target: Target, *, chunks: int, size: int
) -> list[tuple[Mapping[str, Any], int]]:
    """Return the metadata of documents, and for each how many of about `size` drawn chunks are its."""
    if target.attached is not None:
        return await attached_samples.metadata(
            connection, target, percent=_percent(size, chunks), size=size
        )
    drawn = (
        "s.id as chunk_id from chunk s tablesample system ($2) where s.collection_id = $1"
        if target.space_id is None
        else f"s.chunk_id from {table(target)} s tablesample system ($2)"
    )
    sql = f"""
        select d.metadata, drawn.chunks
        from (
            select c.document_id, pg_catalog.count(*) as chunks
            from (
                select {drawn} order by pg_catalog.random() limit $3
            ) as s
            join chunk c on c.id = s.chunk_id and c.collection_id = $1
            group by c.document_id
        ) as drawn
        join document d on d.id = drawn.document_id
    """  # noqa: S608 -- names and an integer of our own
    rows = await connection.fetch(sql, target.collection_id, _percent(size, chunks), size)
    return [(json.loads(row[0]), row[1]) for row in rows]


async def vectors(
    connection: Connection, target: Target, *, chunks: int, size: int
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    """Return up to `size` chunks, drawn at random, and their vectors."""
    if target.attached is not None:
        return await attached_samples.vectors(
            connection, target, percent=_percent(size, chunks), size=size
        )
    drawn = f"tablesample system ({_percent(size, chunks):f})"
    for source in (drawn, ""):  # pages drawn may hold too few; then every row is looked at
        sql = f"""
            select chunk_id, embedding from {table(target)} {source}
            order by pg_catalog.random() limit $1
        """  # noqa: S608 -- a name and numbers of our own
        rows = await connection.fetch(sql, size)
        if len(rows) >= size:
            break
    return [row[0] for row in rows], [row[1] for row in rows]


async def vectors_of(
    connection: Connection, target: Target, chunks: Sequence[int]
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the vectors of these chunks by chunk; one without a vector is not among them."""
    if target.attached is not None:
        return await attached_samples.vectors_of(connection, target, chunks)
    sql = f"select chunk_id, embedding from {table(target)} where chunk_id = any ($1::bigint[])"  # noqa: S608
    return {row[0]: row[1] for row in await connection.fetch(sql, list(chunks))}


async def passages(
    connection: Connection, target: Target, *, chunks: int, size: int
) -> list[tuple[int, str]]:
    """Return up to `size` chunks, drawn at random, with their texts."""
    if target.attached is not None:
        return await attached_samples.passages(
            connection, target, percent=_percent(size, chunks), size=size
        )
    sql = """
        select id, body from chunk tablesample system ($2) where collection_id = $1
        order by pg_catalog.random() limit $3
    """
    rows = await _drawn(connection, sql, target, chunks, size)
    return [(row[0], row[1]) for row in rows]


async def headed(
    connection: Connection, target: Target, *, chunks: int, size: int
) -> list[tuple[str, str]]:
    """Return up to `size` chunks, drawn at random: what stands above them ("" for nothing), and texts.

    That is the innermost heading, or else the title of the document.
    """
    if target.attached is not None:
        rows = await passages(connection, target, chunks=chunks, size=size)
        return [("", body) for _, body in rows]
    sql = """
        select coalesce(drawn.headings[cardinality(drawn.headings)], d.title, ''), drawn.body
        from (
            select document_id, headings, body from chunk tablesample system ($2)
            where collection_id = $1
            order by pg_catalog.random() limit $3
        ) as drawn
        join document d on d.id = drawn.document_id
    """
    found = await _drawn(connection, sql, target, chunks, size)
    return [(row[0], row[1]) for row in found]


async def _drawn(
    connection: Connection, sql: str, target: Target, chunks: int, size: int
) -> list[asyncpg.Record]:
    """Return what a statement draws; of all pages where those drawn hold too few."""
    rows = await connection.fetch(sql, target.collection_id, _percent(size, chunks), size)
    if len(rows) < size:
        rows = await connection.fetch(sql, target.collection_id, 100.0, size)
    return rows


def _percent(size: int, chunks: int) -> float:
    return min(100.0, 100.0 * _SPARE * size / max(1, chunks))

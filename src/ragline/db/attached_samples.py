"""Samples of attached tables, as `samples` has them of all other collections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core.attached import Attached
from ragline.db import attached_filters, attached_rows, attached_sql
from ragline.db.attached_statements import ALIAS, described, has_direction, whole_vector
from ragline.db.pool import Connection
from ragline.db.targets import Target


async def metadata(
    connection: Connection, target: Target, *, percent: float, size: int
) -> list[tuple[Mapping[str, Any], int]]:
    """Return the metadata of up to `size` rows drawn at random; each counts as one chunk."""
    shown = attached_filters.metadata(described(target), ALIAS)
    rows = await _drawn(connection, target, shown, "true", percent, size)
    return [(json.loads(row[0]), 1) for row in rows]


async def vectors(
    connection: Connection, target: Target, *, percent: float, size: int
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    """Return up to `size` rows with a vector, drawn at random, by their numbers."""
    columns = f"{attached_sql.number(described(target), ALIAS)}, {whole_vector(target)}"
    rows = await _drawn(connection, target, columns, has_direction(target), percent, size)
    return [row[0] for row in rows], [row[1] for row in rows]


async def vectors_of(
    connection: Connection, target: Target, numbers: Sequence[int]
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the vectors of the rows with these numbers; one without a vector is not among them."""
    attached = described(target)
    number = attached_sql.number(attached, ALIAS)
    # The key as it is has an index; a hash of it has none, and every row is looked at.
    named, sought = number, list(numbers)
    if attached.has_integer_key:
        named, sought = attached_sql.column(attached.key, ALIAS), attached_sql.keys(numbers)
    sql = f"""
        select {number}, {whole_vector(target)} from {attached_sql.table(attached)} {ALIAS}
        where {named} = any ($1::bigint[]) and {attached_sql.belongs(attached, ALIAS)}
          and {has_direction(target)}
    """  # noqa: S608 -- quoted names
    rows = await attached_rows.fetch(connection, target.collection, attached, sql, sought)
    wanted = set(numbers)
    return {row[0]: row[1] for row in rows if row[0] in wanted}


async def passages(
    connection: Connection, target: Target, *, percent: float, size: int
) -> list[tuple[int, str]]:
    """Return up to `size` rows with a text, drawn at random, by their numbers."""
    attached = described(target)
    text = f"{attached_sql.column(attached.text, ALIAS)}::text"
    columns = f"{attached_sql.number(attached, ALIAS)}, {text}"
    rows = await _drawn(connection, target, columns, f"{text} <> ''", percent, size)
    return [(row[0], row[1]) for row in rows]


async def _drawn(
    connection: Connection,
    target: Target,
    columns: str,
    condition: str,
    percent: float,
    size: int,
) -> list[asyncpg.Record]:
    attached: Attached = described(target)
    rows: list[asyncpg.Record] = []
    # Pages drawn may hold too few, or only rows of others; then every row is looked at.
    for source in (f"tablesample system ({percent:f})", ""):
        sql = f"""
            select {columns} from {attached_sql.table(attached)} {ALIAS} {source}
            where {attached_sql.belongs(attached, ALIAS)} and {condition}
            order by pg_catalog.random() limit $1
        """  # noqa: S608 -- quoted names and a number of our own
        rows = await attached_rows.fetch(connection, target.collection, attached, sql, size)
        if len(rows) >= size or percent >= 100:
            break
    return rows

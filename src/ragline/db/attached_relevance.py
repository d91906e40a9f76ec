"""Which rows of an attached table a dataset names, by their keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ragline.core.attached import Attached
from ragline.core.measuring import Way
from ragline.db import attached_rows, attached_sql
from ragline.db.attached_filters import is_uuid
from ragline.db.attached_statements import ALIAS
from ragline.db.pool import Connection

# As in db/sql/relevance.sql.
_NAMES: dict[Way, str] = {
    "name": "pg_catalog.split_part({0}, '/', -1)",
    "stem": "pg_catalog.regexp_replace(pg_catalog.split_part({0}, '/', -1), "
    "'(.)[.][^.]*$', pg_catalog.chr(92) || '1')",
    "row": "coalesce("
    "pg_catalog.substring({0}, '(?i)[.](?:jsonl|ndjson|csv|tsv|mbox)#(.*)$'), "
    "pg_catalog.split_part({0}, '#', -1))",
}
_LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_AT_ONCE = 1_000


async def present(
    connection: Connection, collection: str, attached: Attached, names: Sequence[str], way: Way
) -> dict[str, int]:
    """Return how many rows have each name, of those that any has."""
    name, condition, values = _named(attached, names, way)
    sql = f"""
        select {name} as name, pg_catalog.count(*) as documents
        from {attached_sql.table(attached)} {ALIAS} where {condition} group by 1
    """  # noqa: S608 -- quoted names
    rows = await attached_rows.fetch(connection, collection, attached, sql, values)
    return {row["name"]: row["documents"] for row in rows}


async def bodies(
    connection: Connection, collection: str, attached: Attached, names: Sequence[str], way: Way
) -> AsyncIterator[tuple[str, str]]:
    """Yield the name and the text of every row that has one of these names."""
    for start in range(0, len(names), _AT_ONCE):
        name, condition, values = _named(attached, names[start : start + _AT_ONCE], way)
        text = attached_sql.column(attached.text, ALIAS)
        sql = f"""
            select {name} as name, coalesce({text}::text, '') as body
            from {attached_sql.table(attached)} {ALIAS} where {condition}
        """  # noqa: S608 -- quoted names
        for row in await attached_rows.fetch(connection, collection, attached, sql, values):
            yield row["name"], row["body"]


def _named(attached: Attached, names: Sequence[str], way: Way) -> tuple[str, str, list[object]]:
    """Return a row's name as SQL, the condition that it is one of `names`, and what that binds.

    A key's own index finds the row where names are keys; any other name is looked for in every row.
    """
    key = attached_sql.column(attached.key, ALIAS)
    belongs = attached_sql.belongs(attached, ALIAS)
    name, sought, type_ = f"{key}::text", f"{key}::text", "text"
    values: list[object] = list(names)
    if way != "source":
        name = sought = _NAMES[way].format(name)
    elif attached.key_type in _LARGEST:
        largest = _LARGEST[attached.key_type]
        numbers = (int(one) for one in names if _is_number(one))
        values = [one for one in numbers if abs(one) <= largest]
        sought, type_ = key, attached.key_type
    elif attached.key_type == "uuid":
        values = [one for one in names if is_uuid(one)]
        sought, type_ = key, "uuid"
    elif attached.key_type == "text" or attached.key_type.startswith("character varying"):
        sought = attached_sql.key(attached, ALIAS)
    return name, f"{belongs} and {sought} = any ($1::{type_}[])", values


def _is_number(text: str) -> bool:
    """Whether a text is a whole number as PostgreSQL writes it."""
    digits = text.removeprefix("-")
    return len(text) <= 20 and digits.isascii() and digits.isdecimal() and str(int(text)) == text

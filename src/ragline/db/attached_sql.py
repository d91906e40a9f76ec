"""SQL over attached tables: the pieces that searches, samples and indexes must write alike."""

from __future__ import annotations

from ragline.core.attached import Attached
from ragline.db.pool import quoted

TRIAL_SLOT = 2


def table(attached: Attached) -> str:
    """Return the table's name with its schema."""
    return f"{quoted(attached.schema)}.{quoted(attached.table)}"


def column(name: str, alias: str = "t") -> str:
    """Return a column of the row `alias`."""
    return f"{alias}.{quoted(name)}" if alias else quoted(name)


def number(attached: Attached, alias: str = "t") -> str:
    """Return the number by which hits name a row: its key, or for other keys 8 bytes of a hash of it."""
    key = column(attached.key, alias)
    if attached.has_integer_key:
        return f"{key}::bigint"
    return f"pg_catalog.hashtextextended({key}::text, 0::bigint)"


def vector(
    attached: Attached,
    *,
    held: str,
    storage: str,
    dimension: int,
    vector_schema: str | None,
    slot: int = 1,
    alias: str = "t",
) -> str:
    """Return the vector as the index of a slot holds it; indexes and searches write the same.

    Without `vector_schema` pgvector is looked for in the session's search_path: PostgreSQL compares
    what names stand for, not how they are written.

    `held` is what the column is of, `storage` what the index holds: "vector" or "halfvec". Two indexes
    of one expression would both serve any search, whichever the planner thinks cheaper. What is on
    trial goes through a function that changes nothing: only searches that say so can use it.
    """
    plain = column(attached.embedding, alias)
    schema = "" if vector_schema is None else f"{quoted(vector_schema)}."
    if slot == TRIAL_SLOT:
        # The cast outside gives the expression its dimension, which an index needs.
        return f"({schema}{held}({plain}, {dimension:d}, false)::{schema}{storage}({dimension:d}))"
    if attached.is_typed and storage == held:
        return plain
    return f"({plain}::{schema}{storage}({dimension:d}))"


def belongs(attached: Attached, alias: str = "t") -> str:
    """Return the condition that a row belongs to the collection; "true" where all do.

    The values take the types of their columns, so that an index of these, or a partial one, is used.
    """
    said = [f"{column(name, alias)} = {literal(value)}" for name, value in attached.only]
    return " and ".join(said) or "true"


def literal(text: str) -> str:
    """Return text as SQL reads it whatever standard_conforming_strings is, without a parameter."""
    if "\\" in text:
        return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"

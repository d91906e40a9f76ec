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
    attached: Attached, *, storage: str, dimension: int, vector_schema: str, alias: str = "t"
) -> str:
    """Return the expression of the vector in a storage, as the index of that storage holds it.

    `storage` is "vector", "halfvec" or whatever the column is of.
    """
    plain = column(attached.embedding, alias)
    if attached.is_typed and storage == "column":
        return plain
    return f"({plain}::{quoted(vector_schema)}.{storage}({dimension:d}))"


def in_trial_slot(attached: Attached, alias: str = "t") -> str:
    """Return what only an index on trial is made for; it is true of every row.

    Searches of the table's own application never say it, so they never use such an index.
    """
    return f"({column(attached.key, alias)}::text <> 'ragline slot {TRIAL_SLOT:d}'::text)"


def belongs(attached: Attached, alias: str = "t") -> str:
    """Return the condition that a row belongs to the collection; "true" where all do."""
    said = [f"{column(name, alias)}::text = {_literal(value)}" for name, value in attached.only]
    return " and ".join(said) or "true"


def _literal(text: str) -> str:
    """Return text as SQL reads it whatever standard_conforming_strings is, without a parameter."""
    if "\\" in text:
        return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'::text"
    return "'" + text.replace("'", "''") + "'::text"

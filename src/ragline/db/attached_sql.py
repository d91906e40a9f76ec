"""SQL over attached tables: the pieces that searches, samples and indexes must write alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ragline.core.attached import Attached
from ragline.db.pool import quoted

TRIAL_SLOT = 2
ON_TRIAL = re.compile(r"(vector|halfvec)\([^()]+, \d+, false\)")
"""How the server shows what `vector` writes for that slot."""
_TURNED = 2**62


def table(attached: Attached) -> str:
    """Return the table's name with its schema."""
    return f"{quoted(attached.schema)}.{quoted(attached.table)}"


def column(name: str, alias: str = "t") -> str:
    """Return a column of the row `alias`."""
    return f"{alias}.{quoted(name)}" if alias else quoted(name)


def key(attached: Attached, alias: str = "t") -> str:
    """Return the key as it can be compared."""
    return comparable(column(attached.key, alias), attached.key_type)


def comparable(plain: str, type_: str) -> str:
    """Return a column as it can be compared; an index of it serves that.

    PostgreSQL itself has no operator for varchar: whoever may create one would see what is searched.
    """
    return f"{plain}::text" if type_.startswith("character varying") else plain


def number(attached: Attached, alias: str = "t") -> str:
    """Return the number by which hits name a row: never above 0, where those of our own documents begin.

    A whole number is its negative; of another key it is 63 bits of a hash. `keys` leads back.
    """
    key = column(attached.key, alias)
    if attached.has_integer_key:
        # A negative key has a bit turned, or it would be that of the positive one.
        whole = f"{key}::bigint"
        turned = f"{whole} operator(pg_catalog.#) {_TURNED:d}::bigint"
        return f"(case when {whole} < 0::bigint then {turned} else - ({whole}) end)"
    hashed = f"pg_catalog.hashtextextended({key}::text, 0::bigint)"
    return f"({hashed} operator(pg_catalog.|) ({-(2**63)})::bigint)"


def keys(numbers: Sequence[int]) -> list[int]:
    """Return the whole numbers among which the keys of these rows are."""
    found = {-number for number in numbers} | {number ^ _TURNED for number in numbers if number < 0}
    return sorted(key for key in found if -(2**63) <= key < 2**63)


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
    said = [
        f"{column(name, alias)} operator(pg_catalog.=) {literal(value)}"
        for name, value in attached.only
    ]
    return " and ".join(said) or "true"


def literal(text: str) -> str:
    """Return text as SQL reads it whatever standard_conforming_strings is, without a parameter."""
    if "\\" in text:
        return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"

"""Definitions of ordinary indexes, as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ragline.core.sql_names import identifier, unquoted
from ragline.errors import UsageError

_NAME = r'("(?:[^"\0]|"")+"|[a-z_][a-z0-9_$]*)'
_STATEMENT = re.compile(
    r"\s*create\s+(?P<unique>unique\s+)?index\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?"
    rf"(?P<name>{_NAME})\s+on\s+(?:only\s+)?(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<table>{_NAME})"
    r"\s*(?P<rest>(?:using\b|\().*?)\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST = 63


_PLACE = re.compile(rf"@(?P<schema>{_NAME})\.(?P<table>{_NAME})\.(?P<name>{_NAME})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an ordinary index is, or is to be. Names as the catalog has them."""

    schema: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"@{_said(self.schema)}.{_said(self.table)}.{_said(self.name)}"


def place(target: str) -> Place:
    """Return the place that "@schema.table.index" names, each as SQL would write it; else UsageError.

    Collections' names never begin with @.
    """
    found = _PLACE.fullmatch(target)
    if found is None or "\0" in target:
        raise UsageError(
            f"{target!r} names no index; say @schema.table.index, with what is no plain name in "
            'double quotes: @public."My table".my_index'
        )
    return Place(**{part: unquoted(found[part]) for part in ("schema", "table", "name")})


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDefinition:
    """A `create index`, taken apart. `rest` is everything from `using` or the first parenthesis on."""

    name: str
    table: str
    is_unique: bool
    rest: str

    def on(self, table: str) -> str:
        """Return the statement for another table, whose name is SQL already."""
        unique = "unique " if self.is_unique else ""
        return f"create {unique}index {identifier(self.name)} on {table} {self.rest}"


def parsed(text: str, *, schema: str, table: str, name: str) -> IndexDefinition:
    """Return a definition that is one `create index`, of this name and on this table; else UsageError.

    That nothing follows the statement is the server's to say: it is sent as one of one.
    """
    found = _STATEMENT.fullmatch(text)
    if found is None or "\0" in text:
        raise UsageError(
            f"the definition of {table}.{name} must be one `create [unique] index {name} on "
            f"{schema}.{table} (…)`, without comments before its columns; it is {_short(text)!r}"
        )
    said = {key: unquoted(found[key]) for key in ("name", "table", "schema") if found[key]}
    if said.get("schema", schema) != schema or said["table"] != table:
        raise UsageError(
            f"the definition of {table}.{name} is on {said.get('schema', schema)}.{said['table']}; "
            f"it must be on {schema}.{table}"
        )
    if said["name"] != name:
        raise UsageError(f"the definition of {table}.{name} names the index {said['name']!r}")
    return IndexDefinition(
        name=name, table=table, is_unique=bool(found["unique"]), rest=found["rest"].strip()
    )


def beside(name: str, ending: str) -> str:
    """Return the name of an index that stands beside another for a while."""
    kept = name.encode()[: _LONGEST - len(ending) - 2].decode(errors="ignore")
    other = f"{kept}__{ending}"
    return other if other != name else f"{kept[:-1]}___{ending}"


def online(definition: str, name: str, quoted_name: str) -> str:
    """Return what `pg_get_indexdef` said as a statement that stops no writer, under another name."""
    found = re.match(r'CREATE (UNIQUE )?INDEX ("(?:[^"]|"")+"|[^\s"]+) ON ', definition)
    if found is None or unquoted(found[2]) != name:
        raise UsageError(f"{_short(definition)!r} does not define index {name!r}")
    unique = found[1] or ""
    return f"create {unique.lower()}index concurrently {quoted_name} on {definition[found.end() :]}"


def _said(name: str) -> str:
    plain = re.fullmatch("[a-z_][a-z0-9_$]*", name)
    return name if plain else identifier(name)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."

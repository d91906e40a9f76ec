"""Filters in SQL over the rows of an attached table: its metadata and the columns beside it.

What a row's metadata is, is said once, in `metadata`: the object in its metadata column, with the
filter columns as keys of it. `core.filters.matches` of that object says what every filter means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never
from uuid import UUID

from ragline.core.attached import Attached
from ragline.core.filters import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Kind,
    Not,
    Or,
    Scalar,
)
from ragline.db.attached_sql import column, comparable, literal
from ragline.db.filters import SIGNS, TYPES, by_type, typed

_TEXTS = re.compile(r"text|character varying(\(\d+\))?")
_INTEGERS = ("smallint", "integer", "bigint")
_LARGEST_BIGINT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter in SQL over one row of the table.

    `sql` is true or false, never null. `lookup` is true wherever `sql` is, and written so that an index
    of the table's owner can find those rows; None where none could. `sql` uses all of `values`.
    """

    sql: str
    values: tuple[object, ...]
    lookup: str | None


def metadata(attached: Attached, alias: str) -> str:
    """Return the metadata of a row as SQL of type jsonb: always an object."""
    own = _own(attached, alias)
    whole = "'{}'::jsonb"
    if own is not None:
        whole = f"case pg_catalog.jsonb_typeof({own}) when 'object' then {own} else {whole} end"
    if not attached.filters:
        return whole
    pairs = ", ".join(
        f"{literal(name)}::text, {column(name, alias)}" for name, _ in attached.filters
    )
    return f"({whole} operator(pg_catalog.||) pg_catalog.jsonb_build_object({pairs}))"


def where(filter: Filter, attached: Attached, *, first: int, alias: str) -> Condition:  # noqa: A002
    """Return a filter in SQL; its values are to be bound to `$first` and those after it."""
    rows = _Rows(attached, alias, first)
    sql, lookup = _meaning(filter, rows)
    return Condition(sql=sql, values=tuple(rows.values), lookup=lookup)


def _own(attached: Attached, alias: str) -> str | None:
    if attached.metadata is None:
        return None
    plain = column(attached.metadata, alias)
    return plain if attached.metadata_type == "jsonb" else f"{plain}::jsonb"


@dataclass(slots=True)
class _Rows:
    """The rows that conditions are about, and the values bound so far."""

    attached: Attached
    alias: str
    first: int
    values: list[object] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)

    def bind(self, value: object, type_: str) -> str:
        self.values.append(value)
        return f"${self.first + len(self.values) - 1}::{type_}"

    def value(self, key: str) -> _Value | None:
        """Return where a key's value is; None where no row can have it."""
        for name, type_ in self.attached.filters:
            if name == key:
                plain = column(name, self.alias)
                # As in the object that hits show: a column without a value is a key with null.
                json = f"(coalesce(pg_catalog.to_jsonb({plain}), 'null'::jsonb))"
                return _Value(
                    json, f"({json} operator(pg_catalog.#>>) '{{}}'::text[])", plain, type_
                )
        own = _own(self.attached, self.alias)
        if own is None:
            return None
        if key not in self.keys:
            self.keys[key] = self.bind(key, "text")
        place = self.keys[key]
        return _Value(f"({own} -> {place})", f"({own} ->> {place})", own, "key", place)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as jsonb, null where the key is missing; as text where it is one; where it comes from.

    Both are in parentheses.
    """

    json: str
    text: str
    plain: str
    type: str
    key: str = ""

    @property
    def is_in_jsonb_column(self) -> bool:
        """Whether an index of the metadata column may know it."""
        return self.type == "key" and not self.plain.endswith("::jsonb")


_Meaning = tuple[str, str | None]


def _meaning(filter: Filter, rows: _Rows) -> _Meaning:  # noqa: A002
    match filter:
        case And(parts):
            found = [_meaning(part, rows) for part in parts]
            lookups = [lookup for _, lookup in found if lookup]
            return _joined("and", [sql for sql, _ in found]), (
                _joined("and", lookups) if lookups else None
            )
        case Or(parts):
            found = [_meaning(part, rows) for part in parts]
            lookups = [lookup for _, lookup in found if lookup]
            is_known = len(lookups) == len(found)
            return _joined("or", [sql for sql, _ in found]), (
                _joined("or", lookups) if is_known else None
            )
        case Not(part):
            return f"(not {_meaning(part, rows)[0]})", None
        case Compare(key) | In(key) | Contains(key) | Exists(key):
            value = rows.value(key)
            return ("false", None) if value is None else _leaf(filter, value, rows)
        case _:
            assert_never(filter)


def _joined(word: str, parts: Sequence[str]) -> str:
    return f"({f' {word} '.join(parts)})"


def _leaf(condition: Compare | In | Contains | Exists, value: _Value, rows: _Rows) -> _Meaning:
    match condition:
        case Exists():
            has = f"{value.plain} operator(pg_catalog.?) {value.key}"
            return f"({value.json} is not null)", has if value.is_in_jsonb_column else None
        case Compare(_, "ne", other):
            equal, _ = _compared(Compare(condition.key, "eq", other), value, rows)
            return f"({value.json} is not null and not {equal})", None
        case Compare():
            return _compared(condition, value, rows)
        case In():
            return _listed(condition, value, rows)
        case Contains():
            return _contained(condition, value, rows), None
        case _:
            assert_never(condition)


def _compared(condition: Compare, value: _Value, rows: _Rows) -> _Meaning:
    kind = condition.kind
    if kind == "null":
        return by_type(value.json, {kind: "true"}), None
    place = rows.bind(condition.value, TYPES[kind])
    held = typed(value.json, value.text, kind)
    sql = by_type(value.json, {kind: f"{held} {SIGNS[condition.op]} {place}"})
    return sql, _looked_up(condition, value, place)


def _looked_up(condition: Compare, value: _Value, place: str) -> str | None:
    """Return a comparison of the column itself: true wherever the condition is."""
    is_equality = condition.op == "eq"
    if value.is_in_jsonb_column and is_equality:
        pair = f"pg_catalog.jsonb_build_object({value.key}, {place})"
        return f"{value.plain} operator(pg_catalog.@>) {pair}"
    if value.type in _INTEGERS and _are_bigints([condition.value]):
        return f"{value.plain} {SIGNS[condition.op]} ({place})::bigint"
    if condition.kind == "text" and is_equality and _TEXTS.fullmatch(value.type):
        return f"{comparable(value.plain, value.type)} = {place}"
    if condition.kind == "boolean" and is_equality and value.type == "boolean":
        return f"{value.plain} = {place}"
    if value.type == "uuid" and is_equality and _are_uuids([condition.value]):
        return f"{value.plain} = ({place})::uuid"
    return None


def _listed(condition: In, value: _Value, rows: _Rows) -> _Meaning:
    """One branch, and one bound array, for each type among the values."""
    holds: dict[Kind, str] = {}
    lookup = None
    kinds = sorted(set(condition.kinds))
    for kind in kinds:
        if kind == "null":
            holds[kind] = "true"
            continue
        values = [v for v, of in zip(condition.values, condition.kinds, strict=True) if of == kind]
        array = rows.bind(values, f"{TYPES[kind]}[]")
        holds[kind] = f"{typed(value.json, value.text, kind)} = any ({array})"
        if len(kinds) == 1:
            lookup = _looked_up_in(kind, values, value, array)
    return by_type(value.json, holds), lookup


def _looked_up_in(kind: Kind, values: Sequence[Scalar], value: _Value, array: str) -> str | None:
    if value.type in _INTEGERS and kind == "number" and _are_bigints(values):
        return f"{value.plain} = any (({array})::bigint[])"
    if kind == "text" and _TEXTS.fullmatch(value.type):
        return f"{comparable(value.plain, value.type)} = any ({array})"
    if kind == "text" and value.type == "uuid" and _are_uuids(values):
        return f"{value.plain} = any (({array})::uuid[])"
    return None


def _contained(condition: Contains, value: _Value, rows: _Rows) -> str:
    """An element, or a part of a text."""
    if condition.kind == "null":
        return by_type(value.json, {}, array=f"{value.json} operator(pg_catalog.@>) 'null'::jsonb")
    place = rows.bind(condition.value, TYPES[condition.kind])
    array = f"{value.json} operator(pg_catalog.@>) pg_catalog.to_jsonb({place})"
    part = f"pg_catalog.strpos({value.text}, {place}) > 0"
    return by_type(value.json, {"text": part} if condition.kind == "text" else {}, array=array)


def _are_bigints(values: Iterable[Scalar]) -> bool:
    return all(
        isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_BIGINT
        for value in values
    )


def _are_uuids(values: Iterable[Scalar]) -> bool:
    return all(is_uuid(value) for value in values)


def is_uuid(value: object) -> bool:
    """Return whether a text is a uuid as PostgreSQL writes it."""
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False

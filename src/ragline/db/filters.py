"""Filters in SQL: what they mean for a document, and where an index finds those that may pass.

Keys and values are bound, each with its type, so that one statement serves every filter of a shape.
Both sides of an operator have its very types: a nearer match in another schema would be taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import assert_never

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
    Order,
    Scalar,
)

# What a row of `attribute` holds of a text and of a number; the same as in its triggers.
_CHARACTERS = 200
_DECIMALS = 20
_DIGITS = 300
SIGNS: dict[Order, str] = {"eq": "=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
# What is too long is cut on both sides, which makes equals of neighbours: more is found, never less.
_SIGNS_OF_CUT: dict[Order, str] = {"eq": "=", "lt": "<=", "le": "<=", "gt": ">=", "ge": ">="}
_JSON_TYPES: dict[Kind, str] = {
    "text": "string",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}
TYPES: dict[Kind, str] = {"text": "text", "number": "numeric", "boolean": "boolean"}
_CUT: dict[Kind, str] = {
    "text": f"pg_catalog.left({{}}, {_CHARACTERS})",
    "number": (
        f"(case when pg_catalog.scale(pg_catalog.trim_scale({{0}})) > {_DECIMALS}"
        f" then pg_catalog.trunc(least(greatest({{0}}, -1e{_DIGITS}), 1e{_DIGITS}), {_DECIMALS})"
        f" + pg_catalog.sign({{0}}) * 5e-{_DECIMALS + 1}"
        f" else least(greatest({{0}}, -1e{_DIGITS}), 1e{_DIGITS}) end)"
    ),
    "boolean": "({})::text",
}
# What the field of a value's own row may begin with: whole, cut, or no single value.
_SIGNS_OF_VALUE = "=~?"
# Numbers lie together in the index where word is null.
_COLUMN: dict[Kind, str] = {
    "text": "a.number is null and a.word",
    "number": "a.word is null and a.number",
    "boolean": "a.number is not null and a.word",
}
_PLACE = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter in SQL, over a row `d` of `document`.

    `sql` is true or false, never null. `lookup` is true wherever `sql` is, and an index finds those
    rows; `ids` selects the same documents as one column, `document_id`, some of them repeatedly. Both
    are None where every document has to be looked at. Where `is_exact`, they are true only where `sql`
    is, so that it need not be asked. `sql` and `ids` each use all of `values`; `lookup` alone does where
    it is exact.
    """

    sql: str
    values: tuple[object, ...]
    lookup: str | None
    ids: str | None
    is_exact: bool


def where(filter: Filter, *, collection_id: int, first: int) -> Condition:  # noqa: A002
    """Return a filter in SQL; its values are to be bound to `$first` and those after it.

    The text depends on the filter's shape only: its operators, the types of its values, which of its
    keys are the same, and which keys and values are longer than what the index holds of them.
    """
    bound = _Bound(collection_id, first, [], [], {})
    meaning = _meaning(filter, bound)
    found = _found(meaning, collection_id)
    return Condition(
        sql=_sql(meaning),
        values=tuple(bound.values),
        lookup=_all_of("d.id", found) if found else None,
        ids=_with_all_places(_narrowed(found), bound.places) if found else None,
        is_exact=bool(found) and _is_exact(meaning),
    )


@dataclass(slots=True)
class _Bound:
    """The values bound so far for a collection, their places, and those of the keys among them."""

    collection_id: int
    first: int
    values: list[object]
    places: list[str]
    keys: dict[str, str]

    def add(self, value: object, type_: str) -> str:
        self.places.append(f"${self.first + len(self.values)}::{type_}")
        self.values.append(value)
        return self.places[-1]

    def add_key(self, key: str) -> str:
        if key not in self.keys:
            self.keys[key] = self.add(key, "text")
        return self.keys[key]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A condition on one key, and which rows of `attribute` tell where it is true.

    `row` is about the one row that a document has for the value itself, among those whose field has
    one of `signs`. `others` are whole selects of documents, found beside. Where there is neither, no
    row tells. Where `is_exact`, no more documents are found than the condition keeps.
    """

    key: str
    bound_key: str
    sql: str
    signs: str = ""
    row: str = "true"
    others: tuple[str, ...] = ()
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class _Joint:
    """Conditions joined by `and`, `or` or `not`."""

    word: str
    parts: tuple[_Leaf | _Joint, ...]


def _meaning(filter: Filter, bound: _Bound) -> _Leaf | _Joint:  # noqa: A002
    match filter:
        case And(parts):
            return _Joint("and", tuple(_meaning(part, bound) for part in parts))
        case Or(parts):
            return _Joint("or", tuple(_meaning(part, bound) for part in parts))
        case Not(part):
            return _Joint("not", (_meaning(part, bound),))
        case Compare() | In() | Contains() | Exists():
            return _leaf(filter, bound)
        case _:
            assert_never(filter)


def _leaf(condition: Compare | In | Contains | Exists, bound: _Bound) -> _Leaf:
    key = bound.add_key(condition.key)
    match condition:
        case Exists(name):
            return _Leaf(
                name, key, f"{_value(key)} is not null", signs=_SIGNS_OF_VALUE, is_exact=True
            )
        case Compare(name, "ne", value):
            equal = _compared(Compare(name, "eq", value), key, bound)
            return _Leaf(name, key, f"({_value(key)} is not null and not {equal.sql})")
        case Compare():
            return _compared(condition, key, bound)
        case In():
            return _listed(condition, key, bound)
        case Contains():
            return _contained(condition, key, bound)
        case _:
            assert_never(condition)


def _compared(condition: Compare, key: str, bound: _Bound) -> _Leaf:
    kind, value = condition.kind, condition.value
    if kind == "null":
        return _Leaf(condition.key, key, by_type(_value(key), {kind: "true"}), signs="?")
    place = bound.add(value, TYPES[kind])
    holds = f"{typed(_value(key), _text(key), kind)} {SIGNS[condition.op]} {place}"
    is_whole = _are_held_whole(kind, [value])
    sign = (SIGNS if is_whole else _SIGNS_OF_CUT)[condition.op]
    row = f"{_COLUMN[kind]} {sign} {_cut(kind, place, [value])}"
    may_be_cut = kind == "text" and not (is_whole and condition.op == "eq")
    return _Leaf(
        condition.key,
        key,
        by_type(_value(key), {kind: holds}),
        signs="=~" if may_be_cut else "=",
        row=row,
        is_exact=is_whole,
    )


def _listed(condition: In, key: str, bound: _Bound) -> _Leaf:
    """One branch, and one bound array, for each type among the values."""
    holds: dict[Kind, str] = {}
    rows = []
    signs = "="
    is_whole = True
    for kind in sorted(set(condition.kinds)):
        if kind == "null":
            holds[kind] = "true"
            rows.append("a.word is null and a.number is null")
            signs += "?"
            is_whole = False
            continue
        values = [v for v, of in zip(condition.values, condition.kinds, strict=True) if of == kind]
        array = bound.add(values, f"{TYPES[kind]}[]")
        holds[kind] = f"{typed(_value(key), _text(key), kind)} = any ({array})"
        rows.append(f"{_COLUMN[kind]} = any ({_cut_array(kind, array, values)})")
        if not _are_held_whole(kind, values):
            is_whole = False
            signs += "~" if kind == "text" else ""
    row = f"({' or '.join(rows) or 'false'})"
    sql = by_type(_value(key), holds)
    return _Leaf(condition.key, key, sql, signs=signs, row=row, is_exact=is_whole)


def _contained(condition: Contains, key: str, bound: _Bound) -> _Leaf:
    """An element, or a part of a text. Of a text that was cut, the document is asked."""
    name, kind, value = condition.key, condition.kind, condition.value

    def rows(sign: str, holds: str, more: str = "") -> str:
        return f"{_rows(bound.collection_id, name, key, sign, more=more)} and {holds}"

    if kind == "null":
        sql = by_type(_value(key), {}, array=f"{_value(key)} @> 'null'::jsonb")
        element = rows("[", "a.word is null and a.number is null")
        return _Leaf(name, key, sql, others=(element,), is_exact=True)
    place = bound.add(value, TYPES[kind])
    array = f"{_value(key)} @> pg_catalog.to_jsonb({place})"
    element = rows("[", f"{_COLUMN[kind]} = {_cut(kind, place, [value])}")
    is_whole = _are_held_whole(kind, [value])
    if kind != "text":
        sql = by_type(_value(key), {}, array=array)
        return _Leaf(name, key, sql, others=(element,), is_exact=is_whole)
    sql = by_type(
        _value(key), {kind: f"pg_catalog.strpos(d.metadata ->> {key}, {place}) > 0"}, array=array
    )
    part = rows("=", f"a.number is null and pg_catalog.strpos(a.word, {place}) > 0")
    part_of_cut = rows(
        "~",
        f"pg_catalog.strpos(c.metadata ->> {key}, {place}) > 0",
        "join document c on c.id = a.document_id",
    )
    return _Leaf(name, key, sql, others=(element, part, part_of_cut), is_exact=is_whole)


def _value(key: str) -> str:
    return f"(d.metadata -> {key})"


def _text(key: str) -> str:
    return f"(d.metadata ->> {key})"


def typed(json: str, text: str, kind: Kind) -> str:
    """Return a value as PostgreSQL's own type; only where it has that type."""
    return f'{text} collate "C"' if kind == "text" else f"{json}::{TYPES[kind]}"


def by_type(json: str, holds: Mapping[Kind, str], *, array: str | None = None) -> str:
    """Return what must hold for each type of a value; false for every other type, and without one.

    `json` is the value as jsonb, in parentheses.
    """
    branches = [(_JSON_TYPES[kind], condition) for kind, condition in holds.items()]
    if array is not None:
        branches.append(("array", array))
    if not branches:
        return f"(false and {json} is null)"
    whens = " ".join(f"when '{name}' then {condition}" for name, condition in branches)
    return f"case pg_catalog.jsonb_typeof{json} {whens} else false end"


def _cut(kind: Kind, place: str, values: Sequence[Scalar]) -> str:
    if kind != "boolean" and _are_held_whole(kind, values):
        return place
    return _CUT[kind].format(place)


def _cut_array(kind: Kind, place: str, values: Sequence[Scalar]) -> str:
    if kind != "boolean" and _are_held_whole(kind, values):
        return place
    cut = _CUT[kind].format("w")
    return f"array(select {cut} from pg_catalog.unnest({place}) as w)"  # noqa: S608 -- a place


def _are_held_whole(kind: Kind, values: Iterable[Scalar]) -> bool:
    """Whether all values are shorter than what is cut: those compare with cut ones as with whole."""
    if kind == "number":
        return all(map(_is_held_whole, values))
    return kind == "boolean" or all(len(str(value)) < _CHARACTERS for value in values)


def _is_held_whole(number: Scalar) -> bool:
    exact = number if isinstance(number, Decimal) else Decimal(str(number))
    exponent = exact.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_DECIMALS and exact.adjusted() < _DIGITS


def _sql(meaning: _Leaf | _Joint) -> str:
    if isinstance(meaning, _Leaf):
        return meaning.sql
    parts = [_sql(part) for part in meaning.parts]
    return f"(not {parts[0]})" if meaning.word == "not" else f"({f' {meaning.word} '.join(parts)})"


def _found(meaning: _Leaf | _Joint, collection_id: int) -> list[str]:
    """Return selects of document ids, each of which has every document that passes; maybe none."""
    if isinstance(meaning, _Leaf):
        return _found_by([meaning], collection_id)
    if meaning.word == "not":
        return []
    if meaning.word == "or":
        each = [_found(part, collection_id) for part in meaning.parts]
        return [" union all ".join(f"({_narrowed(found)})" for found in each)] if all(each) else []
    selects = []
    for together in _asked_of_one_row(meaning.parts):
        selects += _found_by(together, collection_id)
    for part in meaning.parts:
        if isinstance(part, _Joint):
            selects += _found(part, collection_id)
    return selects


def _asked_of_one_row(parts: Iterable[_Leaf | _Joint]) -> list[list[_Leaf]]:
    """Group conditions of which one row knows the answer: a range is one walk through the index."""
    by_field: dict[tuple[str, str], list[_Leaf]] = {}
    alone = []
    for part in parts:
        if isinstance(part, _Leaf) and part.signs:
            by_field.setdefault((part.key, part.signs), []).append(part)
        elif isinstance(part, _Leaf):
            alone.append([part])
    return [*by_field.values(), *alone]


def _found_by(leaves: Sequence[_Leaf], collection_id: int) -> list[str]:
    first = leaves[0]
    if first.signs:
        rows = _rows(collection_id, first.key, first.bound_key, first.signs)
        return [" and ".join([rows, *(leaf.row for leaf in leaves)])]
    return [" union all ".join(first.others)] if first.others else []


def _rows(collection_id: int, key: str, bound_key: str, signs: str, *, more: str = "") -> str:
    """Begin a select of the documents that have a key, by the signs before it."""
    cut = _cut("text", bound_key, [key])
    fields = [f"'{sign}' || {cut}" for sign in signs]
    among = f"any (array[{', '.join(fields)}])" if len(fields) > 1 else f"({fields[0]})"
    return (
        f"select a.document_id from attribute a {more}"  # noqa: S608 -- an integer and places of values
        f" where a.collection_id = {collection_id:d} and a.field = {among}"
    )


def _is_exact(meaning: _Leaf | _Joint) -> bool:
    if isinstance(meaning, _Leaf):
        return meaning.is_exact and len(meaning.key) < _CHARACTERS
    return meaning.word != "not" and all(map(_is_exact, meaning.parts))


def _with_all_places(select: str, places: Sequence[str]) -> str:
    """Return the select with every value in it: PostgreSQL refuses one whose type it cannot see."""
    named = {int(n) for n in _PLACE.findall(select)}
    missing = [place for place in places if int(_PLACE.findall(place)[0]) not in named]
    if not missing:
        return select
    seen = ", ".join(f"{place} is null" for place in missing)
    # Folded to `true` before the plan is made.
    return f"select i.document_id from ({select}) as i where coalesce(true, {seen})"  # noqa: S608


def _narrowed(found: Sequence[str]) -> str:
    """Return one select for all: the ids of the first that are in the others too."""
    if len(found) == 1:
        return found[0]
    others = _all_of("i.document_id", found[1:])
    return f"select i.document_id from ({found[0]}) as i where {others}"  # noqa: S608 -- see above


def _all_of(id_: str, found: Sequence[str]) -> str:
    return " and ".join(f"{id_} in ({select})" for select in found)

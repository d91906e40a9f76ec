"""Indexes that would serve a scan, by what it looks for; whether they are worth it is advice."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ragline.core import hnsw, sql_tokens
from ragline.core.evidence import ColumnFacts
from ragline.core.plan_scans import OF_ANOTHER, Condition, OrderKey, Scan
from ragline.core.sql_names import identifier

Method = Literal["btree", "gin", "hnsw"]

CONTAINED_SHARE = 0.01
"""Rows that a containment lets through, where nobody knows: what the planner assumes."""
RANGE_SHARE = 1 / 3
"""Rows that a range lets through, where nobody knows: what the planner assumes."""
_UNKNOWN_DISTINCT = 200
_LONGEST = 63
# So few are looked at one by one, and sorted, in no time.
_FEW_ROWS = 10

_EQUALS = ("=",)
_RANGES = ("<", "<=", ">", ">=")
_LIKE = ("~~", "~~*", "~", "~*")
_JSON_PATH = ("@>", "@?", "@@")
_JSON = (*_JSON_PATH, "?", "?|", "?&")
_ARRAY = ("@>", "<@", "&&", "=")
_METRICS = {"<=>": "cosine", "<->": "l2", "<#>": "inner_product"}
_STORAGES = ("vector", "halfvec")
# No operator class of a b-tree orders them.
_NOT_ORDERED = ("json", "jsonb", "xml", "point", "box", "tsvector", "tsquery", "polygon", "circle")
_UNBOUNDED = ("text", "varchar", "bpchar", "citext", "bytea")
_LONG = 100
# Characters of at most four bytes each.
_SURE_TO_FIT = 2704 // 4
_PREFIX = re.compile(r"'((?:[^'%_\\]|'')+)%'(::\w+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A column or an expression of an index, with what follows it: "desc", an operator class."""

    text: str
    columns: tuple[str, ...]
    rule: str = ""

    @property
    def is_expression(self) -> bool:
        """Whether it is more than a column."""
        return re.fullmatch(r'"(?:[^"]|"")+"', self.text) is None

    def __str__(self) -> str:
        said = f"({self.text})" if self.is_expression else self.text
        return f"{said} {self.rule}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An index for one scan. `share` is the part of the rows that it would leave, 1 for all of them.

    `ordered` is whether it gives rows in the order that is asked for, `probes` how often it is looked
    into, `share` what all of them find. `vector` describes a graph of vectors: storage, metric,
    dimension.
    """

    method: Method
    keys: tuple[Key, ...]
    share: float
    ordered: bool
    probes: float = 1.0
    vector: tuple[str, str, int] | None = None

    def body(self, vector_schema: str | None = None) -> str:
        """Return the definition from `using` on."""
        keys = ", ".join(map(str, self.keys))
        if self.vector is not None and vector_schema is not None:
            storage, metric, _ = self.vector
            schema = identifier(vector_schema)
            keys = f"{self.keys[0]} {schema}.{hnsw.operator_class(storage, metric)}"
        return f"using {self.method} ({keys})"


def wish(
    scan: Scan, columns: Mapping[str, ColumnFacts], table_rows: float
) -> tuple[Wish | None, tuple[str, ...]]:
    """Return the index that would serve a scan best, if any, and why others would not."""
    if scan.probes is not None:
        own = tuple(one for one in scan.conditions if one.value != OF_ANOTHER)
        alone, why = wish(replace(scan, conditions=own, probes=None), columns, table_rows)
        if alone is not None and alone.share <= CONTAINED_SHARE:
            return alone, why
    reasons = [_why_not(one, columns) for one in scan.conditions]
    said = [f"{text}: {_not_understood(text)}" for text in scan.unread]
    said += [why for why in reasons if why is not None]
    usable = [one for one, why in zip(scan.conditions, reasons, strict=True) if why is None]
    equals = [one for one in usable if one.operator in _EQUALS]
    ranges = [one for one in usable if one.operator in _RANGES]
    contained = [one for one in usable if one not in equals and one not in ranges]
    wishes = [
        _tree(
            equals, ranges, scan, columns, table_rows, is_all=len(usable) == len(scan.conditions)
        ),
        *(_gin(one, columns) for one in contained if not _is_prefix(one)),
        *(_prefix_tree(one, columns) for one in contained if _is_prefix(one)),
    ]
    if len(scan.conditions) == 1 and not scan.unread and table_rows and scan.probes is None:
        # Alone, the planner's estimate of the scan is that of the condition.
        planned = min(1.0, scan.rows / table_rows)
        wishes = [one and replace(one, share=planned) for one in wishes]
    kept = sorted((one for one in wishes if one is not None), key=lambda one: one.share)
    nearness = _graph(scan, columns)
    if isinstance(nearness, str):
        said.append(nearness)
        nearness = None
    if nearness is not None and (not kept or kept[0].share > CONTAINED_SHARE):
        return nearness, tuple(said)
    return (kept[0] if kept else None), tuple(said)


def name(table: str, wish: Wish, taken: Sequence[str]) -> str:
    """Return a name for an index that is not taken yet, in plain small letters."""
    parts = [re.sub(r"\W+", "_", "_".join(key.columns)) for key in wish.keys]
    plain = re.sub(r"[^a-z0-9_]+", "_", f"{table}_{'_'.join(parts)}".lower()).strip("_")
    if not plain or plain[0].isdigit():
        plain = f"i_{plain}"
    plain = plain[: _LONGEST - len(wish.method) - 5]
    first = f"{plain}_{wish.method}"
    more = (f"{first}_{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([first], more) if one not in taken)


def equality_share(column: ColumnFacts | None, table_rows: float) -> float:
    """Return the part of the rows that have one value of a column."""
    distinct = None if column is None else column.distinct
    if distinct is None or distinct == 0:
        return 1 / _UNKNOWN_DISTINCT
    many = distinct if distinct > 0 else -distinct * max(table_rows, 1)
    return min(1.0, 1 / max(many, 1))


def covers(one: Wish, other: Wish) -> bool:
    """Whether an index for one scan serves another as well."""
    if one.method != other.method or one.vector != other.vector:
        return False
    if one.method == "btree":
        return one.keys[: len(other.keys)] == other.keys
    if one.method == "gin":
        same = [(key.text, key.columns) for key in one.keys] == [
            (key.text, key.columns) for key in other.keys
        ]
        # The operator class without a rule answers whatever the narrower one does.
        return same and (one.keys == other.keys or one.keys[0].rule == "")
    return one.keys == other.keys


def joined(one: Wish, other: Wish) -> Wish | None:
    """Return the one index that serves two scans; None where it takes two."""
    if covers(one, other):
        return one
    return other if covers(other, one) else None


def _not_understood(text: str) -> str:
    words = {token.text for token in sql_tokens.tokens(text) or () if token.kind == "word"}
    if "OR" in words:
        return (
            "rows are found by one side or by the other: it takes an index for each, or two statements "
            "joined by `union`"
        )
    if "IS" in words:
        return (
            "a partial index (`where …`) may hold just those rows: write it yourself, with what the "
            "statement asks for besides"
        )
    return "not understood"


def _why_not(one: Condition, columns: Mapping[str, ColumnFacts]) -> str | None:
    what = f"{one.term.text} {one.operator} {one.value}"
    if one.term.hides:
        return (
            f"{what}: constants were taken out of the statement, among them one that the index would "
            "have to hold: write it yourself, with the key or the configuration that you ask for"
        )
    column = columns.get(one.term.column or "")
    kind = None if column is None else column.type
    if one.operator in (*_LIKE, "^@", "=", *_RANGES) and _is_long(column):
        return (
            f"{what}: its values are long, and a b-tree refuses those above 2,704 bytes, so that they "
            "could not be written any more: for `=` make one `using hash` yourself"
        )
    if one.operator in _LIKE:
        if _is_prefix(one):
            return None
        return (
            f"{what}: the pattern is not known, and only one that begins with letters can use a b-tree "
            "(text_pattern_ops); any pattern can use a GIN index of pg_trgm"
        )
    if one.operator in ("=", *_RANGES):
        if kind in _NOT_ORDERED and not (column is not None and column.is_array):
            return f"{what}: values of type {kind} have no order that a b-tree could keep"
        return None
    if _gin(one, columns) is None:
        return f"{what}: no kind of index that is advised here answers it"
    return None


def _is_long(column: ColumnFacts | None) -> bool:
    """Whether values of a column may be too long for a b-tree; short ones tell of their like."""
    return (
        column is not None
        and column.type in _UNBOUNDED
        and not 0 < column.modifier <= _SURE_TO_FIT
        and (column.width or 0) > _LONG
    )


def _is_prefix(one: Condition) -> bool:
    return one.operator == "^@" or (
        one.operator == "~~" and _PREFIX.fullmatch(one.value) is not None
    )


def _key(one: Condition | OrderKey, rule: str = "") -> Key:
    term = one.term
    text = term.text if term.column is None else identifier(term.column)
    return Key(text=text, columns=term.columns, rule=rule)


def _tree(
    equals: Sequence[Condition],
    ranges: Sequence[Condition],
    scan: Scan,
    columns: Mapping[str, ColumnFacts],
    table_rows: float,
    *,
    is_all: bool,
) -> Wish | None:
    """Return a b-tree: what is equal first, then the order that is asked for, or a range."""
    shares = {
        _key(one): equality_share(columns.get(one.term.column or ""), table_rows) for one in equals
    }
    # The same whatever order the statement names them in: the most telling first.
    keys = sorted(shares, key=lambda key: (shares[key], key.text))
    probes = max(1.0, scan.probes or 1.0)
    keys, is_enough = _telling(keys, shares, table_rows)
    share = min(1.0, math.prod(shares[key] for key in keys) * probes)
    if is_enough or (keys and scan.probes is not None):
        return Wish(method="btree", keys=tuple(keys), share=share, ordered=False, probes=probes)
    limited = scan.limit is not None and not any(
        key.operator or _is_long(columns.get(key.term.column or "")) for key in scan.order
    )
    order = _order_keys(scan.order) if limited and not _others(ranges, scan.order) else None
    if order and is_all:
        new = [key for key in order if key.text not in {one.text for one in keys}]
        return Wish(method="btree", keys=(*keys, *new), share=share, ordered=True)
    spans = list(dict.fromkeys(_key(one) for one in ranges))
    spans = [key for key in spans if key not in keys]
    if spans:
        keys.append(min(spans, key=lambda key: key.text))
        planned = scan.rows / table_rows if table_rows else 1.0
        is_whole = is_all and len(spans) == 1
        share = min(share, planned) if is_whole else share * RANGE_SHARE
    if not keys:
        return None
    return Wish(method="btree", keys=tuple(keys), share=share, ordered=False)


def _telling(
    keys: Sequence[Key], shares: Mapping[Key, float], table_rows: float
) -> tuple[list[Key], bool]:
    """Return the first keys that are enough to find a row, and whether they are."""
    left = max(table_rows, 1.0)
    for at, key in enumerate(keys, start=1):
        left *= shares[key]
        if left <= _FEW_ROWS:
            return list(keys[:at]), True
    return list(keys), False


def _others(ranges: Sequence[Condition], order: Sequence[OrderKey]) -> bool:
    """Whether a range is of something else than what rows are sorted by first."""
    return any(not order or one.term.text != order[0].term.text for one in ranges)


def _order_keys(order: Sequence[OrderKey]) -> tuple[Key, ...] | None:
    if not order or any(key.term.hides for key in order):
        return None
    if all(key.descends == key.nulls_first for key in order) and (
        len({key.descends for key in order}) == 1
    ):
        return tuple(_key(key) for key in order)  # read backwards, it descends
    rules = []
    for key in order:
        nulls = (
            ""
            if key.descends == key.nulls_first
            else (" nulls first" if key.nulls_first else " nulls last")
        )
        rules.append(f"{'desc' if key.descends else ''}{nulls}".strip())
    return tuple(_key(key, rule) for key, rule in zip(order, rules, strict=True))


def _gin(one: Condition, columns: Mapping[str, ColumnFacts]) -> Wish | None:
    column = columns.get(one.term.column or "")
    if one.term.text.startswith("to_tsvector(") and one.operator == "@@":
        return _by_gin(one, "")
    if column is None:
        # An expression such as (data -> 'tags'), whose type nobody tells: of JSON, by its operators.
        is_json = one.operator in ("?", "?|", "?&", "@?") or "->" in one.term.text
        return _by_gin(one, _json_rule(one)) if is_json and one.operator in _JSON else None
    if column.type == "jsonb" and one.operator in _JSON:
        return _by_gin(one, _json_rule(one))
    if column.type == "tsvector" and one.operator in ("@@", "@@@"):
        return _by_gin(one, "")
    if column.is_array and one.operator in _ARRAY:
        return _by_gin(one, "")
    return None


def _json_rule(one: Condition) -> str:
    return "jsonb_path_ops" if one.operator in _JSON_PATH else ""


def _by_gin(one: Condition, rule: str) -> Wish:
    return Wish(method="gin", keys=(_key(one, rule),), share=CONTAINED_SHARE, ordered=False)


def _prefix_tree(one: Condition, columns: Mapping[str, ColumnFacts]) -> Wish | None:
    column = columns.get(one.term.column or "")
    if column is not None and column.type not in ("text", "varchar", "bpchar"):
        return None
    kind = "varchar" if column is not None and column.type == "varchar" else "text"
    return Wish(
        method="btree",
        keys=(_key(one, f"{kind}_pattern_ops"),),
        share=CONTAINED_SHARE,
        ordered=False,
    )


def _graph(scan: Scan, columns: Mapping[str, ColumnFacts]) -> Wish | str | None:
    """Return the graph of vectors that gives the nearest rows; text: why none can."""
    if not scan.order or scan.limit is None or (operator := scan.order[0].operator) is None:
        return None
    term = scan.order[0].term
    what = f"order by {term.text} {operator} …"
    column = columns.get(term.column or "")
    metric = _METRICS.get(operator)
    if metric is None or column is None or column.type not in _STORAGES:
        return f"{what}: HNSW is advised for columns of type vector and halfvec by <=>, <-> and <#>"
    if column.modifier <= 0:
        return f"{what}: the column does not say how many dimensions its vectors have"
    storage = hnsw.first_storage(
        "halfvec" if column.type == "halfvec" else "vector", column.modifier
    )
    if storage is None:
        return f"{what}: an index holds at most {hnsw.LARGEST['halfvec']} dimensions"
    key = _key(scan.order[0])
    if storage != column.type:
        return (
            f"{what}: {column.modifier} dimensions fit an index of halfvec only, and the statement "
            f"does not ask for {term.text}::halfvec({column.modifier})"
        )
    return Wish(
        method="hnsw",
        keys=(key,),
        share=1.0,
        ordered=True,
        vector=(storage, metric, column.modifier),
    )

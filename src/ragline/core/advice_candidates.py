"""Indexes that statements could use, gathered from their plans; whether they are worth it is advice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ragline.core import hnsw, index_candidates, plan_scans, sql_tokens
from ragline.core.evidence import ColumnFacts, PlannerCosts, Reference, Statement
from ragline.core.index_candidates import Wish
from ragline.core.index_facts import IndexFacts, TableFacts
from ragline.core.plan_scans import Scan
from ragline.core.sql_names import identifier

OWN_SCHEMA = "ragline"
MIN_ROWS = 1000
"""Smaller tables are read faster than an index is looked up."""
MOST_SHARE = 0.1
"""An index that leaves more of the rows than this is read beside nearly every page of the table."""
_OF_A_PARTITION = (
    "it is part of a partitioned table: make the index by hand for each part (`create index "
    "concurrently`), then `create index on only` the whole and attach them"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A statement with the plan that serves whatever values it is given."""

    statement: Statement
    plan: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What the database has. `hours` is for how long it counted; None: nobody knows."""

    tables: Sequence[TableFacts]
    indexes: Sequence[IndexFacts]
    columns: Sequence[ColumnFacts] = ()
    costs: PlannerCosts = field(default_factory=PlannerCosts)
    hours: float | None = None
    kept: Mapping[int, str] = field(default_factory=dict)
    replicas: int = 0
    is_replica: bool = False
    partitions: frozenset[int] = frozenset()
    references: Sequence[Reference] = ()
    vector_schema: str | None = None

    def table(self, schema: str, name: str) -> TableFacts | None:
        """Return a table by its name."""
        found = (one for one in self.tables if (one.schema, one.name) == (schema, name))
        return next(found, None)

    def columns_of(self, table: TableFacts) -> dict[str, ColumnFacts]:
        """Return a table's columns by their names."""
        return {one.name: one for one in self.columns if one.table_oid == table.oid}


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A statement that reads more of a table than it needs, where an index would do."""

    statement: Statement
    scan: Scan
    wish: Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An index that statements could use, dearest statement first; not judged yet."""

    table: TableFacts
    wish: Wish
    name: str
    uses: tuple[Use, ...]
    vector_schema: str | None = None

    @property
    def definition(self) -> str:
        """The statement that makes it."""
        on = f"{identifier(self.table.schema)}.{identifier(self.table.name)}"
        return f"create index {identifier(self.name)} on {on} {self.wish.body(self.vector_schema)}"

    @property
    def calls(self) -> int:
        """How often its statements ran."""
        return sum(use.statement.calls for use in self.uses)

    @property
    def total_ms(self) -> float:
        """What its statements took."""
        return sum(use.statement.total_ms for use in self.uses)

    @property
    def what(self) -> str:
        """The index for people: what it holds, of which table."""
        body = self.wish.body(self.vector_schema)
        return f"{self.table.qualified} " + re.sub(r'"([a-z_][a-z0-9_]*)"', r"\1", body)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAdvised:
    """Something that was thought of and is not advised."""

    what: str
    reason: str
    calls: int | None = None
    mean_ms: float | None = None


def candidates(
    explained: Sequence[Explained], catalog: Catalog
) -> tuple[list[Candidate], list[NotAdvised]]:
    """Return the indexes that would serve scans better, one for all that it can serve."""
    found: list[Candidate] = []
    unserved: list[NotAdvised] = []
    for one in sorted(explained, key=lambda one: -one.statement.total_ms):
        unserved += _checked_by_scans(one, catalog)
        for scan in plan_scans.scans(one.plan):
            table = catalog.table(scan.schema, scan.table)
            if table is None or table.schema == OWN_SCHEMA:
                continue
            if table.oid in catalog.partitions:
                unserved.append(_unserved(one.statement, table, _OF_A_PARTITION))
                continue
            ordered = _walked(scan, catalog)
            wish, reasons = index_candidates.wish(
                ordered, catalog.columns_of(table), float(table.rows or 0)
            )
            if scan.index is None:
                unserved += [_unserved(one.statement, table, reason) for reason in reasons]
            if wish is not None and not _is_served(wish, scan, table, catalog):
                _add(found, table, Use(statement=one.statement, scan=ordered, wish=wish), catalog)
    return found, unserved


def _checked_by_scans(one: Explained, catalog: Catalog) -> list[NotAdvised]:
    """Return the foreign keys for which every row that a statement deletes reads a whole table.

    No plan shows that, so no advice could be proven by one.
    """
    if one.plan.get("Operation") != "Delete":
        return []
    gone = (one.plan.get("Schema"), one.plan.get("Relation Name"))
    return [
        _unserved(
            one.statement,
            table,
            f"foreign key {reference.name} has no index, so each row that is deleted from "
            f"{reference.to_schema}.{reference.to_table} reads all {table.rows:,} rows of it: make one "
            f"of ({', '.join(map(identifier, reference.columns))}); no plan would show that it is used",
        )
        for reference in catalog.references
        if gone == (reference.to_schema, reference.to_table)
        for table in catalog.tables
        if table.oid == reference.table_oid and table.rows and table.rows >= MIN_ROWS
    ]


def _walked(scan: Scan, catalog: Catalog) -> Scan:
    """Return a scan that walks an index for its order, with that order."""
    if not scan.is_walked:
        return scan
    index = next((one for one in catalog.indexes if one.name == scan.index), None)
    if index is None or index.method != "btree":
        return scan
    first = plan_scans.order_key(f"{scan.table}.{index.keys[0]}", scan.table)
    plain = first is not None and first.term.column is not None
    return replace(scan, order=(first,)) if first is not None and plain else scan


def _is_served(wish: Wish, scan: Scan, table: TableFacts, catalog: Catalog) -> bool:
    """Whether a scan, or a join that reads a whole table, is as well off as an index makes it."""
    if scan.index is None and wish.probes == 1:
        return False
    too_many = wish.probes > 1 and wish.share > MOST_SHARE
    return too_many or holding(wish, table, catalog) is not None


def _unserved(statement: Statement, table: TableFacts, reason: str) -> NotAdvised:
    return NotAdvised(
        what=f"an index of {table.qualified}",
        reason=reason,
        calls=statement.calls,
        mean_ms=statement.mean_ms,
    )


def _add(found: list[Candidate], table: TableFacts, use: Use, catalog: Catalog) -> None:
    """Put a wish to those of its table, joining what one index can serve."""
    for at, one in enumerate(found):
        if one.table.oid != table.oid:
            continue
        both = index_candidates.joined(one.wish, use.wish)
        if both is not None:
            has_it = any(use.statement.id == other.statement.id for other in one.uses)
            uses = one.uses if has_it else (*one.uses, use)
            found[at] = replace(one, wish=for_first(both, uses), uses=uses)
            return
    taken = [one.name for one in catalog.indexes if one.schema == table.schema]
    taken += [one.name for one in catalog.tables if one.schema == table.schema]
    taken += [one.name for one in found]
    found.append(
        Candidate(
            table=table,
            wish=use.wish,
            name=index_candidates.name(table.name, use.wish, taken),
            uses=(use,),
            vector_schema=catalog.vector_schema,
        )
    )


def for_first(wish: Wish, uses: Sequence[Use]) -> Wish:
    """Return a wish as the dearest statement, which came first, has it."""
    first = uses[0].wish
    return replace(wish, share=first.share, probes=first.probes, ordered=first.ordered)


def holding(wish: Wish, table: TableFacts, catalog: Catalog) -> IndexFacts | None:
    """Return an index that holds what is wished for."""
    wanted = [_spelled(key.text) for key in wish.keys]
    for index in catalog.indexes:
        if index.table_oid != table.oid or index.method != wish.method:
            continue
        held = [_spelled(key) for key in index.keys][: len(wanted)]
        rules = " ".join(index.operator_classes)
        # What is equal may stand in any order; what rows are sorted by, or a range, comes last.
        if held != wanted and (wish.ordered or sorted(held) != sorted(wanted)):
            continue
        if wish.vector is not None and hnsw.operator_class(*wish.vector[:2]) not in rules:
            continue
        if "pattern_ops" in wish.keys[0].rule and "pattern_ops" not in rules:
            continue
        return index
    return None


def _spelled(text: str) -> str:
    """Return SQL of a key such that two spellings of one are equal."""
    read = list(sql_tokens.tokens(text) or ())
    while len(read) > 2 and read[0].text == "(" and read[-1].text == ")":
        read = read[1:-1]
    return " ".join(
        token.name if token.kind in ("word", "quoted") else token.text for token in read
    )

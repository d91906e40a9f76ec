"""Columns of vectors that have no index, so that every search compares all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ragline.core.checkup import Finding
from ragline.core.evidence import OperatorUse
from ragline.core.hnsw import LARGEST
from ragline.core.index_facts import (
    METRICS,
    OPERATORS,
    IndexFacts,
    TableFacts,
    VectorColumn,
)
from ragline.core.sampled_indexes import SMALL
from ragline.core.sql_names import identifier, quoted

_ENDINGS = {OPERATORS[metric]: ending for ending, metric in METRICS.items()}
_USUAL = "<=>"


def bare(
    indexes: Iterable[IndexFacts], tables: Iterable[TableFacts]
) -> Iterator[tuple[TableFacts, VectorColumn]]:
    """Yield columns without any vector index, an INVALID one or one that is being built included.

    Of a partitioned table each part is told by itself; a table that ragline fills beside the one it
    searches has its index later.
    """
    keys: dict[int, list[str]] = {}
    for index in indexes:
        if index.is_vector and index.keys:
            keys.setdefault(index.table_oid, []).append(index.keys[0])
    for table in tables:
        if table.kind == "partitioned" or not table.is_searched:
            continue
        for column in table.vectors:
            if not any(_mentions(key, column.name) for key in keys.get(table.oid, ())):
                yield table, column


def missing(
    indexes: Iterable[IndexFacts],
    tables: Iterable[TableFacts],
    operators: Sequence[OperatorUse] | None,
) -> Iterator[Finding]:
    """Yield those of so many rows that an exact search takes its time."""
    for table, column in bare(indexes, tables):
        most = LARGEST.get(column.type)
        is_too_long = most is not None and column.dimension is not None and column.dimension > most
        if (table.rows or 0) < SMALL or is_too_long:
            continue  # what is too long is index.dimension
        calls = calls_on(table.schema, table.name, operators or ())
        asked = said_of(calls)
        yield Finding(
            id="index.missing",
            status="warn",
            subject=f"{table.qualified}.{column.name}",
            evidence=f"no vector index on it, and about {table.rows:,} rows: every search by it "
            "compares them all" + (f"; statements order by {asked}" if asked else ""),
            fix=_made(table, column, calls),
        )


def calls_on(schema: str, table: str, operators: Iterable[OperatorUse]) -> Counter[str]:
    """Return how often statements put each operator of pgvector to a table."""
    calls: Counter[str] = Counter()
    for use in operators:
        if (use.schema, use.table) == (schema, table) and use.operator in _ENDINGS:
            calls[use.operator] += use.calls
    return calls


def said_of(calls: Counter[str]) -> str:
    """Return the operators for people, the most used first."""
    return ", ".join(f"{operator} in {n:,} calls" for operator, n in calls.most_common())


def _made(table: TableFacts, column: VectorColumn, calls: Counter[str]) -> str:
    if table.collections:
        return (
            f"`ragline index tune {table.collections[0]}` finds which one it takes, and builds it"
        )
    name = f"{quoted(table.schema)}.{quoted(table.name)}"
    tuned = f"`ragline attach {name}`, then `ragline index tune` finds which one it takes"
    if column.dimension is None:
        return f"{tuned}; the column says no dimension, so it is one of an expression"
    operator = calls.most_common(1)[0][0] if calls else _USUAL
    return (
        f"create index concurrently on {name} using hnsw ({quoted(column.name)} "
        f"{column.type}_{_ENDINGS[operator]}); -- for queries that order by {operator}; or {tuned}"
    )


def _mentions(key: str, column: str) -> bool:
    """Whether SQL as the server writes it has a column in it; it quotes some names that we do not."""
    names = {re.escape(column), re.escape(identifier(column))}
    return any(re.search(rf'(?<![\w"]){name}(?![\w"])', key) for name in names)

"""What an index would cost and save: a model from the planner's statistics, for want of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.core import hnsw
from ragline.core.evidence import ColumnFacts, PlannerCosts
from ragline.core.hnsw import Graph, Storage
from ragline.core.index_candidates import Wish, equality_share
from ragline.core.index_facts import TableFacts
from ragline.core.plan_scans import Scan

BLOCK = 8192
ENTRY_MS: Mapping[str, float] = {"btree": 0.005, "gin": 0.05, "hnsw": 1.0}
"""What one more row costs an index, roughly, with all of it in memory."""
_USABLE = 8150
_FILL = 0.9
_LINE = 4
_POSTING = 6
_UNKNOWN_WIDTH = 32
# Entries of a JSON value or a text: so many bytes of it make one, and it takes so many in the index,
# between those that every row has (6) and those that no other row has (34): measured.
_BYTES_PER_ENTRY = 20
_ENTRY = 16
# Pages that a walk through a graph reads: measured with 25,000 vectors and ef_search 40.
_GRAPH_PAGES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCost:
    """What writes to a table were, per hour since statistics began, and what an index adds to them.

    `in_place_share` is the part of updates that touched no index (HOT); those that change an indexed
    column will. `loses_in_place` are the columns whose updates do. None: nobody knows for how long
    writes were counted, or there were no updates.
    """

    inserted_per_h: float | None
    updated_per_h: float | None
    in_place_share: float | None
    entry_ms: float
    columns: tuple[str, ...]


def table_pages(table: TableFacts) -> float:
    """Return the pages of a table; what lies in TOAST is not read by a scan, but is counted here."""
    return max(1.0, table.bytes / BLOCK)


def plan_cost(wish: Wish, scan: Scan, rows: float, pages: float, costs: PlannerCosts) -> float:
    """Return what the whole plan would cost with an index in the place of the scan."""
    rest = max(0.0, scan.plan_cost - scan.cost)
    if wish.vector is not None:
        return min(_GRAPH_PAGES, pages + 1) * costs.random_page + (scan.limit or 0) * costs.tuple
    found = max(1.0, rows * wish.share)
    descent = wish.probes * (math.log2(max(rows, 2)) * costs.operator + 2 * costs.random_page)
    if wish.ordered and scan.limit is not None:
        # The scan ends when it has enough: what is sorted now is not sorted any more.
        wanted = min(found, max(1.0, scan.limit))
        return descent + _heap(wanted, pages, costs) + wanted * (costs.tuple + costs.index_tuple)
    each = costs.tuple + costs.index_tuple + costs.operator * max(1, len(scan.conditions))
    # A limit above ends the scan early, and would end that of the index as well.
    part = min(1.0, scan.plan_cost / scan.cost) if scan.cost else 1.0
    return rest + descent + part * (_heap(found, pages, costs) + found * each)


def size_bytes(
    wish: Wish, rows: float, columns: Mapping[str, ColumnFacts], graph: tuple[int, int] = (16, 64)
) -> int:
    """Return how large an index would be: b-trees within a quarter, GIN within a factor of five."""
    if wish.vector is not None:
        storage, _, dimension = wish.vector
        held: Storage = "halfvec" if storage == "halfvec" else "vector"
        shape = Graph(slot=0, storage=held, m=graph[0], ef_construction=graph[1])
        return hnsw.index_bytes(shape, dimension, math.ceil(rows))
    widths = [_width(columns.get(one)) for key in wish.keys for one in key.columns]
    if wish.method == "gin":
        entries = rows * max(1.0, sum(widths) / _BYTES_PER_ENTRY)
        return BLOCK * (2 + math.ceil(entries * _ENTRY / _USABLE))
    entry = 8 * math.ceil((8 + sum(widths)) / 8) + _LINE
    many = _distinct(wish, rows, columns)
    # Rows of the same value share one entry.
    total = many * entry + (rows - many) * _POSTING
    return BLOCK * (2 + math.ceil(total / (_USABLE * _FILL)))


def write_cost(wish: Wish, table: TableFacts, hours: float | None) -> WriteCost:
    """Return what writes to a table are, and what an index adds."""
    known = hours if hours and hours > 0 else None
    return WriteCost(
        inserted_per_h=None if known is None else table.inserted / known,
        updated_per_h=None if known is None else table.updated / known,
        in_place_share=table.updated_in_place / table.updated if table.updated else None,
        entry_ms=ENTRY_MS[wish.method],
        columns=tuple(dict.fromkeys(one for key in wish.keys for one in key.columns)),
    )


def churn(table: TableFacts) -> float:
    """Return how often rows were written, without the loading of those that are there.

    Those were written once; an index that comes later is built of them in one go.
    """
    return max(0.0, table.inserted - float(table.rows or 0)) + table.updated


def added_ms(wish: Wish, table: TableFacts) -> float:
    """Return what the index would have added to the writes that were counted."""
    return churn(table) * ENTRY_MS[wish.method]


def _heap(found: float, pages: float, costs: PlannerCosts) -> float:
    """Return what reading so many rows costs, by Mackert and Lohman, as the planner has it."""
    read = min(pages, 2 * pages * found / (2 * pages + found))
    spread = math.sqrt(read / pages)
    each = costs.random_page - (costs.random_page - costs.seq_page) * spread
    return read * each


def _width(column: ColumnFacts | None) -> float:
    if column is None or column.width is None:
        return _UNKNOWN_WIDTH
    return float(column.width)


def _distinct(wish: Wish, rows: float, columns: Mapping[str, ColumnFacts]) -> float:
    shares: Sequence[float] = [
        equality_share(columns.get(one), rows) for key in wish.keys for one in key.columns
    ]
    return min(rows, 1 / max(math.prod(shares), 1e-12))

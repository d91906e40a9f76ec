"""Search: one statement per collection, run and read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg
import numpy.typing as npt

from ragline.core.results import Hit, Method
from ragline.core.search_policy import DEFAULT, SearchPolicy
from ragline.db import attached_rows, attached_statements, attached_words, statements
from ragline.db.pool import Connection
from ragline.db.targets import Scope, Target

__all__ = [
    "Ask", "Found", "Scope", "Target", "count_matches", "explained", "run", "shape", "stages_ms",
    "vector_access",
]  # fmt: skip


_Half = Literal["vector", "lexical"]
# How the table that a half reads begins, or what an attached table is called in its statement.
_TABLES: Mapping[_Half, tuple[str, str]] = {
    "vector": ("embedding_", attached_statements.ALIAS),
    "lexical": ("posting_block", attached_words.ALIAS),
}
# The number of a space, and of a slot.
_OF_SPACE = re.compile(r"(?<=^embedding)_[0-9]+|(?<=_hnsw)_[0-9]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is searched for. `candidates` is how many each half hands to the fusion.

    An iterative scan goes on until its limit is met: rows deleted but not yet vacuumed can eat up
    what `ef_search` finds. It costs a tenth more, so `vector` asks for it only when rows are missing;
    a `policy` that names a mode has the last word. `is_exact` compares every vector and weighs every
    chunk with a word. `scope` is a filter's SQL, `scope_values` what it binds.
    """

    k: int
    candidates: int
    ef_search: int
    is_iterative: bool = False
    is_exact: bool = False
    terms: tuple[str, ...] = ()
    vector: npt.ArrayLike | None = None
    scope: Scope | None = None
    scope_values: tuple[object, ...] = ()
    policy: SearchPolicy = DEFAULT


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and the collection's search version at that moment (None: no rows)."""

    hits: tuple[Hit, ...]
    version: int | None


async def run(connection: Connection, target: Target, method: Method, ask: Ask) -> Found:
    """Return the best `ask.k` chunks of one collection, in one round trip."""
    rows = await _fetch(connection, target, _statement(target, method, ask), *values(method, ask))
    hits = tuple(_hit(target, method, row, place) for place, row in enumerate(rows, start=1))
    return Found(hits, rows[0][0] if rows else None)


async def explained(
    connection: Connection, target: Target, method: Method, ask: Ask
) -> dict[str, Any]:
    """Return the plan of the same statement with the times of its parts, by running it once more."""
    sql = _statement(target, method, ask)
    explain = f"explain (analyze, format json) {sql}"
    rows = await _fetch(connection, target, explain, *values(method, ask))
    plan: dict[str, Any] = json.loads(rows[0][0])[0]
    return plan


async def count_matches(connection: Connection, target: Target, method: Method, ask: Ask) -> int:
    """Return how many chunks could have been returned, counted no further than `ask.k`."""
    sql = statements.counting_statement(target, method, ask.k, ask.scope)
    rows = await _fetch(connection, target, sql, *ask.scope_values, list(ask.terms))
    count: int = rows[0][0]
    return count


async def _fetch(
    connection: Connection, target: Target, sql: str, *bound: object
) -> list[asyncpg.Record]:
    if target.attached is None:
        return await connection.fetch(sql, *bound)
    return await attached_rows.fetch(connection, target.collection, target.attached, sql, *bound)


def values(method: Method, ask: Ask) -> list[object]:
    """Return what is bound to a method's statement, in order."""
    vector: list[object] = [] if method == "lexical" else [ask.vector, str(ask.ef_search)]
    words: list[object] = [] if method == "vector" else [list(ask.terms)]
    return [*ask.scope_values, *vector, *words]


def _statement(target: Target, method: Method, ask: Ask) -> str:
    return statements.statement(
        target,
        method,
        ask.k,
        ask.candidates,
        is_iterative=ask.is_iterative,
        is_exact=ask.is_exact,
        scope=ask.scope,
        policy=ask.policy,
    )


def _hit(target: Target, method: Method, row: asyncpg.Record, place: int) -> Hit:
    # By position: ten hits a search make names cost.
    (_, chunk_id, document_id, source, title, body, start, end, headings, metadata, *scores) = row
    vector_rank: int | None = None
    distance: float | None = None
    lexical_rank: int | None = None
    bm25: float | None = None
    if method == "vector":
        (distance,) = scores
        vector_rank, score = place, _similarity(target, distance)
    elif method == "lexical":
        (bm25,) = scores
        lexical_rank, score = place, bm25
    else:
        score, vector_rank, distance, lexical_rank, bm25 = scores
    return Hit(
        collection=target.collection,
        chunk_id=chunk_id,
        document_id=document_id,
        source=source,
        title=title,
        body=body,
        start=start,
        end=end,
        headings=tuple(headings),
        metadata=json.loads(metadata) if metadata != "{}" else {},
        score=score,
        vector_rank=vector_rank,
        vector_distance=distance,
        lexical_rank=lexical_rank,
        lexical_score=bm25,
    )


def _similarity(target: Target, distance: float) -> float:
    return 1 - distance if target.metric == "cosine" else -distance


def vector_access(plan: Mapping[str, Any]) -> str | None:
    """Return how the vectors were read, such as "Index Scan embedding_3_hnsw"; None if not at all."""
    for node in _nodes(plan["Plan"]):
        if _reads(node, "vector"):
            return f"{node['Node Type']} {node.get('Index Name') or node['Relation Name']}"
    return None


def shape(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the nodes of a plan that read something, in order, whatever space and slot they read."""
    return tuple(
        f"{node['Node Type']} on {_OF_SPACE.sub('', str(read))}"
        for node in _nodes(plan["Plan"])
        if (read := _what_is_read(node)) is not None
    )


def _what_is_read(node: Mapping[str, Any]) -> object:
    table = node.get("Relation Name")
    # An index on trial of an attached table has a name of its own, and does the work of the other.
    if _reads(node, "vector") and "Order By" in node and not _is_own(table):
        return f"{table} by its vectors"
    return node.get("Index Name") or table


def _is_own(table: object) -> bool:
    return str(table).startswith(_TABLES["vector"][0])


def stages_ms(plan: Mapping[str, Any], collection: str) -> dict[str, float]:
    """Return the milliseconds of the parts of an analysed plan, measured by the server."""
    found = {
        "vector": _half_ms(plan["Plan"], "vector", "lexical"),
        "lexical": _half_ms(plan["Plan"], "lexical", "vector"),
        "planning": plan["Planning Time"],
        "statement": plan["Execution Time"],
    }
    return {f"{collection}.{name}": ms for name, ms in found.items() if ms is not None}


def _half_ms(node: Mapping[str, Any], wanted: _Half, other: _Half) -> float | None:
    """Return the time of the largest subtree that reads one half's table and not what hits show."""
    if not any(_reads(n, wanted) for n in _nodes(node)):
        return None
    shown = any(n.get("Alias") in {"content", "origin"} for n in _nodes(node))
    if not shown and not any(_reads(n, other) for n in _nodes(node)):
        total: float = node["Actual Total Time"] * node["Actual Loops"]
        return total
    halves = (_half_ms(child, wanted, other) for child in node.get("Plans", ()))
    return next((ms for ms in halves if ms is not None), None)


def _reads(node: Mapping[str, Any], half: _Half) -> bool:
    """Whether a node reads one half's table. Both halves of an attached table read the same one."""
    table = str(node.get("Relation Name", ""))
    by_name, by_alias = _TABLES[half]
    # A plan numbers what is read more than once: w, w_1.
    alias = re.sub(r"_\d+$", "", str(node.get("Alias", "")))
    return table.startswith(by_name) or bool(table and alias == by_alias)


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)

"""Search: one statement per collection, composed here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import asyncpg
import numpy.typing as npt

from ragline.core.fusion import RRF_K
from ragline.core.results import Hit, Method
from ragline.db import queries
from ragline.db.pool import Connection

# Robertson and Zaragoza (2009): the usual middle of the range that works for most collections.
BM25_K1 = 1.2
BM25_B = 0.75
HNSW_LARGEST_VECTOR = 2000
HNSW_LARGEST_HALFVEC = 4000
_OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The tables that a collection is searched in. `space_id` is None without vectors."""

    collection: str
    collection_id: int
    space_id: int | None = None
    dimension: int = 0
    metric: str = "cosine"
    storage: str = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is searched for. `candidates` is how many each half hands to the fusion.

    An iterative scan goes on until its limit is met: rows deleted but not yet vacuumed can eat up
    what `ef_search` finds. It costs a tenth more, so `vector` asks for it only when rows are missing.
    """

    k: int
    candidates: int
    ef_search: int
    is_iterative: bool = False
    terms: tuple[str, ...] = ()
    vector: npt.ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and the space that was active while they were searched (None: no rows)."""

    hits: tuple[Hit, ...]
    active_space_id: int | None


async def run(connection: Connection, target: Target, method: Method, ask: Ask) -> Found:
    """Return the best `ask.k` chunks of one collection, in one round trip."""
    sql = statement(target, method, ask.k, ask.candidates, is_iterative=ask.is_iterative)
    rows = await connection.fetch(sql, *values(method, ask))
    hits = tuple(_hit(target, method, row, place) for place, row in enumerate(rows, start=1))
    return Found(hits, rows[0][0] if rows else None)


async def explained(
    connection: Connection, target: Target, method: Method, ask: Ask
) -> dict[str, Any]:
    """Return the plan of the same statement with the times of its parts, by running it once more."""
    sql = statement(target, method, ask.k, ask.candidates, is_iterative=ask.is_iterative)
    row = await connection.fetchval(f"explain (analyze, format json) {sql}", *values(method, ask))
    plan: dict[str, Any] = json.loads(row)[0]
    return plan


async def count_matches(connection: Connection, target: Target, method: Method, ask: Ask) -> int:
    """Return how many chunks could have been returned, counted no further than `ask.k`."""
    count = 0
    if method != "lexical" and target.space_id is not None:
        table = _table(target)
        sql = f"select count(*) from (select 1 from {table} limit $1) as nearest"  # noqa: S608
        count = await connection.fetchval(sql, ask.k)
    if method != "vector" and count < ask.k and ask.terms:
        sql = queries.block("lexical", "any_terms")
        count = max(
            count, await connection.fetchval(sql, target.collection_id, list(ask.terms), ask.k)
        )
    return count


def values(method: Method, ask: Ask) -> list[object]:
    """Return what is bound to a method's statement, in order."""
    vector: list[object] = [ask.vector, str(ask.ef_search)]
    if method == "vector":
        return vector
    return [list(ask.terms)] if method == "lexical" else [*vector, list(ask.terms)]


@lru_cache(maxsize=1024)
def statement(
    target: Target, method: Method, k: int, candidates: int, *, is_iterative: bool
) -> str:
    """Return the SQL of a search. What the user says is bound; names and limits are our integers.

    Limits are written out: bound, PostgreSQL guesses a tenth of the table, finds the generic plan too
    dear, and plans every query anew, which costs as much as half the search.
    """
    if method == "vector":
        ranked = _nearest(target, limit=k, is_iterative=is_iterative)
        return _with_content(target, ranked, columns="r.distance", order="r.distance, r.chunk_id")
    if method == "lexical":
        ranked = _best(target, limit=k, terms="$1")
        return _with_content(target, ranked, columns="r.score", order="r.score desc, r.chunk_id")
    ranked = f"""
        select coalesce(v.chunk_id, l.chunk_id) as chunk_id,
               coalesce(1.0::float8 / ({RRF_K} + v.rank)::float8, 0)
               + coalesce(1.0::float8 / ({RRF_K} + l.rank)::float8, 0) as fused,
               v.rank as vector_rank, v.distance, l.rank as lexical_rank, l.score
        from (
            select n.*, row_number() over (order by n.distance, n.chunk_id) as rank
            from ({_nearest(target, limit=candidates, is_iterative=True)}) as n
        ) as v
        full join (
            select b.*, row_number() over (order by b.score desc, b.chunk_id) as rank
            from ({_best(target, limit=candidates, terms="$3")}) as b
        ) as l using (chunk_id)
        order by fused desc, least(v.rank, l.rank), chunk_id
        limit {k:d}
    """  # noqa: S608 -- built from constants and integers only
    return _with_content(
        target,
        ranked,
        columns="r.fused, r.vector_rank, r.distance, r.lexical_rank, r.score",
        order="r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id",
    )


def _with_content(target: Target, ranked: str, *, columns: str, order: str) -> str:
    return f"""
        select (select active_space_id from collection where id = {target.collection_id:d}),
               r.chunk_id, c.document_id, d.source, d.title, c.body, c.start_char, c.end_char,
               c.headings, d.metadata, {columns}
        from ({ranked}) as r
        join chunk c on c.id = r.chunk_id
        join document d on d.id = c.document_id
        order by {order}
    """  # noqa: S608 -- built from constants and integers only


def _nearest(target: Target, *, limit: int, is_iterative: bool) -> str:
    """The nearest vectors. Settings hold for this statement only: `true` makes them local to it."""
    column = _indexed_column(target)
    distance = f"{column} {_OPERATORS[target.metric]} $1::{_indexed_type(target)}"
    settings = "set_config('hnsw.ef_search', $2, true)"
    if is_iterative:
        settings += " || set_config('hnsw.iterative_scan', 'strict_order', true)"
    return f"""
        select chunk_id, {distance} as distance
        from {_table(target)}
        where (select {settings}) is not null
        order by {distance}
        limit {limit:d}
    """  # noqa: S608 -- built from constants and integers only


def _best(target: Target, *, limit: int, terms: str) -> str:
    """The best chunks by BM25, weighed now from raw counts: exact after every write.

    Both sides of an operator have its very types: a nearer match in another schema would be taken.
    """
    return f"""
        select p.chunk_id,
               sum(q.weight * p.frequency::float8 / (
                   p.frequency::float8 + {BM25_K1}::float8
                   * ({1 - BM25_B}::float8 + {BM25_B}::float8 * p.length::float8 / q.mean_length))
               ) as score
        from (
            select t.id as term_id, n.mean_length,
                   w.times * {BM25_K1 + 1}::float8
                   * ln(1::float8 + (n.chunks - s.chunks + 0.5::float8) / (s.chunks + 0.5::float8))
                   as weight
            from (
                select word, count(*)::float8 as times
                from pg_catalog.unnest({terms}::text[]) as word group by 1
            ) as w
            join term t on t.term = w.word
            cross join (
                select sum(chunks)::float8 as chunks,
                       greatest(
                           sum(tokens)::float8 / nullif(sum(chunks)::float8, 0::float8), 1
                       ) as mean_length
                from collection_statistic where collection_id = {target.collection_id:d}
            ) as n
            cross join lateral (
                select sum(chunks)::float8 as chunks
                from term_statistic
                where collection_id = {target.collection_id:d} and term_id = t.id
            ) as s
            where s.chunks > 0::float8
            offset 0
        ) as q
        join posting p
          on p.collection_id = {target.collection_id:d} and p.term_id = q.term_id
        group by p.chunk_id
        order by score desc, p.chunk_id
        limit {limit:d}
    """  # noqa: S608 -- built from constants and integers only


def _table(target: Target) -> str:
    return f"embedding_{target.space_id:d}"


def _indexed_type(target: Target) -> str:
    """What the index holds: beyond 2,000 dimensions only half precision fits its pages."""
    if target.storage == "vector" and not _is_halved(target):
        return f"vector({target.dimension:d})"
    return f"halfvec({target.dimension:d})"


def _indexed_column(target: Target) -> str:
    return f"(embedding::halfvec({target.dimension:d}))" if _is_halved(target) else "embedding"


def _is_halved(target: Target) -> bool:
    return (
        target.storage == "vector"
        and HNSW_LARGEST_VECTOR < target.dimension <= HNSW_LARGEST_HALFVEC
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
        if str(node.get("Relation Name", "")).startswith("embedding_"):
            return f"{node['Node Type']} {node.get('Index Name') or node['Relation Name']}"
    return None


def stages_ms(plan: Mapping[str, Any], collection: str) -> dict[str, float]:
    """Return the milliseconds of the parts of an analysed plan, measured by the server."""
    found = {
        "vector": _half_ms(plan["Plan"], "embedding_", "posting"),
        "lexical": _half_ms(plan["Plan"], "posting", "embedding_"),
        "planning": plan["Planning Time"],
        "statement": plan["Execution Time"],
    }
    return {f"{collection}.{name}": ms for name, ms in found.items() if ms is not None}


def _half_ms(node: Mapping[str, Any], wanted: str, other: str) -> float | None:
    """Return the time of the largest subtree that reads one half's table and nothing else's."""
    tables = {str(n.get("Relation Name", "")) for n in _nodes(node)}
    if not any(table.startswith(wanted) for table in tables):
        return None
    if not any(table.startswith(other) or table in {"chunk", "document"} for table in tables):
        total: float = node["Actual Total Time"] * node["Actual Loops"]
        return total
    halves = (_half_ms(child, wanted, other) for child in node.get("Plans", ()))
    return next((ms for ms in halves if ms is not None), None)


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)

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
    """What is searched for. `candidates` is how many each half hands to the fusion."""

    k: int
    candidates: int
    ef_search: int
    terms: tuple[str, ...] = ()
    vector: npt.ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and the space that was active while they were searched (None: no rows)."""

    hits: tuple[Hit, ...]
    active_space_id: int | None


async def run(connection: Connection, target: Target, method: Method, ask: Ask) -> Found:
    """Return the best `ask.k` chunks of one collection, in one round trip."""
    rows = await connection.fetch(statement(target, method), *values(target, method, ask))
    hits = tuple(_hit(target, method, row, place) for place, row in enumerate(rows, start=1))
    return Found(hits, rows[0]["active_space_id"] if rows else None)


async def explained(
    connection: Connection, target: Target, method: Method, ask: Ask
) -> dict[str, Any]:
    """Return the plan of the same statement with the times of its parts, by running it once more."""
    sql = "explain (analyze, format json) " + statement(target, method)
    row = await connection.fetchval(sql, *values(target, method, ask))
    plan: dict[str, Any] = json.loads(row)[0]
    return plan


async def count_matches(
    connection: Connection, target: Target, method: Method, ask: Ask
) -> int:
    """Return how many chunks could have been returned, counted no further than `ask.k`."""
    count = 0
    if method != "lexical" and target.space_id is not None:
        table = _table(target)
        sql = f"select count(*) from (select 1 from {table} limit $1) as some"  # noqa: S608
        count = await connection.fetchval(sql, ask.k)
    if method != "vector" and count < ask.k and ask.terms:
        sql = queries.block("lexical", "any_terms")
        count = max(
            count, await connection.fetchval(sql, target.collection_id, list(ask.terms), ask.k)
        )
    return count


async def active_space(connection: Connection, collection_id: int) -> int | None:
    """Return the space that searches of a collection use now."""
    sql = "select active_space_id from collection where id = $1"
    space: int | None = await connection.fetchval(sql, collection_id)
    return space


def values(target: Target, method: Method, ask: Ask) -> list[object]:
    """Return what is bound to `statement(target, method)`, in order."""
    vector = [ask.vector, str(ask.ef_search)]
    lexical = [list(ask.terms)]
    bound: dict[Method, list[object]] = {
        "vector": [target.collection_id, ask.k, *vector],
        "lexical": [target.collection_id, ask.k, *lexical],
        "hybrid": [target.collection_id, ask.k, ask.candidates, *vector, *lexical],
    }
    return bound[method]


@lru_cache(maxsize=512)
def statement(target: Target, method: Method) -> str:
    """Return the SQL of a search; every value of the question is bound, none is pasted."""
    if method == "vector":
        return _with_content(
            f"""
            select n.chunk_id, n.distance, {_similarity(target, "n.distance")} as score,
                   null::bigint as vector_rank, null::bigint as lexical_rank,
                   null::float8 as lexical_score
            from ({_nearest(target, limit="$2", vector="$3", ef_search="$4")}) as n
            """
        )
    if method == "lexical":
        return _with_content(
            f"""
            select b.chunk_id, null::float8 as distance, b.score, null::bigint as vector_rank,
                   null::bigint as lexical_rank, b.score as lexical_score
            from ({_best(limit="$2", terms="$3")}) as b
            """
        )
    return _with_content(
        f"""
        select coalesce(v.chunk_id, l.chunk_id) as chunk_id, v.distance,
               coalesce(1.0::float8 / ({RRF_K} + v.rank), 0)
               + coalesce(1.0::float8 / ({RRF_K} + l.rank), 0) as score,
               v.rank as vector_rank, l.rank as lexical_rank, l.score as lexical_score
        from (
            select n.*, row_number() over (order by n.distance, n.chunk_id) as rank
            from ({_nearest(target, limit="$3", vector="$4", ef_search="$5")}) as n
        ) as v
        full join (
            select b.*, row_number() over (order by b.score desc, b.chunk_id) as rank
            from ({_best(limit="$3", terms="$6")}) as b
        ) as l using (chunk_id)
        order by 3 desc, least(v.rank, l.rank), 1
        limit $2
        """
    )


def _with_content(ranked: str) -> str:
    return f"""
        select r.*, c.document_id, c.start_char, c.end_char, c.body, c.headings,
               d.source, d.title, d.metadata,
               (select active_space_id from collection where id = $1) as active_space_id
        from ({ranked}) as r
        join chunk c on c.id = r.chunk_id
        join document d on d.id = c.document_id
        order by r.score desc, least(r.vector_rank, r.lexical_rank), r.chunk_id
    """  # noqa: S608 -- built from constants and integers only


def _nearest(target: Target, *, limit: str, vector: str, ef_search: str) -> str:
    """The nearest vectors. Settings hold for this statement only: `true` makes them local to it.

    The scan goes on until the limit is met (strict order): rows deleted but not yet vacuumed would
    otherwise eat up the candidates and leave too few.
    """
    column = _indexed_column(target)
    distance = f"{column} {_OPERATORS[target.metric]} {vector}::{_indexed_type(target)}"
    return f"""
        select chunk_id, {distance} as distance
        from {_table(target)}
        where (select set_config('hnsw.ef_search', {ef_search}, true)) is not null
          and (select set_config('hnsw.iterative_scan', 'strict_order', true)) is not null
        order by {distance}
        limit {limit}
    """  # noqa: S608 -- built from constants and integers only


def _best(*, limit: str, terms: str) -> str:
    """The best chunks by BM25, weighed now from raw counts: exact after every write."""
    return f"""
        select p.chunk_id,
               sum(q.weight * p.frequency
                   / (p.frequency + {BM25_K1} * ({1 - BM25_B} + {BM25_B} * p.length / q.mean_length))
               ) as score
        from (
            select t.id as term_id, n.mean_length,
                   w.times * {BM25_K1 + 1}
                   * ln(1 + (n.chunks - s.chunks + 0.5::float8) / (s.chunks + 0.5::float8)) as weight
            from (
                select word, count(*)::float8 as times from unnest({terms}::text[]) as word group by 1
            ) as w
            join term t on t.term = w.word
            cross join (
                select sum(chunks)::float8 as chunks,
                       greatest(sum(tokens)::float8 / nullif(sum(chunks), 0), 1) as mean_length
                from collection_statistic where collection_id = $1
            ) as n
            cross join lateral (
                select sum(chunks)::float8 as chunks
                from term_statistic where collection_id = $1 and term_id = t.id
            ) as s
            where s.chunks > 0
            offset 0
        ) as q
        join posting p on p.collection_id = $1 and p.term_id = q.term_id
        group by p.chunk_id
        order by score desc, p.chunk_id
        limit {limit}
    """  # noqa: S608 -- built from constants and integers only


def _similarity(target: Target, distance: str) -> str:
    return f"1 - {distance}" if target.metric == "cosine" else f"-({distance})"


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
    return Hit(
        collection=target.collection,
        chunk_id=row["chunk_id"],
        document_id=row["document_id"],
        source=row["source"],
        title=row["title"],
        body=row["body"],
        start=row["start_char"],
        end=row["end_char"],
        headings=tuple(row["headings"]),
        metadata=json.loads(row["metadata"]),
        score=row["score"],
        vector_rank=place if method == "vector" else row["vector_rank"],
        vector_distance=row["distance"],
        lexical_rank=place if method == "lexical" else row["lexical_rank"],
        lexical_score=row["lexical_score"],
    )


def vector_access(plan: Mapping[str, Any]) -> str | None:
    """Return how the vectors were read, such as "Index Scan embedding_3_hnsw"; None if not at all."""
    for node in _nodes(plan["Plan"]):
        if str(node.get("Relation Name", "")).startswith("embedding_"):
            return f"{node['Node Type']} {node.get('Index Name') or node['Relation Name']}"
    return None


def stages_ms(plan: Mapping[str, Any], collection: str) -> dict[str, float]:
    """Return the milliseconds of the parts of an analysed plan, measured by the server."""
    found = {"vector": _half_ms(plan["Plan"], "embedding_", "posting"),
             "lexical": _half_ms(plan["Plan"], "posting", "embedding_"),
             "planning": plan["Planning Time"], "statement": plan["Execution Time"]}
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

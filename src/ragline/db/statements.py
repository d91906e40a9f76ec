"""The SQL of searches: composed here and nowhere else.

What a user says is bound. Names and limits are our own integers, and limits are written out: bound,
PostgreSQL guesses a tenth of the table, finds the generic plan too dear, and plans every query anew,
which costs as much as half the search. Both sides of an operator have its very types: a nearer match
in another schema would be taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ragline.core import fusion
from ragline.core.attached import Attached
from ragline.core.results import Method
from ragline.core.search_policy import DEFAULT, Iterative, SearchPolicy

# Robertson and Zaragoza (2009): the usual middle of the range that works for most collections.
BM25_K1 = 1.2
BM25_B = 0.75
# How many postings a search reads to find candidates, and how many of these it weighs exactly. What
# this loses of the exact top 10 is measured in the bench of lexical search (2 to 3 of 100 at 100,000
# chunks); `is_exact` switches both off.
LEXICAL_BUDGET = 6_000
LEXICAL_WEIGHED = 250
# What f / (f + k1 (1 - b + b length / mean)) is about in each impact class; class 0 holds any.
_IMPACTS = (0.6, 0.97, *(round(0.94 - 0.04 * n, 2) for n in range(14)), 0.35)
HNSW_LARGEST_VECTOR = 2000
HNSW_LARGEST_HALFVEC = 4000
OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
SIMILARITIES = {
    "cosine": "greatest(1::float8 - distance, 0::float8)",
    "l2": "1::float8 / (1::float8 + distance)",
    "inner_product": "greatest(-distance, 0::float8)",
}
# A filter that keeps little makes the scan go far: further than its defaults of 20,000 rows and once
# work_mem, which is not the same for every role, so that results would differ.
FAR = """|| pg_catalog.set_config('hnsw.max_scan_tuples', '200000', true)
                || pg_catalog.set_config('hnsw.scan_mem_multiplier', '16', true)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The tables that a collection is searched in. `space_id` is None without vectors.

    `slot` is the vector index that is walked, `index_storage` what it holds where that is not what the
    table holds.
    """

    collection: str
    collection_id: int
    space_id: int | None = None
    dimension: int = 0
    metric: str = "cosine"
    storage: str = "vector"
    slot: int = 1
    index_storage: str | None = None
    attached: Attached | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A filter's part in a statement. `condition` and `lookup` are SQL over a row `d` of document.

    They bind $1 to $`parameters`; what else a statement binds comes after these. `ids` selects just
    the allowed documents, as `document_id`, where an index alone can tell.
    `is_small`: the allowed chunks are collected first and all compared. Else indexes are walked in
    their order, and each chunk is looked at until there are enough; the vector index hands over `rows`
    (at least the limit), which are sorted once more.
    """

    condition: str
    lookup: str | None
    parameters: int
    is_small: bool
    ids: str | None = None
    rows: int = 0


@lru_cache(maxsize=1024)
def statement(
    target: Target,
    method: Method,
    k: int,
    candidates: int,
    *,
    is_iterative: bool = False,
    is_exact: bool = False,
    scope: Scope | None = None,
    policy: SearchPolicy = DEFAULT,
) -> str:
    """Return the SQL of a search.

    Bound are what the filter binds, then, as far as the method has them, the vector, ef_search as
    text, and the words. Of the policy the weights, the early exit and the iterative mode are written
    out; `is_iterative` asks for one in strict order where the policy does not say.
    """
    if target.attached is not None:
        from ragline.db import attached_statements  # it is made of parts of this module

        return attached_statements.statement(
            target,
            method,
            k,
            candidates,
            is_iterative=is_iterative,
            is_exact=is_exact,
            scope=scope,
            policy=policy,
        )
    at = after_filter(scope)
    if method == "vector":
        mode = policy.iterative or ("strict_order" if is_iterative else None)
        ranked = _nearest(target, k, mode, is_exact=is_exact, scope=scope)
        columns, order = "r.distance", "r.distance, r.chunk_id"
    elif method == "lexical":
        ranked = _best(
            target, k, policy.early_exit, terms=f"${at:d}", is_exact=is_exact, scope=scope
        )
        columns, order = "r.score", "r.score desc, r.chunk_id"
    else:
        ranked = _fused(target, k, candidates, policy, is_exact=is_exact, scope=scope)
        columns = "r.fused, r.vector_rank, r.distance, r.lexical_rank, r.score"
        order = "r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id"
    return f"""
        {_allowed(target, scope)}
        select (select search_version from collection where id = {target.collection_id:d}),
               r.chunk_id, content.document_id, origin.source, origin.title, content.body,
               content.start_char, content.end_char, content.headings, origin.metadata, {columns}
        from ({ranked}) as r
        join chunk content on content.id = r.chunk_id
        join document origin on origin.id = content.document_id
        order by {order}
    """  # noqa: S608 -- built from constants and integers only


@lru_cache(maxsize=1024)
def counting_statement(target: Target, method: Method, k: int, scope: Scope | None) -> str:
    """Return the SQL that counts, up to `k`, what a search could return at most.

    Bound are what the filter binds, then the words, even where the method goes by vectors alone.
    """
    if target.attached is not None:
        from ragline.db import attached_statements  # it is made of parts of this module

        return attached_statements.counting_statement(target, method, k, scope)
    words = f"${after_filter(scope):d}::text[]"
    counts = []
    if method != "lexical":
        counts.append(_counted_vectors(target, k, scope))
    if method != "vector":
        counts.append(_counted_words(target, k, words, scope))
    return f"select greatest({', '.join(counts)}) where {words} is not null"


def _counted_vectors(target: Target, k: int, scope: Scope | None) -> str:
    source = f"{table(target)} e"
    if scope is not None:
        source += " join chunk c on c.id = e.chunk_id join document d on d.id = c.document_id"
    return f"""(select pg_catalog.count(*) from (
            select 1 from {source} {_and_where(target, scope, first="where")} limit {k:d}
        ) as near)"""  # noqa: S608 -- built from constants and integers only


def _counted_words(target: Target, k: int, words: str, scope: Scope | None) -> str:
    asked = f"array(select id from term where term = any ({words}))"  # noqa: S608 -- a parameter's number
    if scope is not None:
        return f"""(select pg_catalog.count(*) from (
            select 1 from document d join chunk c on c.document_id = d.id
            where c.term_ids operator(pg_catalog.&&) {asked} {_and_where(target, scope)}
            limit {k:d}
        ) as worded)"""  # noqa: S608 -- built from constants and integers only
    return f"""(select pg_catalog.count(*) from (
            select b.first_chunk_id + o.chunk
            from posting_block b cross join lateral pg_catalog.unnest(b.offsets) as o (chunk)
            where b.collection_id = {target.collection_id:d} and b.term_id = any ({asked})
              and not exists (
                  select from dead_chunk dead
                  where dead.collection_id = {target.collection_id:d}
                    and dead.chunk_id = b.first_chunk_id + o.chunk
              )
            union
            select f.chunk_id from fresh_chunk f
            where f.collection_id = {target.collection_id:d}
              and f.term_ids operator(pg_catalog.&&) {asked}
            limit {k:d}
        ) as worded)"""  # noqa: S608 -- built from constants and integers only


def after_filter(scope: Scope | None) -> int:
    """Return the number of the first parameter after those that a filter binds."""
    return 1 + (scope.parameters if scope else 0)


def _and_where(target: Target, scope: Scope | None, first: str = "and") -> str:
    if scope is None:
        return ""
    parts = [f"d.collection_id = {target.collection_id:d}", f"({scope.condition})"]
    if scope.lookup:
        parts.append(f"({scope.lookup})")
    return f"{first} " + " and ".join(parts)


def _allowed(target: Target, scope: Scope | None) -> str:
    """The chunks that a filter allows, once, where they are few."""
    if scope is None or not scope.is_small:
        return ""
    # Arrays: joined, the planner takes its guess of how many there are for a reason to read all.
    source = (
        f"chunk c where c.document_id = any (array(select i.document_id from ({scope.ids}) as i))"  # noqa: S608 -- our own SQL
        if scope.ids
        else f"document d join chunk c on c.document_id = d.id {_and_where(target, scope, 'where')}"
    )
    return f"""with allowed as materialized (
            select array(select c.id from {source}) as chunk_ids
        )"""  # noqa: S608 -- built from constants and integers only


def _is_allowed(chunk_id: str) -> str:
    allowed = "(select chunk_ids from allowed)"
    return f"{chunk_id} = any ({allowed}::bigint[])"


def _passes(scope: Scope, chunk_id: str) -> str:
    """Whether a filter allows one chunk. A scalar subquery: a join would be turned into a scan."""
    return f"""(select {scope.condition}
                from chunk c join document d on d.id = c.document_id
                where c.id = {chunk_id})"""  # noqa: S608 -- built from our own names


def _fused(
    target: Target,
    k: int,
    candidates: int,
    policy: SearchPolicy,
    *,
    is_exact: bool,
    scope: Scope | None,
) -> str:
    """Both halves, each score as a share of the best one of its half: `core.fusion.combined`."""
    mode = policy.iterative or (None if scope else "strict_order")
    nearest = _nearest(target, candidates, mode, is_exact=is_exact, scope=scope)
    terms = f"${after_filter(scope) + 2:d}"
    best = _best(target, candidates, policy.early_exit, terms=terms, is_exact=is_exact, scope=scope)
    return fused(target.metric, k, nearest, best, policy)


def fused(metric: str, k: int, nearest: str, best: str, policy: SearchPolicy) -> str:
    """Return the SQL that joins both halves, each a select of chunk_id and distance, or score."""
    weights = fusion.weights(policy.vector_weight)
    return f"""
        select coalesce(v.chunk_id, l.chunk_id) as chunk_id,
               {weights.vector}::float8 * coalesce(v.share, 0::float8)
               + {weights.words}::float8 * coalesce(l.share, 0::float8) as fused,
               v.rank as vector_rank, v.distance, l.rank as lexical_rank, l.score
        from (
            select n.*, pg_catalog.row_number() over (order by n.distance, n.chunk_id) as rank,
                   n.similarity / nullif(pg_catalog.max(n.similarity) over (), 0::float8) as share
            from (
                select chunk_id, distance, {SIMILARITIES[metric]} as similarity
                from ({nearest}) as nearest
            ) as n
        ) as v
        full join (
            select b.*, pg_catalog.row_number() over (order by b.score desc, b.chunk_id) as rank,
                   b.score / nullif(pg_catalog.max(b.score) over (), 0::float8) as share
            from ({best}) as b
        ) as l using (chunk_id)
        order by fused desc, least(v.rank, l.rank), chunk_id
        limit {k:d}
    """  # noqa: S608 -- built from constants and integers only


def _nearest(
    target: Target, limit: int, mode: Iterative | None, *, is_exact: bool, scope: Scope | None
) -> str:
    """The nearest vectors. Settings hold for this statement only: `true` makes them local to it."""
    at = after_filter(scope)
    if is_exact or (scope and scope.is_small):
        return _every_distance(target, limit, scope)
    distance = _distance(target, at, is_halved=_is_halved(target))
    settings = f"pg_catalog.set_config('hnsw.ef_search', ${at + 1:d}, true)"
    if scope:
        # Out of order by a little and sorted again, it is quicker and finds more than in strict order.
        order = mode or "relaxed_order"
        settings += f"|| pg_catalog.set_config('hnsw.iterative_scan', '{order}', true) {FAR}"
    elif mode:
        settings += f" || pg_catalog.set_config('hnsw.iterative_scan', '{mode}', true)"
    walked = f"""
        select e.chunk_id, {distance} as distance
        from {table(target)} e
        where (select {settings}) is not null {_in_slot(target)} {_and_passes(scope, "e.chunk_id")}
        order by {distance}
        limit {max(limit, scope.rows) if scope else limit:d}
    """  # noqa: S608 -- built from constants and integers only
    if scope is None:
        return walked
    return f"select * from ({walked}) as walked order by distance, chunk_id limit {limit:d}"  # noqa: S608


def _in_slot(target: Target) -> str:
    """What only the index of one slot is made for; true of every chunk, whose numbers begin at 1."""
    return f"and e.chunk_id <> -{target.slot:d}" if target.slot else ""


def _and_passes(scope: Scope | None, chunk_id: str) -> str:
    return f"and {_passes(scope, chunk_id)}" if scope else ""


def _every_distance(target: Target, limit: int, scope: Scope | None) -> str:
    # What the table holds, not an index's shorter form of it, except where none but that was ever used.
    distance = _distance(target, after_filter(scope), is_halved=_is_halved_always(target))
    allowed = f"and {_is_allowed('e.chunk_id')}" if scope else ""
    # Sorted outside, where no index can: every vector is compared.
    return f"""
        select chunk_id, distance
        from (
            select e.chunk_id, {distance} as distance from {table(target)} e
            where ${after_filter(scope) + 1:d}::text is not null {allowed} offset 0
        ) as compared
        order by distance, chunk_id
        limit {limit:d}
    """  # noqa: S608 -- built from constants and integers only


def _best(
    target: Target,
    limit: int,
    early_exit: int | None,
    *,
    terms: str,
    is_exact: bool,
    scope: Scope | None,
) -> str:
    """The best chunks by BM25, weighed now from raw counts: exact after every write.

    Blocks of postings are read in the order of what they can add to a score, until a budget is spent:
    they say which chunks are worth weighing. Without the budget every chunk with a word is weighed.
    """
    if scope and scope.is_small:
        weighed = _weighed("chunk x", "x.id", f"and {_is_allowed('x.id')}")
    else:
        weighed = f"""
            {_weighed("candidate n join chunk x on x.id = n.chunk_id", "x.id")}
            union all
            {_weighed_fresh(target, scope)}
        """
    candidate = (
        ""
        if scope and scope.is_small
        else _candidates(target, limit, early_exit, is_exact=is_exact, scope=scope)
    )
    return f"""
        with asked as materialized ({_asked(target, terms)}) {candidate}
        select chunk_id, score from ({weighed}) as weighed
        order by score desc, chunk_id
        limit {limit:d}
    """  # noqa: S608 -- built from constants and integers only


def _candidates(
    target: Target, limit: int, early_exit: int | None, *, is_exact: bool, scope: Scope | None
) -> str:
    postings = max(early_exit or LEXICAL_BUDGET, 50 * limit)
    budget = "" if is_exact else f"where b.before < {postings:d}::bigint"
    weighed = max(LEXICAL_WEIGHED, 2 * limit)
    dead = f"from dead_chunk d where d.collection_id = {target.collection_id:d}"
    # Sorted as far as may be needed: for a filter nobody knows how far that is.
    dead_count = f"(select pg_catalog.count(*) {dead})"
    first = "offset 0" if is_exact or scope else f"limit {weighed:d} + {dead_count}"
    passes = _and_passes(scope, "named.chunk_id")
    return f""", block as (
            select first_chunk_id, offsets, gain,
                   pg_catalog.sum(entries) over (order by gain desc rows unbounded preceding)
                   - entries as before
            from (
                select b.first_chunk_id, b.offsets, pg_catalog.cardinality(b.offsets) as entries,
                       a.weight * (array{list(_IMPACTS)}::float8[])[b.impact + 1] as gain
                from asked a
                join posting_block b
                  on b.collection_id = {target.collection_id:d} and b.term_id = a.term_id
            ) as every
        ),
        candidate as (
            select chunk_id
            from (
                select b.first_chunk_id + o.chunk as chunk_id, pg_catalog.sum(b.gain) as gain
                from block b cross join lateral pg_catalog.unnest(b.offsets) as o (chunk)
                {budget}
                group by 1
                order by gain desc, chunk_id {first}
            ) as named
            where (select true {dead} and d.chunk_id = named.chunk_id) is null {passes}
            {"" if is_exact else f"limit {weighed:d}"}
        )
    """  # noqa: S608 -- built from constants and integers only


def _weighed(source: str, chunk_id: str, where: str = "") -> str:
    """The score of every chunk `x` of `source` that holds a word asked for."""
    return f"""
            select {chunk_id} as chunk_id,
                   pg_catalog.sum(a.weight * f.frequency / (
                       f.frequency + {BM25_K1}::float8 * (
                           {1 - BM25_B}::float8 + {BM25_B}::float8 * x.length::float8 / a.mean_length
                       )
                   )) as score
            from {source}
            cross join asked a
            cross join lateral (
                select pg_catalog.array_position(x.term_ids, a.term_id) as place offset 0
            ) as p
            cross join lateral (
                select pg_catalog.get_byte(x.frequencies, p.place - 1)::float8 as frequency
            ) as f
            where p.place is not null {where}
            group by {chunk_id}
    """  # noqa: S608 -- built from constants and integers only


def _weighed_fresh(target: Target, scope: Scope | None) -> str:
    passes = _and_passes(scope, "x.chunk_id")
    return _weighed(
        "fresh_chunk x", "x.chunk_id", f"and x.collection_id = {target.collection_id:d} {passes}"
    )


def _asked(target: Target, terms: str) -> str:
    """The words asked for that the collection has, each with its weight."""
    return f"""
            select t.id as term_id, n.mean_length,
                   w.times * {BM25_K1 + 1}::float8
                   * pg_catalog.ln(
                       1::float8 + (n.chunks - s.chunks + 0.5::float8) / (s.chunks + 0.5::float8)
                   )
                   as weight
            from (
                select word, pg_catalog.count(*)::float8 as times
                from pg_catalog.unnest({terms}::text[]) as word group by 1
            ) as w
            join term t on t.term = w.word
            cross join (
                select pg_catalog.sum(chunks)::float8 as chunks,
                       greatest(
                           pg_catalog.sum(tokens)::float8
                           / nullif(pg_catalog.sum(chunks)::float8, 0::float8),
                           1
                       ) as mean_length
                from collection_statistic where collection_id = {target.collection_id:d}
            ) as n
            cross join lateral (
                select (coalesce((
                           select chunks from term_statistic
                           where collection_id = {target.collection_id:d} and term_id = t.id
                       ), 0) + (
                           select pg_catalog.count(*) from fresh_chunk f
                           where f.collection_id = {target.collection_id:d} and t.id = any (f.term_ids)
                       ) - (
                           select pg_catalog.count(*) from dead_chunk d
                           where d.collection_id = {target.collection_id:d} and t.id = any (d.term_ids)
                       ))::float8 as chunks
                offset 0
            ) as s
            where s.chunks > 0::float8
    """  # noqa: S608 -- built from constants and integers only


def table(target: Target) -> str:
    """Return the name of the table that holds the vectors."""
    return f"embedding_{target.space_id:d}"


def _distance(target: Target, at: int, *, is_halved: bool) -> str:
    """The distance to the vector bound as $`at`, of the vectors or of their halves."""
    column = f"(embedding::halfvec({target.dimension:d}))" if is_halved else "embedding"
    kind = "halfvec" if is_halved else target.storage
    return f"{column} {OPERATORS[target.metric]} ${at:d}::{kind}({target.dimension:d})"


def _is_halved(target: Target) -> bool:
    """Whether the index holds the vectors in half their precision, and the table does not."""
    return _is_halved_always(target) or (
        target.storage == "vector"
        and target.index_storage == "halfvec"
        and target.dimension <= HNSW_LARGEST_VECTOR
    )


def _is_halved_always(target: Target) -> bool:
    """Beyond 2,000 dimensions only half precision fits an index's pages."""
    return (
        target.storage == "vector"
        and HNSW_LARGEST_VECTOR < target.dimension <= HNSW_LARGEST_HALFVEC
    )

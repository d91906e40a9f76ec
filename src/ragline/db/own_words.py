"""The SQL of the words half of a search of our own tables: BM25 of blocks of postings."""

from __future__ import annotations

from ragline.db.own_statements import and_passes, and_where, is_allowed
from ragline.db.targets import BM25_B, BM25_K1, LEXICAL_WEIGHED, Scope, Target

# How many postings a search reads to find candidates, of which it weighs LEXICAL_WEIGHED. What this
# loses of the exact top 10 is measured in the bench of lexical search (2 to 3 of 100 at 100,000
# chunks); `is_exact` switches both off.
LEXICAL_BUDGET = 6_000
# What f / (f + k1 (1 - b + b length / mean)) is about in each impact class; class 0 holds any.
_IMPACTS = (0.6, 0.97, *(round(0.94 - 0.04 * n, 2) for n in range(14)), 0.35)


def counted(target: Target, k: int, words: str, scope: Scope | None) -> str:
    """Return the SQL that counts the chunks with one of the words, up to `k`."""
    asked = f"array(select id from term where term = any ({words}))"  # noqa: S608 -- a parameter's number
    if scope is not None:
        return f"""(select pg_catalog.count(*) from (
            select 1 from document d join chunk c on c.document_id = d.id
            where c.term_ids operator(pg_catalog.&&) {asked} {and_where(target, scope)}
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


def best(
    target: Target,
    limit: int,
    early_exit: int | None,
    *,
    words: str,
    is_exact: bool,
    scope: Scope | None,
) -> str:
    """Return the SQL of the best chunks by BM25, as chunk_id and score.

    Weighed now from raw counts, it is exact after every write. Blocks of postings are read in the order
    of what they can add to a score, until a budget is spent: they say which chunks are worth weighing.
    Without the budget every chunk with a word is weighed.
    """
    if scope and scope.is_small:
        weighed = _weighed("chunk x", "x.id", f"and {is_allowed('x.id')}")
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
        with asked as materialized ({_asked(target, words)}) {candidate}
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
    passes = and_passes(scope, "named.chunk_id")
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
    passes = and_passes(scope, "x.chunk_id")
    return _weighed(
        "fresh_chunk x", "x.chunk_id", f"and x.collection_id = {target.collection_id:d} {passes}"
    )


def _asked(target: Target, words: str) -> str:
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
                from pg_catalog.unnest({words}::text[]) as word group by 1
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

"""The SQL of searches: composed of a half by vectors and a half by words, our own and of others.

What a user says is bound. Names and limits are our own integers, and limits are written out: bound,
PostgreSQL guesses a tenth of the table, finds the generic plan too dear, and plans every query anew,
which costs as much as half the search.
"""

from __future__ import annotations

from functools import lru_cache, partial

from ragline.core import fusion
from ragline.core.results import Method
from ragline.core.search_policy import DEFAULT, SearchPolicy
from ragline.db import attached_statements, own_statements, own_words
from ragline.db.targets import Scope, Target, after_filter

SIMILARITIES = {
    "cosine": "greatest(1::float8 - distance, 0::float8)",
    "l2": "1::float8 / (1::float8 + distance)",
    "inner_product": "greatest(-distance, 0::float8)",
}


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
    is_own = target.attached is None
    by_vectors = own_statements.nearest if is_own else attached_statements.nearest
    by_words = own_words.best if is_own else attached_statements.best
    shown = own_statements.shown if is_own else attached_statements.shown
    nearest = partial(by_vectors, target, is_exact=is_exact, scope=scope)
    best = partial(by_words, target, is_exact=is_exact, scope=scope)
    at, early_exit = after_filter(scope), policy.early_exit
    if method == "vector":
        mode = policy.iterative or ("strict_order" if is_iterative else None)
        ranked = nearest(k, mode)
        columns, order = "r.distance", "r.distance, r.chunk_id"
    elif method == "lexical":
        ranked = best(k, early_exit, words=f"${at:d}")
        columns, order = "r.score", "r.score desc, r.chunk_id"
    else:
        mode = policy.iterative or (None if scope else "strict_order")
        words = best(candidates, early_exit, words=f"${at + 2:d}")
        ranked = _fused(target.metric, k, nearest(candidates, mode), words, policy)
        columns = "r.fused, r.vector_rank, r.distance, r.lexical_rank, r.score"
        order = "r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id"
    return shown(target, ranked, columns, order, scope)


@lru_cache(maxsize=1024)
def counting_statement(target: Target, method: Method, k: int, scope: Scope | None) -> str:
    """Return the SQL that counts, up to `k`, what a search could return at most.

    Bound are what the filter binds, then the words, even where the method goes by vectors alone.
    """
    is_own = target.attached is None
    of_vectors = own_statements.counted if is_own else attached_statements.counted
    of_words = own_words.counted if is_own else attached_statements.counted_by_words
    words = f"${after_filter(scope):d}::text[]"
    counts = []
    if method != "lexical":
        counts.append(of_vectors(target, k, scope))
    if method != "vector":
        counts.append(of_words(target, k, words, scope))
    return f"select greatest({', '.join(counts)}) where {words} is not null"


def _fused(metric: str, k: int, nearest: str, best: str, policy: SearchPolicy) -> str:
    """Join both halves, each score as a share of the best one of its half: `core.fusion.combined`."""
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

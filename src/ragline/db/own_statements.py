"""The SQL of searches of our own tables: what their filters keep, and the vectors half.

Both sides of an operator have its very types: a nearer match in another schema would be taken.
"""

from __future__ import annotations

from ragline.core import hnsw
from ragline.core.search_policy import Iterative
from ragline.db.targets import FAR, OPERATORS, Scope, Target, after_filter


def shown(target: Target, ranked: str, columns: str, order: str, scope: Scope | None) -> str:
    """Return the SQL of the hits that `ranked` selects, with its `columns`."""
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


def counted(target: Target, k: int, scope: Scope | None) -> str:
    """Return the SQL that counts the vectors that a filter allows, up to `k`."""
    source = f"{table(target)} e"
    if scope is not None:
        source += " join chunk c on c.id = e.chunk_id join document d on d.id = c.document_id"
    return f"""(select pg_catalog.count(*) from (
            select 1 from {source} {and_where(target, scope, first="where")} limit {k:d}
        ) as near)"""  # noqa: S608 -- built from constants and integers only


def and_where(target: Target, scope: Scope | None, first: str = "and") -> str:
    """Return the condition that a filter allows a row `d` of document; nothing without one."""
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
        else f"document d join chunk c on c.document_id = d.id {and_where(target, scope, 'where')}"
    )
    return f"""with allowed as materialized (
            select array(select c.id from {source}) as chunk_ids
        )"""  # noqa: S608 -- built from constants and integers only


def is_allowed(chunk_id: str) -> str:
    """Return the condition that a chunk is one of the few that a filter allows."""
    allowed = "(select chunk_ids from allowed)"
    return f"{chunk_id} = any ({allowed}::bigint[])"


def _passes(scope: Scope, chunk_id: str) -> str:
    """Whether a filter allows one chunk. A scalar subquery: a join would be turned into a scan."""
    return f"""(select {scope.condition}
                from chunk c join document d on d.id = c.document_id
                where c.id = {chunk_id})"""  # noqa: S608 -- built from our own names


def nearest(
    target: Target, limit: int, mode: Iterative | None, *, is_exact: bool, scope: Scope | None
) -> str:
    """Return the SQL of the nearest vectors, as chunk_id and distance.

    Settings hold for this statement only: `true` makes them local to it.
    """
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
        where (select {settings}) is not null {_in_slot(target)} {and_passes(scope, "e.chunk_id")}
        order by {distance}
        limit {max(limit, scope.rows) if scope else limit:d}
    """  # noqa: S608 -- built from constants and integers only
    if scope is None:
        return walked
    return f"select * from ({walked}) as walked order by distance, chunk_id limit {limit:d}"  # noqa: S608


def _in_slot(target: Target) -> str:
    """What only the index of one slot is made for; true of every chunk, whose numbers begin at 1."""
    return f"and e.chunk_id <> -{target.slot:d}" if target.slot else ""


def and_passes(scope: Scope | None, chunk_id: str) -> str:
    """Return the condition that a filter allows a chunk; nothing without one."""
    return f"and {_passes(scope, chunk_id)}" if scope else ""


def _every_distance(target: Target, limit: int, scope: Scope | None) -> str:
    # What the table holds, not an index's shorter form of it, except where none but that was ever used.
    distance = _distance(target, after_filter(scope), is_halved=_is_halved_always(target))
    allowed = f"and {is_allowed('e.chunk_id')}" if scope else ""
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
        and target.dimension <= hnsw.LARGEST["vector"]
    )


def _is_halved_always(target: Target) -> bool:
    """Beyond 2,000 dimensions only half precision fits an index's pages."""
    return (
        target.storage == "vector"
        and hnsw.LARGEST["vector"] < target.dimension <= hnsw.LARGEST["halfvec"]
    )

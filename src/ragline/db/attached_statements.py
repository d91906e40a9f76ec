"""The SQL of searches of attached tables: what somebody would write by hand, with its rows as hits.

Names come from the catalog and go through `attached_sql`; what a user says is bound. The rows a half
found are joined to their table again by the key, so that nothing wide is sorted.
"""

from __future__ import annotations

from ragline.core.attached import Attached
from ragline.core.search_policy import Iterative
from ragline.db import attached_filters, attached_sql, attached_words
from ragline.db.targets import FAR, OPERATORS, Scope, Target, after_filter

ALIAS = "e"
"""The row that conditions of a `Scope` are about."""


def shown(target: Target, ranked: str, columns: str, order: str, _scope: Scope | None) -> str:
    """Return the SQL of the hits that `ranked` selects; the same columns as of our own tables.

    The first column is null where the table is no longer the one that was attached.
    """
    attached = described(target)
    number = attached_sql.number(attached, "content")
    key = attached_sql.key(attached, "content")
    text = f"coalesce({attached_sql.column(attached.text, 'content')}::text, '')"
    return f"""
        select {_version(target)},
               {number}, {number}, {key}::text, null::text, {text},
               0, pg_catalog.char_length({text}), '{{}}'::text[],
               {attached_filters.metadata(attached, "content")}, {columns}
        from ({ranked}) as r
        join {attached_sql.table(attached)} content on {key} = r.chunk_id
        order by {order}
    """  # noqa: S608 -- built from constants, integers and quoted names


def counted(target: Target, k: int, scope: Scope | None) -> str:
    """Return the SQL that counts the vectors that can be found, up to `k`."""
    return _counted(described(target), k, scope, has_direction(target))


def counted_by_words(target: Target, k: int, words: str, scope: Scope | None) -> str:
    """Return the SQL that counts the rows with one of the words, up to `k`."""
    attached = described(target)
    found = attached_words.matches(attached, f"({attached_words.any_of(attached, words)})")
    return _counted(attached, k, scope, found)


def described(target: Target) -> Attached:
    """Return the table that a target is."""
    if target.attached is None:
        raise TypeError(f"collection {target.collection!r} is not an attached table")
    return target.attached


def has_direction(target: Target) -> str:
    """Return the condition that a row has a vector that can be found: none of nulls, or of length 0."""
    attached = described(target)
    there = f"{attached_sql.column(attached.embedding, ALIAS)} is not null"
    if target.metric != "cosine":
        return there
    whole = whole_vector(target)
    distance = f"({whole} {OPERATORS[target.metric]} {whole})"
    # Not `and`: what belongs to others may have other dimensions.
    return f"(case when {there} then {distance} <> 'NaN'::float8 else false end)"


def whole_vector(target: Target) -> str:
    """Return the vector of a row as the table holds it, with its dimension."""
    return attached_sql.vector(
        described(target),
        held=target.storage,
        storage=target.storage,
        dimension=target.dimension,
        vector_schema=None,
        alias=ALIAS,
    )


def _version(target: Target) -> str:
    """What a search depends on besides the rows; null where the table is not what was attached."""
    name = attached_sql.literal(attached_sql.table(described(target)))
    return f"""(
                   select c.search_version
                   from collection c join attached_table a on a.collection_id = c.id
                   join pg_catalog.pg_class t on t.oid = a.table_oid and not t.relrowsecurity
                   where c.id = {target.collection_id:d} and a.table_oid = {name}::regclass::oid
               )"""  # noqa: S608 -- an integer and a quoted name


def _counted(attached: Attached, k: int, scope: Scope | None, condition: str) -> str:
    return f"""(select pg_catalog.count(*) from (
            select 1 from {attached_sql.table(attached)} {ALIAS}
            where {_among(attached, scope, [condition])} limit {k:d}
        ) as counted)"""  # noqa: S608 -- built from constants, integers and quoted names


def _among(attached: Attached, scope: Scope | None, conditions: list[str]) -> str:
    """Which rows are looked at one by one, found by an index of their owner's where one can."""
    said = [attached_sql.belongs(attached, ALIAS)]
    if scope is not None:
        said.append(f"({scope.condition})")
        if scope.lookup:
            said.append(f"({scope.lookup})")
    return " and ".join(part for part in (*said, *conditions) if part != "true") or "true"


def nearest(
    target: Target, limit: int, mode: Iterative | None, *, is_exact: bool, scope: Scope | None
) -> str:
    """Return the SQL of the nearest vectors, as chunk_id and distance.

    Settings hold for this statement only: `true` makes them local to it.
    """
    attached = described(target)
    at = after_filter(scope)
    if is_exact or (scope and scope.is_small):
        return _every_distance(target, limit, scope)
    held, stored = target.storage, target.index_storage or target.storage
    indexed = attached_sql.vector(
        attached,
        held=held,
        storage=stored,
        dimension=target.dimension,
        vector_schema=None,
        slot=target.slot,
        alias=ALIAS,
    )
    distance = _distance(target, indexed, stored, at)
    others = [f"{attached_sql.column(attached.embedding, ALIAS)} is not null"]
    if scope:
        # Hidden from the planner: it would take its guess of the share for a reason to read all.
        others.append(f"(case when {scope.condition} then true else false end)")
    walked = f"""
        select {_key(attached)} as chunk_id, {distance} as distance
        from {attached_sql.table(attached)} {ALIAS}
        where (select {_settings(attached, at + 1, mode, scope)}) is not null
          and {_among(attached, None, others)}
        order by {distance}
        limit {max(limit, scope.rows) if scope else limit:d}
    """  # noqa: S608 -- built from constants, integers and quoted names
    return _in_order(walked, limit)


def _settings(
    attached: Attached, ef_search: int, mode: Iterative | None, scope: Scope | None
) -> str:
    """Set how the index is walked, for this statement only, whichever kind of index it is."""
    settings = [f"pg_catalog.set_config('hnsw.ef_search', ${ef_search:d}, true)", _probes(attached)]
    # Rows of others in the same table are walked past, like those that a filter drops.
    is_sparse = bool(scope or attached.only)
    order = mode or ("relaxed_order" if scope else "strict_order" if attached.only else None)
    if order:
        settings.append(f"pg_catalog.set_config('hnsw.iterative_scan', '{order}', true)")
        # It knows no strict order; what it finds is sorted again.
        lists = "off" if order == "off" else "relaxed_order"
        settings.append(f"pg_catalog.set_config('ivfflat.iterative_scan', '{lists}', true)")
    return " || ".join(settings) + (f" {FAR}" if is_sparse and order != "off" else "")


def _probes(attached: Attached) -> str:
    """Have an IVFFlat index look into the square root of its lists, or as many as somebody set.

    Its default of 1 finds next to nothing; nothing is set where the table has no such index.
    """
    name = attached_sql.literal(attached_sql.table(attached))
    return f"""coalesce((
            select pg_catalog.set_config('ivfflat.probes', greatest(
                pg_catalog.ceil(pg_catalog.sqrt(coalesce((
                    select option_value from pg_catalog.pg_options_to_table(x.reloptions)
                    where option_name = 'lists'
                ), '100')::float8))::integer,
                pg_catalog.current_setting('ivfflat.probes', true)::integer
            )::text, true)
            from pg_catalog.pg_index i
            join pg_catalog.pg_class x on x.oid = i.indexrelid
            join pg_catalog.pg_am m on m.oid = x.relam
            where i.indrelid = {name}::regclass::oid and m.amname = 'ivfflat' limit 1
        ), '')"""  # noqa: S608 -- a quoted name


def _every_distance(target: Target, limit: int, scope: Scope | None) -> str:
    attached = described(target)
    at = after_filter(scope)
    distance = _distance(target, whole_vector(target), target.storage, at)
    there = f"{attached_sql.column(attached.embedding, ALIAS)} is not null"
    # Sorted outside, where no index can: every vector is compared.
    compared = f"""
        select {_key(attached)} as chunk_id, {distance} as distance
        from {attached_sql.table(attached)} {ALIAS}
        where ${at + 1:d}::text is not null and {_among(attached, scope, [there])} offset 0
    """  # noqa: S608 -- built from constants, integers and quoted names
    return _in_order(compared, limit)


def _in_order(rows: str, limit: int) -> str:
    # A vector of length 0 has no cosine distance to anything: no hit, and last where all are compared.
    return f"""
        select chunk_id, distance from ({rows}) as compared
        where distance <> 'NaN'::float8
        order by distance, chunk_id
        limit {limit:d}
    """  # noqa: S608 -- built from constants, integers and quoted names


def best(
    target: Target,
    limit: int,
    early_exit: int | None,
    *,
    words: str,
    is_exact: bool,
    scope: Scope | None,
) -> str:
    """Return the SQL of the best rows by any of the words, the rarer and the more often the better."""
    attached = described(target)
    return attached_words.best(
        attached,
        limit,
        early_exit,
        row=ALIAS,
        words=words,
        among=lambda conditions: _among(attached, scope, conditions),
        is_exact=is_exact,
        is_small=bool(scope and scope.is_small),
    )


def _key(attached: Attached) -> str:
    return attached_sql.key(attached, ALIAS)


def _distance(target: Target, vector: str, storage: str, at: int) -> str:
    asked = f"${at:d}::{storage}({target.dimension:d})"
    return f"{vector} {OPERATORS[target.metric]} {asked}"

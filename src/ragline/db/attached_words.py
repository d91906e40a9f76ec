"""The SQL of the words half of a search of an attached table: BM25 of what an index of words knows.

Nobody keeps statistics of somebody else's table. How rare a word is, is counted in its index, up to a
limit; how often a row holds it, is read from the row's tsvector, of few rows.
"""

from __future__ import annotations

from collections.abc import Callable

from ragline.core.attached import Attached
from ragline.db import attached_sql
from ragline.db.targets import BM25_B, BM25_K1, LEXICAL_WEIGHED

ALIAS = "w"
"""What plans call the table where it is read by words."""
# Rows are found by the rarest words that have so many together; so many of one word are read at most.
BUDGET = 3_000
# How many rows are read to say how many hold a word: how far they reach in the table tells the rest.
_COUNTED = 500
# ts_rank of one word is the sum of 1/n² up to its frequency, as a share of what that converges to.
# Beyond 15 a word weighs the same: BM25 has long levelled off.
_CONVERGES_TO = 1.64493406685
_FREQUENCIES = tuple(
    round(sum(1 / (n * n) for n in range(1, times + 1)) / _CONVERGES_TO - 0.001, 5)
    for times in range(1, 16)
)
# All labels alike.
_LABELS = "'{1,1,1,1}'::real[]"

Rows = Callable[[list[str]], str]
"""Conditions to which those of the collection and of a filter are added."""


def best(
    attached: Attached,
    limit: int,
    early_exit: int | None,
    *,
    row: str,
    words: str,
    among: Rows,
    is_exact: bool,
    is_small: bool,
) -> str:
    """Return the SQL of the best rows, as chunk_id and score.

    `row` is the alias that `among` is about.
    """
    if attached.words is None:
        raise TypeError(f"table {attached.table!r} has no index of its words")
    budget = max(early_exit or BUDGET, 50 * limit)
    if is_exact or is_small:
        held = _every_row(attached, row, among)
    else:
        held = _likely_rows(attached, row, among, budget, max(LEXICAL_WEIGHED, 2 * limit))
    counted = None if is_exact else _COUNTED
    return f"""
        with word as materialized ({_words(attached, words)}),
        asked as materialized ({_weights(attached, row, counted)}),
        held as materialized ({held})
        select chunk_id, pg_catalog.sum(
                   weight * frequency / (
                       frequency + {BM25_K1}::float8 * (
                           {1 - BM25_B}::float8 + {BM25_B}::float8 * length / mean_length
                       )
                   )
               ) as score
        from (
            select h.chunk_id, a.weight * {BM25_K1 + 1}::float8 as weight,
                   pg_catalog.width_bucket(
                       pg_catalog.ts_rank({_LABELS}, h.words, a.query)::float8,
                       array{list(_FREQUENCIES)}::float8[]
                   )::float8 as frequency,
                   pg_catalog.length(h.words)::float8 as length,
                   (select greatest(pg_catalog.avg(pg_catalog.length(words))::float8, 1::float8)
                    from held) as mean_length
            from held h join asked a on h.words operator(pg_catalog.@@) a.query
        ) as weighed
        group by chunk_id
        order by score desc, chunk_id
        limit {limit:d}
    """  # noqa: S608 -- built from constants, integers, quoted names and the catalog's expression


_AT = '"ragline ctid"'


def _table(attached: Attached, row: str) -> str:
    # Columns in the index's expression are bare, so its select has no other table. It is one in
    # another, for plans to tell the halves apart.
    table = attached_sql.table(attached)
    return f"(select {ALIAS}.*, {ALIAS}.ctid as {_AT} from {table} {ALIAS}) as {row}"  # noqa: S608


def matches(attached: Attached, query: str) -> str:
    """Return the condition that a row holds what a tsquery asks for, as the index can answer it."""
    return f"({attached.words}) operator(pg_catalog.@@) {query}"


def any_of(attached: Attached, words: str) -> str:
    """Return the select of a tsquery that any of the words will do for; null where there is none."""
    lexemes = _words(attached, words)
    return f"select pg_catalog.string_agg(query::text, ' | ')::tsquery from ({lexemes}) as word"  # noqa: S608


def _words(attached: Attached, words: str) -> str:
    """The words as the index knows them: each once, as a query, with how often it was said."""
    text = f"pg_catalog.array_to_string({words}::text[], ' ')"
    config = attached.words_config
    parsed = text if config is None else f"{attached_sql.literal(config)}::regconfig, {text}"
    # In quotes as a tsquery has them, whatever standard_conforming_strings is.
    quote, slash = "pg_catalog.chr(39)", "pg_catalog.chr(92)"
    escaped = (
        f"pg_catalog.replace(pg_catalog.replace(lexeme, {slash}, {slash} || {slash}),"
        f" {quote}, {quote} || {quote})"
    )
    return f"""
            select ({quote} || {escaped} || {quote})::tsquery as query,
                   pg_catalog.cardinality(positions)::float8 as times,
                   pg_catalog.row_number() over () as place
            from pg_catalog.unnest(pg_catalog.to_tsvector({parsed}))
    """  # noqa: S608 -- constants, and the catalog's name of a configuration


def _weights(attached: Attached, row: str, counted: int | None) -> str:
    """The words that are there, with what they weigh and how many rows hold rarer ones.

    Where not all rows of a word are counted, these are the first of the table.
    """
    name = attached_sql.literal(attached_sql.table(attached))
    rows, limit = "n.rows::float8", ""
    if counted is not None:
        limit = f"limit {counted:d}"
        times = "greatest(t.pages / ((n.last::text::point)[0] + 1::float8), 1::float8)"
        rows = f"{rows} * case when n.rows < {counted:d} then 1::float8 else {times} end"
    return f"""
            select query, times * pg_catalog.ln(
                       1::float8 + (greatest(every, rows) - rows + 0.5::float8) / (rows + 0.5::float8)
                   ) as weight,
                   pg_catalog.sum(rows) over (order by rows, place rows unbounded preceding) - rows
                   as before
            from (
                select said.place, said.query, said.times, {rows} as rows, t.pages * t.density as every
                from word said
                cross join lateral (
                    select pg_catalog.count(*) as rows, pg_catalog.max(first.at) as last
                    from (
                        select {row}.{_AT} as at from {_table(attached, row)}
                        where {matches(attached, "said.query")} {limit}
                    ) as first
                ) as n
                cross join (
                    select pg_catalog.pg_relation_size(c.oid)::float8
                           / pg_catalog.current_setting('block_size')::float8 as pages,
                           greatest(c.reltuples::float8, 0::float8)
                           / greatest(c.relpages::float8, 1::float8) as density
                    from pg_catalog.pg_class c where c.oid = {name}::regclass::oid
                ) as t
                where n.rows > 0
            ) as counted
    """  # noqa: S608 -- constants, quoted names and the catalog's expression


def _every_row(attached: Attached, row: str, among: Rows) -> str:
    """All rows with a word."""
    wanted = "(select pg_catalog.string_agg(query::text, ' | ')::tsquery from word)"
    return f"""
            select {attached_sql.key(attached, row)} as chunk_id, {_copied(attached)} as words
            from {_table(attached, row)}
            where {among([matches(attached, wanted)])}
    """  # noqa: S608 -- quoted names and the catalog's expression


def _likely_rows(attached: Attached, row: str, among: Rows, budget: int, weighed: int) -> str:
    """The rows whose words weigh the most, taking each as said once."""
    key = attached_sql.key(attached, row)
    return f"""
            select likely.chunk_id, read.words
            from (
                select p.chunk_id
                from asked cross join lateral (
                    select {key} as chunk_id from {_table(attached, row)}
                    where {among([matches(attached, "asked.query")])} limit {budget:d}
                ) as p
                where asked.before < {budget:d}::float8
                group by p.chunk_id
                order by pg_catalog.sum(asked.weight) desc, p.chunk_id limit {weighed:d}
            ) as likely
            cross join lateral (
                select {_copied(attached)} as words from {_table(attached, row)}
                where {key} = likely.chunk_id offset 0
            ) as read
    """  # noqa: S608 -- as above


def _copied(attached: Attached) -> str:
    """The words of a row as a value at hand: each use of one that lies apart would fetch it anew."""
    return f"pg_catalog.setweight(({attached.words}), 'D')"

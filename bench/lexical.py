"""Search by words: how fast, how near to exact BM25, how large; beside PostgreSQL's full text search.

Ours goes through the library: cut into terms, pool, checks, content and offsets. The other is what
people write: a stored tsvector with a GIN index, the question's words joined by OR, `ts_rank_cd`, a
prepared statement on a connection of its own, the tsquery made beforehand. Both fetch the same columns.
The exact top 10 comes from an oracle that reads the texts (exact.py).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

import asyncpg
import numpy as np

import corpus
import exact
import measure
from measure import Figure, Times, Way
from ragline.core.results import SearchResult
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

K = 10
COLLECTION = "corpus"
P95_MS = 10.0
SHARE = 0.95
FASTER = 8.0
AT_HOME = "section headings"
# The share is cheap to find out; with the shortcut off every chunk with a word is weighed.
QUESTIONS = 1500
EXACT_QUESTIONS = 100
LEXICAL = (
    "term", "posting", "posting_block", "fresh_chunk", "dead_chunk", "term_statistic",
    "collection_statistic",
)  # fmt: skip

MAKE_FULL_TEXT = """
drop schema if exists bench cascade;
create schema bench;
create table bench.passage as
select c.id as chunk_id, c.document_id, c.start_char, c.end_char, c.body, c.headings,
       to_tsvector('english', concat_ws(E'\n', d.title, array_to_string(c.headings, E'\n'), c.body))
       as words
from ragline.chunk c join ragline.document d on d.id = c.document_id
order by c.id;
create index passage_words on bench.passage using gin (words);
"""
FULL_TEXT = """
select p.chunk_id, p.rank, p.document_id, p.start_char, p.end_char, p.body, p.headings,
       d.source, d.title, d.metadata
from (
    select *, ts_rank_cd(words, $1::tsquery) as rank from bench.passage
    where words @@ $1::tsquery order by rank desc limit 10
) as p
join ragline.document d on d.id = p.document_id
order by p.rank desc
"""
# Every word of a question, once, joined by OR.
ANY_WORD = """
select coalesce(string_agg(quote_literal(lexeme), ' | '), '')
from unnest(to_tsvector('english', $1))
"""


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when there is no corpus."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=120_000)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--block", type=int, default=50)
    options = parser.parse_args()
    try:
        figures = asyncio.run(_run(options))
    except corpus.NotRun as error:
        return corpus.not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    async with corpus.opened(options.data, COLLECTION, options.chunks, has_vectors=False) as (
        app,
        dsn,
    ):
        connection = await corpus.connect(dsn)
        await connection.execute(MAKE_FULL_TEXT, timeout=None)
        await connection.execute("vacuum analyze bench.passage")
        oracle = await exact.read(connection, COLLECTION)
        print(
            f"\n{len(oracle.chunk_ids):,} chunks, {len(oracle.places):,} postings, top {K}, 1 client"
        )
        for kind, questions in (
            (AT_HOME, await corpus.headings(connection, COLLECTION)),
            ("SQuAD questions", corpus.squad_questions()),
        ):
            figures += await _compare(app, connection, oracle, kind, questions, options)
        figures += measure.said(await _sizes(connection))
        await connection.close()
    return figures


async def _compare(
    app: App,
    connection: asyncpg.Connection[asyncpg.Record],
    oracle: exact.Bm25,
    kind: str,
    given: Sequence[str],
    options: argparse.Namespace,
) -> list[Figure]:
    count = max(QUESTIONS, options.block * options.blocks)
    asked, tsqueries = await _answerable(connection, oracle, given, count)
    print(f"{kind}, such as {', '.join(repr(one) for one in asked[:3])}")
    figures = measure.said(
        [
            await _quality(app, oracle, asked, is_exact=False),
            await _quality(app, oracle, asked[:EXACT_QUESTIONS], is_exact=True),
        ]
    )
    ways: dict[str, Way] = {
        "ours": lambda number: _ours(app, asked[number]),
        "full text": await _full_text(connection, tsqueries),
    }
    times = await measure.timed(
        ways, queries=len(asked), block=options.block, blocks=options.blocks, seed=len(asked)
    )
    return [*figures, *measure.said(_speed(times, is_at_home=kind == AT_HOME))]


async def _answerable(
    connection: asyncpg.Connection[asyncpg.Record],
    oracle: exact.Bm25,
    given: Sequence[str],
    count: int,
) -> tuple[list[str], list[str]]:
    """Return questions that both sides find something for, and their tsqueries."""
    words = await connection.prepare(ANY_WORD)
    asked: list[str] = []
    tsqueries: list[str] = []
    for question in given:
        tsquery = await words.fetchval(question)
        if tsquery and oracle.scores(question).any():
            asked.append(question)
            tsqueries.append(tsquery)
        if len(asked) == count:
            break
    return asked, tsqueries


async def _ours(app: App, question: str, *, is_exact: bool = False) -> SearchResult:
    return await search_collections(
        app, query(question, COLLECTION, k=K, method="lexical", exact=is_exact)
    )


async def _full_text(
    connection: asyncpg.Connection[asyncpg.Record], tsqueries: Sequence[str]
) -> Way:
    statement = await connection.prepare(FULL_TEXT)

    async def way(number: int) -> object:
        return await statement.fetch(tsqueries[number])

    return way


async def _quality(app: App, oracle: exact.Bm25, asked: Sequence[str], *, is_exact: bool) -> Figure:
    """How much of the exact top 10 is found, with the shortcut or without."""
    shares: list[float] = []
    errors: list[float] = []
    took: list[float] = []
    for question in asked:
        started = time.perf_counter()
        hits = (await _ours(app, question, is_exact=is_exact)).hits
        took.append((time.perf_counter() - started) * 1000)
        share = oracle.share(question, hits, K)
        if share is not None:
            shares.append(share)
            errors.append(oracle.error(question, hits))
    mean, low, high = measure.mean_of(shares, seed=1)
    poor = sum(one < 0.8 for one in shares) / len(shares)
    return Figure(
        what="share of the exact top 10" + (", shortcut off" if is_exact else ""),
        value=mean, low=low, high=high, n=len(shares), at_least=1.0 if is_exact else SHARE,
        note=f"below 0.8 for {poor * 100:.1f} %; scores off by at most {max(errors):.0e}; "
        f"p50 {np.quantile(took, 0.5):.1f}, p95 {np.quantile(took, 0.95):.1f} ms",
    )  # fmt: skip


def _speed(times: dict[str, Times], *, is_at_home: bool) -> list[Figure]:
    """The times, and the ratio; which is judged for questions that the corpus can answer.

    The others ask about other things: full text search finds less of them to rank.
    """
    figures = []
    for name, what in (("ours", "ours"), ("full text", "ts_rank_cd, OR, GIN")):
        for share in (0.5, 0.95):
            value, low, high = measure.quantile_of(times[name], share, seed=2)
            is_judged = name == "ours" and share == 0.95
            figures.append(
                Figure(
                    what=f"p{share * 100:.0f} {what}", unit="ms", n=times[name].n,
                    value=value, low=low, high=high, at_most=P95_MS if is_judged else None,
                )
            )  # fmt: skip
    for share in (0.5, 0.95):
        value, low, high = measure.ratio_of(times["full text"], times["ours"], share=share, seed=3)
        figures.append(
            Figure(
                what=f"faster than ts_rank_cd at p{share * 100:.0f}", unit="x", n=times["ours"].n,
                value=value, low=low, high=high,
                at_least=FASTER if share == 0.5 and is_at_home else None,
            )
        )  # fmt: skip
    return figures


async def _sizes(connection: asyncpg.Connection[asyncpg.Record]) -> list[Figure]:
    rows = await connection.fetch(
        """
        select relname, pg_total_relation_size(oid) from pg_class
        where relnamespace = 'ragline'::regnamespace and relkind = 'r' and relname = any ($1)
        order by 2 desc
        """, list(LEXICAL),
    )  # fmt: skip
    tables = {row[0]: row[1] for row in rows}
    ((chunks, tables["columns of chunk"], text, stored, full_text),) = await connection.fetch(
        """
        select count(*), sum(pg_column_size(term_ids) + pg_column_size(frequencies)),
               sum(octet_length(body)),
               pg_total_relation_size('ragline.document') + pg_total_relation_size('ragline.chunk'),
               (select sum(pg_column_size(words)) from bench.passage)
               + pg_relation_size('bench.passage_words')
        from ragline.chunk
        """
    )  # fmt: skip
    print(
        "sizes: " + ", ".join(f"{name} {corpus.megabytes(size)}" for name, size in tables.items())
    )
    print(
        f"       text of the chunks {corpus.megabytes(text)}; document and chunk with their indexes "
        f"{corpus.megabytes(stored)}; tsvector and GIN {corpus.megabytes(full_text)}"
    )
    return [
        Figure(
            what="size of what BM25 needs / the text's", value=sum(tables.values()) / text, n=chunks
        ),
        Figure(what="size of tsvector and GIN / the text's", value=full_text / text, n=chunks),
    ]


if __name__ == "__main__":
    sys.exit(main())

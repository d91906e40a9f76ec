"""Hybrid search in one statement against its two halves run by hand, one after the other.

Ours goes through the library: the question cut into terms, pool, checks, fusion, content and offsets.
The halves are two prepared statements on a bare connection, the terms cut beforehand: the nearest
vectors, written by hand, with `ef_search` set for the session; and the best by BM25. Each fetches the
same columns for as many hits as the hybrid search returns, so half as much content again in all.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import asyncpg

import corpus
import measure
from measure import Block, Figure, interleaved, shared_out
from ragline.core import lexical
from ragline.core.dsn import Dsn
from ragline.core.results import CollectionFacts
from ragline.db.statements import statement
from ragline.db.targets import Target
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

K = 10
CANDIDATES = 40
EF_SEARCH = 100
COLLECTION = "corpus-vectors"
LIMIT = 1.5

NEAREST = """
select e.chunk_id, e.distance, c.document_id, c.start_char, c.end_char, c.body, c.headings,
       d.source, d.title, d.metadata
from (select chunk_id, embedding <=> $1 as distance from ragline.embedding_{space}
      order by embedding <=> $1 limit {k}) as e
join ragline.chunk c on c.id = e.chunk_id
join ragline.document d on d.id = c.document_id
order by e.distance
"""


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when there is no corpus."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=25_000)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--block", type=int, default=48)
    options = parser.parse_args()
    try:
        figures = asyncio.run(_run(options))
    except corpus.NotRun as error:
        return corpus.not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    async with corpus.opened(options.data, COLLECTION, options.chunks, has_vectors=True) as (
        app,
        dsn,
    ):
        facts = await app.collection(COLLECTION, fresh=True)
        one = await corpus.connect(dsn)
        questions = await _answerable(one, facts)
        print(
            f"\n{facts.chunks:,} chunks, {corpus.DIMENSION} dimensions, ef_search {EF_SEARCH}, top {K}; "
            f"{len(questions):,} distinct questions, section headings and SQuAD's by turns"
        )
        for clients in (1, 8):
            for hits, is_judged in ((K, True), (CANDIDATES, False)):
                figures += measure.said(
                    [await _ratio(app, dsn, facts, questions, clients, hits, is_judged, options)]
                )
        await one.close()
    return figures


async def _ratio(
    app: App,
    dsn: Dsn,
    facts: CollectionFacts,
    questions: Sequence[str],
    clients: int,
    hits: int,
    is_judged: bool,
    options: argparse.Namespace,
) -> Figure:
    connections = [await corpus.connect(dsn) for _ in range(clients)]
    ratio = await interleaved(
        _library(app, questions, clients),
        await _halves(connections, facts, questions, hits),
        queries=len(questions), block=options.block, blocks=options.blocks, seed=clients,
    )  # fmt: skip
    for connection in connections:
        await connection.close()
    return Figure(
        what=f"hybrid / its halves with {hits} hits each, {clients} client{'s'[: clients > 1]}",
        unit="x", value=ratio.median, low=ratio.low, high=ratio.high, n=ratio.queries,
        at_most=LIMIT if is_judged else None,
        note=f"{ratio.ours_ms:.2f} against {ratio.theirs_ms:.2f} ms a query",
    )  # fmt: skip


async def _answerable(
    connection: asyncpg.Connection[asyncpg.Record], facts: CollectionFacts
) -> list[str]:
    """Return questions with a word of the collection, so that both halves have work."""
    given = await corpus.headings(connection, COLLECTION)
    squad = corpus.squad_questions()
    known = {row[0] for row in await connection.fetch("select term from ragline.term")}
    return [
        question
        for pair in zip(given[:1000], squad, strict=False)
        for question in pair
        if known.intersection(lexical.question_terms(question, facts.language))
    ]


def _library(app: App, questions: Sequence[str], clients: int) -> Block:
    vectors = [corpus.vector(question) for question in questions]

    async def client(_: int, numbers: Sequence[int]) -> None:
        for number in numbers:
            found = await search_collections(
                app,
                query(
                    questions[number], COLLECTION, k=K, ef_search=EF_SEARCH, vector=vectors[number]
                ),
            )
            assert len(found.hits) == K

    return shared_out(client, clients)


async def _halves(
    connections: Sequence[asyncpg.Connection[asyncpg.Record]],
    facts: CollectionFacts,
    questions: Sequence[str],
    hits: int,
) -> Block:
    assert facts.space is not None
    target = Target(
        collection=facts.name, collection_id=facts.id, space_id=facts.space.id,
        dimension=facts.space.dimension, metric=facts.space.metric, storage=facts.space.storage,
    )  # fmt: skip
    vectors = [corpus.vector(question) for question in questions]
    terms = [lexical.question_terms(question, facts.language) for question in questions]
    for connection in connections:
        await connection.execute(f"set hnsw.ef_search = {EF_SEARCH}")
    nearest = [await c.prepare(NEAREST.format(space=facts.space.id, k=hits)) for c in connections]
    best = [await c.prepare(statement(target, "lexical", hits, CANDIDATES)) for c in connections]

    async def client(who: int, numbers: Sequence[int]) -> None:
        for number in numbers:
            assert len(await nearest[who].fetch(vectors[number])) == hits
            assert await best[who].fetch(terms[number])

    return shared_out(client, len(connections))


if __name__ == "__main__":
    sys.exit(main())

"""Vector search through the library against one bare prepared statement.

Both run on the same table, index and ef_search, send the vector in binary and fetch the same columns.
The bare statement has a connection for each client and nothing around it: no pool, no transaction, no
checks; its limit is written out, which spares it a plan per query. A second row holds a statement
that fetches ids and distances only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from measure import Block, Ratio, interleaved, shared_out
from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.db.vectors import decode_vector, encode_vector
from ragline.ops import embedded
from ragline.rag.app import App
from ragline.rag.search import query, search_collections
from ragline.wiring import open_app

K = 10
EF_SEARCH = 100
QUERIES = 1000
LIMIT = 1.25
RECALL = 0.95

SAME_COLUMNS = """
select e.chunk_id, e.distance, c.document_id, c.start_char, c.end_char, c.body, c.headings,
       d.source, d.title, d.metadata
from (select chunk_id, embedding <=> $1 as distance from ragline.embedding_{space}
      order by embedding <=> $1 limit {k}) as e
join ragline.chunk c on c.id = e.chunk_id
join ragline.document d on d.id = c.document_id
order by e.distance
"""
IDS_ONLY = """
select chunk_id, embedding <=> $1 as distance from ragline.embedding_{space}
order by embedding <=> $1 limit {k}
"""


def main() -> int:
    """Print the figures; exit 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    folder.chmod(0o755)
    try:
        figures = asyncio.run(_run(folder, options))
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(figure["holds"] for figure in figures) else 1


async def _run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    dsn = embedded.dsn(await asyncio.to_thread(embedded.ensure, folder / "data"))
    for dimension in (384, 1536):
        vectors = _vectors(options.rows + QUERIES, dimension)
        stored, asked = vectors[QUERIES:], vectors[:QUERIES]
        async with open_app(Config(data_dir=folder / "data")) as app:
            name = f"bench-{dimension}"
            space = await _fill(app, dsn, name, stored)
            clients = [await _bare_connection(dsn) for _ in range(8)]
            truth = _exact(stored, asked)
            first = await _first_id(clients[0], space)
            recall_ours = await _recall_ours(app, name, asked, truth, first)
            recall_bare = await _recall_bare(clients[0], space, asked, truth, first)
            print(
                f"\n{options.rows:,} x {dimension} dimensions, m 16, ef_construction 64, "
                f"ef_search {EF_SEARCH}, top {K}"
            )
            print(
                f"  recall@{K} against exact search, {QUERIES} queries: "
                f"library {recall_ours:.4f}, bare {recall_bare:.4f}"
            )
            for count in (1, 8):
                for what, sql, is_judged in (
                    ("same columns", SAME_COLUMNS, True),
                    ("ids only", IDS_ONLY, False),
                ):
                    ratio = await interleaved(
                        _library(app, name, asked, count),
                        await _bare(clients[:count], sql.format(space=space, k=K), asked),
                        queries=QUERIES, block=options.block, blocks=options.blocks, seed=dimension,
                    )  # fmt: skip
                    holds = not is_judged or (
                        ratio.median <= LIMIT and min(recall_ours, recall_bare) >= RECALL
                    )
                    figures.append(_figure(dimension, count, what, ratio, recall_ours, holds))
                    verdict = ("holds" if holds else "BROKEN") if is_judged else "for information"
                    print(
                        f"  {count} client{'s'[: count > 1]:1} {what:>13}: {ratio}  "
                        f"limit {LIMIT}: {verdict}"
                    )
            for connection in clients:
                await connection.close()
    return figures


def _figure(
    dimension: int, clients: int, what: str, ratio: Ratio, recall: float, holds: bool
) -> dict[str, Any]:
    return {
        "dimension": dimension, "clients": clients, "bare_fetches": what, "ratio": ratio.median,
        "low": ratio.low, "high": ratio.high, "n": ratio.queries, "recall": recall, "holds": holds,
    }  # fmt: skip


def _vectors(count: int, dimension: int) -> npt.NDArray[np.float32]:
    """Unit vectors in clusters with a decaying spectrum, as embeddings of text have."""
    generator = np.random.default_rng(dimension)
    scale = (1 + np.arange(dimension)) ** -0.5
    centres = generator.normal(size=(400, dimension)) * scale
    chosen = generator.zipf(1.3, size=count) % 400
    noise = generator.normal(size=(count, dimension)) * scale
    vectors = centres[chosen] + 0.8 * noise
    unit: npt.NDArray[np.float32] = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).astype(np.float32)
    return unit


def _exact(
    stored: npt.NDArray[np.float32], asked: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = np.argsort(-(asked @ stored.T), axis=1)[:, :K]
    return found


async def _fill(app: App, dsn: Dsn, name: str, stored: npt.NDArray[np.float32]) -> int:
    """Load a collection of short chunks with given vectors, in document order, then index it."""
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        collection = await connection.fetchval(
            "insert into collection (name, chunk_size, chunk_overlap) values ($1, 180, 30) "
            "returning id", name,
        )  # fmt: skip
        body = "Passage number {} of the benchmark. " * 12
        async with connection.transaction():
            first = await connection.fetchval("select coalesce(max(id), 0) + 1 from document")
            await connection.execute(
                """
                insert into document (collection_id, source, media_type, body, content_hash, recipe)
                select $1, 'd' || n, 'text/plain', replace($2, '{}', n::text),
                       sha256(n::text::bytea), 'bench'
                from generate_series(1, $3::int) as n
                """, collection, body, len(stored),
            )  # fmt: skip
            await connection.execute(
                """
                insert into chunk (collection_id, document_id, document_characters, ordinal,
                                   start_char, end_char, body, tokens, term_ids, frequencies, length)
                select collection_id, id, characters, 0, 0, characters, body, 100, '{}', '', 0
                from document where collection_id = $1 and id >= $2 order by id
                """, collection, first,
            )  # fmt: skip
        space = await connection.fetchval(
            "select create_space($1, 'bench', 'bench', $2, 'cosine', 'vector', true, '{}', false)",
            collection, stored.shape[1],
        )  # fmt: skip
        ids = [
            row[0]
            for row in await connection.fetch(
                "select id from chunk where collection_id = $1 order by id", collection
            )
        ]
        await connection.copy_records_to_table(
            f"embedding_{space}", schema_name="ragline", columns=("chunk_id", "embedding"),
            records=zip(ids, stored, strict=True),
        )  # fmt: skip
        await connection.execute(
            "update collection set active_space_id = $1 where id = $2", space, collection
        )
        await connection.execute("set maintenance_work_mem = '1GB'")
        await connection.execute(
            f"create index embedding_{space}_hnsw on embedding_{space} "
            "using hnsw (embedding vector_cosine_ops)",
            timeout=None,
        )
        await connection.execute("reset maintenance_work_mem")
        await connection.execute(f"vacuum analyze embedding_{space}, chunk, document")
    number: int = space
    return number


async def _bare_connection(dsn: Dsn) -> asyncpg.Connection[asyncpg.Record]:
    connection: asyncpg.Connection[asyncpg.Record]
    connection = await asyncpg.connect(**dsn.for_asyncpg("bench"))
    await connection.set_type_codec(
        "vector", schema="public", format="binary", encoder=encode_vector, decoder=decode_vector
    )
    await connection.execute(f"set hnsw.ef_search = {EF_SEARCH}")
    return connection


async def _first_id(connection: asyncpg.Connection[asyncpg.Record], space: int) -> int:
    found: int = await connection.fetchval(f"select min(chunk_id) from ragline.embedding_{space}")
    return found


async def _recall_ours(
    app: App, name: str, asked: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], first: int
) -> float:
    shares = []
    for vector, best in zip(asked, truth, strict=True):
        found = await search_collections(
            app, query("", name, k=K, method="vector", ef_search=EF_SEARCH, vector=vector)
        )
        shares.append(len({hit.chunk_id - first for hit in found.hits} & set(best.tolist())) / K)
    return float(np.mean(shares))


async def _recall_bare(
    connection: asyncpg.Connection[asyncpg.Record],
    space: int,
    asked: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
    first: int,
) -> float:
    statement = await connection.prepare(IDS_ONLY.format(space=space, k=K))
    shares = []
    for vector, best in zip(asked, truth, strict=True):
        rows = await statement.fetch(vector)
        shares.append(len({row[0] - first for row in rows} & set(best.tolist())) / K)
    return float(np.mean(shares))


def _library(app: App, name: str, asked: npt.NDArray[np.float32], clients: int) -> Block:
    async def client(_: int, numbers: Sequence[int]) -> None:
        for number in numbers:
            found = await search_collections(
                app,
                query("", name, k=K, method="vector", ef_search=EF_SEARCH, vector=asked[number]),
            )
            assert len(found.hits) == K

    return shared_out(client, clients)


async def _bare(
    connections: Sequence[asyncpg.Connection[asyncpg.Record]],
    sql: str,
    asked: npt.NDArray[np.float32],
) -> Block:
    statements = [await connection.prepare(sql) for connection in connections]

    async def client(who: int, numbers: Sequence[int]) -> None:
        for number in numbers:
            rows = await statements[who].fetch(asked[number])
            assert len(rows) == K

    return shared_out(client, len(connections))


if __name__ == "__main__":
    sys.exit(main())

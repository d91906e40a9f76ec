"""Ingest of real pages against a bare binary COPY of the very rows that it wrote.

Ours: `ingest_paths` on a folder of HTML files in an empty database: read, parse, cut, count terms, write
each document in a transaction of its own, build the vector index, analyse, fold the postings, vacuum,
calibrate the search. The embedding model is a table of vectors; what it takes is not counted.

Bare: the rows of all tables that the ingest filled, as bytes of COPY's binary format, one COPY a table
into an empty database with the same schema and all its indexes. Keys, constraints and foreign keys are
in place; triggers are off, as what they write is copied too. The second row holds what is for whoever
loads by hand and knows how: a COPY without the vector index, which is built afterwards, as ours is.

The memory is that of a process of its own which ingests `--memory-chunks` chunks: its peak, and how much
its resident size grows from the first third of the way to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt

import corpus
import measure
from measure import Figure
from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.db import migrate
from ragline.models.embed import Embedded, ModelFacts
from ragline.ops import embedded
from ragline.rag import catalog
from ragline.rag.app import App
from ragline.rag.ingest import Progress, ingest_paths
from ragline.wiring import open_app

AT_LEAST = 0.7
MOST_MB = 1000
MOST_GROWTH_MB = 64
TEMPLATE = "ragline_bench_template"
NAME = "bench"
TABLES = (
    "document", "chunk", "term", "attribute", "posting_block", "term_statistic",
    "collection_statistic", "impact_reference", "fresh_chunk", "dead_chunk",
)  # fmt: skip
_CHARACTERS_A_CHUNK = 330
_numbers = count(1)


class Table:
    """An embedding model that looks vectors up: passages of one text have one vector."""

    def __init__(self) -> None:
        made = np.random.default_rng(7).normal(size=(4096, corpus.DIMENSION))
        self._vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
        self._noise = np.random.default_rng(8)
        self.seconds = 0.0
        self.facts = ModelFacts(
            model_id="bench-table",
            weights_hash="bench-table-1",
            dimension=corpus.DIMENSION,
            normalised=True,
            languages=(),
            max_tokens=100_000,
        )

    async def embed_query(self, text: str) -> npt.NDArray[np.float32]:
        """Return a vector."""
        found: npt.NDArray[np.float32] = self._vectors[len(text) % len(self._vectors)]
        return found

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Return a vector for each text, none of them twice."""
        started = time.perf_counter()
        near = self._vectors[self._noise.integers(len(self._vectors), size=len(texts))]
        noise = self._noise.standard_normal(size=near.shape, dtype=np.float32)
        vectors = near + 0.02 * noise
        self.seconds += time.perf_counter() - started
        return Embedded(vectors=vectors, truncated=0, tokens=0)

    async def close(self) -> None:
        """Nothing is held."""


def main() -> int:
    """Print the figures; exit 1 when a limit is broken."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-chunks", type=int, default=100_000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asyncio.run(_child(*options.child))
        return 0
    place = Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.chmod(0o755)
    try:
        figures = asyncio.run(_run(place, options))
    except corpus.NotRun as error:
        return corpus.not_run(error)
    finally:
        embedded.stop(place / "data")
        shutil.rmtree(place)
    return measure.verdict(figures, options.json)


async def _run(place: Path, options: argparse.Namespace) -> list[Figure]:
    cluster = await asyncio.to_thread(embedded.ensure, place / "data")
    server = embedded.dsn(cluster)
    await _execute(server, f"create database {TEMPLATE}")
    await asyncio.to_thread(
        migrate.apply, server.on(TEMPLATE), lock_timeout_ms=2000, role_secret=None
    )
    few, many = place / "few", place / "many"
    figures: list[Figure] = []
    if options.rounds:
        _write_pages(few, options.chunks)
        figures += await _speed(server, place, few, options)
    if options.memory_chunks:
        _write_pages(many, options.memory_chunks)
        figures += await _memory(server, place, many)
    return figures


def _write_pages(folder: Path, chunks: int) -> None:
    folder.mkdir()
    left = chunks * _CHARACTERS_A_CHUNK
    for number, text in enumerate(corpus.documents()):
        if left < 0:
            return
        left -= len(text.text)
        page = f"<title>{text.title}</title>{text.text}"
        (folder / f"{number:06}.html").write_text(page, encoding="utf-8")
    raise corpus.NotRun(f"the packages hold fewer than {chunks:,} chunks")


# -- speed -----------------------------------------------------------------------------------------


async def _speed(
    server: Dsn, place: Path, pages: Path, options: argparse.Namespace
) -> list[Figure]:
    _, chunks, rows = await _ours(server, place, pages)  # warm, and what is to be copied
    sizes = ", ".join(f"{name} {len(data) / 1e6:.1f} MB" for name, data in rows.items())
    print(f"\n{chunks:,} chunks, {corpus.DIMENSION} dimensions; copied: {sizes}")
    took: dict[str, list[float]] = {"ours": [], "indexed": [], "built": []}
    random_ = random.Random(0)
    for _ in range(options.rounds):
        for way in random_.sample(list(took), len(took)):
            if way == "ours":
                took[way].append((await _ours(server, place, pages))[0])
            else:
                took[way].append(await _bare(server, place, rows, is_indexed=way == "indexed"))
    rates = {way: f"{chunks / statistics.median(times):,.0f}" for way, times in took.items()}
    return measure.said(
        [
            _ratio("ingest, times the rows a second of a COPY", took, "indexed", rates, AT_LEAST),
            _ratio("... of a COPY, then building the vector index", took, "built", rates, None),
        ]
    )


def _ratio(
    what: str,
    took: Mapping[str, Sequence[float]],
    bare: str,
    rates: Mapping[str, str],
    at_least: float | None,
) -> Figure:
    ratios = [theirs / ours for ours, theirs in zip(took["ours"], took[bare], strict=True)]
    middle, low, high = measure.median_of(ratios, seed=0)
    return Figure(
        what=what,
        value=middle,
        low=low,
        high=high,
        n=len(ratios),
        unit="x",
        at_least=at_least,
        note=f"{rates['ours']} against {rates[bare]} chunks a second",
    )


async def _ours(server: Dsn, place: Path, pages: Path) -> tuple[float, int, dict[str, bytes]]:
    """Ingest the pages; return the seconds, the chunks, and the rows of each table."""
    dsn = await _database(server)
    model = Table()
    async with open_app(Config(dsn=dsn, data_dir=place)) as app:
        _use(app, model)
        await app.pool("admin")
        report = await ingest_paths(app, [pages], NAME, policy=corpus.CHUNKING)
    if report.rejections or report.chunks != report.embedded:
        raise AssertionError(f"not all came in: {report}")
    rows = await _dumped(dsn)
    await _execute(server, f"drop database {dsn.database} with (force)")
    return report.seconds - model.seconds, report.chunks, rows


async def _dumped(dsn: Dsn) -> dict[str, bytes]:
    connection = await corpus.connect(dsn)
    try:
        names = [*TABLES, "embedding_1"]
        return {name: await _bytes_of(connection, name) for name in names}
    finally:
        await connection.close()


async def _bytes_of(connection: asyncpg.Connection[asyncpg.Record], table: str) -> bytes:
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await connection.copy_from_table(table, schema_name="ragline", output=take, format="binary")
    return b"".join(pieces)


async def _bare(server: Dsn, place: Path, rows: dict[str, bytes], *, is_indexed: bool) -> float:
    """Copy the rows into an empty database; return the seconds."""
    dsn = await _database(server)
    async with open_app(Config(dsn=dsn, data_dir=place)) as app:
        facts = Table().facts
        await catalog.open_collection(app, NAME, corpus.CHUNKING, facts)
    connection = await corpus.connect(dsn)
    try:
        for table in ("document", "chunk"):
            await connection.execute(f"alter table {table} disable trigger user")
        await connection.execute("truncate collection_statistic")
        build = await connection.fetchval("select ragline.space_index_statement(1, false)")
        if is_indexed:
            await connection.execute(build)
        started = time.perf_counter()
        for table, data in rows.items():
            await connection.copy_to_table(
                table, schema_name="ragline", source=_pieces(data), format="binary"
            )
        if not is_indexed:
            await connection.execute(build)
        took = time.perf_counter() - started
        copied = await connection.fetchval("select count(*) from chunk")
        if copied != await connection.fetchval("select count(*) from embedding_1"):
            raise AssertionError("chunks and vectors differ in number")
    finally:
        await connection.close()
    await _execute(server, f"drop database {dsn.database} with (force)")
    return took


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1 << 18):
        yield data[at : at + (1 << 18)]


# -- memory ----------------------------------------------------------------------------------------


async def _memory(server: Dsn, place: Path, pages: Path) -> list[Figure]:
    dsn = await _database(server)
    command = [sys.executable, __file__, "--child", str(dsn.database), str(pages)]
    done = await asyncio.to_thread(
        subprocess.run, command, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    samples = found["samples"]
    early = max(mb for chunks, mb in samples if chunks <= found["chunks"] / 3)
    late = max(mb for chunks, mb in samples if chunks >= found["chunks"] * 2 / 3)
    rate = found["chunks"] / found["seconds"]
    print(f"\n{found['chunks']:,} chunks in one process, {rate:,.0f} a second")
    return measure.said(
        [
            Figure(
                what="peak of the process", value=found["peak_mb"], n=len(samples), unit="MB",
                at_most=MOST_MB,
            ),
            Figure(
                what="growth from the first third to the last", value=late - early, n=len(samples),
                unit="MB", at_most=MOST_GROWTH_MB, note=f"{early:.0f} MB, then {late:.0f} MB",
            ),
        ]
    )  # fmt: skip


async def _child(database: str, pages: str) -> None:
    """Ingest in this process, and print what it takes of memory as it goes."""
    samples: list[tuple[int, float]] = []

    def sample(progress: Progress) -> None:
        if progress.done % 50 == 0:
            samples.append((progress.chunks, _status_mb("VmRSS")))

    place = Path(pages).parent
    dsn = embedded.dsn(embedded.ensure(place / "data")).on(database)
    async with open_app(Config(dsn=dsn, data_dir=place)) as app:
        _use(app, Table())
        report = await ingest_paths(
            app, [Path(pages)], NAME, policy=corpus.CHUNKING, on_progress=sample
        )
    if report.rejections:
        raise AssertionError(f"not all came in: {report.rejections[0]}")
    print(
        json.dumps(
            {
                "samples": samples,
                "chunks": report.chunks,
                "seconds": report.seconds,
                "peak_mb": _status_mb("VmHWM"),
            }
        )
    )


def _status_mb(what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise corpus.NotRun(f"the system does not say {what}")
    return int(found[1]) / 1024


# -- the database ----------------------------------------------------------------------------------


def _use(app: App, model: Table) -> None:
    async def opened() -> Table:
        return model

    app.open_embedder = opened


async def _database(server: Dsn) -> Dsn:
    name = f"ragline_bench_{next(_numbers)}"
    await _execute(server, f"create database {name} template {TEMPLATE}")
    return server.on(name)


async def _execute(server: Dsn, statement: str) -> None:
    connection = await asyncpg.connect(**server.on("postgres").for_asyncpg("bench"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


if __name__ == "__main__":
    sys.exit(main())

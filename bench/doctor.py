"""How long `ragline doctor` and `ragline index list` take on documents and tables of somebody else's.

Whole commands, as a person waits for them: they start Python, connect, read, open the embedding
model, judge and print. The list measures each vector index with 100 queries. Beside the chunks there
are `--tables` tables with two indexes each, and a vector column with an HNSW index in every fifth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

import corpus
import measure
from command import PROGRAM, Command
from measure import Figure
from ragline import config as configuration
from ragline.core.dsn import Dsn
from ragline.models import embed

COLLECTION = "corpus-vectors"
LIMIT_S = 2.0
LIST_LIMIT_S = 10.0
QUERIES = 100
TABLES = """
do $make$
begin
    for n in 1..{tables} loop
        execute format(
            'create table if not exists public.bench_%1$s as
             select g as id, g %% 7 as kind, md5(g::text) as body from generate_series(1, 2000) g', n);
        execute format('create index if not exists bench_%1$s_kind on public.bench_%1$s (kind)', n);
        execute format('create index if not exists bench_%1$s_body on public.bench_%1$s (body)', n);
        if n % 5 = 0 then
            execute format(
                'alter table public.bench_%1$s add column if not exists v {vector}(8)', n);
            execute format(
                'update public.bench_%1$s set v = array[id, kind, 1, 2, 3, 4, 5, 6]::{vector}', n);
            execute format(
                'create index if not exists bench_%1$s_v on public.bench_%1$s
                 using hnsw (v {schema}.vector_l2_ops)', n);
        end if;
    end loop;
end
$make$
"""


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when there is no corpus."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=25_000)
    parser.add_argument("--tables", type=int, default=50)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--lists", type=int, default=3)
    options = parser.parse_args()
    try:
        figures = asyncio.run(_run(options))
    except corpus.NotRun as error:
        return corpus.not_run(error)
    return measure.verdict(figures, options.json)


async def _run(options: argparse.Namespace) -> list[Figure]:
    model = embed.model_folder(configuration.load())
    if model is None:
        raise corpus.NotRun("there is no model: run `ragline model fetch`")
    opened = corpus.opened(options.data, COLLECTION, options.chunks, has_vectors=True)
    async with opened as (_, dsn):
        await _make_tables(dsn, options.tables)
        with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
            # Of the embedded server, which asks for no password: nothing in it is hidden.
            more = {"DATABASE_URL": dsn.redacted(), "RAGLINE_MODEL_DIR": str(model)}
            command = Command(folder=Path(folder), more=more)
            took = [await asyncio.to_thread(_once, command) for _ in range(options.times)]
            lists = [await asyncio.to_thread(_listed, command) for _ in range(options.lists)]
    where = f"{options.chunks:,} chunks and {options.tables} tables: longest"
    listing = f"ragline index list, {QUERIES} queries for an index, "
    return measure.said(
        [
            _figure(f"ragline doctor, {where}", took, LIMIT_S),
            _figure(f"{listing}{where}", lists, LIST_LIMIT_S),
        ]
    )


def _figure(what: str, took: list[float], limit_s: float) -> Figure:
    return Figure(
        what=what,
        value=max(took),
        n=len(took),
        unit="s",
        at_most=limit_s,
        note=f"median {statistics.median(took):.2f} s",
    )


async def _make_tables(dsn: Dsn, tables: int) -> None:
    connection = await asyncpg.connect(**dsn.for_asyncpg("bench"))
    try:
        schema = await connection.fetchval(
            "select extnamespace::regnamespace::text from pg_extension where extname = 'vector'"
        )
        sql = TABLES.replace("{tables}", str(tables)).replace("{schema}", schema)
        await connection.execute(sql.replace("{vector}", f"{schema}.vector"))
        await connection.execute("analyze")
    finally:
        await connection.close()


def _once(command: Command) -> float:
    """Return how many seconds one look takes; what it finds is not the matter here."""
    took, found = _timed(command, "doctor", codes=(0, 3))
    if not found["counts"]["pass"]:
        raise RuntimeError("ragline doctor saw nothing")
    return took


def _listed(command: Command) -> float:
    """Return how many seconds a list takes that measures every vector index, the collection's too."""
    took, found = _timed(command, "index", "list", "--sample", str(QUERIES), codes=(0,))
    measured = {
        one["index"]["schema"]
        for one in found["indexes"]
        if one["sample"] and one["sample"]["n"] == QUERIES
    }
    if not {"public", "ragline"} <= measured:
        raise RuntimeError("ragline index list did not measure every kind of index")
    return took


def _timed(command: Command, *arguments: str, codes: tuple[int, ...]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = subprocess.run(
        [PROGRAM, *arguments, "--json"],
        env=command.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - began
    if done.returncode not in codes:
        raise RuntimeError(f"ragline {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return took, json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())

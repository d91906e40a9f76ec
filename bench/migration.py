"""What a migration costs others, and how long it takes to take one back.

Readers: a transaction has read the table and stays open while a migration that only adds (a column,
then an index built CONCURRENTLY) wants its lock. New readers come every few milliseconds; how long each
one waits, at the longest. For information the same `ALTER TABLE` by hand, without lock_timeout: it waits
for the lock, and everybody waits behind it.

Undo: a migration of 100,000 chunks with vectors of 384 dimensions that drops the column of texts and
deletes a tenth of the rows, taken back from its verified backup: restored, merged by primary key,
compared by count and hash. And one that only adds, taken back.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

import corpus  # for its path to the tests' own data
import measure
from conftest import connect
from measure import Figure
from migrations import folder, outside, revision
from ragline.change import loop
from ragline.change.kind import Site
from ragline.config import Config
from ragline.core.change import Entry, Part
from ragline.core.dsn import Dsn
from ragline.ops import backup, embedded
from ragline.wiring import open_site

T = TypeVar("T")
MINUTES_15 = 900.0
_HELD_S = 3.0
_TABLE = """
    create table public.passage (id bigint primary key, body text not null, place vector({dimension}));
    insert into public.passage
    select n, 'passage ' || n || repeat(' word', 60), (
        select array_agg(random()) from generate_series(1, {dimension}) where n > 0
    )::real[]::vector({dimension})
    from generate_series(1, {rows}) n;
    analyze public.passage;
"""


def main() -> int:
    """Measure, print, and return 1 when a limit is broken."""
    parser = measure.options(__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    options = parser.parse_args()
    return measure.verdict(asyncio.run(_run(options)), options.json)


async def _run(options: Namespace) -> list[Figure]:
    place = options.data or Path(tempfile.mkdtemp(prefix="ragline-bench-"))
    place.chmod(0o755)
    config = Config(data_dir=place / "data")
    figures: list[Figure] = []
    try:
        async with open_site(config) as site:
            dsn = site.dsn
            db = await connect(dsn)
            await db.execute("drop table if exists public.passage, public.alembic_version")
            await db.execute(_TABLE.format(rows=options.chunks, dimension=corpus.DIMENSION))
            figures += measure.said(await _readers(site, dsn, place))
            figures += measure.said(await _undo(site, dsn, db, place, options.chunks))
            await db.close()
    finally:
        embedded.stop(config.data_dir)
        if options.data is None:
            shutil.rmtree(place)
    return figures


async def _readers(site: Site, dsn: Dsn, place: Path) -> list[Figure]:
    shutil.rmtree(place / "adds", ignore_errors=True)
    ini = folder(place / "adds")
    revision(
        ini,
        "adds1",
        None,
        "alter table public.passage add column tag text",
        "alter table public.passage drop column tag",
    )
    revision(
        ini,
        "adds2",
        "adds1",
        outside("create index concurrently passage_tag on public.passage (tag)"),
        outside("drop index concurrently public.passage_tag"),
    )
    waits, entry = await _while_held(dsn, lambda: _made(site, ini))
    started = time.perf_counter()
    await loop.undo(site, entry.id)
    took = time.perf_counter() - started

    async def by_hand() -> None:
        other = await connect(dsn)
        try:
            await other.execute("alter table public.passage add column hand text")
        finally:
            await other.close()

    without, _ = await _while_held(dsn, by_hand)
    return [
        Figure(
            what="a reader's longest wait, a migration that only adds",
            value=max(waits) * 1000,
            unit="ms",
            n=len(waits),
            at_most=300,
        ),
        Figure(
            what="the same by hand, without lock_timeout",
            value=max(without) * 1000,
            unit="ms",
            n=len(without),
        ),
        Figure(what="undo: a migration that only adds", value=took, unit="s", n=1, at_most=10),
    ]


async def _while_held(
    dsn: Dsn, work: Callable[[], Coroutine[Any, Any, T]]
) -> tuple[list[float], T]:
    """Have a transaction hold the table while `work` wants it, and time readers that come meanwhile."""
    holder, reader = await connect(dsn), await connect(dsn)
    waits: list[float] = []
    try:
        await holder.execute("begin")
        await holder.execute("select count(*) from public.passage where id = 1")
        going = asyncio.create_task(work())
        until = time.perf_counter() + _HELD_S
        is_held = True
        while not going.done():
            if is_held and time.perf_counter() > until:
                await holder.execute("rollback")
                is_held = False
            # Beside the wait itself, so that a reader that waits does not keep the holder.
            waits.append(await _one_read(holder, reader, until if is_held else None))
            await asyncio.sleep(0.005)
        return waits, await going
    finally:
        await holder.close()
        await reader.close()


async def _one_read(
    holder: asyncpg.Connection[asyncpg.Record],
    reader: asyncpg.Connection[asyncpg.Record],
    until: float | None,
) -> float:
    started = time.perf_counter()
    reading = asyncio.ensure_future(reader.fetchval("select body from public.passage where id = 7"))
    if until is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), max(0.01, until - time.perf_counter()))
        if not reading.done():
            await holder.execute("rollback")
            await holder.execute("begin")
    await reading
    return time.perf_counter() - started


async def _undo(
    site: Site, dsn: Dsn, db: asyncpg.Connection[asyncpg.Record], place: Path, rows: int
) -> list[Figure]:
    await db.execute("drop table if exists public.alembic_version")
    shutil.rmtree(place / "loses", ignore_errors=True)
    ini = folder(place / "loses")
    revision(
        ini,
        "loses1",
        None,
        "delete from public.passage where id % 10 = 0; alter table public.passage drop column body",
        "alter table public.passage add column body text not null default ''",
    )
    started = time.perf_counter()
    made = await backup.create(dsn, db, ["public.passage"], folder=place / "backups")
    await backup.verify(dsn, db, str(made.id))
    kept_s = time.perf_counter() - started
    entry = await _made(site, ini)
    started = time.perf_counter()
    await loop.undo(site, entry.id)
    took = time.perf_counter() - started
    count = await db.fetchval("select count(*) from public.passage where body like 'passage %'")
    return [
        Figure(what="backup made and verified", value=kept_s, unit="s", n=rows),
        Figure(
            what="undo: a column and a tenth of the rows from the backup",
            value=took,
            unit="s",
            n=rows,
            at_most=MINUTES_15,
        ),
        Figure(what="rows that are there again", value=count, unit="rows", n=rows, at_least=rows),
    ]


async def _made(site: Site, ini: Path) -> Entry:
    parts = [Part(kind="migration", target=str(ini), want={"revision": "head"})]
    planned = await loop.plan(site, parts, None)
    assert planned is not None
    return await loop.apply(site, planned.id)


if __name__ == "__main__":
    raise SystemExit(main())

"""A server that the test may destroy, with what changes change, and all of that to be compared."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

import tiny_model
from command import PREFIX, Command
from conftest import connect
from ragline import config as configuration
from ragline import wiring
from ragline.change import settling
from ragline.change.kind import Site
from ragline.config import Config
from ragline.core.attaching import Request
from ragline.ops import autoconf, embedded
from ragline.rag import attach, ingest
from trials import Fixed

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Facts: TypeAlias = dict[str, Any]

COLLECTION = "kb"
ATTACHED = "notes"
_PARAGRAPHS = 270
_PER_DOCUMENT = 30


@dataclass(frozen=True, kw_only=True)
class Ground:
    """An embedded server in a folder that the test may destroy, with two models of other dimensions."""

    command: Command
    first: Path
    second: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told; nothing of the developer's own."""
        return {
            "RAGLINE_DATA_DIR": str(self.command.data_dir),
            "RAGLINE_MODEL_DIR": f"{self.first}{os.pathsep}{self.second}",
        }

    @property
    def config(self) -> Config:
        return configuration.load(environ=self.environment)

    @asynccontextmanager
    async def site(self, status: str | None = "pass") -> AsyncIterator[Site]:
        """Open a place for changes as any command does; the server is started if need be.

        `status` is how every measurement ends; None measures.
        """
        async with wiring.open_site(self.config) as site:
            if status is not None:
                site.measure = Fixed(status)
            yield site

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Db]:
        """Yield a superuser's connection to the running server."""
        found = embedded.status(self.command.data_dir).cluster
        assert found is not None, "the server does not run"
        db = await connect(embedded.dsn(found))
        try:
            yield db
        finally:
            await db.close()

    def kill_server(self) -> None:
        """End the postmaster as a crash would, having made sure that it is the test's own."""
        found = embedded.status(self.command.data_dir).cluster
        assert found is not None, "the server does not run"
        folder = self.command.folder
        assert folder.name.startswith(PREFIX)
        assert found.data_dir == self.command.data_dir
        assert found.data_dir.is_relative_to(folder)
        os.kill(found.pid, signal.SIGKILL)


def ground(command: Command) -> Ground:
    """Make the models, start the server, and fill a collection large enough for an index."""
    made = Ground(
        command=command,
        first=tiny_model.make(command.folder / "first", seed=1),
        second=tiny_model.make(command.folder / "second", seed=2, dimension=16),
    )
    asyncio.run(_filled(made))
    return made


async def _filled(made: Ground) -> None:
    words = random.Random(5)
    texts = [
        ingest.Text(
            source=f"document {number}",
            text="\n\n".join(
                " ".join(words.choices(tiny_model.WORDS, k=12)) for _ in range(_PER_DOCUMENT)
            ),
            metadata={"shelf": number % 4},
        )
        for number in range(_PARAGRAPHS // _PER_DOCUMENT)
    ]
    policy = ingest.Policy(chunk_size=16, chunk_overlap=0)
    async with wiring.open_app(made.config) as app:
        report = await ingest.ingest_texts(app, texts, COLLECTION, policy=policy)
        assert not report.rejections
        assert report.embedded == report.chunks >= 500, report
    async with made.looking() as db:
        # So that there is something to be left alone.
        await db.execute("alter system set work_mem = '6MB'")
        await db.execute("alter system set autovacuum_naptime = '50s'")
        await db.execute("select pg_reload_conf()")


async def attached(made: Ground) -> None:
    """Let there be a table of somebody else's with an index of its own, attached as a collection."""
    async with made.looking() as db:
        await db.execute("set search_path = public")
        await db.execute(_NOTES)
    async with wiring.open_app(made.config) as app:
        asked = Request(
            table=ATTACHED, id="id", text="content", embedding="embedding", model="unknown"
        )
        await attach.attach(app, asked)


# What is there.


async def fingerprint(ground: Ground) -> Facts:
    """Return all that changes change, and that must be exactly as before, or exactly as wanted.

    Embedding spaces are named by what they hold: their numbers are given out anew each time.
    """
    async with ground.looking() as db:
        names = {
            row["id"]: f"<{row['collection']}:{row['model_id']}-{row['dimension']}-"
            f"{row['storage']}-{row['metric']}>"
            for row in await db.fetch(
                "select s.*, c.name as collection from embedding_space s "
                "join collection c on c.id = s.collection_id"
            )
        }
        return {
            "auto": autoconf.parse(
                await db.fetchval("select pg_read_file('postgresql.auto.conf')")
            ),
            "running": await _rows(db, _RUNNING),
            "of roles": await _rows(db, _OF_ROLES),
            "limits": await _rows(db, _LIMITS),
            "relations": sorted(_named(names, row) for row in await _rows(db, _RELATIONS)),
            "indexes": sorted(_named(names, row) for row in await _rows(db, _INDEXES)),
            "spaces": sorted(
                [(names[row[0]], *row[1:]) for row in await _rows(db, _SPACES)], key=str
            ),
            "slots": sorted((names[row[0]], *row[1:]) for row in await _rows(db, _SLOTS)),
            "vectors": {
                name: await db.fetchval(f"select count(*) from embedding_{id_}")  # noqa: S608
                for id_, name in names.items()
                if await db.fetchval("select to_regclass($1) is not null", f"embedding_{id_}")
            },
            "policies": await _rows(db, "select * from search_policy order by 1"),
            "content": await _rows(
                db, "select (select count(*) from document), (select count(*) from chunk)"
            ),
        }


async def leftovers(ground: Ground) -> list[str]:
    """Return what a change that is over must not leave: places held, files, builds, INVALID indexes."""
    left = []
    async with ground.looking() as db:
        for what, query in _LEFT.items():
            left += [f"{what}: {tuple(row)}" for row in await db.fetch(query)]
    found = embedded.status(ground.command.data_dir).cluster
    assert found is not None
    async with _postgres(ground) as db:
        if await db.fetchval("select to_regclass('ragline_cluster.open_change')"):
            left += [
                f"place: {tuple(row)}"
                for row in await db.fetch("select * from ragline_cluster.open_change")
            ]
    journals = ground.command.data_dir / "changes"
    left += [f"journal: {path}" for path in (journals.iterdir() if journals.is_dir() else ())]
    left += [f"file: {path}" for path in found.data_dir.glob(".postgresql.auto.conf.*")]
    return left


@asynccontextmanager
async def _postgres(ground: Ground) -> AsyncIterator[Db]:
    found = embedded.status(ground.command.data_dir).cluster
    assert found is not None
    db = await connect(embedded.dsn(found).on("postgres"))
    try:
        yield db
    finally:
        await db.close()


async def _rows(db: Db, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await db.fetch(query)]


def _named(names: Mapping[int, str], row: tuple[Any, ...]) -> str:
    text = json.dumps(row)
    # The longest number first: embedding_12 is not embedding_1 with a 2.
    for id_ in sorted(names, reverse=True):
        text = text.replace(f"embedding_{id_}", f"embedding_{names[id_]}")
    return text


_RUNNING = """
    select name, setting, pending_restart from pg_settings
    where source = 'configuration file' or pending_restart order by name
"""
_OF_ROLES = """
    select d.datname, r.rolname, s.setconfig from pg_db_role_setting s
    left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole
    order by 1, 2
"""
_LIMITS = "select rolname, rolconnlimit from pg_roles order by 1"
_RELATIONS = """
    select c.relname, c.relkind::text from pg_class c
    where c.relnamespace = 'ragline'::regnamespace order by 1
"""
_INDEXES = """
    select i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where c.relnamespace in ('ragline'::regnamespace, 'public'::regnamespace)
"""
_NOTES = """
    create table notes (id bigint primary key, content text, embedding vector(16));
    insert into notes
    select g, 'note ' || g, array_agg(random() - 0.5)::real[]::vector
    from generate_series(1, 600) g, generate_series(1, 16) group by g;
    create index notes_idx on notes using hnsw (embedding vector_cosine_ops);
    analyze notes;
"""
_SPACES = """
    select s.id, c.active_space_id = s.id, s.index_slot, s.weights_hash, s.normalised
    from embedding_space s join collection c on c.id = s.collection_id
"""
_SLOTS = "select space_id, slot, storage, m, ef_construction from space_index"
_LEFT = {
    "open change": """
        select id, state, reason from change where closed_at is null and state <> 'planned'
    """,
    "build": "select pid, command, phase from pg_stat_progress_create_index",
    "invalid index": """
        select indexrelid::regclass::text from pg_index where not (indisvalid and indisready)
    """,
    "table without a space": """
        select c.relname from pg_class c
        where c.relnamespace = 'ragline'::regnamespace and c.relkind = 'r'
          and c.relname ~ '^embedding_[0-9]+$'
          and not exists (select from embedding_space where 'embedding_' || id = c.relname)
    """,
}


async def retire(ground: Ground, site: Site) -> None:
    """Drop what kept changes keep beside: the time of their immediate undo is over."""
    async with ground.looking() as db:
        await db.execute(
            "update change set retire_at = clock_timestamp() where retire_at is not null"
        )
    await settling.settle(site)

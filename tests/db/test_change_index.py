"""Indexes changed on a real database: built beside, switched to, put back, and nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from conftest import TEMPLATE, connect, opened
from ragline.change import build_room, building, loop, ordinary_index, vector_index
from ragline.change.kind import Measure, Site
from ragline.change.kinds.index import Index
from ragline.core import hnsw
from ragline.core.change import Arm, Part, Trial, Value, joined
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.core.hnsw import Graph
from ragline.core.stats import Outcome
from ragline.db import indexes, search
from ragline.errors import (
    Conflict,
    LockTimeout,
    NotFound,
    PreconditionFailed,
    RaglineError,
    UsageError,
)
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts
from ragline.rag.search import target_of
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CHUNKS = 600
FIRST = {"slot": 1, "storage": "vector", "m": 16, "ef_construction": 64}
SECOND = {"slot": 2, "storage": "vector", "m": 24, "ef_construction": 64}
# Takes long enough to be met on the way.
SLOW = {"m": 100, "ef_construction": 1000}


class Killed(Exception):
    """What a test breaks a change off with."""


@dataclass(kw_only=True)
class Here:
    """A server whose files are on this machine."""

    data_directory: Path | None
    name: str = "here"

    async def restart(self) -> None:
        raise AssertionError("no index needs a restart")

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        raise AssertionError("no index has settings to start with")


@dataclass(kw_only=True)
class Place:
    """A site with what it said and the points that it reached."""

    site: Site
    kind: Index
    said: list[str]
    points: list[str]

    async def steps(self, target: str, now: Value, want: Value) -> None:
        """Do what the loop does between the snapshot and the verdict's end."""
        for step in joined(self.kind.steps(target, now, want)):
            await self.kind.run(self.site, step)

    async def wanted(self, target: str, want: Value) -> Value:
        return (await self.kind.wanted(self.site, target, want))[0]

    async def read(self, target: str) -> Value:
        return await self.kind.read(self.site, target)

    async def change(self, target: str, want: Value) -> Value:
        """Do and confirm a change; return what was before."""
        complete = await self.wanted(target, want)
        now = await self.read(target)
        await self.steps(target, now, complete)
        await self.kind.confirm(self.site, target, complete)
        return now

    async def undo(self, target: str, was: Value) -> None:
        await self.steps(target, await self.read(target), was)
        await self.kind.confirm(self.site, target, was)


def placed(app: App, dsn: Dsn, folder: Path, *, lock_timeout_ms: int = 60_000) -> Place:
    said: list[str] = []
    points: list[str] = []
    kind = Index()
    site = Site(
        app=app,
        dsn=dsn,
        restart=None,
        measure=cast("Measure", None),
        kinds={kind.name: kind},
        data_dir=folder,
        lock_timeout_ms=lock_timeout_ms,
        say=said.append,
        reached=points.append,
    )
    return Place(site=site, kind=kind, said=said, points=points)


@pytest.fixture
async def place(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        yield placed(app, own_dsn, tmp_path)


def _texts(count: int) -> list[Text]:
    random_ = random.Random(3)
    words = [f"w{n}" for n in range(400)]
    return [Text(source=f"t{n}", text=" ".join(random_.choices(words, k=9))) for n in range(count)]


@pytest.fixture(scope="module")
async def filled(template: Dsn) -> AsyncIterator[Dsn]:
    """A database with a collection large enough to have got its index, to be cloned."""
    async with own_database(template) as dsn:
        with tempfile.TemporaryDirectory() as folder:
            async with opened(dsn, Path(folder), FakeEmbedder()) as app:
                await ingest_texts(app, _texts(CHUNKS), "kb")
        yield dsn


@pytest.fixture
async def own_dsn(request: pytest.FixtureRequest, template: Dsn, filled: Dsn) -> AsyncIterator[Dsn]:
    """A database of this test alone, with the collection for those who ask for it."""
    name = filled.database if "kb" in request.fixturenames else TEMPLATE
    async with own_database(template, template=name) as dsn:
        yield dsn


@pytest.fixture
async def kb(place: Place) -> Place:
    """A place where collection "kb" has its index."""
    return place


async def there(db: Db) -> dict[str, bool]:
    """Every vector index, and whether it is valid."""
    rows = await db.fetch(
        """
        select c.relname, i.indisvalid and i.indisready as valid
        from pg_class c join pg_index i on i.indexrelid = c.oid join pg_am a on a.oid = c.relam
        where a.amname = 'hnsw'
        """
    )
    return {row["relname"]: row["valid"] for row in rows}


async def described(db: Db) -> list[int]:
    rows = await db.fetch("select slot from space_index order by slot")
    return [row["slot"] for row in rows]


async def access(app: App, slot: int | None = None) -> str | None:
    """How a search reads the vectors, where it would rather not compare them all."""
    facts = await app.collection("kb", fresh=True)
    assert facts.space
    target = target_of(facts)
    if slot is not None:
        target = search.Target(
            **{
                name: getattr(target, name)
                for name in target.__dataclass_fields__
                if name not in ("slot", "index_storage")
            },
            slot=slot,
            index_storage="vector",
        )
    vector = await FakeEmbedder().embed_query("w1 w2 w3")
    ask = search.Ask(k=5, candidates=5, ef_search=100, vector=vector)
    pool = await app.pool("serve")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(
            "set local enable_seqscan = off; set local enable_sort = off; "
            "set local enable_bitmapscan = off"
        )
        plan = await search.explained(connection, target, "vector", ask)
    return search.vector_access(plan)


async def test_another_m_is_built_beside_switched_to_and_put_back_at_once(
    kb: Place, db: Db
) -> None:
    app = kb.site.app
    want = await kb.wanted("kb", {"m": 24})
    now = await kb.read("kb")
    assert (now, want) == (FIRST, SECOND)
    build, switch = kb.kind.steps("kb", now, want)
    assert (build.phase, build.action, switch.phase, switch.action) == (
        "prepare", "build", "adopt", "switch",
    )  # fmt: skip
    assert build.text == (
        "create index concurrently embedding_1_hnsw_2 on ragline.embedding_1 using hnsw "
        "(embedding public.vector_cosine_ops) with (m = 24, ef_construction = 64) "
        "where chunk_id <> -2"
    )
    assert build.lock == "SHARE UPDATE EXCLUSIVE on embedding_1"
    assert build.disk_bytes > 0

    await kb.kind.run(kb.site, build)
    assert kb.points == ["index:described", "index:building", "index:built"]
    assert await access(app) == "Index Scan embedding_1_hnsw"
    assert await access(app, slot=2) == "Index Scan embedding_1_hnsw_2"
    assert await kb.read("kb") == FIRST
    assert await kb.kind.arms(kb.site, "kb", now, want) == (
        {"kb": Trial(slot=1)},
        {"kb": Trial(slot=2)},
    )

    await kb.kind.run(kb.site, switch)
    await kb.kind.confirm(kb.site, "kb", SECOND)
    assert await access(app) == "Index Scan embedding_1_hnsw_2"
    with pytest.raises(PreconditionFailed, match="and should be"):
        await kb.kind.confirm(kb.site, "kb", FIRST)

    kb.points.clear()
    oids = await db.fetch("select oid from pg_class where relname like 'embedding_1_hnsw%'")
    await kb.undo("kb", FIRST)
    assert await access(app) == "Index Scan embedding_1_hnsw"
    assert "index:building" not in kb.points
    assert oids == await db.fetch("select oid from pg_class where relname like 'embedding_1_hnsw%'")

    await kb.kind.tidy(kb.site, "kb", FIRST)
    assert await there(db) == {"embedding_1_hnsw": True}
    assert await described(db) == [1]
    await kb.kind.tidy(kb.site, "kb", FIRST)
    assert await there(db) == {"embedding_1_hnsw": True}


async def test_an_index_that_searches_do_not_use_is_not_confirmed(kb: Place) -> None:
    await kb.change("kb", {"m": 24})
    kb.site.app.trials["kb"] = Trial(slot=1)
    with pytest.raises(PreconditionFailed, match="is valid, but searches of 'kb' do not use it"):
        await kb.kind.confirm(kb.site, "kb", SECOND)
    kb.site.app.trials.clear()
    await kb.kind.confirm(kb.site, "kb", SECOND)


async def test_the_plan_says_what_a_statement_of_the_server_would(kb: Place, db: Db) -> None:
    found = await vector_index.seen(kb.site, "kb")
    assert found
    for slot, storage in ((0, "vector"), (1, "halfvec"), (2, "vector"), (2, "halfvec")):
        graph = Graph(slot=slot, storage=cast("hnsw.Storage", storage), m=8, ef_construction=40)
        await indexes.describe(db, found.space.id, graph)
        assert await indexes.statement(db, found.space, slot) == indexes.composed(
            found.space, graph
        )
        assert indexes.name_of(found.space, slot) == found.slots[slot].name


async def test_a_retired_loser_leaves_one_index_and_its_description(kb: Place, db: Db) -> None:
    was = await kb.change("kb", {"m": 24})
    assert was == FIRST
    assert await there(db) == {"embedding_1_hnsw": True, "embedding_1_hnsw_2": True}
    await kb.kind.tidy(kb.site, "kb", SECOND)
    assert await there(db) == {"embedding_1_hnsw_2": True}
    assert await described(db) == [2]
    # With nothing kept, undo builds it again, exactly as it was.
    await kb.undo("kb", FIRST)
    assert await kb.read("kb") == FIRST


async def test_tidying_never_takes_what_searches_use(kb: Place, db: Db) -> None:
    await kb.kind.tidy(kb.site, "kb", SECOND)
    await kb.kind.tidy(kb.site, "kb", None)
    assert await there(db) == {"embedding_1_hnsw": True}
    assert await described(db) == [1]


async def test_halves_need_another_expression_and_searches_have_it(kb: Place) -> None:
    await kb.change("kb", {"storage": "halfvec"})
    assert await kb.read("kb") == {**FIRST, "slot": 2, "storage": "halfvec"}
    assert await access(kb.site.app) == "Index Scan embedding_1_hnsw_2"


async def test_no_index_is_an_empty_slot_until_the_old_one_is_retired(kb: Place, db: Db) -> None:
    await kb.change("kb", {"m": 24})  # its loser lies where nothing is to be
    want, warnings = await kb.kind.wanted(kb.site, "kb", None)
    assert want is None
    assert "compare every one of 600 vectors" in warnings[0]
    now = await kb.read("kb")
    drop, switch = joined(kb.kind.steps("kb", now, None))
    assert (drop.phase, drop.action, switch.phase) == ("prepare", "drop", "adopt")
    assert drop.loses
    await kb.kind.run(kb.site, drop)
    assert await kb.kind.arms(kb.site, "kb", now, None) == (
        {"kb": Trial(slot=2)},
        {"kb": Trial(slot=1)},
    )
    assert "_hnsw" not in str(await access(kb.site.app, slot=1))
    await kb.kind.run(kb.site, switch)
    await kb.kind.confirm(kb.site, "kb", None)
    assert await kb.read("kb") is None
    assert await there(db) == {"embedding_1_hnsw_2": True}

    await kb.undo("kb", now)
    assert await access(kb.site.app) == "Index Scan embedding_1_hnsw_2"
    await kb.change("kb", None)
    await kb.kind.tidy(kb.site, "kb", None)
    assert await there(db) == {}
    assert await described(db) == [1]
    # From none to one, in the other slot, and back to none.
    assert await kb.change("kb", {"m": 8}) is None
    assert await kb.read("kb") == {**FIRST, "slot": 2, "m": 8}
    await kb.undo("kb", None)
    assert await kb.read("kb") is None


async def test_an_index_from_before_there_were_slots_makes_way(kb: Place, db: Db) -> None:
    await _make_legacy(db)
    old = {**FIRST, "slot": 0}
    assert await kb.read("kb") == old
    assert await access(kb.site.app) == "Index Scan embedding_1_hnsw_0"
    want = await kb.wanted("kb", {"m": 24})
    assert want == {**FIRST, "m": 24}
    build, switch, drop = joined(kb.kind.steps("kb", old, want))
    assert [step.phase for step in (build, switch, drop)] == ["prepare", "apply", "apply"]
    assert drop.loses
    await kb.kind.run(kb.site, build)
    # Without its own predicate the old one would do for both sides.
    used = {await access(kb.site.app, slot=slot) for slot in (0, 1)}
    assert "Index Scan embedding_1_hnsw_0" in used
    assert await kb.kind.arms(kb.site, "kb", old, want) is None
    await kb.kind.run(kb.site, switch)
    await kb.kind.run(kb.site, drop)
    await kb.kind.confirm(kb.site, "kb", want)
    assert await access(kb.site.app) == "Index Scan embedding_1_hnsw"
    assert await there(db) == {"embedding_1_hnsw": True}

    await kb.undo("kb", old)
    await kb.kind.tidy(kb.site, "kb", old)
    assert await kb.read("kb") == old
    assert await there(db) == {"embedding_1_hnsw_0": True}
    assert await described(db) == [0]

    await kb.change("kb", None)
    await kb.kind.tidy(kb.site, "kb", None)
    assert await there(db) == {}


async def _make_legacy(db: Db) -> None:
    await db.execute(
        """
        drop index embedding_1_hnsw;
        update embedding_space set index_slot = 0;
        delete from space_index;
        insert into space_index (space_id, slot, storage) values (1, 0, 'vector');
        create index embedding_1_hnsw_0 on embedding_1 using hnsw (embedding vector_cosine_ops)
        """
    )


async def test_a_build_that_is_broken_off_leaves_nothing_invalid(kb: Place, db: Db) -> None:
    def die(point: str) -> None:
        if point == "index:building":
            raise Killed

    kb.site.reached = die
    want = await kb.wanted("kb", SLOW)
    build = kb.kind.steps("kb", FIRST, want)[0]
    with pytest.raises(Killed):
        await kb.kind.run(kb.site, build)
    assert await there(db) == {"embedding_1_hnsw": True}
    await kb.kind.tidy(kb.site, "kb", FIRST)
    assert await described(db) == [1]


async def test_a_cancelled_build_leaves_nothing_invalid(kb: Place, db: Db) -> None:
    task: asyncio.Task[None]

    def cancel(point: str) -> None:
        if point == "index:building":
            task.cancel()

    kb.site.reached = cancel
    want = await kb.wanted("kb", SLOW)
    task = asyncio.create_task(kb.kind.run(kb.site, kb.kind.steps("kb", FIRST, want)[0]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await there(db) == {"embedding_1_hnsw": True}


@pytest.mark.parametrize(
    ("how", "error"),
    [("pg_cancel_backend", "Somebody cancelled it"), ("pg_terminate_backend", "was lost")],
)
async def test_a_build_that_the_server_ends_is_an_error_and_nothing_is_left(
    kb: Place, db: Db, how: str, error: str
) -> None:
    ending: list[asyncio.Task[Any]] = []

    def end(point: str) -> None:
        if point == "index:building":
            ending.append(
                asyncio.create_task(
                    db.fetchval(f"select {how}(pid) from pg_stat_progress_create_index")  # noqa: S608
                )
            )

    kb.site.reached = end
    want = await kb.wanted("kb", SLOW)
    build = kb.kind.steps("kb", FIRST, want)[0]
    with pytest.raises(RaglineError, match=error):
        await kb.kind.run(kb.site, build)
    assert await ending[0] is True
    assert await there(db) == {"embedding_1_hnsw": True}
    kb.site.reached = kb.points.append
    await kb.kind.run(kb.site, build)
    assert await there(db) == {"embedding_1_hnsw": True, "embedding_1_hnsw_2": True}


async def test_what_lies_in_the_slot_and_is_not_the_index_is_replaced(kb: Place, db: Db) -> None:
    want = await kb.wanted("kb", {"m": 24})
    build = kb.kind.steps("kb", FIRST, want)[0]
    right = "(m = 24, ef_construction = 64)"
    invalid = (
        "; update pg_index set indisvalid = false where indexrelid = 'embedding_1_hnsw_2'::regclass"
    )
    leftovers = (
        f"hnsw (embedding vector_cosine_ops) with {right} where chunk_id <> -2 {invalid}",
        "hnsw (embedding vector_cosine_ops) with (m = 4) where chunk_id <> -2",
        f"hnsw (embedding vector_cosine_ops) with {right}",
        f"hnsw (embedding vector_l2_ops) with {right} where chunk_id <> -2",
        "btree (chunk_id)",
    )
    for leftover in leftovers:
        await db.execute("drop index if exists embedding_1_hnsw_2")
        await db.execute(f"create index embedding_1_hnsw_2 on embedding_1 using {leftover}")
        await kb.kind.run(kb.site, build)
        found = await vector_index.seen(kb.site, "kb")
        assert found
        assert found.slots[2].serves == hnsw.from_json(SECOND)


async def test_an_invalid_index_serves_nothing_and_is_dropped(kb: Place, db: Db) -> None:
    await kb.change("kb", {"m": 24})
    await db.execute(
        "update pg_index set indisvalid = false where indexrelid = any "
        "(array['embedding_1_hnsw', 'embedding_1_hnsw_2']::regclass[])"
    )
    assert await kb.read("kb") is None
    with pytest.raises(PreconditionFailed, match="should be"):
        await kb.kind.confirm(kb.site, "kb", SECOND)
    await kb.kind.tidy(kb.site, "kb", SECOND)
    assert await there(db) == {}
    await kb.undo("kb", SECOND)
    assert await there(db) == {"embedding_1_hnsw_2": True}


@contextlib.asynccontextmanager
async def _writer(dsn: Dsn) -> AsyncIterator[tuple[Db, asyncpg.transaction.Transaction]]:
    """A transaction that has written to the vectors, and does not end."""
    connection = await connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        "delete from embedding_1 where chunk_id = (select min(chunk_id) from embedding_1)"
    )
    try:
        yield connection, transaction
    finally:
        await connection.close()


async def _until(true: Callable[[], Any]) -> Any:
    async with asyncio.timeout(120):
        while not (found := await true()):  # noqa: ASYNC110 - in the server
            await asyncio.sleep(0.01)
        return found


async def _left_behind(dsn: Dsn, want: Mapping[str, Any], application: str) -> tuple[Db, Any]:
    """A build in the slot by another session, which nobody waits for any more."""
    other = await connect(dsn)
    await other.execute("select set_config('application_name', $1, false)", application)
    running = asyncio.ensure_future(
        other.execute(
            "create index concurrently embedding_1_hnsw_2 on ragline.embedding_1 using hnsw "
            f"(embedding vector_cosine_ops) with (m = {want['m']}, ef_construction = 64) "
            "where chunk_id <> -2"
        )
    )
    return other, running


async def test_a_build_that_outlived_its_client_is_stopped_first(
    kb: Place, db: Db, own_dsn: Dsn
) -> None:
    admin = (await kb.site.app.pool("admin")).dsn
    want = await kb.wanted("kb", {"m": 24})
    async with _writer(own_dsn) as (_, transaction):
        other, running = await _left_behind(admin, SECOND, "ragline:admin")
        await _until(lambda: db.fetchval("select count(*) from pg_stat_progress_create_index"))
        ended: list[asyncio.Task[None]] = []

        def free(point: str) -> None:
            if point == "index:described":
                ended.append(asyncio.create_task(transaction.rollback()))

        kb.site.reached = free
        await kb.kind.run(kb.site, kb.kind.steps("kb", FIRST, want)[0])
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await running
        assert other.is_closed()
        assert any("left behind" in line for line in kb.said)
    found = await vector_index.seen(kb.site, "kb")
    assert found
    assert found.slots[2].serves == hnsw.from_json(SECOND)


async def test_a_build_of_somebody_else_is_left_alone(kb: Place, db: Db, own_dsn: Dsn) -> None:
    want = await kb.wanted("kb", {"m": 24})
    async with _writer(own_dsn) as (_, transaction):
        other, running = await _left_behind(own_dsn, SECOND, "psql")
        await _until(lambda: db.fetchval("select count(*) from pg_stat_progress_create_index"))
        with pytest.raises(Conflict, match="builds index embedding_1_hnsw_2 right now"):
            await kb.kind.run(kb.site, kb.kind.steps("kb", FIRST, want)[0])
        await transaction.rollback()
        await running
        await other.close()


async def test_a_build_that_cannot_begin_says_who_is_in_the_way(
    kb: Place, db: Db, own_dsn: Dsn
) -> None:
    kb.site.lock_timeout_ms = 100
    want = await kb.wanted("kb", {"m": 24})
    build = kb.kind.steps("kb", FIRST, want)[0]
    async with _writer(own_dsn) as (writer, transaction):
        with pytest.raises(
            LockTimeout, match=rf"process {writer.get_server_pid()}; nothing in use"
        ):
            await kb.kind.run(kb.site, build)
        assert len([line for line in kb.said if line.endswith("trying again")]) == 2
        await transaction.rollback()
    assert await there(db) == {"embedding_1_hnsw": True}
    await kb.kind.run(kb.site, build)
    assert (await there(db))["embedding_1_hnsw_2"]


async def test_a_graph_that_no_longer_fits_memory_is_told(
    kb: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def little(_site: Site, needed: int) -> int:
        assert needed > 1 << 20
        return 1 << 20

    monkeypatch.setattr(build_room, "_memory", little)
    want, warnings = await kb.kind.wanted(kb.site, "kb", {"m": 60, "ef_construction": 120})
    assert any("the build gets 1 MB" in line for line in warnings)
    await kb.kind.run(kb.site, kb.kind.steps("kb", FIRST, want)[0])
    assert any("no longer fits into maintenance_work_mem" in line for line in kb.said)


async def test_a_build_gets_the_memory_that_it_needs_and_says_how_far_it_is(
    kb: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_SAY_S", 0)
    kb.site.restart = Here(data_directory=kb.site.data_dir)
    await kb.change("kb", {"m": 60, "ef_construction": 600})
    assert not any("no longer fits" in line for line in kb.said)
    assert any(
        line.startswith("embedding_1_hnsw_2: building index") and "blocks" in line
        for line in kb.said
    )


async def test_how_long_a_build_takes_is_known_from_the_last_one(kb: Place, db: Db) -> None:
    want = await kb.wanted("kb", {"m": 24, "ef_construction": 128})
    build = kb.kind.steps("kb", FIRST, want)[0]
    assert build.expected_s is None
    change = await db.fetchval(
        """
        insert into change (title, parts, plan, plan_hash, is_cluster_wide, expires_at)
        values ('t', '[]', '{}', 'h', false, now()) returning id
        """
    )
    await db.execute(
        """
        insert into change_step (change_id, ordinal, direction, phase, text, started_at, ended_at)
        values ($1, 1, 'do', 'prepare', $2, now() - interval '30 seconds', now()),
               ($1, 2, 'do', 'prepare', $3, now() - interval '90 seconds', now())
        """,
        change,
        build.text,
        build.text.replace("embedding_1", "embedding_11"),
    )
    want = await kb.wanted("kb", {"m": 24, "ef_construction": 256})
    assert kb.kind.steps("kb", FIRST, want)[0].expected_s == pytest.approx(60)


async def test_a_disk_that_is_too_full_is_known_before(
    kb: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, warnings = await kb.kind.wanted(kb.site, "kb", {"m": 24})
    assert any("is unknown" in line for line in warnings)
    kb.site.restart = Here(data_directory=kb.site.data_dir)
    assert (await kb.kind.wanted(kb.site, "kb", {"m": 24}))[1] == ()

    def full(_: Path) -> Any:
        return type("Usage", (), {"free": 100_000})

    monkeypatch.setattr("shutil.disk_usage", full)
    with pytest.raises(PreconditionFailed, match="are free where the database lies: free"):
        await kb.wanted("kb", {"m": 24})
    # What is built already needs no space.
    assert await kb.wanted("kb", FIRST) == FIRST


async def test_a_want_that_cannot_be_is_refused_and_nothing_is_touched(kb: Place, db: Db) -> None:
    bad: list[tuple[str, Value, type[RaglineError], str]] = [
        ("kb", {"m": 1}, UsageError, "m is 1"),
        ("kb", {"lists": 10}, UsageError, "has no 'lists'"),
        ("kb", {"operator_class": "vector_l2_ops"}, UsageError, "only an index with"),
        ("kb", "hnsw", UsageError, "say for example"),
        ("bk", {"m": 24}, NotFound, "'bk' does not exist; there are: kb"),
        ("v1.2", {"m": 24}, NotFound, "'v1.2' does not exist"),
    ]
    for target, want, error, reason in bad:
        with pytest.raises(error, match=reason):
            await kb.wanted(target, want)
    await db.execute(
        "insert into collection (name, chunk_size, chunk_overlap) values ('bare', 256, 32)"
    )
    with pytest.raises(UsageError, match="has no vectors yet"):
        await kb.wanted("bare", {"m": 24})
    assert await kb.read("bare") is None
    assert await kb.read("kb") == FIRST


async def test_too_many_dimensions_have_no_index(place: Place, db: Db) -> None:
    await db.execute(
        """
        insert into collection (name, chunk_size, chunk_overlap) values ('wide', 256, 32);
        select create_space(1, 'm', 'w', 4001, 'cosine', 'vector', true, '{}', true);
        update collection set active_space_id = 1
        """
    )
    with pytest.raises(UsageError, match="the most is 4000 dimensions"):
        await place.wanted("wide", {"m": 24})
    assert await place.read("wide") is None


async def test_a_collection_may_have_a_dot_in_its_name(place: Place) -> None:
    await ingest_texts(place.site.app, _texts(20), "v1.2")
    assert place.kind.measured("v1.2") == {"collections": ("v1.2",)}
    assert place.kind.measured("document.by_title") == {}
    await place.change("v1.2", {"m": 8})
    assert await place.read("v1.2") == {**FIRST, "slot": 2, "m": 8}


async def test_tables_whose_indexes_may_change_are_there(db: Db) -> None:
    rows = await db.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'ragline'::regnamespace"
    )
    assert set(ordinary_index.TABLES) <= {row["relname"] for row in rows}


@pytest.mark.parametrize(
    ("dimension", "storage", "m"), [(384, "vector", 16), (96, "halfvec", 8), (768, "halfvec", 32)]
)
async def test_an_index_is_as_large_as_was_said(
    place: Place, db: Db, dimension: int, storage: str, m: int
) -> None:
    count = 1500
    await db.execute(
        """
        insert into collection (name, chunk_size, chunk_overlap) values ('kb', 256, 32);
        alter table chunk disable trigger user; alter table document disable trigger user;
        """
    )
    await db.execute(
        "select create_space(1, 'm', 'w', $1, 'cosine', $2, true, '{}', false)", dimension, storage
    )
    await _fill(db, dimension, storage, count)
    await place.change("kb", {"m": m, "ef_construction": 2 * m})
    found = await vector_index.seen(place.site, "kb")
    assert found
    real = found.active.size_bytes
    graph = found.active.serves
    assert graph
    assert hnsw.index_bytes(graph, dimension, count) == pytest.approx(real, rel=0.1)


async def _fill(db: Db, dimension: int, storage: str, count: int) -> None:
    await db.execute(
        """
        update collection set active_space_id = 1;
        alter table embedding_1 drop constraint embedding_1_chunk_id_fkey
        """
    )
    await db.execute(
        f"""
        insert into embedding_1
        select n, (select array_agg(random() - 0.5) from generate_series(1, {dimension}) where n = n)
                  ::{storage}
        from generate_series(1, {count}) n
        """  # noqa: S608
    )


# Through the loop.


@dataclass
class Judge:
    """Says what a test wants to hear of both arms."""

    status: Outcome
    arms: list[tuple[Arm, Arm]]

    async def before(self, asked: Asked) -> dict[str, Any]:
        return {"measured": True}

    async def after(self, asked: Asked, before: Mapping[str, Any]) -> Judgement:
        assert before == {"measured": True}
        return Judgement(status=self.status, reason="recall", rung="recall")

    async def pair(self, asked: Asked, now: Arm, want: Arm) -> Judgement:
        self.arms.append((now, want))
        return Judgement(status=self.status, reason="recall", rung="recall")


@pytest.mark.parametrize(("status", "state"), [("pass", "kept"), ("fail", "undone")])
async def test_the_loop_judges_both_slots_and_keeps_or_drops_the_new_one(
    kb: Place, db: Db, status: Outcome, state: str
) -> None:
    judge = Judge(status, [])
    kb.site.measure = judge
    part = Part(kind="index", target="kb", want={"m": 24})
    planned = await loop.plan(kb.site, [part], Asked())
    assert planned
    entry = await loop.apply(kb.site, planned.id)
    assert entry.state == state
    assert judge.arms == [({"kb": Trial(slot=1)}, {"kb": Trial(slot=2)})]
    if state == "undone":
        assert await kb.read("kb") == FIRST
        assert await there(db) == {"embedding_1_hnsw": True}
        return
    assert await kb.read("kb") == SECOND
    assert await there(db) == {"embedding_1_hnsw": True, "embedding_1_hnsw_2": True}
    kb.points.clear()
    undone = await loop.undo(kb.site, entry.id)
    assert undone.state == "kept"
    assert await kb.read("kb") == FIRST
    assert "index:building" not in kb.points
    assert undone.undoes == entry.id


@pytest.mark.parametrize(("status", "state"), [("pass", "kept"), ("fail", "undone")])
async def test_the_loop_measures_an_old_index_and_its_follower_one_after_the_other(
    kb: Place, db: Db, status: Outcome, state: str
) -> None:
    await _make_legacy(db)
    judge = Judge(status, [])
    kb.site.measure = judge
    planned = await loop.plan(kb.site, [Part(kind="index", target="kb", want={"m": 24})], Asked())
    assert planned
    entry = await loop.apply(kb.site, planned.id)
    assert (entry.state, judge.arms) == (state, [])
    name = "embedding_1_hnsw" if state == "kept" else "embedding_1_hnsw_0"
    assert await there(db) == {name: True}
    assert await access(kb.site.app) == f"Index Scan {name}"


async def test_a_definition_that_is_there_already_is_no_change(kb: Place) -> None:
    part = Part(kind="index", target="kb", want={"m": 16, "ef_construction": 64})
    assert await loop.plan(kb.site, [part], None) is None


# Ordinary indexes.

BY_TITLE = "create index by_title on ragline.document (title)"
TITLE = {"definition": "CREATE INDEX by_title ON ragline.document USING btree (title)"}
ATTRIBUTE = "attribute.attribute_by_value"


async def test_an_ordinary_index_is_made_and_taken_away(place: Place, db: Db) -> None:
    target = "document.by_title"
    want = await place.wanted(target, {"definition": BY_TITLE})
    assert want == TITLE
    [build] = place.kind.steps(target, None, want)
    assert (build.phase, build.text) == (
        "apply",
        'create index concurrently "by_title" on ragline.document USING btree (title)',
    )
    assert await place.kind.arms(place.site, target, None, want) is None
    assert await place.change(target, {"definition": BY_TITLE}) is None
    assert await place.read(target) == TITLE
    await place.kind.run(place.site, build)
    await place.undo(target, None)
    assert await db.fetchval("select to_regclass('ragline.by_title')") is None
    await place.kind.tidy(place.site, target, None)


async def test_a_dropped_index_comes_back_exactly(place: Place, db: Db) -> None:
    was = await place.read(ATTRIBUTE)
    assert was == {
        "definition": "CREATE INDEX attribute_by_value ON ragline.attribute USING btree "
        "(collection_id, field, word, number, document_id)"
    }
    _, warnings = await place.kind.wanted(place.site, ATTRIBUTE, None)
    assert "will do without it" in warnings[0]
    assert "filters" in warnings[1]
    assert await place.change(ATTRIBUTE, None) == was
    assert await place.read(ATTRIBUTE) is None
    await place.undo(ATTRIBUTE, was)
    assert await place.read(ATTRIBUTE) == was
    owner = "select pg_get_userbyid(relowner) from pg_class where relname = 'attribute_by_value'"
    assert await db.fetchval(owner) == "ragline_owner"


async def test_a_replaced_index_is_swapped_in_and_nothing_lies_beside_it(
    place: Place, db: Db
) -> None:
    was = await place.read(ATTRIBUTE)
    before = await db.fetch("select relname from pg_class where relkind = 'i' order by 1")
    hashed = {
        "definition": "create index attribute_by_value on attribute using hash (word) "
        "with (fillfactor = 60) where (field = 'lang;')"
    }
    want = await place.wanted(ATTRIBUTE, hashed)
    steps = place.kind.steps(ATTRIBUTE, was, want)
    assert [step.action for step in steps] == ["build", "switch", "drop"]
    # Each step done twice, as after a crash; and again from the first.
    for step in [*steps[:1], *steps[:2], *steps, *steps]:
        await place.kind.run(place.site, step)
    await place.kind.confirm(place.site, ATTRIBUTE, want)
    assert await place.read(ATTRIBUTE) == want
    await place.undo(ATTRIBUTE, was)
    assert await place.read(ATTRIBUTE) == was
    assert before == await db.fetch("select relname from pg_class where relkind = 'i' order by 1")


async def test_an_index_that_is_in_use_for_long_stays_whole(place: Place, own_dsn: Dsn) -> None:
    place.site.lock_timeout_ms = 50
    was = await place.read(ATTRIBUTE)
    reader = await connect(own_dsn)
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetchval("select count(*) from attribute")
    with pytest.raises(LockTimeout, match=f"process {reader.get_server_pid()} uses its table"):
        await place.change(ATTRIBUTE, None)
    assert await place.read(ATTRIBUTE) == was
    await transaction.rollback()
    await reader.close()
    await place.change(ATTRIBUTE, None)


async def test_a_replacement_broken_off_is_tidied(place: Place, db: Db) -> None:
    was = await place.read(ATTRIBUTE)
    want = await place.wanted(
        ATTRIBUTE, {"definition": "create index attribute_by_value on attribute (word)"}
    )
    # What the ledger knows of is ours.
    assert await loop.plan(place.site, [Part(kind="index", target=ATTRIBUTE, want=want)], None)
    build, switch, _ = place.kind.steps(ATTRIBUTE, was, want)
    await place.kind.run(place.site, build)
    await place.undo(ATTRIBUTE, was)
    await place.kind.tidy(place.site, ATTRIBUTE, was)
    left = "select relname from pg_class where relname like 'attribute_by_value%'"
    assert [row[0] for row in await db.fetch(left)] == ["attribute_by_value"]
    await place.kind.run(place.site, build)
    await place.kind.run(place.site, switch)
    await place.undo(ATTRIBUTE, was)
    await place.kind.tidy(place.site, ATTRIBUTE, was)
    assert [row[0] for row in await db.fetch(left)] == ["attribute_by_value"]
    assert await place.read(ATTRIBUTE) == was


THEIRS = """
create schema app; create table app."T x" (id int, a int, b text);
insert into app."T x" select i, i % 7, 'b' || i from generate_series(1, 500) i;
create index by_a on app."T x" (a);
"""
BY_A = '@app."T x".by_a'


async def test_somebody_s_own_index_is_never_taken_for_what_a_replacement_left(
    place: Place, db: Db
) -> None:
    await db.execute(THEIRS)
    was = await place.read(BY_A)
    wide = {"definition": 'create index by_a on app."T x" (a, b)'}
    for ending in ("new", "old"):
        await db.execute(f'create index by_a__{ending} on app."T x" (b)')
        with pytest.raises(Conflict, match=f"'by_a__{ending}'.*it is not ours"):
            await place.wanted(BY_A, wide)
        await place.kind.tidy(place.site, BY_A, was)
        assert await db.fetchval(f"select to_regclass('app.by_a__{ending}')") is not None
        await db.execute(f"drop index app.by_a__{ending}")
    # One that comes between the plan and its steps.
    want = await place.wanted(BY_A, wide)
    build, switch, drop = place.kind.steps(BY_A, was, want)
    await db.execute('create index by_a__new on app."T x" (b)')
    with pytest.raises(Conflict, match="it is not ours"):
        await place.kind.run(place.site, build)
    await db.execute('drop index app.by_a__new; create index by_a__old on app."T x" (b)')
    await place.kind.run(place.site, build)
    with pytest.raises(Conflict, match="it is not ours"):
        await place.kind.run(place.site, switch)
    await db.execute("drop index app.by_a__old")
    for step in (switch, drop):
        await place.kind.run(place.site, step)
    await place.kind.confirm(place.site, BY_A, want)
    names = await db.fetch("select indexname from pg_indexes where schemaname = 'app'")
    assert [row[0] for row in names] == ["by_a"]


async def test_the_loop_replaces_an_index_of_another_schema_and_leaves_nothing(
    place: Place, db: Db
) -> None:
    await db.execute(THEIRS)
    was = await place.read(BY_A)
    want = {"definition": 'create index by_a on app."T x" (a, b)'}
    planned = await loop.plan(place.site, [Part(kind="index", target=BY_A, want=want)], None)
    assert planned
    build = place.kind.steps(BY_A, was, planned.parts[0].want)[0]
    await place.kind.run(place.site, build)  # as one that a killed process left
    entry = await loop.apply(place.site, planned.id)
    assert entry.state == "kept"
    await loop.undo(place.site, entry.id)
    assert await place.read(BY_A) == was
    names = await db.fetch("select indexname from pg_indexes where schemaname = 'app'")
    assert [row[0] for row in names] == ["by_a"]


@pytest.mark.parametrize(
    ("target", "definition", "error", "reason"),
    [
        ("@app.part.x", "create index x on app.part (id)", UsageError, "is a partitioned table"),
        ("@app.v.x", "create index x on app.v (a)", UsageError, "is a view"),
        ("@app.gone.x", "create index x on app.gone (a)", NotFound, "no table app.gone"),
        ('@app."T x".part', 'create index part on app."T x" (a)', Conflict, "another name"),
        ("@app.part.by_a", "create index by_a on app.part (id)", Conflict, 'say @app."T x".by_a'),
        ("@pg_catalog.pg_class.x", "create index x on pg_catalog.pg_class (relname)", UsageError,
         "PostgreSQL's own"),
        ('@app."T x".x', 'create index x on app."T x" (a); drop table app.part', UsageError,
         "cannot insert multiple commands"),
        ('@app."T x".x', 'create index x on app."T x" (b) where b = pg_sleep(1)::text', UsageError,
         "IMMUTABLE"),
        ("@app.T x.x", "create index x on app.t (a)", UsageError, "names no index"),
    ],
)  # fmt: skip
async def test_an_index_of_somebody_s_table_that_cannot_be_is_refused(
    place: Place, db: Db, target: str, definition: str, error: type[RaglineError], reason: str
) -> None:
    await db.execute(THEIRS)
    await db.execute("create table app.part (id int) partition by range (id)")
    await db.execute('create view app.v as select * from app."T x"')
    with pytest.raises(error, match=reason):
        await place.wanted(target, {"definition": definition})


async def test_rows_that_are_not_unique_leave_no_invalid_index(kb: Place, db: Db) -> None:
    definition = "create unique index by_language on document (collection_id)"
    target = "document.by_language"
    want = await kb.wanted(target, {"definition": definition})
    [build] = kb.kind.steps(target, None, want)
    with pytest.raises(UsageError, match="rows there are not unique"):
        await kb.kind.run(kb.site, build)
    assert await db.fetchval("select to_regclass('ragline.by_language')") is None
    await db.execute("create index by_language on document (collection_id)")
    await db.execute(
        "update pg_index set indisvalid = false where indexrelid = 'by_language'::regclass"
    )
    assert await kb.read(target) is None
    await kb.kind.tidy(kb.site, target, None)
    assert await db.fetchval("select to_regclass('ragline.by_language')") is None


@pytest.mark.parametrize(
    ("target", "want", "error", "reason"),
    [
        ("document.document_pkey", None, UsageError, "keeps the constraint 'document_pkey'"),
        ("document.by_titel", None, NotFound, "table 'document' has no index 'by_titel'"),
        ("chunk.attribute_by_value", None, Conflict, "belongs to table 'attribute'"),
        ("document.x", {"m": 3}, UsageError, "say"),
        ("document.x", {"definition": "create index x on document (nothing)"}, UsageError,
         'column "nothing" does not exist'),
        ("document.x", {"definition": "create index x on document (title); drop table chunk"},
         UsageError, "cannot insert multiple commands"),
        ("document.x", {"definition": "create index x on document (title) tablespace pg_global"},
         UsageError, "pg_global|tablespace"),
        ("document.x", {"definition": "create index x on document (title nosuch_ops)"},
         UsageError, 'operator class "nosuch_ops" does not exist'),
        ("embedding_1.x", {"definition": "create index x on embedding_1 (chunk_id)"}, NotFound,
         "collection 'embedding_1.x' does not exist"),
    ],
)  # fmt: skip
async def test_an_ordinary_index_that_cannot_be_is_refused(
    place: Place, db: Db, target: str, want: Value, error: type[RaglineError], reason: str
) -> None:
    before = await db.fetch("select relname from pg_class order by 1")
    with pytest.raises(error, match=reason):
        await place.wanted(target, want)
    assert before == await db.fetch("select relname from pg_class order by 1")


DEFINITIONS = (
    None,
    "create index some on document (title)",
    "create index some on document using hash (source)",
    "create unique index some on document (id desc nulls last, title)",
    "create index some on document using gin (metadata)",
    "create index some on document (lower(title) text_pattern_ops) include (id) where characters > 3",
)
GRAPHS = (
    None,
    {"m": 2, "ef_construction": 4},
    {"m": 30, "ef_construction": 60},
    {"storage": "halfvec"},
    {"slot": 2, "m": 16, "ef_construction": 64},
)


async def test_undoing_what_was_done_leaves_no_trace(place: Place, db: Db) -> None:
    await ingest_texts(place.site.app, _texts(30), "kb")
    random_ = random.Random(11)
    targets = [("document.some", DEFINITIONS), ("kb", GRAPHS)]
    for target, values in targets:
        last: Any = None
        for _ in range(5):
            start, end = random_.sample(values, 2)
            with contextlib.suppress(NotFound):  # it is not there already
                await place.change(target, _valued(start))
            was = await place.read(target)
            with contextlib.suppress(NotFound):
                await place.change(target, _valued(end))
            if random_.random() < 0.5:
                await place.kind.tidy(place.site, target, await place.read(target))
            await place.undo(target, was)
            await place.kind.tidy(place.site, target, was)
            assert await place.read(target) == was
            names = await there(db) if target == "kb" else None
            assert names is None or len(names) == (was is not None)
            last = was
        assert last == await place.read(target)


def _valued(value: Any) -> Value:
    return {"definition": value} if isinstance(value, str) else cast("Value", value)

"""The kind `space`: another model beside the one in use, filled, swapped, put back."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import asyncpg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_model
from conftest import connect, opened
from lock_waits import waits
from ragline import config as configuration
from ragline.change import loop
from ragline.change.kind import Site
from ragline.change.kinds.space import Space
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked
from ragline.db import collections, documents, spaces
from ragline.db.spaces import NewSpace
from ragline.errors import (
    Conflict,
    DatabaseUnreachable,
    LockTimeout,
    ModelError,
    ModelUnavailable,
    NotFound,
    PreconditionFailed,
    UsageError,
)
from ragline.evals.gate import Gate
from ragline.models.embed import Embedded, Embedder
from ragline.models.embed_fake import FakeEmbedder
from ragline.ops.restart import Restart
from ragline.rag import backfill, catalog, ingest
from ragline.rag.app import App
from ragline.rag.compose import passage
from ragline.rag.search import query, search_collections
from ragline.wiring import open_app
from trials import Fixed, brought, parts, site_of

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KIND = Space()
SMALL = {"model": "fake-32"}


class Meddled(FakeEmbedder):
    """A model during whose n-th batch something else happens."""

    def __init__(self, dimension: int, **actions: Callable[[], Awaitable[object]]) -> None:
        super().__init__(dimension)
        self.actions = {int(name.removeprefix("at")): act for name, act in actions.items()}
        self.batches = 0
        self.texts = 0

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.batches += 1
        self.texts += len(texts)
        if action := self.actions.pop(self.batches, None):
            await action()
        return await super().embed_documents(texts)


def _texts(chunks: int, start: int = 0, per_document: int = 20) -> list[ingest.Text]:
    """Documents whose chunks all differ: each paragraph is one chunk."""
    made = []
    for number in range(0, chunks, per_document):
        lines = [
            f"Page number{n} has topic{n % 17} and subject{n % 23}."
            for n in range(start + number, start + min(number + per_document, chunks))
        ]
        made.append(ingest.Text(source=f"d{start + number}", text="\n\n".join(lines)))
    return made


_POLICY = ingest.Policy(chunk_size=16, chunk_overlap=0)


async def _ingested(app: App, texts: Sequence[ingest.Text], name: str = "kb") -> None:
    report = await ingest.ingest_texts(app, texts, name, policy=_POLICY)
    assert not report.rejections


@asynccontextmanager
async def _opened(dsn: Dsn, folder: Path, *models: Embedder) -> AsyncIterator[App]:
    """Open ragline with several models, as RAGLINE_MODEL_DIR=first:second does."""

    def opening(model: Embedder) -> Callable[[], Awaitable[Embedder | None]]:
        async def open_() -> Embedder | None:
            return model

        return open_

    async with opened(dsn, folder, models[0]) as app:
        app.other_models = [opening(model) for model in models[1:]]
        yield app


@pytest.fixture
async def site(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[Site]:
    """A collection of 60 chunks with vectors of 64 numbers; a model of 32 is there as well."""
    async with _opened(own_dsn, tmp_path, FakeEmbedder(64), FakeEmbedder(32)) as app:
        await _ingested(app, _texts(60))
        yield site_of(app, own_dsn, tmp_path, KIND)


async def _change(site: Site, want: Any = None) -> Any:
    """Change the space by the kind's own steps; return the value that was there."""
    value, _ = await KIND.wanted(site, "kb", want or SMALL)
    return await brought(site, KIND, "kb", value)


async def _active(site: Site, name: str = "kb") -> spaces.Space:
    found = await _known(site.app, name)
    assert found.active is not None
    return found.active


async def _known(app: App, name: str = "kb") -> spaces.Collection:
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        found = await spaces.collection(connection, name)
    assert found is not None
    return found


async def _beside(site: Site, want: Any = None) -> spaces.Space:
    """Make the space that is wanted, empty."""
    value, _ = await KIND.wanted(site, "kb", want or SMALL)
    step = KIND.steps("kb", await KIND.read(site, "kb"), value)[0]
    await KIND.run(site, step)
    space = (await _known(site.app)).like(NewSpace(**{**step.arguments["space"], "languages": ()}))
    assert space is not None
    return space


async def _vectors(db: Db, space: spaces.Space) -> dict[int, list[float]]:
    rows = await db.fetch(
        f"select chunk_id, embedding::text from embedding_{space.id:d}"  # noqa: S608 -- an integer
    )
    return {row[0]: [float(n) for n in row[1].strip("[]").split(",")] for row in rows}


async def _assert_filled(db: Db, space: spaces.Space, model: Embedder) -> None:
    """Every chunk of the collection has exactly the vector that the model gives for its passage."""
    rows = await db.fetch(
        "select c.id, d.title, c.headings, c.body from chunk c join document d on d.id = document_id "
        "where c.collection_id = $1 order by c.id",
        space.collection_id,
    )
    stored = await _vectors(db, space)
    assert sorted(stored) == [row["id"] for row in rows]
    made = await model.embed_documents(
        [passage(row["title"], row["headings"], row["body"]) for row in rows]
    )
    for row, vector in zip(rows, made.vectors, strict=True):
        assert stored[row["id"]] == pytest.approx(vector.tolist(), abs=1e-6)


async def _found(app: App, text: str) -> str:
    """Return the text that a question finds first, by vectors alone."""
    result = await search_collections(app, query(text, "kb", method="vector"))
    return result.hits[0].body


async def _answers(app: App) -> list[list[tuple[int, float]]]:
    questions = [f"number{n} topic{n % 17} subject{n % 23}" for n in range(0, 60, 7)]
    found = [await search_collections(app, query(text, "kb")) for text in questions]
    return [[(hit.chunk_id, round(hit.score, 9)) for hit in one.hits] for one in found]


async def test_another_model_takes_the_place_and_there_and_back_leaves_no_trace(
    site: Site, db: Db
) -> None:
    before, space = await _answers(site.app), await _active(site)
    was = await _change(site)
    assert was["model_id"] == "fake-64"
    now = await _active(site)
    assert (now.facts.dimension, now.facts.model_id) == (32, "fake-32")
    await _assert_filled(db, now, FakeEmbedder(32))
    assert await _answers(site.app) != before
    await brought(site, KIND, "kb", was)
    assert (await _active(site)).id == space.id
    assert await _answers(site.app) == before
    assert len((await _known(site.app)).spaces) == 2
    await KIND.tidy(site, "kb", was)
    assert [one.id for one in (await _known(site.app)).spaces] == [space.id]
    assert await db.fetchval("select to_regclass($1)", f"embedding_{now.id}") is None
    assert await _answers(site.app) == before


async def test_the_loop_keeps_it_and_takes_it_back(site: Site) -> None:
    value, _ = await KIND.wanted(site, "kb", SMALL)
    entry = await loop.plan(site, parts("space", "kb", value), Asked())
    assert entry is not None
    kept = await loop.apply(site, entry.id)
    assert kept.state == "kept"
    assert isinstance(site.measure, Fixed)
    ((now, want),) = site.measure.arms
    old, new = (await _known(site.app)).spaces
    assert (now["kb"].space_id, want["kb"].space_id) == (old.id, new.id)
    assert new.is_active
    await loop.undo(site, entry.id)
    assert (await _active(site)).id == old.id


async def test_a_worse_space_is_never_in_use_and_is_dropped(site: Site, db: Db) -> None:
    site.measure = Fixed("fail")
    version = await db.fetchval("select search_version from collection")
    entry = await loop.plan(site, parts("space", "kb", SMALL), Asked())
    assert entry is not None
    assert (await loop.apply(site, entry.id)).state == "undone"
    (only,) = (await _known(site.app)).spaces
    assert only.facts.model_id == "fake-64"
    assert await db.fetchval("select search_version from collection") == version


async def test_with_enough_chunks_it_is_indexed_as_the_one_in_use_was(site: Site, db: Db) -> None:
    await _ingested(site.app, _texts(460, start=100))
    await db.execute("update space_index set m = 8, ef_construction = 40")
    pool = await site.app.pool("admin")
    await _change(site)
    space = await _active(site)
    async with pool.connection() as connection:
        assert await collections.index_state(connection, space.id)
    definition = await db.fetchval("select pg_get_indexdef(to_regclass($1))", _index(space))
    assert "m='8', ef_construction='40'" in definition
    assert await _found(site.app, "number555 topic11 subject3") == (
        "Page number555 has topic11 and subject3."
    )
    await db.execute(f"drop index {_index(space)}")
    with pytest.raises(PreconditionFailed, match="no valid vector index"):
        await KIND.confirm(site, "kb", await KIND.read(site, "kb"))


def _index(space: spaces.Space) -> str:
    return f"embedding_{space.id}_hnsw"


async def test_storage_and_metric_are_the_space_s_own(site: Site, db: Db) -> None:
    await _change(site, {"storage": "halfvec", "metric": "l2"})
    facts = (await _active(site)).facts
    assert (facts.model_id, facts.storage, facts.metric) == ("fake-64", "halfvec", "l2")
    assert await _found(site.app, "number7 topic7 subject7") == (
        "Page number7 has topic7 and subject7."
    )


# What comes in meanwhile.


async def test_documents_that_come_during_the_fill_are_found_after_the_swap(
    own_dsn: Dsn, tmp_path: Path, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_CHUNKS", 16)
    async with (
        _opened(own_dsn, tmp_path, FakeEmbedder(64)) as writer,
        _opened(own_dsn, tmp_path, FakeEmbedder(64)) as other,
    ):
        await _ingested(writer, _texts(60))
        # An ingest that removes, replaces and adds while the second batch is embedded.
        replaced = ingest.Text(source="d20", text="Altogether changed by somebody meanwhile.")

        async def meddle() -> None:
            await _ingested(other, [replaced, *_texts(40, start=200)])
            found = (await catalog.documents(other, "kb", limit=9))[0]
            await catalog.remove_document(other, found.id)

        model = Meddled(32, at3=meddle)
        async with _opened(own_dsn, tmp_path, FakeEmbedder(64), model) as app:
            site = site_of(app, own_dsn, tmp_path, KIND)
            await _change(site)
            assert not model.actions
            await _assert_filled(db, await _active(site), FakeEmbedder(32))
            assert await _found(app, "altogether somebody meanwhile") == replaced.text
            assert "number207" in await _found(app, "number207 topic3 subject0")


async def test_documents_that_come_right_before_the_swap_are_found_after_it(
    site: Site, own_dsn: Dsn, tmp_path: Path, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = itertools.count(1000, 100)
    locked, rounds = spaces.lock, 3

    async def lock(connection: Any, collection_id: int) -> bool:
        nonlocal rounds
        if rounds:
            rounds -= 1
            async with _opened(own_dsn, tmp_path, FakeEmbedder(64)) as other:
                await _ingested(other, _texts(10, start=next(fresh)))
        return await locked(connection, collection_id)

    monkeypatch.setattr(spaces, "lock", lock)
    await _change(site)
    await _assert_filled(db, await _active(site), FakeEmbedder(32))
    assert len(await _vectors(db, await _active(site))) == 90
    assert "number1207" in await _found(site.app, "number1207 topic0 subject11")


async def test_the_last_few_are_embedded_while_writers_wait(
    site: Site, own_dsn: Dsn, tmp_path: Path, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "_ROUNDS", 1)
    fresh, count = itertools.count(1000, 1000), 200
    locked = spaces.lock

    async def lock(connection: Any, collection_id: int) -> bool:
        async with _opened(own_dsn, tmp_path, FakeEmbedder(64), FakeEmbedder(32)) as other:
            await _ingested(other, _texts(count, start=next(fresh)))
        return await locked(connection, collection_id)

    monkeypatch.setattr(spaces, "lock", lock)
    await _change(site)
    await _assert_filled(db, await _active(site), FakeEmbedder(32))
    count = 201
    with pytest.raises(Conflict, match="documents come in faster than fake-64 embeds them"):
        await _change(site, {"model": "fake-64"})
    assert (await _active(site)).facts.model_id == "fake-32"


async def test_a_document_half_written_is_waited_for_and_follows_the_swap(
    site: Site, own_dsn: Dsn, tmp_path: Path, db: Db
) -> None:
    value, _ = await KIND.wanted(site, "kb", SMALL)
    steps = KIND.steps("kb", await KIND.read(site, "kb"), value)
    for step in steps[:-1]:
        await KIND.run(site, step)
    old = await _active(site)
    site.lock_timeout_ms = 30
    writer = await connect(own_dsn)
    async with writer.transaction():
        await _insert(writer, old)
        with pytest.raises(LockTimeout, match="writers were met in each of 5 tries"):
            await KIND.run(site, steps[-1])
        assert (await _active(site)).id == old.id
        site.lock_timeout_ms = 60_000
        swap = asyncio.create_task(KIND.run(site, steps[-1]))
        assert await waits(swap, db)
    await swap
    await writer.close()
    await KIND.confirm(site, "kb", value)
    await _assert_filled(db, await _active(site), FakeEmbedder(32))
    assert await _found(site.app, "zyzzyva") == "zyzzyva"


async def _insert(db: Db, space: spaces.Space) -> None:
    """Write a document of one chunk as an ingest does, up to its commit."""
    await db.execute(
        """
        with new as (
            insert into document
                (collection_id, source, media_type, body, content_hash, recipe)
            values ($1, 'late', 'text/plain', 'zyzzyva', sha256('zyzzyva'), 'r')
            returning id
        )
        insert into chunk (collection_id, document_id, document_characters, ordinal, start_char,
                           end_char, body, tokens, term_ids, frequencies, length)
        select $1, id, 7, 0, 0, 7, 'zyzzyva', 1, '{}', '', 0 from new
        """,
        space.collection_id,
    )


async def test_an_ingest_under_way_goes_on_in_the_new_space(
    own_dsn: Dsn, tmp_path: Path, db: Db
) -> None:
    async with _opened(own_dsn, tmp_path, FakeEmbedder(64), FakeEmbedder(32)) as app:
        await _ingested(app, _texts(60))
        site = site_of(app, own_dsn, tmp_path, KIND)
        swapping = Meddled(64, at1=lambda: _change(site))
        async with _opened(own_dsn, tmp_path, swapping, FakeEmbedder(32)) as writer:
            await _ingested(writer, _texts(40, start=500))
        assert not swapping.actions
        await _assert_filled(db, await _active(site), FakeEmbedder(32))
        await KIND.confirm(site, "kb", await KIND.read(site, "kb"))
        assert "number507" in await _found(app, "number507 topic14 subject1")


# Broken off, and side by side.


async def test_two_processes_share_the_fill(
    site: Site, own_dsn: Dsn, tmp_path: Path, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_CHUNKS", 8)
    space = await _beside(site)
    one, other = Meddled(32), Meddled(32)
    async with _opened(own_dsn, tmp_path, FakeEmbedder(64)) as second:
        await second.pool("admin")
        counts = await asyncio.gather(
            backfill.fill(site.app, space, one), backfill.fill(second, space, other)
        )
    # Nothing was embedded twice, whoever did it.
    assert sum(counts) == one.texts + other.texts == 60
    await _assert_filled(db, space, FakeEmbedder(32))


async def test_an_ingest_that_fills_the_same_chunks_is_no_error(
    site: Site, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_CHUNKS", 16)
    space = await _beside(site)

    async def faster() -> None:
        ids = [row[0] for row in await db.fetch("select id from chunk order by id limit 20")]
        vectors = np.ones((20, 32), dtype=np.float32)
        pool = await site.app.pool("admin")
        async with pool.connection() as connection:
            await documents.add_vectors(connection, space.id, ids, vectors)

    model = Meddled(32, at1=faster)
    assert await backfill.fill(site.app, space, model) == 40
    assert len(await _vectors(db, space)) == 60


async def test_a_fill_whose_connection_is_killed_goes_on_where_it_was(
    site: Site, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_CHUNKS", 16)
    space = await _beside(site)

    async def kill() -> None:
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where usename = 'ragline_admin' and datname = current_database()"
        )

    with pytest.raises(DatabaseUnreachable):
        await backfill.fill(site.app, space, Meddled(32, at3=kill))
    assert len(await _vectors(db, space)) == 32
    seen: list[tuple[int, int]] = []
    filled = await backfill.fill(
        site.app,
        space,
        FakeEmbedder(32),
        on_progress=lambda progress: seen.append((progress.done, progress.total)),
    )
    assert filled == 28
    assert seen == [(16, 28), (28, 28)]
    await _assert_filled(db, space, FakeEmbedder(32))


async def test_a_cancelled_fill_keeps_what_it_has_and_holds_nothing(
    site: Site, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_CHUNKS", 16)
    space = await _beside(site)
    model = Meddled(32, at3=asyncio.Event().wait)
    task = asyncio.create_task(backfill.fill(site.app, space, model))
    while model.batches < 3:  # noqa: ASYNC110 - in the model
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await _vectors(db, space)) == 32
    assert await backfill.fill(site.app, space, FakeEmbedder(32)) == 28


async def test_killed_at_any_point_it_is_done_again_from_there(site: Site, db: Db) -> None:
    class Killed(BaseException):
        pass

    def dying(point: str) -> Callable[[str], None]:
        def reached(name: str) -> None:
            if name == point:
                raise Killed

        return reached

    for point in ("space:created", "space:filling", "space:filled", "space:indexed"):
        site.reached = dying(point)
        with pytest.raises(Killed):
            await _change(site)
        assert (await _active(site)).facts.model_id == "fake-64"
        site.reached = lambda _point: None
        was = await _change(site)
        assert len((await _known(site.app)).spaces) == 2
        await _assert_filled(db, await _active(site), FakeEmbedder(32))
        await brought(site, KIND, "kb", was)
        await KIND.tidy(site, "kb", was)


async def test_two_processes_that_make_the_same_space_make_one(
    site: Site, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with _opened(own_dsn, tmp_path, FakeEmbedder(64), FakeEmbedder(32)) as second:
        other = site_of(second, own_dsn, tmp_path, KIND)
        made = await asyncio.gather(_beside(site), _beside(other))
    assert made[0].id == made[1].id


# Putting back, and what is dropped.


async def test_without_its_model_an_old_space_is_taken_back_only_when_nothing_is_missing(
    site: Site, own_dsn: Dsn, tmp_path: Path, db: Db
) -> None:
    was = await _change(site)
    async with _opened(own_dsn, tmp_path, FakeEmbedder(32)) as app:
        new_only = site_of(app, own_dsn, tmp_path, KIND)
        value, warnings = await KIND.wanted(new_only, "kb", was)
        assert (value, warnings) == (
            was, ("the space is there already, and 0 of 60 chunks are missing",)
        )  # fmt: skip
        await brought(new_only, KIND, "kb", was)
        await _change(site)
        await _ingested(app, _texts(10, start=300))
        with pytest.raises(ModelError, match=r"10 chunks have no vector of fake-64 .*first:second"):
            await KIND.wanted(new_only, "kb", was)
        with pytest.raises(ModelError, match="10 chunks have no vector of fake-64"):
            await brought(new_only, KIND, "kb", was)
    assert (await _active(site)).facts.model_id == "fake-32"
    await brought(site, KIND, "kb", was)
    await _assert_filled(db, await _active(site), FakeEmbedder(64))


async def test_what_a_space_lacked_before_is_no_reason_not_to_put_back(
    site: Site, own_dsn: Dsn, tmp_path: Path, db: Db
) -> None:
    await _ingested(site.app, _texts(460, start=100))
    first = await _active(site)
    await db.execute(f"drop index {_index(first)}")
    await db.execute(f"delete from embedding_{first.id:d} where chunk_id % 9 = 0")  # noqa: S608
    said: list[str] = []
    async with _opened(own_dsn, tmp_path, FakeEmbedder(32)) as app:
        new_only = site_of(app, own_dsn, tmp_path, KIND)
        new_only.say = said.append
        new_only.measure = Fixed("fail")
        entry = await loop.plan(new_only, parts("space", "kb", SMALL), Asked())
        assert entry is not None
        assert (await loop.apply(new_only, entry.id)).state == "undone"
    assert (await _active(site)).id == first.id
    assert any("have no vector of fake-64" in line for line in said)


async def test_a_model_that_cannot_be_opened_is_no_obstacle_where_it_is_not_needed(
    site: Site, own_dsn: Dsn, tmp_path: Path
) -> None:
    was = await _change(site)

    async def broken() -> Embedder | None:
        raise ModelUnavailable("the provider does not answer")

    async with _opened(own_dsn, tmp_path, FakeEmbedder(32)) as app:
        app.other_models = [broken]
        without = site_of(app, own_dsn, tmp_path, KIND)
        await KIND.wanted(without, "kb", was)
        await brought(without, KIND, "kb", was)
    assert (await _active(site)).facts.model_id == "fake-64"


async def test_only_what_is_neither_in_use_nor_to_be_kept_is_dropped(site: Site) -> None:
    await _ingested(site.app, _texts(20), "other")
    was = await _change(site)
    await _beside(site, {"model": "fake-32", "storage": "halfvec"})
    await KIND.tidy(site, "kb", was)
    assert [one.facts.model_id for one in (await _known(site.app)).spaces] == ["fake-64", "fake-32"]
    for _ in range(2):
        await KIND.tidy(site, "kb", await KIND.read(site, "kb"))
        assert [one.facts.model_id for one in (await _known(site.app)).spaces] == ["fake-32"]
    assert len((await _known(site.app, "other")).spaces) == 1
    await KIND.tidy(site, "gone", None)


async def test_the_space_in_use_is_not_dropped_whoever_asks(site: Site) -> None:
    pool = await site.app.pool("admin")
    space = await _active(site)
    async with pool.connection() as connection:
        assert not await spaces.drop(connection, space, lock_timeout_ms=100)
    assert (await _active(site)).id == space.id


async def test_a_space_that_another_process_fills_is_left(site: Site, own_dsn: Dsn) -> None:
    space = await _beside(site)
    filler = await connect(own_dsn)
    sql = "select pg_advisory_lock(hashtext('ragline.space'), $1)"
    await filler.execute(sql, space.id)
    await KIND.tidy(site, "kb", None)
    assert len((await _known(site.app)).spaces) == 2
    await filler.close()
    while len((await _known(site.app)).spaces) == 2:
        await KIND.tidy(site, "kb", None)


async def test_dropping_waits_in_short_pieces_and_says_so_in_the_end(
    site: Site, own_dsn: Dsn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "_SHORT_MS", 20)
    monkeypatch.setattr(spaces, "_PAUSE_S", 0.01)
    await _beside(site)
    site.lock_timeout_ms = 50
    reader = await connect(own_dsn)
    async with reader.transaction():
        await reader.execute("select count(*) from chunk")
        with pytest.raises(LockTimeout, match="in 16 tries, the last of 50 ms"):
            await KIND.tidy(site, "kb", None)
    site.lock_timeout_ms = 60_000
    async with reader.transaction():
        await reader.execute("select count(*) from chunk")
        tidying = asyncio.create_task(KIND.tidy(site, "kb", None))
        assert await waits(tidying, reader)
    await tidying
    assert len((await _known(site.app)).spaces) == 1
    await reader.close()


# Under load.


@asynccontextmanager
async def _searched(
    dsn: Dsn, folder: Path, *models: Embedder
) -> AsyncIterator[Counter[str | None]]:
    """Search all the time from two processes' Apps; yields how often with which model.

    None of the searches may fail, be short or be warned of.
    """
    done = asyncio.Event()
    seen: Counter[str | None] = Counter()

    async def ask(app: App) -> None:
        for number in itertools.count():
            if done.is_set():
                return
            text = f"number{100 + number % 560} topic{number % 17}"
            result = await search_collections(app, query(text, "kb", k=5))
            assert (len(result.hits), result.warnings) == (5, ())
            seen[result.used[0].model_id] += 1
            await asyncio.sleep(0.005)  # what is measured beside it is in this very process

    async with (
        _opened(dsn, folder, *models) as one,
        _opened(dsn, folder, *reversed(models)) as two,
        asyncio.TaskGroup() as group,
    ):
        for app in (one, two):
            group.create_task(ask(app))
        yield seen
        done.set()


async def test_no_search_fails_while_the_space_is_filled_swapped_and_put_back(
    site: Site, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_CHUNKS", 32)
    await _ingested(site.app, _texts(560, start=100))
    async with _searched(own_dsn, tmp_path, FakeEmbedder(64), FakeEmbedder(32)) as seen:
        was = await _change(site)
        await _until(lambda: seen["fake-32"] > 20)
        await _ingested(site.app, _texts(40, start=5000))
        await brought(site, KIND, "kb", was)
        before = seen["fake-64"]
        await _until(lambda: seen["fake-64"] > before + 20)
        await KIND.tidy(site, "kb", was)
        before = seen["fake-64"]
        await _until(lambda: seen["fake-64"] > before + 20)
    assert set(seen) == {"fake-64", "fake-32"}
    assert len((await _known(site.app)).spaces) == 1


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not is_so():  # noqa: ASYNC110 - by searches under way
            await asyncio.sleep(0.01)


async def test_the_gate_keeps_a_model_that_is_as_good_and_not_one_that_is_worse(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    models = (FakeEmbedder(384), FakeEmbedder(256), FakeEmbedder(3))

    @asynccontextmanager
    async def open_arm(_workload: str, trials: Mapping[str, Trial]) -> AsyncIterator[App]:
        async with _opened(own_dsn, tmp_path, *models) as app:
            app.trials = dict(trials)
            yield app

    # How long a search takes is not what this is about, and nobody is alone on the machine.
    asked = Asked(questions=60, latency_margin=20.0, budget_s=5.0)
    async with (
        _opened(own_dsn, tmp_path, *models) as app,
        AsyncExitStack() as stack,
    ):
        await _ingested(app, _texts(560, start=100))
        site = site_of(app, own_dsn, tmp_path, KIND)
        site.measure = Gate(open_arm)
        seen = await stack.enter_async_context(_searched(own_dsn, tmp_path, *models))
        ended = []
        for model in ("fake-3", "fake-256"):
            entry = await loop.plan(site, parts("space", "kb", {"model": model}), asked)
            assert entry is not None
            is_good = model == "fake-256"
            ended.append(await loop.apply(site, entry.id, keep_inconclusive=is_good))
        worse, good = ended
        assert worse.state == "undone", worse.reason
        assert "mrr" in worse.reason
        assert good.state == "kept", good.reason
        await _until(lambda: seen["fake-256"] > 20)
        await loop.undo(site, good.id)
        before = seen["fake-384"]
        await _until(lambda: seen["fake-384"] > before + 20)
    assert set(seen) == {"fake-384", "fake-256"}


# What is refused, and what is warned of.


_REFUSED: tuple[tuple[Any, str], ...] = (
    ({"model": "bge"}, "no configured model is 'bge'; there are: fake-64, fake-32. Add its folder"),
    ({"model": "~nobody-at-all/x"}, "no configured model is '~nobody-at-all/x'"),
    ({"modell": "bge"}, "a space has no 'modell' to choose; it has model, storage, metric"),
    ({"model": "fake-32", "storage": "bit"}, "storage is 'bit'; it is one of vector, halfvec"),
    (
        {"model": "fake-32", "metric": "L2"},
        "metric is 'L2'; it is one of cosine, l2, inner_product",
    ),
    ({}, "a space is {}; write its model"),
    (None, "a space is None; write its model"),
    ("fake-32", "a space is 'fake-32'; write its model"),
)


async def test_what_no_space_can_be_is_refused_with_what_it_may_be(site: Site) -> None:
    for want, said in _REFUSED:
        with pytest.raises(UsageError, match=re.escape(said)):
            await KIND.wanted(site, "kb", want)


async def test_a_collection_without_vectors_needs_no_change(own_dsn: Dsn, tmp_path: Path) -> None:
    async with opened(own_dsn, tmp_path, None) as app:
        await _ingested(app, _texts(20))
        site = site_of(app, own_dsn, tmp_path, KIND)
        assert await KIND.read(site, "kb") is None
        with pytest.raises(UsageError, match="has no vectors yet: `ragline ingest` with a model"):
            await KIND.wanted(site, "kb", SMALL)
        with pytest.raises(NotFound, match="'nope' does not exist"):
            await KIND.wanted(site, "nope", SMALL)


async def test_the_plan_says_how_long_it_takes_and_how_much_disk(site: Site) -> None:
    _, warnings = await KIND.wanted(site, "kb", SMALL)
    assert "embedding 60 chunks takes about" in warnings[0]
    assert "fake-32 did" in warnings[0]
    assert "MB of disk" in warnings[1]
    value, _ = await KIND.wanted(site, "kb", SMALL)
    fill = KIND.steps("kb", await KIND.read(site, "kb"), value)[1]
    assert fill.disk_bytes > 60 * 32 * 4
    assert fill.expected_s is not None
    assert fill.expected_s > 0


async def test_a_disk_without_room_is_said_before_anything_is_done(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class There:
        name, data_directory = "test", tmp_path

    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=10_000))
    site.restart = cast("Restart", There())
    with pytest.raises(PreconditionFailed, match=r"MB are free at .*: free some, or store it as"):
        await KIND.wanted(site, "kb", SMALL)


async def test_a_model_that_does_not_know_the_collection_s_language_is_warned_of(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    class German(FakeEmbedder):
        def __init__(self) -> None:
            super().__init__(32)
            self.facts = _speaking(self, "de")

    async with _opened(own_dsn, tmp_path, FakeEmbedder(64), German()) as app:
        await _ingested(app, _texts(20))
        _, warnings = await KIND.wanted(site_of(app, own_dsn, tmp_path, KIND), "kb", SMALL)
    assert warnings[0] == (
        "fake-32 knows de, and collection 'kb' is in 'en': its searches may find less"
    )


def _speaking(model: FakeEmbedder, *languages: str) -> Any:
    return replace(model.facts, languages=languages)


async def test_a_model_is_named_by_its_folder_where_names_are_not_enough(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    first, second = (
        tiny_model.make(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))
    )
    environ = {"RAGLINE_MODEL_DIR": f"{first}:{second}", "HOME": str(tmp_path)}
    config = replace(configuration.load(data_dir=tmp_path, environ=environ), dsn=own_dsn)
    async with open_app(config) as app:
        texts = {"a": "w1 w2 w3", "b": "w7 w8"}
        await _ingested(app, [ingest.Text(source=n, text=text) for n, text in texts.items()])
        site = site_of(app, own_dsn, tmp_path, KIND)
        with pytest.raises(UsageError, match="2 configured models are called 'tiny': name one by"):
            await KIND.wanted(site, "kb", {"model": "tiny"})
        was = await _change(site, {"model": str(second)})
        assert await _found(app, "w7") == "w7 w8"
        assert (await _active(site)).facts.weights_hash != was["weights_hash"]


_VALUE: dict[str, Any] = {
    "model_id": "m", "weights_hash": "h", "dimension": 384, "metric": "cosine",
    "storage": "vector", "normalised": True, "languages": [],
}  # fmt: skip


def test_the_same_space_needs_no_step_and_one_without_an_index_builds_none() -> None:
    assert KIND.steps("kb", _VALUE, _VALUE) == []
    actions = [step.action for step in KIND.steps("kb", None, _VALUE)]
    assert actions == ["sql", "fill", "build", "switch"]
    large = KIND.steps("kb", _VALUE, {**_VALUE, "dimension": 4001})
    assert [(step.phase, step.action) for step in large] == [
        ("prepare", "sql"), ("prepare", "fill"), ("adopt", "switch"),
    ]  # fmt: skip


@given(st.integers(1, 16_000), st.sampled_from(["vector", "halfvec"]), st.integers(0, 10**7))
def test_a_table_of_vectors_is_at_least_as_large_as_its_numbers(
    dimension: int, storage: str, vectors: int
) -> None:
    facts = NewSpace(**{**_VALUE, "dimension": dimension, "storage": storage, "languages": ()})
    numbers = vectors * dimension * (4 if storage == "vector" else 2)
    assert numbers <= spaces.table_bytes(facts, vectors) <= 2 * numbers + 150 * vectors

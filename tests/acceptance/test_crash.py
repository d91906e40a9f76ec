"""kill -9 in the middle: the next command works, nothing is lost or half there, all converges."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_model
from command import PREFIX, Command, place
from conftest import connect
from contents import Db, check, content, indexes, vectors
from holding import held_up
from ragline.ops import embedded

FILES = 240


@pytest.fixture
def ragline(prepared: Command) -> Command:
    """The module's server, running whatever a test before did to it."""
    prepared.json("db", "start")
    return prepared


@pytest.fixture(scope="module")
def prepared() -> Iterator[Command]:
    """A server of this module's own, a tiny model, and an undisturbed ingest to compare with."""
    with place() as command:
        model = tiny_model.make(command.folder / "model")
        ragline = command.with_(RAGLINE_MODEL_DIR=str(model))
        make_documents(docs(ragline))
        report = ragline.json("ingest", docs(ragline), "-c", "undisturbed")
        assert report["added"] == FILES
        # So that the index is part of what may break off.
        assert report["embedded"] == report["chunks"] >= 500
        yield ragline


def docs(ragline: Command) -> Path:
    return ragline.folder / "docs"


def make_documents(folder: Path) -> None:
    """A few hundred small files of about three chunks, the same each time."""
    random_ = random.Random(7)
    folder.mkdir()
    for number in range(FILES):
        parts = [
            f"## Part {part} of {number}\n\n"
            + " ".join(random_.choices(tiny_model.WORDS, k=random_.randint(60, 110)))
            for part in range(3)
        ]
        (folder / f"{number:03}.md").write_text(f"# Document {number}\n\n" + "\n\n".join(parts))


@asynccontextmanager
async def reader(ragline: Command) -> AsyncIterator[Db]:
    """A connection to the running server; it does not start one."""
    found = embedded.status(ragline.data_dir).cluster
    assert found is not None
    connection = await connect(embedded.dsn(found))
    await connection.execute("set application_name = 'reader'")
    try:
        yield connection
    finally:
        connection.terminate()


async def written(db: Db, collection: str) -> set[tuple[str, bytes]]:
    found = await db.fetch(
        """
        select source, content_hash from document d join collection c on c.id = d.collection_id
        where c.name = $1
        """,
        collection,
    )
    return {(row[0], row[1]) for row in found}


async def epoch(db: Db, collection: str) -> int:
    return await db.fetchval("select epoch from collection where name = $1", collection) or 0


async def until_written(
    db: Db, collection: str, count: int, process: subprocess.Popen[str]
) -> set[tuple[str, bytes]]:
    """Wait for `count` documents and return those that a reader has seen."""
    until = time.monotonic() + 200
    while len(seen := await written(db, collection)) < count:
        assert time.monotonic() < until, "waited in vain"
        assert process.poll() is None, process.communicate()
        await asyncio.sleep(0.002)
    return seen


async def until_backends_are_gone(db: Db) -> None:
    """Wait until the server has noticed that its clients are dead."""
    until = time.monotonic() + 100
    sql = "select count(*) from pg_stat_activity where application_name ~ '^ragline:'"
    while await db.fetchval(sql):
        # One that is held up does not notice by itself.
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name ~ '^ragline:' and wait_event = 'advisory'"
        )
        assert time.monotonic() < until, "waited in vain"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def late_ones_held_up(ragline: Command) -> AsyncIterator[None]:
    """However late the kill: nobody comes to the end before it."""
    found = embedded.status(ragline.data_dir).cluster
    assert found is not None
    with held_up(embedded.url(found), f"{FILES - 20:03}.md"):
        yield


def kill_9(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def kill_server(ragline: Command) -> None:
    """End the postmaster as a crash would, having made sure that it is the test's own."""
    found = embedded.status(ragline.data_dir).cluster
    assert found is not None
    assert found.data_dir.parent.name.startswith(PREFIX)
    os.kill(found.pid, signal.SIGKILL)


def ingest(ragline: Command, collection: str) -> Any:
    return ragline.json("ingest", docs(ragline), "-c", collection)


async def assert_converged(db: Db, collection: str) -> None:
    """The collection holds what the undisturbed one does: text, chunks, postings and vectors."""
    await check(db)
    assert await content(db, collection) == await content(db, "undisturbed")
    found, expected = await vectors(db, collection), await vectors(db, "undisturbed")
    assert found.keys() == expected.keys()
    for place_, vector in expected.items():
        np.testing.assert_allclose(found[place_], vector, atol=1e-5)


async def test_a_killed_ingest_loses_nothing_and_is_continued(ragline: Command) -> None:
    targets = sorted(random.Random().sample(range(1, FILES - 30), 4))
    async with reader(ragline) as db, late_ones_held_up(ragline):
        last_epoch = 0
        for target in targets:
            process = ragline.start("ingest", docs(ragline), "-c", "killed")
            # The kill before may have come so late that this target is reached already.
            seen = await until_written(db, "killed", max(target, last_epoch + 1), process)
            kill_9(process)
            await until_backends_are_gone(db)

            kept = await written(db, "killed")
            assert seen <= kept, targets
            assert len(kept) < FILES, "killed too late to mean anything"
            await check(db)
            assert await epoch(db, "killed") == len(kept) > last_epoch
            last_epoch = len(kept)
    async with reader(ragline) as db:
        report = ingest(ragline, "killed")

        assert (report["unchanged"], report["added"]) == (last_epoch, FILES - last_epoch)
        await assert_converged(db, "killed")
        assert all(await indexes(db))


async def test_a_killed_replacement_leaves_each_document_old_or_new(ragline: Command) -> None:
    folder = ragline.folder / "changing"
    make_documents(folder)
    assert ragline.json("ingest", folder, "-c", "changing")["added"] == FILES
    for file in folder.iterdir():
        file.write_text(file.read_text().replace("## Part", "## Chapter") + "\n\nw1 w2 w3\n")
    async with reader(ragline) as db:
        async with late_ones_held_up(ragline):
            process = ragline.start("ingest", folder, "-c", "changing")
            while (seen := len(await replaced(db))) < FILES // 3:
                assert process.poll() is None, process.communicate()
            kill_9(process)
            await until_backends_are_gone(db)

        await check(db)
        done = await replaced(db)
        assert seen <= len(done) < FILES
        assert set(done) == {3}, "some document has old parts and new ones"
        assert len(await written(db, "changing")) == FILES

        report = ragline.json("ingest", folder, "-c", "changing")

        assert (report["replaced"], report["unchanged"]) == (FILES - len(done), len(done))
        assert await replaced(db) == [3] * FILES
        await check(db)


async def replaced(db: Db) -> list[int]:
    """Return, for each document with new parts, how many of its three are new."""
    rows = await db.fetch(
        """
        select count(distinct m[1])::int from document d
        join collection l on l.id = d.collection_id and l.name = 'changing'
        join chunk c on c.document_id = d.id, regexp_matches(c.body, 'Chapter ([0-9])', 'g') as m
        group by d.id
        """
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("round_", range(2))
async def test_a_killed_server_loses_nothing_and_the_next_command_brings_it_back(
    ragline: Command, round_: int
) -> None:
    collection = f"felled-{round_}"
    target = random.Random().randrange(1, FILES - 40)
    async with reader(ragline) as db:
        process = ragline.start("ingest", docs(ragline), "-c", collection)
        seen = await until_written(db, collection, target, process)
        before = await epoch(db, collection)
        kill_server(ragline)
    stdout, stderr = process.communicate(timeout=200)

    assert process.returncode in (0, 7), stderr
    assert "Traceback" not in stderr
    if process.returncode == 7:
        assert stdout == ""
        assert [line for line in stderr.splitlines() if line.startswith("error: ")], stderr
    facts = ragline.json("collection", "show", collection)
    assert facts["documents"] >= len(seen)
    assert facts["epoch"] >= before
    async with reader(ragline) as db:
        assert seen <= await written(db, collection)
        await check(db)
        report = ingest(ragline, collection)
        assert report["unchanged"] == facts["documents"]
        await assert_converged(db, collection)


async def test_an_index_whose_build_was_killed_is_built_by_the_next_ingest(
    ragline: Command,
) -> None:
    async with reader(ragline) as db, reader(ragline) as other:
        await db.execute("alter system set client_connection_check_interval = '200ms'")
        await db.execute("select pg_reload_conf()")
        process = ragline.start("ingest", docs(ragline), "-c", "unindexed")
        await until_written(db, "unindexed", FILES // 2, process)
        # A build waits for every transaction that is older, so this one holds it up.
        transaction = other.transaction(isolation="repeatable_read")
        await transaction.start()
        await other.fetchval("select count(*) from document")
        until = time.monotonic() + 200
        while all(await indexes(db)):
            assert time.monotonic() < until, "waited in vain"
            assert process.poll() is None, process.communicate()
            await asyncio.sleep(0.005)
        kill_9(process)
        await until_backends_are_gone(db)
        await transaction.rollback()
        assert (await indexes(db)).count(False) == 1

        report = ingest(ragline, "unindexed")

        assert (report["unchanged"], report["warnings"]) == (FILES, [])
        assert all(await indexes(db))
        await assert_converged(db, "unindexed")


def test_first_commands_at_once_share_one_new_database() -> None:
    with place() as command:
        folder = command.folder / "docs"
        folder.mkdir()
        for number in range(20):
            (folder / f"{number}.txt").write_text(f"number {number}")

        started = [command.start("ingest", folder, "-c", "kb", "--json") for _ in range(3)]
        ended = [(process.communicate(timeout=240), process.returncode) for process in started]

        assert [code for _, code in ended] == [0, 0, 0], ended
        (facts,) = command.json("collection", "list")["collections"]
        assert (facts["documents"], facts["chunks"]) == (20, 20)

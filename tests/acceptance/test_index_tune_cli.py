"""`ragline index tune` as people call it: printed, as JSON, applied, interrupted, killed, cut off."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gated
from command import PROGRAM, Command, one_object, place
from conftest import connect
from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.ops import embedded
from ragline.wiring import open_app

CHUNKS = 1_500
QUICK = ("index", "tune", gated.COLLECTION, "--quick", "--recall", "0.9")
EASY = ("--recall", "0.5", "--max-size", "1MB", "--queries", "midway")
"""Soon found: a narrow search holds it at once."""


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """A collection of vectors whose model is not configured, and no test changes but the last."""
    with place() as command:

        async def filled() -> None:
            async with open_app(Config(data_dir=command.data_dir)) as app:
                await gated.fill(app, dsn(command), CHUNKS)

        asyncio.run(filled())
        yield command


def dsn(command: Command) -> Dsn:
    return embedded.dsn(embedded.ensure(command.data_dir))


async def left(command: Command) -> list[str]:
    """Return the tables of trials that are there."""
    db = await connect(dsn(command))
    try:
        rows = await db.fetch("select relname from pg_class where relname ~ '^trial_'")
        return [row[0] for row in rows]
    finally:
        await db.close()


async def begun(command: Command, process: subprocess.Popen[str]) -> None:
    """Wait until a tuning is in the middle of its sweep."""
    assert process.stderr is not None
    line = await asyncio.to_thread(process.stderr.readline)
    assert line.startswith("hnsw"), line
    assert await left(command)


async def test_the_frontier_is_one_object_with_the_change_that_it_leads_to(
    ragline: Command,
) -> None:
    done = await asyncio.to_thread(ragline.run, *QUICK, *EASY, "--json", "--quiet")

    found = one_object(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["frontier"]
    assert found["sampled"] == "midway"
    assert found["filtered"].startswith(("guessed", "none"))
    assert found["production"]["n_quiet"] >= 20
    # So few are compared as quickly as they are walked, or else a change is planned.
    assert (found["proposal"] is None) == (found["change"] is None), found["reason"]
    assert await left(ragline) == []


def test_in_80_columns_nothing_is_cut(ragline: Command) -> None:
    ours, theirs = pty.openpty()
    environment = {**ragline.environment, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [PROGRAM, *QUICK, *EASY], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            shown += os.read(ours, 65536)
    except OSError:
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0, shown

    lines = [line.strip() for line in shown.decode().split("\r\n")]
    heads = [line for line in lines if line.startswith("index  ")]
    assert len(heads) == 2
    assert all(line.split()[-2:] == ["build", "s"] for line in heads)
    assert all(len(line) <= 80 for line in lines if line.startswith(("index ", "hnsw halfvec 1")))
    assert "…" not in shown.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_a_tuning_that_is_ended_leaves_no_table(
    ragline: Command, number: signal.Signals
) -> None:
    process = ragline.start(*QUICK)
    try:
        await begun(ragline, process)
        process.send_signal(number)
        await asyncio.to_thread(process.communicate, timeout=120)
        assert process.returncode != 0
        if number == signal.SIGKILL:
            # The next tuning takes it away as soon as the server noticed; so does an ingest.
            until = time.monotonic() + 120
            while await left(ragline) and time.monotonic() < until:
                done = await asyncio.to_thread(
                    ragline.run, "index", "tune", gated.COLLECTION, "--max-size", "1B"
                )
                assert done.returncode == 2
                await swept(ragline)
        assert await left(ragline) == []
    finally:
        process.kill()
        process.wait()


async def swept(command: Command) -> None:
    from ragline.db import trial_tables

    db = await connect(dsn(command))
    try:
        await trial_tables.sweep(db)
    finally:
        await db.close()


async def test_a_server_that_restarts_in_mid_sweep_is_said_in_a_sentence(
    ragline: Command, tmp_path: Path
) -> None:
    process = ragline.start(*QUICK)
    try:
        await begun(ragline, process)
        await asyncio.to_thread(embedded.stop, ragline.data_dir)
        await asyncio.to_thread(embedded.ensure, ragline.data_dir)
        out, errors = await asyncio.to_thread(process.communicate, timeout=200)
    finally:
        process.kill()
        process.wait()

    assert process.returncode not in (0, -signal.SIGKILL)
    assert out == ""
    assert "Traceback" not in errors
    await swept(ragline)
    assert await left(ragline) == []


async def test_another_change_of_the_index_is_named_before_anything_is_measured(
    ragline: Command,
) -> None:
    planned = await asyncio.to_thread(
        ragline.json, "change", "plan", "index", gated.COLLECTION, "m=24", "--no-measure"
    )
    db = await connect(dsn(ragline))
    try:
        sql = "update ragline.change set state = 'preparing' where id = $1"
        await db.execute(sql, planned["id"])
        done = await asyncio.to_thread(ragline.run, *QUICK, "--apply")
    finally:
        await db.close()

    assert done.returncode not in (0, 1), done.stderr
    assert "change" in done.stderr
    assert "hnsw" not in done.stderr

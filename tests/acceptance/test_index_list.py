"""`ragline index list` as people and programs meet it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import servers
import tiny_model
from command import PROGRAM, Command
from conftest import TEMPLATE
from ragline.core.dsn import Dsn

NAME = "ragline_index_list"
TABLE = """
    create schema "My shop";
    create table "My shop"."Items of all" (id int primary key, v public.vector(8));
    insert into "My shop"."Items of all"
        select n, array[
            sin(n), cos(n), sin(n * 2), cos(n * 3), sin(n * 5), 1, sin(n * 7), 0
        ]::public.vector
        from generate_series(1, 2000) n;
    create index "The nearest" on "My shop"."Items of all" using hnsw (v public.vector_l2_ops);
    insert into "My shop"."Items of all" values (3000, null);
    create index twin on "My shop"."Items of all" (id);
    analyze "My shop"."Items of all"
"""


@pytest.fixture(scope="module")
def ragline(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A database with a table of somebody's and a collection `kb`."""
    folder = tmp_path_factory.mktemp("index-list")
    servers.ask(template.on("postgres"), f"create database {NAME} template {TEMPLATE}")
    dsn = template.on(NAME)
    with psycopg.connect(dsn.for_psycopg("test"), autocommit=True) as db:
        db.execute(TABLE)
    model = tiny_model.make(folder / "model")
    command = Command(
        folder=folder,
        more={"DATABASE_URL": dsn.for_sqlalchemy("test"), "RAGLINE_MODEL_DIR": str(model)},
    )
    (folder / "docs").mkdir()
    for number in range(30):
        words = " ".join(tiny_model.WORDS[number % 20 :][:12])
        (folder / "docs" / f"{number}.txt").write_text(f"{words} {number}.")
    command.json("ingest", folder / "docs", "-c", "kb")
    with psycopg.connect(dsn.for_psycopg("test"), autocommit=True) as db:
        row = db.execute(
            "select ragline.space_index_statement(id, index_slot, false) "
            "from ragline.embedding_space"
        ).fetchone()
        assert row is not None
        db.execute(row[0].encode())  # ingest makes none for so few
    yield command
    servers.ask(template.on("postgres"), f"drop database {NAME} with (force)")


def in_a_terminal(command: Command, columns: int, *arguments: str) -> list[str]:
    """Return the lines that somebody sees on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {**command.environment, "TERM": "xterm", "COLUMNS": str(columns)}
    with subprocess.Popen(
        [PROGRAM, *arguments], env=environment, stdout=theirs, stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # how a terminal ends on Linux
            pass
        assert process.wait() == 0
    os.close(ours)
    return re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", seen.decode()).splitlines()


def test_programs_get_every_index_with_its_sample_and_findings(ragline: Command) -> None:
    found = ragline.json("index", "list", "--sample", "20", "-k", "5")

    listed = {one["index"]["name"]: one for one in found["indexes"]}
    near = listed["The nearest"]
    assert near["index"]["vector_type"] == "vector"
    assert near["index"]["dimension"] == 8
    assert near["sample"]["n"] == 20
    assert near["sample"]["low"] <= near["sample"]["mean"] <= near["sample"]["high"]
    assert near["sample"]["null_rows"] == 1
    own = next(one for one in listed.values() if one["index"]["collections"] == ["kb"])
    assert own["index"]["is_searched"]
    assert own["sample"]["mean"] is not None
    assert "index.rows_not_held" in {one["id"] for one in found["findings"]}
    assert all(one["fix"] for one in found["findings"])


def test_people_get_a_table_of_80_columns_and_the_fixes_below(ragline: Command) -> None:
    lines = in_a_terminal(ragline, 80, "index", "list", "--sample", "20")
    fixes = [line for line in lines if line.lstrip().startswith("fix: ")]
    assert fixes
    assert max(len(line) for line in lines if line not in fixes) <= 80
    assert any("The nearest" in line for line in lines)
    assert any("@10 " in line for line in lines)
    assert any(
        line.split() == ["warn", "index.rows_not_held", "My", "shop.Items", "of", "all"]
        for line in lines
    )


def test_all_and_no_recall_and_a_schema(ragline: Command) -> None:
    found = ragline.json("index", "list", "--all", "--no-recall", "--schema", "My shop")
    assert {one["index"]["schema"] for one in found["indexes"]} == {"My shop"}
    assert {one["sample"] for one in found["indexes"]} == {None}
    (duplicate,) = [one for one in found["findings"] if one["id"] == "index.duplicate"]
    assert duplicate["subject"] == "My shop.twin"
    assert 'drop index concurrently "My shop".twin' in duplicate["fix"]


def test_what_is_not_there_is_refused_with_what_there_is(ragline: Command, tmp_path: Path) -> None:
    unknown = ragline.run("index", "list", "--schema", "nowhere")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "My shop" in unknown.stderr
    few = ragline.run("index", "list", "--sample", "2")
    assert few.returncode == 2
    down = ragline.with_(DATABASE_URL="postgresql://me:hidden@127.0.0.1:1/x")
    done = down.run("index", "list")
    assert done.returncode == 7
    assert "hidden" not in done.stdout + done.stderr

"""`ragline index advise`: none without evidence, then one index: built, measured, undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from command import Command, place
from ragline.ops import embedded

_TABLE = """
create table note (id bigserial primary key, body text, meta jsonb);
insert into note (body, meta)
select 'note ' || i, jsonb_build_object('user', i % 2000, 'tag', 't' || i % 300, 'n', i)
from generate_series(1, 20000) i;
analyze note
"""
_FLOORS = ("--min-calls", "50", "--min-ms", "0.2")


@pytest.fixture(scope="module")
def site() -> Iterator[Command]:
    """A ragline with a server of its own, and a table that is somebody else's."""
    with place() as command:
        assert command.run("migrate", "apply").returncode == 0
        with connect(command) as connection:
            connection.execute(_TABLE.encode())
        yield command


def connect(site: Command) -> psycopg.Connection[Any]:
    cluster = embedded.ensure(site.data_dir)
    return psycopg.connect(embedded.url(cluster), autocommit=True)


def indexes(site: Command) -> list[str]:
    with connect(site) as connection:
        rows = connection.execute("select indexname from pg_indexes where tablename = 'note'")
        return sorted(row[0] for row in rows.fetchall())


def ask(site: Command, sql: str, value: object, *, times: int = 60) -> None:
    with connect(site) as connection:
        for _ in range(times):
            connection.execute(sql.encode(), (value,)).fetchall()


def creations(report: Any) -> list[Any]:
    return [one for one in report["advice"] if one["action"] == "create"]


def test_without_evidence_none_then_one_index_that_is_built_measured_and_undone(
    site: Command,
) -> None:
    before = site.run("index", "advise")
    assert before.returncode == 0, before.stderr
    assert "advice: none" in before.stdout

    for user in (7, 8):
        ask(site, "select id, body from note where meta @> %s", json.dumps({"user": user}))
    found = site.json("index", "advise", *_FLOORS)
    (one,) = creations(found)
    assert one["definition"] == (
        "CREATE INDEX note_meta_gin ON public.note USING gin (meta jsonb_path_ops)"
    )
    assert one["seen"]["calls"] == 120
    assert one["seen"]["node"] == "Seq Scan on public.note"
    assert one["predicted"]["by"] == "model"

    text = site.run("index", "advise", *_FLOORS).stdout
    assert "120 calls" in text
    assert "next: ragline index advise --min-calls 50 --min-ms 0.2 --apply 1" in text
    assert indexes(site) == ["note_pkey"]

    applied = site.run("index", "advise", *_FLOORS, "--apply", "1", "--run")
    assert applied.returncode == 0, applied.stderr
    assert "before: Seq Scan on note" in applied.stdout
    assert "Bitmap Index Scan on note_meta_gin" in applied.stdout
    assert "middle time" in applied.stdout
    assert "undo: ragline change undo 1" in applied.stdout
    assert indexes(site) == ["note_meta_gin", "note_pkey"]
    assert creations(site.json("index", "advise", *_FLOORS)) == []

    undone = site.run("change", "undo", "1")
    assert undone.returncode == 0, undone.stderr
    assert indexes(site) == ["note_pkey"]


def test_an_index_that_no_plan_takes_is_taken_back(site: Command) -> None:
    with connect(site) as connection:
        connection.execute("alter database ragline set enable_bitmapscan = off")
        connection.execute("alter database ragline set enable_indexscan = off")
    try:
        ask(site, "select id from note where meta @> %s", json.dumps({"user": 9}), times=200)
        done = site.run("index", "advise", *_FLOORS, "--apply", "note_meta_gin")
    finally:
        with connect(site) as connection:
            connection.execute("alter database ragline reset all")
    assert done.returncode == 4, done.stderr
    assert "no plan of its statements takes it" in done.stdout
    assert indexes(site) == ["note_pkey"]


def test_an_index_that_doubles_another_is_dropped_as_a_change(site: Command) -> None:
    with connect(site) as connection:
        for name in ("note_body_one", "note_body_two"):
            connection.execute(f"create index {name} on note (body)".encode())
    found = site.json("index", "advise", "--table", "note")
    (one,) = [one for one in found["advice"] if one["action"] == "drop"]
    assert one["reason"].startswith("doubles public.note_body_")
    done = site.run("index", "advise", "--table", "note", "--apply", one["name"])
    assert done.returncode == 0, done.stderr
    left = {"note_body_one", "note_body_two"} - {one["name"]}
    assert indexes(site) == sorted([*left, "note_pkey"])


def test_a_vector_index_is_not_built_where_nobody_measures_recall(site: Command) -> None:
    with connect(site) as connection:
        connection.execute(
            b"create table near (id bigserial primary key, emb vector(8));"
            b"insert into near (emb) select ('[1,2,3,4,5,6,7,' || i || ']')::vector "
            b"from generate_series(1, 20000) i; analyze near"
        )
    ask(
        site,
        "select id from near order by emb <=> %s::text::vector limit 5",
        "[" + ",".join("1" * 8) + "]",
    )
    (one,) = creations(site.json("index", "advise", "--table", "near", *_FLOORS))
    assert "vector_cosine_ops" in one["definition"]
    assert "approximate" in one["cautions"][0]
    done = site.run("index", "advise", "--table", "near", *_FLOORS, "--apply", "9")
    assert done.returncode == 2
    assert "there is no advice '9' any more; there is: 1 (near_emb_hnsw)" in done.stderr
    done = site.run("index", "advise", "--table", "near", *_FLOORS, "--apply", "1")
    assert done.returncode == 2
    assert "ragline attach public.near" in done.stderr


def test_a_server_that_counts_no_statements_says_so_and_exits_with_3(site: Command) -> None:
    with connect(site) as connection:
        connection.execute("drop extension pg_stat_statements")
    try:
        done = site.run("index", "advise")
    finally:
        with connect(site) as connection:
            connection.execute("create extension pg_stat_statements")
    assert done.returncode == 3
    assert "advice: none" in done.stdout
    assert "create extension pg_stat_statements" in done.stdout

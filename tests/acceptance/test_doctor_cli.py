"""`ragline doctor` as people use it: what it prints, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command import PROGRAM, Command, one_object, place
from ragline.core.doctor import catalogue
from ragline.ops import embedded
from servers import free_port

SECRET = "hemlich-0815"  # not a real one


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """A place of this module's own, whose server listens on a port as well."""
    with place() as command:
        yield command.with_(RAGLINE_DB_PORT=str(free_port()))


@pytest.fixture(scope="module")
def socket(ragline: Command) -> str:
    """The URL of that server, which the doctor itself made and started."""
    if embedded.status(ragline.data_dir).cluster is None:
        ragline.json("doctor")
    cluster = embedded.status(ragline.data_dir).cluster
    assert cluster is not None
    assert cluster.data_dir == ragline.data_dir
    return embedded.url(cluster)


def ask(url: str, *statements: str) -> Any:
    with psycopg.connect(url, autocommit=True) as db:
        for statement in statements:
            done = db.execute(statement)
        row = done.fetchone() if done.description else None
    return None if row is None else row[0]


def statuses(found: Any) -> dict[str, str]:
    return {one["id"]: one["status"] for one in found["findings"] if one["status"] != "pass"}


def test_the_embedded_database_is_started_and_well(ragline: Command) -> None:
    found = ragline.json("doctor")
    # The machine is not ours to judge: its disk may be full.
    assert set(statuses(found)) <= {"disk.data"}
    assert [one["id"] for one in found["findings"]] == list(catalogue.IDS)
    assert found["exit_code"] == 0
    assert sum(found["counts"].values()) == len(catalogue.IDS)

    text = ragline.run("doctor", "--skip", "disk").stdout
    assert text.splitlines()[-1].startswith("doctor: 0 failed, 0 to look at, 0 unknown, ")
    assert "first:" not in text
    for group in catalogue.GROUPS:
        assert f"\n{group}:" in f"\n{text}"


def test_an_invalid_index_comes_first_and_ends_with_3(ragline: Command, socket: str) -> None:
    ask(socket, "create table public.t (a integer)", "insert into public.t values (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        ask(socket, 'create unique index concurrently "odd\nname" on public.t (a)')
    try:
        text = ragline.run("doctor", "--skip", "disk")
        assert text.returncode == 3
        lines = text.stdout.splitlines()
        assert lines[0] == "first:"
        assert lines[1].startswith("  1. fail  index.invalid")
        assert "drop index concurrently" in text.stdout
        assert not any(line.startswith("name") for line in lines)
        assert lines[-1].startswith("doctor: 1 failed, 0 to look at, 0 unknown, ")
        assert ragline.run("doctor", "--skip", "index.invalid", "--skip", "disk").returncode == 0
    finally:
        ask(socket, "drop table public.t")


def test_what_somebody_has_locked_is_not_waited_for(ragline: Command, socket: str) -> None:
    with psycopg.connect(socket) as db:
        db.execute("lock table ragline.alembic_version in access exclusive mode")
        done = ragline.run("doctor", "--only", "schema", "--json", timeout_s=240)
    assert done.returncode == 5
    (found,) = one_object(done.stdout)["findings"]
    assert "took too long" in found["evidence"]


def test_without_a_server_all_rests_on_that_and_it_ends_with_7(tmp_path: Path) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:{free_port()}/kb"
    away = Command(folder=tmp_path, more={"DATABASE_URL": url})
    done = away.run("doctor")
    assert (done.returncode, done.stderr) == (7, "")
    assert "1. fail  server.reachable" in done.stdout
    rest = f"not looked at, because server.reachable failed: {len(catalogue.IDS) - 1} checks"
    assert rest in done.stdout
    assert SECRET not in done.stdout


def test_a_wrong_password_ends_with_2_and_is_not_shown(ragline: Command, socket: str) -> None:
    url = f"postgresql://postgres:{SECRET}@127.0.0.1:{ragline.more['RAGLINE_DB_PORT']}/ragline"
    done = ragline.with_(DATABASE_URL=url).run("doctor", "--json")
    assert done.returncode == 2
    first = one_object(done.stdout)["findings"][0]
    assert (first["id"], first["status"]) == ("login.accepted", "fail")
    assert "ragline dsn show" in first["fix"]
    assert SECRET not in done.stdout + done.stderr


def test_a_check_asked_for_by_name_that_cannot_be_made_ends_with_5(
    ragline: Command, socket: str
) -> None:
    ask(socket, "create role plain_doctor login")
    url = f"{socket.partition('://')[0]}://plain_doctor@{socket.partition('@')[2]}"
    try:
        plain = ragline.with_(DATABASE_URL=url)
        done = plain.run("doctor", "--only", "wal.size", "--json")
        assert done.returncode == 5
        assert statuses(one_object(done.stdout)) == {"wal.size": "unknown"}
        assert plain.run("doctor", "--only", "tracking").returncode == 0
    finally:
        ask(socket, "drop role plain_doctor")


def test_the_list_needs_no_database_and_wrong_ids_are_refused(tmp_path: Path) -> None:
    away = Command(folder=tmp_path)
    listed = away.json("doctor", "--list")["checks"]
    assert [one["id"] for one in listed] == list(catalogue.IDS)
    text = away.run("doctor", "--list").stdout.splitlines()
    assert [line.split()[0] for line in text] == list(catalogue.IDS)
    wrong = away.run("doctor", "--only", "index.invlid")
    assert wrong.returncode == 2
    assert "the nearest is 'index.invalid'" in wrong.stderr
    assert not (tmp_path / "data").exists()


def test_it_waits_for_a_server_that_comes_up(ragline: Command, socket: str) -> None:
    assert ragline.run("db", "stop").returncode == 0
    waiting = subprocess.Popen(
        [PROGRAM, "doctor", "--wait", "120", "--only", "server.reachable", "--json"],
        env=ragline.with_(DATABASE_URL=socket).environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    line = waiting.stderr.readline()
    assert re.match(r"waiting \(\d+ of 120 s\): no PostgreSQL answers at", line), line
    began = time.monotonic()
    ragline.json("db", "start")
    out, _ = waiting.communicate(timeout=200)
    assert waiting.returncode == 0, out
    assert json.loads(out)["status"] == "pass"
    assert time.monotonic() - began < 100
    sys.stdout.write(line)


def test_each_check_is_in_the_page_about_them() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/doctor.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(catalogue.IDS)
    for row, check in zip(rows, catalogue.CHECKS, strict=True):
        assert row.strip("| ").split(" | ")[1] == check.looks_at

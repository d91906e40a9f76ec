"""`ragline backup` as people meet it, and what is left when it is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from command import Command, place
from ragline.ops import embedded

_MAKE = """
    create table public.notes (id int primary key, body text, embedding vector(2));
    insert into public.notes select n, 'note ' || n, '[1,2]' from generate_series(1, 2000) n
"""

_END_WAITING = """
    select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity
    where wait_event_type = 'Lock' and application_name like 'ragline:%'
"""


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """A server with a table of somebody's own."""
    with place() as command:
        command.json("migrate", "apply")
        ask(command, _MAKE)
        yield command


def ask(command: Command, query: str) -> object:
    """Ask the test's own server."""
    cluster = embedded.status(command.data_dir).cluster
    assert cluster is not None
    assert cluster.data_dir.is_relative_to(command.folder)
    with psycopg.connect(embedded.url(cluster), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def left(command: Command) -> tuple[object, list[str], object]:
    """Return the scratch databases, the files that are no backup's, and the backups."""
    stored = ask(command, "select coalesce(array_agg(path), '{}') from ragline.backup")
    assert isinstance(stored, list)
    folder = command.data_dir / "backups"
    files = [str(path) for path in folder.iterdir()] if folder.is_dir() else []
    databases = "select count(*) from pg_database where datname like 'ragline_scratch%'"
    return ask(command, databases), sorted(set(files) ^ set(stored)), len(stored)


def test_rows_that_were_lost_come_back(ragline: Command) -> None:
    made = ragline.json(
        "backup", "create", "--table", "public.notes", "--name", "notes", "--verify"
    )
    assert made["contents"]["public.notes"]["rows"] == 2000
    assert made["verified_at"] is not None
    assert Path(made["path"]).parent == ragline.data_dir / "backups"

    ask(ragline, "delete from public.notes where id <= 500")
    planned = ragline.run("backup", "restore", "notes", "--in-place")
    assert planned.returncode == 0, planned.stderr
    assert "public.notes: 500 missing rows and 0 that differ put back" in planned.stdout
    assert "nothing was changed" in planned.stdout
    assert ask(ragline, "select count(*) from public.notes") == 1500
    done = ragline.run("backup", "restore", "notes", "--in-place", "--apply")
    assert done.returncode == 0, done.stderr
    assert ask(ragline, "select count(*) from public.notes") == 2000

    shown = ragline.json("backup", "show", "notes")
    assert shown["not_usable"] is None
    assert [one["name"] for one in ragline.json("backup", "list")["backups"]] == ["notes"]
    removed = ragline.run("backup", "remove", "notes")
    assert removed.returncode == 0
    assert left(ragline) == (0, [], 0)


def test_what_cannot_be_done_is_a_sentence_and_an_exit_code(ragline: Command) -> None:
    for arguments, code, said in (
        (["create"], 2, "--table"),
        (["create", "--table", "public.nots"], 2, '"public.notes"'),
        (["verify", "none"], 2, "ragline backup create"),
        (["restore", "none"], 2, "--in-place"),
        (["create", "--all", "--folder", "/proc/nowhere"], 3, "--folder"),
    ):
        done = ragline.run("backup", *arguments)
        assert (done.returncode, said in done.stderr) == (code, True), (arguments, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr


def test_no_password_is_on_a_command_line_of_ours(ragline: Command) -> None:
    """Everybody on the machine can read those; the environment of a process only its user."""
    from ragline.core.dsn import Dsn, Host, Secret
    from ragline.ops import programs

    dsn = Dsn(hosts=(Host("h"),), database="d", user="u", password=Secret("hemlich-0815"))

    assert "hemlich" not in programs.conninfo(dsn)
    assert programs.environment(dsn)["PGPASSWORD"] == "hemlich-0815"


@pytest.mark.parametrize("point", ["backup:writing", "backup:stored"])
def test_killed_while_it_is_made_there_is_a_whole_backup_or_none(
    ragline: Command, point: str
) -> None:
    killed = ragline.with_(RAGLINE_FAIL_POINT=f"{point}=die").run(
        "backup", "create", "--table", "public.notes"
    )
    assert killed.returncode == -9

    found = ragline.json("backup", "list")["backups"]

    assert len(found) == (point == "backup:stored")
    assert left(ragline) == (0, [], len(found))
    for one in found:  # it is whole, although nobody told us so
        assert ragline.json("backup", "verify", str(one["id"]))["verified_at"] is not None
        ragline.json("backup", "remove", str(one["id"]))


def test_killed_while_it_is_verified_nothing_is_left_and_it_is_not_verified(
    ragline: Command,
) -> None:
    made = ragline.json("backup", "create", "--table", "public.notes")
    is_there = "select exists (select from pg_database where datname like 'ragline_scratch%')"
    cluster = embedded.status(ragline.data_dir).cluster
    assert cluster is not None
    with psycopg.connect(embedded.url(cluster)) as holding:
        # However late the kill: nobody can say meanwhile that it was verified.
        holding.execute("lock table ragline.backup in share mode")
        verifying = ragline.start("backup", "verify", str(made["id"]))
        while not ask(ragline, is_there):
            assert verifying.poll() is None, verifying.communicate()
            time.sleep(0.005)
        verifying.kill()
        verifying.communicate(timeout=120)
        ask(ragline, _END_WAITING)

    found = ragline.json("backup", "list")["backups"]

    assert [one["verified_at"] for one in found] == [None]
    deadline = time.monotonic() + 120
    while left(ragline)[0]:  # the server may notice a moment later that its client is gone
        assert time.monotonic() < deadline
        ragline.json("backup", "list")
    assert left(ragline) == (0, [], 1)
    ragline.json("backup", "remove", str(made["id"]))

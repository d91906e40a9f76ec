"""`ragline snapshot` as people use it: taken, compared, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from command import Command, place
from ragline.ops import embedded


@pytest.fixture(scope="module")
def ragline() -> Iterator[Command]:
    """A server of this module's own."""
    with place() as command:
        command.json("migrate", "apply")
        yield command


def ask(ragline: Command, *statements: str) -> Any:
    cluster = embedded.status(ragline.data_dir).cluster
    assert cluster is not None
    assert cluster.data_dir == ragline.data_dir
    with psycopg.connect(embedded.url(cluster), autocommit=True) as db:
        for statement in statements:
            done = db.execute(statement)
        row = done.fetchone() if done.description else None
    return None if row is None else row[0]


def test_one_setting_changed_is_exactly_one_line_and_the_plan_puts_it_back(
    ragline: Command,
) -> None:
    was = ask(ragline, "show work_mem")
    taken = ragline.json("snapshot", "take", "before", "--note", "as it came")
    assert (taken["name"], taken["note"]) == ("before", "as it came")
    assert all(group["unknown"] is None for group in taken["groups"].values())
    assert ragline.json("snapshot", "diff", "before")["differences"] == []

    ask(ragline, "alter system set work_mem = '7MB'", "select pg_reload_conf()")

    found = ragline.json("snapshot", "diff", "before")
    (one,) = found["differences"]
    assert (one["group"], one["name"], one["restart"]) == ("settings", "work_mem", False)
    assert (one["was"]["value"], one["now"]["value"], one["now"]["unit"]) == ("4096", "7168", "kB")
    assert one["source"].endswith("postgresql.auto.conf")
    assert found["not_compared"] == []
    text = ragline.run("snapshot", "diff", "before").stdout
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(lines) == 1, text
    assert "work_mem: 4MB -> 7MB   source: " in lines[0]
    assert lines[0].endswith("restart: no")

    planned = ragline.json("snapshot", "restore-plan", "before")
    assert planned["left_out"] == []
    assert [part["target"] for part in planned["change"]["parts"]] == ["work_mem"]
    assert ask(ragline, "show work_mem") == "7MB", "a plan changes nothing"
    ended = ragline.json("change", "apply", str(planned["change"]["id"]))
    assert ended["state"] == "kept"

    assert ask(ragline, "show work_mem") == was
    assert ragline.json("snapshot", "diff", "before")["differences"] == []
    planned = ragline.json("snapshot", "restore-plan", "before")
    assert planned["change"] is None


def test_a_restart_a_role_and_an_index_are_told_and_what_no_plan_puts_back_is_said(
    ragline: Command,
) -> None:
    ask(ragline, "create table public.t (a integer)", "create index i on public.t (a)")
    ragline.json("snapshot", "take", "shown", "--note", "a\x1b[31m note")
    number = "shown"
    ask(
        ragline,
        "alter system set max_worker_processes = 11",
        "select pg_reload_conf()",
        "alter role eval_app in database ragline set work_mem = '40MB'",
        "drop index public.i",
    )
    later = str(ragline.json("snapshot", "take")["id"])
    found = ragline.json("snapshot", "diff", number, later)["differences"]
    assert [(one["group"], one["name"], one["restart"]) for one in found] == [
        ("files", "max_worker_processes", True),
        ("roles", "eval_app.work_mem", False),
        ("schema", "index public.i", None),
    ]
    assert found[0]["waits_for_restart"]

    plan = ragline.run("snapshot", "restore-plan", number)
    assert plan.returncode == 0, plan.stderr
    for said in (
        "setting max_worker_processes: 11 -> default",
        "role eval_app.work_mem: 40MB -> 32MB",
        "restarts: none",
        "next: ragline change apply",
        "not put back by a plan:",
        "schema index public.i",
        "CREATE INDEX i ON public.t",
    ):
        assert said in plan.stdout, plan.stdout
    change = plan.stdout.split()[1]
    assert ragline.json("change", "apply", change)["state"] == "kept"
    ragline.json("db", "stop")
    left = ragline.json("snapshot", "diff", number)["differences"]  # starts it again
    assert [one["name"] for one in left] == ["index public.i"]
    plan = ragline.run("snapshot", "restore-plan", number)
    assert "no change of ragline's leads nearer to snapshot" in plan.stdout
    assert "CREATE INDEX i ON public.t" in plan.stdout


def test_what_cannot_be_planned_is_said_and_the_rest_is_put_back(ragline: Command) -> None:
    ask(
        ragline,
        "alter system set statement_timeout = '500ms'",
        "alter system set shared_preload_libraries = ''",
        "alter system set gone.forever = 'on'",
        "alter system set log_line_prefix = '%m \\ it''s '",
        "select pg_reload_conf()",
    )
    ragline.json("snapshot", "take", "partly")
    ask(ragline, "alter system reset all", "select pg_reload_conf()")
    planned = ragline.json("snapshot", "restore-plan", "partly")
    assert [part["target"] for part in planned["change"]["parts"]] == ["log_line_prefix"]
    left = {one["name"]: one["what_to_do"] for one in planned["left_out"]}
    assert "at least 1s" in left["statement_timeout"]
    assert "was '', and cannot be planned" in left["shared_preload_libraries"]
    assert "does not exist" in left["gone.forever"]
    ragline.json("change", "apply", str(planned["change"]["id"]))
    assert ask(ragline, "show log_line_prefix") == "%m \\ it's "
    differences = ragline.json("snapshot", "diff", "partly")["differences"]
    assert {one["name"] for one in differences} == {*left}
    ask(ragline, "alter system reset all", "select pg_reload_conf()")


def test_what_people_read_says_what_is_there(ragline: Command) -> None:
    listed = ragline.run("snapshot", "list").stdout
    assert "shown" in listed
    assert "\x1b" not in listed
    shown = ragline.run("snapshot", "show", "shown").stdout
    for said in (
        "settings:",
        "work_mem = 4MB   source: ",
        "context: user",
        "of the machine's",
        "tables and indexes",
        "sha256:",
    ):
        assert said in shown, shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("diff 4711", "4711"),
        ("restore-plan nothing", "nothing"),
        ("take 7", "cannot be called"),
        ("take shown", "take another name"),
    ],
)
def test_what_cannot_be_is_a_sentence(ragline: Command, words: str, said: str) -> None:
    done = ragline.run("snapshot", *words.split())
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout

"""`ragline change` as people use it: what is refused, what each command says, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

import breaking
from breaking import COLLECTION, Facts, Ground
from command import Command, one_object, place
from ragline.ops import embedded
from servers import free_port

_QUICK = ("--questions", "20", "--budget", "60", "--latency-margin", "10")


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """A server of this module's own, with a collection."""
    with place() as command:
        made = breaking.ground(command)
        folders = made.environment
        yield replace(made, command=command.with_(**folders))


@pytest.fixture(scope="module")
def ragline(ground: Ground) -> Command:
    return ground.command


@pytest.fixture(scope="module")
def url(ground: Ground) -> str:
    """The same server, as if it were not ragline's own."""
    return embedded.url(embedded.ensure(ground.command.data_dir))


def looked(ground: Ground) -> Facts:
    return asyncio.run(breaking.fingerprint(ground))


def refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    """Expect a sentence on stderr with what to do, the exit code, and nothing else."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


# Bad input


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("setting work_mme=32MB", 2, "work_mem"),
        ("setting hnsw.ef_serch=100", 2, "hnsw.ef_search"),
        ("setting hnsw.ef_search=100000", 2, "1000"),
        ("setting work_mem=1kB", 2, "64"),
        ("setting work_mem=much", 2, "much"),
        ("setting server_version=19", 2, "cannot be changed"),
        ("setting shared_buffers=900GB", 3, "could not start"),
        ("setting shared_preload_libraries=vecotr", 2, "vecotr"),
        ("setting work_mem", 2, "NAME=VALUE"),
        ("setting", 2, "say what it should be"),
        ("", 2, "say a kind"),
        ("magic thing size=3", 2, "no kind of change"),
        ("role nobody work_mem=8MB", 2, "eval_app"),
        ("role eval_app shared_buffers=8MB", 2, "whole server"),
        ("role eval_app connection_limit=0", 2, "could not log in"),
        ("index nowhere m=24", 2, "nowhere"),
        (f"index {COLLECTION} m=1000", 2, "100"),
        (f"index {COLLECTION} depth=3", 2, "depth"),
        ("index attribute.by_nothing none", 2, "by_nothing"),
        ("space nowhere model=tiny", 2, "nowhere"),
        (f"space {COLLECTION} model=nothing", 2, "no configured model"),
        (f"space {COLLECTION} storage=bit", 2, "halfvec"),
        ("search nowhere ef_search=100", 2, "nowhere"),
        (f"search {COLLECTION} ef_search=0", 2, "1 to 1000"),
        (f"search {COLLECTION} depth=3", 2, "depth"),
        ("setting work_mem=8MB --judge llm", 2, "--dataset"),
        ("setting work_mem=8MB --policy nowhere.toml", 2, "nowhere.toml"),
        ("setting work_mem=8MB --filter lang=", 2, "expected a value"),
        ("setting work_mem=8MB --collection nowhere", 2, "nowhere"),
        ("setting work_mem=8MB --dataset nowhere", 2, "nowhere"),
        ("--file nowhere.toml", 2, "nowhere.toml"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(
    ragline: Command, words: str, code: int, said: str
) -> None:
    refused(ragline.run("change", "plan", *words.split()), code, said)


@pytest.mark.parametrize("command", ["apply", "undo", "show", "watch"])
def test_a_number_that_no_change_has_is_said(ragline: Command, command: str) -> None:
    refused(ragline.run("change", command, "99"), 2, "there is no change 99")


def test_nothing_of_it_was_written_down(ragline: Command, ground: Ground) -> None:
    assert ragline.json("change", "list") == {"changes": []}
    assert "ledger is empty" in ragline.run("change", "list").stdout
    assert asyncio.run(breaking.leftovers(ground)) == []


# From a plan to the end


def test_from_plan_to_undo_each_command_prints_one_object(ragline: Command, ground: Ground) -> None:
    before = looked(ground)
    planned = ragline.json("change", "plan", "setting", "work_mem=9MB", *_QUICK)
    number = str(planned["id"])
    assert planned["state"] == "planned"
    assert looked(ground) == before, "a plan changes nothing"

    applied = ragline.json("change", "apply", number)
    assert (applied["state"], applied["verdict"]["status"]) == ("kept", "pass")
    assert looked(ground)["auto"]["work_mem"] == "9MB"
    shown = ragline.json("change", "show", number)
    states = [line["state"] for line in shown["history"]]
    assert states == [
        "planned", "snapshotted", "applying", "applied", "measuring", "keeping", "kept",
    ]  # fmt: skip
    watched = ragline.run("change", "watch", number, "--json")
    assert all(one_object(line + "\n")["line"] for line in watched.stdout.splitlines())

    undone = ragline.json("change", "undo", number)
    assert (undone["state"], undone["undoes"]) == ("kept", int(number))
    assert looked(ground) == before
    assert ragline.json("change", "resume") == {"changes": []}
    listed = ragline.json("change", "list")["changes"]
    assert [one["id"] for one in listed] == [undone["id"], int(number)]
    refused(ragline.run("change", "undo", number), 2, "taken back already")
    refused(ragline.run("change", "apply", number), 2, "plan it again")
    assert ragline.json("change", "plan", "setting", "work_mem=6MB") == {"change": None}


def test_what_people_read_says_locks_restarts_loss_and_the_way_back(ragline: Command) -> None:
    plan = ragline.run("change", "plan", "setting", "max_worker_processes=9", "--no-measure")
    assert plan.returncode == 0
    for said in (
        "max_worker_processes: default -> 9",
        "restart the server",
        "blocks: everybody",
        "may lose: every open connection",
        "restarts: 1",
        "undo: ragline change undo",
        "measured: nothing, on your word",
        "next: ragline change apply",
    ):
        assert said in plan.stdout
    plan = ragline.run("change", "plan", "index", COLLECTION, "m=24")
    for said in ("create index concurrently", "locks: SHARE UPDATE EXCLUSIVE", "disk:"):
        assert said in plan.stdout.replace("CREATE INDEX CONCURRENTLY", "create index concurrently")
    assert f"index {COLLECTION}: m 16 -> 24" in plan.stdout
    assert "planned" in ragline.run("change", "list").stdout


def test_a_stale_plan_is_refused(ragline: Command, ground: Ground) -> None:
    planned = ragline.json("change", "plan", "setting", "work_mem=9MB", "--no-measure")
    ask(ground, "alter system set work_mem = '5MB'")
    try:
        refused(ragline.run("change", "apply", str(planned["id"])), 2, "plan it again")
    finally:
        ask(ground, "alter system set work_mem = '6MB'", "select pg_reload_conf()")


def ask(ground: Ground, *statements: str) -> None:
    async def inside() -> None:
        async with ground.looking() as db:
            for statement in statements:
                await db.execute(statement)

    asyncio.run(inside())


# How it ends


def test_worse_is_put_back_with_exit_code_4(ragline: Command, ground: Ground) -> None:
    before = looked(ground)
    done = ragline.run("change", "plan", "search", COLLECTION, "k=3", "--apply", *_QUICK)
    assert done.returncode == 4, done.stderr
    assert "is undone" in done.stdout
    assert "rows [kb] 1 -> 0.3: surely lower" in done.stdout
    assert "p50_ms [all questions]" in done.stdout
    assert "next:" not in done.stderr, "it was applied at once"
    assert looked(ground) == before


def test_undecided_is_put_back_with_exit_code_5_or_kept_by_who_says_so(
    ragline: Command, ground: Ground
) -> None:
    before = looked(ground)
    asked = ("--questions", "10", "--budget", "1", "--latency-margin", "0")
    planned = ragline.json("change", "plan", "setting", "log_lock_waits=on", *asked)
    done = ragline.run("change", "apply", str(planned["id"]), "--json")
    assert done.returncode == 5, done.stderr
    assert one_object(done.stdout)["state"] == "inconclusive"
    assert looked(ground) == before
    planned = ragline.json("change", "plan", "setting", "log_lock_waits=on", *asked)
    kept = ragline.json("change", "apply", str(planned["id"]), "--keep-inconclusive")
    assert kept["state"] == "kept"
    assert "somebody's word" in kept["reason"]
    ragline.json("change", "undo", str(planned["id"]))
    assert looked(ground) == before


def test_what_cannot_be_put_back_says_so_with_exit_code_6(ragline: Command, ground: Ground) -> None:
    before = looked(ground)
    broken = ragline.with_(RAGLINE_FAIL_POINT="undo:1:before=fail")
    words = ("role", "ragline_serve", "statement_timeout=1ms", "--no-measure", "--apply")
    refused(broken.run("change", "plan", *words), 6, "ragline change resume")
    assert "failed" in ragline.run("change", "list").stdout
    (settled,) = ragline.json("change", "resume")["changes"]
    assert settled["state"] == "undone"
    assert looked(ground) == before


def test_where_nobody_can_restart_it_waits_with_exit_code_3(
    ragline: Command, ground: Ground, url: str
) -> None:
    before = looked(ground)
    by_url = ragline.with_(DATABASE_URL=url)
    words = ("setting", "max_worker_processes=9", "--no-measure", "--apply")
    done = by_url.run("change", "plan", *words)
    assert done.returncode == 3, done.stderr
    assert "restart the server, then run `ragline change resume`" in done.stdout
    assert "waits" in by_url.run("change", "list").stdout
    words = ("setting", "log_lock_waits=on", "--no-measure", "--apply")
    refused_second = by_url.run("change", "plan", *words)
    assert refused_second.returncode == 2
    assert "is open" in refused_second.stderr
    number = str(by_url.json("change", "list")["changes"][1]["id"])
    assert by_url.json("change", "undo", number)["state"] == "undone"
    assert looked(ground) == before


def test_one_change_at_a_time(ragline: Command, ground: Ground) -> None:
    before = looked(ground)
    held = ragline.with_(RAGLINE_FAIL_POINT="apply:2:after=stop")
    planned = ragline.json("change", "plan", "setting", "log_lock_waits=on", "--no-measure")
    second = ragline.json("change", "plan", "setting", "log_checkpoints=off", "--no-measure")
    process = held.start("change", "apply", str(planned["id"]))
    try:
        wait_until_stopped(process)
        done = ragline.run("change", "apply", str(second["id"]))
        refused(done, 2, "another process is at a change")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    # Whatever command comes next puts it back first.
    kept = ragline.json("change", "apply", str(second["id"]))
    assert kept["state"] == "kept"
    shown = ragline.json("change", "show", str(planned["id"]))
    assert shown["entry"]["state"] == "undone"
    undone = ragline.run("change", "undo", str(second["id"]))
    assert f"took change {second['id']} back" in undone.stdout
    assert looked(ground) == before


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while time.monotonic() < until:
        _, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED)
        if os.WIFSTOPPED(status) and status:
            return
        time.sleep(0.05)
    raise AssertionError("the change has not come to its point")


# What is around us


def test_a_user_without_rights_is_told_which(ragline: Command, ground: Ground, url: str) -> None:
    ask(ground, "create role plain login")
    try:
        by_plain = ragline.with_(DATABASE_URL=url.replace("postgres@", "plain@"))
        for words in ("setting work_mem=9MB", "role eval_app work_mem=9MB"):
            done = by_plain.run("change", "plan", *words.split())
            assert done.returncode == 3, (words, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr
            assert "plain" in done.stderr
    finally:
        ask(ground, "drop role plain")


def test_a_server_that_is_not_there_is_exit_code_7(ragline: Command) -> None:
    nowhere = ragline.with_(DATABASE_URL=f"postgresql://x@localhost:{free_port()}/x")
    for words in ("plan setting work_mem=9MB", "apply 1", "list", "resume"):
        refused(nowhere.run("change", *words.split()), 7, "no PostgreSQL answers")


def test_a_lock_that_is_not_free_is_exit_code_8(ragline: Command, url: str) -> None:
    with psycopg.connect(url) as holder:
        holder.execute("alter role eval_app in database ragline set work_mem = '7MB'")
        quick = ragline.with_(RAGLINE_LOCK_TIMEOUT_MS="200")
        words = ("role", "eval_app", "work_mem=8MB", "--no-measure")
        refused(quick.run("change", "plan", *words), 8, "lock")
        holder.rollback()

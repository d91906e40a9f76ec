"""What a stage says of a machine: group B's own figures, laws that hold for every machine, the file."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import gucs, stages, tuning_text
from ragline.core.change import Entry, State
from ragline.core.gucs import STAGES, VERSIONS, Stage
from ragline.core.stages import LeftAlone, Live, Machine, Recommendation, Tuning
from ragline.errors import ConfigError, UsageError
from ragline.ops import tuning

GIB = 1024**3
RULES = tuning.rules()
MAC = Machine(memory_bytes=128 * GIB, system="darwin")
SERVER = Machine(
    memory_bytes=24 * GIB, cores=8, system="linux", disk="nvme", free_disk_bytes=500 * GIB
)

machines = st.builds(
    Machine,
    memory_bytes=st.integers(256 * 1024**2, 16 * 1024**4),
    cores=st.none() | st.integers(1, 4096),
    system=st.sampled_from(["linux", "darwin", "other"]),
    disk=st.sampled_from([None, "hdd", "ssd", "nvme"]),
    free_disk_bytes=st.none() | st.integers(0, 2**50),
)
some_stage = st.sampled_from(STAGES)
some_version = st.sampled_from(list(VERSIONS))


def plan(machine: Machine, stage: Stage | None, version: int = 18, **more: Any) -> Tuning:
    return stages.tuning(RULES, machine, version=version, stage=stage, **more)


def values(tuning: Tuning) -> dict[str, str]:
    return {one.name: one.value for one in tuning.recommended}


def sized(machine: Machine, stage: Stage, name: str) -> int:
    return gucs.size(values(plan(machine, stage))[name])


# What group B asked for


def test_stage_a_of_a_mac_with_128_gib_is_what_was_asked_for() -> None:
    assert values(plan(MAC, "A", 14)) == {
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


def test_stage_b_and_c_of_a_mac_with_128_gib_are_what_was_asked_for() -> None:
    b = values(plan(MAC, "B", 14))
    assert (
        b.items()
        >= {
            "shared_buffers": "16GB",
            "effective_cache_size": "96GB",
            "work_mem": "64MB",
            "maintenance_work_mem": "4GB",
            "max_wal_size": "16GB",
            "wal_compression": "on",
        }.items()
    )
    assert values(plan(MAC, "C", 14))["shared_buffers"] == "24GB"
    assert values(plan(MAC, "D", 14))["shared_buffers"] == "32GB"


def test_what_macos_does_not_take_is_left_alone_and_says_why() -> None:
    left = {one.name: one.reason for one in plan(MAC, "C", 14).left_alone}
    assert "every value but 0 is an error" in left["effective_io_concurrency"]
    assert "Only Linux has them" in left["huge_pages"]
    assert left["io_method"] == "PostgreSQL 14 has no such setting (from version 18 on)"


def test_a_small_shared_server_gets_the_values_of_its_profile() -> None:
    small = Machine(memory_bytes=2 * GIB, disk="ssd")
    assert values(plan(small, None, profile="small")) == {
        "shared_buffers": "512MB",
        "effective_cache_size": "1536MB",
        "work_mem": "8MB",
        "maintenance_work_mem": "128MB",
        "random_page_cost": "1.1",
        "max_connections": "200",
    }


def test_a_container_of_4_gib_is_planned_for_4() -> None:
    found = values(plan(replace(SERVER, memory_bytes=4 * GIB), "B"))
    assert found["shared_buffers"] == "512MB"
    assert found["effective_cache_size"] == "3GB"
    assert found["work_mem"] == "4MB"


def test_a_disk_that_turns_keeps_its_page_cost() -> None:
    assert "random_page_cost" not in values(plan(replace(SERVER, disk="hdd"), "A"))
    assert "effective_io_concurrency" not in values(plan(replace(SERVER, disk="hdd"), "C"))


def test_the_log_does_not_fill_the_disk() -> None:
    crowded = replace(SERVER, memory_bytes=128 * GIB, free_disk_bytes=20 * GIB)
    found = next(one for one in plan(crowded, "B").recommended if one.name == "max_wal_size")
    assert found.value == "5GB"
    assert "at most 1/4 of the 20GB of free disk" in found.how


@pytest.mark.parametrize(
    ("cores", "workers", "vacuum"),
    [(8, None, None), (16, "4", "4"), (32, "8", "5"), (64, "16", "5")],
)
def test_processes_follow_the_cores_from_where_it_matters(
    cores: int, workers: str | None, vacuum: str | None
) -> None:
    found = values(plan(replace(SERVER, cores=cores), "B"))
    assert found.get("io_workers") == workers
    assert found.get("autovacuum_max_workers") == vacuum
    assert found["max_worker_processes"] == str(cores + 4)
    assert not values(plan(replace(SERVER, cores=None), "B")).keys() & {"max_worker_processes"}


def test_huge_pages_are_tried_where_there_are_many_buffers() -> None:
    assert values(plan(replace(SERVER, memory_bytes=32 * GIB), "A"))["huge_pages"] == "try"
    assert "huge_pages" not in values(plan(replace(SERVER, memory_bytes=24 * GIB), "A"))


def test_what_many_may_take_at_once_has_an_end() -> None:
    found = plan(replace(SERVER, memory_bytes=2048 * GIB, free_disk_bytes=None), "B")
    assert values(found)["work_mem"] == "128MB"
    assert values(found)["maintenance_work_mem"] == "8GB"
    assert values(found)["max_wal_size"] == "32GB"
    said = next(one for one in found.recommended if one.name == "work_mem")
    assert said.how == "1/2048 of 2TB; not more than 128MB"


# Laws


@given(machines, some_stage)
def test_more_memory_never_means_less(machine: Machine, stage: Stage) -> None:
    larger = replace(machine, memory_bytes=machine.memory_bytes + machine.memory_bytes // 3)
    for name in ("shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem"):
        assert sized(larger, stage, name) >= sized(machine, stage, name)


@given(machines)
def test_a_later_stage_never_means_less(machine: Machine) -> None:
    for name in ("shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem"):
        found = [sized(machine, stage, name) for stage in STAGES]
        assert found == sorted(found)


@given(machines, some_stage, some_version)
def test_memory_is_never_given_away_beyond_its_share(
    machine: Machine, stage: Stage, version: int
) -> None:
    found = values(plan(machine, stage, version))
    assert gucs.size(found["shared_buffers"]) * 5 <= machine.memory_bytes * 2
    assert gucs.size(found["effective_cache_size"]) * 5 <= machine.memory_bytes * 4 + 5
    assert gucs.size(found["maintenance_work_mem"]) * 8 <= machine.memory_bytes
    assert gucs.size(found["work_mem"]) >= gucs.size("4MB")


@given(machines, some_stage, some_version)
def test_every_setting_is_said_once_with_a_reason_and_a_source(
    machine: Machine, stage: Stage, version: int
) -> None:
    found = plan(machine, stage, version)
    said: list[Recommendation | LeftAlone] = [*found.recommended, *found.left_alone]
    assert sorted(one.name for one in said) == sorted(RULES.settings)
    assert all(one.reason and one.source for one in said)


@given(machines, some_stage, some_version)
def test_values_are_short_as_people_write_them(
    machine: Machine, stage: Stage, version: int
) -> None:
    for one in plan(machine, stage, version).recommended:
        assert re.fullmatch(r"\d{1,4}(GB|MB|TB)|\d{1,4}|\d\.\d|[a-z]+", one.value), one
        if RULES.settings[one.name].unit == "bytes":
            assert gucs.written(gucs.size(one.value)) == one.value


@given(machines, some_stage, some_version)
def test_nothing_that_a_version_or_system_lacks_is_set(
    machine: Machine, stage: Stage, version: int
) -> None:
    found = values(plan(machine, stage, version))
    assert not found.keys() & {"io_workers", "io_method"} or version >= 18
    if machine.system != "linux":
        assert not found.keys() & {"huge_pages", "effective_io_concurrency"}
    assert found["wal_compression"] == "on"  # whether a build has lz4 is not known here


# Held against a running server


def live(name: str, setting: str, unit: str | None = None, **more: Any) -> Live:
    facts = {"context": RULES.settings[name].context if name in RULES.settings else "postmaster"}
    return Live(
        **{
            **facts,
            "name": name,
            "setting": setting,
            "unit": unit,
            "vartype": "integer",
            "source": "configuration file",
            **more,
        }
    )


def server(**changed: Live) -> dict[str, Live]:
    """Return a server like the embedded one, as pg_settings has it."""
    found = [
        live("shared_buffers", "131072", "8kB"),
        live("effective_cache_size", "1572864", "8kB"),
        live("work_mem", "4096", "kB"),
        live("maintenance_work_mem", "524288", "kB"),
        live("autovacuum_work_mem", "-1", "kB"),
        live("max_wal_size", "1024", "MB"),
        live("checkpoint_completion_target", "0.9"),
        live("wal_compression", "pglz", enumvals=("pglz", "on", "off")),
        live("jit", "off"),
        live("random_page_cost", "1.1"),
        live("track_io_timing", "off"),
        live("max_connections", "100"),
        live("effective_io_concurrency", "16", max_val="1000"),
    ]
    return {**{one.name: one for one in found}, **changed}


def held(stage: Stage = "A", machine: Machine = SERVER, **changed: Live) -> Tuning:
    return plan(machine, stage, settings=server(**changed))


def left(found: Tuning) -> dict[str, str]:
    return {one.name: one.reason for one in found.left_alone}


def test_only_what_is_worse_is_set_and_the_rest_says_that_it_is_good_already() -> None:
    found = held()
    assert {one.name: (one.now, one.value) for one in found.recommended} == {
        "shared_buffers": ("1GB", "1536MB"),
        "work_mem": ("4MB", "6MB"),
        "max_wal_size": ("1GB", "1536MB"),
        "track_io_timing": ("off", "on"),
    }
    assert left(found)["jit"] == "it is off already"
    assert left(found)["maintenance_work_mem"] == "it is 512MB already, as good as 384MB"
    assert found.restarts


def test_a_value_is_never_lowered_for_a_stage() -> None:
    found = held(
        work_mem=live("work_mem", "65536", "kB"),
        shared_buffers=live("shared_buffers", "1048576", "8kB"),
    )
    assert not values(found).keys() & {"work_mem", "shared_buffers"}


def test_lz4_is_taken_where_the_build_has_it_and_only_there() -> None:
    able = live("wal_compression", "on", enumvals=("pglz", "lz4", "zstd", "on", "off"))
    assert values(held("B", wal_compression=able))["wal_compression"] == "lz4"
    off = live("wal_compression", "off", enumvals=("pglz", "on", "off"))
    one = next(r for r in held("B", wal_compression=off).recommended if r.name == off.name)
    assert one.value == "on"
    assert one.note == "This build has no lz4, but pglz, on, off"
    unknown = next(r for r in plan(SERVER, "B").recommended if r.name == off.name)
    assert "a build without it would not start" in unknown.note


def test_a_better_compression_than_asked_for_stays() -> None:
    best = live("wal_compression", "zstd", enumvals=("pglz", "lz4", "zstd", "on", "off"))
    assert "wal_compression" in left(held("B", wal_compression=best))


def test_what_the_command_line_says_is_left_alone() -> None:
    found = held(shared_buffers=live("shared_buffers", "16384", "8kB", source="command line"))
    assert "it is 128MB by the server's command line" in left(found)["shared_buffers"]


def test_more_than_a_server_takes_is_left_alone() -> None:
    none = live("effective_io_concurrency", "0", max_val="0")
    assert left(held("B", effective_io_concurrency=none))["effective_io_concurrency"] == (
        "this server takes at most 0, not 64"
    )


def test_a_setting_that_is_not_there_is_left_out() -> None:
    settings = server()
    del settings["track_io_timing"]
    found = plan(SERVER, "A", settings=settings)
    assert left(found)["track_io_timing"].startswith("this server has no such setting")


def test_a_login_with_a_value_of_its_own_does_not_hide_the_need() -> None:
    found = held(work_mem=live("work_mem", "65536", "kB", source="user"))
    one = next(r for r in found.recommended if r.name == "work_mem")
    assert "What this login has of its own is shown" in one.note


def test_roles_with_their_own_value_are_named() -> None:
    found = plan(SERVER, "A", settings=server(), of_roles={"work_mem": ["eval_app 32MB"]})
    one = next(r for r in found.recommended if r.name == "work_mem")
    assert one.note == "Not for those with their own: eval_app 32MB"


def test_too_many_connections_for_the_memory_are_warned_of() -> None:
    crowd = live("max_connections", "9000")
    assert any("9000 connections" in text for text in held(max_connections=crowd).warnings)
    assert not held().warnings


def test_a_container_with_little_shared_memory_is_warned_of() -> None:
    machine = replace(SERVER, memory_bytes=128 * GIB, shared_memory_bytes=64 * 1024**2)
    posix = live("dynamic_shared_memory_type", "posix")
    found = held(machine=machine, dynamic_shared_memory_type=posix)
    assert any("--shm-size" in text for text in found.warnings)


# The order of stages


def entry(number: int, title: str, state: State, undone_by: int | None = None) -> Entry:
    said = {"id": number, "title": title, "state": state, "undone_by": undone_by}
    return Entry(**{**{field.name: None for field in fields(Entry)}, **said})  # type: ignore[arg-type]


def test_a_and_b_come_any_time() -> None:
    assert stages.not_before("A", []) is None
    assert stages.not_before("B", []) is None


@pytest.mark.parametrize(("stage", "before"), [("C", "B"), ("D", "C")])
def test_a_later_stage_needs_the_one_before_it_kept(stage: Stage, before: Stage) -> None:
    title = f"tune stage {before}"
    assert "none was made" in (stages.not_before(stage, []) or "")
    assert "change 4 is undone" in (stages.not_before(stage, [entry(4, title, "undone")]) or "")
    taken_back = [entry(4, title, "kept", undone_by=5)]
    assert "was undone by change 5" in (stages.not_before(stage, taken_back) or "")
    assert "none was made" in (stages.not_before(stage, [entry(4, "tune stage A", "kept")]) or "")
    assert stages.not_before(stage, [entry(9, "x", "kept"), entry(4, title, "kept")]) is None


# What people write


@pytest.mark.parametrize("text", ["128GiB", "128GB", "128g", "131072 MB", "0.125TiB"])
def test_amounts_of_memory_are_read_as_people_write_them(text: str) -> None:
    assert gucs.memory(text) == 128 * GIB


@pytest.mark.parametrize(
    "text", ["lots", "0", "0GB", "128", "-4GB", "1e9GB", "17TB", "100MB", "", "4 GB GB"]
)
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--ram is .*from 256MB to 16TB"):
        gucs.memory(text)


@pytest.mark.parametrize("text", ["13", "99", "18beta1", "", "-14", "14.x"])
def test_other_versions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="14 to 18"):
        gucs.version(text)
    assert gucs.version("14.18") == 14


@given(st.integers(1, 2**60))
def test_a_size_is_written_so_that_it_reads_back(amount: int) -> None:
    assert gucs.size(gucs.written(amount)) == amount


# The file

GOOD = """
[setting.work_mem]
context = "user"
unit = "bytes"
better = "more"
[[rule]]
name = "work_mem"
share = "1/64"
floor = "4MB"
reason = "r"
source = "s"
"""


def test_a_good_file_is_read() -> None:
    assert gucs.rules(GOOD).of("work_mem", "staged")[0].says["C"] == Fraction(1, 64)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('reason = "r"', "", "reason is missing"),
        ('source = "s"', 'source = ""', "source is missing"),
        ('context = "user"', 'context = "anybody"', "context is 'anybody'"),
        ('share = "1/64"', 'share = "65/64"', "share is '65/64'"),
        ('share = "1/64"', 'share = "1/0"', "share is '1/0'"),
        ('share = "1/64"', "", "say one of share, value, cores and leave"),
        ('share = "1/64"', 'share = "1/64"\nleave = true', "say one of"),
        ('share = "1/64"', 'value = "much"', "'much' is not in bytes"),
        ('floor = "4MB"', 'floor = "4"', "'4' is not in bytes"),
        ('floor = "4MB"', 'flor = "4MB"', "unknown keys flor"),
        ('share = "1/64"', 'share = { A = "1/64", E = "1/2" }', "share is"),
        ('name = "work_mem"', 'name = "workmem"', "there is no"),
        ('better = "more"', 'better = "ranked"', "ranks go with"),
        ('reason = "r"', 'reason = "r"\nstages = ["Z"]', "stages is"),
        ("[[rule]]", "[[rule", "is not TOML"),
    ],
)
def test_a_fault_in_the_file_is_named(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=re.escape(said)):
        gucs.rules(GOOD.replace(old, new))


def test_a_setting_without_a_rule_is_refused() -> None:
    more = '[setting.jit]\ncontext = "user"\nunit = "word"\nbetter = "same"\n'
    with pytest.raises(ConfigError, match="no rule for jit"):
        gucs.rules(GOOD + more)


# The piece of postgresql.conf


@given(machines, some_stage, some_version)
def test_the_fragment_says_every_value_once_and_else_only_comments(
    machine: Machine, stage: Stage, version: int
) -> None:
    found = plan(machine, stage, version)
    lines = tuning_text.fragment(found).splitlines()
    said = [line for line in lines if line and not line.startswith("#")]
    assert said == [f"{one.name} = '{one.value}'" for one in found.recommended]
    assert lines.count("") == len(said) + 1

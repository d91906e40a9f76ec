"""This machine, and the container that a process runs in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ragline.ops import machine

MIB = 1024**2
GIB = 1024**3
UNLIMITED_V1 = "9223372036854771712"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with /proc and /sys of a machine with 24 GiB, of which 20 are to be had."""
    write(tmp_path, {"proc/meminfo": f"MemTotal: {24 * MIB} kB\nMemAvailable:   {20 * MIB} kB\n"})
    return tmp_path


def write(root: Path, files: Mapping[str, object]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def test_without_limits_it_is_the_machine(root: Path) -> None:
    assert machine.memory_bytes(root) == 24 * GIB
    assert machine.available_bytes(root) == 20 * GIB
    assert machine.cores(root) == len(os.sched_getaffinity(0))


def test_a_container_of_version_2_is_what_it_may_use(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 4 * GIB,
            "sys/fs/cgroup/memory.current": 3 * GIB,
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 3",
            "sys/fs/cgroup/cpu.max": "50000 100000",
        },
    )
    assert machine.memory_bytes(root) == 4 * GIB
    # What is only cached can be had.
    assert machine.available_bytes(root) == 2 * GIB
    assert machine.cores(root) == 1


def test_the_tightest_of_nested_groups_counts(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/pod/one",
            "sys/fs/cgroup/pod/one/memory.max": "max",
            "sys/fs/cgroup/pod/memory.max": 8 * GIB,
            "sys/fs/cgroup/memory.max": 16 * GIB,
        },
    )
    assert machine.memory_bytes(root) == 8 * GIB


def test_a_container_of_version_1_is_what_it_may_use(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 4 * GIB,
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": GIB,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": 100000,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": 100000,
        },
    )
    assert machine.memory_bytes(root) == 4 * GIB
    assert machine.available_bytes(root) == 3 * GIB
    assert machine.cores(root) == 1


def test_a_container_that_sees_its_own_group_as_the_root(root: Path) -> None:
    """The path in /proc is the host's, the tree in /sys is the container's."""
    write(
        root,
        {"proc/self/cgroup": "0::/host/slice/abc", "sys/fs/cgroup/memory.max": 2 * GIB},
    )
    assert machine.memory_bytes(root) == 2 * GIB


@pytest.mark.parametrize("said", ["max 100000", "-1 100000", "", "200000"])
def test_no_quota_is_no_limit_of_cores(root: Path, said: str) -> None:
    write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": said})
    assert machine.cores(root) == len(os.sched_getaffinity(0))


def test_unlimited_groups_leave_the_machine(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu:/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
        },
    )
    assert machine.memory_bytes(root) == 24 * GIB
    assert machine.cores(root) == len(os.sched_getaffinity(0))


def test_a_group_that_is_over_its_limit_has_nothing_left(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": GIB,
            "sys/fs/cgroup/memory.current": 2 * GIB,
        },
    )
    assert machine.available_bytes(root) == 0


# Disks


def disk(root: Path, folder: Path, name: str, rotational: int, *, partition: bool = False) -> None:
    device = folder.stat().st_dev
    place = f"sys/devices/block/{name}"
    write(root, {f"{place}/queue/rotational": rotational})
    if partition:
        write(root, {f"{place}/{name}1/partition": 1})
        place = f"{place}/{name}1"
    link = root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(root / place)


@pytest.mark.parametrize(
    ("name", "rotational", "kind"),
    [
        ("sda", 1, "hdd"),
        ("sda", 0, "ssd"),
        ("nvme0n1", 0, "nvme"),
        ("vda", 0, "ssd"),
        # Virtual disks call themselves rotational whatever is below.
        ("vda", 1, None),
        ("xvda", 1, None),
    ],
)
@pytest.mark.parametrize("partition", [False, True])
def test_the_kind_of_disk(
    root: Path, name: str, rotational: int, kind: str | None, partition: bool
) -> None:
    disk(root, root, name, rotational, partition=partition)
    assert machine.disk_kind(root, root) == kind


def test_a_virtual_disk_on_a_scsi_bus_is_not_believed(root: Path) -> None:
    disk(root, root, "sda", 1)
    write(root, {"sys/devices/block/sda/device/vendor": "QEMU    "})
    assert machine.disk_kind(root, root) is None


def test_a_disk_that_is_nowhere_is_unknown(root: Path) -> None:
    assert machine.disk_kind(root, root) is None
    assert machine.disk_kind(root / "gone", root) is None
    assert machine.free_disk_bytes(root / "gone") is None


# All of it


def test_this_machine_is_planned_for_as_the_container_is(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 4 * GIB})
    disk(root, root, "nvme0n1", 0)
    found = machine.this_machine(root, root=root)
    assert found.memory_bytes == 4 * GIB
    assert found.disk == "nvme"
    assert found.free_disk_bytes
    assert machine.this_machine(root=root).free_disk_bytes is None


def test_the_true_machine_says_something_sane() -> None:
    found = machine.this_machine(Path("/"))
    assert found.system in ("linux", "darwin")
    assert found.cores
    assert 0 < machine.available_bytes() <= found.memory_bytes


def test_memory_of_a_server_is_that_of_all_its_processes_and_of_no_other(root: Path) -> None:
    def process(pid: int, parent: int, name: str, kib: int) -> dict[str, object]:
        return {
            f"proc/{pid}/stat": f"{pid} ({name}: a) b) S {parent} 0 0",
            f"proc/{pid}/comm": name,
            f"proc/{pid}/smaps_rollup": f"Rss: 999999 kB\nPss:      {kib} kB\nPss_Anon: 7 kB\n",
        }

    write(
        root,
        {
            **process(10, 1, "postgres", 100),
            **process(11, 10, "postgres", 20),
            **process(12, 10, "postgres", 3),
            **process(13, 1, "postgres", 5000),
        },
    )
    assert machine.postgres_bytes(11, root) == 123 * 1024
    assert machine.postgres_bytes(99, root) is None, "it is in another container"
    (root / "proc/12/smaps_rollup").unlink()
    assert machine.postgres_bytes(11, root) is None, "a part of a sum is no sum"

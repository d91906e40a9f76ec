"""This machine: memory, cores and disk, the limits of the container we run in included.

`root` is where /proc and /sys are found; tests have a tree of their own there.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.core.stages import Machine

if TYPE_CHECKING:
    from ragline.core.gucs import Disk, System

ROOT = Path("/")
_KIB = 1024
_SAME_START_S = 120
_VIRTUAL = re.compile(r"vd|xvd|nbd")
_VIRTUAL_VENDORS = ("QEMU", "VMware", "Msft", "Google", "VBOX")
_CGROUPS = Path("sys/fs/cgroup")


def this_machine(data_directory: Path | None = None, *, root: Path | None = None) -> Machine:
    """Return what this process may use; of the disk under `data_directory`, where that is here."""
    return Machine(
        memory_bytes=memory_bytes(root),
        cores=cores(root),
        system=system(),
        disk=None if data_directory is None else disk_kind(data_directory, root),
        free_disk_bytes=None if data_directory is None else free_disk_bytes(data_directory),
        shared_memory_bytes=shared_memory_bytes(),
    )


def system() -> System:
    """Return the operating system."""
    systems: dict[str, System] = {"Linux": "linux", "Darwin": "darwin"}
    return systems.get(platform.system(), "other")


def memory_bytes(root: Path | None = None) -> int:
    """Return the memory that this process may use: the machine's, or less in a container."""
    found = _meminfo("MemTotal", root or ROOT)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if found is None else found
    return min([whole, *(limit for limit, _ in _memory_limits(root or ROOT))])


def available_bytes(root: Path | None = None) -> int:
    """Return how much more memory could be taken now, without swapping and within the limits."""
    free = _meminfo("MemAvailable", root or ROOT)
    if free is None:  # not Linux: what is free is not told apart from what is cached
        return memory_bytes(root)
    return max(0, min([free, *(limit - used for limit, used in _memory_limits(root or ROOT))]))


def shared_memory_bytes() -> int | None:
    """Return the size of /dev/shm, which is 64 MB in many containers; None where there is none."""
    try:
        shm = os.statvfs("/dev/shm")  # noqa: S108 - only its size is read
    except OSError:
        return None
    return shm.f_blocks * shm.f_frsize


def postgres_bytes(backend: int, root: Path | None = None) -> int | None:
    """Return the memory that all processes of a server take, what they share counted once.

    `backend` is one of them. None where this system does not say, or not to this user.
    """
    processes = (root or ROOT) / "proc"
    postmaster = _parent(processes / str(backend))
    if "postgres" not in _read(processes / str(backend) / "comm") or postmaster is None:
        return None
    family = [processes / str(postmaster)]
    try:
        found = [one for one in processes.iterdir() if one.name.isdigit()]
    except OSError:
        return None
    family += [one for one in found if _parent(one) == postmaster]
    shares = [(one, _pss(one)) for one in family]
    known = [share for _, share in shares if share is not None]
    # A process may have ended meanwhile; one that is there and does not say makes the sum wrong.
    if not known or any(share is None and one.exists() for one, share in shares):
        return None
    return sum(known)


def _parent(process: Path) -> int | None:
    # The name stands in brackets, and may hold anything.
    words = _read(process / "stat").rpartition(")")[2].split()
    return int(words[1]) if len(words) > 1 else None


def _pss(process: Path) -> int | None:
    found = re.search(r"^Pss:\s+(\d+) kB$", _read(process / "smaps_rollup"), re.MULTILINE)
    return int(found.group(1)) * _KIB if found else None


def cores(root: Path | None = None) -> int:
    """Return how many cores this process may use: those it may run on, or less by a quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [max(1, math.ceil(quota)) for quota in _core_quotas(root or ROOT)]
    return min([count or 1, *quotas])


def disk_kind(folder: Path, root: Path | None = None) -> Disk | None:
    """Return what kind of disk a folder is on; None where the system does not say.

    A virtual disk calls itself rotational whatever is below: only its "no" is believed.
    """
    try:
        device = folder.stat().st_dev
        numbers = f"{os.major(device)}:{os.minor(device)}"
        block = (root or ROOT) / "sys/dev/block" / numbers
        disk = block.resolve(strict=True)
        disk = disk.parent if (disk / "partition").is_file() else disk
        said = (disk / "queue/rotational").read_text().strip()
    except OSError:
        return None
    if disk.name.startswith("nvme"):
        return "nvme"
    if said == "0":
        return "ssd"
    vendor = _read(disk / "device/vendor").strip()
    is_virtual = _VIRTUAL.match(disk.name) or vendor in _VIRTUAL_VENDORS
    return None if is_virtual else "hdd"


def free_disk_bytes(folder: Path) -> int | None:
    """Return what is free on the disk of a folder; None where we may not look."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def is_data_directory(folder: Path, started: datetime) -> bool:
    """Return whether a folder here is the data directory of the server that started then.

    A folder of that name may be another server's. False as well where we may not look into it.
    """
    try:
        lines = (folder / "postmaster.pid").read_text(errors="replace").splitlines()
    except OSError:
        return False
    if len(lines) < 3 or not lines[2].strip().isdigit():
        return False
    return abs(int(lines[2]) - started.timestamp()) <= _SAME_START_S


def free_and_size(folder: Path) -> tuple[int, int] | None:
    """Return what is free on the disk of a folder, and all that is; None where we may not look."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free, usage.total


def _meminfo(name: str, root: Path) -> int | None:
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * _KIB if found else None


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limits of our group and of those above it, each with what is taken of it."""
    for version, folder in _groups("memory", root):
        limit = "memory.limit_in_bytes" if version == 1 else "memory.max"
        usage = "memory.usage_in_bytes" if version == 1 else "memory.current"
        cached = "total_inactive_file" if version == 1 else "inactive_file"
        if (most := _number(folder / limit)) is not None and most > 0:
            taken = (_number(folder / usage) or 0) - _stat(folder / "memory.stat", cached)
            yield most, max(0, taken)


def _core_quotas(root: Path) -> Iterator[float]:
    for version, folder in _groups("cpu", root):
        if version == 1:
            quota = _number(folder / "cpu.cfs_quota_us")
            period = _number(folder / "cpu.cfs_period_us")
        else:
            words = [*_read(folder / "cpu.max").split(), "", ""]
            quota, period = (_whole(word) for word in words[:2])
        if quota is not None and quota > 0 and period:
            yield quota / period


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield the folders of our control group and of all above it, with the version they are of."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / _CGROUPS / controllers if controllers else root / _CGROUPS
        here = base / group.lstrip("/")
        for folder in (here, *here.parents):
            if folder.is_relative_to(base):
                yield (1 if controllers else 2), folder


def _stat(file: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", _read(file), re.MULTILINE)
    return int(found.group(1)) if found else 0


def _number(file: Path) -> int | None:
    return _whole(_read(file).strip())


def _whole(text: str) -> int | None:
    """Return a number; None for "max" and for -1, which say that there is no limit."""
    return int(text) if text.isdigit() else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""

"""Whether the embedded server could start with other settings, found out without stopping it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.ops import autoconf, machine
from ragline.ops.embedded import lifecycle, places
from ragline.ops.embedded import owner as owners
from ragline.ops.embedded.places import MAJOR, Home

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragline.ops.embedded.owner import Owner

_MIB = 1024 * 1024
_MEMINFO = Path("/proc/meminfo")
_CONTROL_BYTES = 8192
_MARK = re.compile(r"^.*?(FATAL|ERROR|PANIC): +")


def why_not(data_dir: Path, settings: Mapping[str, str]) -> str | None:
    """Return why the server could not start with these settings; None where it could.

    The server's own program reads all of its configuration with them on top, loads the libraries and
    says how much memory it would share; it opens nothing and takes 5 ms. The data directory that it is
    shown holds two small files.
    """
    home = places.home_of(data_dir)
    owner = owners.require()
    program = lifecycle.binaries(data_dir) / "bin" / "postgres"
    with places.locked(home), _scratch(home, owner) as folder:
        command = [
            str(program),
            "-D",
            str(folder),
            "-c",
            f"config_file={home.pgdata}/postgresql.conf",
        ]
        needed, said = _asked(owner, command, "shared_memory_size", settings)
        if needed is None:
            return said
        now, _ = _asked(owner, command, "shared_memory_size", {})
        pages, _ = _asked(owner, command, "shared_memory_size_in_huge_pages", settings)
        must_be_huge = _said(owner, command, "huge_pages", settings) == "on"
    if must_be_huge and (reason := _no_huge_pages(pages)):
        return reason
    # What the running server shares is free again when the next one starts.
    room = machine.available_bytes() + (now or 0) * _MIB
    if needed * _MIB > room:
        return (
            f"it would share {needed} MB of memory, and {room // _MIB} MB are available on this "
            "machine: choose smaller values"
        )
    return None


@contextmanager
def _scratch(home: Home, owner: Owner) -> Iterator[Path]:
    """Yield a folder that passes for the data directory when settings are only looked at."""
    for left in home.clusters.glob(".preflight.*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = home.clusters / f".preflight.{secrets.token_hex(6)}"
    try:
        for made in (folder, folder / "global"):
            made.mkdir(mode=0o700)
        (folder / "PG_VERSION").write_text(f"{MAJOR}\n")
        for name in ("global/pg_control", autoconf.NAME):
            (folder / name).write_bytes(_own_bytes(home, name))
        if owner.by_root:
            # Its own only now: in a folder of his he could have led us elsewhere.
            for made in (*folder.rglob("*"), folder):
                os.chown(made, owner.uid, owner.gid, follow_symlinks=False)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _asked(
    owner: Owner, command: list[str], name: str, settings: Mapping[str, str]
) -> tuple[int | None, str]:
    """Return a number of the server's, or None and what it said instead."""
    said = _said(owner, command, name, settings)
    lines = said.split("\n")
    if lines[-1].lstrip("-").isdigit():
        return int(lines[-1]), ""
    found = next((line for line in lines if _MARK.match(line)), lines[-1])
    return None, f"it would not start: {_MARK.sub('', found)}"


def _said(owner: Owner, command: list[str], name: str, settings: Mapping[str, str]) -> str:
    chosen = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return owners.run(owner, [*command, *chosen, "-C", name]).stdout.strip()


def _no_huge_pages(needed: int | None) -> str | None:
    there = _huge_pages()
    if needed is None or needed < 0 or there is None or needed <= there:
        return None
    return (
        f"huge_pages = on needs {needed} huge pages, and this machine has {there}: set "
        f"vm.nr_hugepages to {needed} or more first, or use huge_pages = try"
    )


def _huge_pages() -> int | None:
    try:
        found = re.search(r"^HugePages_Total:\s+(\d+)$", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _own_bytes(home: Home, name: str) -> bytes:
    """Return the begin of a file of the cluster; its owner is not us, so no link is followed."""
    try:
        handle = os.open(home.pgdata / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read() if name == autoconf.NAME else file.read(_CONTROL_BYTES)

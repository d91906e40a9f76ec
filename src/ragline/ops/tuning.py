"""What `ragline tune` rests on: the rules that come with ragline, and the server as it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import asyncpg

from ragline.core import gucs
from ragline.core.dsn import Dsn, Host
from ragline.core.gucs import Rules, System
from ragline.core.stages import Live
from ragline.db import pool, queries

_ALSO = ("data_directory", "max_connections", "dynamic_shared_memory_type")
"""No rule is about them, but warnings are, and where the disk is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A running server. `data_directory` is None where this login may not know it.

    `of_roles` are the values that roles have of their own, by setting: ("eval_app 32MB",).
    """

    version: int
    system: System
    is_here: bool
    data_directory: Path | None
    settings: Mapping[str, Live]
    of_roles: Mapping[str, Sequence[str]]


def rules() -> Rules:
    """Return the rules that come with ragline."""
    file = resources.files("ragline.core").joinpath("gucs.toml")
    return gucs.rules(file.read_text(encoding="utf-8"))


async def server(dsn: Dsn, rules: Rules) -> Seen:
    """Ask a server for everything that the rules are about, and change nothing."""
    names = [*rules.settings, *_ALSO]
    async with pool.session(dsn, "admin") as connection:
        said = await connection.fetchrow(queries.block("tuning", "server"))
        rows = await connection.fetch(queries.block("tuning", "settings"), names)
        own = await connection.fetch(queries.block("tuning", "own_settings"))
    if said is None:
        raise AssertionError("a select without from has a row")
    of_roles: dict[str, list[str]] = {}
    for row in own:
        of_roles.setdefault(row["name"], []).append(f"{row['role']} {row['value']}")
    settings = {row["name"]: _live(row) for row in rows}
    folder = settings.get("data_directory")
    return Seen(
        version=said["version_num"] // 10000,
        system=_system(said["said"]),
        is_here=is_here(dsn),
        data_directory=None if folder is None else Path(folder.setting),
        settings=settings,
        of_roles=of_roles,
    )


def _live(row: asyncpg.Record) -> Live:
    words, most = row["enumvals"], row["max_val"]
    return Live(
        name=str(row["name"]),
        setting=str(row["setting"]),
        unit=None if row["unit"] is None else str(row["unit"]),
        context=str(row["context"]),
        vartype=str(row["vartype"]),
        source=str(row["source"]),
        enumvals=tuple(map(str, words)) if isinstance(words, list) else None,
        max_val=None if most is None else str(most),
        is_pending=bool(row["pending_restart"]),
    )


def _system(said: str) -> System:
    """Return the system that a server was built for, as `version()` says it: "… on x86_64-linux-gnu"."""
    platform = said.partition(" on ")[2].partition(",")[0]
    if "linux" in platform:
        return "linux"
    return "darwin" if "darwin" in platform else "other"


def is_here(dsn: Dsn) -> bool:
    """Return whether a server seems to be on this machine; a forwarded port looks so as well."""
    return all(_is_here(host) for host in dsn.hosts)


def _is_here(host: Host) -> bool:
    if host.is_socket or host.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.address or host.host).is_loopback
    except ValueError:
        return False

"""Findings put together, and figures said for people."""

from __future__ import annotations

from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Server, Unknown
from ragline.core.sql_names import identifier

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def passed(id_: str, evidence: str) -> Finding:
    """Return that all is well."""
    return Finding(id=id_, status="pass", evidence=evidence)


def warned(id_: str, evidence: str, *, fix: str, subject: str | None = None) -> Finding:
    """Return what should be looked at."""
    return Finding(id=id_, status="warn", evidence=evidence, subject=subject, fix=fix)


def failed(id_: str, evidence: str, *, fix: str, subject: str | None = None) -> Finding:
    """Return what is broken."""
    return Finding(id=id_, status="fail", evidence=evidence, subject=subject, fix=fix)


def unknown(id_: str, why: Unknown | str) -> Finding:
    """Return that it could not be looked at, and why."""
    if isinstance(why, str):
        return Finding(id=id_, status="unknown", evidence=why)
    return Finding(id=id_, status="unknown", evidence=why.reason, fix=why.fix)


def hidden(id_: str, what: str, server: Server) -> Finding:
    """Return that this user is not shown enough."""
    fix = f"`grant pg_read_all_stats to {identifier(server.user_name)}` as a superuser"
    return unknown(id_, Unknown(reason=what, fix=fix))


def size(count: int) -> str:
    """Return bytes for people: "1.5 GiB"."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def span(seconds: float) -> str:
    """Return a length of time for people: "3.2 h"."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h" if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.1f} days"


def many(count: int, what: str) -> str:
    """Return a number of things: "1 file", "2 files"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def some(names: list[str], most: int = 5) -> str:
    """Return some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")

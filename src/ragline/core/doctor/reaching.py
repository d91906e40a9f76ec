"""Whether the server lets us in, and what it means when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Facts, Unknown
from ragline.core.doctor.words import failed, passed, unknown, warned

_BY_STATE = {
    "28P01": "login.accepted",
    "28000": "login.accepted",
    "3D000": "database.exists",
    "42501": "database.exists",
    "55000": "database.exists",
    "53300": "connection.free",
}
"""PostgreSQL's codes for what it refuses; all others say that it cannot be used at all."""
_ABOUT_TLS = ("ssl", "tls", "certificate")
_FIXES = {
    "server.reachable": "start the server, or correct the address: `ragline dsn show` says where "
    "each part of it comes from",
    "login.accepted": "correct the user or the password where `ragline dsn show` says it comes from",
    "database.exists": "correct the database's name, or make it: `ragline dsn show` says where the "
    "name comes from",
    "connection.free": "end programs that hold connections they do not need (`select pid, usename, "
    "application_name, state from pg_stat_activity`), or raise max_connections and restart the server",
    "connection.tls": "switch TLS on at the server, or choose another sslmode: `ragline dsn show` "
    "says where it comes from",
}
_ALMOST_ALL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A connection that was not made: the sentence to show, PostgreSQL's code, the driver's words."""

    sentence: str
    sqlstate: str | None
    said: str


def refused(refusal: Refusal) -> Finding:
    """Return the one check that failed; all others cannot be made."""
    id_ = _BY_STATE.get(refusal.sqlstate or "", "server.reachable")
    said = refusal.said.lower()
    if refusal.sqlstate is None and any(word in said for word in _ABOUT_TLS):
        id_ = "connection.tls"
    return failed(id_, refusal.sentence, fix=_FIXES[id_])


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield how the connection is."""
    server = facts.server
    yield passed(
        "server.reachable",
        f"PostgreSQL {server.version} answered in {facts.answered_ms:.0f} ms at {facts.where}",
    )
    yield passed("login.accepted", f"as user {server.user_name}")
    yield passed("database.exists", f"{server.database}")
    yield _free(facts)
    yield _tls(facts)


def _free(facts: Facts) -> Finding:
    id_ = "connection.free"
    most, sessions = facts.number("max_connections"), facts.sessions
    if isinstance(sessions, Unknown):
        return unknown(id_, sessions)
    if most is None:
        return unknown(id_, "the server does not say max_connections")
    reserved = facts.reserved_connections
    used, usable = sessions.connections + 1, most - reserved
    said = f"{used} of {usable} connections are used (max_connections {most}, {reserved} reserved)"
    if used >= _ALMOST_ALL * usable:
        return warned(id_, said, fix=_FIXES[id_])
    return passed(id_, said)


def _tls(facts: Facts) -> Finding:
    id_ = "connection.tls"
    if facts.server.uses_tls:
        return passed(id_, "this connection is encrypted")
    if facts.is_local:
        return passed(id_, "this connection stays on this machine")
    return warned(
        id_,
        "this connection goes to another machine, and is not encrypted",
        fix="switch `ssl` on at the server, and say sslmode=verify-full in DATABASE_URL",
    )

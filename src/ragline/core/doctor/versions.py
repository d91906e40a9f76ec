"""Versions against what is known of them, and extensions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ragline.core.advisories import Advisories, numbers
from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Extension, Facts, Unknown
from ragline.core.doctor.words import failed, passed, unknown, warned

OLDEST = 14
_SOON = timedelta(days=90)
_HOW_TO_GET_VECTOR = (
    "install pgvector on the server's machine: `apt install postgresql-{major}-pgvector` (Debian and "
    "Ubuntu, from apt.postgresql.org), `dnf install pgvector_{major}` (Red Hat, from "
    "yum.postgresql.org), `brew install pgvector` (macOS), the image pgvector/pgvector:pg{major} "
    "(Docker); managed servers have it in a newer version. Then `ragline migrate apply`"
)


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield how versions and extensions are."""
    yield _server(facts)
    if isinstance(facts.extensions, Unknown):
        for name in ("vector", "pg_stat_statements", "pg_buffercache", "hypopg"):
            yield unknown(f"extension.{name}", facts.extensions)
        yield unknown("pgvector.version", facts.extensions)
        return
    found = facts.extensions
    yield from _pgvector(facts.advisories, found.get("vector"))
    yield _vector(facts, found.get("vector"))
    yield _statements(facts, found.get("pg_stat_statements"))
    yield _informal(
        "extension.pg_buffercache",
        found.get("pg_buffercache"),
        "the share of an index in the cache",
    )
    yield _informal("extension.hypopg", found.get("hypopg"), "trying an index without building it")


def _server(facts: Facts) -> Finding:
    id_, server, known = "server.version", facts.server, facts.advisories
    if server.major < OLDEST:
        return failed(
            id_,
            f"PostgreSQL {server.version} is older than {OLDEST}, the oldest that ragline works with",
            fix="move the database to a newer PostgreSQL with pg_upgrade",
        )
    major = known.postgresql.get(server.major)
    if major is None:
        return unknown(
            id_,
            f"PostgreSQL {server.version} is newer than what this ragline knew on {known.as_of}",
        )
    faults = known.of_server(server.version)
    is_old = numbers(server.version) < numbers(major.newest)
    said = [f"PostgreSQL {server.version}"]
    if is_old:
        said.append(f"older than {major.newest}, the newest known on {known.as_of}")
    said += [f"{fault.id}: {fault.what}" for fault in faults]
    if facts.today >= major.end_of_life:
        said.append(f"version {server.major} gets no fixes since {major.end_of_life}")
        return warned(
            id_,
            "; ".join(said),
            fix=f"install {major.newest} first where it is older; then move to a newer major version "
            "with pg_upgrade",
        )
    if is_old:
        return warned(
            id_,
            "; ".join(said),
            fix=f"install PostgreSQL {major.newest} or a newer {server.major} on the server's machine "
            "and restart it: a minor version needs no dump",
        )
    if facts.today >= major.end_of_life - _SOON:
        said.append(f"version {server.major} gets fixes until {major.end_of_life} only")
    else:
        said.append(f"no fault known on {known.as_of}, fixes until {major.end_of_life}")
    return passed(id_, "; ".join(said))


def _pgvector(known: Advisories, vector: Extension | None) -> Iterator[Finding]:
    id_ = "pgvector.version"
    if vector is None or vector.installed is None:
        yield unknown(id_, "pgvector is not installed in this database")
        return
    faults = known.of_pgvector(vector.installed)
    if not faults:
        yield passed(id_, f"pgvector {vector.installed}; no fault known on {known.as_of}")
        return
    yield Finding(
        id=id_,
        status=faults[0].status,
        evidence="; ".join([f"pgvector {vector.installed}", *(fault.told for fault in faults)]),
        fix=_newer(known, vector),
    )


def _newer(known: Advisories, vector: Extension) -> str:
    """Say how to get a pgvector without known faults: its files may be there already."""
    update = "`alter extension vector update` in this database, as its owner"
    if not known.of_pgvector(vector.available):
        return f"{update}: the server has the files of {vector.available}"
    return f"install pgvector {known.pgvector_newest} on the server's machine, then {update}"


def _vector(facts: Facts, vector: Extension | None) -> Finding:
    id_ = "extension.vector"
    if vector is None:
        return failed(
            id_,
            "this server does not have the files of pgvector",
            fix=_HOW_TO_GET_VECTOR.format(major=facts.server.major),
        )
    if vector.installed is None:
        return failed(
            id_,
            f"pgvector {vector.available} is on this server, and not installed in "
            f"{facts.server.database}",
            fix="`ragline migrate apply` (or `create extension vector`), as a user who may",
        )
    if vector.installed != vector.available:
        return warned(
            id_,
            f"{vector.installed} is installed, and the server has the files of {vector.available}",
            fix="`alter extension vector update` in this database, as its owner",
        )
    return passed(id_, f"{vector.installed} is installed")


def _statements(facts: Facts, statements: Extension | None) -> Finding:
    id_, name = "extension.pg_stat_statements", "pg_stat_statements"
    if statements is None:
        return warned(
            id_,
            f"this server does not have the files of {name}, so advice on indexes has no evidence",
            fix="install PostgreSQL's contrib modules on the server's machine "
            "(`apt install postgresql-contrib`, `dnf install postgresql-contrib`)",
        )
    # Its settings are there once the library is loaded; the list of libraries is for few to see.
    is_loaded = f"{name}.max" in facts.settings
    if not is_loaded:
        return warned(
            id_,
            f"{name} is not preloaded, so nothing counts statements and advice on indexes has no "
            "evidence",
            fix=f"add {name} to shared_preload_libraries (`show shared_preload_libraries` says what is "
            "there) and restart the server"
            + ("" if statements.installed else f"; then `create extension {name}`"),
        )
    if statements.installed is None:
        return warned(
            id_,
            f"{name} is preloaded, and not installed in {facts.server.database}",
            fix=f"`create extension {name}` in this database, as a superuser",
        )
    return passed(id_, f"{statements.installed} is installed and preloaded")


def _informal(id_: str, extension: Extension | None, use: str) -> Finding:
    if extension is None:
        return passed(id_, f"not on this server; it would allow {use}")
    if extension.installed is None:
        return passed(id_, f"{extension.available} can be installed; it allows {use}")
    return passed(id_, f"{extension.installed} is installed")

"""What the server tracks, its vacuum, and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Age, Facts, FileFault, Unknown
from ragline.core.doctor.words import failed, hidden, many, passed, some, span, unknown, warned

_STATEMENTS = "pg_stat_statements.track"
_QUERY_SIZE = 4096
"""A statement with a vector in its text is longer; one with parameters is not."""
_LIMIT = 2**31
_AT_RISK = 0.4
_LATE = 2.0
"""Autovacuum begins at its limit: twice as old means that it does not get through."""
_LONG_S = 3600.0
_FORGOTTEN_S = 3600.0
_MANY_DEAD = 10_000
_ABOVE_FILES = ("command line", "override")
_OLD_XMIN = 10_000_000


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield how the server keeps itself."""
    yield from _tracking(facts)
    yield from _wraparound(facts)
    yield from _held_back(facts)
    yield from _disabled(facts)
    yield from _pending(facts)
    yield from _files(facts)


def how_to_set(facts: Facts, name: str, value: str) -> str:
    """Return the command that sets one of the server's settings."""
    if facts.server.has_schema and facts.server.may_use_schema and not facts.server.is_replica:
        return f"`ragline change plan setting {name}={value}`"
    return f"`alter system set {name} = '{value}'`, then `select pg_reload_conf()`"


def noted(facts: Facts, id_: str, name: str, consequence: str) -> Finding:
    """Return what a switch of the server is, for information, and what it means where it is off."""
    found = facts.settings.get(name)
    if found is None:
        return unknown(id_, f"the server does not say {name}")
    note = "" if found.setting == "on" else f": {consequence}"
    return passed(id_, f"{name} = {found.setting}{note}")


def _tracking(facts: Facts) -> Iterator[Finding]:
    yield _switch(facts, "track_activities", "nobody sees what sessions do")
    yield _switch(facts, "track_counts", "autovacuum does not run, and no statistics are kept")
    yield _query_size(facts)
    yield _query_id(facts)
    reads = "what part of a statement's time are reads is not known"
    yield noted(facts, "tracking.track_io_timing", "track_io_timing", reads)
    yield _statements(facts)


def _switch(facts: Facts, name: str, consequence: str) -> Finding:
    id_, found = f"tracking.{name}", facts.settings.get(name)
    if found is None:
        return unknown(id_, f"the server does not say {name}")
    if found.setting == "on":
        return passed(id_, f"{name} = on")
    return warned(id_, f"{name} = off: {consequence}", fix=how_to_set(facts, name, "on"))


def _query_size(facts: Facts) -> Finding:
    id_, name = "tracking.track_activity_query_size", "track_activity_query_size"
    bytes_ = facts.number(name)
    if bytes_ is None:
        return unknown(id_, f"the server does not say {name}")
    if bytes_ < 1024:
        return warned(
            id_,
            f"{name} = {bytes_}: statements are cut in pg_stat_activity",
            fix=how_to_set(facts, name, str(_QUERY_SIZE)) + "; it takes a restart",
        )
    return passed(id_, f"{name} = {bytes_} bytes")


def _query_id(facts: Facts) -> Finding:
    id_, name = "tracking.compute_query_id", "compute_query_id"
    found = facts.settings.get(name)
    if found is None:
        return unknown(id_, f"the server does not say {name}")
    if found.setting == "off" and _STATEMENTS in facts.settings:
        return warned(
            id_,
            f"{name} = off: pg_stat_statements counts nothing",
            fix=how_to_set(facts, name, "auto"),
        )
    return passed(id_, f"{name} = {found.setting}")


def _statements(facts: Facts) -> Finding:
    id_ = f"tracking.{_STATEMENTS}"
    found = facts.settings.get(_STATEMENTS)
    if found is None:
        return unknown(id_, "pg_stat_statements is not preloaded: see extension.pg_stat_statements")
    if found.setting == "none":
        return warned(
            id_,
            f"{_STATEMENTS} = none: no statement is counted",
            fix=how_to_set(facts, _STATEMENTS, "top"),
        )
    return passed(id_, f"{_STATEMENTS} = {found.setting}")


def _wraparound(facts: Facts) -> Iterator[Finding]:
    kinds: tuple[tuple[Literal["xid", "multixact"], str, str], ...] = (
        ("xid", "autovacuum_freeze_max_age", "transaction numbers"),
        ("multixact", "autovacuum_multixact_freeze_max_age", "numbers of shared row locks"),
    )
    for kind, name, what in kinds:
        if isinstance(facts.ages, Unknown):
            yield unknown(f"wraparound.{kind}", facts.ages)
        else:
            limit = facts.number(name)
            worst = max(facts.ages, key=lambda age: _age(age, kind), default=None)
            if worst is None or limit is None:
                yield unknown(f"wraparound.{kind}", f"the server does not say {name}")
            else:
                yield _age_of(kind, worst, limit, what)


def _age(age: Age, kind: Literal["xid", "multixact"]) -> int:
    return age.xid if kind == "xid" else age.multixact


def _age_of(kind: Literal["xid", "multixact"], worst: Age, limit: int, what: str) -> Finding:
    id_, age = f"wraparound.{kind}", _age(worst, kind)
    said = (
        f"oldest {what} of database {worst.database}: {age:,} back, {age / _LIMIT:.1%} of what there "
        f"are (autovacuum begins at {limit:,})"
    )
    fix = (
        f"find what holds it back (vacuum.held_back), then `vacuum (freeze, verbose)` in database "
        f"{worst.database}, as its owner"
    )
    if age >= _AT_RISK * _LIMIT and age > limit:
        return failed(id_, said, subject=worst.database, fix=fix)
    if age >= _LATE * limit:
        return warned(id_, said, subject=worst.database, fix=fix)
    return passed(id_, said)


def _held_back(facts: Facts) -> Iterator[Finding]:
    id_ = "vacuum.held_back"
    found = [*_old_prepared(facts), *_old_session(facts), *_old_slots(facts)]
    yield from found
    for part in (facts.sessions, facts.prepared, facts.slots):
        if isinstance(part, Unknown):
            yield unknown(id_, part)
            return
    if isinstance(facts.sessions, Unknown) or found:
        return
    if facts.sessions.hidden:
        said = f"{facts.sessions.hidden} sessions of other users are hidden from this user"
        yield hidden(id_, said, facts.server)
        return
    oldest = facts.sessions.oldest_s
    said = "no other" if oldest is None else f"the oldest other is open for {span(oldest)}"
    yield passed(id_, f"transactions: {said}; none prepared and forgotten; no slot holds rows")


def _old_prepared(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.prepared, Unknown):
        return
    for one in facts.prepared:
        if one.seconds >= _FORGOTTEN_S:
            name = one.name.replace("'", "''")
            yield warned(
                "vacuum.held_back",
                f"transaction {one.name!r} of {one.owner} was prepared {span(one.seconds)} ago in "
                f"{one.database}, and nobody ended it: dead rows and locks stay until then",
                subject=one.name,
                fix=f"`commit prepared '{name}'` or `rollback prepared '{name}'` in {one.database}",
            )


def _old_session(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.sessions, Unknown):
        return
    oldest = facts.sessions.oldest_s
    if oldest is not None and oldest >= _LONG_S:
        who = facts.sessions.oldest_who or "a session"
        yield warned(
            "vacuum.held_back",
            f"{who} is in a transaction for {span(oldest)}: no row that died since is removed",
            subject=who,
            fix="end it in its program, or `select pg_terminate_backend(PID)`",
        )


def _old_slots(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.slots, Unknown):
        return
    for slot in facts.slots:
        if slot.xmin_age is not None and slot.xmin_age >= _OLD_XMIN:
            yield warned(
                "vacuum.held_back",
                f"replication slot {slot.name} holds rows that died {slot.xmin_age:,} transactions ago",
                subject=slot.name,
                fix=f"bring its replica back, or `select pg_drop_replication_slot('{slot.name}')`",
            )


def _disabled(facts: Facts) -> Iterator[Finding]:
    id_ = "vacuum.disabled"
    autovacuum = facts.settings.get("autovacuum")
    if autovacuum is not None and autovacuum.setting == "off":
        yield failed(
            id_,
            "autovacuum = off for the whole server: dead rows stay, and indexes find fewer rows",
            fix=how_to_set(facts, "autovacuum", "on"),
        )
        return
    if isinstance(facts.neglected, Unknown):
        yield unknown(id_, facts.neglected)
        return
    bad = [one for one in facts.neglected if one.dead >= max(_MANY_DEAD, one.live // 5)]
    for one in bad:
        yield warned(
            id_,
            f"{one.table} has {one.dead:,} dead rows beside {one.live:,} live ones, and autovacuum "
            "is off for it",
            subject=one.table,
            fix=f"`alter table {one.table} reset (autovacuum_enabled)`, then `vacuum {one.table}`",
        )
    if not bad:
        few = f"; {many(len(facts.neglected), 'table')} with few dead rows and autovacuum off"
        yield passed(id_, f"autovacuum is on{few if facts.neglected else ''}")


def _pending(facts: Facts) -> Iterator[Finding]:
    id_ = "settings.pending_restart"
    waiting = sorted(one.name for one in facts.settings.values() if one.is_pending)
    if waiting:
        yield warned(
            id_,
            f"{len(waiting)} wait for a restart: {some(waiting)}",
            fix="restart the server when it suits (`ragline change resume` settles a change of "
            "ragline's that waits for it); `ragline snapshot take` keeps what is now",
        )
    else:
        yield passed(id_, "none")


def _files(facts: Facts) -> Iterator[Finding]:
    id_, faults = "settings.files", facts.file_faults
    if isinstance(faults, Unknown):
        yield unknown(id_, faults)
        return
    found = [one for fault in faults if (one := _line(facts, fault)) is not None]
    yield from found or [passed(id_, "every line can be read")]


def _line(facts: Facts, fault: FileFault) -> Finding | None:
    id_ = "settings.files"
    setting = facts.settings.get((fault.name or "").lower())
    about = fault.place if fault.name is None else f"{fault.place} ({fault.name})"
    if not fault.is_unread and setting is not None and setting.context == "postmaster":
        if setting.is_pending or setting.source in _ABOVE_FILES:
            return None  # settings.pending_restart tells it, or the file has no say
        return warned(
            id_,
            f"{about} was not read yet, or its value is wrong and the server would not start with it",
            subject=fault.place,
            fix="call pg_reload_conf(); where this stays, correct the line before any restart",
        )
    return failed(
        id_,
        f"{about}: {fault.error}",
        subject=fault.place,
        fix=f"correct {fault.place}, then call pg_reload_conf(): until then the server takes nothing "
        "new from its files, and may not start again",
    )

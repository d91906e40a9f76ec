"""Replication, connections, disk and WAL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragline.core.budget import ROLES, connection_budget
from ragline.core.checkup import Finding
from ragline.core.doctor.facts import Disk, Facts, Role, Sessions, Slot, Standby, Unknown
from ragline.core.doctor.upkeep import how_to_set, noted
from ragline.core.doctor.words import failed, hidden, many, passed, size, span, unknown, warned

_GIB = 1024**3
_KEPT_BYTES = 4 * _GIB
_BEHIND_BYTES = _GIB
_BEHIND_S = 300.0
_IDLE_S = 300.0
_LITTLE = 0.1
_TOO_LITTLE = 0.02
_TOO_LITTLE_BYTES = _GIB // 2
_MIB = 1024**2


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield how much room there is."""
    yield from _slots(facts)
    yield from _lag(facts)
    yield _budget(facts)
    yield _idle(facts)
    yield _disk(facts)
    unnoticed = "a damaged page is not noticed when it is read"
    yield noted(facts, "disk.checksums", "data_checksums", unnoticed)
    yield _wal(facts)
    yield _archiving(facts)


def _slots(facts: Facts) -> Iterator[Finding]:
    id_ = "replication.slots"
    if isinstance(facts.slots, Unknown):
        yield unknown(id_, facts.slots)
        return
    found = [one for slot in facts.slots if (one := _slot(facts, slot)) is not None]
    yield from found
    if not found:
        count = len(facts.slots)
        yield passed(id_, "none" if not count else f"{count}, none keeps more WAL than it should")


def _slot(facts: Facts, slot: Slot) -> Finding | None:
    id_, kept = "replication.slots", slot.kept_bytes or 0
    said = f"{slot.kind} slot {slot.name} is {'' if slot.is_active else 'not '}in use"
    drop = f"`select pg_drop_replication_slot('{slot.name}')`"
    if slot.wal_status == "lost":
        return failed(
            id_,
            f"{said}, and the WAL it needs is gone: its replica cannot follow any more",
            subject=slot.name,
            fix=f"{drop}, and make the replica anew",
        )
    # What the server may keep anyway is no burden.
    limit = max(_KEPT_BYTES, 2 * _MIB * (facts.number("max_wal_size") or 0))
    if slot.wal_status == "unreserved" or kept > limit:
        return warned(
            id_,
            f"{said}, and keeps {size(kept)} of WAL",
            subject=slot.name,
            fix=f"bring its replica back, or {drop}; "
            f"{how_to_set(facts, 'max_slot_wal_keep_size', '10GB')} limits what slots may keep",
        )
    return None


def _lag(facts: Facts) -> Iterator[Finding]:
    id_ = "replication.lag"
    if facts.server.is_replica:
        yield _as_replica(facts)
    if isinstance(facts.standbys, Unknown):
        yield unknown(id_, facts.standbys)
        return
    behind = [one for one in facts.standbys if _is_behind(one)]
    unseen = [one for one in facts.standbys if one.state is None]
    for one in behind:
        yield warned(
            id_,
            f"replica {one.name} ({one.state}) is {size(one.behind_bytes or 0)} behind"
            + ("" if one.lag_s is None else f", {span(one.lag_s)}"),
            subject=one.name,
            fix="look at its log, its network and its disk; long queries there hold it up "
            "(max_standby_streaming_delay)",
        )
    if unseen:
        said = f"{len(unseen)} replicas follow, and this user may not see how closely"
        yield hidden(id_, said, facts.server)
    elif not behind and not facts.server.is_replica:
        count = len(facts.standbys)
        yield passed(
            id_, "no replica follows this server" if not count else f"{count} follow closely"
        )


def _is_behind(standby: Standby) -> bool:
    return (standby.behind_bytes or 0) > _BEHIND_BYTES or (standby.lag_s or 0) > _BEHIND_S


def _as_replica(facts: Facts) -> Finding:
    id_, replica = "replication.lag", facts.replica
    if isinstance(replica, Unknown):
        return unknown(id_, replica)
    waiting = size(replica.to_replay_bytes or 0)
    if replica.is_paused:
        return warned(
            id_,
            "this server is a replica, and replay is paused: it shows old rows",
            fix="`select pg_wal_replay_resume()` as a superuser",
        )
    said = f"this server is a replica with {waiting} to replay"
    if replica.behind_s is not None:
        said += f"; the last transaction that came is {span(replica.behind_s)} old"
    if not replica.has_receiver:
        return warned(
            id_,
            f"{said}; nothing streams to it (from an archive it may still follow)",
            fix="see in its log why it does not reach its primary (primary_conninfo)",
        )
    if (replica.to_replay_bytes or 0) > _BEHIND_BYTES:
        return warned(
            id_,
            said,
            fix="look at its disk; long queries hold replay up (max_standby_streaming_delay)",
        )
    return passed(id_, said)


def _budget(facts: Facts) -> Finding:
    id_ = "pool.budget"
    most = facts.number("max_connections")
    if isinstance(facts.roles, Unknown):
        return unknown(id_, facts.roles)
    if most is None:
        return unknown(id_, "the server does not say max_connections")
    budget = connection_budget(most, facts.reserved_connections)
    ours = [role for role in facts.roles if role.name in ROLES.values()]
    return _shared(facts, ours, budget, most)


def _shared(facts: Facts, ours: Sequence[Role], budget: int, most: int) -> Finding:
    id_ = "pool.budget"
    if not ours:
        if budget < len(ROLES):
            return failed(
                id_,
                f"max_connections = {most} leaves ragline {max(0, budget)} connections",
                fix=how_to_set(facts, "max_connections", "100") + "; it takes a restart",
            )
        return passed(id_, f"{budget} of max_connections = {most} for all workloads together")
    unlimited = [role.name for role in ours if role.connection_limit < 0]
    if unlimited:
        return warned(
            id_,
            f"no connection limit: {', '.join(unlimited)}; one workload could take all {most}",
            fix="`ragline migrate apply` sets the limits of all workloads",
        )
    total = sum(role.connection_limit for role in ours)
    said = f"{total} for {len(ours)} workloads, of {budget} (max_connections = {most})"
    if total > budget:
        return warned(
            id_,
            f"{said}: more than there are",
            fix="`ragline migrate apply` shares them out anew, or raise max_connections",
        )
    return passed(id_, said)


def _idle(facts: Facts) -> Finding:
    id_, sessions = "pool.idle_in_transaction", facts.sessions
    if isinstance(sessions, Unknown):
        return unknown(id_, sessions)
    longest = sessions.idle_longest_s
    if longest is not None and longest >= _IDLE_S:
        return _sleeping(facts, sessions, longest)
    if sessions.hidden:
        said = f"{sessions.hidden} sessions of other users are hidden from this user"
        return hidden(id_, said, facts.server)
    return passed(id_, "none" if longest is None else f"the longest for {span(longest)}")


def _sleeping(facts: Facts, sessions: Sessions, longest: float) -> Finding:
    limit = how_to_set(facts, "idle_in_transaction_session_timeout", "5min")
    return warned(
        "pool.idle_in_transaction",
        f"{sessions.idle_who or 'a session'} sleeps in a transaction for {span(longest)}, and keeps "
        "its locks and dead rows",
        subject=sessions.idle_who,
        fix=f"end it in its program, or `select pg_terminate_backend(PID)`; {limit} ends such sessions",
    )


def _disk(facts: Facts) -> Finding:
    id_, disk = "disk.data", facts.disk
    if isinstance(disk, Unknown):
        return unknown(id_, disk)
    said = f"{size(disk.free_bytes)} of {size(disk.size_bytes)} are free under {disk.folder}"
    fix = (
        "free some space there, or move the data to a larger disk: on a full one PostgreSQL stops, and "
        "does not start before there is room"
    )
    if _is_full(disk):
        return failed(id_, said, fix=fix)
    if disk.free_bytes < _LITTLE * disk.size_bytes:
        return warned(id_, said, fix=fix)
    return passed(id_, said)


def _is_full(disk: Disk) -> bool:
    return disk.free_bytes < max(_TOO_LITTLE_BYTES, _TOO_LITTLE * disk.size_bytes)


def _wal(facts: Facts) -> Finding:
    id_, wal = "wal.size", facts.wal
    if isinstance(wal, Unknown):
        return unknown(id_, wal)
    most_mib = facts.number("max_wal_size") or 0
    kept_mib = facts.number("wal_keep_size") or 0
    said = f"{many(wal.files, 'file')}, {size(wal.bytes)} (max_wal_size {size(most_mib * _MIB)})"
    if wal.bytes > max(_GIB, 3 * (most_mib + kept_mib) * _MIB):
        return warned(
            id_,
            said,
            fix="see replication.slots and wal.archiving, which keep WAL; else it is freed by "
            "checkpoints (`checkpoint` as a superuser)",
        )
    return passed(id_, said)


def _archiving(facts: Facts) -> Finding:
    id_, archiver = "wal.archiving", facts.archiver
    mode = facts.settings.get("archive_mode")
    if mode is not None and mode.setting == "off":
        return passed(id_, "archive_mode = off")
    if isinstance(archiver, Unknown):
        return unknown(id_, archiver)
    said = f"{archiver.archived} archived, {archiver.failed} failures"
    if archiver.is_failing:
        return failed(
            id_,
            f"{said}; the last try failed, on {archiver.last_failed}: WAL piles up until it works",
            fix="see in the server's log what archive_command or archive_library says",
        )
    return passed(id_, said)

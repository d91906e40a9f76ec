"""The doctor's checks by their stable ids, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ragline.core.dsn import nearest
from ragline.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that is looked at. What has its id never changes its meaning."""

    id: str
    group: str
    looks_at: str


def _checks(group: str, *pairs: tuple[str, str]) -> list[Check]:
    return [Check(id=id_, group=group, looks_at=looks_at) for id_, looks_at in pairs]


CHECKS: tuple[Check, ...] = (
    *_checks(
        "connection",
        ("server.reachable", "a server answers at the address, and how fast"),
        ("login.accepted", "the user and the password are accepted"),
        ("database.exists", "the database is there, and the user may connect to it"),
        ("connection.free", "connections are left for more programs"),
        ("connection.tls", "connections from other machines are encrypted"),
    ),
    *_checks(
        "versions",
        ("server.version", "PostgreSQL is supported, and has no known fault"),
        ("pgvector.version", "pgvector has no known fault"),
    ),
    *_checks(
        "extensions",
        ("extension.vector", "pgvector is installed, or can be"),
        ("extension.pg_stat_statements", "statements are counted: installed and preloaded"),
        ("extension.pg_buffercache", "whether the cache can be looked into; for information"),
        ("extension.hypopg", "whether indexes can be tried without a build; for information"),
    ),
    *_checks(
        "access",
        ("role.privileges", "the user may read ragline's schema, or make it"),
        ("role.workloads", "each workload has a role of its own"),
        ("role.bypasses_rls", "no role of an application goes around row-level security"),
        ("role.authentication", "pg_hba.conf lets nobody in from outside without a secret"),
    ),
    *_checks(
        "ragline",
        ("schema.head", "the schema is the one of this ragline"),
        ("dimension.consistency", "vectors have the dimension that their space says"),
        ("model.spaces", "the configured model is the one that collections were made with"),
    ),
    *_checks(
        "indexes",
        ("index.invalid", "no build was broken off and left an index that no query uses"),
        ("index.operator_class", "vector indexes fit the operators that queries use"),
        ("index.missing", "columns of many vectors have an index"),
        ("index.dimension", "vector indexes can hold the dimension they are for"),
        ("index.ivfflat_empty", "no IVFFlat index was built before there were rows"),
        ("index.ivfflat_lists", "IVFFlat indexes have as many lists as their rows want"),
        ("index.duplicate", "no index does what another one does"),
        ("index.unused", "no large index is never used"),
        ("index.larger_than_memory", "vector indexes fit in memory"),
        ("index.pgvector_vulnerable", "no index was left by a pgvector that damages them"),
    ),
    *_checks(
        "tracking",
        ("tracking.track_activities", "what sessions do can be seen"),
        ("tracking.track_counts", "rows are counted, which autovacuum needs"),
        ("tracking.track_activity_query_size", "statements are seen whole"),
        ("tracking.compute_query_id", "statements of one shape are counted together"),
        ("tracking.track_io_timing", "the time of reads is measured; for information"),
        ("tracking.pg_stat_statements.track", "which statements are counted"),
    ),
    *_checks(
        "vacuum",
        ("wraparound.xid", "transaction numbers are far from running out"),
        ("wraparound.multixact", "numbers of shared row locks are far from running out"),
        ("vacuum.held_back", "nothing old keeps dead rows from being removed"),
        ("vacuum.disabled", "no table with dead rows has autovacuum off"),
    ),
    *_checks(
        "replication",
        ("replication.slots", "no slot keeps WAL that nobody fetches"),
        ("replication.lag", "replicas follow"),
    ),
    *_checks(
        "connections and space",
        ("pool.budget", "what roles may hold together fits in max_connections"),
        ("pool.idle_in_transaction", "no session sleeps in a transaction"),
        ("disk.data", "the disk of the data has room"),
        ("disk.checksums", "damaged pages would be noticed; for information"),
        ("wal.size", "WAL does not pile up"),
        ("wal.archiving", "archiving of WAL works, where it is on"),
    ),
    *_checks(
        "settings",
        ("settings.pending_restart", "no setting waits for a restart"),
        ("settings.files", "the server can read its configuration files"),
    ),
)
IDS: tuple[str, ...] = tuple(check.id for check in CHECKS)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(check.group for check in CHECKS))


def group_of(id_: str) -> str:
    """Return the group of a check, or of its kin where the catalogue does not have it."""
    groups = {check.id: check.group for check in CHECKS}
    akin = (groups[one] for one in _akin(id_))
    return groups.get(id_) or next(akin, "more")


def is_wanted(id_: str, wanted: Sequence[str]) -> bool:
    """Return whether a finding of an id belongs to what is looked at, in the catalogue or not."""
    return id_ in wanted if id_ in IDS else set(_akin(id_) or IDS) <= set(wanted)


def _akin(id_: str) -> list[str]:
    return [one for one in IDS if one.startswith(id_.partition(".")[0] + ".")]


def chosen(only: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    """Return the ids to look at; "index" stands for every id that begins with "index."."""
    wanted = {id_ for said in only for id_ in _meant(said)} if only else set(IDS)
    unwanted = {id_ for said in skip for id_ in _meant(said)}
    found = tuple(id_ for id_ in IDS if id_ in wanted - unwanted)
    if not found:
        raise UsageError("nothing is left to look at: --skip names all that --only asks for")
    return found


def _meant(said: str) -> Iterable[str]:
    stem = said.removesuffix(".*").removesuffix(".")
    found = [id_ for id_ in IDS if id_ == stem or id_.startswith(f"{stem}.")]
    if not found:
        alike = nearest(said, IDS)
        hint = f"; the nearest is {alike!r}" if alike else ""
        raise UsageError(f"there is no check {said!r}{hint}. `ragline doctor --list` has them all")
    return found

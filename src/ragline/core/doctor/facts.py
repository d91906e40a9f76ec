"""What the doctor judges: rows as values. What could not be read is `Unknown`, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias, TypeVar

from ragline.core.advisories import Advisories

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Something that could not be looked at: why, and what would help."""

    reason: str
    fix: str | None = None


Known: TypeAlias = "T | Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who answered, and as whom we are there."""

    version_num: int
    version: str
    user_name: str
    is_superuser: bool
    bypasses_rls: bool
    database: str
    is_replica: bool
    may_create: bool
    sees_all_settings: bool
    sees_all_sessions: bool
    uses_tls: bool
    has_schema: bool
    may_use_schema: bool
    tables_with_rls: int

    @property
    def major(self) -> int:
        """The major version: 18."""
        return self.version_num // 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting of the server. Those that a user may not see have no entry at all."""

    name: str
    setting: str
    context: str
    source: str
    is_pending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """An extension that the server has the files of; `installed` None is not in this database."""

    name: str
    available: str
    installed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """How far a database's oldest numbers lie back."""

    database: str
    xid: int
    multixact: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Sessions other than ours. Times in seconds; None where there is none.

    `hidden` are those of other users of which we may not know what they do.
    """

    connections: int
    hidden: int
    idle_longest_s: float | None
    idle_who: str | None
    oldest_s: float | None
    oldest_who: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared transaction that nobody has ended yet."""

    name: str
    database: str
    owner: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot, and how much WAL it keeps."""

    name: str
    kind: str
    is_active: bool
    wal_status: str | None
    kept_bytes: int | None
    xmin_age: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """A replica that follows this server."""

    name: str
    state: str | None
    behind_bytes: int | None
    lag_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """This server as a replica."""

    is_paused: bool
    has_receiver: bool
    to_replay_bytes: int | None
    behind_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neglected:
    """A table with dead rows where autovacuum is off."""

    table: str
    dead: int
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role that may log in. `owned` are some tables with row-level security that are its own."""

    name: str
    is_superuser: bool
    is_first: bool
    bypasses_rls: bool
    connection_limit: int
    owned: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HbaRule:
    """A line of pg_hba.conf."""

    line: int
    kind: str
    databases: str
    users: str
    address: str | None
    is_local: bool
    method: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFault:
    """A line of a configuration file that is not in force.

    `is_unread`: the server cannot read it. Else it does not take the value, now or ever.
    """

    place: str
    name: str | None
    error: str
    is_unread: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wal:
    """The WAL that lies there."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archiver:
    """Archiving of WAL since statistics began."""

    archived: int
    failed: int
    is_failing: bool
    last_failed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The disk of a folder."""

    folder: str
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The version of ragline's schema; `applied` None is no schema."""

    applied: str | None
    head: str
    versions: Sequence[str]
    complaint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A space, and the column that holds its vectors. `column_type` None: there is no such column.

    `column_dimension` is None where the column states none.
    """

    id: int
    collection: str
    model_id: str
    weights_hash: str
    dimension: int
    storage: str
    is_active: bool
    attached_to: str | None
    column_type: str | None
    column_dimension: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A configured embedding model."""

    model_id: str
    weights_hash: str
    dimension: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was read, at one time."""

    today: date
    is_local: bool
    where: str
    answered_ms: float
    advisories: Advisories
    server: Server
    settings: Mapping[str, Setting]
    extensions: Known[Mapping[str, Extension]]
    ages: Known[Sequence[Age]]
    sessions: Known[Sessions]
    prepared: Known[Sequence[Prepared]]
    slots: Known[Sequence[Slot]]
    standbys: Known[Sequence[Standby]]
    replica: Known[Replica]
    neglected: Known[Sequence[Neglected]]
    roles: Known[Sequence[Role]]
    hba: Known[Sequence[HbaRule]]
    file_faults: Known[Sequence[FileFault]]
    wal: Known[Wal]
    archiver: Known[Archiver]
    disk: Known[Disk]
    schema: Known[Schema]
    spaces: Known[Sequence[Space]]
    models: Known[Sequence[Model]]

    @property
    def reserved_connections(self) -> int:
        """How many connections are kept for superusers and others."""
        names = ("superuser_reserved_connections", "reserved_connections")
        return sum(self.number(name) or 0 for name in names)

    def number(self, name: str) -> int | None:
        """Return a setting that is a whole number; None where it is not there, or not ours to see."""
        found = self.settings.get(name)
        return None if found is None else int(found.setting)

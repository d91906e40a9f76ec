"""What statements cost a server, as values: the evidence that advice rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

READABLE = ("select", "with", "insert", "update", "delete", "merge", "values", "table")
"""What a statement may begin with to have a plan; all else is a utility."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSource:
    """pg_stat_statements as this database has it. `schema` is None where it is not installed.

    `is_loaded`: the server runs it. `since` is when it began to count, `evicted` how often it threw the
    least used statements out, None where nobody knows. `sees_all`: also the texts of other roles.
    """

    schema: str | None
    version: str | None
    is_available: bool
    is_loaded: bool
    tracks: str | None
    most: int | None
    since: datetime | None
    evicted: int | None
    sees_all: bool
    now: datetime

    @property
    def is_usable(self) -> bool:
        """Whether there is anything to be read."""
        return self.schema is not None and self.is_loaded and self.tracks != "none"

    @property
    def hours(self) -> float | None:
        """For how long it has counted."""
        if self.since is None:
            return None
        return max(0.0, (self.now - self.since).total_seconds() / 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement with its constants taken out, and what all its runs cost.

    `keys` are constants that were put back, as a session says them that is connected now.
    """

    id: str
    text: str
    calls: int
    total_ms: float
    rows: int
    users: tuple[str, ...]
    keys: tuple[str, ...] = ()

    @property
    def mean_ms(self) -> float:
        """What one run takes."""
        return self.total_ms / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The statements of one database that have a plan, dearest first; `skipped` counts the others.

    `total_ms` is the time of all of them, also of those that were skipped.
    """

    source: EvidenceSource
    statements: tuple[Statement, ...] = ()
    total_ms: float = 0.0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorUse:
    """An operator of pgvector that statements put to a table."""

    schema: str
    table: str
    operator: str
    statements: int
    calls: int
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """A column as the catalog and the last ANALYZE know it.

    `distinct` counts distinct values (below 0: a share of the rows), `width` is bytes; both None where
    the column was never analysed.
    """

    table_oid: int
    name: str
    type: str
    modifier: int
    width: int | None
    distinct: float | None

    @property
    def is_array(self) -> bool:
        """Whether it holds arrays."""
        return self.type.startswith("_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key of a table to another one, `columns` being those that point there."""

    name: str
    table_oid: int
    columns: tuple[str, ...]
    to_schema: str
    to_table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerCosts:
    """The planner's units."""

    seq_page: float = 1.0
    random_page: float = 4.0
    tuple: float = 0.01
    index_tuple: float = 0.005
    operator: float = 0.0025


def missing(source: EvidenceSource) -> str | None:
    """Return why there is no evidence, and what to do; None where there is some."""
    load = (
        "`ragline change plan setting shared_preload_libraries=…,pg_stat_statements` (it takes a "
        "restart; name what is loaded now as well)"
    )
    if source.schema is None and not source.is_available:
        return (
            "pg_stat_statements is not installed on the server, so nothing is known about statements: "
            f"install PostgreSQL's contrib modules, then {load}, then `create extension "
            "pg_stat_statements` in this database"
        )
    if not source.is_loaded:
        then = (
            "" if source.schema else ", then `create extension pg_stat_statements` in this database"
        )
        return (
            "pg_stat_statements is not loaded, so nothing is known about statements: "
            f"{load}{then}; come back when the application has run for a day"
        )
    if source.schema is None:
        return (
            "the server counts statements, but this database cannot read them: run `create extension "
            "pg_stat_statements` here as a superuser"
        )
    if source.tracks == "none":
        return (
            "pg_stat_statements.track is none, so no statement is counted: `ragline change plan "
            "setting pg_stat_statements.track=top`"
        )
    return None

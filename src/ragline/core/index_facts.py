"""What the catalog says about indexes and tables, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ragline.core.sql_names import quoted

_DEFAULT_LISTS = 100
VECTOR_METHODS = ("hnsw", "ivfflat")
METRICS: Mapping[str, str] = {
    "cosine_ops": "cosine",
    "l2_ops": "l2",
    "ip_ops": "inner_product",
    "l1_ops": "l1",
    "hamming_ops": "hamming",
    "jaccard_ops": "jaccard",
}
"""What the operator classes of pgvector end with, and the distance of each."""
OPERATORS: Mapping[str, str] = {
    "cosine": "<=>",
    "l2": "<->",
    "inner_product": "<#>",
    "l1": "<+>",
    "hamming": "<~>",
    "jaccard": "<%>",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """An index of a table outside the catalog.

    `keys` are its columns and expressions as SQL, `key_rules` what goes with each of them (operator
    class, collation, order), `included` the columns it only carries. `definition` is what
    `pg_get_indexdef` says. `options` are those that were given; one that was not has its default.

    `dimension` and `vector_type` are those of the first key where the method is one for vectors.
    `collections` are ragline's that are searched in the table; `slot` the place of a collection's own
    vector index, and `is_searched` whether production's searches use that place.

    `is_part` is one of a partitioned index, which alone can be dropped.

    `metrics` are the distances by which those collections are searched. `is_replica_identity`: replicas
    of logical replication know rows by it. `runs_foreign_code`: an index or statistics of its table call
    functions that are neither the server's nor pgvector's, nor the user's own, nor a superuser's, so
    that whoever plans a query of the table runs somebody's code.

    `is_building` is None where nobody may tell. `index_rows` is what the last build or vacuum counted.
    `created_at` is known only where the server tracks the times of commits.
    """

    oid: int
    table_oid: int
    schema: str
    table: str
    name: str
    method: str
    operator_classes: tuple[str, ...]
    keys: tuple[str, ...]
    key_rules: tuple[str, ...]
    included: tuple[str, ...] = ()
    definition: str
    options: tuple[tuple[str, str], ...] = ()
    predicate: str | None = None
    is_unique: bool = False
    constraint: str | None = None
    is_replica_identity: bool = False
    runs_foreign_code: bool = False
    is_partitioned: bool = False
    is_part: bool = False
    is_valid: bool = True
    is_ready: bool = True
    is_building: bool | None = False
    size_bytes: int
    index_rows: int | None = None
    table_rows: int | None
    table_bytes: int
    scans: int
    rows_read: int
    last_scan: datetime | None = None
    created_at: datetime | None = None
    cached_share: float | None = None
    dimension: int | None = None
    vector_type: str | None = None
    collections: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    slot: int | None = None
    is_searched: bool | None = None

    @property
    def qualified(self) -> str:
        """The index with its schema, for people."""
        return f"{self.schema}.{self.name}"

    @property
    def on(self) -> str:
        """Its table with its schema, for people."""
        return f"{self.schema}.{self.table}"

    @property
    def collection(self) -> str | None:
        """The first collection that is searched in its table."""
        return self.collections[0] if self.collections else None

    @property
    def is_ours(self) -> bool:
        """Whether ragline made it and looks after it."""
        return self.schema == "ragline"

    @property
    def is_vector(self) -> bool:
        """Whether it finds near vectors."""
        return self.method in VECTOR_METHODS

    @property
    def serves(self) -> bool:
        """Whether queries can use it."""
        return self.is_valid and self.is_ready

    @property
    def sql_name(self) -> str:
        """The index with its schema, as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def sql_table(self) -> str:
        """Its table with its schema, as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    @property
    def lists(self) -> int:
        """Into how many lists an IVFFlat index parts the rows."""
        return int(self.option("lists") or _DEFAULT_LISTS)

    @property
    def may_go(self) -> bool:
        """Whether it can be dropped and nothing but speed is lost, uniqueness aside."""
        return not (
            self.constraint is not None
            or self.is_replica_identity
            or self.is_partitioned
            or self.is_part
            or self.is_searched
        )

    def option(self, name: str) -> str | None:
        """Return an option that was given."""
        return dict(self.options).get(name)

    @property
    def metric(self) -> str | None:
        """The distance by which it finds near vectors, such as "cosine"; None for other indexes."""
        if not self.is_vector or not self.operator_classes:
            return None
        ending = self.operator_classes[0].partition("_")[2]
        return METRICS.get(ending)

    @property
    def operator(self) -> str | None:
        """The operator that a query must order by to use it, such as "<=>"."""
        return OPERATORS.get(self.metric or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorColumn:
    """A column of vectors; `dimension` is None where its type does not say one."""

    name: str
    type: str
    dimension: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table outside the catalog: `kind` is "table", "partitioned" or "materialized view".

    `rows` is an estimate, None where nothing was counted yet. Counts of scans and writes are those
    since statistics began. `is_searched`: not one that ragline fills beside the one it searches.
    """

    oid: int
    schema: str
    name: str
    kind: str
    rows: int | None
    bytes: int
    index_bytes: int
    sequential_scans: int
    index_scans: int
    inserted: int
    updated: int
    updated_in_place: int
    deleted: int
    analysed_at: datetime | None
    vectors: tuple[VectorColumn, ...] = ()
    collections: tuple[str, ...] = ()
    is_searched: bool = True

    @property
    def qualified(self) -> str:
        """The table with its schema, for people."""
        return f"{self.schema}.{self.name}"

    @property
    def is_ours(self) -> bool:
        """Whether ragline made it."""
        return self.schema == "ragline"

    @property
    def writes(self) -> int:
        """How many rows were written since statistics began."""
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedTable:
    """A table that somebody holds so that nobody may even read it: nothing is known of its indexes."""

    oid: int
    schema: str
    name: str

    @property
    def qualified(self) -> str:
        """The table with its schema, for people."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What indexes depend on. `statistics_since` is None where it is not known.

    `memory_bytes` is that of the server's machine; None where the server runs on another.
    `ef_search` and `probes` are what a session of the DSN's user starts with.
    """

    version: int
    pgvector: str | None
    pgvector_available: str | None
    vector_schema: str | None
    block_size: int
    shared_buffers_bytes: int
    is_replica: bool
    statistics_since: datetime | None
    now: datetime
    ef_search: int | None
    probes: int | None
    memory_bytes: int | None = None


def bytes_said(size: float) -> str:
    """Return a size for people, such as "49 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"

"""What is wrong with the indexes of a database, as far as the catalog, statements and samples say.

A finding of an id is there only where something is to be done, or could not be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from ragline.core import sampled_indexes
from ragline.core.advisories import ExtensionFault, numbers
from ragline.core.checkup import WORST_FIRST, Finding, urgency
from ragline.core.duplicate_indexes import dropped, duplicate
from ragline.core.evidence import OperatorUse
from ragline.core.hnsw import LARGEST
from ragline.core.index_facts import (
    OPERATORS,
    IndexFacts,
    ServerFacts,
    TableFacts,
    bytes_said,
)
from ragline.core.index_sample import Sample
from ragline.core.missing_indexes import calls_on, missing, said_of
from ragline.core.sql_names import quoted

OLD_ENOUGH = timedelta(days=7)
"""With younger statistics no index is called unused: some work comes once a week."""
IN_USE = 100
"""A table that was scanned less often says nothing about its indexes."""

_LEFTOVER = re.compile(r"_cc(new|old)\d*$")


def findings(
    indexes: Sequence[IndexFacts],
    tables: Sequence[TableFacts],
    server: ServerFacts,
    *,
    operators: Sequence[OperatorUse] | None = None,
    faults: Sequence[ExtensionFault] = (),
    samples: Mapping[int, Sample] | None = None,
) -> list[Finding]:
    """Return what is to be done about indexes, the most urgent first.

    `operators` None: nobody knows which ones queries use. `faults` are those of the server's pgvector.
    `samples` are by the index's oid; without them nothing is said about recall.
    """
    measured = samples or {}
    found = [
        *invalid(indexes),
        *vulnerable(indexes, server, faults),
        *unfit_operators(indexes, operators),
        *sampled_indexes.built_on_nothing(indexes, measured),
        *sampled_indexes.unfit_lists(indexes, measured),
        *sampled_indexes.low_recall(indexes, measured),
        *sampled_indexes.short_results(indexes, server, measured),
        *sampled_indexes.not_held(indexes, measured),
        *missing(indexes, tables, operators),
        *too_many_dimensions(indexes, tables),
        *larger_than_memory(indexes, server),
        *duplicate(indexes),
        *unused(indexes, tables, server),
    ]
    return sorted(found, key=urgency)


def invalid(indexes: Iterable[IndexFacts]) -> Iterator[Finding]:
    """Yield indexes that a build or a drop left behind: queries never use them, writers keep them up."""
    for index in indexes:
        if index.serves or index.is_building:
            continue
        if index.is_building is None:
            yield Finding(
                id="index.invalid",
                status="unknown",
                subject=index.qualified,
                evidence=f"INVALID; somebody holds a lock on {index.on}, and whether that is a build "
                "may not be seen by this user",
                fix="grant pg_read_all_stats to this user, or look again when it is done",
            )
            continue
        yield Finding(
            id="index.invalid",
            status="fail",
            subject=index.qualified,
            evidence=f"INVALID, {bytes_said(index.size_bytes)} on {index.on}: no query uses it"
            + (", and every write keeps it up" if index.is_ready else "")
            + ("; nothing builds it now" if not index.is_partitioned else ""),
            fix=_mended(index),
        )


def _mended(index: IndexFacts) -> str:
    if index.is_partitioned:
        return (
            "build the index on each partition that has none, and `alter index "
            f"{index.sql_name} attach partition` it"
        )
    drop = f"drop index concurrently {index.sql_name};"
    if _LEFTOVER.search(index.name):
        return f"{drop} -- what is left of a `reindex concurrently`"
    if index.is_ours:
        return f"{drop} -- then `ragline ingest` or `ragline change` builds it again"
    if index.constraint is not None:
        return f"drop constraint {index.constraint} of {index.on}, and add it again"
    begin = "CREATE UNIQUE INDEX " if index.is_unique else "CREATE INDEX "
    again = index.definition.replace(begin, f"{begin}CONCURRENTLY ", 1)
    unique = " (rows that break uniqueness first)" if index.is_unique else ""
    return f"{drop} then build it again{unique}: {again};"


def vulnerable(
    indexes: Iterable[IndexFacts], server: ServerFacts, faults: Sequence[ExtensionFault]
) -> Iterator[Finding]:
    """Yield the faults of this pgvector, together, where there are indexes that they can damage."""
    at_risk = [index for index in indexes if index.method == "hnsw"]
    if not at_risk or not faults:
        return
    enough = max((fault.before for fault in faults), key=numbers)
    told = "; ".join(f"before {fault.before}, {fault.told}" for fault in faults)
    yield Finding(
        id="index.pgvector_vulnerable",
        status=min((fault.status for fault in faults), key=WORST_FIRST.index),
        subject=f"pgvector {server.pgvector}",
        evidence=f"{_count(at_risk, 'HNSW index')} here; {told}",
        fix=f"install pgvector {enough} or later on the server, `alter extension vector update`, then "
        "`reindex index concurrently` each HNSW index",
    )


def unfit_operators(
    indexes: Sequence[IndexFacts], operators: Sequence[OperatorUse] | None
) -> Iterator[Finding]:
    """Yield vector indexes that answer another operator than queries order by."""
    for index in indexes:
        if index.is_vector and index.serves and index.metrics and not index.is_partitioned:
            yield from _unfit_for_collection(index, indexes)
        elif index.is_vector and index.serves and operators:
            yield from _unfit_for_statements(index, operators)


def _unfit_for_collection(index: IndexFacts, every: Sequence[IndexFacts]) -> Iterator[Finding]:
    if index.is_searched is False or index.metric in index.metrics:
        return
    beside = [one for one in every if one.table_oid == index.table_oid and one.serves]
    if any(one.metric in index.metrics for one in beside):
        return  # the table's own application may have a use for the other one
    wanted = ", ".join(sorted(set(index.metrics)))
    yield Finding(
        id="index.operator_class",
        status="fail",
        subject=index.qualified,
        evidence=f"operator class {', '.join(index.operator_classes)} answers {index.metric} "
        f"distance; searches of {', '.join(index.collections)} go by {wanted}: they compare every "
        "vector",
        fix=f"ragline change plan index {index.collection} slot=2"
        if index.is_ours
        else _rebuilt(index, index.metrics[0]),
    )


def _unfit_for_statements(index: IndexFacts, operators: Sequence[OperatorUse]) -> Iterator[Finding]:
    calls = calls_on(index.schema, index.table, operators)
    if not calls or index.operator in calls:
        return
    metrics = {operator: metric for metric, operator in OPERATORS.items()}
    yield Finding(
        id="index.operator_class",
        status="fail",
        subject=index.qualified,
        evidence=f"operator class {', '.join(index.operator_classes)} answers {index.operator}; "
        f"statements on {index.on} order by {said_of(calls)}",
        fix=_rebuilt(index, metrics[calls.most_common(1)[0][0]]),
    )


def _rebuilt(index: IndexFacts, metric: str) -> str:
    """Return how to get an index for a metric, or why not of this one."""
    ending = next((end for end, name in _ENDINGS.items() if name == metric), None)
    if ending is None or index.vector_type in (None, "bit"):
        return f"build an index whose operator class is for {metric} distance"
    wanted = f"{index.vector_type}_{ending}"
    return (
        f"create index concurrently on {index.sql_table} using {index.method} "
        f"({_key(index)} {wanted}); then drop index concurrently {index.sql_name};"
    )


_ENDINGS = {"cosine_ops": "cosine", "l2_ops": "l2", "ip_ops": "inner_product", "l1_ops": "l1"}


def too_many_dimensions(
    indexes: Sequence[IndexFacts], tables: Iterable[TableFacts]
) -> Iterator[Finding]:
    """Yield columns of vectors that are too long for an index of their type and have no other."""
    indexed = {index.table_oid for index in indexes if index.is_vector}
    for table in tables:
        for column in table.vectors:
            most = LARGEST.get(column.type)
            if most is None or column.dimension is None or column.dimension <= most:
                continue
            if table.oid in indexed or table.schema == "ragline":
                continue
            yield Finding(
                id="index.dimension",
                status="warn",
                subject=f"{table.qualified}.{column.name}",
                evidence=f"{column.type}({column.dimension}): an index of {column.type} holds at "
                f"most {most:,} dimensions, so every search compares every vector",
                fix=_shortened(table, column.name, column.dimension),
            )


def _shortened(table: TableFacts, column: str, dimension: int) -> str:
    name = f"{quoted(table.schema)}.{quoted(table.name)}"
    if dimension <= LARGEST["halfvec"]:
        key = f"({quoted(column)}::halfvec({dimension})) halfvec_cosine_ops"
        also = f"order by the same expression, ({quoted(column)}::halfvec({dimension}))"
    else:
        key = f"(binary_quantize({quoted(column)})::bit({dimension})) bit_hamming_ops"
        also = "rank what it finds once more by the vectors themselves"
    return f"create index concurrently on {name} using hnsw ({key}); and {also}"


def larger_than_memory(indexes: Iterable[IndexFacts], server: ServerFacts) -> Iterator[Finding]:
    """Yield vector indexes that the server's memory cannot hold; a walk of a graph reads all over."""
    for index in indexes:
        if not index.is_vector or index.size_bytes <= server.shared_buffers_bytes:
            continue
        memory = server.memory_bytes
        size, buffers = bytes_said(index.size_bytes), bytes_said(server.shared_buffers_bytes)
        if memory is None:
            beyond = "; the memory of the server's machine is unknown"
        elif index.size_bytes > memory:
            beyond = (
                f" and than the machine's memory, {bytes_said(memory)}: searches read from disk"
            )
        else:
            beyond = f"; the machine has {bytes_said(memory)}"
        is_too_large = memory is not None and index.size_bytes > memory
        yield Finding(
            id="index.larger_than_memory",
            status="fail" if is_too_large else "warn",
            subject=index.qualified,
            evidence=f"{size}, larger than shared_buffers, {buffers}{beyond}",
            fix=_smaller(index, is_too_large=is_too_large),
        )


def _smaller(index: IndexFacts, *, is_too_large: bool) -> str:
    if index.vector_type == "vector":
        target = index.collection or "COLLECTION"
        halves = f"hold halves: `ragline change plan index {target} storage=halfvec`"
        return halves if is_too_large else f"raise shared_buffers (`ragline tune`), or {halves}"
    return "a machine with more memory" if is_too_large else "raise shared_buffers (`ragline tune`)"


def unused(
    indexes: Iterable[IndexFacts], tables: Iterable[TableFacts], server: ServerFacts
) -> Iterator[Finding]:
    """Yield indexes that nothing has used for long although their tables are used."""
    since = server.statistics_since
    if since is None or server.now - since < OLD_ENOUGH:
        return
    scans = {table.oid: table.sequential_scans + table.index_scans for table in tables}
    for index in indexes:
        if index.scans or scans.get(index.table_oid, 0) < IN_USE or not _is_for_speed(index):
            continue
        if index.created_at is not None and server.now - index.created_at < OLD_ENOUGH:
            continue
        yield Finding(
            id="index.unused",
            status="warn",
            subject=index.qualified,
            evidence=f"0 scans of {scans[index.table_oid]:,} on {index.on} {_since(since)}, "
            f"{bytes_said(index.size_bytes)}" + _where(index, server),
            fix=dropped(index),
        )


def young_statistics(server: ServerFacts) -> str | None:
    """Return why no index is called unused, or None where some may be."""
    if server.statistics_since is None:
        return "when statistics began is unknown, so no index is called unused"
    if server.now - server.statistics_since >= OLD_ENOUGH:
        return None
    return f"counted {_since(server.statistics_since)}: no index is called unused before 7 days"


def _is_for_speed(index: IndexFacts) -> bool:
    return index.serves and not index.is_unique and not index.is_ours and index.may_go


def _where(index: IndexFacts, server: ServerFacts) -> str:
    said = ""
    if index.created_at is None:
        said += "; a younger index would look the same"
    if server.is_replica:
        said += "; counted on this replica alone"
    return said


def _since(moment: datetime) -> str:
    return f"since {moment:%Y-%m-%d %H:%M} UTC"


def _key(index: IndexFacts) -> str:
    key = index.keys[0]
    return key if re.fullmatch("[a-z_][a-z0-9_]*", key) or key.startswith('"') else f"({key})"


def _count(things: Collection[object], name: str) -> str:
    return f"{len(things)} {name}" + ("" if len(things) == 1 else "es")

"""Indexes that are not needed: nothing reads them, or another one holds the same."""

from __future__ import annotations

from collections.abc import Sequence

from ragline.core.advice import Advice, Floors
from ragline.core.advice_candidates import OWN_SCHEMA, Catalog, NotAdvised
from ragline.core.index_definition import Place
from ragline.core.index_facts import IndexFacts


def drops(catalog: Catalog, floors: Floors) -> tuple[list[Advice], list[NotAdvised]]:
    """Return the indexes that nothing reads or that another one doubles; never ragline's own."""
    found: list[Advice] = []
    left: list[NotAdvised] = []
    indexes = [one for one in catalog.indexes if one.schema != OWN_SCHEMA and not _is_searched(one)]
    for index in indexes:
        reason = _doubled(index, indexes, catalog) or _unread(index, catalog)
        if reason is None or (index.constraint is not None and not reason.startswith("doubles")):
            continue
        why_kept = _why_kept(index, catalog, floors, is_double=reason.startswith("doubles"))
        if why_kept is not None:
            left.append(NotAdvised(what=f"drop {index.qualified}", reason=f"{reason}; {why_kept}"))
            continue
        found.append(_drop(index, reason, catalog))
    return sorted(found, key=lambda one: -(one.size_bytes or 0)), left


def _is_searched(index: IndexFacts) -> bool:
    return index.slot is not None or bool(index.collections and index.is_vector)


def _doubled(index: IndexFacts, others: Sequence[IndexFacts], catalog: Catalog) -> str | None:
    """Return which index does the same; of two that do, the one to stay is chosen once."""
    for other in others:
        if other.oid == index.oid or not other.serves or _same(index) != _same(other):
            continue
        if _worth(other, catalog) > _worth(index, catalog):
            return f"doubles {other.qualified}, which holds the same"
    return None


def _same(index: IndexFacts) -> tuple[object, ...]:
    return (
        index.table_oid, index.method, index.keys, index.key_rules, index.operator_classes,
        index.included, index.options, index.predicate,
    )  # fmt: skip


def _worth(index: IndexFacts, catalog: Catalog) -> tuple[bool, bool, bool, int, int]:
    return (
        index.constraint is not None,
        index.oid in catalog.kept,
        index.is_unique,
        index.scans,
        -index.oid,
    )


def _unread(index: IndexFacts, catalog: Catalog) -> str | None:
    if index.scans or not index.serves:
        return None
    if catalog.hours is None:
        return "was not read since statistics began, and nobody knows when that was"
    return f"was not read once in {_long(catalog.hours)}"


def _why_kept(
    index: IndexFacts, catalog: Catalog, floors: Floors, *, is_double: bool
) -> str | None:
    if index.constraint is not None:
        return f"it keeps constraint {index.constraint}"
    reason = catalog.kept.get(index.oid)
    # Those the other one does as well.
    if reason is not None and not (
        is_double and reason.startswith(("foreign key", "it keeps rows"))
    ):
        return reason
    if index.is_unique and not is_double:
        return "it keeps rows from being there twice"
    if index.is_partitioned:
        return "it is of a partitioned table: drop it there by hand"
    if is_double:
        return None
    if catalog.is_replica:
        return "this is a replica: ask the primary"
    if catalog.hours is None or catalog.hours < floors.days * 24:
        return f"statistics are younger than the floor of {floors.days:g} days"
    return None


def _drop(index: IndexFacts, reason: str, catalog: Catalog) -> Advice:
    said = []
    if catalog.replicas:
        said.append(
            f"{catalog.replicas} replica(s) read with statistics of their own: unknown; look there "
            "before"
        )
    if not reason.startswith("doubles") and any("(" in key for key in index.keys):
        said.append("it holds an expression, whose statistics the planner loses with it")
    if not reason.startswith("doubles"):
        if not catalog.replicas:
            said.append("replicas that are not connected now count for themselves: unknown")
        if index.created_at is None:
            said.append("nobody knows when it was made: a new one was not needed yet")
    return Advice(
        number=0,
        action="drop",
        target=str(Place(schema=index.schema, table=index.table, name=index.name)),
        schema=index.schema,
        table=index.table,
        name=index.name,
        method=index.method,
        definition=index.definition,
        reason=reason,
        size_bytes=index.size_bytes,
        cautions=tuple(said),
    )


def _long(hours: float) -> str:
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"

"""Indexes that another one makes superfluous."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, permutations

from ragline.core.checkup import Finding
from ragline.core.index_facts import IndexFacts, bytes_said
from ragline.core.sql_names import quoted


def duplicate(indexes: Iterable[IndexFacts]) -> Iterator[Finding]:
    """Yield indexes that another one makes superfluous; of two that are alike, the worse one."""
    for _, group in groupby(
        sorted(indexes, key=lambda one: one.table_oid), key=lambda one: one.table_oid
    ):
        superfluous: set[int] = set()
        for one, other in permutations(sorted(group, key=_worth), 2):
            if one.oid not in superfluous and _is_superfluous(one, other):
                superfluous.add(one.oid)
                yield _said_duplicate(one, other)


def _is_superfluous(one: IndexFacts, other: IndexFacts) -> bool:
    """Whether `other` answers everything that `one` does, and is the one to keep."""
    if not one.may_go or not one.serves or not other.serves:
        return False
    if one.slot is not None and other.slot is not None:
        return False  # places of one space: one of them is on trial, or kept for the way back
    if (one.method, one.predicate) != (other.method, other.predicate):
        return False
    if _is_same(one, other):
        is_kept_unique = not one.is_unique or other.is_unique
        # Alike both ways: exactly one of them goes.
        is_other_too = other.may_go and _is_same(other, one)
        is_other_too = is_other_too and (not other.is_unique or one.is_unique)
        return is_kept_unique and (not is_other_too or _worth(one) > _worth(other))
    return not one.is_unique and _begins(one, other)


def _is_same(one: IndexFacts, other: IndexFacts) -> bool:
    is_alike = (one.keys, one.key_rules) == (other.keys, other.key_rules)
    return is_alike and set(one.included) <= set(other.included)


def _begins(one: IndexFacts, other: IndexFacts) -> bool:
    n = len(one.keys)
    return (
        one.method == "btree"
        and n < len(other.keys)
        and (one.keys, one.key_rules) == (other.keys[:n], other.key_rules[:n])
        and set(one.included) <= {*other.keys, *other.included}
    )


def _worth(index: IndexFacts) -> tuple[bool, bool, int, int, str, int]:
    """Return what sorts the index to keep before one that is alike."""
    return (
        index.may_go,
        not index.is_unique,
        -index.scans,
        index.size_bytes,
        index.qualified,
        index.oid,
    )


def _said_duplicate(one: IndexFacts, other: IndexFacts) -> Finding:
    columns = ", ".join(one.keys)
    if len(one.keys) < len(other.keys):
        how = f"its keys ({columns}) are the first of {other.name} ({', '.join(other.keys)})"
    elif one.options != other.options:
        how = f"the same keys ({columns}) as {other.name}, built with other parameters"
    else:
        how = f"the same keys ({columns}) as {other.name}"
    return Finding(
        id="index.duplicate",
        status="warn",
        subject=one.qualified,
        evidence=f"{how}; {bytes_said(one.size_bytes)}, {one.scans:,} scans against {other.scans:,}",
        fix=dropped(one),
    )


def dropped(index: IndexFacts) -> str:
    """Return how to do without an index."""
    target = f"@{index.sql_table}.{quoted(index.name)}"
    return (
        f"drop index concurrently {index.sql_name}; or, measured and undone where it was "
        f"needed: ragline change plan index '{target}' none"
    )

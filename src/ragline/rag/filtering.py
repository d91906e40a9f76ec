"""What a filter is likely to keep of a collection, and how its search should go about it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ragline.core import access
from ragline.core.access import Access, Calibration
from ragline.core.filters import Filter, matches, to_text
from ragline.core.results import CollectionFacts
from ragline.db import attached_filters, attached_statements, collections, filters, samples
from ragline.db.pool import Connection
from ragline.db.targets import Scope, Target

# Enough to tell 1 % from 10 %; telling 5 % from 6 % would change nothing, both ways cost the same there.
# In a large collection less than 1 % may be too much to compare.
_SAMPLE_CHUNKS = 128
_LARGE_CHUNKS = 200_000
_LARGE_SAMPLE_CHUNKS = 500
_SAMPLE_LASTS_S = 60.0
_MOST_REMEMBERED = 500
_LONGEST_REMEMBERED = 500
_MOST_SAMPLES = 50


Documents: TypeAlias = Sequence[tuple[Mapping[str, Any], int]]
"""Metadata of documents, and of how many of the chunks drawn each is."""


@dataclass(slots=True)
class Sample:
    """Metadata of some chunks, drawn a moment ago, and what was found out with it."""

    taken_at: float
    facts: CollectionFacts
    space_id: int | None
    documents: Documents
    calibration: Calibration | None
    plans: dict[tuple[Filter, int, bool], Plan] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """How many chunks it stands for."""
        return sum(count for _, count in self.documents)

    def share(self, condition: Filter) -> float:
        """Return the share of chunks, from 0 to 1, that a filter is likely to keep."""
        kept = sum(count for metadata, count in self.documents if matches(condition, metadata))
        return kept / self.chunks if self.chunks else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A filter as SQL with what it binds, how its chunks are reached, and its text."""

    scope: Scope
    values: tuple[object, ...]
    access: Access
    text: str


async def plan(
    known: dict[int, Sample],
    connection: Connection,
    target: Target,
    facts: CollectionFacts,
    condition: Filter,
    *,
    k: int,
    is_exact: bool,
) -> Plan:
    """Return how to search a collection within a filter; `known` keeps samples between searches."""
    sample = known.get(facts.id)
    if sample is None or _is_old(sample, facts):
        # What this process knows of the collection may be as old as the process.
        fresh = await collections.one(connection, facts.name)
        if fresh is None or fresh.id != facts.id:
            fresh = facts
        documents = await drawn(connection, target, fresh)
        # A space on trial is not the one that is in use now.
        measured = _calibration(facts) or (
            _calibration(fresh) if _space_id(fresh) == _space_id(facts) else None
        )
        if len(known) >= _MOST_SAMPLES:
            known.clear()
        sample = known[facts.id] = Sample(
            time.monotonic(), fresh, _space_id(facts), documents, measured
        )
    key = (condition, k, is_exact)
    if (made := sample.plans.get(key)) is not None:
        return made
    made = _made(sample, condition, k, is_exact=is_exact)
    if len(made.text) <= _LONGEST_REMEMBERED:
        if len(sample.plans) >= _MOST_REMEMBERED:
            sample.plans.clear()
        sample.plans[key] = made
    return made


async def drawn(connection: Connection, target: Target, facts: CollectionFacts) -> Documents:
    """Return metadata of some chunks, drawn now."""
    size = _LARGE_SAMPLE_CHUNKS if facts.chunks > _LARGE_CHUNKS else _SAMPLE_CHUNKS
    return await samples.metadata(connection, target, chunks=facts.chunks, size=size)


def lasting(facts: CollectionFacts, documents: Documents) -> Sample:
    """Return a sample that time does not end.

    Who compares two ways of searching gives both the same one: with another, a filter may be reached in
    another way, which is no difference between them.
    """
    return Sample(math.inf, facts, _space_id(facts), documents, _calibration(facts))


def _made(sample: Sample, condition: Filter, k: int, *, is_exact: bool) -> Plan:
    chosen = access.choose(
        sample.share(condition),
        sample.chunks,
        sample.facts.chunks,
        k,
        sample.calibration,
        is_exact=is_exact,
    )
    is_small = chosen.kind == "exact"
    if (attached := sample.facts.attached) is not None:
        alias = attached_statements.ALIAS
        rows = attached_filters.where(condition, attached, first=1, alias=alias)
        scope = Scope(
            condition=rows.sql,
            lookup=rows.lookup,
            parameters=len(rows.values),
            is_small=is_small,
            rows=chosen.rows or 0,
        )
        return Plan(scope, rows.values, chosen, to_text(condition))
    sql = filters.where(condition, collection_id=sample.facts.id, first=1)
    scope = Scope(
        condition=sql.sql,
        lookup=sql.lookup,
        parameters=len(sql.values),
        is_small=is_small,
        ids=sql.ids if sql.is_exact else None,
        rows=chosen.rows or 0,
    )
    return Plan(scope, sql.values, chosen, to_text(condition))


def _calibration(facts: CollectionFacts) -> Calibration | None:
    return facts.space.calibration if facts.space else None


def _space_id(facts: CollectionFacts) -> int | None:
    return facts.space.id if facts.space else None


def _is_old(sample: Sample, facts: CollectionFacts) -> bool:
    """Only speed depends on a sample: an old one is never the reason for a wrong result."""
    measured = _calibration(facts)
    return (
        facts.epoch > sample.facts.epoch
        or _space_id(facts) != sample.space_id
        or (measured is not None and measured != sample.calibration)
        or time.monotonic() - sample.taken_at > _SAMPLE_LASTS_S
    )

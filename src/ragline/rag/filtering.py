"""What a filter is likely to keep of a collection, and how its search should go about it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ragline.core import access
from ragline.core.access import Access
from ragline.core.filters import Filter, matches
from ragline.core.results import CollectionFacts
from ragline.db import filters, samples
from ragline.db.pool import Connection
from ragline.db.statements import Scope, Target

# Enough to tell 1 % from 10 %; telling 5 % from 6 % would change nothing, both ways cost the same there.
_SAMPLE_CHUNKS = 300
_SAMPLE_LASTS_S = 60.0
_MOST_REMEMBERED = 1000


@dataclass(slots=True)
class Sample:
    """Metadata of some chunks, drawn a moment ago, and what was found out with it."""

    taken_at: float
    epoch: int
    documents: list[tuple[Mapping[str, Any], int]]
    shares: dict[Filter, float] = field(default_factory=dict)

    @property
    def chunks(self) -> int:
        """How many chunks it stands for."""
        return sum(count for _, count in self.documents)

    def share(self, condition: Filter) -> float:
        """Return the share of chunks, from 0 to 1, that a filter is likely to keep."""
        if (known := self.shares.get(condition)) is not None:
            return known
        kept = sum(count for metadata, count in self.documents if matches(condition, metadata))
        share = kept / self.chunks if self.chunks else 0.0
        if len(self.shares) >= _MOST_REMEMBERED:
            self.shares.clear()
        self.shares[condition] = share
        return share


@dataclass(frozen=True, slots=True)
class Plan:
    """A filter as SQL with what it binds, and how its chunks are reached."""

    scope: Scope
    values: tuple[object, ...]
    access: Access


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
        documents = await samples.metadata(
            connection, target, chunks=facts.chunks, size=_SAMPLE_CHUNKS
        )
        sample = known[facts.id] = Sample(time.monotonic(), facts.epoch, documents)
    chosen = access.choose(
        sample.share(condition),
        sample.chunks,
        facts.chunks,
        k,
        facts.space.calibration if facts.space else None,
        is_exact=is_exact,
    )
    sql = filters.where(condition, collection_id=facts.id, first=1)
    scope = Scope(
        condition=sql.sql,
        lookup=sql.lookup,
        parameters=len(sql.values),
        is_small=chosen.kind == "exact",
        ids=sql.ids if sql.is_exact else None,
        rows=chosen.rows or 0,
    )
    return Plan(scope, sql.values, chosen)


def _is_old(sample: Sample, facts: CollectionFacts) -> bool:
    """Only speed depends on a sample: an old one is never the reason for a wrong result."""
    return sample.epoch != facts.epoch or time.monotonic() - sample.taken_at > _SAMPLE_LASTS_S

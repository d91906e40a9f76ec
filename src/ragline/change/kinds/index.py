"""The kind `index`: the vector index of a collection, and ordinary indexes of any table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragline.change import attached_index, attached_seen, ordinary_index, vector_index
from ragline.change.attached_seen import AttachedSeen
from ragline.change.kind import Kind, Site
from ragline.change.ordinary_index import is_ordinary
from ragline.change.vector_index import Seen
from ragline.core.change import Arm, Step, Value


class Index(Kind):
    """Indexes are built beside what is in use, so that nothing waits for them.

    A target is a collection's name, for its vector index: {"m": 24, "ef_construction": 128, "storage":
    "halfvec"}, of which what is left out stays as it is; or "table.index", for an ordinary one:
    {"definition": "create index …"}, and "@schema.table.index" for one of another schema's tables. None
    is no index.
    """

    name = "index"

    def __init__(self) -> None:
        # Steps name the tables of a collection's space, which only the database knows.
        self._seen: dict[str, Seen | AttachedSeen | None] = {}

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return the index that is wanted, complete, and what speaks against it."""
        if is_ordinary(target):
            return await ordinary_index.wanted(site, target, want)
        found = await self._look(site, target)
        if isinstance(found, AttachedSeen):
            return await attached_index.wanted(site, target, want, found)
        return await vector_index.wanted(site, target, want, found)

    async def read(self, site: Site, target: str) -> Value:
        """Return the index that is in use and valid; None where none is."""
        if is_ordinary(target):
            return await ordinary_index.read(site, target)
        found = await self._look(site, target)
        if isinstance(found, AttachedSeen):
            return attached_index.read(found)
        return vector_index.read(found)

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return the steps from one index to another."""
        if is_ordinary(target):
            return ordinary_index.steps(target, now, want)
        found = self._seen.get(target)
        if isinstance(found, AttachedSeen):
            return attached_index.steps(target, now, want, found)
        return vector_index.steps(target, now, want, found)

    async def run(self, site: Site, step: Step) -> None:
        """Do one step; done before, it does nothing."""
        if is_ordinary(step.target):
            await ordinary_index.run(site, step)
        elif await _is_attached(site, step.target):
            await attached_index.run(site, step)
        else:
            await vector_index.run(site, step)

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Raise PreconditionFailed unless the index is as wanted and searches use it."""
        if is_ordinary(target):
            await ordinary_index.confirm(site, target, want)
        elif await _is_attached(site, target):
            await attached_index.confirm(site, target, want)
        else:
            await vector_index.confirm(site, target, want)

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        """Return both vector indexes to be searched in turn; None for all others."""
        if is_ordinary(target):
            return None
        if (found := await attached_seen.seen(site, target)) is not None:
            return attached_index.arms(found, want)
        return await vector_index.arms(site, target, now, want)

    async def tidy(self, site: Site, target: str, keep: Value) -> None:
        """Drop what lost, and what a broken build left."""
        if is_ordinary(target):
            await ordinary_index.tidy(site, target, keep)
        elif await _is_attached(site, target):
            await attached_index.tidy(site, target, keep)
        else:
            await vector_index.tidy(site, target, keep)

    def measured(self, target: str) -> Mapping[str, Any]:
        """Return the collections that a vector index serves."""
        if is_ordinary(target):
            return {}
        found = self._seen.get(target)
        if isinstance(found, AttachedSeen):
            return {"collections": found.space.collections}
        return {"collections": (target,)}

    async def _look(self, site: Site, target: str) -> Seen | AttachedSeen | None:
        found = await attached_seen.seen(site, target)
        self._seen[target] = found or await vector_index.seen(site, target)
        return self._seen[target]


async def _is_attached(site: Site, target: str) -> bool:
    return await attached_seen.seen(site, target) is not None

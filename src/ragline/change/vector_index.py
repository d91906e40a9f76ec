"""Changing the vector index of a collection: two slots, of which searches use one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ragline.change import build_room, building
from ragline.change.building import Building
from ragline.change.kind import Site
from ragline.core import hnsw
from ragline.core.change import Arm, Phase, Step, Trial, Value
from ragline.core.hnsw import Built, Graph
from ragline.db import indexes, search
from ragline.db.indexes import Space, VectorIndex
from ragline.db.pool import Db
from ragline.errors import Conflict, PreconditionFailed, RaglineError, UsageError
from ragline.rag.search import target_of

_LOCK = "SHARE UPDATE EXCLUSIVE on "


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was there when it was last looked at."""

    space: Space
    slots: tuple[VectorIndex, VectorIndex, VectorIndex]
    measured: Built | None

    @property
    def active(self) -> VectorIndex:
        """The slot that searches use."""
        return self.slots[self.space.index_slot]

    @property
    def base(self) -> Graph:
        """How the index that searches use is built, or is to be."""
        if found := self.active.serves or self.active.described:
            return found
        storage = hnsw.first_storage(self.space.storage, self.space.dimension) or "halfvec"
        return Graph(slot=self.space.index_slot, storage=storage, m=16, ef_construction=64)


async def seen(site: Site, collection: str) -> Seen | None:
    """Return a collection's slots; None where it has no vectors. Raises NotFound without it."""
    async with building.session(site) as db:
        return await _looked(site, db, collection)


async def wanted(
    site: Site, collection: str, want: Value, found: Seen | None
) -> tuple[Value, tuple[str, ...]]:
    """Return the index that is wanted, complete, with warnings."""
    if found is None:
        raise UsageError(f"collection {collection!r} has no vectors yet: ingest with a model first")
    if want is None:
        return None, _about_none(found)
    if not isinstance(want, Mapping):
        raise UsageError(
            f"the index of {collection!r} is wanted as {want!r}; say for example "
            '{"m": 24, "ef_construction": 128}, or null for none'
        )
    graph, chosen = hnsw.completed(
        want,
        base=found.base,
        active_slot=found.space.index_slot,
        is_built=found.active.serves is not None,
        storage=found.space.storage,
        dimension=found.space.dimension,
        metric=found.space.metric,
    )
    if found.slots[graph.slot].serves == graph:
        return hnsw.to_json(graph), chosen
    return hnsw.to_json(graph), (
        *chosen,
        *await build_room.checked(site, graph, found.space.dimension, found.space.vectors),
    )


def read(found: Seen | None) -> Value:
    """Return the index that answers searches now; None where none does."""
    graph = None if found is None else found.active.serves
    return None if graph is None else hnsw.to_json(graph)


def steps(collection: str, now: Value, want: Value, found: Seen | None) -> list[Step]:
    """Return the steps between two indexes: built beside, then switched to."""
    was, graph = _graph(now), _graph(want)
    if was == graph:
        return []
    # An index from before there were slots may serve the searches of any: it has to go.
    in_the_way = was is not None and was.slot == 0
    phase: Phase = "apply" if in_the_way else "adopt"
    if graph is None:
        empty = hnsw.other_slot(was.slot if was else 0)
        ways = [
            _drop(collection, empty, "prepare", found),
            _switch(collection, empty, phase, found),
        ]
    else:
        ways = [_build(collection, graph, found), _switch(collection, graph.slot, phase, found)]
    if in_the_way:
        ways.append(_drop(collection, 0, "apply", found))
    return ways


async def run(site: Site, step: Step) -> None:
    """Do one step."""
    async with building.session(site) as db:
        found = await _looked(site, db, step.target)
        if found is None:
            raise UsageError(f"collection {step.target!r} has no vectors any more")
        if step.action == "switch":
            slot = step.arguments["slot"]
            await _described(db, found, slot)
            await indexes.switch(db, found.space, slot)
            return
    if step.action == "drop":
        await _run_drop(site, found, step.arguments["slot"])
    else:
        await _run_build(site, found, hnsw.from_json(step.arguments))


async def confirm(site: Site, collection: str, want: Value) -> None:
    """Raise PreconditionFailed unless searches really go through the index that is wanted."""
    found = await seen(site, collection)
    now = read(found)
    if now != want or found is None:
        raise PreconditionFailed(f"the index of {collection!r} is {now}, and should be {want}")
    access = await _access(site, collection, is_index_preferred=False)
    name = found.active.name
    if want is None:
        if access is not None and "_hnsw" in access:
            raise PreconditionFailed(
                f"searches of {collection!r} still go through {access}, and should through no index"
            )
        return
    if access is not None and access.endswith(f" {name}"):
        return
    forced = await _access(site, collection, is_index_preferred=True)
    if forced is None or not forced.endswith(f" {name}"):
        raise PreconditionFailed(
            f"index {name} is valid, but searches of {collection!r} do not use it: their plan says "
            f"{forced or access}"
        )
    site.say(
        f"{name} is ready; the planner still prefers to compare all {found.space.vectors:,} vectors "
        "of so small a collection"
    )


async def arms(site: Site, collection: str, now: Value, want: Value) -> tuple[Arm, Arm] | None:
    """Return both slots to be searched in turn; None with an index from before there were slots."""
    was, graph = _graph(now), _graph(want)
    if was is not None and was.slot == 0:
        return None
    if was is None:
        found = await seen(site, collection)
        if found is None:
            return None
        old = found.space.index_slot
    else:
        old = was.slot
    new = hnsw.other_slot(old) if graph is None else graph.slot
    return {collection: Trial(slot=old)}, {collection: Trial(slot=new)}


async def tidy(site: Site, collection: str, keep: Value) -> None:
    """Drop the indexes that neither are kept nor in use, and what is invalid."""
    found, kept = await seen(site, collection), _graph(keep)
    if found is None:
        return
    for index in found.slots:
        is_active = index.slot == found.space.index_slot
        if is_active and (not index.is_there or index.is_valid or await _is_built(site, index)):
            continue
        if not is_active and kept is not None and index.serves == kept:
            continue
        if index.is_there:
            await building.removed(site, index.name)
        async with building.session(site) as db:
            await indexes.forget(db, found.space.id, index.slot)


async def _looked(site: Site, db: Db, collection: str) -> Seen | None:
    space = await indexes.space(db, collection)
    if space is None:
        await site.app.collection(collection, fresh=True)  # raises with the names that there are
        raise Conflict(f"collection {collection!r} was made just now; try again")
    if not space.id:
        return None
    return Seen(
        space=space,
        slots=await indexes.slots(db, space),
        measured=await indexes.last_build(db, space),
    )


def _graph(value: Value) -> Graph | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise UsageError(f"{value!r} is no vector index")
    return hnsw.from_json(value)


def _about_none(found: Seen) -> tuple[str, ...]:
    if found.active.serves is None:
        return ()
    said = (
        f"searches will compare every one of {found.space.vectors:,} vectors: exact, and slower "
        "with each that is added"
    )
    return said, "the next `ragline ingest` that leaves 500 chunks or more builds an index again"


# Steps.


def _build(collection: str, graph: Graph, found: Seen | None) -> Step:
    if found is None:
        raise UsageError(f"collection {collection!r} has no vectors: there is nothing to index")
    space = found.space
    is_there = found.slots[graph.slot].serves == graph
    return Step(
        kind="index",
        target=collection,
        phase="prepare",
        action="build",
        text=indexes.composed(space, graph),
        arguments=hnsw.to_json(graph),
        lock=_LOCK + space.table,
        blocks=building.BLOCKS,
        disk_bytes=0 if is_there else hnsw.index_bytes(graph, space.dimension, space.vectors),
        expected_s=0.0 if is_there else hnsw.expected_s(graph, found.measured),
    )


def _switch(collection: str, slot: int, phase: Phase, found: Seen | None) -> Step:
    space_id = found.space.id if found else 0
    return Step(
        kind="index",
        target=collection,
        phase=phase,
        action="switch",
        text=f"update ragline.embedding_space set index_slot = {slot} where id = {space_id}",  # noqa: S608 -- shown only
        arguments={"slot": slot},
        lock="one row of embedding_space",
        expected_s=0.0,
    )


def _drop(collection: str, slot: int, phase: Phase, found: Seen | None) -> Step:
    index = found.slots[slot] if found else None
    name = index.name if index else f"the index in slot {slot}"
    is_lost = index is not None and index.is_there
    return Step(
        kind="index",
        target=collection,
        phase=phase,
        action="drop",
        text=f"drop index concurrently if exists ragline.{name}",
        arguments={"slot": slot},
        lock=_LOCK + (found.space.table if found else "its table"),
        blocks=building.BLOCKS,
        loses=f"index {name}; undo builds it again" if is_lost else None,
    )


async def _run_drop(site: Site, found: Seen, slot: int) -> None:
    if slot == found.space.index_slot:
        raise Conflict(
            f"slot {slot} of {found.space.collection!r} is what searches use now; plan again"
        )
    async with building.session(site) as db:
        # It is searched through this slot, without an index; also then it says what vectors are read as.
        await _described(db, found, slot)
    if found.slots[slot].is_there:
        await building.removed(site, found.slots[slot].name)


async def _described(db: Db, found: Seen, slot: int) -> None:
    if found.slots[slot].described is None:
        await indexes.describe(db, found.space.id, replace(found.base, slot=slot))


async def _run_build(site: Site, found: Seen, graph: Graph) -> None:
    index, space = found.slots[graph.slot], found.space
    if graph.slot == space.index_slot and index.is_valid and index.graph != graph:
        raise Conflict(
            f"slot {graph.slot} of {space.collection!r} is what searches use now, and it is built "
            "otherwise; plan again"
        )
    if index.serves != graph:
        await building.stopped(site, index.name)
    async with building.session(site) as db:
        await indexes.describe(db, space.id, graph)
    site.reached("index:described")
    if index.serves != graph:
        if index.is_there:
            site.say(f"dropping {index.name}: it is {_state(index)}")
            await building.dropped(site, index.name)
        await _build_anew(site, space, graph)
    site.reached("index:built")


def _state(index: VectorIndex) -> str:
    return "another one, no longer needed" if index.is_valid else "invalid, left by a broken build"


async def _build_anew(site: Site, space: Space, graph: Graph) -> None:
    async with building.session(site) as db:
        sql = await indexes.statement(db, space, graph.slot)
    if sql is None:
        raise PreconditionFailed(
            f"no index can hold {space.dimension}-dimensional vectors as {graph.storage}"
        )
    name = indexes.name_of(space, graph.slot)
    settings = await build_room.settings(site, graph, space.dimension, space.vectors)
    await building.built(site, Building(name=name, table=space.table, sql=sql, settings=settings))
    async with building.session(site) as db:
        index = (await indexes.slots(db, space))[graph.slot]
    if index.serves != graph:
        raise RaglineError(
            f"index {name} was built, but is {index.graph} (valid: {index.is_valid}) and not {graph}"
        )


async def _is_built(site: Site, index: VectorIndex) -> bool:
    async with building.session(site) as db:
        return bool(await indexes.in_flight(db, index.name))


async def _access(site: Site, collection: str, *, is_index_preferred: bool) -> str | None:
    """Return how a search reads the vectors, as a role that searches sees it."""
    facts = await site.app.collection(collection, fresh=True)
    if facts.space is None:
        return None
    ask = search.Ask(
        k=10, candidates=10, ef_search=100, vector=np.ones(facts.space.dimension, dtype=np.float32)
    )
    pool = await site.app.pool(site.app.search_workload)
    async with pool.connection() as connection, connection.transaction():
        if is_index_preferred:
            for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
                await connection.execute(f"set local {name} = off")
        plan: dict[str, Any] = await search.explained(connection, target_of(facts), "vector", ask)
    return search.vector_access(plan)

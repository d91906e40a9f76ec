"""Changing the vector index of an attached table: tried beside, then put in the place of the old one.

Two indexes of the same column would both serve every search, and those of the table's own application,
whichever the planner thinks cheaper. So the one on trial is of an expression that only searches on trial
use. What is kept is built once more, of the column itself, under the old one's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ragline.change import build_room, building, ordinary_index
from ragline.change.building import Building
from ragline.change.kind import Site
from ragline.core import hnsw, index_definition
from ragline.core.change import Arm, Phase, Step, Trial, Value
from ragline.core.hnsw import Graph
from ragline.core.index_definition import Place
from ragline.db import attached_indexes, attached_sql, indexes
from ragline.db.attached_indexes import PRODUCTION_SLOT, AttachedSpace, TableIndex
from ragline.db.attached_sql import TRIAL_SLOT
from ragline.db.indexes import Db
from ragline.db.pool import quoted
from ragline.errors import Conflict, PreconditionFailed, RaglineError, UsageError

_TRIAL = "trial"
_BLOCKS = "DDL and vacuum of that table; no reader, no writer"
_OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedSeen:
    """What was there when it was last looked at."""

    space: AttachedSpace
    indexes: tuple[TableIndex, ...]

    @property
    def production(self) -> TableIndex | None:
        """The index that searches are written for; of several of one kind the first by name."""
        return next(
            (
                one
                for one in self.indexes
                if one.is_valid
                and one.slot == PRODUCTION_SLOT
                and one.storage == self.space.described.storage
            ),
            None,
        )

    def named(self, name: str) -> TableIndex | None:
        """Return the vector index of this name."""
        return next((one for one in self.indexes if one.name == name), None)


async def seen(site: Site, collection: str) -> AttachedSeen | None:
    """Return the indexes of an attached table; None where the collection is no attached one."""
    async with building.session(site) as db:
        space = await attached_indexes.space(db, collection)
        if space is None:
            return None
        return AttachedSeen(space=space, indexes=await attached_indexes.indexes_of(db, space))


async def wanted(
    site: Site, collection: str, want: Value, found: AttachedSeen
) -> tuple[Value, tuple[str, ...]]:
    """Return the index that is wanted, complete, with warnings."""
    if want is None:
        return None, _about_none(found)
    if not isinstance(want, Mapping):
        raise UsageError(
            f"the index of {collection!r} is wanted as {want!r}; say for example "
            '{"m": 24, "ef_construction": 128}, or null for none'
        )
    if "definition" in want:
        return dict(want), ()
    if "slot" in want:
        raise UsageError("an attached table's index has no slot; leave it out")
    space, now = found.space, found.production
    graph, chosen = hnsw.completed(
        want,
        base=now.graph if now and now.graph else space.described,
        active_slot=PRODUCTION_SLOT,
        is_built=bool(now and now.graph),
        storage=space.held,
        dimension=space.dimension,
        metric=space.metric,
    )
    if now is not None and graph.is_like(now.graph):
        return _value(now), chosen
    graph = replace(graph, slot=PRODUCTION_SLOT)
    name = _name(found, graph)
    async with building.session(site) as db:
        written = await indexes.written(db, name)
    value = _shape(graph) | {
        "name": name,
        "definition": attached_indexes.definition(space, written, graph),
    }
    said = await build_room.checked(site, graph, space.dimension, space.rows)
    return value, (*chosen, *said, *_about(found, graph))


def read(found: AttachedSeen) -> Value:
    """Return the index that production's searches can use; None where none is."""
    return None if found.production is None else _value(found.production)


def steps(collection: str, now: Value, want: Value, found: AttachedSeen) -> list[Step]:
    """Return the steps between two indexes."""
    if now == want:
        return []
    was, will = _mapping(now), _mapping(want)
    if will is None:
        return [_without_trial(collection, found, "prepare"), *_ordinary(found, was, None)]
    ways: list[Step] = []
    there = found.named(will["name"])
    if there is None or not there.is_valid or there.definition != will["definition"]:
        if (graph := _graph(will)) is not None:
            ways.append(_trial(collection, graph, found))
        is_replaced = was is not None and was["name"] == will["name"]
        ways += _ordinary(found, was if is_replaced else None, will)
        ways.append(_without_trial(collection, found, "adopt"))
    ways.append(_switch(collection, will, found))
    if was is not None and was["name"] != will["name"] and _is_dropped(was, will, found):
        ways += _ordinary(found, was, None)
    return ways


async def run(site: Site, step: Step) -> None:
    """Do one step of our own; those of ordinary indexes are theirs."""
    found = await seen(site, step.target)
    if found is None:
        raise UsageError(f"collection {step.target!r} is not attached any more")
    if step.action == "build":
        await _build_trial(site, found, Graph(slot=TRIAL_SLOT, **step.arguments))
    elif step.action == "drop":
        await _drop_trial(site, found)
        # Searches on trial without an index compare every vector; they still need to know as what.
        async with building.session(site) as db:
            trial = replace(found.space.described, slot=TRIAL_SLOT)
            await indexes.describe(db, found.space.id, trial)
    else:
        production = Graph(slot=PRODUCTION_SLOT, **step.arguments)
        async with building.session(site) as db:
            await attached_indexes.describe_production(db, found.space, production)


async def confirm(site: Site, collection: str, want: Value) -> None:
    """Raise PreconditionFailed unless searches really go through the index that is wanted."""
    found = await seen(site, collection)
    now = None if found is None else read(found)
    if found is None or now != want:
        raise PreconditionFailed(f"the index of {collection!r} is {now}, and should be {want}")
    will = _mapping(want)
    if will is None:
        return
    async with building.session(site, found.space.attached.schema) as db:
        usual = await _used(db, found.space, is_index_preferred=False)
        forced = await _used(db, found.space, is_index_preferred=True)
    if usual == will["name"]:
        return
    if usual is not None or forced != will["name"]:
        raise PreconditionFailed(
            f"index {will['name']} is valid, but searches of {collection!r} do not use it: their plan "
            f"uses {usual or forced or 'none'}"
        )
    site.say(
        f"{will['name']} is ready; the planner still prefers to compare all {found.space.rows:,} "
        "vectors of so small a table"
    )


def arms(collection: str) -> tuple[Arm, Arm]:
    """Return how both are searched: as production does, and through what is on trial."""
    return (
        {collection: Trial(slot=PRODUCTION_SLOT)},
        {collection: Trial(slot=TRIAL_SLOT)},
    )


async def tidy(site: Site, collection: str, keep: Value) -> None:
    """Drop what is on trial, and what broken builds left."""
    found = await seen(site, collection)
    if found is None:
        return
    await _drop_trial(site, found)
    async with building.session(site) as db:
        await indexes.forget(db, found.space.id, TRIAL_SLOT)
    kept = _mapping(keep)
    names = {_default_name(found, storage) for storage in hnsw.STORAGES}
    if kept is not None:
        names.add(kept["name"])
    for name in sorted(names):
        await ordinary_index.tidy(site, _target(found, name), None)


def _value(index: TableIndex) -> dict[str, Any]:
    """Return an index as plain values; one of another method has neither m nor ef_construction."""
    graph = index.graph
    return {
        "storage": index.storage,
        "m": graph.m if graph else None,
        "ef_construction": graph.ef_construction if graph else None,
        "name": index.name,
        "definition": index.definition,
    }


def _shape(graph: Graph) -> dict[str, Any]:
    return {
        "storage": graph.storage,
        "m": graph.m,
        "ef_construction": graph.ef_construction,
    }


def _mapping(value: Value) -> Mapping[str, Any] | None:
    if value is None or isinstance(value, Mapping):
        return value
    raise UsageError(f"{value!r} is no vector index")


def _graph(value: Mapping[str, Any]) -> Graph | None:
    """Return how an index is built; None for one of another method."""
    if value["m"] is None:
        return None
    return Graph(
        slot=TRIAL_SLOT,
        storage=value["storage"],
        m=value["m"],
        ef_construction=value["ef_construction"],
    )


def _is_dropped(was: Mapping[str, Any], will: Mapping[str, Any], found: AttachedSeen) -> bool:
    """Whether nothing needs the old one: one of the column itself may be the application's."""
    held: str = found.space.held
    return bool(was["storage"] == will["storage"] or was["storage"] != held)


def _name(found: AttachedSeen, graph: Graph) -> str:
    now = found.production
    if now is not None and now.graph is not None and now.storage == graph.storage:
        return now.name
    name = _default_name(found, graph.storage)
    taken = found.named(name)
    if taken is not None and taken.is_valid and taken.slot != PRODUCTION_SLOT:
        raise Conflict(
            f"index {name!r} of table {found.space.attached.table!r} stands where the new one is to "
            "be: rename it"
        )
    return name


def _default_name(found: AttachedSeen, storage: str) -> str:
    attached = found.space.attached
    ending = "hnsw" if storage == found.space.held else f"{storage}_hnsw"
    return index_definition.beside(f"{attached.table}_{attached.embedding}", ending)


def _trial_name(found: AttachedSeen) -> str:
    attached = found.space.attached
    return index_definition.beside(f"{attached.table}_{attached.embedding}", _TRIAL)


def _target(found: AttachedSeen, name: str) -> str:
    attached = found.space.attached
    return str(Place(schema=attached.schema, table=attached.table, name=name))


def _about_none(found: AttachedSeen) -> tuple[str, ...]:
    if found.production is None:
        return ()
    said = (
        f"searches will compare every one of about {found.space.rows:,} vectors, and so will those of "
        "the table's own application"
    )
    return (said,)


def _about(found: AttachedSeen, graph: Graph) -> tuple[str, ...]:
    said = ["it is built twice: once to be tried beside what is in use, and once to stay"]
    now = found.production
    if graph.storage != found.space.held:
        said.append(
            "only searches through ragline use an index of halves: the table's own application goes "
            "on with what it has"
        )
    elif now is not None:
        said.append(f"{now.name} is dropped when the new one is kept; undo builds it again")
    return tuple(said)


# Steps.


def _ordinary(
    found: AttachedSeen, was: Mapping[str, Any] | None, will: Mapping[str, Any] | None
) -> list[Step]:
    """Return the steps of an index without a trial, after the verdict."""
    named = will or was
    if named is None:
        return []
    ways = ordinary_index.steps(_target(found, named["name"]), _defined(was), _defined(will))
    return [replace(step, phase="adopt") for step in ways]


def _defined(value: Mapping[str, Any] | None) -> Value:
    return None if value is None else {"definition": value["definition"]}


def _trial(collection: str, graph: Graph, found: AttachedSeen) -> Step:
    space = found.space
    return Step(
        kind="index",
        target=collection,
        phase="prepare",
        action="build",
        text=_online(found, graph),
        arguments=_shape(graph),
        lock=f"SHARE UPDATE EXCLUSIVE on {space.attached.table}",
        blocks=_BLOCKS,
        disk_bytes=hnsw.index_bytes(graph, space.dimension, space.rows),
    )


def _without_trial(collection: str, found: AttachedSeen, phase: Phase) -> Step:
    attached = found.space.attached
    name = f"{quoted(attached.schema)}.{quoted(_trial_name(found))}"
    return Step(
        kind="index",
        target=collection,
        phase=phase,
        action="drop",
        text=f"drop index concurrently if exists {name}",
        lock=f"SHARE UPDATE EXCLUSIVE on {attached.table}",
        blocks=_BLOCKS,
    )


def _switch(collection: str, will: Mapping[str, Any], found: AttachedSeen) -> Step:
    shape = replace(found.space.described, storage=will["storage"])
    if (graph := _graph(will)) is not None:
        shape = graph
    return Step(
        kind="index",
        target=collection,
        phase="adopt",
        action="switch",
        text=f"searches of {collection} are written for an index of {will['storage']}",
        arguments=_shape(shape),
        lock="one row of space_index",
        expected_s=0.0,
    )


def _online(found: AttachedSeen, graph: Graph) -> str:
    name = _trial_name(found)
    text = attached_indexes.definition(found.space, quoted(name), graph)
    return index_definition.online(text, name, quoted(name))


async def _build_trial(site: Site, found: AttachedSeen, graph: Graph) -> None:
    space, name = found.space, _trial_name(found)
    await building.stopped(site, name, space.attached.schema)
    async with building.session(site) as db:
        await indexes.describe(db, space.id, graph)
    site.reached("index:described")
    there = found.named(name)
    if there is None or not there.is_valid or there.graph != graph:
        if await _is_left(site, space, name):
            await building.dropped(site, name, space.attached.schema)
        await _build_anew(site, found, graph)
    site.reached("index:built")


async def _build_anew(site: Site, found: AttachedSeen, graph: Graph) -> None:
    space, name = found.space, _trial_name(found)
    await building.built(
        site,
        Building(
            name=name,
            table=space.attached.table,
            sql=_online(found, graph),
            settings=await build_room.settings(site, graph, space.dimension, space.rows),
            schema=space.attached.schema,
        ),
    )
    fresh = await seen(site, space.collection)
    built = None if fresh is None else fresh.named(name)
    if built is None or not built.is_valid or built.graph != graph:
        raise RaglineError(f"index {name} was built, but is {built} and not {graph}")


async def _is_left(site: Site, space: AttachedSpace, name: str) -> bool:
    """Whether an index of this name is there; one of another table is not ours to drop."""
    async with building.session(site) as db:
        left = await indexes.ordinary(db, name, space.attached.schema)
    if left is not None and left.table != space.attached.table:
        raise Conflict(
            f"an index {name!r} of table {left.table!r} stands where one of "
            f"{space.attached.table!r} is to be tried: rename it"
        )
    return left is not None


async def _drop_trial(site: Site, found: AttachedSeen) -> None:
    name, schema = _trial_name(found), found.space.attached.schema
    if await _is_left(site, found.space, name):
        await building.stopped(site, name, schema)
        await building.dropped(site, name, schema)


async def _used(db: Db, space: AttachedSpace, *, is_index_preferred: bool) -> str | None:
    """Return which index a search of the table would use. Nothing is run."""
    schema, storage = quoted(space.vector_schema), space.described.storage
    vector = attached_sql.vector(
        space.attached,
        held=space.held,
        storage=storage,
        dimension=space.dimension,
        vector_schema=space.vector_schema,
    )
    ones = "[" + ",".join("1" * space.dimension) + "]"
    sql = f"""
        explain (format json)
        select 1 from {attached_sql.table(space.attached)} t
        order by {vector} operator({schema}.{_OPERATORS[space.metric]})
                 '{ones}'::{schema}.{storage}({space.dimension:d})
        limit 10
    """  # noqa: S608 -- quoted names and numbers of our own
    async with db.transaction():
        if is_index_preferred:
            for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
                await db.execute(f"set local {name} = off")
        (plan,) = json.loads(await db.fetchval(sql))
    return _index_of(plan["Plan"])


def _index_of(node: Mapping[str, Any]) -> str | None:
    if (name := node.get("Index Name")) is not None:
        return str(name)
    return next((found for one in node.get("Plans", ()) if (found := _index_of(one))), None)

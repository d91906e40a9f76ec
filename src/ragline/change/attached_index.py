"""Changing the vector index of an attached table: tried beside, then put in the place of the old one.

Two indexes of the same column would both serve every search, and those of the table's own application,
whichever the planner thinks cheaper. So the one on trial is of an expression that only searches on trial
use. What is kept is built once more, of the column itself, under the old one's name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ragline.change import attached_seen, attached_trial, build_room, building, ordinary_index
from ragline.change.attached_seen import AttachedSeen, seen
from ragline.change.kind import Site
from ragline.core import hnsw, index_definition
from ragline.core.change import Arm, Step, Trial, Value
from ragline.core.hnsw import Graph
from ragline.db import attached_indexes, indexes
from ragline.db.attached_indexes import PRODUCTION_SLOT, TableIndex
from ragline.db.attached_sql import TRIAL_SLOT
from ragline.errors import Conflict, PreconditionFailed, UsageError

_BESIDE = ("new", "old")


async def wanted(
    site: Site, collection: str, want: Value, found: AttachedSeen
) -> tuple[Value, tuple[str, ...]]:
    """Return the index that is wanted, complete, with warnings."""
    await attached_seen.check_may_change(site, found)
    if want is None:
        return None, _about_none(found)
    if not isinstance(want, Mapping):
        raise UsageError(
            f"the index of {collection!r} is wanted as {want!r}; say for example "
            '{"m": 24, "ef_construction": 128}, or null for none'
        )
    if "definition" in want:
        return attached_seen.whole(found, want), ()
    if "slot" in want:
        raise UsageError("an attached table's index has no slot; leave it out")
    space, now = found.space, found.production
    await attached_seen.check_is_walked(site, found)
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
    name = attached_seen.name_of(found, graph)
    there = found.named(name)
    if there is not None and there.is_valid and graph.is_like(there.graph):
        return _value(there), (*chosen, f"{name} stands already: it is measured before and after")
    await attached_seen.check_is_free(site, found, name)
    async with building.session(site) as db:
        written = await indexes.written(db, name)
    value = attached_trial.shape(graph) | {
        "name": name,
        "definition": attached_indexes.definition(space, written, graph),
    }
    said = await build_room.checked(site, graph, space.dimension, space.rows)
    return value, (*chosen, *said, *_about(found, graph))


def read(found: AttachedSeen) -> Value:
    """Return the index that production's searches can use; None where none is."""
    return None if found.production is None else _value(found.production)


def steps(collection: str, now: Value, want: Value, found: AttachedSeen) -> list[Step]:
    """Return the steps between two indexes; where one is as wanted, what clears up after a swap."""
    if now == want:
        return _rest(collection, _mapping(want), found)
    was, will = _mapping(now), _mapping(want)
    if will is None:
        return [
            attached_trial.dropping_it(collection, found, "prepare"),
            *_ordinary(found, was, None),
        ]
    ways: list[Step] = []
    if not _is_there(found, will):
        if (graph := _graph(will)) is not None:
            ways.append(attached_trial.building_it(collection, graph, found))
        is_replaced = was is not None and was["name"] == will["name"]
        ways += _ordinary(found, was if is_replaced else None, will)
        ways.append(attached_trial.dropping_it(collection, found, "adopt"))
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
        await attached_trial.build(site, found, Graph(slot=TRIAL_SLOT, **step.arguments))
    elif step.action == "drop" and step.phase == "adopt":
        await attached_trial.end(site, found)
    elif step.action == "drop":
        await attached_trial.drop(site, found)
        # Searches on trial without an index compare every vector; they still need to know as what.
        async with building.session(site) as db:
            trial = replace(found.space.described, slot=TRIAL_SLOT)
            for space_id in found.space.space_ids:
                await indexes.describe(db, space_id, trial)
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
        usual = await attached_seen.used(db, found.space, is_index_preferred=False)
        forced = await attached_seen.used(db, found.space, is_index_preferred=True)
    if usual == will["name"]:
        return
    # Others that find the rows that belong are the planner's free choice: of another column, or of a
    # part of the table, which the application may have made meanwhile.
    if _is_another(found, usual) or (forced != will["name"] and not _is_of_a_part(found, forced)):
        raise PreconditionFailed(
            f"index {will['name']} is valid, but searches of {collection!r} do not use it: their plan "
            f"uses {usual or forced or 'none'}"
        )
    how = f"goes through {usual or forced}" if forced != will["name"] else "compares all vectors"
    site.say(f"{will['name']} is ready; so far the planner {how}, which it thinks cheaper")


def arms(found: AttachedSeen, want: Value) -> tuple[Arm, Arm] | None:
    """Return how both are searched: as production does, and through what is on trial.

    None where nothing is tried, because what is wanted stands already: it is searched after the switch.
    """
    will = _mapping(want)
    if will is not None and (_is_there(found, will) or _graph(will) is None):
        return None
    names = found.space.collections
    return (
        {name: Trial(slot=PRODUCTION_SLOT) for name in names},
        {name: Trial(slot=TRIAL_SLOT) for name in names},
    )


async def tidy(site: Site, collection: str, keep: Value) -> None:
    """Drop what is on trial, and what broken builds left."""
    found = await seen(site, collection)
    if found is None:
        return
    await attached_trial.end(site, found)
    kept = _mapping(keep)
    names = {attached_seen.default_name(found, storage) for storage in hnsw.STORAGES}
    if kept is not None:
        names.add(kept["name"])
    for name in sorted(names):
        # One of another table only has the name.
        with contextlib.suppress(Conflict):
            await ordinary_index.tidy(site, attached_seen.target_of(found, name), None)


def _is_another(found: AttachedSeen, name: str | None) -> bool:
    one = found.named(name or "")
    return one is not None and not one.is_partial


def _is_of_a_part(found: AttachedSeen, name: str | None) -> bool:
    one = found.named(name or "")
    return one is not None and one.is_partial


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


def _is_there(found: AttachedSeen, will: Mapping[str, Any]) -> bool:
    there = found.named(will["name"])
    return there is not None and there.is_valid and there.definition == will["definition"]


def _is_dropped(was: Mapping[str, Any], will: Mapping[str, Any], found: AttachedSeen) -> bool:
    """Whether nothing needs the old one: one of the column itself may be the application's."""
    held: str = found.space.held
    return bool(was["storage"] == will["storage"] or was["storage"] != held)


def _rest(collection: str, will: Mapping[str, Any] | None, found: AttachedSeen) -> list[Step]:
    """Return what is still to be done where an index is as wanted already: a swap was interrupted."""
    graph = None if will is None else _graph(will)
    if will is None or graph is None:
        return []
    names = [index_definition.beside(will["name"], ending) for ending in _BESIDE]
    left = [name for name in names if found.named(name) is not None]
    if not left and graph.is_like(found.space.described):
        return []
    target = attached_seen.target_of(found, will["name"])
    return [
        *(replace(ordinary_index.dropping(target, name), phase="adopt") for name in left),
        attached_trial.dropping_it(collection, found, "adopt"),
        _switch(collection, will, found),
    ]


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
    if others := found.space.collections[1:]:
        said.append(f"the table is attached as {', '.join(others)} too: these are measured with it")
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
    ways = ordinary_index.steps(
        attached_seen.target_of(found, named["name"]), _defined(was), _defined(will)
    )
    graph = None if will is None else _graph(will)
    return [replace(_roomy(step, graph, found), phase="adopt") for step in ways]


def _roomy(step: Step, graph: Graph | None, found: AttachedSeen) -> Step:
    """Return the step with what a build needs to know of its size."""
    if graph is None or step.action != "build":
        return step
    size = {"dimension": found.space.dimension, "rows": found.space.rows}
    return replace(
        step,
        arguments={**step.arguments, "graph": hnsw.to_json(graph) | size},
        disk_bytes=hnsw.index_bytes(graph, found.space.dimension, found.space.rows),
    )


def _defined(value: Mapping[str, Any] | None) -> Value:
    return None if value is None else {"definition": value["definition"]}


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
        arguments=attached_trial.shape(shape),
        lock="one row of space_index",
        expected_s=0.0,
    )

"""The index of an attached table that is on trial: of an expression that only searches on trial use."""

from __future__ import annotations

import contextlib
from typing import Any

from ragline.change import attached_seen, build_room, building
from ragline.change.attached_seen import AttachedSeen, seen
from ragline.change.building import Building
from ragline.change.kind import Site
from ragline.core import hnsw, index_definition
from ragline.core.change import Phase, Step
from ragline.core.hnsw import Graph
from ragline.db import attached_indexes, indexes
from ragline.db.attached_sql import TRIAL_SLOT
from ragline.db.pool import quoted
from ragline.errors import Conflict, RaglineError


def shape(graph: Graph) -> dict[str, Any]:
    """Return how an index is built as plain values."""
    return {
        "storage": graph.storage,
        "m": graph.m,
        "ef_construction": graph.ef_construction,
    }


def building_it(collection: str, graph: Graph, found: AttachedSeen) -> Step:
    """Return the step that builds what is tried."""
    space = found.space
    return Step(
        kind="index",
        target=collection,
        phase="prepare",
        action="build",
        text=_online(found, graph),
        arguments=shape(graph),
        lock=f"SHARE UPDATE EXCLUSIVE on {space.attached.table}",
        blocks=building.BLOCKS,
        disk_bytes=hnsw.index_bytes(graph, space.dimension, space.rows),
    )


def dropping_it(collection: str, found: AttachedSeen, phase: Phase) -> Step:
    """Return the step that drops what was tried."""
    attached = found.space.attached
    name = f"{quoted(attached.schema)}.{quoted(attached_seen.trial_name(found))}"
    return Step(
        kind="index",
        target=collection,
        phase=phase,
        action="drop",
        text=f"drop index concurrently if exists {name}",
        lock=f"SHARE UPDATE EXCLUSIVE on {attached.table}",
        blocks=building.BLOCKS,
    )


def _online(found: AttachedSeen, graph: Graph) -> str:
    name = attached_seen.trial_name(found)
    text = attached_indexes.definition(found.space, quoted(name), graph)
    return index_definition.online(text, name, quoted(name))


async def build(site: Site, found: AttachedSeen, graph: Graph) -> None:
    """Build what is tried, unless it stands there."""
    space, name = found.space, attached_seen.trial_name(found)
    await building.stopped(site, name, space.attached.schema)
    async with building.session(site) as db:
        for space_id in space.space_ids:
            await indexes.describe(db, space_id, graph)
    site.reached("index:described")
    there = found.named(name)
    if there is None or not there.is_valid or there.graph != graph:
        if await _is_left(site, found, name):
            await building.dropped(site, name, space.attached.schema)
        await _build_anew(site, found, graph)
    site.reached("index:built")


async def _build_anew(site: Site, found: AttachedSeen, graph: Graph) -> None:
    space, name = found.space, attached_seen.trial_name(found)
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


async def _is_left(site: Site, found: AttachedSeen, name: str) -> bool:
    """Whether a trial of ours left an index of this name; any other is not ours to drop."""
    attached = found.space.attached
    async with building.session(site) as db:
        left = await indexes.ordinary(db, name, attached.schema)
    if left is not None and not attached_seen.is_on_trial(found, left):
        raise Conflict(
            f"an index {name!r} of table {left.table!r} stands where one of {attached.table!r} is to "
            "be tried: rename it"
        )
    return left is not None


async def drop(site: Site, found: AttachedSeen) -> None:
    """Drop what was tried; an index of somebody else's stays."""
    name, schema = attached_seen.trial_name(found), found.space.attached.schema
    with contextlib.suppress(Conflict):
        if await _is_left(site, found, name):
            await building.removed(site, name, schema)


async def end(site: Site, found: AttachedSeen) -> None:
    """Drop what was tried, and have no search look for it any more."""
    await drop(site, found)
    async with building.session(site) as db:
        for space_id in found.space.space_ids:
            await indexes.forget(db, space_id, TRIAL_SLOT)

"""Changing an ordinary index: made, dropped, or another in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragline.change import build_room, building
from ragline.change.building import Building
from ragline.change.kind import Site
from ragline.core import hnsw, index_definition
from ragline.core.change import Step, Value
from ragline.core.dsn import nearest
from ragline.core.index_definition import Place
from ragline.db import indexes
from ragline.db.indexes import OrdinaryIndex
from ragline.db.pool import Db, quoted
from ragline.errors import Conflict, NotFound, PreconditionFailed, UsageError

_SCHEMA = indexes.OWN_SCHEMA
_NOT_OURS = ("information_schema", "pg_catalog", "pg_toast")
# What content and evaluations are found by. Those of vectors belong to their collection; the ledger
# has what it needs.
TABLES = (
    "attribute", "baseline", "chunk", "collection", "collection_statistic", "dataset",
    "dataset_case", "dead_chunk", "document", "fresh_chunk", "posting_block", "run", "run_case",
    "term", "term_statistic", "verdict",
)  # fmt: skip
_NEW, _OLD = "new", "old"


def is_ordinary(target: str) -> bool:
    """Whether a target names an index of a table; a collection may have a dot in its name, too.

    "table.index" is one of ragline's tables, "@schema.table.index" one of any other.
    """
    table, dot, name = target.partition(".")
    return target.startswith("@") or (bool(dot and name) and table in TABLES)


async def wanted(site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
    """Return the definition as the server writes it, or None for no index."""
    place = _place(target)
    found = await _found(site, place)
    if found is not None and found.constraint is not None:
        raise UsageError(
            f"index {target} keeps the constraint {found.constraint!r} of table {place.table}: it can "
            "be neither dropped nor replaced"
        )
    if want is None:
        if found is None:
            raise NotFound(await _no_index(site, place))
        async with building.session(site, place.schema) as db:
            await building.check_may_index(db, place.schema, place.table)
        return None, _about_none(found)
    if not isinstance(want, Mapping) or set(want) != {"definition"}:
        raise UsageError(
            f"index {target} is wanted as {want!r}; say "
            f'{{"definition": "create index {place.name} on {place.schema}.{place.table} (…)"}}, or '
            "null for none"
        )
    definition = index_definition.parsed(
        str(want["definition"]), schema=place.schema, table=place.table, name=place.name
    )
    await _check_room(site, place, is_there=found is not None)
    async with building.session(site, place.schema) as db:
        await _check_table(db, place)
        return {"definition": await indexes.normalised(db, definition, place.schema)}, ()


async def _check_room(site: Site, place: Place, *, is_there: bool) -> None:
    """Raise Conflict where something of somebody's has the index's name, or one to replace it by."""
    async with building.session(site, place.schema) as db:
        if not is_there and await indexes.table_kind(db, place.schema, place.name) is not None:
            raise Conflict(
                f"{place.schema}.{place.name} is there, and no index: choose another name"
            )
        names = [index_definition.beside(place.name, one) for one in (_NEW, _OLD) if is_there]
        beside = [await indexes.ordinary(db, name, place.schema) for name in names]
    for one in beside:
        if one is not None:
            await _check_is_ours(site, one, place)


async def _check_table(db: Db, place: Place) -> None:
    """Raise unless an index can be built on the table without stopping anybody."""
    if place.schema == _SCHEMA:
        return
    kind = await indexes.table_kind(db, place.schema, place.table)
    if kind is None:
        raise NotFound(f"there is no table {place.schema}.{place.table} in this database")
    if kind not in ("table", "materialized view"):
        raise UsageError(
            f"{place.schema}.{place.table} is a {kind}: no index of it can be built without "
            "stopping its writers; index what it reads from, each part by itself"
        )
    await building.check_may_index(db, place.schema, place.table)


async def read(site: Site, target: str) -> Value:
    """Return the definition of an index that works; None where there is none."""
    found = await _found(site, _place(target))
    if found is None or not found.is_valid:
        return None
    return {"definition": found.definition}


def steps(target: str, now: Value, want: Value) -> list[Step]:
    """Return the steps between two definitions. All are in effect at once: the planner is free."""
    if now == want:
        return []
    name = _place(target).name
    if want is None:
        return [dropping(target, name, loses=True)]
    definition = _definition(want)
    if now is None:
        return [_build(target, name, definition)]
    new, old = index_definition.beside(name, _NEW), index_definition.beside(name, _OLD)
    return [_build(target, new, definition), _swap(target, definition), dropping(target, old)]


async def run(site: Site, step: Step) -> None:
    """Do one step."""
    if step.action == "build":
        await _run_build(site, step)
    elif step.action == "switch":
        await _run_swap(site, step)
    else:
        await building.removed(site, step.arguments["name"], _place(step.target).schema)


async def confirm(site: Site, target: str, want: Value) -> None:
    """Raise PreconditionFailed unless the index is there, valid, and as wanted; or really is not."""
    found = await _found(site, _place(target))
    if want is None and found is not None:
        raise PreconditionFailed(f"index {target} is still there")
    now = await read(site, target)
    if now != want:
        raise PreconditionFailed(f"index {target} is {now}, and should be {want}")


async def tidy(site: Site, target: str, keep: Value) -> None:
    """Drop what a replacement left beside the index, and the index itself where it is invalid."""
    place = _place(target)
    for ending in (_NEW, _OLD):
        beside = index_definition.beside(place.name, ending)
        async with building.session(site, place.schema) as db:
            left = await indexes.ordinary(db, beside, place.schema)
        # Somebody's own may look like ours.
        if left is not None and await _is_ours(site, left, place):
            await building.removed(site, beside, place.schema)
    found = await _found(site, place)
    if found is not None and not found.is_valid and found.constraint is None:
        await building.removed(site, place.name, place.schema)


def _place(target: str) -> Place:
    if not target.startswith("@"):
        table, _, name = target.partition(".")
        return Place(schema=_SCHEMA, table=table, name=name)
    place = index_definition.place(target)
    if place.schema == _SCHEMA:
        raise UsageError(f"an index of ragline's own tables is called {place.table}.{place.name}")
    if place.schema in _NOT_OURS:
        raise UsageError(f"{place.schema} is PostgreSQL's own: nothing of it can be changed")
    return place


def _definition(value: Value) -> str:
    if not isinstance(value, Mapping):
        raise UsageError(f"{value!r} is no definition of an index")
    definition: str = value["definition"]
    return definition


def _about_none(found: OrdinaryIndex) -> tuple[str, ...]:
    said = [f"every search and write that used {found.name} will do without it"]
    if found.table == "attribute":
        said.append("filters are found by it: it is missed only by a measurement that has some")
    if found.definition.startswith("CREATE UNIQUE "):
        said.append(f"{found.name} also keeps rows from being there twice; without it nothing does")
    return tuple(said)


async def _found(site: Site, place: Place) -> OrdinaryIndex | None:
    async with building.session(site, place.schema) as db:
        found = await indexes.ordinary(db, place.name, place.schema)
    if found is not None and found.table != place.table:
        raise Conflict(
            f"index {place.name!r} belongs to table {found.table!r}, not to {place.table!r}: say "
            f"{Place(schema=place.schema, table=found.table, name=place.name)}"
        )
    return found


async def _no_index(site: Site, place: Place) -> str:
    async with building.session(site, place.schema) as db:
        there = await indexes.names(db, place.table, place.schema)
    near = nearest(place.name, there)
    meant = f"; did you mean {near!r}?" if near else f"; there are: {', '.join(there) or 'none'}"
    return f"table {place.table!r} has no index {place.name!r}{meant}"


def _build(target: str, name: str, definition: str) -> Step:
    place = _place(target)
    return Step(
        kind="index",
        target=target,
        phase="apply",
        action="build",
        text=index_definition.online(definition, place.name, quoted(name)),
        arguments={"name": name, "definition": definition},
        lock=f"SHARE UPDATE EXCLUSIVE on {place.table}",
        blocks=building.BLOCKS,
    )


def _swap(target: str, definition: str) -> Step:
    place = _place(target)
    new, old = (index_definition.beside(place.name, ending) for ending in (_NEW, _OLD))
    return Step(
        kind="index",
        target=target,
        phase="apply",
        action="switch",
        text="; ".join(
            f"alter index {quoted(place.schema)}.{quoted(one)} rename to {quoted(other)}"
            for one, other in ((place.name, old), (new, place.name))
        ),
        arguments={"definition": definition},
        lock="SHARE UPDATE EXCLUSIVE on both indexes",
        blocks="DDL of these indexes",
        expected_s=0.0,
    )


def dropping(target: str, name: str, *, loses: bool = False) -> Step:
    """Return the step that drops an index, or what a replacement left beside it."""
    place = _place(target)
    return Step(
        kind="index",
        target=target,
        phase="apply",
        action="drop",
        text=f"drop index concurrently if exists {quoted(place.schema)}.{quoted(name)}",
        arguments={"name": name},
        lock=f"SHARE UPDATE EXCLUSIVE on {place.table}",
        blocks=building.BLOCKS,
        loses=f"index {name}; undo builds it again" if loses else None,
    )


async def _run_build(site: Site, step: Step) -> None:
    name, definition = step.arguments["name"], step.arguments["definition"]
    place = _place(step.target)
    if name != place.name and await read(site, step.target) == {"definition": definition}:
        return  # swapped already
    await building.stopped(site, name, place.schema)
    async with building.session(site, place.schema) as db:
        there = await indexes.ordinary(db, name, place.schema)
    if there is not None:
        if there.is_valid and _same(there.definition, name, definition, place.name):
            return
        await _check_is_ours(site, there, place)
        if there.is_valid and name == place.name:
            raise Conflict(
                f"somebody made an index {name!r} of table {place.table!r} meanwhile: "
                f"{there.definition}; plan again"
            )
        await building.dropped(site, name, place.schema)
    await building.built(
        site,
        Building(
            name=name,
            table=place.table,
            sql=step.text,
            settings=await _room(site, step.arguments.get("graph")),
            schema=place.schema,
        ),
    )


async def _room(site: Site, graph: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the settings of the session that builds: a graph of vectors takes much memory."""
    if graph is None:
        return {}
    dimension, rows = graph["dimension"], graph["rows"]
    shape = {name: value for name, value in graph.items() if name not in ("dimension", "rows")}
    return await build_room.settings(site, hnsw.from_json(shape), dimension, rows)


async def _check_is_ours(site: Site, there: OrdinaryIndex, place: Place) -> None:
    if not await _is_ours(site, there, place):
        raise Conflict(
            f"an index {there.name!r} of table {there.table!r} stands where one of {place.table!r} "
            "is to be built, and it is not ours: rename it, or drop it"
        )


async def _is_ours(site: Site, there: OrdinaryIndex, place: Place) -> bool:
    """Whether a change made an index, or moved it aside; one that serves nobody counts as well."""
    if there.table != place.table:
        return False
    if not there.is_valid:
        return there.constraint is None
    async with building.session(site) as db:
        name, own = await indexes.written(db, there.name), await indexes.written(db, place.name)
        as_own = there.definition.replace(f"INDEX {name} ON ", f"INDEX {own} ON ", 1)
        return await indexes.was_changed(db, as_own)


def _same(definition: str, name: str, wanted: str, own: str) -> bool:
    """Whether two definitions differ in their names only."""
    common = quoted(own)
    one = index_definition.online(definition, name, common)
    return one == index_definition.online(wanted, own, common)


async def _run_swap(site: Site, step: Step) -> None:
    place = _place(step.target)
    if await read(site, step.target) == {"definition": step.arguments["definition"]}:
        return
    new, old = (index_definition.beside(place.name, ending) for ending in (_NEW, _OLD))
    async with building.session(site, place.schema) as db:
        left = await indexes.ordinary(db, old, place.schema)
        there = await indexes.ordinary(db, place.name, place.schema)
    if left is not None:
        await _check_is_ours(site, left, place)
        await building.dropped(site, old, place.schema)
    pairs = [(new, place.name)] if there is None else [(place.name, old), (new, place.name)]
    async with building.session(site, place.schema) as db:
        await indexes.rename(db, pairs, place.schema)
    site.reached("index:swapped")

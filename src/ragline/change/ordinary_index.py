"""Changing an ordinary index of one of ragline's tables: made, dropped, or another in its place."""

from __future__ import annotations

from collections.abc import Mapping

from ragline.change import building
from ragline.change.building import Building
from ragline.change.kind import Site
from ragline.core import index_definition
from ragline.core.change import Step, Value
from ragline.core.dsn import nearest
from ragline.db import indexes
from ragline.db.indexes import OrdinaryIndex
from ragline.db.pool import quoted
from ragline.errors import Conflict, NotFound, PreconditionFailed, UsageError

_SCHEMA = "ragline"
# What content and evaluations are found by. Those of vectors belong to their collection; the ledger
# has what it needs.
TABLES = (
    "attribute", "baseline", "chunk", "collection", "collection_statistic", "dataset",
    "dataset_case", "dead_chunk", "document", "fresh_chunk", "posting_block", "run", "run_case",
    "term", "term_statistic", "verdict",
)  # fmt: skip
_NEW, _OLD = "new", "old"
_BLOCKS = "DDL and vacuum of that table; no reader, no writer"


def is_ordinary(target: str) -> bool:
    """Whether a target names an index of a table; a collection may have a dot in its name, too."""
    table, dot, name = target.partition(".")
    return bool(dot and name) and table in TABLES


async def wanted(site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
    """Return the definition as the server writes it, or None for no index."""
    table, name = _parts(target)
    found = await _found(site, target)
    if found is not None and found.constraint is not None:
        raise UsageError(
            f"index {target} keeps the constraint {found.constraint!r} of table {table}: it can be "
            "neither dropped nor replaced"
        )
    if want is None:
        if found is None:
            raise NotFound(await _no_index(site, table, name))
        return None, _about_none(found)
    if not isinstance(want, Mapping) or set(want) != {"definition"}:
        raise UsageError(
            f"index {target} is wanted as {want!r}; say "
            f'{{"definition": "create index {name} on {_SCHEMA}.{table} (…)"}}, or null for none'
        )
    definition = index_definition.parsed(
        str(want["definition"]), schema=_SCHEMA, table=table, name=name
    )
    async with building.session(site) as db:
        return {"definition": await indexes.normalised(db, definition)}, ()


async def read(site: Site, target: str) -> Value:
    """Return the definition of an index that works; None where there is none."""
    found = await _found(site, target)
    if found is None or not found.is_valid:
        return None
    return {"definition": found.definition}


def steps(target: str, now: Value, want: Value) -> list[Step]:
    """Return the steps between two definitions. All are in effect at once: the planner is free."""
    if now == want:
        return []
    _, name = _parts(target)
    if want is None:
        return [_drop(target, name, loses=True)]
    definition = _definition(want)
    if now is None:
        return [_build(target, name, definition)]
    new, old = index_definition.beside(name, _NEW), index_definition.beside(name, _OLD)
    return [_build(target, new, definition), _swap(target, definition), _drop(target, old)]


async def run(site: Site, step: Step) -> None:
    """Do one step."""
    if step.action == "build":
        await _run_build(site, step)
    elif step.action == "switch":
        await _run_swap(site, step)
    else:
        name = step.arguments["name"]
        await building.stopped(site, name)
        await building.dropped(site, name)


async def confirm(site: Site, target: str, want: Value) -> None:
    """Raise PreconditionFailed unless the index is there, valid, and as wanted; or really is not."""
    found = await _found(site, target)
    if want is None and found is not None:
        raise PreconditionFailed(f"index {target} is still there")
    now = await read(site, target)
    if now != want:
        raise PreconditionFailed(f"index {target} is {now}, and should be {want}")


async def tidy(site: Site, target: str, keep: Value) -> None:
    """Drop what a replacement left beside the index, and the index itself where it is invalid."""
    _, name = _parts(target)
    for beside in (index_definition.beside(name, _NEW), index_definition.beside(name, _OLD)):
        async with building.session(site) as db:
            left = await indexes.ordinary(db, beside)
        if left is not None:
            await building.stopped(site, beside)
            await building.dropped(site, beside)
    found = await _found(site, target)
    if found is not None and not found.is_valid and found.constraint is None:
        await building.stopped(site, name)
        await building.dropped(site, name)


def _parts(target: str) -> tuple[str, str]:
    table, _, name = target.partition(".")
    return table, name


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


async def _found(site: Site, target: str) -> OrdinaryIndex | None:
    table, name = _parts(target)
    async with building.session(site) as db:
        found = await indexes.ordinary(db, name)
    if found is not None and found.table != table:
        raise Conflict(f"index {name!r} belongs to table {found.table!r}, not to {table!r}")
    return found


async def _no_index(site: Site, table: str, name: str) -> str:
    async with building.session(site) as db:
        there = await indexes.names(db, table)
    near = nearest(name, there)
    meant = f"; did you mean {near!r}?" if near else f"; there are: {', '.join(there)}"
    return f"table {table!r} has no index {name!r}{meant}"


def _build(target: str, name: str, definition: str) -> Step:
    table, own = _parts(target)
    return Step(
        kind="index",
        target=target,
        phase="apply",
        action="build",
        text=index_definition.online(definition, own, quoted(name)),
        arguments={"name": name, "definition": definition},
        lock=f"SHARE UPDATE EXCLUSIVE on {table}",
        blocks=_BLOCKS,
    )


def _swap(target: str, definition: str) -> Step:
    _, name = _parts(target)
    new, old = index_definition.beside(name, _NEW), index_definition.beside(name, _OLD)
    return Step(
        kind="index",
        target=target,
        phase="apply",
        action="switch",
        text="; ".join(
            f"alter index {_SCHEMA}.{quoted(one)} rename to {quoted(other)}"
            for one, other in ((name, old), (new, name))
        ),
        arguments={"definition": definition},
        lock="SHARE UPDATE EXCLUSIVE on both indexes",
        blocks="DDL of these indexes",
        expected_s=0.0,
    )


def _drop(target: str, name: str, *, loses: bool = False) -> Step:
    table, _ = _parts(target)
    return Step(
        kind="index",
        target=target,
        phase="apply",
        action="drop",
        text=f"drop index concurrently if exists {_SCHEMA}.{quoted(name)}",
        arguments={"name": name},
        lock=f"SHARE UPDATE EXCLUSIVE on {table}",
        blocks=_BLOCKS,
        loses=f"index {name}; undo builds it again" if loses else None,
    )


async def _run_build(site: Site, step: Step) -> None:
    name, definition = step.arguments["name"], step.arguments["definition"]
    table, own = _parts(step.target)
    if name != own and await read(site, step.target) == {"definition": definition}:
        return  # swapped already
    await building.stopped(site, name)
    async with building.session(site) as db:
        there = await indexes.ordinary(db, name)
    if there is not None:
        if there.is_valid and _same(there.definition, name, definition, own):
            return
        await building.dropped(site, name)
    await building.built(site, Building(name=name, table=table, sql=step.text, settings={}))


def _same(definition: str, name: str, wanted: str, own: str) -> bool:
    """Whether two definitions differ in their names only."""
    common = quoted(own)
    one = index_definition.online(definition, name, common)
    return one == index_definition.online(wanted, own, common)


async def _run_swap(site: Site, step: Step) -> None:
    _, name = _parts(step.target)
    if await read(site, step.target) == {"definition": step.arguments["definition"]}:
        return
    new, old = index_definition.beside(name, _NEW), index_definition.beside(name, _OLD)
    async with building.session(site) as db:
        left, there = await indexes.ordinary(db, old), await indexes.ordinary(db, name)
    if left is not None:
        await building.dropped(site, old)
    pairs = [(new, name)] if there is None else [(name, old), (new, name)]
    async with building.session(site) as db:
        await indexes.rename(db, pairs)
    site.reached("index:swapped")

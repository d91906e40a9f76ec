"""The vector indexes of an attached table as they were seen, and what may be done to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragline.change import building
from ragline.change.kind import Site
from ragline.core import hnsw, index_definition
from ragline.core.change import Value
from ragline.core.hnsw import Graph
from ragline.core.index_definition import Place
from ragline.db import attached_indexes, attached_sql, indexes
from ragline.db.attached_indexes import PRODUCTION_SLOT, AttachedSpace, TableIndex
from ragline.db.attached_sql import TRIAL_SLOT
from ragline.db.indexes import OrdinaryIndex
from ragline.db.pool import Db, quoted
from ragline.errors import Conflict, UsageError

_TRIAL = "trial"
_OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
_FIELDS = {"storage", "m", "ef_construction", "name", "definition"}


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


def name_of(found: AttachedSeen, graph: Graph) -> str:
    """Return what the new one is called: as the one that serves the same searches, where one does."""
    same = [
        one
        for one in (found.production, *found.indexes)
        if one is not None
        and one.is_valid
        and one.slot == PRODUCTION_SLOT
        and one.graph is not None
        and one.storage == graph.storage
    ]
    return same[0].name if same else default_name(found, graph.storage)


def default_name(found: AttachedSeen, storage: str) -> str:
    attached = found.space.attached
    ending = "hnsw" if storage == found.space.held else f"{storage}_hnsw"
    return index_definition.beside(f"{attached.table}_{attached.embedding}", ending)


def trial_name(found: AttachedSeen) -> str:
    attached = found.space.attached
    return index_definition.beside(f"{attached.table}_{attached.embedding}", _TRIAL)


def target_of(found: AttachedSeen, name: str) -> str:
    attached = found.space.attached
    return str(Place(schema=attached.schema, table=attached.table, name=name))


def whole(found: AttachedSeen, want: Mapping[str, Any]) -> Value:
    """Return a value as it was read once, for undo; what else names a definition is no index of ours."""
    attached = found.space.attached
    if set(want) != _FIELDS or want["storage"] not in hnsw.STORAGES:
        raise UsageError(
            f"the index of {found.space.collection!r} is wanted by its m, ef_construction and storage; "
            f"one with a definition of its own is changed as {target_of(found, 'NAME')}"
        )
    index_definition.parsed(
        str(want["definition"]), schema=attached.schema, table=attached.table, name=want["name"]
    )
    return dict(want)


async def check_may_change(site: Site, found: AttachedSeen) -> None:
    """Refuse at once what would fail, or measure the wrong thing, after a long build."""
    space, attached = found.space, found.space.attached
    async with building.session(site, attached.schema) as db:
        await building.check_may_index(db, attached.schema, attached.table)
    together = [one.target for one in site.together if one.kind == "index"]
    if len(both := [name for name in space.collections if name in together]) > 1:
        raise UsageError(
            f"collections {' and '.join(both)} are of one table and share its index: name one of them"
        )
    async with building.session(site) as db:
        rival = await attached_indexes.rival(db, space)
    if rival is not None:
        raise Conflict(
            f"change {rival} is about the index of the same table, which collections "
            f"{', '.join(space.collections)} share: end it first (`ragline change show {rival}`)"
        )


async def check_is_walked(site: Site, found: AttachedSeen) -> None:
    """Refuse a table of which searches walk an index that is none of ours to change."""
    if not any(one.is_partial for one in found.indexes):
        return
    space, attached = found.space, found.space.attached
    async with building.session(site, attached.schema) as db:
        through = await used(db, space, is_index_preferred=True)
    if (one := found.named(through or "")) is not None and one.is_partial:
        raise UsageError(
            f"searches of {space.collection!r} go through {one.name}, which holds a part of table "
            f"{attached.table!r} only, and would go on with it: change it as "
            f"{target_of(found, one.name)}"
        )


async def check_is_free(site: Site, found: AttachedSeen, name: str) -> None:
    """Refuse a name that an index has which is not to be replaced; whose it is, nobody knows."""
    schema = found.space.attached.schema
    one = found.named(name)
    is_replaced = one is not None and one.slot == PRODUCTION_SLOT
    names = [] if is_replaced else [name]
    async with building.session(site) as db:
        for wanted_name in (*names, trial_name(found)):
            taken = await indexes.ordinary(db, wanted_name, schema)
            if taken is not None and not is_on_trial(found, taken):
                raise Conflict(
                    f"index {wanted_name!r} of table {taken.table!r} stands where the new one is to be: "
                    "rename it"
                )


def is_on_trial(found: AttachedSeen, there: OrdinaryIndex) -> bool:
    """Whether an index is one that a trial of ours left."""
    one = found.named(there.name)
    return there.table == found.space.attached.table and one is not None and one.slot == TRIAL_SLOT


async def used(db: Db, space: AttachedSpace, *, is_index_preferred: bool) -> str | None:
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
        where {attached_sql.belongs(space.attached)}
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

"""What indexes a database has, what they cost, what they find, and what is wrong with them.

Nothing is written, so that a replica can be looked at too. What may not be seen is said as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import asyncpg

from ragline.core import advisories, index_findings, missing_indexes
from ragline.core.checkup import Finding
from ragline.core.doctor.words import some
from ragline.core.dsn import Dsn
from ragline.core.evidence import OperatorUse
from ragline.core.index_facts import OPERATORS, IndexFacts, LockedTable, ServerFacts, TableFacts
from ragline.core.index_sample import Sample
from ragline.db import catalog, evidence, pool
from ragline.errors import LockTimeout, NotFound, PreconditionFailed, UsageError
from ragline.watch import inventory_samples
from ragline.watch.inventory_samples import FEWEST, GB, Advance, Db, Measure

_MOST_HITS = 1000
_LOCK_TIMEOUT = "3s"
_SETTINGS = {
    "lock_timeout": _LOCK_TIMEOUT,
    "default_transaction_read_only": "on",
    # While collections are searched, and vectors compared here, the session waits for us.
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be listed, and how it is measured: with `sample` queries, or not at all.

    `everything`: also indexes that are not of vectors. Tables larger than `largest_bytes` are not
    measured: an exact search reads all of a table.
    """

    schemas: tuple[str, ...] = ()
    collection: str | None = None
    everything: bool = False
    sample: int | None = 100
    k: int = 10
    seed: int = 0
    largest_bytes: int = 2 * GB

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < FEWEST:
            raise UsageError(
                f"the sample is {self.sample}; with fewer than {FEWEST} queries nothing can be said"
            )
        if not 1 <= self.k <= _MOST_HITS:
            raise UsageError(f"k is {self.k}; it must lie between 1 and {_MOST_HITS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An index, which operators queries on its table really use, and what a sample says of it.

    `operators` is None where nobody knows, and empty where none was seen.
    """

    index: IndexFacts
    operators: tuple[str, ...] | None
    sample: Sample | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The indexes that were asked for, and what is to be done.

    `others` counts those that were left out, as not of vectors. `unknown` has reasons by what it is
    that nobody knows. `bare` are columns of vectors without an index: "schema.table.column" and rows.
    """

    server: ServerFacts
    indexes: tuple[Listed, ...]
    others: int
    findings: tuple[Finding, ...]
    unknown: Mapping[str, str]
    bare: tuple[tuple[str, int | None], ...] = ()


async def inventory(
    dsn: Dsn,
    asked: Asked,
    *,
    measure: Measure,
    memory_bytes: int | None = None,
    advance: Advance = lambda _what, _done, _total: None,
) -> Inventory:
    """Look at the database as the DSN's user sees it.

    `measure` searches a collection as production does; other tables are asked directly. Raises NotFound
    for a schema or collection that is not there.
    """
    async with pool.session(dsn, "read", settings=_SETTINGS) as db:
        seen = await _seen(db, dsn, memory_bytes)
        if asked.collection is not None and seen.unread is not None:
            raise PreconditionFailed(seen.unread)
        wanted = _wanted(seen, asked)
        blocks, no_cache = await catalog.cached_blocks(db)
        wanted = [_with_cache(index, blocks, seen.server, no_cache) for index in wanted]
        operators, no_operators = await _operators(db)
        samples = await inventory_samples.samples(db, wanted, seen.server, asked, measure, advance)
    unknown = {
        "locked": _locked(seen, asked),
        "collections": seen.unread,
        "cached_share": no_cache,
        "operators": no_operators,
        "unused": index_findings.young_statistics(seen.server),
    }
    looked_at = [table for table in seen.tables if _is_asked_for(table, asked)]
    found = index_findings.findings(
        wanted,
        looked_at,
        seen.server,
        operators=operators,
        faults=_faults(seen.server),
        samples=samples,
    )
    return Inventory(
        server=seen.server,
        indexes=tuple(
            Listed(
                index=index,
                operators=_used(index, operators),
                sample=samples.get(index.oid),
            )
            for index in wanted
        ),
        others=sum(not index.is_vector for index in seen.indexes) if not asked.everything else 0,
        findings=tuple(found),
        unknown={what: why for what, why in unknown.items() if why is not None},
        bare=tuple(
            (f"{table.qualified}.{column.name}", table.rows)
            for table, column in missing_indexes.bare(wanted, looked_at)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the catalog says. `unread` is why ragline's collections were not read, if they were not."""

    indexes: Sequence[IndexFacts]
    tables: Sequence[TableFacts]
    locked: Sequence[LockedTable]
    server: ServerFacts
    unread: str | None


async def _seen(db: Db, dsn: Dsn, memory_bytes: int | None) -> _Seen:
    try:
        locked = await catalog.locked(db)
        return _Seen(
            indexes=await catalog.indexes(db, without=locked),
            tables=await catalog.tables(db, without=locked),
            locked=locked,
            server=await catalog.server(db, memory_bytes=memory_bytes),
            unread=await catalog.unread_collections(db),
        )
    except asyncpg.LockNotAvailableError as error:
        raise LockTimeout(
            f"a table is locked for longer than {_LOCK_TIMEOUT}; nothing was changed, look again"
        ) from error
    except asyncpg.QueryCanceledError as error:
        raise PreconditionFailed(
            f"the catalog was not read in time: {error}. Allow user {dsn.user!r} more than that "
            "(statement_timeout), or look again when less is going on"
        ) from error
    except (asyncpg.DataError, asyncpg.InternalServerError) as error:
        raise PreconditionFailed(
            f"the catalog cannot be read: {error}. If something was dropped meanwhile, look again; "
            "else a name in it is no text in the encoding of the database"
        ) from error


def _locked(seen: _Seen, asked: Asked) -> str | None:
    held = [
        one.qualified for one in seen.locked if not asked.schemas or one.schema in asked.schemas
    ]
    return f"somebody has locked {some(held)}: look again when that is done" if held else None


def _wanted(seen: _Seen, asked: Asked) -> list[IndexFacts]:
    schemas = {table.schema for table in seen.tables} | {table.schema for table in seen.locked}
    for schema in asked.schemas:
        if schema not in schemas:
            raise NotFound(
                f"there is no schema {schema!r} with tables in this database; it has "
                f"{', '.join(sorted(schemas)) or 'none'}"
            )
    collections = {name for table in seen.tables for name in table.collections}
    if asked.collection is not None and asked.collection not in collections:
        if seen.locked:
            held = some([one.qualified for one in seen.locked])
            raise LockTimeout(
                f"the tables of collection {asked.collection!r} may be among those that somebody has "
                f"locked, {held}; nothing was changed, look again"
            )
        raise NotFound(
            f"there is no collection {asked.collection!r} with vectors; there "
            f"{'are' if len(collections) != 1 else 'is'} {', '.join(sorted(collections)) or 'none'}"
        )
    return [
        index
        for index in seen.indexes
        if (asked.everything or index.is_vector)
        and (not asked.schemas or index.schema in asked.schemas)
        and (asked.collection is None or asked.collection in index.collections)
    ]


def _is_asked_for(table: TableFacts, asked: Asked) -> bool:
    return (not asked.schemas or table.schema in asked.schemas) and (
        asked.collection is None or asked.collection in table.collections
    )


def _with_cache(
    index: IndexFacts, blocks: Mapping[int, int], server: ServerFacts, why_not: str | None
) -> IndexFacts:
    if why_not is not None or not index.size_bytes:
        return index
    held = blocks.get(index.oid, 0) * server.block_size
    return replace(index, cached_share=min(1.0, held / index.size_bytes))


async def _operators(db: Db) -> tuple[list[OperatorUse] | None, str | None]:
    """Return which operators statements use, or why nobody knows."""
    try:
        return await _counted(db)
    except (asyncpg.QueryCanceledError, asyncpg.InsufficientPrivilegeError) as error:
        return None, str(error)


async def _counted(db: Db) -> tuple[list[OperatorUse] | None, str | None]:
    source = await evidence.source(db)
    if source.schema is None:
        return None, "pg_stat_statements is not installed: `create extension pg_stat_statements`"
    if not source.is_usable:
        return None, "pg_stat_statements is not loaded, or tracks nothing: see `ragline doctor`"
    if not source.sees_all:
        return None, "statements of other users are hidden: `grant pg_read_all_stats` to this user"
    return await evidence.operators_used(db), None


def _used(index: IndexFacts, operators: Sequence[OperatorUse] | None) -> tuple[str, ...] | None:
    """Return the operators by which an index is asked: of collections it is known, else counted."""
    if not index.is_vector:
        return None
    known = {OPERATORS[metric] for metric in index.metrics}
    if operators is None:
        return tuple(sorted(known)) or None
    seen = {
        use.operator for use in operators if (use.schema, use.table) == (index.schema, index.table)
    }
    return tuple(sorted(known | seen))


def _faults(server: ServerFacts) -> Sequence[advisories.ExtensionFault]:
    if server.pgvector is None:
        return ()
    text = resources.files("ragline.core").joinpath("advisories.toml").read_text(encoding="utf-8")
    return advisories.advisories(text).of_pgvector(server.pgvector)

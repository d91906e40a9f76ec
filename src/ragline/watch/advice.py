"""Index advice of a live database: evidence gathered, plans asked for, every index tried on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import asyncpg

from ragline.core import advice as advising
from ragline.core import advice_candidates, index_definition, index_drops, plan_scans, sql_tokens
from ragline.core import evidence as evidences
from ragline.core.advice import Advice, Floors, NotAnalysed, Trial
from ragline.core.advice_candidates import Candidate, Catalog, Explained, NotAdvised
from ragline.core.dsn import Dsn
from ragline.core.evidence import Evidence, EvidenceSource, Statement
from ragline.core.index_facts import ServerFacts, TableFacts
from ragline.db import catalog as catalogs
from ragline.db import evidence, indexes, pool
from ragline.db.evidence import NoPlan
from ragline.errors import NotFound, UsageError

MOST_EXPLAINED = 300
"""Of more statements only the dearest are looked at; the rest is counted."""
_SHORT = 200

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviceReport:
    """What was found out. `missing` says why there is no evidence; None where there is some.

    `skipped` counts statements that were not looked at, by reason.
    """

    source: EvidenceSource
    missing: str | None
    statements: int
    total_ms: float
    advice: tuple[Advice, ...]
    not_advised: tuple[NotAdvised, ...]
    not_analysed: tuple[NotAnalysed, ...]
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    floors: Floors


async def advise(
    dsn: Dsn, *, floors: Floors, schema: str | None = None, table: str | None = None
) -> AdviceReport:
    """Return which indexes to make and drop; nothing is changed, and no statement is run.

    `schema` and `table` leave out all others. Raises NotFound where there is no such table.
    """
    async with pool.session(dsn, "admin") as connection:
        found = await evidence.statements(connection)
        seen = await _catalog(connection, schema, table)
        explained, refused = await _explained(connection, found)
        made, left = await _judged(connection, explained, seen, floors, found.total_ms)
    dropped, kept = index_drops.drops(seen, floors)
    return AdviceReport(
        source=found.source,
        missing=evidences.missing(found.source),
        statements=len(found.statements),
        total_ms=found.total_ms,
        advice=tuple(advising.numbered([*made, *dropped])),
        not_advised=(*left, *kept),
        not_analysed=tuple(refused),
        skipped=_skipped(found),
        notes=_notes(found),
        floors=floors,
    )


async def plans(
    dsn: Dsn, statements: Sequence[Statement]
) -> dict[str, Mapping[str, object] | NoPlan]:
    """Return the plans of statements as they are now, by their ids."""
    async with pool.session(dsn, "admin") as connection:
        paths = await _paths(connection, statements)
        distrusted = await evidence.not_trusted(connection)
        return {one.id: await _plan(connection, one, paths, distrusted) for one in statements}


async def _catalog(connection: Session, schema: str | None, table: str | None) -> Catalog:
    server = await catalogs.server(connection)
    tables = [one for one in await catalogs.tables(connection) if _is_meant(one, schema, table)]
    if (schema or table) and not tables:
        raise NotFound(
            f"there is no table {'.'.join(filter(None, (schema, table or '*')))!r} that we may see; "
            "see `ragline index list`"
        )
    oids = {one.oid for one in tables}
    every = await catalogs.indexes(connection)
    return Catalog(
        tables=tables,
        indexes=[one for one in every if one.table_oid in oids],
        columns=await evidence.columns(connection, oids),
        costs=await evidence.planner_costs(connection),
        hours=_hours(server),
        kept=await evidence.kept_indexes(connection),
        replicas=await evidence.replicas(connection),
        is_replica=server.is_replica,
        partitions=await evidence.partitions(connection),
        references=await evidence.unindexed_references(connection),
        vector_schema=server.vector_schema,
    )


def _is_meant(one: TableFacts, schema: str | None, table: str | None) -> bool:
    if table is not None and "." in table and (one.name != table):
        return one.qualified == table and schema in (None, one.schema)
    return schema in (None, one.schema) and table in (None, one.name)


def _hours(server: ServerFacts) -> float | None:
    if server.statistics_since is None:
        return None
    return max(0.0, (server.now - server.statistics_since).total_seconds() / 3600)


async def _explained(
    connection: Session, found: Evidence
) -> tuple[list[Explained], list[NotAnalysed]]:
    explained: list[Explained] = []
    refused: list[NotAnalysed] = []
    texts = await evidence.seen_texts(connection)
    looked_at = [_keyed(one, texts) for one in found.statements[:MOST_EXPLAINED]]
    paths = await _paths(connection, looked_at)
    distrusted = await evidence.not_trusted(connection)
    for one in looked_at:
        plan = await _plan(connection, one, paths, distrusted)
        if isinstance(plan, NoPlan):
            refused.append(
                NotAnalysed(
                    text=short(one.text),
                    calls=one.calls,
                    total_ms=one.total_ms,
                    reason=plan.reason,
                )
            )
        else:
            explained.append(Explained(statement=one, plan=plan))
    return explained, refused


def _keyed(statement: Statement, texts: Mapping[str, Sequence[str]]) -> Statement:
    """Return a statement with the keys of JSON values that sessions ask for, where all agree."""
    found = {sql_tokens.with_keys(statement.text, text) for text in texts.get(statement.id, ())}
    found.discard(None)
    if len(found) != 1 or (one := found.pop()) is None:
        return statement
    return replace(statement, text=one[0], keys=one[1])


async def _paths(connection: Session, statements: Sequence[Statement]) -> dict[str, str]:
    users = {user for one in statements for user in one.users if user}
    return await evidence.search_paths(connection, users)


async def _plan(
    connection: Session,
    statement: Statement,
    paths: Mapping[str, str],
    distrusted: frozenset[str],
) -> Mapping[str, object] | NoPlan:
    # Planning runs functions that call themselves immutable, as us.
    named = sql_tokens.mentions(statement.text, distrusted)
    if named is not None:
        return NoPlan(
            f"it may run {named!r}, in which a role has a hand that may do less than ours: planning it "
            "would run that as us. Ask as that role"
        )
    return await evidence.explained(
        connection,
        statement.text,
        [paths[user] for user in statement.users if user in paths],
    )


async def _judged(
    connection: Session,
    explained: Sequence[Explained],
    seen: Catalog,
    floors: Floors,
    total_ms: float,
) -> tuple[list[Advice], list[NotAdvised]]:
    found, left = advice_candidates.candidates(explained, seen)
    made: list[Advice] = []
    unserved = [
        one
        for one in left
        if (one.calls or 0) >= floors.calls and (one.mean_ms or 0) >= floors.mean_ms
    ]
    for one in found:
        trial = Trial(definition=None, refused="not tried")
        if advising.below(one, seen, floors, total_ms) is None:
            trial = await _tried(connection, one, seen)
        said = advising.judged(one, trial, seen, floors, total_ms)
        if isinstance(said, Advice):
            made.append(said)
        else:
            unserved.append(said)
    return sorted(made, key=lambda one: -advising.saved_ms(one)), unserved


async def _tried(connection: Session, candidate: Candidate, seen: Catalog) -> Trial:
    """Return what the server says of an index: on an empty copy of its table, and with HypoPG."""
    table = candidate.table
    if seen.is_replica:
        # No empty copy can be made there; the primary has the last word.
        return Trial(definition=candidate.definition)
    first = candidate.uses[0].statement
    # A plan says names as the role finds them that runs the statement.
    paths = await _paths(connection, [first])
    try:
        wanted = index_definition.parsed(
            candidate.definition, schema=table.schema, table=table.name, name=candidate.name
        )
        definition = await indexes.normalised(
            connection, wanted, table.schema, path=next(iter(paths.values()), None)
        )
    except UsageError as error:
        return Trial(definition=None, refused=str(error))
    if await evidence.hypopg_schema(connection) is None:
        return Trial(definition=definition)
    plan = await evidence.explained(
        connection,
        first.text,
        [paths[user] for user in first.users if user in paths],
        hypothetical=candidate.definition,
    )
    if isinstance(plan, NoPlan):
        return Trial(definition=definition)
    return Trial(
        definition=definition,
        cost=float(str(plan["Total Cost"])),
        is_used=plan_scans.pretends(plan),
    )


def _skipped(found: Evidence) -> dict[str, int]:
    beyond = len(found.statements) - MOST_EXPLAINED
    more = {f"beyond the {MOST_EXPLAINED} dearest": beyond} if beyond > 0 else {}
    return {**found.skipped, **more}


def _notes(found: Evidence) -> tuple[str, ...]:
    source = found.source
    if not source.is_usable:
        return ()
    said = []
    if source.evicted:
        said.append(
            f"{source.evicted:,} times the least used statements were thrown out (at most "
            f"{source.most:,} are kept): rare ones are missing; raise pg_stat_statements.max"
        )
    if not source.sees_all:
        said.append(
            "we may not read other roles' statements: `grant pg_read_all_stats to` this user"
        )
    return tuple(said)


def short(text: str) -> str:
    """Return a statement in a line, cut off where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else line[: _SHORT - 3] + "..."

"""What statements cost: pg_stat_statements read, and plans asked for without running anything.

Connections come from `pool.session`, whose search path is the catalog alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from ragline.core import plan_scans, sql_tokens
from ragline.core.advisories import numbers
from ragline.core.evidence import (
    READABLE,
    ColumnFacts,
    Evidence,
    EvidenceSource,
    OperatorUse,
    PlannerCosts,
    Reference,
    Statement,
)
from ragline.core.index_sample import MARK
from ragline.core.sql_tokens import Token
from ragline.db import queries
from ragline.db.pool import quoted
from ragline.errors import RaglineError

VECTOR_OPERATORS = ("<->", "<=>", "<#>", "<+>", "<~>", "<%>")
OURS = "ragline"
_HIDDEN = "<insufficient privilege>"
_PREPARED = "ragline_explained"
_CATALOG_PATH = "pg_catalog, pg_temp"
_DEFAULT_PATH = '"$user", public'
_TIMEOUT_MS = 5000
_TELLS_SINCE = (1, 9)
_LOCK_TIMEOUT_MS = 200

# Their constants were taken out of `interval '1 day'` too, which leaves no valid SQL.
_TYPED = re.compile(
    r"\b(interval|date|timestamptz|timestamp|timetz|time|jsonb|json|uuid|inet|cidr|numeric|bytea|point"
    r"|vector|halfvec|regclass)\s+(\$\d+)\b",
    re.IGNORECASE,
)

Session = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class NoPlan:
    """A statement that could not be explained."""

    reason: str


async def source(connection: Session[asyncpg.Record]) -> EvidenceSource:
    """Return what can be known about statements here."""
    row = await connection.fetchrow(queries.block("evidence", "source"))
    if row is None:
        raise RaglineError("the server did not say which extensions it has")
    since = evicted = None
    is_loaded = row["tracks"] is not None
    # An older extension, beside a newer library, has not this view: one of its name is a stranger's.
    tells = row["schema"] is not None and numbers(row["version"]) >= _TELLS_SINCE
    if tells and is_loaded:
        try:
            async with connection.transaction(readonly=True):
                await _look_in(connection, _beside_catalog(row["schema"]))
                known = await connection.fetchrow(queries.block("evidence", "counted_since"))
            since, evicted = (known["stats_reset"], known["dealloc"]) if known else (None, None)
        except asyncpg.ObjectNotInPrerequisiteStateError:
            is_loaded = False
    return EvidenceSource(
        schema=row["schema"],
        version=row["version"],
        is_available=row["is_available"],
        is_loaded=is_loaded,
        tracks=row["tracks"],
        most=row["most"],
        since=since,
        evicted=evicted,
        sees_all=row["sees_all"],
        now=row["now"],
    )


async def statements(connection: Session[asyncpg.Record]) -> Evidence:
    """Return what the statements of this database cost, without utilities and ragline's own."""
    found = await source(connection)
    if not found.is_usable:
        return Evidence(source=found)
    kept: list[Statement] = []
    skipped: dict[str, int] = {}
    rows = await _rows(connection, found)
    for row in rows:
        why = _why_skipped(row["text"], row["users"])
        if why is None:
            kept.append(_statement(row))
        else:
            skipped[why] = skipped.get(why, 0) + 1
    return Evidence(
        source=found,
        statements=tuple(kept),
        total_ms=sum(row["total_ms"] for row in rows),
        skipped=skipped,
    )


async def operators_used(connection: Session[asyncpg.Record]) -> list[OperatorUse]:
    """Return which of pgvector's operators statements put to which tables, ragline's own included.

    A statement that names several tables counts for each of them that has the operator's types to be
    searched; empty where nothing is known, which `source` tells.
    """
    found = await source(connection)
    if not found.is_usable:
        return []
    used: dict[tuple[str, str, str], list[Statement]] = {}
    rows = await _rows(connection, found)
    read = [(_statement(row), sql_tokens.tokens(row["text"] or "") or []) for row in rows]
    by_operators = [
        (one, every, some)
        for one, every in read
        # What an inventory asks for its samples is nobody's work.
        if (some := _operators(every)) and not any(token.name == MARK for token in every)
    ]
    words = {
        token.name
        for _, every, _ in by_operators
        for token in every
        if token.kind in ("word", "quoted")
    }
    named = await connection.fetch(queries.block("evidence", "relations_named"), sorted(words))
    for statement, every, operators in by_operators:
        for row in named:
            if _names(every, row["schema"], row["name"]):
                for operator in operators:
                    used.setdefault((row["schema"], row["name"], operator), []).append(statement)
    return [
        OperatorUse(
            schema=schema,
            table=table,
            operator=operator,
            statements=len(some),
            calls=sum(one.calls for one in some),
            total_ms=sum(one.total_ms for one in some),
        )
        for (schema, table, operator), some in sorted(used.items())
    ]


async def search_paths(connection: Session[asyncpg.Record], users: Iterable[str]) -> dict[str, str]:
    """Return where each role's statements look for names, as its and the database's settings say."""
    rows = await connection.fetch(queries.block("evidence", "search_paths"), sorted(set(users)))
    paths = {row["user_name"]: row["path"] or _DEFAULT_PATH for row in rows}
    return {
        user: path.replace('"$user"', quoted(user)).replace("$user", quoted(user))
        for user, path in paths.items()
    }


async def not_trusted(connection: Session[asyncpg.Record]) -> frozenset[str]:
    """Return names with which a statement could run what a role less mighty than ours has written."""
    rows = await connection.fetch(queries.block("evidence", "not_trusted"))
    return frozenset(row["name"] for row in rows)


async def volatile(connection: Session[asyncpg.Record], texts: Iterable[str]) -> list[str]:
    """Return the functions that pieces of SQL call and that may do more than read."""
    names = sorted(set().union(*map(sql_tokens.called, texts)))
    rows = await connection.fetch(queries.block("evidence", "volatile_functions"), names)
    return [row["name"] for row in rows]


async def seen_texts(connection: Session[asyncpg.Record]) -> dict[str, list[str]]:
    """Return statements of connected sessions as they were sent, by their ids."""
    found: dict[str, list[str]] = {}
    for row in await connection.fetch(queries.block("evidence", "seen_texts")):
        found.setdefault(row["id"], []).append(row["text"])
    return found


async def unindexed_references(connection: Session[asyncpg.Record]) -> list[Reference]:
    """Return the foreign keys by which a row cannot be found but by reading its whole table."""
    rows = await connection.fetch(queries.block("evidence", "unindexed_references"))
    return [Reference(**{**row, "columns": tuple(row["columns"])}) for row in rows]


async def columns(
    connection: Session[asyncpg.Record], tables: Collection[int]
) -> list[ColumnFacts]:
    """Return the columns of tables with what ANALYZE found out."""
    rows = await connection.fetch(queries.block("evidence", "columns"), sorted(tables))
    return [ColumnFacts(**row) for row in rows]


async def planner_costs(connection: Session[asyncpg.Record]) -> PlannerCosts:
    """Return the planner's units."""
    row = await connection.fetchrow(queries.block("evidence", "planner_costs"))
    return PlannerCosts() if row is None else PlannerCosts(**row)


async def kept_indexes(connection: Session[asyncpg.Record]) -> dict[int, str]:
    """Return the indexes that must not be dropped, by their oid, with why."""
    rows = await connection.fetch(queries.block("evidence", "kept_indexes"))
    return {row["oid"]: row["reason"] for row in rows if row["reason"] is not None}


async def partitions(connection: Session[asyncpg.Record]) -> frozenset[int]:
    """Return the tables that are parts of partitioned ones, by their oid."""
    rows = await connection.fetch(queries.block("evidence", "partitions"))
    return frozenset(row["oid"] for row in rows)


async def replicas(connection: Session[asyncpg.Record]) -> int:
    """Return how many replicas are connected."""
    count: int = await connection.fetchval(queries.block("evidence", "replicas"))
    return count


async def explained(
    connection: Session[asyncpg.Record],
    text: str,
    paths: Sequence[str],
    *,
    hypothetical: str | None = None,
) -> Mapping[str, Any] | NoPlan:
    """Return the plan of a statement for whatever values, as EXPLAIN says it; nothing is run.

    `paths` are search paths to try, in this order. `hypothetical` is an index that HypoPG pretends.
    Never hand it what `not_trusted` names: planning runs functions.
    """
    reasons: list[str] = []
    text = valid(text)
    for path in dict.fromkeys(paths or [_DEFAULT_PATH.replace('"$user", ', "")]):
        try:
            return await _explained(connection, text, path, hypothetical)
        except asyncpg.PostgresError as error:
            reasons.append(str(error).partition("\n")[0])
            if not isinstance(error, asyncpg.SyntaxOrAccessError):
                break
    return NoPlan(reasons[0])


def valid(text: str) -> str:
    """Return a statement as SQL again where taking its constants out has left none."""
    return _TYPED.sub(r"\2::\1", text)


async def hypopg_schema(connection: Session[asyncpg.Record]) -> str | None:
    """Return where HypoPG is; None without it."""
    schema: str | None = await connection.fetchval(
        queries.block("server", "extension_schema"), "hypopg"
    )
    return schema


async def _explained(
    connection: Session[asyncpg.Record], text: str, path: str, hypothetical: str | None
) -> Mapping[str, Any]:
    # Prepared, on every version alike: the constants were taken out, and NULL stands for each of them,
    # which a plan made for all values does not look at.
    try:
        async with connection.transaction(readonly=True):
            await _look_in(connection, path)
            await limited(connection, _TIMEOUT_MS)
            if hypothetical is not None:
                await _pretended(connection, hypothetical)
            # As one of one: a second statement behind it is refused.
            await connection.fetch(f"prepare {_PREPARED} as {text}")
            count = await connection.fetchval(_count(), _PREPARED)
            values = f"({', '.join(['null'] * count)})" if count else ""
            said = await connection.fetchval(
                f"explain (verbose, format json) execute {_PREPARED}{values}"
            )
    finally:
        await forget(connection, _PREPARED)
    plan: Mapping[str, Any] = json.loads(said)[0]["Plan"]
    return plan


async def forget(connection: Session[asyncpg.Record], name: str) -> None:
    """Remove a prepared statement: it outlives its transaction, also one that failed."""
    if connection.is_closed():
        return
    if await connection.fetchval(_count(), name) is not None:
        await connection.fetch(f"deallocate {quoted(name)}")


async def limited(connection: Session[asyncpg.Record], timeout_ms: int) -> None:
    """Bound what the transaction may take and wait for, and have it make plans for all values."""
    await connection.fetch(
        queries.block("evidence", "limits"), str(timeout_ms), str(_LOCK_TIMEOUT_MS)
    )


async def _pretended(connection: Session[asyncpg.Record], definition: str) -> None:
    schema = await hypopg_schema(connection)
    if schema is None:
        raise RaglineError("HypoPG is not installed here")
    await connection.fetch(f"select {quoted(schema)}.hypopg_reset()")
    await connection.fetch(f"select {quoted(schema)}.hypopg_create_index($1)", definition)


def _count() -> str:
    return queries.block("evidence", "prepared_parameters")


def _beside_catalog(schema: str) -> str:
    """Return a path that finds an extension's views, and of a stranger's functions there none first."""
    return f"pg_catalog, {quoted(schema)}, pg_temp"


async def _look_in(connection: Session[asyncpg.Record], path: str) -> None:
    await connection.fetch("select pg_catalog.set_config('search_path', $1, true)", path)


async def _rows(connection: Session[asyncpg.Record], found: EvidenceSource) -> list[asyncpg.Record]:
    if found.schema is None:
        return []
    async with connection.transaction(readonly=True):
        await _look_in(connection, _beside_catalog(found.schema))
        return list(await connection.fetch(queries.block("evidence", "statements")))


def _statement(row: asyncpg.Record) -> Statement:
    return Statement(
        id=row["id"] or "",
        text=row["text"] or "",
        calls=row["calls"],
        total_ms=row["total_ms"],
        rows=row["rows"],
        users=tuple(row["users"]),
    )


def _why_skipped(text: str | None, users: Sequence[str]) -> str | None:
    if text == _HIDDEN:
        return "texts of other roles that we may not read"
    if text is None or (read := sql_tokens.tokens(text)) is None:
        return "texts that cannot be read"
    if sql_tokens.first_word(text) not in READABLE:
        return "utility statements"
    # Checks of foreign keys say OPERATOR(pg_catalog.=), and are of the user's tables.
    plain = plan_scans.plain_operators(read)
    named = {token.name for token in plain if token.kind in ("word", "quoted")}
    about = {OURS, "pg_catalog", "information_schema", "pg_stat_statements"}
    if all(user.startswith(f"{OURS}_") for user in users) or named & about:
        return "statements of ragline and about the catalog"
    return None


def _operators(every: Sequence[Token]) -> list[str]:
    used = {token.text for token in every if token.kind == "operator"}
    return [operator for operator in VECTOR_OPERATORS if operator in used]


def _names(every: Sequence[Token], schema: str, table: str) -> bool:
    """Whether a statement names a table, and not that of another schema."""
    for at, token in enumerate(every):
        if token.kind not in ("word", "quoted") or token.name != table:
            continue
        is_qualified = at >= 2 and every[at - 1].text == "." and every[at - 2].kind != "number"
        if not is_qualified or every[at - 2].name == schema:
            return True
    return False

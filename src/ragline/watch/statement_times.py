"""What statements take, with values drawn from the table itself: read-only, the same values again.

Only the server's own clock is read (EXPLAIN ANALYZE), so that no row leaves it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from ragline.core import plan_scans, sql_tokens, stats
from ragline.core.dsn import Dsn
from ragline.core.evidence import Statement
from ragline.core.plan_scans import Condition, Scan
from ragline.db import evidence, pool
from ragline.db.evidence import NoPlan
from ragline.db.pool import quoted

DRAWS = 40
"""How many rows values are drawn from."""
_TIMES = 3
_TIMEOUT_MS = 10_000
_PREPARED = "ragline_timed"
_PARAMETER = re.compile(r"\(*\$(\d+)\)*(?:::.+)?")
_LIMIT = re.compile(r"\b(limit|offset)\s+\$(\d+)", re.IGNORECASE)
_ASKS = ("select", "with", "values", "table")
_SEED = 1

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A statement with values for it, each a list of arguments as SQL. `refused` says why none."""

    statement: Statement
    path: str
    arguments: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """How long a statement took with each of the values, in their order: the least of three times."""

    id: str
    ms: tuple[float, ...]
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Times before and after, in pairs of the same values. `ratio` below 1 is quicker, with its 95 %.

    `low` and `high` are None where there are too few pairs.
    """

    id: str
    n: int
    before_ms: float | None
    after_ms: float | None
    ratio: float | None
    low: float | None
    high: float | None
    refused: str | None = None

    @property
    def is_slower(self) -> bool:
        """Whether it surely got slower."""
        return self.low is not None and self.low > 1


async def drawn(dsn: Dsn, statements: Sequence[Statement], schema: str, table: str) -> list[Drawn]:
    """Return values for statements that read a table, drawn from its rows."""
    async with pool.session(dsn, "admin") as connection:
        distrusted = await evidence.not_trusted(connection)
        paths = await evidence.search_paths(
            connection, {user for one in statements for user in one.users if user}
        )
        return [
            await _drawn(connection, one, _path(one, paths), schema, table, distrusted)
            for one in statements
        ]


async def timed(dsn: Dsn, every: Sequence[Drawn]) -> list[Timed]:
    """Return what the statements take now. Nothing can be written meanwhile."""
    async with pool.session(dsn, "admin") as connection:
        return [await _timed(connection, one) for one in every]


def compared(before: Sequence[Timed], after: Sequence[Timed]) -> list[Comparison]:
    """Return the times of the same statements with the same values, before and after."""
    return [_compared(one, other) for one, other in zip(before, after, strict=True)]


def _compared(one: Timed, other: Timed) -> Comparison:
    refused = one.refused or other.refused
    pairs = list(zip(one.ms, other.ms, strict=False))
    if refused is not None or not pairs:
        return Comparison(
            id=one.id, n=0, before_ms=None, after_ms=None, ratio=None, low=None, high=None,
            refused=refused or "no values to ask with",
        )  # fmt: skip
    logs = [math.log(max(now, 1e-3) / max(was, 1e-3)) for was, now in pairs]
    found = stats.paired(logs, seed=_SEED)
    return Comparison(
        id=one.id,
        n=len(pairs),
        before_ms=stats.quantile([was for was, _ in pairs], 0.5),
        after_ms=stats.quantile([now for _, now in pairs], 0.5),
        ratio=math.exp(found.mean),
        low=None if found.low is None else math.exp(found.low),
        high=None if found.high is None else math.exp(found.high),
    )


def _path(statement: Statement, paths: Mapping[str, str]) -> str:
    return next((paths[user] for user in statement.users if user in paths), "public")


async def _drawn(
    connection: Session,
    statement: Statement,
    path: str,
    schema: str,
    table: str,
    distrusted: frozenset[str],
) -> Drawn:
    refused = await _why_not(connection, statement, path, distrusted)
    if isinstance(refused, str):
        return Drawn(statement=statement, path=path, refused=refused)
    scans = [s for s in plan_scans.scans(refused) if (s.schema, s.table) == (schema, table)]
    sources = _sources(statement.text, scans)
    numbers = sorted(
        {int(t.text[1:]) for t in sql_tokens.tokens(statement.text) or () if t.kind == "parameter"}
    )
    unknown = [f"${number}" for number in numbers if number not in sources]
    if unknown:
        return Drawn(
            statement=statement,
            path=path,
            refused=f"nothing is known about the values of {', '.join(unknown)}",
        )
    try:
        rows = await _values(connection, schema, table, [sources[number] for number in numbers])
    except asyncpg.PostgresError as error:
        return Drawn(statement=statement, path=path, refused=f"no values could be drawn: {error}")
    return Drawn(statement=statement, path=path, arguments=tuple(dict.fromkeys(rows)))


async def _why_not(
    connection: Session,
    statement: Statement,
    path: str,
    distrusted: frozenset[str],
) -> str | Mapping[str, Any]:
    """Return the plan of a statement that may be run, or why it may not."""
    if sql_tokens.first_word(statement.text) not in _ASKS:
        return "it writes"
    if (named := sql_tokens.mentions(statement.text, distrusted)) is not None:
        return f"it may run {named!r}, in which a role has a hand that may do less than ours"
    plan = await evidence.explained(connection, statement.text, [path])
    if isinstance(plan, NoPlan):
        return plan.reason
    # What views call is in the plan only.
    if volatile := await evidence.volatile(connection, [statement.text, *_texts(plan)]):
        return f"it calls {', '.join(volatile)}, which may do more than read"
    return "it writes" if "ModifyTable" in json.dumps(plan) else plan


def _texts(value: object) -> Iterator[str]:
    """Return every text in a plan."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _sources(text: str, scans: Sequence[Scan]) -> dict[int, str]:
    """Return, by the number of a parameter, SQL over a row of the table that gives a value as text."""
    found: dict[int, str] = {}
    for word, number in _LIMIT.findall(text):
        found[int(number)] = "'10'" if word.lower() == "limit" else "'0'"
    for scan in scans:
        for one in scan.conditions:
            match = _PARAMETER.fullmatch(one.value)
            if match is not None and not one.term.hides:
                found.setdefault(int(match[1]), _source(one))
    return found


def _source(one: Condition) -> str:
    own = one.term.text if one.term.column is None else quoted(one.term.column)
    if one.operator == "@>":
        # A row's whole value finds little but itself; a part of it is what people ask for.
        return _part(own)
    return f"({own})::text"


async def _values(
    connection: Session, schema: str, table: str, sources: Sequence[str]
) -> list[str]:
    """Return lists of arguments, each of one row."""
    if not sources:
        return [""]
    arguments = " || ', ' || ".join(f"pg_catalog.quote_nullable({one})" for one in sources)
    async with connection.transaction(readonly=True):
        await evidence.limited(connection, _TIMEOUT_MS)
        rows = await connection.fetch(
            f"select {arguments} as said from {quoted(schema)}.{quoted(table)} "  # noqa: S608
            "order by pg_catalog.random() limit $1",
            DRAWS,
        )
    return [row["said"] for row in rows if row["said"] is not None]


def _part(own: str) -> str:
    """Return SQL for a part of what a column holds: one pair of an object, one element of a list."""
    whole = f"pg_catalog.to_jsonb({own})"
    return (
        f"(select case pg_catalog.jsonb_typeof({whole}) when 'object' then coalesce(("  # noqa: S608
        "select pg_catalog.jsonb_build_object(pair.key, pair.value) "
        f"from pg_catalog.jsonb_each({whole}) as pair order by pg_catalog.random() limit 1"
        f"), {whole})::text "
        f"else ({own})::text end)"
    )


async def _timed(connection: Session, one: Drawn) -> Timed:
    if one.refused is not None:
        return Timed(id=one.statement.id, ms=(), refused=one.refused)
    try:
        async with connection.transaction(readonly=True):
            await connection.fetch(
                "select pg_catalog.set_config('search_path', $1, true)", one.path
            )
            await evidence.limited(connection, _TIMEOUT_MS)
            # As constants are planned for: with the value at hand.
            await connection.fetch("set local plan_cache_mode = force_custom_plan")
            await connection.fetch(f"prepare {_PREPARED} as {evidence.valid(one.statement.text)}")
            ms = [await _least(connection, said) for said in one.arguments]
    except asyncpg.PostgresError as error:
        return Timed(id=one.statement.id, ms=(), refused=str(error))
    finally:
        await evidence.forget(connection, _PREPARED)
    return Timed(id=one.statement.id, ms=tuple(ms))


async def _least(connection: Session, said: str) -> float:
    values = f"({said})" if said else ""
    took = []
    for _ in range(_TIMES):
        plan = await connection.fetchval(
            f"explain (analyze, timing off, format json) execute {_PREPARED}{values}"
        )
        took.append(float(json.loads(plan)[0]["Execution Time"]))
    return min(took)

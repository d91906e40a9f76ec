"""Health: whether questions can be answered now, check by check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ragline.core.budget import ROLES
from ragline.db import queries, schema
from ragline.db.pool import Pool
from ragline.errors import ModelError, RaglineError, SchemaMismatch
from ragline.models.embed import Embedder

Status = Literal["pass", "warn", "fail"]
_WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "pass")
_PATIENCE_S = 5.0

OpenPool = Callable[[], Awaitable[Pool]]
OpenEmbedder = Callable[[], Awaitable[Embedder | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. `fix` says what to do where `detail` does not."""

    id: str
    status: Status
    detail: str
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All checks, and the worst of their statuses: `warn` still answers questions."""

    status: Status
    checks: tuple[Check, ...]

    def without_details(self) -> Health:
        """Return the same for people who may not know addresses, versions and names."""
        return replace(self, checks=tuple(replace(c, detail="", fix=None) for c in self.checks))


def health(checks: Iterable[Check]) -> Health:
    """Return the health that some checks amount to."""
    found = tuple(checks)
    seen = {check.status for check in found}
    return Health(status=next((s for s in _WORST_FIRST if s in seen), "pass"), checks=found)


async def look(
    open_pool: OpenPool, open_embedder: OpenEmbedder, *, patience_s: float = _PATIENCE_S
) -> Health:
    """Return the health of database, schema, isolation, pool and model, looking side by side."""
    stored, model = await asyncio.gather(
        database(open_pool, patience_s=patience_s), embedding(open_embedder)
    )
    return health([*stored, model])


async def database(open_pool: OpenPool, *, patience_s: float = _PATIENCE_S) -> list[Check]:
    """Return the checks of the database; only the first one where it cannot be asked."""
    try:
        async with asyncio.timeout(patience_s):
            pool = await open_pool()
            started = time.perf_counter()
            async with pool.connection() as connection:
                applied = await connection.fetchval(queries.block("catalog", "schema_version"))
                server = await connection.fetchval("show server_version")
            took_ms = (time.perf_counter() - started) * 1000
    except RaglineError as error:
        return [failure(error)]
    except TimeoutError:
        return [
            Check(
                id="database",
                status="fail",
                detail=f"no answer within {patience_s:g} s",
                fix="see what keeps PostgreSQL busy, or raise its max_connections",
            )
        ]
    answered = f"PostgreSQL {server} answered in {took_ms:.1f} ms"
    return [
        Check(id="database", status="pass", detail=answered),
        _schema(applied),
        _isolation(pool),
        _pool(pool),
    ]


async def embedding(open_embedder: OpenEmbedder) -> Check:
    """Return whether there is a model, which search by meaning needs."""
    try:
        embedder = await open_embedder()
    except RaglineError as error:
        return failure(error)
    if embedder is None:
        return Check(
            id="model",
            status="warn",
            detail="no model: search is lexical only",
            fix="ragline model fetch, or name a folder in RAGLINE_MODEL_DIR; then ingest again",
        )
    facts = embedder.facts
    return Check(
        id="model", status="pass", detail=f"{facts.model_id}, {facts.dimension} dimensions"
    )


def failure(error: RaglineError) -> Check:
    """Return the check that failed with `error`, whose message says what to do."""
    known = {SchemaMismatch: "schema", ModelError: "model"}
    id_ = next((id_ for kind, id_ in known.items() if isinstance(error, kind)), "database")
    return Check(id=id_, status="fail", detail=str(error))


def _schema(applied: str | None) -> Check:
    if applied == schema.HEAD:
        return Check(id="schema", status="pass", detail=f"at version {applied}")
    newer = applied is not None and applied not in schema.VERSIONS
    return Check(
        id="schema",
        status="fail",
        detail=f"at version {applied or 'none'}; this ragline needs {schema.HEAD}",
        fix="upgrade ragline" if newer else "ragline migrate apply",
    )


def _isolation(pool: Pool) -> Check:
    if pool.why_not_isolated is None:
        return Check(
            id="isolation", status="pass", detail=f"{pool.workload} logs in as {pool.dsn.user}"
        )
    return Check(
        id="isolation",
        status="warn",
        detail=f"not isolated: {pool.why_not_isolated}",
        fix=f"run ragline migrate apply as a user who may create roles (for {pool.workload}: "
        f"{ROLES[pool.workload]})",
    )


def _pool(pool: Pool) -> Check:
    opened, idle = pool.open_and_idle()
    busy = opened - idle
    is_full = busy >= pool.size
    return Check(
        id="pool",
        status="warn" if is_full else "pass",
        detail=f"{pool.workload}: {busy} busy of {opened} open, at most {pool.size}",
        fix="callers wait for a connection: send fewer requests at once" if is_full else None,
    )

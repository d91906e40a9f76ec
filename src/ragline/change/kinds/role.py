"""Settings of the workloads' roles in this database, and how many connections they may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from ragline.change import guc_checks
from ragline.change.kind import Kind, Site
from ragline.core import guc_values
from ragline.core.budget import ROLES, Workload
from ragline.core.change import Step, Value
from ragline.core.dsn import nearest
from ragline.core.guc_values import Guc
from ragline.db import server
from ragline.db.pool import Pool, quoted
from ragline.db.server import Session
from ragline.errors import NotFound, PreconditionFailed, RaglineError, UsageError

LIMIT = "connection_limit"
_NO_LIMIT = -1
_WORKLOADS: Mapping[str, Workload] = {role: workload for workload, role in ROLES.items()}
_SET_AT_LOGIN = ("application_name", "plan_cache_mode", "search_path")
_OF_ONE = "database user"


class Role(Kind):
    """One setting of a role, such as "eval_app.work_mem", or "eval_app.connection_limit".

    A setting is that of the role in this database; the limit is the role's on the whole server.
    `wanted` and `read` learn the database's name, for the steps as people read them.
    """

    name = "role"
    is_cluster_wide = True

    def __init__(self) -> None:
        self._database = "this database"

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return the value as ALTER ROLE keeps it, after the server took it and threw it away."""
        role, name = _parts(target)
        self._database = site.dsn.database
        async with site.session() as session:
            guc_checks.refuse_replica(await server.facts(session))
            await _refuse_missing(session, role)
            if name == LIMIT:
                value: Value = _limit(want)
                warnings = _limit_warnings(role, _limit(want))
            else:
                value, warnings = await _setting(site, session, role, name, want)
            await _try(site, session, _statement(role, site.dsn.database, name, value))
        if name != LIMIT:
            await _refuse_shared_login(site, role)
        return value, tuple(warnings)

    async def read(self, site: Site, target: str) -> Value:
        """Return what the catalog has for the role."""
        role, name = _parts(target)
        self._database = site.dsn.database
        async with site.session() as session:
            await _refuse_missing(session, role)
            if name == LIMIT:
                return await server.connection_limit(session, role)
            return guc_values.as_value(name, await server.role_setting(session, role, name))

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return the one ALTER ROLE."""
        if now == want:
            return []
        role, name = _parts(target)
        return [
            Step(
                kind=self.name,
                target=target,
                phase="apply",
                action="sql",
                text=_statement(role, self._database, name, want),
                arguments={"want": want},
                lock="of the role's row, for a moment",
                blocks="others who alter the same role",
                expected_s=0.02,
            )
        ]

    async def run(self, site: Site, step: Step) -> None:
        """Alter the role, and let our own pool of it begin anew: it acts on new connections only."""
        role, name = _parts(step.target)
        statement = _statement(role, site.dsn.database, name, step.arguments["want"])
        async with site.session() as session:
            await server.load_library_of(session, name)
            async with session.transaction():
                await _limit_waiting(session, site)
                try:
                    await session.execute(statement)
                except asyncpg.PostgresError as error:
                    raise guc_checks.explained(error, f"`{statement}` was refused") from error
        await site.app.recycle(_WORKLOADS[role])

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Raise RaglineError unless the catalog says so and the role sees it when it logs in."""
        role, name = _parts(target)
        says = await self.read(site, target)
        if says != want:
            raise RaglineError(f"the catalog has {says!r} for {target}, not {want!r}")
        if name == LIMIT:
            return
        pool = await site.app.open_pool(_WORKLOADS[role])
        try:
            _check_login(pool, role)
            async with pool.connection() as connection:
                reason = await _why_not(connection, name, want)
        finally:
            await pool.close()
        if reason is not None:
            raise RaglineError(f"role {role}, logged in anew: {reason}")

    def measured(self, target: str) -> Mapping[str, Any]:
        """Return the workload whose searches it touches."""
        return {"workload": _WORKLOADS[_parts(target)[0]]}


def _parts(target: str) -> tuple[str, str]:
    """Return the role and the name of its setting; raises UsageError for a role that is not ours."""
    role, _, name = target.partition(".")
    if role not in _WORKLOADS:
        like = nearest(role, list(_WORKLOADS))
        hint = f"; perhaps {like}" if like else ""
        raise UsageError(
            f"{role!r} is no role of a workload{hint}: there are {', '.join(_WORKLOADS)}. Write a "
            "target such as eval_app.work_mem"
        )
    if not name:
        raise UsageError(f"{target!r} names no setting: write {role}.work_mem or {role}.{LIMIT}")
    return role, name.lower()


def _statement(role: str, database: str, name: str, want: Value) -> str:
    if name == LIMIT:
        return f"alter role {quoted(role)} connection limit {want}"
    where = f"alter role {quoted(role)} in database {quoted(database)}"
    if want is None:
        return f"{where} reset {guc_values.quoted_name(name)}"
    return f"{where} set {guc_values.assignment(name, want)}"


def _limit(want: Value) -> int:
    try:
        limit = int(want) if isinstance(want, int | str) and not isinstance(want, bool) else None
    except ValueError:
        limit = None
    if limit is None:
        raise UsageError(
            f"{LIMIT} cannot be {want!r}: a role always has one; write a number, or -1 for no limit"
        )
    if limit != _NO_LIMIT and not 1 <= limit <= 262143:
        raise UsageError(
            f"{LIMIT} cannot be {limit}: write 1 to 262143, or -1 for no limit; with 0 the workload "
            "could not log in"
        )
    return limit


def _limit_warnings(role: str, limit: int) -> list[str]:
    if limit == _NO_LIMIT:
        return [f"without a limit {role} can take every connection from the other workloads"]
    if limit == 1:
        return [f"with 1 connection a second process of {role} finds none"]
    return []


async def _setting(
    site: Site, session: Session, role: str, name: str, want: Value
) -> tuple[str | list[str] | None, list[str]]:
    await server.load_library_of(session, name)
    if want is None:
        return None, []
    _refuse_name(role, name)
    guc = await server.setting(session, name)
    if guc.context in ("internal", "postmaster", "sighup"):
        raise UsageError(
            f"{guc.name} is one for the whole server (its context is {guc.context}), a role cannot "
            f"have its own: change `setting {guc.name}` instead"
        )
    value = guc_values.normal(guc.name, want)
    await guc_checks.check_value(site, session, guc, value)
    there = await server.role_setting(session, role, name)
    text = guc_values.as_text(guc.name, value)
    if there is not None and guc_values.is_same(guc, text, there):
        value = guc_values.as_value(guc.name, there) or value  # the same, written otherwise
    return value, _warnings(role, guc)


def _refuse_name(role: str, name: str) -> None:
    reason = guc_values.why_refused(name)
    if reason is None or (name == "default_transaction_read_only" and _WORKLOADS[role] != "admin"):
        return
    raise UsageError(f"ragline does not change {name!r} of a role: {reason}")


def _warnings(role: str, guc: Guc) -> list[str]:
    said = ["connections of other processes keep the old value until they are closed"]
    if guc.name in _SET_AT_LOGIN:
        said.append(
            f"ragline sets {guc.name} itself when it logs in: the role's value acts on other "
            f"programs that log in as {role}"
        )
    if guc.name == "statement_timeout":
        said.append(
            "it acts on ragline's queries where it is stricter than RAGLINE_QUERY_TIMEOUT, which "
            "ragline sets when it logs in"
        )
    return said


async def _refuse_missing(session: Session, role: str) -> None:
    if await server.connection_limit(session, role) is None:
        raise PreconditionFailed(
            f"this server has no role {role}: `ragline migrate apply`, run by a user with CREATEROLE, "
            "makes it"
        )


async def _refuse_shared_login(site: Site, role: str) -> None:
    """Raise PreconditionFailed where the workload does not log in as its role at all."""
    _check_login(await site.app.pool(_WORKLOADS[role]), role)


def _check_login(pool: Pool, role: str) -> None:
    if pool.why_not_isolated is not None:
        raise PreconditionFailed(
            f"settings of {role} would act on nobody, since its workload does not log in as it: "
            f"{pool.why_not_isolated}"
        )


async def _try(site: Site, session: Session, statement: str) -> None:
    """Have the server take the statement and forget it: it knows best what it refuses."""
    transaction = session.transaction()
    await transaction.start()
    try:
        await _limit_waiting(session, site)
        await session.execute(statement)
    except asyncpg.PostgresError as error:
        raise guc_checks.explained(error, f"PostgreSQL refuses `{statement}`") from error
    finally:
        await transaction.rollback()


async def _limit_waiting(session: Session, site: Site) -> None:
    sql = "select pg_catalog.set_config('lock_timeout', $1, true)"
    await session.fetchval(sql, f"{site.lock_timeout_ms}ms")


async def _why_not(connection: Session, name: str, want: Value) -> str | None:
    """Return why a login of the role does not have what is wanted; None where it does."""
    await server.load_library_of(connection, name)
    try:
        guc = await server.setting(connection, name)
    except NotFound:
        return None  # one that only superusers may see: the catalog has it
    if guc.source == "client":
        return None  # ours at login; the catalog has the role's
    if want is None:
        is_old = guc.source == _OF_ONE
        return (
            f"{guc.name} is still {guc.setting}, of the role in this database" if is_old else None
        )
    if guc.source != _OF_ONE:
        return f"{guc.name} is {guc.setting}, which comes from: {guc.source}"
    if await guc_checks.is_in_effect(connection, guc, guc_values.as_text(name, want)):
        return None
    return f"{guc.name} is {guc.setting}, not {want}"

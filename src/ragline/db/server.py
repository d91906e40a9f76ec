"""The server's settings as rows: what runs, what its files say, what roles have of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TypeAlias

import asyncpg

from ragline.core.dsn import missing
from ragline.core.guc_values import Guc, literal
from ragline.db import queries
from ragline.db.pool import quoted
from ragline.errors import NotFound, PreconditionFailed

# Quoted: asyncpg's classes take a parameter in their stubs only.
Session: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

MANAGED: Mapping[str, str] = MappingProxyType(
    {
        "rds_superuser": (
            "Amazon RDS: change its parameter group (`aws rds modify-db-parameter-group`, at most 20 "
            "parameters a call)"
        ),
        "cloudsqlsuperuser": (
            "Google Cloud SQL: use `gcloud sql instances patch --database-flags`, with all flags, "
            "since it replaces them"
        ),
        "alloydbsuperuser": (
            "Google AlloyDB: use `gcloud alloydb instances update --database-flags`, with all flags, "
            "since it replaces them"
        ),
        "azure_pg_admin": (
            "Azure Database for PostgreSQL: use `az postgres flexible-server parameter set`"
        ),
        "supabase_admin": "Supabase: use `supabase postgres-config update`",
        "neon_superuser": (
            "Neon: settings of the server are Neon's own; set them for a role or a database"
        ),
    }
)
"""Roles that only a provider's servers have, and how settings are changed there."""
_AUTO_CONF = "postgresql.auto.conf"
_NOT_NOW = "setting could not be applied"
"""What the server says of a value that takes a restart, and of one it refuses."""
_FROM_PGVECTOR = ("hnsw", "ivfflat", "vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides whether settings can be changed here, and by whom."""

    version: int
    version_text: str
    user_name: str
    is_superuser: bool
    is_replica: bool
    allows_alter_system: bool
    may_reload: bool
    may_read_files: bool
    managed_roles: tuple[str, ...]
    is_patroni: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSetting:
    """A line of a configuration file, as the server reads it now. `error` None is none."""

    file: str
    line: int
    name: str | None
    value: str | None
    is_applied: bool
    error: str | None

    @property
    def is_auto(self) -> bool:
        """Whether ALTER SYSTEM wrote it."""
        return is_auto(self.file)

    @property
    def is_broken(self) -> bool:
        """Whether the server cannot read it at all, and with it none of the files."""
        return self.error is not None and self.error != _NOT_NOW


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSetting:
    """What a role, a database or both have for a setting; it goes before the server's value."""

    role: str
    database: str | None
    value: str

    def __str__(self) -> str:
        place = "" if self.database is None else f" in database {self.database}"
        return f"{self.role}{place} = {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A setting as one session sees it; `source` says where its value is from."""

    setting: str
    source: str
    shown: str


def is_auto(file: str) -> bool:
    """Return whether a configuration file is the one that ALTER SYSTEM writes."""
    return file.replace("\\", "/").rpartition("/")[2] == _AUTO_CONF


async def facts(session: Session) -> Facts:
    """Return what decides whether settings can be changed."""
    row = await session.fetchrow(queries.block("server", "facts"), list(MANAGED))
    if row is None:
        raise PreconditionFailed("the server did not say who we are")
    return Facts(**{**row, "managed_roles": tuple(row["managed_roles"])})


async def load_library_of(session: Session, name: str) -> None:
    """Load what knows a setting such as `hnsw.ef_search`; until then its name is a mere placeholder.

    Loading pgvector by touching a vector is anybody's right; LOAD is a superuser's.
    """
    prefix, dot, _ = name.lower().partition(".")
    if not dot:
        return
    if prefix in _FROM_PGVECTOR:
        schema = await session.fetchval(queries.block("server", "extension_schema"), "vector")
        if schema is not None:
            await session.fetchval(f"select '[1]'::{quoted(schema)}.vector is null")
            return
        prefix = "vector"
    with contextlib.suppress(asyncpg.PostgresError):
        # No such library, one that loads at the start only, or not ours to load: its names show it.
        await session.execute(f"load {literal(prefix)}")


async def setting(session: Session, name: str) -> Guc:
    """Return a setting of the running server; raises NotFound with the nearest that exists."""
    row = await session.fetchrow(queries.block("server", "setting"), name)
    if row is None:
        rows = await session.fetch(queries.block("server", "setting_names"))
        names = [row["name"] for row in rows]
        prefix, dot, _ = name.lower().partition(".")
        alike = [known for known in names if known.startswith(f"{prefix}.")] if dot else []
        raise NotFound(missing("setting", name, alike or names))
    return Guc(
        name=row["name"],
        vartype=row["vartype"],
        context=row["context"],
        unit=row["unit"],
        low=row["min_val"],
        high=row["max_val"],
        choices=tuple(row["enumvals"] or ()),
        setting=row["setting"] or "",
        default=row["boot_val"],
        source=row["source"],
        source_file=row["sourcefile"],
        is_pending=row["pending_restart"],
    )


async def seen(session: Session, name: str) -> Seen | None:
    """Return a setting as this session has it; None where it knows no such name."""
    row = await session.fetchrow(queries.block("server", "as_session_sees_it"), name)
    return None if row is None else Seen(**row)


async def whole(session: Session, name: str) -> int:
    """Return a setting that is a whole number; 0 where this version has none of that name."""
    sql = "select coalesce(pg_catalog.current_setting($1, true), '0')::int"
    return int(await session.fetchval(sql, name))


async def shown_as(session: Session, name: str, value: str) -> str:
    """Return how the server shows a value of a setting that sessions may set; it stays as it was."""
    transaction = session.transaction()
    await transaction.start()
    try:
        shown = await session.fetchval("select pg_catalog.set_config($1, $2, true)", name, value)
    finally:
        await transaction.rollback()
    return str(shown)


async def file_settings(session: Session) -> list[FileSetting]:
    """Return the lines of all configuration files, in the order in which they count."""
    try:
        rows = await session.fetch(queries.block("server", "file_settings"))
    except asyncpg.InsufficientPrivilegeError as error:
        raise PreconditionFailed(
            f"this user may not see what the configuration files say ({error}): as a superuser run "
            "`grant select on pg_file_settings to <this user>` and `grant execute on function "
            "pg_show_all_file_settings() to <this user>`, or use a superuser"
        ) from error
    return [
        FileSetting(
            file=row["sourcefile"] or "",
            line=row["sourceline"] or 0,
            name=row["name"],
            value=row["setting"],
            is_applied=bool(row["applied"]),
            error=row["error"],
        )
        for row in rows
    ]


async def auto_settings(session: Session) -> dict[str, str]:
    """Return what postgresql.auto.conf says, names in lower case: what `autoconf.repair` takes."""
    return {
        line.name.lower(): line.value or ""
        for line in await file_settings(session)
        if line.is_auto and line.name is not None
    }


async def own_settings(session: Session, name: str) -> list[OwnSetting]:
    """Return which roles and databases have a value of their own for a setting."""
    rows = await session.fetch(queries.block("server", "own_settings"), name)
    return [OwnSetting(**row) for row in rows]


async def role_setting(session: Session, role: str, name: str) -> str | None:
    """Return what a role has for a setting in this database; None is nothing."""
    found = await session.fetchval(queries.block("server", "role_setting"), role, name)
    return None if found is None else str(found)


async def connection_limit(session: Session, role: str) -> int | None:
    """Return a role's connection limit, -1 for none; None where there is no such role."""
    found = await session.fetchval(queries.block("server", "connection_limit"), role)
    return None if found is None else int(found)


async def may_alter(session: Session, facts: Facts, name: str) -> bool:
    """Return whether we may ALTER SYSTEM a setting: a superuser, or granted so from 15 on."""
    if facts.is_superuser or facts.version < 150000:
        return facts.is_superuser
    sql = "select pg_catalog.has_parameter_privilege($1, 'alter system')"
    return bool(await session.fetchval(sql, name.lower()))


async def missing_library(session: Session, name: str) -> str | None:
    """Return what the server says of a library whose file it does not find; None where it does.

    A library that loads at the server's start only says so here, and is there.
    """
    try:
        await session.execute(f"load {literal(name)}")
    except asyncpg.UndefinedFileError as error:
        return str(error)
    except asyncpg.PostgresError:
        return None
    return None


async def started_at(session: Session) -> datetime:
    """Return since when the server runs."""
    found = await session.fetchval(queries.block("server", "started_at"))
    if not isinstance(found, datetime):
        raise PreconditionFailed("the server did not say since when it runs")
    return found

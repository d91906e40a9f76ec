"""What settings of the server and of a role are both checked for, by us and by the running server."""

from __future__ import annotations

import asyncpg

from ragline.change.kind import Site
from ragline.core import guc_values
from ragline.core.guc_values import Guc
from ragline.db import server
from ragline.db.server import Facts, Session
from ragline.errors import PreconditionFailed, RaglineError, UsageError

_NOT_ALLOWED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)
_NO_SPACE = (asyncpg.DiskFullError, asyncpg.PostgresIOError, asyncpg.OutOfMemoryError)
_WRONG = (asyncpg.DataError, asyncpg.SyntaxOrAccessError)


def refuse_replica(facts: Facts) -> None:
    """Raise PreconditionFailed on a server that only repeats what another one does."""
    if facts.is_replica:
        raise PreconditionFailed(
            "this server is a replica, which takes over what the primary has: change it there, or "
            "set DATABASE_URL to the primary (target_session_attrs=read-write)"
        )


async def check_value(site: Site, session: Session, guc: Guc, value: str | list[str]) -> None:
    """Raise UsageError for a value that is not of the setting's type, or that the server refuses."""
    text = guc_values.as_text(guc.name, value)
    guc_values.check(guc, text)
    if guc.is_of_session:
        try:
            await server.shown_as(session, guc.name, text)
        except asyncpg.InsufficientPrivilegeError:
            return  # whether we may is another question; its rules were ours to check
        except asyncpg.PostgresError as error:
            raise explained(error, f"PostgreSQL does not take {text!r} for {guc.name}") from error
    if guc.name in guc_values.LIBRARIES and isinstance(value, list):
        await _check_libraries(site, guc, value)


async def _check_libraries(site: Site, guc: Guc, names: list[str]) -> None:
    """Raise UsageError for a library whose file is not there: nobody could log in, or it not start."""
    async with site.session() as own:  # what is loaded stays in a session
        if not (await server.facts(own)).is_superuser:
            if guc.name == "shared_preload_libraries":
                return  # a server that does not start is put right on disk; locked doors are not
            raise PreconditionFailed(
                f"only a superuser can find out whether the libraries of {guc.name} are there, and "
                "with a missing one nobody could log in any more: use a superuser's DSN"
            )
        for name in names:
            if said := await server.missing_library(own, name):
                raise UsageError(
                    f"{guc.name} cannot have {name!r}: {said}. Install it on the server first, or "
                    "mend its name"
                )


async def is_in_effect(session: Session, guc: Guc, asked: str) -> bool:
    """Return whether a session's value is what was asked for, however it was written."""
    if guc_values.is_same(guc, asked, guc.setting):
        return True
    if not guc.is_of_session:
        return False
    now = await server.seen(session, guc.name)
    try:
        return now is not None and await server.shown_as(session, guc.name, asked) == now.shown
    except asyncpg.PostgresError:
        return False


def explained(error: asyncpg.PostgresError, what: str) -> RaglineError:
    """Return a refusal of the server's as one of ours, with what to do."""
    said = f"{what}: {error}"
    if isinstance(error, asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError):
        raise error  # the session says what these are
    if isinstance(error, _NO_SPACE):
        return PreconditionFailed(f"{said}. Free space on the server's disk, then try again")
    if isinstance(error, asyncpg.InsufficientPrivilegeError) and "ead-only" in str(error):
        return PreconditionFailed(f"{said}. The server's disk is read-only: make it writable")
    if isinstance(error, _NOT_ALLOWED):
        return PreconditionFailed(f"{said}. Use a user who may, such as a superuser")
    if isinstance(error, _WRONG):
        return UsageError(f"{said}{_hint(error)}")
    return RaglineError(said)


def _hint(error: asyncpg.PostgresError) -> str:
    words = [getattr(error, name, None) for name in ("detail", "hint")]
    return "".join(f". {word}" for word in words if word)

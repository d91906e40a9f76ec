"""What PostgreSQL, or a revision's own code, refuses: said as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy.exc

from ragline.core.dsn import Dsn
from ragline.errors import DatabaseUnreachable, LockTimeout, PreconditionFailed, RaglineError


@contextmanager
def explained(dsn: Dsn, what: str) -> Iterator[None]:
    """Turn what PostgreSQL, or the user's own code, refuses into our errors."""
    try:
        yield
    except RaglineError:
        raise
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as raised:
        error = raised.orig if isinstance(raised, sqlalchemy.exc.DBAPIError) else raised
        raise _ours(dsn, what, error) from raised
    except Exception as error:
        raise PreconditionFailed(
            f"{what}: {type(error).__name__}: {error}; nothing of it was changed"
        ) from error


def _ours(dsn: Dsn, what: str, error: BaseException | None) -> RaglineError:
    said = str(error).strip()
    if isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
        return LockTimeout(f"{what}: {said}; nothing of it was changed, it is safe to repeat")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return PreconditionFailed(
            f"{what}: {said}; nothing of it was changed. Where it has to take this long, let the "
            "revision say so: op.execute(\"set local statement_timeout = '2h'\")"
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return PreconditionFailed(
            f"{what}: user {dsn.user!r} may not do this: {said}; nothing of it was changed. Use the "
            "user who owns the tables"
        )
    if isinstance(error, psycopg.OperationalError) and getattr(error, "sqlstate", None) in (
        None,
        "57P01",
        "57P02",
        "57P03",
    ):
        return DatabaseUnreachable(f"the connection to {dsn.redacted()} was lost: {said}")
    return PreconditionFailed(f"{what}: {said}; nothing of it was changed")

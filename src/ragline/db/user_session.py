"""A connection for the user's own SQL: as the DSN's user, with the search path of that user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy

from ragline.core.dsn import Dsn
from ragline.errors import DatabaseUnreachable


def login(dsn: Dsn, *, autocommit: bool) -> psycopg.Connection[Any]:
    """Log in as any program of the user would; nothing is set but what the DSN and the role say."""
    try:
        return psycopg.connect(dsn.for_psycopg("admin"), autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(f"{dsn.redacted()} cannot be reached: {error}") from error


@contextmanager
def looking(dsn: Dsn) -> Iterator[psycopg.Connection[Any]]:
    """Lend such a connection, each statement by itself."""
    with login(dsn, autocommit=True) as connection:
        yield connection


@contextmanager
def bound(dsn: Dsn, settings: dict[str, str]) -> Iterator[sqlalchemy.Connection]:
    """Lend such a connection as SQLAlchemy wraps it, with settings of the session."""

    def creator() -> psycopg.Connection[Any]:
        connection = login(dsn, autocommit=True)
        for name, value in settings.items():
            connection.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])
        connection.autocommit = False
        return connection

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=creator, poolclass=sqlalchemy.pool.NullPool
    )
    with engine.connect() as bind:
        bind.rollback()  # what SQLAlchemy asked at first began a transaction
        yield bind

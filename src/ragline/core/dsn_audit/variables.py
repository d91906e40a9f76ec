"""The names by which programs know a database in the environment."""

from __future__ import annotations

import re

from ragline.core.libpq import PARAMETER_OF

_LIBPQ = frozenset({*PARAMETER_OF, "PGSERVICE", "PGSERVICEFILE"})
_PREFIX = r"(?:[A-Z][A-Z0-9]*_){0,3}"
_URL = (
    r"(?:DATABASE_UR[LI]|DATABASE_DSN|DB_UR[LI]|DB_DSN|PG_DSN|PG_URL|PG_CONN_STR"
    r"|(?:PGVECTOR|POSTGRES|POSTGRESQL|DATABASE|DB|PG)_CONNECTION_STRING"
    r"|POSTGRES(?:QL)?_(?:DSN|UR[LI]))"
)
_PART = (
    r"(?:(?:POSTGRES|POSTGRESQL|DB|DATABASE|PG)_(?:HOST|PORT|USER|USERNAME|PASSWORD|PASS|DB|NAME"
    r"|DATABASE))"
)
_NAME = re.compile(f"{_PREFIX}(?:{_URL}|{_PART})")
_SECRET = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9]*[_.-]){0,3}"
    r"(?:PGPASSWORD|(?:postgres|postgresql|pg|pgvector|db|database|datasource)"
    r"[_.-]?(?:password|passwd|pass|pwd))",
    re.IGNORECASE,
)


def names_a_database(name: str) -> bool:
    """Whether a variable of this name says which database is used, or how to log in to it."""
    return name in _LIBPQ or _NAME.fullmatch(name) is not None


def holds_a_password(name: str) -> bool:
    """Whether a setting of this name holds a database's password."""
    return _SECRET.fullmatch(name) is not None

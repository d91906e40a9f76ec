"""Named SQL blocks of `sql/*.sql`: a line `-- name --` begins one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

_SQL = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)


@cache
def block(file: str, name: str) -> str:
    """Return the SQL of one block; a KeyError names what is missing."""
    return blocks(file)[name]


@cache
def blocks(file: str) -> Mapping[str, str]:
    """Return every block of `sql/<file>.sql` by name."""
    parts = _NAME.split((_SQL / f"{file}.sql").read_text(encoding="utf-8"))
    return MappingProxyType(
        {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    )

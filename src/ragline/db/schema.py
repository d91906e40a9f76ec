"""Which version the schema has, without loading what applies it."""

from __future__ import annotations

from pathlib import Path

from ragline.core.budget import Workload
from ragline.core.dsn import Dsn
from ragline.db import pool, queries

VERSIONS = tuple(
    sorted(path.stem[1:5] for path in (Path(__file__).parent / "migrations/versions").glob("r*.py"))
)
HEAD = VERSIONS[-1]


async def version(dsn: Dsn, workload: Workload) -> str | None:
    """Return the version of the schema as the user of the DSN sees it; None where there is none."""
    found: str | None = await pool.ask_once(
        dsn,
        workload,
        queries.block("catalog", "schema_version"),
        unless=queries.block("catalog", "complaint"),
    )
    return found

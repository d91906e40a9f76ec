"""The schema's history: one SQL file up and one down for each revision."""

from __future__ import annotations

from pathlib import Path

from alembic import op

VERSIONS = Path(__file__).parent / "versions"


def run_file(name: str) -> None:
    """Run an SQL file on the migration's connection, as it is: no placeholders, many statements."""
    text = (VERSIONS / name).read_text(encoding="utf-8")
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(text)
        return
    raw = op.get_bind().connection.driver_connection
    if raw is None:
        raise RuntimeError("the migration's connection is closed")
    raw.execute(text)

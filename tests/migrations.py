"""Folders of Alembic migrations, as a user would have them, made by the tests."""

from __future__ import annotations

from pathlib import Path

from ragline.core.migration_sql import split

INI = """[alembic]
script_location = %(here)s/migrations
path_separator = os
"""
# It is never run: it would end everything.
ENV = """raise SystemExit("env.py was run")
"""


def folder(path: Path, *, env: str = ENV, ini: str = INI) -> Path:
    """Make a folder without revisions and return its alembic.ini."""
    versions = path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (path / "migrations" / "env.py").write_text(env)
    (path / "migrations" / "script.py.mako").write_text("")
    (path / "alembic.ini").write_text(ini)
    return path / "alembic.ini"


def revision(
    ini: Path, id_: str, after: str | tuple[str, ...] | None, up: str, down: str = "pass"
) -> None:
    """Add a revision; `up` and `down` are Python, or SQL where they begin with a word of it."""
    text = "\n".join(
        [
            f'"""Revision {id_}."""',
            "import sqlalchemy as sa",
            "from alembic import op",
            f"revision = {id_!r}",
            f"down_revision = {after!r}",
            "branch_labels = None",
            "depends_on = None",
            "",
            "def upgrade():",
            *_lines(up),
            "",
            "def downgrade():",
            *_lines(down),
            "",
        ]
    )
    (ini.parent / "migrations" / "versions" / f"{id_}_test.py").write_text(text)


def outside(statement: str) -> str:
    """Return Python that runs a statement outside of a transaction."""
    return f"with op.get_context().autocommit_block():\n    op.execute({statement!r})"


def _lines(code: str) -> list[str]:
    python = code.startswith(("op.", "with ", "pass", "raise ", "for ", "if ", "bind", "sa."))
    text = code if python else "\n".join(f"op.execute({one!r})" for one in split(code))
    return [f"    {line}" for line in text.splitlines()]

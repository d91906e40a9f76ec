"""A lint for the revisions of an Alembic folder: what stops readers, loses rows, or cannot go back.

    lint([RevisionSource(path="versions/1_first.py", text=…)])

Pure: files are read, and revisions rendered, elsewhere.
"""

from ragline.core.migration_lint.linting import lint
from ragline.core.migration_lint.revision import (
    LintFinding,
    RevisionSource,
    Statement,
)

__all__ = [
    "LintFinding",
    "RevisionSource",
    "Statement",
    "lint",
]

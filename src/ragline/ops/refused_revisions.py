"""Revisions that are refused: what could not be taken back, would be done in halves, or cannot run."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from ragline.core import migration_sql, migration_statements
from ragline.core.migration_statements import Loss, Statement
from ragline.errors import PreconditionFailed
from ragline.ops.alembic_scripts import Rendered, Scripts

_HARMLESS_OUTSIDE = ("reindex", "refresh", "analyze", "vacuum", "set", "reset")


def refuse_without_way_back(up: Rendered, down: Rendered) -> None:
    """Refuse an upgrade that could not be taken back: the loop takes back what made things worse."""
    if "NotImplementedError" in down.why_not:
        why = "raises NotImplementedError"
    elif not down.why_not and not down.statements and any(one.is_form for one in up.statements):
        why = "does nothing"
    else:
        return
    raise PreconditionFailed(
        f"the downgrade of revision {up.revision} {why}, so that it could not be taken back if it made "
        "something worse: write one"
    )


def refuse_not_brought_back(
    back: Sequence[Rendered], losses: Sequence[Loss], why: str = "does not bring {} back"
) -> None:
    """Refuse a way back after which what was lost has no place to come back to."""
    statements = [statement for one in back for statement in one.statements]
    gone = _not_brought_back(losses, statements)
    if gone is not None and not any(one.why_not for one in back):
        raise PreconditionFailed(
            f"the downgrade {why.format(gone)}, so that its rows could not be put back: write one that "
            "makes it again"
        )


def _not_brought_back(losses: Sequence[Loss], back: Sequence[Statement]) -> str | None:
    """Return a column or a table that is dropped, and that the way back does not make again."""
    made = {migration_sql.last(name) for name in migration_statements.created(back)}
    made |= {migration_sql.last(new) for one in back for _, new in one.renames}
    for loss in losses:
        if not loss.is_dropped or loss.table is None:
            continue
        for name in loss.columns or (loss.table,):
            if migration_sql.last(migration_sql.plain(name)) not in made:
                return f"{loss.table}.{name}" if loss.columns else f"table {loss.table}"
    return None


def refuse_without_env(scripts: Scripts, revision: str) -> None:
    """Refuse a revision that asks what only env.py's context knows: it would fail when it runs."""
    path = Path(scripts.directory.get_revision(revision).path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "alembic"
        for alias in node.names
        if alias.name == "context"
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in names
        ):
            raise PreconditionFailed(
                f"revision {revision} uses `alembic.context.{node.attr}`, which only env.py "
                "makes; it is not run here: take `op.get_context()`, or the environment in the place "
                "of -x arguments"
            )


def refuse_mixed(one: Rendered) -> None:
    """Refuse a revision of which a part would be committed before the rest is done."""
    outside = [at for at, statement in enumerate(one.statements) if statement.is_outside]
    if not outside:
        if (found := next(iter(one.indexes), None)) is not None:
            raise PreconditionFailed(
                f"revision {one.revision} does `{one.statement_of(found)}` inside a transaction, which "
                "PostgreSQL refuses: put it under `with op.get_context().autocommit_block():`"
            )
        return
    before = one.statements[: outside[0]]
    strange = [
        one.statements[at].text
        for at in outside
        if one.statements[at].index is None
        and one.statements[at].text.split(None, 1)[0].lower() not in _HARMLESS_OUTSIDE
    ]
    said = next((statement.text for statement in before if not _is_setting(statement.text)), None)
    said = said or next(iter(strange), None)
    if said is not None:
        raise PreconditionFailed(
            f"revision {one.revision} would commit `{said[:200]}` before the rest of it is done, so "
            "that a crash leaves half of it: give what runs outside of a transaction "
            "(autocommit_block) a revision of its own"
        )


def _is_setting(text: str) -> bool:
    return text.split(None, 1)[0].lower() in ("set", "reset", "select") and (
        "set_config" in text.lower() or not text.lower().startswith("select")
    )

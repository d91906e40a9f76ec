"""`ragline migrate new`: a revision from our template, with time limits and a way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragline.cli import output
from ragline.cli.options import AsJson


def new(
    path: Annotated[
        Path,
        typer.Argument(help="An alembic.ini, or the folder it is in.", show_default=False),
    ],
    message: Annotated[str, typer.Argument(help="What it does, in a line.", show_default=False)],
    *,
    init: Annotated[
        bool,
        typer.Option("--init", help="Make alembic.ini, env.py and the template where none is."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the next revision into an Alembic folder; no database is asked.

    It begins with a lock and a statement timeout, and shows how an index is built CONCURRENTLY.
    """
    from ragline.ops import migration_template

    made = migration_template.new(path, message, may_init=init)
    here = Path.cwd()
    files = [one.relative_to(here) if one.is_relative_to(here) else one for one in made.files]
    lines = [f"made {file}" for file in files]
    lines.append(f"next: write upgrade() and downgrade(), then ragline migrate lint {path}")
    output.emit(made, as_json=as_json, text="\n".join(lines))

"""`ragline index`: what indexes there are, tuned and advised."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Indexes: what there is, what to tune, what to add or drop.", no_args_is_help=True
)

"""`ragline index`: what indexes there are, tuned and advised."""

from __future__ import annotations

import typer

from ragline.cli import index_advise, index_list, index_tune

app = typer.Typer(
    help="Indexes: what there is, what to tune, what to add or drop.", no_args_is_help=True
)
app.command("list")(index_list.list_indexes)
app.command("advise")(index_advise.advise)
app.command("tune")(index_tune.tune)

"""`ragline health`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir
from ragline.errors import RaglineError

if TYPE_CHECKING:
    from ragline.config import Config
    from ragline.watch.health import Check, Health

_FAILED = 3


def health(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check database, schema, roles and model; exit code 3 when something fails."""
    found = asyncio.run(_look(runtime.load(data_dir)))
    lines = [f"health: {found.status}", *(_line(check) for check in found.checks)]
    output.emit(found, as_json=as_json, text="\n".join(lines))
    if found.status == "fail":
        raise typer.Exit(_FAILED)


async def _look(config: Config) -> Health:
    from ragline.watch import health as watch
    from ragline.wiring import open_app

    try:
        async with open_app(config) as app:
            try:
                return await watch.look(partial(app.pool, app.search_workload), app.embedder)
            finally:
                runtime.say_spending(app.spent)
    except RaglineError as error:
        # A remote model is asked what it is, as a search would: the line on stderr says so.
        async with runtime.embedder(config) as open_embedder:
            return watch.health([watch.failure(error), await watch.embedding(open_embedder)])


def _line(check: Check) -> str:
    fix = f"\n{'':17}{check.fix}" if check.fix else ""
    return f"  {check.status}  {check.id:<9}  {check.detail}{fix}"

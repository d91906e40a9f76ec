"""`ragline migrate`: the schema's history."""

from __future__ import annotations

from typing import Annotated

import typer

from ragline.cli import migrate_lint, migrate_new, migrate_rehearse, output, runtime
from ragline.cli.options import AsJson, DataDir

app = typer.Typer(help="See and apply changes of the database schema.", no_args_is_help=True)


@app.command()
def plan(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the whole SQL.")] = False,
) -> None:
    """Print what `apply` would do, and change nothing."""
    from ragline.db import migrate
    from ragline.wiring import database

    found = migrate.status(database(runtime.load(data_dir)))
    lines = [f"schema {found.applied or 'absent'}; this ragline has {found.head}"]
    lines += [f"  apply {item.id}  {item.title}" for item in found.pending]
    if sql:
        lines += [item.sql for item in found.pending]
    if found.is_current:
        lines.append("nothing to do")
    else:
        lines.append("locks wait at most RAGLINE_LOCK_TIMEOUT_MS; all in one transaction")
        lines.append("next: ragline migrate apply")
    output.emit(found, as_json=as_json, text="\n".join(lines))


@app.command()
def apply(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Bring the schema to this ragline's version, in one transaction."""
    from ragline.db import migrate
    from ragline.wiring import database

    config = runtime.load(data_dir)
    if migrate.status(database(config)).is_current:
        runtime.settle(config)
    done = migrate.apply(
        database(config), lock_timeout_ms=config.lock_timeout_ms, role_secret=config.role_secret
    )
    roles = "a role for each workload" if done.isolated else "not isolated: no roles of our own"
    output.emit(done, as_json=as_json, text=f"schema is at {done.applied} ({roles})")


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print where the schema stands; exit code 3 when something is pending."""
    from ragline.db import migrate
    from ragline.wiring import database

    found = migrate.status(database(runtime.load(data_dir)))
    text = (
        f"schema {found.applied or 'absent'} of {found.head}, {len(found.pending)} pending; "
        f"PostgreSQL {found.server}, pgvector {found.pgvector}"
    )
    output.emit(found, as_json=as_json, text=text)
    if not found.is_current:
        raise typer.Exit(3)


app.command("lint")(migrate_lint.lint)
app.command("new")(migrate_new.new)
app.command("rehearse")(migrate_rehearse.rehearse)

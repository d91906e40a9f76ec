"""The command line: one file per noun; what a command needs is imported when it runs."""

from __future__ import annotations

import sys

import typer

from ragline.errors import RaglineError

_INTERRUPTED = 130

app = typer.Typer(
    name="ragline",
    help="RAG on PostgreSQL and pgvector that stays fast without letting answer quality slip.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _mount() -> None:
    from ragline.cli import (
        attach,
        backup,
        change,
        collection,
        db,
        doctor,
        dsn,
        health,
        index,
        ingest,
        migrate,
        model,
        search,
        serve,
        snapshot,
        tune,
    )
    from ragline.cli import eval as evaluation

    app.command()(ingest.ingest)
    app.command()(search.search)
    app.command()(search.ask)
    app.command()(serve.serve)
    app.command()(attach.attach)
    app.command()(attach.detach)
    app.command()(health.health)
    app.command()(doctor.doctor)
    app.add_typer(collection.app, name="collection")
    app.add_typer(evaluation.app, name="eval")
    app.add_typer(change.app, name="change")
    app.add_typer(tune.app, name="tune")
    app.add_typer(snapshot.app, name="snapshot")
    app.add_typer(backup.app, name="backup")
    app.add_typer(index.app, name="index")
    app.add_typer(migrate.app, name="migrate")
    app.add_typer(db.app, name="db")
    app.add_typer(dsn.app, name="dsn")
    app.add_typer(model.app, name="model")


_mount()


def main() -> None:
    """Run the command line; errors become one sentence on stderr and an exit code."""
    from ragline.cli import output

    try:
        output.prepare_stdout()
        app()
    except RaglineError as error:
        output.note(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # Typer's word for Ctrl-C
            output.note("interrupted")
        raise

"""`ragline db`: the embedded PostgreSQL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from ragline.config import Config

app = typer.Typer(
    name="db",
    help="Start, stop and reach the embedded PostgreSQL. Other commands start it by themselves.",
    no_args_is_help=True,
)

NOT_RUNNING = 3

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        help="Also listen on this port of 127.0.0.1, with a password (default: RAGLINE_DB_PORT, "
        "else the Unix socket only).",
        show_default=False,
    ),
]
OverTcp = Annotated[
    bool | None,
    typer.Option(
        "--tcp/--socket",
        help="Over TCP or the Unix socket (default: TCP when a port is configured).",
        show_default=False,
    ),
]


@app.command()
def start(data_dir: DataDir = None, port: Port = None, as_json: AsJson = False) -> None:
    """Create the database when there is none, and start it; it stays when this command ends."""
    from ragline import wiring
    from ragline.cli import output

    settings = _settings(data_dir)
    cluster = wiring.cluster(settings, port=port)
    place = f"port {cluster.port} of 127.0.0.1 and " if cluster.tcp else ""
    text = (
        f"PostgreSQL {cluster.version} runs (process {cluster.pid}) in {cluster.data_dir}, "
        f"reachable by {place}the socket in {cluster.socket_dir}"
    )
    output.emit(cluster, as_json=as_json, text=text)


@app.command()
def stop(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Stop the server; its connections end, its data stays."""
    from ragline.cli import output
    from ragline.ops import embedded

    folder = _settings(data_dir).data_dir
    stopped = embedded.stop(folder)
    text = f"stopped the server of {folder}" if stopped else f"no server runs in {folder}"
    output.emit({"stopped": stopped, "data_dir": folder}, as_json=as_json, text=text)


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Say whether the server runs; exit code 0 when it does, else 3."""
    from ragline.cli import output
    from ragline.ops import embedded

    found = embedded.status(_settings(data_dir).data_dir)
    text = f"{found.state}: {found.detail} ({found.data_dir})"
    if cluster := found.cluster:
        text = (
            f"running: PostgreSQL {cluster.version}, process {cluster.pid}, data in "
            f"{cluster.data_dir}, socket in {cluster.socket_dir}, log in {found.log}"
        )
    output.emit(found, as_json=as_json, text=text)
    if found.state != "running":
        raise typer.Exit(NOT_RUNNING)


@app.command()
def url(data_dir: DataDir = None, tcp: OverTcp = None, as_json: AsJson = False) -> None:
    """Print the URL of the running server, which is started when needed; it holds no password."""
    from ragline import wiring
    from ragline.cli import output
    from ragline.ops import embedded

    settings = _settings(data_dir)
    cluster = wiring.cluster(settings)
    over_tcp = settings.db_port is not None if tcp is None else tcp
    found = embedded.tcp_url(cluster) if over_tcp else embedded.url(cluster)
    password_file = embedded.password_file(cluster) if over_tcp else None
    if password_file is not None:
        output.note(f"the password is in {password_file}")
    output.emit({"url": found, "password_file": password_file}, as_json=as_json, text=found)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, data_dir: DataDir = None) -> None:
    """Open psql on the server, which is started when needed; further arguments go to psql."""
    from ragline import wiring
    from ragline.ops import embedded

    command = embedded.psql_command(wiring.cluster(_settings(data_dir)))
    os.execv(command[0], [*command, *context.args])  # noqa: S606 - the wheel's own program


def _settings(data_dir: DataDir) -> Config:
    from ragline import config
    from ragline.cli import output

    found = config.load(data_dir=data_dir)
    if found.dsn is not None:
        output.note(
            f"note: other commands use the database of your DSN ({found.dsn}); "
            "ragline db acts on the embedded one"
        )
    return found

"""`ragline dsn`: which database is used, and why; and which files go around that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ragline.cli import dsn_audit
from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from ragline.config import Config
    from ragline.core.dsn import Dsn

app = typer.Typer(
    help="Show which database is used, and audit files for others.", no_args_is_help=True
)


@app.callback()
def dsn() -> None:
    """Show which database is used, and audit files for others."""


app.command()(dsn_audit.audit)


@app.command()
def show(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show every part of the connection and where it came from; secrets are shown as ***."""
    from ragline import config
    from ragline.cli import output

    loaded = config.load(data_dir=data_dir)
    for warning in loaded.warnings:
        output.note(f"warning: {warning}")
    output.emit(_as_value(loaded), as_json=as_json, text=_as_text(loaded))


def _as_value(loaded: Config) -> dict[str, object]:
    parts = _parts(loaded.dsn) if loaded.dsn else []
    return {
        "database": "yours" if loaded.dsn else "embedded",
        "url": loaded.dsn.redacted() if loaded.dsn else None,
        "data_dir": loaded.data_dir,
        "parts": [{"part": part, "value": value, "from": source} for part, value, source in parts],
        "warnings": loaded.warnings,
    }


def _as_text(loaded: Config) -> str:
    if loaded.dsn is None:
        return (
            f"the embedded database is used; its data is in {loaded.data_dir}\n"
            "to use your own PostgreSQL, set DATABASE_URL"
        )
    rows = [("part", "value", "from"), *_parts(loaded.dsn)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(
        f"{part:<{widths[0]}}  {value:<{widths[1]}}  {source}" for part, value, source in rows
    )


def _parts(dsn: Dsn) -> list[tuple[str, str, str]]:
    from ragline.core.dsn import application_name

    values = {
        "host": ",".join(host.host for host in dsn.hosts),
        "port": ",".join(str(host.port) for host in dsn.hosts),
        "database": dsn.database,
        "user": dsn.user,
        "password": str(dsn.password or "(none)"),
        **{name: str(value) for name, value in dsn.options},
        "application_name": application_name("<workload>"),
    }
    if any(host.address for host in dsn.hosts):
        values["hostaddr"] = ",".join(host.address or "" for host in dsn.hosts)
    sources = {"password": "nowhere", "application_name": "ragline", **dsn.sources}
    return [(part, value, sources.get(part, "default")) for part, value in values.items()]

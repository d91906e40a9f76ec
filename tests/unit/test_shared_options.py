"""Options that several commands share: taken in the place of one parameter."""

import json
from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from ragline.cli import output
from ragline.cli.options import AsJson, gathering

Many = Annotated[list[str] | None, typer.Option("--many", "-m")]


def both(*, many: Many = None, size: Annotated[int, typer.Option(min=1)] = 3) -> dict[str, Any]:
    """Return what was said."""
    return {"many": many, "size": size}


def test_shared_options_stand_where_the_parameter_does_and_arrive_as_one_value() -> None:
    app = typer.Typer()

    @app.command()
    @gathering("said", both)
    def command(
        *,
        name: Annotated[str, typer.Argument()],
        said: dict[str, Any],
        last: bool = False,
        as_json: AsJson = False,
    ) -> None:
        """Print all of it."""
        output.emit({"name": name, "last": last, **said}, as_json=as_json, text="")

    runner = CliRunner()
    done = runner.invoke(app, ["x", "-m", "a", "--many", "b", "--size", "7", "--last", "--json"])
    assert json.loads(done.stdout) == {"name": "x", "last": True, "many": ["a", "b"], "size": 7}
    assert runner.invoke(app, ["x", "--size", "0"]).exit_code == 2
    shown = runner.invoke(app, ["--help"]).stdout
    places = [shown.index(word) for word in ("Print all", "--many", "--size", "--last", "--json")]
    assert places == sorted(places)

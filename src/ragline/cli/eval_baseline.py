"""`ragline eval baseline`: runs that are kept to hold others against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.eval_options import Run
from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from ragline.core.runs import Baseline
    from ragline.evals.report_run import RunReport
    from ragline.rag.app import App

app = typer.Typer(name="baseline", help="Keep runs to hold others against.", no_args_is_help=True)


@app.command("set")
def set_(
    run: Run,
    name: Annotated[str, typer.Option("--name", help="What to call the baseline.")],
    note: Annotated[str | None, typer.Option(help="Why this one.", show_default=False)] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a complete run the baseline of its dataset under a name; the one before is history."""
    from ragline.evals import baseline

    found = runtime.with_eval(data_dir, lambda app: baseline.keep(app, run, name, note))
    output.emit(found, as_json=as_json, text=_line(found))


@app.command("list")
def list_(
    dataset: Annotated[
        str | None, typer.Argument(help="Of this dataset only.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the baselines, the newest first, also those that ended."""
    from ragline.evals import baseline

    found = runtime.with_eval(data_dir, lambda app: baseline.every(app, dataset))
    text = "\n".join(_line(one) for one in found) or "no baselines yet"
    output.emit({"baselines": found}, as_json=as_json, text=text)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the baseline.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="Its dataset, where several have such a name.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the run that is a baseline now."""
    from ragline.evals import report

    found = runtime.with_eval(data_dir, lambda app: _shown(app, name, dataset))
    shown = report.as_json(found)
    del shown["cases"]
    text = "" if as_json else report.terminal(found, output.width())
    output.emit({"name": name, **shown}, as_json=as_json, text=text)


async def _shown(app: App, name: str, dataset: str | None) -> RunReport:
    from ragline.evals import baseline, report

    return await report.of_run(app, await baseline.one(app, name, dataset))


def _line(baseline: Baseline) -> str:
    note = f": {baseline.note}" if baseline.note else ""
    until = f" until {baseline.ended_at}" if baseline.ended_at else ""
    return output.on_one_line(
        f"{baseline.name}  run {baseline.run_id} ({baseline.run}) of {baseline.dataset}, from "
        f"{baseline.set_at}{until}{note}"
    )

"""`ragline eval`: what a search and its answers are worth, measured and compared."""

from __future__ import annotations

from typing import Annotated

import typer

from ragline.cli import (
    eval_baseline,
    eval_cache,
    eval_comparison,
    eval_dataset,
    eval_noise,
    eval_run,
    output,
)
from ragline.cli.options import AsJson

app = typer.Typer(
    name="eval",
    help="Measure searches and answers, keep baselines, and hold changes against red lines.",
    no_args_is_help=True,
)


@app.command()
def policy(
    name: Annotated[str, typer.Argument(help="default, ragchecker-floor or faithful.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Print a policy that comes with ragline: a commented file to start your own from."""
    from ragline.evals import policy as policies

    text = policies.text(name)
    output.emit({"name": name, "text": text}, as_json=as_json, text=text.rstrip("\n"))


app.command()(eval_run.run)
app.command()(eval_run.runs)
app.command()(eval_run.show)
app.command()(eval_run.export)
app.command()(eval_run.remove)
app.command()(eval_comparison.compare)
app.command()(eval_comparison.check)
app.command()(eval_noise.recall)
app.command()(eval_noise.noise)
app.add_typer(eval_dataset.app, name="dataset")
app.add_typer(eval_baseline.app, name="baseline")
app.add_typer(eval_cache.app, name="cache")

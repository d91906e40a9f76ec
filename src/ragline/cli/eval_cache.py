"""`ragline eval cache`: what judges said, kept so that nobody pays for it twice."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Yes

if TYPE_CHECKING:
    from ragline.db.verdicts import Facts

app = typer.Typer(
    name="cache", help="Show, verify and clear what judges said.", no_args_is_help=True
)

_DAMAGED = 3


@app.command()
def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how many answers of judges are kept, how large they are, and of what use they were."""
    from ragline.evals import cache

    facts = runtime.with_eval(data_dir, cache.facts)
    output.emit(facts, as_json=as_json, text=_line(facts))


@app.command()
def verify(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Hold every kept answer against its checksum; exit code 3 when one is damaged.

    A damaged answer is never used: the judge is asked again.
    """
    from ragline.evals import cache

    found = runtime.with_eval(data_dir, cache.verify)
    said = [f"{found.entries} answers, {len(found.damaged)} damaged"]
    output.emit(found, as_json=as_json, text="\n".join([*said, *found.damaged]))
    if found.damaged:
        output.note(
            "damaged answers are asked for again, and replaced then; `ragline eval cache clear --yes` "
            "would forget the others too"
        )
        raise typer.Exit(_DAMAGED)


@app.command()
def clear(
    judge: Annotated[
        str | None, typer.Option(help="Of this judge only.", show_default=False)
    ] = None,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Forget what judges said; the next run asks, and pays, again."""
    from ragline.evals import cache

    whose = f"of {judge}" if judge else "of all judges"
    if not yes:
        facts = runtime.with_eval(data_dir, cache.facts)
        whole = f" --judge {shlex.quote(judge)}" if judge else ""
        output.only_said(
            {"cleared": None, "cache": facts, "judge": judge},
            as_json=as_json,
            text=f"would forget the answers {whose}; in all: {_line(facts)}",
            again=f"ragline eval cache clear{whole} --yes",
        )
    count = runtime.with_eval(data_dir, lambda app: cache.clear(app, judge))
    output.emit(
        {"cleared": count, "judge": judge}, as_json=as_json, text=f"forgot {count} answers {whose}"
    )


def _line(facts: Facts) -> str:
    since = "" if facts.oldest is None else f", the oldest from {facts.oldest:%Y-%m-%d}"
    return f"{facts.entries} answers, {facts.bytes:,} bytes, used {facts.hits} times{since}"

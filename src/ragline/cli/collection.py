"""`ragline collection`: named sets of documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Yes

if TYPE_CHECKING:
    from ragline.core.access import Calibration
    from ragline.core.results import CollectionFacts

app = typer.Typer(help="List, show, measure and remove collections.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the collection.")]


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the collections."""
    from ragline.rag import catalog

    found = runtime.with_app(data_dir, catalog.collections)
    text = "\n".join(_line(facts) for facts in found) or "no collections yet"
    output.emit({"collections": found}, as_json=as_json, text=text)


@app.command()
def show(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one collection with its embedding space."""
    found = runtime.with_app(data_dir, lambda app: app.collection(name, fresh=True))
    output.emit(found, as_json=as_json, text=_line(found))


@app.command()
def calibrate(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Measure how searches with a filter are quickest here; an ingest does it when it is due."""
    from ragline.rag import calibration

    with output.bar("calibrating", shown=not as_json) as advance:
        found = runtime.with_app(
            data_dir,
            lambda app: calibration.calibrate(
                app, name, on_progress=lambda step: advance(step.done, step.total)
            ),
            settles=True,
        )
    output.emit(found, as_json=as_json, text="\n".join(_calibration(found)))


def _calibration(found: Calibration) -> list[str]:
    first = (
        f"up to {found.exact_chunks:,} of {found.chunks:,} chunks that a filter allows, all are "
        "compared; beyond, the index is walked:"
    )
    return [
        first,
        "  kept      compare all   walk the index   ef_search   rows asked for a hit   recall@10",
        *(
            f"  {level.share:6.2%}   {level.exact_ms:8.2f} ms   {level.index_ms:11.2f} ms   "
            f"{level.ef_search:>9}   {level.factor:>20}   {level.recall:9.3f}"
            for level in found.levels
        ),
    ]


@app.command()
def remove(
    name: Name,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a collection with all its documents."""
    from ragline.rag import catalog

    found = runtime.with_app(data_dir, lambda app: app.collection(name, fresh=True))
    if not yes:
        output.only_said(
            {"removed": None, "would_remove": found},
            as_json=as_json,
            text=f"would remove: {_line(found)}",
            again=f"ragline collection remove {name} --yes",
        )
    runtime.with_app(data_dir, lambda app: catalog.remove_collection(app, name), settles=True)
    output.emit({"removed": name}, as_json=as_json, text=f"removed {_line(found)}")


def _line(facts: CollectionFacts) -> str:
    space = (
        f"{facts.space.model_id}, {facts.space.dimension} dimensions"
        if facts.space
        else "no vectors: lexical search only"
    )
    held = (
        f"{facts.documents} documents, {facts.chunks} chunks of at most {facts.chunk_size} tokens"
        if facts.attached is None
        else f"{facts.chunks} rows of the attached table {facts.attached.schema}.{facts.attached.table}"
    )
    return f"{facts.name}: {held}, {facts.language}, {space}, corpus epoch {facts.epoch}"

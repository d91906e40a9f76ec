"""`ragline eval dataset`: named sets of questions with what a good search and answer would bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragline.cli import output, runtime
from ragline.cli.eval_options import Dataset
from ragline.cli.options import AsJson, DataDir, Yes

if TYPE_CHECKING:
    from ragline.core import cases
    from ragline.core.cases import Case, DatasetFacts
    from ragline.rag.app import App

app = typer.Typer(
    name="dataset", help="Import, list, show, export and remove datasets.", no_args_is_help=True
)

_CASES_SHOWN = 10
_OTHER = (
    "the dataset was there with the same questions and golds, and keeps its tags, other keys and "
    "order; --replace takes these"
)


Format = Literal["ragchecker", "beir", "trec", "ragas", "jsonl"]
ReadFormat = Literal["auto", "ragchecker", "beir", "trec", "ragas", "jsonl"]


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="File or folder to read.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="What the dataset is to be called.")],
    format: Annotated[ReadFormat, typer.Option(help="What the file is.")] = "auto",  # noqa: A002
    split: Annotated[
        str | None, typer.Option(help="BEIR: which part of the judgements.", show_default="test")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="TREC: the file of judgements, beside that of the queries.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of one with the same name.")
    ] = False,
    skip_degenerate: Annotated[
        bool,
        typer.Option("--skip-degenerate", help="Leave out cases that would measure nothing."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Read a dataset from a file or folder and keep it in the database.

    Reads RAGChecker's JSON, BEIR folders, TREC queries and qrels, ragas samples, and JSON lines. A case
    that would measure nothing, such as one whose answer is its context, is refused.
    """
    from ragline.evals import formats

    read = formats.load(
        path,
        format,
        name=name,
        split=split,
        qrels=qrels,
        skip_degenerate=skip_degenerate,
    )
    if not as_json:
        for refusal in read.left_out:
            output.note(output.on_one_line(f"left out  {refusal}"))
    facts, is_other = runtime.with_eval(data_dir, lambda app: _added(app, read.dataset, replace))
    warnings = [_OTHER] if is_other else []
    output.warn(warnings, as_json=as_json)
    left_out = f"; {len(read.left_out)} left out" if read.left_out else ""
    output.emit(
        {"dataset": facts, "left_out": read.left_out, "warnings": warnings},
        as_json=as_json,
        text=_line(facts) + left_out,
    )


async def _added(app: App, dataset: cases.Dataset, replace: bool) -> tuple[DatasetFacts, bool]:
    from ragline.evals import dataset as datasets

    before = {facts.id for facts in await datasets.every(app)}
    facts = await datasets.add(app, dataset, replace=replace)
    return facts, facts.id in before and await datasets.differs(app, dataset)


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the datasets."""
    from ragline.evals import dataset as datasets

    found = runtime.with_eval(data_dir, datasets.every)
    text = "\n".join(_line(facts) for facts in found) or "no datasets yet"
    output.emit({"datasets": found}, as_json=as_json, text=text)


@app.command()
def show(name: Dataset, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show a dataset with its first cases; `--json` has all of them."""
    from ragline.evals import dataset as datasets

    facts, found = runtime.with_eval(data_dir, lambda app: datasets.one(app, name))
    shown = [_case_line(case) for case in found.cases[:_CASES_SHOWN]]
    if (more := len(found.cases) - _CASES_SHOWN) > 0:
        shown.append(f"  … and {more} more: --json has them all")
    output.emit(
        {"facts": facts, "cases": found.cases},
        as_json=as_json,
        text="\n".join([_line(facts), *shown]),
    )


@app.command()
def export(
    name: Dataset,
    path: Annotated[Path, typer.Argument(help="File or folder to write.", show_default=False)],
    format: Annotated[Format, typer.Option(help="What to write.")],  # noqa: A002 - its name
    split: Annotated[
        str | None, typer.Option(help="BEIR: what to call the judgements.", show_default="test")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset in one of the formats that are read."""
    from ragline.evals import dataset as datasets
    from ragline.evals import formats

    facts, found = runtime.with_eval(data_dir, lambda app: datasets.one(app, name))
    notes = formats.write(found, format, path, split=split)
    output.warn(notes, as_json=as_json)
    output.emit(
        {
            "name": name,
            "path": path,
            "format": format,
            "cases": facts.cases,
            "warnings": notes,
        },
        as_json=as_json,
        text=f"wrote dataset {name} to {path}",
    )


@app.command()
def remove(
    name: Dataset,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a dataset; its runs must be removed before."""
    from ragline.evals import dataset as datasets

    facts, _ = runtime.with_eval(data_dir, lambda app: datasets.one(app, name))
    if not yes:
        output.only_said(
            {"removed": None, "would_remove": facts},
            as_json=as_json,
            text=f"would remove: {_line(facts)}",
            again=f"ragline eval dataset remove {name} --yes",
        )
    runtime.with_eval(data_dir, lambda app: datasets.remove(app, name))
    output.emit({"removed": name}, as_json=as_json, text=f"removed {_line(facts)}")


def _line(facts: DatasetFacts) -> str:
    return (
        f"{facts.name}: {facts.cases} cases ({facts.format}), {facts.with_answer} with a gold answer, "
        f"{facts.with_relevant} with relevant documents, {facts.unanswerable} unanswerable, "
        f"hash {facts.hash[:12]}, imported {facts.imported_at}"
    )


def _case_line(case: Case) -> str:
    return output.on_one_line(f"  {case.id}  {case.question}")

"""What the commands of `ragline eval` share: their options, their report file, their verdict."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ragline.cli import output
from ragline.cli.search import Filter, Method
from ragline.errors import GateFailed, Inconclusive, UsageError

if TYPE_CHECKING:
    from ragline.core import runs as values
    from ragline.core.redline import Verdict
    from ragline.core.redline_rows import Row
    from ragline.evals.report import Subject

_MICRO = 1_000_000


def micro_usd(text: str) -> int:
    """Return an amount of US dollars as whole micro-dollars, rounded down."""
    try:
        usd = Decimal(text)
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd < 0:
        raise UsageError(
            f"--max-cost is {text!r}; it must be an amount of US dollars, such as 0.30"
        )
    return int(usd * _MICRO)


Dataset = Annotated[str, typer.Argument(help="Name of the dataset.")]
Run = Annotated[str, typer.Argument(help="A run, by its name or number.")]
EfSearch = Annotated[
    int | None,
    typer.Option(help="Breadth of the vector index scan.", show_default="as searches have it"),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(help="Red lines: a TOML file, or default, ragchecker-floor or faithful."),
]
Against = Annotated[
    str | None,
    typer.Option(
        help="Baseline or run that the lines with a margin are held against.", metavar="BASELINE"
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="Also write a report here: .html, .md or .json.", dir_okay=False),
]


def given(
    *,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            "-c",
            help="Collection to search; may be given several times.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="How many chunks to search.", show_default="10")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="Vectors and BM25 together, or one alone.", show_default="hybrid"),
    ] = None,
    ef_search: EfSearch = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="No shortcuts: compare every vector, weigh every chunk."),
    ] = False,
    filter: Filter = None,  # noqa: A002 - what the option is called
    answers: Annotated[
        Literal["none", "extractive", "generated"] | None,
        typer.Option(
            help="Answer too: with sentences found, or by the model.", show_default="none"
        ),
    ] = None,
    judge: Annotated[
        Literal["none", "lexical", "llm", "imported"] | None,
        typer.Option(
            help="What says whether claims are borne out: words in common, a model, or labels that came "
            "with the dataset.",
            show_default="none",
        ),
    ] = None,
    contexts: Annotated[
        Literal["live", "fixed"] | None,
        typer.Option(
            help="Search the database, or take the passages that came with the dataset.",
            show_default="live",
        ),
    ] = None,
    match: Annotated[
        Literal["auto", "source", "name", "stem"] | None,
        typer.Option(
            help="How the dataset names documents: by whole source, by file name, or that without its "
            "suffix.",
            show_default="auto",
        ),
    ] = None,
    against_exact: Annotated[
        bool,
        typer.Option(
            "--against-exact",
            help="Search again without shortcuts, for recall against that (ann_recall).",
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of what is random.", show_default="0")
    ] = None,
) -> dict[str, Any]:
    """Return the options that were given, as `core.runs.Settings` names and types them."""
    options = {
        "collections": None if collection is None else tuple(collection),
        "k": k,
        "method": method,
        "ef_search": ef_search,
        "exact": exact,
        "filter": filter,
        "answers": answers,
        "judge": judge,
        "contexts": contexts,
        "match": match,
        "against_exact": against_exact,
        "seed": seed,
    }
    # A flag left out is False; 0 is an answer.
    return {name: one for name, one in options.items() if one is not None and one is not False}


def settings(options: dict[str, Any], before: values.Run | None) -> values.Settings:
    """Return what is measured: as the run that is gone on with was set, or from defaults.

    Raises UsageError when there is no collection to search, and for an option that says something
    else than the run that is gone on with.
    """
    from ragline.core.runs import Settings

    if before is None:
        # With fixed contexts nothing is searched.
        if "collections" not in options and options.get("contexts") != "fixed":
            raise UsageError("name the collection to search: --collection NAME")
        return Settings(**{"collections": (), **options})
    was = before.settings
    for name, value in options.items():
        if value != getattr(was, name):
            raise UsageError(
                f"run {before.name} has {name} {getattr(was, name)!r}, not {value!r}: leave it out to "
                "go on as it was set, or begin another run without --resume"
            )
    return was


def check_report(path: Path | None) -> None:
    """Refuse, before anything is measured, a report that could not be written in the end."""
    from ragline.evals import report

    if path is None:
        return
    report.check_path(path)
    if not path.parent.is_dir():
        raise UsageError(f"the report {path} cannot be written: there is no folder {path.parent}")


async def save_report(path: Path | None, subject: Subject) -> None:
    """Write the report, where one is asked for, and say so."""
    from ragline.evals import report

    if path is not None:
        await report.save(path, subject)
        output.note(f"report: {path}")


def conclude(verdict: Verdict) -> None:
    """End with what the verdict says, after everything is printed; a pass says nothing more."""
    named: dict[str, list[str]] = {}
    for row in verdict.rows:
        if row.status == verdict.status:
            named.setdefault(_said(row), []).append(row.metric)
    said = "; ".join(f"{', '.join(metrics)}{what}" for what, metrics in named.items())
    if verdict.status == "fail":
        raise GateFailed(f"verdict fail: {said or verdict.reason}")
    if verdict.status == "inconclusive":
        raise Inconclusive(f"verdict inconclusive: {said}")


def _said(row: Row) -> str:
    if row.status == "fail" and row.baseline is not None and row.value is not None:
        return f" {row.baseline:.4g} -> {row.value:.4g}"
    return f": {row.reason}"

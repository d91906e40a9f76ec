"""`ragline ingest`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import UsageError

if TYPE_CHECKING:
    from ragline.core.results import IngestReport
    from ragline.rag.ingest import Progress

_MOST_REJECTIONS_SHOWN = 20


def ingest(
    # Not Path, which makes "here" of an empty text.
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Files and folders; with --allow-urls also web pages.", show_default=False
        ),
    ],
    # Not str, of which Typer takes the last without a word.
    collection: Annotated[
        list[str],
        typer.Option("--collection", "-c", metavar="<str>", help="Name of the collection."),
    ],
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Remove documents below PATHS whose file or row is gone or ignored."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="With --prune: also where nothing is left below a path."),
    ] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Pattern to leave out, as in .gitignore; repeatable.")
    ] = None,
    text_field: Annotated[
        list[str] | None,
        typer.Option(
            help="JSONL and CSV: field that holds the text; repeatable.",
            show_default="text, body or content",
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="JSONL and CSV: field that names the row.", show_default="id or _id"),
    ] = None,
    title_field: Annotated[
        str | None,
        typer.Option(help="JSONL and CSV: field that holds the title.", show_default="title"),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls", help="Fetch PATHS that are http(s) URLs; never from an inner address."
        ),
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(help="How words are cut, for a new collection.", show_default="english"),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(help="Tokens in a chunk, for a new collection.", show_default="200"),
    ] = None,
    chunk_overlap: Annotated[
        int | None,
        typer.Option(help="Tokens that chunks share, for a new collection.", show_default="40"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 when a file or row was rejected.")
    ] = False,
    quiet: Quiet = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring files, folders and web pages into a collection; what is unchanged costs nothing.

    Reads text, Markdown, HTML, PDF, Word (.docx), e-mail, notebooks and source code.

    Of JSONL, CSV and mbox each row is a document, FILE#ID; its other fields become metadata.
    """
    from ragline.rag import ingest as rag

    name = _only(collection)
    folders, urls = rag.named(paths)
    fields = rag.Fields(text=tuple(text_field or ()), id=id_field, title=title_field)
    policy = rag.Policy(language=language, chunk_size=chunk_size, chunk_overlap=chunk_overlap)
    with progress_bar(shown=not quiet and not as_json) as on_progress:
        report = runtime.with_app(
            data_dir,
            lambda app: rag.ingest_paths(
                app,
                folders,
                name,
                policy=policy,
                ignore=ignore or (),
                prune=prune,
                may_empty=yes,
                fields=fields,
                urls=urls,
                url_policy=rag.UrlPolicy() if allow_urls else None,
                on_progress=on_progress,
            ),
            settles=True,
        )
    if not as_json:
        for line in _remarks(report):
            output.note(line)
    output.emit(report, as_json=as_json, text=summary(report))
    if strict and report.rejections:
        raise typer.Exit(3)


def _only(collections: list[str]) -> str:
    name, *others = collections
    if others:
        raise UsageError(
            f"--collection is given {len(collections)} times ({', '.join(collections)}); documents "
            "go into one at a time: run it once for each"
        )
    return name


def summary(report: IngestReport) -> str:
    """Return what an ingest did, in one or two lines."""
    rate = report.chunks / report.seconds if report.seconds else 0.0
    return (
        f"{report.collection}: {report.found} found, {report.added} added, {report.replaced} "
        f"replaced, {report.unchanged} unchanged, {report.pruned} pruned, {report.skipped} skipped, "
        f"{len(report.rejections)} rejected\n"
        f"{report.chunks} chunks in {report.seconds:.1f} s ({rate:.0f} a second), "
        f"{report.embedded} embedded; corpus epoch {report.epoch}"
    )


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Show a bar on stderr when that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("ingesting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[chunks]} chunks"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("ingest", total=None, chunks=0)

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, chunks=progress.chunks)

        yield show


def _remarks(report: IngestReport) -> list[str]:
    lines = [
        output.on_one_line(f"rejected  {r.source}  {r.reason}  {r.message}")
        for r in report.rejections
    ]
    if len(lines) > _MOST_REJECTIONS_SHOWN:
        rest = len(lines) - _MOST_REJECTIONS_SHOWN
        lines = [*lines[:_MOST_REJECTIONS_SHOWN], f"… and {rest} more: --json names them all"]
    return [*lines, *(f"warning: {warning}" for warning in report.warnings)]

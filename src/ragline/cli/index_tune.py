"""`ragline index tune`: the vector index that holds a recall at the least cost, found by trying."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ragline.cli import change_text, index_tune_text, output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import ConfigError, PreconditionFailed, RaglineError, UsageError

if TYPE_CHECKING:
    from ragline.change.kind import Site
    from ragline.core.change import Entry, Part
    from ragline.core.gate import Asked
    from ragline.evals.index_tuned import Progress, Proposal, Tuned, Wanted

_LEAST_MARGIN = 0.01
_PLOTS = (".svg", ".html")
_MIDWAY = "midway"


def tune(
    collection: Annotated[str, typer.Argument(help="Collection to tune.", show_default=False)],
    recall: Annotated[
        float, typer.Option("--recall", help="Share of what an exact search finds, such as 0.95.")
    ] = 0.95,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="How many hits.")] = 10,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size", help="The index may be no larger, such as 100MB.", show_default="any size"
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries",
            metavar="FILE|midway",
            help="A file of questions, one a line, embedded by the collection's model; or midway: "
            "points midway between two stored vectors, which take no model.",
            show_default="headings, titles and sentences of the collection",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="The questions of this dataset.", metavar="NAME"),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            help="Also search the proposal within this filter; may be given several times.",
            show_default="two that the metadata suggests",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Try a few HNSW indexes only, no IVFFlat and no bits.")
    ] = False,
    lowest_priority: Annotated[
        bool,
        typer.Option(
            "--lowest-priority",
            help="Have builds come after all other processes, where the server is on this machine and "
            "the system allows it.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", help="Decides which questions are kept for the check.")
    ] = 1,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write the frontier to this .svg or .html file."),
    ] = None,
    apply_now: Annotated[
        bool, typer.Option("--apply", help="Apply what is proposed, measured as any change is.")
    ] = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Try indexes on a copy of a collection's vectors, and propose the cheapest that holds the recall.

    What the collection is searched through stays as it is. The proposal becomes a planned change, to
    be applied by its number. Exit codes with --apply: those of `ragline change apply`, and 3 where
    nothing is proposed.
    """
    from ragline.core.index_sweep import size
    from ragline.evals.index_tuned import Wanted

    wanted = Wanted(
        recall=recall,
        k=k,
        max_bytes=None if max_size is None else size(max_size, "--max-size"),
        dataset=dataset,
        questions=None if queries in (None, _MIDWAY) else _questions(Path(queries)),
        is_midway=queries == _MIDWAY,
        filters=tuple(filters or ()),
        is_quick=quick,
        is_last=lowest_priority,
        seed=seed,
    )
    if plot is not None and plot.suffix not in _PLOTS:
        raise UsageError(f"--plot is {str(plot)!r}; its name must end in {' or '.join(_PLOTS)}")

    async def tuned_at(site: Site) -> _Done:
        return await _tuned(site, collection, wanted, apply_now=apply_now, quiet=quiet)

    done = runtime.with_site(data_dir, tuned_at, quiet=True)
    tuned, entry = done.tuned, done.entry
    if plot is not None:
        _draw(tuned, plot)
    text = index_tune_text.text(tuned)
    if entry is not None:
        text += "\n\n" + (change_text.ended(entry) if apply_now else change_text.plan(entry))
    elif done.refused is not None:
        text += f"\n\n{done.refused}"
    value = {**output.plain(tuned), "change": output.plain(entry), "refused": done.refused}
    output.emit(value, as_json=as_json, text=text)
    if not apply_now:
        return
    if done.error is not None:
        raise done.error
    if tuned.proposal is None or tuned.proposal.verdict == "missed":
        raise PreconditionFailed(f"nothing was applied: {tuned.reason}")
    if entry is not None and (code := change_text.exit_code(entry)):
        raise typer.Exit(code)


class _Done(NamedTuple):
    """What was measured, the change that came of it, or why there is none."""

    tuned: Tuned
    entry: Entry | None = None
    refused: str | None = None
    error: RaglineError | None = None


async def _tuned(
    site: Site, collection: str, wanted: Wanted, *, apply_now: bool, quiet: bool
) -> _Done:
    from ragline.change import loop, planning
    from ragline.core.change import Part
    from ragline.evals import index_tuning

    if apply_now:
        # Known before the minutes of measuring, not after them.
        about = [Part(kind=kind, target=collection, want=None) for kind in ("index", "search")]
        await planning.refuse_rivals(site, about)
    folder = site.restart.data_directory if site.restart else None
    with _bar(shown=not quiet) as (show, say):
        tuned = await index_tuning.tune(
            site.app, collection, wanted, folder=folder, say=say, show=show
        )
    if tuned.proposal is None or tuned.proposal.verdict == "missed":
        return _Done(tuned)
    parts = _parts(collection, tuned.proposal)
    title = f"tune the index of {collection} for recall {wanted.recall:g}"
    # What was measured in minutes is shown also where no change can be made of it now.
    entry: Entry | None = None
    try:
        entry = await loop.plan(site, parts, _asked(tuned, wanted), title=title)
        if entry is None:
            return _Done(tuned, None, "nothing to do: the collection is searched so already")
        if not apply_now:
            return _Done(tuned, entry)
        if not quiet:
            output.note(change_text.plan(entry, is_next=False))
        site.say = output.note if not quiet else site.say
        return _Done(tuned, await loop.apply(site, entry.id))
    except RaglineError as error:
        said = "no change was planned" if entry is None else f"change {entry.id} was not applied"
        return _Done(tuned, None, f"{said}: {error}", error)


def _parts(collection: str, proposal: Proposal) -> tuple[Part, ...]:
    from ragline.core.change import Part

    design = proposal.design
    index = {
        "m": design.m,
        "ef_construction": design.ef_construction,
        "storage": design.storage,
    }
    return (
        Part(kind="index", target=collection, want=index),
        Part(kind="search", target=collection, want={"ef_search": proposal.ef_search}),
    )


def _asked(tuned: Tuned, wanted: Wanted) -> Asked:
    """Return how the change is judged: by the sort of questions that it was tuned by, other ones.

    It may lose what lies between today's recall and the wanted.
    """
    from ragline.core.gate import Asked

    now = tuned.now.recall if tuned.now else wanted.recall
    margin = max(_LEAST_MARGIN, round(now - wanted.recall, 3) + _LEAST_MARGIN)
    asked = Asked(
        collections=(tuned.collection,), k=wanted.k, filters=wanted.filters, dataset=wanted.dataset,
        sampled=tuned.sampled, texts=tuned.unseen if tuned.sampled == "given" else (),
    )  # fmt: skip
    return replace(asked, quality_margin=min(1.0, margin))


def _questions(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def _draw(tuned: Tuned, file: Path) -> None:
    from ragline.evals import frontier_plot

    if not tuned.trials:
        output.note(f"nothing was tried, so {file} was not written")
        return
    drawn = frontier_plot.svg(tuned) if file.suffix == ".svg" else frontier_plot.page(tuned)
    try:
        file.write_text(drawn, encoding="utf-8")
    except OSError as error:
        # What was measured is still shown.
        output.note(str(ConfigError(f"{file} could not be written: {error.strerror}")))


@contextmanager
def _bar(*, shown: bool) -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """Show what is done and the time left on stderr where that is a terminal; lines go above it."""
    if not shown:
        yield (lambda _progress: None), (lambda _line: None)
        return
    if not sys.stderr.isatty():
        yield (lambda _progress: None), output.note
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.fields[what]}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tune", total=None, what="", left="")

        def show(progress: Progress) -> None:
            left = progress.left_s
            bar.update(
                task,
                completed=progress.done_s,
                total=None if left is None else progress.done_s + left,
                what=escape(progress.what),
                left="" if left is None else f"about {left:.0f} s left",
            )

        yield show, lambda line: bar.console.print(line, markup=False, highlight=False)

"""A bar for evaluations: cases done and failed, time left, cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragline.evals.run import Progress

_MICRO = 1_000_000


@contextmanager
def progress_bar(what: str, *, shown: bool) -> Iterator[Callable[[Progress], None]]:
    """Show cases done and failed, time left and cost on stderr when that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, said="")

        def show(progress: Progress) -> None:
            bar.update(
                task, completed=progress.done, total=progress.total, said=_progress_line(progress)
            )

        yield show


def _progress_line(progress: Progress) -> str:
    failed = f"{progress.failed} failed, " if progress.failed else ""
    left = "" if progress.left_s is None else f"{progress.left_s:.0f} s left, "
    cost = progress.cost_micro_usd
    return f"{failed}{left}" + ("cost unknown" if cost is None else f"{cost / _MICRO:.4f} USD")

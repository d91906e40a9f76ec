"""`ragline eval recall` and `ragline eval noise`: what needs no labels, and what moves by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli import eval_options, output, runtime
from ragline.cli.eval_options import Dataset, EfSearch
from ragline.cli.eval_progress import progress_bar
from ragline.cli.options import AsJson, DataDir, Quiet, gathering

if TYPE_CHECKING:
    from ragline.evals.noise import NoiseReport
    from ragline.evals.recall import Recall


def recall(
    collection: Annotated[str, typer.Option("--collection", "-c", help="Collection to look at.")],
    n: Annotated[int, typer.Option("--n", help="How many searches.")] = 200,
    k: Annotated[int, typer.Option("-k", help="How many hits of each.")] = 10,
    ef_search: EfSearch = None,
    quiet: Quiet = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure how much of an exact search the vector index finds; no labels are needed.

    Vectors of the collection's own chunks are the questions.
    """
    from ragline.evals import recall as evals

    with progress_bar("searching", shown=not quiet and not as_json) as on_progress:
        found = runtime.with_eval(
            data_dir,
            lambda app: evals.recall(
                app, collection, n=n, k=k, ef_search=ef_search, on_progress=on_progress
            ),
        )
    output.warn(found.warnings, as_json=as_json)
    output.emit(found, as_json=as_json, text=_recall_lines(found))


@gathering("options", eval_options.given)
def noise(
    *,
    dataset: Dataset,
    options: dict[str, Any],
    runs: Annotated[int, typer.Option(help="How many runs without a change between them.")] = 4,
    concurrency: Annotated[int, typer.Option(min=1, help="Cases at once.")] = 2,
    quiet: Quiet = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a dataset several times without a change, and keep how far each metric moves by itself.

    Comparisons with the same settings decide on a latency only when its margin is wider than that.
    """
    from ragline.core.runs import Limits
    from ragline.evals import noise as evals

    settings = eval_options.settings(options, None)
    with progress_bar("evaluating", shown=not quiet and not as_json) as on_progress:
        found = runtime.with_eval(
            data_dir,
            lambda app: evals.calibrate(
                app,
                dataset,
                settings,
                Limits(concurrency=concurrency),
                runs=runs,
                on_progress=on_progress,
            ),
        )
    output.warn(found.warnings, as_json=as_json)
    output.emit(found, as_json=as_json, text=_noise_lines(found))


def _recall_lines(found: Recall) -> str:
    between = "" if found.low is None else f"95 %: {found.low:.4f} to {found.high:.4f}; "
    short = f"\n{found.short} searches found fewer than {found.k}" if found.short else ""
    return (
        f"{found.collection}: recall@{found.k} {found.mean:.4f} of an exact search, over {found.n} "
        f"searches ({between}the worst {found.worst:.2f})\n"
        f"median {found.median_ms:.2f} ms with ef_search {found.ef_search or '-'}, exact "
        f"{found.exact_median_ms:.2f} ms; {found.rows:.1%} of the hits asked for came back{short}"
    )


def _noise_lines(found: NoiseReport) -> str:
    from ragline.core import comparing

    def width(metric: str, half_width: float) -> str:
        # Of times and costs it is a share of them.
        is_share = comparing.is_measure_of_effort(metric)
        return f"{half_width:.1%}" if is_share else f"{half_width:.4f}"

    first = (
        f"{found.dataset}: {found.runs} runs of {found.cases} cases in {found.seconds:.1f} s. 95 of 100 "
        "pairs of runs without a change differ by no more than:"
    )
    lines = (
        f"  {metric:<28} {width(metric, one.half_width):>8}  n {one.n}"
        for metric, one in found.metrics.items()
    )
    return "\n".join([first, *lines])

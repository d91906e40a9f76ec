"""Runs that are there: listing, removing, and writing for other programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from ragline.core.cases import Dataset
from ragline.core.measuring import WAYS, Way, named
from ragline.core.runs import CaseResult, Run
from ragline.db import datasets as dataset_rows
from ragline.db import evals as rows
from ragline.errors import Inconclusive, NotFound, UsageError
from ragline.evals import formats, loading
from ragline.evals.formats import entries
from ragline.evals.run import ended_by
from ragline.rag.app import App

Format = Literal["ragchecker", "trec"]
FORMATS: tuple[Format, ...] = get_args(Format)


async def every(app: App, dataset: str | None = None, limit: int | None = None) -> tuple[Run, ...]:
    """Return the runs of a dataset or of all, newest first."""
    async with app.connection("eval") as connection:
        return tuple(await rows.runs(connection, dataset, limit))


async def remove(app: App, reference: str) -> Run:
    """Remove a run with its cases and return what it was.

    NotFound says which there are; Conflict while it is a baseline, or somebody works on it.
    """
    found = await loading.one(app, reference)
    async with app.connection("eval") as connection:
        if not await rows.remove_run(connection, found.id):
            raise NotFound(f"run {found.id} ({found.name}) is gone already")
    return found


async def export(app: App, reference: str, format: str, path: Path) -> tuple[Run, tuple[str, ...]]:  # noqa: A002
    """Write a run to a new file for RAGChecker or trec_eval; return it, and what has no place there.

    Documents are called what the dataset calls them.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r} of a run; there are {', '.join(FORMATS)}")
    run = await loading.one(app, reference)
    results = await loading.results(app, run)
    if format == "trec":
        if not any(result.hits for result in results):
            raise UsageError(f"run {run.id} ({run.name}) found nothing that could be ranked")
        notes = formats.write_trec_run(results, path, run.name, _naming(run))
        return run, (*notes, *_by_passages(await _dataset(app, run)))
    return run, _write_ragchecker(await _dataset(app, run), run, results, path)


def exit_code(run: Run, results: Sequence[CaseResult]) -> int:
    """Return the code of a command that ended with a partial run: that of the most frequent error.

    That of Inconclusive when a limit ended it.
    """
    errors = Counter(error.exit_code for result in results for error in result.errors)
    if not errors or ended_by(run) == "limit":
        return Inconclusive.exit_code
    ((most_frequent, _),) = errors.most_common(1)
    return most_frequent


def _naming(run: Run) -> Callable[[str], str]:
    """Return how the run's dataset calls a document that the collection has under a source."""
    recorded = run.provenance.get("match")
    way: Way = next((way for way in WAYS if way == recorded), "source")
    return partial(named, way=way)


async def _dataset(app: App, run: Run) -> Dataset:
    async with app.connection("eval") as connection:
        found = await dataset_rows.of_run(connection, run.id)
    if found is None:
        raise NotFound(f"run {run.id} ({run.name}) is gone")
    return found[1]


def _by_passages(dataset: Dataset) -> tuple[str, ...]:
    count = sum(any(one.passage is not None for one in case.relevant) for case in dataset.cases)
    said = f"{count} cases were measured by passages, and a ranking has documents"
    return (f"{said}: trec_eval will come to other figures",) * (count > 0)


def _write_ragchecker(
    dataset: Dataset, run: Run, results: Sequence[CaseResult], path: Path
) -> tuple[str, ...]:
    is_overlap = run.settings.judge == "lexical"
    if is_overlap:
        # There they would be entailment, and read back from there the labels of a judge that knew.
        results = [replace(result, labels=None) for result in results]
    written = formats.write_run_ragchecker(dataset, results)
    left_out = [
        f"left out {one['query_id']}: {one['reason']}" for one in written.get("left_out", ())
    ]
    if not written["results"]:
        why = f"; {left_out[0]}" if left_out else ""
        raise UsageError(f"run {run.id} ({run.name}) has no case that RAGChecker could read{why}")
    entries.save({path: json.dumps(written, ensure_ascii=False, indent=2) + "\n"})
    if is_overlap:
        left_out.append(
            f"left out all claims and labels: {run.judge_id} compares words, and RAGChecker would take "
            "them for entailment"
        )
    return tuple(left_out)

"""`ragline eval run`, and what became of earlier ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli import eval_options, output, runtime
from ragline.cli.eval_options import (
    Against,
    AgainstExact,
    AnswersOption,
    Collections,
    ContextsOption,
    Dataset,
    EfSearch,
    Exact,
    JudgeOption,
    K,
    MatchOption,
    MethodOption,
    PolicyOption,
    ReportOption,
    Run,
    Seed,
    given,
)
from ragline.cli.eval_progress import progress_bar
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.cli.search import Filter
from ragline.errors import UsageError

if TYPE_CHECKING:
    from ragline.core import runs as values
    from ragline.core.redline import Policy
    from ragline.evals.report_run import RunReport
    from ragline.evals.run import Progress
    from ragline.rag.app import App


class ExportFormat(StrEnum):
    ragchecker = "ragchecker"
    trec = "trec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run, and what to hold it against; `options` are the settings that were given."""

    dataset: str
    options: dict[str, Any]
    limits: values.Limits
    name: str | None
    resume: str | None
    is_fresh: bool
    policy: Policy | None
    against: str | None


def run(
    dataset: Dataset,
    collection: Collections = None,
    k: K = None,
    method: MethodOption = None,
    ef_search: EfSearch = None,
    exact: Exact = False,
    filter: Filter = None,  # noqa: A002 - what the option is called
    answers: AnswersOption = None,
    judge: JudgeOption = None,
    contexts: ContextsOption = None,
    match: MatchOption = None,
    against_exact: AgainstExact = False,
    seed: Seed = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What to call the run.", show_default="dataset and number"),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Cases at once.")] = 2,
    max_cost: Annotated[
        int | None,
        typer.Option(
            parser=eval_options.micro_usd,
            metavar="USD",
            help="Stop before the models take more US dollars.",
        ),
    ] = None,
    max_time: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop after so many seconds.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Go on with a run that ended early, as it was set."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Answer and judge again where the contexts are the same."),
    ] = False,
    policy: PolicyOption = None,
    against: Against = None,
    report: ReportOption = None,
    quiet: Quiet = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put a dataset's questions to the search, and measure what comes back.

    A run that ends early keeps what it has, says that it is partial, and goes on with --resume. It
    exits with the code of its most frequent error, or with 5 when a limit ended it. With --policy:
    4 when a red line is broken, 5 when too little is known to say.
    """
    from ragline.core.runs import Limits
    from ragline.evals import policy as policies
    from ragline.evals import runs as earlier

    eval_options.check_report(report)
    if against is not None and policy is None:
        raise UsageError("--against holds the run against a baseline by a policy: add --policy")
    order = Order(
        dataset=dataset,
        options=given(
            collections=collection,
            k=k,
            method=method,
            ef_search=ef_search,
            exact=exact,
            filter=filter,
            answers=answers,
            judge=judge,
            contexts=contexts,
            match=match,
            against_exact=against_exact,
            seed=seed,
        ),
        limits=Limits(concurrency=concurrency, max_cost_micro_usd=max_cost, max_time_s=max_time),
        name=name,
        resume=resume,
        is_fresh=fresh,
        policy=None if policy is None else policies.load(policy),
        against=against,
    )
    try:
        with progress_bar("evaluating", shown=not quiet and not as_json) as on_progress:
            found = runtime.with_app(
                data_dir, lambda app: _evaluated(app, order, on_progress), search_workload="eval"
            )
    except KeyboardInterrupt:
        output.note(
            f"what was measured is kept: `ragline eval runs {dataset}` names the run, and "
            f"`ragline eval run {dataset} --resume RUN` goes on with it"
        )
        raise
    _emit(found, report=report, as_json=as_json)
    if found.run.state != "complete":
        _say_how_to_resume(found.run)
        raise typer.Exit(earlier.exit_code(found.run, found.results))
    if found.verdict is not None:
        eval_options.conclude(found.verdict)


async def _evaluated(app: App, order: Order, on_progress: Callable[[Progress], None]) -> RunReport:
    from ragline.evals import check, loading, report
    from ragline.evals.run import evaluate

    before = None if order.resume is None else await loading.one(app, order.resume)
    done = await evaluate(
        app,
        order.dataset,
        eval_options.settings(order.options, before),
        order.limits,
        name=order.name,
        resume=order.resume,
        is_fresh=order.is_fresh,
        on_progress=on_progress,
    )
    verdict = None
    if order.policy is not None and done.state == "complete":
        verdict = await check.check(app, str(done.id), order.policy, order.against)
    return await report.of_run(app, done, verdict=verdict, policy=order.policy)


def runs(
    dataset: Annotated[
        str | None, typer.Argument(help="Of this dataset only.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    from ragline.evals import runs as earlier

    found = runtime.with_app(
        data_dir, lambda app: earlier.every(app, dataset, limit), search_workload="eval"
    )
    text = "\n".join(_line(one) for one in found) or "no runs yet"
    output.emit({"runs": found}, as_json=as_json, text=text)


def show(
    run: Run,
    cases: Annotated[bool, typer.Option("--cases", help="Also every case.")] = False,
    report: ReportOption = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: its figures, errors, time by phase, cost, and what it was measured on."""
    from ragline.evals import report as reports

    eval_options.check_report(report)
    found = runtime.with_app(data_dir, lambda app: reports.of_run(app, run), search_workload="eval")
    _emit(found, report=report, as_json=as_json, with_cases=cases)


def export(
    run: Run,
    path: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    format: Annotated[ExportFormat, typer.Option(help="For which program.")],  # noqa: A002
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a run for RAGChecker, with claims and labels, or for trec_eval, as a ranking."""
    from ragline.evals import runs as earlier

    found, notes = runtime.with_app(
        data_dir,
        lambda app: earlier.export(app, run, format.value, path),
        search_workload="eval",
    )
    if not as_json:
        for note in notes:
            output.note(f"warning: {note}")
    output.emit(
        {"run": found.name, "path": path, "format": format.value, "warnings": notes},
        as_json=as_json,
        text=f"wrote run {found.name} to {path}",
    )


def remove(
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a run with its cases; one that is a baseline stays."""
    from ragline.evals import loading
    from ragline.evals import runs as earlier

    if not yes:
        found = runtime.with_app(
            data_dir, lambda app: loading.one(app, run), search_workload="eval"
        )
        output.emit(
            {"removed": None, "would_remove": found},
            as_json=as_json,
            text=f"would remove: {_line(found)}",
        )
        output.note(f"nothing was changed; to do it: ragline eval remove {run} --yes")
        raise typer.Exit(2)
    gone = runtime.with_app(data_dir, lambda app: earlier.remove(app, run), search_workload="eval")
    output.emit({"removed": gone.name}, as_json=as_json, text=f"removed {_line(gone)}")


def _emit(
    found: RunReport, *, report: Path | None, as_json: bool, with_cases: bool = False
) -> None:
    """Print a run, and write its report where one is asked for."""
    from ragline.evals import report as reports

    asyncio.run(eval_options.save_report(report, found))
    shown = reports.as_json(found)
    if not with_cases:
        del shown["cases"]
    text = "" if as_json else reports.terminal(found, output.width(), is_brief=not with_cases)
    if with_cases:
        text += "\n\n" + "\n".join(_case_line(result) for result in found.results)
    output.emit(shown, as_json=as_json, text=text)


def _say_how_to_resume(run: values.Run) -> None:
    output.note(
        f"run {run.name} is partial: {run.done} of {run.cases} cases are there, {run.failed} of them "
        f"with an error; go on with: ragline eval run {run.dataset} --resume {run.name}"
    )


def _line(run: values.Run) -> str:
    cases = f"{run.done} of {run.cases} cases" if run.state != "complete" else f"{run.cases} cases"
    judge = f", judge {run.judge_id}" if run.judge_id else ""
    return output.on_one_line(
        f"{run.id:>5}  {run.name}  {run.state}  {cases} of {run.dataset} in {run.seconds:.1f} s"
        f"{judge}, started {run.started_at}"
    )


def _case_line(result: values.CaseResult) -> str:
    figures = "  ".join(f"{name} {value:.3f}" for name, value in result.metrics.items())
    errors = "  ".join(f"{e.phase} {e.kind}: {e.message}" for e in result.errors)
    return output.on_one_line(f"  {result.case_id}  {figures or 'no metric'}  {errors}".rstrip())

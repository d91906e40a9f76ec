"""`ragline eval run`, and what became of earlier ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ragline.cli import eval_options, output, runtime
from ragline.cli.eval_options import Against, Dataset, PolicyOption, ReportOption, Run
from ragline.cli.eval_progress import progress_bar
from ragline.cli.options import AsJson, DataDir, Quiet, Yes, gathering
from ragline.errors import UsageError

if TYPE_CHECKING:
    from ragline.core import runs as values
    from ragline.evals.report_run import RunReport
    from ragline.rag.app import App


@gathering("options", eval_options.given)
def run(
    *,
    dataset: Dataset,
    options: dict[str, Any],
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
    from ragline.evals import check, loading
    from ragline.evals import policy as policies
    from ragline.evals import report as reports
    from ragline.evals import runs as earlier
    from ragline.evals.run import evaluate

    eval_options.check_report(report)
    if against is not None and policy is None:
        raise UsageError("--against holds the run against a baseline by a policy: add --policy")
    limits = Limits(concurrency=concurrency, max_cost_micro_usd=max_cost, max_time_s=max_time)
    lines = None if policy is None else policies.load(policy)

    async def evaluated(app: App) -> RunReport:
        before = None if resume is None else await loading.one(app, resume)
        done = await evaluate(
            app,
            dataset,
            eval_options.settings(options, before),
            limits,
            name=name,
            resume=resume,
            is_fresh=fresh,
            on_progress=on_progress,
        )
        verdict = None
        if lines is not None and done.state == "complete":
            verdict = await check.check(app, str(done.id), lines, against)
        return await reports.of_run(app, done, verdict=verdict, policy=lines)

    try:
        with progress_bar("evaluating", shown=not quiet and not as_json) as on_progress:
            found = runtime.with_eval(data_dir, evaluated)
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

    found = runtime.with_eval(data_dir, lambda app: earlier.every(app, dataset, limit))
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
    found = runtime.with_eval(data_dir, lambda app: reports.of_run(app, run))
    _emit(found, report=report, as_json=as_json, with_cases=cases)


def export(
    run: Run,
    path: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    format: Annotated[  # noqa: A002 - its name
        Literal["ragchecker", "trec"], typer.Option(help="For which program.")
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a run for RAGChecker, with claims and labels, or for trec_eval, as a ranking."""
    from ragline.evals import runs as earlier

    found, notes = runtime.with_eval(data_dir, lambda app: earlier.export(app, run, format, path))
    output.warn(notes, as_json=as_json)
    output.emit(
        {"run": found.name, "path": path, "format": format, "warnings": notes},
        as_json=as_json,
        text=f"wrote run {found.name} to {path}",
    )


def remove(
    run: Run,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a run with its cases; one that is a baseline stays."""
    from ragline.evals import loading
    from ragline.evals import runs as earlier

    if not yes:
        found = runtime.with_eval(data_dir, lambda app: loading.one(app, run))
        output.only_said(
            {"removed": None, "would_remove": found},
            as_json=as_json,
            text=f"would remove: {_line(found)}",
            again=f"ragline eval remove {run} --yes",
        )
    gone = runtime.with_eval(data_dir, lambda app: earlier.remove(app, run))
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

"""`ragline eval compare` and `ragline eval check`: whether what was measured may stay."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli import eval_options, output, runtime
from ragline.cli.eval_options import Against, PolicyOption, ReportOption, Run
from ragline.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from ragline.core.policies import Policy
    from ragline.evals.report_run import RunReport
    from ragline.rag.app import App


def compare(
    baseline: Annotated[str, typer.Argument(help="A baseline, or a run by its name or number.")],
    run: Run,
    policy: PolicyOption = None,
    report: ReportOption = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare a run with a baseline, case by case.

    Exit codes: 0 pass, 4 fail, 5 inconclusive. Without a policy no metric of quality may lose more
    than one point of a hundred. Runs of other questions, judges or settings are refused with 2.
    """
    from ragline.evals import compare as evals
    from ragline.evals import policy as policies
    from ragline.evals import report as reports

    eval_options.check_report(report)
    lines = None if policy is None else policies.load(policy)
    found = runtime.with_eval(data_dir, lambda app: evals.compare(app, baseline, run, lines))
    asyncio.run(eval_options.save_report(report, found))
    text = "" if as_json else reports.terminal(found, output.width(), is_brief=True)
    output.emit(reports.as_json(found), as_json=as_json, text=text)
    eval_options.conclude(found.verdict)


def check(
    run: Run,
    policy: Annotated[
        str,
        typer.Option(help="Red lines: a TOML file, or default, ragchecker-floor or faithful."),
    ],
    against: Against = None,
    report: ReportOption = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hold a run against the red lines of a policy; what is not measured fails.

    Exit codes: 0 pass, 4 fail, 5 inconclusive.
    """
    from ragline.evals import policy as policies
    from ragline.evals import report as reports

    eval_options.check_report(report)
    lines = policies.load(policy)
    found = runtime.with_eval(data_dir, lambda app: _checked(app, run, lines, against))
    if found.verdict is None:
        raise AssertionError("a check ends with its verdict, or with an error")
    asyncio.run(eval_options.save_report(report, found))
    shown = reports.as_json(found)
    del shown["cases"]
    text = "" if as_json else reports.terminal(found, output.width(), is_brief=True)
    output.emit(shown, as_json=as_json, text=text)
    eval_options.conclude(found.verdict)


async def _checked(app: App, run: str, policy: Policy, against: str | None) -> RunReport:
    from ragline.evals import check, report

    verdict = await check.check(app, run, policy, against)
    return await report.of_run(app, run, verdict=verdict, policy=policy)

"""Reports of a run or of a comparison: for a terminal, as JSON, as Markdown, as a page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ragline.core import run_json
from ragline.core.comparing import CaseChange
from ragline.core.policies import Policy
from ragline.core.redline import Verdict
from ragline.core.runs import Run
from ragline.errors import PreconditionFailed, UsageError
from ragline.evals import (
    loading,
    report_comparison,
    report_html,
    report_markdown,
    report_run,
    report_text,
)
from ragline.evals.compare import Comparison
from ragline.evals.report_content import Content
from ragline.evals.report_run import RunReport
from ragline.rag.app import App

Subject: TypeAlias = RunReport | Comparison
WIDTH = 100


async def of_run(
    app: App, run: str | Run, *, verdict: Verdict | None = None, policy: Policy | None = None
) -> RunReport:
    """Return a run with all that its report shows; `verdict` and the `policy` it comes from, if any."""
    found = run if isinstance(run, Run) else await loading.one(app, run)
    return RunReport(
        run=found,
        results=await loading.results(app, found),
        cases=await loading.cases(app, found),
        verdict=verdict,
        policy=policy,
    )


def content(subject: Subject) -> Content:
    """Return what a report says, before it takes a form."""
    if isinstance(subject, RunReport):
        return report_run.content(subject)
    return report_comparison.content(subject)


def terminal(subject: Subject, width: int = WIDTH, *, is_brief: bool = False) -> str:
    """Return the report as plain text of at most `width` columns; a brief one leaves lists out."""
    whole = content(subject)
    if not is_brief:
        return report_text.text(whole, width)
    return f"{report_text.text(report_text.brief(whole), width)}\n\n{report_text.pointer(width)}"


def markdown(subject: Subject) -> str:
    """Return the report as Markdown."""
    return report_markdown.markdown(content(subject))


def html(subject: Subject) -> str:
    """Return the report as a page that needs nothing else."""
    return report_html.page(content(subject))


def as_json(subject: Subject) -> dict[str, Any]:
    """Return the report as plain values: numbers as measured, with every case of every list."""
    if isinstance(subject, RunReport):
        return _run_json(subject)
    return _comparison_json(subject)


def check_path(path: Path) -> None:
    """Raise UsageError unless a file's ending names a form: to be known before a run, not after."""
    if path.suffix.lower() not in _FORMS:
        raise UsageError(
            f"{path} has no ending of a report; name a file that ends with {', '.join(_FORMS)}"
        )


def as_text(path: Path, subject: Subject) -> str:
    """Return the report in the form that a file's ending names."""
    check_path(path)
    return _FORMS[path.suffix.lower()](subject)


async def save(path: Path, subject: Subject) -> None:
    """Write the report to a file, in the form that its ending names."""
    text = as_text(path, subject)
    try:
        await asyncio.to_thread(path.write_text, text, encoding="utf-8")
    except OSError as error:
        raise PreconditionFailed(f"the report {path} cannot be written: {error.strerror}") from None


def _json_text(subject: Subject) -> str:
    return json.dumps(as_json(subject), ensure_ascii=False, indent=2) + "\n"


def _run_json(report: RunReport) -> dict[str, Any]:
    return {
        "kind": "run",
        "run": run_json.run_to_json(report.run),
        "cases": [run_json.result_to_json(result) for result in report.results],
        "policy": run_json.plain(report.policy),
        "verdict": run_json.plain(report.verdict),
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    changes = comparison.changes
    return {
        "kind": "comparison",
        "status": comparison.status,
        "baseline": run_json.run_to_json(comparison.baseline),
        "run": run_json.run_to_json(comparison.run),
        "is_identical": comparison.is_identical,
        "overlap": comparison.overlap,
        "policy": run_json.plain(comparison.policy),
        "verdict": run_json.plain(comparison.verdict),
        "metrics": run_json.plain(comparison.metrics),
        "latencies": run_json.plain(comparison.latencies),
        "improved": [_change_json(change) for change in changes.improved],
        "changed": [_change_json(change) for change in changes.changed],
        "regressed": [_change_json(change) for change in changes.regressed],
        "same": changes.same,
        "caveats": list(comparison.caveats),
    }


def _change_json(change: CaseChange) -> dict[str, Any]:
    return {
        "case_id": change.case_id,
        "question": change.question,
        "gold": change.case.answer if change.case else None,
        "metric": change.metric,
        "before": change.before,
        "after": change.after,
        "baseline": run_json.result_to_json(change.pair.before),
        "run": run_json.result_to_json(change.pair.after),
    }


_FORMS: Mapping[str, Callable[[Subject], str]] = {
    ".html": html,
    ".md": markdown,
    ".json": _json_text,
}

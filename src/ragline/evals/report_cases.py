"""Cases side by side: question, gold, and what each run answered and found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragline.core import measuring
from ragline.core.cases import Case
from ragline.core.comparing import CaseChange
from ragline.core.runs import CaseResult, RunHit
from ragline.evals.report_content import (
    Foreign,
    Panel,
    Passage,
    Side,
    Table,
    columns,
    figure,
    shortened,
    signed,
)

_MOST_RELEVANT = 10
_FEWER = 5
_MOST_GOLDS = 3


def changes(key: str, title: str, listed: Sequence[CaseChange], most: int) -> Table:
    """Return a list of changed cases, the largest change first, at most `most` of them."""
    rows = tuple(
        (
            Foreign(change.case_id),
            change.metric or "chunks or answer",
            "-" if change.before is None else figure(change.metric or "", change.before),
            "-" if change.after is None else figure(change.metric or "", change.after),
            shortened(change.question or "not in the dataset any more"),
        )
        for change in listed[:most]
    )
    left = len(listed) - len(rows)
    return Table(
        key=key,
        title=f"{title}: {len(listed)}",
        columns=columns("case | metric | #baseline | #run | >question"),
        rows=rows,
        note=f"{left} more are in the JSON report." if left else "",
        fewer=_FEWER,
    )


def compared(change: CaseChange) -> Panel:
    """Return a changed case with both sides."""
    before, after = change.pair.before, change.pair.after
    return Panel(
        case_id=change.case_id,
        what=_what(change),
        question=change.question,
        gold=_gold(change.case),
        relevant=_relevant(change.case),
        sides=(
            _side("baseline", before, change.case, after.hits),
            _side("run", after, change.case, before.hits),
        ),
    )


def _what(change: CaseChange) -> str:
    if change.metric is None:
        return "other chunks or another answer"
    if change.before is None or change.after is None:
        return f"{change.metric} on one side only"
    difference = signed(change.metric, change.after - change.before)
    before, after = (figure(change.metric, value) for value in (change.before, change.after))
    return f"{change.metric} {before} → {after} ({difference})"


def alone(result: CaseResult, case: Case | None, metric: str) -> Panel:
    """Return a case of a single run; `metric` is what brought it here."""
    return Panel(
        case_id=result.case_id,
        what=f"{metric} {figure(metric, result.metrics.get(metric))}",
        question=case.question if case else None,
        gold=_gold(case),
        relevant=_relevant(case),
        sides=(_side("run", result, case, None),),
    )


def _side(
    name: str, result: CaseResult, case: Case | None, others: Sequence[RunHit] | None
) -> Side:
    return Side(
        name=name,
        answer=result.answer,
        passages=_passages(result, case, others),
        metrics=tuple((metric, figure(metric, value)) for metric, value in result.metrics.items()),
    )


def _passages(
    result: CaseResult, case: Case | None, others: Sequence[RunHit] | None
) -> tuple[Passage, ...]:
    shared = None if others is None else {hit.hash for hit in others}
    # An answer may rest on fewer texts than were found; only then do they stand apart.
    is_one_each = len(result.contexts) == len(result.hits)
    found = tuple(
        Passage(
            source=hit.source,
            text=result.contexts[place] if is_one_each else None,
            score=hit.score,
            is_shared=shared is None or hit.hash in shared,
            is_relevant=_is_relevant(hit.source, case),
        )
        for place, hit in enumerate(result.hits)
    )
    if is_one_each:
        return found
    return (*found, *(Passage(source="answered from", text=text) for text in result.contexts))


def _is_relevant(source: str, case: Case | None) -> bool | None:
    """Return whether the gold names a source; None where it names passages, or nothing."""
    if case is None or not case.relevant or any(one.passage for one in case.relevant):
        return None
    names = {measuring.named(source, way) for way in measuring.WAYS}
    return any(one.document in names for one in case.relevant)


def _gold(case: Case | None) -> str | None:
    if case is None:
        return None
    if not case.is_answerable:
        return "there is none: declining is right"
    golds = tuple(dict.fromkeys(measuring.gold_answers(case)))
    left = len(golds) - _MOST_GOLDS
    shown = "\nor: ".join(golds[:_MOST_GOLDS])
    return (f"{shown}\nand {left} more" if left > 0 else shown) or None


def _relevant(case: Case | None) -> tuple[str, ...]:
    if case is None:
        return ()
    named = tuple(
        one.document + (f": “{shortened(one.passage)}”" if one.passage else "")
        for one in case.relevant[:_MOST_RELEVANT]
    )
    left = len(case.relevant) - len(named)
    return (*named, f"and {left} more") if left else named


def slowest(results: Sequence[CaseResult], cases: Mapping[str, Case], most: int) -> Table:
    """Return the cases that took longest, with the phase that took most of it."""
    ordered = sorted(results, key=lambda result: -result.total_ms)[:most]
    rows = tuple(
        (
            Foreign(result.case_id),
            f"{result.total_ms:,.1f} ms",
            _longest(result.phases_ms),
            shortened(cases[result.case_id].question) if result.case_id in cases else "-",
        )
        for result in ordered
    )
    return Table(
        key="slowest",
        title="Slowest cases",
        columns=columns("case | #time | longest phase | >question"),
        rows=rows,
        fewer=_FEWER,
    )


def _longest(phases_ms: Mapping[str, float]) -> str:
    if not phases_ms:
        return "-"
    name = max(phases_ms, key=lambda phase: phases_ms[phase])
    return f"{name}, {phases_ms[name]:,.1f} ms"


def failed(results: Sequence[CaseResult], most: int) -> Table | None:
    """Return what went wrong in which case; None where nothing did."""
    wrong = [(result.case_id, error) for result in results for error in result.errors]
    if not wrong:
        return None
    rows = tuple(
        (Foreign(case_id), error.phase, error.kind, Foreign(error.message))
        for case_id, error in wrong[:most]
    )
    left = len(wrong) - len(rows)
    return Table(
        key="failed",
        title=f"Cases with errors: {len({case_id for case_id, _ in wrong})}",
        columns=columns("case | phase | class | >message"),
        rows=rows,
        note=f"{left} more are in the JSON report." if left else "",
        fewer=_FEWER,
    )

"""What `ragline index advise` prints for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ragline.cli.change_text import size
from ragline.cli.output import on_one_line

if TYPE_CHECKING:
    from ragline.cli.index_advise import PlanPair
    from ragline.core.advice import Advice, Predicted, Seen
    from ragline.core.advice_candidates import NotAdvised
    from ragline.watch.advice import AdviceReport
    from ragline.watch.statement_times import Comparison

_MOST_SHOWN = 20
_CUT = 120


def report(found: AdviceReport, again: str = "ragline index advise") -> str:
    """Return everything that was found out: advice with evidence, then what is not advised and why.

    `again` is the command that finds the same.
    """
    lines = [_evidence(found)]
    if found.missing is not None:
        lines.append(f"missing: {found.missing}")
    if not found.advice:
        lines.append("advice: none")
    for one in found.advice:
        lines += _advice(one, again)
    lines += _listed("not advised:", [_not_advised(one) for one in found.not_advised])
    lines += _listed(
        f"not analysed: {len(found.not_analysed)} statements that no plan could be made for",
        [
            f"{on_one_line(one.text)[:_CUT]} ({one.calls:,} calls, {one.total_ms:,.0f} ms): "
            f"{on_one_line(one.reason)}"
            for one in found.not_analysed
        ],
    )
    if found.skipped:
        said = ", ".join(f"{count:,} {why}" for why, count in found.skipped.items())
        lines.append(f"left out: {said}")
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines)


def before_and_after(plans: Sequence[PlanPair], times: Sequence[Comparison]) -> list[str]:
    """Return the lines that hold the statements before against those after."""
    lines = []
    for number, pair in enumerate(plans):
        lines.append(f"  {on_one_line(pair.statement)[:_CUT]} ({pair.calls:,} calls)")
        lines.append(f"    before: {_plan(pair.before, pair.before_cost)}")
        lines.append(f"    after:  {_plan(pair.after, pair.after_cost)}")
        if number < len(times):
            lines.append(f"    {_time(times[number])}")
    return lines


def _evidence(found: AdviceReport) -> str:
    if found.missing is not None:
        return "evidence: none"
    hours = found.source.hours
    since = "nobody knows since when" if hours is None else f"of {hours:,.1f} hours"
    return (
        f"evidence: {found.statements:,} statements {since}, {found.total_ms / 1000:,.1f} s in all"
    )


def _advice(one: Advice, again: str) -> Iterable[str]:
    verb = "add" if one.action == "create" else "drop"
    yield f"{one.number}. {verb} {on_one_line(one.definition if verb == 'add' else one.target)}"
    yield f"   because: it {one.reason}" if verb == "drop" else f"   because: {_because(one)}"
    if one.seen is not None:
        yield from _seen(one.seen)
    if one.predicted is not None:
        yield from _predicted(one.predicted, one.seen)
    if one.size_bytes is not None:
        yield f"   frees: {size(one.size_bytes)}; undo builds it again"
    for caution in one.cautions:
        yield f"   mind: {on_one_line(caution)}"
    yield f"   next: {on_one_line(again)} --apply {one.number}"


def _because(one: Advice) -> str:
    count = 0 if one.seen is None else len(one.seen.statements)
    which = "one statement" if count == 1 else f"{count} statements"
    return f"in {which} {one.reason}"


def _seen(seen: Seen) -> Iterable[str]:
    yield (
        f"   evidence: {seen.calls:,} calls, {seen.mean_ms:.3g} ms mean, {seen.share_of_time:.0%} of "
        "all time"
    )
    yield (
        f"   plan now: {on_one_line(seen.node)}, cost {seen.node_cost:,.0f} of {seen.plan_cost:,.0f}, "
        f"about {seen.node_rows:,.0f} rows left"
    )
    for statement in seen.statements[:3]:
        text = " ".join(statement.text.split())
        yield f"     {on_one_line(text)[:_CUT]} ({statement.calls:,} calls)"


def _predicted(predicted: Predicted, seen: Seen | None) -> Iterable[str]:
    by = "HypoPG" if predicted.by == "hypopg" else "a model of the planner's statistics"
    before = "" if seen is None else f" instead of {seen.plan_cost:,.0f}"
    yield (
        f"   predicted ({by}): cost about {predicted.plan_cost:,.0f}{before}; size about "
        f"{size(predicted.size_bytes)}"
    )
    writes = predicted.writes
    if writes.inserted_per_h is None or writes.updated_per_h is None:
        flow = "nobody knows how often rows are written"
    else:
        flow = (
            f"{_rate(writes.inserted_per_h)} rows inserted and {_rate(writes.updated_per_h)} updated "
            "per second"
        )
    yield f"   writes: {flow}; about {writes.entry_ms:g} ms more for each"


def _rate(per_hour: float) -> str:
    per_second = per_hour / 3600
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _not_advised(one: NotAdvised) -> str:
    seen = "" if one.calls is None else f" ({one.calls:,} calls, {one.mean_ms or 0:.3g} ms mean)"
    return f"{on_one_line(one.what)}{seen}: {on_one_line(one.reason)}"


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    shown = [f"  {line}" for line in lines[:_MOST_SHOWN]]
    left = len(lines) - len(shown)
    more = [f"  and {left} more; --json has them all"] if left > 0 else []
    return [title, *shown, *more]


def _plan(shape: str | None, cost: float | None) -> str:
    return "no plan" if shape is None else f"{on_one_line(shape)}, cost {cost or 0:,.1f}"


def _time(one: Comparison) -> str:
    if one.refused is not None:
        return f"not run: {on_one_line(one.refused)}"
    width = "" if one.low is None else f" (95 %: {one.low:.3g} to {one.high or 0:.3g})"
    return (
        f"middle time {one.before_ms or 0:.3g} -> {one.after_ms or 0:.3g} ms, "
        f"{one.ratio or 0:.3g} of before{width}, n = {one.n}"
    )

"""`ragline index advise`: which indexes to add and to drop, with the evidence."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli import change_text, index_advice_text, output, runtime
from ragline.cli.options import AsJson, DataDir, Quiet
from ragline.errors import GateFailed, NotFound, PreconditionFailed, UsageError

if TYPE_CHECKING:
    from ragline.change.kind import Site
    from ragline.core.advice import Advice, Floors
    from ragline.core.change import Entry
    from ragline.watch.advice import AdviceReport
    from ragline.watch.statement_times import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPair:
    """The plan of a statement before and after: a line, and its cost. None: it could not be planned."""

    statement: str
    calls: int
    before: str | None
    before_cost: float | None
    after: str | None
    after_cost: float | None
    is_used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of an advice: the change, the plans of its statements, and their times with --run.

    `undone_by` is the change that took it back, None where it stays; `reason` says why.
    """

    advice: Advice
    change: Entry
    plans: tuple[PlanPair, ...]
    times: tuple[Comparison, ...]
    undone_by: int | None
    reason: str


def advise(
    schema: Annotated[
        str | None, typer.Option("--schema", help="Look at this schema's tables only.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", help="Look at this table only (also schema.table).")
    ] = None,
    min_calls: Annotated[
        int, typer.Option("--min-calls", min=1, help="A statement must have run so often.")
    ] = 100,
    min_ms: Annotated[
        float,
        typer.Option(
            "--min-ms",
            min=0,
            help="It must take so many milliseconds on average, or a tenth of all time.",
        ),
    ] = 1.0,
    min_rows: Annotated[
        int, typer.Option("--min-rows", min=0, help="Its table must have so many rows.")
    ] = 1000,
    min_days: Annotated[
        float,
        typer.Option(
            "--min-days", min=0, help="Statistics must be so old before an index is called unused."
        ),
    ] = 7.0,
    apply: Annotated[
        str | None,
        typer.Option(
            "--apply",
            metavar="N",
            help="Make a change of this advice (its number, or the index's name) and apply it.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        bool,
        typer.Option(
            "--run",
            help="With --apply: also run its statements before and after, read-only, with values drawn "
            "from the table.",
        ),
    ] = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say which indexes to add and which to drop, with the evidence, and why not others.

    Reads pg_stat_statements, asks for plans without running anything, and changes nothing without
    --apply. With it the index is a change like every other: `ragline change undo` takes it back. An
    index that no plan takes, or with which statements surely take longer (--run), is taken back at once
    (exit code 4). Exit code 3 where statements are not counted, so that there is no evidence.
    """
    from ragline.core.advice import Floors

    if run and apply is None:
        raise UsageError("--run goes with --apply: it runs the statements before and after")
    floors = Floors(calls=min_calls, mean_ms=min_ms, rows=min_rows, days=min_days)
    if apply is None:
        report = _report(data_dir, floors, schema, table)
        again = _again(floors, schema, table)
        output.emit(report, as_json=as_json, text=index_advice_text.report(report, again))
        if report.missing is not None:
            raise typer.Exit(PreconditionFailed.exit_code)
        return
    wanted = apply
    done = runtime.with_site(
        data_dir,
        lambda site: _applied(site, floors, schema, table, wanted, is_run=run),
        quiet=quiet,
    )
    output.emit(done, as_json=as_json, text=applied(done))
    if done.undone_by is not None:
        raise typer.Exit(GateFailed.exit_code)


def applied(done: Applied) -> str:
    """Return what came of an advice, for people."""
    lines = [change_text.ended(done.change)]
    lines += index_advice_text.before_and_after(done.plans, done.times)
    if done.undone_by is not None:
        lines.append(f"taken back by change {done.undone_by}: {done.reason}")
    return "\n".join(lines)


def _again(floors: Floors, schema: str | None, table: str | None) -> str:
    """Return the command that gives the same advice again, to apply some of it."""
    from ragline.core.advice import Floors

    said = {
        "--schema": (schema, None),
        "--table": (table, None),
        "--min-calls": (floors.calls, Floors().calls),
        "--min-ms": (floors.mean_ms, Floors().mean_ms),
        "--min-rows": (floors.rows, Floors().rows),
        "--min-days": (floors.days, Floors().days),
    }
    words = [
        f"{name} {shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}"
        for name, (value, default) in said.items()
        if value != default
    ]
    return " ".join(["ragline index advise", *words])


def _report(
    data_dir: Path | None, floors: Floors, schema: str | None, table: str | None
) -> AdviceReport:
    from ragline.watch import advice
    from ragline.wiring import database

    dsn = database(runtime.load(data_dir))
    return asyncio.run(advice.advise(dsn, floors=floors, schema=schema, table=table))


async def _applied(
    site: Site,
    floors: Floors,
    schema: str | None,
    table: str | None,
    wanted: str,
    *,
    is_run: bool,
) -> Applied:
    from ragline.change import loop
    from ragline.core.change import Part
    from ragline.watch import advice, statement_times

    found = await advice.advise(site.dsn, floors=floors, schema=schema, table=table)
    one = _chosen(found, wanted)
    statements = one.seen.statements if one.seen else ()
    before = await advice.plans(site.dsn, statements)
    draws = (
        await statement_times.drawn(site.dsn, statements, one.schema, one.table) if is_run else []
    )
    was = await statement_times.timed(site.dsn, draws)
    want = {"definition": one.definition} if one.action == "create" else None
    # Ragline's own searches say nothing about it: its statements do, below.
    entry = await loop.plan(
        site,
        [Part(kind="index", target=one.target, want=want)],
        None,
        title=f"index advice: {one.action} {one.name} on {one.schema}.{one.table}"[:300],
    )
    if entry is None:
        raise UsageError(f"index {one.target} is so already: nothing to do")
    output.note(change_text.plan(entry, is_next=False))
    entry = await loop.apply(site, entry.id)
    after = await advice.plans(site.dsn, statements)
    times = statement_times.compared(was, await statement_times.timed(site.dsn, draws))
    pairs = tuple(_pair(s.text, s.calls, before[s.id], after[s.id], one.name) for s in statements)
    reason = _why_back(one, pairs, times)
    back = None if reason is None else await loop.undo(site, entry.id)
    return Applied(
        advice=one,
        change=entry,
        plans=pairs,
        times=tuple(times),
        undone_by=None if back is None else back.id,
        reason=reason or "",
    )


def _chosen(found: AdviceReport, wanted: str) -> Advice:
    chosen = [one for one in found.advice if wanted in (str(one.number), one.name, one.target)]
    if len(chosen) != 1:
        there = ", ".join(f"{one.number} ({one.name})" for one in found.advice) or "none"
        why = f" {found.missing}" if found.missing else ""
        raise NotFound(f"there is no advice {wanted!r} any more; there is: {there}.{why}")
    one = chosen[0]
    if one.action == "create" and one.method == "hnsw":
        raise UsageError(
            f"{one.name} makes answers approximate, and nothing here measures how many are lost: "
            f"`ragline attach {one.schema}.{one.table}`, then `ragline index tune`"
        )
    return one


def _pair(text: str, calls: int, before: object, after: object, name: str) -> PlanPair:
    from ragline.core import plan_scans
    from ragline.watch import advice

    was = before if isinstance(before, Mapping) else None
    now = after if isinstance(after, Mapping) else None
    return PlanPair(
        statement=advice.short(text),
        calls=calls,
        before=None if was is None else plan_scans.shape(was),
        before_cost=_cost(was),
        after=None if now is None else plan_scans.shape(now),
        after_cost=_cost(now),
        is_used=now is not None and plan_scans.uses(now, name),
    )


def _cost(plan: Mapping[str, Any] | None) -> float | None:
    return None if plan is None else float(plan["Total Cost"])


def _why_back(one: Advice, pairs: Sequence[PlanPair], times: Sequence[Comparison]) -> str | None:
    """Return why a new index does not stay; None where it does."""
    if one.action == "drop":
        return None
    if not any(pair.is_used for pair in pairs):
        return "no plan of its statements takes it"
    slower = [time for time in times if time.is_slower]
    if slower and not any(time.high is not None and time.high < 1 for time in times):
        return f"{len(slower)} of its statements surely take longer with it"
    return None

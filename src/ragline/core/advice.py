"""Which indexes to make and which to drop, each with its evidence, and why others are not advised.

Never on thin evidence: the floors say how much it takes, and every one of them can be set otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ragline.core import index_costs
from ragline.core.advice_candidates import (
    MIN_ROWS,
    MOST_SHARE,
    Candidate,
    Catalog,
    NotAdvised,
    Use,
    for_first,
    holding,
)
from ragline.core.evidence import ColumnFacts, Statement
from ragline.core.index_costs import WriteCost
from ragline.core.index_definition import Place
from ragline.core.index_facts import IndexFacts, TableFacts
from ragline.core.sql_names import identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What evidence must reach before anything is advised."""

    calls: int = 100
    """A statement that ran less often tells little about the next hundred runs."""
    mean_ms: float = 1.0
    """Below this mean time there is nothing that anybody would notice."""
    share: float = 0.1
    """A statement that is quicker matters all the same where it takes this part of all time."""
    rows: int = MIN_ROWS
    days: float = 7.0
    """An index may be there for what runs once a week."""
    most_share: float = MOST_SHARE
    gain: float = 2.0
    """The plan must become cheaper by this factor, since costs are estimates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAnalysed:
    """A statement that nobody could make a plan for."""

    text: str
    calls: int
    total_ms: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What the server said of a candidate's definition.

    `definition` is how the server writes it; None where `refused` says why it cannot be. `cost` is what
    HypoPG makes the dearest statement's plan cost, None without HypoPG; `is_used` whether that plan
    takes the index.
    """

    definition: str | None
    refused: str | None = None
    cost: float | None = None
    is_used: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What statements cost until now."""

    calls: int
    mean_ms: float
    total_ms: float
    share_of_time: float
    statements: tuple[Statement, ...]
    node: str
    node_rows: float
    node_cost: float
    plan_cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What is expected of an index: an estimate, never a measurement. `by` says whose."""

    by: Literal["hypopg", "model"]
    plan_cost: float
    share_of_rows: float
    size_bytes: int
    writes: WriteCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """An index to make, or one to drop (`definition` is then what undo makes again).

    `target` is what a change of kind `index` calls it.
    """

    number: int
    action: Literal["create", "drop"]
    target: str
    schema: str
    table: str
    name: str
    method: str
    definition: str
    reason: str
    seen: Seen | None = None
    predicted: Predicted | None = None
    size_bytes: int | None = None
    cautions: tuple[str, ...] = ()


def judged(
    candidate: Candidate, trial: Trial, catalog: Catalog, floors: Floors, total_ms: float
) -> Advice | NotAdvised:
    """Return the advice to make an index, or why it is not advised."""
    if trial.cost is None:
        candidate = _gaining(candidate, catalog, floors)
    reason = below(candidate, catalog, floors, total_ms) or _refused(candidate, trial, floors)
    if reason is None:
        advice = _advice(candidate, trial, catalog, total_ms)
        reason = _not_worth(candidate, advice, floors)
        if reason is None:
            return advice
    return NotAdvised(
        what=candidate.what,
        reason=reason,
        calls=candidate.calls,
        mean_ms=candidate.total_ms / max(1, candidate.calls),
    )


def below(candidate: Candidate, catalog: Catalog, floors: Floors, total_ms: float) -> str | None:
    """Return why a candidate needs no trial: too thin, too small, or there already."""
    mean_ms = candidate.total_ms / max(1, candidate.calls)
    rows = candidate.table.rows
    if candidate.calls < floors.calls:
        return f"{candidate.calls:,} calls, below the floor of {floors.calls:,}"
    share = candidate.total_ms / total_ms if total_ms else 0.0
    if mean_ms < floors.mean_ms and share < floors.share:
        return (
            f"{mean_ms:.3g} ms mean, below the floor of {floors.mean_ms:g} ms, and {share:.1%} of all "
            f"time, below {floors.share:.0%}"
        )
    if rows is None:
        return (
            "nobody knows how many rows the table has: run `analyze "
            f"{identifier(candidate.table.schema)}.{identifier(candidate.table.name)}`"
        )
    if rows < floors.rows:
        return f"a small table: {rows:,} rows, below the floor of {floors.rows:,}"
    return _there_already(candidate, catalog)


def _gaining(candidate: Candidate, catalog: Catalog, floors: Floors) -> Candidate:
    """Return a candidate with the statements that gain by it; with all where none does."""
    rows, pages = float(candidate.table.rows or 0), index_costs.table_pages(candidate.table)
    uses = tuple(
        use
        for use in candidate.uses
        if index_costs.plan_cost(use.wish, use.scan, rows, pages, catalog.costs) * floors.gain
        <= use.scan.plan_cost
    )
    if not uses:
        return candidate
    return replace(candidate, uses=uses, wish=for_first(candidate.wish, uses))


def numbered(advice: Sequence[Advice]) -> list[Advice]:
    """Return advice with its numbers: what saves most comes first."""
    return [replace(one, number=number) for number, one in enumerate(advice, start=1)]


def saved_ms(one: Advice) -> float:
    """Return how much of the time that was counted the index would have saved."""
    if one.seen is None or one.predicted is None:
        return 0.0
    left = min(1.0, one.predicted.plan_cost / max(one.seen.plan_cost, 1e-9))
    return one.seen.total_ms * (1 - left)


def _there_already(candidate: Candidate, catalog: Catalog) -> str | None:
    index = holding(candidate.wish, candidate.table, catalog)
    if index is None:
        return None
    return f"index {index.qualified} is there already, and the plan does not take it: " + (
        _why_not_taken(index, candidate.table)
    )


def _why_not_taken(index: IndexFacts, table: TableFacts) -> str:
    if not index.serves:
        return "it is INVALID, so drop it and make it again"
    if index.predicate is not None:
        return (
            f"it holds only rows where {index.predicate}, and a plan for all values cannot know that "
            "the statement asks for those"
        )
    if table.analysed_at is None:
        return "the table was never analysed, so run ANALYZE first"
    return (
        "the planner holds the scan for cheaper, or the statement compares with another type or "
        f"collation (analysed {table.analysed_at:%Y-%m-%d %H:%M})"
    )


def _refused(candidate: Candidate, trial: Trial, floors: Floors) -> str | None:
    if trial.definition is None:
        return f"the server does not take it: {trial.refused}"
    wish = candidate.wish
    if not wish.ordered and wish.share > floors.most_share:
        most = f"{floors.most_share:.0%}"
        return f"not selective: about {wish.share:.0%} of the rows are left, above {most}"
    if trial.is_used is False:
        return "the planner would not use it, says HypoPG"
    return None


def _advice(candidate: Candidate, trial: Trial, catalog: Catalog, total_ms: float) -> Advice:
    first, table, wish = candidate.uses[0], candidate.table, candidate.wish
    rows, columns = float(table.rows or 0), catalog.columns_of(table)
    model = index_costs.plan_cost(
        first.wish, first.scan, rows, index_costs.table_pages(table), catalog.costs
    )
    writes = index_costs.write_cost(wish, table, catalog.hours)
    return Advice(
        number=0,
        action="create",
        target=str(Place(schema=table.schema, table=table.name, name=candidate.name)),
        schema=table.schema,
        table=table.name,
        name=candidate.name,
        method=wish.method,
        definition=trial.definition or candidate.definition,
        reason=_reason(first),
        seen=Seen(
            calls=candidate.calls,
            mean_ms=candidate.total_ms / max(1, candidate.calls),
            total_ms=candidate.total_ms,
            share_of_time=min(1.0, candidate.total_ms / total_ms) if total_ms else 0.0,
            statements=tuple(use.statement for use in candidate.uses),
            node=f"{first.scan.node} on {table.qualified}",
            node_rows=first.scan.rows,
            node_cost=first.scan.cost,
            plan_cost=first.scan.plan_cost,
        ),
        predicted=Predicted(
            by="model" if trial.cost is None else "hypopg",
            plan_cost=model if trial.cost is None else trial.cost,
            share_of_rows=wish.share,
            size_bytes=index_costs.size_bytes(wish, rows, columns),
            writes=writes,
        ),
        cautions=_cautions(candidate, columns, writes),
    )


def _reason(use: Use) -> str:
    if use.scan.index is not None:
        return "an index finds rows that are thrown away again"
    if use.wish.probes > 1:
        return "the whole table is read to be joined to a few rows"
    if use.wish.ordered:
        return "the whole table is read and sorted for its first rows"
    return "the whole table is read for a part of its rows"


def _cautions(
    candidate: Candidate, columns: Mapping[str, ColumnFacts], writes: WriteCost
) -> tuple[str, ...]:
    said = []
    if candidate.wish.vector is not None:
        said.append(
            "answers become approximate: attach the table (`ragline attach`), so that recall is "
            "measured and `ragline index tune` finds the settings"
        )
    keys = sorted({key for use in candidate.uses for key in use.statement.keys})
    if keys:
        said.append(
            f"the key {', '.join(keys)} was seen in a session that is connected now; runs with other "
            "keys are counted with it"
        )
    if any(columns[one].width is None for one in writes.columns if one in columns):
        said.append("a column was never analysed: the estimates are the planner's defaults")
    share = writes.in_place_share
    if share is not None and share >= 0.01:
        said.append(
            f"{share:.0%} of the updates touch no index (HOT); those that change "
            f"{', '.join(writes.columns)} will have to write to all of them"
        )
    return tuple(said)


def _not_worth(candidate: Candidate, advice: Advice, floors: Floors) -> str | None:
    if advice.seen is None or advice.predicted is None:
        raise AssertionError("advice to make an index has its evidence")
    before, after = advice.seen.plan_cost, advice.predicted.plan_cost
    if after * floors.gain > before:
        return (
            f"too little gain: a plan cost of {before:,.0f} would become about {after:,.0f}, less than "
            f"a factor of {floors.gain:g}"
        )
    added, saved = index_costs.added_ms(candidate.wish, candidate.table), saved_ms(advice)
    if added > saved:
        return (
            f"write-heavy: {index_costs.churn(candidate.table):,.0f} rows were written again since "
            f"statistics began, which the index would have made about {added:,.0f} ms dearer, to save "
            f"about {saved:,.0f} ms"
        )
    return None

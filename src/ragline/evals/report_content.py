"""What a report says, before it takes a form: a headline, marks, tables, and cases side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ragline.core.comparing import has_direction, is_lower_better
from ragline.core.runs import Run, Spent

_ESCAPED = re.compile(
    # Whatever steers a terminal, turns the direction of writing, ends a line or shows nothing at all.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_MICRO = 1_000_000
_LONGEST = 90
UNKNOWN = "unknown"
NOT_MEASURED = "not measured"


class Foreign(str):
    """Text that others wrote: documents, questions, models, names. Forms show it as words alone."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's name. What is `is_long` goes below the table where there is little room."""

    name: str
    is_number: bool = False
    is_long: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under named columns; `key` is what forms know a table by.

    `fewer` is how many rows are enough where there is little room; None is all.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    fewer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A metric's difference with its 95 % interval, for a plot; `margin` is what it may lose."""

    metric: str
    low: float
    value: float
    high: float
    margin: float | None
    status: str
    is_lower_better: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """What one phase took in each run, in ms, the baseline's first; None where it has none."""

    phase: str
    ms: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A chunk found for a case. `text` is there where an answer was made from it."""

    source: str
    text: str | None = None
    score: float | None = None
    is_shared: bool = True
    """Whether the other side has it as well."""
    is_relevant: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one run made of a case. `answer` is None where none was asked for."""

    name: str
    answer: str | None
    passages: tuple[Passage, ...]
    metrics: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One case with its gold, and what each run made of it."""

    case_id: str
    what: str
    question: str | None
    gold: str | None
    relevant: tuple[str, ...]
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A whole report: `status` and `summary` are its headline, `marks` what must not be missed."""

    title: str
    status: str
    summary: str
    marks: tuple[str, ...]
    tables: tuple[Table, ...]
    intervals: tuple[Interval, ...] = ()
    bars: tuple[Bars, ...] = ()
    bar_names: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    panels_title: str = ""
    panels_after: str = ""
    """The key of the table that the panels belong to."""


def legible(text: str) -> str:
    """Return `text` with escapes for the characters that would forge what a reader sees."""
    return _ESCAPED.sub(lambda found: repr(found.group())[1:-1], text.replace("\r\n", "\n"))


def columns(names: str) -> tuple[Column, ...]:
    """Return columns of names between `|`; `#` before one says numbers, `>` says long text."""
    return tuple(
        Column(name=name.strip(" #>"), is_number=name.strip()[:1] == "#", is_long=">" in name[:2])
        for name in names.split("|")
    )


def figure(metric: str, value: float | None) -> str:
    """Return a metric's value with its unit.

    >>> figure("ndcg@10", 0.37321), figure("p95_ms", 12.345), figure("eval_cost_micro_usd", None)
    ('0.3732', '12.3 ms', 'not measured')
    """
    if value is None:
        return NOT_MEASURED
    if metric.endswith("_ms"):
        return f"{value:,.1f} ms"
    if metric.endswith("seconds"):
        return f"{value:,.1f} s"
    if metric.endswith("micro_usd"):
        return f"{value / _MICRO:,.6f} USD"
    return f"{value:.4f}"


def signed(metric: str, value: float | None) -> str:
    """Return a difference with its sign and unit."""
    if value is None:
        return "-"
    shown = figure(metric, abs(value))
    return f"{'-' if value < 0 else '+'}{shown}"


def interval(metric: str, low: float | None, high: float | None) -> str:
    """Return the two ends of an interval of differences; `-` where there is none."""
    if low is None or high is None:
        return "-"
    return f"{signed(metric, low)} to {signed(metric, high)}"


def ratio(value: float | None) -> str:
    """Return a ratio; `-` where there is none."""
    return "-" if value is None else f"{value:.3f} x"


def seconds(ms: float) -> str:
    """Return milliseconds, as seconds from one on."""
    return f"{ms / 1000:,.2f} s" if ms >= 1000 else f"{ms:,.1f} ms"


def cost(micro_usd: int | None) -> str:
    """Return an amount in USD; an unknown one says so."""
    return UNKNOWN if micro_usd is None else f"{micro_usd / _MICRO:,.6f} USD"


def run_name(run: Run) -> Foreign:
    """Return a run's number with its name."""
    return Foreign(f"run {run.id} ({run.name})")


def direction(metric: str) -> str:
    """Return which way a metric gets better."""
    if not has_direction(metric):
        return "neither is better"
    return "lower is better" if is_lower_better(metric) else "higher is better"


def marks_of(run: Run) -> Iterator[str]:
    """Yield what a reader of this run's figures must know first."""
    if run.state != "complete":
        yield (
            f"PARTIAL: {run.done} of {run.cases} cases were measured, {run.failed} of them failed. "
            "These figures are not the dataset's, and no line judges them. Go on with "
            f"`ragline eval run {run.dataset} --resume {run.id}`"
        )
    if run.settings.contexts == "fixed":
        yield (
            "FIXED CONTEXTS: the passages came with the dataset. Nothing was searched, so this says "
            "nothing of the collection, the database or its settings"
        )
    if (run.judge_id or "").startswith("lexical"):
        yield "the lexical judge measures overlap of words, which is not entailment"
    yield from (Foreign(warning) for warning in run.warnings)


def phases(runs: Sequence[Run]) -> Table:
    """Return where the time of one run went, or that of two beside each other."""
    totals = [sum(run.phases_ms.values()) for run in runs]
    heads = ("#baseline | #share | #run | #share" if len(runs) > 1 else "#time | #share").split("|")
    rows = tuple(
        (
            one.phase,
            *(cell for ms, total in zip(one.ms, totals, strict=True) for cell in _phase(ms, total)),
        )
        for one in bars(runs)
    )
    return Table(
        key="phases",
        title="Time by phase",
        columns=columns(" | ".join(["phase", *heads])),
        rows=rows,
        note="Summed over the cases, which run side by side; rest is what no phase claims.",
    )


def bars(runs: Sequence[Run]) -> tuple[Bars, ...]:
    """Return what each phase took in each run, the longest first."""
    names = sorted(
        dict.fromkeys(name for run in runs for name in run.phases_ms),
        key=lambda name: -max(run.phases_ms.get(name, 0.0) for run in runs),
    )
    return tuple(
        Bars(phase=name, ms=tuple(run.phases_ms.get(name) for run in runs)) for name in names
    )


def _phase(ms: float | None, total: float) -> tuple[str, str]:
    if ms is None:
        return "-", "-"
    return seconds(ms), f"{ms / total:.1%}" if total else "-"


def effort(runs: Sequence[Run]) -> Table:
    """Return what runs took and what they were spared: time, calls, tokens, cost, reuse, cache."""
    return side_by_side("effort", "Time, calls and cost", runs, [_effort(run) for run in runs])


def _effort(run: Run) -> dict[str, str]:
    return {
        "cases": f"{run.done} of {run.cases}",
        "failed cases": str(run.failed),
        "wall time": f"{run.seconds:,.1f} s",
        **_spent(run.spent),
        "cases with answer and labels of an earlier run": f"{run.reused} of {run.done}",
        **{f"verdict cache {name}": f"{count:,}" for name, count in run.cache.items()},
    }


def _spent(spent: Spent) -> dict[str, str]:
    return {
        "model calls": f"{spent.calls:,}",
        "input tokens": _count(spent.input_tokens),
        "output tokens": _count(spent.output_tokens),
        "cost": cost(spent.cost_micro_usd),
    }


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def errors(runs: Sequence[Run]) -> Table | None:
    """Return what went wrong by phase and class; None where nothing did."""
    if not any(run.errors for run in runs):
        return None
    counts = [{name: str(count) for name, count in run.errors.items()} for run in runs]
    return side_by_side("errors", "Errors by phase and class", runs, counts, missing="0")


def measured_on(runs: Sequence[Run]) -> Table:
    """Return what the figures rest on: data, space, judge, settings, code, seeds, date."""
    return side_by_side("provenance", "Measured on", runs, [_provenance(run) for run in runs])


def _provenance(run: Run) -> dict[str, str]:
    chosen = run.settings
    return {
        "run": run_name(run),
        "started": run.started_at,
        "dataset": Foreign(run.dataset),
        "dataset content": run.dataset_hash,
        "judge": Foreign(run.judge_id or "none"),
        "collections": Foreign(", ".join(chosen.collections) or "none"),
        "search": f"{chosen.method}, k {chosen.k}, ef_search {chosen.ef_search or 'default'}"
        + (", exact" if chosen.exact else ""),
        "filter": Foreign(chosen.filter or "none"),
        "answers": chosen.answers,
        "contexts": chosen.contexts,
        "relevance by": chosen.match,
        "seed": str(chosen.seed),
        **dict(_flat(run.provenance)),
    }


def _flat(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield a row for each fact, and for each of a group of them; deeper ones share a row."""
    for name, value in values.items():
        label = Foreign(f"{before}{name}")
        if isinstance(value, Mapping) and not before:
            yield from _flat(value, f"{label} ")
        else:
            yield label, Foreign(_fact(value))


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value)) or "none"
    # Not used, or not known: a provenance has one word for both.
    return "-" if value is None else str(value)


def side_by_side(
    key: str,
    title: str,
    runs: Sequence[Run],
    facts: Sequence[Mapping[str, str]],
    *,
    missing: str = "-",
) -> Table:
    """Return named facts of one run, or of a baseline and a run, a column each."""
    names = list(dict.fromkeys(name for one in facts for name in one))
    heads = "what | #value" if len(runs) == 1 else "what | #baseline | #run | differs"
    rows = []
    for name in names:
        cells = [one.get(name, missing) for one in facts]
        differs = () if len(cells) == 1 else ("yes" if cells[0] != cells[1] else "",)
        rows.append((name, *cells, *differs))
    if key != "effort":
        heads = heads.replace("#", "")
    return Table(key=key, title=title, columns=columns(heads), rows=tuple(rows))


def shortened(text: str) -> str:
    """Return the beginning of `text` on one line."""
    line = " ".join(text.split())
    return Foreign(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 2]} …")

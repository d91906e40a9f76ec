"""A change judged by searches before and after it: what they show, and how sure that is.

Every sort of question to a collection is a group with red lines of its own, so that what one of them
loses is not thinned out by the others. All lines of quality share one probability of a false alarm
(Holm), and so do those of latency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from ragline.core import paired_times, redline, stats
from ragline.core.asking import Answers, Group, Side, is_identical, overlap
from ragline.core.gate import Judgement
from ragline.core.paired_times import Pairs, paired
from ragline.core.policies import LATENCY, TIMES, Line, Policy
from ragline.core.redline import Verdict
from ragline.core.redline_rows import Row
from ragline.core.runs import Figure
from ragline.core.stats import Outcome

LOOKS = 4
"""How often a measurement that decides nothing is judged while it is extended."""
_LATENCY = "p50_ms"
_MOST_SAID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """By what two sides are judged. `floors` go beside the margins.

    `noise` is the half width of the machine's own noise by group; without one no latency is judged.
    `spread` is what chance may do besides, as far as that is known: it is seen in each comparison.
    """

    quality_margin: float
    latency_margin: float
    floors: Policy | None = None
    noise: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    looks: int = LOOKS
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A verdict in its two parts, so that what is undecided can be measured further."""

    quality: Outcome
    latency: Outcome
    is_identical: bool
    rows: tuple[Row, ...]
    too_noisy: tuple[str, ...]

    @property
    def status(self) -> Outcome:
        """As good as the worse of the two."""
        return redline.worst((self.quality, self.latency))

    @property
    def is_decided(self) -> bool:
        """Whether measuring further changes nothing."""
        return self.status != "inconclusive"


# -- the verdict -----------------------------------------------------------------------------------


def judged(groups: Sequence[Group], before: Side, now: Side, terms: Terms) -> Parts:
    """Return what two sides show. The order of the questions does not matter."""
    same = is_identical(before, now)
    quality = _quality(groups, before, now, terms, same=same)
    latencies = _latencies(groups, before, now, terms)
    undecided = {row.metric for row in latencies if row.status == "inconclusive"}
    noisy = tuple(
        name
        for name, width in (dict(terms.noise) | dict(terms.spread)).items()
        if width > terms.latency_margin and of_group(_LATENCY, name) in undecided
    )
    return Parts(
        quality=quality.status,
        latency=redline.worst(row.status for row in latencies),
        is_identical=same,
        rows=(*quality.rows, *latencies),
        too_noisy=noisy,
    )


def is_lost(groups: Sequence[Group], before: Answers, now: Answers, terms: Terms) -> bool:
    """Return whether the answers alone decide that the change may not stay."""
    was, is_now = (Side(answers=one, times={}, plans={}, contents={}) for one in (before, now))
    same = is_identical(was, is_now)
    return _quality(groups, was, is_now, terms, same=same).status == "fail"


def _quality(
    groups: Sequence[Group], before: Side, now: Side, terms: Terms, *, same: bool
) -> Verdict:
    lines = [
        Line(metric=of_group(metric, group.name), margin=terms.quality_margin, better="higher")
        for group in groups
        for metric in group.metrics
    ]
    lines += _floors(groups, terms.floors)
    return redline.verdict(
        policy_of(lines, terms),
        _figures(groups, before, now),
        None,
        _values(groups, now),
        _values(groups, before),
        is_identical=same,
    )


def policy_of(lines: Sequence[Line], terms: Terms) -> Policy:
    """Return lines as a policy with as many draws as its share of false alarms can be told by."""
    floors = terms.floors or Policy(lines=())
    return replace(floors, looks=terms.looks, seed=terms.seed).of(lines)


def of_group(metric: str, group: str) -> str:
    """Return the name of a metric of one group.

    >>> of_group("ann_recall@10", "docs")
    'ann_recall@10 [docs]'
    """
    return f"{metric} [{group}]"


def _floors(groups: Sequence[Group], floors: Policy | None) -> list[Line]:
    """Return the lines of a policy that searches alone can keep, once for each group."""
    found = []
    for line in floors.lines if floors else ():
        for group in groups:
            metric = line.metric.replace("@k", f"@{group.k}")
            if metric in group.metrics and not line.judges:
                better = line.better or ("higher" if line.is_relative else None)
                found.append(replace(line, metric=of_group(metric, group.name), better=better))
    return found


def measures(groups: Sequence[Group], line: Line) -> bool:
    """Return whether a line of a policy is judged by these groups."""
    return bool(LATENCY.fullmatch(line.metric)) or bool(_floors(groups, Policy(lines=(line,))))


def _values(groups: Sequence[Group], side: Side) -> dict[str, dict[str, float]]:
    return {
        of_group(metric, group.name): {
            question.id: one.metrics[metric]
            for question in group.questions
            if (one := side.answers.get(group.name, {}).get(question.id)) is not None
            and metric in one.metrics
        }
        for group in groups
        for metric in group.metrics
    }


def _figures(groups: Sequence[Group], before: Side, now: Side) -> dict[str, Figure | None]:
    asked = _values(groups, before)
    figures: dict[str, Figure | None] = {}
    for metric, values in _values(groups, now).items():
        if values:
            figures[metric] = Figure(
                value=math.fsum(values.values()) / len(values),
                n=len(values),
                missing=len(asked[metric].keys() - values.keys()),
            )
    return figures


def _latencies(groups: Sequence[Group], before: Side, now: Side, terms: Terms) -> tuple[Row, ...]:
    """Return the line over all questions, which has to hold, and one of each group.

    What is asked of one group alone is little and therefore noisy: it can only fail, unless its plan
    changed, since that is how one sort of question gets slower and no other.
    """
    together, rows, others = Pairs(), [], set(changed(before.plans, now.plans))
    floors: list[Row] = []
    for group in groups:
        pairs = paired(before.times.get(group.name, {}), now.times.get(group.name, {}))
        if not pairs.now:
            continue
        together = together.joined(group.name, pairs)
        floors += _time_floors(group, pairs, terms)
        row = _latency(group.name, pairs, terms)
        if row.status == "inconclusive" and group.name not in others:
            row = replace(
                row, status="not judged", reason=f"{row.reason}; {paired_times.ALL} decide"
            )
        rows.append(row)
    if not rows:
        return ()
    return (*_alarmed((_latency(paired_times.ALL, together, terms), *rows), terms), *floors)


def _latency(name: str, pairs: Pairs, terms: Terms) -> Row:
    even = pairs.in_proportion()
    line = Line(metric=_LATENCY, margin=terms.latency_margin)
    noise = {_LATENCY: terms.noise[name]} if name in terms.noise else {}
    (row,) = _time_rows([line], even, terms, noise)
    width = terms.noise.get(name, 0.0)
    if width > terms.latency_margin:
        row = _beyond_noise(row, line, even, terms, width)
    return replace(row, metric=of_group(_LATENCY, name))


def _beyond_noise(row: Row, line: Line, even: Pairs, terms: Terms, width: float) -> Row:
    """Return what holds in spite of the noise: too much for the margin, it may be little for this.

    The times are judged as if the machine alone had made them slower, then quicker, by all of it.
    """
    known = {_LATENCY: 0.0}
    (seen,) = _time_rows([line], even, terms, known)
    (quicker,) = _time_rows([line], even.times(1 / (1 + width)), terms, known)
    (slower,) = _time_rows([line], even.times(1 + width), terms, known)
    apart = f"all that two runs without a change differ by ({width:.0%})"
    if quicker.status == "fail":
        said = f"{quicker.reason} and {apart}"
        return replace(seen, status="fail", reason=said, p_worse=quicker.p_worse)
    if slower.status == "pass":
        return replace(seen, status="pass", reason=f"{slower.reason}, with {apart} added")
    return row


def _time_floors(group: Group, pairs: Pairs, terms: Terms) -> list[Row]:
    lines = [
        line
        for line in (terms.floors.lines if terms.floors else ())
        if LATENCY.fullmatch(line.metric) and not line.judges
    ]
    noise = {line.metric: terms.noise[group.name] for line in lines if group.name in terms.noise}
    rows = _time_rows(lines, pairs, terms, noise) if lines else []
    return [replace(row, metric=of_group(row.metric, group.name)) for row in rows]


def _time_rows(
    lines: Sequence[Line], pairs: Pairs, terms: Terms, noise: Mapping[str, float]
) -> list[Row]:
    figures: dict[str, Figure | None] = {
        line.metric: Figure(
            value=stats.quantile(list(pairs.now.values()), line.share or 0.5), n=len(pairs.now)
        )
        for line in lines
    }
    found = redline.verdict(
        policy_of(lines, terms),
        figures,
        None,
        {TIMES: pairs.now},
        {TIMES: pairs.before},
        is_identical=False,
        noise=noise,
    )
    return list(found.rows)


def _alarmed(rows: Sequence[Row], terms: Terms) -> tuple[Row, ...]:
    """Return the rows with those alarms only that Holm leaves over all groups."""
    p_values = {str(at): row.p_worse for at, row in enumerate(rows) if row.p_worse is not None}
    sure = stats.holm(p_values, policy_of((), terms).alpha, terms.looks)
    return tuple(
        replace(
            row, status="inconclusive", reason="it may be higher by more than the margin, or not"
        )
        if row.status == "fail" and sure.get(str(at)) is False
        else row
        for at, row in enumerate(rows)
    )


# -- what is said of it ----------------------------------------------------------------------------


def judgement(
    groups: Sequence[Group],
    before: Side,
    now: Side,
    parts: Parts,
    terms: Terms,
    *,
    notes: Sequence[str] = (),
    seconds: float = 0.0,
) -> Judgement:
    """Return the whole as the ledger keeps it, with a reason that names what decided."""
    said = [*_errors(now.answers), _said(parts), *changed_plans(before.plans, now.plans), *notes]
    return Judgement(
        status=parts.status,
        reason="; ".join(one for one in said if one),
        rung="identical" if parts.is_identical else "recall",
        rows=tuple(asdict(row) for row in parts.rows),
        n=sum(len(group.questions) for group in groups),
        overlap=overlap(before.answers, now.answers),
        plans={
            **{f"{name} before": shape for name, shape in before.plans.items()},
            **{f"{name} after": shape for name, shape in now.plans.items()},
        },
        noise=dict(terms.noise) | dict(terms.spread),
        is_too_noisy=bool(parts.too_noisy),
        seconds=seconds,
    )


def _said(parts: Parts) -> str:
    decisive = [row for row in parts.rows if row.status == parts.status]
    if parts.status != "pass":
        said = [said_row(row) for row in decisive[:_MOST_SAID]]
        if len(decisive) > _MOST_SAID:
            said.append(f"and {len(decisive) - _MOST_SAID} more")
        return "; ".join(said)
    if parts.is_identical:
        return (
            "every question found the same chunks in the same order, and none takes surely longer"
        )
    return f"{len(decisive)} lines hold"


def said_row(row: Row) -> str:
    """Return one line of a verdict as a sentence, with its metric and its figures."""
    unit = row.unit and f" {row.unit}"
    if row.value is None:
        figures = ""
    elif row.baseline is None:
        figures = f" is {row.value:.4g}{unit}"
    else:
        figures = f" was {row.baseline:.4g}{unit} and is {row.value:.4g}{unit}"
    return f"{row.metric}{figures}: {row.reason or row.line}"


def _errors(answers: Answers) -> list[str]:
    said = []
    for group, cases in answers.items():
        errors = [one.error for one in cases.values() if one.error is not None]
        if errors:
            said.append(f"{len(errors)} of {len(cases)} questions to {group} failed: {errors[0]}")
    return said[:_MOST_SAID]


def changed(before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the groups that are searched by another plan."""
    return [group for group, shape in before.items() if now.get(group, shape) != shape]


def changed_plans(
    before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Return which groups are searched by another plan, a sentence each."""
    return [
        f"the plan of {group} changed: {_lost(before[group], now[group])}"
        for group in changed(before, now)
    ]


def _lost(before: Sequence[str], now: Sequence[str]) -> str:
    gone = [node for node in dict.fromkeys(before) if node not in now][:_MOST_SAID]
    new = [node for node in dict.fromkeys(now) if node not in before][:_MOST_SAID]
    if not gone and not new:
        return "the same nodes in another order"
    return f"{', '.join(gone) or 'nothing'} became {', '.join(new) or 'nothing'}"

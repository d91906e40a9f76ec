"""A change judged by searches before and after it: which questions are asked, and what they show.

Every sort of question to a collection is a group with red lines of its own, so that what one of them
loses is not thinned out by the others. All lines of quality share one probability of a false alarm
(Holm), and so do those of latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ragline.core import measuring, redline, stats
from ragline.core.gate import Judgement, Rung
from ragline.core.measuring import Found
from ragline.core.policies import LATENCY, TIMES, Line, Policy
from ragline.core.redline import Row, Verdict
from ragline.core.results import Method
from ragline.core.runs import Figure
from ragline.core.stats import Outcome

LOOKS = 4
"""How often a measurement that decides nothing is judged while it is extended."""
KNOWN = "known_mrr"
"""1 / the rank of the chunk that a question's words were taken from; 0 where it was not found."""
_LATENCY = "p50_ms"
_DRAWS_PER_LINE = 20
_LONGEST_WORDS = 12
_MOST_SAID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that can be asked again: midway between two chunks, or words of one chunk."""

    id: str
    chunks: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Questions of one sort to one collection, judged on their own. `k` is how many hits count."""

    name: str
    collection: str
    method: Method
    k: int
    filter: str | None = None
    questions: tuple[Question, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether each question has one chunk that it was taken from."""
        return bool(self.questions) and len(self.questions[0].chunks) == 1

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured of each question."""
        known = (f"{KNOWN}@{self.k}",) if self.is_known else ()
        return (f"ann_recall@{self.k}", "rows", *known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of one question: its first `k` chunks in order, and what they are worth."""

    chunks: tuple[int, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


Answers: TypeAlias = Mapping[str, Mapping[str, Seen]]
"""By group and question."""
Times: TypeAlias = Mapping[str, Mapping[str, float]]
"""Milliseconds by group and question, in the order in which they were asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """All that was measured of one arm. `contents` says what the answers depend on besides the arm:
    by collection, the number that every write raises.
    """

    answers: Answers
    times: Times
    plans: Mapping[str, tuple[str, ...]]
    contents: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """By what two sides are judged. `floors` go beside the margins.

    `noise` is the half width of the machine's own noise by group; without one no latency is judged.
    """

    quality_margin: float
    latency_margin: float
    floors: Policy | None = None
    noise: Mapping[str, float] = field(default_factory=dict)
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
        return worst((self.quality, self.latency))

    @property
    def is_decided(self) -> bool:
        """Whether measuring further changes nothing."""
        return self.status != "inconclusive"


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return `fail` if one fails, else `inconclusive` if one is, else `pass`."""
    found = set(outcomes)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


# -- questions -------------------------------------------------------------------------------------


def pairs(
    chunks: Sequence[int], count: int, seed: int, but: Iterable[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """Return up to `count` pairs of different chunks, each once, drawn by the seed."""
    taken = {tuple(sorted(pair)) for pair in but}
    size = len(chunks)
    wanted = min(count, max(0, size * (size - 1) // 2 - len(taken)))
    generator = np.random.default_rng([seed, size, len(taken)])
    found: list[tuple[int, int]] = []
    while len(found) < wanted:
        # In rounds, so that every chunk is used before one is used again.
        order = generator.permutation(size).tolist()
        for one, other in zip(order, [*order[1:], order[0]], strict=True):
            pair = (chunks[one], chunks[other])
            key = tuple(sorted(pair))
            if one != other and key not in taken and len(found) < wanted:
                taken.add(key)
                found.append(pair)
    return found


def words(sentence: str) -> str:
    """Return what is asked of a sentence: its first words, as few as people type."""
    return " ".join(sentence.split()[:_LONGEST_WORDS])


# -- what one question shows -----------------------------------------------------------------------


def seen(group: Group, question: Question, found: Sequence[Found], exact: Sequence[Found]) -> Seen:
    """Return what a search is worth beside an exact one of the same question."""
    first = found[: group.k]
    chunks = tuple(hit.chunk_id for hit in first)
    recall = measuring.ann_recall(group.k, found, exact)
    wanted = len(exact[: group.k])
    metrics = {
        # Where nothing can be found, nothing was missed.
        f"ann_recall@{group.k}": 1.0 if recall is None else recall,
        "rows": min(1.0, len(first) / wanted) if wanted else 1.0,
    }
    if group.is_known:
        (own,) = question.chunks
        metrics[f"{KNOWN}@{group.k}"] = 1 / (chunks.index(own) + 1) if own in chunks else 0.0
    return Seen(chunks=chunks, metrics=metrics)


def is_identical(before: Side, now: Side) -> bool:
    """Return whether every question found the same chunks in the same order, in the same contents."""
    return (
        before.contents == now.contents
        and before.answers.keys() == now.answers.keys()
        and all(_same(before.answers[group], now.answers[group]) for group in before.answers)
    )


def _same(before: Mapping[str, Seen], now: Mapping[str, Seen]) -> bool:
    return before.keys() == now.keys() and all(
        one.error is None and now[case].error is None and one.chunks == now[case].chunks
        for case, one in before.items()
    )


def overlap(before: Answers, now: Answers) -> float | None:
    """Return the mean share of chunks that both sides found; None without a question."""
    shares = []
    for group, cases in before.items():
        for case, one in cases.items():
            other = now.get(group, {}).get(case)
            ours, theirs = set(one.chunks), set(other.chunks if other else ())
            shares.append(
                len(ours & theirs) / max(len(ours), len(theirs), 1) if ours | theirs else 1.0
            )
    return math.fsum(shares) / len(shares) if shares else None


# -- the verdict -----------------------------------------------------------------------------------


def judged(groups: Sequence[Group], before: Side, now: Side, terms: Terms) -> Parts:
    """Return what two sides show. The order of the questions does not matter."""
    same = is_identical(before, now)
    quality = _quality(groups, before, now, terms, same=same)
    latencies = _latencies(groups, before, now, terms)
    statuses: list[Outcome] = [row.status for row in latencies if row.status != "not judged"]
    noisy = tuple(name for name, width in terms.noise.items() if width > terms.latency_margin)
    return Parts(
        quality=quality.status,
        latency=worst(statuses),
        is_identical=same,
        rows=(*quality.rows, *latencies),
        too_noisy=noisy if "inconclusive" in statuses else (),
    )


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
    made = replace(
        terms.floors or Policy(lines=()), lines=tuple(lines), looks=terms.looks, seed=terms.seed
    )
    needed = math.ceil(_DRAWS_PER_LINE * max(1, len(lines)) * terms.looks / made.alpha)
    return replace(made, resamples=max(made.resamples, needed))


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
    rows = []
    for group in groups:
        was, is_now = before.times.get(group.name, {}), now.times.get(group.name, {})
        shared = {case: ms for case, ms in is_now.items() if case in was}
        if shared:
            rows += _latency(group, {case: was[case] for case in shared}, shared, terms)
    return _alarmed(rows, terms)


def _latency(
    group: Group, before: Mapping[str, float], now: Mapping[str, float], terms: Terms
) -> list[Row]:
    lines = [Line(metric=_LATENCY, margin=terms.latency_margin)]
    lines += [
        line
        for line in (terms.floors.lines if terms.floors else ())
        if LATENCY.fullmatch(line.metric) and not line.judges
    ]
    figures: dict[str, Figure | None] = {
        line.metric: Figure(value=stats.quantile(list(now.values()), line.share or 0.5), n=len(now))
        for line in lines
    }
    noise = {line.metric: terms.noise[group.name] for line in lines if group.name in terms.noise}
    found = redline.verdict(
        policy_of(lines, terms),
        figures,
        None,
        {TIMES: now},
        {TIMES: before},
        is_identical=False,
        noise=noise,
    )
    return [replace(row, metric=of_group(row.metric, group.name)) for row in found.rows]


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


def repeated_noise(figures: Mapping[str, Sequence[float]], after: int) -> dict[str, float]:
    """Return how far the mean of `after` figures may lie from that of the earlier ones, by group.

    `figures` are middle times of repeated measurements of the same thing; means of several move less
    than one.
    """
    return {
        group: math.expm1(
            math.log1p(stats.half_width(times, is_ratio=True))
            * math.sqrt((1 / len(times) + 1 / max(1, after)) / 2)
        )
        for group, times in figures.items()
        if len(times) >= stats.FEWEST_REPEATS
    }


def paired_noise(one: Times, again: Times, seed: int) -> dict[str, float]:
    """Return the far end of the interval in which a group's middle times differ by themselves."""
    found = {}
    for group, times in one.items():
        shared = [case for case in times if case in again.get(group, {})]
        if len(shared) < 2:
            continue
        drawn = stats.block_bootstrap(
            [again[group][case] for case in shared],
            [times[case] for case in shared],
            share=0.5,
            seed=seed,
        )
        if ends := drawn.interval():
            found[group] = math.expm1(max(abs(end) for end in ends))
    return found


# -- what is said of it ----------------------------------------------------------------------------


def judgement(
    groups: Sequence[Group],
    before: Side,
    now: Side,
    parts: Parts,
    terms: Terms,
    *,
    notes: Sequence[str] = (),
    rung: Rung | None = None,
    seconds: float = 0.0,
) -> Judgement:
    """Return the whole as the ledger keeps it, with a reason that names what decided."""
    said = [_said(parts), *_errors(now.answers), *changed_plans(before.plans, now.plans), *notes]
    return Judgement(
        status=parts.status,
        reason="; ".join(one for one in said if one),
        rung=rung or ("identical" if parts.is_identical else "recall"),
        rows=tuple(asdict(row) for row in parts.rows),
        n=sum(len(group.questions) for group in groups),
        overlap=overlap(before.answers, now.answers),
        plans={
            **{f"{name} before": shape for name, shape in before.plans.items()},
            **{f"{name} after": shape for name, shape in now.plans.items()},
        },
        noise=dict(terms.noise),
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


def changed_plans(
    before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Return which groups are searched by another plan, a sentence each."""
    return [
        f"the plan of {group} changed: {_lost(shape, now[group])}"
        for group, shape in before.items()
        if group in now and now[group] != shape
    ]


def _lost(before: Sequence[str], now: Sequence[str]) -> str:
    gone = [node for node in dict.fromkeys(before) if node not in now][:_MOST_SAID]
    new = [node for node in dict.fromkeys(now) if node not in before][:_MOST_SAID]
    if not gone and not new:
        return "the same nodes in another order"
    return f"{', '.join(gone) or 'nothing'} became {', '.join(new) or 'nothing'}"


# -- as plain values -------------------------------------------------------------------------------


def group_to_json(group: Group) -> dict[str, Any]:
    """Return a group as plain values."""
    return asdict(group)


def group_from_json(value: Mapping[str, Any]) -> Group:
    """Return what `group_to_json` made of a group."""
    questions = tuple(
        Question(id=one["id"], chunks=tuple(one["chunks"]), text=one["text"])
        for one in value["questions"]
    )
    return Group(**{**value, "questions": questions})


def side_to_json(side: Side) -> dict[str, Any]:
    """Return a side as plain values."""
    return asdict(side)


def side_from_json(value: Mapping[str, Any]) -> Side:
    """Return what `side_to_json` made of a side."""
    answers = {
        group: {
            case: Seen(chunks=tuple(one["chunks"]), metrics=one["metrics"], error=one["error"])
            for case, one in cases.items()
        }
        for group, cases in value["answers"].items()
    }
    return Side(
        answers=answers,
        times=value["times"],
        plans={group: tuple(shape) for group, shape in value["plans"].items()},
        contents=value["contents"],
    )

"""Two runs of one dataset side by side: which of their cases belong together, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from ragline.core import claims
from ragline.core.cases import Case
from ragline.core.ranking import overlap_at
from ragline.core.runs import CaseResult, Run, RunHit

Direction = Literal["improved", "changed", "regressed", "same"]

# By what a case is put into a list: the first of these that differs decides. What an answer is worth
# comes before what a search found, and what weighs ranks before what counts.
_TELLING = (
    *("f1", "faithfulness", "claim_recall", "precision", "recall", "context_precision"),
    *("token_f1", "exact_match", "cited", "declined", "answered"),
    *("lex_f1", "lex_faithfulness", "lex_claim_recall", "lex_precision", "lex_recall"),
    *("ndcg@", "map@", "mrr@", "recall@", "hit@", "precision@", "ann_recall@", "rows"),
)
_LOWER = ("noise_sensitivity", "hallucination")
_UNDECIDED = "self_knowledge"
_EFFORT = ("_ms", "seconds", "_usd")
# Floats that went through a database and back, or were added up in another order.
_SAME = 1e-12
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What two runs have of one case."""

    before: CaseResult
    after: CaseResult

    @property
    def case_id(self) -> str:
        """The case's id, the same on both sides."""
        return self.before.case_id


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseChange:
    """A case that is not what it was. `metric` is the one that tells, with its two values.

    `metric` is None for a case with other chunks or another answer and no metric that differs, and
    for one that has metrics on one side only. `case` is None where the dataset holds it no more.
    """

    case_id: str
    metric: str | None
    before: float | None
    after: float | None
    pair: Pair
    case: Case | None = None

    @property
    def question(self) -> str | None:
        """The case's question, as far as it is known."""
        return self.case.question if self.case else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Every case of a comparison, in one of four lists; the largest changes come first."""

    improved: tuple[CaseChange, ...]
    changed: tuple[CaseChange, ...]
    regressed: tuple[CaseChange, ...]
    same: int


def is_lower_better(metric: str) -> bool:
    """Return whether less of a metric is better: times, costs, hallucination, sensitivity to noise."""
    name = metric.removeprefix("lex_")
    return name.startswith(_LOWER) or is_measure_of_effort(metric)


def is_measure_of_effort(metric: str) -> bool:
    """Return whether a metric counts time or money, which have no scale of 0 to 1."""
    return metric.endswith(_EFFORT)


def is_of_quality(metric: str) -> bool:
    """Return whether a metric says how good a case came out, on a scale of 0 to 1."""
    return not is_measure_of_effort(metric)


def has_direction(metric: str) -> bool:
    """Return whether more or less of a metric is better at all; knowing by oneself is neither."""
    return metric.removeprefix("lex_") != _UNDECIDED


def unmatched(baseline: Run, run: Run) -> tuple[str, ...]:
    """Return why the cases of two runs make no pairs, each with what to do; empty when they do."""
    return (
        *unfinished(baseline),
        *(unfinished(run) if run.id != baseline.id else ()),
        *_other_data(baseline, run),
        *_other_measure(baseline, run),
    )


def unfinished(run: Run) -> tuple[str, ...]:
    """Return why a run may not be judged as a whole, and what to do; empty when it may."""
    if run.state == "complete":
        return ()
    failed = f" and {run.failed} of them failed" if run.failed else ""
    return (
        (
            f"run {run.id} ({run.name}) is {run.state}: {run.done} of {run.cases} cases are there"
            f"{failed}; finish it with `ragline eval run {run.dataset} --resume {run.id}`"
        ),
    )


def _other_data(baseline: Run, run: Run) -> tuple[str, ...]:
    if baseline.dataset_hash == run.dataset_hash:
        return ()
    if baseline.dataset == run.dataset:
        what = (
            f"dataset {run.dataset!r} changed between them (content {baseline.dataset_hash[:12]} and "
            f"{run.dataset_hash[:12]})"
        )
    else:
        what = f"they ran on two datasets, {baseline.dataset!r} and {run.dataset!r}"
    return (f"{what}: evaluate both on the same cases",)


def _other_measure(baseline: Run, run: Run) -> tuple[str, ...]:
    one, other = baseline.settings, run.settings
    reasons = []
    if baseline.judge_id != run.judge_id:
        reasons.append(
            f"two judges judged them, {baseline.judge_id or 'none'} and {run.judge_id or 'none'}, and "
            "what one says cannot be held against the other: run both with the same judge"
        )
    for name, option, former, latter in (
        ("k", "-k", one.k, other.k),
        ("answers", "--answers", one.answers, other.answers),
        ("contexts", "--contexts", one.contexts, other.contexts),
        ("match", "--match", *_ways(baseline, run)),
    ):
        if former != latter:
            reasons.append(
                f"{name} differs, {former} and {latter}: run both with the same `{option}`"
            )
    return tuple(reasons)


def _ways(baseline: Run, run: Run) -> tuple[str, str]:
    """Return how documents were told to be relevant. What both left open is the same question."""
    one, other = baseline.settings.match, run.settings.match
    if one == other:
        return one, other
    return str(baseline.provenance.get("match", one)), str(run.provenance.get("match", other))


def caveats(baseline: Run, run: Run) -> tuple[str, ...]:
    """Return what a reader must know before believing a comparison that is allowed all the same."""
    one, other = baseline.settings, run.settings
    found = []
    if sorted(one.collections) != sorted(other.collections):
        # Allowed: two embedding models never share a collection, and are compared all the same.
        found.append(
            f"the runs searched other collections, {_named(one.collections)} and "
            f"{_named(other.collections)}: their chunks have no ids in common"
        )
    if one.filter != other.filter:
        found.append(f"the filters differ: {one.filter or 'none'} and {other.filter or 'none'}")
    if baseline.id == run.id:
        found.append(f"run {run.id} is compared with itself: it cannot fail, and shows nothing")
    if other.contexts == "fixed":
        found.append("fixed contexts: the passages came with the dataset, and nothing was searched")
    return tuple(found)


def pairs(before: Sequence[CaseResult], after: Sequence[CaseResult]) -> tuple[Pair, ...]:
    """Return the cases that both have, in the order of `before`'s ordinals."""
    latter = {result.case_id: result for result in after}
    ordered = sorted(before, key=lambda result: (result.ordinal, result.case_id))
    return tuple(
        Pair(before=result, after=latter[result.case_id])
        for result in ordered
        if result.case_id in latter
    )


def unpaired(before: Sequence[CaseResult], after: Sequence[CaseResult]) -> str | None:
    """Return which cases only one side has, as a sentence; None when there are none."""
    one, other = {r.case_id for r in before}, {r.case_id for r in after}
    if alone := sorted(one ^ other):
        return f"{len(alone)} cases are on one side only: {_named(alone)}"
    return None


def per_case(results: Sequence[CaseResult]) -> dict[str, dict[str, float]]:
    """Return each metric's value by case id, the cases in the order in which they were measured."""
    values: dict[str, dict[str, float]] = {}
    for result in sorted(results, key=lambda result: (result.ordinal, result.case_id)):
        for metric, value in result.metrics.items():
            values.setdefault(metric, {})[result.case_id] = value
    return values


def is_identical(together: Sequence[Pair]) -> bool:
    """Return whether every case has the same chunks in the same order, and the same answer.

    What is computed must agree as well: relevance, an exact search or the way to compute may have
    changed below equal chunks and answers. Only a judge may say another thing of the same, as noise.
    """
    shared = _shared_metrics(together)
    return bool(together) and all(_is_unchanged(pair, shared) for pair in together)


def _is_unchanged(pair: Pair, shared: AbstractSet[str]) -> bool:
    before, after = pair.before, pair.after
    return (
        _chunks(before) == _chunks(after)
        and before.contexts == after.contexts
        and (before.answer, before.found) == (after.answer, after.found)
        and _differing(pair, shared - frozenset(claims.METRICS)) is None
    )


def _shared_metrics(together: Sequence[Pair]) -> set[str]:
    """Return the metrics of quality that both runs measured: others tell nothing of a case."""
    before = {name for pair in together for name in pair.before.metrics}
    after = {name for pair in together for name in pair.after.metrics}
    return {name for name in before & after if is_of_quality(name) and has_direction(name)}


def overlap(k: int, together: Sequence[Pair]) -> float | None:
    """Return the mean share of the first `k` chunks that both sides found; None without searches.

    A case where both found nothing agrees in full.
    """
    shares = [overlap_at(k, _keys(pair.before.hits), _keys(pair.after.hits)) for pair in together]
    if not any(pair.before.hits or pair.after.hits for pair in together):
        return None
    return sum(shares) / len(shares)


def changes(together: Sequence[Pair], cases: Mapping[str, Case]) -> Changes:
    """Sort every case by the first telling metric that differs, the largest changes first."""
    shared = _shared_metrics(together)
    lists: dict[Direction, list[CaseChange]] = {
        "improved": [],
        "changed": [],
        "regressed": [],
        "same": [],
    }
    for pair in together:
        direction, metric = _direction(pair, shared)
        lists[direction].append(
            CaseChange(
                case_id=pair.case_id,
                metric=metric,
                before=pair.before.metrics.get(metric) if metric else None,
                after=pair.after.metrics.get(metric) if metric else None,
                pair=pair,
                case=cases.get(pair.case_id),
            )
        )
    for listed in lists.values():
        listed.sort(key=_size)
    return Changes(
        improved=tuple(lists["improved"]),
        changed=tuple(lists["changed"]),
        regressed=tuple(lists["regressed"]),
        same=len(lists["same"]),
    )


def _direction(pair: Pair, shared: AbstractSet[str]) -> tuple[Direction, str | None]:
    metric = _differing(pair, shared)
    if metric is None:
        return ("same" if _is_unchanged(pair, shared) else "changed"), None
    before, after = pair.before.metrics.get(metric), pair.after.metrics.get(metric)
    if before is None or after is None:
        return "changed", metric
    return ("improved" if (after > before) != is_lower_better(metric) else "regressed"), metric


def _differing(pair: Pair, among: AbstractSet[str]) -> str | None:
    """Return the first telling metric that differs: one that both have before one that one has."""
    before, after = pair.before.metrics, pair.after.metrics
    names = sorted(among & (before.keys() | after.keys()), key=_place)
    both = [name for name in names if name in before and name in after]
    differing = (name for name in both if abs(after[name] - before[name]) > _SAME)
    return next(differing, next((name for name in names if name not in both), None))


def headline(results: Sequence[CaseResult]) -> str | None:
    """Return the most telling metric that a run has; None where it has none."""
    names = {name for result in results for name in result.metrics if is_of_quality(name)}
    return min(names, key=_place, default=None)


def _place(metric: str) -> tuple[int, str]:
    for place, telling in enumerate(_TELLING):
        if metric == telling or (telling.endswith("@") and metric.startswith(telling)):
            return place, metric
    return len(_TELLING), metric


def _size(change: CaseChange) -> tuple[float, int]:
    if change.before is None or change.after is None:
        return 0.0, change.pair.before.ordinal
    return -abs(change.after - change.before), change.pair.before.ordinal


def _chunks(result: CaseResult) -> list[tuple[str, int, str]]:
    return [(hit.collection, hit.chunk_id, hit.hash) for hit in result.hits]


def _keys(hits: Sequence[RunHit]) -> list[tuple[str, int]]:
    return [(hit.collection, hit.chunk_id) for hit in hits]


def _named(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return listed + (", …" if len(names) > _MOST_NAMED else "")

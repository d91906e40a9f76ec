"""Simulated evaluations whose truth is known: a judge that errs, answers that vary, a busy machine.

A world is a dataset with its system: what is true of every claim of every case. A run measures it,
with noise. A loss changes what is true, by so many points, and then the run measures that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ragline.core.claims import ClaimLabels, Label

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Loss = Literal["answers", "contexts", "hits"]

MOST_CLAIMS = 12
FEWEST_CLAIMS = 4
PASSAGES = 10
# How often the judge says the opposite of what is true, each time it is asked.
FLIPS = 0.05
# About a passage it errs less: most have nothing to do with a claim.
PASSAGE_FLIPS = 0.02
RETRIEVAL = ("recall@10", "hit@10", "mrr@10", "ndcg@10", "rows")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """What is true. Shapes: claims (cases, 12), matrices (cases, 12, 10); `is_*` marks real claims."""

    is_said: Bools
    is_gold: Bools
    chance: Floats
    """How often the system says something true, for each case."""
    right: Bools
    covered: Bools
    answer: Bools
    gold: Bools
    ranks: npt.NDArray[np.int64]
    """Where the one relevant document of a case stands, from 1; 0 is nowhere among the first ten."""
    query_ms: Floats
    """What each search takes on a machine that does nothing else."""

    @property
    def n(self) -> int:
        """How many cases there are."""
        return len(self.ranks)


def world(n: int, generator: np.random.Generator) -> World:
    """Return a system that says something true in about 3 claims of 5, and finds 4 of 5."""
    shape = (n, MOST_CLAIMS)
    counts = generator.integers(FEWEST_CLAIMS, MOST_CLAIMS + 1, size=(2, n, 1))
    places = np.arange(MOST_CLAIMS)
    chance = generator.beta(3.0, 2.0, n)
    found = generator.random(shape) < generator.beta(6.0, 2.0, (n, 1))
    # A claim stands in one passage or two, and what the system says comes from one in 5 of 6 cases.
    gold = _in_passages(generator, found)
    made = World(
        is_said=places < counts[0],
        is_gold=places < counts[1],
        chance=chance,
        right=np.zeros(shape, bool),
        covered=np.zeros(shape, bool),
        answer=np.zeros((*shape, PASSAGES), bool),
        gold=gold,
        ranks=np.where(
            generator.random(n) < 0.8, np.minimum(generator.geometric(0.4, n), PASSAGES), 0
        ),
        query_ms=generator.lognormal(1.5, 0.4, n),
    )
    return answered(made, generator)


def answered(one: World, generator: np.random.Generator) -> World:
    """Return the world with its answers drawn anew, as a model that samples would give them."""
    shape = one.right.shape
    chance = one.chance[:, None]
    return replace(
        one,
        right=generator.random(shape) < chance,
        covered=generator.random(shape) < chance,
        answer=_in_passages(generator, generator.random(shape) < 5 / 6),
    )


def _in_passages(generator: np.random.Generator, is_there: Bools) -> Bools:
    places = generator.integers(PASSAGES, size=(2, *is_there.shape, 1))
    return is_there[..., None] & _any(np.arange(PASSAGES) == places, axis=0)


def worse(one: World, loss: Loss, points: float, generator: np.random.Generator) -> World:
    """Return the world after a loss of so much: of precision and recall, claim recall, or hits.

    "answers": a share of the answer's true claims is no longer true, and of the gold claims that it
    covered no longer covered. "contexts": a share of the gold claims that passages hold stands in
    none. "hits": in so many cases the relevant document is no longer found at all.
    """
    if loss == "hits":
        lost = generator.random(one.n) < points / np.mean(one.ranks > 0)
        return replace(one, ranks=np.where(lost, 0, one.ranks))
    if loss == "contexts":
        held = _any(one.gold, axis=2)
        lost = generator.random(held.shape) < points / _mean(held, one.is_gold)
        return replace(one, gold=one.gold & ~lost[..., None])
    right = generator.random(one.right.shape) < points / _mean(one.right, one.is_said)
    covered = generator.random(one.right.shape) < points / _mean(one.covered, one.is_gold)
    return replace(one, right=one.right & ~right, covered=one.covered & ~covered)


def _mean(true: Bools, mask: Bools) -> float:
    return float(_shares(true, mask).mean())


def judged(one: World, generator: np.random.Generator) -> World:
    """Return what the judge says of a world: each label is wrong at random, anew in every run."""

    def seen(true: Bools, rate: float) -> Bools:
        return true ^ (generator.random(true.shape, dtype=np.float32) < rate)

    return replace(
        one,
        right=seen(one.right, FLIPS),
        covered=seen(one.covered, FLIPS),
        answer=seen(one.answer, PASSAGE_FLIPS),
        gold=seen(one.gold, PASSAGE_FLIPS),
    )


def claims(one: World) -> dict[str, Floats]:
    """Return the eleven claim metrics of every case, from labels: `core.claims` for many at once."""
    said, wanted = one.is_said, one.is_gold
    right, covered = one.right & said, one.covered & wanted
    answer, gold = one.answer & said[..., None], one.gold & wanted[..., None]
    useful = _any(gold, axis=1)
    held, found = _any(answer, axis=2), _any(gold, axis=2)
    relevant = _any(answer & useful[:, None, :], axis=2)
    precision, recall = _shares(right, said), _shares(covered, wanted)
    both = precision + recall
    used, there = (found & covered).sum(axis=1), found.sum(axis=1)
    return {
        "precision": precision,
        "recall": recall,
        "f1": np.divide(2 * precision * recall, both, out=np.zeros(one.n), where=both > 0),
        "claim_recall": _shares(found, wanted),
        "context_precision": useful.mean(axis=1),
        "context_utilization": np.divide(used, there, out=np.zeros(one.n), where=there > 0),
        "noise_sensitivity_in_relevant": _shares(~right & relevant, said),
        "noise_sensitivity_in_irrelevant": _shares(~right & held & ~relevant, said),
        "hallucination": _shares(~held & ~right, said),
        "self_knowledge": _shares(~held & right, said),
        "faithfulness": _shares(held, said),
    }


def _any(true: Bools, *, axis: int) -> Bools:
    found: Bools = np.logical_or.reduce(true, axis=axis)
    return found


def _shares(true: Bools, mask: Bools) -> Floats:
    shares: Floats = (true & mask).sum(axis=1) / mask.sum(axis=1)
    return shares


def labels(one: World, case: int) -> ClaimLabels:
    """Return one case as a judge's labels, to compare with `core.claims`."""

    def row(values: Bools) -> tuple[Label, ...]:
        return tuple("Entailment" if value else "Neutral" for value in values)

    said, wanted = one.is_said[case], one.is_gold[case]
    return ClaimLabels(
        answer_claims=tuple((str(at),) for at in np.flatnonzero(said)),
        gold_claims=tuple((str(at),) for at in np.flatnonzero(wanted)),
        answer_by_gold=row(one.right[case][said]),
        gold_by_answer=row(one.covered[case][wanted]),
        answer_by_context=tuple(row(values) for values in one.answer[case][said]),
        gold_by_context=tuple(row(values) for values in one.gold[case][wanted]),
    )


def retrieval(one: World) -> dict[str, Floats]:
    """Return retrieval metrics of every case, which repeat exactly: one relevant document, k = 10."""
    is_found = one.ranks > 0
    at = np.where(is_found, one.ranks, 1)
    return {
        "recall@10": is_found.astype(float),
        "hit@10": is_found.astype(float),
        "mrr@10": is_found / at,
        "ndcg@10": is_found / np.log2(1 + at),
        "rows": np.ones(one.n),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How a machine disturbs times: all of a run, each case after its neighbours, and in bursts."""

    run: float = 0.02
    """Deviation of the logarithm from run to run."""
    case: float = 0.15
    memory: float = 0.7
    """How much of a case's disturbance the next one inherits."""
    bursts: float = 1 / 80
    """How often other work begins: for about 12 cases, which take 1.5 to 4 times as long."""


BUSY = Machine()
CALM = Machine(run=0.005, case=0.08, memory=0.5, bursts=0.0)
_BURST = 12.0


def times(
    one: World, machine: Machine, generator: np.random.Generator, *, slower: float = 1.0
) -> Floats:
    """Return the milliseconds of every search of a run, in the order in which they ran."""
    fresh = generator.normal(0.0, machine.case * np.sqrt(1 - machine.memory**2), one.n)
    drift = np.empty(one.n)
    last = generator.normal(0.0, machine.case)
    for at, value in enumerate(fresh.tolist()):
        last = machine.memory * last + value
        drift[at] = last
    load = np.ones(one.n)
    for start in np.flatnonzero(generator.random(one.n) < machine.bursts).tolist():
        length = int(generator.geometric(1 / _BURST))
        load[start : start + length] *= generator.uniform(1.5, 4.0)
    whole = generator.normal(0.0, machine.run)
    return one.query_ms * slower * load * np.exp(drift + whole)


def values(columns: Mapping[str, Floats], ids: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return columns as a run keeps them: by metric and case."""
    return {name: dict(zip(ids, column.tolist(), strict=True)) for name, column in columns.items()}

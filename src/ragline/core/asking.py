"""What is asked before and after a change, and what came of it: questions that can be asked again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ragline.core import measuring
from ragline.core.measuring import Found
from ragline.core.ranking import overlap_at
from ragline.core.results import Method

KNOWN = "known_mrr"
"""1 / the rank of the chunk that a question's words were taken from; 0 where it was not found."""
_LONGEST_WORDS = 12
_LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that can be asked again: midway between two chunks, words of one chunk, or a text."""

    id: str
    chunks: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Questions of one sort to one collection, judged on their own. `k` is how many hits count.

    `is_given`: they are somebody's own, so that there are no more of them.
    """

    name: str
    collection: str
    method: Method
    k: int
    filter: str | None = None
    questions: tuple[Question, ...] = ()
    is_given: bool = False

    @property
    def is_worded(self) -> bool:
        """Whether each question is a text; else it lies midway between two chunks."""
        return bool(self.questions) and len(self.questions[0].chunks) < 2

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
    return " ".join(sentence.split()[:_LONGEST_WORDS])[:_LONGEST_TEXT]


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
            theirs = now.get(group, {}).get(case, Seen()).chunks
            shares.append(overlap_at(max(len(one.chunks), len(theirs), 1), one.chunks, theirs))
    return math.fsum(shares) / len(shares) if shares else None


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

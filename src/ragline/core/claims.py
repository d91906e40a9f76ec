"""Metrics of an answer's claims, from what a judge said of each: RAGChecker's eleven.

Ru et al., RAGChecker: A Fine-grained Framework for Diagnosing Retrieval-Augmented Generation (2024),
as its program computes them: only "Entailment" bears a claim out, and what has no claims, or no
passages where it needs them, is 0.0. So an honest "I do not know" is 0.0 in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ragline.errors import UsageError

Label = Literal["Entailment", "Neutral", "Contradiction"]
Claim = tuple[str, ...]
"""A triplet of subject, predicate and object, or one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLabels:
    """The claims of an answer and of the gold answer, and what bears each of them out.

    Shapes: `answer_by_gold` one label per claim of the answer, `gold_by_answer` one per gold claim,
    `answer_by_context` and `gold_by_context` claims x passages.
    """

    answer_claims: tuple[Claim, ...]
    gold_claims: tuple[Claim, ...]
    answer_by_gold: tuple[Label, ...]
    gold_by_answer: tuple[Label, ...]
    answer_by_context: tuple[tuple[Label, ...], ...]
    gold_by_context: tuple[tuple[Label, ...], ...]


METRICS = (
    "precision",
    "recall",
    "f1",
    "claim_recall",
    "context_precision",
    "context_utilization",
    "noise_sensitivity_in_relevant",
    "noise_sensitivity_in_irrelevant",
    "hallucination",
    "self_knowledge",
    "faithfulness",
)
_LABELS = frozenset(get_args(Label))
_Matrix = Sequence[Sequence[bool]]


def metrics(labels: ClaimLabels) -> dict[str, float]:
    """Return every one of METRICS, each from 0 to 1; none depends on the order of anything.

    With claims and passages, faithfulness + hallucination + self_knowledge is 1. Raise UsageError
    when labels are missing, too many, or none of the three.
    """
    _check(labels)
    right = _borne_out(labels.answer_by_gold)
    covered = _borne_out(labels.gold_by_answer)
    answer = [_borne_out(row) for row in labels.answer_by_context]
    gold = [_borne_out(row) for row in labels.gold_by_context]
    found = {
        **_overall(right, covered),
        **_retriever(gold),
        "context_utilization": _utilization(covered, gold),
        **_noise(right, answer, gold),
        **_sources(right, answer),
    }
    return {name: found[name] for name in METRICS}


def _overall(right: Sequence[bool], covered: Sequence[bool]) -> dict[str, float]:
    precision, recall = _share(right), _share(covered)
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _retriever(gold: _Matrix) -> dict[str, float]:
    return {
        "claim_recall": _share([any(row) for row in gold]),
        "context_precision": _share(_useful(gold)),
    }


def _utilization(covered: Sequence[bool], gold: _Matrix) -> float:
    """Return the share of the gold claims which the passages hold that the answer has too."""
    return _share([used for used, row in zip(covered, gold, strict=True) if any(row)])


def _noise(right: Sequence[bool], answer: _Matrix, gold: _Matrix) -> dict[str, float]:
    """Return the shares of wrong claims that come from useful passages, and from useless ones alone.

    Without gold claims no passage is either, and both are 0.0.
    """
    useful = _useful(gold)
    relevant = [any(f and u for f, u in zip(row, useful, strict=False)) for row in answer]
    irrelevant = [bool(useful) and any(row) for row in answer]
    pairs = list(zip(right, relevant, irrelevant, strict=True))
    return {
        "noise_sensitivity_in_relevant": _share([not r and from_ for r, from_, _ in pairs]),
        "noise_sensitivity_in_irrelevant": _share(
            [not r and other and not from_ for r, from_, other in pairs]
        ),
    }


def _sources(right: Sequence[bool], answer: _Matrix) -> dict[str, float]:
    """Return where the answer's claims come from: passages, nowhere, or what the model knew."""
    has_passages = any(answer)
    held = [any(row) for row in answer]
    pairs = list(zip(right, held, strict=True)) if has_passages else []
    return {
        "hallucination": _share([not r and not h for r, h in pairs]),
        "self_knowledge": _share([r and not h for r, h in pairs]),
        "faithfulness": _share([h for _, h in pairs]),
    }


def _useful(gold: _Matrix) -> list[bool]:
    """Return of each passage whether it holds a gold claim; nothing without gold claims."""
    return [any(column) for column in zip(*gold, strict=True)]


def _borne_out(labels: Sequence[Label]) -> list[bool]:
    return [label == "Entailment" for label in labels]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _check(labels: ClaimLabels) -> None:
    sizes = (
        ("answer_by_gold", len(labels.answer_by_gold), len(labels.answer_claims)),
        ("answer_by_context", len(labels.answer_by_context), len(labels.answer_claims)),
        ("gold_by_answer", len(labels.gold_by_answer), len(labels.gold_claims)),
        ("gold_by_context", len(labels.gold_by_context), len(labels.gold_claims)),
    )
    for name, has, claims in sizes:
        if has != claims:
            raise UsageError(
                f"{name} has {has} labels or rows for {claims} claims; give one for each"
            )
    rows = (*labels.answer_by_context, *labels.gold_by_context)
    if len(passages := sorted({len(row) for row in rows})) > 1:
        raise UsageError(
            f"rows of labels are for {passages[0]} passages and for {passages[-1]}; "
            "give every claim one label for each passage"
        )
    given = {*labels.answer_by_gold, *labels.gold_by_answer, *(one for row in rows for one in row)}
    if unknown := sorted(map(repr, given - _LABELS)):
        raise UsageError(f"{unknown[0]} is no label; use one of {', '.join(sorted(_LABELS))}")

"""How far the lexical scores agree with people, who said of two answers which one is better.

The data are RAGChecker's: 280 pairs of answers to one question, each judged by two people from -2 (the
first answer is much better) to 2 by correctness, completeness and overall, 560 labels in all. A score
agrees as far as the difference between its two values goes with those labels: Pearson's correlation, of
precision with correctness, recall with completeness, and F1 with overall. Beside it stand RAGChecker's
own scores with a model of 70 billion parameters, and people among themselves, which nothing should
be expected to exceed.

Intervals are 95 %, by bootstrap over the pairs. The labels of claims come from two questions only, and
the threshold was chosen on them: they say what it does, not how well it would do elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import measure
from corpus import SQUAD, NotRun, not_run
from measure import Figure
from ragline.core import overlap

RAGCHECKER = SQUAD.parents[1] / "ragchecker"
OVERALL_AT_LEAST = 0.54
RESAMPLES = 2000
# What was asked -> the lexical score that goes with it.
ASKED = {"correctness": "lex_precision", "completeness": "lex_recall", "overall": "lex_f1"}
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Scores = Mapping[str, float]
"""By what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to a question: what people preferred, and how much better the second one scores.

    `people` has the labels of both judges by what was asked.
    """

    people: Mapping[str, Sequence[float]]
    lexical: Scores
    ragchecker: Scores


def main() -> int:
    """Print the figures; exit 1 when a limit is broken, 3 when the data are not there."""
    options = measure.options(__doc__).parse_args()
    try:
        pairs, claims = _pairs(), _claims()
    except NotRun as error:
        return not_run(error)
    return measure.verdict([*_with_people(pairs), *_with_labels(claims)], options.json)


# -- answers ---------------------------------------------------------------------------------------


def _with_people(pairs: Sequence[Pair]) -> list[Figure]:
    labels = sum(len(pair.people["overall"]) for pair in pairs)
    print(f"{len(pairs):,} pairs of answers, {labels:,} labels: correlation with people")
    figures: list[Figure] = []
    for asked, name in ASKED.items():
        people = np.array([pair.people[asked] for pair in pairs])
        limit = OVERALL_AT_LEAST if asked == "overall" else None
        lexical = np.array([pair.lexical[asked] for pair in pairs])
        ragchecker = np.array([pair.ragchecker[asked] for pair in pairs])
        figures += measure.said(
            (
                _correlation(f"{asked}: {name}", _each(lexical), people, limit),
                _correlation(f"{asked}: RAGChecker with a 70B model", _each(ragchecker), people),
                _correlation(f"{asked}: people among themselves", people[:, :1], people[:, 1:]),
            )
        )
    return figures


def _each(differences: Array) -> Array:
    """Return the difference of each pair beside each of its two labels, shape (pairs, 2)."""
    return np.repeat(differences[:, None], 2, axis=1)


def _correlation(what: str, one: Array, other: Array, at_least: float | None = None) -> Figure:
    """Return the correlation of two arrays whose first axis is the pairs."""
    generator = np.random.default_rng(1)
    drawn = generator.integers(len(one), size=(RESAMPLES, len(one)))
    low, high = np.quantile([_pearson(one[rows], other[rows]) for rows in drawn], [0.025, 0.975])
    return Figure(
        what=what,
        value=_pearson(one, other),
        low=float(low),
        high=float(high),
        n=other.size,
        at_least=at_least,
    )


def _pearson(one: Array, other: Array) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _pairs() -> list[Pair]:
    found: dict[int, list[Any]] = {}
    for label in _read("human_labeled_data.json"):
        found.setdefault(label["instance_id"], []).append(label)
    known = {row["instance_id"]: row for row in _read("baseline_ragchecker.json")}
    return [_pair(labels, known[number]) for number, labels in found.items()]


def _pair(labels: Sequence[Any], known: Any) -> Pair:
    gold = labels[0]["gt_answer"]
    one, other = (overlap.scores(labels[0][m]["response"], gold) for m in ("model1", "model2"))
    first, second = (known[m]["ragchecker"] for m in ("model1", "model2"))
    return Pair(
        people={asked: [label[f"{asked}_label"] for label in labels] for asked in ASKED},
        lexical={asked: other[name] - one[name] for asked, name in ASKED.items()},
        ragchecker={a: second[f"{a}_label"] - first[f"{a}_label"] for a in ASKED},
    )


# -- claims ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A claim, the text that it was checked against, and whether a model said that it follows."""

    claim: tuple[str, ...]
    text: str
    is_entailed: bool


def _with_labels(claims: Sequence[Labelled]) -> list[Figure]:
    true = np.array([one.is_entailed for one in claims])
    said = np.array([overlap.supported(one.claim, one.text) for one in claims])
    print(
        f"{len(claims):,} labels of claims by a model, {true.sum():,} entailed; overlap of at least "
        f"{overlap.THRESHOLD:g} and every number is taken for support"
    )
    figures = measure.said(
        Figure(what=f"support by words: {what}", value=value, n=len(claims))
        for what, value in _agreement(said, true).items()
    )
    print("  other thresholds, without the numbers: " + " / ".join(_agreement(said, true)))
    shares = np.array([overlap.containment(one.claim, one.text) for one in claims])
    for threshold in (0.4, 0.5, 0.6, 0.7, 0.8):
        found = _agreement(shares >= threshold, true).values()
        print(f"    {threshold:g}: " + " / ".join(f"{value:.3f}" for value in found))
    return figures


def _agreement(said: Flags, true: Flags) -> dict[str, float]:
    both = float((said & true).sum())
    return {
        "right": float((said == true).mean()),
        "precision": both / float(said.sum()),
        "recall": both / float(true.sum()),
        "kappa": _kappa(said, true),
    }


def _kappa(said: Flags, true: Flags) -> float:
    """Return how much more often both agree than by chance, as a share of what chance leaves."""
    by_chance = said.mean() * true.mean() + (1 - said.mean()) * (1 - true.mean())
    return float(((said == true).mean() - by_chance) / (1 - by_chance))


def _claims() -> list[Labelled]:
    found: list[Labelled] = []
    for row in _read("checking_outputs.json")["results"]:
        passages = [passage["text"] for passage in row["retrieved_context"]]
        for claims, other, by_other, by_passage in (
            ("response_claims", "gt_answer", "answer2response", "retrieved2response"),
            ("gt_answer_claims", "response", "response2answer", "retrieved2answer"),
        ):
            for claim, label, labels in zip(
                row[claims], row[by_other], row[by_passage], strict=True
            ):
                texts = zip([row[other], *passages], [label, *labels], strict=True)
                found += [
                    Labelled(claim=tuple(claim), text=text, is_entailed=given == "Entailment")
                    for text, given in texts
                ]
    return found


def _read(name: str) -> Any:
    path = RAGCHECKER / name
    if not path.is_file():
        raise NotRun(f"there is no {RAGCHECKER.name}/{name}")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())

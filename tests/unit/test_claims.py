"""RAGChecker's metrics: its own worked example to the last bit, and what holds for any labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.claims import METRICS, ClaimLabels, Label, metrics
from ragline.errors import UsageError

EXAMPLE = Path(__file__).parents[3] / "shared/data/ragchecker/checking_outputs.json"
YES: Label = "Entailment"
NO: Label = "Neutral"
AGAINST: Label = "Contradiction"

one_label: st.SearchStrategy[Label] = st.sampled_from([YES, NO, AGAINST])


@st.composite
def some_labels(draw: st.DrawFn, least_claims: int = 0, least_passages: int = 0) -> ClaimLabels:
    answer, gold = draw(st.tuples(*[st.integers(least_claims, 5)] * 2))
    passages = draw(st.integers(least_passages, 4))
    row = st.tuples(*[one_label] * passages)
    return ClaimLabels(
        answer_claims=_named("a", answer),
        gold_claims=_named("g", gold),
        answer_by_gold=draw(st.tuples(*[one_label] * answer)),
        gold_by_answer=draw(st.tuples(*[one_label] * gold)),
        answer_by_context=draw(st.tuples(*[row] * answer)),
        gold_by_context=draw(st.tuples(*[row] * gold)),
    )


def _named(what: str, number: int) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{what}{n}", "is", "so") for n in range(number))


def labels(
    right: Sequence[Label],
    covered: Sequence[Label],
    answer: Sequence[Sequence[Label]],
    gold: Sequence[Sequence[Label]],
) -> ClaimLabels:
    return ClaimLabels(
        answer_claims=_named("a", len(right)),
        gold_claims=_named("g", len(covered)),
        answer_by_gold=tuple(right),
        gold_by_answer=tuple(covered),
        answer_by_context=tuple(map(tuple, answer)),
        gold_by_context=tuple(map(tuple, gold)),
    )


# -- the example ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> Any:
    if not EXAMPLE.is_file():
        pytest.skip(f"not run: there is no {EXAMPLE.parent.name}/{EXAMPLE.name}")
    return json.loads(EXAMPLE.read_text(encoding="utf-8"))


def _of_row(row: Any) -> ClaimLabels:
    # Its matrices are claims x passages, whatever "retrieved2response" may sound like.
    return ClaimLabels(
        answer_claims=tuple(map(tuple, row["response_claims"])),
        gold_claims=tuple(map(tuple, row["gt_answer_claims"])),
        answer_by_gold=tuple(row["answer2response"]),
        gold_by_answer=tuple(row["response2answer"]),
        answer_by_context=tuple(map(tuple, row["retrieved2response"])),
        gold_by_context=tuple(map(tuple, row["retrieved2answer"])),
    )


def test_the_worked_example_of_ragchecker_has_exactly_its_metrics(example: Any) -> None:
    for row in example["results"]:
        assert metrics(_of_row(row)) == row["metrics"]


def test_the_example_has_claims_by_passages(example: Any) -> None:
    for row in example["results"]:
        for claims, matrix in (
            ("response_claims", "retrieved2response"),
            ("gt_answer_claims", "retrieved2answer"),
        ):
            assert len(row[matrix]) == len(row[claims]) != len(row["retrieved_context"])
            assert {len(labels) for labels in row[matrix]} == {len(row["retrieved_context"])}


def test_the_means_of_the_example_are_its_percentages(example: Any) -> None:
    found = [metrics(_of_row(row)) for row in example["results"]]
    means = {name: round(100 * sum(one[name] for one in found) / len(found), 1) for name in METRICS}

    assert means == {n: v for group in example["metrics"].values() for n, v in group.items()}


# -- worked out by hand ---------------------------------------------------------------------------


def test_values_worked_out_by_hand() -> None:
    # Five claims: right and found; wrong, from the useful passage; wrong, from the useless one;
    # wrong, from nowhere; right, from nowhere.
    found = metrics(
        labels(
            right=[YES, NO, AGAINST, NO, YES],
            covered=[YES, NO, NO],
            answer=[[YES, NO], [YES, YES], [NO, YES], [AGAINST, NO], [NO, NO]],
            gold=[[YES, NO], [YES, AGAINST], [NO, NO]],
        )
    )

    assert found == {
        "precision": 0.4,
        "recall": 1 / 3,
        "f1": 2 * 0.4 * (1 / 3) / (0.4 + 1 / 3),
        "claim_recall": 2 / 3,
        "context_precision": 0.5,
        "context_utilization": 0.5,
        "noise_sensitivity_in_relevant": 0.2,
        "noise_sensitivity_in_irrelevant": 0.2,
        "hallucination": 0.2,
        "self_knowledge": 0.2,
        "faithfulness": 0.6,
    }
    assert tuple(found) == METRICS


def test_an_honest_refusal_is_nothing_everywhere_but_in_retrieval() -> None:
    found = metrics(labels([], [NO, NO], [], [[YES], [NO]]))

    assert {name for name, value in found.items() if value} == {"claim_recall", "context_precision"}


def test_without_gold_claims_no_passage_is_relevant_or_irrelevant() -> None:
    found = metrics(labels([NO, NO], [], [[YES], [NO]], []))

    assert {name: value for name, value in found.items() if value} == {
        "faithfulness": 0.5,
        "hallucination": 0.5,
    }


def test_without_passages_nothing_is_said_of_where_claims_come_from() -> None:
    found = metrics(labels([YES, NO], [YES], [[], []], [[]]))

    assert {name: value for name, value in found.items() if value} == {
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
    }


def test_without_anything_all_are_nothing() -> None:
    assert metrics(labels([], [], [], [])) == dict.fromkeys(METRICS, 0.0)


# -- laws -------------------------------------------------------------------------------------------


@given(some_labels())
def test_all_are_there_and_lie_between_nothing_and_all(given_: ClaimLabels) -> None:
    found = metrics(given_)

    assert tuple(found) == METRICS
    assert all(0 <= value <= 1 and isinstance(value, float) for value in found.values())


@given(some_labels(least_claims=1, least_passages=1))
def test_every_claim_comes_from_passages_from_nowhere_or_from_the_model(
    given_: ClaimLabels,
) -> None:
    found = metrics(given_)

    parts = ("faithfulness", "hallucination", "self_knowledge")
    assert sum(found[name] for name in parts) == pytest.approx(1)
    # And every claim is right, or wrong and from nowhere, or wrong and from a passage of either kind.
    wrong = ("hallucination", "noise_sensitivity_in_relevant", "noise_sensitivity_in_irrelevant")
    assert found["precision"] + sum(found[name] for name in wrong) == pytest.approx(1)


@given(some_labels(), st.data())
def test_the_order_of_claims_and_passages_does_not_matter(
    given_: ClaimLabels, data: st.DataObject
) -> None:
    rows = (*given_.answer_by_context, *given_.gold_by_context)
    answer = data.draw(st.permutations(range(len(given_.answer_claims))))
    gold = data.draw(st.permutations(range(len(given_.gold_claims))))
    passages = data.draw(st.permutations(range(len(rows[0]) if rows else 0)))
    mixed = ClaimLabels(
        answer_claims=tuple(given_.answer_claims[n] for n in answer),
        gold_claims=tuple(given_.gold_claims[n] for n in gold),
        answer_by_gold=tuple(given_.answer_by_gold[n] for n in answer),
        gold_by_answer=tuple(given_.gold_by_answer[n] for n in gold),
        answer_by_context=tuple(
            tuple(given_.answer_by_context[n][p] for p in passages) for n in answer
        ),
        gold_by_context=tuple(tuple(given_.gold_by_context[n][p] for p in passages) for n in gold),
    )

    assert metrics(mixed) == metrics(given_)


@given(some_labels())
def test_a_contradicted_claim_counts_as_one_that_nothing_is_said_of(given_: ClaimLabels) -> None:
    def milder(row: tuple[Label, ...]) -> tuple[Label, ...]:
        return tuple(NO if label == AGAINST else label for label in row)

    assert metrics(given_) == metrics(
        replace(
            given_,
            answer_by_gold=milder(given_.answer_by_gold),
            gold_by_answer=milder(given_.gold_by_answer),
            answer_by_context=tuple(map(milder, given_.answer_by_context)),
            gold_by_context=tuple(map(milder, given_.gold_by_context)),
        )
    )


@given(some_labels(least_claims=1), st.data())
def test_a_claim_more_that_is_right_or_covered_never_costs(
    given_: ClaimLabels, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(given_.answer_claims) - 1))
    of = data.draw(st.integers(0, len(given_.gold_claims) - 1))
    righter = metrics(replace(given_, answer_by_gold=_with(given_.answer_by_gold, at)))
    fuller = metrics(replace(given_, gold_by_answer=_with(given_.gold_by_answer, of)))
    before = metrics(given_)

    for name in ("precision", "f1", "self_knowledge"):
        assert righter[name] >= before[name]
    for name in (
        "hallucination",
        "noise_sensitivity_in_relevant",
        "noise_sensitivity_in_irrelevant",
    ):
        assert righter[name] <= before[name]
    for name in ("recall", "f1", "context_utilization"):
        assert fuller[name] >= before[name]


@given(some_labels(least_claims=1, least_passages=1), st.data())
def test_a_passage_that_bears_out_one_claim_more_never_costs(
    given_: ClaimLabels, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(given_.answer_claims) - 1))
    of = data.draw(st.integers(0, len(given_.gold_claims) - 1))
    passage = data.draw(st.integers(0, len(given_.gold_by_context[0]) - 1))
    held = list(given_.answer_by_context)
    held[at] = _with(held[at], passage)
    found = list(given_.gold_by_context)
    found[of] = _with(found[of], passage)
    answer = metrics(replace(given_, answer_by_context=tuple(held)))
    gold = metrics(replace(given_, gold_by_context=tuple(found)))
    before = metrics(given_)

    assert answer["faithfulness"] >= before["faithfulness"]
    assert answer["hallucination"] <= before["hallucination"]
    assert answer["self_knowledge"] <= before["self_knowledge"]
    assert gold["claim_recall"] >= before["claim_recall"]
    assert gold["context_precision"] >= before["context_precision"]


@given(some_labels(least_claims=1, least_passages=1))
def test_a_useless_passage_more_costs_context_precision_alone(given_: ClaimLabels) -> None:
    more = metrics(
        replace(
            given_,
            answer_by_context=tuple((*row, NO) for row in given_.answer_by_context),
            gold_by_context=tuple((*row, NO) for row in given_.gold_by_context),
        )
    )
    before = metrics(given_)
    passages = len(given_.gold_by_context[0])

    share = before["context_precision"] * passages / (passages + 1)
    assert more == before | {"context_precision": pytest.approx(share)}


def _with(row: tuple[Label, ...], at: int) -> tuple[Label, ...]:
    return (*row[:at], YES, *row[at + 1 :])


# -- refusals -----------------------------------------------------------------------------------------

GOOD = labels([YES, NO], [YES], [[YES, NO], [NO, NO]], [[YES, NO]])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, answer_by_gold=(YES,)), "answer_by_gold has 1 labels or rows for 2 claims"),
        (replace(GOOD, gold_by_answer=()), "gold_by_answer has 0 labels or rows for 1 claims"),
        (replace(GOOD, answer_by_context=((YES, NO),)), "answer_by_context has 1 .* for 2 claims"),
        (replace(GOOD, gold_by_context=()), "gold_by_context has 0 .* for 1 claims"),
        (replace(GOOD, gold_by_context=((YES,),)), "rows of labels are for 1 passages and for 2"),
        (replace(GOOD, answer_by_context=((YES, NO), (NO,))), "for 1 passages and for 2"),
        (labels(["Entailed"], [], [[]], []), "'Entailed' is no label; use one of Contra"),  # type: ignore[list-item]
        (labels([YES], [], [["?"]], []), "'\\?' is no label"),  # type: ignore[list-item]
    ],
)
def test_labels_that_do_not_fit_are_refused(bad: ClaimLabels, reason: str) -> None:
    assert metrics(GOOD)["precision"] == 0.5
    with pytest.raises(UsageError, match=reason):
        metrics(bad)

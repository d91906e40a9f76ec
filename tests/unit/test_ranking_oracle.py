"""Retrieval metrics against trec_eval itself, on random runs with ties and on Cranfield's judgements."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from ragline.core.ranking import ordered, retrieval

CRANFIELD = Path(__file__).parents[3] / "shared/data/cranfield/cranqrel"
DOCUMENTS = 1400
SIZES = (1, 3, 10)
AS_THERE = {
    "recall": "recall_{}",
    "hit": "success_{}",
    "precision": "P_{}",
    "map": "map_cut_{}",
    "ndcg": "ndcg_cut_{}",
}
Run = Mapping[str, Mapping[str, float]]
Judgements = Mapping[str, Mapping[str, int]]

ids = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs", "Z", "Cc"]), min_size=1)
documents = st.sampled_from([f"d{n}" for n in range(12)])
# The same in single precision, but for the last.
almost_one = st.sampled_from([1.0, 1 + 1e-9, 1 - 1e-9, 1 + 1e-6])


def trec_eval(k: int, judgements: Judgements, run: Run) -> dict[str, dict[str, float]]:
    """Return its values by question, under our names."""
    names = {f"{name}.{k}" for name in ("recall", "success", "P", "map_cut", "ndcg_cut")}
    cut = {q: {one: scores[one] for one in ordered(scores)[:k]} for q, scores in run.items()}
    found = pytrec_eval.RelevanceEvaluator(judgements, names).evaluate(run)
    # It has no reciprocal rank at k: that of a run which ends there.
    first = pytrec_eval.RelevanceEvaluator(judgements, {"recip_rank"}).evaluate(cut)
    return {
        question: {f"{ours}@{k}": values[its.format(k)] for ours, its in AS_THERE.items()}
        | {f"mrr@{k}": first[question]["recip_rank"]}
        for question, values in found.items()
    }


def assert_the_same(judgements: Judgements, run: Run) -> None:
    for k in SIZES:
        theirs = trec_eval(k, judgements, run)
        assert set(theirs) == set(judgements)
        for question, scores in run.items():
            ours = retrieval(k, ordered(scores), judgements[question])
            assert ours == pytest.approx(theirs[question], abs=1e-9, rel=0)


@given(
    st.dictionaries(documents, st.integers(-2, 4)).filter(
        lambda grades: any(grade >= 1 for grade in grades.values())
    ),
    st.dictionaries(documents, st.integers(0, 3) | st.floats(-1e9, 1e9) | almost_one),
)
def test_random_runs_with_ties_have_its_values(
    grades: dict[str, int], scores: dict[str, float]
) -> None:
    assert_the_same({"q": grades}, {"q": scores})


@given(st.lists(ids, min_size=2, max_size=8, unique=True), st.data())
def test_ids_of_any_letters_tie_as_there(names: list[str], data: st.DataObject) -> None:
    scores = {name: data.draw(st.floats(0, 2, width=16)) for name in names}

    assert_the_same({"q": {names[0]: 1, names[1]: 3}}, {"q": scores})


@pytest.fixture(scope="module")
def cranfield() -> Judgements:
    """Grades of Cranfield's documents by question: its best code is 1, and -1 is not relevant."""
    if not CRANFIELD.is_file():
        pytest.skip(f"not run: there is no {CRANFIELD.parent.name}/{CRANFIELD.name}")
    found: dict[str, dict[str, int]] = {}
    for line in CRANFIELD.read_text().splitlines():
        question, document, code = line.split()
        found.setdefault(question, {})[document] = 5 - int(code) if int(code) > 0 else 0
    return found


def test_all_questions_of_cranfield_have_its_values(cranfield: Judgements) -> None:
    draw = random.Random(4)

    def scores(grades: Mapping[str, int]) -> dict[str, float]:
        # About half of the relevant ones among thirty others, and scores coarse enough for ties.
        known = [one for one in grades if draw.random() < 0.5]
        others = [str(draw.randint(1, DOCUMENTS)) for _ in range(30)]
        return {one: draw.randint(0, 12) + grades.get(one, 0) for one in [*known, *others]}

    run = {question: scores(grades) for question, grades in cranfield.items()}

    assert len(run) == 225
    assert_the_same(cranfield, run)
    values = [retrieval(10, ordered(run[q]), cranfield[q])["ndcg@10"] for q in run]
    assert 0.1 < sum(values) / len(values) < 0.9


def test_cranfield_with_codes_as_binary_relevance_has_its_values(cranfield: Judgements) -> None:
    binary = {
        question: {document: int(grade >= 1) for document, grade in grades.items()}
        for question, grades in cranfield.items()
    }
    draw = random.Random(5)
    run = {
        question: {str(number): draw.random() + grades.get(str(number), 0) * draw.random() * 2
                   for number in draw.sample(range(1, DOCUMENTS + 1), 400)}
        for question, grades in binary.items()
    }  # fmt: skip

    assert_the_same(binary, run)

"""SQuAD's measures as the benchmark computes them, against examples worked by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def squad(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("squad")


def test_answers_are_compared_without_case_punctuation_articles_and_spaces(
    squad: ModuleType,
) -> None:
    assert squad.normalised(" The  Norse-men,  a tribe. ") == "norsemen tribe"
    assert squad.exact_match("the Normans!", ("Danes", "normans")) == 1
    assert squad.exact_match("Normans and Danes", ("normans",)) == 0


def test_without_a_gold_answer_only_silence_is_right(squad: ModuleType) -> None:
    assert (squad.exact_match("", ()), squad.f1("", ())) == (1, 1)
    assert (squad.exact_match("x", ()), squad.f1("x", ())) == (0, 0)
    assert (squad.exact_match("", ("x",)), squad.f1("", ("x",))) == (0, 0)


def test_f1_is_of_words_counted_as_often_as_they_stand(squad: ModuleType) -> None:
    # "b b c" against "b c d": two words in common, three on each side.
    assert squad.f1("b b c", ("b c d",)) == pytest.approx(2 / 3)
    assert squad.f1("in the 10th century", ("century", "10th century")) == pytest.approx(4 / 5)


def test_the_area_counts_ties_as_half(squad: ModuleType) -> None:
    scores, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])

    assert squad.auc(scores, positive, np.ones(4)) == pytest.approx(3.5 / 4)
    # A case that was drawn twice counts twice.
    assert squad.auc(scores, positive, np.array([1.0, 2.0, 1.0, 1.0])) == pytest.approx(5 / 6)


def test_halves_share_no_article_and_lose_no_case(squad: ModuleType) -> None:
    cases = [
        squad.Case(question=f"{n}", paragraph=f"{n % 7}/{n}", article=f"{n % 7}", golds=())
        for n in range(50)
    ]

    one, other = squad._halves(cases)

    assert {c.article for c in one}.isdisjoint(c.article for c in other)
    assert sorted(c.question for c in (*one, *other)) == sorted(c.question for c in cases)

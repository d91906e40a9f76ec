"""How the benchmark on SQuAD divides its cases and measures confidence, by hand."""

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

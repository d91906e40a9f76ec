"""What a run's cases amount to, worked out by hand."""

from __future__ import annotations

from ragline.core.cases import Case
from ragline.core.runs import CaseError, CaseResult, Figure, Spent
from ragline.evals import summary

ANSWERABLE = {f"a{n}": Case(id=f"a{n}", question="Which?", answer="red") for n in range(2)}
NOT = {f"u{n}": Case(id=f"u{n}", question="Who?", is_answerable=False) for n in range(3)}
CASES = {**ANSWERABLE, **NOT}


def abstention(found: dict[str, bool | None]) -> dict[str, Figure]:
    """The figures of declining, from whether each case that the run came to was answered."""
    results = [
        CaseResult(case_id=case_id, ordinal=ordinal, found=one)
        for ordinal, (case_id, one) in enumerate(found.items())
    ]
    figures = summary.figures(CASES, results, {}, seconds=1.0, spent=Spent())
    return {name: one for name, one in figures.items() if name.startswith("abstention")}


def test_declining_is_measured_over_the_cases_that_say_whether_they_were_answered() -> None:
    said = dict.fromkeys(ANSWERABLE, True) | {"u0": False, "u1": False, "u2": True}

    assert abstention({**said, "a1": False}) == {
        "abstention_precision": Figure(value=2 / 3, n=3),
        "abstention_recall": Figure(value=2 / 3, n=3),
    }


def test_cases_that_failed_or_were_not_come_to_are_missing() -> None:
    assert abstention({"a0": False, "u0": False, "u1": None}) == {
        "abstention_precision": Figure(value=0.5, n=2, missing=3),
        "abstention_recall": Figure(value=1.0, n=1, missing=2),
    }


def test_a_metric_that_a_whole_case_does_not_have_is_not_missing() -> None:
    failed = (CaseError(phase="judge", kind="ModelUnavailable", message="gone"),)
    results = [
        CaseResult(case_id="a0", ordinal=0, metrics={"rows": 1.0, "ann_recall@3": 1.0}),
        # Nothing was there to be found.
        CaseResult(case_id="a1", ordinal=1, metrics={"rows": 0.0}),
        CaseResult(case_id="u0", ordinal=2, metrics={"rows": 0.5}, errors=failed),
    ]
    expected = dict.fromkeys(CASES, ("rows", "ann_recall@3"))

    figures = summary.figures(CASES, results, expected, seconds=1.0, spent=Spent())

    assert figures["rows"] == Figure(value=0.5, n=3, missing=2)
    assert figures["ann_recall@3"] == Figure(value=1.0, n=1, missing=3)


def test_where_nothing_was_declined_there_is_no_precision() -> None:
    assert abstention(dict.fromkeys(CASES, True)) == {
        "abstention_recall": Figure(value=0.0, n=3),
    }


def test_where_everything_is_answerable_declining_is_not_measured() -> None:
    assert abstention(dict.fromkeys(ANSWERABLE, False)) == {}

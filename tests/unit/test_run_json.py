"""Runs as JSON: what goes in comes out, and what does not fit is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import run_json
from ragline.core.claims import ClaimLabels, Label
from ragline.core.results import Method
from ragline.core.runs import (
    AnswerKind,
    CaseError,
    CaseResult,
    ContextKind,
    Figure,
    JudgeKind,
    Match,
    Run,
    RunHit,
    Settings,
    Spent,
    State,
)
from ragline.errors import UsageError

# Every character there is, halves of pairs and NUL among them.
texts = st.text(st.characters(), max_size=8)
whole = st.integers(-(2**63), 2**63)
numbers = st.floats(allow_nan=False, allow_infinity=False)
by_name = st.dictionaries(texts, numbers, max_size=3)
labels = st.sampled_from(get_args(Label))
claims = st.lists(st.lists(texts, max_size=3).map(tuple), max_size=3).map(tuple)
rows = st.lists(labels, max_size=3).map(tuple)


def words(kind: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(kind))


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


settings = st.builds(
    Settings,
    collections=many(texts),
    k=whole,
    method=words(Method),
    ef_search=st.none() | whole,
    exact=st.booleans(),
    filter=st.none() | texts,
    answers=words(AnswerKind),
    judge=words(JudgeKind),
    contexts=words(ContextKind),
    match=words(Match),
    against_exact=st.booleans(),
    seed=whole,
)
claim_labels = st.builds(
    ClaimLabels,
    answer_claims=claims,
    gold_claims=claims,
    answer_by_gold=rows,
    gold_by_answer=rows,
    answer_by_context=many(rows),
    gold_by_context=many(rows),
)
spent = st.builds(
    Spent,
    calls=whole,
    input_tokens=st.none() | whole,
    output_tokens=st.none() | whole,
    cost_micro_usd=st.none() | whole,
)
results = st.builds(
    CaseResult,
    case_id=texts,
    ordinal=whole,
    hits=many(
        st.builds(RunHit, collection=texts, chunk_id=whole, source=texts, hash=texts, score=numbers)
    ),
    contexts=many(texts),
    answer=st.none() | texts,
    found=st.none() | st.booleans(),
    labels=st.none() | claim_labels,
    metrics=by_name,
    errors=many(st.builds(CaseError, phase=texts, kind=texts, message=texts, exit_code=whole)),
    warnings=many(texts),
    phases_ms=by_name,
    total_ms=numbers,
    spent=spent,
    reuse_key=st.none() | texts,
    is_reused=st.booleans(),
)
values = st.recursive(
    st.none() | st.booleans() | whole | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
counts = st.dictionaries(texts, whole, max_size=3)
runs = st.builds(
    Run,
    id=whole,
    name=texts,
    dataset=texts,
    dataset_hash=texts,
    state=words(State),
    settings=settings,
    judge_id=st.none() | texts,
    provenance=st.dictionaries(texts, values, max_size=3),
    cases=whole,
    done=whole,
    failed=whole,
    reused=whole,
    metrics=st.dictionaries(
        texts, st.builds(Figure, value=numbers, n=whole, missing=whole), max_size=3
    ),
    errors=counts,
    phases_ms=by_name,
    spent=spent,
    cache=counts,
    warnings=many(texts),
    started_at=texts,
    seconds=numbers,
)


def through_text(value: object) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@given(settings)
def test_settings_come_back(value: Settings) -> None:
    packed = through_text(run_json.plain(value))
    assert run_json.from_json(Settings, packed, "settings") == value


@given(results)
def test_case_comes_back(value: CaseResult) -> None:
    found = run_json.from_json(CaseResult, through_text(run_json.result_to_json(value)), "case")
    assert found == value
    assert list(found.metrics) == list(value.metrics)


@given(runs)
def test_run_comes_back(value: Run) -> None:
    found = run_json.from_json(Run, through_text(run_json.run_to_json(value)), "run")
    assert found == value
    assert list(found.provenance) == list(value.provenance)


@given(values)
def test_plain_values_stay_as_they_are(value: object) -> None:
    assert run_json.plain(value) == value


SETTINGS = Settings(collections=("kb",))
RESULT = CaseResult(case_id="q", ordinal=0, hits=(
    RunHit(collection="kb", chunk_id=1, source="s", hash="h", score=0.5),
))  # fmt: skip
RUN = Run(
    id=1, name="r", dataset="d", dataset_hash="h", state="complete", settings=SETTINGS,
    judge_id=None, provenance={}, cases=1, done=1, failed=0, reused=0,
    metrics={"f1": Figure(value=0.5, n=1)}, errors={}, phases_ms={}, spent=Spent(), cache={},
    warnings=(), started_at="2026-01-01T00:00:00+00:00", seconds=1.0,
)  # fmt: skip


def test_mappings_and_sequences_of_any_kind_are_written() -> None:
    result = replace(RESULT, metrics=MappingProxyType({"f1": 1.0}))
    assert run_json.result_to_json(result)["metrics"] == {"f1": 1.0}
    assert run_json.plain(((1, 2), [3])) == [[1, 2], [3]]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_refused_with_their_place(number: float) -> None:
    with pytest.raises(UsageError, match=r"^case q\.metrics\.f1 is (nan|-?inf), which is not a"):
        run_json.result_to_json(replace(RESULT, metrics={"f1": number}))
    with pytest.raises(UsageError, match=r"^run r\.provenance\.a\[1\] is"):
        run_json.run_to_json(replace(RUN, provenance={"a": [0, number]}))
    packed = run_json.run_to_json(RUN)
    with pytest.raises(UsageError, match=r"^run\.seconds is (nan|-?inf), not a finite number"):
        run_json.from_json(Run, {**packed, "seconds": number}, "run")


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), Run, {1: 2}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"^here (is a|has the key)"):
        run_json.plain(value, "here")


def test_whole_numbers_are_read_as_measures() -> None:
    read = run_json.from_json(Run, {**run_json.run_to_json(RUN), "seconds": 2}, "run")
    assert (read.seconds, type(read.seconds)) == (2.0, float)


def test_what_is_absent_has_its_default() -> None:
    assert run_json.from_json(Settings, {"collections": ["kb"]}, "settings") == SETTINGS
    case = run_json.from_json(CaseResult, {"case_id": "q", "ordinal": 0}, "case")
    assert case == replace(RESULT, hits=())


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, r"settings lacks 'collections'"),
        ([], r"settings is \[\], not an object"),
        ({"collections": "kb"}, r"settings\.collections is 'kb', not a list"),
        ({"collections": [1]}, r"settings\.collections\[0\] is 1, not a text"),
        ({"collections": [], "k": 1.5}, r"settings\.k is 1\.5, not a whole number"),
        ({"collections": [], "k": True}, r"settings\.k is True, not a whole number"),
        ({"collections": [], "exact": 0}, r"settings\.exact is 0, not true or false"),
        ({"collections": [], "method": "x"}, r"settings\.method is 'x', not one of hybrid, vec"),
        ({"collections": [], "method": []}, r"settings\.method is \[\], not one of"),
        ({"collections": [], "depth": 1}, r"settings has 'depth', which this ragline does not"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(given_: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_json.from_json(Settings, given_, "settings")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"f1": "0.5"}}, r"case\.metrics\.f1 is '0\.5', not a number"),
        ({"metrics": {"f1": True}}, r"case\.metrics\.f1 is True, not a number"),
        ({"metrics": {"f1": 10**400}}, r"case\.metrics\.f1 is 1000.*…, not a number that a float"),
        ({"metrics": [1]}, r"case\.metrics is \[1\], not an object"),
        ({"hits": [{"collection": "kb"}]}, r"case\.hits\[0\] lacks 'chunk_id', 'hash', 'score'"),
        ({"labels": {"answer_by_gold": ["Maybe"]}}, r"Maybe"),
        ({"errors": [{"phase": "x", "kind": "y"}]}, r"case\.errors\[0\] lacks 'message'"),
    ],
)
def test_case_that_does_not_fit_is_refused_by_name(change: Mapping[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_json.from_json(CaseResult, {"case_id": "q", "ordinal": 0, **change}, "case")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Settings, run_json.plain(SETTINGS)),
        (CaseResult, run_json.result_to_json(RESULT)),
        (Run, run_json.run_to_json(RUN)),
    ],
)
def test_every_field_is_written_and_read(kind: type[Any], value: dict[str, Any]) -> None:
    assert list(value) == [field.name for field in fields(kind)]
    run_json.from_json(kind, value, "it")
    for name in value:
        with pytest.raises(UsageError, match=name):
            run_json.from_json(kind, {**value, name: object()}, "it")

"""Filters as values: what they refuse, what they mean, and that every way of writing them agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from made_filters import documents, filters, keys, numbers, texts
from ragline.core.filters import (
    DEEPEST,
    JSON_SCHEMA,
    LARGEST_EXPONENT,
    LONGEST_VALUE_BYTES,
    MOST_NODES,
    MOST_VALUES,
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    from_json,
    from_text,
    matches,
    to_json,
    to_text,
)
from ragline.errors import UsageError

A, B, C = Exists("a"), Exists("b"), Exists("c")
_SCHEMA = jsonschema_rs.validator_for(JSON_SCHEMA)


@given(filters)
def test_text_says_the_filter(filter_: Filter) -> None:
    assert from_text(to_text(filter_)) == filter_
    assert "\n" not in to_text(filter_)


@given(filters)
def test_json_says_the_filter_over_the_wire(filter_: Filter) -> None:
    assert from_json(json.loads(json.dumps(to_json(filter_)))) == filter_


@given(filters, documents)
def test_filter_means_the_same_however_it_was_written(
    filter_: Filter, metadata: dict[str, Any]
) -> None:
    expected = matches(filter_, metadata)
    assert matches(from_text(to_text(filter_)), metadata) == expected
    assert matches(from_json(to_json(filter_)), metadata) == expected


@given(filters, filters, documents)
def test_joints_mean_what_they_mean_in_logic(
    one: Filter, other: Filter, metadata: dict[str, Any]
) -> None:
    first, second = matches(one, metadata), matches(other, metadata)
    assert matches(And((one, other)), metadata) == (first and second)
    assert matches(Or((one, other)), metadata) == (first or second)
    assert matches(Not(one), metadata) == (not first)
    de_morgan = And((Not(one), Not(other)))
    assert matches(Not(Or((one, other))), metadata) == matches(de_morgan, metadata)


@given(keys, texts | numbers, documents)
def test_a_value_is_before_equal_or_after_or_of_another_type(
    key: str, value: Any, metadata: dict[str, Any]
) -> None:
    holds = [matches(Compare(key, op, value), metadata) for op in ("lt", "eq", "gt")]
    is_same_type = key in metadata and (
        isinstance(metadata[key], str)
        if isinstance(value, str)
        else isinstance(metadata[key], int | float | Decimal)
        and not isinstance(metadata[key], bool)
    )
    assert sum(holds) == is_same_type
    assert matches(Compare(key, "le", value), metadata) == (holds[0] or holds[1])
    assert matches(Compare(key, "ge", value), metadata) == (holds[1] or holds[2])
    exists = matches(Exists(key), metadata)
    assert matches(Compare(key, "ne", value), metadata) == (exists and not holds[1])
    assert matches(In(key, (value,)), metadata) == holds[1]


@given(st.text())
@example("a = 'x" + "\\" * 99)
@example("(" * 1000)
@example("not " * 1000)
@example("a in [" + "1," * 5000)
@example("a = " + "9" * 5000)
@example("a = 1e9999999999")
@example("a = 0." + "0" * 5000 + "1")
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        filter_ = from_text(text)
    except UsageError:
        return
    assert from_text(to_text(filter_)) == filter_


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["and", "or", "not", "key", "op", "value", "values", "decimal", "x"])
            | st.text(max_size=2),
            inner | st.sampled_from(["eq", "in", "exists", "a", "1e5"]),
            max_size=3,
        )
    ),
)


@given(_json)
def test_any_json_is_a_filter_or_refused(value: object) -> None:
    try:
        filter_ = from_json(value)
    except UsageError:
        return
    assert from_json(to_json(filter_)) == filter_


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a exists and b exists or c exists", Or((And((A, B)), C))),
        ("a exists and (b exists or c exists)", And((A, Or((B, C))))),
        ("not a exists and b exists", And((Not(A), B))),
        ("not (a exists and b exists)", Not(And((A, B)))),
        ("NOT NOT a EXISTS", Not(Not(A))),
        ("((a exists))", A),
        ("a exists and b exists and c exists", And((A, B, C))),
        ('lang="en"', Compare("lang", "eq", "en")),
        ("lang != 'it\\'s'", Compare("lang", "ne", "it's")),
        ('lang = "\\u00e9\\n\\ud83d\\ude00"', Compare("lang", "eq", "é\n😀")),
        ("year>=2020", Compare("year", "ge", 2020)),
        ("year < -1.50e2", Compare("year", "lt", -150)),
        ("n = 0.1", Compare("n", "eq", Decimal("0.1"))),
        ("a in [1, 'x', true, null]", In("a", (1, "x", True, None))),
        ("a in []", In("a", ())),
        ("tags contains 1", Contains("tags", 1)),
        ("`published at` < '2024-05'", Compare("published at", "lt", "2024-05")),
        ('"and" = 1', Compare("and", "eq", 1)),
        ('`a\\`b"c` = 1', Compare('a`b"c', "eq", 1)),
        ("dc.title-x = NULL", Compare("dc.title-x", "eq", None)),
        ("năm_2 = True", Compare("năm_2", "eq", True)),
        ('"" exists', Exists("")),
    ],
)
def test_text_is_read_as(text: str, expected: Filter) -> None:
    assert from_text(text) == expected


@pytest.mark.parametrize(
    ("text", "character", "why"),
    [
        ("", 1, "expected a key"),
        ("a", 2, "expected an operator"),
        ("a =", 4, "expected a value"),
        ("a = b", 5, "expected a value"),
        ("a like 'x'", 3, "expected an operator"),
        ("a == 1", 4, "expected a value"),
        ("(a = 1", 7, r"`and`, `or` or `\)`, and the text ends"),
        ("a = 1)", 6, "expected `and`, `or` or the end"),
        ("a = 1 b = 2", 7, "expected `and`, `or` or the end"),
        ("a in 1", 6, "expected a list"),
        ("a in [1", 8, "expected `,` or `]`"),
        ("a in [1,]", 9, "expected a value"),
        ("a in (1)", 6, "expected a list"),
        ("a = 'x", 5, "never closed"),
        ("'a' = 1", 1, "expected a key"),
        ("and = 1", 1, "expected a key"),
        ("a = `x`", 5, "expected a value"),
        ("a = 'x\\q'", 7, "means nothing"),
        ("a = 020", 5, "expected a value"),
        ("a = 1; drop table document", 6, "expected `and`, `or` or the end"),
        ("b = 1 or a < true", 10, "no before and after"),
        ("a = 1e9999", 1, "more than 1000 digits"),
        ("a = '\\u0000'", 1, "NUL"),
        ("a = '\\ud800'", 1, "lone surrogate"),
        ("(" * 51, 52, "inside each other"),
    ],
)
def test_refusal_of_a_text_says_where_and_why(text: str, character: int, why: str) -> None:
    with pytest.raises(UsageError, match=f"^filter, character {character}: .*{why}"):
        from_text(text)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "filter: null is not a filter"),
        ("a = 1", "filter: a text is not a filter"),
        ([], "filter: an empty list is not a filter"),
        ({}, 'filter: a filter has "key" and "op"'),
        ({"key": "a", "op": "like", "value": 1}, "filter.op: 'like' is not one of eq, ne"),
        ({"key": "a", "op": ["eq"], "value": 1}, "filter.op: "),
        ({"key": "a", "op": "eq"}, 'filter: operator "eq" needs "value"'),
        ({"key": "a", "op": "in", "value": [1]}, "filter: 'value' does not belong"),
        ({"key": "a", "op": "in", "values": "x"}, 'filter: "values" is a text'),
        ({"key": "a", "op": "exists", "value": 1}, "filter: 'value' does not belong"),
        ({"key": 1, "op": "exists"}, "filter: 1 is not a key"),
        ({"and": []}, "filter.and: an empty list"),
        ({"and": [1], "or": [1]}, "filter: 'or' does not belong"),
        ({"and": [to_json(A), {"or": [to_json(A), 5]}]}, r"filter.and[1].or[1]: a number is not"),
        ({"not": {"key": "a", "op": "eq", "value": [1]}}, "filter.not: [1] cannot be compared"),
        ({"key": "a", "op": "eq", "value": {"decimal": "1.x"}}, "filter: '1.x' is not a number"),
        ({"key": "a", "op": "eq", "value": float("nan")}, "filter: NaN is not a number"),
        ({"key": "a", "op": "lt", "value": None}, "filter: null has no before"),
    ],
)
def test_refusal_of_json_says_where_and_why(value: object, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        from_json(value)
    assert str(refused.value).startswith(why)


# Untyped, to hand over what a type checker would refuse.
_compare: Any = Compare
_contains: Any = Contains
_exists: Any = Exists
_in: Any = In
_and: Any = And
_or: Any = Or
_not: Any = Not


@pytest.mark.parametrize(
    "make",
    [
        lambda: _compare("a", "eq", "x\0"),
        lambda: _compare("a\0", "eq", "x"),
        lambda: _exists("\ud800"),
        lambda: _contains("a", "\udfff"),
        lambda: _compare("a", "eq", float("nan")),
        lambda: _compare("a", "eq", float("-inf")),
        lambda: _compare("a", "eq", Decimal("sNaN")),
        lambda: _compare("a", "eq", 10**LARGEST_EXPONENT),
        lambda: _compare("a", "eq", 10**10_000),
        lambda: _compare("a", "eq", Decimal("1e1000")),
        lambda: _compare("a", "eq", Decimal("1e-1001")),
        lambda: _compare("a", "eq", Decimal("0e99999")),
        lambda: _compare("a", "eq", "é" * (LONGEST_VALUE_BYTES // 2 + 1)),
        lambda: _exists("k" * (LONGEST_VALUE_BYTES + 1)),
        lambda: _compare("a", "eq", ["x"]),
        lambda: _compare("a", "eq", {"x": 1}),
        lambda: _compare("a", "eq", b"x"),
        lambda: _compare("a", "lt", True),
        lambda: _compare("a", "=", 1),
        lambda: _in("a", "abc"),
        lambda: _in("a", 1),
        lambda: _in("a", tuple(range(MOST_VALUES + 1))),
        lambda: _in("a", ("x" * 9000,) * 30),
        lambda: _and((A,)),
        lambda: _or(()),
        lambda: _and("ab"),
        lambda: _not("a exists"),
        lambda: _and((A,) * MOST_NODES),
        lambda: _or(tuple(_compare("a", "eq", "x" * 9000) for _ in range(30))),
    ],
)
def test_filter_is_refused(make: Callable[[], Filter]) -> None:
    with pytest.raises(UsageError):
        make()


def test_no_filter_is_deeper_than_the_limit_however_it_is_written() -> None:
    filter_: Filter = A
    for _ in range(DEEPEST - 1):
        filter_ = Not(filter_)
    assert from_text(to_text(filter_)) == from_json(to_json(filter_)) == filter_
    with pytest.raises(UsageError, match="deep"):
        Not(filter_)
    with pytest.raises(UsageError, match="deep"):
        from_json({"not": to_json(filter_)})
    with pytest.raises(UsageError, match="deep"):
        from_text(f"not {to_text(filter_)}")


def test_json_nested_beyond_recursion_is_refused() -> None:
    value: dict[str, Any] = to_json(A)
    for _ in range(100_000):
        value = {"not": value}
    with pytest.raises(UsageError, match="deep"):
        from_json(value)
    while "not" in value:  # freed from outside: the interpreter would do it by recursion
        value = value["not"]


def test_largest_filter_is_taken() -> None:
    parts = And(tuple(Compare("a", "ne", n) for n in range(MOST_NODES - 1)))
    assert from_text(to_text(parts)) == from_json(to_json(parts)) == parts
    largest = 10**LARGEST_EXPONENT - 1
    assert matches(Compare("a", "eq", largest), {"a": largest})


def test_true_is_not_one_and_filters_know_it() -> None:
    assert Compare("a", "eq", True) != Compare("a", "eq", 1)
    assert In("a", (True,)) != In("a", (1,))
    assert Contains("a", False) != Contains("a", 0)
    assert Compare("a", "eq", 1) == Compare("a", "eq", Decimal("1.0"))
    assert len({Compare("a", "eq", True), Compare("a", "eq", 1), Compare("a", "eq", "1")}) == 3


def test_numbers_and_texts_of_other_libraries_are_kept_as_our_own() -> None:
    class Lang(StrEnum):
        en = "en"

    assert Compare("a", "eq", Lang.en) == Compare("a", "eq", "en")
    assert type(Compare("a", "eq", Lang.en).value) is str
    half = Compare("a", "eq", np.float64(0.1))
    assert half == Compare("a", "eq", Decimal("0.1"))
    assert In("a", [1, 2]) == In("a", (1, 2))  # type: ignore[arg-type]


def test_one_part_in_json_stands_for_itself() -> None:
    assert from_json({"and": [to_json(A)]}) == from_json({"or": [to_json(A)]}) == A


def test_messages_hold_no_characters_that_a_terminal_would_obey() -> None:
    for text in ("a = \x1b[2J", "\x1b exists", "a\x07 = 1"):
        with pytest.raises(UsageError) as refused:
            from_text(text)
        assert str(refused.value).isprintable()


def test_schema_describes_what_is_read() -> None:
    jsonschema_rs.meta.validate(JSON_SCHEMA)
    for item in JSON_SCHEMA["examples"]:
        assert _SCHEMA.is_valid(item)
        from_json(item)
    wrong: list[dict[str, Any]] = [
        {},
        {"key": "a", "op": "like", "value": 1},
        {"and": []},
        {"key": "a", "op": "eq"},
    ]
    for value in wrong:
        assert not _SCHEMA.is_valid(value)
        with pytest.raises(UsageError):
            from_json(value)


@given(filters)
def test_schema_has_every_filter(filter_: Filter) -> None:
    assert _SCHEMA.is_valid(to_json(filter_))

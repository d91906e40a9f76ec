"""Filters of attached tables: they keep the rows whose metadata the same filter keeps in Python."""

# ruff: noqa: S608 -- the statements are made of the conditions that are tested

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import attached as tables
from attached import BIGINT, SHARED, UUID, Row, uuid_key
from conftest import connect, opened
from made_filters import documents, filters, scalars
from ragline.core import access
from ragline.core.access import Calibration, Level
from ragline.core.attached import Attached
from ragline.core.dsn import Dsn
from ragline.core.filters import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    from_text,
    matches,
)
from ragline.core.results import SearchResult
from ragline.db import attached_filters, attached_sql
from ragline.db.pool import quoted
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag.app import App
from ragline.rag.search import query, search_collections
from servers import own_database

Db = tables.Db
MODEL = FakeEmbedder(16)
# Every type that a filter column can have; the names meet those of keys in the metadata.
COLUMNS = {
    "a": "text",
    "b": "integer",
    "tags": "character varying(50)",
    "": "boolean",
    "a.b": "uuid",
    'say "it"': "double precision",
    "it's": "numeric",
    "$1": "bigint",
    "größe": "timestamp with time zone",
    "年": "text[]",
    "1": "character(3)",
    "true": "date",
}
TABLE = Attached(
    schema=tables.SCHEMA,
    table="filtered",
    key="key of it",
    key_type="bigint",
    text="text",
    embedding="embedding",
    is_typed=True,
    metadata="own",
    filters=tuple((name, type_) for name, type_ in COLUMNS.items() if name),
)
_NAMES = {name: f"c{n}" for n, name in enumerate(COLUMNS)}
_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0", max_codepoint=0x2FF)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "a": st.text(_characters, max_size=3) | st.sampled_from(["a", "A", "ab", "", "1"]),
    "b": st.integers(-3, 3),
    "tags": st.sampled_from(["a", "true", "null", "2024-05-01"]),
    "a.b": st.integers(0, 3).map(uuid_key),
    'say "it"': st.floats() | st.sampled_from([0.1, 1e300, -2.5]),
    "it's": st.sampled_from(["1", "1.0", "0.10", "NaN", "1e30", "-1", "0.1000000000000000000001"]),
    "$1": st.sampled_from([0, 1, 2**53 + 1, -(2**63), 2**63 - 1]),
    "größe": st.sampled_from(["2024-05-01 00:00+00", "2024-12-01 10:00+02", "infinity"]),
    "年": st.lists(st.sampled_from(["a", "b", "1"]), max_size=2).map(
        lambda some: "{" + ",".join(some) + "}"
    ),
    "1": st.sampled_from(["a", "ab", ""]),
    "true": st.sampled_from(["2024-05-01", "2020-12-31"]),
}
_row = st.fixed_dictionaries({}, optional={k: st.none() | v for k, v in _VALUES.items()})
_keys = st.sampled_from([*_VALUES, "free", "b2"])
_values = (
    scalars
    | st.sampled_from(["a", "2024-05-01", 1, 2**53 + 1, Decimal("0.1"), 1.0, "NaN", 10**30])
    | st.integers(0, 3).map(uuid_key)
)
_leaves: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, _keys, st.sampled_from(["eq", "ne"]), _values),
    st.builds(
        Compare,
        _keys,
        st.sampled_from(["lt", "le", "gt", "ge"]),
        _values.filter(lambda value: value is not None and not isinstance(value, bool)),
    ),
    st.builds(In, _keys, st.lists(_values, max_size=4).map(tuple)),
    st.builds(Contains, _keys, _values),
    st.builds(Exists, _keys),
)


def _around(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


_about_columns: st.SearchStrategy[Filter] = st.recursive(_leaves, _around, max_leaves=6)


@pytest.fixture(scope="module")
async def shared(template: Dsn) -> AsyncIterator[Db]:
    """One database for all tests of conditions."""
    async with own_database(template) as dsn:
        connection = await connect(dsn)
        await tables.make(connection, TABLE, 16)
        await connection.execute("create table plain (id bigint primary key, m jsonb, j json)")
        yield connection
        await connection.close()


def plain(metadata_type: str, column: str) -> Attached:
    return Attached(
        schema="ragline",
        table="plain",
        key="id",
        key_type="bigint",
        text="id",
        embedding="id",
        is_typed=True,
        metadata=column,
        metadata_type="json" if metadata_type == "json" else "jsonb",
    )


async def check(db: Db, attached: Attached, filter_: Filter) -> None:
    """Compare SQL with the oracle over what hits show, and what an index would find with what passes."""
    condition = attached_filters.where(filter_, attached, first=1, alias="e")
    shown = attached_filters.metadata(attached, "e")
    rows = await db.fetch(
        f"""
        select {shown}, ({condition.sql}), ({condition.lookup or "true"})
        from {attached_sql.table(attached)} e
        """,
        *condition.values,
    )
    for text, is_kept, is_looked_up in rows:
        metadata = json.loads(text, parse_float=Decimal)
        assert is_kept == matches(filter_, metadata), (metadata, condition)
        assert is_looked_up or not is_kept, (metadata, condition)


_PROPERTY = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_PROPERTY
@given(
    metadata=st.lists(documents, min_size=1, max_size=6),
    asked=st.lists(filters, min_size=1, max_size=8),
)
async def test_filters_of_metadata_keep_what_they_keep_in_python(
    shared: Db, metadata: list[dict[str, Any]], asked: list[Filter]
) -> None:
    await shared.execute("truncate plain")
    written = [json.dumps(item, default=str) for item in metadata]
    # Nothing, and what is no object, has no keys.
    written += ["null", "[]", '["a"]', '"a"', "1"]
    await shared.executemany(
        "insert into plain values ($1, $2::text::jsonb, $2::text::json)",
        [*enumerate(written), (-1, None)],
    )
    for filter_ in asked:
        await check(shared, plain("jsonb", "m"), filter_)
        await check(shared, plain("json", "j"), filter_)


@_PROPERTY
@given(
    rows=st.lists(st.tuples(_row, documents), min_size=1, max_size=6),
    asked=st.lists(_about_columns, min_size=1, max_size=10),
)
@example(
    rows=[
        ({"b": 1, "$1": 2**53 + 1, "a.b": uuid_key(1)}, {"b": "shadowed", "free": 1}),
        ({"a": "a", "b": None, "tags": "true"}, {"free": "a", "b2": None}),
        ({"a": None, "b": -1}, {"free": True}),
    ],
    asked=[
        *(Compare(key, op, "b") for key in ("a", "free") for op in ("lt", "ge", "ne")),
        *(Compare(key, op, 0) for key in ("b", "free") for op in ("lt", "ge", "ne")),
        *(In(key, ("a", True, None)) for key in ("a", "free", "b2")),
        *(In("b", some) for some in ((1, None), ("x", -1), (1, 0.5))),
        Or((Compare("a", "eq", "a"), Compare("b", "lt", 0), Contains("free", "a"))),
        Compare("b", "eq", "shadowed"),
        Compare("b", "le", 1),
        Compare("b", "eq", 10**30),
        In("$1", (2**53, 2**53 + 1)),
        In("a.b", (uuid_key(1), uuid_key(2))),
        Compare("a.b", "eq", uuid_key(1).upper()),
        Compare("a", "eq", None),
    ],
)
async def test_filters_of_columns_keep_what_they_keep_in_python(
    shared: Db, rows: list[tuple[dict[str, Any], dict[str, Any]]], asked: list[Filter]
) -> None:
    await shared.execute(f"truncate {attached_sql.table(TABLE)}")
    for key, (columns, metadata) in enumerate(rows):
        names = ", ".join(quoted(name) for name in columns)
        places = ", ".join(
            f"${n}::text::{COLUMNS[name]}" for n, name in enumerate(columns, start=3)
        )
        await shared.execute(
            f"""
            insert into {attached_sql.table(TABLE)} ("key of it", own{", " * bool(names)}{names})
            values ($1, $2::text::jsonb{", " * bool(places)}{places})
            """,
            key,
            json.dumps(metadata, default=str),
            *(None if value is None else str(value) for value in columns.values()),
        )
    for filter_ in asked:
        await check(shared, TABLE, filter_)


def test_text_of_a_condition_holds_nothing_that_a_user_said() -> None:
    asked = And((Compare("'; drop", "eq", "'; drop"), Not(In("x'; drop", ("'; drop", 1, None)))))
    condition = attached_filters.where(asked, UUID, first=3, alias="e")
    assert "drop" not in condition.sql
    assert condition.values == ("'; drop", "'; drop", "x'; drop", [1], ["'; drop"])
    assert "$3::" in condition.sql
    assert "$7::" in condition.sql


def test_a_key_that_no_row_can_have_is_missing_everywhere() -> None:
    bare = Attached(
        schema="s", table="t", key="k", key_type="uuid", text="x", embedding="v", is_typed=True
    )
    assert attached_filters.where(Exists("a"), bare, first=1, alias="e").sql == "false"
    missing = attached_filters.where(Not(Compare("a", "eq", 1)), bare, first=1, alias="e")
    assert (missing.sql, missing.values) == ("(not false)", ())


def _rows(count: int) -> list[Row]:
    generator = random.Random(3)
    words = ("ant", "bee", "cat", "dog", "eel", "fox")
    return [
        Row(
            key=str(n),
            text=" ".join(generator.choices(words, k=5)),
            metadata={"n": n, "color": generator.choice(["red", "green", "blue"])}
            | ({"few": True} if n % 500 == 0 else {}),
            lang=generator.choice(["en", "vi", None]),
            year=2000 + n % 25,
        )
        for n in range(1, count + 1)
    ]


async def _forced(db: Db, kind: access.AccessKind) -> None:
    """Have every filter be taken for a small, or for a large one, whatever it keeps."""
    measured = Calibration(
        exact_chunks=10**9 if kind == "exact" else 0,
        levels=(Level(share=0.001, ef_search=400, factor=4, recall=1, index_ms=1, exact_ms=1),),
        chunks=400,
    )
    await db.execute(
        """
        insert into search_calibration (space_id, exact_chunks, levels, chunks)
        select id, $1, $2::text::jsonb, 400 from embedding_space
        on conflict (space_id) do update set exact_chunks = $1, levels = $2::text::jsonb
        """,
        measured.exact_chunks,
        json.dumps(access.to_json(measured)),
    )


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    async with opened(own_dsn, tmp_path, MODEL) as app:
        yield app


async def _searched(app: App, text: str, **options: Any) -> SearchResult:
    app.known.clear()
    app.samples.clear()
    return await search_collections(app, query("ant fox", "kb", filter=text, k=20, **options))


FILTERS = (
    'lang = "en"',
    'lang = null and color = "red"',
    "year < 2003 or year > 2022",
    'not (color = "red") and lang in ["en", "vi"]',
    "n >= 100 and n < 104",
    'color = "violet"',
)


async def test_only_allowed_rows_are_found_whichever_way_they_are_reached(db: Db, app: App) -> None:
    rows = _rows(500)
    await tables.make(db, BIGINT, 16)
    await tables.fill(db, BIGINT, rows, MODEL)
    await tables.attach(db, BIGINT, MODEL)
    await tables.index(db, BIGINT, 16)
    await tables.index_words(db, BIGINT)
    shown = [{**(row.metadata or {}), "lang": row.lang, "year": row.year} for row in rows]
    for text in FILTERS:
        allowed = [
            row.key for row, one in zip(rows, shown, strict=True) if matches(from_text(text), one)
        ]
        truth = await _searched(app, text, method="vector", exact=True)
        assert len(truth.hits) == min(20, len(allowed))
        for kind in ("exact", "index"):
            await _forced(db, kind)
            for method in ("vector", "hybrid", "lexical"):
                result = await _searched(app, text, method=method)
                assert {hit.source for hit in result.hits} <= set(allowed)
                assert result.warnings == ()
                if method == "vector":
                    assert len(result.hits) == len(truth.hits)
                if method == "vector" and len(allowed) > 20:
                    assert result.used[0].access is not None
                    assert result.used[0].access.kind == kind
                if method == "vector" and kind == "exact":
                    assert [h.source for h in result.hits] == [h.source for h in truth.hits]
    assert app.counters["search_short_results"] == 0


async def test_an_index_of_the_owner_finds_the_few_that_a_filter_keeps(db: Db, app: App) -> None:
    await tables.make(db, BIGINT, 16)
    await tables.fill(db, BIGINT, _rows(3000), MODEL)
    await tables.attach(db, BIGINT, MODEL)
    await db.execute(
        "create index by_year on notes (year); create index by_json on notes using gin (metadata)"
    )
    await db.execute("set plan_cache_mode = force_generic_plan")
    for text, name in (
        ("n = 77", "by_json"),
        ("year = 2003 and n = 3", "by_"),
        ("few exists", "by_json"),
    ):
        condition = attached_filters.where(from_text(text), BIGINT, first=1, alias="e")
        sql = f"select 1 from notes e where {condition.sql} and {condition.lookup}"
        prepared = await db.prepare(f"explain {sql}")
        plan = "\n".join(row[0] for row in await prepared.fetch(*condition.values))
        assert name in plan, plan


async def test_filters_of_rows_shared_with_others(db: Db, app: App) -> None:
    rows = [
        Row(
            key=f"k{n}", text=f"ant {n}", metadata={"n": n}, part="ours" if n % 5 == 0 else "theirs"
        )
        for n in range(300)
    ]
    await tables.make(db, SHARED, 16)
    await tables.fill(db, SHARED, rows, MODEL)
    await tables.attach(db, SHARED, MODEL)
    await tables.index(db, SHARED, 16)
    for kind in ("exact", "index"):
        await _forced(db, kind)
        result = await _searched(app, "n < 50", method="vector")
        assert {hit.source for hit in result.hits} == {f"k{n}" for n in range(0, 50, 5)}

"""Filters in SQL: they keep what the same filter keeps in Python, and an index finds it."""

# ruff: noqa: S608 -- the statements are made of the conditions that are tested

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import connect
from made_filters import documents, filters
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
from ragline.db.filters import where
from ragline.db.migrations import VERSIONS
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
LONG = "w" * 200


@pytest.fixture(scope="module")
async def shared(template: Dsn) -> AsyncIterator[Db]:
    """One database for all tests that need no commit."""
    async with own_database(template) as dsn:
        connection = await connect(dsn)
        yield connection
        await connection.close()


@pytest.fixture
async def db(shared: Db) -> AsyncIterator[Db]:
    """A superuser's connection in a transaction that is rolled back."""
    transaction = shared.transaction()
    await transaction.start()
    yield shared
    await transaction.rollback()


@pytest.fixture
async def kb(db: Db) -> int:
    return await collection(db)


async def collection(db: Db, name: str = "kb") -> int:
    sql = (
        "insert into collection (name, chunk_size, chunk_overlap) values ($1, 256, 32) returning id"
    )
    id_: int = await db.fetchval(sql, name)
    return id_


async def add(db: Db, collection_id: int, metadata: Sequence[Mapping[str, Any]]) -> list[int]:
    """Write documents that are metadata only; return their ids, in order."""
    rows = await db.fetch(
        """
        insert into document (
            collection_id, source, media_type, body, content_hash, recipe, metadata
        )
        select $1, 's' || n, 'text/plain', 'b', sha256('b'), 'r', m::jsonb
        from unnest($2::text[]) with ordinality as given (m, n) order by n
        returning id
        """,
        collection_id,
        [written(item) for item in metadata],
    )
    return sorted(row[0] for row in rows)


def written(metadata: Mapping[str, Any]) -> str:
    """JSON with every digit of a Decimal, which `json.dumps` cannot write."""
    digits: dict[str, str] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Decimal):
            place = f"decimal {len(digits)} of the tests"
            digits[place] = str(value)
            return place
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(plain(metadata))
    for place, number in digits.items():
        text = text.replace(f'"{place}"', number)
    return text


async def found(db: Db, collection_id: int, filter: Filter) -> list[int]:  # noqa: A002
    """Return the documents that pass, looked up where an index can."""
    condition = where(filter, collection_id=collection_id, first=2)
    lookup = f"and ({condition.lookup})" if condition.lookup else ""
    rows = await db.fetch(
        f"select d.id from document d where d.collection_id = $1 and ({condition.sql}) {lookup} "
        "order by d.id",
        collection_id,
        *condition.values,
    )
    return [row[0] for row in rows]


async def _check(db: Db, kb: int, ids: Sequence[int], metadata: Any, filter: Filter) -> None:  # noqa: A002
    """Compare SQL with the oracle, and what the index finds with what passes."""
    condition = where(filter, collection_id=kb, first=1)
    rows = await db.fetch(
        f"""
        select d.id, ({condition.sql}), ({condition.lookup or "true"}),
               d.id in ({condition.ids or f"select id from document where collection_id = {kb}"})
        from document d where d.collection_id = {kb} order by d.id
        """,
        *condition.values,
    )
    expected = [matches(filter, item) for item in metadata]
    assert [(row[0], row[1]) for row in rows] == list(zip(ids, expected, strict=True))
    # A superset: what passes is found; and, where it says so, nothing else.
    wrong = [row[0] for row in rows if (row[1] and not row[2]) or row[2] != row[3]]
    if condition.is_exact:
        alone = f"select d.id from document d where d.collection_id = {kb} and ({condition.lookup})"
        kept = {row[0] for row in await db.fetch(alone, *condition.values)}
        wrong += [row[0] for row in rows if row[1] != (row[0] in kept)]
    assert wrong == [], condition.lookup
    if condition.ids:
        ids_alone = await db.fetch(condition.ids, *condition.values)
        assert {row[0] for row in ids_alone} == {row[0] for row in rows if row[3]}


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    metadata=st.lists(documents, min_size=1, max_size=8),
    asked=st.lists(filters, min_size=1, max_size=12),
)
@example(
    metadata=[{"a": LONG + "a"}, {"a": LONG + "b"}, {"a": LONG}, {"a": [LONG + "b"]}],
    asked=[
        Compare("a", "lt", LONG + "b"),
        Compare("a", "gt", LONG + "a"),
        In("a", (LONG + "b", 1)),
        Contains("a", "b"),
        Contains("a", LONG + "b"),
        And((Compare("a", "ge", LONG + "a"), Compare("a", "lt", LONG + "b"))),
    ],
)
@example(
    metadata=[{"a": n} for n in (10**400, 10**401, Decimal("1e-30"), Decimal("2e-30"), 0, 1e300)],
    asked=[
        *(Compare("a", op, n) for op in ("lt", "gt", "eq") for n in (10**400, Decimal("1e-30"))),
        In("a", (10**401, Decimal("2e-30"))),
    ],
)
async def test_filters_keep_what_the_same_filters_keep_in_python(
    db: Db, kb: int, metadata: list[dict[str, Any]], asked: list[Filter]
) -> None:
    savepoint = db.transaction()
    await savepoint.start()
    try:
        ids = await add(db, kb, metadata)
        for filter_ in asked:
            await _check(db, kb, ids, metadata, filter_)
    finally:
        await savepoint.rollback()


_METADATA: list[dict[str, Any]] = [
    {"lang": "en", "year": 2020, "tags": ["x", "y"], "draft": None},
    {"lang": "vi", "year": 2021.5, "tags": [], "title": "Nhà thầu"},
    {"lang": "en", "year": "2020", "tags": "x", "draft": True},
    {"lang": ["en"], "year": True, "tags": [1, ["x"], {"x": 1}, True, None]},
    {},
]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('lang = "en"', [0, 2]),
        ('lang != "en"', [1, 3]),
        ('not lang = "en"', [1, 3, 4]),
        ("year = 2020", [0]),
        ("year = 2020.0", [0]),
        ("year = '2020'", [2]),
        ("year = true", [3]),
        ("year >= 2020", [0, 1]),
        ("year > 2020 and year < 2022", [1]),
        ("year >= '2'", [2]),
        ("lang in ['vi', 'fr', 1]", [1]),
        ("year in [2020, '2020', true]", [0, 2, 3]),
        ("lang in []", []),
        ("not lang in []", [0, 1, 2, 3, 4]),
        ("tags contains 'x'", [0, 2]),
        ("tags contains 1", [3]),
        ("tags contains true", [3]),
        ("tags contains null", [3]),
        ("title contains 'thầu'", [1]),
        ("draft exists", [0, 2]),
        ("draft = null", [0]),
        ("draft != null", [2]),
        ("not draft exists", [1, 3, 4]),
        ("lang = 'en' and (year > 2000 or tags contains 'x') and not draft = null", [2]),
        ("nothing = 1 or title exists", [1]),
    ],
)
async def test_filter_keeps_these_documents(db: Db, kb: int, text: str, places: list[int]) -> None:
    ids = await add(db, kb, _METADATA)
    assert await found(db, kb, from_text(text)) == [ids[place] for place in places]
    await _check(db, kb, ids, _METADATA, from_text(text))


async def test_numbers_are_compared_with_all_their_digits(db: Db, kb: int) -> None:
    close = Decimal("0.1000000000000000000000000000001")
    ids = await add(db, kb, [{"n": 0.1}, {"n": close}, {"n": 2**53 + 1}, {"n": 2**53}])
    assert await found(db, kb, Compare("n", "eq", 0.1)) == ids[:1]
    assert await found(db, kb, Compare("n", "gt", Decimal("0.1"))) == ids[1:]
    assert await found(db, kb, Compare("n", "eq", 2**53 + 1)) == ids[2:3]


async def test_other_collections_are_not_looked_into(db: Db, kb: int) -> None:
    other = await collection(db, "other")
    await add(db, other, [{"a": 1}])
    ids = await add(db, kb, [{"a": 1}])
    assert await found(db, kb, Compare("a", "eq", 1)) == ids
    condition = where(Compare("a", "eq", 1), collection_id=kb, first=1)
    assert [row[0] for row in await db.fetch(str(condition.ids), *condition.values)] == ids


def test_text_of_a_condition_depends_on_its_shape_only() -> None:
    shapes: list[Callable[[str, str, int | Decimal], Filter]] = [
        lambda key, text, _: Compare(key, "eq", text),
        lambda key, _, number: Compare(key, "lt", number),
        lambda key, text, number: In(key, (text, number, text)),
        lambda key, text, _: Contains(key, text),
        lambda key, _, number: Not(Or((Exists(key), Compare(key, "ne", number)))),
        lambda key, _, number: And((Compare(key, "gt", 1), Compare(key, "le", number))),
    ]
    for shape in shapes:
        one = where(shape("a", "b", 1), collection_id=1, first=3)
        other = where(shape("'; drop", "$1", Decimal("9.5")), collection_id=1, first=3)
        assert (one.sql, one.lookup, one.ids) == (other.sql, other.lookup, other.ids)
        assert one.values != other.values


@pytest.mark.parametrize(
    ("text", "is_looked_up"),
    [
        ("a = 1", True),
        ("a != 1", False),
        ("not a = 1", False),
        ("a contains 'x'", True),
        ("a = 1 and not b = 2", True),
        ("a = 1 or not b = 2", False),
        ("a = 1 or b = 2", True),
        ("not b = 2 and not a = 1", False),
    ],
)
def test_index_is_asked_where_it_knows(text: str, is_looked_up: bool) -> None:
    condition = where(from_text(text), collection_id=1, first=1)
    assert (condition.lookup is not None, condition.ids is not None) == (is_looked_up,) * 2


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    "text",
    [
        "rare = 7",
        "word = 'w7'",
        "n >= 10 and n < 20",
        "word > 'w98' and word <= 'w99'",
        "word in ['w7', 'w8']",
        "n in [7, 8]",
        "tags contains 't7'",
        "tags contains 7",
        "rare exists",
        "n = 7 or word = 'w8'",
        "n < 50 and word = 'w8'",
    ],
)
async def test_few_documents_are_found_through_the_index(
    db: Db, kb: int, text: str, plan: str
) -> None:
    metadata: list[dict[str, Any]] = [
        {"n": n, "word": f"w{n % 100}", "tags": [f"t{n % 100}", n % 100, "all"]}
        for n in range(2000)
    ]
    for n in range(0, 2000, 100):
        metadata[n]["rare"] = 7
    ids = await add(db, kb, metadata)
    await db.execute("analyze attribute; analyze document")
    condition = where(from_text(text), collection_id=kb, first=1)
    sql = f"select d.id from document d where d.collection_id = {kb} and ({condition.sql})"
    looked_up = f"{sql} and ({condition.lookup})"
    await db.execute(f"set local plan_cache_mode = {plan}")
    prepared = await db.prepare(f"explain (format json) {looked_up}")
    plan_text = json.dumps(json.loads(await prepared.fetchval(*condition.values)))
    assert "attribute_by_value" in plan_text
    assert '"Seq Scan"' not in plan_text
    expected = [i for i, item in zip(ids, metadata, strict=True) if matches(from_text(text), item)]
    assert [
        row[0] for row in await db.fetch(f"{looked_up} order by 1", *condition.values)
    ] == expected


async def attributes(db: Db) -> list[tuple[Any, ...]]:
    rows = await db.fetch(
        "select document_id, collection_id, field, word, number from attribute "
        "order by document_id, field, word, number"
    )
    return [tuple(row) for row in rows]


async def test_attributes_follow_documents_that_are_added_changed_moved_and_removed(
    db: Db, kb: int
) -> None:
    one, two = await add(db, kb, [{"a": "x", "n": 1.50}, {"t": ["y", "y", 2, None, [1]], "o": {}}])
    of_two = [
        (two, kb, "?o", None, None),
        (two, kb, "?t", None, None),
        (two, kb, "[t", "y", None),
        (two, kb, "[t", None, 2),
        (two, kb, "[t", None, None),
    ]
    of_one = [(one, kb, "=a", "x", None), (one, kb, "=n", None, Decimal("1.5"))]
    assert await attributes(db) == [*of_one, *of_two]

    await db.execute("update document set metadata = '{\"a\": true}' where id = $1", one)
    assert await attributes(db) == [(one, kb, "=a", "true", 1), *of_two]

    await db.execute("update document set title = 't'")
    assert await attributes(db) == [(one, kb, "=a", "true", 1), *of_two]

    other = await collection(db, "other")
    await db.execute("update document set collection_id = $1 where id = $2", other, one)
    assert (await attributes(db))[0] == (one, other, "=a", "true", 1)

    await db.execute("delete from document where id = $1", two)
    assert await attributes(db) == [(one, other, "=a", "true", 1)]

    await db.execute("delete from collection")
    assert await attributes(db) == []


async def test_documents_of_before_the_migration_are_looked_up_as_well(db: Db, kb: int) -> None:
    await db.execute((VERSIONS / "0003_document_attributes_down.sql").read_text())
    await add(
        db, kb, [*_METADATA, {"n": Decimal("1e-30"), LONG * 2: [10**400, LONG * 2, False, 1.5]}]
    )
    await db.execute((VERSIONS / "0003_document_attributes.sql").read_text())
    rows = await attributes(db)
    assert len(rows) > 20
    await db.execute("update document set metadata = metadata")
    assert await attributes(db) == rows


async def test_no_metadata_is_too_long_for_the_index(db: Db, kb: int) -> None:
    wide = "".join(chr(0x10000 + n * 7919 % 60000) for n in range(5000))
    metadata = {wide: wide, "n": 10**4000, "m": Decimal("1e-4000"), "t": [wide, 10**4000]}
    (id_,) = await add(db, kb, [metadata])
    assert await found(db, kb, Exists(wide[:2000])) == []
    assert await found(db, kb, Compare("n", "gt", 10**900)) == [id_]
    assert await found(db, kb, Compare("m", "gt", 0)) == [id_]
    assert await found(db, kb, Contains("t", wide[:2000])) == []


async def test_no_workload_may_write_attributes(db: Db, kb: int) -> None:
    for role in ("ragline_serve", "eval_app", "ltst_app", "ragline_read"):
        may = await db.fetchrow(
            """
            select has_table_privilege($1, 'ragline.attribute', 'select'),
                   has_table_privilege($1, 'ragline.attribute', 'insert, update, delete')
            """,
            role,
        )
        assert may is not None
        assert tuple(may) == (True, False), role


async def test_serving_role_writes_documents_and_filters_them(db: Db, kb: int) -> None:
    await db.execute("set local role ragline_serve")
    ids = await add(db, kb, [{"a": 1}, {"a": 2}])
    assert await found(db, kb, Compare("a", "ge", 2)) == ids[1:]
    await db.execute("delete from document where id = $1", ids[1])
    assert await found(db, kb, Exists("a")) == ids[:1]


def test_every_combination_of_joints_has_an_sql_form() -> None:
    leaves: list[Filter] = [Exists("a"), Compare("b", "eq", None), Contains("c", "x")]
    for one, other in itertools.product(leaves, leaves):
        for filter_ in (
            And((one, Not(other))),
            Or((one, And((one, other)))),
            Not(Or((one, other))),
        ):
            condition = where(filter_, collection_id=1, first=5)
            assert condition.sql.count("(") == condition.sql.count(")")

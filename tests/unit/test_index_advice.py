"""Index advice: laws of the filters that are read, of the indexes that are thought of, of the floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ragline.core import (
    advice,
    advice_candidates,
    index_candidates,
    index_costs,
    index_definition,
    index_drops,
    plan_scans,
    sql_tokens,
)
from ragline.core.advice import Advice, Floors, Trial
from ragline.core.advice_candidates import Catalog, Explained, NotAdvised
from ragline.core.evidence import ColumnFacts, EvidenceSource, PlannerCosts, Statement, missing
from ragline.core.index_facts import IndexFacts, TableFacts
from ragline.core.sql_names import identifier

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
TABLE = TableFacts(
    oid=1, schema="app", name="events", kind="table", rows=100_000, bytes=20_000_000, index_bytes=0,
    sequential_scans=500, index_scans=0, inserted=100_000, updated=0,
    updated_in_place=0, deleted=0, analysed_at=NOW,
)  # fmt: skip


def column(name: str, type_: str = "text", **more: Any) -> ColumnFacts:
    facts: dict[str, Any] = {"modifier": -1, "width": 40, "distinct": -0.5}
    return ColumnFacts(table_oid=1, name=name, type=type_, **{**facts, **more})


COLUMNS = (
    column("meta", "jsonb"), column("kind", distinct=50), column("flag", "bool", distinct=2),
    column("at", "timestamptz"), column("email", "varchar"), column("tags", "_text"),
    column("words", "tsvector"), column("emb", "vector", modifier=384),
)  # fmt: skip


def statement(number: int = 1, *, calls: int = 500, mean_ms: float = 20.0) -> Statement:
    text = f"table app.events /* {number} */"
    return Statement(
        id=str(number), text=text, calls=calls, total_ms=calls * mean_ms, rows=5, users=("app",)
    )


def plan(
    filter_: str | None = "(e.meta @> $1)", *, rows: float = 100.0, sort: Sequence[str] = ()
) -> Mapping[str, Any]:
    scan: dict[str, Any] = {
        "Node Type": "Seq Scan", "Relation Name": "events", "Schema": "app", "Alias": "e",
        "Total Cost": 3500.0, "Plan Rows": rows,
    }  # fmt: skip
    if filter_ is not None:
        scan["Filter"] = filter_
    if not sort:
        return scan
    sorted_ = {"Node Type": "Sort", "Sort Key": list(sort), "Total Cost": 9000.0, "Plans": [scan]}
    return {"Node Type": "Limit", "Plan Rows": 10, "Total Cost": 9000.0, "Plans": [sorted_]}


def catalog(**more: Any) -> Catalog:
    facts: dict[str, Any] = {"tables": [TABLE], "indexes": [], "columns": COLUMNS, "hours": 500.0}
    return Catalog(**{**facts, "vector_schema": "public", **more})


def wished(filter_: str | None, **more: Any) -> tuple[str | None, tuple[str, ...]]:
    """Return the index that a scan with this filter would have, from `using` on."""
    (scan,) = plan_scans.scans(plan(filter_, **more))
    columns = {one.name: one for one in COLUMNS}
    wish, reasons = index_candidates.wish(scan, columns, 100_000.0)
    return None if wish is None else wish.body("public").replace('"', ""), reasons


def judged(
    one: Explained | None = None, floors: Floors | None = None, **more: Any
) -> Advice | NotAdvised:
    """Return what comes of a statement that is worth an index, unless told otherwise."""
    here = catalog(**more)
    (found,), _ = advice_candidates.candidates(
        [one or Explained(statement=statement(), plan=plan())], here
    )
    trial = Trial(definition=f"CREATE {found.definition}")
    return advice.judged(found, trial, here, floors or Floors(), total_ms=20_000.0)


@pytest.mark.parametrize(
    ("filter_", "index"),
    [
        ("(e.meta @> $1)", "using gin (meta jsonb_path_ops)"),
        ("($1 <@ e.meta)", "using gin (meta jsonb_path_ops)"),
        ("(e.meta @@ '$.a > 1'::jsonpath)", "using gin (meta jsonb_path_ops)"),
        ("(e.meta ? $1)", "using gin (meta)"),
        ("(e.meta ?| $1)", "using gin (meta)"),
        ("((e.meta ->> 'kind'::text) = $1)", "using btree ((meta->> 'kind'::text))"),
        ("(e.tags @> ARRAY[$1])", "using gin (tags)"),
        ("(e.words @@ to_tsquery($1))", "using gin (words)"),
        ("(e.kind = $1)", "using btree (kind)"),
        ("($1 = e.kind)", "using btree (kind)"),
        ("(e.kind = ANY ($1))", "using btree (kind)"),
        ("((e.email)::text = $1)", "using btree (email)"),
        ("(lower((e.email)::text) = $1)", "using btree ((lower((email)::text)))"),
        ("((e.at > $1) AND (e.kind = $2))", "using btree (kind, at)"),
        ("((e.at > $1) AND (e.at < $2))", "using btree (at)"),
        # Two rows of one email are looked at without more ado.
        ("((e.kind = $1) AND (e.email = $2))", "using btree (email)"),
        ("((e.flag = $1) AND (e.kind = $2))", "using btree (kind, flag)"),
        ("(e.kind ~~ 'abc%'::text)", "using btree (kind text_pattern_ops)"),
        ("((e.email)::text ~~ 'abc%'::text)", "using btree (email varchar_pattern_ops)"),
        ("((e.flag = $1) AND (e.meta @> $2))", "using gin (meta jsonb_path_ops)"),
        ("((e.email = $1) AND (e.meta @> $2))", "using btree (email)"),
        ("(e.kind OPERATOR(pg_catalog.=) $1)", "using btree (kind)"),
    ],
)
def test_a_filter_gets_the_index_that_answers_it(filter_: str, index: str) -> None:
    found, _ = wished(filter_)
    assert found is not None
    assert found.replace(" ->>", "->>") == index


@pytest.mark.parametrize(
    ("filter_", "reason"),
    [
        ("((e.meta ->> $1) = $2)", "constants were taken out"),
        ("(e.kind ~~ $1)", "the pattern is not known"),
        ("(e.kind ~~ '%abc'::text)", "the pattern is not known"),
        ("((e.kind = $1) OR (e.email = $2))", "an index for each"),
        ("(e.kind <> $1)", "no kind of index"),
        ("(e.kind = (SubPlan 1))", "not understood"),
        ("(e.kind = other.kind)", "not understood"),
        ("(e.kind IS NULL)", "a partial index"),
        ("(((", "not understood"),
    ],
)
def test_what_no_index_is_thought_of_for_is_said_with_its_reason(filter_: str, reason: str) -> None:
    found, reasons = wished(filter_)
    assert found is None
    assert [one for one in reasons if reason in one]


@pytest.mark.parametrize(
    ("sort", "filter_", "index"),
    [
        (["e.at DESC"], None, "using btree (at)"),
        (["e.at DESC"], "(e.kind = $1)", "using btree (kind, at)"),
        (["e.at DESC NULLS LAST"], None, "using btree (at desc nulls last)"),
        (["e.kind", "e.at DESC"], None, "using btree (kind, at desc)"),
        (["((e.emb <=> $1))"], None, "using hnsw (emb public.vector_cosine_ops)"),
        (["((e.emb OPERATOR(public.<->) $1))"], None, "using hnsw (emb public.vector_l2_ops)"),
    ],
)
def test_an_order_with_a_limit_gets_the_index_that_is_in_that_order(
    sort: list[str], filter_: str | None, index: str
) -> None:
    assert wished(filter_, sort=sort)[0] == index


@pytest.mark.parametrize(
    "sides",
    [
        "(e.kind = k.kind)",
        "(k.kind = e.kind)",
        "(e.kind = CASE WHEN k.old THEN k.was ELSE k.kind END)",
    ],
)
def test_what_a_join_looks_up_gets_an_index_whatever_it_is_looked_up_by(sides: str) -> None:
    few = {**plan(None, rows=5), "Relation Name": "kept", "Alias": "k"}
    hashed = {"Node Type": "Hash", "Plan Rows": 5.0, "Plans": [few]}
    joined = {
        "Node Type": "Hash Join", "Join Type": "Inner", "Hash Cond": sides, "Total Cost": 9000.0,
        "Plan Rows": 10.0, "Plans": [plan(None, rows=100_000), hashed],
    }  # fmt: skip
    scan = next(one for one in plan_scans.scans(joined) if one.table == "events")
    wish, _ = index_candidates.wish(scan, {one.name: one for one in COLUMNS}, 100_000.0)

    assert wish is not None
    assert (wish.body("public"), scan.probes) == ('using btree ("kind")', 5.0)


@given(schema=NAMES, table=NAMES, column_name=NAMES)
def test_a_definition_is_one_create_index_whatever_the_names_are(
    schema: str, table: str, column_name: str
) -> None:
    alias = identifier(table)
    filter_ = f"({alias}.{identifier(column_name)} = $1)"
    found, unread = plan_scans.conditions(filter_, table)
    assert not unread
    assert found[0].term.columns == (column_name,)
    here = replace(TABLE, schema=schema, name=table)
    node = {**plan(filter_), "Relation Name": table, "Schema": schema, "Alias": table}
    assume(schema != "ragline")
    (one,), _ = advice_candidates.candidates(
        [Explained(statement=statement(), plan=node)],
        catalog(tables=[here], columns=[column(column_name)]),
    )
    read = index_definition.parsed(one.definition, schema=schema, table=table, name=one.name)
    assert read.name == one.name
    assert len(one.name.encode()) <= 63


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_words_of_it_are_found(text: str) -> None:
    found = sql_tokens.tokens(text)
    for token in found or ():
        assert token.text in text
        if token.kind in ("word", "quoted") and token.text[:2].lower() != "u&":
            assert sql_tokens.mentions(text, {token.name}) is not None
    if found is None:
        assert sql_tokens.mentions(text, {"anything"}) == "anything"


@pytest.mark.parametrize(
    "text",
    [
        "select evil()", 'select "evil"()', "select EVIL ( 1 )", "select x.evil()", "select/**/evil()",
        'select U&"\\0065vil"()', "select 1 -- '\n, evil()", "select '\\' , evil() , ''", "select 'a",
    ],
)  # fmt: skip
def test_a_name_that_is_not_trusted_is_found_however_it_is_written(text: str) -> None:
    assert sql_tokens.mentions(text, {"evil"}) == "evil"


@pytest.mark.parametrize("text", ["select 'evil'", "select $$evil$$", "select 1 /* evil */"])
def test_a_text_and_a_comment_name_nothing(text: str) -> None:
    assert sql_tokens.mentions(text, {"evil"}) is None


@pytest.mark.parametrize(
    ("more", "is_made"),
    [({"width": 20}, True), ({"width": 400}, False), ({"width": 400, "modifier": 104}, True)],
)
def test_values_too_long_for_a_b_tree_get_none(more: dict[str, Any], is_made: bool) -> None:
    columns = {"body": column("body", "varchar", **more)}
    (scan,) = plan_scans.scans(plan("(e.body = $1)"))
    found, reasons = index_candidates.wish(scan, columns, 20_000)
    assert (found is not None) == is_made
    assert bool([one for one in reasons if "could not be written any more" in one]) != is_made


@pytest.mark.parametrize(
    ("text", "said", "is_put_back"),
    [
        ("select meta ->> $1 from t where a = $2", "select meta ->> 'k' from t where a = 'x'",
         ("select meta ->> 'k' from t where a = $1", ("'k'",))),
        ("select 1 where b in ($1) and a -> $2 ->> $3 = $4",
         "select 1 /* x */ where b in (1, -2, 3) and a -> 0 ->> 'k' = $1",
         ("select 1 where b in ( $1 ) and a -> 0 ->> 'k' = $2", ("0", "'k'"))),
        ("select meta ->> $1 from t", "select meta ->> 'k' from u", None),
        ("select meta ->> $1 from t", "select meta ->> 'k' from t; drop table t", None),
        ("select meta ->> $1 from t", "select meta ->> 'k", None),
        ("select meta ->> $1 from t", "select meta ->> $1 from t", None),
        ("select meta ->> $1 from t", "select meta ->> e'\\'' from t", None),
        ("select meta ->> $1 from t where a = $2", "select meta ->>", None),
        ("select a from t where a = $1", "select a from t where a = 'secret'", None),
    ],
)  # fmt: skip
def test_only_keys_of_json_values_are_put_back(text: str, said: str, is_put_back: object) -> None:
    assert sql_tokens.with_keys(text, said) == is_put_back


def test_one_statement_that_is_dear_enough_gets_its_index_with_the_evidence() -> None:
    found = judged()
    assert isinstance(found, Advice)
    assert found.target == "@app.events.events_meta_gin"
    assert found.seen is not None
    assert (found.seen.calls, found.seen.mean_ms, found.seen.share_of_time) == (500, 20.0, 0.5)
    assert (found.seen.node, found.seen.plan_cost) == ("Seq Scan on app.events", 3500.0)
    assert found.predicted is not None
    assert found.predicted.by == "model"
    assert found.predicted.plan_cost < 3500 / 2


@pytest.mark.parametrize(
    ("floors", "reason"),
    [
        (Floors(calls=501), "500 calls, below the floor of 501"),
        (Floors(mean_ms=20.1, share=0.6), "20 ms mean, below the floor of 20.1 ms"),
        (Floors(rows=100_001), "a small table: 100,000 rows, below the floor of 100,001"),
        (Floors(gain=1000), "too little gain"),
    ],
)
def test_nothing_is_advised_below_a_floor(floors: Floors, reason: str) -> None:
    found = judged(floors=floors)
    assert isinstance(found, NotAdvised)
    assert reason in found.reason


def test_a_quick_statement_that_takes_much_of_all_time_counts() -> None:
    assert isinstance(judged(floors=Floors(mean_ms=50)), Advice)


def test_a_limit_that_ends_the_scan_early_ends_that_of_the_index_too() -> None:
    limited = {"Node Type": "Limit", "Plan Rows": 10, "Total Cost": 350.0, "Plans": [plan()]}
    found = judged(Explained(statement=statement(), plan=limited))
    assert isinstance(found, Advice)
    assert found.seen is not None
    assert found.seen.plan_cost == 350.0


def test_what_is_equal_stands_in_any_order_in_an_index_that_is_there() -> None:
    there = index("event_both", 3, method="btree", keys=("flag", "kind"))
    for filter_, is_held in (
        ("((e.kind = $1) AND (e.flag = $2))", True),
        ("((e.kind = $1) AND (e.at > $2))", False),
    ):
        explained = Explained(statement=statement(), plan=plan(filter_))
        (found,), _ = advice_candidates.candidates([explained], catalog(indexes=[there]))
        held = advice_candidates.holding(found.wish, found.table, catalog(indexes=[there]))
        assert (held is not None) == is_held, found.wish


def test_what_leaves_many_rows_is_not_selective() -> None:
    found = judged(Explained(statement=statement(), plan=plan("(e.flag = $1)", rows=50_000)))
    assert isinstance(found, NotAdvised)
    assert "not selective: about 50%" in found.reason


def test_a_table_that_is_written_more_than_read_gets_no_index() -> None:
    busy = replace(TABLE, updated=10_000_000)
    found = judged(tables=[busy])
    assert isinstance(found, NotAdvised)
    assert "write-heavy" in found.reason


def test_rows_that_were_loaded_once_are_no_reason_against_an_index() -> None:
    assert index_costs.churn(TABLE) == 0


def test_a_table_that_was_never_counted_is_analysed_first() -> None:
    found = judged(tables=[replace(TABLE, rows=None)])
    assert isinstance(found, NotAdvised)
    assert 'analyze "app"."events"' in found.reason


def test_a_part_of_a_partitioned_table_is_left_to_people() -> None:
    explained = [Explained(statement=statement(), plan=plan())]
    found, left = advice_candidates.candidates(explained, catalog(partitions=frozenset({1})))
    assert found == []
    assert "partitioned" in left[0].reason


def index(name: str, oid: int, **more: Any) -> IndexFacts:
    facts: dict[str, Any] = {
        "method": "gin", "operator_classes": ("jsonb_ops",), "keys": ("meta",), "key_rules": ("",),
        "definition": f"CREATE INDEX {name} ON app.events USING gin (meta)", "size_bytes": 8192,
        "table_rows": 100_000, "table_bytes": 1, "scans": 0, "rows_read": 0,
    }  # fmt: skip
    return IndexFacts(
        oid=oid, table_oid=1, schema="app", table="events", name=name, **{**facts, **more}
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"is_valid": False}, "INVALID"),
        ({"predicate": "(kind = 'x')"}, "it holds only rows where (kind = 'x')"),
        ({}, "the planner holds the scan for cheaper"),
    ],
)
def test_an_index_that_is_there_is_not_advised_again(more: dict[str, Any], reason: str) -> None:
    found = judged(indexes=[index("old", 7, **more)])
    assert isinstance(found, NotAdvised)
    assert "app.old is there already" in found.reason
    assert reason in found.reason


def test_statements_that_one_index_serves_get_one() -> None:
    filters = ["(e.meta @> $1)", "(e.meta ? $1)", "(e.meta @> $2)"]
    explained = [
        Explained(statement=statement(number), plan=plan(text))
        for number, text in enumerate(filters, start=1)
    ]
    found, _ = advice_candidates.candidates(explained, catalog())
    assert [one.wish.body() for one in found] == ['using gin ("meta")']
    assert found[0].calls == 1500


@given(st.permutations(["kind", "email", "at"]), st.integers(1, 3))
def test_an_index_of_more_columns_serves_those_that_begin_it(order: list[str], short: int) -> None:
    def keys(names: Sequence[str]) -> tuple[index_candidates.Key, ...]:
        return tuple(index_candidates.Key(text=f'"{n}"', columns=(n,)) for n in names)

    whole = index_candidates.Wish(method="btree", keys=keys(order), share=0.1, ordered=False)
    part = replace(whole, keys=keys(order[:short]))
    assert index_candidates.joined(whole, part) == whole
    assert index_candidates.joined(part, whole) == whole


@given(
    rows=st.integers(1, 10_000_000),
    share=st.floats(1e-7, 1.0),
    more=st.floats(1.0, 10.0),
    pages=st.integers(1, 1_000_000),
)
def test_an_index_that_leaves_more_rows_is_never_cheaper(
    rows: int, share: float, more: float, pages: int
) -> None:
    (scan,) = plan_scans.scans(plan())
    key = index_candidates.Key(text='"kind"', columns=("kind",))
    one = index_candidates.Wish(method="btree", keys=(key,), share=share, ordered=False)
    other = replace(one, share=min(1.0, share * more))
    costs = [
        index_costs.plan_cost(wish, scan, rows, pages, PlannerCosts(random_page=1.1))
        for wish in (one, other)
    ]
    assert 0 < costs[0] <= costs[1] * (1 + 1e-9)


@given(rows=st.integers(0, 10_000_000), more=st.integers(0, 10_000_000))
def test_an_index_of_more_rows_is_never_smaller(rows: int, more: int) -> None:
    columns = {one.name: one for one in COLUMNS}
    for name, method in (("kind", "btree"), ("email", "btree"), ("meta", "gin")):
        key = index_candidates.Key(text=f'"{name}"', columns=(name,))
        wish = index_candidates.Wish(
            method="gin" if method == "gin" else "btree", keys=(key,), share=0.1, ordered=False
        )
        sizes = [index_costs.size_bytes(wish, n, columns) for n in (rows, rows + more)]
        assert 0 < sizes[0] <= sizes[1] + index_costs.BLOCK * 3


def test_an_unused_index_is_dropped_only_when_statistics_are_old_enough() -> None:
    young, _ = index_drops.drops(catalog(indexes=[index("a", 7)], hours=24 * 6), Floors())
    (old,), _ = index_drops.drops(catalog(indexes=[index("a", 7)], hours=24 * 8), Floors())
    unknown, left = index_drops.drops(catalog(indexes=[index("a", 7)], hours=None), Floors())
    assert (young, unknown) == ([], [])
    assert (old.action, old.reason) == ("drop", "was not read once in 8.0 days")
    assert any("unknown" in caution for caution in old.cautions)
    assert "statistics are younger" in left[0].reason


def test_of_two_that_hold_the_same_the_used_one_stays() -> None:
    pair = [index("a", 7, scans=5), index("b", 8, scans=90)]
    found, _ = index_drops.drops(catalog(indexes=pair, hours=1.0), Floors())
    assert [(one.name, one.reason) for one in found] == [
        ("a", "doubles app.b, which holds the same")
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"constraint": "pk"}, {"is_unique": True}, {"is_partitioned": True}, {"slot": 2},
        {"method": "hnsw", "collections": ("kb",)}, {"scans": 1},
    ],
)  # fmt: skip
def test_what_keeps_a_promise_or_serves_ragline_is_never_dropped(more: dict[str, Any]) -> None:
    here = catalog(indexes=[index("a", 7, **more)], hours=10_000.0)
    assert index_drops.drops(here, Floors())[0] == []


def test_what_replication_identifies_rows_by_is_never_dropped() -> None:
    here = catalog(indexes=[index("a", 7)], hours=10_000.0, kept={7: "replication identifies rows"})
    found, left = index_drops.drops(here, Floors())
    assert found == []
    assert "replication" in left[0].reason


def test_a_replica_and_ragline_itself_are_never_advised_to_drop() -> None:
    there = replace(index("a", 7), schema="ragline")
    assert index_drops.drops(catalog(indexes=[there], hours=9e9), Floors()) == ([], [])
    on_replica = catalog(indexes=[index("a", 7)], hours=9e9, is_replica=True)
    assert index_drops.drops(on_replica, Floors())[0] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"schema": None, "is_loaded": False, "is_available": False},
            "not installed on the server",
        ),
        ({"is_loaded": False}, "not loaded"),
        ({"schema": None}, "create extension"),
        ({"tracks": "none"}, "track is none"),
        ({}, None),
    ],
)
def test_missing_evidence_says_what_to_do(more: dict[str, Any], says: str | None) -> None:
    facts: dict[str, Any] = {
        "schema": "public", "version": "1.12", "is_available": True, "is_loaded": True,
        "tracks": "top", "most": 5000, "since": NOW, "evicted": 0, "sees_all": True, "now": NOW,
    }  # fmt: skip
    said = missing(EvidenceSource(**{**facts, **more}))
    assert (said is None) == (says is None)
    assert says is None or says in (said or "")

"""What is said to be wrong with indexes: laws over values, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import (
    duplicate_indexes,
    index_findings,
    list_fit,
    missing_indexes,
    sampled_indexes,
)
from ragline.core.advisories import ExtensionFault
from ragline.core.checkup import Finding
from ragline.core.evidence import OperatorUse
from ragline.core.index_facts import IndexFacts, ServerFacts, TableFacts, VectorColumn
from ragline.core.index_sample import Sample
from ragline.core.list_fit import ListFit

NOW = datetime(2026, 1, 31, tzinfo=UTC)
SERVER = ServerFacts(
    version=180006,
    pgvector="0.8.6",
    pgvector_available="0.8.6",
    vector_schema="public",
    block_size=8192,
    shared_buffers_bytes=128 * 1024**2,
    is_replica=False,
    statistics_since=NOW - timedelta(days=30),
    now=NOW,
    ef_search=40,
    probes=1,
)
INDEX = IndexFacts(
    oid=1,
    table_oid=10,
    schema="public",
    table="items",
    name="items_a",
    method="btree",
    operator_classes=("int4_ops",),
    keys=("a",),
    key_rules=("1978 0 0",),
    definition="CREATE INDEX items_a ON public.items USING btree (a)",
    size_bytes=8192,
    table_rows=50_000,
    table_bytes=8192,
    scans=0,
    rows_read=0,
)
HNSW = replace(
    INDEX,
    name="items_v",
    method="hnsw",
    operator_classes=("vector_cosine_ops",),
    keys=("v",),
    vector_type="vector",
    dimension=384,
)
IVFFLAT = replace(HNSW, method="ivfflat", options=(("lists", "100"),))
TABLE = TableFacts(
    oid=10,
    schema="public",
    name="items",
    kind="table",
    rows=50_000,
    bytes=8192,
    index_bytes=8192,
    sequential_scans=500,
    index_scans=500,
    inserted=0,
    updated=0,
    updated_in_place=0,
    deleted=0,
    analysed_at=None,
)
SAMPLE = Sample(k=10, n=100, mean=0.99, low=0.98, high=1.0, width=40, rows=50_000)


def ids(found: list[Finding]) -> list[str]:
    return [one.id for one in found]


def looked(*indexes: IndexFacts, tables: tuple[TableFacts, ...] = (TABLE,)) -> list[Finding]:
    return index_findings.findings(indexes, tables, SERVER)


@st.composite
def ordinary(draw: st.DrawFn) -> list[IndexFacts]:
    """Some indexes of two tables, of few columns, so that many are alike."""
    found = []
    for oid in range(1, draw(st.integers(2, 7)) + 1):
        keys = tuple(draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)))
        is_unique = draw(st.booleans())
        found.append(
            replace(
                INDEX,
                oid=oid,
                table_oid=draw(st.sampled_from((10, 10, 10, 11))),
                name=f"i{oid}",
                method=draw(st.sampled_from(("btree", "btree", "hash"))),
                keys=keys,
                key_rules=tuple("1978 0 0" for _ in keys),
                included=tuple(draw(st.lists(st.sampled_from("de"), max_size=2, unique=True))),
                predicate=draw(st.sampled_from((None, None, "(a > 1)"))),
                is_unique=is_unique,
                constraint=f"c{oid}" if is_unique and draw(st.booleans()) else None,
                is_replica_identity=draw(st.sampled_from((False, False, True))) and is_unique,
                is_valid=draw(st.sampled_from((True, True, True, False))),
                scans=draw(st.integers(0, 3)),
                size_bytes=draw(st.sampled_from((8192, 16384))),
            )
        )
    return found


def answers_for(one: IndexFacts, other: IndexFacts) -> bool:
    """Whether every query that `one` serves, and what it keeps unique, `other` does too."""
    n = len(one.keys)
    alike = (one.table_oid, one.method, one.predicate) == (
        other.table_oid,
        other.method,
        other.predicate,
    )
    is_prefix = one.keys == other.keys[:n] and (n == len(other.keys) or one.method == "btree")
    has_columns = set(one.included) <= {*other.keys, *other.included}
    keeps_unique = not one.is_unique or (other.is_unique and one.keys == other.keys)
    return alike and is_prefix and has_columns and keeps_unique and other.is_valid


@given(ordinary())
def test_without_all_duplicates_each_is_still_answered_for_by_one_that_stays(
    indexes: list[IndexFacts],
) -> None:
    said = [one.subject for one in duplicate_indexes.duplicate(indexes)]
    gone = [index for index in indexes if index.qualified in said]
    kept = [index for index in indexes if index not in gone]

    assert len(said) == len(set(said))
    for one in gone:
        assert one.constraint is None
        assert not one.is_replica_identity
        assert any(answers_for(one, other) for other in kept)


@given(ordinary())
def test_of_two_that_are_alike_exactly_one_is_superfluous(indexes: list[IndexFacts]) -> None:
    one = replace(indexes[0], constraint=None, is_replica_identity=False, is_valid=True)
    twin = replace(one, oid=100, name="twin")

    said = list(duplicate_indexes.duplicate([one, twin]))
    assert len(said) == 1
    assert said == list(duplicate_indexes.duplicate([twin, one]))


def test_places_of_one_space_are_no_duplicates() -> None:
    first = replace(HNSW, schema="ragline", slot=1, is_searched=True, collections=("kb",))
    second = replace(first, oid=2, name="items_v_2", slot=2, is_searched=False)
    assert list(duplicate_indexes.duplicate([first, second])) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("key_rules", ("1978 0 3",)), ("predicate", "(a > 1)"), ("method", "hash")],
)
def test_an_index_of_another_order_condition_or_method_is_no_duplicate(
    key: str, value: object
) -> None:
    other = replace(INDEX, oid=2, name="other", **{key: value})  # type: ignore[arg-type]
    assert list(duplicate_indexes.duplicate([INDEX, other])) == []


@pytest.mark.parametrize(
    "change",
    [
        {"constraint": "pk"},
        {"is_unique": True},
        {"is_replica_identity": True},
        {"is_part": True},
        {"is_partitioned": True},
        {"schema": "ragline"},
        {"scans": 1},
        {"is_valid": False},
        {"created_at": NOW - timedelta(days=6)},
    ],
)
def test_unused_is_said_of_none_that_may_be_needed(change: dict[str, object]) -> None:
    assert ids(looked(INDEX)) == ["index.unused"]
    assert "index.unused" not in ids(looked(replace(INDEX, **change)))  # type: ignore[arg-type]


@given(st.one_of(st.none(), st.integers(0, 6 * 24)))
def test_unused_waits_for_statistics_of_a_week(hours: int | None) -> None:
    since = None if hours is None else NOW - timedelta(hours=hours)
    young = replace(SERVER, statistics_since=since)
    assert index_findings.findings([INDEX], [TABLE], young) == []
    assert index_findings.young_statistics(young) is not None
    assert index_findings.young_statistics(SERVER) is None


def test_unused_says_nothing_of_a_table_that_nobody_reads() -> None:
    idle = replace(TABLE, sequential_scans=0, index_scans=index_findings.IN_USE - 1)
    assert looked(INDEX, tables=(idle,)) == []


@pytest.mark.parametrize(
    ("is_building", "statuses"), [(True, []), (False, ["fail"]), (None, ["unknown"])]
)
def test_invalid_is_said_only_of_what_nobody_builds(
    is_building: bool | None, statuses: list[str]
) -> None:
    broken = replace(INDEX, is_valid=False, is_building=is_building)
    said = list(index_findings.invalid([broken]))
    assert [one.status for one in said] == statuses
    assert all(one.fix for one in said)


def test_what_a_rebuild_left_is_dropped_and_all_else_built_again() -> None:
    leftover = replace(INDEX, name="items_a_ccnew1", is_valid=False)
    odd = replace(INDEX, schema="My Schema", is_valid=False)
    (first,) = index_findings.invalid([leftover])
    (second,) = index_findings.invalid([odd])
    assert first.fix is not None
    assert "CREATE INDEX" not in first.fix
    assert (second.fix or "").startswith(
        'drop index concurrently "My Schema".items_a; then build it again: CREATE INDEX CONCURRENTLY '
    )


def test_operators_that_queries_never_use_are_told_by_the_calls() -> None:
    def used(operator: str) -> OperatorUse:
        return OperatorUse(
            schema="public", table="items", operator=operator, statements=1, calls=7, total_ms=1.0
        )

    def said(*uses: OperatorUse) -> list[Finding]:
        return list(index_findings.unfit_operators([HNSW], uses))

    (one,) = said(used("<->"))
    assert one.id == "index.operator_class"
    assert "<-> in 7 calls" in one.evidence
    assert "vector_l2_ops" in (one.fix or "")
    assert said(used("<->"), used("<=>")) == []
    assert said() == []
    assert list(index_findings.unfit_operators([HNSW], None)) == []


def test_a_collection_goes_by_its_own_metric_whatever_statements_say() -> None:
    wrong = replace(HNSW, collections=("kb",), metrics=("l2",))
    right = replace(wrong, oid=2, operator_classes=("vector_l2_ops",))
    assert [one.status for one in index_findings.unfit_operators([wrong], [])] == ["fail"]
    assert list(index_findings.unfit_operators([wrong, right], [])) == []


@pytest.mark.parametrize(
    ("key", "is_indexed"),
    [
        ("v", True),
        ('"v"', True),
        ("((v)::halfvec(384))", True),
        ("((binary_quantize(v))::bit(384))", True),
        ("w", False),
        ("vv", False),
        ('"v v"', False),
        ("(v_2)::halfvec(3)", False),
    ],
)
def test_a_column_has_an_index_where_a_key_is_made_of_it(key: str, is_indexed: bool) -> None:
    table = replace(TABLE, vectors=(VectorColumn(name="v", type="vector", dimension=384),))
    index = replace(HNSW, keys=(key,))
    said = list(missing_indexes.missing([index], [table], None))
    assert [one.subject for one in said] == ([] if is_indexed else ["public.items.v"])


def test_a_column_without_an_index_is_told_where_a_search_by_it_takes_its_time() -> None:
    column = VectorColumn(name="v", type="halfvec", dimension=384)
    table = replace(TABLE, vectors=(column,))

    def told(table: TableFacts, *uses: OperatorUse) -> list[str]:
        return [one.fix or "" for one in missing_indexes.missing([INDEX], [table], uses)]

    assert "(v halfvec_cosine_ops)" in told(table)[0]
    use = OperatorUse(
        schema="public", table="items", operator="<->", statements=1, calls=7, total_ms=1.0
    )
    assert "(v halfvec_l2_ops)" in told(table, use)[0]
    assert told(replace(table, collections=("kb",)))[0].startswith("`ragline index tune kb`")
    untyped = replace(table, vectors=(replace(column, dimension=None),))
    assert "create index" not in told(untyped)[0]
    for quiet in (
        replace(table, rows=9_999),
        replace(table, rows=None),
        replace(table, kind="partitioned"),
        replace(table, is_searched=False),
        replace(table, vectors=(replace(column, dimension=4001),)),
    ):
        assert told(quiet) == []


@pytest.mark.parametrize(
    ("dimension", "type_", "told"),
    [(2000, "vector", 0), (2001, "vector", 1), (4000, "halfvec", 0), (4001, "halfvec", 1)],
)
def test_columns_too_long_for_an_index_are_told(dimension: int, type_: str, told: int) -> None:
    column = VectorColumn(name="v", type=type_, dimension=dimension)
    table = replace(TABLE, vectors=(column,))
    said = list(index_findings.too_many_dimensions([], [table]))
    assert len(said) == told
    assert list(index_findings.too_many_dimensions([HNSW], [table])) == []


@pytest.mark.parametrize(
    ("memory", "statuses"), [(None, ["warn"]), (2**30, ["warn"]), (2**27, ["fail"])]
)
def test_an_index_larger_than_memory_is_worse_than_one_larger_than_the_cache(
    memory: int | None, statuses: list[str]
) -> None:
    large = replace(HNSW, size_bytes=2**28)
    server = replace(SERVER, memory_bytes=memory)
    assert [x.status for x in index_findings.larger_than_memory([large], server)] == statuses
    assert list(index_findings.larger_than_memory([HNSW], server)) == []


def test_lists_are_fitted_to_the_rows_within_a_factor_of_ten() -> None:
    def told(lists: int, rows: int) -> bool:
        index = replace(IVFFLAT, options=(("lists", str(lists)),), table_rows=rows)
        return bool(list(sampled_indexes.unfit_lists([index], {})))

    assert sampled_indexes.fitting_lists(1_000_000) == 1000
    assert sampled_indexes.fitting_lists(4_000_000) == 2000
    assert not told(100, 100_000)
    assert told(1000, 100_000)
    assert told(10, 1_000_000)
    assert not told(1000, 100)


def test_lists_made_of_nothing_are_told_by_what_today_s_rows_would_give() -> None:
    def told(has: ListFit, could: ListFit) -> bool:
        sample = replace(SAMPLE, one_probe=has, fitted=could)
        return bool(list(sampled_indexes.built_on_nothing([IVFFLAT], {1: sample})))

    good = ListFit(recall=0.5, share=0.01)
    assert not told(good, good)
    assert told(ListFit(recall=0.19, share=0.01), good)
    assert told(ListFit(recall=1.0, share=1.0), good)
    # Rows that no lists part are not the index's fault.
    assert not told(ListFit(recall=1.0, share=0.9), ListFit(recall=1.0, share=0.8))
    unmeasured = replace(IVFFLAT, index_rows=0)
    assert list(sampled_indexes.built_on_nothing([unmeasured], {}))
    assert not list(sampled_indexes.built_on_nothing([IVFFLAT], {}))


@given(st.floats(0, 1), st.floats(0, 0.2))
def test_low_recall_is_told_only_when_it_is_sure(mean: float, half: float) -> None:
    sample = replace(SAMPLE, mean=mean, low=mean - half, high=min(1.0, mean + half))
    told = list(sampled_indexes.low_recall([HNSW], {1: sample}))
    assert bool(told) == (min(1.0, mean + half) < sampled_indexes.RECALL)


def test_rows_that_no_index_holds_and_rows_that_no_query_can_get() -> None:
    some = replace(SAMPLE, null_rows=3, zero_rows=2)
    (one,) = sampled_indexes.not_held([HNSW], {1: some})
    assert "3 rows without a vector" in one.evidence
    assert "2 rows with a zero vector" in one.evidence
    by_l2 = replace(HNSW, operator_classes=("vector_l2_ops",))
    assert list(sampled_indexes.not_held([by_l2], {1: replace(some, null_rows=0)})) == []
    asked = replace(SAMPLE, k=50)
    assert ids(list(sampled_indexes.short_results([HNSW], SERVER, {1: asked}))) == [
        "index.ef_search"
    ]
    assert list(sampled_indexes.short_results([HNSW], SERVER, {1: SAMPLE})) == []


def test_faults_of_pgvector_are_told_where_an_index_can_suffer() -> None:
    fault = ExtensionFault(before="0.8.3", since=None, status="warn", id=None, what="a vacuum can")
    (one,) = index_findings.vulnerable([HNSW, IVFFLAT], SERVER, [fault])
    assert one.evidence == "1 HNSW index here; before 0.8.3, a vacuum can"
    assert list(index_findings.vulnerable([IVFFLAT], SERVER, [fault])) == []
    # However many there are, one upgrade mends them: the one that mends the last.
    older = replace(fault, before="0.8.10", status="fail", what="lists leak")
    (both,) = index_findings.vulnerable([HNSW], SERVER, [fault, older])
    assert both.status == "fail"
    assert "a vacuum can" in both.evidence
    assert "lists leak" in both.evidence
    assert (both.fix or "").startswith("install pgvector 0.8.10 or later")


def test_nothing_is_said_of_what_was_not_measured() -> None:
    unknown = Sample(k=10, why_not="no rights")
    found = index_findings.findings([replace(HNSW, scans=1)], [TABLE], SERVER, samples={1: unknown})
    assert found == []


@given(st.integers(2, 6), st.integers(0, 3))
def test_lists_that_part_clusters_find_all_by_one_probe(clusters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = np.eye(clusters, 8) * 100
    vectors = np.repeat(centres, 40, axis=0) + rng.normal(size=(clusters * 40, 8))
    made = list_fit.fitted(
        vectors.astype(np.float32),
        vectors[::7].astype(np.float32),
        lists=1,
        k=5,
        metric="l2",
        seed=seed,
    )
    assert made == ListFit(recall=1.0, share=1.0)
    many = list_fit.fitted(
        vectors.astype(np.float32),
        vectors[::7].astype(np.float32),
        lists=clusters * 2,
        k=1,
        metric="cosine",
        seed=seed,
    )
    assert many.recall == 1.0  # each is its own nearest
    assert many.share <= 0.8

"""HNSW indexes as values: what may be asked for, how large they get, and definitions of others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragline.core import hnsw, index_definition
from ragline.core.hnsw import Built, Graph
from ragline.errors import UsageError

BASE = Graph(slot=1, storage="vector", m=16, ef_construction=64)
_STORAGES = st.sampled_from(hnsw.STORAGES)


def completed(want: dict[str, Any], **more: Any) -> tuple[Graph, tuple[str, ...]]:
    known: dict[str, Any] = {
        "base": BASE,
        "active_slot": 1,
        "is_built": True,
        "storage": "vector",
        "dimension": 384,
        "metric": "cosine",
    }
    return hnsw.completed(want, **{**known, **more})


def graphs(storage: st.SearchStrategy[Any] = _STORAGES) -> st.SearchStrategy[Graph]:
    return st.builds(
        lambda storage, m, more: Graph(
            slot=1, storage=storage, m=m, ef_construction=min(1000, 2 * m + more)
        ),
        storage,
        st.integers(*hnsw.M),
        st.integers(0, 800),
    )


def test_what_is_left_out_stays_as_it_is_and_the_free_slot_is_taken() -> None:
    assert completed({"m": 24}) == (
        Graph(slot=2, storage="vector", m=24, ef_construction=64),
        (),
    )
    second = Graph(slot=2, storage="halfvec", m=24, ef_construction=80)
    graph, _ = completed({"ef_construction": 99}, base=second, active_slot=2)
    assert graph == Graph(slot=1, storage="halfvec", m=24, ef_construction=99)


def test_the_index_that_is_there_already_is_no_other_one() -> None:
    assert completed({"m": 16, "operator_class": "vector_cosine_ops"})[0] == BASE
    assert completed({})[0] == BASE
    assert completed({}, is_built=False)[0].slot == 2


def test_from_before_there_were_slots_the_first_is_taken() -> None:
    old = Graph(slot=0, storage="vector", m=16, ef_construction=64)
    assert completed({"m": 24}, base=old, active_slot=0)[0].slot == 1


def test_another_definition_never_goes_where_searches_are() -> None:
    assert completed({"slot": 1, "m": 24})[0].slot == 2
    assert completed({"slot": 0, "m": 24})[0].slot == 0


def test_an_m_too_large_for_the_construction_raises_it_and_says_so() -> None:
    graph, said = completed({"m": 50})
    assert graph.ef_construction == 100
    assert said == ("ef_construction becomes 100, which is the least for m = 50",)


@pytest.mark.parametrize(
    ("want", "reason"),
    [
        ({"mm": 24}, "no 'mm'.*did you mean 'm'"),
        ({"lists": 100}, "no 'lists'; it has m, ef_construction"),
        ({"m": 1}, "m is 1; it must be a whole number from 2 to 100"),
        ({"m": 101}, "m is 101"),
        ({"m": True}, "m is True"),
        ({"m": "24"}, "m is '24'"),
        ({"m": 16.0}, "m is 16.0"),
        ({"ef_construction": 3}, "ef_construction is 3; .* from 4 to 1000"),
        ({"ef_construction": 1001}, "ef_construction is 1001"),
        ({"m": 40, "ef_construction": 79}, "at least twice m, 80"),
        ({"storage": "bit"}, "storage is 'bit'.*vector or halfvec"),
        ({"slot": 3}, "slot is 3"),
        ({"slot": True}, "slot is True"),
        ({"operator_class": "vector_l2_ops"}, "cosine distance of vector.*vector_cosine_ops"),
        ({"operator_class": "vector_cosine_ops", "storage": "halfvec"}, "halfvec_cosine_ops"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(want: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        completed(want)


@pytest.mark.parametrize(
    ("storage", "dimension", "allowed"),
    [
        ("vector", 2000, ("vector", "halfvec")),
        ("vector", 2001, ("halfvec",)),
        ("halfvec", 64, ("halfvec",)),
        ("halfvec", 4000, ("halfvec",)),
        ("vector", 4001, ()),
    ],
)
def test_storage_is_bound_by_the_dimension(
    storage: Any, dimension: int, allowed: tuple[str, ...]
) -> None:
    assert hnsw.allowed_storages(storage, dimension) == allowed
    assert hnsw.first_storage(storage, dimension) == (allowed[0] if allowed else None)
    for one in {"vector", "halfvec"} - set(allowed):
        with pytest.raises(UsageError, match="cannot be built" if not allowed else "can hold"):
            completed({"storage": one}, storage=storage, dimension=dimension)


@given(graphs(), graphs(), st.integers(0, 2), st.booleans())
def test_what_was_completed_is_complete(
    base: Graph, other: Graph, active: int, is_built: bool
) -> None:
    base = Graph(slot=active, storage=base.storage, m=base.m, ef_construction=base.ef_construction)
    want = {"m": other.m, "ef_construction": other.ef_construction, "storage": other.storage}
    graph, said = completed(want, base=base, active_slot=active, is_built=is_built)
    assert graph.is_like(other)
    assert not said
    assert (graph.slot == active) == (is_built and base.is_like(other))
    again, _ = completed(hnsw.to_json(graph), base=base, active_slot=active, is_built=is_built)
    assert again == graph
    assert hnsw.from_json(hnsw.to_json(graph)) == graph


@pytest.mark.parametrize(
    ("dimension", "storage", "m", "vectors", "measured"),
    [
        # pg_relation_size on PostgreSQL 18.6 with pgvector 0.8.6, random vectors.
        (384, "vector", 16, 3000, 6152192),
        (384, "halfvec", 16, 3000, 3522560),
        (64, "vector", 16, 3000, 1720320),
        (64, "vector", 4, 3000, 1269760),
        (64, "vector", 2, 3000, 1196032),
        (16, "vector", 2, 4000, 802816),
        (16, "vector", 48, 3000, 2293760),
        (1024, "vector", 16, 1500, 12296192),
        (1536, "vector", 16, 1500, 12296192),
        (2000, "vector", 16, 1500, 24584192),
    ],
)
def test_sizes_are_as_measured(
    dimension: int, storage: Any, m: int, vectors: int, measured: int
) -> None:
    graph = Graph(slot=1, storage=storage, m=m, ef_construction=max(64, 2 * m))
    assert hnsw.index_bytes(graph, dimension, vectors) == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize(
    ("dimension", "storage", "m", "measured"),
    [
        # maintenance_work_mem divided by the rows after which the graph no longer fitted.
        (384, "vector", 16, 2241),
        (384, "halfvec", 16, 1481),
        (64, "vector", 16, 971),
        (64, "vector", 4, 596),
        (64, "vector", 2, 560),
        (16, "vector", 2, 368),
        (16, "vector", 48, 1796),
        (2000, "vector", 16, 8666),
    ],
)
def test_memory_to_build_in_is_as_measured(
    dimension: int, storage: Any, m: int, measured: int
) -> None:
    graph = Graph(slot=1, storage=storage, m=m, ef_construction=max(64, 2 * m))
    assert hnsw.build_bytes(graph, dimension, 1000) / 1000 == pytest.approx(measured, rel=0.06)


@given(graphs(), st.integers(1, 2000), st.integers(0, 10_000_000), st.integers(0, 1000))
def test_more_vectors_and_more_neighbours_never_take_less(
    graph: Graph, dimension: int, vectors: int, more: int
) -> None:
    wider = Graph(slot=1, storage=graph.storage, m=min(100, graph.m + 1), ef_construction=1000)
    for size in (hnsw.index_bytes, hnsw.build_bytes):
        assert size(graph, dimension, vectors) <= size(graph, dimension, vectors + more)
        assert size(graph, dimension, vectors) <= size(wider, dimension, vectors)
    assert hnsw.index_bytes(graph, dimension, 0) == 8192


def test_memory_for_a_build_stays_within_the_machine() -> None:
    mib = 1 << 20
    assert hnsw.build_memory(100 * mib, 64 * mib, 8000 * mib) == 135 * mib
    assert hnsw.build_memory(100 * mib, 64 * mib, 400 * mib) == 100 * mib
    assert hnsw.build_memory(10 * mib, 64 * mib, 8000 * mib) == 64 * mib
    assert hnsw.build_memory(100 * mib, 64 * mib, 40 * mib) == 64 * mib
    assert hnsw.build_memory(100 * mib, 64 * mib, None) == 64 * mib


def test_how_long_is_unknown_until_it_was_measured() -> None:
    assert hnsw.expected_s(BASE, None) is None
    assert hnsw.expected_s(BASE, Built(seconds=30, ef_construction=128)) == 15


def _parsed(text: str) -> index_definition.IndexDefinition:
    return index_definition.parsed(text, schema="ragline", table="document", name="by_title")


@pytest.mark.parametrize(
    "text",
    [
        "create index by_title on document (title)",
        "CREATE INDEX by_title ON ragline.document USING btree (title)",
        "create unique index concurrently if not exists by_title on only ragline.document (title);",
        'create index "by_title" on "ragline"."document"(title) where id <> -1',
        "create\n index\tby_title\n on document using hash (title)",
    ],
)
def test_a_definition_may_be_written_as_people_do(text: str) -> None:
    found = _parsed(text)
    assert (found.name, found.table) == ("by_title", "document")
    assert found.is_unique == ("unique" in text)
    assert found.on("ragline.copy").startswith(
        f'create {"unique " if found.is_unique else ""}index "by_title" on ragline.copy '
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be one `create"),
        ("drop table ragline.document", "must be one `create"),
        ("create table by_title (id int)", "must be one `create"),
        ("create index on document (title)", "must be one `create"),
        ("/* x */ create index by_title on document (title)", "must be one `create"),
        ("create index by_title on document title", "must be one `create"),
        ("create index by_title on chunk (title)", "is on ragline.chunk; it must be on"),
        ("create index by_title on public.document (title)", "is on public.document"),
        ("create index other on document (title)", "names the index 'other'"),
        ('create index "By_title" on document (title)', "names the index 'By_title'"),
        ("create index by_title on document (title)\0", "must be one `create"),
    ],
)
def test_what_is_no_such_definition_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        _parsed(text)


def test_online_keeps_all_but_the_name() -> None:
    said = "CREATE UNIQUE INDEX by_title ON ragline.document USING btree (title) WHERE (id > 1)"
    assert index_definition.online(said, "by_title", '"x"') == (
        'create unique index concurrently "x" on ragline.document USING btree (title) WHERE (id > 1)'
    )
    odd = 'CREATE INDEX "a ""b"" ON c" ON ragline.document USING btree (title)'
    assert index_definition.online(odd, 'a "b" ON c', '"x"').endswith(
        '"x" on ragline.document USING btree (title)'
    )
    with pytest.raises(UsageError, match="does not define index"):
        index_definition.online(said, "other", '"x"')


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=63))
@example("a" * 58 + "__new")
@example("a" * 58 + "__old")
def test_the_name_beside_fits_and_is_another(name: str) -> None:
    new, old = index_definition.beside(name, "new"), index_definition.beside(name, "old")
    assert len(new.encode()) <= 63
    assert len(old.encode()) <= 63
    assert len({name, new, old}) == 3

"""The kind `search`: a collection's search policy, changed and put back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import connect, opened
from ragline.change import loop
from ragline.change.kind import Site
from ragline.change.kinds.search import Search
from ragline.core import search_policy
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked
from ragline.core.search_policy import FIELDS
from ragline.errors import LockTimeout, NotFound, PreconditionFailed, UsageError
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import catalog, ingest
from ragline.rag.search import query, search_collections
from trials import Fixed, brought, parts, site_of

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEFAULT = dict.fromkeys(FIELDS)
KIND = Search()


@pytest.fixture
async def site(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        texts = [ingest.Text(source=f"t{n}", text=f"word{n} and word{n % 3}") for n in range(6)]
        await ingest.ingest_texts(app, texts, "kb")
        yield site_of(app, own_dsn, tmp_path, KIND)


async def test_wanted_fields_are_laid_over_what_is_there(site: Site) -> None:
    assert await KIND.read(site, "kb") == DEFAULT
    want, _ = await KIND.wanted(site, "kb", {"ef_search": 40, "vector_weight": 1})
    assert want == {**DEFAULT, "ef_search": 40, "vector_weight": 1.0}
    assert await brought(site, KIND, "kb", want) == DEFAULT
    more, _ = await KIND.wanted(site, "kb", {"k": 5, "vector_weight": None})
    assert more == {**DEFAULT, "ef_search": 40, "k": 5}
    assert await KIND.wanted(site, "kb", None) == (DEFAULT, ())


_REFUSED: tuple[tuple[Any, str], ...] = (
    ({"ef_serch": 40}, "a search policy has no 'ef_serch'; it has k, vector_weight"),
    ({"ef_search": 0}, "ef_search is 0; it must be a whole number from 1 to 1000"),
    ({"ef_search": 1001}, "ef_search is 1001; it must be a whole number"),
    ({"ef_search": "40"}, "ef_search is '40'; it must be a whole number"),
    ({"k": True}, "k is True"),
    ({"vector_weight": 1.5}, "vector_weight is 1.5; it must lie between 0 and 1"),
    ({"vector_weight": float("nan")}, "vector_weight is nan"),
    ({"iterative": "relaxed"}, "iterative is 'relaxed'; it is one of off, strict_order"),
    ({"early_exit": 0}, "early_exit is 0; it must be a whole number"),
    ("ef_search=40", "a search policy is 'ef_search=40'; write the fields"),
)


async def test_what_no_policy_can_be_is_refused_with_what_it_may_be(site: Site) -> None:
    for want, said in _REFUSED:
        with pytest.raises(UsageError, match=said):
            await KIND.wanted(site, "kb", want)


async def test_a_collection_that_does_not_exist_is_named(site: Site) -> None:
    with pytest.raises(NotFound, match="collection 'nope' does not exist; there are: kb"):
        await KIND.wanted(site, "nope", {"k": 5})
    with pytest.raises(NotFound, match="'nope' does not exist"):
        await KIND.read(site, "nope")


async def test_knobs_without_effect_are_said(site: Site) -> None:
    _, warnings = await KIND.wanted(
        site, "kb", {"ef_search": 4, "iterative": "off", "early_exit": 10_000, "vector_weight": 0.5}
    )
    assert [warning.split(":")[0] for warning in warnings] == [
        "ef_search has no effect", "iterative has no effect", "early_exit has no effect",
        "ef_search 4 is less than the 10 hits asked for",
    ]  # fmt: skip
    assert "has no vector index" in warnings[0]


async def test_fewer_hits_are_said_to_be_measured_as_a_loss(site: Site) -> None:
    _, warnings = await KIND.wanted(site, "kb", {"k": 3})
    assert "fewer than the 10 hits of today" in warnings[0]
    assert "--k 3" in warnings[0]
    _, warnings = await KIND.wanted(site, "kb", {"k": 20})
    assert not warnings


async def test_without_vectors_nothing_of_them_has_an_effect(own_dsn: Dsn, tmp_path: Path) -> None:
    async with opened(own_dsn, tmp_path, None) as app:
        await ingest.ingest_texts(app, [ingest.Text(source="a", text="some words")], "kb")
        site = site_of(app, own_dsn, tmp_path, KIND)
        _, warnings = await KIND.wanted(site, "kb", {"vector_weight": 0.5, "ef_search": 50})
    assert warnings == (
        "vector_weight has no effect: collection 'kb' has no vectors",
        "ef_search has no effect: collection 'kb' has no vectors",
    )


async def test_a_policy_in_force_is_what_searches_go_by(site: Site) -> None:
    question = query("word1", "kb")
    assert len((await search_collections(site.app, question)).hits) == 6
    was = await brought(site, KIND, "kb", {**DEFAULT, "k": 2})
    assert len((await search_collections(site.app, question)).hits) == 2
    await brought(site, KIND, "kb", was)
    assert len((await search_collections(site.app, question)).hits) == 6


async def test_all_defaults_have_no_row(site: Site, db: Db) -> None:
    await brought(site, KIND, "kb", {**DEFAULT, "k": 2})
    assert await db.fetchval("select count(*) from search_policy") == 1
    await brought(site, KIND, "kb", DEFAULT)
    assert await db.fetchval("select count(*) from search_policy") == 0


_POLICIES = st.fixed_dictionaries(
    {
        "k": st.none() | st.integers(1, 1000),
        "vector_weight": st.none() | st.floats(0, 1),
        "ef_search": st.none() | st.integers(1, 1000),
        "iterative": st.none() | st.sampled_from(["off", "strict_order", "relaxed_order"]),
        "early_exit": st.none() | st.integers(1, 2**31 - 1),
    }
)


async def test_every_policy_is_read_back_as_wanted_and_undone_without_a_trace(site: Site) -> None:
    examples: list[dict[str, Any]] = []

    @settings(max_examples=30, database=None)
    @given(_POLICIES)
    def draw(policy: dict[str, Any]) -> None:
        examples.append(policy)

    draw()
    assert len(examples) > 10
    for policy in examples:
        now = await KIND.read(site, "kb")
        want, _ = await KIND.wanted(site, "kb", policy)
        assert await brought(site, KIND, "kb", want) == now
        assert await KIND.read(site, "kb") == want
        assert KIND.steps("kb", want, want) == []
        again, _ = await KIND.wanted(site, "kb", want)
        assert again == want
        await brought(site, KIND, "kb", now)
        assert await KIND.read(site, "kb") == now


async def test_doing_it_twice_is_doing_it_once(site: Site) -> None:
    want = {**DEFAULT, "early_exit": 9}
    (step,) = KIND.steps("kb", DEFAULT, want)
    assert step.text == "search collection kb with early_exit 9 (was the default)"
    assert step.phase == "adopt"
    await KIND.run(site, step)
    await KIND.run(site, step)
    await KIND.confirm(site, "kb", want)


async def test_what_somebody_else_wrote_is_not_confirmed(site: Site, db: Db) -> None:
    want = {**DEFAULT, "k": 5}
    await brought(site, KIND, "kb", want)
    await db.execute("update search_policy set k = 6")
    with pytest.raises(PreconditionFailed, match=r"should be .*'k': 5.* and the table have .*6"):
        await KIND.confirm(site, "kb", want)


async def test_a_locked_collection_is_waited_for_only_so_long(site: Site, db: Db) -> None:
    site.lock_timeout_ms = 50
    async with db.transaction():
        await db.execute("select from collection for update")
        with pytest.raises(LockTimeout):
            await brought(site, KIND, "kb", {**DEFAULT, "k": 5})
    assert await KIND.read(site, "kb") == DEFAULT


async def test_kept_by_the_loop_and_taken_back(site: Site, db: Db) -> None:
    entry = await loop.plan(site, parts("search", "kb", {"k": 3}), Asked())
    assert entry is not None
    kept = await loop.apply(site, entry.id)
    assert (kept.state, kept.snapshot) == ("kept", (DEFAULT,))
    assert isinstance(site.measure, Fixed)
    ((now, want),) = site.measure.arms
    assert (now["kb"].policy, want["kb"].policy) == (DEFAULT, {**DEFAULT, "k": 3})
    assert (await site.app.collection("kb", fresh=True)).policy.k == 3
    undone = await loop.undo(site, entry.id)
    assert undone.undoes == entry.id
    assert await KIND.read(site, "kb") == DEFAULT
    assert await db.fetchval("select count(*) from search_policy") == 0


async def test_what_fails_was_never_in_force(site: Site, db: Db) -> None:
    site.measure = Fixed("fail")
    before = await db.fetchval("select search_version from collection")
    entry = await loop.plan(site, parts("search", "kb", {"ef_search": 1}), Asked())
    assert entry is not None
    assert (await loop.apply(site, entry.id)).state == "undone"
    assert await KIND.read(site, "kb") == DEFAULT
    assert await db.fetchval("select search_version from collection") == before


async def test_a_collection_removed_meanwhile_is_said(site: Site) -> None:
    (step,) = KIND.steps("kb", DEFAULT, {**DEFAULT, "k": 3})
    await catalog.remove_collection(site.app, "kb")
    with pytest.raises(NotFound, match="'kb' does not exist, or was removed meanwhile"):
        await KIND.run(site, step)


async def test_another_process_searches_by_the_policy_at_once(
    site: Site, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as other:
        assert len((await search_collections(other, query("word1", "kb"))).hits) == 6
        await brought(site, KIND, "kb", {**DEFAULT, "k": 4})
        assert len((await search_collections(other, query("word1", "kb"))).hits) == 4


def test_a_policy_has_the_fields_of_a_search_policy() -> None:
    assert search_policy.to_json(search_policy.DEFAULT) == DEFAULT


async def test_roles_that_search_may_read_policies(own_dsn: Dsn, site: Site) -> None:
    await brought(site, KIND, "kb", {**DEFAULT, "k": 4})
    for role in ("ragline_serve", "eval_app", "ltst_app", "ragline_read"):
        db = await connect(own_dsn.login(role, None))
        assert await db.fetchval("select k from search_policy") == 4
        await db.close()

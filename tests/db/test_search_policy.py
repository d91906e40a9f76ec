"""What a collection's policy, slot and space do to searches, in this process and in others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import numpy as np
import pytest

from conftest import TEMPLATE, _execute, opened
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.results import Method, SearchResult
from ragline.core.runs import Settings
from ragline.db import collections, documents
from ragline.errors import ModelError, NotFound
from ragline.evals.provenance import provenance
from ragline.models.embed import Embedded, Embedder
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag import answer, ingest
from ragline.rag.app import App
from ragline.rag.search import query, search_collections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
WORDS = tuple(f"word{n}" for n in range(60))
COUNT = 1200
OTHER = FakeEmbedder(32)


def _texts(count: int, seed: int = 1) -> list[ingest.Text]:
    random_ = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(WORDS) + 1)]
    return [
        ingest.Text(
            source=f"t{seed}-{n}",
            text=" ".join(random_.choices(WORDS, weights, k=8 + n % 9)),
            metadata={"part": n % 50},
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
async def filled(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A database whose collection is large enough for an index, to be cloned."""
    name = "ragline_test_policies"
    await _execute(template, f"create database {name} template {TEMPLATE}")
    folder = tmp_path_factory.mktemp("data")
    async with opened(template.on(name), folder, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, _texts(COUNT), "kb")
    yield name
    await _execute(template, f"drop database {name} with (force)")


@pytest.fixture
async def own_dsn(request: pytest.FixtureRequest, template: Dsn, filled: str) -> AsyncIterator[Dsn]:
    name = "ragline_test_policy"
    source = filled if "kb" in request.fixturenames else TEMPLATE
    await _execute(template, f"create database {name} template {source}")
    yield template.on(name)
    await _execute(template, f"drop database {name} with (force)")


@pytest.fixture
def kb(app: App) -> App:
    """An open ragline with a collection of that name."""
    return app


async def _policy(db: Db, name: str = "kb", **fields: Any) -> None:
    await db.execute(
        "delete from search_policy where collection_id = (select id from collection where name = $1)",
        name,
    )
    columns = ", ".join(fields)
    values = ", ".join(f"${number}" for number in range(2, len(fields) + 2))
    await db.execute(
        f"insert into search_policy (collection_id, {columns}) "  # noqa: S608 -- our own names
        f"select id, {values} from collection where name = $1",
        name,
        *fields.values(),
    )


def _vectors(count: int, dimension: int = 64) -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(3).normal(size=(count, dimension)).astype(np.float32))


def _chunks(result: SearchResult) -> list[int]:
    return [hit.chunk_id for hit in result.hits]


async def _found(app: App, question: str = "word3 word20", **asked: Any) -> SearchResult:
    return await search_collections(app, query(question, "kb", **asked))


async def _recall(app: App, **asked: Any) -> float:
    shares = []
    for vector in _vectors(20):
        ours = await _found(app, "", method="vector", vector=vector, **asked)
        best = await _found(app, "", method="vector", vector=vector, exact=True, k=ours.k)
        shares.append(len({*_chunks(ours)} & {*_chunks(best)}) / ours.k)
    return float(np.mean(shares))


async def test_k_is_the_policys_where_the_caller_does_not_say(kb: App, db: Db) -> None:
    assert (await _found(kb)).k == 10
    await _policy(db, k=3)

    # The version travels with hits: a search after the change knows of it.
    found = await _found(kb)

    assert (found.k, len(found.hits)) == (3, 3)
    assert found.used[0].policy == {"k": 3}
    assert len((await _found(kb, k=5)).hits) == 5


async def test_of_several_collections_the_largest_k_counts(kb: App, db: Db) -> None:
    await ingest.ingest_texts(kb, _texts(30, seed=2), "small")
    await _policy(db, k=3)
    both = query("word3", ["kb", "small"])
    assert (await search_collections(kb, both)).k == 10

    await _policy(db, "small", k=4)

    assert len((await search_collections(kb, both)).hits) == 4


async def test_ef_search_of_the_policy_is_used_and_a_callers_goes_before_it(
    kb: App, db: Db
) -> None:
    before = await _recall(kb)
    await _policy(db, ef_search=1, iterative="strict_order")

    after = await _recall(kb)

    assert before > 0.95
    assert after < before - 0.1
    assert (await _found(kb, method="vector")).used[0].ef_search == 1
    assert (await _found(kb, method="vector", ef_search=77)).used[0].ef_search == 77


async def test_ef_search_of_the_policy_goes_before_what_was_measured_for_filters(
    kb: App, db: Db
) -> None:
    await db.execute(
        "insert into search_calibration (space_id, exact_chunks, levels, chunks) "
        """select active_space_id, 1, '[{"share": 0.5, "ef_search": 400, "factor": 1, "recall": 1,
            "index_ms": 1, "exact_ms": 9}]', 1200 from collection"""
    )
    walked: dict[str, Any] = {"method": "vector", "filter": "part >= 5"}
    measured = await _found(kb, **walked)
    await _policy(db, ef_search=33)

    found = await _found(kb, **walked)

    assert (measured.used[0].ef_search, found.used[0].ef_search) == (400, 33)
    assert (await _found(kb, ef_search=44, **walked)).used[0].ef_search == 44


@pytest.mark.parametrize(("weight", "alone"), [(1.0, "vector"), (0.0, "lexical")])
async def test_a_half_with_all_the_weight_gives_its_own_order(
    kb: App, db: Db, weight: float, alone: Method
) -> None:
    questions = ("word3 word20", "word7", "word1 word2 word30")
    by_default = [_chunks(await _found(kb, q)) for q in questions]
    await _policy(db, vector_weight=weight)

    weighed = [await _found(kb, q) for q in questions]
    of_one = [await _found(kb, q, method=alone) for q in questions]

    # By score: equal ones stand by their number alone, and by their best rank in both.
    score = f"{alone}_distance" if alone == "vector" else f"{alone}_score"
    assert [[getattr(hit, score) for hit in found.hits] for found in weighed] == [
        [getattr(hit, score) for hit in found.hits] for found in of_one
    ]
    assert [_chunks(found) for found in weighed] != by_default


async def test_a_weight_comes_back_as_it_was_given(kb: App, db: Db) -> None:
    await _policy(db, vector_weight=0.7)

    assert (await kb.collection("kb", fresh=True)).policy.vector_weight == 0.7


async def test_an_early_exit_that_is_small_loses_the_best_by_words(kb: App, db: Db) -> None:
    questions = [f"word0 word{n} word{n + 7}" for n in range(1, 12)]

    async def scores() -> list[list[float]]:
        return [
            [h.score for h in (await _found(kb, q, k=1, method="lexical")).hits] for q in questions
        ]

    whole = await scores()
    await _policy(db, early_exit=1)
    hasty = await scores()

    assert hasty != whole
    assert all(ours <= best for ours, best in zip(hasty, whole, strict=True))


async def test_the_iterative_mode_is_the_policys(kb: App, db: Db) -> None:
    # The graph hands over less than is asked for.
    asked: dict[str, Any] = {"question": "word3", "method": "vector", "k": 50, "ef_search": 1}
    await _found(kb, **asked)
    assert kb.counters["search_widened"] == 1

    await _policy(db, iterative="off")
    await kb.collection("kb", fresh=True)
    off = await _found(kb, **asked)
    await _policy(db, iterative="strict_order")
    strict = await _found(kb, **asked)
    await _policy(db, iterative="relaxed_order")
    relaxed = await _found(kb, **asked)

    assert len(off.hits) < 50
    assert "more match" in off.warnings[0]
    assert not off.used[0].is_iterative
    assert off.used[0].policy == {"iterative": "off"}
    assert len(strict.hits) == len(relaxed.hits) == 50
    assert strict.used[0].is_iterative
    assert kb.counters["search_widened"] == 1
    distances = [hit.vector_distance or 0 for hit in relaxed.hits]
    assert distances == sorted(distances)


async def test_without_iterative_scan_a_filtered_walk_is_completed_by_comparing(
    kb: App, db: Db
) -> None:
    await db.execute(
        "insert into search_calibration (space_id, exact_chunks, levels, chunks) "
        """select active_space_id, 1, '[{"share": 0.02, "ef_search": 20, "factor": 1, "recall": 1,
            "index_ms": 1, "exact_ms": 9}]', 1200 from collection"""
    )
    narrow: dict[str, Any] = {"question": "word3", "method": "vector", "filter": "part = 7"}
    walked = await _found(kb, **narrow)
    assert kb.counters["search_widened"] == 0
    assert walked.used[0].is_iterative

    await _policy(db, iterative="off")
    completed = await _found(kb, **narrow)

    assert kb.counters["search_widened"] == 1
    assert len(walked.hits) == len(completed.hits) == 10


async def test_a_trial_changes_its_own_app_alone(
    kb: App, db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as other:
        assert len((await _found(kb)).hits) == len((await _found(other)).hits) == 10

        kb.trials["kb"] = Trial(policy={"k": 2, "ef_search": 50})

        assert len((await _found(kb)).hits) == 2
        assert len((await _found(other)).hits) == 10
        # What is changed for all is seen on trial too, and does not end it.
        await _policy(db, k=7)
        assert [len((await _found(one)).hits) for one in (kb, other)] == [2, 7]

        del kb.trials["kb"]
        assert len((await _found(kb)).hits) == 7


async def test_a_trial_of_what_is_not_there_says_so(kb: App) -> None:
    kb.trials["kb"] = Trial(slot=2)

    with pytest.raises(NotFound, match=r"collection 'kb' has no space 1 with an index in slot 2"):
        await _found(kb)


async def _second_index(app: App, db: Db, storage: str) -> str:
    space = await db.fetchval("select active_space_id from collection where name = 'kb'")
    await db.execute(
        "insert into space_index (space_id, slot, storage, m) values ($1, 2, $2, 8)", space, storage
    )
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        assert await collections.index_state(connection, space, 2) is None
        assert await collections.build_index(connection, space, 2)
        assert await collections.index_state(connection, space, 2)
        assert await collections.index_state(connection, space)
    await db.execute("analyze")
    return f"embedding_{space}_hnsw"


async def _plans(app: App) -> set[str | None]:
    asked: list[dict[str, Any]] = [{"method": "vector"}, {"method": "hybrid"}]
    found = [await _found(app, explain=True, **each) for each in asked]
    return {result.used[0].vector_plan for result in found}


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
async def test_the_index_of_a_slot_is_walked_when_the_slot_says_so_and_only_then(
    kb: App, db: Db, own_dsn: Dsn, tmp_path: Path, storage: str
) -> None:
    index = await _second_index(kb, db, storage)
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as other:
        assert await _plans(kb) == await _plans(other) == {f"Index Scan {index}"}

        kb.trials["kb"] = Trial(slot=2)
        assert await _plans(kb) == {f"Index Scan {index}_2"}
        assert await _plans(other) == {f"Index Scan {index}"}

        await db.execute("update embedding_space set index_slot = 2")
        assert await _plans(other) == {f"Index Scan {index}_2"}
        facts = await other.collection("kb")
        assert facts.space
        assert (facts.space.index_slot, facts.space.index_storage) == (2, storage)
        assert await _recall(other, ef_search=400) > 0.9


async def test_an_index_from_before_there_were_slots_is_walked(kb: App, db: Db) -> None:
    space = await db.fetchval("select active_space_id from collection where name = 'kb'")
    await db.execute(
        "insert into space_index (space_id, slot, storage) values ($1, 0, 'vector')", space
    )
    await db.execute("update embedding_space set index_slot = 0")
    pool = await kb.pool("admin")
    async with pool.connection() as connection:
        assert await collections.build_index(connection, space)

    assert await db.fetchval("select to_regclass($1) is not null", f"embedding_{space}_hnsw_0")
    assert await _plans(kb) == {f"Index Scan embedding_{space}_hnsw_0"}


async def test_what_a_broken_off_build_left_in_a_slot_goes_first(kb: App, db: Db) -> None:
    index = await _second_index(kb, db, "vector")
    await db.execute(
        "update pg_index set indisvalid = false where indexrelid = $1::regclass", f"{index}_2"
    )
    space = int(index.split("_")[1])
    pool = await kb.pool("admin")
    async with pool.connection() as connection:
        assert await collections.index_state(connection, space, 2) is False
        assert await collections.build_index(connection, space, 2)
        assert await collections.index_state(connection, space, 2)


# Two models.


@asynccontextmanager
async def _with_both(dsn: Dsn, folder: Path, first: Embedder) -> AsyncIterator[App]:
    async def second() -> Embedder | None:
        return OTHER

    async with opened(dsn, folder, first) as app:
        app.other_models = (second,)
        yield app


async def _second_space(app: App, db: Db, name: str = "kb") -> tuple[int, int]:
    """Make a space of the other model, and fill it; return the first one and this."""
    row = await db.fetchrow("select id, active_space_id from collection where name = $1", name)
    assert row
    space = await db.fetchval(
        "select create_space($1, $2, $3, $4, 'cosine', 'vector', true, '{}', true)",
        row["id"], OTHER.facts.model_id, OTHER.facts.weights_hash, OTHER.facts.dimension,
    )  # fmt: skip
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        chunks = await documents.without_vector(connection, row["id"], space, after=0, limit=10_000)
        if chunks:
            embedded = await OTHER.embed_documents([body for *_, body in chunks])
            await documents.add_vectors(connection, space, [c[0] for c in chunks], embedded.vectors)
    return row["active_space_id"], space


async def _use(db: Db, space: int) -> None:
    await db.execute(
        "update collection set active_space_id = $1 "
        "where id = (select collection_id from embedding_space where id = $1)",
        space,
    )


async def test_no_search_fails_while_the_space_is_swapped_between_two_models(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with (
        _with_both(own_dsn, tmp_path, FakeEmbedder()) as one,
        _with_both(own_dsn, tmp_path, FakeEmbedder()) as two,
    ):
        await ingest.ingest_texts(one, _texts(200), "kb")
        spaces = await _second_space(one, db)
        models, done = set(), asyncio.Event()
        searches = 0

        async def search(app: App, method: Method) -> None:
            nonlocal searches
            while not done.is_set():
                found = await _found(app, method=method)
                assert len(found.hits) == 10
                models.add(found.used[0].model_id)
                assert (await answer.answer_question(app, query("word3", "kb"))).found
                searches += 2

        async def swap() -> None:
            for number in range(30):
                await _use(db, spaces[number % 2])
                await asyncio.sleep(0.03)
            await _use(db, spaces[0])
            while len(models) < 2 or searches <= 30:  # on a machine that others use as well
                await _use(db, spaces[1])
                await asyncio.sleep(0.5)
                await _use(db, spaces[0])
                await asyncio.sleep(0.5)
            done.set()

        async with asyncio.TaskGroup() as group:
            for app in (one, two):
                for method in ("hybrid", "vector"):
                    group.create_task(search(app, method))
            group.create_task(swap())

        assert models == {"fake-64", "fake-32"}
        assert searches > 30
        # And once it is quiet, each knows at its next search; with the old space gone, too.
        await _use(db, spaces[1])
        assert (await _found(one)).used[0].model_id == "fake-32"
        await db.execute("delete from embedding_space where id = $1", spaces[0])
        assert (await _found(two, method="vector")).used[0].model_id == "fake-32"


async def test_a_space_on_trial_is_searched_with_its_own_model(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with _with_both(own_dsn, tmp_path, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, _texts(50), "kb")
        _, fresh = await _second_space(app, db)

        app.trials["kb"] = Trial(space_id=fresh)
        found = await _found(app)

        assert found.used[0].model_id == "fake-32"
        assert found.hits[0].vector_rank is not None


async def test_collections_of_two_models_are_searched_together(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with _with_both(own_dsn, tmp_path, FakeEmbedder()) as app:
        for name in ("kb", "other"):
            await ingest.ingest_texts(app, _texts(40), name)
        _, fresh = await _second_space(app, db, "other")
        await _use(db, fresh)

        asked = query("word3 word20", ["kb", "other"], k=20)
        found = await search_collections(app, asked)

        assert [used.model_id for used in found.used] == ["fake-64", "fake-32"]
        assert {hit.collection for hit in found.hits} == {"kb", "other"}
        assert (await answer.answer_question(app, asked)).found


async def test_without_the_model_of_the_space_a_search_says_which_one_it_was(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, _texts(20), "kb")
        _, fresh = await _second_space(app, db)
        await _use(db, fresh)

        with pytest.raises(ModelError, match=r"'kb' was embedded with fake-32 .* is fake-64"):
            await _found(app)
        with pytest.raises(ModelError, match=r"'kb' was embedded with fake-32 .* is fake-64"):
            await ingest.ingest_texts(app, _texts(5, seed=3), "kb")


async def test_an_ingest_embeds_with_the_model_of_the_collections_space(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with _with_both(own_dsn, tmp_path, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, _texts(20), "kb")
        _, fresh = await _second_space(app, db)
        await db.execute(f"delete from embedding_{fresh} where chunk_id % 2 = 0")  # noqa: S608
        await _use(db, fresh)

        report = await ingest.ingest_texts(app, _texts(20, seed=3), "kb")

        assert report.added == 20
        # What lacked a vector has one now, besides what is new.
        assert report.embedded == 30
        assert await _without_vector(db, fresh) == 0


async def _without_vector(db: Db, space: int) -> int:
    count: int = await db.fetchval(
        f"select count(*) from chunk c "  # noqa: S608 -- an integer
        f"where not exists (select from embedding_{space} e where e.chunk_id = c.id)"
    )
    return count


class Swapping(FakeEmbedder):
    """Has the space swapped while it embeds."""

    swap: Any = None

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        if self.swap is not None and len(texts) > 1:
            swap, self.swap = self.swap, None
            await swap()
        return await super().embed_documents(texts)


async def test_documents_that_come_while_the_space_is_swapped_are_in_the_new_one(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    embedder = Swapping()
    async with _with_both(own_dsn, tmp_path, embedder) as app:
        await ingest.ingest_texts(app, _texts(20), "kb")
        _, fresh = await _second_space(app, db)

        async def swap() -> None:
            await _use(db, fresh)

        embedder.swap = swap
        reports = await asyncio.gather(
            *(ingest.ingest_texts(app, _texts(60, seed=seed), "kb") for seed in (5, 6, 7))
        )

        assert [report.added for report in reports] == [60, 60, 60]
        assert [report.embedded for report in reports] == [60, 60, 60]
        assert await _without_vector(db, fresh) == 0


async def test_a_document_for_a_space_that_is_not_in_use_is_not_written(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with _with_both(own_dsn, tmp_path, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, _texts(3), "kb")
        old, fresh = await _second_space(app, db)
        await _use(db, fresh)
        facts = await app.collection("kb", fresh=True)
        made = documents.NewDocument(
            source="late", title=None, media_type="text/plain", body="word1", content_hash=b"1" * 32,
            recipe="r", metadata={}, chunks=(), term_counts=(),
        )  # fmt: skip
        pool = await app.pool("admin")
        async with pool.connection() as connection:
            with pytest.raises(documents.SpaceChanged, match=f"space is {fresh} now"):
                await documents.write(
                    connection, facts.id, made, {}, space_id=old, vectors=np.zeros((0, 64), "f4")
                )

        assert await db.fetchval("select count(*) from document where source = 'late'") == 0


async def test_a_measurement_says_what_policy_and_index_it_was_of(kb: App, db: Db) -> None:
    async def said() -> dict[str, Any]:
        return provenance(
            settings=Settings(collections=("kb",)),
            collections=[await kb.collection("kb", fresh=True)],
            server=None, embedding=None, chat=None, limits=None, judge_id=None, way=None,
        )  # fmt: skip

    usual = await said()
    await _policy(db, ef_search=20)
    searched_otherwise = await said()
    await db.execute("delete from search_policy")
    again = await said()
    await _second_index(kb, db, "halfvec")
    kb.trials["kb"] = Trial(slot=2)
    other_index = await said()

    assert usual["policies"] == {"kb": {}}
    assert searched_otherwise["policies"] == {"kb": {"ef_search": 20}}
    assert other_index["indexes"] == {
        "kb": {"slot": 2, "storage": "halfvec", "m": 8, "ef_construction": 64}
    }
    assert again["settings_hash"] == usual["settings_hash"]
    hashes = {one["settings_hash"] for one in (usual, searched_otherwise, other_index)}
    assert len(hashes) == 3

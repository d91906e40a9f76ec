"""Indexes tried on a copy: what is proposed holds, nobody's search meets a trial, and nothing stays."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pytest

from conftest import connect, opened
from ragline.cli import index_tune, index_tune_text
from ragline.config import Config
from ragline.core.attaching import Request
from ragline.core.dsn import Dsn
from ragline.core.frontier import Design
from ragline.core.gate import Judgement
from ragline.db import trial_tables
from ragline.db.search import Target
from ragline.errors import PreconditionFailed, RaglineError, UsageError
from ragline.evals import (
    exact_truth,
    frontier_plot,
    index_trials,
    index_tuning,
    production,
    tuning_questions,
)
from ragline.evals.exact_truth import Nearest
from ragline.evals.index_tuned import Tuned, Wanted
from ragline.evals.index_tuning import tune
from ragline.models.embed import Embedded, Embedder, ModelFacts
from ragline.rag import attach
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts
from ragline.rag.search import query, search_collections, target_of
from ragline.wiring import open_site
from servers import own_database

COLLECTION = "kb"
CHUNKS = 1_200
DIMENSION = 24
QUICK = Wanted(recall=0.9, is_quick=True)
EASY = Wanted(recall=0.5, is_quick=True)
"""A narrow search holds it at once."""


class Drawn:
    """Vectors drawn at random, the same for the same text: no index finds them easily."""

    facts = ModelFacts(
        model_id="drawn", weights_hash="drawn", dimension=DIMENSION, normalised=True, languages=(),
        max_tokens=10_000,
    )  # fmt: skip

    async def embed_query(self, text: str) -> npt.NDArray[np.float32]:
        return self._vector(text)

    async def embed_documents(self, texts: list[str]) -> Embedded:
        found = np.stack([self._vector(text) for text in texts])
        return Embedded(vectors=found, truncated=0, tokens=0)

    async def close(self) -> None:
        pass

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        seed = list(text.encode()[-32:])
        found = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
        return cast("npt.NDArray[np.float32]", found / np.linalg.norm(found))


class Place(NamedTuple):
    app: App
    dsn: Dsn
    folder: Path


@pytest.fixture(scope="module")
async def place(template: Dsn, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A collection that is large enough for indexes, and no test changes."""
    folder = tmp_path_factory.mktemp("tuned")
    async with (
        own_database(template) as dsn,
        opened(dsn, folder, cast("Embedder", Drawn())) as app,
    ):
        texts = [
            Text(source=f"t{n}", text=f"about {n}", metadata={"half": n % 2, "rare": n % 50})
            for n in range(CHUNKS)
        ]
        await ingest_texts(app, texts, COLLECTION)
        yield Place(app, dsn, folder)


async def asked(dsn: Dsn, sql: str, *values: Any) -> Any:
    db = await connect(dsn)
    try:
        return await db.fetchval(sql, *values)
    finally:
        await db.close()


async def left(dsn: Dsn) -> list[str]:
    """Return what trials have left in the catalog."""
    sql = "select array_agg(relname::text order by 1) from pg_class where relname ~ '^trial_'"
    return await asked(dsn, sql) or []


async def indexes(dsn: Dsn) -> list[str]:
    sql = "select array_agg(indexdef order by 1) from pg_indexes where schemaname = 'ragline'"
    return cast("list[str]", await asked(dsn, sql))


class Seen(NamedTuple):
    """A tuning, the sets of questions of each of its searches, and the indexes before and after."""

    tuned: Tuned
    searched: list[frozenset[bytes]]
    before: list[str]
    after: list[str]
    left: list[str]


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Look at production for a moment only: nothing here is measured by the clock."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(production, "_WINDOW", 5)
        patched.setattr(production, "_EVERY_S", 0.01)
        patched.setattr(production, "_CALM_WITHIN_S", 0.1)
        patched.setattr(production, "_LONGEST_PAUSE_S", 0.0)
        patched.setattr(tuning_questions, "QUESTIONS", 120)
        # So few and so short vectors are compared as quickly as an index is walked.
        patched.setattr(index_trials, "exact_ms", _long)
        yield


async def _long(_work: object) -> float:
    return 1000.0


@pytest.fixture(scope="module")
async def seen(place: Place) -> Seen:
    """One tuning, at which several tests look."""
    # So small a collection is compared whole within any filter, unless that was measured otherwise.
    await asked(
        place.dsn,
        "insert into search_calibration (space_id, exact_chunks, levels, chunks) "
        "select id, 200, $1, $2 from embedding_space on conflict (space_id) do update "
        "set exact_chunks = excluded.exact_chunks, levels = excluded.levels",
        '[{"share": 0.5, "ef_search": 40, "factor": 1, "recall": 0.9, "index_ms": 1, "exact_ms": 9}]',
        CHUNKS,
    )
    place.app.known.clear()
    place.app.samples.clear()
    searched: list[frozenset[bytes]] = []
    real = index_trials.searched

    async def noted(*arguments: Any) -> Any:
        searched.append(frozenset(vector.tobytes() for vector in arguments[2]))
        return await real(*arguments)

    before = await indexes(place.dsn)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index_trials, "searched", noted)
        tuned = await tune(
            place.app,
            COLLECTION,
            Wanted(recall=0.9, is_quick=True, filters=("half = 1", "rare = 7")),
        )
    return Seen(tuned, searched, before, await indexes(place.dsn), await left(place.dsn))


def test_what_is_proposed_holds_and_production_is_as_it_was(seen: Seen) -> None:
    tuned = seen.tuned

    assert tuned.proposal is not None, tuned.reason
    assert tuned.proposal.verdict in ("holds", "within its interval")
    assert tuned.proposal.unseen.high >= 0.9
    assert tuned.proposal.seen.low >= 0.9
    assert tuned.now is not None
    assert tuned.now.design == Design(method="hnsw", storage="vector", m=16, ef_construction=64)
    assert tuned.now.design in {trial.design for trial in tuned.trials}
    assert all(trial.size_bytes > 0 and trial.build_s > 0 for trial in tuned.trials)
    assert seen.before == seen.after
    assert seen.left == []


def test_the_check_asks_what_no_choice_has_seen(seen: Seen) -> None:
    chosen_by, checked_with = seen.searched[0], seen.searched[-1]

    warming = {one for one in seen.searched if one < chosen_by}
    assert set(seen.searched) == {chosen_by, checked_with, *warming}
    assert not chosen_by & checked_with
    assert (
        (len(chosen_by), len(checked_with)) == (seen.tuned.n_seen, seen.tuned.n_unseen) == (60, 60)
    )
    first_check = seen.searched.index(checked_with)
    assert chosen_by not in seen.searched[first_check:]


def test_a_filter_is_searched_as_production_does_with_the_proposed_breadth(seen: Seen) -> None:
    assert seen.tuned.proposal is not None, seen.tuned.reason
    half, rare = seen.tuned.proposal.filters

    assert (half.way, half.n, half.rows) == ("index, relaxed_order", 60, 1.0)
    assert half.share == 0.5
    assert half.recall > 0.8
    assert rare.way == "exact"


def test_the_frontier_is_printed_and_drawn(seen: Seen) -> None:
    tuned = seen.tuned

    shown = index_tune_text.text(tuned)
    drawn, page = frontier_plot.svg(tuned), frontier_plot.page(tuned)

    for trial in tuned.trials:
        one = trial.design
        assert f"{one.method} {one.storage} {one.m}/{one.ef_construction} " in shown
        assert str(trial.design) in drawn
        assert str(trial.design) in page
    assert shown.splitlines()[-1] == tuned.reason
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert page.startswith("<!doctype html>")
    assert drawn.count("<circle") >= sum(len(trial.points) for trial in tuned.trials)


def test_why_nothing_is_proposed_is_said_with_the_best_there_is(seen: Seen) -> None:
    trials = seen.tuned.trials
    size = min(trial.size_bytes for trial in trials)
    point = replace(trials[0].points[0], recall=0.97, low=0.96, high=0.98)

    out_of_reach = index_tuning._why_none(
        [replace(trial, points=(point,)) for trial in trials], Wanted(recall=0.99)
    )
    too_small = index_tuning._why_none(trials, Wanted(recall=0.5, max_bytes=size - 1))
    none_tried = index_tuning._why_none((), Wanted(recall=0.9, max_bytes=2**20))

    assert "no index holds 0.99 with the lower end of its interval" in out_of_reach
    assert "the best is 0.970 [0.960, 0.980]" in out_of_reach
    assert "holds 0.5; the least that does takes" in too_small
    assert none_tried == "no index is small enough to be tried: raise --max-size"


async def test_where_comparing_all_is_as_quick_no_index_is_proposed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(_work: object) -> float:
        return 0.0

    monkeypatch.setattr(index_trials, "exact_ms", at_once)

    tuned = await tune(place.app, COLLECTION, EASY)

    assert tuned.proposal is None
    assert "comparing every vector takes 0.00 ms, no longer than the quickest" in tuned.reason


async def test_too_few_vectors_need_no_index(own_dsn: Dsn, tmp_path: Path) -> None:
    async with opened(own_dsn, tmp_path, cast("Embedder", Drawn())) as app:
        await ingest_texts(app, [Text(source=f"{n}", text=f"no {n}") for n in range(50)], "few")

        tuned = await tune(app, "few", QUICK)

    assert tuned.proposal is None
    assert "has 50 vectors: comparing them all is exact" in tuned.reason
    assert "50 vectors" in index_tune_text.text(tuned)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(recall=1.0), "recall is 1; write a share between 0 and 1"),
        (Wanted(recall=0.0), "recall is 0"),
        (Wanted(recall=0.9, k=0), "k is 0"),
        (Wanted(recall=0.9, questions=("a", "b")), "2 different questions"),
        (Wanted(recall=0.9, questions=("a",), dataset="d"), "not from both"),
        (Wanted(recall=0.9, dataset="none"), "none"),
        (Wanted(recall=0.9, filters=("half =",)), "filter"),
        (Wanted(recall=0.9, max_bytes=1), "no index is smaller than 1 MB"),
    ],
)
async def test_what_cannot_be_tuned_is_refused_in_a_sentence(
    place: Place, wanted: Wanted, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        await tune(place.app, COLLECTION, wanted)


async def test_questions_of_a_file_are_embedded_by_the_collections_model(place: Place) -> None:
    questions = tuple(f"question {n}" for n in range(60))

    tuned = await tune(place.app, COLLECTION, replace(EASY, questions=questions))

    assert (tuned.n_seen, tuned.n_unseen) == (30, 30)
    assert tuned.questions == "the questions of a file"


async def test_too_little_disk_is_refused_before_anything_is_copied(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(9, 8, 1))
    copied = False

    def not_copied(*_arguments: object, **_more: object) -> None:
        nonlocal copied
        copied = True

    monkeypatch.setattr(trial_tables, "copied", not_copied)
    with pytest.raises(PreconditionFailed, match=r"free \d+ MB more"):
        await tune(place.app, COLLECTION, QUICK, folder=place.folder)
    assert not copied


async def test_a_tuning_that_is_interrupted_leaves_nothing(place: Place) -> None:
    lines: list[str] = []
    tuning = asyncio.create_task(tune(place.app, COLLECTION, QUICK, say=lines.append))
    while not lines and not tuning.done():  # noqa: ASYNC110 - it says a line for each index
        await asyncio.sleep(0.01)
    assert await left(place.dsn) != []

    tuning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tuning

    assert await left(place.dsn) == []


async def test_a_server_that_ends_the_sessions_is_said_and_nothing_is_left(place: Place) -> None:
    lines: list[str] = []
    tuning = asyncio.create_task(tune(place.app, COLLECTION, QUICK, say=lines.append))
    while not lines and not tuning.done():  # noqa: ASYNC110 - it says a line for each index
        await asyncio.sleep(0.01)
    await asked(
        place.dsn,
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and query ~ 'trial_'",
    )

    with pytest.raises(RaglineError):
        await tuning

    assert await left(place.dsn) == []


KILLED = """
import asyncio
import sys
from pathlib import Path

from ragline import config
from ragline.db import trial_tables
from ragline.rag.search import target_of
from ragline.wiring import open_app

async def hold() -> None:
    async with open_app(config.load()) as app:
        facts = await app.collection("kb")
        admin = await app.pool("admin")
        async with trial_tables.copied(admin.dsn, target_of(facts)) as table:
            print(table.name, flush=True)
            await asyncio.sleep(3600)

asyncio.run(hold())
"""


def holding(dsn: Dsn, folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a trial's table."""
    host = dsn.hosts[0]
    password = dsn.password.reveal() if dsn.password else ""
    where = f"host={host.host} port={host.port} dbname={dsn.database} user={dsn.user}"
    environment = {
        **os.environ,
        "DATABASE_URL": f"{where} password={password}" if password else where,
        "RAGLINE_DATA_DIR": str(folder),
    }
    return subprocess.Popen(
        [sys.executable, "-c", KILLED], env=environment, stdout=subprocess.PIPE, text=True
    )


async def test_what_a_killed_tuning_left_goes_with_the_next_and_a_living_ones_stays(
    place: Place, tmp_path: Path
) -> None:
    child = holding(place.dsn, tmp_path)
    assert child.stdout is not None
    name = (await asyncio.to_thread(child.stdout.readline)).strip()
    db = await connect(place.dsn)
    try:
        assert await trial_tables.sweep(db) == 0
        assert name in await left(place.dsn)

        child.send_signal(signal.SIGKILL)
        child.wait()
        while await trial_tables.sweep(db) == 0:  # until the server noticed  # noqa: ASYNC110
            await asyncio.sleep(0.05)

        assert await left(place.dsn) == []
    finally:
        child.kill()
        child.wait()
        await db.close()


async def test_two_tunings_at_once_have_a_table_each(place: Place) -> None:
    target = target_of(await place.app.collection(COLLECTION))
    dsn = (await place.app.pool("admin")).dsn
    async with (
        trial_tables.copied(dsn, target) as one,
        trial_tables.copied(dsn, target) as other,
    ):
        assert one.name != other.name
        assert one.rows == other.rows == CHUNKS
    assert await left(place.dsn) == []


DESIGNS = [
    Design(method="hnsw", storage="vector", m=16, ef_construction=200),
    Design(method="hnsw", storage="halfvec", m=16, ef_construction=200),
    Design(method="hnsw", storage="bit", m=16, ef_construction=200),
    Design(method="ivfflat", storage="vector", lists=10),
    Design(method="ivfflat", storage="halfvec", lists=10),
]


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
async def test_the_truth_is_what_the_server_finds_and_every_design_finds_most_of_it(
    own_dsn: Dsn, metric: str, storage: str
) -> None:
    db = await connect(own_dsn)
    await db.execute(
        "insert into collection (name, chunk_size, chunk_overlap) values ('kb', 256, 32)"
    )
    sql = "select create_space(1, 'm', 'w', 16, $1, $2, true, '{}', false)"
    space = await db.fetchval(sql, metric, storage)
    await db.execute("set session_replication_role = replica")  # vectors without their chunks
    await db.execute(
        f"""
        insert into embedding_{space} (chunk_id, embedding)
        select n, array(select random() - 0.5 + n * 0 from generate_series(1, 16))::{storage}(16)
        from generate_series(1, 400) as n
        """  # noqa: S608 -- numbers and names of the test's own
    )
    await db.close()
    target = Target(
        collection="kb",
        collection_id=1,
        space_id=space,
        dimension=16,
        metric=metric,
        storage=storage,
    )
    async with trial_tables.copied(own_dsn, target) as table:
        questions = np.stack(await trial_tables.drawn(table, 20, 1)) + np.float32(0.1)
        (truth,) = await exact_truth.exact(
            lambda: trial_tables.streamed(table), [Nearest(questions, 10, metric)]
        )
        exact = trial_tables.exact_statement(table, 10)
        for number, vector in enumerate(questions):
            rows = await table.searcher.fetch(exact, vector)
            assert truth.recall(number, [row[0] for row in rows]) >= (
                1.0 if storage == "vector" else 0.9
            )
        possible = trial_tables.storages(table)
        for design in DESIGNS:
            if not possible[design.storage]:
                continue
            seconds, size = await trial_tables.build(table, design, memory=64 * 2**20)
            breadth = 10 if design.method == "ivfflat" else 400
            search = trial_tables.search_statement(table, design, 10, breadth)
            plan = await trial_tables.plan_of(table, search, [questions[0], str(breadth)])
            assert trial_tables.is_indexed(plan, table), (design, plan)
            found = [
                await table.searcher.fetch(search, vector, str(breadth)) for vector in questions
            ]
            recalls = [truth.recall(n, [row[0] for row in rows]) for n, rows in enumerate(found)]
            assert np.mean(recalls) > 0.97, design
            assert seconds > 0
            assert size > 0


def test_equally_near_vectors_are_equally_right() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 1, 1, 2]]
    nearest = Nearest(np.array([[0.0, 1.0, 0.0, 0.0]], dtype=np.float32), 2, "cosine")
    for number, vector in enumerate(vectors):
        nearest.see(np.array([number]), vector[None, :])

    truth = nearest.truth()

    assert truth.recall(0, [1, 2]) == truth.recall(0, [2, 3]) == 1.0
    assert truth.recall(0, [1, 0]) == 0.5
    assert truth.recall(0, []) == 0.0


async def test_a_proposal_is_applied_as_one_change_of_index_and_search(
    place: Place, tmp_path: Path
) -> None:
    class Kept:
        async def pair(self, *_arguments: object) -> Judgement:
            return Judgement(status="pass", reason="as good", rung="recall")

    async with open_site(Config(dsn=place.dsn, data_dir=tmp_path)) as site:
        site.measure = cast("Any", Kept())
        tuned, entry, refused, _ = await index_tune._tuned(
            site, COLLECTION, EASY, apply_now=True, quiet=True
        )

        assert refused is None
        assert entry is not None
        assert entry.state == "kept"
        assert tuned.proposal is not None
        facts = await site.app.collection(COLLECTION, fresh=True)
        design = tuned.proposal.design
        assert facts.space is not None
        assert (facts.space.index_storage, facts.space.index_m, facts.space.index_ef_construction) == (
            design.storage, design.m, design.ef_construction,
        )  # fmt: skip
        assert facts.policy.ef_search == tuned.proposal.ef_search
        vector = await Drawn().embed_query("about 7")
        asking = query("", COLLECTION, method="vector", vector=vector, explain=True)
        found = await search_collections(site.app, asking)
        assert found.used[0].ef_search == tuned.proposal.ef_search
        # The one that was in use stays where it was, should it be the cheapest.
        is_new = design != Design(method="hnsw", storage="vector", m=16, ef_construction=64)
        assert facts.space.index_slot == (2 if is_new else 1)
        name = "embedding_1_hnsw" + ("_2" if is_new else "")
        assert found.used[0].vector_plan == f"Index Scan {name}"


async def test_a_table_of_somebody_elses_is_tuned_in_place(own_dsn: Dsn, tmp_path: Path) -> None:
    db = await connect(own_dsn)
    await db.execute(
        """
        create table public."Their notes" (id uuid primary key, body text, "The vector" vector(16));
        insert into public."Their notes"
        select gen_random_uuid(), 'note ' || n,
               array(select random() - 0.5 + n * 0 from generate_series(1, 16))::vector(16)
        from generate_series(1, 1100) as n;
        analyze public."Their notes";
        """
    )
    there = "select array_agg(c.relname::text order by 1) from pg_class c"
    async with opened(own_dsn, tmp_path, None) as app:
        asking = Request(
            table='public."Their notes"', id="id", text="body", embedding="The vector",
            collection="theirs", model="unknown",
        )  # fmt: skip
        await attach.attach(app, asking)
        before = await db.fetchval(there)

        tuned = await tune(app, "theirs", EASY)

    assert tuned.proposal is not None, tuned.reason
    assert tuned.now is not None
    assert tuned.now.recall == 1.0  # there is no index: all are compared
    assert await db.fetchval(there) == before
    await db.close()

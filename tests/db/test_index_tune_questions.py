"""What an index tuning asks, and that the change it plans is judged by questions of the same sort."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import gated
from conftest import connect
from gated import COLLECTION, ClusteredEmbedder
from ragline.change import loop
from ragline.change.kinds.search import Search
from ragline.cli import change_text, index_tune
from ragline.core.change import Entry, Part, Trial
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked
from ragline.core.search_policy import SearchPolicy, to_json
from ragline.db import trial_tables
from ragline.db.search import Target
from ragline.evals import exact_truth, gate_questions, likely_questions, tuning_questions
from ragline.evals.exact_truth import Nearest
from ragline.evals.gate import Gate
from ragline.evals.index_tuned import Wanted
from ragline.ops import giving_way
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts
from ragline.wiring import open_site

CHUNKS = 1_500
QUICK = Asked(collections=(COLLECTION,), questions=60, budget_s=2.0)


@pytest.fixture
async def open_app(own_dsn: Dsn, tmp_path: Path) -> gated.OpenApp:
    opening = gated.opener(own_dsn, tmp_path, ClusteredEmbedder(CHUNKS))
    async with opening("serve", {}) as app:
        await gated.fill(app, own_dsn, CHUNKS)
    return opening


async def test_headings_titles_and_sentences_are_asked_each_once_and_none_again(
    app: App, db: Any
) -> None:
    texts = [
        Text(source=f"t{n}.md", text=f"# Part {n} of all ¶\n\nWhat number {n} says is this.",
             media_type="text/markdown", title=f"Page {n}")
        for n in range(40)
    ]  # fmt: skip
    await ingest_texts(app, texts, "kb")
    facts = await app.collection("kb", fresh=True)

    first = await likely_questions.likely(app, facts, 20)
    more = await likely_questions.likely(app, facts, 20, first)

    assert len(first) == len(more) == 20
    assert len({text.casefold() for text in (*first, *more)}) == 40
    assert {text.split()[0] for text in first} == {"Part", "What"}
    assert not any("¶" in text for text in first)


async def test_a_change_of_a_tuning_is_judged_by_the_sort_it_was_tuned_by(
    open_app: gated.OpenApp,
) -> None:
    given = tuple(f"question {n}" for n in range(40))
    async with open_app("serve", {}) as app:
        every = await gate_questions.drawn(app, QUICK)
        likely = await gate_questions.drawn(app, replace(QUICK, sampled="likely"))
        midway = await gate_questions.drawn(app, replace(QUICK, sampled="midway"))
        own = await gate_questions.drawn(app, replace(QUICK, sampled="given", texts=given))
        more = await gate_questions.more(app, likely.groups, 10, 2)
        none = await gate_questions.more(app, own.groups, 10, 2)

    assert next(group.name for group in every.groups) == "docs"
    assert {group.name for group in every.groups} >= {"docs", "words of docs"}
    assert all(group.is_worded and not group.is_known for group in likely.groups)
    assert {group.method for group in likely.groups} == {"vector", "hybrid"}
    assert all(not group.is_worded for group in midway.groups)
    assert [one.text for one in own.groups[0].questions] == list(given)
    assert [len(group.questions) for group in more] == [70] * len(more)
    assert len({one.text for one in more[0].questions}) == 70
    assert [len(group.questions) for group in none] == [40] * len(none)


@pytest.mark.parametrize("sampled", ["likely", "midway", "given"])
async def test_each_sort_tells_a_narrow_search_from_the_same_one(
    open_app: gated.OpenApp, sampled: Any
) -> None:
    asked = replace(
        QUICK, sampled=sampled, texts=tuple(f"no {n}" for n in range(60)), quality_margin=0.02
    )
    same = {COLLECTION: Trial(policy=to_json(SearchPolicy(ef_search=100)))}
    narrow = {COLLECTION: Trial(policy=to_json(SearchPolicy(ef_search=3, iterative="off")))}

    unchanged = await Gate(open_app).pair(asked, same, same)
    worse = await Gate(open_app).pair(asked, same, narrow)

    assert unchanged.rung == "identical"
    assert worse.status == "fail", worse.reason


def test_what_the_ledger_kept_before_there_were_sorts_is_still_read() -> None:
    stored = {**asdict(QUICK), "collections": ["docs"], "filters": []}
    old = {name: value for name, value in stored.items() if name not in ("sampled", "texts")}

    for one in (old, {**stored, "texts": ["a", "b"], "sampled": "given"}):
        entry = cast("Entry", SimpleNamespace(asked=one))
        asked = loop._asked(entry)
        assert asked is not None
        assert asked.sampled == one.get("sampled", "all")
        assert asked.texts == tuple(one.get("texts", ()))
        assert "questions" in change_text._measured(one)


async def test_a_breadth_has_an_effect_where_the_same_change_builds_the_index(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    from ragline.config import Config

    async with open_site(Config(dsn=own_dsn, data_dir=tmp_path)) as site:
        await gated.fill(site.app, own_dsn, 50)
        db = await connect(own_dsn)
        await db.execute("drop index ragline.embedding_1_hnsw")
        await db.close()
        site.app.known.clear()
        index = Part(kind="index", target=COLLECTION, want={"m": 16})
        want = {"ef_search": 40}

        _, alone = await Search().wanted(site, COLLECTION, want)
        _, joined = await Search().wanted(replace(site, together=(index,)), COLLECTION, want)
        plan = await loop.preview(site, [index, Part(kind="search", target=COLLECTION, want=want)])

    assert any("has no vector index" in said for said in alone)
    assert not any("no effect" in said for said in joined)
    assert not any("no effect" in said for part in plan.parts for said in part.warnings)


async def test_without_a_model_points_between_vectors_are_asked_and_that_is_said(
    open_app: gated.OpenApp, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with open_app("serve", {}) as app:
        facts = await app.collection(COLLECTION)
        assert facts.space is not None
        likely = await tuning_questions.texts(app, facts, facts.space, Wanted(recall=0.9))
        forced = await tuning_questions.texts(
            app, facts, facts.space, Wanted(recall=0.9, is_midway=True)
        )
    async with gated.opener(own_dsn, tmp_path)("serve", {}) as app:
        without = await tuning_questions.texts(app, facts, facts.space, Wanted(recall=0.9))

    assert (likely.sampled, forced.sampled, without.sampled) == ("likely", "midway", "midway")
    assert likely.texts is not None
    assert len(set(likely.texts)) == len(likely.texts) >= tuning_questions.FEWEST
    assert "is not configured" in without.said


def test_the_change_of_a_tuning_may_lose_what_lies_above_the_target_only() -> None:
    tuned = cast("Any", SimpleNamespace(
        collection="kb", sampled="given", unseen=("a", "b"), now=SimpleNamespace(recall=0.99)
    ))  # fmt: skip

    asked = index_tune._asked(tuned, Wanted(recall=0.95, dataset="d"))

    assert (asked.sampled, asked.texts, asked.dataset) == ("given", ("a", "b"), "d")
    assert asked.quality_margin == pytest.approx(0.05)


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_where_hundreds_are_equally_near_each_of_them_is_right(metric: str) -> None:
    generator = np.random.default_rng(1)
    same = generator.normal(size=(1, 32)).astype(np.float32)
    vectors = np.concatenate([np.repeat(same, 500, axis=0), same * -1.0])
    numbers = np.arange(len(vectors), dtype=np.int64) * 7 - 1000

    async def blocks() -> Any:
        for at in range(0, len(vectors), 60):
            yield numbers[at : at + 60], vectors[at : at + 60]

    async def found() -> exact_truth.Truth:
        (truth,) = await exact_truth.exact(blocks, [Nearest(same, 10, metric)])
        return truth

    import asyncio

    truth = asyncio.run(found())

    assert truth.recall(0, numbers[-11:-1].tolist()) == 1.0
    assert truth.recall(0, numbers[:10].tolist()) == 1.0
    assert truth.recall(0, [int(numbers[-1]), *numbers[:9].tolist()]) == pytest.approx(0.9)
    assert truth.recall(0, [int(numbers[0])] * 10) == pytest.approx(0.1)
    assert truth.recall(0, [5, 6, 10**15]) == 0.0


@pytest.mark.parametrize(
    ("dimension", "storage", "possible"),
    [(3072, "vector", {"halfvec", "bit"}), (32, "halfvec", {"halfvec", "bit"})],
)
async def test_only_what_the_server_can_index_is_tried_and_nobody_else_may_read_the_copy(
    own_dsn: Dsn, dimension: int, storage: str, possible: set[str]
) -> None:
    from ragline.core.frontier import Design

    db = await connect(own_dsn)
    try:
        await db.execute(
            "insert into collection (name, chunk_size, chunk_overlap) values ('kb', 256, 32)"
        )
        sql = "select create_space(1, 'm', 'w', $1, 'cosine', $2, true, '{}', false)"
        space = await db.fetchval(sql, dimension, storage)
        await db.execute("set session_replication_role = replica")  # vectors without their chunks
        await db.execute(
            f"""
            insert into embedding_{space} (chunk_id, embedding)
            select n, array_fill((1)::real, array[{dimension}])::{storage}({dimension})
            from generate_series(1, 120) as n
            """  # noqa: S608 -- numbers and names of the test's own
        )
        target = Target(
            collection="kb", collection_id=1, space_id=space, dimension=dimension, metric="cosine",
            storage=storage,
        )  # fmt: skip
        async with trial_tables.copied(own_dsn, target) as table:
            assert {one for one, is_so in trial_tables.storages(table).items() if is_so} == possible
            design = Design(method="hnsw", storage="halfvec", m=8, ef_construction=16)
            await trial_tables.build(table, design, memory=2**26)
            others = await db.fetch(
                """
                select r.rolname from pg_roles r, pg_class c
                where c.oid = $1::text::regclass and not r.rolsuper and r.rolname !~ '^pg_'
                  and has_table_privilege(r.oid, c.oid, 'select')
                  and not pg_has_role(r.oid, c.relowner, 'usage')
                """,
                table.full_name,
            )
            assert others == []
            questions = np.stack(await trial_tables.drawn(table, 2, 1))
            (truth,) = await exact_truth.exact(
                lambda: trial_tables.streamed(table), [Nearest(questions, 10, "cosine")]
            )
            search = trial_tables.search_statement(table, design, 10, 40)
            rows = await table.searcher.fetch(search, questions[0], "40")
            assert truth.recall(0, [row[0] for row in rows]) == 1.0
    finally:
        await db.close()


def test_only_a_process_of_that_server_gets_another_priority(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    process = tmp_path / "proc" / "42"
    for folder in (data, other, process):
        folder.mkdir(parents=True)
    (process / "cmdline").write_bytes(b"postgres: admin")
    (process / "cwd").symlink_to(other)
    (process / "autogroup").write_text("")

    assert giving_way.come_last(42, data, tmp_path) is None
    assert (process / "autogroup").read_text() == ""

    (process / "cmdline").write_bytes(b"vim")
    assert giving_way.come_last(42, other, tmp_path) is None

"""Runs: what they measure, what they take from before, where they end early, how they go on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import numpy as np
import psycopg
import pytest

import evaluated
from evaluated import APPLE, BY_WORDS, CASES, COLLECTION, PEAR, TEXTS, prepared, results, run
from ragline.core.cases import Case, Context, Relevant
from ragline.core.claims import METRICS, ClaimLabels
from ragline.core.dsn import Dsn
from ragline.core.runs import CaseResult, Limits, Settings, Spent
from ragline.db import evals
from ragline.errors import (
    Conflict,
    ModelError,
    ModelUnavailable,
    NotFound,
    UsageError,
)
from ragline.evals.run import Progress, ended_by, evaluate
from ragline.evals.saving import Book
from ragline.models.embed import Embedded, Embedder, Vector
from ragline.models.embed_fake import FakeEmbedder
from ragline.models.judge_fake import FakeJudge
from ragline.models.llm_fake import FakeChat
from ragline.rag.app import App
from ragline.rag.ingest import Policy, Text, ingest_texts
from ragline.signals import usage

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
HYBRID = Settings(collections=(COLLECTION,), k=3)
JUDGED = replace(BY_WORDS, answers="extractive", judge="llm")
GENERATED = replace(BY_WORDS, answers="generated", judge="llm")
# Two texts taken apart; two claims and one, held against each other and against one context.
FIRST_CASE = 2 + 2 + 1 + 2 + 1


class Costly(FakeChat):
    """A chat model each of whose answers takes 10 tokens and 100 micro-dollars."""

    async def stream(self, *given: Any, **options: Any) -> AsyncIterator[Any]:
        usage.sent()
        async for piece in super().stream(*given, **options):
            yield piece
        usage.answered(5, 5, Decimal(100))


@pytest.fixture
async def app(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[App]:
    """An app for evaluations with the fake embedder."""
    async with evaluated.opened(own_dsn, tmp_path, embedder=FakeEmbedder()) as app:
        yield app


# -- what is measured ------------------------------------------------------------------------------


async def test_retrieval_metrics_are_the_numbers_worked_out_by_hand(app: App) -> None:
    await prepared(app)

    done = await run(app)

    assert (done.state, done.done, done.failed, done.cases) == ("complete", 3, 0, 3)
    # apple: found first; pear: the first of two found first; iron: the relevant one is not found.
    ndcg = (1 + 1 / (1 + 1 / math.log2(3)) + 0) / 3
    expected = {
        "recall@3": (1 + 0.5 + 0) / 3,
        "hit@3": 2 / 3,
        "precision@3": (1 / 3 + 1 / 3) / 3,
        "mrr@3": 2 / 3,
        "map@3": (1 + 0.5) / 3,
        "ndcg@3": ndcg,
    }
    assert {name: done.metrics[name].value for name in expected} == pytest.approx(expected)
    assert all(done.metrics[name].n == 3 and not done.metrics[name].missing for name in expected)
    times = sorted(result.metrics["search_ms"] for result in await results(app, done))
    assert done.metrics["p50_ms"].value == pytest.approx(times[1])
    assert times[1] < done.metrics["p95_ms"].value <= times[2]
    assert done.metrics["eval_seconds"].value == pytest.approx(done.seconds)
    assert done.metrics["eval_cost_micro_usd"].value == 0


async def test_hits_are_stored_with_their_chunks_and_hashes_of_their_texts(
    app: App, db: Db
) -> None:
    await prepared(app)

    done = await run(app)

    (first, *_) = await results(app, done)
    hit = first.hits[0]
    assert (first.case_id, first.ordinal, hit.source) == ("apple", 0, "fruit/apple.md")
    stored = await db.fetchval(
        "select left(encode(sha256(body::bytea), 'hex'), 16) from ragline.chunk where id = $1",
        hit.chunk_id,
    )
    assert hit.hash == stored


async def test_the_phases_of_a_case_sum_up_to_its_total(app: App) -> None:
    await prepared(app)

    done = await run(app, replace(HYBRID, answers="extractive", against_exact=True))

    for result in await results(app, done):
        assert sum(result.phases_ms.values()) == pytest.approx(result.total_ms, rel=1e-12)
        assert {"embed", "database.search", "database.exact", "database.statistics"} <= set(
            result.phases_ms
        )
        assert {"extract", "rest"} <= set(result.phases_ms)
        # Reading the statement's time is most of what the search took by its own clock.
        assert result.phases_ms["database.search"] <= result.metrics["search_ms"] * 1.05
    assert done.phases_ms["rest"] == pytest.approx(
        sum(result.phases_ms["rest"] for result in await results(app, done))
    )


async def test_a_run_says_what_it_was_measured_on(app: App) -> None:
    await prepared(app)

    done = await run(app, HYBRID, name="first")

    facts = await app.collection(COLLECTION)
    assert facts.space is not None
    assert done.name == "first"
    provenance = done.provenance
    assert provenance["epochs"] == {COLLECTION: facts.epoch}
    assert provenance["spaces"][COLLECTION]["weights_hash"] == facts.space.weights_hash
    assert provenance["policies"] == {COLLECTION: {}}
    assert provenance["indexes"] == {
        COLLECTION: {"slot": 1, "storage": "vector", "m": 16, "ef_construction": 64}
    }
    assert provenance["server"]["postgresql"].startswith("18")
    assert provenance["server"]["settings"]["hnsw.ef_search"] == "40"
    assert provenance["match"] == "source"
    assert len(provenance["code"]["source"]) == 16
    other = await run(app, replace(HYBRID, k=2))
    assert other.provenance["settings_hash"] != provenance["settings_hash"]
    same = await run(app, HYBRID, Limits(concurrency=1, max_time_s=60))
    assert same.provenance["settings_hash"] == provenance["settings_hash"]


async def test_searches_run_on_the_workload_of_evaluations(app: App, db: Db) -> None:
    await prepared(app)

    await run(app)

    assert app.pools.keys() >= {"eval"}
    assert "serve" not in app.pools
    user = await db.fetchval(
        "select string_agg(distinct usename, ',') from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and usename <> 'ragline_admin'"
    )
    assert user == "eval_app"


async def test_only_an_app_on_that_workload_can_evaluate(app: App) -> None:
    await prepared(app)
    app.search_workload = "serve"

    with pytest.raises(UsageError, match="search_workload='eval'"):
        await run(app)


async def test_exact_search_is_what_ann_recall_is_measured_against(app: App) -> None:
    await prepared(app)

    done = await run(app, replace(HYBRID, against_exact=True))

    assert done.metrics["ann_recall@3"].value == 1.0
    assert done.metrics["rows"].value == 1.0


async def test_fewer_hits_than_asked_for_are_seen(app: App) -> None:
    await prepared(app)

    done = await run(app, replace(BY_WORDS, k=3))

    # Of "apple", one text.
    assert (await results(app, done))[0].metrics["rows"] == pytest.approx(1 / 3)


async def test_extractive_answers_are_measured_by_words_and_by_being_declined(app: App) -> None:
    nothing = Case(id="none", question="zebra xylophone quartz?", is_answerable=False)
    apple = replace(APPLE, relevant=(Relevant(document="apple", passage="An apple is red."),))
    texts = [replace(TEXTS[0], text="An apple is red."), *TEXTS[1:]]
    await prepared(app, [apple, nothing], texts)

    done = await run(app, replace(BY_WORDS, answers="extractive"))

    assert done.metrics["answered"].value == 1.0
    assert done.metrics["exact_match"].value == 1.0
    assert done.metrics["cited"].value == 1.0
    assert done.metrics["declined"].value == 1.0
    assert done.metrics["abstention_precision"].value == 1.0
    assert done.metrics["abstention_recall"].n == 1
    assert done.provenance["match"] == "stem"
    (one, other) = await results(app, done)
    assert one.answer == "An apple is red. [1]"
    assert one.found is True
    assert other.found is False


async def test_a_lexical_judge_leaves_metrics_under_its_own_names(app: App) -> None:
    await prepared(app)

    done = await run(app, replace(BY_WORDS, answers="extractive", judge="lexical"))

    assert done.judge_id == "lexical-v1"
    assert not set(METRICS) & set(done.metrics)
    assert done.metrics["lex_f1"].n == 3
    assert done.metrics["lex_faithfulness"].value == 1.0


async def test_claims_are_judged_and_stored(own_dsn: Dsn, tmp_path: Path) -> None:
    judge = FakeJudge()
    async with evaluated.opened(own_dsn, tmp_path, judge=judge) as app:
        await prepared(app)

        done = await run(app, JUDGED)

        assert done.judge_id == judge.id
        first = (await results(app, done))[0]
        assert first.labels is not None
        assert first.labels.answer_claims[0] == ("An apple is red.",)
        assert first.labels.answer_by_gold[0] == "Entailment"
        assert first.metrics["recall"] == 1.0
        assert first.contexts == (TEXTS[0].text,)
    assert judge.is_closed


# -- whether a dataset fits ------------------------------------------------------------------------


async def test_a_dataset_about_other_documents_is_refused_before_a_run_exists(app: App) -> None:
    await prepared(app, [replace(APPLE, relevant=(Relevant(document="d17"),))])

    with pytest.raises(UsageError, match=r"none of the 1 documents .* 'd17'"):
        await run(app)

    pool = await app.pool("eval")
    async with pool.connection() as connection:
        assert await evals.runs(connection) == []


async def test_missing_documents_are_counted_and_count_as_not_found(app: App) -> None:
    lost = replace(PEAR, relevant=(Relevant(document="fruit/quince.md"),))
    await prepared(app, [APPLE, lost])

    done = await run(app)

    assert done.metrics["recall@3"].value == 0.5
    assert any("1 of 2 relevant documents are not in" in said for said in done.warnings)


@pytest.mark.parametrize(
    ("name", "match"),
    [("fruit/apple.md", "source"), ("apple.md", "name"), ("apple", "stem")],
)
async def test_documents_are_matched_by_source_name_or_stem(
    app: App, name: str, match: str
) -> None:
    await prepared(app, [replace(APPLE, relevant=(Relevant(document=name),))])

    done = await run(app)

    assert done.provenance["match"] == match
    assert done.metrics["recall@3"].value == 1.0


async def test_rows_of_a_file_are_matched_by_what_stands_behind_the_hash(app: App) -> None:
    texts = [replace(text, source=f"corpus.jsonl#{n}") for n, text in enumerate(TEXTS, start=100)]
    await prepared(app, [replace(APPLE, relevant=(Relevant(document="100"),))], texts)

    done = await run(app)

    assert done.provenance["match"] == "row"
    assert done.metrics["recall@3"].value == 1.0


async def test_a_way_of_matching_can_be_insisted_on(app: App) -> None:
    await prepared(app, [replace(APPLE, relevant=(Relevant(document="apple"),))])

    with pytest.raises(UsageError, match="as its source"):
        await run(app, replace(BY_WORDS, match="source"))


async def test_documents_that_share_a_name_are_said(app: App) -> None:
    texts = [*TEXTS, Text(source="old/apple.md", text="An apple was green.")]
    await prepared(app, [replace(APPLE, relevant=(Relevant(document="apple.md"),))], texts)

    done = await run(app)

    assert any("that others share" in said for said in done.warnings)


# -- what cannot be measured -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"judge": "lexical"}, "needs answers"),
        ({"judge": "imported", "answers": "extractive"}, "contexts fixed"),
        ({"contexts": "fixed"}, "without a judge"),
        ({"contexts": "fixed", "judge": "lexical", "answers": "generated"}, "cannot go with"),
        ({"contexts": "fixed", "judge": "lexical"}, "has contexts of its own"),
        ({"contexts": "fixed", "judge": "lexical", "against_exact": True}, "needs searches"),
        ({"collections": ()}, "name the collection"),
        ({"k": 0}, "k is 0"),
        ({"filter": "((("}, "filter"),
    ],
)
async def test_settings_that_measure_nothing_are_refused(
    app: App, changed: dict[str, Any], why: str
) -> None:
    await prepared(app)

    with pytest.raises(UsageError, match=why):
        await run(app, replace(BY_WORDS, **changed))


async def test_a_dataset_that_is_not_there_is_named_with_those_that_are(app: App) -> None:
    await prepared(app)

    with pytest.raises(NotFound, match="'large' does not exist; there are: small"):
        await evaluate(app, "large", BY_WORDS, Limits())


async def test_without_the_model_of_a_collection_nothing_is_measured(
    own_dsn: Dsn, tmp_path: Path, app: App
) -> None:
    await prepared(app)
    async with evaluated.opened(own_dsn, tmp_path) as without:
        with pytest.raises(ModelError, match="no model"):
            await run(without, HYBRID)

        assert (await run(without, BY_WORDS)).state == "complete"


async def test_a_model_that_cannot_be_opened_is_said_before_a_run_exists(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async def broken() -> Embedder | None:
        raise ModelError("model.onnx is missing")

    async with evaluated.opened(own_dsn, tmp_path) as app:
        await prepared(app)
    async with evaluated.opened(own_dsn, tmp_path) as app:
        # There are no vectors, and searches open it all the same.
        app.open_embedder = broken

        with pytest.raises(ModelError, match=r"model\.onnx is missing.*--method lexical"):
            await run(app, HYBRID, name="r")

        pool = await app.pool("eval")
        async with pool.connection() as connection:
            assert await evals.runs(connection) == []


async def test_without_a_chat_model_no_answer_is_generated(app: App) -> None:
    await prepared(app)

    with pytest.raises(ModelError, match="RAGLINE_CHAT_PROVIDER"):
        await run(app, GENERATED)


async def test_without_a_judge_of_its_own_a_run_with_one_is_refused(app: App) -> None:
    await prepared(app)

    with pytest.raises(ModelError, match="RAGLINE_JUDGE_PROVIDER"):
        await run(app, JUDGED)


# -- fixed contexts --------------------------------------------------------------------------------

GIVEN = Case(
    id="given",
    question="Which colour has an apple?",
    answer="An apple is red.",
    response="An apple is red. It can fly.",
    contexts=(Context(text="An apple is red."), Context(text="Iron is grey.")),
    labels=ClaimLabels(
        answer_claims=(("apple", "is", "red"), ("apple", "can", "fly")),
        gold_claims=(("apple", "is", "red"),),
        answer_by_gold=("Entailment", "Neutral"),
        gold_by_answer=("Entailment",),
        answer_by_context=(("Entailment", "Neutral"), ("Neutral", "Neutral")),
        gold_by_context=(("Entailment", "Neutral"),),
    ),
)
IMPORTED = Settings(collections=(), contexts="fixed", judge="imported")


async def test_imported_labels_give_their_metrics_and_nothing_is_searched(app: App) -> None:
    await prepared(app, [GIVEN])

    done = await run(app, IMPORTED)

    assert done.judge_id is not None
    assert done.judge_id.startswith("imported:")
    assert done.metrics["precision"].value == 0.5
    assert done.metrics["hallucination"].value == 0.5
    assert done.metrics["context_precision"].value == 0.5
    assert "search_ms" not in done.metrics
    assert any("contexts are fixed" in said for said in done.warnings)
    (only,) = await results(app, done)
    assert (only.hits, only.answer) == ((), GIVEN.response)
    assert only.contexts == ("An apple is red.", "Iron is grey.")


async def test_other_labels_are_another_judge(app: App) -> None:
    assert GIVEN.labels is not None
    others = replace(GIVEN, labels=replace(GIVEN.labels, answer_by_gold=("Entailment",) * 2))
    await prepared(app, [GIVEN])
    await prepared(app, [others], name="others")

    one = await run(app, IMPORTED)
    other = await evaluate(app, "others", IMPORTED, Limits())

    assert one.judge_id != other.judge_id


async def test_a_judge_may_look_at_given_contexts(app: App) -> None:
    await prepared(app, [GIVEN])

    done = await run(app, replace(IMPORTED, judge="lexical"))

    assert done.metrics["lex_precision"].value < 1
    assert done.judge_id == "lexical-v1"


async def test_a_case_without_labels_is_an_error_and_its_metrics_are_missing(app: App) -> None:
    await prepared(app, [GIVEN, replace(GIVEN, id="bare", labels=None)])

    done = await run(app, IMPORTED)

    assert (done.state, done.failed) == ("partial", 1)
    assert done.errors == {"judge UsageError": 1}
    assert (done.metrics["precision"].n, done.metrics["precision"].missing) == (1, 1)


# -- what is taken from before ---------------------------------------------------------------------


async def test_the_same_contexts_are_neither_answered_nor_judged_again(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    judge, chat = FakeJudge(), Costly()
    async with evaluated.opened(own_dsn, tmp_path, judge=judge, chat=chat) as app:
        await prepared(app)
        first = await run(app, GENERATED)
        asked, called = len(chat.asked), judge.tally.calls
        assert (first.spent.calls, first.spent.cost_micro_usd) == (3, 300)

        again = await run(app, GENERATED)

        assert (len(chat.asked), judge.tally.calls) == (asked, called)
        assert (again.state, again.reused) == ("complete", 3)
        assert (again.spent.calls, again.spent.cost_micro_usd) == (0, 0)
        before, after = await results(app, first), await results(app, again)
        assert [one.answer for one in before] == [one.answer for one in after]
        assert [one.labels for one in before] == [one.labels for one in after]
        assert [_answer_metrics(one) for one in before] == [_answer_metrics(one) for one in after]
        # Searches are measured again.
        assert all("database.search" in one.phases_ms for one in after)
        assert again.metrics["p50_ms"].n == 3


async def test_fresh_runs_take_nothing_from_before(own_dsn: Dsn, tmp_path: Path) -> None:
    judge, chat = FakeJudge(), FakeChat()
    async with evaluated.opened(own_dsn, tmp_path, judge=judge, chat=chat) as app:
        await prepared(app)
        await run(app, GENERATED)
        asked = len(chat.asked)

        again = await run(app, GENERATED, is_fresh=True)

        assert again.reused == 0
        assert len(chat.asked) == 2 * asked


async def test_only_cases_whose_contexts_changed_are_done_again(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    judge, chat = FakeJudge(), FakeChat()
    async with evaluated.opened(own_dsn, tmp_path, judge=judge, chat=chat) as app:
        await prepared(app)
        await run(app, GENERATED)
        asked = len(chat.asked)
        changed = replace(TEXTS[0], text="An apple is red and round. It grows in Kent.")
        await ingest_texts(app, [changed], COLLECTION)

        again = await run(app, GENERATED)

        # The question about pears finds all that grows.
        assert [one.is_reused for one in await results(app, again)] == [False, False, True]
        assert len(chat.asked) == asked + 2


async def test_another_judge_or_another_gold_answer_is_judged_anew(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    chat = FakeChat()
    async with evaluated.opened(own_dsn, tmp_path, judge=FakeJudge(), chat=chat) as app:
        await prepared(app)
        await run(app, GENERATED)
        await prepared(app, [replace(APPLE, answer="Red."), PEAR], name="other")
        other = await evaluate(app, "other", GENERATED, Limits())
        assert [one.is_reused for one in await results(app, other)] == [False, True]
    async with evaluated.opened(
        own_dsn, tmp_path, judge=FakeJudge(name="llm:other@1"), chat=chat
    ) as app:
        assert (await run(app, GENERATED)).reused == 0


async def test_the_same_texts_in_another_language_are_answered_anew(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    """A sentence is held against what it cites by its words, as their language cuts them."""
    chat = FakeChat()
    async with evaluated.opened(own_dsn, tmp_path, chat=chat) as app:
        await prepared(app)
        await ingest_texts(app, TEXTS, "garten", policy=Policy(language="german"))
        one = replace(BY_WORDS, answers="generated", filter="source = 'fruit/apple.md'")
        await run(app, one)

        other = await run(app, replace(one, collections=("garten",)))

        assert other.reused == 0
        assert (await run(app, one)).reused == len(CASES)


async def test_a_case_that_failed_is_not_taken_from(own_dsn: Dsn, tmp_path: Path) -> None:
    judge = FakeJudge(fails_after=0)
    async with evaluated.opened(own_dsn, tmp_path, judge=judge) as app:
        await prepared(app)
        await run(app, JUDGED)
        judge.fails_after = None

        again = await run(app, JUDGED)

        assert (again.state, again.reused) == ("complete", 0)


# -- errors, limits, going on ----------------------------------------------------------------------


async def test_a_judge_that_fails_leaves_the_other_metrics_and_no_invented_ones(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    judge = FakeJudge(fails_after=FIRST_CASE)
    async with evaluated.opened(own_dsn, tmp_path, judge=judge) as app:
        await prepared(app)

        done = await run(app, JUDGED, Limits(concurrency=1))

        stored = await results(app, done)
        failed = [one for one in stored if one.errors]
        assert done.state == "partial"
        assert ended_by(done) == "errors"
        assert done.errors == {"judge ModelUnavailable": len(failed)}
        assert [one.case_id for one in failed] == ["pear", "iron"]
        for one in failed:
            assert not set(METRICS) & set(one.metrics)
            assert {"recall@3", "answered", "search_ms"} <= set(one.metrics)
            assert one.errors[0].exit_code == 3
        assert done.metrics["precision"].missing == len(failed)
        assert done.metrics["recall@3"].missing == 0


async def test_a_run_goes_on_with_what_failed_or_is_missing(own_dsn: Dsn, tmp_path: Path) -> None:
    judge = FakeJudge(fails_after=FIRST_CASE)
    async with evaluated.opened(own_dsn, tmp_path, judge=judge) as app:
        await prepared(app)
        partial = await run(app, JUDGED, Limits(concurrency=1), name="r")
        good = {one.case_id: one for one in await results(app, partial) if not one.errors}
        assert set(good) == {"apple"}
        judge.fails_after = None

        done = await run(app, JUDGED, resume="r")

        assert (done.id, done.state, done.failed, done.errors) == (partial.id, "complete", 0, {})
        stored = {one.case_id: one for one in await results(app, done)}
        assert set(stored) == {case.id for case in CASES}
        assert all(stored[case_id] == one for case_id, one in good.items())
        assert done.seconds > partial.seconds
        assert done.metrics["precision"].n == 3


async def test_the_same_error_again_and_again_ends_a_run(own_dsn: Dsn, tmp_path: Path) -> None:
    cases = [replace(APPLE, id=f"a{n}", question=f"Is apple number {n} red?") for n in range(9)]
    async with evaluated.opened(own_dsn, tmp_path, judge=FakeJudge(fails_after=0)) as app:
        await prepared(app, cases)

        done = await run(app, JUDGED, Limits(concurrency=1, give_up_after=3))

        assert (done.state, done.done, done.failed) == ("partial", 3, 3)
        assert any("gave up after 3 cases in a row" in said for said in done.warnings)
        assert done.metrics["recall@3"].missing == 6


class Slow(FakeEmbedder):
    """A model that takes so many questions, and has the others wait until it goes on."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.questions = questions
        self.is_waited_for, self.goes_on = asyncio.Event(), asyncio.Event()

    async def embed_query(self, text: str) -> Vector:
        if not self.questions:
            self.is_waited_for.set()
            await self.goes_on.wait()
        else:
            self.questions -= 1
        return await super().embed_query(text)


async def test_a_run_ends_when_its_time_is_over_and_can_go_on(
    own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clocks, timeout = Slow(1), [], asyncio.timeout

    def kept(seconds: float | None) -> asyncio.Timeout:
        clock = timeout(seconds)
        if seconds is not None and 3000 < seconds <= 3600:
            clocks.append(clock)
        return clock

    monkeypatch.setattr(asyncio, "timeout", kept)
    async with evaluated.opened(own_dsn, tmp_path, embedder=model) as app:
        await prepared(app)

        limits = Limits(concurrency=1, max_time_s=3600)
        running = asyncio.create_task(run(app, HYBRID, limits, name="r"))
        await model.is_waited_for.wait()
        (clock,) = clocks
        clock.reschedule(asyncio.get_running_loop().time())
        partial = await running

        assert partial.state == "partial"
        assert ended_by(partial) == "limit"
        assert partial.done == 1
        model.goes_on.set()
        done = await run(app, HYBRID, resume="r")
        assert (done.state, ended_by(done)) == ("complete", None)
        assert not any("ended early" in said for said in done.warnings)


async def test_a_run_ends_before_its_limit_of_cost(own_dsn: Dsn, tmp_path: Path) -> None:
    async with evaluated.opened(own_dsn, tmp_path, chat=Costly()) as app:
        await prepared(app)
        settings = replace(BY_WORDS, answers="generated")

        partial = await run(app, settings, Limits(concurrency=1, max_cost_micro_usd=250), name="r")

        assert (partial.state, partial.done) == ("partial", 2)
        assert partial.spent.cost_micro_usd == 200
        assert ended_by(partial) == "limit"
        done = await run(app, settings, resume="r")
        assert (done.state, done.spent.cost_micro_usd, done.spent.calls) == ("complete", 300, 3)
        assert done.metrics["eval_cost_micro_usd"].value == 300


async def test_a_run_that_is_cancelled_stays_behind_as_partial(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    model = Slow(1)
    async with evaluated.opened(own_dsn, tmp_path, embedder=model) as app:
        await prepared(app)
        seen = asyncio.Event()

        task = asyncio.create_task(
            run(app, HYBRID, Limits(concurrency=1), name="r", on_progress=lambda _: seen.set())
        )
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        pool = await app.pool("eval")
        async with pool.connection() as connection:
            left = await evals.run(connection, "r")
        assert left is not None
        assert (left.state, left.done) == ("partial", 1)
        assert any("interrupted" in said for said in left.warnings)
        model.goes_on.set()
        assert (await run(app, HYBRID, resume="r")).state == "complete"


async def test_only_what_was_measured_the_same_way_can_go_on(own_dsn: Dsn, tmp_path: Path) -> None:
    judge = FakeJudge(fails_after=0)
    async with evaluated.opened(own_dsn, tmp_path, judge=judge) as app:
        await prepared(app)
        await run(app, JUDGED, Limits(give_up_after=1), name="r")
        judge.fails_after = None

        with pytest.raises(UsageError, match="the settings were"):
            await run(app, replace(JUDGED, k=2), resume="r")
        with pytest.raises(UsageError, match="leave --name out"):
            await run(app, JUDGED, resume="r", name="other")
        with pytest.raises(NotFound, match="'s' does not exist"):
            await run(app, JUDGED, resume="s")
        judge.id = "llm:other@1"
        with pytest.raises(UsageError, match="the judge was llm:fake"):
            await run(app, JUDGED, resume="r")
        judge.id = "llm:fake/judge@0"
        await ingest_texts(app, [Text(source="new.md", text="Lead is dull.")], COLLECTION)
        with pytest.raises(UsageError, match=r"epochs was .* and is"):
            await run(app, JUDGED, resume="r")


async def test_a_complete_run_cannot_go_on(app: App) -> None:
    await prepared(app)
    await run(app, name="r")

    with pytest.raises(Conflict, match="is complete"):
        await run(app, resume="r")


async def test_two_processes_do_not_work_on_one_run(own_dsn: Dsn, tmp_path: Path) -> None:
    model = Slow(0)
    async with evaluated.opened(own_dsn, tmp_path, embedder=model) as app:
        await prepared(app)
        await run(app, HYBRID, Limits(concurrency=1, max_time_s=0.1), name="r")
        model.questions, seen = 1, asyncio.Event()

        first = asyncio.create_task(run(app, HYBRID, resume="r", on_progress=lambda _: seen.set()))
        await seen.wait()
        with pytest.raises(Conflict, match="is being worked on by"):
            await run(app, HYBRID, resume="r")

        model.goes_on.set()
        assert (await first).state == "complete"


async def test_a_run_that_was_taken_over_stops(own_dsn: Dsn, tmp_path: Path, db: Db) -> None:
    model = Slow(1)
    async with evaluated.opened(own_dsn, tmp_path, embedder=model) as app:
        await prepared(app)
        seen = asyncio.Event()
        task = asyncio.create_task(
            run(app, HYBRID, Limits(concurrency=1), name="r", on_progress=lambda _: seen.set())
        )
        await seen.wait()
        await db.execute("update ragline.run set owner = 'there:1:bbbbbbbbbbbb' where name = 'r'")
        model.goes_on.set()

        with pytest.raises(Conflict, match="is being worked on by there"):
            await task


async def test_a_collection_that_changes_meanwhile_is_said(own_dsn: Dsn, tmp_path: Path) -> None:
    model = Slow(1)
    async with evaluated.opened(own_dsn, tmp_path, embedder=model) as app:
        await prepared(app)
        seen = asyncio.Event()
        task = asyncio.create_task(run(app, HYBRID, on_progress=lambda _: seen.set()))
        await seen.wait()
        await ingest_texts(app, [Text(source="new.md", text="Lead is dull.")], COLLECTION)
        model.goes_on.set()

        done = await task

        assert any("was changed while it was measured" in said for said in done.warnings)


async def test_what_cases_warn_of_is_said_once_with_how_many_do(app: App) -> None:
    words = replace(HYBRID, collections=("words",))
    await prepared(app)
    app.open_embedder, embedder = _nothing, app.open_embedder
    app._looked_for_embedder, app._embedder = False, None
    await ingest_texts(app, TEXTS, "words")
    app.open_embedder = embedder
    app._looked_for_embedder = False

    done = await run(app, words)

    assert [said for said in done.warnings if said.startswith("3 cases: searched by words alone")]


async def _nothing() -> None:
    return None


async def test_progress_counts_and_estimates(app: App) -> None:
    await prepared(app)
    seen: list[Progress] = []

    await run(app, BY_WORDS, Limits(concurrency=1), on_progress=seen.append)

    assert [(one.done, one.total, one.failed) for one in seen] == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    assert seen[0].left_s is not None
    assert seen[0].left_s > 0
    assert seen[-1].left_s == 0
    assert seen[-1].cost_micro_usd == 0


async def test_an_error_of_ours_that_nobody_foresaw_breaks_the_run_off(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    class Broken(FakeEmbedder):
        async def embed_query(self, text: str) -> Vector:
            raise ZeroDivisionError("a bug")

        async def embed_documents(self, texts: Any) -> Embedded:
            return await FakeEmbedder().embed_documents(texts)

    async with evaluated.opened(own_dsn, tmp_path, embedder=Broken()) as app:
        await prepared(app)

        with pytest.raises(ZeroDivisionError):
            await run(app, HYBRID, name="r")

        pool = await app.pool("eval")
        async with pool.connection() as connection:
            left = await evals.run(connection, "r")
        assert left is not None
        assert left.state == "partial"


async def test_a_model_that_fails_in_searches_is_a_failure_of_embedding(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    class Down(FakeEmbedder):
        async def embed_query(self, text: str) -> Vector:
            raise ModelUnavailable("nobody answers")

    async with evaluated.opened(own_dsn, tmp_path, embedder=Down()) as app:
        await prepared(app)

        done = await run(app, HYBRID, Limits(give_up_after=2))

        assert done.state == "partial"
        assert set(done.errors) == {"embed ModelUnavailable"}
        assert "recall@3" not in done.metrics


async def test_a_score_that_is_no_number_fails_its_case_alone(own_dsn: Dsn, tmp_path: Path) -> None:
    class Odd(FakeEmbedder):
        async def embed_query(self, text: str) -> Vector:
            vector = await super().embed_query(text)
            return vector * np.float32(0) if "pear" in text else vector

    async with evaluated.opened(own_dsn, tmp_path, embedder=Odd()) as app:
        await prepared(app)

        done = await run(app, HYBRID)

        assert (done.state, done.failed) == ("partial", 1)
        assert done.errors == {"database.search RaglineError": 1}
        (failed,) = [one for one in await results(app, done) if one.errors]
        assert (failed.case_id, failed.hits, failed.metrics) == ("pear", (), {})
        assert "nan" in failed.errors[0].message
        assert done.metrics["recall@3"].missing == 1


async def test_a_limit_of_cost_is_kept_by_many_at_once(own_dsn: Dsn, tmp_path: Path) -> None:
    async with evaluated.opened(own_dsn, tmp_path, chat=Costly()) as app:
        await prepared(app, [replace(APPLE, id=f"apple-{n}") for n in range(8)])
        settings = replace(BY_WORDS, answers="generated")

        partial = await run(
            app, settings, Limits(concurrency=8, max_cost_micro_usd=350), is_fresh=True
        )

        assert (partial.state, ended_by(partial)) == ("partial", "limit")
        assert partial.spent.cost_micro_usd == 300


async def test_each_process_that_died_is_said(own_dsn: Dsn, tmp_path: Path, db: Db) -> None:
    model = Slow(0)
    async with evaluated.opened(own_dsn, tmp_path, embedder=model) as app:
        await prepared(app)
        pool = await app.pool("eval")
        partial = await run(app, HYBRID, Limits(concurrency=1, max_time_s=0.1), name="r")
        assert partial.state == "partial"
        model.goes_on.set()
        async with pool.connection() as connection:
            # It goes on, and is never heard of again.
            await evals.claim_run(connection, partial.id, owner="gone")
        await db.execute("update ragline.run set lease_until = now() - interval '1 second'")

        done = await run(app, HYBRID, resume="r")

        assert done.state == "complete"
        assert any("a process died" in said for said in done.warnings)
        # A lower bound is no measurement: a ceiling of time would hold it for one.
        assert "eval_seconds" not in done.metrics
        assert done.spent == Spent()


async def test_what_a_process_that_died_had_paid_is_not_known(
    own_dsn: Dsn, tmp_path: Path, db: Db
) -> None:
    async with evaluated.opened(own_dsn, tmp_path, chat=Costly()) as app:
        await prepared(app)
        settings = replace(BY_WORDS, answers="generated")
        partial = await run(app, settings, Limits(concurrency=1, max_cost_micro_usd=250), name="r")
        pool = await app.pool("eval")
        async with pool.connection() as connection:
            await evals.claim_run(connection, partial.id, owner="gone")
        await db.execute("update ragline.run set lease_until = now() - interval '1 second'")

        done = await run(app, settings, resume="r")

        assert (done.state, done.spent.calls) == ("complete", 3)
        assert done.spent.cost_micro_usd is None
        assert "eval_cost_micro_usd" not in done.metrics


async def test_results_are_saved_although_a_connection_is_cut(
    own_dsn: Dsn, tmp_path: Path, app: App
) -> None:
    facts = await prepared(app)
    done = await run(app)
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        opened = await evals.open_run(
            connection,
            name="r",
            dataset_id=facts.id,
            settings=BY_WORDS,
            judge_id=None,
            provenance={},
            cases=len(CASES),
            owner="me",
        )
    book = Book(pool, opened.id, "me")
    for result in await results(app, done):
        book.add(result)
    # Without a turn of the loop, so that nobody has noticed when it is used next.
    with psycopg.connect(own_dsn.for_psycopg("test"), autocommit=True) as server:
        server.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'eval_app'"
            " and datname = current_database()"
        )

    await book.flush()

    assert await results(app, opened) == await results(app, done)


def _answer_metrics(one: CaseResult) -> dict[str, float]:
    return {name: value for name, value in one.metrics.items() if name != "search_ms"}

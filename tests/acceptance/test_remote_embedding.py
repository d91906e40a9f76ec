"""A remote embedding model in use: what it is, batches, limits, ingest, search, commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clocks import put_forward, until
from command import Command, place
from conftest import opened
from doubles.openai_server import KEY, Answer, Cut, Fail, OpenAIServer, Raw, Stall
from ragline.config import Config
from ragline.core.dsn import Dsn, Secret
from ragline.core.remote import EmbeddingEndpoint, Endpoint, Limits
from ragline.errors import ModelError, ModelReplyInvalid, ModelUnavailable
from ragline.models import bedrock
from ragline.models.embed import open_configured_embedder
from ragline.models.embed_remote import RemoteEmbedder
from ragline.rag import ingest
from ragline.rag import search as rag
from ragline.rag.ingest import Text
from ragline.wiring import open_app

WORDS = ["a contract about the harbour", "leave of four days", "the price of copper", "rain"]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(key=KEY) as server:
        yield server
        assert server.is_script_over


def config(server: OpenAIServer, folder: Path, **settings: Any) -> Config:
    """Return the configuration of a model of 64 numbers at the double."""
    limits = {"timeout_s": 20.0, "deadline_s": 60.0, **settings.pop("limits", {})}
    endpoint = Endpoint(
        provider="openai",
        model="words",
        url=server.url,
        key=Secret(KEY),
        limits=Limits(**limits),
    )
    endpoint = replace(endpoint, **settings.pop("endpoint", {}))
    return Config(data_dir=folder, embedding=EmbeddingEndpoint(endpoint=endpoint, **settings))


async def opened_at(server: OpenAIServer, folder: Path, **settings: Any) -> RemoteEmbedder:
    embedder = await open_configured_embedder(config(server, folder, **settings))
    assert isinstance(embedder, RemoteEmbedder)
    return embedder


# --- what the model is


async def test_dimension_and_length_are_found_out_with_one_request(
    server: OpenAIServer, tmp_path: Path
) -> None:
    embedder = await opened_at(server, tmp_path, languages=("en", "vi"))

    facts = embedder.facts
    assert (facts.model_id, facts.dimension, facts.normalised) == ("words", 64, True)
    assert facts.languages == ("en", "vi")
    assert len(server.requests) == 1
    assert embedder.spent.requests == 1


async def test_vectors_of_other_lengths_are_not_called_normalised(
    server: OpenAIServer, tmp_path: Path
) -> None:
    server.script(Answer(vectors=[[2.0] * 64]))

    embedder = await opened_at(server, tmp_path)

    assert not embedder.facts.normalised


async def test_a_model_that_is_described_is_not_asked(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(server, tmp_path, dimension=64, normalised=True)

    assert embedder.facts.dimension == 64
    assert server.requests == []


async def test_another_dimension_than_described_is_refused(
    server: OpenAIServer, tmp_path: Path
) -> None:
    server.script(Answer(vectors=[[1.0] * 32]))

    with pytest.raises(ModelReplyInvalid, match="RAGLINE_EMBED_DIMENSION asks for 64"):
        await opened_at(server, tmp_path, dimension=64)


async def test_a_model_that_changes_under_way_is_noticed(
    server: OpenAIServer, tmp_path: Path
) -> None:
    embedder = await opened_at(server, tmp_path)
    server.dimension = 96

    with pytest.raises(ModelReplyInvalid, match="vectors of 96 numbers, where 64 are expected"):
        await embedder.embed_query("leave")


async def test_the_hash_changes_with_what_changes_vectors_and_with_nothing_else(
    server: OpenAIServer, tmp_path: Path
) -> None:
    described = {"dimension": 64, "normalised": True}
    first = (await opened_at(server, tmp_path)).facts.weights_hash

    same: list[dict[str, Any]] = [
        described,
        {**described, "languages": ("en",)},
        {**described, "batch": 2},
        {**described, "endpoint": {"key": None, "url": "http://127.0.0.1:9/v1"}},
    ]
    other: list[dict[str, Any]] = [
        {**described, "dimension": 32},
        {**described, "query_prefix": "query: "},
        {**described, "document_prefix": "passage: "},
        {**described, "max_tokens": 100},
        {**described, "endpoint": {"model": "other"}},
    ]
    assert {(await opened_at(server, tmp_path, **s)).facts.weights_hash for s in same} == {first}
    hashes = {(await opened_at(server, tmp_path, **s)).facts.weights_hash for s in other}
    assert len(hashes) == len(other)
    assert first not in hashes


# --- batches, limits


async def test_batches_go_side_by_side_and_come_back_in_order(
    server: OpenAIServer, tmp_path: Path
) -> None:
    embedder = await opened_at(
        server, tmp_path, dimension=64, normalised=True, batch=2, limits={"concurrency": 3}
    )
    texts = [f"word{number} and word{number * 7}" for number in range(11)]
    server.script(Answer(delay_s=0.2))  # the first batch comes back last

    found = await embedder.embed_documents(texts)

    assert sorted(len(seen.body["input"]) for seen in server.requests) == [1, 2, 2, 2, 2, 2]
    for text, vector in zip(texts, found.vectors, strict=True):
        assert np.allclose(vector, await embedder.embed_query(text))


async def test_no_more_requests_at_once_than_allowed(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(
        server, tmp_path, dimension=64, normalised=True, batch=1, limits={"concurrency": 2}
    )
    # A moment late, so that one too many would be seen.
    server.script(*[Answer(together=2, delay_s=0.1)] * 6)

    await embedder.embed_documents(WORDS + WORDS[:2])

    assert server.most_at_once == 2


async def test_a_question_does_not_wait_for_passages(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(
        server, tmp_path, dimension=64, normalised=True, limits={"concurrency": 1}
    )
    let = threading.Event()
    server.script(Answer(held=let))
    passages = asyncio.create_task(embedder.embed_documents(WORDS))
    await until(lambda: server.requests)

    await embedder.embed_query("leave")

    assert not passages.done()
    let.set()
    assert len((await passages).vectors) == len(WORDS)


async def test_a_question_goes_before_passages_that_wait_for_a_limit_of_ours(
    server: OpenAIServer, tmp_path: Path
) -> None:
    embedder = await opened_at(
        server,
        tmp_path,
        dimension=64,
        normalised=True,
        limits={"tokens_per_minute": 24_000, "requests_per_minute": 600},
    )
    passages = asyncio.create_task(embedder.embed_documents(["word " * 200] * 80))
    await until(lambda: server.requests)

    await embedder.embed_query("leave")

    # Of eight requests with passages each has to wait for five seconds.
    assert len(server.requests) < 8
    assert not passages.done()
    passages.cancel()
    with pytest.raises(asyncio.CancelledError):
        await passages


async def test_no_request_has_more_tokens_than_may_go_at_once(
    server: OpenAIServer, tmp_path: Path
) -> None:
    embedder = await opened_at(
        server, tmp_path, dimension=64, normalised=True, limits={"tokens_per_minute": 60_000}
    )
    await embedder.embed_documents(["word " * 1000] * 8)

    sizes = [sum(len(text.split()) for text in r.body["input"]) for r in server.requests]
    assert sizes == [5000, 3000]


async def test_the_deadline_that_ended_a_question_is_named(
    server: OpenAIServer, tmp_path: Path
) -> None:
    for query_timeout_s, says in (
        (30, "30 s (RAGLINE_QUERY_TIMEOUT)"),
        (90, "50 s (RAGLINE_EMBED"),
    ):
        limits = {"timeout_s": 1000.0, "deadline_s": 50.0}
        settings = config(server, tmp_path, dimension=64, normalised=True, limits=limits)
        embedder = await open_configured_embedder(
            replace(settings, query_timeout_s=query_timeout_s)
        )
        assert embedder is not None
        server.script(Stall())
        with put_forward() as clock:
            server.on_stall = lambda _, clock=clock: clock.forward(60)  # type: ignore[misc]
            with pytest.raises(ModelUnavailable) as raised:
                await embedder.embed_query("leave")
        assert f"the deadline of {says}" in str(raised.value)


async def test_what_could_not_be_opened_has_cost_something_all_the_same(
    server: OpenAIServer, own_dsn: Dsn, tmp_path: Path
) -> None:
    async with open_app(replace(config(server, tmp_path), dsn=own_dsn)) as app:
        server.script(Answer(vectors=[[0.0] * 64], usage={"prompt_tokens": 7}))
        with pytest.raises(ModelReplyInvalid, match="a vector of zeros"):
            await app.embedder()
        (spent,) = app.spent
        assert (spent.requests, spent.failures, spent.cost_micro_usd) == (1, 1, None)

        await app.embedder()

        (spent,) = app.spent
        assert (spent.requests, spent.failures) == (2, 1)
        assert spent.input_tokens is None  # those of the first one nobody knows


async def test_opening_boto3_leaves_the_event_loop_free(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    library = bedrock._library

    def noted(name: str) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return library(name)

    monkeypatch.setattr(bedrock, "_library", noted)
    at_bedrock = {"provider": "bedrock", "model": "amazon.titan-embed-text-v2:0", "key": None}
    settings = config(server, tmp_path, dimension=64, normalised=True, endpoint=at_bedrock)

    embedder = await open_configured_embedder(settings)

    assert embedder is not None
    assert threads == [False]


async def test_after_a_failure_nothing_more_is_sent(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(
        server,
        tmp_path,
        dimension=64,
        normalised=True,
        batch=1,
        limits={"concurrency": 1, "retries": 0},
    )
    server.script(Fail(status=500))

    with pytest.raises(ModelUnavailable, match="status 500"):
        await embedder.embed_documents(WORDS)

    assert embedder.spent.requests == len(server.requests) == 1


async def test_our_own_rate_limit_is_kept_and_its_waits_are_counted(
    server: OpenAIServer, tmp_path: Path
) -> None:
    # One a minute, by the clock; the deadline does not count that.
    limits = {"requests_per_minute": 1, "deadline_s": 50.0, "concurrency": 1}
    with put_forward() as clock:
        embedder = await opened_at(
            server, tmp_path, dimension=64, normalised=True, batch=1, limits=limits
        )
        started = clock.time()

        await embedder.embed_documents([f"text {number}" for number in range(4)])

        assert clock.time() - started >= 3 * 60
    assert embedder.spent.limiter_wait_s > 50
    assert embedder.spent.retries == 0


async def test_texts_too_long_are_cut_and_counted(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(server, tmp_path, dimension=64, normalised=True, max_tokens=16)

    found = await embedder.embed_documents(["short", "word " * 100, "x" * 400])

    assert found.truncated == 2
    sent = server.requests[0].body["input"]
    assert sent[0] == "short"
    assert sent[1] == ("word " * 16).strip()
    assert 0 < len(sent[2]) < 400


async def test_no_texts_need_no_request(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(server, tmp_path, dimension=64, normalised=True)

    found = await embedder.embed_documents([])

    assert found.vectors.shape == (0, 64)
    assert found.tokens == 0
    assert server.requests == []


async def test_cancelling_leaves_the_model_usable(server: OpenAIServer, tmp_path: Path) -> None:
    embedder = await opened_at(server, tmp_path, dimension=64, normalised=True)
    server.script(Stall())

    asking = asyncio.create_task(embedder.embed_query("leave"))
    await until(lambda: server.requests)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert embedder.spent.uncounted == 1
    assert (await embedder.embed_query("leave")).shape == (64,)


# --- ingest and search


async def test_ingest_and_search_by_a_remote_model(
    server: OpenAIServer, own_dsn: Dsn, tmp_path: Path
) -> None:
    settings = replace(config(server, tmp_path), dsn=own_dsn)
    async with open_app(settings) as app:
        assert server.requests == []  # nothing before the first use
        texts = [Text(source=f"t{at}", text=text) for at, text in enumerate(WORDS)]
        report = await ingest.ingest_texts(app, texts, "notes")
        assert (report.added, report.embedded) == (4, 4)

        query = rag.query("four days of leave", ["notes"], method="vector", k=2)
        found = await rag.search_collections(app, query)

        assert found.hits[0].source == "t1"
        (spent,) = app.spent
        assert spent.model_id == "words"
        assert spent.requests == len(server.requests) == 3  # what it is, passages, the question
        assert spent.input_tokens == sum(
            len(text.split()) for seen in server.requests for text in seen.body["input"]
        )
        assert spent.cost_micro_usd is None  # no price is known


async def test_a_failing_model_leaves_a_collection_to_be_continued(
    server: OpenAIServer, own_dsn: Dsn, tmp_path: Path
) -> None:
    settings = replace(config(server, tmp_path, limits={"retries": 0}), dsn=own_dsn)
    texts = [Text(source=f"t{at}", text=text) for at, text in enumerate(WORDS)]
    async with open_app(settings) as app:
        await app.embedder()
        server.script(Fail(status=503))
        with pytest.raises(ModelUnavailable, match="status 503"):
            await ingest.ingest_texts(app, texts, "notes")

        report = await ingest.ingest_texts(app, texts, "notes")

        assert (report.added, report.embedded) == (4, 4)


async def test_vectors_of_another_model_are_refused_before_anything_is_written(
    server: OpenAIServer, own_dsn: Dsn, tmp_path: Path
) -> None:
    from ragline.models.embed_fake import FakeEmbedder

    texts = [Text(source="t", text="leave of four days")]
    async with opened(own_dsn, tmp_path, FakeEmbedder()) as app:
        await ingest.ingest_texts(app, texts, "notes")
    async with open_app(replace(config(server, tmp_path), dsn=own_dsn)) as app:
        with pytest.raises(ModelError, match="vectors of two models never mix"):
            await ingest.ingest_texts(app, texts, "notes")


async def test_opening_pools_does_not_wait_for_a_model_that_stalls(
    server: OpenAIServer, own_dsn: Dsn, tmp_path: Path
) -> None:
    # Whoever waits for the model sees it fail after a minute.
    limits = {"retries": 0, "timeout_s": 60.0}
    settings = replace(config(server, tmp_path, limits=limits), dsn=own_dsn)
    server.script(Stall())
    async with open_app(settings) as app:
        stalled = asyncio.create_task(app.embedder())
        await until(lambda: server.requests)
        await app.pool("serve")
        assert not stalled.done()
        stalled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stalled


# --- commands


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    with place() as command:
        yield command


def at(command: Command, server: OpenAIServer, **more: str) -> Command:
    return command.with_(
        RAGLINE_EMBED_PROVIDER="openai",
        RAGLINE_EMBED_URL=server.url,
        RAGLINE_EMBED_MODEL="words",
        RAGLINE_EMBED_KEY=KEY,
        RAGLINE_EMBED_RETRIES="0",
        **more,
    )


def test_commands_ingest_search_and_say_what_was_spent(
    command: Command, server: OpenAIServer, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(
        '[[price]]\nprovider = "openai"\nmodel = "words"\ninput = 1000\nas_of = 2026-11-01\n'
    )
    remote = at(command, server, RAGLINE_PRICES=str(prices))
    folder = tmp_path / "files"
    folder.mkdir()
    for number, text in enumerate(WORDS):
        (folder / f"{number}.txt").write_text(text)

    done = remote.run("ingest", folder, "--collection", "notes")
    assert done.returncode == 0, done.stderr
    tokens = sum(len(text.split()) for seen in server.requests for text in seen.body["input"])
    assert (
        f"spent: words: 2 requests, {tokens} tokens read, 0 written, {tokens / 1000:.6f} USD"
        in done.stderr
    )
    found = remote.json("search", "four days of leave", "-c", "notes", "--method", "vector")
    assert found["hits"][0]["source"].endswith("1.txt")
    assert KEY not in done.stderr + done.stdout


def test_model_show_and_check_tell_which_model_and_what_it_took(
    command: Command, server: OpenAIServer
) -> None:
    server.say = lambda _: "ready"
    remote = at(
        command,
        server,
        RAGLINE_CHAT_PROVIDER="openai",
        RAGLINE_CHAT_URL=server.url,
        RAGLINE_CHAT_MODEL="talker",
        RAGLINE_CHAT_KEY=KEY,
    )

    shown = remote.json("model", "show")
    assert (shown["provider"], shown["url"], shown["model_id"]) == ("openai", server.url, "words")
    assert shown["chat"] == {"provider": "openai", "model_id": "talker", "url": server.url}

    checked = remote.json("model", "check")
    assert checked["embedding"]["dimension"] == 64
    assert checked["chat"]["answer"] == "ready"
    assert checked["chat"]["spent"]["input_tokens"] == 6
    assert checked["chat"]["spent"]["cost_micro_usd"] is None
    text = remote.run("model", "check").stdout
    assert "talker: 'ready' in" in text
    assert "cost not known" in text


def test_a_judge_is_checked_by_a_claim(command: Command, server: OpenAIServer) -> None:
    def environ(says: str) -> Command:
        server.say = lambda messages: says
        return at(
            command,
            server,
            RAGLINE_JUDGE_PROVIDER="openai",
            RAGLINE_JUDGE_URL=server.url,
            RAGLINE_JUDGE_MODEL="strict",
            RAGLINE_JUDGE_KEY=KEY,
        )

    checked = environ('{"labels": ["Entailment"]}').json("model", "check")
    assert checked["judge"]["label"] == "Entailment"
    assert checked["judge"]["judge_id"].startswith("llm:openai/strict@")
    assert checked["judge"]["spent"]["requests"] == 1
    assert (
        "'Entailment', where" in environ('{"labels": ["Entailment"]}').run("model", "check").stdout
    )

    done = environ("It seems so.").run("model", "check")
    assert done.returncode == 3
    assert "'It seems so.' is not one JSON object; nothing is judged" in done.stderr
    assert "spent: strict: 2 requests" in done.stderr


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (Fail(status=401, message="bad key"), "status 401: bad key; check RAGLINE_EMBED_KEY"),
        (Fail(status=500), "status 500"),
        (Cut(), "the connection was lost"),
        (Raw(body=b"<html>", content_type="text/html"), "the answer is not JSON"),
    ],
)
def test_a_command_fails_with_the_reason_and_exit_code_3(
    command: Command, server: OpenAIServer, behaviour: Any, says: str
) -> None:
    server.script(behaviour)

    done = at(command, server).run("model", "show")

    assert done.returncode == 3
    assert says in done.stderr
    assert KEY not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_fails_says_what_it_spent(command: Command, server: OpenAIServer) -> None:
    for words in (["model", "check"], ["model", "show"], ["health"]):
        server.script(Answer(vectors=[[0.0] * 64]))

        done = at(command, server).run(*words)

        assert done.returncode == 3
        assert "a vector of zeros" in done.stderr + done.stdout
        assert "spent: words: 1 requests, tokens not known of 1" in done.stderr


def test_a_check_that_fails_in_the_end_says_what_was_spent_before(
    command: Command, server: OpenAIServer
) -> None:
    remote = at(
        command,
        server,
        RAGLINE_EMBED_DIMENSION="64",
        RAGLINE_EMBED_NORMALISED="yes",
        RAGLINE_CHAT_PROVIDER="openai",
        RAGLINE_CHAT_URL=server.url,
        RAGLINE_CHAT_MODEL="talker",
        RAGLINE_CHAT_KEY=KEY,
        RAGLINE_CHAT_RETRIES="0",
    )
    server.script(Answer(), Cut(after=1))

    done = remote.run("model", "check")

    assert done.returncode == 3
    assert "spent: words: 1 requests, 5 tokens read" in done.stderr
    assert "spent: talker: 1 requests, tokens not known of 1" in done.stderr


def test_commands_that_ask_the_model_what_it_is_say_so(
    command: Command, server: OpenAIServer
) -> None:
    for words in (["model", "show"], ["health"]):
        assert "spent: words: 1 requests, 1 tokens read" in at(command, server).run(*words).stderr


def test_health_names_a_remote_model_that_does_not_answer(
    command: Command, server: OpenAIServer
) -> None:
    server.script(Fail(status=500))

    done = at(command, server).run("health")

    assert done.returncode == 3
    assert "status 500" in done.stdout

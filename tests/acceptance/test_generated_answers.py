"""Generated answers over HTTP and on the command line: streamed, checked, and never half an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from clocks import put_forward, until
from command import PROGRAM
from conftest import opened
from doubles.openai_server import Answer as Says
from doubles.openai_server import Cut, Fail, OpenAIServer
from ragline.config import Config
from ragline.core.dsn import Dsn
from ragline.http.app import create_app
from ragline.http.ask import wants_events
from ragline.models.llm import ChatModel, Message, Piece
from ragline.models.llm_fake import FakeChat, passages
from ragline.rag.app import App
from ragline.rag.ingest import Text, ingest_texts

PARIS = "The capital of France is Paris. It lies on the river Seine."
ASKED = {"question": "What is the capital of France?", "collection": "kb", "generate": True}
EVENTS = {"accept": "text/event-stream"}
SAID = "The capital of France is Paris [1]. It lies on the Seine [1]. Its mayor is tall."


@contextlib.asynccontextmanager
async def serving(
    dsn: Dsn, folder: Path, model: ChatModel | None, config: Config | None = None
) -> AsyncIterator[FastAPI]:
    async def configured() -> ChatModel | None:
        return model

    service = create_app(config or Config(dsn=dsn, data_dir=folder))
    async with service.router.lifespan_context(service):
        app: App = service.state.ragline
        app.open_chat_model = configured
        await ingest_texts(app, [Text(source="paris.txt", text=PARIS)], "kb")
        yield service


def client_of(service: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(service, raise_app_exceptions=False),
        base_url="http://localhost:8000",
    )


def events(body: str) -> list[tuple[str, Any]]:
    """Return the events of a stream, as the standard of server-sent events reads them."""
    assert body.endswith("\n\n")
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def all_of(lines: AsyncIterator[str], seen: list[str]) -> None:
    async for line in lines:
        seen.append(line)  # noqa: PERF401 - what came before the end is wanted


# HTTP


async def test_a_model_writes_only_when_the_request_says_so(own_dsn: Dsn, tmp_path: Path) -> None:
    model = FakeChat(lambda _: SAID)
    async with serving(own_dsn, tmp_path, model) as service, client_of(service) as client:
        extracted = await client.post("/ask", json={**ASKED, "generate": False})
        generated = await client.post("/ask", json=ASKED)

    assert (extracted.status_code, extracted.json()["method"]) == (200, "extractive")
    answer = generated.json()
    assert generated.headers["content-type"] == "application/json"
    assert (answer["method"], answer["found"], len(model.asked)) == ("generated", True, 1)
    assert [s["is_supported"] for s in answer["sentences"]] == [True, True, False]
    assert answer["citations"][0]["source"] == "paris.txt"
    assert answer["usage"] == {"input_tokens": None, "output_tokens": None, "cost_micro_usd": None}


async def test_events_are_the_sentences_and_then_the_answer(own_dsn: Dsn, tmp_path: Path) -> None:
    model = FakeChat(lambda _: SAID)
    async with serving(own_dsn, tmp_path, model) as service, client_of(service) as client:
        streamed = await client.post("/ask", json=ASKED, headers=EVENTS)
        plain = await client.post("/ask", json={**ASKED, "generate": False}, headers=EVENTS)

    assert streamed.headers["content-type"].startswith("text/event-stream")
    found = events(streamed.text)
    assert [name for name, _ in found] == ["sentence", "sentence", "sentence", "answer"]
    assert [data for _, data in found[:-1]] == found[-1][1]["sentences"]
    assert found[0][1]["text"] == "The capital of France is Paris [1]."
    assert [name for name, _ in events(plain.text)] == ["answer"]


async def test_a_model_that_breaks_off_ends_in_an_error_event(own_dsn: Dsn, tmp_path: Path) -> None:
    model = FakeChat(lambda _: SAID, breaks_after=7)
    async with serving(own_dsn, tmp_path, model) as service, client_of(service) as client:
        streamed = await client.post("/ask", json=ASKED, headers=EVENTS)
        whole = await client.post("/ask", json=ASKED)

    *before, (name, problem) = events(streamed.text)
    assert [name for name, _ in before] == ["sentence"]
    assert (name, problem["type"]) == ("error", "urn:ragline:model-error")
    assert problem["request_id"] == streamed.headers["x-request-id"]
    assert whole.status_code == problem["status"] == 409
    assert "broke off" in whole.json()["detail"]


@pytest.mark.parametrize(
    "model", [FakeChat(lambda _: SAID, finish_reason=None), FakeChat(lambda _: "so " * 50_000)]
)
async def test_a_model_that_does_not_end_as_it_must_is_503(
    own_dsn: Dsn, tmp_path: Path, model: FakeChat
) -> None:
    async with serving(own_dsn, tmp_path, model) as service, client_of(service) as client:
        whole = await client.post("/ask", json=ASKED)
        streamed = await client.post("/ask", json=ASKED, headers=EVENTS)

    problem = streamed.json() if streamed.status_code == 503 else events(streamed.text)[-1][1]
    assert (whole.status_code, problem["status"]) == (503, 503)
    assert problem["type"] == whole.json()["type"] != "urn:ragline:model-error"


@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_what_fails_before_the_first_sentence_is_an_ordinary_problem(
    own_dsn: Dsn, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with serving(own_dsn, tmp_path, None) as service, client_of(service) as client:
        without_model = await client.post("/ask", json=ASKED, headers=headers)
        unknown = await client.post("/ask", json={**ASKED, "collection": "no"}, headers=headers)

    assert without_model.status_code == 409
    assert "RAGLINE_CHAT_PROVIDER" in without_model.json()["detail"]
    assert unknown.status_code in (404, 409)


@pytest.mark.parametrize("value", ["yes", 1, None])
async def test_generate_is_true_or_false(own_dsn: Dsn, tmp_path: Path, value: object) -> None:
    async with serving(own_dsn, tmp_path, None) as service, client_of(service) as client:
        answer = await client.post("/ask", json={**ASKED, "generate": value})

    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; q=0.9, application/json", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("text/event-stream;q=0", False),
    ],
)
def test_events_are_for_those_who_name_them(accept: str, wants: bool) -> None:
    assert wants_events(accept) is wants


class Waiting(FakeChat):
    """Writes a sentence, and goes on when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[Piece]:
        self.open_streams += 1
        try:
            yield Piece(text="The capital of France is Paris [1]. It ")
            await self.go_on.wait()
            yield Piece(text="lies on the Seine [1].", finish_reason="stop")
        finally:
            self.open_streams -= 1


@contextlib.asynccontextmanager
async def listening(service: FastAPI) -> AsyncIterator[str]:
    """A real server on loopback, in this loop."""
    server = uvicorn.Server(uvicorn.Config(service, port=0, lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


async def test_a_sentence_is_there_while_the_model_still_writes(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    model = Waiting()
    async with (
        serving(own_dsn, tmp_path, model) as service,
        listening(service) as url,
        httpx.AsyncClient(base_url=url, timeout=200) as client,
        client.stream("POST", "/ask", json=ASKED, headers=EVENTS) as answer,
    ):
        lines = answer.aiter_lines()
        first = [await anext(lines), await anext(lines)]
        assert model.open_streams == 1
        model.go_on.set()
        rest = [line async for line in lines]

    assert first[0] == "event: sentence"
    assert [line for line in rest if line.startswith("event")] == [
        "event: sentence",
        "event: answer",
    ]


async def test_a_client_that_leaves_stops_the_model(own_dsn: Dsn, tmp_path: Path) -> None:
    model = Waiting()
    async with serving(own_dsn, tmp_path, model) as service, listening(service) as url:
        async with (
            httpx.AsyncClient(base_url=url, timeout=200) as client,
            client.stream("POST", "/ask", json=ASKED, headers=EVENTS) as answer,
        ):
            await anext(answer.aiter_lines())
            assert model.open_streams == 1
        await until(lambda: not model.open_streams)


async def test_a_model_that_takes_too_long_ends_without_an_answer(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    model = Waiting()
    config = Config(dsn=own_dsn, data_dir=tmp_path, query_timeout_s=60.0)
    with put_forward() as clock:
        async with serving(own_dsn, tmp_path, model, config) as service, listening(service) as url:
            async with (
                httpx.AsyncClient(base_url=url, timeout=200) as client,
                client.stream("POST", "/ask", json=ASKED, headers=EVENTS) as answer,
            ):
                lines = answer.aiter_lines()
                seen = [await anext(lines), await anext(lines)]
                clock.forward(60)
                with pytest.raises(httpx.RemoteProtocolError):
                    await all_of(lines, seen)
            await until(lambda: not model.open_streams)

    assert [line for line in seen if line.startswith("event")] == ["event: sentence"]


# The command line


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        server.say = lambda _: SAID
        yield server


@pytest.fixture
async def environment(own_dsn: Dsn, tmp_path: Path, provider: OpenAIServer) -> dict[str, str]:
    """Of a database with a document in it, and of a provider on loopback."""
    async with opened(own_dsn, tmp_path, None) as app:
        await ingest_texts(app, [Text(source="paris.txt", text=PARIS)], "kb")
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ},
        "DATABASE_URL": own_dsn.for_psycopg("admin"),
        "RAGLINE_DATA_DIR": str(tmp_path),
        "RAGLINE_CHAT_PROVIDER": "openai",
        "RAGLINE_CHAT_URL": provider.url,
        "RAGLINE_CHAT_MODEL": "said",
        "RAGLINE_CHAT_RETRIES": "0",
    }


COMMAND = [PROGRAM, "ask", "What is the capital of France?", "-c", "kb", "--generate"]


async def run(env: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    # The doubles live in threads of their own, so that waiting here keeps nobody from answering.
    return await asyncio.to_thread(
        subprocess.run, [*COMMAND, *more], env=env, capture_output=True, text=True, timeout=240
    )


async def on_terminal(env: dict[str, str]) -> tuple[int, str]:
    """Run it on a terminal; return its exit code and all that was to be seen."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env={**env, "TERM": "dumb"}, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = await asyncio.to_thread(_read, ours)
    os.close(ours)
    return await process.wait(), seen.replace("\r\n", "\n")


def _read(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


async def test_the_command_prints_the_answer_and_what_it_cites(
    environment: dict[str, str],
) -> None:
    done = await run(environment)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "The capital of France is Paris [1]. It lies on the Seine [1]. Its mayor is tall. "
        "[unsupported]"
    )
    assert "  [1] paris, characters 0-" in done.stdout
    assert "1 of 3 sentences are not supported" in done.stderr


async def test_the_command_prints_json_with_what_it_took(environment: dict[str, str]) -> None:
    done = await run(environment, "--json")

    answer = json.loads(done.stdout)
    assert (answer["method"], answer["model_id"]) == ("generated", "said")
    assert answer["usage"]["output_tokens"] == len(SAID.split())
    assert answer["usage"]["cost_micro_usd"] is None


async def test_on_a_terminal_the_sentences_come_once(environment: dict[str, str]) -> None:
    code, seen = await on_terminal(environment)

    assert code == 0
    assert seen.count("The capital of France is Paris [1].") == 1
    assert seen.index("[unsupported]") < seen.index("  [1] paris")


@pytest.mark.parametrize(
    "trouble", [Fail(status=500), Cut(after=5), Cut(after=5, is_polite=True), Says(pieces=("",))]
)
async def test_a_model_that_fails_prints_no_answer(
    environment: dict[str, str], provider: OpenAIServer, trouble: Any
) -> None:
    provider.script(trouble)
    done = await run(environment, "--json")

    if isinstance(trouble, Says):
        assert json.loads(done.stdout)["found"] is False
        return
    assert (done.returncode, done.stdout) == (3, "")
    assert "\nerror: model said at" in f"\n{done.stderr}"


async def test_half_an_answer_on_a_terminal_is_called_none(
    environment: dict[str, str], provider: OpenAIServer
) -> None:
    provider.script(Cut(after=12))

    code, seen = await on_terminal(environment)

    assert code == 3
    assert (
        seen.index("Paris [1].") < seen.index("what is above is no answer") < seen.index("error:")
    )


def test_the_double_and_the_fake_see_the_same_frame() -> None:
    framed = '{"passage": 1, "title": "a", "text": "b"}\n{"question": "c"}'

    assert passages([Message(role="user", content=framed)])[0]["text"] == "b"

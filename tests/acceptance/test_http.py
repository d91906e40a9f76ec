"""The HTTP service on a real PostgreSQL: what OpenAPI promises is what comes back."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from clocks import put_forward
from conftest import TEMPLATE, connect
from ragline.config import Config
from ragline.core.dsn import Dsn, Secret
from ragline.errors import RaglineError
from ragline.http.app import create_app
from ragline.http.limits import DOCUMENTS, OTHERS
from ragline.models.embed import Embedded, Embedder, Vector
from ragline.models.embed_fake import FakeEmbedder
from ragline.rag.app import App

KEY = "a-key-of-the-tests"
PROBLEM = "application/problem+json"
JSON = {"content-type": "application/json"}
PARIS = "The capital of France is Paris. It lies on the river Seine."
BREAD = "Bread is made of flour, water and salt. Yeast makes it rise."
COMMAND = [sys.executable, "-c", "from ragline.cli import main; main()"]


# The service under test


@contextlib.asynccontextmanager
async def running(config: Config, embedder: Embedder | None) -> AsyncIterator[FastAPI]:
    async def model() -> Embedder | None:
        return embedder

    service = create_app(config)
    async with service.router.lifespan_context(service):
        opened(service).open_embedder = model
        yield service


def opened(service: FastAPI) -> App:
    ragline: App = service.state.ragline
    return ragline


def client_of(service: FastAPI, **options: Any) -> httpx.AsyncClient:
    """A client that checks every answer against the service's own OpenAPI page."""

    async def as_promised(answer: httpx.Response) -> None:
        promise = promised(service, answer.request)
        if promise is None:
            return
        assert str(answer.status_code) in promise, f"{answer.status_code} is not declared"
        media_types = promise[str(answer.status_code)].get("content", {})
        if media_types:
            assert answer.headers["content-type"] in media_types
        else:
            assert await answer.aread() == b""

    return httpx.AsyncClient(
        transport=httpx.ASGITransport(service, raise_app_exceptions=False),
        base_url="http://localhost:8000",
        event_hooks={"response": [as_promised]},
        **options,
    )


def promised(service: FastAPI, request: httpx.Request) -> dict[str, Any] | None:
    for path, operations in service.openapi()["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/]+", path)
        if re.fullmatch(pattern, request.url.path) and request.method.lower() in operations:
            responses: dict[str, Any] = operations[request.method.lower()]["responses"]
            return responses
    return None


@pytest.fixture
async def service(own_dsn: Dsn, tmp_path: Path) -> AsyncIterator[FastAPI]:
    async with running(Config(dsn=own_dsn, data_dir=tmp_path), FakeEmbedder()) as service:
        yield service


@pytest.fixture
async def client(service: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service) as client:
        yield client


@pytest.fixture(scope="module")
async def visitor(
    template: Dsn, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """The client of an empty service for requests that change nothing."""
    name = "ragline_test_http"
    await execute(template, f"create database {name} template {TEMPLATE}")
    config = Config(dsn=template.on(name), data_dir=tmp_path_factory.mktemp("http"))
    async with running(config, FakeEmbedder()) as service, client_of(service) as client:
        yield client
        assert (await client.get("/collections")).json() == {"collections": []}
    await execute(template, f"drop database {name} with (force)")


@pytest.fixture
async def filled(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """The client of a service whose collection `kb` holds two documents."""
    answer = await client.post("/documents", json=two_documents())
    assert answer.status_code == 200
    return client


def two_documents() -> dict[str, Any]:
    return {
        "collection": "kb",
        "documents": [
            {"source": "paris.txt", "text": PARIS, "title": "Paris", "metadata": {"pages": [1]}},
            {"source": "bread.txt", "text": BREAD},
        ],
    }


def refused(answer: httpx.Response, status: int) -> str:
    """Return the sentence of a problem, after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["title"]
    detail: str = problem["detail"]
    assert detail
    return detail


# What each route does


async def test_a_question_is_answered_with_a_citation_of_the_document(
    filled: httpx.AsyncClient,
) -> None:
    answer = await filled.post(
        "/ask", json={"question": "What is the capital of France?", "collection": "kb", "k": 3}
    )

    found = answer.json()
    assert found["found"]
    assert "The capital of France is Paris." in found["text"]
    cited = found["citations"][0]
    document = (await filled.get(f"/documents/{cited['document_id']}")).json()
    assert document["text"][cited["start"] : cited["end"]] == cited["text"]


async def test_a_search_returns_hits_with_scores_content_and_metadata(
    filled: httpx.AsyncClient,
) -> None:
    answer = await filled.post(
        "/search",
        json={"question": "capital of France", "collection": ["kb"], "k": 1, "explain": True},
    )

    found = answer.json()
    (hit,) = found["hits"]
    assert (hit["source"], hit["metadata"]) == ("paris.txt", {"pages": [1]})
    assert hit["vector_rank"] == hit["lexical_rank"] == 1
    assert found["method"] == "hybrid"
    assert found["used"][0]["terms"]
    assert found["timings_ms"]["total"] > 0


@pytest.mark.parametrize("method", ["hybrid", "vector", "lexical"])
async def test_each_method_finds_the_document(filled: httpx.AsyncClient, method: str) -> None:
    question = "Bread made of flour, water, salt and yeast"
    body = {"question": question, "collection": "kb", "method": method, "ef_search": 50}

    found = (await filled.post("/search", json=body)).json()

    assert found["hits"][0]["source"] == "bread.txt"


async def test_documents_are_reported_listed_shown_and_removed(filled: httpx.AsyncClient) -> None:
    again = (await filled.post("/documents", json=two_documents())).json()
    assert (again["added"], again["unchanged"]) == (0, 2)

    first = (await filled.get("/documents", params={"collection": "kb", "limit": 1})).json()
    assert [item["source"] for item in first["documents"]] == ["paris.txt"]
    after = {"collection": "kb", "after": first["next_after"]}
    rest = (await filled.get("/documents", params=after)).json()
    assert [item["source"] for item in rest["documents"]] == ["bread.txt"]
    assert rest["next_after"] is None

    number = first["documents"][0]["id"]
    shown = (await filled.get(f"/documents/{number}")).json()
    assert (shown["collection"], shown["text"]) == ("kb", PARIS)
    assert (await filled.delete(f"/documents/{number}")).status_code == 204
    refused(await filled.get(f"/documents/{number}"), 404)
    refused(await filled.delete(f"/documents/{number}"), 404)


async def test_a_document_without_text_is_among_the_rejections_and_the_others_are_in(
    client: httpx.AsyncClient,
) -> None:
    body = two_documents()
    body["documents"].append({"source": "blank", "text": " \n", "media_type": "text/markdown"})
    body["documents"].append({"source": "nothing", "text": ""})

    report = (await client.post("/documents", json=body)).json()

    assert report["added"] == 2
    rejections = [(r["source"], r["reason"], r["message"]) for r in report["rejections"]]
    assert rejections == [
        ("blank", "EMPTY", "the text has only spaces"),
        ("nothing", "EMPTY", "the text is empty"),
    ]


async def test_collections_are_made_listed_shown_and_removed(client: httpx.AsyncClient) -> None:
    wanted = {"name": "kb", "language": "german", "chunk_size": 64, "chunk_overlap": 8}
    made = await client.post("/collections", json=wanted)
    assert made.status_code == 201
    assert {**made.json(), **wanted} == made.json()

    assert (await client.get("/collections")).json() == {"collections": [made.json()]}
    assert (await client.get("/collections/kb")).json() == made.json()
    assert "kb" in refused(await client.post("/collections", json={"name": "kb"}), 409)
    assert (await client.delete("/collections/kb")).status_code == 204
    refused(await client.delete("/collections/kb"), 404)
    refused(await client.get("/collections/kb"), 404)


async def test_a_collection_that_another_process_removed_is_404_at_once(
    filled: httpx.AsyncClient, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    asked = {"question": "yeast", "collection": "kb"}
    assert (await filled.post("/search", json=asked)).status_code == 200
    await db.execute("delete from collection where name = 'kb'")

    assert "kb" in refused(await filled.post("/search", json=asked), 404)


async def test_alive_needs_no_database_and_ready_names_every_check(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/healthz")).json() == {"status": "pass", "checks": []}

    ready = await client.get("/readyz")

    assert ready.status_code == 200
    assert ready.json()["status"] == "pass"
    checks = {check["id"]: check for check in ready.json()["checks"]}
    assert list(checks) == ["database", "schema", "isolation", "pool", "model"]
    assert "PostgreSQL 18" in checks["database"]["detail"]
    assert "ragline_serve" in checks["isolation"]["detail"]
    assert "at most" in checks["pool"]["detail"]


# What cannot be answered


async def test_without_weights_search_is_lexical_and_ready_says_so(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    config = Config(dsn=own_dsn, data_dir=tmp_path)
    async with running(config, None) as service, client_of(service) as client:
        report = (await client.post("/documents", json=two_documents())).json()
        found = await client.post("/search", json={"question": "yeast", "collection": "kb"})
        ready = await client.get("/readyz")

    assert "no model" in report["warnings"][0]
    assert found.json()["hits"][0]["source"] == "bread.txt"
    assert "words alone" in found.json()["warnings"][0]
    assert (ready.status_code, ready.json()["status"]) == (200, "warn")
    model = ready.json()["checks"][-1]
    assert (model["id"], model["detail"]) == ("model", "no model: search is lexical only")
    assert "ragline model fetch" in model["fix"]


async def test_a_database_that_goes_away_is_503_everywhere_but_healthz(
    client: httpx.AsyncClient, own_dsn: Dsn
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    await execute(own_dsn.on("postgres"), f"drop database {own_dsn.database} with (force)")

    ready = await client.get("/readyz")
    asked = await client.post("/search", json={"question": "a", "collection": "kb"})

    assert (ready.status_code, ready.json()["status"]) == (503, "fail")
    assert ready.json()["checks"][0]["id"] == "database"
    assert own_dsn.database in refused(asked, 503)
    assert (await client.get("/healthz")).status_code == 200
    await execute(own_dsn.on("postgres"), f"create database {own_dsn.database}")


async def test_a_schema_of_another_version_is_not_ready(
    client: httpx.AsyncClient, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await db.execute("update alembic_version set version_num = '9999'")

    ready = await client.get("/readyz")

    assert ready.status_code == 503
    check = next(c for c in ready.json()["checks"] if c["id"] == "schema")
    assert (check["status"], check["fix"]) == ("fail", "upgrade ragline")


async def test_a_workload_whose_role_cannot_log_in_is_not_isolated_and_still_ready(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    await execute(own_dsn, "alter role ragline_serve nologin")
    try:
        config = Config(dsn=own_dsn, data_dir=tmp_path)
        async with running(config, FakeEmbedder()) as service, client_of(service) as client:
            ready = await client.get("/readyz")
    finally:
        await execute(own_dsn, "alter role ragline_serve login")

    assert (ready.status_code, ready.json()["status"]) == (200, "warn")
    check = next(c for c in ready.json()["checks"] if c["id"] == "isolation")
    assert "not isolated" in check["detail"]
    assert "migrate apply" in check["fix"]


async def test_when_every_connection_is_busy_the_answer_is_503_with_what_to_do(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    config = Config(dsn=own_dsn, data_dir=tmp_path, pool_timeout_s=60)
    async with running(config, FakeEmbedder()) as service, client_of(service) as client:
        pool = await opened(service).pool("serve")
        assert pool.timeout_s == 60
        async with contextlib.AsyncExitStack() as lent:
            for _ in range(pool.size):
                await lent.enter_async_context(pool.connection())
            pool.timeout_s = 0.2  # from now on: to open one may take longer
            answer = await client.get("/collections")

    assert "RAGLINE_POOL_TIMEOUT" in refused(answer, 503)


async def test_a_request_that_takes_too_long_is_stopped_with_504(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    config = Config(dsn=own_dsn, data_dir=tmp_path, query_timeout_s=60)
    with put_forward() as clock:
        async with running(config, FakeEmbedder()) as service, client_of(service) as client:
            await client.post("/documents", json=two_documents())
            slow = SleepingEmbedder(opened(service))
            use(service, slow)
            body = {"question": "yeast", "collection": "kb"}
            asking = asyncio.create_task(client.post("/search", json=body))
            await until_sleeping(own_dsn, 1)
            clock.forward(60)
            answer = await asking

    assert "60 s" in refused(answer, 504)
    assert slow.was_cancelled
    await until_sleeping(own_dsn, 0)


async def test_documents_that_take_too_long_are_504_and_what_is_written_stays_written(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    async def documents_written() -> int:
        found = await own.get("/collections/kb")
        return int(found.json()["documents"]) if found.status_code == 200 else 0

    config = Config(dsn=own_dsn, data_dir=tmp_path, query_timeout_s=60)
    with put_forward() as clock:
        async with running(config, OneBatchEmbedder()) as service, client_of(service) as own:
            texts = [{"source": f"{number}", "text": f"{PARIS} {number}"} for number in range(300)]
            many = {"collection": "kb", "documents": texts}
            sending = asyncio.create_task(own.post("/documents", json=many))
            # Nobody sets an event for it.
            while not (sending.done() or await documents_written()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            clock.forward(60)
            late = refused(await sending, 504)
            written = await documents_written()
            use(service, FakeEmbedder())
            again = (await own.post("/documents", json=many)).json()

    assert "already written stay written" in late
    assert "sending the same again is safe" in late
    assert 0 < written < 300
    assert (again["unchanged"], again["added"]) == (written, 300 - written)


@pytest.mark.parametrize("path", ["/documents", "/ask"])
async def test_a_body_that_does_not_come_in_time_is_408_and_nothing_is_written(
    own_dsn: Dsn, tmp_path: Path, path: str
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b'{"collection":'
        clock.forward(60)
        await asyncio.sleep(3600)
        yield b'"kb"}'

    config = Config(dsn=own_dsn, data_dir=tmp_path, query_timeout_s=60)
    with put_forward() as clock:
        async with running(config, FakeEmbedder()) as service, client_of(service) as client:
            answer = await client.post(path, content=slow(), headers=JSON)

            assert "60 s" in refused(answer, 408)
            assert answer.headers["connection"] == "close"
            assert (await client.get("/collections")).json() == {"collections": []}


def test_a_slow_body_is_408_over_the_wire_and_ends_the_connection(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    config = Config(dsn=own_dsn, data_dir=tmp_path, query_timeout_s=0.3)
    head = "POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    with (
        listening(config, None) as live,
        socket.create_connection(("127.0.0.1", int(live.url.rsplit(":", 1)[1]))) as wire,
    ):
        wire.settimeout(100)
        wire.sendall(f'{head}{{"question":'.encode())
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search", {"question": "yeast", "collection": "kb", "method": "vector"}),
        ("/ask", {"question": "yeast", "collection": "kb"}),
        ("/documents", two_documents()),
    ],
)
async def test_a_collection_of_another_model_is_409(
    service: FastAPI, filled: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    use(service, FakeEmbedder(32))

    answer = await filled.post(path, json=body)

    assert "fake-64" in refused(answer, 409)
    assert answer.json()["type"] == "urn:ragline:model-error"


async def test_a_collection_removed_while_it_is_filled_is_409(
    service: FastAPI, filled: httpx.AsyncClient, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    use(service, RemovingEmbedder(db))

    answer = await filled.post("/documents", json=documents(text="More."))

    assert "removed while it was filled" in refused(answer, 409)
    assert answer.json()["type"] == "urn:ragline:conflict"


async def test_the_unforeseen_is_500_without_internals_and_with_an_id_that_the_log_has(
    service: FastAPI, filled: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    use(service, BrokenEmbedder(ZeroDivisionError("the secret is 42")))

    answer = await filled.post("/search", json={"question": "yeast", "collection": "kb"})

    assert "42" not in refused(answer, 500)
    assert "the secret is 42" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


async def test_an_error_of_ours_without_a_status_is_500_without_internals(
    service: FastAPI, filled: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    use(service, BrokenEmbedder(RaglineError("row (42, secret) was refused")))

    answer = await filled.post("/search", json={"question": "yeast", "collection": "kb"})

    assert "42" not in refused(answer, 500)
    assert "row (42, secret) was refused" in caplog.text


# What is refused


BAD_JSON = {
    "cut short": b'{"question": "a", ',
    "empty": b"",
    "nested 100,000 deep": b"[" * 100_000,
    "a whole number of 10,000 digits": b'{"question": "a", "k": ' + b"9" * 10_000 + b"}",
    "not utf-8": b'{"question": "\xff", "collection": "kb"}',
}


@pytest.mark.parametrize("path", ["/ask", "/search", "/documents", "/collections"])
@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
async def test_malformed_json_is_refused_with_a_sentence(
    visitor: httpx.AsyncClient, path: str, body: bytes
) -> None:
    answer = await visitor.post(path, content=body, headers=JSON)

    refused(answer, 422 if body == b"" else 400)


QUESTION = '{"question": "a", "collection": "kb"'
BAD_QUESTIONS = {
    "NUL": r'{"question": "a\u0000b", "collection": "kb"}',
    "lone surrogate": r'{"question": "a\ud800b", "collection": "kb"}',
    "blank": '{"question": " ", "collection": "kb"}',
    "too long": '{"question": "' + "a" * 10_001 + '", "collection": "kb"}',
    "no collection": '{"question": "a"}',
    "empty list of collections": '{"question": "a", "collection": []}',
    "NUL in a collection's name": r'{"question": "a", "collection": ["k\u0000b"]}',
    "surrogate in a collection's name": r'{"question": "a", "collection": "k\udfffb"}',
    "k of 0": QUESTION + ', "k": 0}',
    "k beyond int8": QUESTION + ', "k": 9223372036854775808}',
    "k not finite": QUESTION + ', "k": NaN}',
    "k infinite": QUESTION + ', "k": 1e999}',
    "k a text": QUESTION + ', "k": "5"}',
    "k a boolean": QUESTION + ', "k": true}',
    "unknown field": QUESTION + ', "mode": "fast"}',
    "unknown field with a surrogate": QUESTION + r', "\ud800": 1}',
    "not an object": '["a"]',
    "null": "null",
}


@pytest.mark.parametrize("path", ["/ask", "/search"])
@pytest.mark.parametrize("body", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
async def test_a_question_that_cannot_be_asked_is_422_with_a_sentence(
    visitor: httpx.AsyncClient, path: str, body: str
) -> None:
    answer = await visitor.post(path, content=body.encode(), headers=JSON)

    refused(answer, 422)
    assert answer.json()["errors"][0]["at"].startswith("body")


@pytest.mark.parametrize(
    "more",
    [{"method": "psychic"}, {"ef_search": 0}, {"ef_search": 1001}, {"explain": 1}],
    ids=str,
)
async def test_a_search_that_cannot_be_made_is_422(
    visitor: httpx.AsyncClient, more: dict[str, Any]
) -> None:
    answer = await visitor.post("/search", json={"question": "a", "collection": "kb", **more})

    refused(answer, 422)


def documents(**more: Any) -> dict[str, Any]:
    return {"collection": "kb", "documents": [{"source": "a", "text": "A text.", **more}]}


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


BAD_DOCUMENTS = {
    "NUL in the text": documents(text="a\0b"),
    "surrogate in the text": documents(text="a\ud800"),
    "NUL in the source": documents(source="a\0b"),
    "source too long for its index": documents(source="ü" * 1500),
    "source empty": documents(source=""),
    "surrogate in the title": documents(title="\udc00"),
    "NUL in a metadata key": documents(metadata={"a\0": 1}),
    "surrogate in a nested metadata key": documents(metadata={"a": [{"\ud800": 1}]}),
    "NUL in a nested metadata value": documents(metadata={"a": [{"b": ["\0"]}]}),
    "NaN in metadata": documents(metadata={"a": [float("nan")]}),
    "infinity in metadata": documents(metadata={"a": float("inf")}),
    "metadata too deep": documents(metadata=deep(50)),
    "metadata too large": documents(metadata={"a": "a" * 70_000}),
    "metadata not an object": documents(metadata=[1]),
    "unknown media type": documents(media_type="application/pdf"),
    "unknown field": documents(body="a"),
    "no documents": {"collection": "kb", "documents": []},
    "too many documents": {"collection": "kb", "documents": documents()["documents"] * 1001},
    "a source twice": {"collection": "kb", "documents": documents()["documents"] * 2},
    "a name that no collection may have": {**documents(), "collection": "a b"},
    "a name with a line break": {**documents(), "collection": "ab\n"},
    "a name that only some databases accept": {**documents(), "collection": "bücher"},
}


@pytest.mark.parametrize("body", BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
async def test_a_document_that_cannot_be_kept_is_422_and_nothing_is_written(
    visitor: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answer = await visitor.post("/documents", content=as_json(body), headers=JSON)

    refused(answer, 422)
    assert (await visitor.get("/collections")).json() == {"collections": []}


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


async def test_metadata_at_every_limit_comes_back_as_it_went_in(client: httpx.AsyncClient) -> None:
    metadata = {
        "deep": deep(13),
        "large": "a" * 60_000,
        "numbers": [2**63, -(2**70), 10**4000, 2.5e10, 5e-324, -0.5],
        "": None,
        "ü\U0001f600": [True, False],
    }
    await client.post("/documents", json=documents(metadata=metadata))

    page = (await client.get("/documents", params={"collection": "kb"})).json()

    assert page["documents"][0]["metadata"] == metadata


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "-a"},
        {"name": "a" * 101},
        {"name": "a\0"},
        {"name": "a", "language": "klingon"},
        {"name": "a", "chunk_size": 15},
        {"name": "a", "chunk_size": 4097},
        {"name": "a", "chunk_size": 20, "chunk_overlap": 11},
        {"name": "a", "chunk_size": 2**80},
    ],
    ids=str,
)
async def test_a_collection_that_cannot_be_made_is_422(
    visitor: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    refused(await visitor.post("/collections", json=body), 422)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "collection=%00",
        "collection=kb&limit=0",
        "collection=kb&limit=1001",
        "collection=kb&limit=many",
        "collection=kb&after=-1",
        "collection=kb&after=9223372036854775808",
        "collection=kb&page=2",
    ],
)
async def test_a_page_that_cannot_be_listed_is_422(visitor: httpx.AsyncClient, query: str) -> None:
    refused(await visitor.get(f"/documents?{query}"), 422)


@pytest.mark.parametrize("number", ["9223372036854775808", "1.5", "a", "%00", "%ff"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_number_that_no_document_has_is_422(
    visitor: httpx.AsyncClient, method: str, number: str
) -> None:
    refused(await visitor.request(method, f"/documents/{number}"), 422)


async def test_names_that_nothing_has_are_404(filled: httpx.AsyncClient) -> None:
    for name in ("nothing", "%ff", "a%20b", "b%C3%BCcher"):
        refused(await filled.get(f"/collections/{name}"), 404)
        refused(await filled.delete(f"/collections/{name}"), 404)
    refused(await filled.get("/documents/9223372036854775807"), 404)
    for number in ("0", "-1", "-9223372036854775808"):
        for method in ("GET", "DELETE"):
            said = refused(await filled.request(method, f"/documents/{number}"), 404)
            assert "attached table" in said
    refused(await filled.get("/documents", params={"collection": "nothing"}), 404)
    asked = {"question": "a", "collection": ["kb", "nothing"]}
    assert "there are: kb" in refused(await filled.post("/ask", json=asked), 404)
    assert "there are: kb" in refused(await filled.post("/search", json=asked), 404)


@pytest.mark.parametrize("said", ["text/plain", "application/xml", "multipart/form-data", ""])
@pytest.mark.parametrize("path", ["/ask", "/search", "/documents", "/collections"])
async def test_a_body_that_does_not_say_json_is_415(
    visitor: httpx.AsyncClient, path: str, said: str
) -> None:
    answer = await visitor.post(path, content=b'{"name": "a"}', headers={"content-type": said})

    assert "application/json" in refused(answer, 415)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/ask", "POST"),
        ("DELETE", "/documents", "GET, POST"),
        ("POST", "/documents/1", "DELETE, GET"),
        ("PATCH", "/collections/kb", "DELETE, GET"),
        ("TRACE", "/readyz", "GET"),
    ],
)
async def test_a_method_that_a_route_lacks_is_405_with_those_it_has(
    visitor: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await visitor.request(method, path)

    refused(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/nothing", "/ask/", "/docs", "/collections/a/b", "/%00"])
async def test_an_unknown_route_is_404(visitor: httpx.AsyncClient, path: str) -> None:
    assert "/openapi.json" in refused(await visitor.get(path), 404)


async def test_a_body_beyond_the_limit_is_413(visitor: httpx.AsyncClient) -> None:
    large = await visitor.post(
        "/documents", content=b" " * (DOCUMENTS.body_bytes + 1), headers=JSON
    )
    long = await visitor.post("/ask", content=b" " * (OTHERS.body_bytes + 1), headers=JSON)

    assert "2,097,152 bytes; send fewer" in refused(large, 413)
    assert "`ragline ingest`" in refused(large, 413)
    assert "262,144" in refused(long, 413)


async def test_the_longest_question_for_the_most_collections_is_within_the_limit(
    visitor: httpx.AsyncClient,
) -> None:
    names = [f"{number:03}" + "\U0001f600" * 97 for number in range(100)]
    asked = {"question": "\U0001f600" * 10_000, "collection": names}

    answer = await visitor.post("/ask", content=as_json(asked), headers=JSON)

    assert "does not exist" in refused(answer, 404)


# Who may ask


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1", "127.8.8.8", "[::1]:8000"]
)
async def test_without_a_key_this_machine_may_ask(visitor: httpx.AsyncClient, host: str) -> None:
    assert (await visitor.get("/collections", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "evil.example@127.0.0.1",
        "127.0.0.1 evil.example",
        "10.0.0.1",
        "[::]",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/collections", "/readyz", "/openapi.json"])
async def test_without_a_key_a_name_that_is_not_this_machine_is_421(
    visitor: httpx.AsyncClient, host: str, path: str
) -> None:
    assert "RAGLINE_API_KEY" in refused(await visitor.get(path, headers={"host": host}), 421)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", ""]
)
async def test_without_a_key_a_page_of_elsewhere_is_403(
    visitor: httpx.AsyncClient, origin: str
) -> None:
    answer = await visitor.post("/collections", json={"name": "a"}, headers={"origin": origin})

    refused(answer, 403)
    assert (await visitor.get("/collections")).json() == {"collections": []}


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:1"])
async def test_without_a_key_a_page_of_this_machine_may_ask(
    visitor: httpx.AsyncClient, origin: str
) -> None:
    assert (await visitor.get("/collections", headers={"origin": origin})).status_code == 200


async def test_with_a_key_every_route_wants_it_but_the_two_of_health(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    config = Config(dsn=own_dsn, data_dir=tmp_path, api_key=Secret(KEY))
    async with running(config, FakeEmbedder()) as service, client_of(service) as client:
        for path, operations in service.openapi()["paths"].items():
            for method in operations:
                answer = await client.request(method, path.replace("{id}", "1"))
                if path in {"/healthz", "/readyz"}:
                    assert answer.status_code == 200
                    assert not any(c["detail"] or c["fix"] for c in answer.json()["checks"])
                else:
                    assert "Authorization: Bearer" in refused(answer, 401)
                    assert answer.headers["www-authenticate"].startswith("Bearer")
        refused(await client.get("/openapi.json"), 401)
        refused(await client.get("/nothing"), 401)

        wrong = (f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY[:-1]}", "Bearer ü")
        for said in wrong:
            given = httpx.Headers({"authorization": said}, encoding="latin-1")
            refused(await client.get("/collections", headers=given), 401)

        for said in (f"Bearer {KEY}", f"bearer  {KEY} "):
            given = httpx.Headers({"authorization": said, "host": "rag.example.org"})
            assert (await client.get("/collections", headers=given)).status_code == 200
        ready = (await client.get("/readyz", headers=given)).json()
        assert all(check["detail"] for check in ready["checks"])
        assert service.openapi()["paths"]["/ask"]["post"]["security"] == [{"HTTPBearer": []}]


# Over the wire


@dataclass(frozen=True, kw_only=True)
class Live:
    url: str
    service: FastAPI


@contextlib.contextmanager
def listening(config: Config, embedder: Embedder | None) -> Iterator[Live]:
    """The service behind a real socket, in a thread with a loop of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    server: list[uvicorn.Server] = []
    services: list[FastAPI] = []

    async def serve() -> None:
        async with running(config, embedder) as service:
            settings = uvicorn.Config(service, lifespan="off", log_config=None, access_log=False)
            services.append(service)
            server.append(uvicorn.Server(settings))
            await server[0].serve([listener])

    with listener, ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, serve())
        try:
            wait_until(lambda: done.done() or (bool(server) and server[0].started))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Live(url=url, service=services[0])
        finally:
            for item in server:
                item.should_exit = True
            done.result(100)


def test_a_body_beyond_the_limit_is_told_so_over_the_wire(own_dsn: Dsn, tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2 * DOCUMENTS.body_bytes // 65_536):
            yield b" " * 65_536

    with listening(Config(dsn=own_dsn, data_dir=tmp_path), None) as live:
        for body in (b" " * (DOCUMENTS.body_bytes + 1), endless()):
            refused(httpx.post(f"{live.url}/ask", content=body, headers=JSON, timeout=100), 413)
        asked = {**JSON, "expect": "100-continue", "content-length": str(10**12)}
        with socket.create_connection(("127.0.0.1", int(live.url.rsplit(":", 1)[1]))) as wire:
            head = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
            wire.sendall(f"POST /ask HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
            assert wire.recv(100).startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_goes_away_leaves_no_query_behind(own_dsn: Dsn, tmp_path: Path) -> None:
    # The limit of the service itself is further away than anybody waits here.
    config = Config(dsn=own_dsn, data_dir=tmp_path, query_timeout_s=300)
    with listening(config, FakeEmbedder()) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=200) as client:
            await client.post("/documents", json=two_documents())
            slow = SleepingEmbedder(opened(live.service))
            use(live.service, slow)
            body = {"question": "yeast", "collection": "kb"}
            asking = asyncio.create_task(client.post("/search", json=body))
            await until_sleeping(own_dsn, 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until_sleeping(own_dsn, 0)

    assert slow.was_cancelled


def test_whatever_is_sent_the_answers_are_those_of_the_openapi_page(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    with listening(Config(dsn=own_dsn, data_dir=tmp_path), FakeEmbedder()) as live:
        body = {**two_documents(), "collection": "handbook"}
        httpx.post(f"{live.url}/documents", json=body, timeout=100).raise_for_status()
        schemathesis = Path(sys.executable).parent / "schemathesis"
        checks = (
            "not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
            "unsupported_method,use_after_free"
        )
        done = subprocess.run(
            [
                *(schemathesis, "run", f"{live.url}/openapi.json", "--checks", checks),
                *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "15"),
                *(
                    "--seed",
                    "1",
                    "--generation-deterministic",
                ),
                *("--max-failures", "5", "--no-color"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=240,
        )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# The command


def environment(dsn: Dsn | str, data_dir: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    url = dsn if isinstance(dsn, str) else dsn.for_psycopg("admin")
    own = {"DATABASE_URL": url, "RAGLINE_DATA_DIR": str(data_dir)}
    return {**kept, **own, **more}


@contextlib.contextmanager
def serving(env: dict[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `ragline serve` of its own, and its URL once it says that it listens."""
    command = [*COMMAND, "serve", "--port", "0", *options]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("listening on http://"), said + process.stderr.read()
            yield process, said.split()[-1]
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_stopped_and_exits_with_0(
    own_dsn: Dsn, tmp_path: Path, stop: signal.Signals
) -> None:
    with serving(environment(own_dsn, tmp_path)) as (process, url):
        with httpx.Client(base_url=url, timeout=100) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").json()["status"] == "warn"
            report = client.post("/documents", json=two_documents()).json()
            assert report["added"] == 2
            found = client.post("/ask", json={"question": "Capital of France?", "collection": "kb"})
            assert found.json()["citations"][0]["source"] == "paris.txt"
            assert "server" not in found.headers
            process.send_signal(stop)
            assert process.wait(100) == 0
        assert process.stderr is not None
        log = process.stderr.read()

    assert re.search(r"POST /ask 200 [\d.]+ ms \w{32}", log)
    assert "Traceback" not in log


def test_a_request_under_way_is_finished_before_the_command_stops(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    texts = [{"source": f"{number}", "text": f"{PARIS} {number}"} for number in range(200)]
    many = {"collection": "kb", "documents": texts}
    with serving(environment(own_dsn, tmp_path)) as (process, url), ThreadPoolExecutor(1) as thread:
        asked = thread.submit(httpx.post, f"{url}/documents", json=many, timeout=100)
        wait_until(lambda: bool(httpx.get(f"{url}/collections", timeout=100).json()["collections"]))
        process.terminate()
        assert asked.result(100).json()["added"] == 200
        assert process.wait(100) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])  # noqa: S104
def test_others_are_not_let_in_without_a_key(own_dsn: Dsn, tmp_path: Path, host: str) -> None:
    done = run(environment(own_dsn, tmp_path), "serve", "--host", host, "--port", "0")

    assert done.returncode == 2
    assert "RAGLINE_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_others_are_let_in_with_the_key(own_dsn: Dsn, tmp_path: Path) -> None:
    env = environment(own_dsn, tmp_path, RAGLINE_API_KEY=KEY)
    with serving(env, "--host", "0.0.0.0") as (_, url):  # noqa: S104 - that is what is tested
        here = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        refused(httpx.get(f"{here}/collections", timeout=100), 401)
        given = {"authorization": f"Bearer {KEY}"}
        answer = httpx.get(f"{here}/collections", headers=given, timeout=100)
        assert answer.status_code == 200


def test_a_port_in_use_is_said_with_what_to_do(own_dsn: Dsn, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(environment(own_dsn, tmp_path), "serve", "--port", port)

    assert done.returncode == 3
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use")
    assert "--port" in done.stderr


def test_a_database_that_nobody_runs_is_said_with_exit_code_7(tmp_path: Path) -> None:
    env = environment("postgresql://u@127.0.0.1:1/d", tmp_path)
    served = run(env, "serve", "--port", "0")
    health = run(env, "health")

    assert served.returncode == 7
    assert served.stderr.startswith("error: no PostgreSQL answers")
    assert "Traceback" not in served.stderr
    assert health.returncode == 3
    assert "fail  database" in health.stdout


def test_health_shows_every_check_on_the_command_line(own_dsn: Dsn, tmp_path: Path) -> None:
    done = run(environment(own_dsn, tmp_path), "health")

    assert done.returncode == 0
    assert done.stdout.startswith("health: warn\n")
    for id_ in ("database", "schema", "isolation", "pool"):
        assert f"  pass  {id_}" in done.stdout
    assert "no model: search is lexical only" in done.stdout
    assert '"status": "warn"' in run(environment(own_dsn, tmp_path), "health", "--json").stdout


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=240
    )


# Models that misbehave, and looking into the database


class SleepingEmbedder(FakeEmbedder):
    """A model whose questions wait for a query that never ends."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self.app = app
        self.was_cancelled = False

    async def embed_query(self, text: str) -> Vector:
        pool = await self.app.pool("serve")
        try:
            async with pool.connection() as connection:
                await connection.fetchval("select pg_sleep(600)")
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return await super().embed_query(text)


@dataclass
class BrokenEmbedder(FakeEmbedder):
    error: Exception
    facts: Any = field(default_factory=lambda: FakeEmbedder().facts)

    async def embed_query(self, text: str) -> Vector:
        raise self.error

    async def embed_documents(self, texts: Any) -> Embedded:
        raise self.error


class OneBatchEmbedder(FakeEmbedder):
    """A model that never comes to the end of its second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        self.batches += 1
        if self.batches > 1:
            await asyncio.sleep(3600)
        return await super().embed_documents(texts)


class RemovingEmbedder(FakeEmbedder):
    """A model during whose work somebody removes the collection."""

    def __init__(self, db: "asyncpg.Connection[asyncpg.Record]") -> None:
        super().__init__()
        self.db = db

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        await self.db.execute("delete from collection where name = 'kb'")
        return await super().embed_documents(texts)


def use(service: FastAPI, embedder: Embedder) -> None:
    opened(service)._embedder = embedder


async def sleeping_queries(dsn: Dsn) -> int:
    db = await connect(dsn.on("postgres"))
    try:
        count: int = await db.fetchval(
            "select count(*) from pg_stat_activity where datname = $1 and state = 'active' "
            "and query like '%pg_sleep%'",
            dsn.database,
        )
    finally:
        await db.close()
    return count


async def until_sleeping(dsn: Dsn, queries: int) -> None:
    for _ in range(600):
        if await sleeping_queries(dsn) == queries:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("waited in vain")


async def execute(dsn: Dsn, statement: str) -> None:
    db = await connect(dsn)
    try:
        await db.execute(statement)
    finally:
        await db.close()


def wait_until(true: Callable[[], bool], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)

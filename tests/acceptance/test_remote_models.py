"""Models on the wire: every provider against a loopback double that answers, fails and lies."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clocks import Clock, put_forward, until
from doubles import bedrock_server
from doubles.bedrock_server import BedrockServer
from doubles.openai_server import KEY, Answer, Behaviour, Cut, Fail, OpenAIServer, Raw, Stall
from ragline.config import Config
from ragline.core.dsn import Secret
from ragline.core.remote import EmbeddingEndpoint, Endpoint, Limits
from ragline.errors import (
    ModelRefused,
    ModelReplyInvalid,
    ModelUnavailable,
    RemoteModelError,
    UsageError,
)
from ragline.models import llm_remote
from ragline.models.accounting import Metered, Spending
from ragline.models.embed import Embedder, open_configured_embedder
from ragline.models.llm import ChatModel, Message, Piece, open_chat_model

PRICES = """
[[price]]
provider = "openai"
model = "m"
input = 2
output = 6.5
as_of = 2026-11-01
[[price]]
provider = "bedrock"
model = "amazon.titan-embed-text-v2:0"
input = 2
as_of = 2026-11-01
[[price]]
provider = "bedrock"
model = "cohere.embed-v4:0"
input = 2
as_of = 2026-11-01
[[price]]
provider = "bedrock"
model = "eu.anthropic.claude-sonnet"
input = 2
output = 6.5
as_of = 2026-11-01
"""
# Patient, so that a busy machine changes no outcome; what is about time puts a clock forward.
PATIENT = Limits(timeout_s=20.0, deadline_s=60.0, retries=1)
TEXTS = ["one two three", "four five"]
QUESTION = (
    Message(role="system", content="Answer in few words."),
    Message(role="user", content="How long is the leave?"),
)
Double = OpenAIServer | BedrockServer


@dataclass(kw_only=True)
class Used:
    """What came out of one use of a model, before the error if there was one."""

    vectors: np.ndarray[Any, Any] | None = None
    pieces: list[Piece] = field(default_factory=list)
    tokens: int | None = None
    error: RemoteModelError | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


@dataclass(kw_only=True)
class Case:
    """A model at its double."""

    kind: str
    server: Double
    config: Config
    clock: Clock
    model: Embedder | ChatModel | None = None
    used: Used = field(default_factory=Used)
    """What comes out of the use under way."""

    @property
    def texts(self) -> list[str]:
        """Texts of five words together, that fit one request: Titan takes but one."""
        return [" ".join(TEXTS)] if self.kind == "embed-titan" else TEXTS

    @property
    def is_chat(self) -> bool:
        return self.kind.startswith("chat")

    def limited(self, **limits: Any) -> None:
        """Give the model other limits, before it is opened."""
        if self.config.chat:
            chat = self.config.chat
            self.config = replace(
                self.config, chat=replace(chat, limits=replace(chat.limits, **limits))
            )
        if self.config.embedding:
            settings = self.config.embedding
            endpoint = settings.endpoint
            endpoint = replace(endpoint, limits=replace(endpoint.limits, **limits))
            self.config = replace(self.config, embedding=replace(settings, endpoint=endpoint))

    def impatient(self, *, blocking_s: float) -> None:
        """Have nobody wait long for a model that is silent.

        Where the event loop waits, its clock is put forward; boto's sockets keep to real time.
        """
        if "openai" not in self.kind:
            self.limited(timeout_s=blocking_s)
            return
        # Not all of it at once: the next attempt has a time-out of its own.
        step_s = PATIENT.timeout_s * 0.6
        self.server.on_stall = lambda _: self.clock.forward(step_s)

    async def use(self) -> Used:
        """Embed TEXTS in one batch, or ask QUESTION; a RemoteModelError is part of the outcome."""
        self.used = used = Used()
        try:
            if self.is_chat:
                self.model = self.model or open_chat_model(self.config)
                assert self.model is not None
                async for piece in self.model.stream(QUESTION, max_tokens=50):  # type: ignore[union-attr]
                    used.pieces.append(piece)
            else:
                self.model = self.model or await open_configured_embedder(self.config)
                assert self.model is not None
                embedded = await self.model.embed_documents(self.texts)  # type: ignore[union-attr]
                used.vectors, used.tokens = embedded.vectors, embedded.tokens
        except RemoteModelError as error:
            used.error = error
        return used

    @property
    def spent(self) -> Spending:
        model: object = self.model
        assert isinstance(model, Metered)
        return model.spent


KINDS = ("embed-openai", "embed-titan", "embed-cohere", "chat-openai", "chat-bedrock")
MODELS = {
    "embed-titan": "amazon.titan-embed-text-v2:0",
    "embed-cohere": "cohere.embed-v4:0",
    "chat-bedrock": "eu.anthropic.claude-sonnet",
}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of nobody, and no way to any others."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIADOUBLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=KINDS)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async for made in _cases(request.param, tmp_path):
        yield made


async def _cases(kind: str, folder: Path) -> AsyncIterator[Case]:
    (folder / "prices.toml").write_text(PRICES)
    with _server(kind) as server, put_forward() as clock:
        config = _config(kind, server, folder)
        case = Case(kind=kind, server=server, config=config, clock=clock)
        yield case
        if case.model is not None:
            await case.model.close()
        assert server.is_script_over


def _server(kind: str) -> Double:
    return OpenAIServer(key=KEY) if kind.endswith("openai") else BedrockServer(dimension=64)


def _config(kind: str, server: Double, folder: Path) -> Config:
    provider = "openai" if kind.endswith("openai") else "bedrock"
    endpoint = Endpoint(
        provider=provider,  # type: ignore[arg-type]
        model=MODELS.get(kind, "m"),
        url=server.url,
        key=Secret(KEY) if provider == "openai" else None,
        region="us-east-1" if provider == "bedrock" else None,
        limits=PATIENT,
        variables="RAGLINE_CHAT" if kind.startswith("chat") else "RAGLINE_EMBED",
    )
    config = Config(data_dir=folder, prices=folder / "prices.toml")
    if kind.startswith("chat"):
        return replace(config, chat=endpoint)
    return replace(
        config, embedding=EmbeddingEndpoint(endpoint=endpoint, dimension=64, normalised=True)
    )


# --- success


async def test_success_is_counted_to_the_token_and_the_micro_dollar(case: Case) -> None:
    used = await case.use()

    assert used.error is None
    if case.is_chat:
        assert used.text == "You said: How long is the leave?"
        usage = used.pieces[-1].usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (9, 7)
        assert usage.cost_micro_usd == 64  # 9 x 2 + 7 x 6.5 = 63.5, rounded up
        assert used.pieces[-1].finish_reason == "stop"
        assert (case.spent.input_tokens, case.spent.output_tokens) == (9, 7)
        assert case.spent.cost_micro_usd == 64
    else:
        assert used.vectors is not None
        assert used.vectors.shape == (len(case.texts), 64)
        assert np.allclose(np.linalg.norm(used.vectors, axis=1), 1, atol=1e-5)
        assert used.tokens == 5
        assert (case.spent.input_tokens, case.spent.output_tokens) == (5, 0)
        assert case.spent.cost_micro_usd == 10
    assert case.spent.requests == len(case.server.requests)
    assert (case.spent.retries, case.spent.failures, case.spent.uncounted) == (0, 0, 0)


async def test_what_nobody_counted_is_not_known_and_not_zero(case: Case) -> None:
    case.server.script(Answer(usage={}))

    used = await case.use()

    assert used.error is None
    if case.is_chat:
        usage = used.pieces[-1].usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens, usage.cost_micro_usd) == (None, None, None)
    else:
        assert used.tokens is None
    assert case.spent.input_tokens is None
    assert case.spent.cost_micro_usd is None
    assert case.spent.uncounted > 0


async def test_a_model_without_a_price_costs_an_unknown_amount(case: Case) -> None:
    case.config = replace(case.config, prices=None)

    used = await case.use()

    assert used.error is None
    assert case.spent.input_tokens
    assert case.spent.cost_micro_usd is None


# --- failures that pass, and failures that stay


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_failure_that_passes_is_repeated_and_counted(case: Case, status: int) -> None:
    case.server.script(Fail(status=status))

    used = await case.use()

    assert used.error is None
    assert case.spent.retries == 1
    assert case.spent.requests == len(case.server.requests)
    assert case.spent.retry_wait_s > 0
    # A refused one costs nothing; who knows how far the provider came with any other.
    assert case.spent.cost_micro_usd == ((64 if case.is_chat else 10) if status == 429 else None)
    assert case.spent.uncounted == (status != 429)


async def test_retry_after_is_waited_for(case: Case) -> None:
    case.server.script(Fail(status=429, headers=(("retry-after", "20"),)))
    started = case.clock.time()

    used = await case.use()

    assert used.error is None
    assert case.clock.time() - started >= 20
    assert case.spent.retry_wait_s >= 20


async def test_nobody_waits_for_an_hour(case: Case) -> None:
    case.server.script(Fail(status=429, headers=(("retry-after", "3600"),)))
    case.limited(deadline_s=86400.0)

    used = await case.use()

    assert isinstance(used.error, ModelUnavailable)
    assert "come back in 3600 s" in str(used.error)
    assert case.spent.retries == 0
    assert case.spent.failures == 1


@pytest.mark.parametrize(
    ("status", "says"), [(429, "_RPM or RAGLINE"), (500, "the provider fails"), (503, "fails")]
)
async def test_a_failure_that_stays_is_named(case: Case, status: int, says: str) -> None:
    case.server.script(*[Fail(status=status)] * 2)

    used = await case.use()

    assert isinstance(used.error, ModelUnavailable)
    assert f"status {status}" in str(used.error)
    assert "the double was told to fail" in str(used.error)
    assert "(2 attempts in" in str(used.error)
    assert says in str(used.error)
    assert used.vectors is None
    assert used.pieces == []
    assert (case.spent.requests, case.spent.retries, case.spent.failures) == (2, 1, 1)
    assert case.spent.cost_micro_usd == (0 if status == 429 else None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
async def test_a_refusal_is_not_repeated(case: Case, status: int) -> None:
    case.server.script(Fail(status=status, message=f"no, {KEY}"))

    used = await case.use()

    assert isinstance(used.error, ModelRefused)
    assert f"status {status}" in str(used.error)
    assert case.spent.requests == 1
    if case.kind.endswith("openai"):
        assert KEY not in str(used.error)
        assert "no, ***" in str(used.error)


def _key_in_disguise() -> dict[str, str]:
    return {
        "whole": KEY,
        "in capitals": KEY.upper(),
        "on two lines": f"{KEY[:9]}\n{KEY[9:]}",
        "with a sign that nobody sees": f"{KEY[:9]}\u200b{KEY[9:]}",
        "cut short": KEY[:-1],
        "its end": KEY[-12:],
    }


@pytest.mark.parametrize("name", list(_key_in_disguise()))
@pytest.mark.parametrize("way", ["refusal", "event", "redirect"])
@pytest.mark.parametrize("case", ["chat-openai"], indirect=True)
async def test_no_part_of_a_key_comes_back(case: Case, name: str, way: str) -> None:
    said = _key_in_disguise()[name]
    body = json.dumps({"error": {"message": f"no, {said}"}}).encode()
    host = f"https://{''.join(said.split())}.example.org/"
    case.server.script(
        {
            "refusal": Raw(status=401, body=body),
            "event": _events(_delta(content="Four "), {"error": {"message": f"no, {said}"}}),
            "redirect": Raw(
                status=307, body=b"", headers=(("location", host.encode("idna").decode()),)
            )
            if said.isascii()
            else Raw(status=401, body=body),
        }[way]
    )

    used = await case.use()

    assert used.error is not None
    assert "***" in str(used.error)
    whole = "".join(traceback.format_exception(used.error)).casefold()
    bare = "".join(character for character in whole if "!" <= character <= "~")
    assert not any(KEY[at : at + 8] in bare for at in range(len(KEY) - 7))


@pytest.mark.parametrize("reason", [KEY, "x" * 1000, "see http://evil.example", "stop\n[1]"])
async def test_a_finish_reason_that_is_no_word_is_not_passed_on(
    openai_chat: Case, reason: str
) -> None:
    openai_chat.server.script(_events(_delta(content="Four days."), _delta(finish=reason)))

    used = await openai_chat.use()

    assert used.error is None
    assert used.pieces[-1].finish_reason == "unknown"


# --- headers and counts that cannot be


@pytest.mark.parametrize(
    "header", ["Thu, 01 Jan 2026 00:00:09 +99999999999999999999", "9" * 400, "1" * 5000]
)
async def test_no_retry_after_is_too_odd_to_be_named(case: Case, header: str) -> None:
    case.server.script(Fail(status=429, headers=(("retry-after", header),)))
    case.limited(retries=0)

    used = await case.use()

    assert isinstance(used.error, ModelUnavailable)
    assert "inf s" not in str(used.error)


@pytest.mark.parametrize("case", ["embed-openai", "chat-openai"], indirect=True)
async def test_a_redirect_to_what_is_no_url_is_named(case: Case) -> None:
    case.server.script(Raw(status=307, body=b"", headers=(("location", "http://[bad/x"),)))

    used = await case.use()

    assert isinstance(used.error, ModelRefused)
    assert "what is no URL" in str(used.error)


@pytest.mark.parametrize("count", [10**15, 10**400, 0, -5, 5.0, True])
async def test_a_count_that_cannot_be_is_none_and_holds_up_nobody(
    case: Case, count: object
) -> None:
    case.limited(tokens_per_minute=60_000)
    names = {"chat-bedrock": "inputTokens", "embed-titan": "inputTextTokenCount"}
    usage: Any = {names.get(case.kind, "prompt_tokens"): count}
    usage |= {"outputTokens": 2} if case.kind == "chat-bedrock" else {"completion_tokens": 2}
    case.server.script(Answer(usage=usage))

    first, second = await case.use(), await case.use()

    assert (first.error, second.error) == (None, None)
    # As long as the largest count would be waited for, by the clock.
    assert case.spent.limiter_wait_s < 50
    assert case.spent.input_tokens is None
    assert case.spent.cost_micro_usd is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HTTPS_PROXY", "socks5://ann:secret@127.0.0.1:9", "socks"),
        ("HTTPS_PROXY", "htp://ann:secret@127.0.0.1:9", "scheme"),
        ("HTTPS_PROXY", "http://ann:secret@127.0.0.1:bad", "port"),
        ("SSL_CERT_FILE", "/nowhere/none.pem", "No such file"),
    ],
)
async def test_surroundings_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    async for case in _cases("chat-openai", tmp_path):
        assert case.config.chat is not None
        away = replace(case.config.chat, url="https://models.invalid/v1", key=None)
        case.config = replace(case.config, chat=away)

        used = await case.use()

        assert isinstance(used.error, ModelRefused)
        assert says in str(used.error)
        assert "SSL_CERT_FILE" in str(used.error)
        assert "secret" not in str(used.error)


@pytest.mark.parametrize("proxy", ["htp://ann:se/cr@et@127.0.0.1:9", "socks5://ann:secret@[::1]:9"])
async def test_bedrock_names_no_password_of_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async for case in _cases("chat-bedrock", tmp_path):
        assert case.config.chat is not None
        case.limited(retries=0)
        case.config = replace(case.config, chat=replace(case.config.chat, url=None))

        used = await case.use()

        assert isinstance(used.error, RemoteModelError)
        assert "proxy" in str(used.error).lower() or "connection" in str(used.error)
        assert not any(
            word in str(used.error) for word in ("secret", "se/cr", "cr@et", "et@", "ann")
        )


# --- Bedrock at another address


async def test_bedrock_on_this_machine_needs_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer() as proxy:
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        for by in ("RAGLINE_CHAT_URL", "AWS_ENDPOINT_URL"):
            async for case in _cases("chat-bedrock", tmp_path):
                if by == "AWS_ENDPOINT_URL":
                    assert case.config.chat is not None
                    monkeypatch.setenv(by, case.server.url)
                    case.config = replace(case.config, chat=replace(case.config.chat, url=None))

                assert (await case.use()).error is None
                assert len(case.server.requests) == 1
        assert proxy.requests == []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"])
async def test_credentials_go_nowhere_in_the_clear_whoever_names_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://models.invalid:8080")
    async for case in _cases("chat-bedrock", tmp_path):
        assert case.config.chat is not None
        case.config = replace(case.config, chat=replace(case.config.chat, url=None))

        used = await case.use()

        assert isinstance(used.error, ModelRefused)
        assert "at http://models.invalid:8080: the credentials would be readable" in str(used.error)
        assert "AWS_ENDPOINT_URL" in str(used.error)


# --- at once, and no more


async def test_no_more_answers_at_once_than_allowed(chat: Case) -> None:
    chat.limited(concurrency=2)
    chat.model = open_chat_model(chat.config)
    # A moment late, so that one too many would be seen.
    chat.server.script(*[Answer(together=2, delay_s=0.1)] * 6)

    used = await asyncio.gather(*(chat.use() for _ in range(6)))

    assert [one.error for one in used] == [None] * 6
    assert chat.server.most_at_once == 2


async def test_an_answer_that_is_left_makes_room_for_the_next(chat: Case) -> None:
    chat.limited(concurrency=1)
    chat.model = open_chat_model(chat.config)
    assert chat.model is not None
    pieces = chat.model.stream(QUESTION, max_tokens=50)
    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]

    assert (await chat.use()).error is None


async def test_nobody_waits_for_room_past_the_deadline(chat: Case) -> None:
    chat.limited(concurrency=1)
    chat.model = open_chat_model(chat.config)
    assert chat.model is not None
    pieces = chat.model.stream(QUESTION, max_tokens=50)
    await anext(pieces)

    waiting = asyncio.create_task(chat.use())
    while not waiting.done():
        await chat.clock.sleep(PATIENT.deadline_s / 2)
    used = await waiting

    assert isinstance(used.error, ModelUnavailable)
    assert "1 answers under way (RAGLINE_CHAT_CONCURRENCY)" in str(used.error)
    await pieces.aclose()  # type: ignore[attr-defined]


async def test_a_closed_model_is_not_opened_again(case: Case) -> None:
    assert (await case.use()).error is None
    assert case.model is not None
    await case.model.close()

    with pytest.raises(UsageError, match="this model is closed"):
        await case.use()

    assert len(case.server.requests) == 1


@pytest.mark.parametrize("case", ["embed-openai", "chat-openai"], indirect=True)
async def test_a_wrong_key_is_named_and_not_shown(case: Case) -> None:
    assert isinstance(case.server, OpenAIServer)
    case.server.key = "another"

    used = await case.use()

    assert isinstance(used.error, ModelRefused)
    assert "wrong key" in str(used.error)
    assert "_KEY" in str(used.error)
    assert KEY not in str(used.error)


async def test_nobody_listening_is_named(case: Case, tmp_path: Path) -> None:
    with _server(case.kind) as gone:
        case.config = _config(case.kind, gone, tmp_path)

    used = await case.use()

    assert isinstance(used.error, ModelUnavailable)
    assert "no connection" in str(used.error)
    assert case.spent.uncounted == 0


# --- stalls


async def test_a_stall_ends_at_its_timeout_and_may_have_cost_something(case: Case) -> None:
    case.server.script(Stall())
    case.limited(retries=0)
    case.impatient(blocking_s=0.4)

    used = await case.use()

    assert isinstance(used.error, ModelUnavailable)
    # And not the deadline.
    assert f"silent for {'20' if case.kind.endswith('openai') else '0.4'} s" in str(used.error)
    assert case.spent.uncounted == 1
    assert case.spent.cost_micro_usd is None


async def test_a_stall_that_passes_is_repeated(case: Case) -> None:
    # On a machine that stands still itself a second attempt may be too slow as well.
    case.limited(retries=9, deadline_s=250.0)
    case.impatient(blocking_s=1.0)
    case.server.script(Stall())

    used = await case.use()

    assert used.error is None
    assert case.spent.retries >= 1
    assert case.spent.requests == case.spent.retries + 1
    assert case.spent.cost_micro_usd is None


async def test_the_deadline_ends_what_no_timeout_does(case: Case) -> None:
    case.limited(timeout_s=1000.0)
    never = threading.Event()
    case.server.script(Answer(held=never))
    using = asyncio.create_task(case.use())
    await until(lambda: case.server.requests)

    case.clock.forward(PATIENT.deadline_s)
    used = await using
    never.set()

    assert isinstance(used.error, ModelUnavailable)
    assert f"deadline of {PATIENT.deadline_s:g} s" in str(used.error)


async def test_a_lost_connection_is_repeated(case: Case) -> None:
    case.server.script(Cut())

    used = await case.use()

    assert used.error is None
    assert case.spent.retries == 1


# --- garbage


GARBAGE = {
    "html": Raw(body=b"<html>It works!</html>", content_type="text/html"),
    "nothing": Raw(body=b""),
    "half an object": Raw(body=b'{"data": [{"emb'),
    "a list": Raw(body=b"[]"),
    "null": Raw(body=b"null"),
    "another object": Raw(body=b'{"hello": "world"}'),
    "binary": Raw(body=bytes(range(256)) * 40),
    "nesting": Raw(body=b"[" * 100_000),
}


LESS_THAN_A_FRAME = ("nothing", "a list", "null")


@pytest.mark.parametrize("name", list(GARBAGE))
async def test_garbage_is_refused_and_not_asked_for_again(case: Case, name: str) -> None:
    case.server.script(GARBAGE[name])

    used = await case.use()

    assert case.spent.cost_micro_usd is None  # who knows what it took
    if name in LESS_THAN_A_FRAME and case.kind == "chat-bedrock":
        assert (used.error, case.spent.retries) == (None, 1)  # a stream that broke off at once
        return
    assert isinstance(used.error, ModelReplyInvalid)
    assert used.vectors is None
    assert used.pieces == []
    assert (case.spent.requests, case.spent.failures) == (1, 1)


def _item(vector: object, index: object = 0) -> dict[str, object]:
    return {"object": "embedding", "index": index, "embedding": vector}


GOOD = [1.0] + [0.0] * 63
LIES: dict[str, tuple[object, str]] = {
    "too few": ([_item(GOOD)], "1 vectors for 2 texts"),
    "too many": ([_item(GOOD, at) for at in range(3)], "3 vectors for 2 texts"),
    "one twice": ([_item(GOOD), _item(GOOD)], "index is 0"),
    "no index": ([_item(GOOD), {"embedding": GOOD}], "index is None"),
    "an index out of range": ([_item(GOOD), _item(GOOD, 2)], "index is 2"),
    "an index that is true": ([_item(GOOD), _item(GOOD, True)], "index is True"),
    "texts for numbers": ([_item(GOOD), _item(["1.0"] * 64, 1)], "not a list of numbers"),
    "nothing for numbers": ([_item(GOOD), _item([None] * 64, 1)], "not a list of numbers"),
    "no vector": ([_item(GOOD), _item(None, 1)], "not a list of numbers"),
    "too large a number": ([_item(GOOD), _item([1e300] * 64, 1)], "not finite"),
    "an endless integer": ([_item(GOOD), _item([10**400] * 64, 1)], "not finite"),
    "zeros": ([_item(GOOD), _item([0.0] * 64, 1)], "a vector of zeros"),
    "another dimension": ([_item([1.0] * 32, at) for at in range(2)], "vectors of 32 numbers"),
    "two dimensions": ([_item(GOOD), _item([1.0] * 32, 1)], "different lengths: [32, 64]"),
    "another length": ([_item([3.0] * 64, at) for at in range(2)], "length is not 1"),
    "no numbers": ([_item([], at) for at in range(2)], "not one vector for each text"),
    "bad base64": ([_item(GOOD), _item("####", 1)], "not base64"),
    "odd base64": ([_item(GOOD), _item("AAAA", 1)], "not base64"),
    "base64 of infinity": ([_item("AACAfw==" * 1, at) for at in range(2)], "not finite"),
    "an object": ({"0": GOOD}, "an answer without `data`"),
}


@pytest.fixture
async def openai_embeddings(tmp_path: Path) -> AsyncIterator[Case]:
    async for made in _cases("embed-openai", tmp_path):
        yield made


@pytest.mark.parametrize("name", list(LIES))
async def test_vectors_that_cannot_be_are_refused(openai_embeddings: Case, name: str) -> None:
    data, says = LIES[name]
    openai_embeddings.server.script(Answer(patch={"data": data}))

    used = await openai_embeddings.use()

    assert isinstance(used.error, ModelReplyInvalid)
    assert says in str(used.error)
    assert openai_embeddings.spent.requests == 1


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_json_does_not_have_are_refused(
    openai_embeddings: Case, word: str
) -> None:
    data = json.dumps({"data": [_item(GOOD), _item([0.0] * 64, 1)]}).replace("[0.0,", f"[{word},")
    openai_embeddings.server.script(Raw(body=data.encode()))

    used = await openai_embeddings.use()

    assert isinstance(used.error, ModelReplyInvalid)
    assert "not JSON" in str(used.error)


async def test_vectors_come_in_the_order_of_their_index(openai_embeddings: Case) -> None:
    other = [0.0, 1.0] + [0.0] * 62
    openai_embeddings.server.script(Answer(patch={"data": [_item(other, 1), _item(GOOD, 0)]}))

    used = await openai_embeddings.use()

    assert used.vectors is not None
    assert used.vectors.tolist() == [GOOD, other]


@pytest.mark.parametrize("kind", ["embed-titan", "embed-cohere"])
@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"embedding": [1.0] * 32, "embeddings": [[1.0] * 32] * 2}, "32 numbers"),
        ({"embedding": "x", "embeddings": {"float": ["x", "y"]}}, "not a list of numbers"),
        ({"embedding": None, "embeddings": None}, "n"),
        ({"embedding": [0.0] * 64, "embeddings": {"float": [[0.0] * 64] * 2}}, "zeros"),
        ({"embedding": [], "embeddings": {"float": [GOOD]}}, "vector"),
    ],
)
async def test_bedrock_vectors_that_cannot_be_are_refused(
    tmp_path: Path, kind: str, patch: dict[str, Any], says: str
) -> None:
    async for case in _cases(kind, tmp_path):
        case.server.script(Answer(patch=patch))

        used = await case.use()

        assert isinstance(used.error, ModelReplyInvalid)
        assert says in str(used.error)


# --- half a stream


HALVES: dict[str, Behaviour] = {
    "a lost connection": Cut(after=2),
    "a polite end": Cut(after=2, is_polite=True),
    "silence": Stall(after=2),
}


@pytest.fixture(params=["chat-openai", "chat-bedrock"])
async def chat(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async for made in _cases(request.param, tmp_path):
        yield made


@pytest.mark.parametrize("name", list(HALVES))
async def test_half_an_answer_is_an_error_and_is_not_repeated(chat: Case, name: str) -> None:
    if name == "silence":
        chat.impatient(blocking_s=6.0)
    chat.server.script(HALVES[name])
    on_stall = chat.server.on_stall
    # Not before the half was heard.
    chat.server.on_stall = lambda so_far: (
        on_stall(so_far) if chat.used.text == "You said: " else None
    )

    used = await chat.use()

    assert used.text == "You said: "
    assert all(piece.usage is None for piece in used.pieces)  # no last piece
    assert isinstance(used.error, ModelUnavailable)
    assert (chat.spent.requests, chat.spent.failures, chat.spent.uncounted) == (1, 1, 1)
    assert chat.spent.cost_micro_usd is None


@pytest.mark.parametrize("broken", [Cut(after=0), Stall(after=0), Cut(after=0, is_polite=True)])
async def test_a_stream_that_breaks_before_its_first_piece_is_repeated(
    chat: Case, broken: Behaviour
) -> None:
    if isinstance(broken, Stall):
        chat.limited(retries=9, deadline_s=250.0)
        chat.impatient(blocking_s=3.0)
    chat.server.script(broken)

    used = await chat.use()

    assert used.error is None
    assert used.text == "You said: How long is the leave?"
    assert chat.spent.retries == 1 or isinstance(broken, Stall)
    assert chat.spent.requests == chat.spent.retries + 1 > 1
    assert chat.spent.cost_micro_usd is None  # the first one may be billed


@pytest.mark.parametrize(
    ("behaviour", "error", "says"),
    [
        (bedrock_server.Interrupt(after=2), ModelUnavailable, "modelStreamErrorException"),
        (
            bedrock_server.Interrupt(after=2, kind="throttlingException"),
            ModelUnavailable,
            "throttlingException",
        ),
        (bedrock_server.Corrupt(after=2), ModelReplyInvalid, "Checksum mismatch"),
    ],
)
async def test_a_bedrock_stream_that_breaks_is_named(
    tmp_path: Path, behaviour: Behaviour, error: type[RemoteModelError], says: str
) -> None:
    async for case in _cases("chat-bedrock", tmp_path):
        case.server.script(behaviour)

        used = await case.use()

        assert used.text == "You said: "
        assert isinstance(used.error, error)
        assert says in str(used.error)
        assert case.spent.cost_micro_usd is None


@pytest.fixture
async def openai_chat(tmp_path: Path) -> AsyncIterator[Case]:
    async for made in _cases("chat-openai", tmp_path):
        yield made


def _events(*events: object) -> Raw:
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    body = "".join(f"data: {line}\n\n" for line in lines)
    return Raw(body=body.encode(), content_type="text/event-stream")


def _delta(finish: str | None = None, **delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("{", "not JSON"),
        ([1], "not an object"),
        ({"object": "chunk"}, "without `choices`"),
        ({"choices": {}}, "without `choices`"),
        ({"choices": ["x"]}, "not an object"),
        (_delta(content=["x"]), "not a text"),
        ({"choices": [{"delta": "x" * 3, "finish_reason": 3}]}, "not a text"),
        ({"error": {"message": "the engine died"}}, "the engine died"),
    ],
)
async def test_events_that_cannot_be_end_an_answer(
    openai_chat: Case, event: object, says: str
) -> None:
    openai_chat.server.script(_events(_delta(content="Four "), event, "[DONE]"))

    used = await openai_chat.use()

    assert used.text == "Four "
    assert used.error is not None
    assert says in str(used.error)
    assert used.pieces[-1].usage is None


async def test_calls_of_tools_and_thoughts_are_nothing_to_us(openai_chat: Case) -> None:
    call = {"index": 0, "function": {"name": "shell", "arguments": "rm"}}
    openai_chat.server.script(
        _events(
            _delta(role="assistant", content=None, tool_calls=[call]),
            _delta(reasoning_content="hm"),
            _delta(content="Four days."),
            _delta(finish="tool_calls"),
            "[DONE]",
        )
    )

    used = await openai_chat.use()

    assert used.error is None
    assert used.text == "Four days."
    assert used.pieces[-1].finish_reason == "tool_calls"


async def test_an_answer_is_whole_with_its_finish_reason_although_its_count_is_lost(
    openai_chat: Case,
) -> None:
    openai_chat.server.script(_events(_delta(content="Four days."), _delta(finish="length")))

    used = await openai_chat.use()

    assert used.error is None
    assert used.text == "Four days."
    assert used.pieces[-1].finish_reason == "length"
    assert openai_chat.spent.cost_micro_usd is None


FINISHED = json.dumps(
    {"choices": [{"index": 0, "delta": {"content": "Four days."}, "finish_reason": "stop"}]}
)


@pytest.mark.parametrize(
    "stream",
    [
        f"event: ping\n\ndata: {FINISHED}\n\n",
        f"retry: 100\n\nid: 7\n\ndata:\n\ndata: {FINISHED}\n\n",
        f": alive\n\ndata: {FINISHED}\n\n: alive\n\n",
        f"\ufeffdata: {FINISHED}\n\n",
        f"data:{FINISHED}\r\n\r\ndata:[DONE]\r\n\r\n",
        f'data: {{"choices": null, "usage": {{}}}}\n\ndata: {FINISHED}\n\n',
        f"data: {FINISHED}\n\ndata: what is this\n\n",
    ],
)
async def test_what_says_nothing_in_a_stream_does_no_harm(openai_chat: Case, stream: str) -> None:
    openai_chat.server.script(Raw(body=stream.encode(), content_type="text/event-stream"))

    used = await openai_chat.use()

    assert used.error is None
    assert used.text == "Four days."
    assert used.pieces[-1].finish_reason == "stop"


async def test_a_stream_that_is_over_without_a_finish_reason_is_broken(openai_chat: Case) -> None:
    openai_chat.server.script(_events(_delta(content="Four "), "[DONE]"))

    used = await openai_chat.use()

    assert used.text == "Four "
    assert isinstance(used.error, ModelUnavailable)
    assert "stopped before its end" in str(used.error)
    assert used.error.status == 503


async def test_the_event_with_the_finish_reason_must_be_good_too(openai_chat: Case) -> None:
    bad = {"choices": [{"index": 0, "delta": {"content": ["x"]}, "finish_reason": "stop"}]}
    openai_chat.server.script(_events(_delta(content="Four "), bad))

    used = await openai_chat.use()

    assert isinstance(used.error, ModelReplyInvalid)
    assert "not a text" in str(used.error)


async def test_one_answer_was_asked_for_and_one_is_read(openai_chat: Case) -> None:
    def said(index: int, text: str, finish: str | None = None) -> dict[str, object]:
        return {"index": index, "delta": {"content": text}, "finish_reason": finish}

    openai_chat.server.script(
        _events(
            {"choices": [said(1, "No."), said(0, "Four ")]},
            {"choices": [said(1, "Never.", "stop")]},
            {"choices": [said(0, "days.", "stop")]},
        )
    )

    used = await openai_chat.use()

    assert used.error is None
    assert used.text == "Four days."


async def test_nobody_waits_long_for_the_count_behind_a_whole_answer(
    chat: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_remote, "_COUNT_WAIT_S", 0.3)
    chat.limited(timeout_s=1000.0)  # whoever waits that long meets the deadline
    chat.server.script(Stall(after=8 if chat.kind == "chat-openai" else 9))

    used = await chat.use()

    assert used.text == "You said: How long is the leave?"
    assert used.error is None
    assert used.pieces[-1].finish_reason == "stop"
    assert chat.spent.cost_micro_usd is None


async def test_half_a_character_becomes_the_sign_for_one(openai_chat: Case) -> None:
    openai_chat.server.script(_events(FINISHED.replace("Four", "Four\\ud800")))

    used = await openai_chat.use()

    assert used.text == "Four\ufffd days."


async def test_an_event_too_long_to_be_one_is_refused(openai_chat: Case) -> None:
    openai_chat.server.script(_events(_delta(content="x" * 2_000_000)))

    used = await openai_chat.use()

    assert isinstance(used.error, ModelReplyInvalid)
    assert used.pieces == []


async def test_whoever_stops_listening_may_be_billed(chat: Case) -> None:
    chat.model = open_chat_model(chat.config)
    assert chat.model is not None
    pieces = chat.model.stream(QUESTION, max_tokens=50)
    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]

    assert chat.spent.uncounted == 1
    assert chat.spent.failures == 0
    assert chat.spent.cost_micro_usd is None


async def test_leaving_a_stream_that_stalls_holds_up_nobody(chat: Case) -> None:
    chat.limited(timeout_s=1000.0, deadline_s=1000.0)
    chat.server.script(Stall(after=1))
    has_begun = asyncio.Event()

    async def listen() -> None:
        chat.model = open_chat_model(chat.config)
        assert chat.model is not None
        async for _ in chat.model.stream(QUESTION, max_tokens=50):
            has_begun.set()

    listening = asyncio.create_task(listen())
    await has_begun.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(listening, 60)

    assert chat.spent.cost_micro_usd is None


@pytest.mark.parametrize("parameter", ["max_tokens", "temperature", "stream_options"])
async def test_a_parameter_that_a_model_does_not_know_is_not_sent_again(
    openai_chat: Case, parameter: str
) -> None:
    error = {"error": {"message": "unsupported", "param": parameter}}
    openai_chat.server.script(Raw(status=400, body=json.dumps(error).encode()))

    first = await openai_chat.use()
    second = await openai_chat.use()

    assert (first.error, second.error) == (None, None)
    assert openai_chat.spent.requests == len(openai_chat.server.requests) == 3
    bodies = [seen.body for seen in openai_chat.server.requests]
    assert [parameter in body for body in bodies] == [True, False, False]
    if parameter == "max_tokens":
        assert [body.get("max_completion_tokens") for body in bodies] == [None, 50, 50]


async def test_what_an_endpoint_does_not_know_is_learnt_by_questions_side_by_side(
    openai_chat: Case,
) -> None:
    error = {"error": {"message": "unsupported", "param": "temperature"}}
    openai_chat.server.script(*[Raw(status=400, body=json.dumps(error).encode())] * 3)

    used = await asyncio.gather(*(openai_chat.use() for _ in range(3)))

    assert [one.error for one in used] == [None] * 3
    assert openai_chat.spent.requests == len(openai_chat.server.requests) == 6


async def test_an_encoding_that_an_endpoint_does_not_know_is_counted_and_not_sent_again(
    openai_embeddings: Case,
) -> None:
    error = {"error": {"message": "unsupported", "param": "encoding_format"}}
    openai_embeddings.server.script(Raw(status=400, body=json.dumps(error).encode()))

    first, second = await openai_embeddings.use(), await openai_embeddings.use()

    assert (first.error, second.error) == (None, None)
    seen = openai_embeddings.server.requests
    assert ["encoding_format" in request.body for request in seen] == [True, False, False]
    assert openai_embeddings.spent.requests == len(seen)


async def test_an_answer_is_never_asked_for_without_a_limit(openai_chat: Case) -> None:
    errors = [
        {"error": {"message": "unsupported", "param": name}}
        for name in ("max_tokens", "max_completion_tokens")
    ]
    openai_chat.server.script(
        *(Raw(status=400, body=json.dumps(error).encode()) for error in errors)
    )

    used = await openai_chat.use()

    assert isinstance(used.error, ModelRefused)
    assert len(openai_chat.server.requests) == 2


# --- what is sent, and where


async def test_a_redirect_is_not_followed(case: Case) -> None:
    with OpenAIServer() as elsewhere:
        to = ("location", f"{elsewhere.url}/embeddings")
        for status in (301, 302, 307, 308):
            case.server.script(Raw(body=b"", status=status, headers=(to,)))

            used = await case.use()

            assert isinstance(used.error, RemoteModelError)
        assert elsewhere.requests == []


async def test_an_openai_endpoint_gets_what_was_configured(openai_embeddings: Case) -> None:
    assert openai_embeddings.config.embedding is not None
    settings = replace(openai_embeddings.config.embedding, document_prefix="passage: ")
    openai_embeddings.config = replace(openai_embeddings.config, embedding=settings)

    await openai_embeddings.use()

    (seen,) = openai_embeddings.server.requests
    assert seen.path == "/v1/embeddings"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {
        "model": "m",
        "input": ["passage: one two three", "passage: four five"],
        "dimensions": 64,
        "encoding_format": "base64",
    }


async def test_azure_gets_its_key_and_version_as_it_wants_them(openai_embeddings: Case) -> None:
    assert openai_embeddings.config.embedding is not None
    settings = openai_embeddings.config.embedding
    endpoint = replace(settings.endpoint, api_version="2024-10-21")
    openai_embeddings.config = replace(
        openai_embeddings.config, embedding=replace(settings, endpoint=endpoint)
    )

    used = await openai_embeddings.use()

    assert used.error is None
    (seen,) = openai_embeddings.server.requests
    assert seen.path == "/v1/embeddings?api-version=2024-10-21"
    assert seen.headers["api-key"] == KEY
    assert "authorization" not in seen.headers


async def test_a_server_that_does_not_know_base64_is_asked_for_numbers(
    openai_embeddings: Case,
) -> None:
    error = {"error": {"message": "unknown", "param": "encoding_format"}}
    openai_embeddings.server.script(Raw(status=400, body=json.dumps(error).encode()))

    first = await openai_embeddings.use()
    second = await openai_embeddings.use()

    assert (first.error, second.error) == (None, None)
    assert [seen.body.get("encoding_format") for seen in openai_embeddings.server.requests] == [
        "base64",
        None,
        None,
    ]


async def test_questions_and_passages_have_their_own_words(tmp_path: Path) -> None:
    async for case in _cases("embed-cohere", tmp_path):
        await case.use()
        assert case.model is not None
        await case.model.embed_query("a question")  # type: ignore[union-attr]

        kinds = [seen.body["input_type"] for seen in case.server.requests]
        assert kinds == ["search_document", "search_query"]
        assert case.server.requests[0].body["output_dimension"] == 64


async def test_bedrock_gets_a_converse_request(tmp_path: Path) -> None:
    async for case in _cases("chat-bedrock", tmp_path):
        await case.use()

        (seen,) = case.server.requests
        assert seen.path == "/model/eu.anthropic.claude-sonnet/converse-stream"
        assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
        assert seen.body == {
            "system": [{"text": QUESTION[0].content}],
            "messages": [{"role": "user", "content": [{"text": QUESTION[1].content}]}],
            "inferenceConfig": {"maxTokens": 50, "temperature": 0.0},
        }


async def test_bedrock_without_credentials_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async for case in _cases("chat-bedrock", tmp_path):
        used = await case.use()

        assert isinstance(used.error, ModelRefused)
        assert "credentials" in str(used.error)
        assert case.server.requests == []

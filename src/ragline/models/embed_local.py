"""An embedding model on this machine: ONNX Runtime over `model.onnx` and `tokenizer.json`."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ragline.errors import ModelError
from ragline.models import weights
from ragline.models.embed import (
    DEFAULT_MODEL,
    INT8_MODEL,
    Embedded,
    ModelFacts,
    Vector,
    Vectors,
    checked_texts,
    checked_vectors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnxruntime
    import tokenizers

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
RECIPE = "ragline-model.json"

# Measured: past some thousand tokens a larger batch is slower, because its activations leave the
# processor's cache; far below, the fixed cost of a call shows.
_BATCH_TOKENS = 2048
_POOLINGS = ("mean", "cls", "none")
_DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How vectors are made from a graph's output; the content of `ragline-model.json`."""

    model_id: str
    pooling: str = "mean"
    normalise: bool = True
    max_tokens: int = _DEFAULT_MAX_TOKENS
    languages: tuple[str, ...] = ()
    query_prefix: str = ""
    document_prefix: str = ""
    dimension: int | None = None


def read_recipe(folder: Path) -> Recipe:
    """Return the folder's own recipe, or what its sentence-transformers files say, or defaults."""
    path = folder / RECIPE
    given = _json(path) if path.is_file() else _guess(folder)
    known = {field.name for field in fields(Recipe)}
    values = {"model_id": folder.resolve().name} | {k: v for k, v in given.items() if k in known}
    values["languages"] = tuple(values.get("languages") or ())
    recipe = Recipe(**values)
    _check_recipe(recipe, path)
    return recipe


def _check_recipe(recipe: Recipe, path: Path) -> None:
    number = recipe.dimension is None or _is_positive(recipe.dimension)
    texts = (recipe.model_id, recipe.query_prefix, recipe.document_prefix, *recipe.languages)
    problems = {
        f"pooling {recipe.pooling!r} is not one of {', '.join(_POOLINGS)}": recipe.pooling
        not in _POOLINGS,
        f"max_tokens {recipe.max_tokens!r} is not a number above 2": not _is_positive(
            recipe.max_tokens, above=2
        ),
        f"dimension {recipe.dimension!r} is not a positive number": not number,
        f"normalise {recipe.normalise!r} is not true or false": not isinstance(
            recipe.normalise, bool
        ),
        "model_id, the prefixes and the languages must be texts": not all(
            isinstance(text, str) for text in texts
        ),
    }
    for problem, holds in problems.items():
        if holds:
            raise ModelError(f"{path}: {problem}")


def _is_positive(value: object, *, above: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > above


def _guess(folder: Path) -> dict[str, Any]:
    """Read the files that sentence-transformers keeps beside an exported graph."""
    guess: dict[str, Any] = {}
    if (pooling := folder / "1_Pooling" / "config.json").is_file():
        used = [
            key
            for key, value in _json(pooling).items()
            if key.startswith("pooling_mode_") and value
        ]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        guess["pooling"] = names.get(used[0], used[0]) if len(used) == 1 else "+".join(used)
    if (sentence := folder / "sentence_bert_config.json").is_file():
        guess["max_tokens"] = _json(sentence).get("max_seq_length", _DEFAULT_MAX_TOKENS)
    return guess


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def weights_hash(folder: Path, recipe: Recipe) -> str:
    """Return a hash of everything that changes the vectors: files, pooling, prefixes, length."""
    # Graphs above 2 GB keep their weights in files beside them, named after the graph.
    files = sorted(file for file in folder.glob(f"{GRAPH}*") if file.is_file())
    hashes = weights.sha256_of([*files, folder / TOKENIZER])
    settings = {k: v for k, v in asdict(recipe).items() if k not in ("model_id", "languages")}
    settings.pop("dimension")
    return hashlib.sha256(json.dumps([hashes, settings], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of like length, padded to one."""

    rows: list[int]
    """Which of the texts are in it."""
    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]


class Encoder:
    """Text to vectors, in the calling thread."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        tokenizer: tokenizers.Tokenizer,
        session: onnxruntime.InferenceSession,
    ) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._session = session
        self._inputs = _input_names(folder / GRAPH, session)
        self._output: str = session.get_outputs()[0].name
        self._pad = _pad_id(tokenizer)
        self.facts = ModelFacts(
            model_id=recipe.model_id,
            weights_hash=weights_hash(folder, recipe),
            dimension=self._dimension(folder),
            normalised=recipe.normalise,
            languages=recipe.languages,
            max_tokens=recipe.max_tokens,
        )

    @classmethod
    def open(cls, folder: Path, *, threads: int) -> Encoder:
        """Return the model in `folder`, tried on one word."""
        for name in (GRAPH, TOKENIZER):
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name} is missing; {_what_to_do(folder)}")
        recipe = read_recipe(folder)
        tokenizer = _open_tokenizer(folder / TOKENIZER, recipe.max_tokens)
        return cls(folder, recipe, tokenizer, _open_session(folder / GRAPH, threads))

    def query(self, text: str) -> Vector:
        """Return the vector of one question."""
        (batch,) = self.batches(self._tokenize([self._recipe.query_prefix + text]))
        vector: Vector = self.vectors(batch)[0]
        return vector

    def documents(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors of passages, in their order."""
        encodings = self.tokenize_documents(texts)
        made = [(batch.rows, self.vectors(batch)) for batch in self.batches(encodings)]
        return self.embedded(encodings, made)

    def tokenize_documents(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Return the tokens of passages, cut at the model's length."""
        return self._tokenize([self._recipe.document_prefix + text for text in texts])

    def _tokenize(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        return self._tokenizer.encode_batch(texts) if texts else []

    def batches(self, encodings: Sequence[tokenizers.Encoding]) -> Iterator[Batch]:
        """Group texts of like length, so that little is computed for padding."""
        rows: list[int] = []
        for row in sorted(range(len(encodings)), key=lambda row: len(encodings[row])):
            if rows and (len(rows) + 1) * len(encodings[row]) > _BATCH_TOKENS:
                yield self._batch(rows, encodings)
                rows = []
            rows.append(row)
        if rows:
            yield self._batch(rows, encodings)

    def _batch(self, rows: list[int], encodings: Sequence[tokenizers.Encoding]) -> Batch:
        shape = (len(rows), max(len(encodings[row]) for row in rows))
        ids = np.full(shape, self._pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            tokens = encodings[row].ids
            ids[place, : len(tokens)] = tokens
            mask[place, : len(tokens)] = 1
        return Batch(rows, ids, mask)

    def vectors(self, batch: Batch) -> Vectors:
        """Return one vector for each row of a batch."""
        vectors = self._compute(batch)
        if self._recipe.normalise:
            # A vector of zeros stays one here, and is refused below.
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return checked_vectors(vectors, self.facts)

    def _compute(self, batch: Batch) -> Vectors:
        inputs = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "token_type_ids": np.zeros_like(batch.ids),
        }
        feed = {name: inputs[name] for name in self._inputs}
        try:
            (output,) = self._session.run([self._output], feed)
        except _runtime_errors() as error:
            raise ModelError(
                f"model {self._recipe.model_id} failed on {batch.ids.shape[0]} texts of "
                f"{batch.ids.shape[1]} tokens: {_first_line(error)}"
            ) from error
        return self._pool(np.asarray(output, dtype=np.float32), batch)

    def _pool(self, output: Vectors, batch: Batch) -> Vectors:
        if output.ndim == 2:
            return output
        if output.ndim != 3 or self._recipe.pooling == "none":
            raise ModelError(
                f"model {self._recipe.model_id} returns an array of shape {output.shape}, and "
                f"pooling {self._recipe.pooling!r} does not make one vector per text of it"
            )
        if self._recipe.pooling == "cls":
            return output[:, 0]
        mask = batch.mask[:, :, np.newaxis].astype(np.float32)
        return np.asarray((output * mask).sum(axis=1) / mask.sum(axis=1), dtype=np.float32)

    def embedded(
        self,
        encodings: Sequence[tokenizers.Encoding],
        made: Sequence[tuple[list[int], Vectors]],
    ) -> Embedded:
        """Put the vectors of all batches back into the order of the texts."""
        vectors = np.empty((len(encodings), self.facts.dimension), dtype=np.float32)
        for rows, some in made:
            vectors[rows] = some
        return Embedded(
            vectors=vectors,
            truncated=sum(bool(one.overflowing) for one in encodings),
            tokens=sum(len(one) for one in encodings),
        )

    def _dimension(self, folder: Path) -> int:
        (batch,) = self.batches(self._tokenize(["a"]))
        found = int(self._compute(batch).shape[1])
        if self._recipe.dimension not in (None, found):
            raise ModelError(
                f"{folder / RECIPE} says dimension {self._recipe.dimension}, "
                f"and {folder / GRAPH} makes vectors of {found}"
            )
        return found


class LocalEmbedder:
    """The encoder in threads of its own, so that the event loop stays free."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # One thread each: a question never waits for a batch of passages, and the threads of the
        # runtime are not shared by more than two computations.
        self._queries = ThreadPoolExecutor(1, "embed-query")
        self._documents = ThreadPoolExecutor(1, "embed-documents")

    @classmethod
    def open(cls, folder: Path, *, threads: int) -> LocalEmbedder:
        """Return the model in `folder`; a damaged one is a ModelError that names the file."""
        return cls(Encoder.open(folder, threads=threads))

    @property
    def facts(self) -> ModelFacts:
        return self._encoder.facts

    async def embed_query(self, text: str) -> Vector:
        checked_texts([text])
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._queries, self._encoder.query, text)

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        checked_texts(texts)
        loop = asyncio.get_running_loop()
        run = functools.partial(loop.run_in_executor, self._documents)
        encodings = await run(self._encoder.tokenize_documents, texts)
        # Batch by batch, so that callers take turns and a cancelled one stops.
        made = [
            (batch.rows, await run(self._encoder.vectors, batch))
            for batch in self._encoder.batches(encodings)
        ]
        return self._encoder.embedded(encodings, made)

    async def close(self) -> None:
        for threads in (self._queries, self._documents):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)


def _open_tokenizer(path: Path, max_tokens: int) -> tokenizers.Tokenizer:
    library = _imported("tokenizers")
    try:
        tokenizer: tokenizers.Tokenizer = library.Tokenizer.from_str(path.read_text("utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(
            f"{path} is damaged: {_first_line(error)}; {_what_to_do(path.parent)}"
        ) from error
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _pad_id(tokenizer: tokenizers.Tokenizer) -> int:
    padding = tokenizer.padding
    tokenizer.no_padding()
    if padding is not None:
        return int(padding["pad_id"])
    found = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    return next((number for number in found if number is not None), 0)


def _open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    runtime = _imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads that spin would take the processor from the database beside us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise ModelError(
            f"{path} is damaged or not an ONNX model: {_first_line(error)}; "
            f"{_what_to_do(path.parent)}"
        ) from error


def _input_names(path: Path, session: onnxruntime.InferenceSession) -> list[str]:
    names = [one.name for one in session.get_inputs()]
    required, optional = {"input_ids", "attention_mask"}, {"token_type_ids"}
    if not required <= set(names) <= required | optional:
        raise ModelError(
            f"{path} takes the inputs {', '.join(names)}; an embedding model takes "
            "input_ids, attention_mask and perhaps token_type_ids"
        )
    return names


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"{name} is not installed ({error}); run: pip install 'ragline[local]'"
        ) from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    # They have no base of their own; all that the extension module defines are meant.
    found = tuple(
        one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)
    )
    return (*found, RuntimeError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _what_to_do(folder: Path) -> str:
    if folder.name in (DEFAULT_MODEL, INT8_MODEL):
        return "run `ragline model fetch`, which makes the folder anew"
    return f"a model folder holds {GRAPH} and {TOKENIZER}"

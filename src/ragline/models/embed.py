"""What an embedding model is to ragline, and the one that a configuration names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ragline.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from ragline.config import Config

Vector = npt.NDArray[np.float32]
"""One embedding, of shape (dimension,)."""
Vectors = npt.NDArray[np.float32]
"""Embeddings, of shape (n, dimension)."""

DEFAULT_MODEL = "all-MiniLM-L6-v2"
INT8_MODEL = f"{DEFAULT_MODEL}-int8"
Precision = Literal["fp32", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is stored with every embedding space, so that vectors of two models never mix."""

    model_id: str
    weights_hash: str
    """Changes with anything that changes vectors: weights, tokenizer, pooling, prefixes, length."""
    dimension: int
    normalised: bool
    languages: tuple[str, ...]
    """ISO 639-1 codes of the languages that the model was trained on; empty when not known."""
    max_tokens: int
    """Longer texts are cut here before they are embedded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """Vectors of some documents, in their order, and what it took to make them."""

    vectors: Vectors
    truncated: int
    """How many of the texts were longer than `max_tokens`, so that their end has no part in it."""
    tokens: int | None
    """Tokens that the model read, its prefix and special tokens included; None when not counted."""


class Embedder(Protocol):
    """An embedding model. A question and a passage may be embedded differently."""

    @property
    def facts(self) -> ModelFacts:
        """What the vectors of this model are."""

    async def embed_query(self, text: str) -> Vector:
        """Return the vector of a question."""

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors of passages, in their order; none for none."""

    async def close(self) -> None:
        """Give back threads and memory; the embedder cannot be used afterwards."""


def model_folder(config: Config) -> Path | None:
    """Return the folder of the configured model; None when nothing was fetched or named."""
    if config.model_dir is not None:
        return config.model_dir
    name = INT8_MODEL if config.model_precision == "int8" else DEFAULT_MODEL
    default = config.data_dir / "models" / name
    return default if default.is_dir() else None


def open_embedder(config: Config) -> Embedder | None:
    """Return the configured model; None when there are no weights (search is lexical then)."""
    folder = model_folder(config)
    return None if folder is None else _open_local(folder, config.threads)


async def open_configured_embedder(config: Config) -> Embedder | None:
    """Return the configured model, on this machine or elsewhere; None without weights.

    A remote one is asked once what it is, unless the configuration says its dimension and whether
    its vectors are normalised. Raises ModelError when there is no good answer.
    """
    if config.embedding is None:
        return await asyncio.to_thread(open_embedder, config)
    from ragline.models import embed_remote

    return await embed_remote.open_embedder(config)


def other_models(config: Config) -> list[Callable[[], Awaitable[Embedder | None]]]:
    """Return what opens each model on this machine that is configured besides the first one.

    These are the other folders that are named, and the default model in both its forms; None is what
    the default model is before it is fetched.
    """
    named = config.model_dirs
    default = [config.data_dir / "models" / name for name in (DEFAULT_MODEL, INT8_MODEL)]
    first = config.model_dir or default[config.model_precision == "int8"]
    is_first = config.embedding is None
    return [
        partial(_open_other, folder, config.threads, is_needed=folder in named)
        for folder in dict.fromkeys([*named, *default])
        if not (is_first and folder == first)
    ]


async def _open_other(folder: Path, threads: int, *, is_needed: bool) -> Embedder | None:
    if not is_needed and not folder.is_dir():  # noqa: ASYNC240 -- at once
        return None
    return await asyncio.to_thread(_open_local, folder, threads)


def _open_local(folder: Path, threads: int) -> Embedder:
    # ONNX Runtime takes a while to import, and commands that never embed should not wait for it.
    from ragline.models.embed_local import LocalEmbedder

    return LocalEmbedder.open(folder, threads=threads)


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """Return `texts`; refuse those that no model can read."""
    for position, text in enumerate(texts):
        if not text.strip():
            raise UsageError(
                f"text {position + 1} of {len(texts)} is empty; there is no meaning to embed"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"text {position + 1} of {len(texts)} is not valid Unicode: {error.reason} "
                f"at character {error.start}"
            ) from error
    return texts


def checked_vectors(vectors: Vectors, facts: ModelFacts) -> Vectors:
    """Return `vectors`; refuse those that must never be stored."""
    if vectors.ndim != 2 or vectors.shape[1] != facts.dimension:
        raise ModelError(
            f"model {facts.model_id} returned vectors of shape {vectors.shape}, "
            f"and its dimension is {facts.dimension}"
        )
    if not np.isfinite(vectors).all():
        raise ModelError(f"model {facts.model_id} returned a vector that is not finite")
    if not vectors.any(axis=1).all():
        raise ModelError(f"model {facts.model_id} returned a vector of zeros")
    return vectors

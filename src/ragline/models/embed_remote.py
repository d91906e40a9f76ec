"""An embedding model that answers over the network; what is the same whoever the provider is."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ragline.config import Config
from ragline.core.remote import EmbeddingEndpoint
from ragline.core.tokens import count_tokens, first_tokens
from ragline.errors import ConfigError, RemoteModelError, first
from ragline.models.accounting import Account, Spending, price_of, prices
from ragline.models.calls import Deadline, Line, invalid
from ragline.models.embed import (
    Embedded,
    ModelFacts,
    Vector,
    Vectors,
    checked_texts,
)
from ragline.signals import usage

# Providers limit a request's size as well as its texts; the smallest such limit known is 300,000.
_MOST_TOKENS_OF_A_REQUEST = 50_000
# No provider reads as much in one request: what counts more is no count.
_MOST_TOKENS_COUNTED = 100_000_000
# How far from 1 the length of a normalised vector may be: some providers round to three digits.
_LENGTH_TOLERANCE = 1e-2
_PROBE = "a"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reply:
    """What a provider made of some texts: vectors of shape (n, dimension), in their order."""

    vectors: Vectors
    tokens: int | None
    """None when the provider did not count them."""


class EmbeddingApi(Protocol):
    """How one provider is asked."""

    @property
    def base_model(self) -> str:
        """The model's name wherever it runs: what its vectors depend on."""

    @property
    def most_texts(self) -> int:
        """How many texts one request may carry."""

    @property
    def most_characters(self) -> int | None:
        """How long one text may be; None where only tokens count."""

    async def ask(self, texts: Sequence[str], *, is_query: bool) -> Reply:
        """Return the vectors of some texts. Raises RequestFailed."""

    async def close(self) -> None:
        """Close connections."""


class RemoteEmbedder:
    """An Embedder over an EmbeddingApi: batches, side by side, checked, counted."""

    def __init__(
        self,
        settings: EmbeddingEndpoint,
        api: EmbeddingApi,
        line: Line,
        *,
        dimension: int,
        normalised: bool,
        question_deadline: Deadline,
    ) -> None:
        self._settings = settings
        self._api = api
        self._line = line
        self._question_deadline = question_deadline
        self._lanes = asyncio.Semaphore(settings.endpoint.limits.concurrency)
        self._facts = ModelFacts(
            model_id=api.base_model,
            weights_hash=_weights_hash(settings, api.base_model, dimension),
            dimension=dimension,
            normalised=normalised,
            languages=settings.languages,
            max_tokens=settings.max_tokens,
        )

    @classmethod
    async def open(
        cls,
        settings: EmbeddingEndpoint,
        api: EmbeddingApi,
        line: Line,
        *,
        question_deadline: Deadline,
    ) -> RemoteEmbedder:
        """Return the model, whose dimension and length one request finds out if nobody says them."""
        dimension, normalised = settings.dimension, settings.normalised
        if dimension is None or normalised is None:
            try:
                vector = await _probe(settings, api, line, question_deadline)
            except BaseException as error:
                await api.close()
                if isinstance(error, RemoteModelError):
                    error.spent = line.account.spending
                raise
            dimension = len(vector)
            if normalised is None:
                normalised = _is_of_length_one(vector)
        return cls(
            settings,
            api,
            line,
            dimension=dimension,
            normalised=normalised,
            question_deadline=question_deadline,
        )

    @property
    def facts(self) -> ModelFacts:
        return self._facts

    @property
    def spent(self) -> Spending:
        """What the model has taken since it was opened."""
        return self._line.account.spending

    async def embed_query(self, text: str) -> Vector:
        (checked,) = checked_texts([text])
        kept, _ = self._cut(self._settings.query_prefix + checked)
        # Without a lane: a question does not wait for passages.
        reply = await self._ask([kept], is_query=True, deadline=self._question_deadline)
        vector: Vector = reply.vectors[0]
        return vector

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        prefix = self._settings.document_prefix
        cut = [self._cut(prefix + text) for text in checked_texts(texts)]
        kept = [text for text, _ in cut]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._in_a_lane(some)) for some in self._batches(kept)]
        except BaseExceptionGroup as several:
            raise first(several) from several
        replies = [task.result() for task in tasks]
        return Embedded(
            vectors=np.concatenate(
                [np.empty((0, self._facts.dimension), np.float32), *(r.vectors for r in replies)]
            ),
            truncated=sum(was_cut for _, was_cut in cut),
            tokens=usage.total(reply.tokens for reply in replies),
        )

    async def close(self) -> None:
        await self._api.close()

    async def _in_a_lane(self, texts: Sequence[str]) -> Reply:
        async with self._lanes:
            # Perhaps the lane is free because another batch failed: then this one ends here.
            await asyncio.sleep(0)
            return await self._ask(texts, is_query=False)

    async def _ask(
        self, texts: Sequence[str], *, is_query: bool, deadline: Deadline | None = None
    ) -> Reply:
        async def send() -> Reply:
            reply = checked(await self._api.ask(texts, is_query=is_query), len(texts))
            self._check_kind(reply.vectors)
            return reply

        return await _counted(self._line, send, texts, deadline)

    def _check_kind(self, vectors: Vectors) -> None:
        """Refuse vectors that are not like those which were stored before."""
        name = self._settings.endpoint.variables
        if vectors.shape[1] != self._facts.dimension:
            raise invalid(
                f"vectors of {vectors.shape[1]} numbers, where {self._facts.dimension} are "
                f"expected ({name}_DIMENSION, or the first answer)"
            )
        if self._facts.normalised and not _is_of_length_one(vectors):
            raise invalid(
                f"vectors whose length is not 1, as {name}_NORMALISED or the first answer had it"
            )

    def _cut(self, text: str) -> tuple[str, bool]:
        """Return a text as long as the model takes it, and whether something was cut off."""
        most = self._api.most_characters
        kept = text if most is None else text[:most]
        # A token is at least a character in this estimate, so most texts need no counting.
        if len(kept) > self._settings.max_tokens:
            kept = first_tokens(kept, self._settings.max_tokens)
        return kept, len(kept) < len(text)

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        most = min(self._settings.batch, self._api.most_texts)
        # Not more than may go at once: a question behind it would wait until it is made up for.
        most_tokens = min(
            _MOST_TOKENS_OF_A_REQUEST, self._line.most_tokens or _MOST_TOKENS_OF_A_REQUEST
        )
        batch: list[str] = []
        tokens = 0
        for text in texts:
            more = count_tokens(text)
            if batch and (len(batch) == most or tokens + more > most_tokens):
                yield batch
                batch, tokens = [], 0
            batch.append(text)
            tokens += more
        if batch:
            yield batch


async def open_embedder(config: Config) -> RemoteEmbedder:
    """Return the configured remote model; see `RemoteEmbedder.open`."""
    settings = config.embedding
    if settings is None:
        raise ConfigError("there is no remote embedding model; set RAGLINE_EMBED_PROVIDER")
    # boto3 takes a while to import, in which the event loop should go on.
    api = await asyncio.to_thread(_api, settings)
    limits = settings.endpoint.limits
    price = price_of(settings.endpoint, prices(config.prices))
    line = Line(settings.endpoint, Account(api.base_model, price))
    question = Deadline(seconds=config.query_timeout_s, setting="RAGLINE_QUERY_TIMEOUT")
    return await RemoteEmbedder.open(
        settings,
        api,
        line,
        question_deadline=question if question.seconds < limits.deadline_s else line.deadline,
    )


def _api(settings: EmbeddingEndpoint) -> EmbeddingApi:
    # Clients of providers take a while to import, and nobody needs both.
    if settings.endpoint.provider == "bedrock":
        from ragline.models.embed_bedrock import BedrockEmbeddings

        return BedrockEmbeddings(settings)
    from ragline.models.embed_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(settings)


async def _probe(
    settings: EmbeddingEndpoint, api: EmbeddingApi, line: Line, deadline: Deadline
) -> Vector:
    async def send() -> Reply:
        reply = checked(await api.ask([_PROBE], is_query=False), 1)
        found = reply.vectors.shape[1]
        if settings.dimension not in (None, found):
            raise invalid(
                f"vectors of {found} numbers, where {settings.endpoint.variables}_DIMENSION asks "
                f"for {settings.dimension}"
            )
        return reply

    reply = await _counted(line, send, [_PROBE], deadline)
    vector: Vector = reply.vectors[0]
    return vector


async def _counted(line: Line, send: Any, texts: Sequence[str], deadline: Deadline | None) -> Reply:
    """Return a counted reply; with a deadline of its own it is a question, which goes first."""
    estimated = sum(count_tokens(text) for text in texts)
    reply: Reply = await line.call(
        send, tokens=estimated, deadline=deadline, is_urgent=deadline is not None
    )
    line.account.answered(reply.tokens, 0)
    line.counted(estimated, reply.tokens)
    return reply


def checked(reply: Reply, count: int) -> Reply:
    """Return a reply whose vectors may be stored; raise RequestFailed for any other."""
    vectors = reply.vectors
    problem = None
    if vectors.ndim != 2 or not vectors.shape[1]:
        problem = f"an array of shape {vectors.shape}, which is not one vector for each text"
    elif len(vectors) != count:
        problem = f"{len(vectors)} vectors for {count} texts"
    elif not np.isfinite(vectors).all():
        problem = "a vector that is not finite"
    elif not vectors.any(axis=1).all():
        problem = "a vector of zeros"
    if problem:
        raise invalid(problem)
    return reply


def vector_of(numbers: object) -> Vector:
    """Return a list of numbers as a vector; raise RequestFailed for anything else."""
    if not isinstance(numbers, list) or not all(type(n) in (int, float) for n in numbers):
        raise invalid("an embedding that is not a list of numbers")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            return np.asarray(numbers, dtype=np.float64).astype(np.float32)
    except OverflowError:
        raise invalid("a vector that is not finite") from None


def stacked(vectors: Sequence[Vector]) -> Vectors:
    """Return vectors of one length as an array; raise RequestFailed when they differ."""
    if lengths := {len(vector) for vector in vectors}:
        if len(lengths) > 1:
            raise invalid(f"vectors of different lengths: {sorted(lengths)}")
        return np.stack(vectors)
    return np.empty((0, 1), dtype=np.float32)


def counted_tokens(value: object) -> int | None:
    """Return a provider's count of tokens; None when it says none, or what cannot be."""
    is_count = type(value) is int and 0 < value <= _MOST_TOKENS_COUNTED
    return value if is_count else None  # type: ignore[return-value]


def _is_of_length_one(vectors: Vectors) -> bool:
    lengths = np.linalg.norm(np.atleast_2d(vectors), axis=1)
    return bool((np.abs(lengths - 1) < _LENGTH_TOLERANCE).all())


def _weights_hash(settings: EmbeddingEndpoint, base_model: str, dimension: int) -> str:
    """Return a hash of all that we know to change the vectors; we cannot see the weights."""
    known = {
        "provider": settings.endpoint.provider,
        "model": base_model,
        "dimension": dimension,
        "query_prefix": settings.query_prefix,
        "document_prefix": settings.document_prefix,
        "max_tokens": settings.max_tokens,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

"""Filling an embedding space beside the one in use, and putting it in its place.

A batch at a time, each in a transaction of its own: what is there stays there, whatever breaks off,
and the next run goes on with what is missing. No lock and no snapshot is held between batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core.results import SpaceFacts
from ragline.db import documents, locks, spaces
from ragline.db.documents import ChunkText
from ragline.db.pool import Connection
from ragline.db.spaces import NewSpace, Space
from ragline.errors import Conflict, LockTimeout, ModelError, NotFound
from ragline.models.embed import Embedder
from ragline.rag.app import App
from ragline.rag.compose import passage

BATCH_CHUNKS = 128
# So many are embedded while writers wait; what is more is done before, and looked at again.
LAST_CHUNKS = 200
_ROUNDS = 5
_LOCK_TRIES = 5
_PAUSE_S = 0.1
# A document that is removed while we embed its chunk, a batch of another process: theirs goes first.
_MET_A_WRITER = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ForeignKeyViolationError,
    asyncpg.UniqueViolationError,
)
# Of the time of a batch: what searches get of the processors meanwhile.
_REST = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many of the missing chunks are embedded by now, by this process, and in which time.

    The total is what was missing at the beginning; documents that come in meanwhile are done too.
    """

    done: int
    total: int
    seconds: float


OnProgress = Callable[[Progress], None]


async def fill(
    app: App,
    space: Space,
    embedder: Embedder | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> int:
    """Embed every chunk that a space lacks; return how many there were.

    Broken off anywhere it is continued by calling it again. Of several processes one at a time is at a
    batch, so that nothing is embedded twice. Without an `embedder` the configured model of the space is
    taken; where something is missing and none is that one, ModelError is raised.
    """
    started, done, after = time.monotonic(), 0, 0
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        try:
            total = await spaces.missing(connection, space)
        except asyncpg.UndefinedTableError as error:
            raise _dropped(space) from error
    if total == 0:
        return 0
    model = await _model(app, space, embedder, total)
    while True:
        began = time.monotonic()
        async with pool.connection() as connection, locks.held(connection, "space", space.id):
            chunks = await _one_batch(connection, space, model, after)
        if not chunks and after == 0:
            return done
        # Once more from the first: ids are given out before they are committed.
        after = chunks[-1][0] if chunks else 0
        done += len(chunks)
        if on_progress and chunks:
            seconds = time.monotonic() - started
            on_progress(Progress(done=done, total=max(total, done), seconds=seconds))
        await asyncio.sleep(_REST * (time.monotonic() - began))


async def put_in_use(app: App, space: Space, *, lock_timeout_ms: int) -> None:
    """Let searches use a space, with nothing missing in it at that moment.

    Writers wait while it is switched; their documents are in the space, or come after the switch and
    see it. Raises Conflict where they write faster than the model embeds.
    """
    for round_ in range(_ROUNDS):
        await fill(app, space)
        most = LAST_CHUNKS if round_ == _ROUNDS - 1 else 0
        if await _switched(app, space, lock_timeout_ms, most):
            return
    raise Conflict(
        f"documents come in faster than {space.facts.model_id} embeds them: more than {LAST_CHUNKS} "
        f"chunks in each of {_ROUNDS} rounds; try again when less is ingested"
    )


async def _model(app: App, space: Space, embedder: Embedder | None, missing: int) -> Embedder:
    """Return the model of a space, looked for only where it is needed: others may be out of reach."""
    facts = space.facts
    model = embedder or await model_of(app, facts)
    if model is None:
        raise no_model(facts, missing)
    if model.facts.weights_hash != facts.weights_hash:
        raise ModelError(
            f"space {space.id} holds vectors of {facts.model_id} ({facts.weights_hash[:12]}), not of "
            f"{model.facts.model_id} ({model.facts.weights_hash[:12]}): vectors of two models never mix"
        )
    return model


async def model_of(app: App, facts: NewSpace) -> Embedder | None:
    """Return the configured model whose vectors a space holds, or is to hold; None where none is."""
    # Of a space that need not be there yet: it is known by its weights.
    return await app.embedder_for(SpaceFacts(id=0, **asdict(facts)))


def no_model(facts: NewSpace, missing: int) -> ModelError:
    """Return the error that chunks cannot be embedded, and what to do."""
    return ModelError(
        f"{missing:,} chunks have no vector of {facts.model_id} ({facts.weights_hash[:12]}), and no "
        "configured model is that one: add its folder to RAGLINE_MODEL_DIR (first:second), or "
        "configure it as the remote model"
    )


async def _one_batch(
    connection: Connection, space: Space, model: Embedder, after: int
) -> list[ChunkText]:
    """Embed the next chunks that are missing, and return them; none are left when there are none."""
    while True:
        try:
            chunks = await documents.without_vector(
                connection, space.collection_id, space.id, after=after, limit=BATCH_CHUNKS
            )
            if not chunks:
                return []
            vectors = await _vectors(model, chunks)
            async with connection.transaction():
                await _write(connection, space, chunks, vectors)
        except (asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError):
            continue  # an ingest embedded or replaced some of them: look again
        except asyncpg.UndefinedTableError as error:
            raise _dropped(space) from error
        return chunks


async def _vectors(model: Embedder, chunks: list[ChunkText]) -> npt.NDArray[np.float32]:
    texts = [passage(title, headings, body) for _, title, headings, body in chunks]
    return (await model.embed_documents(texts)).vectors


async def _write(
    connection: Connection, space: Space, chunks: list[ChunkText], vectors: npt.NDArray[np.float32]
) -> None:
    try:
        await documents.add_vectors(connection, space.id, [one[0] for one in chunks], vectors)
    except (asyncpg.CheckViolationError, asyncpg.DataError) as error:
        raise ModelError(
            f"PostgreSQL refuses a vector of {space.facts.model_id} for space {space.id}, which is "
            f"stored as {space.facts.storage}: {error}"
        ) from error


async def _switched(app: App, space: Space, lock_timeout_ms: int, most: int) -> bool:
    """Switch with writers kept out; False, with nothing done, when more than `most` are missing."""
    async with app.connection("admin") as connection:
        for _ in range(_LOCK_TRIES):
            try:
                async with connection.transaction():
                    await spaces.set_lock_timeout(connection, lock_timeout_ms)
                    return await _switch_under_lock(app, connection, space, most)
            except asyncpg.UndefinedTableError as error:
                raise _dropped(space) from error
            except _MET_A_WRITER:
                await asyncio.sleep(_PAUSE_S)
    raise LockTimeout(
        f"writers were met in each of {_LOCK_TRIES} tries, the last for {lock_timeout_ms} ms, and "
        f"space {space.id} is not in use: it is safe to repeat when less is written"
    )


async def _switch_under_lock(app: App, connection: Connection, space: Space, most: int) -> bool:
    if not await spaces.lock(connection, space.collection_id):
        raise _dropped(space)
    chunks = await documents.without_vector(
        connection, space.collection_id, space.id, limit=most + 1
    )
    if len(chunks) > most:
        return False
    if chunks:
        vectors = await _vectors(await _model(app, space, None, len(chunks)), chunks)
        await _write(connection, space, chunks, vectors)
    await spaces.switch(connection, space)
    return True


def _dropped(space: Space) -> NotFound:
    return NotFound(
        f"embedding space {space.id} of {space.facts.model_id} is gone: its collection was removed, or "
        "the change that made it was taken back; plan again"
    )

"""An ingest under way: documents prepared, embedded in batches and written, one transaction each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core.results import CollectionFacts, IngestReport, Rejection, SpaceFacts
from ragline.db import collections, documents, locks
from ragline.db.documents import NewDocument
from ragline.db.pool import Connection, Pool
from ragline.errors import Conflict, RaglineError, UsageError, first
from ragline.models.embed import Embedder
from ragline.rag import calibration, catalog, files, pruning
from ragline.rag.app import App
from ragline.rag.catalog import Policy
from ragline.rag.compose import passage
from ragline.rag.formats import Rejected
from ragline.rag.prepare import prepared
from ragline.rag.sources import Source

# Enough for a full batch of the model, little enough to lose when interrupted.
_BATCH_CHUNKS = 256
_QUEUED_DOCUMENTS = 32
_BACKFILL_CHUNKS = 512
# Below this, an exact scan is as fast as the index.
_INDEX_FROM_CHUNKS = 500
_MOST_UNFOLDED_MEANWHILE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an ingest is: documents looked at, of how many, and chunks written so far.

    The total grows while files of rows are read: nobody knows beforehand how many there are.
    """

    done: int
    total: int
    chunks: int


@dataclass(slots=True)
class _Tally:
    found: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0
    chunks: int = 0
    embedded: int = 0
    truncated: int = 0
    done: int = 0
    rejections: list[Rejection] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Run:
    """One ingest under way."""

    app: App
    pool: Pool
    collection: CollectionFacts
    embedder: Embedder | None
    tally: _Tally
    total: int
    on_progress: Callable[[Progress], None] | None
    started: float
    known: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    async def begin(
        cls,
        app: App,
        name: str,
        policy: Policy,
        on_progress: Callable[[Progress], None] | None,
        total: int,
    ) -> Run:
        started = time.perf_counter()
        embedder = await app.embedder()
        pool = await app.pool(app.ingest_workload)
        facts = await catalog.open_collection(
            app, name, policy, embedder.facts if embedder else None
        )
        return cls(
            app=app,
            pool=pool,
            collection=facts,
            embedder=await app.embedder_for(facts.space) if facts.space else None,
            tally=_Tally(),
            total=total,
            on_progress=on_progress,
            started=started,
        )

    async def learn_known(self, sources: Sequence[str] | None = None) -> None:
        """Look up what is there already, of all documents or of some."""
        async with self.pool.connection() as connection:
            self.known = await documents.known(connection, self.collection.id, sources)

    def pass_over(self, skipped: Sequence[files.Skipped]) -> None:
        """Count files of other kinds; report those that should have been, or once were, taken in."""
        for item in skipped:
            if item.is_rejection or item.source in self.known:
                self._reject(item)
            else:
                self.tally.skipped += 1

    async def take(self, taken: AsyncIterator[Source | Rejection]) -> None:
        """Ingest what changed, preparing the next documents while the last ones are embedded."""
        queue: asyncio.Queue[NewDocument | None] = asyncio.Queue(_QUEUED_DOCUMENTS)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prepare(taken, queue))
                async for batch in _batches(queue):
                    await self._store(batch)
        except BaseExceptionGroup as several:
            raise first(several) from several

    async def _prepare(
        self,
        taken: AsyncIterator[Source | Rejection],
        queue: asyncio.Queue[NewDocument | None],
    ) -> None:
        """Put what changed into the queue in order; as many at once as there are parsers."""
        under_way: deque[asyncio.Task[NewDocument | Rejection | None]] = deque()
        async with asyncio.TaskGroup() as group:
            async for source in taken:
                self.tally.found += 1
                self.unseen.discard(source.source)
                if len(under_way) >= self.app.parsers.workers:
                    await self._pass_on(await under_way.popleft(), queue)
                task = prepared(self.app.parsers, source, self.collection, self.known)
                under_way.append(group.create_task(task))
            while under_way:
                await self._pass_on(await under_way.popleft(), queue)
        await queue.put(None)

    async def _pass_on(
        self, made: NewDocument | Rejection | None, queue: asyncio.Queue[NewDocument | None]
    ) -> None:
        if isinstance(made, NewDocument):
            await queue.put(made)
            return
        if isinstance(made, Rejection):
            self._reject(made)
        else:
            self.tally.unchanged += 1
        self.step(0)

    async def _store(self, batch: Sequence[NewDocument]) -> None:
        await self._learn_terms(batch)
        left = batch
        while left := await self._stored(left):
            await self._follow()
        # Searches read what is not folded one by one.
        async with self.pool.connection() as connection:
            await documents.fold_postings(
                connection,
                self.collection.id,
                most_left=_MOST_UNFOLDED_MEANWHILE,
                is_owner=self.app.ingest_workload == "admin",
            )

    async def _stored(self, batch: Sequence[NewDocument]) -> Sequence[NewDocument]:
        """Embed and write documents; return those that are left when the space was swapped."""
        texts = [
            passage(document.title, c.headings, c.body)
            for document in batch
            for c in document.chunks
        ]
        embedded = await self.embedder.embed_documents(texts) if self.embedder else None
        at = 0
        for number, document in enumerate(batch):
            count = len(document.chunks)
            try:
                await self._write(document, embedded.vectors[at : at + count] if embedded else None)
            except documents.SpaceChanged:
                self._count_embedded(at, 0)  # what is left is embedded, and counted, again
                return batch[number:]
            except Rejected as error:
                self._reject(
                    Rejection(source=document.source, reason=error.reason, message=error.message)
                )
                self.step(0)
            else:
                self._count(document)
            at += count
        self._count_embedded(len(texts), embedded.truncated if embedded else 0)
        return ()

    def _count_embedded(self, chunks: int, truncated: int) -> None:
        if self.embedder is not None:
            self.tally.embedded += chunks
            self.tally.truncated += truncated

    async def _follow(self) -> None:
        """Go on with the collection's new space, and its model."""
        async with self.pool.connection() as connection:
            fresh = await collections.one(connection, self.collection.name)
        if fresh is None or fresh.id != self.collection.id:
            raise Conflict(f"collection {self.collection.name!r} was removed while it was filled")
        self.collection = fresh
        self.app.known.pop(fresh.name, None)
        if fresh.space is None:
            self.embedder = None
            return
        before, self.embedder = self.embedder, await self.app.embedder_for(fresh.space)
        if self.embedder is None and before is not None:
            raise catalog.other_model(fresh.name, fresh.space, before.facts)

    async def _write(self, document: NewDocument, vectors: npt.NDArray[np.float32] | None) -> None:
        """Write one document; raise Rejected when the database refuses this one for what it holds."""
        async with self.pool.connection() as connection:
            try:
                await documents.write(
                    connection,
                    self.collection.id,
                    document,
                    self.numbers,
                    space_id=self.collection.space.id if self.collection.space else None,
                    vectors=vectors,
                )
            except asyncpg.ForeignKeyViolationError as error:
                raise Conflict(
                    f"collection {self.collection.name!r} was removed while it was filled"
                ) from error
            except (asyncpg.DataError, asyncpg.CheckViolationError) as error:
                raise Rejected("REFUSED", f"PostgreSQL refuses it: {error}") from error

    def _count(self, document: NewDocument) -> None:
        if document.source in self.known:
            self.tally.replaced += 1
        else:
            self.tally.added += 1
        self.known[document.source] = (document.content_hash, document.recipe)
        self.step(len(document.chunks))

    def _reject(self, what: Rejection | files.Skipped) -> None:
        shown = what.source.encode(errors="backslashreplace").decode()
        self.tally.rejections.append(
            Rejection(source=shown, reason=what.reason, message=what.message)
        )

    async def _learn_terms(self, batch: Sequence[NewDocument]) -> None:
        used = {term for document in batch for counts in document.term_counts for term in counts}
        if new := sorted(used - self.numbers.keys()):
            async with self.pool.connection() as connection:
                self.numbers |= await documents.term_ids(connection, new)

    def step(self, chunks: int) -> None:
        """Count a document as done, and say so."""
        self.tally.done += 1
        self.tally.chunks += chunks
        if self.on_progress:
            self.on_progress(
                Progress(done=self.tally.done, total=self.total, chunks=self.tally.chunks)
            )

    async def prune(
        self, paths: Sequence[Path], ignore: Sequence[str], found: Sequence[files.Found]
    ) -> int:
        """Remove the documents below `paths` whose file or row is gone, or ignored now."""
        rejected = [item.source for item in self.tally.rejections]
        gone = await asyncio.to_thread(pruning.gone, self.unseen, paths, ignore, found, rejected)
        async with self.pool.connection() as connection:
            return await documents.remove(connection, self.collection.id, gone)

    async def end(self, *, pruned: int, build_index: bool) -> IngestReport:
        """Fill in missing vectors, finish statistics and index, and report what is really there."""
        if build_index:
            await self._backfill()
        changed = self.tally.added + self.tally.replaced + pruned + self.tally.embedded > 0
        fresh, warnings = await self._settle(changed=changed, is_owner=build_index)
        if changed and build_index and not warnings:
            warnings += await self._calibrated(fresh)
        warnings += self._remarks(fresh)
        self.app.known.pop(fresh.name, None)
        return IngestReport(
            collection=fresh.name,
            found=self.tally.found,
            added=self.tally.added,
            replaced=self.tally.replaced,
            unchanged=self.tally.unchanged,
            pruned=pruned,
            skipped=self.tally.skipped,
            chunks=self.tally.chunks,
            embedded=self.tally.embedded,
            truncated=self.tally.truncated,
            epoch=fresh.epoch,
            seconds=time.perf_counter() - self.started,
            rejections=tuple(self.tally.rejections),
            warnings=tuple(warnings),
        )

    async def _settle(self, *, changed: bool, is_owner: bool) -> tuple[CollectionFacts, list[str]]:
        """Build the index and tidy the tables; return the collection as it is now, and warnings."""
        warnings: list[str] = []
        async with self.pool.connection() as connection:
            fresh = await collections.one(connection, self.collection.name)
            if fresh is None:
                raise UsageError(f"collection {self.collection.name!r} was removed meanwhile")
            if is_owner and fresh.space and fresh.chunks >= _INDEX_FROM_CHUNKS:
                warnings += await _build_index(connection, fresh.space)
            space_id = fresh.space.id if fresh.space else None
            if changed and is_owner:
                await collections.analyze(connection, space_id)
            if changed:
                # After the tables are analysed: planned for smaller ones, it takes minutes.
                await documents.fold_postings(connection, fresh.id, is_owner=is_owner)
            if changed and is_owner:
                await collections.tidy(connection, space_id)
        return fresh, warnings

    async def _calibrated(self, fresh: CollectionFacts) -> list[str]:
        """Measure the collection if that is due; what fails there does not fail the ingest."""
        try:
            await calibration.calibrate_if_due(self.app, fresh)
        except RaglineError as error:
            return [f"searches with filters were not calibrated: {error}"]
        return []

    def _remarks(self, fresh: CollectionFacts) -> list[str]:
        remarks = []
        if fresh.space is None:
            remarks.append(
                "no model, so no vectors: searches go by words alone until `ragline model fetch` and "
                "another ingest"
            )
        elif self.embedder is None and self.tally.chunks:
            remarks.append(
                f"no model, so {self.tally.chunks} chunks have no vectors and are found by their words "
                "alone until `ragline model fetch` and another ingest"
            )
        if self.tally.truncated:
            remarks.append(
                f"{self.tally.truncated} chunks are longer than the model reads; their ends have no "
                "part in their vectors: use a smaller chunk size"
            )
        return remarks

    async def _backfill(self) -> None:
        """Embed chunks that came in while there was no model, or whose run was cut short."""
        await self._follow()
        while self.embedder is not None and (space := self.collection.space) is not None:
            try:
                await self._fill(space.id, self.embedder)
            except asyncpg.UndefinedTableError:
                await self._follow()
                if self.collection.space == space:
                    raise
            else:
                return

    async def _fill(self, space_id: int, embedder: Embedder) -> None:
        after = 0
        while True:
            async with self.pool.connection() as connection:
                missing = await documents.without_vector(
                    connection, self.collection.id, space_id, after=after, limit=_BACKFILL_CHUNKS
                )
                if not missing:
                    return
                embedded = await embedder.embed_documents(
                    [passage(title, headings, body) for _, title, headings, body in missing]
                )
                try:
                    async with connection.transaction():
                        await documents.add_vectors(
                            connection, space_id, [row[0] for row in missing], embedded.vectors
                        )
                        # Searches find other things from now on.
                        await collections.raise_epoch(connection, self.collection.id)
                except (asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError):
                    continue  # another ingest embedded or replaced some of them: look again
            self.tally.embedded += len(missing)
            self.tally.truncated += embedded.truncated
            after = missing[-1][0]


async def _build_index(connection: Connection, space: SpaceFacts) -> list[str]:
    """Build a space's index unless it is there; return what there is to warn about."""
    async with locks.held(connection, "index", space.id):
        if await collections.build_index(connection, space.id):
            return []
    what = f"{space.dimension} dimensions of {space.model_id}"
    return [f"there is no index for the {what}: searches read every vector"]


async def _batches(
    queue: asyncio.Queue[NewDocument | None],
) -> AsyncIterator[Sequence[NewDocument]]:
    """Yield documents in groups of about 256 chunks, until None ends the queue."""
    batch: list[NewDocument] = []
    chunks = 0
    while (document := await queue.get()) is not None:
        batch.append(document)
        chunks += len(document.chunks)
        if chunks >= _BATCH_CHUNKS:
            yield batch
            batch, chunks = [], 0
    if batch:
        yield batch

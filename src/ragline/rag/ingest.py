"""Bringing documents in: found, parsed, chunked, embedded, written; one transaction each."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core import lexical
from ragline.core.chunking import ChunkPolicy, chunk
from ragline.core.results import CollectionFacts, IngestReport, Rejection, SpaceFacts
from ragline.db import collections, documents, locks
from ragline.db.documents import NewDocument
from ragline.db.pool import Connection, Pool
from ragline.errors import Conflict, UsageError, first
from ragline.models.embed import Embedder
from ragline.rag import catalog, files, sources
from ragline.rag.app import App
from ragline.rag.catalog import Policy
from ragline.rag.formats import Parsed, Rejected
from ragline.rag.sources import Source, Text

__all__ = [
    "Policy",
    "Progress",
    "Text",
    "ingest_paths",
    "ingest_texts",
    "named_paths",
    "passage",
]

# Raised whenever the same bytes would give another text, or other passages.
_PARSER_VERSION = 3
# In characters: a page of text marked as a heading would be repeated with each of its chunks.
_LONGEST_HEADING = 300
_LONGEST_TITLE = 1000
# Enough for a full batch of the model, little enough to lose when interrupted.
_BATCH_CHUNKS = 256
_QUEUED_DOCUMENTS = 32
_BACKFILL_CHUNKS = 512
# Below this, an exact scan is as fast as the index.
_INDEX_FROM_CHUNKS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an ingest is: documents looked at, of how many, and chunks written so far."""

    done: int
    total: int
    chunks: int


@dataclass(slots=True)
class _Tally:
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0
    chunks: int = 0
    embedded: int = 0
    truncated: int = 0
    done: int = 0
    rejections: list[Rejection] = field(default_factory=list)


async def ingest_paths(
    app: App,
    paths: Sequence[Path],
    collection: str,
    *,
    policy: Policy | None = None,
    ignore: Sequence[str] = (),
    prune: bool = False,
    may_empty: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring files and folders into a collection, which is made when missing.

    Unchanged files cost nothing, changed ones are replaced, each in one transaction, so that an
    interrupted run is continued by running it again. `prune` removes documents below `paths` whose
    file is gone; it is refused where nothing at all is left below a path, unless `may_empty`.
    """
    tally = _Tally()
    found, skipped = await asyncio.to_thread(_find, paths, ignore)
    run = await _Run.begin(app, collection, policy or Policy(), tally, on_progress, len(found))
    await run.learn_known()
    if prune and not may_empty:
        run.check_not_emptied(paths, [*found, *skipped])
    run.pass_over(skipped)
    await run.take([sources.from_file(item) for item in found])
    pruned = await run.prune(paths, ignore, {item.source for item in found}) if prune else 0
    return await run.end(found=len(found), pruned=pruned, build_index=True)


def named_paths(given: Iterable[Path | str]) -> list[Path]:
    """Return paths as such; raise UsageError for an empty text, of which Path makes "here"."""
    several = list(given)
    if "" in several:
        raise UsageError("a path is empty; name a file or folder, or write . for the current one")
    return [Path(path) for path in several]


async def ingest_texts(
    app: App, texts: Sequence[Text], collection: str, *, policy: Policy | None = None
) -> IngestReport:
    """Bring texts into a collection, which is made when missing; as `ingest_paths` does files."""
    tally = _Tally()
    run = await _Run.begin(app, collection, policy or Policy(), tally, None, len(texts))
    named = [item.source for item in texts if sources.fault_of_name(item.source) is None]
    await run.learn_known(named)
    await run.take([sources.from_text(item) for item in texts])
    return await run.end(found=len(texts), pruned=0, build_index=app.ingest_workload == "admin")


@dataclass(slots=True, kw_only=True)
class _Run:
    """One ingest under way."""

    app: App
    pool: Pool
    collection: CollectionFacts
    embedder: Embedder | None
    recipe: str
    tally: _Tally
    total: int
    on_progress: Callable[[Progress], None] | None
    started: float
    known: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    async def begin(
        cls,
        app: App,
        name: str,
        policy: Policy,
        tally: _Tally,
        on_progress: Callable[[Progress], None] | None,
        total: int,
    ) -> _Run:
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
            embedder=embedder if facts.space else None,
            recipe=_recipe(facts),
            tally=tally,
            total=total,
            on_progress=on_progress,
            started=started,
        )

    async def learn_known(self, sources: Sequence[str] | None = None) -> None:
        """Look up what is there already, of all documents or of some."""
        async with self.pool.connection() as connection:
            self.known = await documents.known(connection, self.collection.id, sources)

    def check_not_emptied(
        self, paths: Sequence[Path], present: Sequence[files.Found | files.Skipped]
    ) -> None:
        """Raise UsageError when all that is known below a path is gone, as from a lost mount."""
        for root in (str(path.resolve()) for path in paths):
            known = sum(_is_below(source, root) for source in self.known)
            if known and not any(_is_below(item.source, root) for item in present):
                raise UsageError(
                    f"nothing is left below {root!r}, and collection {self.collection.name!r} knows "
                    f"{known} document(s) from there: is it mounted? Nothing was changed; to remove "
                    "them all, repeat with --yes (may_empty=True in Python)"
                )

    def pass_over(self, skipped: Sequence[files.Skipped]) -> None:
        """Count files of other kinds; report those that should have been, or once were, taken in."""
        for item in skipped:
            if item.is_rejection or item.source in self.known:
                self._reject(item.source, item.reason, item.message)
            else:
                self.tally.skipped += 1

    async def take(self, taken: Sequence[Source]) -> None:
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
        self, taken: Sequence[Source], queue: asyncio.Queue[NewDocument | None]
    ) -> None:
        for source in taken:
            try:
                document = await self._changed(source)
            except Rejected as error:
                self._reject(source.source, error.reason, error.message)
                document = None
            if document is None:
                self._step(0)
            else:
                await queue.put(document)
        await queue.put(None)

    async def _changed(self, source: Source) -> NewDocument | None:
        """Return a document ready to be embedded and written, or None when nothing changed."""
        if fault := sources.fault_of_name(source.source):
            raise fault
        about = sources.about(source)
        data = await asyncio.to_thread(sources.read, source)
        content_hash = hashlib.sha256(data + about).digest()
        if self.known.get(source.source) == (content_hash, self.recipe):
            self.tally.unchanged += 1
            return None
        parsed = await self.app.parsers.parse(data, source.media_type)
        return await asyncio.to_thread(self._compose, source, content_hash, parsed)

    def _compose(self, source: Source, content_hash: bytes, parsed: Parsed) -> NewDocument:
        facts = self.collection
        policy = ChunkPolicy(size=facts.chunk_size, overlap=facts.chunk_overlap)
        chunks = tuple(
            replace(c, headings=tuple(heading[:_LONGEST_HEADING] for heading in c.headings))
            for c in chunk(parsed.text, parsed.blocks, policy)
        )
        if not chunks:
            raise Rejected("NO_TEXT", "it holds no text")
        title = (source.title or parsed.title or _stem(source.source))[:_LONGEST_TITLE]
        return NewDocument(
            source=source.source,
            title=title,
            media_type=source.media_type,
            body=parsed.text,
            content_hash=content_hash,
            recipe=self.recipe,
            metadata={**parsed.metadata, **source.metadata},
            chunks=chunks,
            term_counts=tuple(
                lexical.term_counts(passage(title, c.headings, c.body), facts.language)
                for c in chunks
            ),
        )

    async def _store(self, batch: Sequence[NewDocument]) -> None:
        vectors = None
        texts = [
            passage(document.title, c.headings, c.body)
            for document in batch
            for c in document.chunks
        ]
        if self.embedder is not None:
            embedded = await self.embedder.embed_documents(texts)
            vectors = embedded.vectors
            self.tally.truncated += embedded.truncated
            self.tally.embedded += len(texts)
        await self._learn_terms(batch)
        at = 0
        for document in batch:
            count = len(document.chunks)
            try:
                await self._write(document, None if vectors is None else vectors[at : at + count])
            except Rejected as error:
                self._reject(document.source, error.reason, error.message)
                self._step(0)
            else:
                self._count(document)
            at += count

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
        self._step(len(document.chunks))

    def _reject(self, source: str, reason: str, message: str) -> None:
        shown = source.encode(errors="backslashreplace").decode()
        self.tally.rejections.append(Rejection(source=shown, reason=reason, message=message))

    async def _learn_terms(self, batch: Sequence[NewDocument]) -> None:
        used = {term for document in batch for counts in document.term_counts for term in counts}
        if new := sorted(used - self.numbers.keys()):
            async with self.pool.connection() as connection:
                self.numbers |= await documents.term_ids(connection, new)

    def _step(self, chunks: int) -> None:
        self.tally.done += 1
        self.tally.chunks += chunks
        if self.on_progress:
            self.on_progress(
                Progress(done=self.tally.done, total=self.total, chunks=self.tally.chunks)
            )

    async def prune(self, paths: Sequence[Path], ignore: Sequence[str], present: set[str]) -> int:
        """Remove the documents below `paths` whose file is gone, or ignored now.

        One that could not be read or parsed this time stays, and all below a folder that could not.
        """
        roots = [str(path.resolve()) for path in paths]
        kept = [item.source for item in self.tally.rejections]
        gone = {
            source
            for source in self.known.keys() - present
            if any(_is_below(source, root) for root in roots)
            and not any(_is_below(source, one) for one in kept)
        }
        if any(await asyncio.to_thread(_exist, gone)):
            # Ignored now, or new and brought in by another ingest since we looked: look again.
            found, skipped = await asyncio.to_thread(_find, paths, ignore)
            gone -= {item.source for item in found} | {item.source for item in skipped}
        async with self.pool.connection() as connection:
            return await documents.remove(connection, self.collection.id, sorted(gone))

    async def end(self, *, found: int, pruned: int, build_index: bool) -> IngestReport:
        """Fill in missing vectors, finish statistics and index, and report what is really there."""
        if build_index:
            await self._backfill()
        changed = self.tally.added + self.tally.replaced + pruned + self.tally.embedded > 0
        warnings: list[str] = []
        async with self.pool.connection() as connection:
            fresh = await collections.one(connection, self.collection.name)
            if fresh is None:
                raise UsageError(f"collection {self.collection.name!r} was removed meanwhile")
            if build_index and fresh.space and fresh.chunks >= _INDEX_FROM_CHUNKS:
                warnings += await _build_index(connection, fresh.space)
            if changed and build_index:
                await collections.analyze(connection, fresh.space.id if fresh.space else None)
            if changed:
                # Last: planned with the statistics of a smaller table, it takes minutes, not moments.
                await documents.fold_statistics(connection, fresh.id)
        if fresh.space is None:
            warnings.append(
                "no model, so no vectors: searches go by words alone until `ragline model fetch` and "
                "another ingest"
            )
        elif self.embedder is None and self.tally.chunks:
            warnings.append(
                f"no model, so {self.tally.chunks} chunks have no vectors and are found by their words "
                "alone until `ragline model fetch` and another ingest"
            )
        if self.tally.truncated:
            warnings.append(
                f"{self.tally.truncated} chunks are longer than the model reads; their ends have no "
                "part in their vectors: use a smaller chunk size"
            )
        self.app.known.pop(fresh.name, None)
        return IngestReport(
            collection=fresh.name,
            found=found,
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

    async def _backfill(self) -> None:
        """Embed chunks that came in while there was no model, or whose run was cut short."""
        if self.embedder is None or self.collection.space is None:
            return
        space_id, after = self.collection.space.id, 0
        while True:
            async with self.pool.connection() as connection:
                missing = await documents.without_vector(
                    connection, self.collection.id, space_id, after=after, limit=_BACKFILL_CHUNKS
                )
                if not missing:
                    return
                embedded = await self.embedder.embed_documents(
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


def passage(title: str | None, headings: Sequence[str], body: str) -> str:
    """Return what is embedded and indexed for a chunk: title and headings it lacks, then its text."""
    above = dict.fromkeys([*([title] if title else []), *headings])
    return "\n".join([*(line for line in above if line not in body), body])


def _stem(source: str) -> str:
    return PurePosixPath(source).stem


def _recipe(facts: CollectionFacts) -> str:
    return (
        f"parser {_PARSER_VERSION}, chunks {facts.chunk_size}/{facts.chunk_overlap}, "
        f"terms {lexical.VERSION} {facts.language}"
    )


def _find(
    paths: Sequence[Path], ignore: Sequence[str]
) -> tuple[list[files.Found], list[files.Skipped]]:
    found: list[files.Found] = []
    skipped: list[files.Skipped] = []
    for item in files.find(paths, ignore):
        if isinstance(item, files.Found):
            found.append(item)
        else:
            skipped.append(item)
    return found, skipped


def _is_below(source: str, folder: str) -> bool:
    return source == folder or source.startswith(folder.rstrip("/") + "/")


def _exist(sources: Iterable[str]) -> list[bool]:
    return [Path(source).exists() for source in sources]


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

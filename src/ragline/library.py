"""ragline as a library: open it once, then ingest, search and ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from ragline import config as configuration
from ragline.core.results import (
    Answer,
    CollectionFacts,
    IngestReport,
    Method,
    SearchResult,
)
from ragline.db import collections
from ragline.rag import answer, search
from ragline.rag import ingest as ingesting
from ragline.rag.app import App
from ragline.wiring import open_app


@asynccontextmanager
async def connect(
    dsn: str | None = None, *, data_dir: Path | str | None = None
) -> AsyncIterator[Rag]:
    """Open ragline on `dsn`, else on what the environment names, else on the embedded database.

    Raises ConfigError, DatabaseUnreachable and SchemaMismatch, each with what to do.
    """
    folder = None if data_dir is None else Path(data_dir)
    async with open_app(configuration.load(data_dir=folder, dsn=dsn)) as app:
        yield Rag(app)


@dataclass(frozen=True, slots=True)
class Rag:
    """An open ragline; made by `connect`."""

    app: App

    async def ingest(
        self,
        paths: Path | str | Iterable[Path | str],
        *,
        collection: str,
        policy: ingesting.Policy | None = None,
        ignore: Sequence[str] = (),
        prune: bool = False,
        may_empty: bool = False,
        on_progress: Callable[[ingesting.Progress], None] | None = None,
    ) -> IngestReport:
        """Bring files and folders into a collection; unchanged ones cost nothing.

        `prune` removes documents below `paths` whose file is gone; where nothing at all is left there
        it refuses unless `may_empty`.
        """
        several = [paths] if isinstance(paths, Path | str) else paths
        return await ingesting.ingest_paths(
            self.app,
            ingesting.named_paths(several),
            collection,
            policy=policy,
            ignore=ignore,
            prune=prune,
            may_empty=may_empty,
            on_progress=on_progress,
        )

    async def ingest_texts(
        self,
        texts: Sequence[ingesting.Text],
        *,
        collection: str,
        policy: ingesting.Policy | None = None,
    ) -> IngestReport:
        """Bring texts into a collection, each known by its `source`."""
        return await ingesting.ingest_texts(self.app, texts, collection, policy=policy)

    async def search(
        self,
        question: str,
        *,
        collection: str | Sequence[str],
        k: int = 10,
        method: Method = "hybrid",
        ef_search: int | None = None,
        explain: bool = False,
        vector: npt.ArrayLike | None = None,
    ) -> SearchResult:
        """Return the best `k` chunks, best first. `vector` stands for the question's embedding."""
        query = search.query(
            question,
            collection,
            k=k,
            method=method,
            ef_search=ef_search,
            explain=explain,
            vector=vector,
        )
        return await search.search_collections(self.app, query)

    async def ask(self, question: str, *, collection: str | Sequence[str], k: int = 10) -> Answer:
        """Return the best sentences of the best chunks with citations, or `found = False`."""
        return await answer.answer_question(self.app, search.query(question, collection, k=k))

    async def collections(self) -> list[CollectionFacts]:
        """Return every collection by name."""
        pool = await self.app.pool(self.app.search_workload)
        async with pool.connection() as connection:
            return await collections.every(connection)


__all__ = ["Rag", "connect"]

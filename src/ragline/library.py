"""ragline as a library: open it once, then ingest, search and ask."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ragline import config as configuration
from ragline.core.filters import Filter
from ragline.core.results import (
    Answer,
    CollectionFacts,
    IngestReport,
    Method,
    SearchResult,
    Sentence,
)
from ragline.db import collections
from ragline.errors import UsageError
from ragline.rag import answer, search
from ragline.rag import generate as generating
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
        fields: ingesting.Fields | None = None,
        allow_urls: bool | ingesting.UrlPolicy = False,
        on_progress: Callable[[ingesting.Progress], None] | None = None,
    ) -> IngestReport:
        """Bring files, folders and web pages into a collection; unchanged ones cost nothing.

        `prune` removes documents below `paths` whose file or row is gone; where nothing at all is left
        there it refuses unless `may_empty`. `fields` says what the fields of JSONL and CSV are. Web
        pages are refused unless `allow_urls`; a policy says how much may be fetched, and from where.
        """
        several = [paths] if isinstance(paths, Path | str) else paths
        folders, urls = ingesting.named(several)
        url_policy = ingesting.UrlPolicy() if allow_urls is True else allow_urls or None
        return await ingesting.ingest_paths(
            self.app,
            folders,
            collection,
            fields=fields,
            urls=urls,
            url_policy=url_policy,
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
        filter: Filter | Mapping[str, Any] | str | None = None,  # noqa: A002 - its name everywhere
        exact: bool = False,
    ) -> SearchResult:
        """Return the best `k` chunks, best first. `vector` stands for the question's embedding.

        Only chunks of documents whose metadata fits `filter` are found: an expression of
        `ragline.core.filters`, its JSON form, or text such as `lang = "en" and year >= 2020`. `exact`
        takes no shortcut: every vector is compared, every chunk with a word weighed.
        """
        query = search.query(
            question,
            collection,
            k=k,
            method=method,
            ef_search=ef_search,
            explain=explain,
            vector=vector,
            filter=filter,
            exact=exact,
        )
        return await search.search_collections(self.app, query)

    async def ask(
        self,
        question: str,
        *,
        collection: str | Sequence[str],
        k: int = 10,
        filter: Filter | Mapping[str, Any] | str | None = None,  # noqa: A002 - its name everywhere
        generate: bool = False,
        limits: generating.Limits | None = None,
    ) -> Answer:
        """Return the best sentences of the best chunks with citations, or `found = False`.

        With `generate` the configured chat model writes the answer from those chunks, within
        `limits`; raises ModelError when there is none, or when it fails.
        """
        query = search.query(question, collection, k=k, filter=filter)
        if generate:
            return await generating.generated_answer(self.app, query, limits)
        if limits is not None:
            raise UsageError("limits are those of a generated answer: ask with generate=True")
        return await answer.answer_question(self.app, query)

    def stream(
        self,
        question: str,
        *,
        collection: str | Sequence[str],
        k: int = 10,
        filter: Filter | Mapping[str, Any] | str | None = None,  # noqa: A002 - its name everywhere
        limits: generating.Limits | None = None,
    ) -> AsyncGenerator[Sentence | Answer, None]:
        """Yield the sentences of a generated answer as they are written, and last the answer.

        A ModelError behind some sentences says that they are no answer. Leave early with
        `contextlib.aclosing`, so that the model stops writing.
        """
        query = search.query(question, collection, k=k, filter=filter)
        return generating.stream_answer(self.app, query, limits)

    async def collections(self) -> list[CollectionFacts]:
        """Return every collection by name."""
        pool = await self.app.pool(self.app.search_workload)
        async with pool.connection() as connection:
            return await collections.every(connection)


__all__ = ["Rag", "connect"]

"""ragline as a library: open it once, then ingest, search, ask and evaluate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ragline import config as configuration
from ragline.core.attaching import Request
from ragline.core.cases import Dataset, DatasetFacts
from ragline.core.filters import Filter, from_json, to_text
from ragline.core.policies import Policy as RedLines
from ragline.core.redline import Verdict
from ragline.core.results import (
    Answer,
    CollectionFacts,
    IngestReport,
    Method,
    SearchResult,
    Sentence,
)
from ragline.core.runs import (
    AnswerKind,
    Baseline,
    CaseResult,
    ContextKind,
    JudgeKind,
    Limits,
    Match,
    Run,
    Settings,
)
from ragline.db import collections
from ragline.errors import UsageError
from ragline.evals import baseline as baselines
from ragline.evals import check as checking
from ragline.evals import compare as comparing
from ragline.evals import dataset as datasets
from ragline.evals import formats, loading, report, runs
from ragline.evals import policy as policies
from ragline.evals import run as evaluating
from ragline.rag import answer, search
from ragline.rag import attach as attaching
from ragline.rag import detach as detaching
from ragline.rag import generate as generating
from ragline.rag import ingest as ingesting
from ragline.rag.app import App
from ragline.wiring import open_app, settle


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
        k: int | None = None,
        method: Method = "hybrid",
        ef_search: int | None = None,
        explain: bool = False,
        vector: npt.ArrayLike | None = None,
        filter: Filter | Mapping[str, Any] | str | None = None,  # noqa: A002 - its name everywhere
        exact: bool = False,
    ) -> SearchResult:
        """Return the best `k` chunks, best first. `vector` stands for the question's embedding.

        Without `k` the collection's search policy says how many, else 10.

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
        k: int | None = None,
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
        k: int | None = None,
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

    # The user's own tables.

    async def attach(
        self,
        table: str,
        *,
        id: str | None = None,  # noqa: A002 - the word that the command line has as well
        text: str | None = None,
        embedding: str | None = None,
        metadata: str | None = None,
        filters: Sequence[str] = (),
        only: Mapping[str, str] | None = None,
        collection: str | None = None,
        model: str | None = None,
        metric: str | None = None,
    ) -> tuple[attaching.Plan, CollectionFacts]:
        """Make a collection of a table that is there, without changing it; return what was found.

        Columns that are not said are taken from the table where its library is recognised. `only` are
        values, as text, that rows must have to belong. Raises NotFound, UsageError, Conflict and
        PreconditionFailed, each with what to do; nothing is half-done then.
        """
        request = Request(
            table=table,
            id=id,
            text=text,
            embedding=embedding,
            metadata=metadata,
            filters=tuple(filters),
            only=tuple((only or {}).items()),
            collection=collection,
            model=model,
            metric=metric,
        )
        return await attaching.attach(self.app, request)

    async def detach(self, name: str) -> detaching.Detachment:
        """Give an attached table back: our rows and the rights we gave go, the table stays."""
        return await detaching.detach(self.app, name, settle=lambda: settle(self.app))

    # Evaluation. Runs and baselines are meant by their name or number, or by the value itself.

    async def import_dataset(
        self,
        path: Path | str,
        *,
        name: str,
        format: str = "auto",  # noqa: A002 - the word that the command line has as well
        split: str | None = None,
        qrels: Path | str | None = None,
        replace: bool = False,
    ) -> DatasetFacts:
        """Read a dataset from a file or folder and keep it; see `ragline.evals.formats`.

        Raises UsageError with every case that is wrong, and Conflict when the name has other cases and
        `replace` is not said.
        """
        judgements = None if qrels is None else Path(qrels)
        found = formats.read(Path(path), format, name=name, split=split, qrels=judgements)
        return await self.add_dataset(found, replace=replace)

    async def add_dataset(self, dataset: Dataset, *, replace: bool = False) -> DatasetFacts:
        """Keep a dataset made of values; the same again changes nothing."""
        return await datasets.add(self._evaluating, dataset, replace=replace)

    async def datasets(self) -> tuple[DatasetFacts, ...]:
        """Return every dataset by name."""
        return await datasets.every(self._evaluating)

    async def evaluate(
        self,
        dataset: str,
        *,
        collection: str | Sequence[str] = (),
        k: int = 10,
        method: Method = "hybrid",
        ef_search: int | None = None,
        filter: Filter | Mapping[str, Any] | str | None = None,  # noqa: A002 - its name everywhere
        exact: bool = False,
        answers: AnswerKind = "none",
        judge: JudgeKind = "none",
        contexts: ContextKind = "live",
        match: Match = "auto",
        against_exact: bool = False,
        seed: int = 0,
        name: str | None = None,
        limits: Limits | None = None,
        fresh: bool = False,
        on_progress: Callable[[evaluating.Progress], None] | None = None,
    ) -> Run:
        """Put a dataset's questions to the search, and return what was measured.

        It runs as the `eval` workload, with its own connections. What fails is counted in the run's
        `errors`, and makes it `partial`: go on with `resume`. `fresh` answers and judges anew where an
        earlier run had the same contexts.
        """
        settings = Settings(
            collections=(collection,) if isinstance(collection, str) else tuple(collection),
            k=k,
            method=method,
            ef_search=ef_search,
            filter=_as_text(filter),
            exact=exact,
            answers=answers,
            judge=judge,
            contexts=contexts,
            match=match,
            against_exact=against_exact,
            seed=seed,
        )
        return await evaluating.evaluate(
            self._evaluating,
            dataset,
            settings,
            limits or Limits(),
            name=name,
            is_fresh=fresh,
            on_progress=on_progress,
        )

    async def resume(
        self,
        run: Run | str | int,
        *,
        limits: Limits | None = None,
        on_progress: Callable[[evaluating.Progress], None] | None = None,
    ) -> Run:
        """Go on with a partial run, as it was set: its missing and failed cases are measured."""
        before = await loading.one(self._evaluating, _reference(run))
        return await evaluating.evaluate(
            self._evaluating,
            before.dataset,
            before.settings,
            limits or Limits(),
            resume=before.name,
            on_progress=on_progress,
        )

    async def runs(self, dataset: str | None = None) -> tuple[Run, ...]:
        """Return the runs of a dataset or of all, newest first."""
        return await runs.every(self._evaluating, dataset)

    async def results(self, run: Run | str | int) -> tuple[CaseResult, ...]:
        """Return the cases of a run, in the dataset's order."""
        found = await loading.one(self._evaluating, _reference(run))
        return await loading.results(self._evaluating, found)

    async def set_baseline(
        self, run: Run | str | int, *, name: str, note: str | None = None
    ) -> Baseline:
        """Make a complete run the baseline of its dataset under a name."""
        return await baselines.keep(self._evaluating, _reference(run), name, note)

    async def baselines(self, dataset: str | None = None) -> tuple[Baseline, ...]:
        """Return the baselines of a dataset or of all, newest first, also those that ended."""
        return await baselines.every(self._evaluating, dataset)

    async def compare(
        self,
        baseline: Run | str | int,
        run: Run | str | int,
        *,
        policy: RedLines | Path | str | None = None,
    ) -> comparing.Comparison:
        """Return how a run differs from a baseline, case by case; its `status` is the verdict.

        `policy` is one of `ragline eval policy`, a file, or None: no metric of quality may lose more
        than a point of a hundred. Raises UsageError where the two cannot be compared, saying why.
        """
        return await comparing.compare(
            self._evaluating,
            _reference(baseline),
            _reference(run),
            None if policy is None else _red_lines(policy),
        )

    async def check(
        self,
        run: Run | str | int,
        *,
        policy: RedLines | Path | str,
        against: Run | str | int | None = None,
    ) -> Verdict:
        """Return whether a run keeps every line of a policy; relative lines need one `against`."""
        other = None if against is None else _reference(against)
        return await checking.check(self._evaluating, _reference(run), _red_lines(policy), other)

    async def save_report(
        self, subject: Run | comparing.Comparison | str | int, path: Path | str
    ) -> None:
        """Write a report of a run or a comparison: .html, .md or .json."""
        whole = (
            subject
            if isinstance(subject, comparing.Comparison)
            else await report.of_run(self._evaluating, _reference(subject))
        )
        await report.save(Path(path), whole)

    @property
    def _evaluating(self) -> App:
        """This ragline with its searches on the `eval` workload; what it opens, `app` closes."""
        app = self.app
        return App(
            config=app.config,
            open_pool=app.pool,
            open_embedder=app.embedder,
            open_chat_model=app.chat_model,
            open_judge=app.open_judge,
            search_workload="eval",
            ingest_workload=app.ingest_workload,
            counters=app.counters,
        )


def _reference(run: Run | str | int) -> str:
    return str(run.id) if isinstance(run, Run) else str(run)


def _red_lines(policy: RedLines | Path | str) -> RedLines:
    return policies.load(str(policy)) if isinstance(policy, Path | str) else policy


def _as_text(filter: Filter | Mapping[str, Any] | str | None) -> str | None:  # noqa: A002
    if filter is None or isinstance(filter, str):
        return filter
    return to_text(from_json(filter) if isinstance(filter, Mapping) else filter)


__all__ = ["Rag", "connect"]

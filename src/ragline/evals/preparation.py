"""Everything a run needs, looked at before it begins: what is not there is an error, not a figure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ragline.core import measuring, prompts
from ragline.core.cases import Dataset, DatasetFacts, labels_hash
from ragline.core.remote import Endpoint
from ragline.core.results import CollectionFacts
from ragline.core.runs import Limits, Settings
from ragline.db import datasets as dataset_rows
from ragline.db import relevance
from ragline.db.pool import Pool
from ragline.errors import (
    DatabaseUnreachable,
    ModelError,
    NotFound,
    PreconditionFailed,
    RaglineError,
    SchemaMismatch,
    UsageError,
)
from ragline.evals import cache, matching, provenance
from ragline.evals.cache import DatabaseMemory
from ragline.evals.work import Job
from ragline.models.accounting import price_of, prices
from ragline.models.embed import Embedder, ModelFacts
from ragline.models.judge import Judge
from ragline.models.llm import ChatFacts
from ragline.rag import generate
from ragline.rag.app import App
from ragline.rag.query import Query, query
from ragline.watch import health
from ragline.watch.health import Check

_FAILURES: dict[str, type[RaglineError]] = {
    "database": DatabaseUnreachable,
    "schema": SchemaMismatch,
    "model": ModelError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that can begin."""

    job: Job
    facts: DatasetFacts
    dataset: Dataset
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    memory: DatabaseMemory | None
    """Where the judge's answers are kept; None where nothing is."""


@asynccontextmanager
async def prepared(
    app: App, dataset_name: str, settings: Settings, limits: Limits, *, is_fresh: bool
) -> AsyncIterator[Prepared]:
    """Look at settings, database, models, dataset and collections; yield what a run needs.

    Raises UsageError for what cannot be measured so, and what the health checks say.
    """
    _check_settings(settings, limits)
    asked = _query(settings)
    pool, server, warnings = await _database(app)
    facts, dataset = await _dataset(pool, dataset_name)
    _check_dataset(dataset, settings)
    collections = [await app.collection(name, fresh=True) for name in settings.collections]
    collections = collections if asked else []
    embedding = await _embedding(app, settings, collections)
    chat = await _chat(app, settings)
    _check_prices(app, settings, limits, embedding)
    fit = await matching.fit(pool, collections, dataset, settings.match) if asked else None
    language = collections[0].language if collections else "english"
    generation = generate.Limits()
    async with _judge(app, settings, language, is_fresh=is_fresh) as (judge, memory):
        judge_id = judge.id if judge else _imported_id(dataset, settings)
        yield Prepared(
            job=Job(
                app=app,
                pool=pool,
                settings=settings,
                query=asked,
                way=fit.way if fit else None,
                language=language,
                limits=generation,
                judge=judge,
                judge_id=judge_id,
                made_with=_made_with(settings, collections, chat, generation, judge_id),
                is_fresh=is_fresh,
            ),
            facts=facts,
            dataset=dataset,
            provenance=provenance.provenance(
                settings=settings,
                collections=collections,
                server=server,
                embedding=embedding,
                chat=chat,
                limits=generation if chat else None,
                judge_id=judge_id,
                way=fit.way if fit else None,
            ),
            warnings=(*warnings, *_notes(dataset, settings), *(fit.warnings if fit else ())),
            memory=memory,
        )


def _query(settings: Settings) -> Query | None:
    """Return what every case asks but for its question; None where nothing is searched."""
    if settings.contexts == "fixed":
        return None
    return query(
        "question",
        settings.collections,
        k=settings.k,
        method=settings.method,
        ef_search=settings.ef_search,
        exact=settings.exact,
        filter=settings.filter,
    )


# -- settings and dataset --------------------------------------------------------------------------


def _check_settings(settings: Settings, limits: Limits) -> None:
    for problem in (*_odd_settings(settings), *_odd_limits(limits)):
        raise UsageError(problem)


def _odd_settings(settings: Settings) -> Iterator[str]:
    is_fixed = settings.contexts == "fixed"
    if is_fixed and settings.answers != "none":
        yield (
            f"--answers {settings.answers} cannot go with --contexts fixed, which measures the answers "
            "that the dataset has: leave one of them out"
        )
    if is_fixed and settings.against_exact:
        yield "--against-exact needs searches, and with --contexts fixed there are none"
    if is_fixed and settings.judge == "none":
        yield "--contexts fixed measures nothing without a judge: name one with --judge"
    if not is_fixed and not settings.collections:
        yield "name the collection to search with -c"
    if not is_fixed and settings.judge == "imported":
        yield (
            "labels that came with the dataset are about its own contexts and answers: add "
            "--contexts fixed to --judge imported, or name another judge"
        )
    if not is_fixed and settings.judge != "none" and settings.answers == "none":
        yield f"--judge {settings.judge} needs answers to judge: add --answers extractive or generated"


def _odd_limits(limits: Limits) -> Iterator[str]:
    if limits.concurrency < 1:
        yield f"concurrency is {limits.concurrency}; it must be at least 1"
    if limits.give_up_after < 1:
        yield f"give_up_after is {limits.give_up_after}; it must be at least 1"
    if limits.max_time_s is not None and limits.max_time_s <= 0:
        yield f"max_time_s is {limits.max_time_s:g}; it must be above 0"
    if limits.max_cost_micro_usd is not None and limits.max_cost_micro_usd < 0:
        yield f"max_cost_micro_usd is {limits.max_cost_micro_usd}; it must not be below 0"


async def _dataset(pool: Pool, name: str) -> tuple[DatasetFacts, Dataset]:
    async with pool.connection() as connection:
        if (found := await dataset_rows.one(connection, name)) is not None:
            return found
        known = ", ".join(facts.name for facts in await dataset_rows.every(connection))
    there = (
        f"there are: {known}" if known else "and no other: `ragline eval dataset import` adds one"
    )
    raise NotFound(f"dataset {name!r} does not exist; {there}")


def _check_dataset(dataset: Dataset, settings: Settings) -> None:
    if not dataset.cases:
        raise UsageError(f"dataset {dataset.name!r} has no cases, so nothing can be measured")
    if settings.judge != "none" and not any(map(measuring.gold_answers, dataset.cases)):
        raise UsageError(
            f"no case of dataset {dataset.name!r} has a gold answer, which --judge "
            f"{settings.judge} compares with: leave the judge out"
        )
    if settings.contexts == "fixed" and not any(case.contexts for case in dataset.cases):
        raise UsageError(
            f"no case of dataset {dataset.name!r} has contexts of its own: leave --contexts fixed out"
        )
    if settings.judge == "imported" and not any(case.labels for case in dataset.cases):
        raise UsageError(
            f"no case of dataset {dataset.name!r} has labels: name another judge than imported"
        )


def _imported_id(dataset: Dataset, settings: Settings) -> str | None:
    return f"imported:{labels_hash(dataset)[:12]}" if settings.judge == "imported" else None


def _notes(dataset: Dataset, settings: Settings) -> Iterator[str]:
    if settings.contexts == "fixed":
        yield "contexts are fixed: they came with the dataset, and nothing was searched"
        return
    if not any(case.relevant for case in dataset.cases):
        yield "no case names relevant documents, so how good the search is was not measured"


# -- database and models ---------------------------------------------------------------------------


async def _database(app: App) -> tuple[Pool, dict[str, object], list[str]]:
    """Return the pool, what the server is, and what to warn about; raise what a check says."""
    if app.search_workload != "eval":
        raise UsageError(
            "an evaluation searches on its own workload: open ragline with search_workload='eval'"
        )

    async def open_pool() -> Pool:
        return await app.pool("eval")

    checks = await health.database(open_pool)
    warnings = [_said(check) for check in checks if check.status == "warn"]
    for check in checks:
        _raise_if_failed(check)
    pool = await app.pool("eval")
    async with pool.connection() as connection:
        return pool, await relevance.server(connection), warnings


async def _embedding(
    app: App, settings: Settings, collections: Sequence[CollectionFacts]
) -> ModelFacts | None:
    """Return the model that questions are embedded with; None where searches need none."""
    if settings.method == "lexical" or not collections:
        return None
    spaces = [facts.space for facts in collections if facts.space]

    async def opened() -> Embedder | None:
        serving = await app.embedder_for(spaces[0]) if spaces else None
        return serving or await app.embedder()

    check = await health.embedding(opened)
    is_needed = settings.method == "vector" or bool(spaces)
    # One that is configured and cannot be opened fails every search, needed or not.
    if not is_needed and check.status != "fail":
        return None
    embedder = await opened() if check.status == "pass" else None
    if embedder is None:
        # A search would go on by words alone and say so; a measurement of that is of something else.
        raise ModelError(f"{_said(check)}; or measure --method lexical")
    return embedder.facts


async def _chat(app: App, settings: Settings) -> ChatFacts | None:
    if settings.answers != "generated":
        return None
    model = await app.chat_model()
    if model is None:
        raise ModelError(
            "no chat model is configured, so no answer can be generated: set RAGLINE_CHAT_PROVIDER "
            "and RAGLINE_CHAT_MODEL (docs/howto/answers.md says how), or measure --answers extractive"
        )
    return model.facts


@asynccontextmanager
async def _judge(
    app: App, settings: Settings, language: str, *, is_fresh: bool
) -> AsyncIterator[tuple[Judge | None, DatabaseMemory | None]]:
    """Open the judge, with the verdict cache unless everything is to be asked anew."""
    if settings.judge in ("none", "imported"):
        yield None, None
        return
    memory = await cache.memory(app) if settings.judge == "llm" and not is_fresh else None
    judge = await app.open_judge(settings.judge, memory, language)
    try:
        yield judge, memory
    finally:
        if judge is not None:
            if judge.spent is not None:
                app.count_spent(judge.spent)
            await judge.close()
    # Not where something went wrong: that is what should be heard.
    if memory is not None:
        await memory.close()


def _check_prices(
    app: App, settings: Settings, limits: Limits, embedding: ModelFacts | None
) -> None:
    """Refuse a limit of cost that nobody could keep."""
    if limits.max_cost_micro_usd is None:
        return
    known = prices(app.config.prices)
    for endpoint, writes in _paid(app, settings, embedding):
        price = price_of(endpoint, known)
        if price is None or (writes and price.output is None):
            raise UsageError(
                f"--max-cost cannot be kept: the price of model {endpoint.model} "
                f"({endpoint.provider}) is not known; add it to a file named in RAGLINE_PRICES, or "
                "leave --max-cost out"
            )


def _paid(
    app: App, settings: Settings, embedding: ModelFacts | None
) -> Iterator[tuple[Endpoint, bool]]:
    """Yield the remote models that a run uses, and whether they write."""
    config = app.config
    if embedding is not None and config.embedding is not None:
        yield config.embedding.endpoint, False
    if settings.answers == "generated" and config.chat is not None:
        yield config.chat, True
    if settings.judge == "llm" and config.judge is not None:
        yield config.judge, True


def _made_with(
    settings: Settings,
    collections: Sequence[CollectionFacts],
    chat: ChatFacts | None,
    limits: generate.Limits,
    judge_id: str | None,
) -> dict[str, Any]:
    """Return what an answer and its labels depend on, but for its question and contexts.

    An extractive answer weighs words by how rare they are, so any change of a collection may change
    it; a generated one knows its passages only.
    """
    made: dict[str, Any] = {
        "answers": settings.answers,
        "judge": judge_id,
        "k": settings.k,
        "version": metadata.version("ragline"),
    }
    if settings.answers == "extractive":
        made["collections"] = [
            [facts.id, facts.epoch, facts.space and facts.space.weights_hash]
            for facts in collections
        ]
        made["method"] = settings.method
        # Made anew it costs nothing, and whoever works on ragline wants to see what that does.
        made["source"] = provenance.source_hash()
    if chat is not None:
        made["chat"] = [chat.model_id, chat.provider, chat.base_url]
        made["prompt"] = prompts.PROMPT_VERSION
        # By its words a sentence is held against what it cites.
        made["languages"] = [facts.language for facts in collections]
        made["limits"] = [limits.passages, limits.context_tokens, limits.max_tokens]
    return made


def _raise_if_failed(check: Check) -> None:
    if check.status == "fail":
        raise _FAILURES.get(check.id, PreconditionFailed)(_said(check))


def _said(check: Check) -> str:
    return check.detail if check.fix is None else f"{check.detail}: {check.fix}"

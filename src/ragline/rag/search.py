"""Searching collections: by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core import fusion, languages, lexical
from ragline.core.results import (
    CollectionFacts,
    Hit,
    Method,
    SearchResult,
    SpaceFacts,
    Used,
)
from ragline.db import collections, search
from ragline.db.pool import Connection
from ragline.errors import ModelError, NotFound, UsageError, first
from ragline.models.embed import ModelFacts
from ragline.rag import filtering
from ragline.rag.app import App
from ragline.rag.query import LARGEST_EF_SEARCH, LONGEST_QUESTION, MOST_HITS, Query, query
from ragline.signals import spans

__all__ = [
    "LONGEST_QUESTION", "MOST_HITS", "Query", "query", "search_collections", "search_with_vector",
]  # fmt: skip


async def search_collections(app: App, query: Query) -> SearchResult:
    """Return the best `k` hits over the query's collections, searched side by side."""
    return (await search_with_vector(app, query))[0]


async def search_with_vector(
    app: App, query: Query
) -> tuple[SearchResult, npt.NDArray[np.float32] | None]:
    """Return the same with the question's embedding, which answers need again."""
    started = time.perf_counter()
    targets = await _targets(app, query)
    with spans.span("embed"):
        vector, warning = await _question_vector(app, query, targets)
    embedded = time.perf_counter()
    if len(targets) == 1:
        parts = [await _search_one(app, query, targets[0], vector)]
    else:
        parts = await _side_by_side(app, query, targets, vector)
    searched = time.perf_counter()
    hits = parts[0].hits
    if len(parts) > 1:
        with spans.span("fuse"):
            hits = fusion.merge([part.hits for part in parts], query.method, query.k)
    done = time.perf_counter()
    stages = {
        "embed": (embedded - started) * 1000,
        "search": (searched - embedded) * 1000,
        "fuse": (done - searched) * 1000,
        "total": (done - started) * 1000,
    }
    for part in parts:
        stages |= part.stages_ms
    result = SearchResult(
        question=query.question,
        method=query.method,
        k=query.k,
        hits=hits,
        warnings=(*warning, *(w for part in parts for w in part.warnings)),
        used=tuple(part.used for part in parts),
        timings_ms=stages,
    )
    return result, vector


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    hits: tuple[Hit, ...]
    used: Used
    warnings: tuple[str, ...]
    stages_ms: Mapping[str, float]


async def _side_by_side(
    app: App,
    query: Query,
    targets: Sequence[CollectionFacts],
    vector: npt.NDArray[np.float32] | None,
) -> list[_Part]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_search_one(app, query, target, vector)) for target in targets
            ]
    except BaseExceptionGroup as several:
        raise first(several) from several
    return [task.result() for task in tasks]


async def _search_one(
    app: App, query: Query, facts: CollectionFacts, vector: npt.NDArray[np.float32] | None
) -> _Part:
    with spans.span("database.exact" if query.exact else "database.search"):
        return await _found_in(app, query, facts, vector)


async def _found_in(
    app: App, query: Query, facts: CollectionFacts, vector: npt.NDArray[np.float32] | None
) -> _Part:
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        try:
            part, is_current = await _ask(app, connection, query, facts, vector)
        except asyncpg.UndefinedTableError:
            # The space was dropped since we looked; if nothing changed, the error below is real.
            part, is_current = None, False
        if part is not None and is_current:
            return part
        fresh = await collections.one(connection, facts.name)
        app.known.pop(facts.name, None)
        if fresh is None:
            raise NotFound(f"collection {facts.name!r} was removed while it was searched")
        if part is not None and _same_place(fresh, facts):
            return part
        app.known[fresh.name] = fresh
        _check_model(query, fresh, await _model(app, query))
        part, _ = await _ask(app, connection, query, fresh, vector)
        return part


async def _ask(
    app: App,
    connection: Connection,
    query: Query,
    facts: CollectionFacts,
    vector: npt.NDArray[np.float32] | None,
) -> tuple[_Part, bool]:
    """Search one collection as it was when `facts` were read; say whether that still holds."""
    target = target_of(facts)
    foreign = _foreign_language(query, facts)
    method = "lexical" if foreign else _possible(query.method, facts, vector)
    ask = _compose(query, facts, method, vector)
    plan = None
    if query.filter is not None:
        plan = await filtering.plan(
            app.samples, connection, target, facts, query.filter, k=query.k, is_exact=query.exact
        )
        ask = _within(plan, query, ask)
    found = await search.run(connection, target, method, ask)
    warnings: tuple[str, ...] = ()
    if len(found.hits) < query.k:
        found, ask, warnings = await _completed(app, connection, target, method, ask, found)
    is_current = bool(found.hits) and found.active_space_id == target.space_id
    used = _used(query, facts, method, ask, plan)
    stages: Mapping[str, float] = {}
    if query.explain:
        explained = await search.explained(connection, target, method, ask)
        used = replace(used, vector_plan=search.vector_access(explained))
        stages = search.stages_ms(explained, facts.name)
    if foreign and facts.space:
        warnings += (_why_words_alone(facts.name, foreign, facts.space),)
    return _Part(hits=found.hits, used=used, warnings=warnings, stages_ms=stages), is_current


async def _completed(
    app: App,
    connection: Connection,
    target: search.Target,
    method: Method,
    ask: search.Ask,
    found: search.Found,
) -> tuple[search.Found, search.Ask, tuple[str, ...]]:
    """Search once more with less haste when fewer hits came than match; warn when that is not enough."""
    matching = await search.count_matches(connection, target, method, ask)
    if matching > len(found.hits) and (wider := _wider(ask, method)) is not None:
        app.counters["search_widened"] += 1
        found, ask = await search.run(connection, target, method, wider), wider
    if matching <= len(found.hits):
        return found, ask, ()
    app.counters["search_short_results"] += 1
    warning = (
        f"collection {target.collection!r}: {len(found.hits)} of {ask.k} hits returned although "
        f"more match; raise ef_search (now {ask.ef_search})"
    )
    return found, ask, (warning,)


def _wider(ask: search.Ask, method: Method) -> search.Ask | None:
    if ask.scope is not None and not ask.scope.is_small:
        return replace(ask, scope=replace(ask.scope, is_small=True))
    if method == "vector" and not ask.is_iterative:
        return replace(ask, is_iterative=True)
    return replace(ask, is_exact=True) if method == "lexical" and not ask.is_exact else None


def _within(plan: filtering.Plan, query: Query, ask: search.Ask) -> search.Ask:
    ef_search = query.ef_search or plan.access.ef_search or ask.ef_search
    return replace(ask, ef_search=ef_search, scope=plan.scope, scope_values=plan.values)


def _used(
    query: Query,
    facts: CollectionFacts,
    method: Method,
    ask: search.Ask,
    plan: filtering.Plan | None,
) -> Used:
    is_walked = method != "lexical" and not ask.is_exact and not (ask.scope and ask.scope.is_small)
    access = plan.access if plan else None
    if access and ask.scope and ask.scope.is_small and access.kind == "index":
        access = replace(access, kind="exact", ef_search=None, rows=None)
    return Used(
        collection=facts.name,
        method=method,
        model_id=facts.space.model_id if facts.space and method != "lexical" else None,
        ef_search=ask.ef_search if is_walked else None,
        is_iterative=is_walked and (ask.is_iterative or method == "hybrid" or bool(ask.scope)),
        candidates=ask.candidates,
        terms=ask.terms,
        is_exact=ask.is_exact,
        filter=plan.text if plan else None,
        access=access,
    )


def _compose(
    query: Query,
    facts: CollectionFacts,
    method: Method,
    vector: npt.NDArray[np.float32] | None,
) -> search.Ask:
    return search.Ask(
        k=query.k,
        candidates=fusion.candidates(query.k),
        ef_search=query.ef_search or min(LARGEST_EF_SEARCH, max(100, 2 * query.k)),
        is_exact=query.exact,
        terms=()
        if method == "vector"
        else tuple(lexical.question_terms(query.question, facts.language)),
        vector=None if method == "lexical" else vector,
    )


async def _targets(app: App, query: Query) -> list[CollectionFacts]:
    """Return the collections as they were a moment ago, or as they are now where that would not do.

    Other processes embed, remove and make collections: what we remember must never be the reason to
    refuse a search, or to go by words alone.
    """
    targets = [await app.collection(name) for name in query.collections]
    model = await _model(app, query)
    return [
        target
        if _is_as_needed(query, target, model)
        else await app.collection(target.name, fresh=True)
        for target in targets
    ]


def _is_as_needed(query: Query, facts: CollectionFacts, model: ModelFacts | None) -> bool:
    if query.method == "lexical":
        return True
    if facts.space is None:
        return False
    if query.vector is not None:
        return query.vector.shape == (facts.space.dimension,)
    return model is None or facts.space.weights_hash == model.weights_hash


async def _question_vector(
    app: App, query: Query, targets: Sequence[CollectionFacts]
) -> tuple[npt.NDArray[np.float32] | None, tuple[str, ...]]:
    """Return the question's embedding, or why the search is by words alone."""
    if query.method == "lexical":
        return None, ()
    if query.vector is not None:
        for target in targets:
            _check_model(query, target, None)
        return query.vector, ()
    if all(target.space is None for target in targets):
        return None, _lexical_only(query, "no vectors are stored yet: ingest again with a model")
    embedder = await app.embedder()
    if embedder is None:
        return None, _lexical_only(query, "there is no model: run `ragline model fetch`")
    for target in targets:
        _check_model(query, target, embedder.facts)
    if not query.question.strip() or all(
        target.space is None or _foreign_language(query, target) for target in targets
    ):
        return None, ()
    return await embedder.embed_query(query.question), ()


async def _model(app: App, query: Query) -> ModelFacts | None:
    if query.method == "lexical" or query.vector is not None:
        return None
    embedder = await app.embedder()
    return embedder.facts if embedder else None


def _lexical_only(query: Query, why: str) -> tuple[str, ...]:
    if query.method == "vector":
        raise ModelError(f"vector search is not possible: {why}")
    return (f"searched by words alone: {why}",)


def _check_model(query: Query, facts: CollectionFacts, model: ModelFacts | None) -> None:
    """Refuse to compare vectors of two models, or of two dimensions."""
    if facts.space is None:
        return
    if model is not None and facts.space.weights_hash != model.weights_hash:
        raise ModelError(
            f"collection {facts.name!r} was embedded with {facts.space.model_id} "
            f"({facts.space.weights_hash[:12]}), and the configured model is {model.model_id} "
            f"({model.weights_hash[:12]}): configure the first again (RAGLINE_MODEL_DIR or "
            "RAGLINE_EMBED_MODEL), or search lexically"
        )
    if query.vector is not None and query.vector.shape != (facts.space.dimension,):
        raise UsageError(
            f"the vector has shape {query.vector.shape}; collection {facts.name!r} has dimension "
            f"{facts.space.dimension}"
        )


def _foreign_language(query: Query, facts: CollectionFacts) -> str | None:
    """Return the question's language where it gives the collection's vectors no weight."""
    if query.method != "hybrid" or query.vector is not None or facts.space is None:
        return None
    return languages.foreign(query.question, facts.language, facts.space.languages)


def _why_words_alone(collection: str, language: str, space: SpaceFacts) -> str:
    return (
        f"collection {collection!r} was searched by words alone: the question is in {language!r}, "
        f"and the model {space.model_id} knows {', '.join(space.languages)}; method 'vector' asks it "
        "all the same"
    )


def _possible(
    method: Method, facts: CollectionFacts, vector: npt.NDArray[np.float32] | None
) -> Method:
    return "lexical" if method == "hybrid" and (vector is None or facts.space is None) else method


def target_of(facts: CollectionFacts) -> search.Target:
    """Return the tables that a collection is searched in."""
    if facts.space is None:
        return search.Target(collection=facts.name, collection_id=facts.id)
    return search.Target(
        collection=facts.name,
        collection_id=facts.id,
        space_id=facts.space.id,
        dimension=facts.space.dimension,
        metric=facts.space.metric,
        storage=facts.space.storage,
    )


def _same_place(one: CollectionFacts, other: CollectionFacts) -> bool:
    return (one.id, one.space, one.language) == (other.id, other.space, other.language)

"""Searching collections: by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg

from ragline.core import fusion, lexical, search_policy
from ragline.core.results import (
    CollectionFacts,
    Hit,
    Method,
    SearchResult,
    Used,
)
from ragline.core.search_policy import SearchPolicy
from ragline.db import attached_rows, search
from ragline.db.pool import Connection
from ragline.errors import Conflict, NotFound, RaglineError, first
from ragline.models.embed import Vector
from ragline.rag import filtering, questions
from ragline.rag.app import App
from ragline.rag.query import (
    HITS,
    LARGEST_EF_SEARCH,
    LONGEST_QUESTION,
    MOST_HITS,
    Query,
    query,
)
from ragline.rag.questions import Asked, Vectors
from ragline.signals import spans

__all__ = [
    "LONGEST_QUESTION", "MOST_HITS", "Query", "plan_of", "query", "search_collections",
    "search_with_vector",
]  # fmt: skip

# A change of the space, its index or the policy under way is met once, or twice.
_TRIES = 10


async def search_collections(app: App, query: Query) -> SearchResult:
    """Return the best `k` hits over the query's collections, searched side by side."""
    return (await search_with_vector(app, query))[0]


async def search_with_vector(app: App, query: Query) -> tuple[SearchResult, Asked | None]:
    """Return the same with the question's embedding, which answers need again.

    Where a collection's space, index or policy was changed meanwhile, the whole search is done anew,
    with the model of the new space: no search fails of a change, or mixes before and after.
    """
    started = time.perf_counter()
    for _ in range(_TRIES):
        if (found := await _attempt(app, query, started)) is not None:
            return found
    raise Conflict(
        f"what searches of {', '.join(map(repr, query.collections))} depend on was changed {_TRIES} "
        "times while they were searched; search again"
    )


async def _attempt(
    app: App, query: Query, started: float
) -> tuple[SearchResult, Asked | None] | None:
    """Search the collections as this process knows them; None when they are no longer so."""
    begun = time.perf_counter()
    targets = await questions.targets(app, query)
    k = query.k or max(target.policy.k or HITS for target in targets)
    with spans.span("embed"):
        vectors, asked, warning = await questions.vectors_of(app, query, targets)
    embedded = time.perf_counter()
    if len(targets) == 1:
        maybe = [await _search_one(app, query, k, targets[0], vectors)]
    else:
        maybe = await _side_by_side(app, query, k, targets, vectors)
    parts = [part for part in maybe if part is not None]
    if len(parts) < len(targets):
        return None
    searched = time.perf_counter()
    hits = parts[0].hits
    if len(parts) > 1:
        with spans.span("fuse"):
            hits = fusion.merge([part.hits for part in parts], query.method, k)
    done = time.perf_counter()
    stages = {
        "embed": (embedded - begun) * 1000,
        "search": (searched - embedded) * 1000,
        "fuse": (done - searched) * 1000,
        "total": (done - started) * 1000,
    }
    for part in parts:
        stages |= part.stages_ms
    result = SearchResult(
        question=query.question,
        method=query.method,
        k=k,
        hits=hits,
        warnings=(*warning, *(w for part in parts for w in part.warnings)),
        used=tuple(part.used for part in parts),
        timings_ms=stages,
    )
    return result, asked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    hits: tuple[Hit, ...]
    used: Used
    warnings: tuple[str, ...]
    stages_ms: Mapping[str, float]


async def _side_by_side(
    app: App, query: Query, k: int, targets: Sequence[CollectionFacts], vectors: Vectors
) -> list[_Part | None]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_search_one(app, query, k, target, vectors)) for target in targets
            ]
    except BaseExceptionGroup as several:
        raise first(several) from several
    return [task.result() for task in tasks]


async def _search_one(
    app: App, query: Query, k: int, facts: CollectionFacts, vectors: Vectors
) -> _Part | None:
    with spans.span("database.exact" if query.exact else "database.search"):
        return await _found_in(app, query, k, facts, vectors)


async def _found_in(
    app: App, query: Query, k: int, facts: CollectionFacts, vectors: Vectors
) -> _Part | None:
    """Search one collection as it was when `facts` were read; None when it is not so any longer."""
    vector = vectors.get(facts.space.weights_hash) if facts.space else None
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        part: _Part | None = None
        dropped: Exception | None = None
        try:
            part, version = await _ask(app, connection, query, k, facts, vector)
            if version == facts.search_version:
                return part
        except asyncpg.UndefinedTableError as error:
            dropped = error
        except RaglineError as error:
            if facts.attached is None:
                raise
            dropped = error
        fresh = await app.look(connection, facts.name)
        if fresh is None:
            raise NotFound(f"collection {facts.name!r} was removed while it was searched")
        if not _is_same(fresh, facts):
            return None
        if dropped is not None:
            raise dropped
        await attached_rows.check(connection, fresh)
        return part


async def _ask(
    app: App,
    connection: Connection,
    query: Query,
    k: int,
    facts: CollectionFacts,
    vector: Vector | None,
) -> tuple[_Part, int | None]:
    """Search one collection; return the search version that it had, too (None: nothing was found)."""
    target = target_of(facts)
    foreign = questions.foreign_language(query, facts)
    method: Method = "lexical" if foreign else questions.possible(query.method, facts, vector)
    ask, plan = await _composed(app, connection, query, k, facts, method, vector)
    found = await search.run(connection, target, method, ask)
    warnings: tuple[str, ...] = ()
    if len(found.hits) < k:
        found, ask, warnings = await _completed(app, connection, target, method, ask, found)
    used = _used(query, facts, method, ask, plan)
    stages: Mapping[str, float] = {}
    if query.explain:
        explained = await search.explained(connection, target, method, ask)
        used = replace(used, vector_plan=search.vector_access(explained))
        stages = search.stages_ms(explained, facts.name)
    if foreign and facts.space:
        warnings += (questions.why_words_alone(facts.name, foreign, facts.space),)
    if method != query.method == "hybrid" and facts.attached and facts.attached.words is None:
        warnings += (questions.why_vectors_alone(facts.attached, facts.name),)
    part = _Part(hits=found.hits, used=used, warnings=warnings, stages_ms=stages)
    return part, found.version


async def plan_of(app: App, query: Query) -> tuple[str, ...]:
    """Return what the plan of a query of one collection reads, in order; it is run for that."""
    (facts,) = await questions.targets(app, query)
    vectors, *_ = await questions.vectors_of(app, query, [facts])
    vector = vectors.get(facts.space.weights_hash) if facts.space else None
    k = query.k or facts.policy.k or HITS
    foreign = questions.foreign_language(query, facts)
    method: Method = "lexical" if foreign else questions.possible(query.method, facts, vector)
    async with app.connection(app.search_workload) as connection:
        ask, _ = await _composed(app, connection, query, k, facts, method, vector)
        return search.shape(await search.explained(connection, target_of(facts), method, ask))


async def _composed(
    app: App,
    connection: Connection,
    query: Query,
    k: int,
    facts: CollectionFacts,
    method: Method,
    vector: Vector | None,
) -> tuple[search.Ask, filtering.Plan | None]:
    """Return what one collection is asked, and how its filter is gone about."""
    by_default = min(LARGEST_EF_SEARCH, max(100, 2 * k))
    ask = search.Ask(
        k=k,
        candidates=fusion.candidates(k),
        ef_search=query.ef_search or facts.policy.ef_search or by_default,
        is_exact=query.exact,
        terms=() if method == "vector" else _terms(query, facts),
        vector=None if method == "lexical" else vector,
        policy=facts.policy,
    )
    if query.filter is None:
        return ask, None
    plan = await filtering.plan(
        app.samples, connection, target_of(facts), facts, query.filter, k=k, is_exact=query.exact
    )
    measured = None if query.ef_search or ask.policy.ef_search else plan.access.ef_search
    return replace(
        ask, ef_search=measured or ask.ef_search, scope=plan.scope, scope_values=plan.values
    ), plan


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
    while (
        matching > len(found.hits)
        and (wider := _wider(ask, method, is_attached=target.attached is not None)) is not None
    ):
        app.counters["search_widened"] += 1
        found, ask = await search.run(connection, target, method, wider), wider
        if target.attached is None:
            break
    if matching <= len(found.hits):
        return found, ask, ()
    app.counters["search_short_results"] += 1
    warning = (
        f"collection {target.collection!r}: {len(found.hits)} of {ask.k} hits returned although "
        f"more match; raise ef_search (now {ask.ef_search})"
    )
    return found, ask, (warning,)


def _wider(ask: search.Ask, method: Method, *, is_attached: bool) -> search.Ask | None:
    if ask.scope is not None and not ask.scope.is_small:
        return replace(ask, scope=replace(ask.scope, is_small=True))
    if method == "vector" and not ask.is_iterative and ask.policy.iterative is None:
        return replace(ask, is_iterative=True)
    # What index somebody else's table has, and what is in it, is not ours to know: it may give up.
    may_be_exact = method == "lexical" or is_attached
    return replace(ask, is_exact=True) if may_be_exact and not ask.is_exact else None


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
        is_iterative=is_walked and _is_iterative(ask, method),
        candidates=ask.candidates,
        terms=ask.terms,
        is_exact=ask.is_exact,
        filter=plan.text if plan else None,
        access=access,
        policy=_said(facts.policy),
    )


def _is_iterative(ask: search.Ask, method: Method) -> bool:
    if ask.policy.iterative is not None:
        return ask.policy.iterative != "off"
    return ask.is_iterative or method == "hybrid" or bool(ask.scope)


def _said(policy: SearchPolicy) -> dict[str, object] | None:
    if policy == search_policy.DEFAULT:
        return None
    values = search_policy.to_json(policy)
    return {name: value for name, value in values.items() if value is not None}


def _terms(query: Query, facts: CollectionFacts) -> tuple[str, ...]:
    # The server takes the words of an attached table apart as it did for the index.
    if facts.attached is not None:
        return tuple(query.question.split())
    return tuple(lexical.question_terms(query.question, facts.language))


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
        slot=facts.space.index_slot,
        index_storage=facts.space.index_storage,
        attached=facts.attached,
    )


def _is_same(one: CollectionFacts, other: CollectionFacts) -> bool:
    return (one.id, one.search_version, one.language) == (
        other.id, other.search_version, other.language,
    )  # fmt: skip

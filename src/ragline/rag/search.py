"""Searching collections: by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg

from ragline.core import fusion, languages, lexical, search_policy
from ragline.core.attached import Attached
from ragline.core.results import (
    CollectionFacts,
    Hit,
    Method,
    SearchResult,
    SpaceFacts,
    Used,
)
from ragline.core.search_policy import SearchPolicy
from ragline.db import attached_rows, attached_sql, search
from ragline.db.pool import Connection
from ragline.errors import Conflict, ModelError, NotFound, RaglineError, UsageError, first
from ragline.models.embed import Embedder, Vector
from ragline.rag import filtering
from ragline.rag.app import App
from ragline.rag.query import (
    HITS,
    LARGEST_EF_SEARCH,
    LONGEST_QUESTION,
    MOST_HITS,
    Query,
    query,
)
from ragline.signals import spans

__all__ = [
    "LONGEST_QUESTION", "MOST_HITS", "Asked", "Query", "plan_of", "query", "search_collections",
    "search_with_vector",
]  # fmt: skip

# A change of the space, its index or the policy under way is met once, or twice.
_TRIES = 10
# The model of an attached table whose vectors are of none that is configured.
UNKNOWN_MODEL = "unknown"

_Vectors = Mapping[str, Vector]


async def search_collections(app: App, query: Query) -> SearchResult:
    """Return the best `k` hits over the query's collections, searched side by side."""
    return (await search_with_vector(app, query))[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A question's embedding, and the model that made it; None where the caller did."""

    vector: Vector
    embedder: Embedder | None


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
    targets = await _targets(app, query)
    k = query.k or max(target.policy.k or HITS for target in targets)
    with spans.span("embed"):
        vectors, asked, warning = await _question_vectors(app, query, targets)
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
    app: App, query: Query, k: int, targets: Sequence[CollectionFacts], vectors: _Vectors
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
    app: App, query: Query, k: int, facts: CollectionFacts, vectors: _Vectors
) -> _Part | None:
    with spans.span("database.exact" if query.exact else "database.search"):
        return await _found_in(app, query, k, facts, vectors)


async def _found_in(
    app: App, query: Query, k: int, facts: CollectionFacts, vectors: _Vectors
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
    foreign = _foreign_language(query, facts)
    method = "lexical" if foreign else _possible(query.method, facts, vector)
    ask = _compose(query, k, facts, method, vector)
    plan = None
    if query.filter is not None:
        plan = await filtering.plan(
            app.samples, connection, target, facts, query.filter, k=k, is_exact=query.exact
        )
        ask = _within(plan, query, ask)
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
        warnings += (_why_words_alone(facts.name, foreign, facts.space),)
    if method != query.method == "hybrid" and facts.attached and facts.attached.words is None:
        warnings += (_why_vectors_alone(facts.attached, facts.name),)
    part = _Part(hits=found.hits, used=used, warnings=warnings, stages_ms=stages)
    return part, found.version


async def plan_of(app: App, query: Query) -> tuple[str, ...]:
    """Return what the plan of a query of one collection reads, in order; it is run for that."""
    (facts,) = await _targets(app, query)
    vectors, *_ = await _question_vectors(app, query, [facts])
    vector = vectors.get(facts.space.weights_hash) if facts.space else None
    target, k = target_of(facts), query.k or facts.policy.k or HITS
    method = (
        "lexical" if _foreign_language(query, facts) else _possible(query.method, facts, vector)
    )
    ask = _compose(query, k, facts, method, vector)
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        if query.filter is not None:
            plan = await filtering.plan(
                app.samples, connection, target, facts, query.filter, k=k, is_exact=query.exact
            )
            ask = _within(plan, query, ask)
        return search.shape(await search.explained(connection, target, method, ask))


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


def _within(plan: filtering.Plan, query: Query, ask: search.Ask) -> search.Ask:
    measured = None if query.ef_search or ask.policy.ef_search else plan.access.ef_search
    return replace(
        ask, ef_search=measured or ask.ef_search, scope=plan.scope, scope_values=plan.values
    )


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


def _compose(
    query: Query, k: int, facts: CollectionFacts, method: Method, vector: Vector | None
) -> search.Ask:
    by_default = min(LARGEST_EF_SEARCH, max(100, 2 * k))
    return search.Ask(
        k=k,
        candidates=fusion.candidates(k),
        ef_search=query.ef_search or facts.policy.ef_search or by_default,
        is_exact=query.exact,
        terms=() if method == "vector" else _terms(query, facts),
        vector=None if method == "lexical" else vector,
        policy=facts.policy,
    )


def _terms(query: Query, facts: CollectionFacts) -> tuple[str, ...]:
    # The server takes the words of an attached table apart as it did for the index.
    if facts.attached is not None:
        return tuple(query.question.split())
    return tuple(lexical.question_terms(query.question, facts.language))


async def _targets(app: App, query: Query) -> list[CollectionFacts]:
    """Return the collections as they were a moment ago, or as they are now where that would not do.

    Other processes embed, remove and make collections: what we remember must never be the reason to
    refuse a search, or to go by words alone.
    """
    targets = [await app.collection(name) for name in query.collections]
    return [
        target
        if await _is_as_needed(app, query, target)
        else await app.collection(target.name, fresh=True)
        for target in targets
    ]


async def _is_as_needed(app: App, query: Query, facts: CollectionFacts) -> bool:
    if query.method == "lexical":
        return True
    if facts.space is None:
        return False
    if query.vector is not None:
        return query.vector.shape == (facts.space.dimension,)
    return await app.embedder_for(facts.space) is not None or not await app.embedders()


async def _question_vectors(
    app: App, query: Query, targets: Sequence[CollectionFacts]
) -> tuple[_Vectors, Asked | None, tuple[str, ...]]:
    """Return the question's embedding by each model that it takes, or why it is by words alone.

    Also returns that of the first collection, with its model: one is enough for an answer.
    """
    if query.method == "lexical":
        return {}, None, ()
    spaces = {target.name: target.space for target in targets if target.space is not None}
    if query.vector is not None:
        _check_dimensions(query, spaces)
        of_all = {space.weights_hash: query.vector for space in spaces.values()}
        return of_all, Asked(vector=query.vector, embedder=None), ()
    if not spaces:
        return (
            {},
            None,
            _lexical_only(query, "no vectors are stored yet: ingest again with a model"),
        )
    models = {name: await app.embedder_for(space) for name, space in spaces.items()}
    if not any(models.values()) and not await app.embedders():
        return {}, None, _lexical_only(query, "there is no model: run `ragline model fetch`")
    vectors: dict[str, Vector] = {}
    asked = None
    for target in targets:
        if target.space is None:
            continue
        model = models[target.name]
        if model is None:
            raise await _no_model(app, target.name, target.space)
        if not query.question.strip() or _foreign_language(query, target):
            continue
        if target.space.weights_hash not in vectors:
            vectors[target.space.weights_hash] = await model.embed_query(query.question)
        asked = asked or Asked(vector=vectors[target.space.weights_hash], embedder=model)
    return vectors, asked, ()


def _lexical_only(query: Query, why: str) -> tuple[str, ...]:
    if query.method == "vector":
        raise ModelError(f"vector search is not possible: {why}")
    return (f"searched by words alone: {why}",)


async def _no_model(app: App, name: str, space: SpaceFacts) -> ModelError:
    """Vectors of two models are never compared."""
    if space.model_id == UNKNOWN_MODEL:
        return ModelError(
            f"collection {name!r} is an attached table, and which model its vectors are of is not "
            "known: give a vector instead of a question, or configure its model (RAGLINE_EMBED_MODEL), "
            f"run `ragline detach {name} --yes` and attach it again"
        )
    first, *_ = await app.embedders()
    return ModelError(
        f"collection {name!r} was embedded with {space.model_id} "
        f"({space.weights_hash[:12]}), and the configured model is {first.facts.model_id} "
        f"({first.facts.weights_hash[:12]}): configure the first again (RAGLINE_MODEL_DIR or "
        "RAGLINE_EMBED_MODEL), or search lexically"
    )


def _check_dimensions(query: Query, spaces: Mapping[str, SpaceFacts]) -> None:
    for name, space in spaces.items():
        if query.vector is not None and query.vector.shape != (space.dimension,):
            raise UsageError(
                f"the vector has shape {query.vector.shape}; collection {name!r} has dimension "
                f"{space.dimension}"
            )


def _foreign_language(query: Query, facts: CollectionFacts) -> str | None:
    """Return the question's language where it gives the collection's vectors no weight."""
    if query.method != "hybrid" or query.vector is not None or facts.space is None:
        return None
    if facts.attached is not None and facts.attached.words is None:
        return None
    return languages.foreign(query.question, facts.language, facts.space.languages)


def _why_words_alone(collection: str, language: str, space: SpaceFacts) -> str:
    return (
        f"collection {collection!r} was searched by words alone: the question is in {language!r}, "
        f"and the model {space.model_id} knows {', '.join(space.languages)}; method 'vector' asks it "
        "all the same"
    )


def _why_vectors_alone(attached: Attached, collection: str) -> str:
    return (
        f"collection {collection!r} was searched by vectors alone: {_no_words(attached)}; `ragline "
        f"detach {collection} --yes` and attaching it again then finds the index"
    )


def _no_words(attached: Attached) -> str:
    table, column = attached_sql.table(attached), attached_sql.column(attached.text, "")
    return (
        f"table {table} has no full text index; make one with `create index concurrently on {table} "
        f"using gin (to_tsvector('english', {column}))`, in the language of its texts"
    )


def _possible(method: Method, facts: CollectionFacts, vector: Vector | None) -> Method:
    if facts.attached is not None and facts.attached.words is None and method != "vector":
        if method == "lexical" or vector is None:
            how = "by words" if method == "lexical" else "without a model"
            raise UsageError(
                f"collection {facts.name!r} cannot be searched {how}: {_no_words(facts.attached)}, "
                f"then `ragline detach {facts.name} --yes` and attach it again"
            )
        return "vector"
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
        slot=facts.space.index_slot,
        index_storage=facts.space.index_storage,
        attached=facts.attached,
    )


def _is_same(one: CollectionFacts, other: CollectionFacts) -> bool:
    return (one.id, one.search_version, one.language) == (
        other.id, other.search_version, other.language,
    )  # fmt: skip

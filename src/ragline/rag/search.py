"""Searching collections: by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg
import numpy as np
import numpy.typing as npt

from ragline.core import fusion, lexical
from ragline.core.results import CollectionFacts, Hit, Method, SearchResult, Used
from ragline.db import collections, search
from ragline.db.pool import Connection
from ragline.errors import ModelError, NotFound, UsageError, first
from ragline.models.embed import ModelFacts
from ragline.rag.app import App

MOST_HITS = 1000
LONGEST_QUESTION = 10_000
_METHODS: tuple[Method, ...] = ("hybrid", "vector", "lexical")
# hnsw.ef_search accepts no more than this.
_LARGEST_EF_SEARCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to search for. `ef_search` None means max(100, 2k), at most 1,000.

    A `vector` given by the caller stands for the question's embedding, shape (dimension,).
    """

    question: str
    collections: tuple[str, ...]
    k: int = 10
    method: Method = "hybrid"
    ef_search: int | None = None
    explain: bool = False
    vector: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        _check(self)


def query(
    question: str,
    collection: str | Sequence[str],
    *,
    k: int = 10,
    method: Method = "hybrid",
    ef_search: int | None = None,
    explain: bool = False,
    vector: npt.ArrayLike | None = None,
) -> Query:
    """Return a checked query; raises UsageError. Each collection is searched once."""
    names = (collection,) if isinstance(collection, str) else tuple(dict.fromkeys(collection))
    return Query(
        question=question,
        collections=names,
        k=k,
        method=method,
        ef_search=ef_search,
        explain=explain,
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
    )


async def search_collections(app: App, query: Query) -> SearchResult:
    """Return the best `k` hits over the query's collections, searched side by side."""
    return (await search_with_vector(app, query))[0]


async def search_with_vector(
    app: App, query: Query
) -> tuple[SearchResult, npt.NDArray[np.float32] | None]:
    """Return the same with the question's embedding, which answers need again."""
    started = time.perf_counter()
    targets = await _targets(app, query)
    vector, warning = await _question_vector(app, query, targets)
    embedded = time.perf_counter()
    if len(targets) == 1:
        parts = [await _search_one(app, query, targets[0], vector)]
    else:
        parts = await _side_by_side(app, query, targets, vector)
    searched = time.perf_counter()
    hits = (
        parts[0].hits
        if len(parts) == 1
        else fusion.merge([part.hits for part in parts], query.method, query.k)
    )
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
    target = _target(facts)
    method = _possible(query.method, facts, vector)
    ask = _compose(query, facts, method, vector)
    found = await search.run(connection, target, method, ask)
    warnings: list[str] = []
    if len(found.hits) < query.k:
        matching = await search.count_matches(connection, target, method, ask)
        if matching > len(found.hits) and method == "vector":
            ask = replace(ask, is_iterative=True)
            found = await search.run(connection, target, method, ask)
        if matching > len(found.hits):
            app.counters["search_short_results"] += 1
            warnings.append(
                f"collection {facts.name!r}: {len(found.hits)} of {query.k} hits returned although "
                f"more match; raise ef_search (now {ask.ef_search})"
            )
    is_current = bool(found.hits) and found.active_space_id == target.space_id
    used = Used(
        collection=facts.name,
        method=method,
        model_id=facts.space.model_id if facts.space and method != "lexical" else None,
        ef_search=ask.ef_search if method != "lexical" else None,
        is_iterative=ask.is_iterative or method == "hybrid",
        candidates=ask.candidates,
        terms=ask.terms,
    )
    stages: Mapping[str, float] = {}
    if query.explain:
        plan = await search.explained(connection, target, method, ask)
        used = replace(used, vector_plan=search.vector_access(plan))
        stages = search.stages_ms(plan, facts.name)
    return _Part(hits=found.hits, used=used, warnings=tuple(warnings), stages_ms=stages), is_current


def _compose(
    query: Query,
    facts: CollectionFacts,
    method: Method,
    vector: npt.NDArray[np.float32] | None,
) -> search.Ask:
    ef_search = query.ef_search or min(_LARGEST_EF_SEARCH, max(100, 2 * query.k))
    return search.Ask(
        k=query.k,
        candidates=max(40, 2 * query.k),
        ef_search=ef_search,
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
    if not query.question.strip():
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
            f"({model.weights_hash[:12]}): set RAGLINE_MODEL_DIR to the first, or search lexically"
        )
    if query.vector is not None and query.vector.shape != (facts.space.dimension,):
        raise UsageError(
            f"the vector has shape {query.vector.shape}; collection {facts.name!r} has dimension "
            f"{facts.space.dimension}"
        )


def _possible(
    method: Method, facts: CollectionFacts, vector: npt.NDArray[np.float32] | None
) -> Method:
    return "lexical" if method == "hybrid" and (vector is None or facts.space is None) else method


def _target(facts: CollectionFacts) -> search.Target:
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


def _check(query: Query) -> None:
    if query.method not in _METHODS:
        raise UsageError(f"method {query.method!r} is not one of {', '.join(_METHODS)}")
    if not 1 <= query.k <= MOST_HITS:
        raise UsageError(f"k is {query.k}; it must lie between 1 and {MOST_HITS}")
    if query.ef_search is not None and not 1 <= query.ef_search <= _LARGEST_EF_SEARCH:
        raise UsageError(
            f"ef_search is {query.ef_search}; it must lie between 1 and {_LARGEST_EF_SEARCH}"
        )
    if not query.collections:
        raise UsageError("name at least one collection to search")
    if query.vector is None and not query.question.strip():
        raise UsageError("the question is empty")
    if len(query.question) > LONGEST_QUESTION:
        raise UsageError(
            f"the question has {len(query.question):,} characters; at most {LONGEST_QUESTION:,} are "
            "searched for"
        )
    if "\x00" in query.question or not _is_encodable(query.question):
        raise UsageError(
            "the question holds a character that no text has (NUL or a lone surrogate)"
        )


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

"""Questions on their way to collections: embedded by which model, or why they go by words alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.core import languages
from ragline.core.attached import Attached
from ragline.core.results import CollectionFacts, Method, SpaceFacts
from ragline.db import attached_sql
from ragline.errors import ModelError, UsageError
from ragline.models.embed import Embedder, Vector
from ragline.rag.app import App
from ragline.rag.attached_space import UNKNOWN
from ragline.rag.query import Query

Vectors = Mapping[str, Vector]
"""A question's embeddings by the weights of their models."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A question's embedding, and the model that made it; None where the caller did."""

    vector: Vector
    embedder: Embedder | None


async def targets(app: App, query: Query) -> list[CollectionFacts]:
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


async def vectors_of(
    app: App, query: Query, targets: Sequence[CollectionFacts]
) -> tuple[Vectors, Asked | None, tuple[str, ...]]:
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
        if not query.question.strip() or foreign_language(query, target):
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
    if space.model_id == UNKNOWN:
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


def foreign_language(query: Query, facts: CollectionFacts) -> str | None:
    """Return the question's language where it gives the collection's vectors no weight."""
    if query.method != "hybrid" or query.vector is not None or facts.space is None:
        return None
    if facts.attached is not None and facts.attached.words is None:
        return None
    return languages.foreign(query.question, facts.language, facts.space.languages)


def why_words_alone(collection: str, language: str, space: SpaceFacts) -> str:
    """Return the warning that a question in a language that the model does not know went by words."""
    return (
        f"collection {collection!r} was searched by words alone: the question is in {language!r}, "
        f"and the model {space.model_id} knows {', '.join(space.languages)}; method 'vector' asks it "
        "all the same"
    )


def why_vectors_alone(attached: Attached, collection: str) -> str:
    """Return the warning that no index finds the words of an attached table."""
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


def possible(method: Method, facts: CollectionFacts, vector: Vector | None) -> Method:
    """Return the method by which a collection can be searched; raises UsageError where none is left."""
    if facts.attached is not None and facts.attached.words is None and method != "vector":
        if method == "lexical" or vector is None:
            how = "by words" if method == "lexical" else "without a model"
            raise UsageError(
                f"collection {facts.name!r} cannot be searched {how}: {_no_words(facts.attached)}, "
                f"then `ragline detach {facts.name} --yes` and attach it again"
            )
        return "vector"
    return "lexical" if method == "hybrid" and (vector is None or facts.space is None) else method

"""Answers made of the documents' own sentences, each with a citation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ragline.core import extraction, lexical
from ragline.core.extraction import Window
from ragline.core.plaintext import settled, unmarked
from ragline.core.results import Answer, Citation, CollectionFacts, Hit, SearchResult, SpaceFacts
from ragline.core.sentences import sentences
from ragline.db import samples, statistics
from ragline.db.pool import Connection
from ragline.models.embed import Embedder, Vector
from ragline.rag.app import App
from ragline.rag.questions import Asked
from ragline.rag.search import Query, search_with_vector, target_of
from ragline.signals import spans

NOT_FOUND = "Not found in the documents."
_HITS_READ = 5
_MOST_CITATIONS = 3
# Enough to tell a word of every text from one of few, which is all that weights say.
_PASSAGES_READ = 100


async def answer_question(app: App, query: Query) -> Answer:
    """Return the best sentences for a question with their citations, or say that there are none."""
    found, asked = await search_with_vector(app, query)
    return await answer_from(app, query, found, asked)


async def answer_from(app: App, query: Query, found: SearchResult, asked: Asked | None) -> Answer:
    """Return the same from what a search found, with the question's embedding."""
    with spans.span("extract"):
        return await _extracted(app, query, found, asked)


async def _extracted(app: App, query: Query, found: SearchResult, asked: Asked | None) -> Answer:
    started = time.perf_counter()
    hits = found.hits[:_HITS_READ]
    facts = {used.collection: await app.collection(used.collection) for used in found.used}
    candidates = _windows(hits, {name: one.language for name, one in facts.items()})
    weights = await _weights(app, query)
    if asked is not None and asked.embedder is not None and candidates:
        candidates = await _with_similarity(
            asked.embedder,
            asked.vector,
            hits,
            candidates,
            {name: one.space for name, one in facts.items()},
        )
    is_found = extraction.is_answered(candidates, weights)
    best_first = extraction.ranked(candidates, weights) if is_found else []
    picked = extraction.chosen(best_first, _MOST_CITATIONS)
    citations = tuple(
        citation(
            number, hits[item.window.hit], item.window.start, item.window.end, score=item.score
        )
        for number, item in enumerate(picked, start=1)
    )
    extract_ms = (time.perf_counter() - started) * 1000
    return Answer(
        question=query.question,
        found=is_found,
        text=" ".join(f"{_words(c.text)} [{c.number}]" for c in citations) or NOT_FOUND,
        confidence=extraction.confidence(candidates, weights),
        citations=citations,
        warnings=found.warnings,
        timings_ms={
            **found.timings_ms,
            "extract": extract_ms,
            "total": found.timings_ms["total"] + extract_ms,
        },
    )


def _words(text: str) -> str:
    """Return a document's words as an answer shows them: a citation's `text` has them as they are.

    A `[2]` of the document's own reads `(2)`, so that every mark in an answer is one of ours.
    """
    return settled(" ".join(text.split()), unmarked)


def citation(number: int, hit: Hit, start: int, end: int, score: float) -> Citation:
    """Return the citation of a piece of a hit, with its score."""
    return Citation(
        number=number,
        collection=hit.collection,
        document_id=hit.document_id,
        chunk_id=hit.chunk_id,
        source=hit.source,
        title=hit.title,
        start=start,
        end=end,
        text=hit.body[start - hit.start : end - hit.start],
        score=score,
    )


def _windows(hits: Sequence[Hit], languages: Mapping[str, str]) -> list[Window]:
    """Return the windows of the hits, each once though chunks overlap."""
    seen: set[tuple[str, int, int, int]] = set()
    found = []
    for number, hit in enumerate(hits):
        for start, end in extraction.windows(sentences(hit.body)):
            place = (hit.collection, hit.document_id, hit.start + start, hit.start + end)
            if place in seen:
                continue
            seen.add(place)
            words = lexical.terms(hit.body[start:end], languages[hit.collection])
            found.append(
                Window(
                    hit=number,
                    document_id=hit.document_id,
                    start=place[2],
                    end=place[3],
                    terms=frozenset(words),
                    collection=hit.collection,
                )
            )
    return found


async def _weights(app: App, query: Query) -> dict[str, float]:
    """Return how telling each word of the question is, by how rare it is in the collections."""
    weights: dict[str, float] = {}
    every = [await app.collection(name) for name in query.collections]
    pool = await app.pool(app.search_workload)
    with spans.span("database.statistics"):
        async with pool.connection() as connection:
            for facts in every:
                words = sorted(set(lexical.question_terms(query.question, facts.language)))
                chunks, counts = await _frequencies(connection, facts, words)
                for word, weight in extraction.idf(counts, chunks).items():
                    weights[word] = max(weight, weights.get(word, 0.0))
    return weights


async def _frequencies(
    connection: Connection, facts: CollectionFacts, words: Sequence[str]
) -> tuple[int, dict[str, int]]:
    """Return how many chunks there are, and how many hold each word; of an attached table, estimates."""
    if facts.attached is None:
        return await statistics.frequencies(connection, facts.id, words)
    drawn = await samples.passages(
        connection, target_of(facts), chunks=facts.chunks, size=_PASSAGES_READ
    )
    held = [frozenset(lexical.terms(body, facts.language)) for _, body in drawn]
    return len(held), {word: sum(word in one for one in held) for word in words}


async def _with_similarity(
    embedder: Embedder,
    asked: Vector,
    hits: Sequence[Hit],
    candidates: Sequence[Window],
    spaces: Mapping[str, SpaceFacts | None],
) -> list[Window]:
    with spans.span("embed"):
        embedded = await embedder.embed_documents([_text(hits, window) for window in candidates])
    similarities = _cosines(asked, embedded.vectors)
    return [
        replace(
            window,
            similarity=float(similarity),
            hit_similarity=_hit_similarity(hits[window.hit], spaces[window.collection]),
        )
        for window, similarity in zip(candidates, similarities, strict=True)
    ]


def _text(hits: Sequence[Hit], window: Window) -> str:
    hit = hits[window.hit]
    return hit.body[window.start - hit.start : window.end - hit.start]


def _hit_similarity(hit: Hit, space: SpaceFacts | None) -> float | None:
    """Return the cosine of a whole hit to the question, as far as its distance tells it."""
    distance = hit.vector_distance
    if distance is None or space is None:
        return None
    if space.metric == "cosine":
        return 1 - distance
    if not space.normalised:
        return None
    return -distance if space.metric == "inner_product" else 1 - distance**2 / 2


def _cosines(
    one: npt.NDArray[np.float32], many: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the cosine of one vector, shape (d,), to each of many, shape (n, d)."""
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    cosines: npt.NDArray[np.float32] = (many @ one) / lengths
    return cosines

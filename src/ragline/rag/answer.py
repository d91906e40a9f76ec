"""Answers made of the documents' own sentences, each with a citation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ragline.core import extraction, lexical
from ragline.core.extraction import Candidate, Scored
from ragline.core.results import Answer, Citation, Hit, SearchResult
from ragline.core.sentences import sentences
from ragline.db import statistics
from ragline.models.embed import Embedder
from ragline.rag.app import App
from ragline.rag.search import Query, search_collections

NOT_FOUND = "Not found in the documents."
_HITS_READ = 5
_MOST_SENTENCES = 3
_SHORTEST_SENTENCE = 15


async def answer_question(app: App, query: Query) -> Answer:
    """Return the best sentences for a question with their citations, or say that there are none."""
    started = time.perf_counter()
    found = await search_collections(app, query)
    searched = time.perf_counter()
    candidates = _candidates(found.hits[:_HITS_READ], await _languages(app, found))
    weights = await _weights(app, query)
    embedder = None if query.method == "lexical" else await app.embedder()
    if embedder is not None and candidates:
        candidates = await _with_similarity(embedder, query.question, found.hits, candidates)
    ranked = extraction.scored(candidates, weights)
    done = time.perf_counter()
    return _answer(
        query,
        found,
        ranked,
        {
            **found.timings_ms,
            "extract": (done - searched) * 1000,
            "total": (done - started) * 1000,
        },
    )


def _answer(
    query: Query, found: SearchResult, ranked: Sequence[Scored], timings: Mapping[str, float]
) -> Answer:
    is_found = extraction.is_answer(ranked)
    picked = extraction.chosen(ranked, _MOST_SENTENCES) if is_found else []
    citations = tuple(
        _citation(number, item, found.hits[item.candidate.hit])
        for number, item in enumerate(picked, start=1)
    )
    text = " ".join(f"{' '.join(c.text.split())} [{c.number}]" for c in citations)
    return Answer(
        question=query.question,
        found=is_found,
        text=text or NOT_FOUND,
        confidence=max((item.confidence for item in ranked), default=0.0),
        citations=citations,
        warnings=found.warnings,
        timings_ms=timings,
    )


def _citation(number: int, item: Scored, hit: Hit) -> Citation:
    start, end = item.candidate.start, item.candidate.end
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
        score=item.score,
    )


def _candidates(hits: Sequence[Hit], languages: Mapping[str, str]) -> list[Candidate]:
    """Return the sentences of the hits, each once though chunks overlap."""
    seen: set[tuple[int, int, int]] = set()
    found = []
    for number, hit in enumerate(hits):
        for start, end in sentences(hit.body):
            place = (hit.document_id, hit.start + start, hit.start + end)
            if end - start < _SHORTEST_SENTENCE or place in seen:
                continue
            seen.add(place)
            words = lexical.terms(hit.body[start:end], languages[hit.collection])
            found.append(
                Candidate(hit=number, start=place[1], end=place[2], terms=frozenset(words))
            )
    return found


async def _languages(app: App, found: SearchResult) -> dict[str, str]:
    return {u.collection: (await app.collection(u.collection)).language for u in found.used}


async def _weights(app: App, query: Query) -> dict[str, float]:
    """Return how telling each word of the question is, by how rare it is in the collections."""
    weights: dict[str, float] = {}
    pool = await app.pool(app.search_workload)
    async with pool.connection() as connection:
        for name in query.collections:
            facts = await app.collection(name)
            words = sorted(set(lexical.terms(query.question, facts.language)))
            chunks, counts = await statistics.frequencies(connection, facts.id, words)
            for word, weight in extraction.idf(counts, chunks).items():
                weights[word] = max(weight, weights.get(word, 0.0))
    return weights


async def _with_similarity(
    embedder: Embedder, question: str, hits: Sequence[Hit], candidates: Sequence[Candidate]
) -> list[Candidate]:
    texts = [
        hits[c.hit].body[c.start - hits[c.hit].start : c.end - hits[c.hit].start]
        for c in candidates
    ]
    asked = await embedder.embed_query(question)
    embedded = await embedder.embed_documents(texts)
    similarities = _cosines(asked, embedded.vectors)
    return [
        replace(candidate, similarity=float(similarity))
        for candidate, similarity in zip(candidates, similarities, strict=True)
    ]


def _cosines(
    one: npt.NDArray[np.float32], many: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the cosine of one vector, shape (d,), to each of many, shape (n, d)."""
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    cosines: npt.NDArray[np.float32] = (many @ one) / lengths
    return cosines

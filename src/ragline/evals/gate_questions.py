"""What a change is measured with: questions made of the collections themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ragline.core import asking, filters
from ragline.core.access import UNMEASURED
from ragline.core.asking import Group, Question
from ragline.core.gate import Asked
from ragline.core.results import CollectionFacts
from ragline.core.stats import MINIMUM
from ragline.db import collections, samples
from ragline.errors import ModelError, PreconditionFailed
from ragline.evals import likely_questions
from ragline.rag.app import App
from ragline.rag.query import HITS
from ragline.rag.search import target_of

FEWEST_VECTORS = 10
_MOST_COLLECTIONS = 3
_MOST_NAMED = 5
_MOST_CONDITIONS = 2
_SAMPLED = 500
_LEAST_SHARE, _LARGEST_SHARE = 0.02, 0.6
# So near to where searches change their way, chance decides which they take.
_NEAR = 1.7
_LONGEST_VALUE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Groups of questions, and what could not be asked, a sentence each."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


def said(drawn: Drawn) -> str:
    """Return what is measured, in a line."""
    asked = ", ".join(f"{group.name} ({len(group.questions)})" for group in drawn.groups)
    return "; ".join((f"measuring with questions to {asked}", *drawn.notes))


async def drawn(app: App, asked: Asked) -> Drawn:
    """Return the questions that a change is measured with, drawn anew.

    Raises NotFound for a collection that is not there, and PreconditionFailed where nothing can be
    measured.
    """
    chosen, notes = await _chosen(app, asked)
    groups: list[Group] = []
    for facts in chosen:
        found, said = await _of_collection(app, facts, asked)
        groups += found
        notes += said
    if not groups:
        why = "; ".join(notes) or "there is no collection"
        raise PreconditionFailed(
            f"nothing to measure this change with: {why}. Ingest something first, or say --no-measure"
        )
    return Drawn(groups=tuple(groups), notes=tuple(notes))


async def _chosen(app: App, asked: Asked) -> tuple[list[CollectionFacts], list[str]]:
    """Return the collections that were named, or else the largest that can be measured."""
    if asked.collections:
        return [await app.collection(name, fresh=True) for name in asked.collections], []
    async with app.connection(app.search_workload) as connection:
        every = await collections.every(connection)
    able = sorted((one for one in every if one.chunks), key=lambda one: (-one.chunks, one.name))
    with_vectors = [one for one in able if one.space and one.chunks >= FEWEST_VECTORS]
    chosen = (with_vectors or able)[:_MOST_COLLECTIONS]
    names = {one.name for one in chosen}
    left_out = [one.name for one in every if one.name not in names]
    notes = [f"not measured: {_listed(left_out)}"] if left_out and chosen else []
    return [await app.collection(one.name, fresh=True) for one in chosen], notes


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


async def _of_collection(
    app: App, facts: CollectionFacts, asked: Asked
) -> tuple[list[Group], list[str]]:
    k = asked.k or facts.policy.k or HITS
    if asked.sampled in ("likely", "given"):
        return await _of_texts(app, facts, asked, k)
    groups, notes = await _midway(app, facts, asked, k)
    if asked.filters and not groups:
        notes.append(f"the filters were not put to {facts.name!r}: it has too few vectors")
    if asked.sampled == "midway":
        return groups, notes
    known = await _known(app, facts, max(MINIMUM, asked.questions // 2))
    if known:
        name = f"words of {facts.name}"
        group = Group(
            name=f"{name} alone",
            collection=facts.name,
            method="lexical",
            k=k,
            questions=tuple(known),
        )
        has_words = facts.attached is None or facts.attached.words is not None
        if await _has_model(app, facts, notes):
            if has_words:
                groups.append(replace(group, name=name, method="hybrid"))
            groups.append(replace(group, name=f"{name} by vectors", method="vector"))
        if has_words:
            groups.append(group)
    elif facts.chunks:
        notes.append(
            f"{facts.name!r} has no sentence of {likely_questions.SHORTEST_WORDS} words to ask for"
        )
    return groups, notes


async def _has_model(app: App, facts: CollectionFacts, notes: list[str]) -> bool:
    """Return whether words can be embedded as the collection's vectors are, or note why not."""
    if facts.space is None:
        return False
    try:
        model = await app.embedder_for(facts.space)
    except ModelError as error:
        model = None
        notes.append(f"the model of {facts.name!r} does not open: {error}")
    if model is None:
        notes.append(f"{facts.name!r} is asked words without vectors: its model is not configured")
    return model is not None


async def _midway(
    app: App, facts: CollectionFacts, asked: Asked, k: int
) -> tuple[list[Group], list[str]]:
    if facts.space is None:
        return [], []
    async with app.connection(app.search_workload) as connection:
        target = target_of(facts)
        # Twice as many: whatever is asked later in addition comes of other pairs.
        ids, _ = await samples.vectors(
            connection, target, chunks=facts.chunks, size=2 * asked.questions
        )
        documents = await samples.metadata(connection, target, chunks=facts.chunks, size=_SAMPLED)
    if len(ids) < FEWEST_VECTORS:
        said = f"{facts.name!r} has {len(ids)} vectors: every search compares them all"
        return [], [said]
    made = asking.pairs(sorted(ids), asked.questions, asked.seed)
    group = Group(
        name=facts.name, collection=facts.name, method="vector", k=k, questions=_asked(made)
    )
    return [group, *_filtered(group, facts, asked, documents)], []


def _filtered(
    group: Group, facts: CollectionFacts, asked: Asked, documents: Sequence[tuple[Any, int]]
) -> list[Group]:
    conditions = dict.fromkeys([*asked.filters, *conditions_of(facts, documents)])
    return [replace(group, name=f"{group.name} where {text}", filter=text) for text in conditions]


async def _of_texts(
    app: App, facts: CollectionFacts, asked: Asked, k: int
) -> tuple[list[Group], list[str]]:
    """Return texts that are searched for by their vectors, with filters as well, and by both ways."""
    notes: list[str] = []
    is_given = asked.sampled == "given"
    if facts.space is None or not await _has_model(app, facts, notes):
        return [], notes
    texts = asked.texts or ()
    if not is_given:
        texts = tuple(await likely_questions.likely(app, facts, asked.questions))
    if not texts:
        return [], [*notes, f"there is no text to ask {facts.name!r} for"]
    group = Group(
        name=f"{'given questions to' if is_given else 'questions like those to'} {facts.name}",
        collection=facts.name,
        method="vector",
        k=k,
        questions=_worded(texts),
        is_given=is_given,
    )
    async with app.connection(app.search_workload) as connection:
        documents = await samples.metadata(
            connection, target_of(facts), chunks=facts.chunks, size=_SAMPLED
        )
    groups = [group, *_filtered(group, facts, asked, documents)]
    if facts.attached is None or facts.attached.words is not None:
        groups.append(replace(group, name=f"{group.name} by both", method="hybrid"))
    return groups, notes


def _worded(texts: Sequence[str], first: int = 0) -> tuple[Question, ...]:
    return tuple(
        Question(id=f"t{number:06}", chunks=(), text=text)
        for number, text in enumerate(texts, first)
    )


def _asked(pairs: Sequence[tuple[int, int]], first: int = 0) -> tuple[Question, ...]:
    return tuple(
        Question(id=f"q{number:06}", chunks=pair) for number, pair in enumerate(pairs, first)
    )


async def more(app: App, groups: Sequence[Group], count: int, seed: int) -> tuple[Group, ...]:
    """Return the groups with up to `count` questions more in each; those they had come first."""
    extended: dict[tuple[str, bool, bool], tuple[Question, ...]] = {}
    found = []
    for group in groups:
        key = (group.collection, group.is_known, group.is_worded)
        if key not in extended:
            extended[key] = await _more(app, group, count, seed)
        found.append(replace(group, questions=(*group.questions, *extended[key])))
    return tuple(found)


async def _more(app: App, group: Group, count: int, seed: int) -> tuple[Question, ...]:
    facts = await app.collection(group.collection)
    if group.is_given:
        return ()
    if group.is_worded and not group.is_known:
        had = [one.text for one in group.questions]
        texts = await likely_questions.likely(app, facts, count, had)
        return _worded(texts, len(had))
    if group.is_known:
        known = await _known(app, facts, count + len(group.questions))
        asked = {(one.chunks, one.text) for one in group.questions}
        new = [one for one in known if (one.chunks, one.text) not in asked][:count]
        first = len(group.questions)
        return tuple(replace(one, id=f"w{number:06}") for number, one in enumerate(new, first))
    async with app.connection(app.search_workload) as connection:
        ids, _ = await samples.vectors(
            connection, target_of(facts), chunks=facts.chunks, size=2 * count
        )
    but = [(one.chunks[0], one.chunks[1]) for one in group.questions]
    known_ids = set(ids)
    # Only pairs that could be drawn again take a place among them.
    but = [pair for pair in but if known_ids.issuperset(pair)]
    return _asked(asking.pairs(sorted(ids), count, seed, but), len(group.questions))


async def _known(app: App, facts: CollectionFacts, count: int) -> list[Question]:
    """Return questions in the words of chunks drawn at random: one sentence of each."""
    async with app.connection(app.search_workload) as connection:
        passages = await samples.passages(
            connection, target_of(facts), chunks=facts.chunks, size=count
        )
    found = ((chunk, text) for chunk, body in passages if (text := likely_questions.words_of(body)))
    return [
        Question(id=f"w{number:06}", chunks=(chunk,), text=text)
        for number, (chunk, text) in enumerate(found)
    ]


def conditions_of(
    facts: CollectionFacts, documents: Sequence[tuple[Mapping[str, Any], int]]
) -> list[str]:
    """Return filters that keep a fair share of a collection, the smallest first, one of each key."""
    total = sum(chunks for _, chunks in documents)
    counts: Counter[str] = Counter()
    for metadata, chunks in documents:
        for text in _equalities(metadata):
            counts[text] += chunks
    found: dict[str, str] = {}
    for text, kept in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        key = text.partition(" = ")[0]
        is_fair = _LEAST_SHARE <= kept / total <= _LARGEST_SHARE
        if key not in found and is_fair and not _is_at_the_edge(facts, kept / total):
            found[key] = text
    return list(found.values())[:_MOST_CONDITIONS]


def _equalities(metadata: Mapping[str, Any]) -> Iterator[str]:
    for key, value in metadata.items():
        is_number = isinstance(value, int) and not isinstance(value, bool)
        is_text = isinstance(value, str) and 0 < len(value) <= _LONGEST_VALUE
        if is_number or is_text:
            condition = {"key": key, "op": "eq", "value": value}
            yield filters.to_text(filters.from_json(json.loads(json.dumps(condition))))


def _is_at_the_edge(facts: CollectionFacts, share: float) -> bool:
    measured = (facts.space.calibration if facts.space else None) or UNMEASURED
    allowed = share * facts.chunks
    return measured.exact_chunks / _NEAR < allowed < measured.exact_chunks * _NEAR

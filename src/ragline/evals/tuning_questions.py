"""The questions by which an index is chosen and checked: people's own, or such as they may ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ragline.core import stats
from ragline.core.gate import Sampled
from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.db import trial_tables
from ragline.db.trial_tables import TrialTable
from ragline.errors import ModelError, UsageError
from ragline.evals import dataset as datasets
from ragline.evals import likely_questions
from ragline.evals.exact_truth import Floats
from ragline.evals.index_tuned import Wanted
from ragline.evals.recall import midway
from ragline.models.embed import Embedder
from ragline.rag.app import App

QUESTIONS = 400
FEWEST = 2 * stats.MINIMUM
"""Half of them choose and half of them check: fewer say nothing."""
_MOST = 2_000
_MIDWAY = "points midway between two stored vectors, which are harder than what people ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Questions before they are vectors: `texts`, or None where they are made of vectors.

    `said` is what they are, in words; `sampled` how a change is judged by the same sort.
    """

    sampled: Sampled
    said: str
    texts: tuple[str, ...] | None = None


async def texts(app: App, facts: CollectionFacts, space: SpaceFacts, wanted: Wanted) -> Texts:
    """Return what is asked. Raises UsageError for too few questions, or such as cannot be embedded."""
    given = wanted.questions
    said = "the questions of a file"
    if wanted.dataset is not None:
        _, found = await datasets.one(app, wanted.dataset)
        given = tuple(case.question for case in found.cases)
        said = f"the questions of dataset {wanted.dataset!r}"
    if given is not None:
        return Texts(sampled="given", said=said, texts=_distinct(given))
    if wanted.is_midway:
        return Texts(sampled="midway", said=_MIDWAY)
    try:
        model = await app.embedder_for(space)
    except ModelError as error:
        return Texts(sampled="midway", said=f"{_MIDWAY} (the model does not open: {error})")
    if model is None:
        why = f"the model {space.model_id} is not configured"
        return Texts(sampled="midway", said=f"{_MIDWAY} ({why})")
    sampled = await likely_questions.likely(app, facts, QUESTIONS)
    if len(sampled) < FEWEST:
        why = f"the texts give {len(sampled)} different questions only"
        return Texts(sampled="midway", said=f"{_MIDWAY} ({why})")
    return Texts(
        sampled="likely",
        said="headings, titles and sentences of the collection, as people may ask them",
        texts=tuple(sampled),
    )


def _distinct(given: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.strip() for text in given if text.strip()))
    if len(found) < FEWEST:
        raise UsageError(
            f"there are {len(found)} different questions; with fewer than {FEWEST} nothing can be said: "
            "leave them out, and texts of the collection that read like questions are asked"
        )
    return found[:_MOST]


async def model_of(app: App, facts: CollectionFacts, space: SpaceFacts) -> Embedder:
    """Return the model that questions are embedded with."""
    model = await app.embedder_for(space)
    if model is None:
        raise UsageError(
            f"collection {facts.name!r} was embedded with {space.model_id}, which is not configured: "
            "configure it, or leave the questions out, and points between the stored vectors are asked"
        )
    return model


async def vectors(
    app: App,
    facts: CollectionFacts,
    space: SpaceFacts,
    table: TrialTable,
    wanted: Wanted,
    asked: Texts,
) -> tuple[Floats, tuple[str, ...]]:
    """Return the questions' vectors, shape (questions, dimension), and their texts where they have any.

    What has no direction cannot be searched for, and is left out.
    """
    said: tuple[str, ...] = ()
    if asked.texts is None:
        drawn = await trial_tables.drawn(table, QUESTIONS, wanted.seed)
        pairs = zip([drawn[-1], *drawn[:-1]], drawn, strict=True)
        found = [midway(one, other, is_unit=space.normalised) for one, other in pairs]
    else:
        model, said = await model_of(app, facts, space), asked.texts
        found = [await model.embed_query(text) for text in said]
    every: Floats = np.stack(found).astype(np.float32)
    has_direction = np.linalg.norm(every, axis=1) > 0
    kept: Floats = every[has_direction]
    if len(kept) < FEWEST:
        raise UsageError(
            f"{len(kept)} questions have a direction, and fewer than {FEWEST} say nothing: the vectors "
            f"of {facts.name!r} are of no length, or cancel each other out"
        )
    return kept, tuple(text for text, is_kept in zip(said, has_direction, strict=False) if is_kept)

"""The questions by which an index is chosen and checked: people's own, or made of the vectors."""

from __future__ import annotations

import numpy as np

from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.db import trial_tables
from ragline.db.trial_tables import TrialTable
from ragline.errors import UsageError
from ragline.evals import dataset as datasets
from ragline.evals.exact_truth import Floats
from ragline.evals.index_tuned import Wanted
from ragline.evals.recall import midway
from ragline.rag.app import App

QUESTIONS = 400
_FEWEST = 20
_MOST = 2_000


def source(wanted: Wanted) -> str:
    """Return what the questions are, in words."""
    if wanted.dataset is not None:
        return f"the questions of dataset {wanted.dataset!r}"
    if wanted.questions is not None:
        return "the questions of a file"
    return "points midway between two stored vectors"


async def texts(app: App, wanted: Wanted) -> tuple[str, ...] | None:
    """Return the questions' texts, each once; None where they are made of the vectors."""
    said = wanted.questions
    if wanted.dataset is not None:
        _, found = await datasets.one(app, wanted.dataset)
        said = tuple(case.question for case in found.cases)
    if said is None:
        return None
    distinct = tuple(dict.fromkeys(text.strip() for text in said if text.strip()))
    if len(distinct) < _FEWEST:
        raise UsageError(
            f"there are {len(distinct)} different questions; with fewer than {_FEWEST} "
            "nothing can be said: leave them out, and questions are made of the stored vectors"
        )
    return distinct[:_MOST]


async def vectors(
    app: App,
    facts: CollectionFacts,
    space: SpaceFacts,
    table: TrialTable,
    wanted: Wanted,
    asked: tuple[str, ...] | None,
) -> Floats:
    """Return the questions' vectors, shape (questions, dimension)."""
    if asked is None:
        drawn = await trial_tables.drawn(table, QUESTIONS, wanted.seed)
        pairs = zip([drawn[-1], *drawn[:-1]], drawn, strict=True)
        found = [midway(one, other, is_unit=space.normalised) for one, other in pairs]
    else:
        model = await app.embedder_for(space)
        if model is None:
            raise UsageError(
                f"collection {facts.name!r} was embedded with {space.model_id}, which is not "
                "configured: configure it, or leave the questions out, and they are made of the stored "
                "vectors"
            )
        found = [await model.embed_query(text) for text in asked]
    every: Floats = np.stack(found).astype(np.float32)
    has_direction: Floats = every[np.linalg.norm(every, axis=1) > 0]
    return has_direction

"""Of which configured model the vectors of an attached table are: what is stored says so itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ragline.core.attaching import Choice
from ragline.db import attachable_tables
from ragline.db.attachments import Session, Space
from ragline.errors import ModelError, NotFound, UsageError
from ragline.models.embed import Embedder
from ragline.rag.app import App

UNKNOWN = "unknown"
SAMPLE = 20
# What another library, another batch size or half precision changes lies far above; another model far
# below, and so does another preparation of the texts.
SAME_MODEL = 0.98
# Vectors of two models have nothing in common. Those of one model have, also where more than the text
# column was embedded: LlamaIndex puts the metadata before each text, Haystack can.
LIKE_MODEL = 0.5
_UNIT = 1e-3


async def space_of(
    app: App, session: Session, chosen: Choice, dimension: int, wanted: str | None
) -> tuple[Space, float | None, list[str]]:
    """Return what the vectors are, the likeness by which that is known, and what to be warned of."""
    attached = chosen.attached
    found = await attachable_tables.sample(session, attached, SAMPLE)
    stored = np.asarray([vector for _, vector in found], dtype=np.float32)
    unknown = Space(
        model_id=UNKNOWN,
        weights_hash=f"{UNKNOWN}:{attached.schema}.{attached.table}",
        dimension=dimension,
        storage=chosen.storage,
        normalised=_is_normalised(stored),
        languages=(),
    )
    if wanted == UNKNOWN:
        return unknown, None, []
    models, notes = await _models(app, wanted, dimension)
    best: tuple[float | None, Embedder | None] = (None, None)
    for model in models:
        if not found:
            break
        likeness = await _likeness(model, [text for text, _ in found], stored)
        if best[0] is None or likeness > best[0]:
            best = likeness, model
    likeness_, model_ = best
    if model_ is None and wanted is not None:
        # An empty table is what its owner says it will be.
        model_ = models[0]
    elif likeness_ is not None and likeness_ < SAME_MODEL:
        if wanted is None:
            said = _unknown(models, likeness_, len(found), dimension, like=model_)
            return unknown, likeness_, [*notes, said]
        if likeness_ < LIKE_MODEL:
            raise UsageError(_another(wanted, likeness_, len(found)))
        notes.append(_of_more(wanted, likeness_, len(found)))
    if model_ is None:
        return unknown, likeness_, [*notes, _unknown(models, likeness_, len(found), dimension)]
    facts = model_.facts
    space = replace(
        unknown,
        model_id=facts.model_id,
        weights_hash=facts.weights_hash,
        normalised=facts.normalised,
        languages=facts.languages,
    )
    return space, likeness_, notes


async def _models(app: App, wanted: str | None, dimension: int) -> tuple[list[Embedder], list[str]]:
    """Return the configured models of a dimension, or the one that is wanted."""
    try:
        models = await app.embedders()
    except ModelError as error:
        if wanted is not None:
            raise
        return [], [f"no model could be compared with the vectors: {error}"]
    if wanted is None:
        return [model for model in models if model.facts.dimension == dimension], []
    named = [model for model in models if model.facts.model_id == wanted]
    if not named:
        there = ", ".join(model.facts.model_id for model in models) or "none"
        raise NotFound(
            f"no configured model is called {wanted!r}; there are: {there}. Configure it "
            "(RAGLINE_MODEL_DIR or RAGLINE_EMBED_MODEL), or say --model unknown"
        )
    fitting = [model for model in named if model.facts.dimension == dimension]
    if not fitting:
        raise UsageError(
            f"model {wanted} makes vectors of {named[0].facts.dimension} dimensions, and the table's "
            f"have {dimension}: say the model that they are of, or --model unknown"
        )
    return fitting, []


async def _likeness(model: Embedder, texts: list[str], stored: npt.NDArray[np.float32]) -> float:
    """Return the median cosine between stored vectors and a model's of the same texts."""
    made = (await model.embed_documents(texts)).vectors
    lengths = np.linalg.norm(made, axis=1) * np.linalg.norm(stored, axis=1)
    cosines = np.einsum("ij,ij->i", made, stored) / np.where(lengths == 0, 1, lengths)
    return round(float(np.median(cosines)), 4)


def _is_normalised(stored: npt.NDArray[np.float32]) -> bool:
    if not len(stored):
        return False
    return bool(np.all(np.abs(np.linalg.norm(stored, axis=1) - 1) < _UNIT))


def _another(wanted: str, likeness: float, rows: int) -> str:
    return (
        f"the table's vectors are not of {wanted}: of {rows} rows compared, the median cosine is "
        f"{likeness:.2f} and should be {SAME_MODEL} or more. Say the model that they are of, or --model "
        "unknown to search by given vectors only"
    )


def _of_more(wanted: str, likeness: float, rows: int) -> str:
    return (
        f"on your word the vectors are of {wanted}: of {rows} rows compared, the median cosine is "
        f"{likeness:.2f}, so something else was embedded than the text column alone, such as metadata "
        "before each text. An evaluation says how well questions find them"
    )


def _unknown(
    models: Sequence[Embedder],
    likeness: float | None,
    rows: int,
    dimension: int,
    *,
    like: Embedder | None = None,
) -> str:
    ends = (
        "questions cannot be embedded, and searches need a vector; configure the model "
        "(RAGLINE_MODEL_DIR or RAGLINE_EMBED_MODEL), then attach again"
    )
    if not models:
        return f"no configured model makes vectors of {dimension} dimensions: {ends}"
    if likeness is None:
        return (
            f"there are no rows to compare a model with: {ends}, or say --model "
            f"{models[0].facts.model_id}"
        )
    if like is not None and likeness >= LIKE_MODEL:
        return (
            f"the vectors are like those of {like.facts.model_id}, but not the same (median cosine "
            f"{likeness:.2f} in {rows} rows): where it embedded more than the text column, such as "
            f"metadata before each text, say --model {like.facts.model_id}. Otherwise {ends}"
        )
    return (
        f"the vectors are of none of the configured models (median cosine {likeness:.2f} in {rows} "
        f"rows): {ends}"
    )

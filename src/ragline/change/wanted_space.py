"""What embedding space is wanted: which model, what it takes, what to warn of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from ragline.change.kind import Site
from ragline.core import hnsw, languages
from ragline.core.change import Value
from ragline.core.hnsw import Graph, Storage
from ragline.db import spaces
from ragline.db.documents import ChunkText
from ragline.db.spaces import Collection, NewSpace, Space
from ragline.errors import PreconditionFailed, UsageError
from ragline.models.accounting import Metered
from ragline.models.embed import Embedder
from ragline.ops import machine
from ragline.rag import backfill
from ragline.rag.compose import passage

# Below this, an exact scan is as fast as the index.
INDEX_FROM_CHUNKS = 500
_WHOLE = tuple(field.name for field in fields(NewSpace))
_ASKED = ("model", "storage", "metric")
_STORAGES = ("vector", "halfvec")
_METRICS = ("cosine", "l2", "inner_product")
_RATE_CHUNKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A space that is wanted, and what it takes. `seconds` of embedding; None is unknown."""

    facts: NewSpace
    warnings: tuple[str, ...] = ()
    disk_bytes: int = 0
    seconds: float | None = 0.0


async def completed(site: Site, known: Collection, active: Space, want: Value) -> Wanted:
    """Return the whole space that is wanted, what it takes, and what to warn of.

    Either a model is named, or the space is described just as one was: an undo asks for it so.
    """
    said = _said(want)
    if set(said) == set(_WHOLE):
        facts, model = facts_of(said), None
    else:
        model = await _model_named(site, said, active.facts)
        facts = NewSpace(
            model_id=model.facts.model_id,
            weights_hash=model.facts.weights_hash,
            dimension=model.facts.dimension,
            metric=_choice(said, "metric", _METRICS, active.facts.metric),
            storage=_choice(said, "storage", _STORAGES, active.facts.storage),
            normalised=model.facts.normalised,
            languages=model.facts.languages,
        )
    if facts == active.facts:
        return Wanted(facts=facts)
    return await _weighed(site, known, facts, model)


def facts_of(value: Value) -> NewSpace:
    """Return a space of what `value_of` wrote."""
    if not isinstance(value, Mapping):
        raise TypeError(f"a space is a mapping, not {value!r}")
    return NewSpace(**{**value, "languages": tuple(value["languages"])})


def value_of(facts: NewSpace) -> dict[str, Any]:
    """Return a space as plain values."""
    return {**asdict(facts), "languages": list(facts.languages)}


def _said(want: Value) -> Mapping[str, Any]:
    if not isinstance(want, Mapping) or not want:
        raise UsageError(
            f'a space is {want!r}; write its model, such as {{"model": "all-MiniLM-L6-v2"}}, and if '
            "need be storage and metric"
        )
    if set(want) == set(_WHOLE) and isinstance(want["languages"], list | tuple):
        return want
    for name in want:
        if name not in _ASKED:
            raise UsageError(f"a space has no {name!r} to choose; it has {', '.join(_ASKED)}")
    return want


def _choice(said: Mapping[str, Any], name: str, known: tuple[str, ...], default: str) -> str:
    value = said.get(name, default)
    if value not in known:
        raise UsageError(f"{name} is {value!r}; it is one of {', '.join(known)}")
    return str(value)


async def _model_named(site: Site, said: Mapping[str, Any], active: NewSpace) -> Embedder:
    """Return the configured model of a name or folder, or without one that of the space in use."""
    name = said.get("model")
    models = await site.app.embedders()
    if name is None:
        fitting = [one for one in models if one.facts.weights_hash == active.weights_hash]
        name = active.model_id
    else:
        fitting = _of_folder(site, models, str(name)) or [
            one for one in models if one.facts.model_id == name
        ]
    if len({one.facts.weights_hash for one in fitting}) == 1:
        return fitting[0]
    folders = ", ".join(map(str, site.app.config.model_dirs))
    if fitting:
        raise UsageError(
            f"{len(fitting)} configured models are called {name!r}: name one by its folder ({folders})"
        )
    listed = ", ".join(one.facts.model_id for one in models) or "none"
    raise UsageError(
        f"no configured model is {name!r}; there are: {listed}. Add its folder: RAGLINE_MODEL_DIR may "
        "name several, first:second; the first stays the model of new collections"
    )


def _of_folder(site: Site, models: list[Embedder], name: str) -> list[Embedder]:
    config = site.app.config
    try:
        folder = Path(name).expanduser().absolute()
    except RuntimeError:  # ~ of a user that is not there
        return []
    if folder not in config.model_dirs:
        return []
    # A remote model comes before all folders.
    place = config.model_dirs.index(folder) + (config.embedding is not None)
    return models[place : place + 1]


async def _weighed(
    site: Site, known: Collection, facts: NewSpace, model: Embedder | None
) -> Wanted:
    there = known.like(facts)
    async with site.admin() as connection:
        tokens, chunks = await spaces.tokens_and_chunks(connection, known.id)
        missing = chunks if there is None else await spaces.missing(connection, there)
        sample = await spaces.some_chunks(connection, known.id, _RATE_CHUNKS + 1)
    warnings = _remarks(known, facts)
    if there is not None:
        warnings.append(
            f"the space is there already, and {missing:,} of {chunks:,} chunks are missing"
        )
    if not missing:
        return Wanted(facts=facts, warnings=tuple(warnings))
    model = model or await backfill.model_of(site.app, facts)
    if model is None:
        raise backfill.no_model(facts, missing)
    size = _bytes(facts, missing)
    _check_disk(site, size)
    rate = None if isinstance(model, Metered) else await _rate(model, sample)
    sent = round(tokens * missing / chunks)
    warnings += [
        _time_and_cost(facts, missing, sent, rate),
        f"it takes about {size / 1e6:,.1f} MB of disk, beside what is there",
    ]
    return Wanted(
        facts=facts,
        warnings=tuple(warnings),
        disk_bytes=size,
        seconds=None if rate is None else missing / rate,
    )


def _remarks(known: Collection, facts: NewSpace) -> list[str]:
    found = []
    if language := languages.unknown(known.language, facts.languages):
        found.append(
            f"{facts.model_id} knows {', '.join(facts.languages)}, and collection {known.name!r} is in "
            f"{language!r}: its searches may find less"
        )
    if facts.dimension > hnsw.LARGEST["halfvec"]:
        found.append(
            f"no index holds {facts.dimension:,} dimensions: every search compares all vectors"
        )
    return found


async def _rate(model: Embedder, sample: list[ChunkText]) -> float:
    """Return how many chunks a second a model embeds on this machine, as it is now."""
    texts = [passage(title, headings, body) for _, title, headings, body in sample]
    await model.embed_documents(texts[:1])  # the first time takes longer
    timed = texts[1:] or texts
    started = time.perf_counter()
    await model.embed_documents(timed)
    return len(timed) / max(1e-9, time.perf_counter() - started)


def _time_and_cost(facts: NewSpace, missing: int, tokens: int, rate: float | None) -> str:
    if rate is None:
        return (
            f"{missing:,} chunks are sent to {facts.model_id}, by our own estimate {tokens:,} tokens; "
            "how many it counts, what it costs and how long it takes is not known"
        )
    return (
        f"embedding {missing:,} chunks takes about {missing / rate:,.0f} s: {facts.model_id} did "
        f"{rate:,.0f} a second just now"
    )


def _bytes(facts: NewSpace, vectors: int) -> int:
    """Return about how much disk the vectors and their index take."""
    storage = cast("Storage", facts.storage)
    held = hnsw.first_storage(storage, facts.dimension)
    size = spaces.table_bytes(facts, vectors)
    if held is not None and vectors >= INDEX_FROM_CHUNKS:
        graph = Graph(slot=1, storage=held, m=16, ef_construction=64)
        size += hnsw.index_bytes(graph, facts.dimension, vectors)
    return size


def _check_disk(site: Site, size: int) -> None:
    folder = site.restart.data_directory if site.restart else None
    if folder is None:
        return  # the server's disk is not in sight
    free = machine.free_disk_bytes(folder)
    if free is not None and free < hnsw.disk_needed(size):
        raise PreconditionFailed(
            f"the space takes about {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free at "
            f"{folder}: free some, or store it as halfvec"
        )

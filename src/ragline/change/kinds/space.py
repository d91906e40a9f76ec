"""A collection's embedding space: another model, storage or metric, filled beside the one in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ragline.change.kind import Kind, Site
from ragline.change.wanted_space import (
    INDEX_FROM_CHUNKS,
    Wanted,
    completed,
    facts_of,
    value_of,
)
from ragline.core import hnsw
from ragline.core.change import Action, Arm, Phase, Step, Trial, Value
from ragline.db import collections, locks, spaces
from ragline.db.pool import Connection
from ragline.db.spaces import Collection, NewSpace
from ragline.errors import ModelError, NotFound, PreconditionFailed, RaglineError, UsageError
from ragline.rag import backfill, calibration, catalog
from ragline.rag.backfill import Progress
from ragline.rag.query import query
from ragline.rag.search import search_collections

_CONFIRMED_WITH = 5
_NEAR = 1e-3
_SAY_EVERY_S = 5.0


class Space(Kind):
    """The kind `space`: a new space is made, filled and indexed first, and then takes the place."""

    name = "space"

    def __init__(self) -> None:
        # What `wanted` found that a space takes, for the plan to show.
        self._weighed: dict[str, Wanted] = {}

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return the facts of the space that is wanted: of a configured model, or just as one was."""
        known = await _collection(site, target)
        catalog.refuse_attached(
            await site.app.collection(target, fresh=True),
            "its own application makes its vectors: there is no space to be filled beside them. Its "
            "index and its search policy can be changed (kinds index and search)",
        )
        active = known.active
        if active is None:
            raise UsageError(
                f"collection {target!r} has no vectors yet: `ragline ingest` with a model makes its "
                "first space, and needs no change for it"
            )
        found = await completed(site, known, active, want)
        self._weighed[target] = found
        return value_of(found.facts), found.warnings

    async def read(self, site: Site, target: str) -> Value:
        """Return the facts of the space that searches use; None without vectors."""
        active = (await _collection(site, target)).active
        return None if active is None else value_of(active.facts)

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return the steps to another space; what is there already is taken as it is."""
        if now == want or want is None:
            return []
        facts = facts_of(want)
        found = self._weighed.get(target)
        takes = found if found and found.facts == facts else None
        kept = f"{facts.model_id}, {facts.dimension} dimensions, {facts.metric}, {facts.storage}"

        def step(phase: Phase, action: Action, text: str, **more: Any) -> Step:
            return Step(
                kind=self.name,
                target=target,
                phase=phase,
                action=action,
                text=text,
                arguments={"space": want},
                **more,
            )

        steps = [
            step(
                "prepare",
                "sql",
                f"make an embedding space beside that of collection {target}: {kept}",
                lock="share row exclusive on ragline.chunk",
                blocks="who writes documents, for a moment; never searches",
            ),
            step(
                "prepare",
                "fill",
                f"embed with {facts.model_id} what the space lacks",
                disk_bytes=takes.disk_bytes if takes else 0,
                expected_s=takes.seconds if takes else None,
            ),
            step(
                "prepare",
                "build",
                f"build the vector index of the space of {facts.model_id}",
                lock="share update exclusive on the new space's own table",
            ),
            step(
                "adopt",
                "switch",
                f"search collection {target} by the vectors of {facts.model_id}",
                lock="one row of ragline.collection",
                blocks="who writes documents of this collection, for a moment; never searches",
            ),
        ]
        # Beyond this no index holds it.
        is_indexed = facts.dimension <= hnsw.LARGEST["halfvec"]
        return [one for one in steps if is_indexed or one.action != "build"]

    async def run(self, site: Site, step: Step) -> None:
        """Do one step; what was done before is found and left."""
        facts = facts_of(step.arguments["space"])
        if step.action == "sql":
            await _create(site, step.target, facts)
        elif step.action == "fill":
            await _fill(site, step.target, facts)
        elif step.action == "build":
            await _build(site, step.target, facts)
        else:
            await _switch(site, step.target, facts)

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Read the space in use back: its facts, its vectors, its index, and what searches find."""
        known = await _collection(site, target)
        active = known.active
        if want is None or active is None or active.facts != facts_of(want):
            found = None if active is None else value_of(active.facts)
            raise PreconditionFailed(
                f"collection {target!r} should be searched by {want}, and is by {found}: somebody "
                "else changed it; plan again"
            )
        await _confirm_complete(site, known, active)
        await _confirm_search(site, target, active)

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        """Return both spaces: each question is embedded by each one's own model."""
        if now is None or want is None:
            return None
        found = [await _space_like(site, target, facts_of(value)) for value in (now, want)]
        return (
            {target: Trial(space_id=found[0].id)},
            {target: Trial(space_id=found[1].id)},
        )

    async def tidy(self, site: Site, target: str, keep: Value) -> None:
        """Drop every space of the collection but the one in use and the one to keep."""
        kept = None if keep is None else facts_of(keep)
        async with site.admin() as connection:
            known = await spaces.collection(connection, target)
            for space in known.spaces if known else ():
                if space.is_active or space.facts == kept:
                    continue
                await spaces.drop(connection, space, lock_timeout_ms=site.lock_timeout_ms)

    def measured(self, target: str) -> Mapping[str, Any]:
        """The collection."""
        return {"collections": (target,)}


# The steps.


async def _create(site: Site, target: str, facts: NewSpace) -> None:
    async with site.admin() as connection:
        made = await spaces.create_beside(
            connection, target, facts, lock_timeout_ms=site.lock_timeout_ms
        )
    if made is None:
        raise _removed(target)
    site.reached("space:created")


async def _fill(site: Site, target: str, facts: NewSpace) -> None:
    space = await _space_like(site, target, facts)
    filled = await backfill.fill(site.app, space, on_progress=_said(site, target))
    async with site.admin() as connection:
        await spaces.settle(connection, space)
    if filled:
        site.say(f"collection {target}: {filled:,} chunks embedded with {facts.model_id}")
    site.reached("space:filled")


def _said(site: Site, target: str) -> backfill.OnProgress:
    """Return what says how far a fill is, every few seconds."""
    last_s: float | None = None

    def said(progress: Progress) -> None:
        nonlocal last_s
        if last_s is None:
            last_s = 0.0
            site.reached("space:filling")
        if progress.seconds - last_s < _SAY_EVERY_S:
            return
        last_s = progress.seconds
        left_s = progress.seconds / progress.done * (progress.total - progress.done)
        site.say(
            f"collection {target}: {progress.done:,} of {progress.total:,} chunks embedded, about "
            f"{left_s:,.0f} s to go"
        )

    return said


async def _build(site: Site, target: str, facts: NewSpace) -> None:
    known = await _collection(site, target)
    space = _like(known, facts)
    async with site.admin() as connection:
        if await _index_is_due(connection, known, space):
            async with locks.held(connection, "index", space.id):
                await collections.build_index(connection, space.id)
    site.reached("space:indexed")
    # Before it is measured: with filters, a space without would be searched by guesses.
    if not space.is_active:
        await _calibrate(site, target, space)


async def _calibrate(site: Site, target: str, space: spaces.Space) -> None:
    with _on_trial(site, target, space):
        try:
            facts = await site.app.collection(target, fresh=True)
            await calibration.calibrate_if_due(site.app, facts)
        except RaglineError as error:
            site.say(f"searches with filters were not calibrated: {error}")


@contextmanager
def _on_trial(site: Site, target: str, space: spaces.Space) -> Iterator[None]:
    before = site.app.trials.get(target)
    site.app.trials[target] = Trial(space_id=space.id)
    try:
        yield
    finally:
        del site.app.trials[target]
        if before is not None:
            site.app.trials[target] = before


async def _index_is_due(connection: Connection, known: Collection, space: spaces.Space) -> bool:
    """Whether searches would be slower without an index, or had one until now."""
    if space.facts.dimension > hnsw.LARGEST["halfvec"]:
        return False
    _, chunks = await spaces.tokens_and_chunks(connection, known.id)
    if chunks >= INDEX_FROM_CHUNKS or known.active is None:
        return chunks >= INDEX_FROM_CHUNKS
    return await collections.index_state(connection, known.active.id) is not None


async def _switch(site: Site, target: str, facts: NewSpace) -> None:
    space = await _space_like(site, target, facts)
    if not space.is_active:
        await backfill.put_in_use(site.app, space, lock_timeout_ms=site.lock_timeout_ms)
    site.app.known.pop(target, None)


async def _confirm_complete(site: Site, known: Collection, space: spaces.Space) -> None:
    """Refuse a space that lacks vectors or its index, unless it did before any change was made.

    A change that is put back has not touched the collection's first space, and cannot mend it.
    """
    is_first = space.id == known.spaces[0].id
    try:
        # Written since by a process that has no model, or knows another one only.
        await backfill.fill(site.app, space)
    except ModelError as error:
        if not is_first:
            raise
        site.say(f"collection {known.name}: {error}")
        return
    async with site.admin() as connection:
        missing = await spaces.missing(connection, space)
        is_due = await _index_is_due(connection, known, space)
        state = await collections.index_state(connection, space.id)
    if missing:
        raise PreconditionFailed(
            f"{missing:,} chunks of collection {known.name!r} have no vector of "
            f"{space.facts.model_id}: run `ragline ingest`, then plan again"
        )
    if is_due and not state and not is_first:
        raise PreconditionFailed(
            f"space {space.id} of collection {known.name!r} has no valid vector index, and should: "
            "plan again"
        )


async def _confirm_search(site: Site, target: str, space: spaces.Space) -> None:
    """Search for vectors that are stored: each finds its own chunk, or one just as near."""
    async with site.admin() as connection:
        sample = await spaces.sample(connection, space, _CONFIRMED_WITH)
    site.app.known.pop(target, None)
    found = 0
    for chunk_id, vector in sample:
        result = await search_collections(
            site.app, query("", target, k=10, method="vector", vector=vector)
        )
        found += any(
            hit.chunk_id == chunk_id
            or space.facts.metric == "inner_product"
            or (hit.vector_distance is not None and hit.vector_distance < _NEAR)
            for hit in result.hits
        )
    if 2 * found < len(sample):
        raise PreconditionFailed(
            f"of {len(sample)} vectors of collection {target!r} that were searched for, {found} were "
            f"found: its space {space.id} does not answer; plan again"
        )


# What is there.


async def _collection(site: Site, target: str) -> Collection:
    async with site.admin() as connection:
        known = await spaces.collection(connection, target)
    if known is None:
        raise _removed(target)
    return known


async def _space_like(site: Site, target: str, facts: NewSpace) -> spaces.Space:
    return _like(await _collection(site, target), facts)


def _like(known: Collection, facts: NewSpace) -> spaces.Space:
    space = known.like(facts)
    if space is None:
        raise NotFound(
            f"collection {known.name!r} has no space of {facts.model_id} any more: plan again"
        )
    return space


def _removed(target: str) -> NotFound:
    return NotFound(f"collection {target!r} does not exist, or was removed meanwhile")

"""What every use case is handed: configuration, pools and models, opened when first needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from ragline.config import Config
from ragline.core import search_policy
from ragline.core.budget import Workload
from ragline.core.change import Trial
from ragline.core.dsn import Dsn
from ragline.core.results import CollectionFacts, SpaceFacts
from ragline.db import collections
from ragline.db.pool import Connection, Pool
from ragline.errors import ModelError, NotFound, RemoteModelError, UsageError
from ragline.models.accounting import Metered, Spending
from ragline.models.embed import Embedder
from ragline.models.judge import OpenJudge
from ragline.models.llm import ChatModel
from ragline.rag.filtering import Sample
from ragline.rag.parsing import ParserPool


@dataclass(slots=True, kw_only=True)
class App:
    """An open ragline. Made by `wiring.open_app`, which also closes it.

    `open_embedder` opens the model of new collections; `other_models` open those that are configured
    besides it and serve collections whose space needs them. `trials` names collections that this App
    alone searches otherwise than their callers do: another slot, space or policy. `dsn` is where the
    database is, with the user who may do what the workloads' roles may not.
    """

    config: Config
    open_pool: Callable[[Workload], Awaitable[Pool]] = field(repr=False)
    open_embedder: Callable[[], Awaitable[Embedder | None]] = field(repr=False)
    open_chat_model: Callable[[], Awaitable[ChatModel | None]] = field(repr=False)
    open_judge: OpenJudge = field(repr=False)
    dsn: Dsn | None = None
    search_workload: Workload = "serve"
    ingest_workload: Workload = "admin"
    other_models: Sequence[Callable[[], Awaitable[Embedder | None]]] = field(default=(), repr=False)
    trials: dict[str, Trial] = field(default_factory=dict)
    pools: dict[Workload, Pool] = field(default_factory=dict)
    known: dict[str, CollectionFacts] = field(default_factory=dict)
    samples: dict[int, Sample] = field(default_factory=dict, repr=False)
    counters: Counter[str] = field(default_factory=Counter)
    parsers: ParserPool = field(default_factory=ParserPool, repr=False)
    _embedder: Embedder | None = None
    _looked_for_embedder: bool = False
    _others: dict[int, Embedder] = field(default_factory=dict, repr=False)
    _chat_model: ChatModel | None = None
    _looked_for_chat_model: bool = False
    # What an embedding model took that could not be opened in the end.
    _spent_in_vain: Spending | None = None
    _spent_meanwhile: dict[str, Spending] = field(default_factory=dict, repr=False)
    # The trials that `known` was read with.
    _tried: dict[str, Trial] = field(default_factory=dict, repr=False)
    _is_closed: bool = False
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    # A remote model may take its time to answer; nobody else should wait for it.
    _opening_embedder: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def pool(self, workload: Workload) -> Pool:
        """Return the pool of a workload, opening it at its first use."""
        self._check_open()
        if pool := self.pools.get(workload):
            return pool
        async with self._opening:
            if workload not in self.pools:
                self.pools[workload] = await self.open_pool(workload)
            return self.pools[workload]

    @asynccontextmanager
    async def connection(self, workload: Workload) -> AsyncIterator[Connection]:
        """Lend a connection of a workload's pool."""
        pool = await self.pool(workload)
        async with pool.connection() as connection:
            yield connection

    async def embedder(self) -> Embedder | None:
        """Return the configured model, loading it at its first use; None without weights."""
        self._check_open()
        if not self._looked_for_embedder:
            async with self._opening_embedder:
                if not self._looked_for_embedder:
                    self._embedder = await self._opened_embedder()
                    self._looked_for_embedder = True
        return self._embedder

    async def embedders(self) -> list[Embedder]:
        """Return all configured models, the one of new collections first."""
        others = [await self._other(place) for place in range(len(self.other_models))]
        return [model for model in (await self.embedder(), *others) if model is not None]

    async def embedder_for(self, space: SpaceFacts) -> Embedder | None:
        """Return the configured model that a space's vectors are of; None where none is.

        What cannot be opened is no obstacle where another model fits; where none does, it is raised.
        """
        for model in self._open_models():
            if model.facts.weights_hash == space.weights_hash:
                return model
        failed: ModelError | None = None
        for place in range(-1, len(self.other_models)):
            try:
                found = await (self.embedder() if place < 0 else self._other(place))
            except ModelError as error:
                failed = failed or error
                continue
            if found is not None and found.facts.weights_hash == space.weights_hash:
                return found
        if failed is not None:
            raise failed
        return None

    async def chat_model(self) -> ChatModel | None:
        """Return the configured chat model, opening it at its first use; None where none is."""
        self._check_open()
        if not self._looked_for_chat_model:
            async with self._opening:
                if not self._looked_for_chat_model:
                    self._chat_model = await self.open_chat_model()
                    self._looked_for_chat_model = True
        return self._chat_model

    @property
    def spent(self) -> tuple[Spending, ...]:
        """What each model has taken, of those that cost something, opened or not."""
        models = (self._embedder, self._chat_model, *self._others.values())
        spent = [self._spent_in_vain, *map(_spent, models)]
        if spent[0] and spent[1]:
            spent[:2] = [spent[0] + spent[1]]
        return tuple(one for one in (*spent, *self._spent_meanwhile.values()) if one)

    def count_spent(self, spent: Spending) -> None:
        """Count what a model took that was open for a while only, as a judge is for a run."""
        before = self._spent_meanwhile.get(spent.model_id)
        self._spent_meanwhile[spent.model_id] = before + spent if before else spent

    async def collection(self, name: str, *, fresh: bool = False) -> CollectionFacts:
        """Return a collection; searches live with facts of a moment ago and check them."""
        known = None if fresh else self.known.get(name)
        if known is not None and self._tried.get(name) == self.trials.get(name):
            return known
        async with self.connection(self.search_workload) as connection:
            facts = await self.look(connection, name)
            if facts is None:
                names = [c.name for c in await collections.every(connection)]
                raise NotFound(_no_collection(name, names))
        return facts

    async def look(self, connection: Connection, name: str) -> CollectionFacts | None:
        """Return a collection as it is now, with its trial; None where there is none of that name."""
        facts = await collections.one(connection, name)
        trial = self.trials.get(name)
        self._tried.pop(name, None)
        if facts is None:
            self.known.pop(name, None)
            return None
        if trial is not None:
            facts = await _on_trial(connection, facts, trial)
            self._tried[name] = trial
        self.known[name] = facts
        return facts

    async def recycle(self, workload: Workload) -> None:
        """Close a workload's pool, once what it lent came back: the next one asks the server anew.

        What a role is limited to is looked up when its pool is opened; new connections are not enough.
        """
        if pool := self.pools.pop(workload, None):
            await pool.close()

    async def forget_connections(self) -> None:
        """Lend new connections from now on, as after a restart of the server."""
        for pool in self.pools.values():
            await pool.expire()

    async def close(self) -> None:
        """Close the parsers, the pools, once what they lent came back, and the models."""
        self._is_closed = True
        await self.parsers.close()
        for pool in self.pools.values():
            await pool.close()
        for model in self._open_models():
            await model.close()
        if self._chat_model is not None:
            await self._chat_model.close()

    def _open_models(self) -> list[Embedder]:
        first = () if self._embedder is None else (self._embedder,)
        return [*first, *self._others.values()]

    async def _other(self, place: int) -> Embedder | None:
        self._check_open()
        if place not in self._others:
            async with self._opening:
                if place not in self._others:
                    model = await self.other_models[place]()
                    if model is None:
                        return None
                    self._others[place] = model
        return self._others[place]

    async def _opened_embedder(self) -> Embedder | None:
        try:
            return await self.open_embedder()
        except RemoteModelError as error:
            if isinstance(error.spent, Spending):
                before = self._spent_in_vain
                self._spent_in_vain = before + error.spent if before else error.spent
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("this ragline is closed; open another with `ragline.connect()`")


def _spent(model: object) -> Spending | None:
    return model.spent if isinstance(model, Metered) else None


async def _on_trial(
    connection: Connection, facts: CollectionFacts, trial: Trial
) -> CollectionFacts:
    """Return a collection as the trial searches it."""
    if trial.policy is not None:
        facts = replace(facts, policy=search_policy.from_json(trial.policy))
    space_id = trial.space_id or (facts.space.id if facts.space else None)
    if space_id is None or (trial.space_id is None and trial.slot is None):
        return facts
    space = await collections.space(connection, space_id, slot=trial.slot)
    if space is None:
        slot = "" if trial.slot is None else f" with an index in slot {trial.slot}"
        raise NotFound(
            f"collection {facts.name!r} has no space {space_id}{slot} to be tried: it was removed"
        )
    return replace(facts, space=space)


def _no_collection(name: str, names: list[str]) -> str:
    if not names:
        return f"collection {name!r} does not exist, and no other: make one with `ragline ingest`"
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"collection {name!r} does not exist; there are: {listed}"

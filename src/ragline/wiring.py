"""Everything put together by hand: configuration, database, pools and models become an App."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from ragline import config as configuration
from ragline.config import Config
from ragline.core.budget import ROLES, Workload, pool_size
from ragline.core.dsn import Dsn
from ragline.core.runs import JudgeKind
from ragline.db import ledger, schema, trial_tables
from ragline.db import pool as pools
from ragline.db.migrate import role_password
from ragline.errors import EmbeddedServerError, SchemaMismatch
from ragline.models import embed, llm
from ragline.models import judge as judges
from ragline.models.embed import Embedder
from ragline.models.judge import Judge, Memory
from ragline.models.llm import ChatModel
from ragline.ops import embedded
from ragline.rag.app import App

if TYPE_CHECKING:
    from ragline.change.kind import Site
    from ragline.core.change import Entry, Trial
    from ragline.core.index_sample import Sample
    from ragline.watch.inventory import Asked, Inventory

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_app(
    config: Config, *, search_workload: Workload = "serve", ingest_workload: Workload = "admin"
) -> AsyncIterator[App]:
    """Open ragline on the user's database, or on the embedded one, which is started if need be.

    Raises DatabaseUnreachable, SchemaMismatch where the schema is not this code's, and what the
    embedded server says. An embedded database without a schema gets one; a user's never unasked.
    """
    configuration.pin_threads(config.threads)
    dsn = await asyncio.to_thread(database, config)
    await _check_schema(config, dsn, search_workload)

    async def revive() -> bool:
        await asyncio.to_thread(database, config)
        return True

    async def open_pool(workload: Workload) -> pools.Pool:
        return await pools.open_pool(
            dsn,
            workload,
            password=role_password(dsn, ROLES[workload], config.role_secret),
            size=lambda limit: pool_size(limit, os.cpu_count() or 1),
            timeout_s=config.pool_timeout_s,
            # Building an index takes as long as it takes; whoever waits for an answer does not.
            query_timeout_s=None if workload == "admin" else config.query_timeout_s,
            revive=revive if config.dsn is None else None,
        )

    async def open_embedder() -> Embedder | None:
        return await embed.open_configured_embedder(config)

    async def open_chat_model() -> ChatModel | None:
        if config.chat is None:
            return None
        # Nobody waits for the answers of an evaluation: what our own limits hold up is no failure.
        is_patient = search_workload == "eval"
        return await asyncio.to_thread(
            llm.open_model, config.chat, config.prices, is_patient=is_patient
        )

    async def open_judge(kind: JudgeKind, memory: Memory | None, language: str) -> Judge | None:
        # Reads the price file, and imports the provider's client.
        return await asyncio.to_thread(judges.open_judge, config, kind, memory, language=language)

    app = App(
        config=config,
        open_pool=open_pool,
        open_embedder=open_embedder,
        other_models=embed.other_models(config),
        open_chat_model=open_chat_model,
        open_judge=open_judge,
        dsn=dsn,
        search_workload=search_workload,
        ingest_workload=ingest_workload,
    )
    try:
        yield app
    finally:
        await app.close()


@asynccontextmanager
async def open_site(
    config: Config,
    *,
    say: Callable[[str], None] | None = None,
    advance: Callable[[str, int, int], None] | None = None,
) -> AsyncIterator[Site]:
    """Open what changes are made with: an open ragline, the server's restart, the kinds, the gate."""
    # Searches and ingests have no use for what measures and changes.
    from ragline.change import failpoint, kind
    from ragline.change.kinds.index import Index
    from ragline.change.kinds.migration import Migration
    from ragline.change.kinds.role import Role
    from ragline.change.kinds.search import Search
    from ragline.change.kinds.setting import Setting
    from ragline.change.kinds.space import Space
    from ragline.evals.gate import Gate
    from ragline.ops import restart

    dsn = await asyncio.to_thread(database, config)
    reached = failpoint.stopping_at(config.fail_point)
    said = say or (lambda _line: None)

    @asynccontextmanager
    async def open_arm(workload: Workload, trials: Mapping[str, Trial]) -> AsyncIterator[App]:
        async with open_app(config, search_workload=workload) as app:
            app.trials = dict(trials)
            yield app

    async with open_app(config) as app:
        yield kind.Site(
            app=app,
            dsn=dsn,
            restart=await restart.find(config, dsn),
            measure=Gate(open_arm, say=said, reached=reached, advance=advance),
            kinds=kind.by_name([Setting(), Role(), Index(), Space(), Search(), Migration()]),
            data_dir=config.data_dir,
            lock_timeout_ms=config.lock_timeout_ms,
            say=said,
            reached=reached,
        )


async def inventory(
    config: Config, asked: Asked, *, advance: Callable[[str, int, int], None]
) -> Inventory:
    """Return the indexes of the database, measured; collections by the searches of production.

    ragline is opened for collections alone: a database without its schema is looked at all the same.
    """
    from ragline.evals import recall
    from ragline.ops import machine, tuning
    from ragline.watch import inventory as watch

    dsn = await asyncio.to_thread(database, config)
    async with AsyncExitStack() as stack:
        opened: list[App] = []

        async def measure(collection: str) -> Sample:
            if not opened:
                opened.append(await stack.enter_async_context(open_app(config)))
            return await recall.sample(
                opened[0],
                collection,
                n=asked.sample or 0,
                k=asked.k,
                seed=asked.seed,
                on_progress=lambda step: advance(collection, step.done, step.total),
            )

        return await watch.inventory(
            dsn,
            asked,
            measure=measure,
            memory_bytes=machine.memory_bytes() if tuning.is_here(dsn) else None,
            advance=advance,
        )


def database(config: Config) -> Dsn:
    """Return where the database is, starting the embedded one when none is configured.

    One that does not start because of a change that was broken off is put right on disk first.
    """
    return config.dsn or embedded.dsn(cluster(config))


def cluster(config: Config, *, port: int | None = None) -> embedded.Cluster:
    """Return the embedded cluster, running; put right on disk where an interrupted change broke it."""
    port = port or config.db_port
    try:
        return embedded.ensure(config.data_dir, port=port)
    except EmbeddedServerError as error:
        return _put_right(config, port, error)


def _put_right(config: Config, port: int | None, error: EmbeddedServerError) -> embedded.Cluster:
    from ragline.change import journal

    repaired = journal.repair(config.data_dir, below=config.data_dir)
    if repaired is None:
        raise error
    _log.warning(
        "the server did not start with change %s (%s); its settings are put back: %s",
        repaired.change_id,
        repaired.title,
        error,
    )
    return embedded.ensure(config.data_dir, port=port)


async def settle(app: App) -> list[Entry]:
    """End what changes left, broken off or kept long enough; costs three queries where nothing is.

    What a tuning left that was killed goes, too.
    """
    pool = await app.pool("admin")
    async with pool.connection() as connection:
        await trial_tables.sweep(connection)
        is_left = await ledger.unsettled(connection) or await ledger.to_retire(connection)
    if not is_left and not (app.config.data_dir / "changes").is_dir():
        return []
    from ragline.change import settling

    async with open_site(app.config) as site:
        return await settling.settle(site)


async def _check_schema(config: Config, dsn: Dsn, workload: Workload) -> None:
    applied = await schema.version(dsn, workload)
    if applied is None and config.dsn is None:
        from ragline.db import migrate

        await asyncio.to_thread(
            migrate.apply,
            dsn,
            lock_timeout_ms=config.lock_timeout_ms,
            role_secret=config.role_secret,
        )
        return
    if applied == schema.HEAD:
        return
    if applied is None:
        raise SchemaMismatch("this database has no ragline schema yet: run `ragline migrate apply`")
    if applied in schema.VERSIONS:
        raise SchemaMismatch(
            f"the schema is at version {applied} and this ragline needs {schema.HEAD}: see "
            "`ragline migrate plan`, then run `ragline migrate apply`"
        )
    raise SchemaMismatch(
        f"the schema is at version {applied}, which this ragline ({schema.HEAD}) does not know: it "
        "is newer than the code. Upgrade ragline"
    )

"""Kinds of change put to work without the loop: plan, steps, and the effect read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ragline.change.kind import Kind, Measure, Site
from ragline.core.change import Step, Value
from ragline.core.dsn import Dsn
from ragline.ops.restart import Restart
from ragline.rag.app import App


def site_of(app: App, dsn: Dsn, data_dir: Path, restart: Restart | None = None) -> Site:
    """Return a place for changes in which nothing can be measured."""
    measure = cast("Measure", None)
    return Site(app=app, dsn=dsn, restart=restart, measure=measure, kinds={}, data_dir=data_dir)


async def change(site: Site, kind: Kind, target: str, want: Value) -> Value:
    """Make a change as a new process would, and return what was there."""
    wanted, _ = await kind.wanted(site, target, want)
    now = await kind.read(site, target)
    await do(site, kind, kind.steps(target, now, wanted))
    await kind.confirm(site, target, wanted)
    return now


async def put_back(site: Site, kind: Kind, target: str, was: Value) -> None:
    """Undo as a new process would: from what there is to the snapshot."""
    now = await kind.read(site, target)
    await do(site, kind, kind.steps(target, now, was))
    await kind.confirm(site, target, was)


async def do(site: Site, kind: Kind, steps: list[Step]) -> None:
    for step in steps:
        if step.action == "restart":
            assert site.restart is not None
            await site.restart.restart()
        elif step.action == "reload":
            await ask(site, "select pg_reload_conf()")
        else:
            await kind.run(site, step)


async def ask(site: Site, query: str, *values: Any) -> Any:
    async with site.session() as session:
        return await session.fetchval(query, *values)


async def settings_of(site: Site) -> Mapping[str, str]:
    """Return what postgresql.auto.conf says, as the server reads it."""
    from ragline.db import server

    async with site.session() as session:
        return await server.auto_settings(session)

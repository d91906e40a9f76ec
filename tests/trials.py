"""A place where changes are made, with a verdict of the test's choice in the place of a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragline.change.kind import Kind, Site, by_name
from ragline.core.change import Arm, Part, Value
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.rag.app import App


@dataclass
class Fixed:
    """Measures nothing and says `status`; `arms` are what it was shown."""

    status: Any = "pass"
    arms: list[tuple[Arm, Arm]] = field(default_factory=list)

    async def before(self, asked: Asked) -> dict[str, Any]:
        return {}

    async def after(self, asked: Asked, before: Mapping[str, Any]) -> Judgement:
        return self._verdict()

    async def pair(self, asked: Asked, now: Arm, want: Arm) -> Judgement:
        self.arms.append((now, want))
        return self._verdict()

    def _verdict(self) -> Judgement:
        return Judgement(status=self.status, reason="as the test says", rung="nothing")


def site_of(app: App, dsn: Dsn, folder: Path, kind: Kind) -> Site:
    """Return a site with one kind, whose every measurement passes."""
    return Site(
        app=app,
        dsn=dsn,
        restart=None,
        measure=Fixed(),
        kinds=by_name([kind]),
        data_dir=folder,
    )


async def brought(site: Site, kind: Kind, target: str, want: Value) -> Value:
    """Bring a target to a value by a kind's own steps, confirm it, and return what it was before."""
    now = await kind.read(site, target)
    for step in kind.steps(target, now, want):
        await kind.run(site, step)
    await kind.confirm(site, target, want)
    return now


def parts(kind: str, target: str, want: Value) -> Sequence[Part]:
    """Return one part."""
    return (Part(kind=kind, target=target, want=want),)

"""The user's own Alembic migrations, up and down: each revision whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from ragline.change import lost_rows, migration_losses
from ragline.change.kind import Kind, Site
from ragline.change.migration_losses import Threat
from ragline.core import migration_statements
from ragline.core.change import Step, Value
from ragline.errors import PreconditionFailed, UsageError
from ragline.ops import (
    alembic_scripts,
    backup,
    old_transactions,
    refused_revisions,
    revision_place,
    revisions,
    scratch,
)
from ragline.ops.alembic_scripts import Direction, Rendered, Scripts
from ragline.ops.revision_place import Place

_WORD: Mapping[Direction, str] = {"up": "upgrade", "down": "downgrade"}
_OTHER: Mapping[Direction, Direction] = {"up": "down", "down": "up"}
_SHOWN = 4000


class Migration(Kind):
    """The kind `migration`: a target is the absolute path of an alembic.ini, or of its folder."""

    name = "migration"

    def __init__(self) -> None:
        # Which backup holds each table, by target: found while a plan is checked, kept with its steps.
        self._backups: dict[str, dict[str, int]] = {}

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return the revision that a wish leads to, and warn of what is lost on the way."""
        wish = _wish(want)
        scripts = await asyncio.to_thread(alembic_scripts.read, target)
        place = await asyncio.to_thread(revision_place.place, site.dsn, scripts)
        heads = alembic_scripts.resolved(scripts, wish, place.heads)
        path = _path(scripts, place.heads, heads)
        for one in path:
            refused_revisions.refuse_mixed(one)
            refused_revisions.refuse_without_env(scripts, one.revision)
            await asyncio.to_thread(
                old_transactions.refuse_old, site.dsn, one, revisions.Limits().old_s
            )
        if path:
            await asyncio.to_thread(revision_place.refuse_built, site.dsn, scripts, place, path[0])
        self._backups[target] = {}
        return _value(Place(heads=heads)), tuple(await self._warnings(site, scripts, path))

    async def _warnings(self, site: Site, scripts: Scripts, path: Sequence[Rendered]) -> list[str]:
        """Return what a person should know; refuse what would lose what is kept nowhere."""
        hidden = [one for one in path if one.why_not]
        said = [f"revision {one.revision} {one.why_not}" for one in hidden]
        lost = migration_losses.forward(path)
        threats = await asyncio.to_thread(migration_losses.real, site.dsn, lost, path)
        if any(one.direction == "down" for one in path):
            # What an upgrade loses was lost when it first ran: nothing more goes when it runs again.
            return said + await self._refuse_unkept(site, scripts.target, threats, "this migration")
        back = [alembic_scripts.rendered(scripts, "down", one.revision) for one in reversed(path)]
        refused_revisions.refuse_not_brought_back(back, [one.loss for one in threats])
        said += await self._refuse_unkept(site, scripts.target, threats, "this migration")
        for one, its_back in zip(reversed(path), back, strict=True):
            refused_revisions.refuse_without_way_back(one, its_back)
        read = [one for one in back if not one.why_not]
        lost_back = migration_losses.back(path, read)
        threats = await asyncio.to_thread(migration_losses.real, site.dsn, lost_back, read)
        refused_revisions.refuse_not_brought_back(
            read, [one.loss for one in threats], "drops {}, which the upgrade does not make"
        )
        said += await self._refuse_unkept(site, scripts.target, threats, "its way back (downgrade)")
        said += [f"the downgrade of {one.revision} {one.why_not}" for one in back if one.why_not]
        return said

    async def _refuse_unkept(
        self, site: Site, target: str, threats: Sequence[Threat], what: str
    ) -> list[str]:
        said, kept = await migration_losses.refuse_unkept(site, threats, what)
        self._backups[target] |= kept
        return said

    async def read(self, site: Site, target: str) -> Value:
        """Return the revision, and indexes that a broken-off revision left half done."""
        scripts = await asyncio.to_thread(alembic_scripts.read, target)
        return _value(await asyncio.to_thread(revision_place.place, site.dsn, scripts))

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return a step for each revision, after one that cleans up; read from the folder."""
        at, there = _place(now), _place(want)
        left = [name for name in at.begun if name not in there.begun]
        if at.heads == there.heads and not left:
            return []
        scripts = alembic_scripts.read(target)
        steps = [self._cleaning(target, left)] if left else []
        return steps + [
            self._step(scripts, target, one) for one in _path(scripts, at.heads, there.heads)
        ]

    def _cleaning(self, target: str, names: Sequence[str]) -> Step:
        return Step(
            kind=self.name,
            target=target,
            phase="apply",
            action="drop",
            text=f"put right what a revision of {target} left half done: index {', '.join(names)}",
            arguments={"clean": list(names)},
            lock="SHARE UPDATE EXCLUSIVE on their tables",
            blocks="other changes of the table",
        )

    def _step(self, scripts: Scripts, target: str, one: Rendered) -> Step:
        lock, blocks = migration_statements.locks(one.statements)
        if one.why_not:
            lock, blocks = "not known beforehand", "not known beforehand"
        lost = [] if one.why_not else one.losses
        undone = alembic_scripts.rendered(scripts, _OTHER[one.direction], one.revision).losses
        if one.direction == "down":
            # A way back that loses something is not yet the way back; what it drops was made above.
            undone += [loss for loss in one.losses if not loss.is_dropped]
        title = scripts.title(one.revision)
        return Step(
            kind=self.name,
            target=target,
            phase="apply",
            action="sql",
            text=f"{_beginning(one.direction, one.revision, target)}{title}\n{one.text[:_SHOWN]}",
            arguments={
                "revision": one.revision,
                "direction": one.direction,
                "lost": migration_losses.plain_losses(undone),
                "backups": self._backups.get(target, {}),
                "file": scripts.file_hash(one.revision),
            },
            lock=lock,
            blocks=blocks,
            loses="; ".join(dict.fromkeys(map(str, lost))) or one.why_not or None,
        )

    async def run(self, site: Site, step: Step) -> None:
        """Run one revision, and in its transaction put back what its other way lost."""
        scripts = await asyncio.to_thread(alembic_scripts.read, step.target)
        limits = revisions.Limits()
        if "clean" in step.arguments:
            names = step.arguments["clean"]
            lock_ms = limits.outside_lock_ms
            await asyncio.to_thread(
                revision_place.clean, site.dsn, scripts, names, lock_ms, site.reached
            )
            return
        revision, direction = step.arguments["revision"], step.arguments["direction"]
        async with AsyncExitStack() as held:
            kept = await migration_losses.kept_before(
                site,
                _beginning(_OTHER[direction], revision, step.target),
                migration_losses.from_plain(step.arguments["lost"]),
            )
            if kept.backups:
                await scratch.sweep(site.dsn)  # what a killed undo left is swept by the next one
            sources = []
            for found, losses in kept.backups:
                site.say(f"rows come back from backup {found.id}")
                old = await held.enter_async_context(backup.restored(site.dsn, found))
                sources.append((old, losses))
            noted = None
            if sources:
                noted = await asyncio.to_thread(
                    lost_rows.version_writer, site.dsn, scripts.version_name
                )
            writers = lost_rows.Writers(noted=noted, window=kept.window)
            own: dict[str, str] = {}

            def before_begin(session: Any) -> None:
                own.clear()
                lost = [one for _, losses in sources for one in losses]
                own.update(lost_rows.look_before(session, lost, writers))

            def before_commit(session: Any) -> None:
                for old, losses in sources:
                    for one in lost_rows.put_back(session, old, losses, own):
                        site.say(f"{one.table}: {one.rows} rows and {one.values} values came back")
                site.reached("migration:rows-back")

            await asyncio.to_thread(
                revisions.run,
                site.dsn,
                scripts,
                direction,
                revision,
                limits=limits,
                reached=site.reached,
                say=site.say,
                before_begin=before_begin if sources else None,
                before_commit=before_commit if sources else None,
            )

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Read the version table back, and whether every index that was built is valid."""
        there = _place(want)
        scripts = await asyncio.to_thread(alembic_scripts.read, target)
        now = await asyncio.to_thread(revision_place.place, site.dsn, scripts)
        if now.heads != there.heads:
            raise PreconditionFailed(
                f"the database is at revision {_said(now)}, and not at {_said(there)}"
            )
        if left := [name for name in now.begun if name not in there.begun]:
            raise PreconditionFailed(
                f"index {', '.join(left)} is not as revision {_said(now)} has it: it is not valid, "
                "missing, or left over"
            )


def _beginning(direction: Direction, revision: str, target: str) -> str:
    """Return how the text of a revision's step begins: the ledger is asked for it."""
    return f"{_WORD[direction]} {revision} of {target}: "


def _path(scripts: Scripts, now: Sequence[str], want: Sequence[str]) -> list[Rendered]:
    return [
        alembic_scripts.rendered(scripts, direction, revision)
        for direction, revision in scripts.path(now, want)
    ]


def _wish(want: Value) -> str | None:
    if not isinstance(want, Mapping) or not {"revision"} <= want.keys() <= {"revision", "begun"}:
        raise UsageError(
            f"{want!r} is no revision: write revision=head, revision=base, revision=+1, revision=-1 or "
            "revision=ID"
        )
    revision = want["revision"]
    if isinstance(revision, bool | float):
        raise UsageError(f"{revision!r} is no revision: write its whole id, such as 1975ea83b712")
    if isinstance(revision, int):
        return str(revision)
    if not isinstance(revision, str | None):
        raise UsageError(f"{revision!r} is no revision")
    return revision


def _value(place: Place) -> dict[str, Any]:
    begun = {"begun": list(place.begun)} if place.begun else {}
    return {"revision": ",".join(place.heads) or None, **begun}


def _place(value: Value) -> Place:
    if not isinstance(value, Mapping):
        raise UsageError(f"{value!r} is no revision")
    heads = tuple(value["revision"].split(",")) if value["revision"] else ()
    return Place(heads=heads, begun=tuple(value.get("begun", ())))


def _said(place: Place) -> str:
    return ", ".join(place.heads) or "base (none)"

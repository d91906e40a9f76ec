"""Settings of the whole server, by ALTER SYSTEM: never a person's own files.

A value is what `postgresql.auto.conf` says: a text as it was written, a list of texts for a list, or
None where it says nothing and the server's own files, or its defaults, hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from ragline.change import guc_checks
from ragline.change.kind import Kind, Site
from ragline.core import guc_values
from ragline.core.budget import connection_limits
from ragline.core.change import Step, Value
from ragline.core.guc_values import Guc
from ragline.db import server
from ragline.db.server import Facts, FileSetting, Session
from ragline.errors import NotFound, PreconditionFailed, RaglineError, UsageError

_SETTLES_S = 3.0
"""The server reads its files when its first process comes to it: new sessions wait for that."""
_PAUSE_S = 0.03
_CONNECTIONS = ("max_connections", "superuser_reserved_connections", "reserved_connections")
_BELOW_A_SESSION = ("configuration file", "default", "override", "environment variable")


@dataclass(frozen=True, slots=True)
class _Known:
    guc: Guc | None = None
    is_behind: bool = False

    def takes_restart(self) -> bool:
        return self.guc is not None and self.guc.needs_restart

    def runs_with(self, want: Value) -> bool:
        """Whether the server runs with a value already, its files having been changed since."""
        guc = self.guc
        if guc is None or guc.is_chosen_by_server:
            return False
        if guc.source != "configuration file":
            return want is None and guc.source in _BELOW_A_SESSION
        if guc.source_file is None:  # not for us to see
            return False
        if want is None:
            return not server.is_auto(guc.source_file)
        text = guc_values.as_text(guc.name, want)
        return server.is_auto(guc.source_file) and guc_values.is_same(guc, text, guc.setting)


class Setting(Kind):
    """One setting of the server.

    Whether it takes a restart, and whether the server runs with what its files say, is learnt by
    `wanted` and `read`, which go before `steps`, also in a process that takes up another's work.
    """

    name = "setting"
    is_cluster_wide = True

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        """Return the value as ALTER SYSTEM writes it, checked by us and by the running server."""
        _refuse_name(target)
        async with site.session() as session:
            facts = await server.facts(session)
            _refuse_server(facts, target, want)
            lines = await server.file_settings(session)
            _refuse_broken(lines)
            await server.load_library_of(session, target)
            guc = await self._guc(session, target, lines, want)
            if guc is None:
                return None, ()
            await _refuse_setting(session, facts, guc)
            if want is None:
                return None, tuple(await _warnings(site, session, guc, lines, None))
            value = guc_values.normal(guc.name, want)
            await guc_checks.check_value(site, session, guc, value)
            text = guc_values.as_text(guc.name, value)
            guc_values.check_for_everybody(guc, text)
            await _check_connections(session, guc, text)
            warnings = await _warnings(site, session, guc, lines, value)
        there = _auto_text(lines, target)
        if there is not None and guc_values.is_same(guc, text, there):
            value = guc_values.as_value(guc.name, there) or value  # the same, written otherwise
        return value, tuple(warnings)

    async def read(self, site: Site, target: str) -> Value:
        """Return what postgresql.auto.conf says."""
        async with site.session() as session:
            lines = await server.file_settings(session)
            await server.load_library_of(session, target)
            try:
                guc = await server.setting(session, target)
            except NotFound:
                self._known[target] = _Known()
            else:
                behind = await _why_behind(session, guc, lines)
                is_hidden = guc.source not in _BELOW_A_SESSION
                # A reload too many does no harm; one too few would leave the old value in effect.
                self._known[target] = _Known(
                    guc, behind is not None or (is_hidden and not guc.needs_restart)
                )
        return guc_values.as_value(target, _auto_text(lines, target))

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        """Return ALTER SYSTEM and what brings it into effect.

        Where the file says `want` already and the server does not yet run with it, only the latter.
        """
        known = self._known.get(target, _Known())
        # A restart that was planned and never came is not made up for: nobody loses his connection.
        needs_restart = known.takes_restart() and not known.runs_with(want)
        effect = _restart(target, want) if needs_restart else _reload(target)
        if now == want:
            return [effect] if known.is_behind else []
        statement = (
            f"alter system reset {guc_values.quoted_name(target)}"
            if want is None
            else f"alter system set {guc_values.assignment(target, want)}"
        )
        return [
            Step(
                kind=self.name,
                target=target,
                phase="apply",
                action="sql",
                text=statement,
                expected_s=0.02,
            ),
            effect,
        ]

    async def run(self, site: Site, step: Step) -> None:
        """Write postgresql.auto.conf, and look whether the server can read it before it does."""
        async with site.session() as session:
            await server.load_library_of(session, step.target)
            try:
                await session.execute(step.text)
            except asyncpg.PostgresError as error:
                raise guc_checks.explained(error, f"`{step.text}` was refused") from error
            lines = await server.file_settings(session)
        # A value that takes a restart is never "applied" by reading the files.
        takes_restart = self._known.get(step.target, _Known()).takes_restart()
        for line in _lines_of(lines, step.target):
            if line.is_auto and line.error is not None and (line.is_broken or not takes_restart):
                raise PreconditionFailed(
                    f"the server would not read {line.name} = {line.value} in {line.file}, line "
                    f"{line.line}: {line.error}"
                )

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        """Raise RaglineError unless the file says so and a new connection sees it."""
        until = time.monotonic() + _SETTLES_S
        while reason := await _why_not(site, target, want):
            if time.monotonic() > until:
                raise RaglineError(reason)
            await asyncio.sleep(_PAUSE_S)

    async def _guc(
        self, session: Session, target: str, lines: Sequence[FileSetting], want: Value
    ) -> Guc | None:
        """Return the setting; None for a name that nobody knows and that is only to be removed."""
        try:
            guc = await server.setting(session, target)
        except NotFound:
            if want is None and _auto_text(lines, target) is not None:
                return None
            raise
        before = self._known.get(target, _Known())
        self._known[target] = _Known(guc, before.is_behind)
        return guc


def _refuse_name(name: str) -> None:
    if reason := guc_values.why_refused(name):
        raise UsageError(f"ragline does not change {name!r}: {reason}")


def _refuse_server(facts: Facts, name: str, want: Value) -> None:
    guc_checks.refuse_replica(facts)
    if facts.is_patroni:
        value = "null" if want is None else guc_values.as_text(name, want)
        raise PreconditionFailed(
            "Patroni looks after this server, and what it manages outranks ALTER SYSTEM: run "
            f"`patronictl edit-config -p {name}={value}`, and `patronictl restart --pending` where "
            "it says so. Settings of a role can be changed from here"
        )
    # A superuser there is only who looks after a server of his own, perhaps with a provider's roles.
    if facts.managed_roles and not facts.is_superuser:
        role = facts.managed_roles[0]
        raise PreconditionFailed(
            f"role {role} says that this server is managed, without ALTER SYSTEM. "
            f"{server.MANAGED[role]}. Settings of a role can be changed from here"
        )
    if not facts.allows_alter_system:
        raise PreconditionFailed(
            "allow_alter_system is off on this server: its settings are managed elsewhere, change "
            "them there, or switch it on in postgresql.conf"
        )
    if not facts.may_reload:
        raise PreconditionFailed(
            f"user {facts.user_name!r} may not have the server read its files again: as a superuser "
            f'run `grant execute on function pg_reload_conf() to "{facts.user_name}"`'
        )


def _refuse_broken(lines: Sequence[FileSetting]) -> None:
    """One line that the server cannot read keeps it from reading any."""
    for line in lines:
        if line.is_broken:
            raise PreconditionFailed(
                f"{line.file}, line {line.line} is wrong ({line.name or 'no name'}: {line.error}), and "
                "with it the server reads none of its files. Mend that line first"
            )


async def _refuse_setting(session: Session, facts: Facts, guc: Guc) -> None:
    if guc.context == "internal":
        raise UsageError(
            f"{guc.name} shows what the server was built or made with ({guc.setting}); it cannot be "
            "changed"
        )
    if guc.source == "command line":
        raise PreconditionFailed(
            f"{guc.name} = {guc.setting} comes from the server's command line, which outranks ALTER "
            "SYSTEM: change it where the server is started (its service, container or Patroni)"
        )
    if not await server.may_alter(session, facts, guc.name):
        way = (
            f'`grant alter system on parameter {guc.name} to "{facts.user_name}"`, or use one'
            if facts.version >= 150000
            else "it for you: before PostgreSQL 15 nobody else may"
        )
        raise PreconditionFailed(
            f"user {facts.user_name!r} may not ALTER SYSTEM {guc.name}: have a superuser run {way}"
        )


async def _check_connections(session: Session, guc: Guc, text: str) -> None:
    """Raise PreconditionFailed where ragline would have no connection left to put it back with."""
    if guc.name not in _CONNECTIONS:
        return
    numbers = [
        int(text if name == guc.name else await server.whole(session, name))
        for name in _CONNECTIONS
    ]
    connection_limits(numbers[0], sum(numbers[1:]))


async def _warnings(
    site: Site,
    session: Session,
    guc: Guc,
    lines: Sequence[FileSetting],
    value: str | list[str] | None,
) -> list[str]:
    said = []
    if guc.needs_restart and site.restart is None:
        said.append(
            f"{guc.name} takes a restart, and ragline cannot restart this server: the change waits "
            "until a person does; RAGLINE_RESTART_COMMAND would name a way"
        )
    waiting = [
        f"{line.name} = {line.value}"
        for line in lines
        if line.error is not None and (line.name or "").lower() != guc.name.lower()
    ]
    if guc.needs_restart and waiting:
        said.append(f"the restart also brings into effect what waits for one: {'; '.join(waiting)}")
    if "backend" in guc.context:
        said.append(f"{guc.name} acts on connections that are made from now on")
    if own := await server.own_settings(session, guc.name):
        said.append(
            f"these have a value of their own and see none of it: {'; '.join(map(str, own))}"
        )
    if isinstance(value, str) and (danger := guc_values.risk(guc.name, value)):
        said.append(danger)
    if isinstance(value, list) and guc.name in guc_values.LIBRARIES:
        gone = [name for name in guc_values.split(guc.setting) if name not in value]
        if gone:
            said.append(f"{', '.join(gone)} would not be loaded any more: it is not in the list")
    return said


async def _why_not(site: Site, target: str, want: Value) -> str | None:
    """Return why a new connection does not have what is wanted; None where it does."""
    async with site.session() as session:
        lines = await server.file_settings(session)
        says = guc_values.as_value(target, _auto_text(lines, target))
        if says != want:
            return f"postgresql.auto.conf has {_shown(says)} for {target}, not {_shown(want)}"
        await server.load_library_of(session, target)
        try:
            guc = await server.setting(session, target)
        except NotFound as error:
            return None if want is None else str(error)
        return await _why_behind(session, guc, lines)


async def _why_behind(session: Session, guc: Guc, lines: Sequence[FileSetting]) -> str | None:
    """Return in what a session differs from the server's files; None where it cannot be seen."""
    if guc.is_pending and guc.is_chosen_by_server:
        return f"{guc.name} is {guc.setting} until the server restarts"
    if guc.source == "command line":
        return f"{guc.name} = {guc.setting} comes from the command line, which outranks the files"
    if guc.source not in _BELOW_A_SESSION:
        return None  # this user or database has a value of its own, which hides the server's
    # Not by `pending_restart`: it stays where a value was taken back before the restart came.
    asked = next((line.value for line in reversed(_lines_of(lines, guc.name))), None)
    until = " until the server restarts" if guc.needs_restart else ""
    if asked is None:
        is_old = guc.source == "configuration file"
        return f"{guc.name} is still {guc.setting}, of no file any more{until}" if is_old else None
    if await guc_checks.is_in_effect(session, guc, asked):
        return None
    return f"{guc.name} is {guc.setting}{until}, and the files say {asked}"


def _lines_of(lines: Sequence[FileSetting], name: str) -> list[FileSetting]:
    return [line for line in lines if line.name is not None and line.name.lower() == name.lower()]


def _auto_text(lines: Sequence[FileSetting], name: str) -> str | None:
    return next((line.value for line in reversed(_lines_of(lines, name)) if line.is_auto), None)


def _shown(value: Value) -> str:
    return "nothing" if value is None else str(value)


def _reload(target: str) -> Step:
    return Step(
        kind=Setting.name,
        target=target,
        phase="apply",
        action="reload",
        text="select pg_reload_conf()",
        expected_s=0.05,
    )


def _restart(target: str, want: Value) -> Step:
    """Return the restart; of several parts the loop makes one, and rehearses it with all of them."""
    text = None if want is None else guc_values.as_text(target, want)
    return Step(
        kind=Setting.name,
        target=target,
        phase="apply",
        action="restart",
        text="restart the server",
        arguments={"settings": {} if text is None else {target: text}},
        lock="the whole server",
        blocks="everybody, for as long as it takes",
        expected_s=2.0,
        loses="every open connection with its transaction, and what the server has in its memory",
    )

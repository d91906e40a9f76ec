"""Changes under several processes, lost connections, removed targets and people who restart servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_change_loop import (
    PART,
    SHARED,
    SIGN,
    Db,
    Killed,
    Restarts,
    journal_of,
    killing_at,
    make_site,
    note,
    planned,
    states,
    text,
    verdicts,
)

import clocks
from conftest import opened
from ragline import wiring
from ragline.change import loop, owner, settling, turns
from ragline.change.kind import Site
from ragline.config import Config
from ragline.core.change import Part, Value
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.db import cluster
from ragline.errors import (
    Conflict,
    DatabaseUnreachable,
    LockTimeout,
    NotFound,
    PoolTimeout,
    PreconditionFailed,
    UsageError,
)
from ragline.rag import ingest
from ragline.wiring import open_app

PASS = Judgement(status="pass", reason="as good", rung="recall")


@pytest.fixture
async def notes(db: Db) -> Db:
    await db.execute("create table public.note (name text primary key, text text not null)")
    await db.execute("create table public.beside (name text, text text, unique (name, text))")
    await db.execute("insert into public.note values ('a', 'old'), ('s', 'old')")
    return db


@pytest.fixture
async def site(own_dsn: Dsn, notes: Db, tmp_path: Path) -> AsyncIterator[Site]:
    async with another(own_dsn, tmp_path) as site:
        yield site


@asynccontextmanager
async def another(dsn: Dsn, folder: Path) -> AsyncIterator[Site]:
    """What another process would open."""
    async with opened(dsn, folder, None) as app:
        yield make_site(app, dsn, folder)


class CuttingOff(Restarts):
    """A restart as connections notice it: all of a database are gone."""

    def __init__(self, db: Db, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.db = db
        self.meanwhile = meanwhile

    async def restart(self) -> None:
        await super().restart()
        await cut_off(self.db)
        await self.meanwhile()


async def cut_off(db: Db) -> None:
    await db.execute(
        """
        select pg_terminate_backend(pid, 5000) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
        """
    )


def measuring(site: Site, started: asyncio.Event, go_on: asyncio.Event) -> None:
    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        started.set()
        await go_on.wait()
        return PASS

    verdicts(site).after = after  # type: ignore[method-assign]


async def test_after_a_restart_the_change_is_still_its_makers(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def nothing_is_left() -> None:
        async with another(own_dsn, tmp_path) as other:
            assert await settling.settle(other) == []

    site.restart = CuttingOff(notes, nothing_is_left)
    note(site).restarts = True
    measuring(site, started, go_on)
    id_ = await planned(site, PART)
    task = asyncio.create_task(loop.apply(site, id_))
    await started.wait()
    await nothing_is_left()
    async with another(own_dsn, tmp_path) as other:
        with pytest.raises(Conflict, match="another process"):
            await loop.undo(other, id_)
    go_on.set()
    assert (await task).state == "kept"


async def test_who_lost_the_connection_and_was_overtaken_does_nothing_more(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    measuring(site, started, go_on)
    id_ = await planned(site, PART)
    task = asyncio.create_task(loop.apply(site, id_))
    await started.wait()
    await cut_off(notes)
    elsewhere = json.dumps({"machine": "elsewhere", "pid": 1, "began": ""})
    with monkeypatch.context() as patch:
        patch.setattr(owner, "me", lambda: elsewhere)
        async with another(own_dsn, tmp_path) as other:
            (settled,) = await settling.settle(other)
    assert settled.state == "undone"
    go_on.set()
    with pytest.raises(Conflict, match=f"change {id_} was lost, and another process"):
        await task
    assert await text(notes) == "old"
    assert (await states(site, id_))[-2:] == ["undoing", "undone"]


async def test_lost_connection_is_made_anew_where_nobody_came_between(
    site: Site, notes: Db
) -> None:
    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        await cut_off(notes)
        # Ended is not yet noticed: a query into that moment fails, as it may, and the change is undone.
        pool = await site.app.pool("admin")
        await clocks.until(lambda: pool.open_and_idle()[0] == 0)
        return PASS

    verdicts(site).after = after  # type: ignore[method-assign]
    assert (await loop.apply(site, await planned(site, PART))).state == "kept"


async def test_plan_that_another_process_applied_meanwhile_is_refused(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    id_ = await planned(site, SHARED)
    kind = note(site, "shared")
    wanted = kind.wanted

    async def overtaken(site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        kind.wanted = wanted  # type: ignore[method-assign]
        async with another(own_dsn, tmp_path) as other:
            verdicts(other).status = "fail"
            with pytest.raises(Conflict, match=f"another process prepares change {id_}"):
                await loop.apply(other, id_)
        return await wanted(site, target, want)

    kind.wanted = overtaken  # type: ignore[method-assign]
    assert (await loop.apply(site, id_)).state == "kept"


async def test_change_that_is_measured_by_now_is_not_given_up_as_prepared(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    refused: list[str] = []

    async def pair(asked: Asked, now: Any, want: Any) -> Judgement:
        async with another(own_dsn, tmp_path) as other:
            with pytest.raises(Conflict, match="another process"):
                await loop.undo(other, id_)
        refused.append(str(await notes.fetchval("select count(*) from public.beside")))
        return PASS

    verdicts(site).pair = pair  # type: ignore[method-assign]
    id_ = await planned(site, SIGN)
    assert (await loop.apply(site, id_)).state == "kept"
    assert refused == ["1"]


@pytest.mark.parametrize(
    "error",
    [PoolTimeout("no connection became free"), DatabaseUnreachable("cancelled"), ValueError("odd")],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_goes_wrong_it_is_put_back_at_once(
    site: Site, notes: Db, error: Exception
) -> None:
    verdicts(site).error = error
    id_ = await planned(site, PART)
    with pytest.raises(type(error)):
        await loop.apply(site, id_)
    assert await text(notes) == "old"
    assert (await loop.whole(site, id_)).entry.state == "undone"


async def test_undo_that_fails_in_an_unforeseen_way_says_so(site: Site, notes: Db) -> None:
    kind = note(site)

    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        kind.broken = ValueError("odd")
        return Judgement(status="fail", reason="worse", rung="recall")

    verdicts(site).after = after  # type: ignore[method-assign]
    id_ = await planned(site, PART)
    with pytest.raises(Exception, match="could not be put back: odd"):
        await loop.apply(site, id_)
    kind.broken = None
    (settled,) = await settling.settle(site)
    assert (settled.state, settled.reason) == ("undone", "worse")


async def test_journal_that_cannot_be_written_changes_nothing(
    site: Site, notes: Db, tmp_path: Path
) -> None:
    (tmp_path / "changes").write_text("in the way")
    id_ = await planned(site, SHARED)
    with pytest.raises(PreconditionFailed, match=r"journal .* cannot be written"):
        await loop.apply(site, id_)
    assert (await loop.whole(site, id_)).entry.state == "undone"
    async with site.session(cluster.DATABASE) as session:
        assert await cluster.holder(session) is None


@pytest.mark.parametrize("found", ["{", "[]", "{}", "null", '{"parts": [{"kind": 1}]}'])
async def test_journal_that_cannot_be_read_is_said(site: Site, found: str, tmp_path: Path) -> None:
    (tmp_path / "changes").mkdir()
    path = tmp_path / "changes" / f"{await turns.system_id(site)}.json"
    path.write_text(found)
    with pytest.raises(PreconditionFailed, match=f"journal {path} cannot be read"):
        await settling.settle(site)


async def test_what_cannot_be_given_back_at_the_end_does_not_turn_the_verdict(
    site: Site, notes: Db, tmp_path: Path
) -> None:
    def reached(point: str) -> None:
        if point == "closed":
            next((tmp_path / "changes").glob("*.json")).write_text("{")

    site.reached = reached
    entry = await loop.apply(site, await planned(site, SHARED))
    assert entry.state == "kept"
    assert await text(notes) == "new"


async def test_interrupted_after_the_decision_it_stays_decided(site: Site, notes: Db) -> None:
    def reached(point: str) -> None:
        if point == "closed":
            raise asyncio.CancelledError

    site.reached = reached
    id_ = await planned(site, PART)
    with pytest.raises(asyncio.CancelledError):
        await loop.apply(site, id_)
    assert (await loop.whole(site, id_)).entry.state == "kept"
    assert await text(notes) == "new"


async def test_stale_journal_stands_in_nobodys_way_while_a_change_is_made(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    site.reached = killing_at("closed")
    with pytest.raises(Killed):
        await loop.apply(site, await planned(site, SHARED))
    assert await journal_of(site)
    site.reached = lambda _point: None
    async with another(own_dsn, tmp_path) as other:
        await settling.settle(other)
    assert not await journal_of(site)


async def test_older_change_is_not_taken_back_over_a_later_one(site: Site, notes: Db) -> None:
    older = await loop.apply(site, await planned(site, PART))
    later = await loop.apply(
        site, await planned(site, Part(kind="note", target="a", want="newest"))
    )
    with pytest.raises(Conflict, match=f"change {later.id} came after it.*undo {later.id}"):
        await loop.undo(site, older.id)
    assert await text(notes) == "newest"
    await loop.undo(site, later.id)
    assert (await loop.undo(site, older.id)).state == "kept"
    assert await text(notes) == "old"


async def test_removed_target_of_a_kept_change_stops_no_command(site: Site, notes: Db) -> None:
    entry = await loop.plan(site, [PART], None, keep_for_s=0)
    assert entry is not None
    await loop.apply(site, entry.id)
    kind = note(site)
    read = kind.read

    async def removed(site: Site, target: str) -> Value:
        if target == "a":
            raise NotFound("collection 'a' does not exist, or was removed meanwhile")
        return await read(site, target)

    kind.read = removed  # type: ignore[method-assign]
    assert await loop.plan(site, [SIGN], None) is not None
    assert (await loop.whole(site, entry.id)).entry.retire_at is None
    with pytest.raises(NotFound):
        await loop.undo(site, entry.id)


async def test_what_cannot_be_dropped_yet_stops_no_command(site: Site, notes: Db) -> None:
    entry = await loop.plan(site, [SIGN], None, keep_for_s=0)
    assert entry is not None
    await loop.apply(site, entry.id)

    async def tidy(site: Site, target: str, keep: Value) -> None:
        raise PreconditionFailed("somebody holds it")

    said: list[str] = []
    site.say = said.append
    note(site, "sign").tidy = tidy  # type: ignore[method-assign]
    assert await loop.plan(site, [PART], None) is not None
    assert "somebody holds it" in " ".join(said)
    assert (await loop.whole(site, entry.id)).entry.retire_at is not None


async def test_putting_back_waits_for_a_person_who_restarts(site: Site, notes: Db) -> None:
    kind = note(site)
    kind.restarts = True
    entry = await loop.apply(site, await planned(site, PART))
    assert entry.waits_for == "restart"
    is_restarted = False
    confirm = kind.confirm

    async def running(site: Site, target: str, want: Value) -> None:
        if not is_restarted:
            raise PreconditionFailed("a is new until the server restarts")
        await confirm(site, target, want)

    kind.confirm = running  # type: ignore[method-assign]
    with pytest.raises(PreconditionFailed, match="waits for a restart"):
        await loop.resume(site)
    waiting = await loop.undo(site, entry.id)
    assert (waiting.state, waiting.waits_for) == ("undoing", "restart")
    assert "until the server restarts" in waiting.reason
    # Meanwhile other commands go on, and nothing else is opened.
    assert await settling.settle(site) == []
    is_restarted = True
    (ended,) = await loop.resume(site)
    assert (ended.state, ended.reason) == ("undone", "put back after a restart")
    assert await text(notes) == "old"


async def test_small_server_has_room_for_a_change(own_dsn: Dsn, notes: Db, tmp_path: Path) -> None:
    async with open_app(Config(dsn=own_dsn, data_dir=tmp_path)) as app:
        pool = await app.pool("admin")
        pool.timeout_s = 30
        taken = [await pool.acquire() for _ in range(pool.size - 1)]
        try:
            site = make_site(app, own_dsn, tmp_path)
            assert (await loop.apply(site, await planned(site, PART, SIGN))).state == "kept"
        finally:
            for connection in taken:
                await pool.release(connection)


@pytest.mark.parametrize("target", ["a\0b", "a\udcffb"])
async def test_what_no_text_may_hold_is_refused(site: Site, target: str) -> None:
    for part in (
        Part(kind="note", target=target, want="x"),
        Part(kind="note", target="a", want=target),
    ):
        with pytest.raises(UsageError, match="holds what PostgreSQL cannot store"):
            await loop.plan(site, [part], None)


async def test_what_was_tried_and_is_held_by_somebody_is_dropped_later(
    site: Site, notes: Db
) -> None:
    kind = note(site, "sign")
    tidy = kind.tidy

    async def held(site: Site, target: str, keep: Value) -> None:
        raise LockTimeout("somebody reads it")

    kind.tidy = held  # type: ignore[method-assign]
    verdicts(site).status = "fail"
    entry = await loop.apply(site, await planned(site, SIGN))
    assert (entry.state, entry.reason) == ("undone", "recall says fail")
    assert await notes.fetch("select from public.beside")
    kind.tidy = tidy  # type: ignore[method-assign]
    await settling.settle(site)
    assert not await notes.fetch("select from public.beside")
    assert (await loop.whole(site, entry.id)).entry.retire_at is None


async def test_change_that_came_to_wait_meanwhile_is_not_settled(
    site: Site, notes: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(site).restarts = True
    entry = await loop.apply(site, await planned(site, PART))
    await notes.execute("update change set waits_for = null")

    async def is_held(site: Site, hold: object) -> bool:
        await notes.execute("update change set waits_for = 'restart'")
        return False

    monkeypatch.setattr(turns, "is_held", is_held)
    assert await settling.settle(site) == []
    assert (await loop.whole(site, entry.id)).entry.state == "applied"


async def test_user_who_may_not_write_is_told_so(own_dsn: Dsn, notes: Db, tmp_path: Path) -> None:
    async with another(own_dsn, tmp_path) as site:
        id_ = await planned(site, SHARED)
        dsn = site.dsn
        read_only = ("options", "-c default_transaction_read_only=on")
        site.dsn = replace(dsn, options=(*dsn.options, read_only))
        with pytest.raises(PreconditionFailed, match="lets nothing be written"):
            await loop.apply(site, id_)
        site.dsn = dsn
        assert (await loop.apply(site, id_)).state == "kept"


async def test_plans_that_expired_long_ago_are_forgotten(site: Site, notes: Db) -> None:
    old = await loop.plan(site, [SIGN], None, expires_in_s=-2 * 86400)
    assert old is not None
    kind = note(site, "sign")
    kind.broken = PreconditionFailed("no room")
    broken_off = await planned(site, Part(kind="sign", target="t", want="new"), asked=None)
    with pytest.raises(PreconditionFailed):
        await loop.apply(site, broken_off)
    await notes.execute("update change set expires_at = now() - interval '2 days'")
    new = await planned(site, PART)
    assert [entry.id for entry in await loop.entries(site)] == [new]


async def test_interrupted_by_hand_it_says_what_became_of_the_change(site: Site, notes: Db) -> None:
    said: list[str] = []
    site.say = said.append
    started = asyncio.Event()
    measuring(site, started, asyncio.Event())
    id_ = await planned(site, PART)
    task = asyncio.create_task(loop.apply(site, id_))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said[-1] == f"interrupted. Change {id_} was put back"
    assert await text(notes) == "old"


async def test_every_command_that_settles_drops_what_was_kept_long_enough(
    own_dsn: Dsn, tmp_path: Path
) -> None:
    config = Config(dsn=own_dsn, data_dir=tmp_path)
    async with wiring.open_site(config) as site:
        await ingest.ingest_texts(site.app, [ingest.Text(source="a", text="The tide.")], "kb")
        part = Part(kind="search", target="kb", want={"k": 5})
        entry = await loop.plan(site, [part], None, keep_for_s=0)
        assert entry is not None
        assert (await loop.apply(site, entry.id)).retire_at is not None
        assert await wiring.settle(site.app) == []
        assert (await loop.whole(site, entry.id)).entry.retire_at is None


async def test_what_is_only_tried_is_not_planned_upon(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    measuring(site, started, go_on)
    id_ = await planned(site, PART)
    task = asyncio.create_task(loop.apply(site, id_))
    await started.wait()
    async with another(own_dsn, tmp_path) as other:
        with pytest.raises(Conflict, match=f"change {id_} .* is measuring and of the same thing"):
            await loop.plan(other, [PART], None)
        assert await loop.plan(other, [SIGN], None) is not None
    go_on.set()
    assert (await task).state == "kept"

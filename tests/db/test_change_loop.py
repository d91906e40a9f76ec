"""The loop of changes with kinds of the test's own: what is kept, what is put back, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from conftest import connect, opened
from ragline.change import journal, loop, settling, turns
from ragline.change.kind import Kind, Site, by_name
from ragline.core.change import Arm, Part, Step, Trial, Value
from ragline.core.dsn import Dsn
from ragline.core.gate import Asked, Judgement
from ragline.db import cluster
from ragline.errors import (
    Conflict,
    DatabaseUnreachable,
    NotFound,
    PreconditionFailed,
    StalePlan,
    UndoFailed,
    UsageError,
)
from ragline.ops.restart import Restart
from ragline.rag.app import App
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Killed(BaseException):
    """What no code may catch: as if the process had been ended."""


class Note:
    """A line in a table, changed at once and measured before and after."""

    name = "note"
    is_cluster_wide = False
    action = "sql"

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.is_without_effect = False
        self.restarts = False

    async def wanted(self, site: Site, target: str, want: Value) -> tuple[Value, tuple[str, ...]]:
        if target == "nowhere":
            raise NotFound("there is no note 'nowhere'")
        return want, ()

    async def read(self, site: Site, target: str) -> Value:
        async with site.session() as session:
            return cast(
                "Value",
                await session.fetchval("select text from public.note where name = $1", target),
            )

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        if now == want:
            return []
        step = Step(
            kind=self.name,
            target=target,
            phase="apply",
            action="sql",
            text=f"set note {target} to {want}",
            arguments={"want": want},
        )
        shared = Step(
            kind=self.name, target=target, phase="apply", action="restart", text="restart"
        )
        return [step, shared] if self.restarts else [step]

    async def run(self, site: Site, step: Step) -> None:
        if self.broken:
            raise self.broken
        async with site.session() as session, session.transaction():
            await session.execute("delete from public.note where name = $1", step.target)
            if step.arguments["want"] is not None:
                await session.execute(
                    "insert into public.note values ($1, $2)", step.target, step.arguments["want"]
                )
        site.reached("note:inside")

    async def confirm(self, site: Site, target: str, want: Value) -> None:
        if self.is_without_effect or await self.read(site, target) != want:
            raise PreconditionFailed(f"note {target} is not {want}")

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        return None

    async def tidy(self, site: Site, target: str, keep: Value) -> None:
        return None

    def measured(self, target: str) -> Mapping[str, Any]:
        return {"collections": ("kb",)}


class Sign(Note):
    """A line that is written beside, tried, and then shown."""

    name = "sign"

    def steps(self, target: str, now: Value, want: Value) -> list[Step]:
        if now == want:
            return []
        facts = {"target": target, "kind": self.name, "arguments": {"want": want}}
        return [
            Step(phase="prepare", action="build", text=f"write {want} beside", **facts),  # type: ignore[arg-type]
            Step(phase="adopt", action="switch", text=f"show {want}", **facts),  # type: ignore[arg-type]
        ]

    async def run(self, site: Site, step: Step) -> None:
        if step.action == "switch":
            await super().run(site, step)
            return
        if self.broken:
            raise self.broken
        async with site.session() as session:
            await session.execute(
                "insert into public.beside values ($1, $2) on conflict do nothing",
                step.target,
                step.arguments["want"],
            )
        site.reached("sign:inside")

    async def arms(
        self, site: Site, target: str, now: Value, want: Value
    ) -> tuple[Arm, Arm] | None:
        return {"kb": Trial(slot=1)}, {"kb": Trial(slot=2)}

    async def tidy(self, site: Site, target: str, keep: Value) -> None:
        async with site.session() as session:
            await session.execute("delete from public.beside where name = $1", target)


class Shared(Note):
    """A note that all databases of the server are said to share."""

    name = "shared"
    is_cluster_wide = True


@dataclass
class Verdicts:
    """A measurement whose outcome the test chooses."""

    status: str = "pass"
    asked: list[Asked] = field(default_factory=list)
    error: Exception | None = None

    async def before(self, asked: Asked) -> dict[str, Any]:
        self.asked.append(asked)
        return {"n": 20}

    async def after(self, asked: Asked, before: Mapping[str, Any]) -> Judgement:
        assert before == {"n": 20}
        if self.error:
            raise self.error
        return self._judgement()

    async def pair(self, asked: Asked, now: Arm, want: Arm) -> Judgement:
        self.asked.append(asked)
        assert (now["kb"].slot, want["kb"].slot) == (1, 2)
        return self._judgement()

    def _judgement(self) -> Judgement:
        return Judgement(
            status=cast("Any", self.status),
            reason=f"recall says {self.status}",
            rung="recall",
            n=20,
        )


class Restarts:
    """A restart that only counts."""

    name = "test"
    data_directory: Path | None = None

    def __init__(self) -> None:
        self.count = 0

    async def restart(self) -> None:
        self.count += 1

    async def preflight(self, settings: Mapping[str, str]) -> str | None:
        return None


@pytest.fixture
async def notes(own_dsn: Dsn, db: Db) -> Db:
    await db.execute("create table public.note (name text primary key, text text not null)")
    await db.execute("create table public.beside (name text, text text, unique (name, text))")
    await db.execute("insert into public.note values ('a', 'old'), ('s', 'old')")
    return db


@pytest.fixture
async def site(own_dsn: Dsn, notes: Db, tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(own_dsn, tmp_path, None) as app:
        yield make_site(app, own_dsn, tmp_path)


def make_site(app: App, dsn: Dsn, folder: Path, restart: Restart | None = None) -> Site:
    kinds: list[Kind] = [Note(), Sign(), Shared()]
    return Site(
        app=app, dsn=dsn, restart=restart, measure=Verdicts(), kinds=by_name(kinds), data_dir=folder
    )


def verdicts(site: Site) -> Verdicts:
    assert isinstance(site.measure, Verdicts)
    return site.measure


def note(site: Site, name: str = "note") -> Note:
    kind = site.kinds[name]
    assert isinstance(kind, Note)
    return kind


PART = Part(kind="note", target="a", want="new")
SIGN = Part(kind="sign", target="s", want="new")
SHARED = Part(kind="shared", target="a", want="new")


async def planned(site: Site, *parts: Part, asked: Asked | None = Asked()) -> int:  # noqa: B008
    entry = await loop.plan(site, parts, asked)
    assert entry is not None
    return entry.id


async def states(site: Site, id_: int) -> list[str]:
    return [line.state for line in (await loop.whole(site, id_)).history]


async def text(db: Db, name: str = "a") -> str | None:
    found: str | None = await db.fetchval("select text from public.note where name = $1", name)
    return found


async def test_what_passes_is_kept_with_its_history_and_a_line_that_takes_it_back(
    site: Site, notes: Db
) -> None:
    entry = await loop.apply(site, await planned(site, PART))
    assert (entry.state, entry.reason) == ("kept", "recall says pass")
    assert await text(notes) == "new"
    assert await states(site, entry.id) == [
        "planned", "applying", "applied", "measuring", "keeping", "kept",
    ] or await states(site, entry.id) == [
        "planned", "snapshotted", "applying", "applied", "measuring", "keeping", "kept",
    ]  # fmt: skip
    assert entry.snapshot == ("old",)
    assert entry.undo == f"ragline change undo {entry.id}"

    back = await loop.undo(site, entry.id)
    assert (back.state, back.undoes) == ("kept", entry.id)
    assert await text(notes) == "old"
    with pytest.raises(Conflict, match=f"taken back already, by change {back.id}"):
        await loop.undo(site, entry.id)
    # And again to where it was.
    await loop.undo(site, back.id)
    assert await text(notes) == "new"


async def test_what_is_worse_is_put_back_with_the_reason_and_the_time_it_took(
    site: Site, notes: Db
) -> None:
    verdicts(site).status = "fail"
    entry = await loop.apply(site, await planned(site, PART))
    assert (entry.state, entry.reason) == ("undone", "recall says fail")
    assert entry.verdict is not None
    assert entry.verdict["status"] == "fail"
    assert entry.undo_ms is not None
    assert entry.undo_ms > 0
    assert await text(notes) == "old"
    with pytest.raises(Conflict, match="nothing to take back"):
        await loop.undo(site, entry.id)


@pytest.mark.parametrize("part", [PART, SIGN], ids=lambda part: part.kind)
async def test_what_is_undecided_is_put_back_unless_somebody_says_otherwise(
    site: Site, notes: Db, part: Part
) -> None:
    verdicts(site).status = "inconclusive"
    entry = await loop.apply(site, await planned(site, part))
    assert entry.state == "inconclusive"
    assert await text(notes, part.target) == "old"
    entry = await loop.apply(site, await planned(site, part), keep_inconclusive=True)
    assert entry.state == "kept"
    assert "somebody's word" in entry.reason
    assert await text(notes, part.target) == "new"


async def test_what_is_built_beside_is_shown_only_after_the_verdict(site: Site, notes: Db) -> None:
    seen: list[tuple[str, str | None]] = []

    async def pair(asked: Asked, now: Arm, want: Arm) -> Judgement:
        seen.append(("measured", await text(notes, "s")))
        return Judgement(status="fail", reason="worse", rung="recall")

    verdicts(site).pair = pair  # type: ignore[method-assign]
    entry = await loop.apply(site, await planned(site, SIGN))
    assert (entry.state, seen) == ("undone", [("measured", "old")])
    assert await text(notes, "s") == "old"
    assert await notes.fetch("select * from public.beside") == []


async def test_parts_of_both_sorts_are_one_change(site: Site, notes: Db) -> None:
    entry = await loop.apply(site, await planned(site, PART, SIGN))
    assert entry.state == "kept"
    assert (await text(notes), await text(notes, "s")) == ("new", "new")
    await loop.undo(site, entry.id)
    assert (await text(notes), await text(notes, "s")) == ("old", "old")


async def test_nothing_is_measured_only_on_somebodys_word(site: Site, notes: Db) -> None:
    entry = await loop.apply(site, await planned(site, PART, asked=None))
    assert entry.state == "kept"
    assert "somebody's word" in entry.reason
    assert verdicts(site).asked == []


async def test_what_is_measured_follows_from_the_target(site: Site) -> None:
    await loop.apply(site, await planned(site, PART))
    assert verdicts(site).asked[0].collections == ("kb",)
    await loop.apply(
        site,
        await planned(
            site, Part(kind="note", target="a", want="x"), asked=Asked(collections=("other",))
        ),
    )
    assert verdicts(site).asked[1].collections == ("other",)


async def test_nothing_to_do_is_said(site: Site) -> None:
    assert await loop.plan(site, [Part(kind="note", target="a", want="old")], Asked()) is None


async def test_plan_that_no_longer_fits_is_refused(site: Site, notes: Db) -> None:
    id_ = await planned(site, PART)
    await notes.execute("update public.note set text = 'other' where name = 'a'")
    with pytest.raises(StalePlan, match="plan it again"):
        await loop.apply(site, id_)
    assert await text(notes) == "other"


async def test_plan_expires(site: Site, notes: Db) -> None:
    entry = await loop.plan(site, [PART], None, expires_in_s=-1)
    assert entry is not None
    with pytest.raises(StalePlan, match="expired"):
        await loop.apply(site, entry.id)
    assert await text(notes) == "old"


async def test_plan_is_applied_once(site: Site) -> None:
    id_ = await planned(site, PART)
    await loop.apply(site, id_)
    with pytest.raises(Conflict, match="kept already"):
        await loop.apply(site, id_)


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ([], UsageError, "at least one"),
        ([Part(kind="magic", target="a", want=1)], UsageError, "no kind of change"),
        ([PART, PART], UsageError, "named twice"),
        ([Part(kind="note", target="nowhere", want="x")], NotFound, "nowhere"),
    ],
)
async def test_bad_parts_are_refused(
    site: Site, parts: list[Part], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        await loop.plan(site, parts, Asked())
    assert await loop.entries(site) == []


async def test_unknown_change_is_said(site: Site) -> None:
    for call in (loop.apply, loop.undo):
        with pytest.raises(NotFound, match="no change 99"):
            await call(site, 99)


@pytest.mark.parametrize("part", [PART, SIGN], ids=lambda part: part.kind)
async def test_step_that_fails_is_put_back_and_said(site: Site, notes: Db, part: Part) -> None:
    kind = note(site, part.kind)
    id_ = await planned(site, part)
    kind.broken = PreconditionFailed("the disk is full")
    with pytest.raises(PreconditionFailed, match="the disk is full"):
        await loop.apply(site, id_)
    kind.broken = None
    assert await text(notes, part.target) == "old"
    state = (await loop.whole(site, id_)).entry.state
    assert state == ("planned" if part is SIGN else "undone")
    assert (await loop.apply(site, await planned(site, part))).state == "kept"


async def test_change_without_effect_is_no_success(site: Site, notes: Db) -> None:
    kind = note(site)
    id_ = await planned(site, PART)
    confirm = kind.confirm

    async def only_the_old(site: Site, target: str, want: Value) -> None:
        if want == "new":
            raise PreconditionFailed("it reads otherwise")
        await confirm(site, target, want)

    kind.confirm = only_the_old  # type: ignore[method-assign]
    with pytest.raises(PreconditionFailed, match=r"reads otherwise. Change \d+ was put back"):
        await loop.apply(site, id_)
    assert await text(notes) == "old"
    assert (await loop.whole(site, id_)).entry.state == "undone"


async def test_measurement_that_breaks_is_no_pass(site: Site, notes: Db) -> None:
    verdicts(site).error = PreconditionFailed("nothing to measure")
    id_ = await planned(site, PART)
    with pytest.raises(PreconditionFailed, match="nothing to measure"):
        await loop.apply(site, id_)
    assert await text(notes) == "old"


async def test_undo_that_fails_stays_open_until_it_is_mended(site: Site, notes: Db) -> None:
    verdicts(site).status = "fail"
    id_ = await planned(site, PART)
    kind = note(site)

    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        kind.broken = PreconditionFailed("the disk is full")
        return Judgement(status="fail", reason="worse", rung="recall")

    verdicts(site).after = after  # type: ignore[method-assign]
    with pytest.raises(UndoFailed, match="the disk is full"):
        await loop.apply(site, id_)
    assert (await loop.whole(site, id_)).entry.state == "failed"
    with pytest.raises(UndoFailed):
        await loop.plan(site, [SIGN], Asked())
    kind.broken = None
    (settled,) = await loop.resume(site)
    assert (settled.id, settled.state) == (id_, "undone")
    assert await text(notes) == "old"


async def test_one_change_at_a_time(own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        started.set()
        await go_on.wait()
        return Judgement(status="pass", reason="", rung="recall")

    first, second = await planned(site, PART), await planned(site, SIGN)
    verdicts(site).after = after  # type: ignore[method-assign]
    async with opened(own_dsn, tmp_path, None) as app:
        other = make_site(app, own_dsn, tmp_path)
        task = asyncio.create_task(loop.apply(site, first))
        await started.wait()
        with pytest.raises(Conflict, match="another process"):
            await loop.apply(other, second)
        # What is under way is left alone by those who settle.
        assert await settling.settle(other) == []
        go_on.set()
        assert (await task).state == "kept"
        assert (await loop.apply(other, second)).state == "kept"


async def test_interrupted_it_is_put_back_at_once(site: Site, notes: Db) -> None:
    started = asyncio.Event()

    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    verdicts(site).after = after  # type: ignore[method-assign]
    id_ = await planned(site, PART)
    task = asyncio.create_task(loop.apply(site, id_))
    await started.wait()
    assert await text(notes) == "new"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await text(notes) == "old"
    entry = (await loop.whole(site, id_)).entry
    assert (entry.state, entry.reason) == ("undone", "interrupted")


async def points(site: Site, parts: tuple[Part, ...]) -> list[str]:
    """Return every point that a change passes on its way, in order."""
    passed: list[str] = []
    site.reached = passed.append
    await loop.apply(site, await planned(site, *parts))
    return passed


async def reset(notes: Db) -> None:
    await notes.execute("update public.note set text = 'old'")
    await notes.execute("delete from public.beside")


@pytest.mark.parametrize("status", ["pass", "fail"])
@pytest.mark.parametrize(
    "parts", [(PART,), (SIGN,), (SHARED,), (PART, SIGN)], ids=["note", "sign", "shared", "both"]
)
async def test_killed_at_any_point_the_next_command_settles_it(
    own_dsn: Dsn, notes: Db, tmp_path: Path, parts: tuple[Part, ...], status: str
) -> None:
    async with opened(own_dsn, tmp_path, None) as app:
        site = make_site(app, own_dsn, tmp_path)
        verdicts(site).status = status
        every = await points(site, parts)
    assert len(every) >= 10
    for number, point in enumerate(every):
        if point in every[:number]:
            continue
        await reset(notes)
        async with opened(own_dsn, tmp_path, None) as app:
            site = make_site(app, own_dsn, tmp_path)
            verdicts(site).status = status
            id_ = await planned(site, *parts)
            site.reached = killing_at(point)
            with pytest.raises(Killed):
                await loop.apply(site, id_)
        # The owner lives: it is this very process. As if it did not:
        await notes.execute("update change set owner = null where closed_at is null")
        async with opened(own_dsn, tmp_path, None) as app:
            site = make_site(app, own_dsn, tmp_path)
            verdicts(site).status = status
            await loop.resume(site)
            entry = (await loop.whole(site, id_)).entry
            found = [await text(notes, part.target) for part in parts]
            assert entry.state in ("kept", "undone", "planned"), (point, entry)
            assert set(found) == {"new" if entry.state == "kept" else "old"}, (point, entry)
            assert entry.state == "kept" or not await notes.fetch("select from public.beside"), (
                point
            )
            # And nothing is in the way of the next one.
            follow = Part(kind=parts[0].kind, target=parts[0].target, want="next")
            assert (await loop.apply(site, await planned(site, follow, asked=None))).state == "kept"
            assert not await journal_of(site)
            async with site.session(cluster.DATABASE) as session:
                assert await cluster.holder(session) is None


async def journal_of(site: Site) -> object:
    return journal.read(site.data_dir, await turns.system_id(site))


def killing_at(point: str) -> Callable[[str], None]:
    def reached(name: str) -> None:
        if name == point:
            raise Killed(point)

    return reached


async def test_lost_connection_leaves_it_to_the_next_command(site: Site, notes: Db) -> None:
    async def after(asked: Asked, before: Mapping[str, Any]) -> Judgement:
        note(site).broken = DatabaseUnreachable("gone for good")
        raise DatabaseUnreachable("gone")

    verdicts(site).after = after  # type: ignore[method-assign]
    id_ = await planned(site, PART)
    with pytest.raises(DatabaseUnreachable, match=rf"gone for good. Change {id_} is open"):
        await loop.apply(site, id_)
    assert (await loop.whole(site, id_)).entry.state == "undoing"
    note(site).broken = None
    (settled,) = await settling.settle(site)
    assert (settled.id, settled.state) == (id_, "undone")
    assert await text(notes) == "old"


async def test_two_databases_of_a_server_never_change_it_at_once(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    async with own_database(own_dsn) as dsn, opened(dsn, other_folder, None) as app:
        other = make_site(app, dsn, other_folder)
        db = await connect(dsn)
        await db.execute("create table public.note (name text primary key, text text not null)")
        await db.execute("insert into public.note values ('a', 'old')")
        site.reached = killing_at("measuring")
        first = await planned(site, SHARED)
        with pytest.raises(Killed):
            await loop.apply(site, first)
        second = await planned(other, SHARED)
        with pytest.raises(Conflict, match=f"change {first} of database '{own_dsn.database}'"):
            await loop.apply(other, second)
        assert await text(db) == "old"
        await settling.settle(site)
        assert (await loop.apply(other, second)).state == "kept"
        await db.close()


async def test_place_taken_for_a_change_that_never_opened_is_given_back(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    async with own_database(own_dsn) as dsn, opened(dsn, folder, None) as app:
        other = make_site(app, dsn, folder)
        db = await connect(dsn)
        await db.execute("create table public.note (name text primary key, text text not null)")
        await db.close()
        second = await planned(other, SHARED)
        site.reached = killing_at("cluster-taken")
        first = await planned(site, SHARED)
        with pytest.raises(Killed):
            await loop.apply(site, first)
        # Whoever is in its way is told to have it resumed there.
        with pytest.raises(Conflict, match="`ragline change resume` there first"):
            await loop.apply(other, second)
        site.reached = lambda _point: None
        await loop.resume(site)
        assert (await loop.apply(other, second)).state == "kept"


async def test_place_of_a_dropped_database_is_free(
    own_dsn: Dsn, site: Site, notes: Db, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    async with own_database(own_dsn) as dsn, opened(dsn, folder, None) as app:
        other = make_site(app, dsn, folder)
        db = await connect(dsn)
        await db.execute("create table public.note (name text primary key, text text not null)")
        await db.close()
        other.reached = killing_at("measuring")
        id_ = await planned(other, SHARED)
        with pytest.raises(Killed):
            await loop.apply(other, id_)
    assert (await loop.apply(site, await planned(site, SHARED))).state == "kept"


async def test_copy_of_a_database_never_touches_what_its_original_changes(
    own_dsn: Dsn, site: Site, notes: Db
) -> None:
    site.reached = killing_at("measuring")
    id_ = await planned(site, SHARED)
    with pytest.raises(Killed):
        await loop.apply(site, id_)
    await notes.execute("update change set owner = null where id = $1", id_)
    # As in a dump restored elsewhere: the change is open in the ledger, and the server knows nothing.
    async with site.session(cluster.DATABASE) as session:
        await session.execute("delete from ragline_cluster.open_change")
    journal.remove(site.data_dir, await turns.system_id(site))
    (settled,) = await settling.settle(site)
    assert settled.state == "undone"
    assert "copy" in settled.reason
    assert await text(notes) == "new"


async def test_wish_to_keep_what_is_undecided_outlives_a_restart(site: Site, notes: Db) -> None:
    note(site).restarts = True
    verdicts(site).status = "inconclusive"
    entry = await loop.apply(site, await planned(site, PART, asked=Asked(keep_inconclusive=True)))
    assert entry.waits_for == "restart"
    (ended,) = await loop.resume(site)
    assert ended.state == "kept"
    assert "somebody's word" in ended.reason


async def test_where_the_ledger_was_rewound_the_journal_counts(site: Site, notes: Db) -> None:
    site.reached = killing_at("measuring")
    id_ = await planned(site, SHARED)
    with pytest.raises(Killed):
        await loop.apply(site, id_)
    key = (await loop.whole(site, id_)).entry.key
    # A restored backup of the database from before the change, and the note as it is now.
    await notes.execute("set session_replication_role = replica")
    await notes.execute("delete from change_step")
    await notes.execute("delete from change_history")
    await notes.execute("delete from change")
    await notes.execute("set session_replication_role = origin")
    assert await text(notes) == "new"
    (settled,) = await settling.settle(site)
    assert (settled.state, settled.key, settled.snapshot) == ("undone", key, ("old",))
    assert "restored" in settled.reason
    assert await text(notes) == "old"
    assert not await journal_of(site)


async def test_restart_that_nobody_can_do_is_waited_for(site: Site, notes: Db) -> None:
    note(site).restarts = True
    entry = await loop.apply(site, await planned(site, PART))
    assert (entry.state, entry.waits_for) == ("applied", "restart")
    assert "ragline change resume" in entry.reason
    assert await settling.settle(site) == []
    with pytest.raises(Conflict, match=f"change {entry.id} is open"):
        await loop.apply(site, await planned(site, SIGN, asked=None))
    # What was prepared meanwhile goes on as well.
    ended, other = await loop.resume(site)
    assert (ended.id, ended.state, other.state) == (entry.id, "kept", "kept")


async def test_waiting_change_can_be_taken_back(site: Site, notes: Db) -> None:
    note(site).restarts = True
    entry = await loop.apply(site, await planned(site, PART))
    ended = await loop.undo(site, entry.id)
    assert ended.state == "undone"
    assert await text(notes) == "old"


async def test_parts_share_one_restart(own_dsn: Dsn, notes: Db, tmp_path: Path) -> None:
    restart = Restarts()
    async with opened(own_dsn, tmp_path, None) as app:
        site = make_site(app, own_dsn, tmp_path, restart)
        note(site).restarts = True
        parts = [Part(kind="note", target=name, want="new") for name in ("a", "b", "c")]
        entry = await loop.apply(site, await planned(site, *parts))
        assert (entry.state, restart.count) == ("kept", 1)
        await loop.undo(site, entry.id)
        assert restart.count == 2


async def test_what_was_replaced_is_dropped_when_its_time_is_over(site: Site, notes: Db) -> None:
    await notes.execute("insert into public.beside values ('s', 'old')")
    entry = await loop.plan(site, [SIGN], None, keep_for_s=0)
    assert entry is not None
    await loop.apply(site, entry.id)
    await settling.settle(site)
    assert await notes.fetch("select text from public.beside") == []
    assert (await loop.whole(site, entry.id)).entry.retire_at is None


async def test_two_changes_of_one_thing_are_never_prepared_at_once(site: Site) -> None:
    site.reached = killing_at("sign:inside")
    id_ = await planned(site, SIGN)
    with pytest.raises(Killed):
        await loop.apply(site, id_)
    site.reached = lambda _point: None
    with pytest.raises(Conflict, match=f"change {id_} .* of the same thing"):
        await loop.apply(site, await planned(site, SIGN))
    given_up = await loop.undo(site, id_)
    assert given_up.state == "undone"


async def test_ledger_keeps_its_promises_itself(site: Site, notes: Db) -> None:
    entry = await loop.apply(site, await planned(site, PART))
    for statement in (
        "delete from change",
        "update change set snapshot = '[]'",
        "update change set state = 'planned', closed_at = null",
        "update change_history set state = 'undone'",
        "delete from change_history",
        "update change set title = 'something else'",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await notes.execute(statement)
    two = """
        insert into change (
            title, parts, plan, plan_hash, is_cluster_wide, state, snapshot, expires_at
        )
    """
    values = f"values ('x', '[]', '{json.dumps({})}', '', false, 'applying', '[]', now())"
    await notes.execute(f"{two} {values}")
    with pytest.raises(asyncpg.UniqueViolationError):
        await notes.execute(f"{two} {values}")
    assert entry.state == "kept"

"""Backups of what is unusual, and restores that could write where they may not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from conftest import connect
from ragline.core.dsn import Dsn
from ragline.db import backups
from ragline.errors import Conflict, LockTimeout, NotFound, PreconditionFailed, UsageError
from ragline.ops import backup, backup_dump, backup_in_place, backup_restore, machine, programs

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def in_place(dsn: Dsn, made: backups.Backup, **options: Any) -> backup_restore.Restored:
    wanted: dict[str, Any] = {"is_applied": True, "may_lose_newer": False, **options}
    return await backup_in_place.in_place(dsn, made, lock_timeout_ms=500, **wanted)


_ODD = 'Sch"ema $x.Täb le*?|"q'


async def test_odd_names_and_values_come_back_as_they_were(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await db.execute(
        r"""
        create schema "Sch""ema $x";
        create table "Sch""ema $x"."Täb le*?|""q" (id int primary key, v text);
        insert into "Sch""ema $x"."Täb le*?|""q" values (1, null), (2, '');
        create table public.many (
            id bigint generated always as identity primary key, f float8, r real, b bytea, j json,
            jb jsonb, n numeric, a text[], ts timestamptz, iv interval,
            g int generated always as (id::int * 2) stored, rg regclass, m money, "char" "char",
            e tsvector, bt bit(3), ip inet
        );
        insert into public.many (f, r, b, j, jb, n, a, ts, iv, rg, m, "char", e, bt, ip) values
            ('nan', '-0', '\x00ff', '{"b":1, "a" : 1.0}', '{"b":1, "a" : 1.0}', '1.500',
             '[0:1]={a,NULL}', now(), '1 mon 3 days 04:05:06.7', 'public.many', '12.34', 'x', 'a:1',
             '101', '::1'),
            (1e-310, 1.17e-38, '', 'null', 'null', 'nan', '{}', 'infinity', '0', null, null, null,
             null, null, null)
        """
    )
    made = await backup.create(own_dsn, db, [_ODD, "public.many"], folder=tmp_path)
    assert (await backup.verify(own_dsn, db, str(made.id))).verified_at is not None
    await db.execute(
        """delete from "Sch""ema $x"."Täb le*?|""q" where id = 1;
           update public.many set f = 1 where id = 2; delete from public.many where id = 1"""
    )

    await in_place(own_dsn, made)

    assert await backups.contents(db, made.tables) == made.contents
    await db.execute("""update "Sch""ema $x"."Täb le*?|""q" set v = '' where id = 1""")
    assert await backups.contents(db, [_ODD]) != {_ODD: made.contents[_ODD]}  # null is not ''


# Tables that inherit


@pytest.fixture
async def heirs(db: Db) -> Db:
    await db.execute(
        """create table public.parent (id int primary key, v text);
           create table public.child (own int, primary key (id)) inherits (public.parent);
           alter table public.parent add column late int;
           insert into public.parent values (1, 'p', 1);
           insert into public.child values (2, 'c', 5, 6)"""
    )
    return db


async def test_rows_of_heirs_come_back_to_the_table_that_they_were_in(
    heirs: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    """A restored heir has its columns in another order."""
    made = await backup.create(own_dsn, heirs, ["public.parent", "public.child"], folder=tmp_path)
    assert (await backup.verify(own_dsn, heirs, str(made.id))).verified_at is not None
    await heirs.execute("delete from public.parent")

    await in_place(own_dsn, made)

    assert await backups.contents(heirs, made.tables) == made.contents
    assert await heirs.fetchval("select count(*) from public.parent") == 2


async def test_a_parent_put_back_alone_leaves_the_rows_of_its_heirs(
    heirs: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    made = await backup.create(own_dsn, heirs, ["public.parent"], folder=tmp_path)

    planned = await in_place(own_dsn, made, is_applied=False)
    assert [(one.inserted, one.updated, one.newer) for one in planned.differences] == [(0, 0, 0)]
    await in_place(own_dsn, made, may_lose_newer=True)

    assert await heirs.fetchval("select count(*) from public.child") == 1


# Others at work meanwhile


@pytest.fixture
async def numbers(db: Db) -> Db:
    await db.execute("create table public.t (id int primary key)")
    await db.execute("insert into public.t select generate_series(1, 100)")
    return db


async def test_a_table_cannot_be_emptied_between_the_snapshot_and_its_lock(
    numbers: Db, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRUNCATE is no part of any snapshot: the backup would hold nothing, and be verified."""
    seen = []
    written = backup_dump._written

    async def late(*arguments: Any) -> tuple[int, str]:
        other = await connect(own_dsn)
        await other.execute("set lock_timeout = '100ms'")
        try:
            await other.execute("truncate public.t")
        except asyncpg.LockNotAvailableError:
            seen.append("waits")
        finally:
            await other.close()
        return await written(*arguments)

    monkeypatch.setattr(backup_dump, "_written", late)

    made = await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)

    assert seen == ["waits"]
    assert made.contents["public.t"]["rows"] == 100


async def test_a_table_dropped_meanwhile_is_a_sentence(
    numbers: Db, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumped = backup_dump.dumped

    async def late(*arguments: Any, **options: Any) -> Any:
        await numbers.execute("drop table public.t")
        return await dumped(*arguments, **options)

    monkeypatch.setattr(backup_dump, "dumped", late)

    with pytest.raises(Conflict, match="dropped or renamed meanwhile"):
        await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


@pytest.mark.parametrize("locked", ["public.t", "public.u"])
async def test_a_locked_table_is_waited_for_and_then_said(
    numbers: Db, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    monkeypatch.setattr(backups, "LOCK_WAIT_MS", 200)
    await numbers.execute("create table public.u ()")
    other = await connect(own_dsn)
    try:
        async with other.transaction():
            await other.execute(f"lock table {locked}")
            with pytest.raises(LockTimeout):
                await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    finally:
        await other.close()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


def test_pg_dump_that_waited_for_a_lock_may_be_run_again(own_dsn: Dsn) -> None:
    said = "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout"

    assert isinstance(backup_dump._refused(own_dsn, said), LockTimeout)


# Restores that write more than they should


async def test_sequences_go_on_after_the_rows_that_came_back(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await db.execute(
        """create table public.t (id int generated always as identity primary key, v int);
           insert into public.t (v) values (1), (2)"""
    )
    made = await backup.create(own_dsn, db, ["public.t"], folder=tmp_path)
    await db.execute("truncate public.t restart identity")

    await in_place(own_dsn, made)

    assert await db.fetchval("insert into public.t (v) values (3) returning id") == 3


async def test_no_foreign_key_passes_a_change_on_to_a_table_outside(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await db.execute(
        """create table public.t (id int primary key, code text unique);
           create table public.u (c text references public.t (code) on update cascade);
           insert into public.t values (1, 'a'); insert into public.u values ('a')"""
    )
    made = await backup.create(own_dsn, db, ["public.t"], folder=tmp_path)
    await db.execute("update public.t set code = 'b'")

    planned = await in_place(own_dsn, made, is_applied=False)
    assert planned.refused is not None
    with pytest.raises(PreconditionFailed, match=r"public\.u refers to values"):
        await in_place(own_dsn, made)
    assert await db.fetchval("select c from public.u") == "b"


async def test_triggers_of_partitions_rest_too(db: Db, own_dsn: Dsn, tmp_path: Path) -> None:
    await db.execute(
        """create table public.log (n int);
           create function public.note() returns trigger language plpgsql as
               $$ begin insert into public.log values (1); return new; end $$;
           create table public.p (id int primary key) partition by range (id);
           create table public.p1 partition of public.p for values from (0) to (10);
           create trigger a before insert on public.p1 for each row execute function note();
           create trigger b after insert on public.p for each row execute function note();
           insert into public.p values (1), (2); delete from public.log"""
    )
    made = await backup.create(own_dsn, db, ["public.p"], folder=tmp_path)
    await db.execute("delete from public.p")

    await in_place(own_dsn, made)

    assert await db.fetchval("select count(*) from public.p") == 2
    assert await db.fetchval("select count(*) from public.log") == 0
    await db.execute("insert into public.p values (3)")
    assert await db.fetchval("select count(*) from public.log") == 2  # they are on again


async def test_tables_that_refer_to_each_other_come_back_together(
    db: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await db.execute(
        """create table public.a (id int primary key, b int);
           create table public.b (id int primary key, a int references public.a);
           alter table public.a add foreign key (b) references public.b;
           insert into public.a values (1, null); insert into public.b values (1, 1);
           update public.a set b = 1"""
    )
    made = await backup.create(own_dsn, db, ["public.a", "public.b"], folder=tmp_path)
    await db.execute("update public.a set b = null; delete from public.b; delete from public.a")

    await in_place(own_dsn, made)

    assert await backups.contents(db, made.tables) == made.contents
    waiting = "select count(*) from pg_constraint where contype = 'f' and condeferrable"
    assert await db.fetchval(waiting + " and conrelid = 'public.a'::regclass") == 0


# Names, rights, large objects


@pytest.mark.parametrize("name", ["", "x" * 64, "pg_mine", "ragline_scratch_1_x", "a\tb"])
async def test_a_name_that_cannot_be_or_would_be_swept_away_is_refused(
    numbers: Db, own_dsn: Dsn, tmp_path: Path, name: str
) -> None:
    made = await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    for restore in (backup_restore.into_schema, backup_restore.into_database):
        for is_applied in (False, True):
            with pytest.raises(UsageError, match="cannot name a"):
                await restore(own_dsn, made, name, is_applied=is_applied)


async def test_nobody_else_may_enter_what_is_restored_beside(
    numbers: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    """Privileges are not restored: a function taken from PUBLIC would be everybody's there."""
    made = await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    async with backup.restored(own_dsn, made) as there:
        may = "select has_database_privilege('pg_monitor', $1, 'connect')"
        assert not await numbers.fetchval(may, there.database)


@pytest.fixture
async def ordinary(db: Db, own_dsn: Dsn) -> AsyncIterator[Dsn]:
    """A user who owns one table and may do nothing else."""
    await db.execute("drop role if exists ragline_ordinary; create role ragline_ordinary login")
    await db.execute(
        """create table public.mine (id int primary key); insert into public.mine values (1), (2);
           alter table public.mine enable row level security;
           create policy only_one on public.mine using (id = 1);
           alter table public.mine owner to ragline_ordinary"""
    )
    yield own_dsn.login("ragline_ordinary", None)
    await db.execute("drop owned by ragline_ordinary; drop role ragline_ordinary")


async def test_rows_hidden_from_their_owner_are_no_backup(
    db: Db, ordinary: Dsn, tmp_path: Path
) -> None:
    await db.execute("alter table public.mine force row level security")

    with pytest.raises(PreconditionFailed, match=r"row-level security|permission denied"):
        await backup.create(ordinary, db, ["public.mine"], folder=tmp_path)
    assert await backups.every(db) == []


async def test_sequences_that_may_not_be_read_are_a_sentence(own_dsn: Dsn) -> None:
    said = 'failed to get data for sequence "s"; user may lack SELECT privilege on the sequence'

    assert "a superuser" in str(backup_dump._refused(own_dsn, said))


async def test_a_backup_of_all_has_the_large_objects(db: Db, own_dsn: Dsn, tmp_path: Path) -> None:
    oid = await db.fetchval("select lo_from_bytea(0, 'abc')")
    made = await backup.create(own_dsn, db, None, folder=tmp_path)

    async with backup.restored(own_dsn, made) as there:
        other = await connect(there)
        assert await other.fetchval("select lo_get($1)", oid) == b"abc"
        await other.close()


# What a backup is worth


async def test_a_machine_that_cannot_restore_does_not_make_a_backup_worse(
    numbers: Db, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    await backup.verify(own_dsn, numbers, str(made.id))
    monkeypatch.setattr(programs, "_candidates", lambda _name: [])

    with pytest.raises(PreconditionFailed, match="pg_restore of PostgreSQL"):
        await backup.verify(own_dsn, numbers, str(made.id))

    assert (await backups.one(numbers, str(made.id))).verified_at is not None


async def test_nothing_is_restored_onto_a_disk_that_has_no_room_for_it(
    numbers: Db, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    monkeypatch.setattr(machine, "free_disk_bytes", lambda _folder: 1024)

    with pytest.raises(PreconditionFailed, match="where the database lies"):
        await backup.verify(own_dsn, numbers, str(made.id))


async def test_one_table_of_a_backup_comes_back_without_the_others(
    numbers: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await numbers.execute("create table public.keyless (n int)")
    made = await backup.create(own_dsn, numbers, ["public.t", "public.keyless"], folder=tmp_path)
    await numbers.execute(
        "delete from public.t where id < 9; insert into public.keyless values (1)"
    )

    with pytest.raises(PreconditionFailed, match="no primary key"):
        await in_place(own_dsn, made)
    with pytest.raises(NotFound, match=r"public\.t"):
        made.only(["public.u"])
    await in_place(own_dsn, made.only(["public.t"]))

    assert await backups.contents(numbers, ["public.t"]) == {"public.t": made.contents["public.t"]}
    assert await numbers.fetchval("select count(*) from public.keyless") == 1


async def test_a_backup_that_an_undo_needs_is_not_removed(
    numbers: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    made = await backup.create(own_dsn, numbers, ["public.t"], folder=tmp_path)
    plan = {"steps": [{"text": "up", "arguments": {"backups": {"public.t": made.id}}}]}
    id_ = await numbers.fetchval(
        """insert into ragline.change (title, parts, plan, plan_hash, expires_at, is_cluster_wide)
           values ('a migration', '[]', $1::jsonb, 'x', now() + interval '1 hour', false)
           returning id""",
        json.dumps(plan),
    )
    await backup.refuse_needed(numbers, made)  # a plan is nothing yet
    await numbers.execute("alter table ragline.change disable trigger user")
    await numbers.execute(
        "update ragline.change set state = 'applied', opened_at = now(), snapshot = '{}' "
        "where id = $1",
        id_,
    )

    with pytest.raises(Conflict, match=f"undo of change {id_} "):
        await backup.remove(numbers, str(made.id))
    assert Path(made.path).exists()  # noqa: ASYNC240

    await backup.remove(numbers, str(made.id), is_needed_no_more=True)
    assert not Path(made.path).exists()  # noqa: ASYNC240

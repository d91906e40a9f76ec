"""Backups: consistent, verified by restoring, and put back without losing what came later."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from conftest import connect
from ragline.core.dsn import Dsn
from ragline.db import backups
from ragline.db.backups import Backup
from ragline.errors import Conflict, LockTimeout, NotFound, PreconditionFailed, UsageError
from ragline.ops import backup, backup_in_place, backup_restore, programs, scratch
from ragline.ops.embedded import wheel
from servers import DEBIAN_15, ask, running

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_MAKE = """
    create schema "My shop";
    create type "My shop".size as enum ('small', 'large');
    create table "My shop"."Item" (
        id bigint primary key, name text not null, price numeric, weight double precision,
        size "My shop".size, embedding vector(3), words tsvector generated always as
        (to_tsvector('simple', name)) stored, at timestamptz default now()
    );
    create index on "My shop"."Item" using hnsw (embedding vector_l2_ops);
    create table "My shop".line (
        item bigint references "My shop"."Item" on delete cascade, number int, note jsonb,
        primary key (item, number)
    );
    create table public.other (id int primary key references public.other, n int);
    insert into "My shop"."Item" (id, name, price, weight, size, embedding)
    select n, 'item ' || n, n / 3.0, random(), 'small', array[random(), n, 0.1]::vector
    from generate_series(1, 500) n;
    insert into "My shop".line select n, 1, '{"a": 1.50}' from generate_series(1, 500) n;
    insert into public.other values (1, 1), (2, 2)
"""
_ITEM, _LINE = "My shop.Item", "My shop.line"


@pytest.fixture
async def shop(db: Db) -> Db:
    await db.execute(_MAKE)
    return db


@pytest.fixture
async def kept(shop: Db, own_dsn: Dsn, tmp_path: Path) -> Backup:
    """A backup of both tables of the shop."""
    return await backup.create(own_dsn, shop, [_ITEM, _LINE], folder=tmp_path / "b", name="shop")


async def in_place(dsn: Dsn, made: Backup, **options: Any) -> backup_restore.Restored:
    wanted: dict[str, Any] = {"is_applied": True, "may_lose_newer": False, **options}
    return await backup_in_place.in_place(dsn, made, lock_timeout_ms=500, **wanted)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        handle.write(b"damaged")


def unfinish(file: Path) -> None:
    """Leave what a killed command does: a file that has not its name yet, and one nobody knows."""
    file.rename(file.with_name(f".{file.name}.part"))
    mark = file.name.split("-")[-2]
    (file.parent / f".gone-{mark}-1.dump.part").write_text("half")
    (file.parent / ".gone-another-1.dump.part").write_text("of another database")
    (file.parent / "mine.dump").write_text("somebody's")


async def content(dsn: Dsn, *tables: str) -> dict[str, dict[str, Any]]:
    db = await connect(dsn)
    try:
        return await backups.contents(db, tables)
    finally:
        await db.close()


async def test_a_backup_holds_what_its_tables_held_and_only_its_owner_may_read_it(
    kept: Backup, own_dsn: Dsn
) -> None:
    file = Path(kept.path)

    assert kept.tables == (_ITEM, _LINE)
    assert kept.contents == await content(own_dsn, _ITEM, _LINE)
    assert kept.contents[_ITEM]["rows"] == 500
    found = file.lstat()  # noqa: ASYNC240
    assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o600, kept.size_bytes)
    assert names(file.parent) == [file.name]
    assert kept.verified_at is None


async def test_the_hash_sees_one_changed_value_and_no_change_of_order(
    shop: Db, own_dsn: Dsn
) -> None:
    before = await content(own_dsn, _ITEM)
    await shop.execute("""update "My shop"."Item" set price = price where id < 100""")
    assert await content(own_dsn, _ITEM) == before

    await shop.execute("""update "My shop"."Item" set embedding = '[1,2,3]' where id = 7""")
    assert (await content(own_dsn, _ITEM))[_ITEM]["hash"] != before[_ITEM]["hash"]


async def test_a_backup_is_of_one_moment_although_somebody_writes(
    shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    """Items are written with their lines: a backup that saw one without the other would be torn."""
    is_done = asyncio.Event()

    async def write() -> None:
        writer = await connect(own_dsn)
        number = 1000
        while not is_done.is_set():
            number += 1
            async with writer.transaction():
                await writer.execute(
                    """insert into "My shop"."Item" (id, name) values ($1, 'new')""", number
                )
                await writer.execute("""insert into "My shop".line values ($1, 1)""", number)
        await writer.close()

    writing = asyncio.create_task(write())
    try:
        made = await backup.create(own_dsn, shop, [_ITEM, _LINE], folder=tmp_path)
    finally:
        is_done.set()
        await writing
    verified = await backup.verify(own_dsn, shop, str(made.id))

    assert verified.verified_at is not None
    assert made.contents[_ITEM]["rows"] == made.contents[_LINE]["rows"]


async def test_a_verified_backup_covers_its_tables_until_its_file_is_another(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    assert await backups.covering(shop, [_ITEM]) is None  # not verified yet

    verified = await backup.verify(own_dsn, shop, "shop")

    assert verified.verification is not None
    assert verified.verification["tables"] == kept.contents
    assert await backups.covering(shop, [_ITEM, _LINE]) == verified
    assert await backups.covering(shop, [_ITEM, "public.other"]) is None
    assert await backups.covering(shop, [_ITEM], before=kept.created_at) is None
    assert await scratch.sweep(own_dsn) == []
    damage(Path(kept.path))
    assert await backups.covering(shop, [_ITEM]) is None
    with pytest.raises(PreconditionFailed, match="not the file that was written"):
        await backup.verify(own_dsn, shop, "shop")
    assert (await backups.one(shop, "shop")).verified_at is None


async def test_a_backup_that_holds_other_rows_than_were_counted_is_not_verified(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    await shop.execute(
        "update backup set contents = jsonb_set(contents, array[$1, 'rows'], '501')", _LINE
    )

    with pytest.raises(PreconditionFailed, match="500 rows restored, 501 backed up"):
        await backup.verify(own_dsn, shop, str(kept.id))


async def test_all_tables_of_a_database_are_backed_up_and_verified(
    shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    made = await backup.create(own_dsn, shop, None, folder=tmp_path)

    assert {"ragline.chunk", _ITEM, "public.other"} <= set(made.tables)
    assert (await backup.verify(own_dsn, shop, str(made.id))).verified_at is not None


async def test_a_partitioned_table_is_one_table(shop: Db, own_dsn: Dsn, tmp_path: Path) -> None:
    await shop.execute(
        "create table public.parted (id int) partition by range (id);"
        "create table public.part_1 partition of public.parted for values from (0) to (10);"
        "create table public.part_2 partition of public.parted for values from (10) to (20);"
        "insert into public.parted select generate_series(0, 19)"
    )
    made = await backup.create(own_dsn, shop, ["parted", "part_1"], folder=tmp_path)

    assert made.tables == ("public.parted",)
    assert made.contents["public.parted"]["rows"] == 20
    assert (await backup.verify(own_dsn, shop, str(made.id))).verified_at is not None


# Putting back


async def test_in_place_puts_back_what_was_deleted_and_changed_and_nothing_else(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    await shop.execute(
        """update "My shop"."Item" set name = 'spoilt', embedding = null where id < 9"""
    )
    await shop.execute("""delete from "My shop"."Item" where id between 100 and 109""")
    untouched = """select array_agg(ctid order by id) from "My shop"."Item" where id > 200"""
    before = await shop.fetchval(untouched)

    planned = await in_place(own_dsn, kept, is_applied=False)
    assert [(one.table, one.inserted, one.updated, one.newer) for one in planned.differences] == [
        (_ITEM, 10, 8, 0),
        (_LINE, 10, 0, 0),
    ]
    assert await content(own_dsn, _ITEM) != {_ITEM: kept.contents[_ITEM]}  # only planned

    await in_place(own_dsn, kept)
    assert await content(own_dsn, _ITEM, _LINE) == kept.contents
    assert await shop.fetchval(untouched) == before


async def test_rows_that_came_later_are_lost_only_when_told_so(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    await shop.execute("""insert into "My shop"."Item" (id, name) values (900, 'later')""")

    planned = await in_place(own_dsn, kept, is_applied=False)
    assert planned.refused is not None
    with pytest.raises(PreconditionFailed, match=r"1 in My shop\.Item.*nothing was changed"):
        await in_place(own_dsn, kept)
    assert await shop.fetchval("""select count(*) from "My shop"."Item" where id = 900""") == 1

    await in_place(own_dsn, kept, may_lose_newer=True)
    assert await content(own_dsn, _ITEM, _LINE) == kept.contents


async def test_rows_of_a_table_outside_of_the_backup_are_never_deleted_along(
    shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    made = await backup.create(own_dsn, shop, [_ITEM], folder=tmp_path)
    await shop.execute(
        """insert into "My shop"."Item" (id, name) values (900, 'later');
           insert into "My shop".line values (900, 1)"""
    )

    with pytest.raises(PreconditionFailed, match="is not in the backup"):
        await in_place(own_dsn, made, may_lose_newer=True)
    assert await shop.fetchval("""select count(*) from "My shop".line where item = 900""") == 1


async def test_triggers_rest_while_rows_are_put_back_and_are_as_they_were_afterwards(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    await shop.execute(
        """create function spoil() returns trigger language plpgsql as
           $$ begin new.name = 'triggered'; return new; end $$;
           create trigger a before insert or update on "My shop"."Item"
               for each row execute function spoil();
           create trigger b before insert on "My shop"."Item"
               for each row execute function spoil();
           alter table "My shop"."Item" disable trigger b;
           delete from "My shop"."Item" where id = 5"""
    )

    await in_place(own_dsn, kept)

    assert await content(own_dsn, _ITEM, _LINE) == kept.contents
    states = "select tgname, tgenabled::text from pg_trigger where tgname in ('a', 'b') order by 1"
    assert [tuple(row) for row in await shop.fetch(states)] == [("a", "O"), ("b", "D")]


async def test_a_table_with_other_columns_goes_into_a_schema_beside(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    await shop.execute("""alter table "My shop"."Item" drop column price""")

    with pytest.raises(PreconditionFailed, match=r"other columns.*price.*--into-schema"):
        await in_place(own_dsn, kept)
    await backup_restore.into_schema(own_dsn, kept, "Old shop", is_applied=True)

    same = """
        select count(*) from "Old shop"."Item" o join "My shop"."Item" i using (id)
        where o.price = id / 3.0 and o.embedding::text = i.embedding::text and o.size = i.size
          and o.weight = i.weight and o.at = i.at
    """
    assert await shop.fetchval(same) == 500
    with pytest.raises(Conflict):
        await backup_restore.into_schema(own_dsn, kept, "Old shop", is_applied=True)


async def test_a_database_beside_has_rows_indexes_and_keys(
    shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    made = await backup.create(own_dsn, shop, None, folder=tmp_path)
    name = f"{own_dsn.database}_restored"
    planned = await backup_restore.into_database(own_dsn, made, name, is_applied=False)
    assert not planned.is_applied

    try:
        await backup_restore.into_database(own_dsn, made, name, is_applied=True)
        there = await connect(own_dsn.on(name))
        indexes = await there.fetchval(
            """select count(*) from pg_indexes where schemaname = 'My shop' and indexdef ~ 'hnsw'"""
        )
        await there.close()
        assert indexes == 1
        assert await content(own_dsn.on(name), *made.tables) == made.contents
    finally:
        await shop.execute(f"drop database if exists {name} with (force)")


async def test_a_table_that_is_locked_is_left_alone(kept: Backup, shop: Db, own_dsn: Dsn) -> None:
    await shop.execute("""delete from "My shop".line where item = 5""")
    async with shop.transaction():
        await shop.execute("""lock table "My shop".line in row exclusive mode""")
        with pytest.raises(LockTimeout):
            await in_place(own_dsn, kept)

    assert await shop.fetchval("""select count(*) from "My shop".line""") == 499


# What is refused


async def test_what_cannot_be_backed_up_is_a_sentence(
    shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await shop.execute(
        """create view public.seen as select 1; create table public."dotted.name" ();
           create table public.twice (); create table "My shop".twice ();
           create table public."Items" ()"""
    )

    for name, error, said in (
        ("items", NotFound, "nearest"),
        ("public.seen", UsageError, "a view"),
        ("public.dotted.name", UsageError, "dot"),
        ("twice", UsageError, "name the schema"),
    ):
        with pytest.raises(error, match=said):
            await backup.create(own_dsn, shop, [name], folder=tmp_path)
    assert names(tmp_path) == []


async def test_a_user_who_may_not_read_everything_gets_no_backup(
    shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    await shop.execute(
        "drop role if exists ragline_backup_test; create role ragline_backup_test login"
    )
    try:
        reader = own_dsn.login("ragline_backup_test", None)
        with pytest.raises(PreconditionFailed, match="a superuser"):
            await backup.create(reader, shop, ["public.other"], folder=tmp_path)
        assert names(tmp_path) == []
        assert await backups.every(shop) == []
    finally:
        await shop.execute("drop role ragline_backup_test")


async def test_a_name_is_taken_once_and_free_again_when_removed(
    kept: Backup, shop: Db, own_dsn: Dsn, tmp_path: Path
) -> None:
    with pytest.raises(Conflict, match="'shop'"):
        await backup.create(own_dsn, shop, ["public.other"], folder=tmp_path, name="shop")
    for name in ("1", "a b", "../x", "x" * 65):
        with pytest.raises(UsageError):
            backup.check_name(name)

    await backup.remove(shop, "shop")

    assert names(tmp_path / "b") == []
    await backup.create(own_dsn, shop, ["public.other"], folder=tmp_path, name="shop")


# What ended processes left


async def test_a_full_disk_leaves_nothing(
    shop: Db, own_dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(PreconditionFailed, match="No space left"):
        await backup.create(own_dsn, shop, [_ITEM], folder=tmp_path)
    assert names(tmp_path) == []
    assert await backups.every(shop) == []


@pytest.mark.parametrize("point", ["backup:writing", "backup:stored"])
async def test_an_error_at_any_point_leaves_neither_row_nor_file(
    shop: Db, own_dsn: Dsn, tmp_path: Path, point: str
) -> None:
    def reached(now: str) -> None:
        if now == point:
            raise ZeroDivisionError(point)

    with pytest.raises(ZeroDivisionError):
        await backup.create(own_dsn, shop, [_ITEM], folder=tmp_path, reached=reached)

    assert names(tmp_path) == []
    assert await backups.every(shop) == []


async def test_the_sweep_finishes_what_was_stored_and_removes_what_was_not(
    kept: Backup, shop: Db, own_dsn: Dsn
) -> None:
    file = Path(kept.path)
    unfinish(file)

    await backup.sweep(own_dsn, shop, file.parent)

    # What another database may be about to finish in the same folder is not ours to remove.
    assert names(file.parent) == sorted([file.name, ".gone-another-1.dump.part", "mine.dump"])


async def test_a_scratch_database_is_swept_only_when_nobody_holds_it(own_dsn: Dsn, db: Db) -> None:
    async with scratch.database(own_dsn, "a test") as there:
        assert await scratch.sweep(own_dsn) == []
    left = there.database
    await db.execute(f"create database {left} template template0")

    assert await scratch.sweep(own_dsn) == [left]
    assert await db.fetchval("select count(*) from pg_database where datname = $1", left) == 0


@pytest.fixture(autouse=True)
async def _nothing_is_left(own_dsn: Dsn) -> AsyncIterator[None]:
    yield
    db = await connect(own_dsn)
    left = await db.fetch(
        "select datname from pg_database where datname like 'ragline_scratch_' || "
        "(select oid from pg_database where datname = current_database()) || '%'"
    )
    await db.close()
    assert left == []


# Other servers


@pytest.mark.parametrize("newest_programs", [False, True])
async def test_a_server_of_another_version_behind_a_password(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest_programs: bool
) -> None:
    """Its own programs where they are here, else newer ones; the password is in no argument."""
    if not DEBIAN_15.is_dir():
        pytest.skip("not run: PostgreSQL 15 is not installed")
    if newest_programs:
        monkeypatch.setattr(programs, "_candidates", lambda name: [wheel.programs() / "bin" / name])
    with running(DEBIAN_15) as server:
        dsn = server.dsn()
        ask(dsn, "create table public.t (id int primary key, a text)")
        ask(dsn, "insert into public.t select n, 'text ' || n from generate_series(1, 100) n")

        made = await backup.create(dsn, db, ["public.t"], folder=tmp_path)
        assert made.server_version.startswith("15")
        assert (await backup.verify(dsn, db, str(made.id))).verified_at is not None
        ask(dsn, "delete from public.t where id < 10")
        await in_place(dsn, made)
        assert ask(dsn, "select count(*) from public.t") == 100

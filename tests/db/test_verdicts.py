"""The cache of judges' replies: what it gives back, what it notices, what it throws away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from conftest import connect
from lock_waits import waits
from ragline.core.budget import ROLES, WORKLOADS, Workload
from ragline.core.dsn import Dsn
from ragline.db import migrate, verdicts
from ragline.db.pool import Connection, Pool, open_pool
from servers import own_database

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
JUDGE = "llm:openai/gpt-x@3f2a9c01b7de"
# What a row holds beside its reply: the judge's id, the key, the checksum.
BESIDE = len(JUDGE) + 64


def key(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode()).digest()


async def eval_pool(dsn: Dsn) -> Pool:
    return await open_pool(
        dsn, "eval", password=None, size=lambda _: 8, timeout_s=60, query_timeout_s=60
    )


@pytest.fixture(scope="module")
async def shared(template: Dsn) -> AsyncIterator[Pool]:
    async with own_database(template) as dsn:
        pool = await eval_pool(dsn)
        assert pool.why_not_isolated is None
        yield pool
        await pool.close()


@pytest.fixture
async def ev(shared: Pool) -> AsyncIterator[Connection]:
    """A connection as eval_app, in a transaction that is rolled back."""
    async with shared.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        await transaction.rollback()


@pytest.fixture
async def own(own_dsn: Dsn) -> AsyncIterator[Pool]:
    pool = await eval_pool(own_dsn)
    yield pool
    await pool.close()


async def test_reply_comes_back_as_it_was_and_its_use_is_counted(ev: Connection) -> None:
    rows = [(key("a"), '{"labels": ["größe", "知识库", "😀"]}'), (key("b"), "")]
    assert await verdicts.put(ev, JUDGE, rows) == 2
    assert await verdicts.get(ev, [key("a"), key("b"), key("c"), key("a")]) == dict(rows)
    assert await verdicts.get(ev, [key("a")]) == {key("a"): rows[0][1]}
    assert await verdicts.get(ev, [key("c")]) == {}
    assert await verdicts.get(ev, []) == {}
    counted = await ev.fetch("select hits from verdict order by hits")
    assert [row["hits"] for row in counted] == [1, 2]


async def test_last_reply_of_a_key_is_kept(ev: Connection) -> None:
    assert await verdicts.put(ev, JUDGE, [(key("a"), "one"), (key("a"), "two")]) == 1
    assert await verdicts.get(ev, [key("a")]) == {key("a"): "two"}
    await verdicts.put(ev, JUDGE, [(key("a"), "three")])
    assert await verdicts.get(ev, [key("a")]) == {key("a"): "three"}
    assert await verdicts.put(ev, JUDGE, []) == 0


async def test_reply_that_no_text_can_hold_is_not_kept(ev: Connection) -> None:
    rows = [(key("a"), "a\0b"), (key("b"), "\ud800"), (key("c"), "c")]
    assert await verdicts.put(ev, JUDGE, rows) == 1
    assert await verdicts.get(ev, [key(name) for name in "abc"]) == {key("c"): "c"}


async def test_facts_count_what_is_there(ev: Connection) -> None:
    empty = await verdicts.facts(ev)
    assert (empty.entries, empty.bytes, empty.hits) == (0, 0, 0)
    assert empty.oldest is empty.newest_use is None

    await verdicts.put(ev, JUDGE, [(key("a"), "größe"), (key("b"), "x" * 1000)])
    await verdicts.get(ev, [key("a")])
    facts = await verdicts.facts(ev)
    assert (facts.entries, facts.bytes, facts.hits) == (2, 7 + 1000 + 2 * BESIDE, 1)
    assert facts.oldest is not None
    assert facts.newest_use is not None
    assert facts.oldest <= facts.newest_use


async def test_what_was_not_used_for_longest_goes_first(ev: Connection) -> None:
    size = BESIDE + 100
    for name in "abcd":
        await verdicts.put(ev, JUDGE, [(key(name), name * 100)])
    await verdicts.get(ev, [key("a")])

    assert await verdicts.evict(ev, 4 * size) == 0
    assert await verdicts.evict(ev, 4 * size - 1) == 1
    assert await left(ev) == {key("a"), key("c"), key("d")}
    assert await verdicts.evict(ev, size) == 2
    assert await left(ev) == {key("a")}
    assert await verdicts.evict(ev, size - 1) == 1
    assert await left(ev) == set()


async def left(connection: Connection) -> set[bytes]:
    return {row["key"] for row in await connection.fetch("select key from verdict")}


async def test_one_judge_is_cleared_or_all(ev: Connection) -> None:
    other = "lexical-v1"
    await verdicts.put(ev, JUDGE, [(key("a"), "a"), (key("b"), "b")])
    await verdicts.put(ev, other, [(key("c"), "c")])
    assert await verdicts.clear(ev, "nobody") == 0
    assert await verdicts.clear(ev, JUDGE) == 2
    assert await verdicts.get(ev, [key("c")]) != {}
    assert await verdicts.clear(ev, None) == 1


async def test_clearing_waits_for_who_uses_a_reply_and_takes_it_too(own: Pool) -> None:
    async with own.connection() as first, own.connection() as second:
        await verdicts.put(first, JUDGE, [(key(name), name) for name in "abc"])
        transaction = first.transaction()
        await transaction.start()
        await verdicts.get(first, [key("b")])
        clearing = asyncio.create_task(verdicts.clear(second, JUDGE))
        assert await waits(clearing, first)
        await transaction.commit()
        assert await clearing == 3


async def test_eviction_waits_for_nobody_and_leaves_what_is_in_use(own: Pool) -> None:
    async with own.connection() as first, own.connection() as second:
        await verdicts.put(first, JUDGE, [(key(name), name) for name in "abc"])
        async with first.transaction():
            await verdicts.get(first, [key("b")])
            assert await verdicts.evict(second, 0) == 2
        assert await left(first) == {key("b")}


@pytest.mark.parametrize(
    "change", ["reply = reply || ' '", r"checksum = '\x00'", "key = sha256(key)"]
)
async def test_row_cannot_be_changed_so_that_it_no_longer_fits(ev: Connection, change: str) -> None:
    await verdicts.put(ev, JUDGE, [(key("a"), "a")])
    with pytest.raises(asyncpg.CheckViolationError, match="verdict_checksum_fits"):
        await ev.execute(f"update verdict set {change}")  # noqa: S608 -- our own


@pytest.mark.parametrize(
    "change", ["reply = 'Entailment'", "key = sha256(key)", "checksum = sha256(checksum)"]
)
async def test_damaged_reply_is_found_never_used_and_replaced(
    own: Pool, db: Db, change: str
) -> None:
    async with own.connection() as ev:
        await verdicts.put(ev, JUDGE, [(key("a"), "Neutral"), (key("b"), "b")])
        assert await verdicts.damaged(ev) == []

        # As a broken disk would; the constraint lets nobody do it by mistake.
        await db.execute("alter table verdict drop constraint verdict_checksum_fits")
        await db.execute(f"update verdict set {change} where key = $1", key("a"))  # noqa: S608
        await db.execute(
            "alter table verdict add constraint verdict_checksum_fits "
            "check (checksum = sha256(key || convert_to(reply, 'UTF8'))) not valid"
        )
        bad = await verdicts.damaged(ev)
        assert bad == [hashlib.sha256(key("a")).digest() if "key" in change[:3] else key("a")]
        assert await verdicts.get(ev, [key("a"), key("b"), *bad]) == {key("b"): "b"}

        await verdicts.put(ev, JUDGE, [(bad[0], "Neutral")])
        assert await verdicts.get(ev, bad) == {bad[0]: "Neutral"}
        assert await verdicts.damaged(ev) == []


async def test_every_damaged_reply_is_found_whatever_its_key(own: Pool, db: Db) -> None:
    keys = sorted(key(str(n)) for n in range(2000))
    assert {k[0] for k in keys} == set(range(256))
    async with own.connection() as ev:
        await verdicts.put(ev, JUDGE, [(k, "x") for k in keys])
        assert await verdicts.damaged(ev) == []
        await db.execute("alter table verdict drop constraint verdict_checksum_fits")
        await db.execute("update verdict set reply = 'y'")
        assert await verdicts.damaged(ev) == keys


async def test_readers_and_writers_of_the_same_keys_do_not_block_each_other_for_ever(
    own: Pool,
) -> None:
    names = [str(n) for n in range(300)]

    async def write(order: int) -> None:
        async with own.connection() as ev:
            for _ in range(5):
                await verdicts.put(ev, JUDGE, [(key(name), name) for name in names[::order]])

    async def read(order: int) -> None:
        async with own.connection() as ev:
            for _ in range(5):
                found = await verdicts.get(ev, [key(name) for name in names[::order]])
                assert all(found[key(name)] == name for name in names if key(name) in found)

    async def throw_away() -> None:
        async with own.connection() as ev:
            for most in (20_000, 10_000, 0, 10_000):
                await verdicts.evict(ev, most)
                await verdicts.clear(ev, JUDGE)

    await asyncio.gather(write(1), write(-1), read(1), read(-1), throw_away(), throw_away())


_ASK = [
    "select count(*) from verdict",
    "select reply from verdict",
    "insert into verdict (key, judge_id, reply, checksum) values ('', 'j', '', '')",
    "update verdict set reply = ''",
    "delete from verdict",
    "truncate verdict",
    "copy verdict to stdout",
]


@pytest.mark.parametrize("workload", ["serve", "memory", "read"])
async def test_verdicts_are_the_evaluations_own(shared: Pool, workload: Workload) -> None:
    db = await connect(shared.dsn.login(ROLES[workload], None))
    try:
        await db.execute("set default_transaction_read_only = off")
        for sql in _ASK:
            with pytest.raises(
                asyncpg.InsufficientPrivilegeError, match="permission denied for table verdict"
            ):
                await db.execute(sql)
    finally:
        await db.close()


async def test_only_evaluations_and_the_owner_have_any_right_on_verdicts(db: Db) -> None:
    rows = await db.fetch(
        """
        select pg_get_userbyid(a.grantee) as role, lower(a.privilege_type) as may
        from pg_class c cross join lateral aclexplode(c.relacl) as a
        where c.oid = 'ragline.verdict'::regclass and a.grantee <> c.relowner
        """
    )
    granted = {(row["role"], row["may"]) for row in rows}
    assert granted == {
        *(("eval_app", may) for may in ("select", "insert", "update", "delete")),
        ("ragline_admin", "select"),
    }
    for workload in WORKLOADS:
        sql = "select has_any_column_privilege($1, 'ragline.verdict', 'select')"
        assert await db.fetchval(sql, ROLES[workload]) == (workload in ("eval", "admin"))


async def test_a_second_migration_opens_verdicts_to_nobody(own_dsn: Dsn, db: Db) -> None:
    sql = "select relacl::text from pg_class where oid = 'ragline.verdict'::regclass"
    before = await db.fetchval(sql)
    await asyncio.to_thread(migrate.apply, own_dsn, lock_timeout_ms=2000, role_secret=None)
    assert await db.fetchval(sql) == before

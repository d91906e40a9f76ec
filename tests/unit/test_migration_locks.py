"""What statements of migrations lock and may lose, read from their words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.core import migration_sql
from ragline.core.migration_locks import read, statements
from ragline.core.migration_sql import split
from ragline.core.migration_statements import losses
from ragline.core.migration_types import narrows


@pytest.mark.parametrize(
    ("text", "lock", "tables", "lost"),
    [
        ("create table a (id int)", "none", (), []),
        ("create table a (b int references c.d)", "SHARE ROW EXCLUSIVE", ("c.d",), []),
        ("create index i on a (b)", "SHARE", ("a",), []),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON a (b)", "SHARE UPDATE EXCLUSIVE", ("a",), []),
        ("alter table a add column b int", "ACCESS EXCLUSIVE", ("a",), []),
        ("alter table only a add constraint c foreign key (b) references d (id)",
         "SHARE ROW EXCLUSIVE", ("a", "d"), []),
        ("alter table a validate constraint c", "SHARE UPDATE EXCLUSIVE", ("a",), []),
        ("alter table a alter column b drop not null", "ACCESS EXCLUSIVE", ("a",), []),
        ("alter table a drop constraint c", "ACCESS EXCLUSIVE", ("a",), []),
        ("ALTER TABLE a DROP COLUMN IF EXISTS b", "ACCESS EXCLUSIVE", ("a",), ["values of a.b"]),
        ('alter table "A b" drop "C"', "ACCESS EXCLUSIVE", ('"A b"',), ['values of "A b"."C"']),
        ("alter table a alter b type varchar(5) using left(b, 5)", "ACCESS EXCLUSIVE", ("a",),
         ["values of a.b that do not fit varchar(5)"]),
        ("drop table if exists a, b.c cascade", "ACCESS EXCLUSIVE", ("a", "b.c"),
         ["rows of a", "rows of b.c"]),
        ("truncate table a restart identity", "ACCESS EXCLUSIVE", ("a",), ["rows of a"]),
        ("delete from a where b = 1", "ROW EXCLUSIVE", ("a",), ["rows of a"]),
        ("update a set b = 1, c = 2 where d = 3", "ROW EXCLUSIVE", ("a",), ["values of a.b, c"]),
        ("insert into a values (1)", "ROW EXCLUSIVE", ("a",), []),
    ],
)  # fmt: skip
def test_a_statement(text: str, lock: str, tables: tuple[str, ...], lost: list[str]) -> None:
    found = read(text)
    assert (found.lock, found.tables) == (lock, tables)
    assert [str(one) for one in found.losses] == lost


def test_code_that_may_delete_counts_as_losing() -> None:
    (one,) = losses([read("do $$ begin delete from a; end $$")])
    assert one.kind == "unknown"
    assert not losses([read("select 1")])


def test_what_a_path_made_itself_is_not_lost() -> None:
    made = statements("create table a (b int); alter table c add column d int;")
    gone = statements("drop table a; alter table c drop column d; drop table e;")
    assert [str(one) for one in losses([*made, *gone])] == ["rows of e"]


def test_what_runs_outside_of_a_transaction_is_told() -> None:
    found = statements("select 1; COMMIT; create index concurrently i on a (b); BEGIN; select 2;")
    assert [one.is_outside for one in found] == [False, True, False]


@given(st.lists(st.text(alphabet="ab;'\"$- \n", max_size=12), max_size=4))
def test_quoted_semicolons_divide_nothing(texts: list[str]) -> None:
    quoted = ["select '" + text.replace("'", "''") + "'" for text in texts]
    assert split(";\n".join(quoted)) == [text.strip() for text in quoted]


def test_a_comment_ends_where_all_that_it_holds_has_ended() -> None:
    assert split("/* a /* b; */ drop table c; */ select 1; -- ;") == ["select 1"]
    assert split("select date'\\'; select 2") == ["select date'\\'", "select 2"]


@pytest.mark.parametrize(
    ("old", "new", "is_narrower"),
    [
        ("integer", "bigint", False), ("bigint", "integer", True), ("text", "varchar(5)", True),
        ("character varying(5)", "varchar(9)", False), ("varchar(9)", "varchar(5)", True),
        ("varchar(9)", "text", False), ("double precision", "real", True),
        ("vector(384)", "halfvec(384)", True), ("timestamp with time zone", "date", True),
        ("numeric(10,2)", "numeric(12,2)", False), ("integer", "text", False),
    ],
)  # fmt: skip
def test_narrower_types(old: str, new: str, is_narrower: bool) -> None:
    assert narrows(old, new) is is_narrower


def test_names_are_compared_as_the_server_reads_them() -> None:
    assert migration_sql.plain('"Note"') != migration_sql.plain("Note")
    assert migration_sql.plain("PUBLIC.Note") == migration_sql.plain('public."note"')


@pytest.mark.parametrize(
    ("sql", "lost"),
    [
        ("update a set (b, c) = (1, 2), d[1] = 3, e = ' where ' where f = 1",
         ["values of a.b, c, d, e"]),
        ("update a as x set b = case when c = 1 then 2 end from d", ["values of a.b"]),
        ("insert into a (b) values (1) on conflict (b) do update set c = 1, d = 2",
         ["values of a.c, d"]),
        ("insert into a values (' on conflict do update ')", []),
        ("create table if not exists a (b int); drop table a", ["rows of a"]),
        ("alter table a rename to b; create table a (c int); drop table a", []),
        ("create table b (c int); alter table b rename to a; alter table a drop column c", []),
        ("alter table a alter b type text using ''", ["values of a.b that do not fit text"]),
        ("truncate only a, b.c cascade", ["rows of a", "rows of b.c"]),
        ("select id from a for update; set lock_timeout = 1; grant select on a to b", []),
    ],
)  # fmt: skip
def test_what_is_lost(sql: str, lost: list[str]) -> None:
    assert [str(one) for one in losses(statements(sql))] == lost


def test_a_new_name_is_seen() -> None:
    (one,) = losses(statements("alter table s.a rename to b; drop table b"))
    assert one.is_renamed
    (other,) = losses(statements("drop table b"), statements("alter table a rename to b"))
    assert other.is_renamed
    back = statements("alter table b rename to a; truncate a")
    assert not losses(back, statements("alter table a rename to b"))[0].is_renamed


@pytest.mark.parametrize(
    "sql",
    ["call f()", "explain analyze delete from a", "execute p", "drop type t cascade", "drop extension e",
     "copy a from program 'x'", "do $$ begin execute 'x'; end $$", "alter type t drop attribute a",
     "set search_path = b; drop table a", "something new", "drop owned by me", "U&x",
     "create function f() returns void language sql as 'delete from a'; select f()"],
)  # fmt: skip
def test_what_is_not_known_is_not_taken_for_harmless(sql: str) -> None:
    assert losses(statements(sql))[0].kind == "unknown"


def test_fewer_decimals_are_narrower() -> None:
    assert narrows("numeric(5,4)", "numeric(10,2)")
    assert narrows("timestamp with time zone", "timestamp(0) with time zone")

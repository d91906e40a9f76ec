"""The lint of migrations: each planted fault is found with its line, and its clean twin is not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ragline.core import baselines
from ragline.core.migration_lint import (
    LintFinding,
    RevisionSource,
    Statement,
    judging,
    lint,
    sql,
)
from ragline.core.migration_lint.rules import FIXES
from ragline.errors import ConfigError

_HEAD = '''\
"""A revision."""
import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC, Vector

revision = "{revision}"
down_revision = {down}


def upgrade() -> None:
    op.execute("set local lock_timeout = '200ms'")
    op.execute("set local statement_timeout = '5s'")
'''
_DOWN = """\


def downgrade() -> None:
    op.execute("set local lock_timeout = '200ms'")
    op.execute("set local statement_timeout = '5s'")
"""
_BLOCK = "with op.get_context().autocommit_block():\n    "


def revision(
    upgrade: str, downgrade: str = "op.execute('select 1')", *, id_: str = "2", down: str = "None"
) -> RevisionSource:
    text = _HEAD.format(revision=id_, down=down) + _indented(upgrade) + _DOWN + _indented(downgrade)
    return RevisionSource(path=f"versions/{id_}.py", text=text)


def _indented(body: str) -> str:
    return "".join(f"    {line}\n" for line in body.splitlines())


def found(*sources: RevisionSource) -> list[tuple[str, str]]:
    """Return the rules of what is not allowed, each with the line's own text."""
    texts = {source.path: source.text.splitlines() for source in sources}
    return [
        (one.rule, texts[one.path][one.line - 1].strip())
        for one in lint(sources)
        if one.status == "new"
    ]


def rules(*sources: RevisionSource) -> list[str]:
    return [rule for rule, _ in found(*sources)]


@dataclass(frozen=True)
class Planted:
    rule: str
    fault: str
    clean: str
    other_rules: tuple[str, ...] = ()
    """What such a fault brings along by its nature."""


_STATEMENTS = [
    Planted(
        "vector-index-without-concurrently",
        "op.create_index('i', 't', ['e'], postgresql_using='hnsw')",
        _BLOCK + "op.create_index('i', 't', ['e'], postgresql_using='hnsw', "
        "postgresql_concurrently=True)",
    ),
    Planted(
        "vector-index-without-concurrently",
        "op.execute('CREATE INDEX i ON t USING ivfflat (e vector_l2_ops)')",
        "op.execute('create table t (e int)')\n"
        "op.execute('CREATE INDEX i ON t USING ivfflat (e vector_l2_ops)')",
    ),
    Planted(
        "index-without-concurrently",
        "op.create_index('i', 't', ['a'])",
        _BLOCK + "op.create_index('i', 't', ['a'], postgresql_concurrently=True)",
    ),
    Planted(
        "concurrently-in-transaction",
        "op.create_index('i', 't', ['a'], postgresql_concurrently=True)",
        _BLOCK + "op.execute('drop index concurrently i')",
    ),
    Planted(
        "concurrently-in-transaction",
        "op.execute('drop index concurrently if exists i')",
        _BLOCK + "op.execute('drop index concurrently if exists i')",
    ),
    Planted(
        "vector-type-change",
        "op.alter_column('t', 'e', type_=HALFVEC(384))",
        "op.add_column('t', sa.Column('e2', HALFVEC(384)))",
        ("lossy-downgrade",),
    ),
    Planted(
        "vector-type-change",
        "op.alter_column('t', 'e', existing_type=Vector(384), type_=sa.Text())",
        "op.alter_column('t', 'e', comment='no type')",
        ("lossy-downgrade",),
    ),
    Planted(
        "vector-type-change",
        "op.execute('alter table t alter e type vector(1024)')",
        "op.execute('alter table t add e2 vector(1024)')",
        ("lossy-downgrade",),
    ),
    Planted(
        "alter-system",
        "op.execute(\"alter system set work_mem = '1GB'\")",
        "op.execute(\"set local work_mem = '1GB'\")",
    ),
    Planted(
        "unbounded-update",
        "op.execute('update t set a = 1')",
        "op.execute('update t set a = 1 where id between 1 and 1000')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-update",
        "op.execute('update t set a = b where a is null')",
        "op.execute('create table t ()')\nop.execute('update t set a = b where a is null')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-update",
        "op.execute('do $$ begin update t set a = 1; end $$')",
        "op.execute('do $$ begin perform 1; end $$')",
    ),
    Planted(
        "unbounded-delete",
        "op.execute('delete from t')",
        "op.execute('delete from t where id < 100')",
        ("lossy-downgrade",),
    ),
    Planted(
        "add-column-volatile-default",
        "op.add_column('t', sa.Column('a', sa.UUID(), server_default=sa.text('gen_random_uuid()')))",
        "op.add_column('t', sa.Column('a', sa.Integer(), server_default='0', nullable=False))",
    ),
    Planted(
        "add-column-volatile-default",
        "op.execute('alter table t add column a timestamptz default clock_timestamp()')",
        "op.execute(\"alter table t add column a text default 'random()'\")",
    ),
    Planted(
        "not-null-without-check",
        "op.alter_column('t', 'a', nullable=False)",
        "op.execute('alter table t validate constraint a_is_there')\n"
        "op.alter_column('t', 'a', nullable=False)",
    ),
    Planted(
        "constraint-without-not-valid",
        "op.create_foreign_key('f', 't', 'u', ['a'], ['id'])",
        "op.create_foreign_key('f', 't', 'u', ['a'], ['id'], postgresql_not_valid=True)",
    ),
    Planted(
        "constraint-without-not-valid",
        "op.execute('alter table t add constraint c check (a > 0)')",
        "op.execute('alter table t add constraint c check (a > 0) not valid')",
    ),
    Planted(
        "constraint-without-not-valid",
        "op.create_unique_constraint('u', 't', ['a'])",
        "op.execute('alter table t add constraint u unique using index i')",
    ),
    Planted(
        "drop-column",
        "op.drop_column('t', 'a')",
        "op.execute('alter table t drop constraint c')",
        ("lossy-downgrade",),
    ),
    Planted(
        "drop-table",
        "op.drop_table('t')",
        "op.create_table('t', sa.Column('id', sa.Integer()))\nop.drop_table('t')",
        ("lossy-downgrade",),
    ),
    Planted(
        "truncate",
        "op.execute('truncate t')",
        "op.execute(\"comment on table t is 'truncate t'\")",
        ("lossy-downgrade",),
    ),
    Planted(
        "rename-in-use",
        "op.rename_table('t', 'u')",
        "op.execute('alter table t rename constraint a to b')",
    ),
    Planted(
        "rename-in-use",
        "op.alter_column('t', 'a', new_column_name='b')",
        "op.execute('alter index i rename to j')",
    ),
    Planted(
        "create-extension-unpinned",
        "op.execute('create extension if not exists vector')",
        "op.execute(\"create extension if not exists vector with schema public version '0.8.0'\")",
    ),
    Planted(
        "set-without-local",
        "op.execute(\"set work_mem = '1GB'\")",
        "op.execute('set constraints all deferred')",
    ),
    Planted(
        "if-not-exists-on-concurrent-index",
        _BLOCK + "op.execute('create index concurrently if not exists i on t (a)')",
        _BLOCK + "op.execute('create index concurrently i on t (a)')",
    ),
    Planted(
        "if-not-exists-on-concurrent-index",
        _BLOCK + "op.create_index('i', 't', ['a'], postgresql_concurrently=True, if_not_exists=True)",
        _BLOCK + "op.execute('drop index concurrently if exists i')",
    ),
    Planted(
        "index-without-name",
        _BLOCK + "op.create_index(None, 't', ['a'], postgresql_concurrently=True)",
        _BLOCK + "op.create_index('i', 't', ['a'], postgresql_concurrently=True)",
    ),
    Planted(
        "index-without-name",
        _BLOCK + "op.execute('create index concurrently on t (a)')",
        _BLOCK + "op.execute('create index concurrently i on only t (a)')",
    ),
    Planted(
        "formatted-sql",
        "op.execute(f'grant select on {name} to me')",
        "op.execute('grant select on t ' 'to me')",
    ),
    Planted(
        "formatted-sql",
        "op.execute('grant select on %s to me' % name)",
        "op.execute(sa.text('select :a').bindparams(a=1))",
    ),
    Planted(
        "formatted-sql",
        "op.execute(sa.text('grant select on {} to me'.format(name)))",
        "op.execute(sa.text('select 1'))",
    ),
    # As people write them.
    Planted(
        "vector-index-without-concurrently",
        "op.execute(sa.text(\"\"\"CREATE /* a /* b */ c */ INDEX i -- now\\n ON t USING hnsw "
        "(e vector_l2_ops)\"\"\"))",
        "op.execute('/* CREATE INDEX i /* */ ON t USING hnsw (e) */ select 1')",
    ),
    Planted(
        "vector-index-without-concurrently",
        "op.execute('do $$ begin if not exists (select 1) then create index i on t using hnsw (e); "
        "end if; end $$')",
        "op.execute('do $$ begin if true then perform 1; end if; end $$')",
    ),
    Planted(
        "vector-index-without-concurrently",
        "op.execute(\"do $$ begin execute format('create index %I on t using hnsw (e)', 'i'); end $$\")",
        "op.execute(\"do $$ begin execute 'select 1'; end $$\")",
    ),
    Planted(
        "vector-index-without-concurrently",
        "with op.batch_alter_table('t') as b:\n    b.create_index('i', ['e'], postgresql_using='hnsw')",
        "op.execute('create table public.t ()')\nop.execute('create index i on t using hnsw (e)')",
    ),
    Planted(
        "index-without-concurrently",
        "op.execute('reindex table t')",
        _BLOCK + "op.execute('reindex table concurrently t')",
    ),
    Planted(
        "concurrently-in-transaction",
        "conn = op.get_bind()\nconn.exec_driver_sql('create index concurrently i on t (a)')",
        "context = op.get_context()\nwith context.autocommit_block():\n"
        "    op.execute('create index concurrently i on t (a)')",
    ),
    Planted(
        "vector-type-change",
        "op.add_column('u', sa.Column('e', Vector(3)))\n"
        "op.execute('alter table public.u alter column e type real[]')",
        "op.execute('alter table u alter column n type bigint')",
        ("lossy-downgrade",),
    ),
    Planted(
        "vector-type-change",
        "with op.batch_alter_table('t') as b:\n    b.alter_column('e', type_=HALFVEC(3))",
        "with op.batch_alter_table('t') as b:\n    b.alter_column('e', comment='x')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-update",
        "op.execute('UPDATE \"T\" SET a = 1')",
        "op.execute('UPDATE \"T\" SET a = 1 WHERE id = 7')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-update",
        "op.execute('update t set a = (select b from u where u.id = t.id)')",
        "op.execute('update t set a = (select b from u) where id < 100')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-update",
        "op.execute('update t set a = u.b from u where u.id = t.id')",
        "op.execute('update t set a = u.b from u where u.id = t.id and t.id < 100')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-update",
        "op.execute('update t set a = 1 where 1=1')",
        "op.execute('with b as (select id from u limit 9) update t set a = 1 from b where b.id = t.id')",
        ("lossy-downgrade",),
    ),
    Planted(
        "unbounded-delete",
        "op.execute('with d as (delete from t returning *) insert into u select * from d')",
        "op.execute('with d as (delete from t where id < 9 returning *) insert into u select * from d')",
    ),
    Planted(
        "constraint-without-not-valid",
        "op.execute('alter table t add column a int unique')",
        "op.execute(\"alter table t add column a text default 'unique'\")",
    ),
    Planted(
        "drop-column",
        "with op.batch_alter_table('t') as b:\n    b.drop_column('a')",
        "with op.batch_alter_table('t') as b:\n    b.drop_constraint('a')",
        ("lossy-downgrade",),
    ),
    Planted(
        "drop-table",
        "op.execute(\"select 'C:\\\\'; drop table t; select '1'\")",
        "op.execute(\"select E'\\\\'; drop table t; --'\")",
        ("lossy-downgrade",),
    ),
    Planted(
        "drop-cascade",
        "op.execute('drop extension vector cascade')",
        "op.execute('drop type kind')",
    ),
    Planted(
        "rewrite-under-lock",
        _BLOCK + "op.execute('vacuum (verbose, full) t')",
        _BLOCK + "op.execute('vacuum (verbose) t')",
        ("missing-lock-timeout", "missing-statement-timeout"),
    ),
    Planted(
        "rewrite-under-lock",
        "op.execute('alter table t set unlogged')",
        "op.execute('alter table t set (fillfactor = 70)')",
    ),
    Planted(
        "rename-in-use",
        "op.execute('alter table t set schema other')",
        "op.execute('alter table t set without cluster')",
    ),
    Planted(
        "set-without-local",
        "op.execute(\"select set_config('work_mem', '1GB', false)\")",
        "op.execute(\"select set_config('work_mem', '1GB', true)\")",
    ),
    Planted(
        "formatted-sql",
        "said = f'grant select on {name} to me'\nop.execute(sa.text(said))",
        "said = 'grant select on t to me'\nop.execute(sa.text(said))",
    ),
    Planted(
        "unreadable-sql",
        "op.execute(open('some.sql').read())",
        "sql = 'select 1'\nop.execute(sql)",
    ),
]  # fmt: skip


@pytest.mark.parametrize("planted", _STATEMENTS, ids=lambda one: one.rule)
def test_a_planted_fault_is_found_at_its_line_and_its_clean_twin_is_not(planted: Planted) -> None:
    of_fault = found(revision(planted.fault))
    last = planted.fault.splitlines()[-1].strip()

    assert (planted.rule, last) in of_fault
    assert {rule for rule, _ in of_fault} == {planted.rule, *planted.other_rules}
    assert set(rules(revision(planted.clean))) <= set(planted.other_rules)


_TEXT_WITHOUT_TIMEOUTS = """\
revision = "1"
down_revision = None

def upgrade():
    op.execute("{set}")
    op.execute("alter table t add column a int")

def downgrade():
    pass  # ragline: allow empty-downgrade - the test's own
"""


@pytest.mark.parametrize("name", ["lock_timeout", "statement_timeout"])
def test_a_lock_without_its_timeout_is_a_fault_once_in_a_direction(name: str) -> None:
    other = {"lock_timeout": "statement_timeout", "statement_timeout": "lock_timeout"}[name]
    text = _TEXT_WITHOUT_TIMEOUTS.format(set=f"set local {other} = '1s'")

    assert found(RevisionSource(path="1.py", text=text.replace("pass  #", "return  #"))) == [
        (f"missing-{name.replace('_', '-')}", 'op.execute("alter table t add column a int")')
    ]


@pytest.mark.parametrize(
    "said",
    ["set local lock_timeout = 0", "set local lock_timeout to default", "reset lock_timeout",
     "set local lock_timeout = '0ms'", "reset all", "select set_config('lock_timeout', '0', true)"],
)  # fmt: skip
def test_a_timeout_of_nothing_is_none(said: str) -> None:
    body = f'op.execute("{said}")\nop.execute("alter table t add column a int")'

    assert "missing-lock-timeout" in rules(revision(body))


def test_what_a_function_of_the_file_sends_counts_where_it_is_called() -> None:
    plain = revision("drop_it()")
    text = plain.text + "\n\ndef drop_it():\n    op.drop_table('t')\n    drop_it()\n"

    assert ("drop-table", "drop_it()") in found(RevisionSource(path="1.py", text=text))


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "-" * 100_000 + "1", "x = " + "(" * 1000, "x = 1\0", "x = " + "[" * 150 + "]" * 150,
        "x = " + "+".join("1" * 20_000), "op.execute(" + "f(" * 90 + ")" * 90 + ")",
        "def upgrade():\n    op.execute('" + "/*" * 50_000 + "')",
        "def upgrade():\n    op.execute('" + "do $a$ begin " * 500 + "')",
    ],
    ids=lambda one: one[:20],
)  # fmt: skip
def test_a_hostile_file_is_a_finding_and_no_crash(text: str) -> None:
    assert lint([RevisionSource(path="1.py", text=text)])


def test_a_table_made_here_makes_nobody_wait() -> None:
    made = "create table t ()"
    for of_it in (
        "create trigger x before update on t",
        "create policy p on t",
        "update t set a = 1",
    ):
        text = _TEXT_WITHOUT_TIMEOUTS.format(set=made).replace("pass  #", "return  #")
        text = text.replace("alter table t add column a int", of_it)
        assert found(RevisionSource(path="1.py", text=text)) == []


def test_a_timeout_of_set_config_counts() -> None:
    said = (
        "select set_config('lock_timeout', '1s', true), set_config('statement_timeout', '1s', true)"
    )
    text = _TEXT_WITHOUT_TIMEOUTS.format(set=said).replace("pass  #", "return  #")

    assert found(RevisionSource(path="1.py", text=text)) == []


def test_what_was_set_for_the_transaction_is_gone_after_an_autocommit_block() -> None:
    body = f"{_BLOCK}op.execute('vacuum_is_not_here')\nop.execute('alter table t add column a int')"

    assert rules(revision(body)) == ["missing-lock-timeout", "missing-statement-timeout"]


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        ("missing-downgrade", ""),
        ("empty-downgrade", "\n\ndef downgrade():\n    pass\n"),
        ("empty-downgrade", "\n\ndef downgrade():\n    '''Nothing.'''\n"),
        ("missing-downgrade", "\n\ndef downgrade():\n    raise NotImplementedError\n"),
    ],
)
def test_a_way_back_that_is_none_is_a_fault(rule: str, end: str) -> None:
    text = (
        _HEAD.format(revision="1", down="None") + "    op.add_column('t', sa.Column('c'))\n" + end
    )

    assert rules(RevisionSource(path="1.py", text=text)) == [rule]


def test_an_empty_upgrade_needs_no_way_back() -> None:
    text = 'revision = "3"\ndown_revision = None\ndef upgrade():\n    pass\n'

    assert rules(RevisionSource(path="3.py", text=text)) == []


def test_going_back_over_a_dropped_column_is_lossy_unless_its_values_were_kept() -> None:
    drops = "# ragline: allow drop-column - kept beside\nop.drop_column('t', 'a')"
    back = "op.add_column('t', sa.Column('a', sa.Text()))"

    assert rules(revision(drops, back)) == ["lossy-downgrade"]
    kept = "op.execute('insert into t select * from kept')"
    assert rules(revision(drops, f"{back}\n{kept}")) == []


def test_what_a_downgrade_takes_back_is_no_fault() -> None:
    up = (
        "op.create_table('t', sa.Column('id', sa.Integer()))\n"
        "op.add_column('u', sa.Column('a', sa.Text()))"
    )

    assert rules(revision(up, "op.drop_column('u', 'a')\nop.drop_table('t')")) == []
    assert rules(revision(up, "op.drop_table('other')")) == ["drop-table"]


def test_two_heads_are_both_named() -> None:
    first = revision("op.execute('select 1')", id_="1")
    second, third = (revision("op.execute('select 1')", id_=id_, down="'1'") for id_ in ("2", "3"))

    assert rules(first, second) == []
    assert [one.path for one in lint([first, second, third]) if one.rule == "two-heads"] == [
        "versions/2.py",
        "versions/3.py",
    ]
    merge = RevisionSource(
        path="versions/4.py",
        text='revision = "4"\ndown_revision = ("2", "3")\ndef upgrade():\n    pass\n',
    )
    assert rules(first, second, third, merge) == []


def test_revisions_that_do_not_hang_together_are_faults() -> None:
    one = revision("op.execute('select 1')", id_="1", down="'gone'")
    again = RevisionSource(path="again.py", text=one.text.replace("'gone'", "None"))

    assert sorted(set(rules(one, again))) == ["duplicate-revision", "unknown-down-revision"]
    assert rules(RevisionSource(path="none.py", text="x = 1\n")) == ["revision-without-id"]
    assert rules(RevisionSource(path="broken.py", text="def (:\n")) == ["unparsable"]


def test_revisions_that_build_on_each_other_are_a_fault() -> None:
    first = revision("op.execute('select 1')", id_="1")
    two, three = (
        revision("op.execute('select 1')", id_=id_, down=down)
        for id_, down in (("2", "'3'"), ("3", "'2'"))
    )

    assert [one.path for one in lint([first, two, three]) if one.rule == "revision-circle"] == [
        "versions/2.py",
        "versions/3.py",
    ]
    assert rules(two, three) == ["revision-circle"] * 2


# Comments that allow


def test_a_comment_with_a_reason_allows_its_line_and_the_next() -> None:
    for body in (
        "op.drop_column('t', 'a')  # ragline: allow drop-column, lossy-downgrade - never used",
        "# ragline: allow drop-column - never used\nop.drop_column('t', 'a')",
    ):
        findings = {one.rule: one for one in lint([revision(body)])}
        assert findings["drop-column"].status == "allowed"
        assert findings["drop-column"].reason == "never used"
        assert findings["lossy-downgrade"].status == "new"


def test_a_comment_above_the_code_allows_in_the_whole_file() -> None:
    source = revision("op.drop_column('t', 'a')\nop.drop_column('t', 'b')")
    allowed = "# ragline: allow drop-column, lossy-downgrade - a table of the test's own\n"

    assert rules(RevisionSource(path="1.py", text=allowed + source.text)) == []


def test_a_comment_without_a_reason_allows_nothing() -> None:
    body = "op.execute('alter system reset all')  # ragline: allow alter-system"

    assert sorted(rules(revision(body))) == ["allow-without-reason", "alter-system"]


def test_an_allow_list_needs_a_reason_and_a_rule_that_exists() -> None:
    entry = '[[allow]]\npath = "{}"\nrule = "{}"\nreason = "{}"\n'
    findings = lint([revision("op.execute('alter system reset all')")])

    allowed = judging.allow_list(entry.format("versions/*", "alter-system", "ours"), source="f")
    assert [one.status for one in baselines.judged(findings, allowed, {})] == ["allowed"]
    for wrong in (entry.format("*", "alter-systen", "x"), entry.format("*", "alter-system", " ")):
        with pytest.raises(ConfigError):
            judging.allow_list(wrong, source="f")


def test_a_baseline_knows_as_many_as_it_counted() -> None:
    one, two = (lint([revision("op.execute('alter system reset all')\n" * n)]) for n in (1, 2))

    known = judging.baseline(baselines.written(one, "rule"), source="f")
    assert [finding.status for finding in baselines.judged(two, (), known)] == ["known", "new"]
    with pytest.raises(ConfigError, match="baseline of version"):
        judging.baseline("[]", source="f")


# Rendered statements


def test_rendered_statements_are_read_in_place_of_the_calls() -> None:
    plain = revision("run_file('x.sql')")
    sent = (
        Statement(line=13, sql="set local lock_timeout = '1s'; set local statement_timeout = '1s'"),
        Statement(line=13, sql="-- a comment\nalter table t drop column a;"),
    )
    source = RevisionSource(path=plain.path, text=plain.text, upgrade=sent, downgrade=())

    assert ("drop-column", "run_file('x.sql')") in found(source)


def test_statements_are_cut_where_they_end_and_nowhere_else() -> None:
    text = """
    select 'a;b', "c;d", $x$ e; $y$ f $x$; -- g;
    /* h; */ INSERT INTO "T" VALUES ('It''s', 1)
    """

    assert sql.statements(text) == [
        "select 'a;b', \"c;d\", $$",
        "insert into \"T\" values ('It''s', 1)",
    ]


def test_every_rule_says_what_to_do_and_is_tested_here() -> None:
    tested = {one.rule for one in _STATEMENTS} | {
        *("missing-lock-timeout", "missing-statement-timeout", "missing-downgrade"),
        *("empty-downgrade", "lossy-downgrade", "two-heads", "revision-without-id"),
        *(
            "revision-circle",
            "duplicate-revision",
            "unknown-down-revision",
            "unparsable",
            "allow-without-reason",
        ),
    }

    assert tested == set(FIXES)
    assert all(isinstance(one, LintFinding) for one in lint([revision("op.drop_table('t')")]))

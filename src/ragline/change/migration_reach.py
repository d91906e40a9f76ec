"""What migrations reach beyond the tables that they name: by foreign keys, functions, triggers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from ragline.core.migration_locks import may_lose
from ragline.core.migration_sql import calls, parted, plain
from ragline.core.migration_statements import Loss, Statement
from ragline.db.pool import quoted

_Session = psycopg.Connection[Any]
_READABLE = ("sql", "plpgsql")


def beside(session: _Session, oid: int, loss: Loss) -> list[Loss]:
    """Return what is lost of other tables where something of this one is."""
    found = []
    if loss.way != "drop":
        for schema, name in session.execute(_CHILDREN, [oid]).fetchall():
            found.append(_of(loss, schema, name))
    if loss.way in ("delete", "truncate cascade") or loss.kind == "values":
        for schema, name, columns, referenced, on_delete, on_update in session.execute(
            _REFERRING, [oid]
        ).fetchall():
            table = f"{quoted(schema)}.{quoted(name)}"
            if loss.way == "truncate cascade" or (loss.way == "delete" and on_delete == "c"):
                found.append(_of(loss, schema, name))
            elif (loss.way == "delete" and on_delete in "nd") or (
                loss.kind == "values" and on_update in "cnd" and _touches(loss, referenced)
            ):
                found.append(Loss(kind="values", table=table, columns=tuple(columns)))
    return found


def _of(loss: Loss, schema: str, name: str) -> Loss:
    return Loss(
        kind=loss.kind,
        table=f"{quoted(schema)}.{quoted(name)}",
        columns=loss.columns,
        new_type=loss.new_type,
        way=loss.way,
        is_computed=loss.is_computed,
    )


def _touches(loss: Loss, columns: Iterable[str]) -> bool:
    return not loss.columns or bool({plain(one) for one in loss.columns} & set(columns))


_CHILDREN = """
    select n.nspname::text, c.relname::text from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid and not c.relispartition
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where i.inhparent = %s order by 1, 2
"""
_REFERRING = """
    select n.nspname::text, c.relname::text,
           (select array_agg(quote_ident(a.attname)) from pg_catalog.pg_attribute a
            where a.attrelid = k.conrelid and a.attnum = any(k.conkey)),
           (select array_agg(a.attname::text) from pg_catalog.pg_attribute a
            where a.attrelid = k.confrelid and a.attnum = any(k.confkey)),
           k.confdeltype::text, k.confupdtype::text
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class c on c.oid = k.conrelid and not c.relispartition
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where k.contype = 'f' and k.confrelid = %s order by 1, 2
"""


def code(session: _Session, statements: Sequence[Statement]) -> list[Loss]:
    """Return a loss for each function that may lose something and is called, or fires as a trigger."""
    seen: set[int] = set()
    found = []
    for statement in statements:
        names = [name for name in statement.calls if _loses(session, _named(session, name), seen)]
        for table in statement.writes:
            if _loses(session, session.execute(_TRIGGERS, [table]).fetchall(), seen):
                names.append(f"a trigger of {table}")
            if session.execute(_RULES, [table]).fetchone():
                names.append(f"a rule of {table}")
        if names:
            said = f"{names[0]}, in {statement.text}"
            found.append(Loss(kind="unknown", table=None, said=said))
    return found


def _named(session: _Session, name: str) -> list[Any]:
    schema, function = parted(name)
    return session.execute(_FUNCTIONS, [function, schema, schema]).fetchall()


def _loses(session: _Session, functions: Sequence[Any], seen: set[int]) -> bool:
    """Whether one of some functions may lose something, or one that it calls."""
    for oid, language, text in functions:
        if language not in _READABLE or may_lose(text.partition("\nAS ")[2] or text):
            return True
        if oid not in seen:
            seen.add(oid)
            if any(_loses(session, _named(session, name), seen) for name in calls(text)):
                return True
    return False


_SHOWN = """
    p.oid, l.lanname::text,
    case when p.prokind in ('f', 'p') and l.lanname in ('sql', 'plpgsql')
         then pg_catalog.pg_get_functiondef(p.oid) else '' end
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
"""
_FUNCTIONS = f"""
    select {_SHOWN} join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where p.proname = %s and (%s::text is null or n.nspname = %s)
      and n.nspname not in ('pg_catalog', 'information_schema', 'ragline')
      and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e')
"""  # noqa: S608
_TRIGGERS = f"""
    select {_SHOWN} join pg_catalog.pg_trigger t on t.tgfoid = p.oid
    where t.tgrelid = to_regclass(%s) and not t.tgisinternal and t.tgenabled <> 'D'
      and p.pronamespace <> 'pg_catalog'::regnamespace
      and not exists (select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e')
"""  # noqa: S608
_RULES = """
    select 1 from pg_catalog.pg_rewrite where ev_class = to_regclass(%s) and ev_type <> '1'
"""

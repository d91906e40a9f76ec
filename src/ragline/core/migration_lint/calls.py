"""What calls of Alembic's operations stand for in SQL, where nothing was rendered."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TypeAlias

from ragline.core.sql_names import quoted

_Call: TypeAlias = "Callable[[ast.Call], str | None]"


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """Return what a call was given, by its name or its place."""
    named = next((one.value for one in call.keywords if one.arg == name), None)
    return named or (call.args[position] if len(call.args) > position else None)


def _literal(call: ast.Call, position: int, name: str) -> str | None:
    given = argument(call, position, name)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def _is_true(call: ast.Call, name: str) -> bool:
    given = argument(call, 99, name)
    return isinstance(given, ast.Constant) and given.value is True


def _table(call: ast.Call, position: int = 0, name: str = "table_name") -> str | None:
    found = _literal(call, position, name)
    if found is None:
        return None
    schema = _literal(call, 99, "schema")
    return f"{quoted(schema)}.{quoted(found)}" if schema else quoted(found)


def _create_table(call: ast.Call) -> str | None:
    table = _table(call)
    return table and f"create table {table} ()"


def _drop_table(call: ast.Call) -> str | None:
    table = _table(call)
    return table and f"drop table {table}"


def _drop_column(call: ast.Call) -> str | None:
    table, column = _table(call), _literal(call, 1, "column_name")
    return f"alter table {table} drop column {quoted(column)}" if table and column else None


def _add_column(call: ast.Call) -> str | None:
    table, column = _table(call), argument(call, 1, "column")
    if table is None or not isinstance(column, ast.Call):
        return None
    name = _literal(column, 0, "name") or "column"
    kind = " ".join(ast.unparse(one).lower() for one in column.args[1:])
    kind = re.sub(r"\b(?:sa\.)?computed\(", "generated always (", kind)
    kind = re.sub(r"\b(?:sa\.)?foreignkey\(", "references (", kind)
    kind = re.sub(r"^sa\.", "", kind)
    said = f"alter table {table} add column {quoted(name)} {kind}"
    default = argument(column, 99, "server_default")
    if default is not None:
        said += f" default {_default(default)}"
    is_required = argument(column, 99, "nullable")
    if isinstance(is_required, ast.Constant) and is_required.value is False:
        said += " not null"
    return said


def _default(given: ast.expr) -> str:
    if isinstance(given, ast.Call) and given.args:
        inner = given.args[0]
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            return inner.value
    if isinstance(given, ast.Constant):
        return "''"
    return ast.unparse(given).replace("sa.func.", "").replace("func.", "")


def _alter_column(call: ast.Call) -> str | None:
    table, column = _table(call), _literal(call, 1, "column_name")
    if table is None or column is None:
        return None
    parts = []
    if (kind := argument(call, 99, "type_")) is not None:
        was = argument(call, 99, "existing_type")
        before = f" /* from */ using {ast.unparse(was)}" if was is not None else ""
        parts.append(f"alter column {quoted(column)} type {ast.unparse(kind)}{before}")
    nullable = argument(call, 99, "nullable")
    if isinstance(nullable, ast.Constant) and nullable.value is False:
        parts.append(f"alter column {quoted(column)} set not null")
    if (name := _literal(call, 99, "new_column_name")) is not None:
        parts.append(f"rename column {quoted(column)} to {quoted(name)}")
    return (
        f"alter table {table} {', '.join(parts)}"
        if parts
        else f"alter table {table} alter {column}"
    )


def _create_index(call: ast.Call) -> str | None:
    table = _table(call, 1)
    if table is None:
        return None
    given = argument(call, 0, "index_name")
    name = _literal(call, 0, "index_name")
    is_nameless = given is None or (isinstance(given, ast.Constant) and given.value is None)
    words = ["create"]
    words += ["unique"] if _is_true(call, "unique") else []
    words += ["index"]
    words += ["concurrently"] if _is_true(call, "postgresql_concurrently") else []
    words += ["if not exists"] if _is_true(call, "if_not_exists") else []
    words += [] if is_nameless else [quoted(name or "index")]
    words += ["on", table]
    if method := _literal(call, 99, "postgresql_using"):
        words += ["using", method]
    return " ".join([*words, "()"])


def _drop_index(call: ast.Call) -> str | None:
    name = _literal(call, 0, "index_name")
    how = "concurrently " if _is_true(call, "postgresql_concurrently") else ""
    return f"drop index {how}{quoted(name)}" if name else None


def _rename_table(call: ast.Call) -> str | None:
    table, name = _table(call, 0, "old_table_name"), _literal(call, 1, "new_table_name")
    return f"alter table {table} rename to {quoted(name)}" if table and name else None


def _constraint(kind: str) -> _Call:
    def said(call: ast.Call) -> str | None:
        table = _table(call, 1, "source_table" if kind == "foreign key" else "table_name")
        if table is None:
            return None
        end = " not valid" if _is_true(call, "postgresql_not_valid") else ""
        return f"alter table {table} add constraint c {kind} (){end}"

    return said


def _drop_constraint(call: ast.Call) -> str | None:
    table, name = _table(call, 1), _literal(call, 0, "constraint_name")
    return f"alter table {table} drop constraint {quoted(name)}" if table and name else None


def _bulk_insert(_call: ast.Call) -> str | None:
    return "insert into a_table values ()"


CALLS: dict[str, _Call] = {
    "create_table": _create_table,
    "drop_table": _drop_table,
    "add_column": _add_column,
    "drop_column": _drop_column,
    "alter_column": _alter_column,
    "create_index": _create_index,
    "drop_index": _drop_index,
    "rename_table": _rename_table,
    "create_foreign_key": _constraint("foreign key"),
    "create_check_constraint": _constraint("check"),
    "create_unique_constraint": _constraint("unique"),
    "create_primary_key": _constraint("primary key"),
    "drop_constraint": _drop_constraint,
    "bulk_insert": _bulk_insert,
}

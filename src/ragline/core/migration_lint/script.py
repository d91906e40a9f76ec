"""A revision's file read as Python: its id, its functions, and the SQL that its calls stand for."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ragline.core.migration_lint.revision import Direction, Statement

_ALLOWED = re.compile(r"#\s*ragline:\s*allow\s+([\w:-]+(?:\s*,\s*[\w:-]+)*)\s*(?:-+|:)?\s*(.*)$")
_Call: TypeAlias = "Callable[[ast.Call], str | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A comment that allows rules on its line and the next one, or above the code: in the file."""

    rules: tuple[str, ...]
    reason: str
    line: int
    is_for_file: bool

    def covers(self, rule: str, line: int) -> bool:
        return rule in self.rules and (self.is_for_file or line in (self.line, self.line + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the file of a revision says. `revision` is None where it is none."""

    revision: str | None
    downs: tuple[str, ...]
    line: int
    functions: dict[str, ast.FunctionDef]
    formatted: tuple[tuple[int, str], ...]
    nameless: tuple[int, ...]
    allowances: tuple[Allowance, ...]


def read(text: str) -> Script:
    """Return what a file says; SyntaxError where it is not Python."""
    tree = ast.parse(text)
    found = {name: (value, line) for name, value, line in _assignments(tree)}
    revision, line = found.get("revision", (None, 1))
    downs, _ = found.get("down_revision", (None, 1))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    first = min((node.lineno for node in functions.values()), default=line)
    return Script(
        revision=revision if isinstance(revision, str) else None,
        downs=_ids(downs),
        line=line,
        functions=functions,
        formatted=tuple(_formatted(tree)),
        nameless=tuple(_nameless(tree)),
        allowances=tuple(_allowances(text, before=min(first, line))),
    )


def is_empty(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing at all."""
    return all(
        isinstance(node, ast.Pass)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )


def is_refusal(function: ast.FunctionDef) -> bool:
    """Whether all that a function does is raise."""
    last = function.body[-1]
    return isinstance(last, ast.Raise) and all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for node in function.body[:-1]
    )


def statements(script: Script, direction: Direction) -> tuple[Statement, ...]:
    """Return what the calls of a direction stand for; where that is not plain, with empty SQL."""
    function = script.functions.get(direction)
    return () if function is None else tuple(_walk(function.body, is_autocommit=False))


def _assignments(tree: ast.Module) -> Iterator[tuple[str, object, int]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        try:
            plain = ast.literal_eval(value)
        except ValueError:
            continue
        yield from (
            (target.id, plain, node.lineno) for target in targets if isinstance(target, ast.Name)
        )


def _ids(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(one) for one in value) if isinstance(value, tuple | list) else ()


def _allowances(text: str, *, before: int) -> Iterator[Allowance]:
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _ALLOWED.search(line):
            rules = tuple(rule.strip() for rule in match[1].split(","))
            yield Allowance(
                rules=rules,
                reason=match[2].strip(),
                line=number,
                is_for_file=number < before and line.lstrip().startswith("#"),
            )


# What is sent, by call


def _walk(body: list[ast.stmt], *, is_autocommit: bool) -> Iterator[Statement]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        inside = is_autocommit or (isinstance(node, ast.With) and _is_autocommit(node))
        blocks = [
            block
            for name in ("body", "orelse", "finalbody")
            if isinstance(block := getattr(node, name, None), list)
        ]
        blocks += [handler.body for handler in getattr(node, "handlers", [])]
        if not blocks:
            yield from _sent(node, is_autocommit)
        elif isinstance(node, ast.With):
            yield from (one for item in node.items for one in _sent(item.context_expr, inside))
        for block in blocks:
            yield from _walk(block, is_autocommit=inside)


def _is_autocommit(node: ast.With) -> bool:
    return any("autocommit_block" in ast.unparse(item.context_expr) for item in node.items)


def _sent(node: ast.AST, is_autocommit: bool) -> Iterator[Statement]:
    for call in ast.walk(node):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        name = call.func.attr
        owner = ast.unparse(call.func.value)
        is_batch = "batch" in owner
        if name == "execute":
            yield Statement(line=call.lineno, sql=_text(call) or "", is_autocommit=is_autocommit)
        elif (owner == "op" or is_batch) and name in _CALLS:
            sql = _CALLS[name](call)
            yield Statement(line=call.lineno, sql=sql or "", is_autocommit=is_autocommit)


def _text(call: ast.Call) -> str | None:
    """Return the statement of an `execute`, as a literal or a literal in `text(…)`."""
    given = call.args[0] if call.args else None
    if isinstance(given, ast.Call):
        given = given.args[0] if given.args and ast.unparse(given.func).endswith("text") else None
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def _argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    named = next((one.value for one in call.keywords if one.arg == name), None)
    return named or (call.args[position] if len(call.args) > position else None)


def _literal(call: ast.Call, position: int, name: str) -> str | None:
    given = _argument(call, position, name)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def _is_true(call: ast.Call, name: str) -> bool:
    given = _argument(call, 99, name)
    return isinstance(given, ast.Constant) and given.value is True


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _table(call: ast.Call, position: int = 0, name: str = "table_name") -> str | None:
    found = _literal(call, position, name)
    if found is None:
        return None
    schema = _literal(call, 99, "schema")
    return f"{_quoted(schema)}.{_quoted(found)}" if schema else _quoted(found)


def _create_table(call: ast.Call) -> str | None:
    table = _table(call)
    return table and f"create table {table} ()"


def _drop_table(call: ast.Call) -> str | None:
    table = _table(call)
    return table and f"drop table {table}"


def _drop_column(call: ast.Call) -> str | None:
    table, column = _table(call), _literal(call, 1, "column_name")
    return f"alter table {table} drop column {_quoted(column)}" if table and column else None


def _add_column(call: ast.Call) -> str | None:
    table, column = _table(call), _argument(call, 1, "column")
    if table is None or not isinstance(column, ast.Call):
        return None
    name = _literal(column, 0, "name") or "column"
    kind = ast.unparse(column.args[1]).lower() if len(column.args) > 1 else ""
    kind = re.sub(r"^sa\.", "", kind)
    said = f"alter table {table} add column {_quoted(name)} {kind}"
    default = _argument(column, 99, "server_default")
    if default is not None:
        said += f" default {_default(default)}"
    is_required = _argument(column, 99, "nullable")
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
    if (kind := _argument(call, 99, "type_")) is not None:
        was = _argument(call, 99, "existing_type")
        before = f" /* from */ using {ast.unparse(was)}" if was is not None else ""
        parts.append(f"alter column {_quoted(column)} type {ast.unparse(kind)}{before}")
    nullable = _argument(call, 99, "nullable")
    if isinstance(nullable, ast.Constant) and nullable.value is False:
        parts.append(f"alter column {_quoted(column)} set not null")
    if (name := _literal(call, 99, "new_column_name")) is not None:
        parts.append(f"rename column {_quoted(column)} to {_quoted(name)}")
    return (
        f"alter table {table} {', '.join(parts)}"
        if parts
        else f"alter table {table} alter {column}"
    )


def _create_index(call: ast.Call) -> str | None:
    table = _table(call, 1)
    if table is None:
        return None
    given = _argument(call, 0, "index_name")
    name = _literal(call, 0, "index_name")
    is_nameless = given is None or (isinstance(given, ast.Constant) and given.value is None)
    words = ["create"]
    words += ["unique"] if _is_true(call, "unique") else []
    words += ["index"]
    words += ["concurrently"] if _is_true(call, "postgresql_concurrently") else []
    words += ["if not exists"] if _is_true(call, "if_not_exists") else []
    words += [] if is_nameless else [_quoted(name or "index")]
    words += ["on", table]
    if method := _literal(call, 99, "postgresql_using"):
        words += ["using", method]
    return " ".join([*words, "()"])


def _drop_index(call: ast.Call) -> str | None:
    name = _literal(call, 0, "index_name")
    how = "concurrently " if _is_true(call, "postgresql_concurrently") else ""
    return f"drop index {how}{_quoted(name)}" if name else None


def _rename_table(call: ast.Call) -> str | None:
    table, name = _table(call, 0, "old_table_name"), _literal(call, 1, "new_table_name")
    return f"alter table {table} rename to {_quoted(name)}" if table and name else None


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
    return f"alter table {table} drop constraint {_quoted(name)}" if table and name else None


def _bulk_insert(_call: ast.Call) -> str | None:
    return "insert into a_table values ()"


_CALLS: dict[str, _Call] = {
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


# What is wrong with the Python itself


def _formatted(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr == "execute" and call.args and (how := _pasted(call.args[0])):
            yield call.lineno, how


def _pasted(given: ast.expr) -> str | None:
    if isinstance(given, ast.Call):
        if isinstance(given.func, ast.Attribute) and given.func.attr == "format":
            return "str.format"
        return _pasted(given.args[0]) if given.args else None
    if isinstance(given, ast.JoinedStr):
        holds = any(isinstance(part, ast.FormattedValue) for part in given.values)
        return "an f-string" if holds else None
    if isinstance(given, ast.BinOp) and isinstance(given.op, ast.Mod | ast.Add):
        how = "%" if isinstance(given.op, ast.Mod) else "+"
        return f"the operator {how}"
    return None


def _nameless(tree: ast.Module) -> Iterator[int]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".create_index"):
            given = _argument(call, 0, "index_name")
            if isinstance(given, ast.Constant) and given.value is None:
                yield call.lineno

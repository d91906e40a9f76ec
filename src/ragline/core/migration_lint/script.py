"""A revision's file read as Python: its id, its functions, and the SQL that its calls stand for."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ragline.core.migration_lint import calls
from ragline.core.migration_lint.revision import Direction, Statement

_ALLOWED = re.compile(r"#\s*ragline:\s*allow\s+([\w:-]+(?:\s*,\s*[\w:-]+)*)\s*(?:-+|:)?\s*(.*)$")
# What Python says of a text that it cannot read: the last two of one that is nested too deeply.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, SystemError)
_DEEPEST = 4
_VECTOR = re.compile(r"\b(?:vector|halfvec|sparsevec)\b", re.IGNORECASE)


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
    retyped: tuple[int, ...]
    """Lines that give a column another type which was a vector, as they say themselves."""
    texts: Mapping[str, str]
    """Names that stand for one text wherever they are used."""
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
        retyped=tuple(_retyped(tree)),
        texts=_texts(tree),
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
    if function is None:
        return ()
    return tuple(_walk(_Around(script=script), function.body, is_autocommit=False))


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
        except UNREADABLE:
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


def _texts(tree: ast.Module) -> dict[str, str]:
    counts: Counter[str] = Counter()
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            counts[node.id] += 1
        value = node.value if isinstance(node, ast.Assign) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            targets = node.targets if isinstance(node, ast.Assign) else ()
            found |= {one.id: value.value for one in targets if isinstance(one, ast.Name)}
    return {name: text for name, text in found.items() if counts[name] == 1}


# What is sent, by call


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """Where a call stands: the file, the batches open around it, and how it was come by."""

    script: Script
    batches: Mapping[str, ast.Call] = field(default_factory=dict)
    called: tuple[str, ...] = ()


def _walk(around: _Around, body: list[ast.stmt], *, is_autocommit: bool) -> Iterator[Statement]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        inside, here = is_autocommit, around
        if isinstance(node, ast.With):
            inside = is_autocommit or _is_autocommit(node)
            here = replace(around, batches={**around.batches, **dict(_batches(node))})
        blocks = [
            block
            for name in ("body", "orelse", "finalbody")
            if isinstance(block := getattr(node, name, None), list)
        ]
        blocks += [handler.body for handler in getattr(node, "handlers", [])]
        if not blocks:
            yield from _sent(around, node, is_autocommit)
        elif isinstance(node, ast.With):
            for item in node.items:
                yield from _sent(around, item.context_expr, inside)
        for block in blocks:
            yield from _walk(here, block, is_autocommit=inside)


def _is_autocommit(node: ast.With) -> bool:
    return any("autocommit_block" in ast.unparse(item.context_expr) for item in node.items)


def _batches(node: ast.With) -> Iterator[tuple[str, ast.Call]]:
    for item in node.items:
        call, name = item.context_expr, item.optional_vars
        if not isinstance(call, ast.Call) or not isinstance(name, ast.Name):
            continue
        if ast.unparse(call.func).endswith("batch_alter_table"):
            yield name.id, call


def _sent(around: _Around, node: ast.AST, is_autocommit: bool) -> Iterator[Statement]:
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        if isinstance(call.func, ast.Name):
            yield from _called(around, call, is_autocommit)
        elif isinstance(call.func, ast.Attribute):
            sql = _of_call(around, call, call.func)
            if sql is not None:
                yield Statement(line=call.lineno, sql=sql, is_autocommit=is_autocommit)


def _called(around: _Around, call: ast.Call, is_autocommit: bool) -> Iterator[Statement]:
    """Yield what a function of the file sends, at the line that calls it."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    function = around.script.functions.get(name)
    if function is None or name in around.called or len(around.called) >= _DEEPEST:
        return
    inner = replace(around, called=(*around.called, name))
    for one in _walk(inner, function.body, is_autocommit=is_autocommit):
        yield replace(one, line=call.lineno)


def _of_call(around: _Around, call: ast.Call, function: ast.Attribute) -> str | None:
    """Return what a call sends: None for nothing, empty where nobody can tell."""
    name = function.attr
    owner = ast.unparse(function.value)
    if name in ("execute", "exec_driver_sql"):
        return _text(around, call) or ""
    if owner in around.batches:
        call = _on_table(call, name, around.batches[owner])
    elif owner != "op":
        return None
    return (calls.CALLS[name](call) or "") if name in calls.CALLS else None


def _on_table(call: ast.Call, name: str, batch: ast.Call) -> ast.Call:
    """Return a call of a batch as it reads without one: with the batch's table."""
    given = calls.argument(batch, 0, "table_name")
    if given is None:
        return call
    schema = [one for one in batch.keywords if one.arg == "schema"]
    if name in ("add_column", "drop_column", "alter_column"):
        arguments = [given, *call.args]
    else:
        arguments = [*call.args[:1], given, *call.args[1:]]
    return ast.copy_location(
        ast.Call(func=call.func, args=arguments, keywords=[*call.keywords, *schema]), call
    )


def _text(around: _Around, call: ast.Call) -> str | None:
    """Return the statement of an `execute`: a literal, a name of one, or either in `text(…)`."""
    given = call.args[0] if call.args else None
    while isinstance(given, ast.Call) and isinstance(given.func, ast.Attribute):
        if given.func.attr not in ("bindparams", "execution_options"):
            break
        given = given.func.value
    if isinstance(given, ast.Call):
        given = given.args[0] if given.args and ast.unparse(given.func).endswith("text") else None
    if isinstance(given, ast.Name):
        return around.script.texts.get(given.id)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


# What is wrong with the Python itself


def _formatted(tree: ast.Module) -> Iterator[tuple[int, str]]:
    named = {
        target.id: how
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and (how := _pasted(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr not in ("execute", "exec_driver_sql") or not call.args:
            continue
        given = call.args[0]
        if isinstance(given, ast.Call) and given.args:
            given = given.args[0] if isinstance(given.args[0], ast.Name) else given
        how = named.get(given.id) if isinstance(given, ast.Name) else _pasted(given)
        if how is not None:
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
            given = calls.argument(call, 0, "index_name")
            if isinstance(given, ast.Constant) and given.value is None:
                yield call.lineno


def _retyped(tree: ast.Module) -> Iterator[int]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".alter_column"):
            was, becomes = (calls.argument(call, 99, name) for name in ("existing_type", "type_"))
            if was is not None and becomes is not None and _VECTOR.search(ast.unparse(was)):
                yield call.lineno

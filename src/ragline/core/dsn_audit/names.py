"""What the names of a Python module stand for: modules, texts, environments, what the resolver made."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from ragline.core.dsn_audit import known

_SHORT = (ast.Constant, ast.Name)


@dataclass(slots=True, kw_only=True)
class Module:
    """What the names of a module stand for."""

    imported: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    environments: set[str] = field(default_factory=set)
    resolved: set[str] = field(default_factory=set)
    otherwise: set[str] = field(default_factory=set)
    """Names that were given something else somewhere, and so are not trusted."""
    docstrings: set[int] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    """Lines that string constants stand in; what else looks like a DSN is in a comment."""
    inner: set[int] = field(default_factory=set)
    """Nodes that are a part of a text already looked at, or a call that is no fault."""

    def dotted(self, node: ast.AST) -> str:
        """Return what a name stands for, with its module: "os.environ"; "" when it is none."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.imported.get(node.id, node.id), *reversed(names)])


def learn(node: ast.AST, module: Module) -> None:
    """Add what a node says of the names of its module."""
    if isinstance(node, ast.Import):
        for name in node.names:
            top = name.name.partition(".")[0]
            module.imported[name.asname or top] = name.name if name.asname else top
    elif isinstance(node, ast.ImportFrom) and node.module:
        for name in node.names:
            module.imported[name.asname or name.name] = f"{node.module}.{name.name}"
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        _learn_assigned(node, node.value, module)
    elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr):
            module.docstrings.add(id(first.value))
    elif isinstance(node, ast.arg):
        module.otherwise.add(node.arg)
    elif isinstance(node, ast.Constant | ast.JoinedStr):
        module.texts.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _learn_assigned(
    node: ast.Assign | ast.AnnAssign | ast.NamedExpr, value: ast.expr, module: Module
) -> None:
    given = node.targets if isinstance(node, ast.Assign) else [node.target]
    for name in (one.id for one in given if isinstance(one, ast.Name)):
        if is_resolved(value, module):
            module.resolved.add(name)
            continue
        module.otherwise.add(name)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            module.constants[name] = value.value
        elif module.dotted(value) in known.ENVIRONMENTS or _is_copy(value, module):
            module.environments.add(name)


def _is_copy(value: ast.AST, module: Module) -> bool:
    """Whether this is `dict(os.environ)`, `os.environ.copy()`, `{**os.environ}`, or an env file."""
    if isinstance(value, ast.Call):
        dotted = module.dotted(value.func)
        if dotted in known.ENV_FILES:
            return True
        if isinstance(value.func, ast.Attribute) and value.func.attr == "copy":
            return _is_named_environment(value.func.value, module)
        copied = [*value.args[:1], *(one.value for one in value.keywords if one.arg is None)]
        return dotted == "dict" and any(_is_named_environment(one, module) for one in copied)
    if isinstance(value, ast.Dict):
        merged = [one for key, one in zip(value.keys, value.values, strict=True) if key is None]
    elif isinstance(value, ast.BoolOp):
        merged = value.values
    elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        merged = [value.left, value.right]
    else:
        return False
    return any(_is_named_environment(one, module) for one in merged)


def _is_named_environment(node: ast.AST, module: Module) -> bool:
    dotted = module.dotted(node)
    return dotted in known.ENVIRONMENTS or dotted in module.environments


def is_resolved(value: ast.expr, module: Module) -> bool:
    """Whether the resolver made this: `dsn.for_psycopg(…)`, or a name that was given that."""
    if isinstance(value, ast.Await | ast.Starred):
        return is_resolved(value.value, module)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        return value.func.attr in known.RESOLVED
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        return is_resolved(value.left, module)
    if isinstance(value, ast.Dict):
        return any(
            key is None and is_resolved(one, module)
            for key, one in zip(value.keys, value.values, strict=True)
        )
    return isinstance(value, ast.Name) and value.id in module.resolved


def is_environment(node: ast.AST, module: Module) -> bool:
    """Whether this is the environment, or a copy of it."""
    return _is_named_environment(node, module) or _is_copy(node, module)


def text_of(node: ast.expr | None, module: Module) -> str | None:
    """Return the text that a node stands for: a constant, its name, or a sum of two of these."""
    if isinstance(node, ast.Constant):
        value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        return value if isinstance(value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = (node.left, node.right)
        parts = [text_of(one, module) if isinstance(one, _SHORT) else None for one in sides]
        return "".join(part for part in parts if part) if all(parts) else None
    return module.constants.get(node.id) if isinstance(node, ast.Name) else None

"""Python, by its syntax tree: what is read, named and called, under whatever name it was imported."""

from __future__ import annotations

import ast
import re
import warnings
from typing import TYPE_CHECKING, Any

from ragline.core.dsn import HIDDEN
from ragline.core.dsn_audit import finding, known, lines
from ragline.core.dsn_audit.finding import Spot
from ragline.core.dsn_audit.names import Module, is_environment, is_resolved, learn, text_of
from ragline.core.dsn_audit.targets import stands_for_something, targets
from ragline.core.dsn_audit.variables import holds_a_password, names_a_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Without any of these there is nothing to look for, and a tree is slow to walk.
_WORTH_A_LOOK = re.compile(
    r"postgres|psycopg|asyncpg|aiopg|pg8000|create_(?:async_)?engine|engine_from_config|psql"
    r"|pg_dump|pg_restore|database_|db_|\bPG[A-Z]|PG_|dbname|password|PASSWORD|createdb|dropdb"
    r"|DATABASE|DB_|environ|getenv|host\s*=",
    re.IGNORECASE,
)
_LOOKED_AT = frozenset(
    {
        ast.AnnAssign, ast.Assign, ast.AsyncFunctionDef, ast.Attribute, ast.BinOp, ast.Call,
        ast.ClassDef, ast.Compare, ast.Constant, ast.Dict, ast.FunctionDef, ast.Import,
        ast.ImportFrom, ast.JoinedStr, ast.Module, ast.Name, ast.NamedExpr, ast.Subscript, ast.arg,
    }
)  # fmt: skip
"""Half of a tree is of other types."""


def spots(text: str) -> Iterator[Spot]:
    """Yield the faults of a Python source; those of its text alone where it is not Python."""
    try:
        yield from _of_source(text)
    except SyntaxError as error:
        line = error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        line = 1  # a null byte, or nested too deep
    else:
        return
    yield Spot(line=max(1, line), kind=finding.UNPARSABLE, evidence="not Python")
    yield from lines.spots(text, "config")


def _of_source(text: str) -> tuple[Spot, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in the files of others
        tree = ast.parse(text)
    return tuple(_of_tree(tree, text)) if _WORTH_A_LOOK.search(text) else ()


def _of_tree(tree: ast.Module, text: str) -> Iterator[Spot]:
    nodes = [node for node in ast.walk(tree) if type(node) in _LOOKED_AT]
    module = Module()
    for node in nodes:
        learn(node, module)
    module.resolved -= module.otherwise
    for node in nodes:
        if id(node) not in module.inner:
            yield from _of_node(node, module)
    for spot in lines.credentials(text):
        if spot.line not in module.texts:
            yield spot


def _of_node(node: ast.AST, module: Module) -> Iterator[Spot]:
    if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
        yield from _of_text(node, module)
    elif isinstance(node, ast.Call):
        yield from _of_call(node, module)
    elif isinstance(node, ast.Attribute | ast.Name):
        yield from _of_reference(node, module)
    elif isinstance(node, ast.Subscript | ast.Compare):
        yield from _of_lookup(node, module)
    elif isinstance(node, ast.Dict | ast.Assign | ast.AnnAssign):
        yield from _of_settings(node, module)
    elif isinstance(node, ast.ClassDef):
        yield from _of_settings_class(node, module)


def _of_lookup(node: ast.Subscript | ast.Compare, module: Module) -> Iterator[Spot]:
    """Yield what `os.environ[name]` and `name in os.environ` read."""
    if isinstance(node, ast.Subscript):
        if isinstance(node.ctx, ast.Load) and is_environment(node.value, module):
            yield from _read(node, node.slice, module)
    elif isinstance(node.ops[0], ast.In | ast.NotIn) and is_environment(
        node.comparators[0], module
    ):
        yield from _read(node, node.left, module)


def _of_login(node: ast.Dict, module: Module) -> Iterator[Spot]:
    """Yield the password of Django's `{"ENGINE": "…postgresql", "PASSWORD": …}`, and of a login."""
    named = {text_of(key, module): one for key, one in zip(node.keys, node.values, strict=True)}
    if "postgres" in (text_of(named.get("ENGINE"), module) or "") and "PASSWORD" in named:
        yield from _password("PASSWORD", named["PASSWORD"])
    if "password" in named and lines.is_login(_login_names(named)):
        yield from _password("password", named["password"])


def _of_settings(node: ast.Dict | ast.Assign | ast.AnnAssign, module: Module) -> Iterator[Spot]:
    if isinstance(node, ast.Dict):
        yield from _of_login(node, module)
        for key, value in zip(node.keys, node.values, strict=True):
            # {"PGPASSWORD": "password"} says what libpq calls it.
            if not (isinstance(value, ast.Constant) and value.value == "password"):
                yield from _of_setting(text_of(key, module), value)
    elif node.value is not None:
        given = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in given:
            yield from _of_setting(_name_of(name, module), node.value)


def _of_text(node: ast.Constant | ast.JoinedStr | ast.BinOp, module: Module) -> Iterator[Spot]:
    text = _whole_text(node, module)
    if text is None:
        return
    is_document = id(node) in module.docstrings
    lasts = (node.end_lineno or node.lineno) - node.lineno
    for target in targets(text):
        if is_document and not target.has_password:
            continue
        # A text in triple quotes has its own lines in the file.
        below = text.count("\n", 0, target.start) if lasts == text.count("\n") else 0
        yield lines.named(target, node.lineno + below)
    if not is_document:
        yield from lines.sql_passwords(text, node.lineno)


def _whole_text(node: ast.expr, module: Module) -> str | None:
    """Return a text with "{}" for what is put in, or None when it is no text."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bytes):
            return node.value.decode("utf-8", errors="replace")
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        module.inner.update(map(id, node.values))
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Mod):
        return None
    if isinstance(node.op, ast.Mod):
        return None  # its %s stand in the text, which is looked at by itself
    parts = _added(node, module)
    texts = [_whole_text(part, module) for part in parts]
    if all(text is None for text in texts):
        return None
    module.inner.update(
        id(part) for part, text in zip(parts, texts, strict=True) if text is not None
    )
    return "".join("{}" if text is None else text for text in texts)


def _added(node: ast.BinOp, module: Module) -> list[ast.expr]:
    """Return what is added up, in order, however long the sum is."""
    parts: list[ast.expr] = []
    one: ast.expr = node
    while isinstance(one, ast.BinOp) and isinstance(one.op, ast.Add):
        module.inner.add(id(one))
        parts.append(one.right)
        one = one.left
    return [one, *reversed(parts)]


def _of_call(node: ast.Call, module: Module) -> Iterator[Spot]:
    dotted = module.dotted(node.func)
    if dotted in known.CONNECTS:
        module.inner.add(id(node.func))
        if not _takes_resolved(node, module) and not _is_of_another_kind(node, module):
            yield Spot(line=node.lineno, kind=finding.OWN_CONNECT, evidence=f"{dotted}(…)")
    else:
        yield from _of_login_call(node)
    for keyword in node.keywords:
        yield from _of_keyword(keyword, dotted, module)
    if known.RUNS_COMMANDS.fullmatch(dotted):
        yield from _of_command(node, module)
    if node.args and _reads(node.func, dotted, module):
        yield from _read(node, node.args[0], module)
    if len(node.args) > 1 and (dotted in known.SETTERS or _reads(node.func, dotted, module)):
        # What is set, or taken where there is none: getenv("PGPASSWORD", "secret").
        yield from _of_setting(text_of(node.args[0], module), node.args[1])


def _of_login_call(node: ast.Call) -> Iterator[Spot]:
    """Yield the password of `anything(host=…, database=…, password=…)`."""
    named = {one.arg: one.value for one in node.keywords if one.arg is not None}
    if "password" in named and lines.is_login(_login_names(named)):
        yield from _password("password", named["password"])


def _login_names(named: Mapping[Any, ast.expr]) -> set[str]:
    given = {
        name: value.value if isinstance(value, ast.Constant) else None
        for name, value in named.items()
        if name
    }
    return lines.login_names(given)


def _is_of_another_kind(node: ast.Call, module: Module) -> bool:
    """Whether it opens SQLite or the like, by a URL that is written there."""
    given = [*node.args[:1], *(one.value for one in node.keywords if one.arg == "url")]
    texts = [text_of(one, module) for one in given]
    return any(text is not None and known.OTHER_SCHEME.match(text) for text in texts)


def _of_keyword(keyword: ast.keyword, dotted: str, module: Module) -> Iterator[Spot]:
    if dotted in known.CONNECTS or dotted in known.URL_MAKERS:
        if keyword.arg in ("password", "passwd"):
            yield from _password(f"{dotted}(password=…)", keyword.value)
    elif dotted.rpartition(".")[2] == "Field" and keyword.arg in known.ALIASES:
        yield from _read(keyword.value, keyword.value, module)
    else:
        yield from _of_setting(keyword.arg, keyword.value)


def _takes_resolved(node: ast.Call, module: Module) -> bool:
    given = [*node.args[:1], *(one.value for one in node.keywords if one.arg in known.DSN_KEYWORDS)]
    return any(is_resolved(one, module) for one in given)


def _reads(function: ast.expr, dotted: str, module: Module) -> bool:
    if (
        dotted in known.GETENV
        or dotted in known.OTHER_READERS
        or dotted.startswith(("decouple.", "env."))
    ):
        return True
    return (
        isinstance(function, ast.Attribute)
        and function.attr in known.READERS
        and is_environment(function.value, module)
    )


def _read(node: ast.expr, name: ast.expr, module: Module) -> Iterator[Spot]:
    read = text_of(name, module)
    if read is not None and names_a_database(read):
        yield Spot(line=node.lineno, kind=finding.ENVIRONMENT_READ, evidence=f"environment: {read}")


def _of_reference(node: ast.Attribute | ast.Name, module: Module) -> Iterator[Spot]:
    if isinstance(node.ctx, ast.Load) and (dotted := module.dotted(node)) in known.FUNCTIONS:
        yield Spot(line=node.lineno, kind=finding.OWN_CONNECT, evidence=dotted)


def _name_of(node: ast.expr, module: Module) -> str | None:
    if isinstance(node, ast.Subscript):
        return text_of(node.slice, module)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _of_setting(name: str | None, value: ast.expr) -> Iterator[Spot]:
    if name is not None and holds_a_password(name):
        yield from _password(name, value)


def _password(name: str, value: ast.expr) -> Iterator[Spot]:
    if (
        isinstance(value, ast.Constant)
        and isinstance(value.value, str | bytes)
        and value.value
        and not stands_for_something(str(value.value))
    ):
        evidence = name if name.endswith(")") else f"{name}={HIDDEN}"
        yield Spot(line=value.lineno, kind=finding.CREDENTIAL, evidence=evidence)


def _of_command(node: ast.Call, module: Module) -> Iterator[Spot]:
    first = node.args[0] if node.args else None
    given = first.elts if isinstance(first, ast.List | ast.Tuple) else node.args
    found = [
        _whole_text(one, module) if isinstance(one, ast.JoinedStr) else text_of(one, module)
        for one in given
    ]
    words = [word or "{}" for word in found]
    if words and (program := known.PROGRAM.fullmatch(words[0])):
        if len(words) < 2 or words[1] not in ("--version", "--help", "-V"):
            yield Spot(line=node.lineno, kind=finding.OWN_CONNECT, evidence=f"{program['name']} …")
        return
    # A whole line of a shell, or another program's arguments: docker exec db psql -U app.
    for text in (*(word for word in words if re.search(r"\s", word)), " ".join(words)):
        for line in text.split("\n"):
            yield from lines.commands(line, node.lineno)
            yield from lines.passwords(line, node.lineno)


def _of_settings_class(node: ast.ClassDef, module: Module) -> Iterator[Spot]:
    """Yield the fields that pydantic fills from the environment by their names."""
    if not any(module.dotted(base).rpartition(".")[2] == "BaseSettings" for base in node.bases):
        return
    for field_ in node.body:
        if isinstance(field_, ast.AnnAssign) and isinstance(field_.target, ast.Name):
            name = field_.target.id.upper()
            if names_a_database(name):
                yield Spot(
                    line=field_.lineno,
                    kind=finding.ENVIRONMENT_READ,
                    evidence=f"environment: {name} (a setting's name)",
                )

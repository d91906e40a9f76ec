"""What alembic.ini says, and what env.py's text does of the version table. Neither is run."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragline.errors import UsageError

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

_OPTIONS = ("version_table", "version_table_schema")


def configured(path: Path) -> tuple[AlembicConfig, Path]:
    """Return what an alembic.ini, or that beside a script folder, says, and the script folder."""
    from alembic.config import Config as AlembicConfig

    if path.is_file():
        return _of_ini(path)
    # Its alembic.ini is usually beside it, and knows more than the folder does.
    ini = path.parent / "alembic.ini"
    if ini.is_file():
        config, folder = _of_ini(ini)
        if folder.resolve() == path.resolve():
            return config, folder
    config = AlembicConfig()
    config.set_main_option("script_location", str(path).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config, path


def _of_ini(path: Path) -> tuple[AlembicConfig, Path]:
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig(str(path))
    try:
        location = config.get_main_option("script_location")
        paths = config.get_main_option("prepend_sys_path")
        separator = config.get_main_option("path_separator")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if location is None:
        raise UsageError(f"{path} has no script_location in section [alembic]; add it")
    folder = path.parent / location
    if not folder.is_dir():
        raise UsageError(f"{path} names the folder {folder}, which is not there")
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    if separator is None:
        config.set_main_option("path_separator", "os")
    if paths is not None:
        # Alembic means the folder it is run in, which is that of the file.
        config.set_main_option("prepend_sys_path", str(path.parent / paths).replace("%", "%%"))
    return config, folder


def version_table(target: str, config: AlembicConfig, folder: Path) -> tuple[str, str | None]:
    """Return where the place is noted: as alembic.ini says, else as env.py's text does."""
    found: dict[str, str | None] = {
        "version_table": "alembic_version",
        "version_table_schema": None,
    }
    in_env = _in_env(folder / "env.py")
    for name in _OPTIONS:
        said = config.get_main_option(name)
        if said is not None:
            found[name] = said
        elif name in in_env:
            value = in_env[name]
            if not isinstance(value, str | None):
                raise UsageError(
                    f"env.py of {target} computes {name}, which cannot be read from its text: write "
                    f"`{name} = …` in section [alembic] of alembic.ini"
                )
            found[name] = value
    return found["version_table"] or "alembic_version", found["version_table_schema"]


def _in_env(path: Path) -> dict[str, Any]:
    """Return what `context.configure(…)` in an env.py says; a value that is no text is computed."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    names = {
        node.targets[0].id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr != "configure":
            continue
        for keyword in node.keywords:
            if keyword.arg in _OPTIONS:
                found[keyword.arg] = _constant(keyword.value, names)
    return found


def _constant(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, ...)
    return ...


def is_ours(folder: Path) -> bool:
    """Whether a folder is that of ragline's own migrations."""
    from ragline.db import schema

    return folder.resolve() == (Path(schema.__file__).parent / "migrations").resolve()

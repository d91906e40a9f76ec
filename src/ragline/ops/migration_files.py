"""The revisions of an Alembic folder as files, with what each line of them would send.

They are rendered as `alembic upgrade --sql` does it, without the folder's env.py and without any
database. A revision that needs one is read from its text alone.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import io
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, ModuleType

from ragline.core.migration_lint import RevisionSource, Statement
from ragline.errors import NotFound, UsageError
from ragline.ops.alembic_scripts import ONE_AT_A_TIME

_LARGEST = 2_000_000
_NAMED = ("alembic.ini", "versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The revisions that were read, and why some could not be rendered."""

    sources: tuple[RevisionSource, ...]
    not_rendered: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Where revisions are: the folders of their files, and what their imports need."""

    config: Path | None
    script_location: Path | None
    versions: tuple[Path, ...]
    imports: tuple[Path, ...] = ()


def read(path: Path) -> Files:
    """Return the revisions of an alembic.ini, a script folder, a folder of revisions, or one file."""
    folder = find(path)
    if path.is_file() and path.suffix == ".py":
        files = [path]
    else:
        files = sorted(
            file
            for versions in folder.versions
            for file in versions.glob("*.py")
            if file.name != "__init__.py"
        )
    sources, failed = [], {}
    with _importable(folder.imports):
        for file in files:
            source, why = _rendered(RevisionSource(path=_shown(file), text=_text(file)), file)
            sources.append(source)
            failed.update({source.path: why} if why else {})
    return Files(sources=tuple(sources), not_rendered=failed)


def find(path: Path) -> Folder:
    """Return where the revisions of a path are; NotFound and UsageError say what was expected."""
    if not path.exists():
        raise NotFound(
            f"{path} is not there: name an alembic.ini, its script folder, or a revision; `ragline "
            "migrate new PATH MESSAGE --init` makes a folder"
        )
    if path.is_file() and path.suffix == ".py":
        return Folder(config=None, script_location=None, versions=(path.parent,))
    if path.is_file():
        return _of_ini(path)
    if (path / "alembic.ini").is_file():
        return _of_ini(path / "alembic.ini")
    if (path / "versions").is_dir():
        config = path.parent / "alembic.ini"
        return Folder(
            config=config if config.is_file() else None,
            script_location=path,
            versions=(path / "versions",),
            imports=(path.parent,),
        )
    if path.name == "versions" or any(path.glob("*.py")):
        return Folder(
            config=None,
            script_location=path.parent if path.name == "versions" else None,
            versions=(path,),
            imports=(path.parent.parent,),
        )
    raise UsageError(
        f"{path} holds neither {' nor '.join(_NAMED)} nor revisions; name the folder of an Alembic "
        "environment, or make one with `ragline migrate new PATH MESSAGE --init`"
    )


def _of_ini(path: Path) -> Folder:
    from alembic.config import Config as AlembicConfig
    from alembic.util import CommandError

    try:
        config = AlembicConfig(str(path))
        location = config.get_main_option("script_location")
        named = config.get_main_option("version_locations")
        imports = config.get_main_option("prepend_sys_path")
    except (OSError, ValueError, CommandError, configparser.Error) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} cannot be read as an alembic.ini: {said}") from error
    if location is None:
        raise UsageError(f"{path} names no script_location in its section [alembic]; add it")
    scripts = path.parent / location
    if named:
        versions = tuple(path.parent / one for one in named.replace(os.pathsep, " ").split())
    else:
        versions = (scripts / "versions",)
    return Folder(
        config=path,
        script_location=scripts,
        versions=versions,
        imports=() if imports is None else (path.parent / imports,),
    )


def _shown(file: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(file.absolute().relative_to(Path.cwd()))
    return str(file)


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST:
            raise UsageError(f"{file} is larger than {_LARGEST} bytes: it is no revision")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}; let this user read it"
        ) from None


# Rendering


class _Lines(io.TextIOBase):
    """Keeps what Alembic writes, with the line of the revision that sent it."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._is_autocommit = False
        self.sent: list[Statement] = []

    def write(self, text: str) -> int:
        said = text.strip().rstrip(";").upper()
        if said in ("COMMIT", "BEGIN"):
            self._is_autocommit = said == "COMMIT"
        elif text.strip():
            line = _line_in(self._file, sys._getframe())  # noqa: SLF001 - who called is the point
            self.sent.append(Statement(line=line, sql=text, is_autocommit=self._is_autocommit))
        return len(text)


def _line_in(file: str, frame: FrameType | None) -> int:
    """Return the line of a file that is being run, found from the innermost call outwards."""
    while frame is not None:
        if frame.f_code.co_filename == file:
            return frame.f_lineno
        frame = frame.f_back
    return 1


def _rendered(source: RevisionSource, file: Path) -> tuple[RevisionSource, str]:
    with ONE_AT_A_TIME, _quiet():
        try:
            module = _loaded(file)
            up, down = (_sent(module, file, name) for name in ("upgrade", "downgrade"))
        except Exception as error:  # noqa: BLE001 - the user's code: it may do anything
            return source, f"{type(error).__name__}: {error}"[:300]
    return replace(source, upgrade=up, downgrade=down), ""


def _loaded(file: Path) -> ModuleType:
    name = f"_ragline_revision_{secrets.token_hex(6)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sent(module: ModuleType, file: Path, name: str) -> tuple[Statement, ...]:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.dialects import postgresql

    function = getattr(module, name, None)
    if function is None:
        return ()
    lines = _Lines(file)
    context = MigrationContext(
        postgresql.dialect(),  # type: ignore[no-untyped-call]
        None,
        {"as_sql": True, "output_buffer": lines},
    )
    try:
        with Operations.context(context):
            function()
    except NotImplementedError:
        return ()  # a way back that is refused
    return tuple(lines.sent)


@contextlib.contextmanager
def _importable(folders: tuple[Path, ...]) -> Iterator[None]:
    """Let revisions import what lies beside them, leaving no compiled files there."""
    was, wrote = list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = [str(folder.absolute()) for folder in folders]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:] = was
        sys.dont_write_bytecode = wrote


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("alembic.runtime.migration")
    was = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was

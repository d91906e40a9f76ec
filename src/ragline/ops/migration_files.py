"""The revisions of an Alembic folder as files, with what each line of them would send.

They are rendered as `alembic upgrade --sql` does it, without the folder's env.py, without any
database, and in a process of their own. A revision that needs one is read from its text alone.
"""

from __future__ import annotations

import configparser
import contextlib
from dataclasses import dataclass
from pathlib import Path

from ragline.core.migration_lint import RevisionSource
from ragline.errors import NotFound, UsageError
from ragline.ops import migration_rendering
from ragline.ops.migration_rendering import Sent

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

    versions: tuple[Path, ...]
    imports: tuple[Path, ...] = ()


def read(path: Path, *, is_rendered: bool = True) -> Files:
    """Return the revisions of an alembic.ini, a script folder, a folder of revisions, or one file.

    Rendering runs their Python; without, they are read from their texts alone.
    """
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
    texts = {file: _text(file) for file in files}
    sent = migration_rendering.rendered(files, folder.imports) if is_rendered else {}
    sources, failed = [], {}
    for file, text in texts.items():
        found = sent.get(file, Sent(why="--no-render"))
        source = RevisionSource(
            path=_shown(file), text=text, upgrade=found.upgrade, downgrade=found.downgrade
        )
        sources.append(source)
        failed.update({source.path: found.why} if found.why else {})
    return Files(sources=tuple(sources), not_rendered=failed)


def find(path: Path) -> Folder:
    """Return where the revisions of a path are; NotFound and UsageError say what was expected."""
    if not path.exists():
        raise NotFound(
            f"{path} is not there: name an alembic.ini, its script folder, or a revision; `ragline "
            "migrate new PATH MESSAGE --init` makes a folder"
        )
    if path.is_file() and path.suffix == ".py":
        return Folder(versions=(path.parent,))
    if path.is_file():
        return _of_ini(path)
    if (path / "alembic.ini").is_file():
        return _of_ini(path / "alembic.ini")
    if (path / "versions").is_dir():
        return Folder(versions=(path / "versions",), imports=(path.parent,))
    if path.name == "versions" or any(path.glob("*.py")):
        return Folder(versions=(path,), imports=(path.parent.parent,))
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
        # Lists, cut where the file says: a folder's name may have a space in it.
        named = config.get_version_locations_list()
        imports = config.get_prepend_sys_paths_list()
    except (OSError, ValueError, CommandError, configparser.Error) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} cannot be read as an alembic.ini: {said}") from error
    if location is None:
        raise UsageError(f"{path} names no script_location in its section [alembic]; add it")
    versions = tuple(path.parent / one for one in named or ())
    return Folder(
        versions=versions or (path.parent / location / "versions",),
        imports=tuple(path.parent / one for one in imports or ()),
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

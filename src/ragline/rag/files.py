"""Which files of which folders are documents."""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from ragline.errors import NotFound, UsageError
from ragline.rag.formats import RECORDS, Rejected, media_type, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

IGNORE_FILE = ".raglineignore"
SIZE_LIMIT_BYTES = 64 << 20

_NEVER = frozenset(("node_modules", "__pycache__", "venv"))  # and whatever begins with a dot
# What tools write beside the sources: nobody reads it, and it is long.
_GENERATED = re.compile(
    r"(?:package-lock|npm-shrinkwrap|composer\.lock)\.json|pnpm-lock\.yaml|.+\.min\.(?:js|css)"
)
_HEAD_BYTES = 1024
_IGNORE_BYTES = 1 << 16
# Each `*` of a pattern multiplies the time that matching a long name may take.
_LONGEST_PATTERN = 1000
_MOST_STARS = 4
_MOST_STARS_OF_A_NAME = 3
# For all that an ignore file is asked about: so much, and so much more each time.
_MATCH_S = 5.0
_MATCH_EACH_S = 0.001
_MOST_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Found:
    """A file to take in. `source` names its document: the absolute path without symlinks."""

    path: Path
    source: str
    size: int
    root: Path
    media_type: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is there but not taken in, and why.

    `is_rejection` is false for a file of another kind that only lies in a folder.
    """

    path: Path
    source: str
    reason: str
    message: str
    is_rejection: bool = True


def find(
    paths: Sequence[Path], ignore: Sequence[str] = (), size_limit_bytes: int = SIZE_LIMIT_BYTES
) -> Iterator[Found | Skipped]:
    """Yield each file once, in the order of the paths and sorted within folders.

    Hidden, ignored and generated files are not mentioned. `ignore` has the syntax of .gitignore,
    and so has a file `.raglineignore` in any folder.
    """
    for path in paths:
        if not path.exists():
            raise NotFound(f"there is no file or folder {str(path)!r}")
    seen: set[str] = set()
    for path in paths:
        top = path.resolve()
        if top.is_dir():
            here = _Ignored(top, _own_spec(ignore), is_trusted=True)
            found = _walk(top, top, (here,), size_limit_bytes)
        else:
            found = iter((_examined(top, top.parent, size_limit_bytes, is_named=True),))
        for one in found:
            if one.source not in seen:
                seen.add(one.source)
                yield one


@dataclass(slots=True)
class _Ignored:
    """Patterns, and the folder that they are relative to.

    Those found in a folder are not trusted: they may be made to take for ever.
    """

    folder: Path
    spec: GitIgnoreSpec
    is_trusted: bool = False
    left_s: float = _MATCH_S

    def verdict(self, path: Path, is_folder: bool) -> bool | None:
        """Whether the last matching pattern ignores the path; None when none matches."""
        name = path.relative_to(self.folder).as_posix()
        begun = time.thread_time()
        verdict = self.spec.check_file(name + "/" if is_folder else name).include
        self.left_s += _MATCH_EACH_S - (time.thread_time() - begun)
        if self.left_s < 0 and not self.is_trusted:
            raise _BadIgnoreFile(self.folder, "its patterns take too long to match")
        return verdict


class _BadIgnoreFile(Exception):
    """A folder whose ignore file cannot be used: nobody knows what of it is to be taken in."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(what)
        self.folder = folder


def _own_spec(lines: Sequence[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except (ValueError, re.error) as error:
        raise UsageError(f"the ignore patterns cannot be understood: {error}") from error


def _spec_of(folder: Path, lines: Sequence[str]) -> GitIgnoreSpec:
    for number, line in enumerate(lines, 1):
        stars = [len(re.findall(r"\*+", name)) for name in line.split("/")]
        if len(line) > _LONGEST_PATTERN:
            raise _BadIgnoreFile(
                folder, f"line {number} has more than {_LONGEST_PATTERN} characters"
            )
        if not line.startswith("#") and (
            sum(stars) > _MOST_STARS or max(stars) > _MOST_STARS_OF_A_NAME
        ):
            raise _BadIgnoreFile(
                folder,
                f"line {number} has more than {_MOST_STARS} stars, or {_MOST_STARS_OF_A_NAME} "
                f"between slashes: {line[:80]!r}",
            )
    try:
        return GitIgnoreSpec.from_lines(lines)
    except (ValueError, re.error) as error:
        raise _BadIgnoreFile(folder, f"it cannot be understood: {error}") from error


def _walk(
    folder: Path, root: Path, ignored: tuple[_Ignored, ...], limit: int
) -> Iterator[Found | Skipped]:
    try:
        yield from _entries(folder, root, ignored, limit)
    except _BadIgnoreFile as error:
        if error.folder != folder:
            raise
        message = f"the folder is left out for its {IGNORE_FILE}: {error}"
        yield _skipped(folder, "BAD_IGNORE_FILE", message)


def _entries(
    folder: Path, root: Path, ignored: tuple[_Ignored, ...], limit: int
) -> Iterator[Found | Skipped]:
    if len(folder.parts) - len(root.parts) > _MOST_DEPTH:
        yield _skipped(folder, "TOO_DEEP", f"folders are nested more than {_MOST_DEPTH} deep")
        return
    try:
        entries = sorted(folder.iterdir())
        ignored += _ignore_file(folder)
    except OSError as error:
        yield _skipped(folder, "UNREADABLE", f"the folder cannot be read: {error.strerror}")
        return
    for path in entries:
        if _is_hidden(path.name) or _is_ignored(path, ignored):
            continue
        if path.is_symlink():
            yield from _linked(path, root, limit)
        elif path.is_dir():
            yield from _walk(path, root, ignored, limit)
        else:
            yield _examined(path, root, limit, is_named=False)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NEVER or _GENERATED.fullmatch(name) is not None


def _ignore_file(folder: Path) -> tuple[_Ignored, ...]:
    path = folder / IGNORE_FILE
    if not path.is_file():
        return ()
    try:
        with open_regular(path.resolve()) as file:
            data = file.read(_IGNORE_BYTES + 1)
    except Rejected as error:  # replaced since it was looked at
        raise _BadIgnoreFile(folder, error.message) from error
    if len(data) > _IGNORE_BYTES:
        raise OSError(errno.EFBIG, f"its {IGNORE_FILE} has more than {_IGNORE_BYTES} bytes")
    lines = data.decode("utf-8", errors="replace").splitlines()
    return (_Ignored(folder, _spec_of(folder, lines)),)


def _is_ignored(path: Path, ignored: tuple[_Ignored, ...]) -> bool:
    is_folder = path.is_dir() and not path.is_symlink()
    # The patterns of an inner folder win over those of an outer one, as with git.
    verdicts = (one.verdict(path, is_folder) for one in reversed(ignored))
    return next((verdict for verdict in verdicts if verdict is not None), False)


def _linked(path: Path, root: Path, limit: int) -> Iterator[Found | Skipped]:
    """A link to a file in the folder is that file; a folder in it is visited where it really is."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a cycle of links, up to Python 3.12
        yield _skipped(path, "UNREADABLE", "the symlink leads nowhere")
        return
    if not target.is_relative_to(root):
        yield _skipped(path, "SYMLINK_OUTSIDE", f"the symlink leads out of the folder {root}")
    elif not target.is_dir():
        yield _examined(target, root, limit, is_named=False)


def _examined(path: Path, root: Path, limit: int, *, is_named: bool) -> Found | Skipped:
    try:
        path.as_posix().encode()
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            kind = media_type(path, file.read(_HEAD_BYTES))
    except UnicodeEncodeError:
        return _skipped(path, "UNREADABLE", "its name is not UTF-8")
    except OSError as error:
        return _skipped(path, "UNREADABLE", f"it cannot be read: {error.strerror}")
    except Rejected as error:
        return _skipped(path, error.reason, error.message)
    if kind is None:
        message = f"no parser knows {path.suffix or 'its content'}"
        return _skipped(path, "UNSUPPORTED", message, is_rejection=is_named)
    # Files of rows are read row by row, however many there are.
    if size > limit and kind not in RECORDS:
        return _skipped(path, "TOO_LARGE", f"it has {size} bytes; the limit is {limit}")
    return Found(path, path.as_posix(), size, root, kind)


def _skipped(path: Path, reason: str, message: str, *, is_rejection: bool = True) -> Skipped:
    source = path.as_posix().encode(errors="backslashreplace").decode()
    return Skipped(path, source, reason, message, is_rejection)

"""The audit of files: which are read, what is found in them, and whether the targets exist."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import asyncpg

from ragline import config
from ragline.core import baselines, dsn_audit
from ragline.core.dsn import Dsn, Secret
from ragline.core.dsn_audit import finding as classes
from ragline.core.dsn_audit import judging
from ragline.core.dsn_audit.finding import Finding, Spot
from ragline.core.dsn_audit.judging import Allowance
from ragline.db import pool
from ragline.errors import ConfigError, NotFound, RaglineError, UsageError

ALLOW_FILE = ".ragline-audit.toml"
# A tree of Python takes a hundred times its text; notebooks are large for their pictures.
SIZE_LIMIT_BYTES = 4 << 20
NOTEBOOK_LIMIT_BYTES = 16 << 20

_LEFT_OUT = frozenset(
    ".git .hg .svn .venv venv node_modules __pycache__ .mypy_cache .ruff_cache .pytest_cache "
    ".hypothesis .import_linter_cache .tox .nox .eggs site-packages .ipynb_checkpoints".split()
)
_HEAD_BYTES = 8192
_LIST_LIMIT_BYTES = 64 << 20
_SIDE_BY_SIDE = 8
_MOST_DEPTH = 200

Outcome = Literal["exists", "unknown-database", "unknown-user", "not-reached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that the audit did not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A target that was asked for, and what came of it."""

    target: str
    outcome: Outcome
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit read and found."""

    files: int
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    unused_allowances: tuple[Allowance, ...] = ()
    tried: tuple[Tried, ...] | None = None
    """None when nothing was to be tried."""

    def failing(self, fail_on: Literal["new", "any", "never"]) -> tuple[Finding, ...]:
        """Return the findings that make it fail."""
        statuses = {"new": ("new",), "any": ("new", "known"), "never": ()}[fail_on]
        return tuple(one for one in self.findings if one.status in statuses)


@dataclass(slots=True)
class _Read:
    """What the files held, before anything is judged."""

    files: int = 0
    spots: list[tuple[str, Spot]] = field(default_factory=list, repr=False)
    skipped: list[Skipped] = field(default_factory=list)


def audit(
    paths: Sequence[Path],
    *,
    allowed: Sequence[Allowance] = (),
    known: dict[baselines.Key, int] | None = None,
    patience_s: float | None = None,
    apart: Sequence[Path] = (),
) -> Audit:
    """Read the files of some paths and judge what is in them; with `patience_s`, try each target.

    `apart` are files not to be read: what audits write would be found by the next one.
    """
    read = _read_all(paths, apart)
    findings = [spot.at(path) for path, spot in read.spots]
    tried: tuple[Tried, ...] | None = None
    if patience_s is not None:
        # What is allowed has a reason to be there, and that is not to be a database of ours.
        open_spots = [
            (path, spot)
            for (path, spot), one in zip(read.spots, findings, strict=True)
            if not any(entry.covers(one) for entry in allowed)
        ]
        more, tried = asyncio.run(_try_all(open_spots, patience_s))
        findings = sorted(findings + more, key=lambda one: (one.path, one.line, one.id))
    judged = baselines.judged(findings, allowed, known or {})
    return Audit(
        files=read.files,
        findings=judged,
        skipped=tuple(read.skipped),
        unused_allowances=judging.unused(judged, allowed, [_shown(one.resolve()) for one in paths]),
        tried=tried,
    )


def allow_list(file: Path | None) -> tuple[Allowance, ...]:
    """Return the entries of an allow-list; by default those of `.ragline-audit.toml`, if there."""
    chosen = file or Path(ALLOW_FILE)
    if file is None and not chosen.exists():
        return ()
    return judging.allowances(_text(chosen), source=str(chosen))


def baseline(file: Path) -> dict[baselines.Key, int]:
    """Return what a baseline knows."""
    if not file.exists():
        raise NotFound(f"there is no baseline {str(file)!r}; write one with --write-baseline")
    return judging.baseline(_text(file), source=str(file))


def write(file: Path, text: str) -> None:
    """Write a baseline or a log: all of it, or nothing."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(
            f"{file} cannot be written: {error.strerror}; name another file"
        ) from error


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _LIST_LIMIT_BYTES:
            raise ConfigError(f"{file} has more than {_LIST_LIMIT_BYTES} bytes; name another file")
        return file.read_text(encoding="utf-8")
    except UnicodeError:
        raise ConfigError(f"{file} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None


def _read_all(paths: Sequence[Path], apart: Sequence[Path]) -> _Read:
    for path in paths:
        if not path.exists():
            raise NotFound(f"there is no file or folder {str(path)!r}; name one that there is")
    read = _Read()
    seen = {path.resolve() for path in (*apart, Path(ALLOW_FILE))}
    for path in paths:
        top = path.resolve()
        files = _walk(top, read.skipped) if top.is_dir() else iter([top])
        for file in files:
            if file not in seen:
                seen.add(file)
                _read_file(file, read, is_named=file == top)
    # A path is what people sort by; the lines of a file are in order already.
    read.spots.sort(key=lambda one: one[0])
    read.skipped.sort(key=lambda one: one.path)
    return read


def _walk(top: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Yield the plain files below a folder. No symlink is followed, so there are no loops."""
    folders = [(top, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(_skipped(folder, f"the folder cannot be read: {error.strerror}"))
            continue
        for entry in found:
            path = folder / entry.name
            if entry.is_symlink():
                _skip_link(path, skipped)
            elif not entry.is_dir(follow_symlinks=False):
                yield path
            elif depth >= _MOST_DEPTH:
                skipped.append(_skipped(path, f"folders are nested more than {_MOST_DEPTH} deep"))
            elif entry.name not in _LEFT_OUT:
                folders.append((path, depth + 1))


def _skip_link(path: Path, skipped: list[Skipped]) -> None:
    is_of_interest = dsn_audit.kind_of(path.name) is not None or path.is_dir() or not path.exists()
    if is_of_interest and path.name not in _LEFT_OUT:
        skipped.append(_skipped(path, "a symlink; what it leads to is read where it really is"))


def _read_file(path: Path, read: _Read, *, is_named: bool) -> None:
    kind = dsn_audit.kind_of(path.name)
    if kind is None and "." in path.name and not is_named:
        return
    try:
        data = _content(path, NOTEBOOK_LIMIT_BYTES if kind == "notebook" else SIZE_LIMIT_BYTES)
    except OSError as error:
        read.skipped.append(_skipped(path, f"it cannot be read: {error.strerror or error}"))
        return
    if isinstance(data, str):
        # What no name says to be text of ours is not missed.
        if kind is not None or is_named:
            read.skipped.append(_skipped(path, data))
        return
    head = data[:_HEAD_BYTES].partition(b"\n")[0].decode("utf-8", errors="replace")
    kind = kind or dsn_audit.kind_of(path.name, head) or ("config" if is_named else None)
    if kind is not None:
        read.files += 1
        shown = _shown(path)
        read.spots += [(shown, spot) for spot in dsn_audit.audit(kind, data)]


def _content(path: Path, limit: int) -> bytes | str:
    """Return the bytes of a file, or why it is not read."""
    # Looked at through the descriptor, because a name may lead elsewhere a moment later.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "it is not a plain file"
        if status.st_size > limit:
            return f"it has {status.st_size} bytes; the limit is {limit}"
        head = file.read(_HEAD_BYTES)
        if b"\0" in head and not head.startswith(dsn_audit.UTF_16):
            return "it is binary"
        return head + file.read(limit)


def _skipped(path: Path, reason: str) -> Skipped:
    return Skipped(path=_shown(path), reason=reason)


def _shown(path: Path) -> str:
    """Return a path as the allow-list and the baseline know it: relative to where we are."""
    here = Path.cwd()
    relative = path.relative_to(here) if path.is_relative_to(here) else path
    return relative.as_posix().encode(errors="backslashreplace").decode()


async def _try_all(
    found: Sequence[tuple[str, Spot]], patience_s: float
) -> tuple[list[Finding], tuple[Tried, ...]]:
    """Return what is wrong with the targets, at each place that names them, and all that was tried."""
    places: dict[Dsn | str, list[tuple[str, Spot]]] = defaultdict(list)
    malformed: dict[str, str] = {}
    for path, spot in found:
        if spot.target is None:
            continue
        try:
            places[_resolved(spot.target)].append((path, spot))
        except RaglineError as error:
            malformed[spot.evidence] = str(error)
            places[spot.evidence].append((path, spot))
    limit = asyncio.Semaphore(_SIDE_BY_SIDE)
    outcomes = await asyncio.gather(
        *(
            _try(one, limit, patience_s) if isinstance(one, Dsn) else _refused(malformed[one])
            for one in places
        )
    )
    findings, tried = [], []
    for (outcome, detail), spots in zip(outcomes, places.values(), strict=True):
        tried.append(Tried(target=spots[0][1].evidence, outcome=outcome, detail=detail))
        if outcome != "exists":
            findings += [_missing(path, spot, outcome, detail or "") for path, spot in spots]
    return findings, tuple(tried)


def _missing(path: str, spot: Spot, outcome: Outcome, detail: str) -> Finding:
    said = replace(
        spot, kind=classes.CLASSES[outcome], evidence=f"{spot.evidence}: {detail}", target=None
    )
    return said.at(path)


def _resolved(target: Secret) -> Dsn:
    # Nothing of our own environment: a file must not be able to ask for our password.
    found = config.load(dsn=target.reveal(), environ={}).dsn
    if found is None:
        raise ConfigError("it names no database")
    return found


async def _try(dsn: Dsn, limit: asyncio.Semaphore, patience_s: float) -> tuple[Outcome, str | None]:
    async with limit:
        try:
            async with asyncio.timeout(patience_s):
                await pool.look_up(dsn)
        except TimeoutError:
            return "not-reached", f"no answer within {patience_s:g} s"
        except RaglineError as error:
            return _outcome(error), str(error)
    return "exists", None


async def _refused(why: str) -> tuple[Outcome, str | None]:
    return "not-reached", why


def _outcome(error: RaglineError) -> Outcome:
    if isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
        return "unknown-database"
    is_login = isinstance(
        error.__cause__,
        asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError,
    )
    if is_login and str(error).startswith('user "') and "does not exist" in str(error):
        return "unknown-user"
    return "not-reached"

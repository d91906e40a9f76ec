"""The file beside the ledger: what is needed to put a server right that does not start.

It is written before the first step of a change of settings and removed when the change is decided. Where
a restored backup has rewound the ledger, the journal is what counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ragline.core.change import Part, Value
from ragline.errors import PreconditionFailed
from ragline.ops import autoconf


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """A change of settings under way. `settings` are those of postgresql.auto.conf before it.

    `data_directory` is None where the server's files cannot be reached from here.
    """

    key: str
    change_id: int
    database: str
    title: str
    parts: tuple[Part, ...]
    snapshot: tuple[Value, ...]
    is_cluster_wide: bool
    opened_at: str
    data_directory: str | None
    settings: Mapping[str, str]


def write(data_dir: Path, server: str, journal: Journal) -> None:
    """Write a server's journal, whole or not at all, and onto the disk."""
    path = _path(data_dir, server)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w"
        ) as file:
            json.dump(asdict(journal), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise PreconditionFailed(
            f"the journal {path} cannot be written ({error.strerror}), and without it a server that "
            "does not start again could not be put right: nothing was changed. Free or allow that "
            "folder, or choose another with --data-dir"
        ) from error


def read(data_dir: Path, server: str) -> Journal | None:
    """Return the journal of a server, or None."""
    return _read(_path(data_dir, server))


def remove(data_dir: Path, server: str) -> None:
    """Remove the journal of a server whose change is decided."""
    _path(data_dir, server).unlink(missing_ok=True)


def repair(data_dir: Path, *, below: Path) -> Journal | None:
    """Put back on disk the settings of a change under way of a server whose files lie below a folder.

    Returns the change, or None when there was nothing to put back: then that is not why a server fails.
    """
    for path in sorted(_folder(data_dir).glob("*.json")):
        journal = _read(path)
        if journal is None or journal.data_directory is None:
            continue
        folder = Path(journal.data_directory)
        is_ours = folder.is_dir() and folder.resolve().is_relative_to(below.resolve())
        if is_ours and autoconf.repair(folder, journal.settings):
            return journal
    return None


def _read(path: Path) -> Journal | None:
    try:
        found = json.loads(path.read_text())
        parts = tuple(Part(**part) for part in found.pop("parts"))
        return Journal(parts=parts, snapshot=tuple(found.pop("snapshot")), **found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PreconditionFailed(
            f"the journal {path} cannot be read ({error}): it says what an interrupted change left. "
            "Look at it; remove it once postgresql.auto.conf is as it should be"
        ) from error


def _folder(data_dir: Path) -> Path:
    return data_dir / "changes"


def _path(data_dir: Path, server: str) -> Path:
    return _folder(data_dir) / f"{server}.json"

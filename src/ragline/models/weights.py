"""Hashes of large files, remembered beside them so that opening a model stays fast."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

REMEMBERED = ".ragline-hashes.json"


def sha256_of(files: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by name; files that did not change are not read again."""
    folder = files[0].parent
    known = _known(folder)
    entries = {file.name: _entry(file, known.get(file.name)) for file in files}
    if any(known.get(name) != entry for name, entry in entries.items()):
        _remember(folder, known | entries)
    return {name: str(entry["sha256"]) for name, entry in entries.items()}


def _entry(file: Path, known: Any) -> dict[str, object]:
    stat = file.stat()
    # The change time too: archives often carry one fixed modification time for every file, so two
    # models of equal size would look the same.
    stamp = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
    if isinstance(known, dict) and known == {**stamp, "sha256": known.get("sha256")}:
        return known
    with file.open("rb") as stream:
        return {**stamp, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _known(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / REMEMBERED).read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _remember(folder: Path, entries: dict[str, Any]) -> None:
    # A folder that we may not write to is hashed again each time; nothing else is lost.
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as stream:
            json.dump(entries, stream, indent=1)
        Path(stream.name).chmod(0o644)
        Path(stream.name).replace(folder / REMEMBERED)

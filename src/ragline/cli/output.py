"""What commands print: data to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}


def emit(value: object, *, as_json: bool, text: str | None = None) -> None:
    """Print `value` as one JSON object, or `text` for people, on stdout."""
    if as_json or text is None:
        is_unicode = sys.stdout.encoding.lower().startswith("utf")
        print(json.dumps(plain(value), ensure_ascii=not is_unicode))  # noqa: T201
    elif text:
        print(_harmless(text))  # noqa: T201


def note(message: str) -> None:
    """Say something to the person at the terminal, on stderr."""
    print(_harmless(message), file=sys.stderr)  # noqa: T201


def accept_any_text() -> None:
    """Have stdout write what its encoding lacks as escapes, as stderr does, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _harmless(text: str) -> str:
    """Return `text` without control characters: documents and file names must not steer a terminal."""
    return text.translate(_CONTROLS)


def plain(value: object) -> Any:
    """Return `value` as JSON knows it: dataclasses become objects, paths and dates strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")

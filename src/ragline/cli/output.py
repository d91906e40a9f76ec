"""What commands print: data to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


def emit(value: object, *, as_json: bool, text: str | None = None) -> None:
    """Print `value` as one JSON object, or `text` for people, on stdout."""
    if as_json or text is None:
        print(json.dumps(plain(value), ensure_ascii=False))  # noqa: T201
    elif text:
        print(text)  # noqa: T201


def note(message: str) -> None:
    """Say something to the person at the terminal, on stderr."""
    print(message, file=sys.stderr)  # noqa: T201


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

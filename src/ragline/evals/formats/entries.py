"""What a format reads: cases, each with the place where it stands, or why it is none."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragline.core import json_fields
from ragline.core.case_faults import Refusal
from ragline.core.cases import Case
from ragline.errors import UsageError

_MOST_LISTED = 10
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


class DatasetRefused(UsageError):
    """Cases that cannot be taken in; nothing of their dataset was."""

    def __init__(self, what: str, refusals: Sequence[Refusal], total: int) -> None:
        self.refusals = tuple(refusals)
        lines = [f"  {one}" for one in refusals[:_MOST_LISTED]]
        if more := len(refusals) - len(lines):
            lines.append(f"  and {more} more")
        idle = sum(one.is_degenerate for one in refusals)
        advice = (
            f"\n{idle} of them would measure nothing: correct them, or leave them out with "
            "--skip-degenerate (skip_degenerate=True in Python)"
        )
        super().__init__(
            f"{what}: {len(refusals)} of {total} entries are refused, and nothing is taken in:\n"
            + "\n".join(lines)
            + (advice if idle else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What stands in a file: cases with their places, and what is none. `extra` is the file's own."""

    format: str
    cases: tuple[tuple[str, Case], ...]
    refusals: tuple[Refusal, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def text(path: Path) -> str:
    """Return the text of a file without its mark of order; UsageError when there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(_PACKED):
        raise UsageError(f"{path} is compressed; unpack it first")
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise UsageError(f"{path} is UTF-16; convert it to UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}: byte {error.start} of the file is not UTF-8; convert it"
        ) from error


def numbered(content: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, and their numbers."""
    # Not splitlines: JSON texts may hold characters that it takes for the end of a line.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def objects(content: str) -> Iterator[tuple[str, str | Any]]:
    """Yield where each object of JSON Lines, or of a JSON list, stands, and its text or its value."""
    if content.lstrip().startswith("["):
        for number, value in enumerate(json_fields.loads(content), start=1):
            yield f"entry {number}", value
    else:
        for number, line in numbered(content):
            yield f"line {number}", line


def cases(
    content: str, to_case: Callable[[Mapping[str, Any], int], Case], prefix: str = ""
) -> tuple[tuple[tuple[str, Case], ...], tuple[Refusal, ...]]:
    """Return the cases that `to_case` makes of objects and their numbers, and why others are none."""
    made: list[tuple[str, Case]] = []
    refused: list[Refusal] = []
    for number, (place, given) in enumerate(objects(content), start=1):
        where = prefix + place
        try:
            value = json_fields.loads(given) if isinstance(given, str) else given
            made.append((where, to_case(mapping(value), number)))
        except UsageError as error:
            refused.append(Refusal(where=where, reason=str(error)))
    return tuple(made), tuple(refused)


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value that is an object; UsageError for any other."""
    if not isinstance(value, Mapping):
        raise UsageError(f"it is {json_fields.kind(value)}, not an object")
    return value


def save(files: Mapping[Path, str]) -> None:
    """Write new files and their folders, all or none; UsageError when one is there, or cannot be."""
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists already; name another, or remove it")
    for path, content in files.items():
        try:
            data = content.encode()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
        except UnicodeEncodeError as error:
            raise UsageError(f"{path} cannot be written: half a character is in it") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

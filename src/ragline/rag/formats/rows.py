"""Files that hold many documents, one a row: read piece by piece, none of them whole.

Each format is a module with `reader(lines, place, variant) -> Reader`, named in `RECORDS`. What has
been read so far is a `Place`, a value: the next piece may be read by another process.
"""

from __future__ import annotations

import os
import time
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ragline.rag.formats import Rejected, check_metadata, load, open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The longest line of JSONL, row of CSV or message of an mbox.
LONGEST_BYTES = 16 << 20
MOST_FIELDS = 1000
# In bytes; with the file's name it must fit an index entry of PostgreSQL.
LONGEST_ID = 1900

_BATCH_ROWS = 500
_BATCH_BYTES = 1 << 20
_BATCH_SECONDS = 2.0
_SKIPPED_BYTES = 1 << 20
_LONGEST_MESSAGE = 500
# What may be read once more in a file after quotes that nobody closed: each such quote takes all
# that follows it. A line costs more than its bytes.
_MOST_REREAD_BYTES = 4 * LONGEST_BYTES
_LINE_COST_BYTES = 50

# What the fields are called in most files, in the order in which they are looked for.
USUAL_TEXT = ("text", "body", "content")
USUAL_ID = ("id", "_id")
USUAL_TITLE = "title"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which fields of a row are what; left empty, the usual names are looked for.

    Several text fields are one text, with a blank line between them.
    """

    text: tuple[str, ...] = ()
    id: str | None = None
    title: str | None = None

    def found_among(self, names: tuple[str, ...]) -> Fields:
        """Return the fields by name; raise Rejected when `names` lacks one, or the usual ones."""
        text = self.text or tuple(name for name in USUAL_TEXT if name in names)[:1]
        id_ = self.id or next((name for name in USUAL_ID if name in names), None)
        if not text:
            raise _no_field("text", USUAL_TEXT, names)
        if id_ is None:
            raise _no_field("id", USUAL_ID, names)
        title = self.title or (USUAL_TITLE if USUAL_TITLE not in (*text, id_) else None)
        return Fields(text=text, id=id_, title=title)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a file has been read: bytes and lines, and what its beginning said."""

    fields: Fields = field(default_factory=Fields)
    offset: int = 0
    line: int = 1
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    reread: int = 0
    file: tuple[int, ...] = ()
    """Which file it was, of what size and time: another one is not read on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One document of a file. `id` is unique in the file as far as the file says."""

    id: str
    line: int
    content: bytes
    media_type: str
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row that is not taken in, and why. `id` is None where it could not be read."""

    line: int
    reason: str
    message: str
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows of a file, in order, and where to go on; `place` is None at the end."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]
    place: Place | None


class Reader(Protocol):
    """What a format does."""

    def next(self) -> Row | None:
        """Return the next row, or None at the end; raise RowFault for one that makes no document."""

    def place(self, place: Place) -> Place:
        """Return `place` with what the reader learned at the beginning of the file."""


def read(path: Path, module: str, place: Place) -> Batch:
    """Return the next rows of a file; Rejected when none of it can be read."""
    parser, variant = load(module)
    until = time.monotonic() + _BATCH_SECONDS
    with open_regular(path) as file:
        now = _identity(file)
        if place.file and place.file != now:
            raise Rejected("CHANGED", "the file was changed while it was read; ingest it again")
        lines = Lines(file, place)
        reader: Reader = parser.reader(lines, place, variant)
        rows: list[Row] = []
        faults: list[Fault] = []
        enough = lines.offset + _BATCH_BYTES
        while len(rows) + len(faults) < _BATCH_ROWS and lines.offset < enough:
            lines.begin_row()
            try:
                found = reader.next()
            except RowFault as error:
                faults.append(error.at(lines.row_line))
            except Rejected as error:
                if not (place.offset or rows):
                    raise
                # The rows before are good.
                faults.append(RowFault(error.reason, error.message).at(lines.row_line))
                return Batch(rows=tuple(rows), faults=tuple(faults), place=None)
            else:
                if found is None:
                    return Batch(rows=tuple(rows), faults=tuple(faults), place=None)
                rows.append(found)
            if time.monotonic() > until:
                break
        here = replace(place, offset=lines.offset, line=lines.line, reread=lines.reread, file=now)
        return Batch(rows=tuple(rows), faults=tuple(faults), place=reader.place(here))


def _identity(file: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class RowFault(Exception):
    """A row that is not taken in; the rest of the file goes on."""

    def __init__(self, reason: str, message: str, id_: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.id = id_

    def at(self, line: int) -> Fault:
        """Return it as a value."""
        message = f"line {line}: {self.message}"[:_LONGEST_MESSAGE]
        return Fault(line=line, reason=self.reason, message=message, id=self.id)


class Lines:
    """The lines of a file from a place on, each a bounded number of bytes."""

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self._file = file
        self.offset = place.offset
        self.line = place.line
        self.reread = place.reread
        file.seek(place.offset)
        if place.offset == 0:
            self._check_beginning()
        self._resume = (self.offset, self.line)
        self.row_line = self.line
        self._row_bytes = 0

    def _check_beginning(self) -> None:
        head = self._file.read(3)
        if not head:
            raise Rejected("EMPTY", "the file is empty")
        if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise Rejected("NOT_TEXT", "the file is UTF-16; convert it to UTF-8")
        self.offset = len(BOM_UTF8) if head == BOM_UTF8 else 0
        self._file.seek(self.offset)

    def begin_row(self) -> None:
        """Count the bytes of a row, and remember where it begins."""
        self.row_line = self.line
        self._row_bytes = 0
        self._resume = (self.offset, self.line)

    def raw(self) -> bytes:
        """Return the next line with its end, or nothing at the end of the file.

        Raises RowFault, once past the line, when the row is too long.
        """
        data = self._file.readline(LONGEST_BYTES - self._row_bytes + 1)
        self._took(data)
        if self._row_bytes > LONGEST_BYTES:
            while data and not data.endswith(b"\n"):
                data = self._file.readline(_SKIPPED_BYTES)
                self.offset += len(data)
            self.line += 1
            raise RowFault("TOO_LARGE", f"it is longer than {LONGEST_BYTES} bytes")
        self.line += 1
        return data

    def _took(self, data: bytes) -> None:
        self.offset += len(data)
        self._row_bytes += len(data)

    def text(self) -> str:
        """Return the next line as text, or nothing at the end of the file."""
        data = self.raw()
        if b"\0" in data:
            raise RowFault("NUL_BYTE", "it holds a NUL byte; this is no text")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowFault(
                "INVALID_UTF8", f"byte {error.start} of it is not UTF-8; convert the file"
            ) from error

    def back_to_second_line(self) -> None:
        """Go back to the line after the one with which the row began.

        Raises Rejected when that has been done for too much of the file.
        """
        offset, line = self._resume
        self.reread += self.offset - offset + (self.line - line) * _LINE_COST_BYTES
        if self.reread > _MOST_REREAD_BYTES:
            raise Rejected(
                "BAD_LINE",
                "too many quotes before and here are never closed; the rest of the file is left out",
            )
        self.offset, self.line = offset, line
        self._file.seek(self.offset)
        self._row_bytes = 0
        try:
            self.raw()
        except RowFault:
            return  # too long: it is behind us all the same


def _no_field(what: str, usual: tuple[str, ...], names: tuple[str, ...]) -> Rejected:
    shown = some(names)
    wanted = " or ".join(repr(name) for name in usual)
    return Rejected(
        f"NO_{what.upper()}_FIELD",
        f"no field is called {wanted}; there are {shown or 'none'}: "
        f"name the right one with --{what}-field (`fields=` in Python)",
    )


def some(names: tuple[str, ...]) -> str:
    """Return some of the names, to be shown."""
    shown = (repr(name if len(name) <= 40 else name[:40] + "…") for name in names[:20])
    return ", ".join(shown) + (", …" if len(names) > 20 else "")


def row(fields: Fields, values: Mapping[str, Any], line: int) -> Row:
    """Return a row from the values of its fields; raise RowFault when they make no document."""
    id_ = _id(fields.id or "", values)
    texts = [_text(name, values, id_) for name in fields.text]
    text = "\n\n".join(one for one in texts if one.strip())
    if not text:
        raise RowFault("EMPTY", f"there is no text in {_named(fields.text)}", id_)
    title = values.get(fields.title) if fields.title else None
    if isinstance(title, str):
        _encoded(title, id_, "title")
    used = {*fields.text, fields.id, fields.title if isinstance(title, str) else None}
    metadata = {name: value for name, value in values.items() if name not in used}
    try:
        check_metadata(metadata)
    except Rejected as error:
        raise RowFault(error.reason, error.message, id_) from error
    return Row(
        id=id_,
        line=line,
        content=_encoded(text, id_),
        media_type="text/plain",
        title=" ".join(title.split()) or None if isinstance(title, str) else None,
        metadata=metadata,
    )


def _id(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(name)
    if value is None or value == "":
        raise RowFault("MISSING_FIELD", f"it has no {name!r}, which names the document")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowFault(
            "BAD_FIELD", f"its {name!r} is no text or whole number, and names the document"
        )
    shown = str(value)
    if len(_encoded(shown, None, "id")) > LONGEST_ID:
        raise RowFault(
            "NAME_TOO_LONG", f"its {name!r} has more than {LONGEST_ID} bytes: {shown[:80]}…"
        )
    return shown


def _text(name: str, values: Mapping[str, Any], id_: str) -> str:
    if name not in values:
        shown = some(tuple(values))
        raise RowFault("MISSING_FIELD", f"it has no {name!r}; it has {shown}", id_)
    value = values[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowFault("BAD_FIELD", f"its {name!r} is {type(value).__name__}, not text", id_)
    return value


def _encoded(text: str, id_: str | None, what: str = "text") -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RowFault(
            "NOT_TEXT", f"half a character stands at {error.start} of its {what}", id_
        ) from error


def _named(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)

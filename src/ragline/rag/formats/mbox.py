"""mbox: messages one after the other, each after a line that begins with "From "."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ragline.rag.formats import Rejected, mail
from ragline.rag.formats.rows import Row, RowFault

if TYPE_CHECKING:
    from ragline.rag.formats.rows import Lines, Place

# A sender, and a date or nothing: a sentence of a message may begin with "From " as well.
_ENVELOPE = re.compile(rb"From \S+(?:\s*$|.*\d\d:\d\d.*\d{4})")
_LONGEST_ENVELOPE = 500


def reader(lines: Lines, place: Place, _variant: str) -> Reader:
    """Return what reads messages from `lines`."""
    if place.offset == 0:
        first = lines.raw()
        if not _is_envelope(first):
            raise Rejected("DAMAGED", 'this is no mbox: it does not begin with "From SENDER DATE"')
    return Reader(lines)


class Reader:
    """Messages one by one, known by their Message-ID, or by a hash where there is none."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._is_at_end = False

    def place(self, place: Place) -> Place:
        """Return `place`: the beginning of the file says nothing."""
        return place

    def next(self) -> Row | None:
        """Return the next message, or None at the end."""
        while not self._is_at_end:
            line = self._lines.line
            try:
                data = self._message()
            except RowFault:
                self._skip()
                self._lines.row_line = line
                raise
            if data.strip():
                return _row(data, line)
        return None

    def _message(self) -> bytes:
        pieces: list[bytes] = []
        is_after_blank = True
        while data := self._lines.raw():
            if is_after_blank and _is_envelope(data):
                return b"".join(pieces)
            # Writers quote lines of the text that look like the beginning of a message.
            pieces.append(data[1:] if data.startswith(b">From ") else data)
            is_after_blank = not data.strip()
        self._is_at_end = True
        return b"".join(pieces)

    def _skip(self) -> None:
        """Go to the end of a message that is too long."""
        is_after_blank = False
        while True:
            self._lines.begin_row()
            try:
                data = self._lines.raw()
            except RowFault:
                continue
            self._is_at_end = not data
            if not data or (is_after_blank and _is_envelope(data)):
                return
            is_after_blank = not data.strip()


def _is_envelope(line: bytes) -> bool:
    return _ENVELOPE.match(line[:_LONGEST_ENVELOPE]) is not None


def _row(data: bytes, line: int) -> Row:
    try:
        found = mail.message_id(data)
    except Rejected as rejected:
        raise RowFault(rejected.reason, rejected.message) from rejected
    id_ = found or "sha256-" + hashlib.sha256(data).hexdigest()
    return Row(id=id_, line=line, content=data, media_type="message/rfc822")

"""CSV and TSV: a header, then one document a row. All values are text, as the format knows no other.

The delimiter is a comma, or a semicolon or tab where the header has more of those.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace

from ragline.rag.formats import Rejected, rows
from ragline.rag.formats.rows import Lines, Place, Row, RowFault


def reader(lines: Lines, place: Place, variant: str) -> Reader:
    """Return what reads rows from `lines`; the header, when `place` has not been told of it yet."""
    csv.field_size_limit(rows.LONGEST_BYTES)
    if place.columns:
        return Reader(lines, place)
    try:
        return Reader(lines, _with_header(lines, place, variant))
    except RowFault as error:
        raise Rejected(error.reason, f"the header cannot be read: {error.message}") from error


def _with_header(lines: Lines, place: Place, variant: str) -> Place:
    first = lines.text()
    while first and not first.strip():
        first = lines.text()
    if not first:
        raise Rejected("EMPTY", "the file has no text in it, only spaces")
    delimiter = variant or max(",;\t", key=first.count)
    if first.count(delimiter) >= rows.MOST_FIELDS:
        raise Rejected(
            "TOO_MANY_FIELDS",
            f"it has {first.count(delimiter) + 1} columns; the limit is {rows.MOST_FIELDS}",
        )
    cells = _cells(first, lines, delimiter) or []
    columns = tuple(cell.strip() for cell in cells)
    repeated = {name for name in columns if name and columns.count(name) > 1}
    if repeated:
        raise Rejected("BAD_HEADER", f"several columns are called {min(repeated)!r}; rename them")
    fields = place.fields.found_among(tuple(name for name in columns if name))
    for name in (*fields.text, fields.id):
        if name not in columns:
            raise Rejected(
                "MISSING_FIELD", f"no column is called {name!r}; there are {rows.some(columns)}"
            )
    return replace(place, fields=fields, columns=columns, delimiter=delimiter)


class Reader:
    """Rows one by one, each of which may go over several lines."""

    def __init__(self, lines: Lines, place: Place) -> None:
        self._lines = lines
        self._learned = place

    def place(self, place: Place) -> Place:
        """Return `place` with what the header says."""
        learned = self._learned
        return replace(
            place, fields=learned.fields, columns=learned.columns, delimiter=learned.delimiter
        )

    def next(self) -> Row | None:
        """Return the next row, or None at the end."""
        while line := self._lines.text():
            number = self._lines.line - 1
            if line.strip():
                return self._row(line, number)
            self._lines.begin_row()
        return None

    def _row(self, line: str, number: int) -> Row:
        columns = self._learned.columns
        cells = _cells(line, self._lines, self._learned.delimiter)
        if len(cells) != len(columns):
            raise RowFault(
                "BAD_LINE", f"it has {len(cells)} cell(s), and the header has {len(columns)}"
            )
        values = {
            name: cell for name, cell in zip(columns, cells, strict=True) if name and cell != ""
        }
        # An empty cell says nothing; in the columns of the text it is an empty text.
        texts = {name: values.get(name, "") for name in self._learned.fields.text}
        return rows.row(self._learned.fields, {**values, **texts}, number)


def _cells(line: str, lines: Lines, delimiter: str) -> list[str]:
    """Return the cells of the row that begins with `line`.

    After a row that cannot be read, the line after its first is next: a quote that nobody closed
    does not take the rest of the file with it.
    """
    more = _More(line, lines)
    try:
        return next(csv.reader(more, delimiter=delimiter, strict=True))
    except RowFault as error:
        if more.is_past_first:
            lines.back_to_second_line()
        raise RowFault(error.reason, f"{error.message} (or a quote is not closed)") from error
    except csv.Error as error:
        lines.back_to_second_line()
        raise RowFault("BAD_LINE", f"it is not valid CSV: {error}") from error


class _More:
    """A line, then those that a quoted cell asks for; not a generator, which an error would end."""

    def __init__(self, first: str, lines: Lines) -> None:
        self._first: str | None = first
        self._lines = lines
        self.is_past_first = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._first is not None:
            line, self._first = self._first, None
            return line
        self.is_past_first = True
        if line := self._lines.text():
            return line
        raise StopIteration

"""JSONL: one JSON object a line, each a document."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NoReturn

from ragline.rag.formats import Rejected, rows
from ragline.rag.formats.rows import Lines, Place, Row, RowFault

# Rows at the beginning that lack the usual fields; after so many, the file has others.
_MOST_UNSETTLED = 100


def reader(lines: Lines, place: Place, _variant: str) -> Reader:
    """Return what reads objects from `lines`."""
    return Reader(lines, place)


class Reader:
    """Objects line by line; the first good one says which of the usual fields there are."""

    def __init__(self, lines: Lines, place: Place) -> None:
        self._lines = lines
        self._fields = place.fields
        self._is_settled = bool(place.columns)
        self._lacking: list[Rejected] = []

    def place(self, place: Place) -> Place:
        """Return `place` with the fields that were found."""
        columns = self._fields.text if self._is_settled else ()
        return replace(place, fields=self._fields, columns=columns)

    def next(self) -> Row | None:
        """Return the next object as a row, or None at the end."""
        while line := self._lines.text():
            if line.strip():
                return self._row(line, self._lines.line - 1)
            self._lines.begin_row()
        if self._lacking and not self._is_settled:
            raise self._lacking[0]
        return None

    def _row(self, line: str, number: int) -> Row:
        values = _object(line)
        if not self._is_settled:
            self._settle(values)
        return rows.row(self._fields, values, number)

    def _settle(self, values: dict[str, object]) -> None:
        """Learn the fields; where a later row may have those that this one lacks, it alone goes."""
        try:
            self._fields = self._fields.found_among(tuple(values))
        except Rejected as error:
            self._lacking.append(error)
            if len(self._lacking) >= _MOST_UNSETTLED:
                raise self._lacking[0] from error
            raise RowFault(error.reason, error.message) from error
        self._is_settled = True


def _object(line: str) -> dict[str, object]:
    try:
        values = json.loads(line, parse_constant=_refuse)
    except RecursionError as error:
        raise RowFault("TOO_DEEP", "its values are nested too deep to be read") from error
    except json.JSONDecodeError as error:
        what = f"{error.msg} at character {error.pos + 1}"
        raise RowFault("BAD_LINE", f"it is not valid JSON: {what}") from error
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise RowFault("BAD_LINE", f"it is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise RowFault("BAD_LINE", f"it is no JSON object, but {type(values).__name__}")
    if len(values) > rows.MOST_FIELDS:
        raise RowFault("TOO_MANY_FIELDS", f"it has more than {rows.MOST_FIELDS} fields")
    return values


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
